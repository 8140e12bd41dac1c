"""`lio-handover shell`: one line of its arguments, the lines of standard input, or an interactive
shell; what a line means, and its exit code.

Exit codes are targetcli's where it has one, 0 and 1, and 1 also where a line of a script fails,
which then goes on: its end saves nothing by itself.
"""
from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence

from .. import errors
from ..cli import main as cli_main, quick
from ..cli.output import flushed, print_data
from ..cli.session import Signals, open_host
from ..errors import quoted
from ..kernel.configfs import Configfs
from . import commands, everywhere
from .changes import Session, switch
from .commands import Command
from .line import Line, of_words, parse
from .nodes import Node, Tree
from .preferences import Preferences

if TYPE_CHECKING:
    from ..local.ours import Ours
    from ..local.results import Typed
    from ..local.verbs import Call

FAILED = 1


def run(args: argparse.Namespace, signals: Signals) -> int:
    """Run the verb, and return its exit code."""
    session = opened(args, signals)
    if args.line:
        return flushed(one_line(session, lambda: of_words(args.line), args.json))
    session.typed = True
    if not sys.stdin.isatty():
        return flushed(script(session))
    from . import terminal
    return flushed(terminal.run(session, signals, one_line))


def module(name: str) -> Any:
    """The module of a command's function; a line that only looks needs but one."""
    if name == "objects":
        from . import objects
        return objects
    if name == "root":
        from . import root
        return root
    return everywhere


def opened(args: argparse.Namespace, signals: Signals) -> Session:
    def begin() -> None:
        signals.deferred = True

    def order() -> Any:
        from ..local import managing
        return managing.Order(managing.user(), "", tuple(args.allow), args.dry_run,
                              signals.progress, signals.stop, begin, keep=False)

    liked = Preferences()
    session = Session(Tree(Configfs()), liked, lambda: open_host(args), order, args.dry_run,
                      tuple(args.allow), signals.progress)
    session.common = [*(["--config", args.config] if args.config else []),
                      *(["--alone"] if args.alone else [])]
    session.served = not session.common
    if liked.note:
        session.note(liked.note)
    return session


def one_line(session: Session, read: Callable[[], Optional[Line]], json: bool = False) -> int:
    """Run a line from the root; the exit code."""
    session.failed = False
    try:
        line = read()
        if line is not None:
            execute(session, line)
    except errors.HandoverError as error:
        session.clear()
        if json:
            print_data({"error": {"name": type(error).__name__, "what": error.what,
                                  "changed": error.changed, "do": error.do}})
        print(str(error), file=sys.stderr)
        return FAILED
    session.clear()
    return FAILED if session.failed else errors.SAME


def script(session: Session) -> int:
    """Run the lines of standard input; a line that fails is told of with its number, and the next
    one runs."""
    code = errors.SAME
    for number, text in enumerate(sys.stdin, 1):
        try:
            line = parse(text)
            if line is not None:
                execute(session, line)
        except errors.HandoverError as error:
            session.clear()
            print(f"line {number}: {error}", file=sys.stderr)
            code = FAILED
        code = FAILED if session.failed else code
        sys.stdout.flush()
        if session.ended:
            break
    return code


# ---- a line -------------------------------------------------------------------------------------
def execute(session: Session, line: Line) -> None:
    """Run a line.  Raises a HandoverError."""
    session.tree.again()
    session.here = _still_there(session)
    node = everywhere.at(session, session.here, line.path or ".")
    command = line.command or ("ls" if line.every else "cd")
    values = line.words if line.command or line.every else (".",)
    for target in node.children() if line.every else [node]:
        if line.every:
            session.say(f"[{target.path}]")
        _run(session, target, command, values, line.values)


def _still_there(session: Session) -> Node:
    """Where the shell is, or the nearest node above it that is still there."""
    path = session.here.path
    while True:
        try:
            return session.tree.node(path)
        except errors.NoSuchTarget:
            path = path.rpartition("/")[0] or "/"


def _run(session: Session, node: Node, name: str, words: Sequence[str],
         values: Mapping[str, str]) -> None:
    known = commands.of(node.kind, node.name)
    if name not in known:
        raise errors.BadCall(f"Command not found {quoted(name)}", do="help")
    row = known[name]
    given = taken(row, words, values)
    if row.changes and os.geteuid() != 0 and not session.dry_run:
        raise errors.NotRoot("This privileged command is disabled: you are not root.",
                             do="sudo lio-handover shell")
    where, _, function = row.where.partition(".")
    if not function:
        _verb(session, node, row, given)
        return
    more = {name: value for name, value in values.items() if name not in given}
    if session.served and by_service(session, node, row, given, more):
        return
    work: Callable[..., None] = getattr(module(where), function)
    if row.more == "words":
        work(session, node, given, words[len(row.parameters):])
    elif row.more == "values":
        work(session, node, given, more)
    else:
        work(session, node, given)


# ---- the service --------------------------------------------------------------------------------
def serves(row: Command, given: Mapping[str, str], more: Mapping[str, str]) -> bool:
    """Whether the service makes the change of a command: of an object, and nothing besides; with no
    secret, but for one that a file has, as who watches the bus can read it."""
    return (row.where.startswith("objects.") and not given.get("save")
            or row.where == "everywhere.set_" and bool(more) and given.get("group") != "global"
            ) and not any(word and not word.startswith("@/")
                          for name, word in more.items() if name in quick.SECRETS)


def by_service(session: Session, node: Node, row: Command, given: Mapping[str, str],
               more: Mapping[str, str]) -> bool:
    """Have the service make a change, where it runs; False where it is not asked."""
    if session.dry_run or not quick.runs() or not serves(row, given, more):
        return False
    words = [f"{name}={os.path.expanduser(word)}" for name, word in given.items()]
    words += [f"{name}={word}" for name, word in more.items()]
    if not all(map(quick.is_text, words)):
        return False
    try:
        answer = quick.typed([node.path, row.name, *words], session.allow, session.liked.text(),
                             os.getcwd())
    except quick.Failed as failed:
        from ..client.connection import error_from_bus
        raise error_from_bus(*failed.args) from None
    if answer is None:
        return False
    session.tree.again()
    for line in answer["said"]:
        session.tell(line[0], line[1:])
    if answer["last"]:
        session.remember(answer["last"])
    return True


class _Called(Session):
    """A session of one line that the service was asked for."""

    def __init__(self, host: Ours, call: Call) -> None:
        super().__init__(Tree(host.fs), Preferences("", call.preferences), lambda: host,
                         lambda: call.order("shell"), allow=call.allow)
        self.folder = call.folder
        self.said: List[str] = []
        self.last, self.preferences = "", ""
        self.changes: List[Any] = []

    def tell(self, kind: str, line: str) -> None:
        self.said.append(kind + line)

    def change(self, *args: Any, **more: Any) -> Any:
        done = super().change(*args, **more)
        self.changes += done.changes
        return done

    def remember(self, path: str) -> None:
        self.last = path
        if self.liked.bookmarks.get("last") != path:
            self.liked.bookmarks["last"] = path
            self.preferences = self.liked.text()


def line_of_call(host: Ours, call: Call) -> Typed:
    """Run a line for the service.  Raises BadCall for one that it does not make, and what fails."""
    from ..local.results import Typed
    session = _Called(host, call)
    line = of_words(call.words)
    if line is None or line.every or not line.path.startswith("/"):
        raise errors.BadCall("a line names a path and a command", do="lio-handover shell")
    node = session.tree.node(line.path)
    row = commands.of(node.kind, node.name).get(line.command)
    if row is not None:
        given = taken(row, line.words, line.values)
        if not serves(row, given, {name: word for name, word in line.values.items()
                                   if name not in given}):
            raise errors.BadCall(f"the service does not run {quoted(line.command)} with these "
                                 "words", do="lio-handover --alone shell")
    _run(session, node, line.command, line.words, line.values)
    return Typed(said=tuple(session.said), last=session.last, preferences=session.preferences,
                 changes=tuple(session.changes))


def _verb(session: Session, node: Node, row: Command, given: Mapping[str, str]) -> None:
    """Run a verb of lio-handover's on a node."""
    if session.dry_run and row.changes and row.name != "import":
        raise errors.BadCall(f"{row.name} can't be tried out by --dry-run", do="prepare, or plan")
    words = [row.where, *session.common]
    if node.kind == "target":
        words.append(f"{node.fabric}/{node.name}")
    for name, word in given.items():
        if name in ("file", "id") and word:
            words.append(word)
        elif name == "probe":
            words += ["--probe"] * switch(word, name)
        elif word:
            words += [f"--{name}", word]
    for name in session.allow if "allow" not in given and row.changes else ():
        words += ["--allow", name]
    if session.dry_run and row.name == "import":
        words.append("--dry-run")
    sys.stdout.flush()
    session.failed = cli_main.main(words) != errors.SAME or session.failed
    session.tree.again()


def taken(row: Command, words: Sequence[str], values: Mapping[str, str]) -> Dict[str, str]:
    """{parameter: word} of what a command is given, by position and by name.  Raises BadCall."""
    names = [parameter.name for parameter in row.parameters]
    if len(words) > len(names) and row.more != "words":
        raise errors.BadCall(f"Got {len(words)} positionnal parameters, expected at most "
                             f"{len(names)}.", do=f"help {row.name}")
    given = dict(zip(names, words))
    for name, word in values.items():
        if name not in names:
            if row.more == "values":
                continue
            raise errors.BadCall(f"Unexpected keyword parameter {quoted(name)}.",
                                 do=f"help {row.name}")
        if name in given:
            raise errors.BadCall(f"Duplicate parameter {name}.", do="give it once")
        given[name] = word
    missing = [parameter.name for parameter in row.parameters
               if parameter.needed and not given.get(parameter.name)]
    if missing:
        plural = "s " + ", ".join(map(quoted, missing)) if len(missing) > 1 else f" {missing[0]}"
        raise errors.BadCall(f"Missing required parameter{plural}", do=f"help {row.name}")
    return given


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {"shell": run}

"""The interactive shell: configshell's prompt, line editing, completion and colours over our tree
and our commands.  Only this module uses configshell: 2.x, or the 1.1 of Debian 12.

configshell keeps preferences in a pickle, and logs each line; here it gets neither a folder nor a
log file.
"""
from __future__ import annotations

import glob
import os
import signal
import sys
from typing import Any, Callable, Iterator, List, Mapping, Optional, Tuple

from .. import __version__, errors
from ..cli.session import Signals, Stopped
from ..manage.settable import SECRETS
from . import commands, everywhere, groups, preferences
from .changes import Session
from .line import NAMED, Line, is_path, parse, split
from .nodes import Node
from .preferences import HISTORY

#: Lines of the history that are kept.
REMEMBERED = 1000


#: Runs a line, tells what fails in it, and returns the exit code (main.py).
RunLine = Callable[[Session, Callable[[], Optional[Line]]], int]


def run(session: Session, signals: Signals, run_line: RunLine) -> int:
    """Read lines from the terminal until it ends; the exit code.  Raises BadSettings where
    configshell is missing."""
    try:
        from configshell_fb import ConfigShell
    except ImportError:
        raise errors.BadSettings("the interactive shell needs configshell-fb, which is not "
                                 "installed", do="apt install python3-configshell-fb, or give the "
                                 "line as arguments or on standard input") from None
    session.interactive = True
    shell = _shell(ConfigShell, session, signals, run_line)
    print(f"lio-handover shell version {__version__}\nFor help on commands, type 'help'.\n")
    if os.geteuid() != 0:
        print("You are not root, disabling privileged commands.\n")
    session.here = _last(session)
    shell.attach_root_node(_Here(session))
    _history(session, "read")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        shell.run_interactive()
    finally:
        signals.install()
        _history(session, "write")
    return _leave(session, run_line)


def _last(session: Session) -> Node:
    """Where the user was last, or the root."""
    liked = session.liked
    try:
        return session.tree.node(liked.paths[liked.index])
    except errors.NoSuchTarget:
        return session.tree.root


def _leave(session: Session, run_line: RunLine) -> int:
    """Save, as targetcli does when somebody leaves it."""
    if not session.liked["auto_save_on_exit"] or os.geteuid() != 0 or session.dry_run:
        return errors.SAME
    session.info("Global pref auto_save_on_exit=true")
    return run_line(session, lambda: Line("/", False, "saveconfig"))


class _Here:
    """The current node, as configshell asks for it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def path(self) -> str:
        return self.session.here.path


def _shell(base: Any, session: Session, signals: Signals, run_line: RunLine) -> Any:
    """A ConfigShell over our tree."""

    class Shell(base):  # type: ignore[misc]
        default_prefs: Mapping[str, Any] = {
            **base.default_prefs, **session.liked.values, "logfile": None,
            "loglevel_file": "critical", "path_history": None, "bookmarks": {}}

        def run_cmdline(self, cmdline: str) -> None:
            """Run a line; nothing that fails in it ends the shell."""
            _guarded(session, signals, cmdline, run_line)
            for name, value in session.liked.values.items():
                if name not in ("logfile", "loglevel_file"):
                    self.prefs[name] = value
            self._exit = session.ended

        def _complete(self, text: str, state: int) -> Any:
            """The offers of Tab, one after the other."""
            if state == 0:
                import readline
                before = readline.get_line_buffer()[:readline.get_begidx()]
                try:
                    offered, self._current_parameter = completions(session, before, text)
                except (errors.HandoverError, OSError):
                    offered, self._current_parameter = [], ""
                self._current_completions = offered
            return self._current_completions[state] if state < len(self._current_completions) \
                else None

    return Shell()


def _guarded(session: Session, signals: Signals, text: str, run_line: RunLine) -> None:
    """Run a line, interrupted or not."""
    signals.install()
    try:
        run_line(session, lambda: parse(text))
    except Stopped as stopped:
        if stopped.number != signal.SIGINT:
            raise
        print("interrupted", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        signals.deferred, signals.number = False, 0
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout.flush()
        _forget(text)


def _forget(text: str) -> None:
    """Take a line with a secret out of the history."""
    if not any(f"{name}=" in text for name in SECRETS):
        return
    import readline
    last = readline.get_current_history_length()
    if last and readline.get_history_item(last).strip() == text:
        readline.remove_history_item(last - 1)


def _history(session: Session, what: str) -> None:
    import readline
    folder = session.liked.folder
    if not folder:
        return
    path = os.path.join(folder, HISTORY)
    try:
        if what == "read":
            readline.read_history_file(path)
        else:
            session.liked.save()
            readline.set_history_length(REMEMBERED)
            readline.write_history_file(path)
    except (OSError, errors.BadFile):
        pass  # there is none yet, or nobody may keep one


# ---- completion ---------------------------------------------------------------------------------
def completions(session: Session, before: str, text: str) -> Tuple[List[str], str]:
    """(what the word ``text`` behind ``before`` may become, the parameter that it is, "" for a path
    or a command)."""
    session.tree.again()
    try:
        words = [word.text for word in split(before)]
    except errors.BadCall:
        return [], ""
    if not words:
        return _first(session, text), ""
    node = everywhere.at(session, session.here, words.pop(0)) if is_path(words[0]) \
        else session.here
    known = commands.of(node.kind, node.name)
    if not words:
        return _alone([name for name in known if name.startswith(text)]), ""
    row = known.get(words.pop(0))
    return _parameters(session, node, row, words, text) if row else ([], "")


def _alone(offered: List[str]) -> List[str]:
    """The only offer gets a blank behind it, unless it is half a path."""
    return [offered[0] + " "] if len(offered) == 1 and offered[0][-1:] not in ("/", "=") \
        else offered


def _first(session: Session, text: str) -> List[str]:
    """A command, or a path."""
    known = [] if "/" in text or text.startswith("@") else [
        name for name in commands.of(session.here.kind, session.here.name)
        if name.startswith(text)]
    return _alone([*known, *_paths(session, session.here, text)])


def _paths(session: Session, here: Node, text: str) -> List[str]:
    marks = [f"@{mark}" for mark in session.liked.bookmarks if f"@{mark}".startswith(text)]
    above, slash, start = text.rpartition("/")
    if text.startswith("@"):
        return marks
    node = session.tree.node(above + slash, here) if slash else here
    below = [child for child in node.children() if child.name.startswith(start)]
    names = [f"{above}{slash}{child.name}/" for child in below]
    if len(below) == 1 and not below[0].children():  # nothing follows but a command
        names = [names[0].rstrip("/")]
    return [*names, *(marks if not text else ())]


def _parameters(session: Session, node: Node, row: commands.Command, words: List[str],
                text: str) -> Tuple[List[str], str]:
    """The next parameter of a command, by position or by name."""
    named = {match[1] for word in words for match in [NAMED.fullmatch(word)] if match}
    placed = [word for word in words if not NAMED.fullmatch(word)]
    free = row.parameters[len(placed):]
    if row.more and placed:
        return _alone([name for name in _group(node, placed[0], row) if name.startswith(text)]), \
            placed[0]
    match = NAMED.fullmatch(text)
    if match:
        parameter = next((parameter for parameter in row.parameters
                          if parameter.name == match[1]), None)
        values = _values(session, node, parameter, match[2]) if parameter else []
        return _alone([f"{match[1]}={value}" for value in values]), match[1]
    values = _values(session, node, free[0], text) if free and free[0].name not in named else []
    keywords = [f"{parameter.name}=" for parameter in free
                if parameter.name not in named and parameter.name.startswith(text)]
    return _alone([*values, *keywords]), free[0].name if free else ""


def _group(node: Node, group: str, row: commands.Command) -> List[str]:
    """The parameters of a group, as get or set takes them."""
    try:
        rows = groups.parameters(node, group)
    except errors.BadCall:
        return []
    if row.more == "words":
        return [parameter.name for parameter in rows]
    return [name for parameter in rows if parameter.writable for name in (
        [f"{parameter.name}={value}" for value in preferences.choices(parameter.type)]
        or [f"{parameter.name}="])]


def _values(session: Session, node: Node, parameter: commands.Parameter, text: str) -> List[str]:
    offer = _OFFERS.get(parameter.complete)
    offered = offer(session, node, text) if offer else parameter.complete.split()
    return [word for word in offered if word.startswith(text)]


def _files(_: Session, __: Node, text: str) -> Iterator[str]:
    for path in sorted(glob.glob(glob.escape(text) + "*"))[:500] if text else ():
        yield path + "/" if os.path.isdir(path) else path


def _stores(session: Session, node: Node, text: str) -> Iterator[str]:
    backstores = session.tree.root.child("backstores")
    for plugin in backstores.children() if backstores else ():
        for store in plugin.children():
            yield store.path
    yield from _files(session, node, text)


def _luns(session: Session, node: Node, text: str) -> Iterator[str]:
    luns = node.tpg.child("luns")
    for lun in luns.children() if luns else ():
        yield lun.name
    yield from _stores(session, node, text)


def _children(_: Session, node: Node, __: str) -> Iterator[str]:
    """As `delete` takes them: numbers bare."""
    for child in node.children():
        yield child.name[3:] if node.kind in ("luns", "target") else \
            child.name[len("mapped_lun"):] if node.kind == "acl" else child.name


def _addresses(_: Session, __: Node, ___: str) -> Iterator[str]:
    """Addresses of this host, as far as the kernel tells without a question to the network."""
    yield from ("0.0.0.0", "::0")
    try:
        with open("/proc/net/fib_trie") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    local = {above.split()[-1] for above, line in zip(lines, lines[1:])
             if "/32 host LOCAL" in line}
    yield from sorted(local)


def _portals(_: Session, node: Node, __: str) -> Iterator[str]:
    yield from sorted({child.name.rpartition(":")[0].strip("[]") for child in node.children()})


_OFFERS: Mapping[str, Callable[[Session, Node, str], Any]] = {
    "bool": lambda *_: ("true", "false"), "file": _files, "store": _stores, "lun": _luns,
    "child": _children, "address": _addresses, "portal": _portals,
    "path": lambda session, node, text: _paths(session, node, text),
    "bookmark": lambda session, *_: sorted(session.liked.bookmarks),
    "group": lambda session, node, text: groups.names(node),
    "command": lambda session, node, text: [*commands.of(node.kind, node.name)]}

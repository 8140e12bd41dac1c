"""create, set, delete, apply: the commands that change what this host serves."""
from __future__ import annotations

import argparse
import re
import sys
from typing import Any, Callable, Dict, List, Mapping, Tuple

from .. import errors
from ..document.document import Document
from ..host.looked_at import Ready
from ..kernel.facts import Facts
from ..local import results, verbs
from ..manage import schema, tree_file
from ..manage.settable import SECRETS
from ..model.objects import Secret, State
from ..system import document_file, secret_file
from ..views import changed, json_view, plan_steps
from ..views.terminal import Terminal
from .output import (PROG, print_data, print_lines, quoted, say_done, say_notes, seconds_text,
                     writes_text)
from .session import Signals, Usage, open_host, require_root

_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.S)


def run(args: argparse.Namespace, signals: Signals) -> int:
    """Run a verb, and return the exit code.  Raises its error."""
    if not args.dry_run:
        require_root(args.verb)

    def begin() -> None:
        signals.deferred = True

    more: Dict[str, Any] = {"dry_run": args.dry_run}
    host = open_host(args)
    if args.verb == "apply":
        more.update(tree=_tree(args.file), prune=args.prune)
    else:
        words, values = _words(args.words)
        more.update(node=args.path, words=words, values=values)
    result = verbs.VERBS[args.verb](host, verbs.Call(
        allow=args.allow, progress=signals.progress, stop=signals.stop, begin=begin, **more))
    signals.progress.clear()
    assert isinstance(result, results.Managed)
    if args.json:
        print_data(json_view.tree(result, args.allow))
    elif result.planned:
        return _planned(args, result)
    elif args.verb == "apply":
        print_lines(changed.lines(result.changes, Terminal.of(sys.stdout)))
    say_notes(args, result.notes)
    if result.planned:
        against = errors.stopping(result.findings, args.allow)
        return against[0].error.code if against else errors.SAME
    what = result.about or args.file if args.verb == "apply" else result.about
    if result.same:
        say_done(args, f"{what or args.path} is just so already; nothing was changed")
    else:
        done = {"create": "created", "set": "set", "delete": "deleted", "apply": "applied"}
        say_done(args, f"{done[args.verb]} {what}: {writes_text(result.writes)} in "
                 f"{seconds_text(result.seconds)}, read back and the same")
    return errors.SAME


def _planned(args: argparse.Namespace, result: results.Managed) -> int:
    """Print what would be done; the exit code is that of the first finding."""
    terminal = Terminal.of(sys.stdout)
    print_lines(changed.lines(result.changes, terminal))
    print_lines(plan_steps.plan(Ready(Document(State()), State(), result.plan, result.findings,
                                      Facts()), terminal, args.allow))
    say_notes(args, result.notes)
    against = errors.stopping(result.findings, args.allow)
    if against:
        from .host_commands import say_against
        return say_against(args, against, f"this {args.verb}")
    if result.same:
        say_done(args, "it is just so already; nothing was changed")
    else:
        say_done(args, f"{plan_steps.about_plan(result.plan)}; nothing was changed",
                 f"{PROG} {args.verb} " + quoted([args.file] if args.verb == "apply" else
                                                 [args.path, *args.words]))
    return errors.SAME


# ---- words --------------------------------------------------------------------------------------
def _words(given: List[str]) -> Tuple[Tuple[str, ...], Mapping[str, str]]:
    """(words by position, values by name).  Raises Usage, BadFile, BadCall."""
    words: List[str] = []
    values: Dict[str, str] = {}
    for word in given:
        named = _NAMED.fullmatch(word)
        if not named:
            if values:
                raise Usage(f"{errors.quoted(word)} has no name, and stands behind one that has")
            words.append(word)
            continue
        name, value = named.groups()
        if name in values:
            raise errors.BadCall(f"{name} is given twice", do="give it once")
        values[name] = _secret(name, value) if name in SECRETS else value
    return tuple(words), values


def _secret(name: str, value: str) -> str:
    """A secret that a word names: the content of a file, or what is typed.  Raises BadCall."""
    if value.startswith("@"):
        return Secret(secret_file.read(value[1:]))
    if value == "-":
        import getpass
        return Secret(getpass.getpass(f"{name}: "))
    if value:
        raise errors.BadCall(f"a {name} on the command line can be read by every user (ps)",
                             do=f"{name}=@FILE with it in the first line, or {name}=- to be asked")
    return Secret("")


def _tree(path: str) -> Mapping[str, Any]:
    """The data of a file, checked against the schema.  Raises BadFile, a DocumentError."""
    tree = tree_file.load(document_file.read(path, tree_file.MAX_BYTES))
    schema.check(tree)
    checked: Mapping[str, Any] = tree
    return checked


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = dict.fromkeys(
    ("create", "set", "delete", "apply"), run)

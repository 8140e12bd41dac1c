"""A session of the shell, and what its commands change, as requests of `manage`: one command may
be several of them, which are done together or not at all.

Nothing is kept for the next boot until it is saved, as targetcli's users rely on, but for targets
that lio-handover restores already.
"""
from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from typing import (TYPE_CHECKING, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence,
                    Tuple)

from .. import errors
from ..cli.output import Progress
from ..errors import quoted
from .nodes import Node, Tree
from .preferences import Preferences

if TYPE_CHECKING:  # a line that only looks needs none of it, and starts sooner
    from ..host.surroundings import HostSurroundings
    from ..local.managing import Done, Order, Part
    from ..local.ours import Ours
    from ..manage.changes import Request
    from ..model.keys import Key
    from ..model.objects import Acl, State, Tpg


@dataclass
class Making:
    """A command's changes of the state, one request after the other; ``said``: what the command
    tells once they are made."""

    state: State
    host: HostSurroundings
    said: List[str] = field(default_factory=list)
    allocate: Dict[Key, bool] = field(default_factory=dict)
    about: str = ""

    def do(self, verb: str, path: str, *words: str, **values: str) -> str:
        """Make one change of the state; the path of its object."""
        from ..manage.changes import Request
        return self.request(Request(verb, path, words, values))

    def request(self, request: Request) -> str:
        from ..manage import changes
        changed = changes.apply(self.state, request, self.host)
        self.state = changed.state
        self.allocate.update(changed.allocate)
        self.said += [f"note: {line}" for line in changed.told]
        self.about = changed.about or self.about
        return changed.about

    def tpg(self, path: str) -> Tpg:
        """The TPG of a path in the words of `manage`.  Raises NoSuchTarget."""
        from ..model.objects import Tpg
        tpg = self._object(path)
        assert isinstance(tpg, Tpg)
        return tpg

    def acl(self, path: str) -> Acl:
        """The ACL of a path.  Raises NoSuchTarget."""
        from ..model.objects import Acl
        acl = self._object(path)
        assert isinstance(acl, Acl)
        return acl

    def _object(self, path: str) -> object:
        from ..manage.places import parse
        from ..plan import edits
        obj = edits.find(self.state, parse(path).key)
        if obj is None:
            raise errors.NoSuchTarget(f"{path} is not there", do="ls")
        return obj


Body = Callable[[Making], None]


def part_of(host: Ours, requests: Sequence[Request], about: "About") -> Part:
    """The part of the host that these requests are about, with these backstores and targets; of
    one request's target no more than that needs is read."""
    from ..local import managing
    from ..local.managing import Part
    from ..manage import changes
    parts = [managing.part_of(host, changes.needs(request), request) for request in requests]
    part = Part(
        tuple(dict.fromkeys((*about.targets, *(name for part in parts for name in part.targets)))),
        tuple(dict.fromkeys((*about.stores, *(key for part in parts for key in part.stores)))),
        any(part.lu_groups for part in parts), any(part.discovery for part in parts))
    if len(parts) == 1 and parts[0].reach and about.links is not None and not about.stores:
        row = parts[0].reach.row
        return replace(part, reach=replace(parts[0].reach, row=row._replace(
            links=(*row.links, *about.links))))
    if any(request.verb != changes.CREATE for request in requests) or not requests:
        part = managing.with_exporters(host, part)
    return part


class About(NamedTuple):
    """The subjects of a change besides its requests: backstores, targets, and the kinds of LUNs
    (``lun``, ``mapped_lun``) whose links are looked at; None: all of its target is."""

    stores: Sequence[Key] = ()
    targets: Sequence[str] = ()
    links: Optional[Tuple[str, ...]] = ()


class Session:
    """Where the shell is, and what it works with.

    ``open_host`` gives this host once it is changed; ``typed``: whether a line comes from a
    terminal or a file, and so from nobody's list of processes; ``interactive``: whether somebody
    sits there; ``ended`` once the shell is to end; ``failed``: whether a verb said why it failed;
    ``common``: options that verbs are given; ``dry_run`` and ``allow`` as of the verb; ``order``
    makes what says how changes are to be carried out; ``folder``: where relative paths begin, ""
    for that of this process; ``served``: whether the service, where it runs, makes the changes.
    """

    def __init__(self, tree: Tree, liked: Preferences, open_host: Callable[[], Ours],
                 order: Callable[[], Order], dry_run: bool = False, allow: Sequence[str] = (),
                 progress: Optional[Progress] = None) -> None:
        self.tree, self.liked, self.open_host, self.order = tree, liked, open_host, order
        self.dry_run, self.allow, self.progress = dry_run, allow, progress
        self.here = tree.root
        self.typed = self.interactive = self.ended = self.failed = False
        self.common: Sequence[str] = ()
        self.folder, self.served = "", False
        self._host: Optional[Ours] = None

    @property
    def host(self) -> Ours:
        if self._host is None:
            self._host = self.open_host()
        return self._host

    # ---- what is said ---
    def say(self, *lines: str) -> None:
        """A command's results, on standard output."""
        for line in lines:
            self.tell("=", line)

    def tell(self, kind: str, line: str) -> None:
        """Tell a line: a result (``=``), something besides (``+``), a note (``!``)."""
        self.clear()
        if kind == "+" and self.liked["color_mode"] and sys.stdout.isatty():
            line = f"\x1b[32m{line}\x1b[0m"
        print(f"note: {line}" if kind == "!" else line,
              file=sys.stderr if kind == "!" else sys.stdout)

    def clear(self) -> None:
        """Take the line of progress away."""
        if self.progress is not None:
            self.progress.clear()

    def info(self, *lines: str) -> None:
        """Tell something besides a result, unless the user wants to see less."""
        if self.liked["loglevel_console"] not in ("info", "verbose", "debug"):
            return
        for line in lines:
            self.tell("+", line if self.liked["color_mode"] else f"Info: {line}")

    def note(self, line: str) -> None:
        """Tell a note, on standard error."""
        if self.liked["loglevel_console"] not in ("critical", "error"):
            self.tell("!", line)

    # ---- what is changed ---
    def change(self, what: str, requests: Sequence[Request], body: Body,
               about: About = About()) -> Done:
        """Do what a command asks for, and tell of it; with --dry-run tell what would be changed.

        ``what``: the command, for the system's log; ``requests``: what it is about.  Raises what
        `manage` raises.
        """
        from ..local import managing
        from ..manage.changes import Changed
        told: List[str] = []

        def wish(state: State, surroundings: HostSurroundings) -> Changed:
            making = Making(state, surroundings)
            body(making)
            told[:] = making.said
            return Changed(making.state, making.about, making.allocate)
        done = managing.carry_out(self.host, part_of(self.host, requests, about), wish,
                                  replace(self.order(), what=what, keep=False))
        self.tree.again()
        if self.dry_run:
            self.planned(done)
        else:
            self.info(*(line for line in told if not line.startswith("note: ")))
        for line in (*(line[6:] for line in told if line.startswith("note: ")), *done.notes):
            self.note(line)
        return done

    def planned(self, done: Done) -> None:
        """Tell what would be changed.  Raises the first of what speaks against it."""
        from ..views import changed
        from ..views.terminal import Terminal
        self.say(*changed.lines(done.changes, Terminal.of(sys.stdout)))
        errors.refuse(list(done.findings), self.allow)
        self.say("nothing was changed: --dry-run" if done.changes else "it is just so already")

    def newest(self, node: Node) -> None:
        """A command has made a node: @last is it, and the shell may go there."""
        if not self.dry_run:
            self.remember(node.path)

    def remember(self, path: str) -> None:
        """As `newest`, for the node of a path."""
        if self.liked.bookmarks.get("last") != path:
            self.liked.bookmarks["last"] = path
            self.liked.save()
        if self.liked["auto_cd_after_create"] and self.typed:
            self.here = self.tree.node(path)
            self.liked.went(path)
            self.info(f"Entering new node {path}")


def every(requests: Sequence[Request], *said: str) -> Body:
    """Makes these changes, and tells this."""

    def body(making: Making) -> None:
        for request in requests:
            making.request(request)
        making.said += said
    return body


# ---- words -----------------------------------------------------------------------------------
def switch(word: str, name: str) -> bool:
    """``true`` or ``false``; 1 and 0 are as good.  Raises BadCall."""
    if word.lower() not in ("true", "false", "1", "0"):
        raise errors.BadCall(f"Syntax error, {quoted(word)} is not true|false.",
                             do=f"correct {name}")
    return word.lower() in ("true", "1")


def _free(taken: Iterable[int]) -> int:
    numbers, number = set(taken), 0
    while number in numbers:
        number += 1
    return number


def mapped_number(wanted: str, taken: Iterable[int]) -> str:
    """The number by which an ACL gets a new LUN: the one that was asked for, else 0, and where that
    is taken the lowest free one (targetcli/ui_target.py:UILUNs.ui_command_create, where a number
    that is taken and was asked for fails)."""
    numbers = set(taken)
    number = int(wanted) if wanted else 0
    return str(_free(numbers) if number in numbers else number)


def full_path(word: str, folder: str = "") -> str:
    """A path of a file as people type it: ``~`` is their home, and a relative one is of where they
    are, ``folder`` or that of this process."""
    return os.path.abspath(os.path.join(folder, os.path.expanduser(word)))

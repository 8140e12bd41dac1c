"""The verbs of one host: a function each, called by the command line, the service and the library.

The work is done by the façade (ours.py and its base classes); here a call becomes a result.
``run`` of a row in verb_table.py names the function.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from ..document import document as documents
from ..document.document import Document
from ..execute.step_runner import Progress, never, nothing
from ..handover import next_steps
from ..host.looked_at import Ready
from ..kernel import cautions
from ..manage.changes import Request
from ..model import diff as differ
from ..model.objects import State
from ..started import LINES
from ..system import secret_file
from ..verb_table import HOST_VERBS
from . import managing, results
from .ours import Ours

#: (fabric, WWN) of targets.
Names = Sequence[Tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """A verb as it was called; options as verb_table has them.

    ``stop`` is asked between two steps of a change, and ``begin`` called before the first;
    ``may`` is called with the targets before they are touched, and raises where the caller may not.
    """

    targets: Sequence[str] = ()
    all: bool = False  # noqa: A003
    allow: Sequence[str] = ()
    maps: Sequence[str] = ()
    probe: bool = False
    document: Optional[Document] = None
    progress: Optional[Progress] = None
    stop: Callable[[], bool] = never
    begin: Callable[[], None] = nothing
    may: Optional[Callable[[Names], None]] = None
    #: of the verbs that change what this host serves: a node of targetcli's tree, what is wanted of
    #: it, by position and by name; or the data of a file, which ``secret`` reads secrets for
    node: str = ""
    words: Sequence[str] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    tree: Mapping[str, Any] = field(default_factory=dict)
    prune: bool = False
    dry_run: bool = False
    who: str = ""
    #: of a line of the shell
    preferences: str = ""
    folder: str = ""
    secret: Callable[[str], str] = secret_file.read
    may_serve: Callable[[State], None] = lambda state: None

    def wanted(self, verb: str) -> Request:
        return Request(verb, self.node, tuple(self.words), self.values)

    def order(self, verb: str) -> managing.Order:
        return managing.Order(self.who or managing.user(), f"{verb} {self.node}".strip(),
                              self.allow, self.dry_run, self.progress, self.stop, self.begin,
                              self.may_serve)

    def chosen(self, host: Ours) -> List[Tuple[str, str]]:
        """The targets named, or all, where the caller may touch them.  Raises NoSuchTarget."""
        names = host.some(self.targets, self.all)
        if self.may:
            self.may(names)
        return names

    @property
    def given(self) -> Document:
        assert self.document is not None
        return self.document


def _names(state: State) -> Tuple[str, ...]:
    return tuple(target.name for target in state.targets)


# ---- both hosts ---
def show(host: Ours, call: Call) -> results.Shown:
    view = host.view(call.targets)
    return results.Shown(_names(view.state), view=view)


# ---- the source ---
def prepare(host: Ours, call: Call) -> results.Prepared:
    document, findings = host.prepare(call.chosen(host), call.probe)
    return results.Prepared(
        _names(document.state),
        (*document.notes, *cautions.before_handover(host.fs, document.state)),
        document=document, against=tuple(findings))


def freeze(host: Ours, call: Call) -> results.Frozen:
    names = call.chosen(host)
    call.begin()
    started = time.monotonic()
    targets = _names(host.freeze(names, call.allow, stop=call.stop, progress=call.progress,
                                 probe=call.probe))
    took = time.monotonic() - started
    return results.Frozen(targets, writes=host.fs.changes, seconds={"freeze": round(took, 6)},
                          next=next_steps.frozen(host.source_handovers(targets), targets))


def export(host: Ours, call: Call) -> results.Exported:
    document = host.export(call.chosen(host), call.allow, call.probe)
    data = documents.dumps(document)
    return results.Exported(_names(document.state), document.notes, frozen=document.frozen,
                            digest=document.digest, bytes=len(data), data=data,
                            secret=any(differ.secrets_of(document.state)),
                            recorded=bool(document.carried))


def thaw(host: Ours, call: Call) -> results.Thawed:
    targets = call.targets
    if call.all:
        targets = [name for handover in host.source_handovers() for name in handover.targets]
    names = host.names(targets)
    if call.may:
        call.may(names)
    call.begin()
    thawed = _names(host.thaw(names, call.allow)) if names else ()
    return results.Thawed(thawed, tuple(host.notes), writes=host.fs.changes)


def remove(host: Ours, call: Call) -> results.Removed:
    if call.may:
        call.chosen(host)
    call.begin()
    outcome, kept = host.remove(call.targets, call.all, call.allow, progress=call.progress,
                                stop=call.stop)
    return results.Removed(tuple(call.targets), kept=kept, **results.counted(outcome))


# ---- the destination ---
def diff(host: Ours, call: Call) -> results.Compared:
    have, want, changes = host.compare(call.given, call.maps)
    return results.Compared(_names(want), have=have, want=want, changes=changes,
                            document=call.given)


def plan(host: Ours, call: Call) -> results.Planned:
    ready = host.ready(call.given, call.maps)
    return results.Planned(_names(ready.document.state), ready=ready)


def import_(host: Ours, call: Call) -> results.Imported:
    host.may_compare(call.given, call.maps)
    return imported(host, host.ready(call.given, call.maps), call)


def imported(host: Ours, ready: Ready, call: Call) -> results.Imported:
    """Import what was looked at."""
    call.begin()
    outcome = host.import_(ready, call.allow, progress=call.progress, stop=call.stop)
    return results.Imported(
        _names(ready.document.state), document=ready.document, maps=tuple(
            {"kind": kind, "old": old, "new": new} for kind, old, new in ready.mapped),
        **results.counted(outcome))


def verify(host: Ours, call: Call) -> results.Verified:
    host.verify(call.given, call.maps)
    return results.Verified(_names(call.given.state), state=call.given.state)


# ---- who restores a target at a boot ---
def adopt(host: Ours, call: Call) -> results.Adopted:
    names = call.chosen(host)
    call.begin()
    state = host.adopt(names, call.allow)
    return results.Adopted(_names(state), tuple(host.notes))


def giveback(host: Ours, call: Call) -> results.GivenBack:
    names = call.chosen(host)
    call.begin()
    state = host.giveback(names, call.allow)
    return results.GivenBack(_names(state), tuple(host.notes))


# ---- what this host serves ---
def create(host: Ours, call: Call) -> results.Managed:
    return _managed(managing.change(host, call.wanted("create"), call.order("create")), call)


def set_(host: Ours, call: Call) -> results.Managed:
    return _managed(managing.change(host, call.wanted("set"), call.order("set")), call)


def delete(host: Ours, call: Call) -> results.Managed:
    return _managed(managing.change(host, call.wanted("delete"), call.order("delete")), call)


def apply(host: Ours, call: Call) -> results.Managed:
    return _managed(managing.apply(host, call.tree, call.prune, call.secret,
                                   call.order("apply")), call)


def shell(host: Ours, call: Call) -> results.Typed:
    line: Callable[[Ours, Call], results.Typed] = import_module(LINES).line_of_call
    return line(host, call)


def _managed(done: managing.Done, call: Call) -> results.Managed:
    counted = results.counted(done.outcome)
    return results.Managed(done.targets, **{**counted, "notes": done.notes}, about=done.about,
                           same=not done.changes, planned=call.dry_run, changes=done.changes,
                           plan=done.plan, against=done.findings)


#: The function of each verb, by its name.
VERBS: Mapping[str, Callable[[Ours, Call], results.Result]] = {
    name: globals()[row.run] for name, row in HOST_VERBS.items()}

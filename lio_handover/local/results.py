"""The results of the verbs of one host: a dataclass each, which text, JSON and D-Bus render.

Fields that are not shown by ``repr`` are for text alone, or may hold secrets: JSON leaves them out.
"""
from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Dict, Mapping, Optional, Tuple, Type

from ..document.document import Document
from ..errors import Finding
from ..execute.executor import Outcome
from ..host.looked_at import Ready, View
from ..model.diff import Change
from ..model.objects import State
from ..plan.plan import Plan


@dataclass(frozen=True)
class Result:
    """``targets``: FABRIC/WWN of each; ``notes``: what else there is to tell; ``by``: the service
    that did it, or ""."""

    targets: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    by: str = ""

    @property
    def findings(self) -> Tuple[Finding, ...]:
        """The findings against the verb."""
        return ()


@dataclass(frozen=True)
class Shown(Result):
    view: View = field(default_factory=lambda: View(State()), repr=False)


@dataclass(frozen=True)
class Prepared(Result):
    """The document that a handover would carry now, and the findings against one."""

    document: Document = field(default_factory=lambda: Document(State()), repr=False)
    against: Tuple[Finding, ...] = ()

    @property
    def findings(self) -> Tuple[Finding, ...]:
        return self.against


@dataclass(frozen=True)
class Frozen(Result):
    """``writes`` to the kernel; ``seconds`` by phase; ``next``: the command that leads on."""

    writes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    next: str = ""


@dataclass(frozen=True)
class Exported(Result):
    """``recorded``: whether this host has noted that another may serve the targets; ``data``: the
    document, of so many ``bytes``; ``secret``: whether it has secrets."""

    frozen: bool = False
    digest: str = ""
    bytes: int = 0  # noqa: A003
    recorded: bool = False
    data: bytes = field(default=b"", repr=False)  # type: ignore[valid-type]
    secret: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class Thawed(Result):
    writes: int = 0


@dataclass(frozen=True)
class Compared(Result):
    """This host (``have``) beside what it can be brought to of a document (``want``)."""

    have: State = field(default_factory=State, repr=False)
    want: State = field(default_factory=State, repr=False)
    changes: Tuple[Change, ...] = ()
    document: Document = field(default_factory=lambda: Document(State()), repr=False)


@dataclass(frozen=True)
class Planned(Result):
    ready: Optional[Ready] = field(default=None, repr=False)

    @property
    def findings(self) -> Tuple[Finding, ...]:
        return self.ready.findings if self.ready else ()


@dataclass(frozen=True)
class Imported(Result):
    """``maps``: the names that were changed (kind, old, new); ``document`` with those that it has
    here; see Outcome for the others."""

    maps: Tuple[Mapping[str, str], ...] = ()
    steps: int = 0
    writes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    document: Document = field(default_factory=lambda: Document(State()), repr=False)


@dataclass(frozen=True)
class Verified(Result):
    same: bool = True
    state: State = field(default_factory=State, repr=False)


@dataclass(frozen=True)
class Removed(Result):
    """``kept``: the file with the document of what was removed; see Outcome for the others."""

    kept: str = ""
    steps: int = 0
    writes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Adopted(Result):
    """lio-handover restores the targets at a boot from now on."""


@dataclass(frozen=True)
class GivenBack(Result):
    """targetcli restores the targets at a boot from now on."""


@dataclass(frozen=True)
class Managed(Result):
    """``about``: the object that was changed, in targetcli's words, "" of a file; ``same``: whether
    it was so already; see Outcome for the others.  ``planned``: it was not done, only planned."""

    about: str = ""
    same: bool = False
    steps: int = 0
    writes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    planned: bool = False
    changes: Tuple[Change, ...] = field(default=(), repr=False)
    plan: Plan = field(default_factory=Plan, repr=False)
    against: Tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def findings(self) -> Tuple[Finding, ...]:
        return self.against if self.planned else ()


@dataclass(frozen=True)
class Typed(Result):
    """A line of the shell was run.  ``said``: its lines, each with a sign before it (``=`` a
    result, ``+`` told besides, in green on a terminal that has colours, ``!`` a note); ``last``:
    the node that it made, or ""; ``preferences``: the user's file of them as it shall be now, ""
    where it may stay."""

    said: Tuple[str, ...] = ()
    last: str = ""
    preferences: str = ""
    changes: Tuple[Change, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Moved(Result):
    """A move between two hosts, ``source`` and ``destination``, whose handover has this id.

    ``seconds`` by step; ``window``: seconds in which nobody served, or in which a guest stood
    still; ``downtime``: the seconds that the source's QEMU says a guest was stopped, 0 without one;
    ``guests``: a mapping for each guest (LiveMove.told_of_guests); ``cost``: the window in words.
    """

    handover: str = ""
    epoch: int = 0
    source: str = ""
    destination: str = ""
    contents: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    window: float = 0.0
    downtime: float = 0.0
    guests: Tuple[Mapping[str, Any], ...] = ()
    cost: str = field(default="", repr=False)


def counted(outcome: Outcome) -> Dict[str, Any]:
    """An outcome's values, by the fields of a result; seconds are rounded to microseconds."""
    return {"steps": outcome.steps, "writes": outcome.writes, "notes": outcome.notes,
            "seconds": {phase: round(took, 6) for phase, took in outcome.seconds.items()}}


#: The results that D-Bus answers whole, by their verbs.
_WHOLE: Mapping[str, Type[Result]] = {
    "freeze": Frozen, "export": Exported, "thaw": Thawed, "import": Imported, "remove": Removed,
    "adopt": Adopted, "giveback": GivenBack, "create": Managed, "set": Managed, "delete": Managed,
    "apply": Managed}


def from_answer(verb: str, answer: Mapping[str, Any]) -> Result:
    """The result of a verb that the service carried out, of what its job has as ``Result``."""
    kind = _WHOLE.get(verb, Result)
    known = {member.name for member in fields(kind)}  # a later service may say more
    given: Dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                             for name, value in answer.items() if name in known}
    return kind(**given)

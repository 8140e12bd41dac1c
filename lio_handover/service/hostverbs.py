"""The one-host verbs on the bus: what the command line does by hand, as data.

The verbs of a handover are table.VERBS and its rows; both kinds together are all that a
worker carries out.
"""
from __future__ import annotations

from typing import FrozenSet, Mapping, NamedTuple

from ..protocol import table
from ..protocol.table import READ, WRITE


class HostVerb(NamedTuple):
    action: str
    deadline: float  # seconds without a sign of life after which it alarms
    document: bool  # whether it takes a document, else targets
    options: FrozenSet[str]


def _verb(action: str, deadline: float, document: bool, options: str) -> HostVerb:
    return HostVerb(action, deadline, document, frozenset(options.split()))


HOST_VERBS: Mapping[str, HostVerb] = {
    "show": _verb(READ, 10, False, ""),
    "prepare": _verb(READ, 120, False, "all allow probe"),
    "freeze": _verb(WRITE, 30, False, "all allow probe"),
    "export": _verb(WRITE, 60, False, "all allow probe"),
    "thaw": _verb(WRITE, 30, False, "all allow"),
    "diff": _verb(READ, 60, True, "maps upload"),
    "plan": _verb(READ, 60, True, "maps allow upload"),
    "import": _verb(WRITE, 60, True, "maps allow upload"),
    "verify": _verb(READ, 60, True, "maps upload"),
    "remove": _verb(WRITE, 60, False, "all allow"),
    "adopt": _verb(WRITE, 60, False, "all allow"),
    "giveback": _verb(WRITE, 60, False, "all allow"),
}
#: What may be said to a handover's verb, by an operator (which is an action of its own), or (of
#: QEMU) by the driver that sees it.
FORCING = ("peer-is-fenced", "peer-never-returns")
WORDS = (*FORCING, "guest-left")
HANDOVER_OPTIONS = frozenset(
    ["allow", "maps", "peer", "probe", "uploads", "document-version", *WORDS])
#: option → its type on the bus
OPTIONS: Mapping[str, type] = {
    "all": bool, "probe": bool, "allow": list, "maps": list, "upload": str, "uploads": list,
    "peer": str, "document-version": int, **{word: bool for word in WORDS}}


def deadline(role: str, verb: str) -> float:
    """Seconds without a sign of life after which a verb alarms; ``role`` "" for one host's."""
    if not role:
        return HOST_VERBS[verb].deadline
    return max([row.deadline for row in table.TABLE
                if role in (row.role, "both") and row.verb == verb] or [60.0])

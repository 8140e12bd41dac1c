"""Changes that other programs made to a handover's targets: they opened a target that may not be
open, saved it so that a boot opens it, removed a target that is served, or made it again.

Nothing here changes anything. local/guard.py acts on it; ``status`` tells it.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Callable, List, Tuple

from .. import errors
from ..actions import identity, surviving_registrations
from ..actions.context import HandoverContext
from ..document import runtime_state
from ..execute.verify import describe
from ..kernel.facts import boot_id
from ..protocol.pr_survival import FOLLOWED
from ..protocol.table import AfterReboot, Mode, state_of
from ..records.journal import Handover


class Kind(str, Enum):
    """The kinds of change; the value is the sentence."""

    OPEN = "is open although this host may not serve it: somebody else opened it"
    GONE = "is not here any more: somebody else removed or cleared it"
    REPLACED = "was removed by somebody else and made again, and is not as it was"
    CHANGED = "was changed since its copy was kept"


@dataclass(frozen=True)
class Incident:
    """A change by another program: ``what`` says more than the kind; ``do``: the command to run;
    ``shrunk``: something that the copy has is missing."""

    kind: Kind
    targets: Tuple[str, ...]
    what: str = ""
    do: str = ""
    shrunk: bool = False

    def __str__(self) -> str:
        return f"{', '.join(self.targets)} {self.kind.value}" \
            + (f": {self.what}" if self.what else "") + (f"; next: {self.do}" if self.do else "")


def must_stay_shut(handover: Handover) -> bool:
    """Whether this host may not serve a handover's targets, unless another one counts now."""
    if not handover.state:
        return False
    may = state_of(handover.role, handover.state, Mode(handover.mode)).after_reboot
    return not (may is AfterReboot.OPEN
                or may is AfterReboot.ASK_PEER and handover.boot_id == boot_id()
                and handover.state not in ("released", "returned")) and handover.state != "none"


def kept(handover: Handover) -> bool:
    """Whether lio-handover brings the targets back as they were, wherever they are lost."""
    return handover.state in FOLLOWED[handover.role] and handover.state != "idle"


def unguarded(context: HandoverContext) -> bool:
    """Whether any gate of the handover's targets is open."""
    return bool(context.open_tpgs()) or context.mode is not Mode.FILE and any(
        context.holders.pid_of(wwpn) is None for wwpn in context.endpoints())


def incidents_of(context: HandoverContext, compare: bool = False) -> List[Incident]:
    """The changes that other programs made to a handover that counts.  ``compare``: targets that
    are this host's to restore are compared as a whole.  Raises OSError, HandoverError."""
    journal, targets = context.journal, context.local_targets()
    handover = journal.handover
    recover = f"lio-handover recover {journal.id}"
    if journal.damage is not None or must_stay_shut(handover):
        return [Incident(Kind.OPEN, targets, do=recover)] if unguarded(context) else []
    if not kept(handover) or handover.busy:
        return []
    incidents = []
    gone = identity.gone(context)
    if gone:
        incidents.append(Incident(
            Kind.GONE, tuple(gone), do=f"lio-handover restore {gone[0]}, or, if nobody shall serve "
            f"it, lio-handover remove {gone[0]}"))
    if surviving_registrations.looked_for(context):
        lacks = surviving_registrations.lacks(context)
        if lacks:
            others = identity.replaced(context) or targets
            return [*incidents, Incident(Kind.REPLACED, tuple(others), lacks, recover)]
    if compare and not gone and handover.state == "confirmed":
        changed = [change for change in runtime_state.structural_changes(
            context.durable().state, context.here(False))]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            incidents.append(Incident(Kind.CHANGED, targets, describe(changed[0]) + more,
                                      f"lio-handover adopt {' '.join(targets)}",
                                      not context.whole()))
    return incidents


def notes(context: HandoverContext, superseded: Callable[[Handover], bool]) -> Tuple[str, ...]:
    """For status: what was found by the service and still stands, else what is found now."""
    told = [context.journal.facts.meddled] if context.journal.facts.meddled else []
    try:
        if not told and context.fs.exists("core") and not superseded(context.handover):
            told = [str(incident) for incident in incidents_of(context)]
    except (OSError, errors.HandoverError) as error:
        told.append(str(getattr(error, "what", error)))
    return tuple(told)


def save_files(context: HandoverContext) -> List[str]:
    """The save files that hold what this host has given away.  Raises SavefileBroken."""
    away = context.journal.damage is not None or must_stay_shut(context.handover)
    return sorted({entry.path for entry in context.saved()}) if away else []

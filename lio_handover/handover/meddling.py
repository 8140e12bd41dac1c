"""What somebody else has done to a handover's targets, beside lio-handover: opened what may not be
open, saved it where a boot opens it, removed what is served, or made it again.

Nothing here changes anything.  local/guard.py acts on it; ``status`` tells it.
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
    """What can be found; the value is the sentence."""

    OPEN = "is open although this host may not serve it: somebody else opened it"
    GONE = "is not here any more: somebody else removed or cleared it"
    REPLACED = "was removed by somebody else and made again, and is not as it was"
    CHANGED = "was changed since its copy was kept"


@dataclass(frozen=True)
class Found:
    """``what`` says more than the kind; ``shrunk``: something that the copy has is missing."""

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
    """Whether any gate of it is open."""
    return bool(context.open_tpgs()) or context.mode is not Mode.FILE and any(
        context.holders.pid_of(wwpn) is None for wwpn in context.endpoints())


def found(context: HandoverContext, compare: bool = False) -> List[Found]:
    """What somebody else has done to a handover that counts.  ``compare``: what is this host's to
    restore is read as a whole.  Raises OSError, HandoverError."""
    journal, targets = context.journal, context.local_targets()
    handover = journal.handover
    recover = f"lio-handover recover {journal.id}"
    if journal.broken is not None or must_stay_shut(handover):
        return [Found(Kind.OPEN, targets, do=recover)] if unguarded(context) else []
    if not kept(handover) or handover.busy:
        return []
    made = []
    gone = identity.gone(context)
    if gone:
        made.append(Found(Kind.GONE, tuple(gone), do=f"lio-handover restore {gone[0]}, or, if "
                          f"nobody shall serve it, lio-handover remove {gone[0]}"))
    if surviving_registrations.looked_for(context):
        lacks = surviving_registrations.lacks(context)
        if lacks:
            others = identity.replaced(context) or targets
            return [*made, Found(Kind.REPLACED, tuple(others), lacks, recover)]
    if compare and not gone and handover.state == "confirmed":
        changed = [change for change in runtime_state.structural_changes(
            context.durable().state, context.here(False))]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            made.append(Found(Kind.CHANGED, targets, describe(changed[0]) + more,
                              f"lio-handover adopt {' '.join(targets)}",
                              not context.whole()))
    return made


def notes(context: HandoverContext, superseded: Callable[[Handover], bool]) -> Tuple[str, ...]:
    """For status: what was found by the service and still stands, else what is found now."""
    told = [context.journal.facts.meddled] if context.journal.facts.meddled else []
    try:
        if not told and context.fs.exists("core") and not superseded(context.handover):
            told = [str(one) for one in found(context)]
    except (OSError, errors.HandoverError) as error:
        told.append(str(getattr(error, "what", error)))
    return tuple(told)


def save_files(context: HandoverContext) -> List[str]:
    """The save files that hold what this host has given away.  Raises SavefileBroken."""
    away = context.journal.broken is not None or must_stay_shut(context.handover)
    return sorted({one.path for one in context.saved()}) if away else []

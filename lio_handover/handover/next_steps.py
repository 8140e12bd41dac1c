"""The next step from where a handover stands: the command, as a person types it."""
from __future__ import annotations

import shlex
from typing import Mapping, Sequence, Tuple

from .. import errors
from ..protocol.table import DESTINATION, SOURCE, MessageType, Mode
from ..records.journal import Handover, Journal
from ..records.ownership import REMOVED, OwnershipFile, TargetEpochs

#: (role, state) → the verb that leads on, in the order of a handover between two hosts.
VERBS: Mapping[Tuple[str, str], str] = {
    (SOURCE, "prepared"): "freeze", (SOURCE, "freezing"): "freeze", (SOURCE, "frozen"): "export",
    (SOURCE, "released"): "retire", (SOURCE, "thawing"): "thaw", (SOURCE, "retiring"): "retire",
    (DESTINATION, "staged"): "activate", (DESTINATION, "armed"): "activate",
    (DESTINATION, "opening"): "verify", (DESTINATION, "serving"): "confirm",
    (DESTINATION, "aborting"): "abort",
}
#: The message that such a verb takes: whose verb answers with it.  In-band, QEMU's words lead on.
TAKES: Mapping[Tuple[str, str], str] = {
    (SOURCE, "release"): "destination activate", (SOURCE, "retire"): "destination verify",
    (DESTINATION, "staged"): "source export", (DESTINATION, "armed"): "source release",
    (DESTINATION, "confirm"): "source retire",
}
#: The same by file; {targets}, {id}.
BY_FILE: Mapping[Tuple[str, str], str] = {
    (SOURCE, "freezing"): "lio-handover freeze {targets} (or thaw)",
    (SOURCE, "frozen"): "lio-handover export {targets} -o FILE (or thaw)",
    (SOURCE, "released"):
        "once another host serves it: lio-handover remove {targets}; only if none has imported it "
        "or will: lio-handover thaw {targets} --allow exported",
    (SOURCE, "thawing"): "lio-handover thaw {targets}",
    (SOURCE, "retiring"): "lio-handover remove {targets}",
    (DESTINATION, "armed"): "lio-handover recover {id}",
    (DESTINATION, "aborting"): "lio-handover recover {id}",
}


def first(verb: str, mode: str, targets: Sequence[str]) -> str:
    """The verb that begins a handover in that mode.  Raises WrongState for prepare by file."""
    if mode != Mode.FILE.value:
        return "prepare"
    if verb == "prepare":
        raise errors.WrongState("by file there is no other host to offer a target to",
                                do=f"lio-handover freeze {_quoted(targets)}")
    return "freeze"


def command(journal: Journal) -> str:
    """The command that leads on; "" where nothing is left to be done."""
    handover = journal.handover
    if handover.busy or handover.error and handover.mode != Mode.FILE.value:
        return f"lio-handover recover {handover.id}"
    if handover.mode == Mode.FILE.value:
        return _by_file(handover)
    verb = VERBS.get((handover.role, handover.state), "")
    if verb == "export" and MessageType.DOCUMENT.name.lower() in journal.facts.sent_messages:
        verb = "release"
    takes = "" if handover.mode == Mode.VHOST_INBAND.value else \
        TAKES.get((handover.role, handover.state), TAKES.get((handover.role, verb), ""))
    return f"lio-handover {handover.role} {verb} {handover.id}" + (
        f" --messages FILE, with what {takes} answers" if takes else "") if verb else ""


def _by_file(handover: Handover) -> str:
    return BY_FILE.get((handover.role, handover.state), "").format(
        id=handover.id, targets=_quoted(handover.targets))


def _quoted(names: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, names))


def frozen(handovers: Sequence[Handover], names: Sequence[str]) -> str:
    """The next commands once these targets are frozen by file."""
    away = [handover for handover in handovers if handover.state == "released"]
    here = [name for name in names if all(name not in handover.targets for handover in away)]
    return "; ".join([*([BY_FILE[SOURCE, "frozen"].format(targets=_quoted(here))] if here else []),
                      *map(_by_file, away)])


def exported(handover: Handover) -> str:
    """Why a handover by file stays where it is."""
    return (f"{', '.join(handover.targets)}: exported, so another host may serve it, and none can "
            "be asked: it stays shut")


def stopped(names: Sequence[str]) -> str:
    """A target that its unit stopped, or that was cleared, stays so."""
    return f"{', '.join(names)} was stopped on purpose, and stays so until the next boot"


def restore(names: Sequence[str]) -> str:
    """The command that brings stopped targets back before the next boot."""
    return f"lio-handover restore {_quoted(names)}"


def removed(journal: Journal, owners: OwnershipFile) -> Tuple[str, ...]:
    """Which targets of a handover that is over were taken away since, whatever it says."""
    try:
        known = owners.load() if journal.handover.over else {}
    except errors.JournalBroken:
        return ()  # which every verb that would act upon it says
    names = journal.facts.local or journal.handover.targets
    gone = [name for name in names if known.get(name, TargetEpochs()).handover == REMOVED]
    return (f"{', '.join(gone)}: removed from this host since, and not served: no boot brings it "
            "back",) if gone else ()

"""Load(): QEMU has what came with the guest, which has not started here."""
from __future__ import annotations

from typing import Callable

from .. import errors
from ..host.guests import Guest
from ..protocol.table import DESTINATION, HELD, INBAND, Mode
from ..records.journal import Handover
from . import answers
from .answers import Answer
from .verbs import BEGIN, Handovers

_STAGE = f"on the source: {BEGIN}, then migrate again"


def load(host: Handovers, guest: Guest, data: bytes, began: Callable[[str], None]) -> str:
    """Take what Save() answered; what was done, in words.

    ``began`` is called with the handover's id before anything is changed.  Raises a DocumentError
    for bytes that Save() does not answer, WrongState where no handover of that id was staged here,
    NoSuchTarget and StaleEpoch where there is no handover and this host does not serve the guest's
    targets, and what activate fails with.
    """
    answer = answers.unpack(data)
    if answer.identity == host.identity:
        return _stays(host, guest, answer)
    if answer.kind == answers.HANDOVER:
        return _activate(host, guest, answer, began)
    if answer.kind == answers.BESIDE:
        return _beside(host, guest, answer)
    raise errors.WrongState(
        f"the guest comes from {answer.host} without a handover of its targets: nothing was "
        "prepared there, and their registrations would be lost", do=_STAGE)


def _stays(host: Handovers, guest: Guest, answer: Answer) -> str:
    """The guest was saved on this host, or gets another QEMU here: nothing is done.  Raises
    WrongState, NoSuchTarget, StaleEpoch."""
    if {*answer.targets} != {*guest.targets}:
        raise errors.WrongState(f"what was saved is of other targets ({', '.join(answer.targets)})",
                                do=f"see the targets of {guest.name}")
    why = host.not_served(guest.targets)
    if why and not _comes_back(host, answer):
        raise errors.NoSuchTarget(why, do="start the guest on the host that serves it")
    for name, epoch in host.epochs(guest.targets):
        if epoch != answer.targets[name]:
            raise errors.StaleEpoch(
                f"a handover of {name} was begun since the guest was saved: epoch "
                f"{answer.targets[name]} then, {epoch} now",
                do="start the guest afresh, not from what was saved")
    return f"{guest.name} stays on this host: nothing is done"


def _comes_back(host: Handovers, answer: Answer) -> bool:
    """Whether it is this host's own handover, which waits for its guest here or there."""
    if answer.kind != answers.HANDOVER:
        return False
    name, _, _ = answers.handover_of(answer)
    try:
        return host.journal(name).handover.state in ("freezing", "frozen", "thawing", "idle")
    except errors.NoSuchHandover:
        return False


def _known(host: Handovers, guest: Guest, answer: Answer) -> Handover:
    """The handover here that an answer is about.  Raises WrongState."""
    name, epoch, mode = answers.handover_of(answer)
    try:
        handover = host.journal(name).handover
    except errors.NoSuchHandover:
        raise errors.WrongState(f"handover {name} from {answer.host} was not staged here",
                                do=_STAGE) from None
    if (handover.role, handover.epoch, handover.mode) != (DESTINATION, epoch, mode):
        raise errors.WrongState(f"handover {name} is another here: {handover.role}, epoch "
                                f"{handover.epoch}, {handover.mode}",
                                do=f"lio-handover status {name}")
    local, mine = host.local(handover), {*guest.targets}
    # A driver by QMP moves several guests at once; in QEMU's stream a guest moves alone.
    if not mine <= local or local != mine and answer.kind != answers.BESIDE:
        raise errors.WrongState(
            f"handover {name} is of other targets than {guest.name}'s: "
            + ", ".join(sorted(local)), do=f"see the targets of {guest.name}")
    return handover


def _activate(host: Handovers, guest: Guest, answer: Answer, began: Callable[[str], None]) -> str:
    handover = _known(host, guest, answer)
    if Mode(handover.mode) not in INBAND or handover.state not in ("staged", "armed"):
        raise errors.WrongState(f"handover {handover.id} is {handover.state} here, not staged",
                                do=_STAGE)
    message = answers.message_of(answer.about, host.staged(handover.id))
    began(handover.id)
    host.do("activate", handover, [message])
    return f"{guest.name}: registrations are here, the endpoint is free for its QEMU"


def _beside(host: Handovers, guest: Guest, answer: Answer) -> str:
    handover = _known(host, guest, answer)
    if Mode(handover.mode) not in HELD or handover.state != "armed":
        raise errors.WrongState(f"handover {handover.id} is {handover.state} here, not armed",
                                do=f"lio-handover status {handover.id}")
    return f"{guest.name} moves by handover {handover.id}, which another program drives"

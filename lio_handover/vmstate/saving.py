"""Save(): QEMU has stopped the guest, and asks for what shall travel with it."""
from __future__ import annotations

from typing import Callable, Optional

from .. import errors
from ..host.guests import Guest
from ..protocol.table import HELD, INBAND, SOURCE, MessageType, Mode
from ..records.journal import Handover
from . import answers
from .answers import Answer
from .verbs import BEGIN, Handovers

#: States of a source whose guest may still go, or come back.
_QUIET = ("freezing", "frozen")


def save(host: Handovers, guest: Guest, began: Callable[[str], None]) -> bytes:
    """The answer to Save(): the handover's run-time state, or that there is none.

    ``began`` is called with the handover's id before it is frozen.  Raises WrongState where a
    handover of the guest's targets is in the way, NoSuchTarget where this host does not serve them,
    and what freeze and export fail with.
    """
    handover = _under_way(host, guest)
    if handover is None:
        return _nothing(host, guest)
    if Mode(handover.mode) in HELD:
        if handover.state not in _QUIET:  # it has not come to the switch: a file, or a snapshot
            return _nothing(host, guest)
        return answers.pack(_answer(host, guest, answers.BESIDE, {
            "handover": handover.id, "epoch": handover.epoch, "mode": handover.mode}))
    if Mode(handover.mode) not in INBAND:
        raise errors.WrongState(
            f"handover {handover.id} of the guest's targets is in mode {handover.mode}",
            do=f"lio-handover status {handover.id}")
    if handover.state != "prepared":
        raise errors.WrongState(
            f"handover {handover.id} is {handover.state}: an earlier migration is not over",
            do=f"lio-handover recover {handover.id}, then {BEGIN}, then migrate")
    _is_all_of(host, guest, handover)
    began(handover.id)
    reply = host.do("freeze", handover, export=True)
    message = next(message for message in reply.messages
                   if message.type is MessageType.DOCUMENT)
    return answers.pack(_answer(host, guest, answers.HANDOVER, answers.about_handover(
        message, host.staged(handover.id))))


def _under_way(host: Handovers, guest: Guest) -> Optional[Handover]:
    handovers = host.of_targets(guest.targets)
    if len(handovers) > 1:
        raise errors.WrongState(f"{len(handovers)} handovers of the guest's targets are under way",
                                do="lio-handover status")
    for handover in handovers:
        if handover.role == SOURCE:
            return handover
        raise errors.WrongState(
            f"handover {handover.id}, which brought the guest here, is {handover.state}",
            do=f"lio-handover recover {handover.id}, then migrate again")
    return None


def _is_all_of(host: Handovers, guest: Guest, handover: Handover) -> None:
    """A handover moves with one guest, and all of that guest's targets with it.  Raises
    WrongState."""
    local = host.local(handover)
    others, left = local - {*guest.targets}, {*guest.targets} - local
    if others:
        raise errors.WrongState(
            f"handover {handover.id} has {min(others)}, too, which is not {guest.name}'s: only one "
            "guest moves in QEMU's own stream",
            do=f"lio-handover source thaw {handover.id}, then lio-handover move --guest")
    if left:
        raise errors.WrongState(
            f"handover {handover.id} lacks {min(left)}, which is {guest.name}'s, too",
            do=f"lio-handover source thaw {handover.id}, then {BEGIN} with all of them")


def _nothing(host: Handovers, guest: Guest) -> bytes:
    why = host.not_served(guest.targets)
    if why:
        raise errors.NoSuchTarget(why, do="lio-handover status")
    return answers.pack(_answer(host, guest, answers.NOTHING, {}))


def _answer(host: Handovers, guest: Guest, kind: str, about: object) -> Answer:
    assert isinstance(about, dict)
    return Answer(kind, host.name, host.identity, dict(host.epochs(guest.targets)), about)

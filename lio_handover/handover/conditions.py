"""The choice of a row of the protocol's table, by messages and conditions."""
from __future__ import annotations

from dataclasses import replace
from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..actions import surviving_registrations
from ..actions.context import HandoverContext
from ..host.verbs import HostVerbs
from ..kernel.facts import boot_id
from ..protocol.authentication import Authentication, check_other
from ..protocol.messages import Message
from ..protocol.table import (DESTINATION, INBAND, SOURCE, TRANSITIONS, Condition, MessageType,
                              Mode, Transition, rows_for)
from ..records.journal import Handover, Journal
from ..system import fencing
from .reply import Peer, Reply

#: The assertions that a verb takes: an operator makes them, or (about QEMU) the driver that sees
#: it.
ASSERTED = {"peer-is-fenced": Condition.PEER_IS_FENCED,
            "peer-never-returns": Condition.PEER_NEVER_RETURNS,
            "guest-left": Condition.GUEST_LEFT, "not-imported": Condition.NOT_IMPORTED,
            "imported": Condition.IMPORTED}
#: The meaning of each set of assertions, as a sentence about the other host or QEMU.
ASSERTS: Mapping[Tuple[str, ...], str] = {
    ("peer-is-fenced",): "the other host is off now",
    ("peer-is-fenced", "peer-never-returns"):
        "the other host is off now and will never boot again with its present records",
    ("guest-left",): "QEMU here has completed the migration, or is gone",
}
#: Where nothing was recorded yet.
FIRST_STATE = {SOURCE: "idle", DESTINATION: "none"}


class TransitionChooser:
    """A verb as it was called: which rows of the table fit, by messages, kernel, journal and peer.

    ``superseded``: whether a later handover of the same targets counts now.  ``host``: how the
    other side is reached, "" for as the journal has it.  ``key``: this host's, where it has one.
    """

    def __init__(self, core: HostVerbs, peer: Optional[Peer], journal: Journal, verb: str,
                 epoch: int, messages: Sequence[Message], assertions: FrozenSet[str],
                 superseded: bool, host: str = "", key: Authentication = Authentication()) -> None:
        self.key = key
        self.peer, self.journal, self.verb, self.epoch = peer, journal, verb, epoch
        self.assertions, self.superseded = assertions, superseded
        self.settings, self.host = core.settings, host or journal.handover.peer
        self.notes: List[str] = []
        self.by_type: Dict[MessageType, Message] = {}
        self.stale = [message for message in messages if not self._take(message)]
        self.context = HandoverContext(core, journal, epoch)
        self._asked: Optional[Reply] = None
        self._silent: Optional[errors.PeerUnreachable] = None

    def _take(self, message: Message) -> bool:
        """Keep a message that is about this handover and epoch, from the other side."""
        if (message.handover, message.epoch) != (self.journal.id, self.epoch):
            return False
        self.by_type.setdefault(message.type, message)
        return True

    def row(self) -> Optional[Transition]:
        """The row to run; None where there is nothing to do any more.  Raises WrongState."""
        handover = self.journal.handover
        state = handover.state or FIRST_STATE[handover.role]
        mode = Mode(handover.mode)
        rows = rows_for(handover.role, state, self.verb, mode)
        lacking: List[str] = []
        onward = self.next_transition(())
        if onward is not None:
            return onward
        for row in rows:
            missing = self._unmet(row)
            if not missing:
                return row
            lacking.append(" and ".join(missing))
        if not rows and any(row.verb == self.verb for row in self._ways_here()):
            if not self._cut_off():
                return None
            rest = self.recovery()
            if rest is not None or handover.over:
                return rest
            raise errors.WrongState(self.why(), do=f"lio-handover recover {handover.id}")
        raise self._wrong(handover, state, lacking)

    def _ways_here(self) -> List[Transition]:
        """The rows that lead to this state."""
        handover = self.journal.handover
        return [row for row in TRANSITIONS if row.role == handover.role
                and row.to == (handover.state or FIRST_STATE[handover.role])
                and Mode(handover.mode) in row.modes]

    def _cut_off(self) -> bool:
        """Whether the last verb may have left something undone after it had recorded its state."""
        return self._broken() and any(
            row.after and row.verb == self.journal.facts.verb for row in self._ways_here())

    def _broken(self) -> bool:
        """Whether the last verb was cut off or failed."""
        return bool(self.journal.handover.busy or self.journal.handover.error)

    def _half_brought_back(self) -> bool:
        """Whether a recover has begun in this boot to load what is here, and has not ended."""
        notes = self.journal.facts
        return self._broken() and notes.verb == "recover" and boot_id() in (
            notes.loading, notes.loaded[0])

    # ---- recovering -----------------------------------------------------------------------------
    def recovery(self) -> Optional[Transition]:
        """The row of recover that fits; None where it stays.  The other side is asked, and, where
        it is armed and this side has released, asked to abort: its first record decides."""
        handover = self.journal.handover
        if handover.over and (self.superseded or
                              not self.journal.facts.away and self._all_done()):
            return None
        row = self._fitting_recovery()
        if row is None and (handover.state == "released" or self._inband_frozen()):
            peer = self._ask()
            if peer is not None and peer.handover.state in ("armed", "returned", "none", "staged"):
                self._ask("abort")
                row = self._fitting_recovery()
        return row

    def _all_done(self) -> bool:
        """Whether a handover that is over has nothing left to be done.  A target that is this
        host's to restore may be cleared at any time; from other targets only a boot can have taken
        anything."""
        handover, cut_off = self.journal.handover, self._cut_off()
        if handover.boot_id == boot_id() and (cut_off or handover.state != "confirmed"):
            return not cut_off
        return handover.state in ("idle", "confirmed") and not self._half_brought_back() \
            and not (self._broken() and self.journal.facts.verb == "clear") \
            and self.context.settled(cut_off) \
            and not surviving_registrations.lacking(self.context)

    def _inband_frozen(self) -> bool:
        return self.journal.handover.state == "frozen" \
            and self.journal.handover.mode == Mode.VHOST_INBAND.value

    def _fitting_recovery(self) -> Optional[Transition]:
        handover = self.journal.handover
        if not handover.state:
            return None
        for row in rows_for(handover.role, handover.state, "recover", Mode(handover.mode)):
            if row.messages - set(self.by_type):
                self._ask()
            if not self._unmet(row):
                return row
        return None

    def assertions_that_unblock(self) -> Tuple[str, ...]:
        """The assertions that would let a row of recover fit."""
        if self.alive:
            return ()
        handover = self.journal.handover
        for row in rows_for(handover.role, handover.state, "recover", Mode(handover.mode)):
            assertions = tuple(assertion for assertion, condition in ASSERTED.items()
                               if condition in row.conditions)
            others = row.conditions - {ASSERTED[assertion] for assertion in assertions}
            if assertions and not row.messages - set(self.by_type) \
                    and all(map(self._is_met, others)):
                return assertions
        return ()

    @property
    def answered(self) -> bool:
        """Whether the other side has answered."""
        return self._asked is not None

    @property
    def alive(self) -> bool:
        """Whether anything of the other host has answered: then it is not off."""
        return self.answered or self._silent is not None and self._silent.alive

    def why(self) -> str:
        """Why it stays."""
        role, state = self.journal.handover.role, self.journal.handover.state
        if self._asked is not None:
            peer = self._asked.handover
            if not peer.state:
                return (f"the {role} is {state} and stays: the {peer.role} answers that it has no "
                        "such handover")
            return (f"the {role} is {state} and stays: the {peer.role} answers that it is "
                    f"{peer.state}, which does not decide")
        silent = self._silent.what if self._silent else "there is no way to ask it"
        return f"the {role} is {state} and stays: the other side has to be asked, and {silent}"

    def next_transition(self, done: Sequence[Transition]) -> Optional[Transition]:
        """activate goes as far as its messages allow: the row that leads on from here.  Once a row
        is done the other host is not asked for one more: QEMU may be waiting for this (Load())."""
        handover = self.journal.handover
        rows = rows_for(handover.role, handover.state, self.verb, Mode(handover.mode))
        return next((row for row in rows if self.verb == "activate" and row.to != row.state
                     and row not in done and not (done and row.asks)
                     and not self._unmet(row)), None)

    def _wrong(self, handover: Handover, state: str, lacking: Sequence[str]) -> Exception:
        where = f"the {handover.role} is {state}"
        if self.stale and lacking:
            old = self.stale[0]
            return errors.StaleEpoch(
                f"{where} under epoch {self.epoch}, and the {old.type.name.lower()} message is of "
                f"handover {old.handover}, epoch {old.epoch}",
                do=f"lio-handover status {handover.id}")
        what = f"{where}: {self.verb} is not possible"
        if lacking:
            what = f"{where}: {self.verb} needs " + ", or ".join(lacking)
        return errors.WrongState(what, do=f"lio-handover status {handover.id}")

    # ---- messages and needs ---------------------------------------------------------------------
    def _unmet(self, row: Transition) -> List[str]:
        """The messages and conditions that the row needs and that are not there, in words."""
        missing = [f"the message {message.name.lower()}" for message in sorted(row.messages)
                   if message not in self.by_type]
        # A program may switch that host off for it.
        last = row.conditions & {Condition.PEER_IS_FENCED}
        for conditions in (row.conditions - last, last):
            if not missing:
                missing = [condition.value + self._which(condition)
                           for condition in sorted(conditions) if not self._is_met(condition)]
        return missing

    def _which(self, condition: Condition) -> str:
        """The targets that a condition fails for, where a handover has several."""
        looks = {Condition.GUEST_HERE: self.context.not_served,
                 Condition.GUEST_STOPPED: self.context.guests,
                 Condition.GUEST_LEFT: self.context.guests}
        names = looks[condition]() if condition in looks \
            and len(self.context.local_targets()) > 1 else []
        return f" (not so: {', '.join(names)})" if names else ""

    def _is_met(self, condition: Condition) -> bool:
        return bool(getattr(self, f"_{condition.name.lower()}")())

    def _same_boot(self) -> bool:
        return self.journal.handover.boot_id == boot_id()

    def _new_boot(self) -> bool:
        return not self._same_boot()

    def _document_current(self) -> bool:
        # The digest is of the last kept document; the step COMPARE then looks at the kernel.
        return self.by_type[MessageType.ARMED].digest == self.journal.handover.digest

    def _release_matches(self) -> bool:
        return self.by_type[MessageType.RELEASED].digest == self.context.as_it_came()

    def _guest_here(self) -> bool:
        if self.context.mode in INBAND:  # one guest, which QEMU runs or does not
            return self.context.guest()
        return not self.context.not_served()

    def _guest_stopped(self) -> bool:
        return not self.context.guest()

    def _guest_left(self) -> bool:
        # A stop of its unit gives no word: then no QEMU may be here at all.
        gone = self.verb == "clear" and not self.context.holders.device_is_used()
        return (gone or "guest-left" in self.assertions) and not self.context.guest()

    def _guest_ran(self) -> bool:
        return self.context.guest() or self.context.ran()

    def _ran_since_export(self) -> bool:
        exported = self.journal.facts.sent_messages.get("document", [])
        return bool(exported) and self.context.current() not in exported

    def _peer_is_fenced(self) -> bool:
        # One that answered and then no more may be busy with just what was asked of it.
        return "peer-is-fenced" in self.assertions and self._ask() is None and not self.alive \
            and self._fenced()

    def _fenced(self) -> bool:
        """The operator is believed once the program that is configured has confirmed it."""
        if not self.notes:
            said = fencing.confirm(self.settings, self.host) \
                or "no fence program is configured: the word alone counts"
            self.journal.note("fenced", peer=self.host, said=said)
            self.notes.append(said)
        return True

    def _not_imported(self) -> bool:
        return "not-imported" in self.assertions

    def _imported(self) -> bool:
        return "imported" in self.assertions

    def _peer_never_returns(self) -> bool:
        return "peer-never-returns" in self.assertions

    def _peer_armed_with_other(self) -> bool:
        peer = self._ask()
        return peer is not None and peer.handover.state == "armed" \
            and peer.handover.digest != self.context.current()

    def _peer_says_released(self) -> bool:
        return self._peer_is("released", "retiring", "retired")

    def _peer_says_kept(self) -> bool:
        return self._peer_is("forced", "idle")

    def _peer_serves_by_force(self) -> bool:
        return self._peer_is("forced")

    def _peer_is(self, *states: str) -> bool:
        peer = self._ask()
        return peer is not None and peer.handover.state in states

    def _ask(self, verb: str = "status") -> Optional[Reply]:
        """The other side's answer to ``verb`` now; None where it does not answer."""
        if self.peer is None or self._silent is not None:
            return None
        if self._asked is None or verb != "status":
            try:
                self._asked = self._judged(
                    self.peer(replace(self.journal.handover, peer=self.host), verb))
            except errors.PeerUnreachable as error:
                self._silent = error
                return None
            except errors.NoSuchHandover:  # which decides nothing, whoever says it
                mine = self.journal.handover
                role, state = (DESTINATION, "none") if mine.role == SOURCE else (SOURCE, "")
                self._asked = Reply(replace(mine, role=role, state=state))
            for message in self._asked.messages:
                if (message.handover, message.epoch) == (self.journal.id, self.epoch):
                    self.by_type[message.type] = message
        return self._asked

    def _judged(self, answer: Reply) -> Reply:
        """An answer that is the other side's, about this handover.  Raises PeerUnreachable for any
        other."""
        mine, other = self.journal.handover, self.journal.facts.other
        try:
            if answer.handover.id != mine.id or answer.handover.role == mine.role:
                raise errors.WrongState("it answers for another handover, or for this side")
            self.key.usable()
            if self.key and not answer.host:
                raise errors.NotAuthentic("its answer is not authenticated")
            check_other("its answer", answer.host, other if self.key else "")
            for message in answer.messages:
                self.key.check(message, mine.role, other)
        except (errors.WrongState, errors.NotAuthentic, errors.BadSettings) as error:
            unbelieved = errors.PeerUnreachable(error.what)
            unbelieved.alive = True
            raise unbelieved from None
        return answer

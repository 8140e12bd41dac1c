"""Save(), Load() and what follows, between two hosts that do what the protocol's table says."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.handover.reply import Reply
from lio_handover.host import guests
from lio_handover.protocol.messages import Message
from lio_handover.protocol.table import (DESTINATION, SOURCE, Action, Condition, MessageType, Mode,
                                         rows_for, state_of)
from lio_handover.records.journal import Handover
from lio_handover.vmstate import answers, following, loading, saving
from lio_handover.vmstate.following import Follower
from lio_handover.vmstate.verbs import Handovers
from tests.support import samples

TARGET, OTHER = "vhost/naa.5001405000000001", "vhost/naa.5001405000000002"
ID = "11111111-0000-4000-8000-000000000000"
GUEST = guests.Guest("vm1", (TARGET,), "lio-handover/vm1", "", 10, 600)


def document(registrants: int) -> bytes:
    return documents.dumps(documents.Document(samples.iscsi(luns=2, registrants=registrants)))


class Host(Handovers):
    """A host, its kernel and its journal, as far as the helper asks."""

    def __init__(self, name: str, role: str, mode: Mode = Mode.VHOST_INBAND) -> None:
        self.node, self.peer = name, self
        self.handover: Handover | None = None
        self.role, self.mode = role, mode
        self.guest = self.ran = self.silent = self.rebooted_since = False
        self.epoch = 3
        self.serves = role == SOURCE
        self.more: tuple[str, ...] = ()  # targets of the handover besides
        self.said: list[str] = []
        self.done: list[str] = []
        self.fails: dict[str, errors.HandoverError] = {}
        self.stop = lambda: False

    # ---- what the helper asks ----
    def of_targets(self, targets: Sequence[str]) -> list[Handover]:
        here = self.handover
        return [here] if here and here.state and not here.over and {*here.targets} & {
            *targets} else []

    def local(self, handover: Handover) -> frozenset[str]:
        return frozenset((*handover.targets, *self.more))

    def journal(self, name: str) -> Any:
        if self.handover is None or self.handover.id != name:
            raise errors.NoSuchHandover("this host has no such handover")
        return self

    def staged(self, name: str) -> bytes:
        return document(0)

    def has_run(self, name: str) -> bool:
        return self.guest or self.ran

    def attached(self, name: str) -> bool:
        return self.guest

    def epochs(self, targets: Sequence[str]) -> tuple[tuple[str, int], ...]:
        return tuple((target, self.epoch) for target in targets)

    def not_served(self, targets: Sequence[str]) -> str:
        return "" if self.serves else f"this host has no {targets[0]}"

    @property
    def identity(self) -> str:
        return answers.identity(self.node, "00")

    @property
    def name(self) -> str:
        return self.node

    def rebooted(self, handover: Handover) -> bool:
        return self.rebooted_since

    def status(self, name: str) -> Reply:
        assert self.handover
        gives = state_of(self.role, self.handover.state, self.mode).messages
        return Reply(self.handover, tuple(self._message(kind) for kind in gives))

    def ask(self, handover: Handover, verb: str = "status") -> Reply:
        if self.peer.silent:
            raise errors.PeerUnreachable("the other host does not answer")
        if verb == "abort":
            return self.peer.do("abort", handover)
        return self.peer.status(ID)

    def tell(self, handover: Handover, verb: str, messages: Sequence[Message]) -> Reply:
        if self.peer.silent:
            raise errors.PeerUnreachable("the other host does not answer")
        return self.peer.do(verb, handover, messages)

    # ---- the protocol ----
    def _message(self, kind: MessageType) -> Message:
        return Message(kind, ID, self.epoch, "ab" * 32, (TARGET,), self.mode.value,
                       document(2) if kind is MessageType.DOCUMENT else b"")

    def do(self, verb: str, handover: Handover, messages: Sequence[Message] = (),
           export: bool = False) -> Reply:
        reply = self._do(verb, handover, messages)
        return self._do("export", handover, ()) if export else reply

    def _do(self, verb: str, handover: Handover, messages: Sequence[Message]) -> Reply:
        if verb in self.fails:
            raise self.fails.pop(verb)
        state = self.handover.state if self.handover else ""
        met = {Condition.SAME_BOOT, *((Condition.GUEST_HERE,) if self.guest else ()),
               *((Condition.GUEST_RAN,) if self.guest or self.ran else ()),
               *(() if self.guest else (Condition.GUEST_STOPPED,)),
               *((Condition.PEER_SAYS_KEPT,) if self.peer.state == "idle" else ())}
        given = {message.type for message in messages}
        if self.peer.state == "idle":
            given.add(MessageType.KEPT)
        rows = [row for row in rows_for(self.role, state, verb, self.mode)
                if row.messages <= given and row.conditions <= met]
        if not rows:
            raise errors.WrongState(f"the {self.role} is {state}: no {verb}")
        said = []
        for step in rows[0].steps:
            if step.action is Action.RECORD:
                self.become(step.state)
            elif step.message is not None:
                said.append(self._message(step.message))
        self.done.append(verb)
        assert self.handover
        return Reply(self.handover, tuple(said))

    @property
    def state(self) -> str:
        return self.handover.state if self.handover else ""

    def become(self, state: str) -> None:
        self.handover = Handover(ID, self.role, state, self.epoch, self.mode.value, (TARGET,),
                                 peer=self.peer.node)

    def follower(self, given: bool = True) -> Follower:
        return Follower(self, GUEST, ID, given, self.said.append)

    def step(self, given: bool = True) -> bool:
        """One look, when it is due."""
        follower = self.follower(given)
        return follower._step(follower.handover)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Host, Host]:
    """a has prepared, b has staged."""
    for name in ("OFTEN", "FIRST", "RARELY"):
        monkeypatch.setattr(following, name, 0.0)
    a, b = Host("a", SOURCE), Host("b", DESTINATION)
    a.peer, b.peer = b, a
    a.become("prepared")
    b.become("staged")
    return a, b


def save(host: Host, guest: guests.Guest = GUEST) -> bytes:
    return saving.save(host, guest, lambda name: None)


def load(host: Host, data: bytes, guest: guests.Guest = GUEST) -> str:
    return loading.load(host, guest, data, lambda name: None)


def states(pair: tuple[Host, Host]) -> tuple[str, str]:
    return pair[0].state, pair[1].state


# ---- a handover ---------------------------------------------------------------------------------
def test_a_guest_goes_and_nobody_types_anything(pair: tuple[Host, Host]) -> None:
    a, b = pair
    data = save(a)
    assert states(pair) == ("frozen", "staged")
    assert not a.step()
    load(b, data)
    assert states(pair) == ("frozen", "armed")
    assert not a.step() and not b.step()  # QEMU waits for cont
    b.guest = True
    assert b.step() and a.step()
    assert states(pair) == ("retired", "confirmed")
    assert b.done == ["activate", "verify", "confirm"]
    assert "vm1 runs here, with its registrations: the handover is over" in b.said


def test_the_source_finishes_what_the_destination_could_not_tell(pair: tuple[Host, Host]) -> None:
    a, b = pair
    load(b, save(a))
    b.guest, a.silent = True, True
    with pytest.raises(errors.PeerUnreachable):
        b.step()
    assert states(pair) == ("frozen", "serving")
    a.silent = False
    assert a.step()
    assert states(pair) == ("retired", "serving")
    assert b.step() and states(pair) == ("retired", "confirmed")


def test_a_guest_that_ran_and_is_gone_has_committed_all_the_same(pair: tuple[Host, Host]) -> None:
    a, b = pair
    load(b, save(a))
    b.ran = True
    assert b.step()
    assert states(pair) == ("retired", "confirmed")


@pytest.mark.parametrize("loaded", [False, True])
def test_a_guest_that_comes_back_is_thawed_and_the_other_host_aborts(
        pair: tuple[Host, Host], loaded: bool) -> None:
    a, b = pair
    data = save(a)
    if loaded:
        load(b, data)
    a.guest = True
    assert a.step()
    assert states(pair) == ("idle", "none")
    assert "the migration failed or was cancelled" in a.said[0]
    assert b.step()


def test_the_destination_hears_by_itself_that_the_source_serves_on(
        pair: tuple[Host, Host]) -> None:
    a, b = pair
    load(b, save(a))
    a.guest, b.silent = True, True
    assert a.step() and f"lio-handover recover {ID}" in a.said[-1]
    assert states(pair) == ("idle", "armed")
    assert b.step() and states(pair) == ("idle", "none")


def test_a_save_that_failed_gives_nothing_away(pair: tuple[Host, Host]) -> None:
    a, b = pair
    a.fails["export"] = errors.StorageMissing("the disk is gone")
    with pytest.raises(errors.StorageMissing):
        save(a)
    assert states(pair) == ("frozen", "staged")
    assert a.step(given=False)
    assert states(pair) == ("idle", "none")


def test_a_save_that_was_cut_off_while_it_froze_is_taken_back(pair: tuple[Host, Host]) -> None:
    a, b = pair
    a.become("freezing")
    assert a.step() and states(pair) == ("idle", "none")


def test_a_save_that_was_refused_before_leaves_all_as_it_was(pair: tuple[Host, Host]) -> None:
    a, b = pair
    a.guest = True  # somebody asks while the guest runs
    with pytest.raises(errors.WrongState):
        save(a)
    assert a.step(given=False) and states(pair) == ("prepared", "staged")


def test_a_load_that_failed_is_taken_down(pair: tuple[Host, Host]) -> None:
    a, b = pair
    data = save(a)
    b.fails["activate"] = errors.KernelRefused("no")
    with pytest.raises(errors.KernelRefused):
        load(b, data)
    assert b.step(given=False) and states(pair) == ("frozen", "none")
    assert a.step() and states(pair) == ("idle", "none")


def test_a_load_that_was_late_is_taken_down_unless_the_guest_runs(
        pair: tuple[Host, Host]) -> None:
    a, b = pair
    load(b, save(a))
    assert b.step(given=False) and states(pair) == ("frozen", "none")


def test_who_waits_too_long_says_what_to_run(pair: tuple[Host, Host]) -> None:
    a, b = pair
    load(b, save(a))
    b.silent = True
    follower = Follower(a, replace(GUEST, patience=0), ID, True, a.said.append)
    assert not follower.run()
    assert a.said[0] == "the other host does not answer; it is tried again"
    assert a.said[-1].endswith(f"next: lio-handover recover {ID}") and "frozen" in a.said[-1]
    assert states(pair) == ("frozen", "armed")


def test_a_trouble_is_told_once_and_the_work_goes_on(pair: tuple[Host, Host]) -> None:
    a, b = pair
    load(b, save(a))
    b.guest = True
    follower, looks = b.follower(), iter(range(9))
    a.silent = True

    def back() -> bool:
        a.silent = next(looks) < 4
        return False

    b.stop = back
    original = follower._pause
    follower._pause = lambda: (b.stop(), original())[1]  # type: ignore[method-assign]
    assert follower.run()
    assert [line for line in b.said if "tried again" in line] == [
        "the other host does not answer; it is tried again"]
    assert states(pair) == ("retired", "confirmed")


def test_after_a_reboot_only_recover_goes_on(pair: tuple[Host, Host]) -> None:
    a, _ = pair
    save(a)
    a.rebooted_since = True
    with pytest.raises(errors.WrongState, match="rebooted") as refused:
        a.step()
    assert f"lio-handover recover {ID}" in str(refused.value)


# ---- what is refused ----------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["freezing", "frozen", "thawing", "released", "retiring"])
def test_a_source_that_an_earlier_migration_left_is_not_saved_again(
        pair: tuple[Host, Host], state: str) -> None:
    a, _ = pair
    a.become(state)
    with pytest.raises(errors.WrongState, match="an earlier migration is not over"):
        save(a)
    assert a.done == []


def test_a_guest_that_has_just_come_does_not_go_on_before_that_is_over(
        pair: tuple[Host, Host]) -> None:
    _, b = pair
    b.become("serving")
    with pytest.raises(errors.WrongState, match="which brought the guest here"):
        save(b)


@pytest.mark.parametrize("targets, word", [((OTHER, TARGET), f"lacks {OTHER}")])
def test_a_guest_moves_with_all_its_targets(pair: tuple[Host, Host], targets: tuple[str, ...],
                                            word: str) -> None:
    with pytest.raises(errors.WrongState, match=word):
        save(pair[0], replace(GUEST, targets=targets))


def test_only_one_guest_moves_in_a_stream(pair: tuple[Host, Host]) -> None:
    a, _ = pair
    assert a.handover
    a.handover = replace(a.handover, targets=(TARGET, OTHER))
    with pytest.raises(errors.WrongState, match="only one guest moves in QEMU's own stream"):
        save(a)


@pytest.mark.parametrize("epoch, state, mode, word", [
    (4, "staged", Mode.VHOST_INBAND, "another here"), (3, "none", Mode.VHOST_INBAND, "not staged"),
    (3, "serving", Mode.VHOST_INBAND, "not staged"), (3, "staged", Mode.VHOST_QMP, "another")])
def test_only_what_was_staged_here_is_loaded(pair: tuple[Host, Host], epoch: int, state: str,
                                             mode: Mode, word: str) -> None:
    a, b = pair
    data = save(a)
    b.epoch, b.mode = epoch, mode
    b.become(state)
    with pytest.raises(errors.WrongState, match=word):
        load(b, data)
    assert b.done == []


def test_another_offer_is_refused_before_the_kernel_is_touched(pair: tuple[Host, Host]) -> None:
    a, b = pair
    data = save(a)
    b.staged = lambda name: document(1)  # type: ignore[method-assign]
    with pytest.raises(errors.BadDigest, match="not about the offer"):
        load(b, data)
    assert b.done == []


def test_a_host_that_staged_nothing_loads_nothing(pair: tuple[Host, Host]) -> None:
    a, b = pair
    data = save(a)
    b.handover = None
    with pytest.raises(errors.WrongState, match="was not staged here"):
        load(b, data)


# ---- what is no handover ------------------------------------------------------------------------
def test_a_guest_that_is_saved_comes_back_here_and_nowhere_else(pair: tuple[Host, Host]) -> None:
    a, b = pair
    a.handover = b.handover = None
    data = save(a)
    assert json.loads(data)["kind"] == "nothing"
    assert "nothing is done" in load(a, data)
    with pytest.raises(errors.WrongState, match="comes from a without a handover"):
        load(b, data)
    with pytest.raises(errors.WrongState, match="of other targets"):
        load(a, data, replace(GUEST, targets=(OTHER,)))
    a.serves = False
    with pytest.raises(errors.NoSuchTarget):
        load(a, data)
    a.serves, a.epoch = True, 5
    with pytest.raises(errors.StaleEpoch, match="the guest was saved: epoch 3 then, 5 now"):
        load(a, data)
    assert a.done == b.done == []


def test_a_host_that_does_not_serve_the_guest_saves_nothing(pair: tuple[Host, Host]) -> None:
    a, _ = pair
    a.handover, a.serves = None, False
    with pytest.raises(errors.NoSuchTarget):
        save(a)


def test_a_guest_saved_to_a_file_though_its_move_was_begun_comes_back_here(
        pair: tuple[Host, Host]) -> None:
    """QEMU does not say where the stream goes."""
    a, b = pair
    data = save(a)
    assert not a.step()
    assert "nothing is done" in load(a, data)
    a.guest = True
    assert a.step() and states(pair) == ("idle", "none")
    assert "nothing is done" in load(a, data)
    a.become("released")
    a.serves = False
    with pytest.raises(errors.NoSuchTarget):
        load(a, data)


def test_a_handover_that_another_program_drives_is_left_to_it(pair: tuple[Host, Host]) -> None:
    a, b = pair
    a.mode = b.mode = Mode.VHOST_QMP
    a.become("prepared")
    assert json.loads(save(a))["kind"] == "nothing"  # a snapshot meanwhile
    a.become("frozen")
    b.become("armed")
    data = save(a)
    assert json.loads(data)["kind"] == "beside"
    assert "another program drives" in load(b, data)
    b.more = ("vhost/naa.5001405000000009",)  # another guest's, which moves with it
    assert "another program drives" in load(b, data)
    b.become("staged")
    with pytest.raises(errors.WrongState, match="not armed"):
        load(b, data)
    assert a.done == b.done == []

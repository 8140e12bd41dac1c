"""The handover engine on real kernels: two hosts, every verb, messages carried by the test."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.handover.engine import Reply
from lio_handover.protocol.messages import Message, from_json, to_json
from lio_handover.protocol.table import DESTINATION, SOURCE, MessageType
from tests import lab
from tests.conftest import HostsOf
from tests.support import inhandover, inhost
from tests.support.inhandover import TARGET

PEER = {SOURCE: DESTINATION, DESTINATION: SOURCE}
FIRST = {SOURCE: "idle", DESTINATION: "none"}
#: The verbs of a handover up to each pair of states; * is the destination's.
WAY = "prepare stage* freeze export activate* release activate* verify* retire confirm*"


class Two:
    """Two hosts and all the messages said so far, carried as their JSON."""

    mode = "iscsi"

    def __init__(self, a: lab.Host, b: lab.Host) -> None:
        self.host = {SOURCE: a, DESTINATION: b}
        self.id = ""
        self.messages: list[Message] = []

    def do(self, verb: str, role: str, **more: Any) -> Reply:
        given = () if verb == "prepare" else from_json(to_json(self.newest()))
        answer = self.host[role].call(inhandover.do, verb, role, self.id, given, **more)
        self.id = answer.handover.id
        self.messages += [one for one in answer.messages if one not in self.messages]
        return answer

    def newest(self) -> list[Message]:
        """Of each message the last that was said."""
        return list({one.type: one for one in self.messages}.values())

    def recover(self, role: str, silent: bool = False, words: Sequence[str] = ()) -> Reply:
        """recover on one host, the other answering, or silent."""
        answers: inhandover.Answers = {"status": None} if silent else {}
        while True:
            found = self.host[role].call(inhandover.recover, self.id, answers, frozenset(words))
            if isinstance(found, Reply):
                self.messages += [one for one in found.messages if one not in self.messages]
                return found
            answers[found] = self.answer(PEER[role], found)

    def again(self, role: str) -> None:
        """Another recover does nothing: no change of the kernel, no record of a state."""
        answers: inhandover.Answers = {}
        while True:
            try:
                found = self.host[role].call(inhandover.recover_again, self.id, answers)
            except errors.NoSuchHandover:
                return
            if not isinstance(found, str):
                break
            answers[found] = self.answer(PEER[role], found)
        changes, before, after = found
        assert (changes, before) == (0, after), f"a second recover on the {role} does something"

    def answer(self, role: str, verb: str) -> Reply | None:
        try:
            if verb == "status":
                return self.host[role].call(inhandover.status, self.id)[0]
            return self.do(verb, role)
        except (errors.NoSuchHandover, lab.HostDied):
            return None

    def state(self, role: str) -> str:
        try:
            return self.host[role].call(inhandover.status, self.id)[0].handover.state
        except errors.NoSuchHandover:
            return FIRST[role]

    def states(self) -> tuple[str, str]:
        return self.state(SOURCE), self.state(DESTINATION)

    def go(self, verbs: str) -> None:
        """Verbs by their names; a word with * is the destination's."""
        for verb in verbs.split():
            name = verb.strip("*")
            role = DESTINATION if "*" in verb else SOURCE
            self.do(name, role, **self.asked(name))

    def asked(self, verb: str) -> dict[str, Any]:
        """What a verb is told besides the handover's id and the messages."""
        return {"targets": (TARGET,), "mode": self.mode} if verb == "prepare" else {}

    def serving(self) -> list[str]:
        """Who has an open gate."""
        return [role for role in (SOURCE, DESTINATION)
                if "1" in self.host[role].call(inhandover.gates).values()]


@pytest.fixture
def two(bed: lab.Lab, hosts: HostsOf) -> Callable[[str, str], Two]:
    """`two("stable", "newest")`: a source that serves, and a destination."""
    def make(source: str, destination: str) -> Two:
        a, b = hosts(source, destination)
        a.call(inhost.build, inhandover.state(bed.shared))
        return Two(a, b)
    return make


#: Each verb of a handover that goes well: (verb, role, state after it, messages said, who serves).
FORWARD: tuple[tuple[str, str, str, set[MessageType], list[str]], ...] = (
    ("prepare", SOURCE, "prepared", {MessageType.OFFER}, [SOURCE]),
    ("stage", DESTINATION, "staged", set(), [SOURCE]),
    ("freeze", SOURCE, "frozen", set(), []),
    ("export", SOURCE, "frozen", {MessageType.DOCUMENT}, []),
    ("activate", DESTINATION, "armed", {MessageType.ARMED}, []),
    ("release", SOURCE, "released", {MessageType.RELEASED}, []),
    ("activate", DESTINATION, "opening", set(), [DESTINATION]),
    ("verify", DESTINATION, "serving", {MessageType.SERVING}, [DESTINATION]),
    ("retire", SOURCE, "retired", {MessageType.RETIRED}, [DESTINATION]),
    ("confirm", DESTINATION, "confirmed", set(), [DESTINATION]),
)


@pytest.mark.parametrize("source, destination", [
    ("stable", "newest"), pytest.param("oldest", "oldest", marks=pytest.mark.full),
    pytest.param("newest", "stable", marks=pytest.mark.full)])
def test_a_handover_goes_through(two: Callable[[str, str], Two], source: str,
                                 destination: str) -> None:
    pair = two(source, destination)
    before = pair.host[SOURCE].call(inhost.export_state)
    for verb, role, state, messages, serving in FORWARD:
        more = {"targets": (TARGET,)} if verb == "prepare" else {}
        answer = pair.do(verb, role, **more)
        assert (answer.handover.state, {one.type for one in answer.messages}) == (state, messages)
        assert pair.serving() == serving, verb
        again = pair.do(verb, role)
        assert (again.handover.state, pair.serving()) == (state, serving), verb
    after = pair.host[DESTINATION].call(inhost.export_state)
    assert documents.state_bytes(documents.loads(before)) == documents.state_bytes(
        documents.loads(after))
    assert not pair.host[SOURCE].call(inhost.read_all).targets


def held(pair: Two, role: str) -> bytes:
    """The run-time and other state of the target where it serves."""
    return documents.state_bytes(documents.loads(pair.host[role].call(inhost.export_state)))


@pytest.mark.full
def test_what_recover_makes_of_every_pair(two: Callable[[str, str], Two]) -> None:
    """Cut the handover off after each verb and recover on both hosts, the source first."""
    pair = two("stable", "newest")
    before = held(pair, SOURCE)
    verbs = WAY.split()
    for count, there in enumerate((
            ("prepared", "none"), ("prepared", "staged"), ("frozen", "staged"),
            ("frozen", "staged"), ("frozen", "armed"), ("released", "armed")), 1):
        pair.id, pair.messages = "", []
        pair.go(" ".join(verbs[:count]))
        assert pair.states() == there
        for _ in range(2):
            pair.recover(SOURCE)
            assert pair.serving() in ([], [SOURCE])
            if count > 1:
                pair.recover(DESTINATION)
            assert pair.states() == ("idle", "none")
        assert pair.serving() == [SOURCE]
        assert held(pair, SOURCE) == before
        assert not pair.host[DESTINATION].call(inhost.read_all).backstores


def test_a_deadline_alarms_and_ends_nothing(two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    pair.go("prepare")
    source = pair.host[SOURCE]
    assert source.call(inhandover.slow_freeze, pair.id) == (["freeze"], "frozen", [
        "1/7 record freezing", "2/7 savefile drop", "3/7 gate close", "4/7 drain", "5/7 flush",
        "6/7 keep copy", "7/7 record frozen"])
    with pytest.raises(errors.InUse, match=f"handover {pair.id} of it is under way"):
        source.call(inhost.remove, ("reserved",))
    assert pair.serving() == []


@pytest.mark.parametrize("give_back", [pytest.param(False, marks=pytest.mark.full), True])
def test_late_storage_is_open_on_one_host(bed: lab.Lab, two: Callable[[str, str], Two],
                                          give_back: bool) -> None:
    pair = two("stable", "newest")
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    before = held(pair, SOURCE)
    for host in (a, b):
        host.call(inhandover.serve_late, str(bed.shared))
    log = bed.shared / "late.log"
    with pytest.raises(errors.StorageInUse, match="mode iscsi-late"):
        pair.do("prepare", SOURCE, targets=(TARGET,))
    pair.do("prepare", SOURCE, targets=(TARGET,), mode="iscsi-late")
    pair.go("stage* freeze export activate*")
    assert not b.call(inhost.read_all).backstores and not log.exists()
    pair.go("release")
    assert not a.call(inhost.read_all).backstores
    assert log.read_text().split() == ["release", a.name] * 2
    log.unlink()
    pair.go("activate*")
    assert log.read_text().split() == ["acquire", b.name] * 2
    log.unlink()
    if give_back:
        (bed.shared / "zero.img").write_bytes(b"\1" * inhandover.SIZE)   # it has served
        pair.go("abort* thaw")
        assert log.read_text().split() == ["release", b.name] * 2 + [
            "acquire", a.name] * 2
    else:
        pair.go("verify* retire confirm*")
    assert pair.serving() == [SOURCE if give_back else DESTINATION]
    assert held(pair, pair.serving()[0]) == before


def test_devices_are_asked_where_configfs_is_silent(bed: lab.Lab, hosts: HostsOf) -> None:
    """Without APTPL nothing shows ALL_TG_PT: refused, or asked for at each look that counts."""
    a, b = hosts("stable", "newest")
    a.call(inhost.build, inhandover.state(bed.shared, aptpl=False))
    pair = Two(a, b)
    with pytest.raises(errors.CannotRepresent, match="ALL_TG_PT.*ask the device with --probe"):
        pair.do("prepare", SOURCE, targets=(TARGET,))
    pair.do("prepare", SOURCE, targets=(TARGET,), probe=True)
    pair.go("stage* freeze export activate* release activate* verify* retire confirm*")
    assert pair.serving() == [DESTINATION]
    held_there = documents.loads(b.call(inhost.export_state)).state.backstores[0].reservations
    assert [one.all_tg_pt for one in held_there.registrations] == [False, False]


def test_what_was_owned_is_given_back(two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    before = held(pair, SOURCE)
    pair.go(WAY.partition(" verify*")[0] + " abort*")
    assert (pair.states(), pair.serving()) == (("released", "returned"), [])
    pair.recover(SOURCE)
    assert (pair.states(), pair.serving()) == (("idle", "returned"), [SOURCE])
    pair.recover(DESTINATION)
    assert pair.states() == ("idle", "none")
    assert held(pair, SOURCE) == before
    # and never comes again under this epoch, whatever becomes of the journal
    pair.host[DESTINATION].call(inhandover.forget, pair.id)
    with pytest.raises(errors.StaleEpoch, match="epoch 1 is over here"):
        pair.go("stage*")


@pytest.mark.full
def test_a_lost_driver_does_not_stop_what_is_served(two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    before = held(pair, SOURCE)
    pair.go(WAY.partition(" retire")[0])
    pair.recover(SOURCE)
    assert (pair.states(), pair.serving()) == (("retired", "serving"), [DESTINATION])
    pair.go("confirm*")
    assert held(pair, DESTINATION) == before

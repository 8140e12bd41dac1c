"""Two hosts with a key in common: nothing that somebody else makes up, alters or keeps back decides
which of them serves."""
from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.handover.engine import Reply
from lio_handover.protocol.messages import Message, from_json, to_json
from lio_handover.protocol.table import DESTINATION, SAID_BY, SOURCE, MessageType
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import PEER, WAY, Two, held, two
from tests.support import inhandover, inhost

__all__ = ["two"]
KEY = "5e" * 32 + "\n"
ARMED = WAY.partition(" release")[0]


class Keyed(Two):
    """Each side gets what the other one said, and no more, as move carries it."""

    def do(self, verb: str, role: str, **more: Any) -> Reply:
        given = self.newest()
        self.messages = [message for message in given if SAID_BY[message.type] != role]
        try:
            return super().do(verb, role, **more)
        finally:
            self.messages = [*given, *(one for one in self.messages if one not in given)]

    def give(self, role: str, verb: str, messages: Sequence[Message]) -> Reply:
        """Somebody gives a verb these messages."""
        answer: Reply = self.host[role].call(inhandover.do, verb, role, self.id,
                                             from_json(to_json(messages)))
        return answer

    def refused(self, role: str, verb: str, message: Message, why: str,
                error: type[errors.HandoverError] = errors.NotAuthentic) -> None:
        """A message is refused by name, in one line, and nothing was changed."""
        before = self.stand()
        with pytest.raises(error, match=why) as caught:
            self.give(role, verb, [message])
        assert "; nothing was changed; next: " in str(caught.value)
        assert before == self.stand()

    def stand(self) -> list[tuple[list[Reply], dict[str, str], str]]:
        """Of both hosts: the answer to status, the gates, the journal."""
        return [host.call(inhandover.stand, self.id) for host in self.host.values()]

    def answer(self, role: str, verb: str) -> Reply | None:
        """As it comes by ssh: a whole answer, which the asker's key proves."""
        answer = super().answer(role, verb)
        return answer and self.host[PEER[role]].call(
            inhandover.believed, self.host[role].call(inhandover.whole, answer))


@pytest.fixture
def keyed(bed: lab.Lab, hosts: HostsOf) -> Callable[[], Keyed]:
    """A source that serves and a destination, with one key."""
    def make() -> Keyed:
        a, b = hosts("stable", "newest")
        a.call(inhost.build, inhandover.state(bed.shared))
        for host in (a, b):
            host.call(inhandover.have_key, KEY)
        return Keyed(a, b)
    return make


def made_up(armed: Message) -> Message:
    """The promise that the source did not make."""
    return replace(armed, type=MessageType.RELEASED)


@pytest.mark.full
def test_without_a_key_whoever_carries_messages_has_two_hosts_serve(
        two: Callable[[str, str], Two]) -> None:
    """Hence a call that gives messages needs, there, what --peer-is-fenced needs.  (3 s; the
    model's mutant mac-unchecked shows the same.)"""
    pair = two("stable", "newest")
    pair.go("prepare stage* freeze export activate*")
    armed = next(one for one in pair.messages if one.type is MessageType.ARMED)
    pair.host[SOURCE].call(inhandover.do, "thaw", SOURCE, pair.id)
    pair.host[DESTINATION].call(inhandover.do, "activate", DESTINATION, pair.id, [made_up(armed)])
    assert pair.serving() == [SOURCE, DESTINATION]


def test_with_a_key_only_the_other_hosts_word_counts(keyed: Callable[[], Keyed]) -> None:
    pair = keyed()
    before = held(pair, SOURCE)
    pair.go(ARMED)
    said = {one.type: one for one in pair.messages}
    armed = said[MessageType.ARMED]
    plain = replace(made_up(armed), host="", mac="")
    a, b = armed.host, said[MessageType.OFFER].host
    for message, why in (
            (plain, "has no MAC"),
            (made_up(armed), "was made up or altered"),
            (replace(made_up(armed), host=a), "was made up or altered"),
            (armed, "this side's own word"),
            (replace(said[MessageType.DOCUMENT], epoch=2), "was made up or altered"),
            (inhandover.signed(plain, "third", KEY),
             f"of third, and what came before .* was of {b}"),
            (inhandover.signed(plain, b, "6f" * 32), "has another key")):
        pair.refused(DESTINATION, "activate", message, why)
    for changed in (replace(plain, epoch=2), replace(plain, handover=str(uuid.uuid4()))):
        pair.refused(DESTINATION, "activate", inhandover.signed(changed, b, KEY),
                     "the message released is of handover .*, not of ", errors.StaleEpoch)
    pair.refused(SOURCE, "release", said[MessageType.DOCUMENT], "this side's own word")
    pair.refused(SOURCE, "release", replace(armed, digest="00" * 32), "was made up or altered")
    pair.refused(SOURCE, "thaw", replace(armed, type=MessageType.RETURNED), "was made up")
    assert pair.states() == ("frozen", "armed") and pair.serving() == []

    # What is said again does no more than once, also after a crash.
    released = pair.do("release", SOURCE).messages
    for point in (1, 7):
        killed, _answer = pair.host[DESTINATION].call(
            inhandover.crash, point, "activate", DESTINATION, pair.id, released, True)
        assert killed
    for _ in range(2):
        assert pair.give(DESTINATION, "activate", released).handover.state == "opening"
        assert pair.serving() == [DESTINATION]
    pair.refused(DESTINATION, "activate", made_up(armed), "was made up or altered")
    pair.go("verify* retire confirm*")
    assert pair.states() == ("retired", "confirmed") and held(pair, DESTINATION) == before


def test_of_two_hosts_one_has_a_key(keyed: Callable[[], Keyed]) -> None:
    pair = keyed()
    pair.go("prepare")
    for key, error, why in (
            (None, errors.NotAuthentic, "this host has no key to check that with"),
            ("6f" * 32 + "\n", errors.NotAuthentic, "has another key than this host"),
            ("x\n", errors.BadSettings, "holds no key")):
        pair.host[DESTINATION].call(inhandover.have_key, key)
        with pytest.raises(error, match=why):
            pair.go("stage*")
        assert pair.states() == ("prepared", "none")
        assert not pair.host[DESTINATION].call(inhost.read_all).backstores
    pair.host[DESTINATION].call(inhandover.have_key, KEY)
    pair.host[SOURCE].call(inhandover.have_key, None)
    pair.messages = []
    pair.go("prepare")
    with pytest.raises(errors.NotAuthentic, match="the message offer has no MAC"):
        pair.go("stage*")
    assert pair.states() == ("prepared", "none") and pair.serving() == [SOURCE]
    pair.host[SOURCE].call(inhandover.have_key, "x\n")
    with pytest.raises(errors.BadSettings, match="holds no key"):
        pair.go("prepare")


@pytest.mark.full
def test_another_key_in_the_middle_of_a_handover(keyed: Callable[[], Keyed]) -> None:
    """What was said under the old one is refused, and said again under the new one.  (3 s.)"""
    pair = keyed()
    pair.go(ARMED + " release")
    old = pair.newest()
    for host in pair.host.values():
        host.call(inhandover.have_key, "6f" * 32 + "\n")
    with pytest.raises(errors.NotAuthentic, match="has another key"):
        pair.go("activate*")
    pair.messages = list(pair.host[SOURCE].call(inhandover.status, pair.id)[0].messages)
    assert [one.type for one in pair.messages] == [MessageType.RELEASED]
    assert pair.messages[0] not in old
    pair.go("activate* verify* retire confirm*")
    assert pair.states() == ("retired", "confirmed") and pair.serving() == [DESTINATION]


@pytest.mark.full
@pytest.mark.parametrize("count, there", [(5, ("idle", "none")), (6, ("idle", "none")),
                                          (8, ("retired", "confirmed"))])
def test_recover_believes_the_other_host_and_nobody_else(
        keyed: Callable[[], Keyed], count: int, there: tuple[str, str]) -> None:
    """15 s for the three."""
    pair = keyed()
    pair.go(" ".join(WAY.split()[:count]))
    source = pair.host[SOURCE]
    asks = source.call(inhandover.recover, pair.id, {}) == "status"
    assert asks == (count > 5)
    if asks:  # what a host without the key makes up, or one that repeats another answer
        before = pair.states(), pair.serving()
        good = pair.answer(DESTINATION, "status")
        assert good is not None
        for bad in (replace(good, host=""), replace(good, host="third"),
                    replace(good, handover=replace(good.handover, role=SOURCE)),
                    replace(good, messages=(Message(MessageType.SERVING, pair.id, 1),))):
            stays = source.call(inhandover.recover, pair.id, {"status": bad, "abort": bad})
            assert isinstance(stays, Reply) and stays.undecided, stays
            assert "peer-is-fenced" not in stays.next and (pair.states(), pair.serving()) == before
    for role in (SOURCE, DESTINATION, SOURCE):
        pair.recover(role)
    assert pair.states() == there and len(pair.serving()) == 1


def test_a_whole_answer_is_of_the_host_that_was_asked_and_of_now(
        keyed: Callable[[], Keyed]) -> None:
    pair = keyed()
    pair.go(ARMED)
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    answer = b.call(inhandover.status, pair.id)[0]
    good = b.call(inhandover.whole, answer, "now")
    assert a.call(inhandover.believed, good, "now").host == b.call(inhandover.hostname)
    for data, question in ((good, "later"), (a.call(inhandover.whole, answer, "now"), "now"),
                           (json.dumps({**json.loads(good), "stays": True}).encode(), "now")):
        with pytest.raises(errors.NotAuthentic):
            a.call(inhandover.believed, data, question)

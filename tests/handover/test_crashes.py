"""A handover killed anywhere: before and after every change of the kernel and every record."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.model.objects import State
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.records import journal
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import PEER, WAY, Two, held
from tests.support import inhandover, inhost
from tests.support.inhandover import TARGET

#: What is killed: (verbs that go before, the verb, whose).
KILLED = {
    "prepare": ("", "prepare", SOURCE),
    "stage": ("prepare", "stage", DESTINATION),
    "freeze": ("prepare stage*", "freeze", SOURCE),
    "export": ("prepare stage* freeze", "export", SOURCE),
    "arm": ("prepare stage* freeze export", "activate", DESTINATION),
    "release": ("prepare stage* freeze export activate*", "release", SOURCE),
    "open": ("prepare stage* freeze export activate* release", "activate", DESTINATION),
    "verify": (WAY.partition(" verify*")[0], "verify", DESTINATION),
    "retire": (WAY.partition(" retire")[0], "retire", SOURCE),
    "confirm": (WAY.partition(" confirm*")[0], "confirm", DESTINATION),
    "thaw": ("prepare stage* freeze export activate*", "thaw", SOURCE),
    "abort": ("prepare stage* freeze export activate*", "abort", DESTINATION),
    "give back": (WAY.partition(" verify*")[0], "abort", DESTINATION),
    "take back": (WAY.partition(" verify*")[0] + " abort*", "thaw", SOURCE),
    "recover the source": ("prepare stage* freeze export", "recover", SOURCE),
    "recover the destination": ("prepare stage* freeze export", "recover", DESTINATION),
}
#: Those in which storage is closed and opened, with storage that one host alone may have open.
LATE = ("release", "open", "retire", "abort", "give back", "take back")

#: Those that lead to the end of a handover, and so may be done again by its driver.
FORWARD = tuple(KILLED)[:10]


class Killed:
    """A pair of hosts that is brought to the same place again and again."""

    crash: Callable[..., Any] = staticmethod(inhandover.crash)

    def __init__(self, pair: Two, state: State) -> None:
        self.pair, self.state = pair, state
        self.before = held(pair, SOURCE)
        self.saved = pair.host[SOURCE].call(inhandover.save_file)

    def at(self, name: str, point: int, again: bool = False) -> bool:
        """Kill the verb at a point and see that there is a way on: recover, or the verb ``again``
        and those that come after it; False where it ended first."""
        pair, (way, verb, role) = self.pair, KILLED[name]
        pair.id, pair.messages = "", []
        pair.go(way)
        more = pair.asked(verb)
        pair.id = pair.id or "00000000-0000-4000-8000-%012x" % point
        killed, answer = pair.host[role].call(
            self.crash, point, verb, role, pair.id, tuple(pair.messages), **more)
        if answer is not None:
            pair.messages += answer.messages
        self.one_serves()
        if again and killed and name in FORWARD:
            assert not pair.do(verb, role, **more).handover.busy
            pair.go(WAY[len(way):].strip().partition(" ")[2])
        self.settle()
        self.start_again()
        return bool(killed)

    def one_serves(self) -> None:
        assert len(self.pair.serving()) < 2, "two hosts serve one backstore"
        if self.pair.mode == "iscsi-late":
            assert [] in [host.call(inhandover.stores) for host in self.pair.host.values()], \
                "two hosts have it open"

    def settle(self) -> None:
        """recover on both, as often as it takes, then on as a driver would."""
        pair = self.pair
        for _ in range(2):
            for role in (SOURCE, DESTINATION):
                try:
                    pair.recover(role)
                except errors.NoSuchHandover:
                    continue
                self.one_serves()
            if pair.states() in (("idle", "none"), ("released", "opening"), ("retired", "serving")):
                break
        for role in (SOURCE, DESTINATION):
            pair.again(role)
        states = pair.states()
        if states[1] in ("opening", "serving"):
            assert states[0] in ("released", "retired")
            pair.go("verify*")
            self.one_serves()
            pair.go("retire confirm*")
            states = pair.states()
        assert states in (("idle", "none"), ("retired", "confirmed"))
        owner = SOURCE if states[0] == "idle" else DESTINATION
        assert pair.serving() == [owner]
        assert held(pair, owner) == self.before, "registrations or structure are not as before"
        assert pair.host[owner].call(inhandover.saved) == (
            {TARGET: True} if owner == SOURCE else {})
        assert pair.host[PEER[owner]].call(inhandover.saved) == {}

    def start_again(self) -> None:
        a, b = self.pair.host[SOURCE], self.pair.host[DESTINATION]
        if self.pair.serving() == [DESTINATION]:
            b.call(inhost.remove, ("reserved",))
            b.call(inhandover.save_file, b"")
            a.call(inhost.build, self.state)
            a.call(inhandover.save_file, self.saved)
            for lock in Path(self.state.backstores[0].path).parent.glob("*.holder"):
                lock.unlink()
        assert not b.call(inhost.read_all).backstores


@pytest.fixture
def killed(bed: lab.Lab, hosts: HostsOf) -> Iterator[Killed]:
    a, b = hosts("stable", "newest")
    state = inhandover.state(bed.shared)
    b.call(inhandover.save)  # which moves dbroot to the distribution's, once for all
    a.call(inhost.build, state)
    a.call(inhandover.save)
    yield Killed(Two(a, b), state)


@pytest.fixture
def story(killed: Killed, name: str, bed: lab.Lab) -> str:
    """The key of KILLED, after the hosts were told that their storage is late where it is."""
    if not name.startswith("late "):
        return name
    killed.pair.mode = "iscsi-late"
    for host in killed.pair.host.values():
        host.call(inhandover.serve_late, str(bed.shared))
    return name[5:]


@pytest.mark.parametrize("name, point, again", [
    ("arm", 32, True), ("retire", 25, False), ("confirm", 6, False), ("late release", 8, False)])
def test_a_verb_that_is_killed_leaves_a_way_on(killed: Killed, story: str, name: str, point: int,
                                               again: bool) -> None:
    assert killed.at(story, point, again)


def test_what_came_back_is_served_where_the_thaw_was_killed_as_it_was_kept(killed: Killed) -> None:
    """By the operator's word that the other host is off: this kernel has the registrations of
    before.  15 s."""
    pair = killed.pair
    source = pair.host[SOURCE]
    pair.go(WAY.partition(" verify*")[0])
    pair.host[DESTINATION].call(inhandover.register, 1, 1, 0xc3)
    there = held(pair, DESTINATION)
    assert there != killed.before
    pair.go("abort*")
    point = 0
    while not source.call(inhandover.is_kept, pair.id, journal.RETURNED):
        point += 1
        assert source.call(inhandover.crash, point, "thaw", SOURCE, pair.id,
                           tuple(pair.messages))[0], "it ended without"
        assert pair.state(SOURCE) == "released"
    pair.recover(SOURCE, silent=True, words=["peer-is-fenced"])
    assert (pair.state(SOURCE), pair.serving()) == ("forced", [SOURCE])
    assert held(pair, SOURCE) == there


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*KILLED, *(f"late {name}" for name in LATE)])
def test_a_verb_killed_anywhere_leaves_a_way_on(killed: Killed, story: str, name: str) -> None:
    point = 0
    while killed.at(story, point := point + 1, bool(point % 2)):
        pass
    print(f"{name}: {point - 1} points")
    assert point > 8

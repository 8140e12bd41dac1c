"""A host loses its power at every state of a handover, and boots with targetcli's own restore."""
from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lio_handover.document import document as documents
from lio_handover.model.keys import display
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_crashes import KILLED
from tests.handover.test_engine import PEER, WAY, Two
from tests.support import inhandover, inhost
from tests.support.inhandover import TARGET


def registered(pair: Two, role: str) -> dict[str, tuple[int, set[tuple[str, int, bool]]]]:
    """What initiators hold; the rest, and the order, is what targetcli makes of it at a boot."""
    state = documents.loads(pair.host[role].call(inhost.export_state)).state
    return {display(store.key): (store.reservations.type, {
        (one.initiator, one.key, number == store.reservations.holder)
        for number, one in enumerate(store.reservations.registrations)})
        for store in state.backstores}


class Powered(Two):
    """Two hosts with disks."""

    #: Where targetctl's other generation is, "" for the distribution's.
    rtslib = ""

    def __init__(self, bed: lab.Lab, a: lab.Host, b: lab.Host) -> None:
        super().__init__(a, b)
        self.shared = str(bed.shared)
        self.folder = {SOURCE: str(bed.shared / "disk-a"), DESTINATION: str(bed.shared / "disk-b")}
        for role, host in self.host.items():
            if Path(self.folder[role]).exists():
                shutil.rmtree(self.folder[role])
            host.call(inhandover.use_rtslib, self.rtslib)
            host.call(inhandover.disk, self.folder[role])
            host.call(inhandover.save)  # which moves dbroot to the distribution's, once for all
        a.call(inhost.build, inhandover.state(bed.shared))
        a.call(inhandover.save)
        self.host[DESTINATION].call(inhandover.stale_reservations, inhandover.state(bed.shared))
        self.before = registered(self, SOURCE)

    def cut(self, role: str) -> None:
        self.host[role].kill()

    def boot(self, role: str) -> tuple[str, ...]:
        self.host[role].boot().call(inhandover.use_rtslib, self.rtslib)
        if self.mode == "iscsi-late":
            self.host[role].call(inhandover.serve_late, self.shared)
        notes = self.host[role].call(inhandover.boots, self.folder[role])
        self.one_serves()
        return notes

    def lose_power(self, role: str) -> None:
        """The other host notices that one is gone; then it boots, and there is one owner."""
        self.cut(role)
        if self.known(PEER[role]):
            self.recover(PEER[role], silent=True)
        self.boot(role)
        self.recovered()

    def serving(self) -> list[str]:
        return [role for role in (SOURCE, DESTINATION) if self.host[role].alive
                and "1" in self.host[role].call(inhandover.gates).values()]

    def one_serves(self) -> None:
        assert len(self.serving()) < 2, "two hosts serve one backstore"

    def recovered(self) -> None:
        """recover on both, then on as a driver would; one serves, with all registrations."""
        for role in (SOURCE, DESTINATION, SOURCE, DESTINATION):
            if self.known(role):
                self.recover(role)
                self.one_serves()
        for role in (SOURCE, DESTINATION):
            self.again(role)
        states = self.states()
        if states[1] in ("opening", "serving"):
            self.go("verify* retire confirm*")
            states = self.states()
        assert states in (("idle", "none"), ("retired", "confirmed"))
        owner = SOURCE if states[0] == "idle" else DESTINATION
        assert self.serving() == [owner]
        assert registered(self, owner) == self.before
        assert self.host[owner].call(inhandover.saved) == (
            {TARGET: True} if owner == SOURCE else {})  # else it is lio-handover's to restore
        assert self.host[PEER[owner]].call(inhandover.saved) == {}

    def known(self, role: str) -> bool:
        return bool(self.host[role].call(inhandover.status))


@pytest.fixture
def powered(bed: lab.Lab, hosts: HostsOf) -> Iterator[Callable[[], Powered]]:
    """Two hosts that have just been booted, each time."""
    made: list[Powered] = []

    def make() -> Powered:
        off()
        made.append(Powered(bed, *hosts("stable", "newest")))
        return made[-1]

    def off() -> None:
        for pair in made:
            for host in pair.host.values():
                host.kill()
    yield make
    off()


@pytest.mark.full
def test_what_was_removed_is_not_brought_back(powered: Callable[[], Powered]) -> None:
    """By a handover that is over: another host may have got it by other means."""
    pair = powered()
    pair.go("prepare thaw")
    pair.host[SOURCE].call(inhost.remove, ("reserved",), False)
    pair.cut(SOURCE)
    pair.boot(SOURCE)
    pair.recover(SOURCE, silent=True)
    assert pair.serving() == []


@pytest.mark.full
def test_what_was_never_taken_out_of_the_save_file_stays_in_it(
        powered: Callable[[], Powered]) -> None:
    """A freeze is cut off before it takes the target out, and the thaw by the power cut."""
    pair = powered()
    pair.go("prepare stage*")
    for verb, state in (("freeze", "freezing"), ("thaw", "thawing")):
        killed, _answer = pair.host[SOURCE].call(
            inhandover.crash, state, verb, SOURCE, pair.id, tuple(pair.messages))
        assert killed and pair.state(SOURCE) == state
    pair.lose_power(SOURCE)


@pytest.mark.full
def test_a_recover_killed_after_a_boot_is_gone_on_with(powered: Callable[[], Powered]) -> None:
    """Also where what it had made until then looks as if targetcli had restored it."""
    pair = powered()
    pair.go(WAY)
    for point in (20, 40, 60):
        pair.cut(DESTINATION)
        pair.host[DESTINATION].boot()
        pair.host[DESTINATION].call(inhandover.disk, pair.folder[DESTINATION])
        killed, _answer = pair.host[DESTINATION].call(
            inhandover.crash, point, "recover", DESTINATION, pair.id)
        assert killed
        pair.recovered()


STATES = [(count, role) for count in range(1, len(WAY.split()) + 1)
          for role in (SOURCE, DESTINATION)]
SAMPLE = [(7, DESTINATION)]


@pytest.mark.parametrize("count, role", [
    pytest.param(count, role, marks=[] if (count, role) in SAMPLE else pytest.mark.full,
                 id=f"{WAY.split()[count - 1]}-{role}") for count, role in STATES])
def test_a_host_that_lost_power_comes_back_to_one_owner(
        powered: Callable[[], Powered], count: int, role: str) -> None:
    pair = powered()
    pair.go(" ".join(WAY.split()[:count]))
    pair.lose_power(role)


@pytest.mark.full
@pytest.mark.parametrize("count, role", STATES, ids=lambda one: str(one))
def test_the_same_with_storage_that_one_host_may_open(
        powered: Callable[[], Powered], count: int, role: str) -> None:
    pair = powered()
    pair.mode = "iscsi-late"
    for host in pair.host.values():
        host.call(inhandover.serve_late, pair.shared)
    pair.go(" ".join(WAY.split()[:count]))
    pair.lose_power(role)


#: The generation of rtslib after the distribution's (scripts/lib/rtslib.txt).
NEWER = str(Path(sys.prefix, "rtslib"))


@pytest.mark.full
@pytest.mark.parametrize("count, role", STATES, ids=lambda one: str(one))
def test_the_same_with_the_newer_rtslib(
        powered: Callable[[], Powered], count: int, role: str) -> None:
    pair = powered()
    pair.rtslib = NEWER
    pair.go(" ".join(WAY.split()[:count]))
    pair.lose_power(role)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KILLED)
def test_power_lost_before_in_and_after_each_record_of_a_verb(
        powered: Callable[[], Powered], name: str) -> None:
    way, verb, role = KILLED[name]
    point = 0
    while True:
        pair, point = powered(), point + 1
        pair.go(way)
        more = pair.asked(verb)
        pair.id = pair.id or "00000000-0000-4000-8000-%012x" % point
        killed, _answer = pair.host[role].call(
            inhandover.crash, point, verb, role, pair.id, tuple(pair.messages), True, **more)
        if not killed:
            break
        pair.lose_power(role)
    print(f"{name}: {point - 1} points")
    assert point > 3 or name == "export"

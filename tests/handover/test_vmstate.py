"""Save(), Load() and what follows, with the engine on real kernels; see tests/support/instandin.py.

With vhost-scsi, a bus and QEMU: tests/drivers/test_inband_lab.py.
"""
from __future__ import annotations

from collections.abc import Callable

import pytest

from lio_handover.handover.engine import Reply
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import PEER
from tests.support import inhost, instandin


class Pair:
    """Two hosts whose helpers ask each other."""

    def __init__(self, a: lab.Host, b: lab.Host) -> None:
        self.host = {SOURCE: a, DESTINATION: b}
        self.id = ""

    def stage(self) -> None:
        a, b = self.host.values()
        offer: Reply = a.call(instandin.do, "prepare", SOURCE, targets=(instandin.TARGET,),
                              mode="vhost-inband", allow=("all-tg-pt",))
        self.id = offer.handover.id
        assert "QEMU finds no lio-handover-vmstate" in offer.notes[0]
        b.call(instandin.do, "stage", DESTINATION, self.id, offer.messages)

    def follow(self, role: str, given: bool = True) -> bool:
        """One look of a helper at its host."""
        known: dict[str, Reply] = {}
        while True:
            found = self.host[role].call(instandin.follow, self.id, given, known)
            if isinstance(found, bool):
                return found
            verb, messages = found
            there, peer = self.host[PEER[role]], PEER[role]
            known[verb] = there.call(instandin.status, self.id) if verb == "status" else \
                there.call(instandin.do, verb, peer, self.id, messages)

    def states(self) -> list[str]:
        return [host.call(instandin.status, self.id).handover.state
                for host in self.host.values()]


@pytest.fixture
def pair(bed: lab.Lab, hosts: HostsOf) -> Callable[[str, str], Pair]:
    def make(source: str, destination: str) -> Pair:
        a, b = hosts(source, destination)
        a.call(instandin.build, bed.shared)
        for host in (a, b):
            host.call(instandin.attach, False)
        return Pair(a, b)
    return make


def test_a_guest_goes_and_comes_back_by_its_helpers_alone(pair: Callable[[str, str], Pair]) -> None:
    both = pair("stable", "newest")
    a, b = both.host.values()

    # Nothing is handed over: it is this host's, and no other's.
    data, _ = a.call(instandin.save)
    assert a.call(instandin.load, data) == (b"vm1 stays on this host: nothing is done", "")
    assert f"comes from {a.name} without a handover" in b.call(instandin.load, data)[1]

    # A migration that fails.
    both.stage()
    data, error = a.call(instandin.save)
    assert error == "" and len(data) < 4096 and both.states() == ["frozen", "staged"]
    assert not both.follow(SOURCE)
    for _ in range(2):  # QEMU may call it again
        assert b.call(instandin.load, data)[1] == "" and both.states() == ["frozen", "armed"]
    assert not both.follow(SOURCE) and not both.follow(DESTINATION)
    assert "an earlier migration is not over" in a.call(instandin.save)[1]
    a.call(instandin.attach, True)
    assert both.follow(SOURCE) and both.states() == ["idle", "none"]
    a.call(instandin.attach, False)

    # What was given away then is nothing any more.
    both.stage()
    assert "not staged" in b.call(instandin.load, data)[1]

    # One that goes well.
    data, _ = a.call(instandin.save)
    assert b.call(instandin.load, data)[1] == ""
    b.call(instandin.attach, True)
    assert both.follow(DESTINATION) and both.follow(SOURCE)
    assert both.states() == ["retired", "confirmed"]
    assert not a.call(inhost.read_all).targets
    assert any(store.reservations.registrations
               for store in b.call(inhost.read_all).backstores)
    assert "this host has no" in a.call(instandin.save)[1]


def test_what_was_read_while_the_guest_ran_is_not_read_again(
        pair: Callable[[str, str], Pair]) -> None:
    both = pair("stable", "newest")
    a, b = both.host.values()
    opened: dict[bool, list[int]] = {}
    for ahead in (False, True):
        both.stage()
        data, error, saved = a.call(instandin.counted, ahead)
        assert error == "", error
        _, error, loaded = b.call(instandin.counted, ahead, data)
        assert error == "" and both.states() == ["frozen", "armed"]
        opened[ahead] = [saved, loaded]
        a.call(instandin.attach, True)
        assert both.follow(SOURCE) and both.states() == ["idle", "none"]
        a.call(instandin.attach, False)
    assert all(5 * warm < cold for warm, cold in zip(opened[True], opened[False])), opened

    # What somebody else has changed since is seen.
    both.stage()
    path = f"/sys/kernel/config/target/{instandin.TARGET}/tpgt_1/attrib/prod_mode_write_protect"
    _, error, _ = a.call(instandin.counted, True, b"", f"echo 1 >{path}")
    assert "changed since it was prepared" in error and "prod_mode_write_protect" in error
    assert both.states() == ["prepared", "staged"]


@pytest.mark.full
def test_what_fails_in_the_window_is_taken_back(pair: Callable[[str, str], Pair]) -> None:
    both = pair("stable", "newest")
    a, b = both.host.values()
    both.stage()
    data, _ = a.call(instandin.save)
    assert b.call(instandin.load, data)[1] == ""
    # Load() was late: QEMU was told that it failed.
    assert both.follow(DESTINATION, given=False) and both.states() == ["frozen", "none"]
    assert both.follow(SOURCE) and both.states() == ["idle", "none"]
    both.stage()
    a.call(instandin.save)
    # Save() was late.
    assert both.follow(SOURCE, given=False) and both.states() == ["idle", "none"]
    assert a.call(inhost.read_all).targets

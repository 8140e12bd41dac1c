"""Targets that share a backstore move in one handover: guests, and iSCSI initiators beside them."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.actions.actions import misfits
from lio_handover.document import document as documents
from lio_handover.protocol.table import DESTINATION, SOURCE, Mode
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import PEER, Two
from tests.support import inhandover, inhost, inshared
from tests.support.attached import attached
from tests.support.inshared import GUESTS, ISCSI, WWPNS

ROLE = "vhost-newest"
ALL = [*GUESTS, ISCSI]
LEFT: dict[str, Any] = {"assertions": frozenset({"guest-left"})}
ATTACHED = ("from lio_handover.scsi.vhost import occupy; import sys, time\n"
            "guests = [occupy(wwpn) for wwpn in sys.argv[1:]]; print('attached', flush=True)\n"
            "time.sleep(3000)")


class Pair(Two):
    """Two hosts and targets that share their backstores."""

    mode = "vhost-qmp"
    targets = tuple(ALL)

    def asked(self, verb: str) -> dict[str, Any]:
        if verb == "prepare":
            return {"targets": self.targets, "mode": self.mode}
        return LEFT if verb == "release" else {}

    def lets_in(self) -> dict[str, list[str]]:
        """Role → the targets that let somebody in."""
        return {role: [name for name in host.call(inshared.lets_in) if name in self.targets]
                for role, host in self.host.items()}

    def open_at(self, role: str, names: Sequence[str] = ()) -> bool:
        """Whether just these (none named: all) let in on this host, and nothing on the other."""
        return self.lets_in() == {role: list(names or self.targets), PEER[role]: []}

    @contextmanager
    def guests(self, role: str, wwpns: Sequence[str] = WWPNS) -> Iterator[None]:
        """Guests are attached on this host: to the kernel our initiator is one."""
        with attached(self.host[role], ATTACHED, *wwpns):
            yield

    def held(self, role: str) -> bytes:
        return documents.state_bytes(documents.loads(self.host[role].call(inhost.export_state)))

    def end(self) -> None:
        """From `opening` on, as a driver would."""
        with self.guests(DESTINATION):
            self.go("verify* retire confirm*")
        assert self.states() == ("retired", "confirmed")


@pytest.fixture
def pair(bed: lab.Lab, hosts: HostsOf) -> Pair:
    a, b = hosts(ROLE, ROLE)
    a.call(inhost.build, inshared.state(bed.shared))
    a.call(inshared.reserve)
    return Pair(a, b)


# ── the modes ────────────────────────────────────────────────────────────────────────────────


def test_in_band_a_guest_moves_alone() -> None:
    for names, others in ((GUESTS, ()), (GUESTS[:1], GUESTS[1:]), ([GUESTS[0], ISCSI], ()),
                          (GUESTS[:1], [ISCSI])):
        finding, = misfits(Mode.VHOST_INBAND, names, others)
        every = " ".join(sorted({*names, *others}))
        assert finding.do.startswith(f"by QMP: lio-handover move {every} --to HOST --guest SOCKET")
        assert finding.do.count("--guest ") == sum("vhost" in name for name in every.split())
        assert not finding.override
    assert not misfits(Mode.VHOST_INBAND, GUESTS[:1], ())
    # One guest with two targets, as its file says; two guests, as their files say.
    assert not misfits(Mode.VHOST_INBAND, GUESTS, (), [GUESTS])
    assert not misfits(Mode.VHOST_INBAND, GUESTS[:1], GUESTS[1:], [GUESTS])
    for owners in ([GUESTS[:1], GUESTS[1:]], [GUESTS[:1]]):
        assert len(misfits(Mode.VHOST_INBAND, GUESTS, (), owners)) == 1


def test_iscsi_moves_with_guests_and_alone() -> None:
    for mode in (Mode.VHOST_QMP, Mode.VHOST_STOPPED):
        assert not misfits(mode, ALL, ())
        assert [finding.subject for finding in misfits(mode, [ISCSI], ())] == [ISCSI]
    for mode in (Mode.ISCSI, Mode.ISCSI_LATE):
        assert not misfits(mode, [ISCSI], ())
        assert [finding.subject for finding in misfits(mode, ALL, ())] == list(GUESTS)
    assert [finding.subject for finding in misfits(Mode.VHOST_QMP, [*ALL, "loopback/naa.1"], ())
            ] == ["loopback/naa.1"]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_prepare_names_who_shares_the_backstore(pair: Pair) -> None:
    """Two emulated hosts, one minute."""
    source = pair.host[SOURCE]
    before = source.call(inhost.tree)
    for mode, named, more in (("vhost-qmp", ALL[:1], f"together with it: {' '.join(sorted(ALL))}"),
                              ("vhost-stopped", ALL[:2], f"{ISCSI} "),
                              ("iscsi", ALL[2:], GUESTS[0]),
                              ("vhost-inband", ALL, "by QMP: lio-handover move"),
                              ("vhost-inband", ALL[:1], "by QMP: lio-handover move")):
        with pytest.raises(errors.HandoverError) as refused:
            pair.do("prepare", SOURCE, targets=tuple(named), mode=mode)
        assert more in f"{refused.value} " and "\n" not in str(refused.value)
        assert "nothing was changed" in str(refused.value)
    assert source.call(inhost.tree) == before


# ── there and back ───────────────────────────────────────────────────────────────────────────


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["vhost-qmp", "vhost-stopped"])
def test_all_move_in_one_handover(pair: Pair, mode: str) -> None:
    """Two emulated hosts, two minutes."""
    pair.mode = mode
    before, writes = pair.held(SOURCE), pair.host[SOURCE].call(inshared.writes)
    assert {0, 0x18} == {status for statuses in writes.values() for status in statuses}
    pair.go("prepare stage*")
    for wwpn, name in zip(WWPNS, GUESTS):
        with pair.guests(SOURCE, [wwpn]), pytest.raises(errors.WrongState,
                                                        match=f"not so: {name}"):
            pair.go("freeze")
    assert pair.open_at(SOURCE)
    pair.go("freeze")
    assert pair.open_at(SOURCE, GUESTS)     # a QEMU resumes by itself where its migration fails
    pair.go("export activate*")
    assert pair.open_at(SOURCE, GUESTS)
    with pytest.raises(errors.WrongState, match="migration has completed"):
        pair.do("release", SOURCE)
    for wwpn, name in zip(WWPNS, GUESTS):
        with pair.guests(SOURCE, [wwpn]), pytest.raises(errors.WrongState,
                                                        match=f"not so: {name}"):
            pair.go("release")
    assert pair.open_at(SOURCE, GUESTS)     # not half of it is shut
    pair.go("release")
    assert pair.lets_in() == {SOURCE: [], DESTINATION: []}
    pair.go("activate*")
    assert pair.open_at(DESTINATION)
    for wwpn, name in zip(WWPNS, reversed(GUESTS)):
        with pair.guests(DESTINATION, [wwpn]), pytest.raises(errors.WrongState,
                                                             match=f"not so: {name}"):
            pair.go("verify*")
    pair.end()
    assert pair.open_at(DESTINATION)
    assert pair.held(DESTINATION) == before
    assert pair.host[DESTINATION].call(inshared.writes) == writes
    assert not pair.host[SOURCE].call(inhost.read_all).backstores


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_guest_that_resumed_by_itself_goes_on(pair: Pair) -> None:
    """One of two: nothing was given away, and a thaw lets iSCSI in again.  Two emulated hosts, a
    minute."""
    before = pair.held(SOURCE)
    pair.go("prepare stage* freeze export activate*")
    with pair.guests(SOURCE, WWPNS[:1]):
        with pytest.raises(errors.WrongState, match="migration has completed"):
            pair.go("release")
        assert pair.lets_in() == {SOURCE: [GUESTS[1]], DESTINATION: []}
        pair.recover(SOURCE)
        assert pair.lets_in() == {SOURCE: ALL[1:], DESTINATION: []}
    pair.recover(DESTINATION)
    assert pair.states() == ("idle", "none")
    assert pair.open_at(SOURCE) and pair.held(SOURCE) == before


@pytest.mark.full
@pytest.mark.timeout(900)
def test_what_one_of_them_changed_there_comes_back(pair: Pair) -> None:
    """Two emulated hosts, a minute."""
    pair.go("prepare stage* freeze export activate* release activate*")
    with pair.guests(DESTINATION, WWPNS[1:]), pytest.raises(errors.InUse, match=WWPNS[1]):
        pair.go("abort*")
    assert pair.open_at(DESTINATION)        # not half of it is shut
    pair.host[DESTINATION].call(inhandover.register, 1, 1, 0xc3)
    there = pair.held(DESTINATION)
    pair.go("abort*")
    assert pair.lets_in() == {SOURCE: [], DESTINATION: []}
    pair.go("thaw")
    assert pair.open_at(SOURCE) and pair.held(SOURCE) == there
    pair.recover(DESTINATION)
    assert pair.states() == ("idle", "none")


@pytest.mark.full
@pytest.mark.timeout(900)
def test_holders_that_are_ready_are_a_cache(pair: Pair) -> None:
    """A process that stays for the next verb of a handover has started them ahead; without them
    the verb does the same.  Two emulated hosts, three minutes."""
    def session(verb: str, role: str, ends: str = "") -> tuple[list[str], list[str]]:
        answer, ready, used = pair.host[role].call(
            inshared.in_a_session, verb, role, pair.id, tuple(pair.messages), ends,
            **pair.asked(verb))
        pair.id = answer.handover.id
        pair.messages += [message for message in answer.messages if message not in pair.messages]
        return ready, used

    before = pair.held(SOURCE)
    for ends in ("", "killed", "another"):
        pair.id, pair.messages = "", []
        assert session("prepare", SOURCE) == (sorted(WWPNS), [])
        assert session("stage", DESTINATION) == (sorted(WWPNS), [])
        pair.go("freeze export")
        used = [] if ends else [*WWPNS]
        assert session("activate", DESTINATION, ends) == ([], used)
        assert pair.open_at(SOURCE, GUESTS)
        assert session("release", SOURCE, ends) == ([], used)
        assert pair.lets_in() == {SOURCE: [], DESTINATION: []}
        pair.go("activate*")
        assert pair.open_at(DESTINATION)
        pair.go("abort* thaw")
        pair.recover(DESTINATION)
        assert pair.states() == ("idle", "none")
        assert pair.open_at(SOURCE) and pair.held(SOURCE) == before


# ── killed between two gates ─────────────────────────────────────────────────────────────────

#: What is killed: (verbs that go before, the verb, whose).
KILLED = {
    "freeze": ("prepare stage*", "freeze", SOURCE),
    "arm": ("prepare stage* freeze export", "activate", DESTINATION),
    "release": ("prepare stage* freeze export activate*", "release", SOURCE),
    "open": ("prepare stage* freeze export activate* release", "activate", DESTINATION),
    "thaw": ("prepare stage* freeze export activate*", "thaw", SOURCE),
    "abort": ("prepare stage* freeze export activate*", "abort", DESTINATION),
    "give back": ("prepare stage* freeze export activate* release activate*", "abort",
                  DESTINATION),
    "take back": ("prepare stage* freeze export activate* release activate* abort*", "thaw",
                  SOURCE),
    "retire": ("prepare stage* freeze export activate* release activate*", "retire", SOURCE),
}


def killed_at(pair: Pair, name: str, point: int, before: bytes) -> bool:
    """Kill the verb at a change of a gate; see that one host serves by every gate then, once both
    recovered or the driver went on.  False where the verb ended first."""
    way, verb, role = KILLED[name]
    pair.id, pair.messages = "", []
    pair.go(way)
    if verb == "retire":
        with pair.guests(DESTINATION):
            pair.go("verify*")
    killed, answer = pair.host[role].call(inshared.crash, point, verb, role, pair.id,
                                          tuple(pair.messages), **pair.asked(verb))
    if answer is not None:
        pair.messages += answer.messages
    one_serves(pair, f"killed at point {point}")
    for _ in range(2):
        for side in (SOURCE, DESTINATION):
            pair.recover(side)
            one_serves(pair, f"point {point}, after recover on the {side}")
        if pair.states() in (("idle", "none"), ("released", "opening"), ("retired", "serving")):
            break
    if pair.states()[1] in ("opening", "serving"):
        assert pair.open_at(DESTINATION)
        pair.end()
    owner = SOURCE if pair.states() == ("idle", "none") else DESTINATION
    assert pair.states() == ("idle", "none") or pair.states() == ("retired", "confirmed")
    assert pair.open_at(owner), "not by every gate"
    assert pair.held(owner) == before
    return bool(killed)


def one_serves(pair: Pair, when: str) -> None:
    open_gates = pair.lets_in()
    assert [] in open_gates.values(), f"two hosts serve one backstore: {when}: {open_gates}"


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KILLED)
def test_killed_between_two_gates(pair: Pair, bed: lab.Lab, name: str) -> None:
    """Two emulated hosts, one to three minutes each."""
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    before, point = pair.held(SOURCE), 0
    while killed_at(pair, name, point := point + 1, before):
        if pair.lets_in()[DESTINATION]:
            b.call(inhost.remove, ("reserved",))
            a.call(inhost.build, inshared.state(bed.shared))
            a.call(inshared.reserve)
    print(f"{name}: {point - 1} points")
    assert point > (2 if name != "retire" else 1)


# ── kinds ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guests, initiators", [(2, 0), (1, 1)], ids=["guests", "iscsi"])
def test_each_kind_moves(bed: lab.Lab, hosts: HostsOf, guests: int, initiators: int) -> None:
    """Two guests without iSCSI; one guest with it.  Two emulated hosts, a minute."""
    a, b = hosts(ROLE, ROLE)
    a.call(inhost.build, inshared.state(bed.shared, guests, bool(initiators)))
    a.call(inshared.reserve_as, guests, initiators)
    pair = Pair(a, b)
    pair.targets = (*GUESTS[:guests], *([ISCSI] if initiators else []))
    before = pair.held(SOURCE)
    pair.go("prepare stage* freeze export activate* release activate*")
    assert pair.open_at(DESTINATION)
    with pair.guests(DESTINATION, WWPNS[:guests]):
        pair.go("verify* retire confirm*")
    assert pair.states() == ("retired", "confirmed") and pair.held(DESTINATION) == before

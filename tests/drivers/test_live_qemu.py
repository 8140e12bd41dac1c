"""A live move drives real QEMUs, this machine's and the newest; the hosts' services are the
protocol's table.

The guests are firmware without a disk, so all but vhost-scsi is QEMU's own: what it answers, when
it stops and runs a guest, and what becomes of that where a step fails.  The destination is started
without -S, as the driver has to see to that.
"""
from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.drivers import guest_checks, move
from lio_handover.drivers.guest import Monitors
from lio_handover.drivers.live import LiveMove
from lio_handover.drivers.live_steps import ROWS
from lio_handover.drivers.qmp import Monitor
from lio_handover.protocol.messages import NEVER_RAN
from lio_handover.protocol.table import DESTINATION, SOURCE, Mode
from tests.lab.newest import QEMUS
from tests.unit.test_live import HOST, WWPNS, Host, bus_of_this_machine

pytest.importorskip("qemu.qmp")

__all__ = ["bus_of_this_machine"]

#: Each starts the guest as a QEMU of old would.
WORDS = ["-machine", "pc-i440fx-7.2", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display",
         "none", "-device", "virtio-scsi-pci,id=disk"]
#: Source and destination.
AGES = [("7.2", "7.2"), ("newest", "newest"),
        *(pytest.param(ages, marks=pytest.mark.full)
          for ages in (("7.2", "newest"), ("newest", "7.2")))]


@dataclass
class Vm:
    """One QEMU."""

    path: Path
    program: subprocess.Popen[bytes]

    def ask(self, command: str, **arguments: Any) -> Any:
        """While no driver is at its monitor."""
        monitor = Monitor(str(self.path), str(self.path))
        monitor.connect()
        try:
            return monitor.execute(command, arguments)
        finally:
            monitor.close()

    def status(self) -> str:
        """`query-status`, or "gone"."""
        try:
            return str(self.ask("query-status")["status"])
        except errors.GuestFailed:
            self.program.wait(30)
            return "gone"

    def kill(self) -> None:
        self.program.kill()
        self.program.wait()


@dataclass
class Pairs:
    """Guests, each with its QEMU on the source and the one that waits for it."""

    folder: Path
    programs: dict[str, list[str]]
    vms: list[dict[str, Vm]]
    a: Host
    b: Host

    def add(self, memory: int = 64, there: tuple[str, ...] = ()) -> dict[str, Vm]:
        """A guest; ``there``: more words for the destination's QEMU."""
        pair = {}
        for role, words in ((SOURCE, ()), (DESTINATION, ("-incoming", "defer", *there))):
            path = self.folder / f"{role}{len(self.vms)}"
            argv = [*self.programs[role], *WORDS, "-m", str(memory), *words,
                    "-device", f"loader,file={self.folder}/noise,addr=0x100000,force-raw=on",
                    "-qmp", f"unix:{path},server=on,wait=off"]
            pair[role] = Vm(path, subprocess.Popen(argv, stdin=subprocess.DEVNULL))
        for vm in pair.values():
            until = time.monotonic() + 60
            while not vm.path.exists():
                assert vm.program.poll() is None and time.monotonic() < until
                time.sleep(0.02)
        self.vms.append(pair)
        return pair

    def move(self, mode: Mode = Mode.VHOST_QMP, *limits: str) -> LiveMove:
        """Move all guests; the driver, at its end."""
        driver = LiveMove(self.a, self.b, limits=limits, guests=[
            Monitors(str(pair[SOURCE].path), str(pair[DESTINATION].path)) for pair in self.vms])
        with closing(driver):
            driver.run([f"vhost/{wwpn}" for wwpn in WWPNS[:len(self.vms)]], mode.value)
        return driver

    def statuses(self, role: str) -> list[str]:
        return [pair[role].status() for pair in self.vms]


@pytest.fixture(params=AGES, ids="-to-".join)
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
          ) -> Iterator[Pairs]:
    monkeypatch.setattr(move, "RETRY_SECONDS", 0)
    a, b = (Host(role, name) for role, name in ((SOURCE, "a"), (DESTINATION, "b")))
    b.where = HOST
    b.notes = (NEVER_RAN,)
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 4096)  # so that there is RAM to be copied
    programs = {role: QEMUS[age]() for role, age in zip((SOURCE, DESTINATION), request.param)}
    guests = Pairs(tmp_path, programs, [], a, b)

    def disk(monitor: Monitor, path: str) -> tuple[str, dict[str, Any]]:
        """The disk is another one here, so its name and that it is migratable are told."""
        assert path == "/machine/peripheral/disk"
        number = int(str(monitor.name).rpartition(" at ")[2][-1]) if " at " in monitor.name else 0
        _, properties = read(monitor, path)
        return WWPNS[number], {**properties, "migratable": True}

    def get(monitor: Monitor, path: str, name: str) -> Any:
        return "" if name == "wwpn" else plain(monitor, path, name)

    read, plain = guest_checks._disk, guest_checks._get
    monkeypatch.setattr(guest_checks, "DISK", "virtio-scsi")
    monkeypatch.setattr(guest_checks, "_disk", disk)
    monkeypatch.setattr(guest_checks, "_get", get)
    yield guests
    for pair in guests.vms:
        for vm in pair.values():
            vm.kill()


@pytest.mark.parametrize("mode", ROWS)
def test_a_guest_moves(pairs: Pairs, mode: Mode) -> None:
    vms = pairs.add()
    driver = pairs.move(mode)
    assert (pairs.a.state, pairs.b.state) == ("retired", "confirmed")
    assert (pairs.statuses(SOURCE), pairs.statuses(DESTINATION)) == (["postmigrate"], ["running"])
    guest, = driver.told_of_guests()
    assert 0 < guest["stood_still"] == round(driver.window, 6)
    # QEMU counts milliseconds, and works its times out after it has said completed.
    assert guest["downtime"] * 1000 == vms[SOURCE].ask("query-migrate")["downtime"]
    assert guest["ram"] > 100_000


def test_guests_of_different_size_move_together(pairs: Pairs) -> None:
    pairs.add()
    pairs.add(memory=512)
    driver = pairs.move()
    assert (pairs.a.state, pairs.b.state) == ("retired", "confirmed")
    assert pairs.statuses(SOURCE) == ["postmigrate"] * 2
    assert pairs.statuses(DESTINATION) == ["running"] * 2
    assert all(guest["stood_still"] > 0 for guest in driver.told_of_guests())
    for pair in pairs.vms:
        assert pair[SOURCE].ask("query-migrate-parameters")["downtime-limit"] == 300


@pytest.mark.parametrize("mode", ROWS)
def test_a_guest_that_is_not_copied_in_time_goes_on(pairs: Pairs, mode: Mode) -> None:
    for _ in range(2):
        pairs.add()[SOURCE].ask("migrate-set-parameters", **{"max-bandwidth": 10_000})
    with pytest.raises(errors.Interrupted, match="on a took longer than its 1 s; a serves on as "
                       "before, and nothing is left on b; its 2 guests run; next: "):
        pairs.move(mode, "copy=1")
    assert (pairs.a.state, pairs.b.state) == ("idle", "none")
    assert pairs.statuses(SOURCE) == ["running"] * 2
    assert pairs.statuses(DESTINATION) == ["gone"] * 2
    for pair in pairs.vms:
        assert pair[SOURCE].ask("query-migrate-parameters")["downtime-limit"] == 300
        assert not {row["capability"] for row in pair[SOURCE].ask("query-migrate-capabilities")
                    if row["state"]} & {"pause-before-switchover"}


def at(host: Host, verb: str, call: int, does: Callable[[], object]) -> None:
    """Have something happen behind a verb's call."""
    was, calls = host.verb, [0]

    def other(name: str, *args: Any, **more: Any) -> Any:
        answer = was(name, *args, **more)
        calls[0] += name == verb
        if name == verb and calls[0] == call:
            does()
        return answer

    setattr(host, "verb", other)


@pytest.mark.parametrize("mode", ROWS)
def test_a_destination_that_dies_before_it_runs_the_guest(pairs: Pairs, mode: Mode) -> None:
    at(pairs.b, "activate", 2, pairs.add()[DESTINATION].kill)
    with pytest.raises(errors.GuestFailed, match="b has given the target back, and a serves on as "
                       "before; its guest runs"):
        pairs.move(mode)
    assert (pairs.a.state, pairs.b.state) == ("idle", "none")
    assert pairs.statuses(SOURCE) == ["running"]


def test_a_destination_that_dies_in_pre_switchover(pairs: Pairs) -> None:
    at(pairs.a, "export", 1, pairs.add()[DESTINATION].kill)
    with pytest.raises(errors.GuestFailed, match="the migration is failed .*its guest runs"):
        pairs.move()
    assert (pairs.a.state, pairs.b.state) == ("idle", "none")
    assert pairs.statuses(SOURCE) == ["running"]


def test_a_source_that_dies_in_pre_switchover(pairs: Pairs) -> None:
    at(pairs.a, "export", 1, pairs.add()[SOURCE].kill)
    with pytest.raises(errors.GuestFailed, match="the QEMU of a hung up"):
        pairs.move()
    assert (pairs.a.state, pairs.b.state) == ("idle", "none")
    assert pairs.statuses(DESTINATION) == ["gone"]


def test_qemus_that_differ_are_told_apart(pairs: Pairs) -> None:
    pairs.add(there=("-m", "128", "-smp", "2", "-device", "virtio-rng-pci",
                     "-global", "virtio-scsi-device.num_queues=3"))
    with pytest.raises(errors.GuestFailed) as raised:
        pairs.move()
    said = [finding.sentence for finding in raised.value.findings]
    assert [words for words in said if "machine" in words] == [
        "is another machine: its number of CPUs is 2, that of the source 1",
        f"is another machine: its RAM size in bytes is {128 << 20}, that of the source {64 << 20}"]
    assert "has other devices: it has virtio-rng-pci besides" in said
    assert any("num_queues=3, that of the source 1" in words for words in said)
    assert pairs.a.called == pairs.b.called == []
    assert (pairs.statuses(SOURCE), pairs.statuses(DESTINATION)) == (["running"], ["inmigrate"])

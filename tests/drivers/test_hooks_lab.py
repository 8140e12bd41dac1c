"""Hooks of a guest's manager, called by the book on two hosts with the service: lio-handover-hook.

The kernels here have no vhost-scsi, so an iSCSI target stands in for the guest's (inhooks.py); the
destination has systemd, which runs the guest's unit.
"""
from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests import lab
from tests.conftest import Pool
from tests.service.test_systemd import Systemd
from tests.support import inbus, inhandover, inhooks, inhost, inmove, instandin
from tests.support.inbus import Service
from tests.support.inhooks import GUEST, UNIT

WITH = inhooks.xml(devices=inhooks.hostdev())
MIGRATE, PREPARE = (GUEST, "migrate", "begin", "-"), (GUEST, "prepare", "begin", "-")


class Pair:
    """The source, with the service, and the destination, with systemd; each reaches the other by
    ssh as a and b."""

    def __init__(self, bed: lab.Lab, a: lab.Host, b: lab.Host) -> None:
        self.a, self.b, self.systemd = a, b, Systemd(b)
        self.keys = keys = bed.shared / "keys"
        keys.mkdir()
        inmove.make_keys(keys)
        staged = inbus.stage(bed)
        for host in (a, b):
            host.call(inbus.install, inhost.CONFIG, staged)
            host.call(inhooks.stand_in)
            host.call(inmove.reach, str(keys), {"a": a.address, "b": b.address})
        a.call(inmove.serve_ssh, str(keys))
        self.service = Service(a)
        self.service.call(inbus.start_bus)
        self.service.restart()
        assert self.systemd.start() == "running"
        self.systemd.call(inmove.serve_ssh, str(keys))
        a.call(inhost.build, inhandover.state(bed.shared))

    def hook(self, words: Sequence[str], data: bytes = WITH, program: str = inhooks.HOOK,
             **more: str) -> tuple[int, str, str]:
        done: tuple[int, str, str] = self.systemd.call(inhooks.call, words, data, program, more)
        return done

    def configure(self, *peers: str, **settings: Any) -> None:
        given = {"here": "b", "deadline": 150, **settings}  # on a busy machine
        self.b.call(inhooks.configure, peers or ("a",), "".join(
            f"{name} = {value}\n" for name, value in given.items()))

    def states(self) -> list[str]:
        return [self.a.call(inhooks.state), self.systemd.call(inhooks.state)]

    def until(self, *states: str) -> None:
        """Wait for these states of both."""
        self.systemd.until(lambda: self.states() == [*states])

    def told(self) -> str:
        return self.systemd.run("journalctl", "--no-pager", f"--unit={UNIT}")

    def close(self) -> None:
        for host in (self.a, self.b):
            host.call(inhooks.restore)


@pytest.fixture
def pair(bed: lab.Lab, _pool: Pool) -> Iterator[Pair]:
    a, b = _pool.take_named(("newest", "bus2"), ("stable", "systemd"))
    made = Pair(bed, a, b)
    try:
        yield made
    finally:
        made.close()


#: Calls for which there is nothing to do: of libvirt's other operations, and of ones that it may
#: come to have.
NOTHING = [("start", "begin", "-"), ("started", "begin", "-"), ("stopped", "end", "-"),
           ("restore", "begin", "-"), ("reconnect", "begin", "-"), ("attach", "begin", "-"),
           ("migrate", "end", "-"), ("shrink", "begin", "-"), ("", "", ""), ()]


def test_libvirt_calls_as_a_guest_comes_and_as_its_migration_fails(pair: Pair) -> None:
    """15 s."""
    pair.configure()
    for words in NOTHING:
        assert pair.hook((GUEST, *words)) == (0, "", ""), words
    for data in (inhooks.xml(), inhooks.xml(devices=inhooks.hostdev("naa.5001405000000009"))):
        assert pair.hook(MIGRATE, data) == (0, "", "")  # another guest, or one without such a disk
    code, said, error = pair.hook(MIGRATE, WITH[:-20])
    assert (code, said) == (2, "") and "the domain's XML is not XML" in error
    code, said, error = pair.hook(PREPARE)  # a start, with the target on the other host
    assert (code, said) == (2, "") and "vm1 can't start here: this host has no iscsi/" in error
    assert pair.states() == ["", ""] and pair.systemd.show(UNIT, "ActiveState") == ["inactive"]

    assert pair.hook(MIGRATE) == (0, "", ""), pair.told()
    assert pair.states() == ["prepared", "staged"]
    assert pair.systemd.show(UNIT, "ActiveState", "StatusText") == [
        "active", "vm1 is staged, and waits for QEMU"]
    assert pair.hook(PREPARE) == (0, "", "")
    assert pair.hook((GUEST, "release", "end", "failed")) == (0, "", "")
    pair.until("idle", "none")
    pair.systemd.until(lambda: pair.systemd.show(UNIT, "ActiveState", "Result") == [
        "inactive", "success"])
    assert "vm1 does not come: this unit is stopped" in pair.told()


@pytest.mark.full
def test_a_destination_that_hears_nothing_more_takes_it_back(pair: Pair) -> None:
    """A minute: a QEMU that ends without a call; none that comes; libvirt 9.0's release; and a
    migration that was prepared for another host."""
    pair.configure()
    assert pair.hook(MIGRATE) == (0, "", ""), pair.told()
    qemu = pair.systemd.call(inhooks.start_qemu)
    assert pair.systemd.call(inhooks.waits_for_qemu, qemu)
    pair.systemd.call(inhooks.end_qemu, qemu)
    pair.until("idle", "none")
    assert "vm1 does not come: its QEMU has ended" in pair.told()

    assert pair.hook(MIGRATE) == (0, "", ""), pair.told()
    assert pair.hook((GUEST, "release", "end", "-")) == (0, "", "")
    pair.until("idle", "none")

    pair.configure(wait=1)
    pair.a.call(inhooks.prepare_for, "c")
    assert pair.hook(MIGRATE) == (0, "", ""), pair.told()
    assert "which was prepared and not begun, is taken back on a" in pair.told()
    pair.until("idle", "none")
    assert "vm1 does not come: no QEMU of it came in 1 s" in pair.told()


@pytest.mark.full
def test_a_hook_says_why_no_peer_makes_the_guest_ready(pair: Pair) -> None:
    """A minute and a half."""
    pair.configure("b", deadline=30)
    code, said, error = pair.hook(MIGRATE)
    assert (code, said) == (2, "") and "no peer is configured" in error, error
    pair.configure("a", "nowhere", deadline=30)
    pair.a.call(inhooks.signal_ssh, signal.SIGTERM)
    code, said, error = pair.hook(MIGRATE)
    assert (code, said) == (1, ""), error
    assert f"no peer serves {inhandover.TARGET}: a does not answer" in error, error
    assert "nowhere does not answer" in error and error.count("\n") == 1
    pair.a.call(inmove.serve_ssh, str(pair.keys))
    pair.a.call(inhooks.signal_ssh, signal.SIGSTOP)  # whoever connects waits
    pair.configure("a", deadline=15)
    began = time.monotonic()
    code, said, error = pair.hook(MIGRATE)
    assert code == 1 and "a has not answered in 5 s" in error, error
    assert time.monotonic() - began < 90
    pair.configure("a")  # it would wait for 50 s
    pair.systemd.call(inhooks.kill_while_it_waits, MIGRATE, WITH)
    began = time.monotonic()
    pair.systemd.until(lambda: pair.systemd.show(UNIT, "ActiveState") == ["failed"])
    assert "the hook that waited for it was killed" in pair.told()
    assert time.monotonic() - began < 30
    pair.a.call(inhooks.signal_ssh, signal.SIGCONT)
    pair.a.call(inmove.stop_service)
    pair.configure("a")
    code, said, error = pair.hook(MIGRATE)
    assert code == 1 and "a lio-handoverd does not run on a" in error, error
    assert pair.states() == ["", ""]


@pytest.mark.full
def test_scripts_call_before_and_after(pair: Pair) -> None:
    """A minute: a migration that goes well, one that fails before QEMU has begun, and after it."""
    pair.configure(deadline=40)
    program = inhooks.PROGRAM
    code, said, error = pair.hook(["post-migrate", GUEST], b"", program)
    assert (code, said) == (1, "") and "nothing of vm1 was handed over" in error
    code, said, error = pair.hook(["pre-migrate", "vm2"], b"", program)
    assert (code, said) == (2, "") and "there is no /etc/lio-handover/guests/vm2.conf" in error

    snippet, vdsm = (pair.systemd.call(inhooks.install, *words) for words in (
        ("11_proxmox_hookscript.sh", "snippets/lio-handover"),
        ("12_vdsm_hook.sh", "before_vm_migrate_destination/50_lio_handover")))
    assert pair.hook([GUEST, "pre-start"], b"", snippet, PVE_MIGRATED_FROM="a") == (0, "", "")
    assert pair.states() == ["prepared", "staged"]
    assert pair.hook(["failed", "--xml", "-"], WITH, program)[0] == 0
    assert pair.states() == ["idle", "none"]

    xml = pair.systemd.call(inhooks.write_xml, WITH)
    assert pair.hook([], b"", vdsm, _hook_domxml=xml) == (0, "", "")
    data, error = pair.a.call(instandin.save)
    assert error == "" and pair.b.call(instandin.load, data)[1] == ""
    assert pair.states() == ["frozen", "armed"]
    pair.systemd.until(lambda: pair.systemd.show(UNIT, "ActiveState") == ["inactive"])
    pair.configure(deadline=3)
    code, said, error = pair.hook(["post-migrate", GUEST], b"", program)
    assert code == 1 and "has not moved: handover" in error and "is armed here" in error

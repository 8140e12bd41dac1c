"""`virsh migrate --live` between two hosts with libvirt as Debian ships it, and a target that goes
along: hooks are called by libvirtd, helpers are started by their units, QEMU carries the state.

The kernels here have no vhost-scsi, so an iSCSI target stands in for the guest's (inlibvirt.py).
"""
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import lab
from tests.conftest import Pool
from tests.lab import libvirt
from tests.service.test_systemd import Systemd
from tests.support import inbus, inhandover, inhooks, inhost, inlibvirt, inmove, insystemd
from tests.support.inlibvirt import GUEST, HELPER, ITS_BUS

#: Of the guest's file: this machine may be busy.
MORE = "deadline = 20\n"

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


class Pair:
    """Hosts a and b, to each other by ssh, each with libvirtd, the service, and the guest's
    helper."""

    def __init__(self, bed: lab.Lab, hosts: list[lab.Host]) -> None:
        self.bed, self.hosts = bed, hosts
        self.systemd = [Systemd(host) for host in hosts]
        keys = bed.shared / "keys"
        keys.mkdir()
        inmove.make_keys(keys)
        names = {"a": hosts[0].address, "b": hosts[1].address}
        tree, staged = str(libvirt.daemon()), inbus.stage(bed)

        def ready(number: int) -> None:
            host, systemd = hosts[number], self.systemd[number]
            host.call(inlibvirt.install, tree, host.address, number + 1)
            host.call(inbus.install, inhost.CONFIG, staged)
            host.call(inhooks.stand_in, inlibvirt.ADDED)
            host.call(inmove.reach, str(keys), names)
            self.configure(number)
            assert systemd.start("libvirtd.service", f"{ITS_BUS}.service",
                                 f"{HELPER}.service") == "running"
            systemd.call(inmove.serve_ssh, str(keys))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ready, (0, 1)))
        hosts[0].call(inhost.build, inhandover.state(bed.shared))

    def configure(self, number: int = 1) -> None:
        """The other host is a peer."""
        self.hosts[number].call(inhooks.configure, ["ba"[number]],
                                f"here = {'ab'[number]}\ndeadline = 200\n", MORE)

    def call(self, number: int, function: Any, *words: Any) -> Any:
        """In a host, beside what systemd runs there, for longer than a moment."""
        return self.hosts[number].call(insystemd.within, function, *words, timeout=600)

    def virsh(self, number: int, *words: str, data: bytes = b"") -> tuple[int, str]:
        done: tuple[int, str] = self.call(number, inlibvirt.virsh, words, data)
        return done

    def migrate(self, source: int, *more: str) -> tuple[int, str]:
        to = "ba"[source]
        return self.virsh(source, "migrate", "--live", *more, GUEST, f"qemu+ssh://{to}/system")

    def each(self, function: Any, *words: Any) -> list[Any]:
        return [systemd.call(function, *words) for systemd in self.systemd]

    def until(self, function: Any, *wanted: Any) -> None:
        """Wait until a function says this on both hosts."""
        now = [self.call(number, inlibvirt.until, function, one)
               for number, one in enumerate(wanted)]
        assert now == [*wanted], self.told()

    def told(self) -> str:
        units = (inhooks.UNIT, HELPER, "libvirtd", "lio-handoverd")
        return "\n".join(systemd.call(inlibvirt.told, unit)
                         for systemd in self.systemd for unit in units)


@pytest.fixture
def pair(bed: lab.Lab, _pool: Pool) -> Iterator[Pair]:
    """Hosts of their own: what is installed there stays."""
    yield Pair(bed, _pool.take_named(("stable", "libvirt"), ("newest", "libvirt2")))


def test_virsh_migrates_a_guest_with_its_target_and_back(pair: Pair) -> None:
    """A minute and a half: by virsh's own connections, then by libvirtd's (--p2p); what fails on
    the way leaves guest and target where they were."""
    assert pair.virsh(0, "create", data=inlibvirt.xml()) == (0, ""), pair.told()
    here = pair.systemd[0]

    def stays() -> None:
        pair.until(inlibvirt.domain_state, "running", "")
        assert pair.each(inlibvirt.target_is_here) == [True, False]

    # Our own hook on b refuses; then another program's does, once the target is staged.
    pair.hosts[1].call(inhooks.configure, [], "here = b\n", MORE)
    code, said = pair.migrate(0)
    assert code == 1 and "no peer is configured that could serve the guest's targets" in said, said
    assert pair.each(inlibvirt.state) == ["", ""]
    stays()
    pair.configure()
    pair.systemd[1].call(inlibvirt.add_hook, '[ "$2" != start ] || exit 1')
    code, said = pair.migrate(0)
    assert code == 1 and "Hook script execution failed" in said, said
    pair.until(inlibvirt.state, "idle", "none")
    stays()
    pair.systemd[1].call(inlibvirt.remove_hook)

    # It is cancelled while its memory is copied.
    with ThreadPoolExecutor(1) as other:
        migrating = other.submit(pair.migrate, 0, "--bandwidth", "1")
        assert pair.call(0, inlibvirt.aborted_job) == (0, "")
        code, said = migrating.result()
    assert code == 1 and "canceled" in said, said
    pair.until(inlibvirt.state, "idle", "none")
    stays()

    for source, more, states in ((0, (), ("retired", "confirmed")),
                                 (1, ("--p2p",), ("confirmed", "retired"))):
        code, said = pair.migrate(source, *more)
        assert (code, said) == (0, ""), (said, pair.told())
        pair.until(inlibvirt.state, *states)
        there = states.index("confirmed")
        assert pair.each(inlibvirt.target_is_here) == [not there, bool(there)]
        assert pair.each(inlibvirt.domain_state) == ["running", ""][::-1 if there else 1]
    assert held(pair.hosts[0]) and here.call(inlibvirt.domain_state) == "running"


def held(host: lab.Host) -> bool:
    """Whether the target has its registrations."""
    return any(store.reservations.registrations for store in host.call(inhost.read_all).backstores)


def test_a_guest_that_is_saved_comes_back_on_its_host_alone(pair: Pair) -> None:
    """A minute: `virsh save`, and managed save; another host says why not."""
    image = str(pair.bed.shared / "saved")
    assert pair.virsh(0, "define", data=inlibvirt.xml()) == (0, ""), pair.told()
    assert pair.virsh(0, "start", GUEST) == (0, "")
    assert pair.virsh(0, "save", GUEST, image) == (0, "")
    code, said = pair.virsh(1, "restore", image)
    assert code == 1 and "vm1 can't start here: this host has no" in said, said
    assert pair.virsh(0, "restore", image) == (0, ""), pair.told()
    assert pair.virsh(0, "managedsave", GUEST) == (0, "")
    assert pair.virsh(0, "start", GUEST) == (0, ""), pair.told()
    assert pair.each(inlibvirt.domain_state) == ["running", ""]
    assert pair.each(inlibvirt.state) == ["", ""]


def test_a_switch_that_fails_leaves_the_guest_where_it_was(pair: Pair) -> None:
    """A minute: b's helper is gone when QEMU asks for it, after the target was staged."""
    assert pair.virsh(0, "create", data=inlibvirt.xml()) == (0, ""), pair.told()
    pair.systemd[1].call(
        inlibvirt.add_hook, f'[ "$2" != started ] || systemctl stop --no-block {HELPER}')
    code, said = pair.migrate(0)
    pair.systemd[1].call(inlibvirt.remove_hook)
    assert code == 1 and "Required VMState Id are missing" in said, (said, pair.told())
    pair.until(inlibvirt.state, "idle", "none")
    pair.until(inlibvirt.domain_state, "running", "")
    assert pair.each(inlibvirt.target_is_here) == [True, False]
    assert "runs here again: the migration failed or was cancelled" in pair.systemd[0].call(
        inlibvirt.told, HELPER)

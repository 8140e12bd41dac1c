"""A guest migrates by its manager, and QEMU carries its target: lio-handover-vmstate."""
from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests import lab
from tests.conftest import Pool
from tests.drivers.test_live_lab import MONITOR, goes, move, say, serve
from tests.kernel import test_vhost
from tests.migration import inhost
from tests.migration.bench import ROLE, Bench, Vm
from tests.migration.helpers import OBJECT, Helpers
from tests.migration.net import Sockets
from tests.support import inhost as pipeline, inmove, invmstate
from tests.support.attached import attached

TARGET = f"vhost/{test_vhost.WWPN}"
#: Our own initiator, which is a guest to the kernel.
GUEST = ("from lio_handover.scsi.vhost import occupy; import time\n"
         f"guest = occupy('{test_vhost.WWPN}'); print('attached', flush=True); time.sleep(600)")

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


class Pair(Helpers):
    """Two hosts, a and b to each other, with the service; the guest's helper is not there yet."""

    def __init__(self, bed: lab.Lab, hosts: list[lab.Host]) -> None:
        super().__init__(hosts)
        self.bed = bed
        self.line = Sockets(bed)
        self.line.nudge([host.address for host in hosts])
        keys = bed.shared / "keys"
        keys.mkdir(exist_ok=True)
        inmove.make_keys(keys)
        a, b = hosts

        def ready(host: lab.Host) -> None:
            host.call(inmove.serve_ssh, str(keys), timeout=180)
            host.call(inmove.reach, str(keys), {"a": a.address, "b": b.address})
            serve(host)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ready, hosts))

    def save(self, host: lab.Host) -> tuple[bytes, str]:
        """Save(), once the helper's next process has loaded all it wants."""
        host.call(invmstate.rests, timeout=120)
        answer: tuple[bytes, str] = host.call(invmstate.save, timeout=60)
        return answer

    def load(self, host: lab.Host, data: bytes) -> str:
        """Load(), likewise; the error's sentence."""
        host.call(invmstate.rests, timeout=120)
        return str(host.call(invmstate.load, data, timeout=60))

    @contextmanager
    def guest(self, host: lab.Host) -> Iterator[None]:
        """A guest is attached here."""
        with attached(host, GUEST):
            yield

    def close(self) -> None:
        for host in self.hosts:
            say(f"{host.name}: {self.told(host)}")
        self.line.close()


@pytest.fixture
def pair(bed: lab.Lab, _pool: Pool) -> Iterator[Pair]:
    made = Pair(bed, [_pool.take(ROLE, name=name)[0] for name in ("live", "live2")])
    try:
        yield made
    finally:
        made.close()


def test_helpers_carry_a_target_through_crashes_of_theirs(pair: Pair) -> None:
    """Five minutes.  Save() and Load() are called by the test; each helper is killed in between."""
    a, b = pair.hosts
    a.call(pipeline.build, test_vhost.state(pair.bed.shared, 2), timeout=120)
    a.call(test_vhost.reserve, 2, timeout=120)
    pair.helpers(TARGET)

    # A guest that is saved comes back here, and nowhere else.
    data, error = pair.save(a)
    assert error == "" and pair.load(a, data) == ""
    assert "without a handover" in pair.load(b, data)

    # Nothing is saved while the guest runs; it stays prepared.
    assert "b is ready" in pair.stage(TARGET)
    with pair.guest(a):
        data, error = pair.save(a)
        assert data == b"" and "no endpoint is attached here" in error
    assert pair.states() == ["prepared", "staged"]

    # A migration that fails: the source's helper is killed after Save(), the guest runs again.
    data, error = pair.save(a)
    assert error == "" and pair.states() == ["frozen", "staged"]
    spoilt = data.replace(b'"document": "', b'"document": "00', 1)
    assert "has no 64 hex digits" in pair.load(b, spoilt)
    assert pair.load(b, data) == ""
    assert pair.states() == ["frozen", "armed"]
    a.call(invmstate.end_helper, signal.SIGKILL)
    with pair.guest(a):
        pair.help(a)
        pair.until("idle", "none")
    assert "runs here again" in pair.told(a)
    assert a.call(test_vhost.foreign_write, 2) == [0x18, 0x18]

    # One that goes well: the destination's helper is killed after Load().
    pair.stage(TARGET)
    data, error = pair.save(a)
    assert error == "" and pair.load(b, data) == ""
    b.call(invmstate.end_helper, signal.SIGKILL)
    with pair.guest(b):
        pair.help(b)
        pair.until("retired", "confirmed")
    assert b.call(test_vhost.foreign_write, 2) == [0x18, 0x18]
    assert not a.call(pipeline.read_all).backstores

    # What was saved of before the move is of before.
    data, error = pair.save(b)
    assert error == "" and pair.load(b, data) == ""
    assert "this host has no" in pair.save(a)[1]


@pytest.fixture
def bench(pair: Pair) -> Iterator[Bench]:
    made = Bench(pair.bed, pair.hosts, say)
    try:
        yield made
    finally:
        made.close()


def running(bench: Bench) -> Vm:
    """The guest, which writes."""
    vm = bench.fresh(*OBJECT)
    vm.qmp("migrate-set-parameters", **{"downtime-limit": 3000, "max-bandwidth": 1 << 30})
    return vm


def test_qemu_carries_a_guests_target_in_its_own_stream(pair: Pair, bench: Bench) -> None:
    """Seven minutes: one migration that the destination refuses, one that goes well."""
    a, b = pair.hosts
    target = f"vhost/{inhost.WWPN}"
    pair.helpers(target)
    source = running(bench)

    # Nothing was begun: QEMU's stream brings what b refuses, and the guest goes on on a.
    destination, cable = bench.incoming("-S", *OBJECT)
    bench.migrate(cable)
    assert source.wait("failed", "completed") == "failed"
    assert destination.wait("gone") == "gone"
    assert bench.writes(source)
    assert "comes from" in pair.told(b)
    bench.judge()

    # The helper of b is gone as Load() would be called: the guest goes on, and a thaws.
    pair.stage(target)
    destination, cable = bench.incoming("-S", *OBJECT)
    b.call(invmstate.end_helper, signal.SIGKILL)
    bench.migrate(cable)
    assert source.wait("failed", "completed") == "failed"
    assert bench.writes(source)
    pair.until("idle", "none")
    destination.kill()
    bench.judge()
    pair.help(b)
    b.call(invmstate.wait_for_helper, 150, timeout=180)

    pair.stage(target)
    destination, cable = bench.incoming("-S", *OBJECT)
    pair.rest()
    bench.migrate(cable)
    assert source.wait("failed", "completed") == "completed", [pair.told(host)
                                                               for host in pair.hosts]
    assert destination.wait("completed", "gone") == "completed"
    assert destination.ask("cont") == "ok"
    pair.until("retired", "confirmed")
    assert bench.writes(destination)
    bench.source_vm = destination
    bench.judge()
    assert inhost.NEXUS in bench.reservation(b)
    assert not a.call(pipeline.read_all).backstores
    # The source's QEMU can't run the guest a second time.
    source.ask("cont")
    assert source.wait("gone") == "gone"
    bench.judge()


def test_a_move_by_qmp_of_a_qemu_that_asks_the_helpers_is_left_to_its_driver(
        pair: Pair, bench: Bench) -> None:
    """Three minutes."""
    a, b = pair.hosts
    pair.helpers(f"vhost/{inhost.WWPN}")
    source = bench.fresh(*OBJECT, *MONITOR)
    source.qmp("migrate-set-parameters", **{"downtime-limit": 3000, "max-bandwidth": 1 << 30})
    destination = bench.start(b, ["-incoming", "defer", "-S", *OBJECT, *MONITOR])
    pair.rest()
    code, said = move(bench)
    assert code == 0, (said, pair.told(a), pair.told(b))
    assert "has lio-handover-vmstate asked, too, which leaves the handover to this driver" in said
    assert "bytes, which leave the handover to the program that drives it" in pair.told(a)
    assert "which another program drives" in pair.told(b)
    assert pair.states() == ["retired", "confirmed"]
    goes(bench, source, destination)

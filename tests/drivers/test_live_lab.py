"""A guest is live-migrated with its vhost-scsi disk and its reservation by one command."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from lio_handover.records.journal import Handover
from tests import lab
from tests.conftest import Pool
from tests.migration import inhost
from tests.migration.bench import ROLE, Bench, Vm
from tests.migration.net import Sockets
from tests.support import inbus, inhandover, inhost as pipeline, inmove

TARGET = f"vhost/{inhost.WWPN}"
SOCKET = "/run/guest.qmp"
MONITOR = ("-qmp", f"unix:{SOCKET},server=on,wait=off")


@pytest.fixture
def bench(bed: lab.Lab, _pool: Pool) -> Iterator[Bench]:
    """Two hosts with the service, a and b to each other; the guest runs on a."""
    hosts = [_pool.take(ROLE, name=name)[0] for name in ("live", "live2")]
    a, b = hosts
    line = Sockets(bed)
    line.nudge([host.address for host in hosts])
    keys = bed.shared / "keys"
    keys.mkdir(exist_ok=True)
    inmove.make_keys(keys)
    for host in hosts:
        host.call(inmove.serve_ssh, str(keys), timeout=180)
        host.call(inmove.reach, str(keys), {"a": a.address, "b": b.address})
        serve(host)
    made = Bench(bed, hosts, say)
    try:
        yield made
    finally:
        made.close()
        line.close()


def say(line: str) -> None:
    """At once, for who looks at a test that takes long."""
    print(line, flush=True)


def serve(host: lab.Host) -> None:
    """The service, which takes its time to start on an emulated host."""
    host.call(inbus.install, pipeline.CONFIG, inbus.stage(host.bed), timeout=180)
    host.call(inbus.start_bus)
    daemon = host.popen(host.call(inbus.sandboxed, inbus.UNIT.read_text()))
    try:
        host.call(inbus.wait_for_name, inbus.SYSTEM, 150, timeout=180)
    except AssertionError:
        raise AssertionError(f"{daemon.poll()}: {daemon.stderr_so_far()!r}") from None


def waiting(bench: Bench) -> Vm:
    """A QEMU on b that waits for the guest."""
    return bench.start(bench.hosts[1], ["-incoming", "defer", "-S", *MONITOR])


def move(bench: Bench) -> tuple[int, str]:
    """The command, as people type it: its exit code, and what it says."""
    done = bench.hosts[0].run(
        [*inmove.PROGRAM, "move", TARGET, "--to", "b", "--here", "a", "--guest", SOCKET,
         "--guest-there", SOCKET], timeout=300, check=False)
    bench.note("move", done.stderr)
    return done.returncode, done.stderr


def states(bench: Bench) -> list[str]:
    """Where the last handover stands on both hosts."""
    found: list[list[Handover]] = [
        [answer.handover for answer in host.call(inhandover.status)] for host in bench.hosts]
    return [handovers[-1].state if handovers else "" for handovers in found]


def running(bench: Bench) -> Vm:
    """The guest, which writes."""
    vm = bench.fresh(*MONITOR)
    vm.qmp("migrate-set-parameters", **{"downtime-limit": 3000, "max-bandwidth": 1 << 30})
    return vm


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_guest_moves_by_one_command_with_its_reservation(bench: Bench) -> None:
    a, b = bench.hosts
    source, destination = running(bench), waiting(bench)
    code, said = move(bench)
    assert code == 0, said
    assert f"moved {TARGET} to b: 1 target, 1 backstore" in said
    assert "the guest stood still for " in said
    assert states(bench) == ["retired", "confirmed"]
    assert destination.status() == "running" and source.status() == "postmigrate"
    assert bench.writes(destination)
    bench.judge()
    assert inhost.NEXUS in bench.reservation(b)
    assert not a.call(pipeline.read_all).backstores
    # The source's QEMU can't run the guest a second time.
    source.ask("cont")
    assert source.wait("gone") == "gone"
    assert bench.writes(destination)
    bench.judge()

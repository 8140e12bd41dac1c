"""A guest is live-migrated with its vhost-scsi disk and its reservation by one command."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from lio_handover import errors
from lio_handover.records.journal import Handover
from tests import lab
from tests.conftest import Pool
from tests.lab.host import CHECKOUT
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
    with_guest = Bench(bed, hosts, say)
    try:
        yield with_guest
    finally:
        with_guest.close()
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


def waiting(bench: Bench, host: lab.Host) -> Vm:
    """A QEMU that waits for the guest."""
    return bench.start(host, ["-incoming", "defer", "-S", *MONITOR])


def move(bench: Bench, *words: str, to: str = "b", there: str = SOCKET) -> tuple[int, str]:
    """The command, as people type it: its exit code, and what it says."""
    here = "a" if to == "b" else "b"
    done = bench.hosts["ab".index(here)].run(
        [*inmove.PROGRAM, "move", TARGET, "--to", to, "--here", here, "--guest", SOCKET,
         "--guest-there", there, *words], timeout=300, check=False)
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


def stays(bench: Bench, source: Vm, destination: Vm) -> None:
    """The guest goes on at the source, and nothing is left on the destination."""
    assert destination.wait("gone") == "gone"
    assert source.status() == "running" and bench.writes(source)
    bench.judge()
    assert inhost.NEXUS in bench.reservation(source.host)
    assert not destination.host.call(pipeline.read_all).backstores


def goes(bench: Bench, source: Vm, destination: Vm) -> None:
    """The guest goes on at the destination, and the source's QEMU can't run it a second time."""
    assert destination.status() == "running" and source.status() == "postmigrate"
    assert bench.writes(destination)
    bench.judge()
    assert inhost.NEXUS in bench.reservation(destination.host)
    assert not source.host.call(pipeline.read_all).backstores
    source.ask("cont")
    assert source.wait("gone") == "gone"
    assert bench.writes(destination)
    bench.judge()


def passes_its_deadline(bench: Bench, source: Vm) -> None:
    source.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
    destination = waiting(bench, bench.hosts[1])
    code, said = move(bench, "--deadline", "copy=4")
    assert code == errors.Interrupted.code, said
    a = bench.hosts[0].name
    assert f"pre-switchover on {a} took longer than its 4 s; {a} serves on as before" in said
    assert "its guest runs; next: see why, and move again, with --deadline copy=SECONDS" in said
    assert states(bench) == ["idle", "none"]
    stays(bench, source, destination)
    source.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 30})


def finds_no_disk(bench: Bench, source: Vm) -> None:
    """Somebody else takes the endpoint as the guest is to be run, so its QEMU ends."""
    relay = "/run/relay.qmp"
    b = bench.hosts[1]
    destination = waiting(bench, b)
    program = b.popen(["/usr/bin/python3", "-m", "tests.support.qmprelay", relay, SOCKET,
                       inhost.WWPN], env={"PYTHONPATH": str(CHECKOUT)})
    bench.until(lambda: b"ready" in program.stdout_so_far(), "the relay listens", destination)
    code, said = move(bench, there=relay)
    assert code == errors.GuestFailed.code, said
    assert "hung up, at cont; b has given the target back, and " \
        f"{bench.hosts[0].name} serves on as before; its guest runs; next: " in said
    assert states(bench) == ["idle", "none"]
    assert "unable to start vhost-scsi" in destination.complaints()
    stays(bench, source, destination)


def moves(bench: Bench, source: Vm) -> Vm:
    destination = waiting(bench, bench.hosts[1])
    code, said = move(bench)
    assert code == 0, said
    assert f"moved {TARGET} to b: 1 target, 1 backstore" in said
    assert "the guest stood still for " in said and "QEMU's downtime " in said
    assert states(bench) == ["retired", "confirmed"]
    goes(bench, source, destination)
    return destination


def moves_back_stopped(bench: Bench, source: Vm) -> None:
    destination = waiting(bench, bench.hosts[0])
    code, said = move(bench, "--mode", "vhost-stopped", to="a")
    assert code == 0, said
    assert f"moved {TARGET} to a" in said and "the guest stood still for " in said
    assert states(bench) == ["confirmed", "retired"]
    goes(bench, source, destination)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_guest_moves_by_one_command_with_its_reservation(bench: Bench) -> None:
    """Moves that come to nothing first: the guest goes on.  7 minutes on two quiet cores."""
    source = running(bench)
    passes_its_deadline(bench, source)
    finds_no_disk(bench, source)
    destination = moves(bench, source)
    moves_back_stopped(bench, destination)

"""How long a guest stands still: python3 -m tests.migration downtime.

From the event STOP of the source's QEMU to the guest's first record on the destination, on the
clock of who looks; the guest writes a record every 10 ms or faster, as the report says.  With: the
product's `move`.  Without: QEMU's `migrate` alone, between hosts that both have the target, made by
hand, so that neither reservation nor exclusion is anybody's concern.
"""
from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.migration import guest, inhost
from tests.migration.bench import Bench
from tests.migration.product import LIMITS, MONITOR, Downtime, Pair
from tests.support import inhost as pipeline

RUNS = 5
#: Seconds that the guest rests between two records: else its emulated host does nothing else.
PAUSE = 0.004
_PORTS = itertools.count(4600)


def measure(bench: Bench, runs: int = RUNS) -> tuple[list[float], list[float]]:
    """Seconds that the guest stood still: (with the handover, without it)."""
    bench.asked = f"beat aptpl pace={PAUSE}"
    bench.fresh(*MONITOR).qmp("migrate-set-parameters", **LIMITS)
    plain = [_migrated(bench) for _ in range(runs)]
    bench.clear()       # a service would shut what it has not handed over itself
    pair = Pair(bench)
    pair.running()
    return [_moved(pair) for _ in range(runs)], plain


def _moved(pair: Pair) -> float:
    bench = pair.bench
    destination = pair.waiting(bench.other(bench.vm.host))
    with Downtime(bench.vm, destination) as downtime:
        pair.moved(destination)
        seconds = downtime.seconds()
    bench.note("downtime", f"{seconds:.3f} s with the handover")
    return seconds


def _migrated(bench: Bench) -> float:
    source, host = bench.vm, bench.other(bench.vm.host)
    host.call(pipeline.build, inhost.state(), timeout=120)
    destination = bench.start(host, ["-incoming", "defer", *MONITOR])
    destination.qmp("migrate-set-parameters", **LIMITS)
    for vm in (source, destination):
        vm.capabilities("events", "return-path")
    uri = f"tcp:{host.address}:{next(_PORTS)}"
    destination.qmp("migrate-incoming", uri=uri)
    with Downtime(source, destination) as downtime:
        source.qmp("migrate", uri=uri)
        seconds = downtime.seconds(120)
    source.wait("completed")
    bench.note("downtime", f"{seconds:.3f} s without")
    source.kill()
    bench.remove(source.host)
    bench.source_vm = destination
    return seconds


def pace(path: Path, run: int) -> float:
    """The median of the seconds between two records, on the guest's clock."""
    clocks = dict(_clocks(path, run))
    return statistics.median(clocks[number + 1] - clocks[number] for number in clocks
                             if number + 1 in clocks) / 1e9


def _clocks(path: Path, run: int) -> Iterator[tuple[int, int]]:
    with path.open("rb") as disk:
        for _ in range(guest.AREAS * guest.AREA // guest.SIZE):
            record = guest.unpack(disk.read(guest.SIZE))
            if record is not None and record[0] == run:
                yield record[2], record[3]


def report(bench: Bench, runs: int = RUNS) -> None:
    """Measure, and say it in words."""
    moved, plain = measure(bench, runs)
    assert bench.bed.disk
    ours, bare = statistics.median(moved), statistics.median(plain)
    bench.say(f"a record every {1000 * pace(bench.bed.disk, bench.run):.1f} ms")
    for name, seconds in (("with the handover", moved), ("without", plain)):
        bench.say(f"{name:18} {statistics.median(seconds):7.3f} s, the median of "
                  + ", ".join(f"{each:.3f}" for each in sorted(seconds)))
    bench.say(f"ratio              {ours / bare:7.1f}")

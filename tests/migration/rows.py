"""The rows of docs/qemu-behaviour.md: each does one thing and holds QEMU to what the table says."""
from __future__ import annotations

from collections.abc import Callable

from tests.migration.bench import Bench, Wrong

ROWS: dict[str, Callable[[Bench], None]] = {}
PAUSE = "pause-before-switchover"


def row(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
    ROWS[function.__name__.replace("_", "-")] = function
    return function


def expect(what: str, found: object, *wanted: object) -> None:
    """Hold an observation to what the table says."""
    if found not in wanted:
        raise Wrong(f"{what}: {found!r}, not {' or '.join(map(repr, wanted))}")


def moved(bench: Bench, destination: object) -> None:
    """The destination serves: it writes, holds the reservation, and the source is taken down."""
    from tests.migration.bench import Vm
    assert isinstance(destination, Vm)
    source = bench.vm
    if not bench.writes(destination):
        raise Wrong(f"{destination.name}: the guest does not write; {destination.said()[-200:]!r}")
    source.kill()
    bench.remove(source.host)
    bench.source_vm = destination


def stayed(bench: Bench, destination: object, remove: bool = True) -> None:
    """The source serves; what is left of the destination is taken away."""
    from tests.migration.bench import Vm
    assert isinstance(destination, Vm)
    expect("source", bench.vm.status(), "running")
    if not bench.writes(bench.vm):
        raise Wrong(f"{bench.vm.name}: the guest does not write")
    destination.kill()
    if remove:
        bench.remove(destination.host)


@row
def commit(bench: Bench) -> None:
    """-S; completed; source occupied; export, import; cont."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    bench.migrate(cable)
    expect("source", source.wait("completed", "failed", "gone"), "completed")
    expect("destination", destination.wait("completed", "failed", "gone"), "completed")
    expect("source", source.status(), "postmigrate")
    expect("destination", destination.status(), "paused", "inmigrate")
    document = bench.export(source.host)
    with bench.occupy(source.host):
        bench.same(source.host, document)
        bench.activate(destination.host, document)
        expect("cont", destination.ask("cont"), "ok")
        expect("destination", destination.status(), "running")
        if not bench.writes(destination):
            raise Wrong("the guest does not write")
    moved(bench, destination)
    bench.judge()


@row
def pre_switchover(bench: Bench) -> None:
    """pause-before-switchover: export, import, migrate-continue."""
    source = bench.guest()
    destination, cable = bench.incoming()
    bench.migrate(cable, PAUSE)
    expect("source", source.wait("pre-switchover", "failed", "gone"), "pre-switchover")
    document = bench.export(source.host)
    bench.activate(destination.host, document)
    expect("continue", source.ask("migrate-continue", state="pre-switchover"), "ok")
    expect("source", source.wait("completed", "failed", "gone"), "completed")
    expect("destination", destination.wait("completed", "failed", "gone"), "completed")
    moved(bench, destination)
    bench.judge()

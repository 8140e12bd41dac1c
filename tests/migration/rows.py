"""The rows of docs/reference/qemu-behaviour.md.

Each does one thing and holds QEMU to what the table says.
"""
from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.lab.host import Host
from tests.migration import inhost
from tests.migration.bench import Bench, Vm, Wrong
from tests.migration.helpers import OBJECT, Helpers
from tests.migration.net import Cable
from tests.migration.product import TARGET, Pair
from tests.support import invmstate

ROWS: dict[str, Callable[[Bench], None]] = {}
PAUSE = "pause-before-switchover"
ENDS = ("completed", "failed", "cancelled", "gone")


def row(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """Name it as people type it."""
    ROWS[function.__name__.replace("_", "-")] = function
    return function


def expect(what: str, found: object, *wanted: object) -> None:
    """Hold an observation to what the table says."""
    if found not in wanted:
        raise Wrong(f"{what}: {found!r}, not {' or '.join(map(repr, wanted))}")


def moved(bench: Bench, destination: Vm) -> None:
    """The destination serves: it writes, holds the reservation, and the source is taken down."""
    source = bench.vm
    if not bench.writes(destination):
        raise Wrong(f"{destination.name}: the guest does not write; {destination.said()[-200:]!r}")
    source.kill()
    bench.remove(source.host)
    bench.source_vm = destination
    bench.judge()
    if inhost.NEXUS not in bench.reservation(destination.host):
        raise Wrong(f"{destination.host.name}: {bench.reservation(destination.host)!r}")


def stayed(bench: Bench, destination: Vm, remove: bool = False) -> None:
    """The source serves; what is left of the destination is taken away."""
    expect("source", bench.vm.status(), "running")
    if not bench.writes(bench.vm):
        raise Wrong(f"{bench.vm.name}: the guest does not write")
    destination.kill()
    if remove:
        bench.remove(destination.host)
    bench.vm.host.call(inhost.thaw)
    bench.judge()
    if inhost.NEXUS not in bench.reservation(bench.vm.host):
        raise Wrong(f"{bench.vm.host.name}: {bench.reservation(bench.vm.host)!r}")


def lost(bench: Bench) -> None:
    """Nobody executes the guest any more; what it wrote is all there."""
    bench.note("bench", "the guest is lost")
    bench.judge()
    bench.clear()


def to_pre_switchover(bench: Bench, *words: str) -> tuple[Vm, Vm, Cable]:
    """A migration that waits in pre-switchover, the destination with the state imported."""
    source = bench.guest()
    destination, cable = bench.incoming(*words)
    bench.migrate(cable, PAUSE)
    expect("source", source.wait("pre-switchover", *ENDS), "pre-switchover")
    expect("query-status", source.status(), "finish-migrate")
    document = bench.export(source.host)
    bench.activate(destination.host, document)
    return source, destination, cable


def to_completed(bench: Bench, bandwidth: int = 1 << 30) -> tuple[Vm, Vm, bytes]:
    """A migration that has completed, the destination waiting for `cont`."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    bench.migrate(cable, bandwidth=bandwidth)
    expect("source", source.wait(*ENDS), "completed")
    expect("destination", destination.wait(*ENDS), "completed")
    expect("source", source.status(), "postmigrate")
    expect("destination", destination.status(), "paused")
    return source, destination, bench.export(source.host)


def to_unconfirmed(bench: Bench, *words: str) -> tuple[Vm, Vm, Cable]:
    """The destination has everything, and what it says about that does not reach the source."""
    source, destination, cable = to_pre_switchover(bench, *words)
    cable.hold("back")
    expect("continue", source.ask("migrate-continue", state="pre-switchover"), "ok")
    expect("destination", destination.wait(*ENDS), "completed")
    expect("destination", destination.status(), "paused" if words else "running")
    time.sleep(2)
    expect("source waits", source.migration(), "device")
    return source, destination, cable


# ── ways that work ───────────────────────────────────────────────────────────────────────────

@row
def commit(bench: Bench) -> None:
    """-S; completed; source frozen, exported, occupied; import; cont on the destination."""
    source, destination, document = to_completed(bench)
    with bench.occupy(source.host):
        bench.same(source.host, document)
        bench.activate(destination.host, document)
        expect("cont", destination.ask("cont"), "ok")
        expect("destination", destination.status(), "running")
        if not bench.writes(destination):
            raise Wrong("the guest does not write")
    moved(bench, destination)


@row
def vhost_qmp(bench: Bench) -> None:
    """The protocol's own order: import in pre-switchover with both gates shut, -S, cont."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    bench.migrate(cable, PAUSE)
    expect("source", source.wait("pre-switchover", *ENDS), "pre-switchover")
    document = bench.export(source.host)
    bench.activate(destination.host, document)
    with bench.occupy(destination.host):
        expect("continue", source.ask("migrate-continue", state="pre-switchover"), "ok")
        expect("source", source.wait(*ENDS), "completed")
        expect("destination", destination.wait(*ENDS), "completed")
        held = bench.occupy(source.host)
        held.__enter__()
        bench.same(source.host, document)
    try:
        expect("cont", destination.ask("cont"), "ok")
        expect("destination", destination.status(), "running")
        if not bench.writes(destination):
            raise Wrong("the guest does not write")
    finally:
        held.__exit__(None, None, None)
    moved(bench, destination)


@row
def slow_copy(bench: Bench) -> None:
    """As commit, but RAM is copied slowly while the disk writes into it."""
    source, destination, document = to_completed(bench, 6 << 20)
    bench.note(source.name, f"passes: {source.qmp('query-migrate')['ram']['dirty-sync-count']}")
    with bench.occupy(source.host):
        bench.activate(destination.host, document)
        expect("cont", destination.ask("cont"), "ok")
        if not bench.writes(destination, 50):
            raise Wrong("the guest does not write")
    moved(bench, destination)


@row
def pre_switchover(bench: Bench) -> None:
    """No -S: export and import in pre-switchover, migrate-continue."""
    source, destination, _ = to_pre_switchover(bench)
    expect("cont is refused", source.ask("cont"), "Migration is not finalized yet")
    expect("continue", source.ask("migrate-continue", state="pre-switchover"), "ok")
    expect("source", source.wait(*ENDS), "completed")
    expect("destination", destination.wait(*ENDS), "completed")
    moved(bench, destination)


class _InBand:
    """A guest whose QEMU asks lio-handover-vmstate, a handover in QEMU's stream, if that is
    ``staged``, and a QEMU that waits for the guest, -S."""

    def __init__(self, bench: Bench, staged: bool = True) -> None:
        bench.clear()       # the object has to be there from the start
        Pair(bench)         # the service on both hosts
        self.bench = bench
        self.helpers = Helpers(bench.hosts)
        self.helpers.helpers(TARGET)
        self.source = bench.fresh(*OBJECT)
        if staged:
            self.helpers.stage(TARGET)
        self.destination, self.cable = bench.incoming("-S", *OBJECT)
        self.helpers.rest()

    @property
    def here(self) -> Host:
        return self.source.host

    @property
    def there(self) -> Host:
        return self.destination.host

    def migrate(self, *ends: str) -> None:
        """Migrate, and see how it ends at the source."""
        self.bench.migrate(self.cable)
        expect("source", self.source.wait(*ENDS), *ends)

    def hangs(self, host: Host, record: str) -> None:
        """Migrate, and have this host's helper hang in its work, as soon as the handover's journal
        has such a record, until its own deadline has passed and the migration has failed."""
        with ThreadPoolExecutor(1) as other:
            hung = other.submit(host.call, invmstate.hang, record, timeout=150)
            self.migrate("failed")
            self.bench.note(host.name, f"its helper hangs: {hung.result()}")
        expect("destination", self.destination.wait("gone"), "gone")
        if not self.bench.writes(self.source):
            raise Wrong(f"{self.source.name}: the guest does not write")
        state = self.helpers.states()[self.bench.hosts.index(host)]
        self.bench.note(host.name, f"its side of the handover is {state}")
        host.call(invmstate.go_on)

    def stays(self, *states: str) -> None:
        """The guest runs on where it was; both hosts come to these states by themselves."""
        if states:
            self.helpers.until(*states)
        for host in self.bench.hosts:
            self.bench.note(host.name, self.helpers.told(host))
        expect("source", self.source.status(), "running")
        if not self.bench.writes(self.source):
            raise Wrong(f"{self.source.name}: the guest does not write")
        self.bench.judge()
        if inhost.NEXUS not in self.bench.reservation(self.here):
            raise Wrong(f"{self.here.name}: {self.bench.reservation(self.here)!r}")
        self.bench.clear()


@row
def dbus_vmstate(bench: Bench) -> None:
    """-S; lio-handover-vmstate freezes and exports in Save(), loads in Load(); cont."""
    trial = _InBand(bench)
    trial.migrate("completed")
    destination = trial.destination
    expect("destination", destination.wait(*ENDS), "completed")
    expect("destination", destination.status(), "paused")
    expect("handovers", trial.helpers.states(), ["frozen", "armed"])
    before = destination.host.call(inhost.commands)
    bench.note(destination.host.name, f"num_cmds {before} after Load(), "
               f"{destination.host.call(inhost.port_commands)} through the port")
    time.sleep(2)
    expect("num_cmds before cont", destination.host.call(inhost.commands), before)
    expect("cont", destination.ask("cont"), "ok")
    expect("destination", destination.status(), "running")
    trial.helpers.until("retired", "confirmed")
    if not bench.writes(destination):
        raise Wrong(f"{destination.name}: the guest does not write; {destination.said()[-200:]!r}")
    expect("num_cmds went on", destination.host.call(inhost.commands) > before, True)
    bench.judge()
    if inhost.NEXUS not in bench.reservation(destination.host):
        raise Wrong(f"{destination.host.name}: {bench.reservation(destination.host)!r}")
    bench.clear()


@row
def dbus_load_fails(bench: Bench) -> None:
    """As dbus-vmstate, but nothing was prepared, so Load() answers with an error."""
    trial = _InBand(bench, staged=False)
    trial.migrate("failed")
    expect("destination", trial.destination.wait("gone", "completed"), "gone")
    expect("Load()", "without a handover of its targets" in trial.helpers.told(trial.there), True)
    trial.stays()


@row
def dbus_save_fails(bench: Bench) -> None:
    """As dbus-vmstate, but the helper of the source is gone when Save() is called."""
    trial = _InBand(bench)
    trial.here.call(invmstate.end_helper, signal.SIGKILL)
    trial.migrate("failed")
    time.sleep(5)
    expect("destination", trial.destination.status(), "inmigrate")
    expect("handovers", trial.helpers.states(), ["prepared", "staged"])
    trial.stays()


@row
def dbus_save_hangs(bench: Bench) -> None:
    """As dbus-vmstate, but Save() hangs once it has frozen, and goes on when it is too late."""
    trial = _InBand(bench)
    trial.hangs(trial.here, '"state": "frozen"')
    trial.stays("idle", "none")


@row
def dbus_load_hangs(bench: Bench) -> None:
    """As dbus-vmstate, but Load() hangs while it loads, and goes on when it is too late."""
    trial = _InBand(bench)
    trial.hangs(trial.there, '"record": "loading"')
    trial.stays("idle", "none")


def _late(bench: Bench, fail: str = "", source: str = "") -> tuple[Vm, Vm, Cable]:
    """A guest whose QEMU asks a helper of this test's, which is late on one side, and a destination
    for it, -S."""
    bench.clear()
    vm = bench.fresh("-object", _vmstate(bench, bench.hosts[0], source))
    destination, cable = bench.incoming("-S", "-object", _vmstate(bench, bench.hosts[1], fail))
    return vm, destination, cable


def _vmstate(bench: Bench, host: Host, fail: str = "") -> str:
    bus = bench.helper(host, fail)
    return f"dbus-vmstate,id=lio,addr=unix:path={bus},id-list=lio-handover"


@row
def dbus_save_late(bench: Bench) -> None:
    """A helper that lets QEMU wait: its Save() takes 30 s."""
    source, destination, cable = _late(bench, source="Save late")
    bench.migrate(cable)
    expect("source", source.wait(*ENDS), "failed")
    time.sleep(10)
    expect("destination", destination.status(), "exit 1")
    expect("frozen in vain", "vhost/" + inhost.WWPN in source.host.call(inhost.frozen), True)
    stayed(bench, destination)
    bench.clear()


@row
def dbus_load_late(bench: Bench) -> None:
    """A helper that lets QEMU wait: its Load() takes 30 s and then opens the gate."""
    source, destination, cable = _late(bench, "Load late")
    bench.migrate(cable)
    expect("source", source.wait(*ENDS), "failed")
    expect("destination", destination.wait("gone"), "gone")
    expect("destination's endpoint", destination.host.call(inhost.occupied), "errno 19")
    time.sleep(12)
    expect("destination's endpoint", destination.host.call(inhost.occupied), "free")
    stayed(bench, destination, remove=True)
    bench.clear()


# ── nothing to attach to ─────────────────────────────────────────────────────────────────────

@row
def no_target(bench: Bench) -> None:
    """-S; cont on a destination that has no target; then cont on the source."""
    source, destination, _ = to_completed(bench)
    destination.ask("cont")
    expect("destination", destination.wait("gone"), "gone")
    expect("exit", destination.program.returncode, 1)
    bench.note(destination.name, f"{destination.story()}; {destination.complaints()}")
    expect("source", source.status(), "postmigrate")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination)


@row
def no_target_autostart(bench: Bench) -> None:
    """No -S; a destination that has no target."""
    source = bench.guest()
    destination, cable = bench.incoming()
    bench.migrate(cable)
    expect("source", source.wait(*ENDS), "failed")
    expect("destination", destination.wait("gone"), "gone")
    bench.note(destination.name, f"{destination.story()}; {destination.complaints()}")
    stayed(bench, destination)


@row
def no_target_no_return_path(bench: Bench) -> None:
    """No -S, no return-path; a destination that has no target; then cont on the source."""
    source = bench.guest()
    destination, cable = bench.incoming(capabilities=("events",))
    bench.migrate(cable, return_path=False)
    expect("source", source.wait(*ENDS), "completed")
    expect("destination", destination.wait("gone"), "gone")
    expect("source", source.status(), "postmigrate")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination)


@row
def cont_too_early(bench: Bench) -> None:
    """-S, but `cont` was sent to the waiting destination, which has no target."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    expect("cont", destination.ask("cont"), "ok")
    expect("destination", destination.status(), "inmigrate")
    bench.migrate(cable)
    expect("source", source.wait(*ENDS), "failed")
    expect("destination", destination.wait("gone"), "gone")
    stayed(bench, destination)


@row
def stop_while_incoming(bench: Bench) -> None:
    """No -S; `stop` sent while the destination waits in inmigrate."""
    source = bench.guest()
    destination, cable = bench.incoming()
    expect("stop", destination.ask("stop"), "ok")
    expect("destination", destination.status(), "inmigrate")
    bench.migrate(cable)
    expect("source", source.wait(*ENDS), "completed")
    expect("destination", destination.wait(*ENDS), "completed")
    time.sleep(2)
    expect("destination", destination.status(), "paused")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination)


@row
def destination_occupied(bench: Bench) -> None:
    """-S; cont on the destination while our own initiator still sits on its endpoint."""
    source, destination, document = to_completed(bench)
    bench.activate(destination.host, document)
    with bench.occupy(destination.host):
        destination.ask("cont")
        expect("destination", destination.wait("gone"), "gone")
        bench.note(destination.name, f"{destination.story()}; {destination.complaints()}")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination, remove=True)


# ── the source resumes ───────────────────────────────────────────────────────────────────────

@row
def source_resumes_occupied(bench: Bench) -> None:
    """As commit; while the destination serves, cont on the source, whose endpoint is occupied."""
    source, destination, document = to_completed(bench)
    bench.activate(destination.host, document)
    with bench.occupy(source.host):
        expect("cont", destination.ask("cont"), "ok")
        if not bench.writes(destination):
            raise Wrong("the guest does not write")
        source.ask("cont")
        expect("source", source.wait("gone"), "gone")
        bench.note(source.name, f"exit {source.program.returncode}; {source.story()}; "
                                f"{source.complaints()}")
    moved(bench, destination)


@row
def source_resumes_unoccupied(bench: Bench) -> None:
    """As commit without the occupier: cont on the source while the destination serves."""
    source, destination, document = to_completed(bench)
    bench.activate(destination.host, document)
    expect("cont", destination.ask("cont"), "ok")
    if not bench.writes(destination):
        raise Wrong("the guest does not write")
    expect("cont", source.ask("cont"), "ok")
    expect("both write", (bench.writes(source), bench.writes(destination)), (True, True))
    bench.judge(twice=True)
    bench.clear()


@row
def occupied_too_early(bench: Bench) -> None:
    """Source occupied in pre-switchover already; then migrate_cancel."""
    source, destination, _ = to_pre_switchover(bench)
    with bench.occupy(source.host):
        source.ask("migrate_cancel")
        expect("source", source.wait("gone"), "gone")
        bench.note(source.name, f"{source.story()}; {source.complaints()}")
        expect("destination", destination.wait("gone"), "gone")
    lost(bench)


@row
def cancel_pre_switchover(bench: Bench) -> None:
    """migrate_cancel in pre-switchover, the destination has imported."""
    source, destination, _ = to_pre_switchover(bench)
    expect("cancel", source.ask("migrate_cancel"), "ok")
    expect("source", source.wait("cancelled", "gone"), "cancelled")
    expect("destination", destination.wait("gone"), "gone")
    stayed(bench, destination, remove=True)


@row
def postmigrate_stays(bench: Bench) -> None:
    """completed; our monitors hang up, the destination's QEMU is killed; a minute passes."""
    source, destination, _ = to_completed(bench)
    source.hang_up()
    destination.kill()
    time.sleep(60)
    source.call_again()
    expect("source", source.status(), "postmigrate")
    expect("source's endpoint", source.host.call(inhost.occupied), "free")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination)


# ── the guest is stopped first ───────────────────────────────────────────────────────────────

def _stopped(bench: Bench) -> tuple[Vm, Vm, Cable, bytes]:
    """A guest that was stopped, its state imported before its RAM is copied; no -S."""
    source = bench.guest()
    destination, cable = bench.incoming()
    expect("stop", source.ask("stop"), "ok")
    document = bench.export(source.host)
    bench.activate(destination.host, document)
    return source, destination, cable, document


@row
def stopped(bench: Bench) -> None:
    """stop, export, import, migrate, no -S; completed; source occupied; cont."""
    source, destination, cable, document = _stopped(bench)
    bench.migrate(cable)
    expect("source", source.wait(*ENDS), "completed")
    expect("destination", destination.wait(*ENDS), "completed")
    expect("source", source.status(), "postmigrate")
    expect("destination", destination.status(), "paused")
    expect("destination's endpoint", destination.host.call(inhost.occupied), "free")
    with bench.occupy(source.host):
        bench.same(source.host, document)
        expect("cont", destination.ask("cont"), "ok")
        expect("destination", destination.status(), "running")
    moved(bench, destination)


@row
def stopped_cut_active(bench: Bench) -> None:
    """As stopped; connection reset while RAM is copied."""
    source, destination, cable, _ = _stopped(bench)
    bench.migrate(cable, bandwidth=1 << 20)
    expect("source", source.wait("active", "completed", "failed"), "active")
    time.sleep(1)
    cable.cut()
    expect("source", source.wait(*ENDS), "failed")
    expect("destination", destination.wait("gone"), "gone")
    time.sleep(2)
    expect("source", source.status(), "paused")
    expect("source's endpoint", source.host.call(inhost.occupied), "free")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination, remove=True)


@row
def stopped_cut_unconfirmed(bench: Bench) -> None:
    """As stopped; the destination has everything, its word is lost, the connection is reset."""
    source, destination, cable, _ = _stopped(bench)
    bench.migrate(cable, PAUSE)
    expect("source", source.wait("pre-switchover", *ENDS), "pre-switchover")
    cable.hold("back")
    expect("continue", source.ask("migrate-continue", state="pre-switchover"), "ok")
    expect("destination", destination.wait(*ENDS), "completed")
    cable.cut()
    expect("source", source.wait(*ENDS), "failed")
    time.sleep(2)
    bench.note(source.name, source.status())
    expect("source", source.status(), "postmigrate", "paused")  # newer QEMUs: what it was before
    expect("source's endpoint", source.host.call(inhost.occupied), "free")
    expect("destination", destination.status(), "paused")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination, remove=True)


# ── the network ──────────────────────────────────────────────────────────────────────────────

@row
def cut_active(bench: Bench) -> None:
    """Connection reset while RAM is copied."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    bench.migrate(cable, bandwidth=1 << 20)
    expect("source", source.wait("active", "completed", "failed"), "active")
    time.sleep(1)
    cable.cut()
    bench.note("cable", "reset")
    expect("source", source.wait(*ENDS), "failed")
    expect("destination", destination.wait("gone"), "gone")
    expect("never stopped", "STOP" in source.story(), False)
    stayed(bench, destination)


@row
def cut_pre_switchover(bench: Bench) -> None:
    """Connection reset in pre-switchover, the destination has imported; then migrate-continue."""
    source, destination, cable = to_pre_switchover(bench)
    cable.cut()
    bench.note("cable", "reset")
    expect("destination", destination.wait("gone"), "gone")
    time.sleep(3)
    bench.note(source.name, f"{source.migration()}, {source.status()}, {source.story()}")
    if source.status() != "running":
        source.ask("migrate-continue", state="pre-switchover")
        expect("source", source.wait(*ENDS), "failed")
    stayed(bench, destination, remove=True)


@row
def cut_after_resume(bench: Bench) -> None:
    """No -S: the destination runs, its word is lost and the connection is reset."""
    source, destination, cable = to_unconfirmed(bench)
    cable.cut()
    bench.note("cable", "reset")
    expect("source", source.wait(*ENDS), "failed")
    expect("source", source.status(), "running")
    expect("both write", (bench.writes(source), bench.writes(destination)), (True, True))
    bench.judge(twice=True)
    bench.clear()


@row
def cut_after_load_paused(bench: Bench) -> None:
    """-S: the destination has everything, its word is lost and the connection is reset."""
    source, destination, cable = to_unconfirmed(bench, "-S")
    cable.cut()
    bench.note("cable", "reset")
    expect("source", source.wait(*ENDS), "failed")
    expect("source", source.status(), "running")
    expect("destination", destination.status(), "paused")
    expect("its migration", destination.migration(), "completed")
    expect("occupying the source's endpoint", source.host.call(inhost.occupied), "errno 19")
    stayed(bench, destination, remove=True)


@row
def silent_after_resume(bench: Bench) -> None:
    """No -S: the destination runs, its word is lost, nothing is reset; then migrate_cancel."""
    source, destination, _ = to_unconfirmed(bench)
    source.ask("cont")
    source.ask("migrate_cancel")
    expect("source", source.wait("cancelled", "failed", "gone"), "cancelled", "failed")
    expect("source", source.status(), "running")
    expect("both write", (bench.writes(source), bench.writes(destination)), (True, True))
    bench.judge(twice=True)
    bench.clear()


@row
def silent_after_load_paused(bench: Bench) -> None:
    """-S: the destination has everything, its word is lost; then migrate_cancel."""
    source, destination, _ = to_unconfirmed(bench, "-S")
    source.ask("cont")
    source.ask("migrate_cancel")
    expect("source", source.wait("cancelled", "failed", "gone"), "cancelled", "failed")
    expect("destination", destination.status(), "paused")
    stayed(bench, destination, remove=True)


# ── the parties die ──────────────────────────────────────────────────────────────────────────

@row
def kill_destination_active(bench: Bench) -> None:
    """SIGKILL of the destination's QEMU while RAM is copied."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    bench.migrate(cable, bandwidth=1 << 20)
    expect("source", source.wait("active", *ENDS), "active")
    destination.kill()
    expect("source", source.wait(*ENDS), "failed")
    expect("never stopped", "STOP" in source.story(), False)
    stayed(bench, destination)


@row
def kill_destination_pre_switchover(bench: Bench) -> None:
    """SIGKILL of the destination's QEMU in pre-switchover, its host has imported."""
    source, destination, _ = to_pre_switchover(bench)
    destination.kill()
    time.sleep(3)
    bench.note(source.name, f"{source.migration()}, {source.status()}, {source.story()}")
    if source.status() != "running":
        source.ask("migrate-continue", state="pre-switchover")
        expect("source", source.wait(*ENDS), "failed")
    stayed(bench, destination, remove=True)


@row
def kill_destination_unconfirmed(bench: Bench) -> None:
    """SIGKILL of the destination's QEMU, which had everything, -S, and could not say so."""
    source, destination, cable = to_unconfirmed(bench, "-S")
    destination.kill()
    cable.cut()     # as its host's kernel would
    expect("source", source.wait(*ENDS), "failed")
    stayed(bench, destination, remove=True)


@row
def kill_destination_completed(bench: Bench) -> None:
    """SIGKILL of the destination's QEMU between completed and cont; then cont on the source."""
    source, destination, document = to_completed(bench)
    bench.activate(destination.host, document)
    destination.kill()
    time.sleep(2)
    expect("source", source.status(), "postmigrate")
    expect("cont", source.ask("cont"), "ok")
    stayed(bench, destination, remove=True)


@row
def kill_destination_serving(bench: Bench) -> None:
    """SIGKILL of the destination after it served; then cont on the source, not occupied."""
    source, destination, document = to_completed(bench)
    bench.activate(destination.host, document)
    expect("cont", destination.ask("cont"), "ok")
    if not bench.writes(destination):
        raise Wrong("the guest does not write")
    destination.kill()
    expect("source", source.status(), "postmigrate")
    expect("cont", source.ask("cont"), "ok")
    expect("the source writes", bench.writes(source), True)
    bench.judge(twice=True)
    bench.clear()


@row
def kill_source_active(bench: Bench) -> None:
    """SIGKILL of the source's QEMU while RAM is copied."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    bench.migrate(cable, bandwidth=1 << 20)
    expect("source", source.wait("active", *ENDS), "active")
    source.kill()
    expect("destination", destination.wait("gone"), "gone")
    lost(bench)


@row
def kill_source_pre_switchover(bench: Bench) -> None:
    """SIGKILL of the source's QEMU in pre-switchover, the destination's host has imported."""
    source, destination, _ = to_pre_switchover(bench)
    source.kill()
    expect("destination", destination.wait("gone"), "gone")
    lost(bench)


@row
def kill_source_unconfirmed(bench: Bench) -> None:
    """SIGKILL of the source's QEMU, which waits for the word of a destination with -S."""
    source, destination, _ = to_unconfirmed(bench, "-S")
    source.kill()
    time.sleep(1)
    expect("destination", destination.status(), "paused")
    with bench.occupy(source.host):
        expect("cont", destination.ask("cont"), "ok")
        expect("destination", destination.status(), "running")
        if not bench.writes(destination):
            raise Wrong("the guest does not write")
    moved(bench, destination)


@row
def kill_source_completed(bench: Bench) -> None:
    """SIGKILL of the source's QEMU between completed and export; the handover goes on."""
    source = bench.guest()
    destination, cable = bench.incoming("-S")
    bench.migrate(cable)
    expect("source", source.wait(*ENDS), "completed")
    expect("destination", destination.wait(*ENDS), "completed")
    source.kill()
    document = bench.export(source.host)
    with bench.occupy(source.host):
        bench.same(source.host, document)
        bench.activate(destination.host, document)
        expect("cont", destination.ask("cont"), "ok")
        if not bench.writes(destination):
            raise Wrong("the guest does not write")
    moved(bench, destination)


# ── the kernel's side ────────────────────────────────────────────────────────────────────────

@row
def descriptor_outlives(bench: Bench) -> None:
    """No QEMU: an occupier hands its descriptor to another process and is killed."""
    vm = bench.guest()
    vm.ask("stop")
    expect("(while both, after the kill, after the close)",
           vm.host.call(inhost.handed_over), ("errno 19", "errno 19", "free"))
    vm.ask("cont")
    if not bench.writes(vm):
        raise Wrong("the guest does not write")
    bench.judge()


@row
def attach_is_not_counted(bench: Bench) -> None:
    """No QEMU: num_cmds before and after our initiator was attached without a command."""
    vm = bench.guest()
    vm.ask("stop")
    before = vm.host.call(inhost.commands)
    expect("endpoint", vm.host.call(inhost.occupied), "free")
    expect("num_cmds", vm.host.call(inhost.commands), before)
    vm.ask("cont")
    if not bench.writes(vm):
        raise Wrong("the guest does not write")
    expect("num_cmds went on", vm.host.call(inhost.commands) > before, True)
    bench.judge()

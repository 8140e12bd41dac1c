"""The rows of docs/reference/qemu-behaviour.md that need no vhost-scsi, on QEMUs of this machine.

    python3 -m tests.migration plain [--qemu 7.2|newest] [ROW...]

They are the same functions (rows.py).  The guest is firmware that says its records (firmware.py),
there is no disk, so what is done to a target is left out, and an endpoint is free where no QEMU of
that side runs its guest, which is when QEMU would have left it.
"""
from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.bed import GATEWAY, Lab
from tests.lab.host import CHECKOUT
from tests.lab.newest import QEMUS
from tests.migration import firmware, inhost
from tests.migration.bench import Bench, Records, Vm, Wrong
from tests.migration.net import Cable, QmpError, Sockets
from tests.migration.rows import ENDS, ROWS, expect, moved

#: Rows that are what they are without a disk.
PLAIN = ("commit", "vhost-qmp", "pre-switchover", "stop-while-incoming",
         "source-resumes-unoccupied", "cancel-pre-switchover", "stopped", "stopped-cut-active",
         "stopped-cut-unconfirmed", "cut-active", "cut-pre-switchover", "cut-after-resume",
         "cut-after-load-paused", "silent-after-resume", "silent-after-load-paused",
         "kill-destination-active", "kill-destination-pre-switchover",
         "kill-destination-unconfirmed", "kill-destination-completed", "kill-destination-serving",
         "kill-source-active", "kill-source-pre-switchover", "kill-source-unconfirmed",
         "kill-source-completed", "postmigrate-stays", "dbus-save-late")
#: What QEMU says or does that is none of the table's rows: name → what is done.
MORE: dict[str, Callable[[PlainBench], None]] = {}
_NOISE = 8 << 20


class _Process:
    """A program of this machine, as a host's."""

    def __init__(self, bed: Lab, argv: list[str], told: Path, **options: Any) -> None:
        self._told = told
        with told.open("wb") as file:
            self._process = bed.namespace.popen(argv, stdin=subprocess.DEVNULL, stdout=file,
                                                stderr=file, **options)

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float = 60) -> int:
        return self._process.wait(timeout)

    def kill(self) -> None:
        self._process.kill()

    def stderr_so_far(self) -> bytes:
        return self._told.read_bytes()

    stdout_so_far = stderr_so_far


class Side:
    """What is a host to a row: here it only tells its QEMUs from the other side's."""

    address = GATEWAY

    def __init__(self, bench: PlainBench, name: str) -> None:
        self.bench, self.name = bench, name

    def popen(self, argv: list[str], **options: Any) -> _Process:
        return _Process(self.bench.bed, argv, self.bench.folder / f"told-{self.bench.next()}",
                        **options)

    def call(self, function: Callable[..., Any], *_: Any, **__: Any) -> Any:
        """What a function of inhost.py would say."""
        if function is inhost.occupied:
            runs = any(vm.status() == "running" for vm in self.bench.vms
                       if vm.host is self and vm.program.poll() is None)  # type: ignore
            return "errno 19" if runs else "free"
        if function is inhost.frozen:
            return [f"vhost/{inhost.WWPN}"]
        assert function is inhost.thaw, function
        return None


class PlainBench(Bench):
    """Two QEMUs at a time, and what their guest says."""

    def __init__(self, bed: Lab, age: str, say: Callable[[str], None]) -> None:
        self.bed, self.say, self.age = bed, say, age
        self.program = QEMUS[age]()
        self.hosts = [Side(self, "a"), Side(self, "b")]  # type: ignore
        self.sockets = Sockets(bed)
        self.folder = bed.shared / f"qemu-{age}"
        self.folder.mkdir()
        self.run = 0
        self.heard = lambda vm, name, data: None
        self.started = time.monotonic()
        self.vms: list[Vm] = []
        self.source_vm = None
        self._ports = itertools.count(4446)
        self._holds = itertools.count()
        self._helpers = {}
        self._numbers = itertools.cycle(range(1, 10))
        self.image = firmware.write(self.folder / "firmware")
        self.noise = self.folder / "noise"
        self.noise.write_bytes(bytes(range(1, 256)) * (_NOISE // 255))
        version = subprocess.run([*self.program, "--version"], stdout=subprocess.PIPE, text=True,
                                 check=True)
        self.version = version.stdout.splitlines()[0]

    def next(self) -> int:
        return next(self._holds)

    def machine(self, vm: Vm) -> list[str]:
        return [*self.program, "-machine", "pc-i440fx-7.2", "-accel", "tcg", "-cpu", firmware.CPU,
                "-m", "16", "-nodefaults", "-no-user-config", "-display", "none",
                "-bios", str(self.image),
                *firmware.console(str(vm.said_path), vm.number),
                "-device", f"loader,file={self.noise},addr=0x200000,force-raw=on"]

    def fresh(self, *words: str, build: bool = True, host: Any = None) -> Vm:
        self.run += 1
        self.note("bench", f"a new guest, run {self.run}")
        vm = self.source_vm = self.start(host or self.hosts[0], list(words))
        self.until(lambda: "a 10 " in vm.said(), "the guest says records", vm)
        vm.forget()
        return vm

    def clear(self) -> None:
        for vm in self.vms:
            vm.kill()
        for programs in self._helpers.values():
            for program in programs:
                program.kill()
        self._helpers.clear()
        self.vms.clear()
        self.source_vm = None

    def close(self) -> None:
        self.clear()
        self.sockets.close()

    def helper(self, host: Any, fail: str = "") -> str:
        bus = f"{self.folder}/bus-{self.next()}"
        programs = self._helpers.setdefault(host.name, [])
        programs.append(host.popen(["dbus-daemon", "--session", "--nofork",
                                    f"--address=unix:path={bus}"]))
        programs.append(host.popen(["/usr/bin/python3", "-m", "tests.migration.vmstate", bus, fail,
                                    "plain"], cwd=CHECKOUT))
        until = time.monotonic() + 60
        while b"ready" not in programs[-1].stdout_so_far():
            if programs[-1].poll() is not None or time.monotonic() > until:
                raise Wrong(f"no helper: {programs[-1].stderr_so_far()!r}")
            time.sleep(0.1)
        return bus

    # ── a target, which there is none of ──────────────────────────────────────────────────────

    def export(self, host: Any) -> bytes:
        return b""

    def activate(self, host: Any, document: bytes) -> None:
        pass

    same = activate

    @contextmanager
    def occupy(self, host: Any) -> Iterator[None]:
        yield

    def remove(self, host: Any) -> None:
        pass

    def reservation(self, host: Any) -> str:
        return inhost.NEXUS

    def judge(self, *, twice: bool = False) -> Records:
        """What the guest said: each number once, but for `twice`."""
        said = [path.read_text() for path in (vm.said_path for vm in self.vms) if path.exists()]
        found: dict[int, set[int]] = {}
        for number, qemu in firmware.records(said):
            found.setdefault(number, set()).add(qemu)
        records = Records(last=max(found, default=-1))
        for number in sorted(found):
            for qemu in found[number]:
                spans = records.spans.setdefault(qemu, [])
                if spans and spans[-1][1] == number - 1:
                    spans[-1] = (spans[-1][0], number)
                else:
                    spans.append((number, number))
        records.twice = sorted(number for number, by in found.items() if len(by) > 1)
        records.missing = sorted({*range(records.last)} - {*found})
        self.note("guest", str(records))
        if twice != bool(records.twice) or records.missing or not found:
            raise Wrong(f"{'two guests' if twice else 'one guest'} should have been seen: "
                        f"{records}")
        return records


def more(function: Callable[[PlainBench], None]) -> Callable[[PlainBench], None]:
    MORE[function.__name__.replace("_", "-")] = function
    return function


class _Asked:
    """A guest whose QEMU has the object dbus-vmstate, a destination for it, and helpers of a test's
    on both sides; ``fails``: what the one on the source and that on the destination do."""

    def __init__(self, bench: PlainBench, *fails: str) -> None:
        bench.clear()
        source, destination = (bench.helper(host, fail) for host, fail in zip(bench.hosts, fails))
        self.bench = bench
        self.source = bench.fresh(*_object(source))
        self.destination, self.cable = bench.incoming("-S", *_object(destination))

    def migrate(self, *ends: str) -> None:
        self.bench.migrate(self.cable)
        expect("source", self.source.wait(*ENDS, timeout=40), *ends)

    def told(self, number: int) -> list[str]:
        """What a helper was asked."""
        helper = self.bench._helpers[self.bench.hosts[number].name][1]
        return helper.stdout_so_far().decode().split()[1:]

    def goes_on(self) -> None:
        expect("source", self.source.status(), "running")
        if not self.bench.writes(self.source):
            raise Wrong("the guest does not write")
        self.bench.judge()


def _object(bus: str) -> tuple[str, str]:
    return "-object", f"dbus-vmstate,id=lio,addr=unix:path={bus},id-list=lio-handover"


@more
def dbus_carried(bench: PlainBench) -> None:
    """Save() before Load(), both before the destination runs."""
    trial = _Asked(bench, "", "")
    trial.migrate("completed")
    expect("helpers", (trial.told(0), trial.told(1)), (["Save"], ["Load", "loaded"]))
    expect("destination", trial.destination.status(), "paused")
    expect("cont", trial.destination.ask("cont"), "ok")
    moved(bench, trial.destination)


@more
def dbus_save_refused(bench: PlainBench) -> None:
    """Save() answers with an error."""
    trial = _Asked(bench, "Save refused", "")
    trial.migrate("failed")
    expect("destination", trial.destination.wait("gone"), "gone")
    trial.goes_on()


@more
def dbus_save_refused_no_return_path(bench: PlainBench) -> None:
    """The same without return-path."""
    trial = _Asked(bench, "Save refused", "")
    bench.migrate(trial.cable, return_path=False)
    expect("source", trial.source.wait(*ENDS), "completed")
    expect("source", trial.source.status(), "postmigrate")
    expect("destination", trial.destination.wait("gone"), "gone")


@more
def dbus_load_refused(bench: PlainBench) -> None:
    """Load() answers with an error."""
    trial = _Asked(bench, "", "Load refused")
    trial.migrate("failed")
    expect("destination", trial.destination.wait("gone"), "gone")
    trial.goes_on()


@more
def dbus_no_helper_here(bench: PlainBench) -> None:
    """The source's helper is gone."""
    trial = _Asked(bench, "", "")
    bench._helpers["a"][1].kill()
    time.sleep(0.3)
    trial.migrate("failed")
    time.sleep(2)
    expect("destination", trial.destination.status(),
           "inmigrate" if bench.age == "7.2" else "exit 1")
    trial.goes_on()


@more
def dbus_no_helper_there(bench: PlainBench) -> None:
    """The destination's helper is gone."""
    trial = _Asked(bench, "", "")
    bench._helpers["b"][1].kill()
    time.sleep(0.3)
    trial.migrate("failed")
    expect("destination", trial.destination.wait("gone"), "gone")
    trial.goes_on()


@more
def dbus_load_later(bench: PlainBench) -> None:
    """Load() takes 30 s."""
    trial = _Asked(bench, "", "Load late")
    began = time.monotonic()
    trial.migrate("failed")
    took = time.monotonic() - began
    expect("deadline", 24 < took < 28, True)
    expect("destination", trial.destination.wait("gone"), "gone")
    trial.goes_on()


@more
def no_exit_on_error(bench: PlainBench) -> None:
    """exit-on-error=off at migrate-incoming: the destination outlives a failed migration."""
    bench.clear()
    source = bench.fresh()
    destination = bench.start(bench.hosts[1], ["-incoming", "defer", "-S"])
    destination.capabilities("events", "return-path")
    port = next(bench._ports)
    try:
        destination.qmp("migrate-incoming", uri=f"tcp:{GATEWAY}:{port}",
                        **{"exit-on-error": False})
    except QmpError as error:
        bench.note(destination.name, str(error))
        expect("exit-on-error", bench.age, "7.2")
        expect("it says", str(error), "Parameter 'exit-on-error' is unexpected")
        return
    expect("exit-on-error", bench.age, "newest")
    cable = Cable(bench.sockets, GATEWAY, port)
    bench.migrate(cable, bandwidth=1 << 20)
    expect("source", source.wait("active", *ENDS), "active")
    time.sleep(1)
    cable.cut()
    expect("source", source.wait(*ENDS), "failed")
    expect("destination", destination.wait(*ENDS), "failed")
    time.sleep(1)
    bench.note(destination.name, f"{destination.status()}, {destination.migration()}, "
               f"cont: {destination.ask('cont')}, then {destination.status()}")
    expect("destination", destination.migration(), "failed")
    again = destination.ask("migrate-incoming", uri=f"tcp:{GATEWAY}:{next(bench._ports)}")
    bench.note(destination.name, f"listens again: {again}")
    bench.judge()


@more
def completed_before_its_times(bench: PlainBench) -> None:
    """Whether query-migrate knows how long it took as soon as it says completed."""
    unknown = 0
    for _ in range(10):
        source = bench.guest()
        destination, cable = bench.incoming("-S")
        bench.migrate(cable)
        while (told := source.qmp("query-migrate"))["status"] != "completed":
            pass
        unknown += not told.get("total-time")
        expect("destination", destination.wait(*ENDS), "completed")
        bench.clear()
    bench.note("bench", f"without its times: {unknown} of 10")
    if bench.age == "newest":
        expect("without its times", unknown, 0)


def rows() -> dict[str, Callable[[Any], None]]:
    """All that is shown here, by name."""
    return {**{name: ROWS[name] for name in PLAIN}, **MORE}


def main(words: list[str]) -> int:
    ages = list(QEMUS)
    if words[:1] == ["--qemu"]:
        ages, words = [words[1]], words[2:]
    failed = []
    with Lab(disk=0) as bed:
        for age in ages:
            bench = PlainBench(bed, age, lambda line: print(line, flush=True))
            print(bench.version)
            for name in words or rows():
                began = time.monotonic()
                print(f"\n== {name}", flush=True)
                try:
                    rows()[name](bench)
                    print(f"== {name}: as the table says ({time.monotonic() - began:.0f} s)")
                except Exception as error:  # noqa: B902 - the other rows are run all the same
                    failed.append(f"{age}:{name}")
                    print(f"== {name}: NOT as the table says: {error!r}", flush=True)
                bench.clear()
            bench.close()
    print(f"not as the table says: {' '.join(failed) or 'none'}")
    return 1 if failed else 0

"""Two hosts, a guest that moves between them, and what its disk tells about who ran when."""
from __future__ import annotations

import itertools
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lio_handover.document import document as documents
from tests.lab.bed import Lab
from tests.lab.errors import LabError
from tests.lab.host import CHECKOUT, Host, Program
from tests.lab.newest import QEMUS
from tests.migration import guest, image, inhost
from tests.migration.net import Cable, Json, Qmp, QmpError, Sockets
from tests.support import inhost as pipeline

ROLE = "vhost-newest"
GUEST_SECONDS = 180
_MIGRATION_PORT = 4446
_ACKNOWLEDGED = re.compile(r"^a (\d+) (\d)$", re.M)


class Wrong(Exception):
    """Not what the row says."""


class Vm:
    """One QEMU, `number` in what the guest writes down."""

    def __init__(self, bench: Bench, host: Host, number: int, words: list[str]) -> None:
        self.bench, self.host, self.number = bench, host, number
        self.name = f"QEMU {number} on {host.name}"
        self.said_path = bench.folder / f"said-{bench.run}-{number}"
        if self.said_path.exists():     # of an earlier QEMU of this number, which a move stopped
            with self.said_path.open("a") as file:
                file.write("\n")       # within a line, as it has stopped what comes first now
        self.events: list[tuple[float, str, Json]] = []
        self._happened = threading.Condition()
        self.port = port = 4400 + number
        argv = [*bench.machine(self), "-qmp", f"tcp:{host.address}:{port},server=on,wait=off",
                *words]
        self.program: Program = host.popen(argv)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.qmp = Qmp(bench.sockets.connect(host.address, port), self._heard)
                break
            except OSError:
                if self.program.poll() is not None or time.monotonic() > deadline:
                    raise Wrong(f"{self.name}: {self.complaints()}") from None
                time.sleep(0.1)

    def _heard(self, name: str, data: Json) -> None:
        if name == "MIGRATION_PASS":
            return
        self.bench.note(self.name, f"{name} {data.get('status', '')}".strip())
        with self._happened:
            self.events.append((time.monotonic(), name, data))
            self._happened.notify_all()
        self.bench.heard(self, name, data)

    def wait(self, *names: str, timeout: float = 60) -> str:
        """Wait for one of these: an event's name, or a migration's status.  "gone": it exited."""
        deadline = time.monotonic() + timeout
        while True:
            with self._happened:
                for word in self.story():
                    if word in names:
                        return word
                self._happened.wait(0.1)
            if "gone" in names and self.program.poll() is not None:
                self.bench.note(self.name, f"exit {self.program.returncode}")
                return "gone"
            if time.monotonic() > deadline:
                raise Wrong(f"{self.name}: no {' or '.join(names)} in {timeout:g} s, but "
                            f"{self.story()}; {self.complaints()}")

    def story(self) -> list[str]:
        """Events since `forget`; of MIGRATION the status."""
        return [data.get("status", "") if name == "MIGRATION" else name
                for _, name, data in self.events]

    def forget(self) -> None:
        """Start a new story."""
        with self._happened:
            self.events.clear()

    def ask(self, command: str, **arguments: str) -> str:
        """Execute a command of which either outcome is worth telling."""
        try:
            self.qmp(command, 60, **arguments)
            answer = "ok"
        except QmpError as error:
            answer = str(error)
        self.bench.note(self.name, f"<- {command}: {answer}")
        return answer

    def status(self) -> str:
        """`query-status`, or how it ended."""
        try:
            return str(self.qmp("query-status")["status"])
        except QmpError:
            for _ in range(50):
                if self.program.poll() is not None:
                    break
                time.sleep(0.1)
            return f"exit {self.program.returncode}"

    def migration(self) -> str:
        """`query-migrate`."""
        try:
            return str(self.qmp("query-migrate").get("status", "none"))
        except QmpError:
            return self.status()

    def complaints(self) -> str:
        """What it wrote to stderr."""
        return self.program.stderr_so_far().decode(errors="replace").strip()

    def said(self) -> str:
        """What the guest said while this QEMU executed it."""
        return self.said_path.read_text(errors="replace") if self.said_path.exists() else ""

    def kill(self) -> None:
        """SIGKILL."""
        if self.program.poll() is None:
            self.bench.note(self.name, "<- SIGKILL")
            self.program.kill()
            self.program.wait(20)
        self.qmp.close()

    def hang_up(self) -> None:
        """Leave its monitor."""
        self.qmp.close()
        self.bench.note(self.name, "nobody listens to its monitor")

    def call_again(self) -> None:
        """Be at its monitor again."""
        self.qmp = Qmp(self.bench.sockets.connect(self.host.address, self.port), self._heard)

    def capabilities(self, *names: str) -> None:
        """Switch migration capabilities on."""
        self.qmp("migrate-set-capabilities", capabilities=[
            {"capability": one, "state": one in names}
            for one in ("events", "return-path", "pause-before-switchover")])


@dataclass
class Records:
    """What the disk says about one run of the guest."""

    #: QEMU → (first, last) numbers, in order, holes closed only where nothing is missing
    spans: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    twice: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    unreserved: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    last: int = -1

    @property
    def good(self) -> bool:
        """One guest only, nothing lost, the reservation always there."""
        return not (self.twice or self.missing or self.lost or self.unreserved or self.complaints)

    def __str__(self) -> str:
        spans = ", ".join(f"QEMU {qemu}: " + " and ".join(f"{a}-{b}" for a, b in found)
                          for qemu, found in sorted(self.spans.items()))
        wrong = [f"{len(found)} {what} (from {found[0]})" for what, found in (
            ("written by two guests", self.twice), ("missing", self.missing),
            ("acknowledged and lost", self.lost), ("without the reservation", self.unreserved))
            if found]
        return "; ".join([spans or "no records", *wrong, *self.complaints[:5]])


def read(path: Path, folder: Path, run: int) -> Records:
    """Read the disk, and in ``folder`` what the guest said it had been acknowledged."""
    found: dict[int, set[int]] = {}
    result = Records()
    # Before the disk: the guest goes on writing.
    told = {file: file.read_text(errors="replace")
            for file in sorted(folder.glob(f"said-{run}-?"))}
    areas: dict[int, list[int]] = {}
    with path.open("rb") as disk:
        for area in range(guest.AREAS):
            disk.seek(area * guest.AREA)
            data = disk.read(guest.AREA)
            for at in range(0, guest.AREA, guest.SIZE):
                record = guest.unpack(data[at:at + guest.SIZE])
                if record is None or record[0] != run:
                    continue
                _, qemu, number, _, key, kind, *_ = record
                found.setdefault(number, set()).add(qemu)
                areas.setdefault(qemu, []).append(number)
                if (key, kind) != (guest.KEY, guest.TYPE):
                    result.unreserved.append(number)
    result.last = max(found, default=-1)
    result.twice = sorted(number for number, by in found.items() if len(by) > 1)
    result.missing = sorted(set(range(result.last)) - set(found))
    for qemu, numbers in areas.items():
        numbers.sort()
        spans = result.spans[qemu] = []
        for number in numbers:
            if spans and spans[-1][1] == number - 1:
                spans[-1] = (spans[-1][0], number)
            else:
                spans.append((number, number))
    lost: set[int] = set()
    for file, said in told.items():
        lost.update(int(number) for number, qemu in _ACKNOWLEDGED.findall(said)
                    if int(qemu) not in found.get(int(number), ()))
        result.complaints += [f"{file.name}: {line}" for line in said.splitlines()
                              if line.startswith("!")]
    result.lost = sorted(lost)
    return result


class Bench:
    """The hosts and the guest; rows run one after the other and find a guest that runs."""

    def __init__(self, bed: Lab, hosts: list[Host], say: Callable[[str], None],
                 age: str = "7.2") -> None:
        """``age``: of the guest's QEMUs (newest.QEMUS)."""
        self.bed, self.hosts, self.say = bed, hosts, say
        self.program = QEMUS[age]()
        self.sockets = Sockets(bed)
        self.folder = bed.shared
        self.linux = hosts[0].kernel.linux
        self.initrd = self.folder / "guest.img"
        self.initrd.write_bytes(image.build(hosts[0].kernel))
        self.run, self.asked = 0, ""        # words for the guest, see its module
        self.heard: Callable[[Vm, str, Json], None] = lambda vm, name, data: None
        self.started = time.monotonic()
        self.vms: list[Vm] = []
        self.source_vm: Vm | None = None
        self._helpers: dict[str, list[Program]] = {}
        self._numbers = itertools.cycle(range(1, guest.AREAS + 1))
        self._ports = itertools.count(_MIGRATION_PORT)
        self._holds = itertools.count()
        self._threads = ThreadPoolExecutor(8)
        self.sockets.nudge([host.address for host in hosts])
        for host in hosts:
            host.call(inhost.start_kvm)
            if host is not hosts[0]:
                host.call(inhost.occupied)      # so that its agent has loaded what rows call
        self.version = hosts[0].run([*self.program, "--version"]).stdout.splitlines()[0]

    def note(self, who: str, what: str) -> None:
        """A line of the story."""
        self.say(f"{time.monotonic() - self.started:8.2f}  {who}: {what}")

    def close(self) -> None:
        """Kill the guests."""
        for vm in self.vms:
            vm.kill()
        self.sockets.close()
        self._threads.shutdown(wait=False)

    # ── the guest ────────────────────────────────────────────────────────────────────────────

    @property
    def vm(self) -> Vm:
        """The QEMU that executes the guest."""
        assert self.source_vm is not None
        return self.source_vm

    def other(self, host: Host) -> Host:
        """The other host."""
        return self.hosts[1 - self.hosts.index(host)]

    def machine(self, vm: Vm) -> list[str]:
        """The words of a QEMU's command line that make the guest."""
        return [
            *self.program, "-accel", "kvm", "-cpu", "qemu64", "-m", "128", "-smp", "1",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-bios", "qboot.rom", "-kernel", str(self.linux), "-initrd", str(self.initrd),
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off "
                       f"run={self.run} {self.asked}",
            "-serial", f"file:{vm.said_path}.console",
            "-chardev", f"file,id=said,path={vm.said_path},append=on",
            "-device", f"isa-debugcon,iobase={guest.PORT:#x},readback={vm.number},chardev=said",
            "-device", f"vhost-scsi-pci,id=scsi,wwpn={inhost.WWPN},migratable=on"]

    def start(self, host: Host, words: list[str]) -> Vm:
        """A QEMU with the guest's devices."""
        busy = {vm.number for vm in self.vms if vm.program.poll() is None}
        number = next(number for number in self._numbers if number not in busy)
        vm = Vm(self, host, number, words)
        self.vms.append(vm)
        return vm

    def guest(self) -> Vm:
        """A running guest that holds its reservation: the one there is, or a new one."""
        if self.source_vm is not None and self.source_vm.status() == "running":
            self.source_vm.forget()
            return self.source_vm
        self.clear()
        return self.fresh()

    def fresh(self, *words: str, build: bool = True, host: Host | None = None) -> Vm:
        """A new guest, where there is none, by default on the first host; ``build``: its target,
        too."""
        self.run += 1
        self.note("bench", f"a new guest, run {self.run}")
        host = host or self.hosts[0]
        if build:
            host.call(pipeline.build, inhost.state(), timeout=120)
        vm = self.source_vm = self.start(host, list(words))
        self.until(lambda: any(int(number) >= 10 for number, _ in
                               _ACKNOWLEDGED.findall(vm.said())),
                   "the guest writes", vm, GUEST_SECONDS)
        self.note("bench", "the guest writes")
        vm.forget()
        return vm

    def until(self, done: Callable[[], bool], what: str, vm: Vm, seconds: float = 60) -> None:
        """Wait for something that the guest does."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or vm.program.poll() is not None:
                raise Wrong(f"never: {what}; {vm.name} is {vm.status()}, the guest said "
                            f"{vm.said()[-300:]!r}; {vm.complaints()}")
            time.sleep(0.1)

    def writes(self, vm: Vm, more: int = 25) -> bool:
        """Whether the guest goes on writing, executed by this QEMU."""
        before = len(_ACKNOWLEDGED.findall(vm.said()))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and vm.program.poll() is None:
            if len(_ACKNOWLEDGED.findall(vm.said())) >= before + more:
                return True
            time.sleep(0.1)
        return False

    def clear(self) -> None:
        """No guest, no target, no records."""
        for vm in self.vms:
            vm.kill()
        self.vms.clear()
        self.source_vm = None
        for host in self.hosts:
            for program in self._helpers.pop(host.name, []):
                self.note(host.name, f"helper: {program.stdout_so_far()!r} "
                          f"{program.stderr_so_far()[-500:]!r}")
            try:
                host.wipe()
            except LabError as error:
                self.note(host.name, f"boots anew: {error}".partition("; its console")[0])
                host.kill()
                host.boot().call(inhost.start_kvm)
        assert self.bed.disk
        with self.bed.disk.open("r+b") as disk:
            size = disk.seek(0, 2)
            disk.truncate(0)
            disk.truncate(size)

    # ── dbus-vmstate ─────────────────────────────────────────────────────────────────────────

    def helper(self, host: Host, fail: str = "") -> str:
        """A bus of its own, and on it what answers Save() and Load(); its path."""
        bus = f"/run/lio-handover-{next(self._holds)}"
        self._helpers.setdefault(host.name, []).append(host.popen(
            ["dbus-daemon", "--session", "--nofork", f"--address=unix:path={bus}"]))
        program = host.popen(["/usr/bin/python3", "-m", "tests.migration.vmstate", bus, fail],
                             env={"PYTHONPATH": str(CHECKOUT)})
        self._helpers[host.name].append(program)
        deadline = time.monotonic() + 60
        while b"ready" not in program.stdout_so_far():
            if program.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"no helper on {host.name}: {program.stderr_so_far()!r}")
            time.sleep(0.1)
        return bus

    # ── migration ────────────────────────────────────────────────────────────────────────────

    def incoming(self, *words: str, capabilities: tuple[str, ...] = ("events", "return-path")
                 ) -> tuple[Vm, Cable]:
        """A QEMU on the other host that waits for the guest, and what leads to it."""
        host = self.other(self.vm.host)
        vm = self.start(host, ["-incoming", "defer", *words])
        vm.capabilities(*capabilities)
        port = next(self._ports)
        vm.qmp("migrate-incoming", uri=f"tcp:{host.address}:{port}")
        return vm, Cable(self.sockets, host.address, port)

    def migrate(self, cable: Cable, *capabilities: str, return_path: bool = True,
                bandwidth: int = 1 << 30) -> None:
        """Start it."""
        self.vm.forget()
        path = ("return-path",) if return_path else ()
        self.vm.capabilities("events", *path, *capabilities)
        self.vm.qmp("migrate-set-parameters", **{"downtime-limit": 3000,
                                                 "max-bandwidth": bandwidth})
        self.note(self.vm.name, "<- migrate")
        self.vm.qmp("migrate", uri=f"tcp:198.18.0.1:{cable.port}")

    # ── the target ───────────────────────────────────────────────────────────────────────────

    def export(self, host: Host) -> bytes:
        """Freeze and export; refused while a guest is attached."""
        host.call(pipeline.freeze)
        document = host.call(pipeline.export)
        if not documents.loads(document).frozen:
            raise Wrong("the document does not say frozen")
        self.note(host.name, "frozen and exported")
        return document

    def activate(self, host: Host, document: bytes) -> None:
        """Import and verify: nexus up, so the gate is open unless somebody holds it."""
        host.call(pipeline.import_, document, timeout=120)
        host.call(pipeline.verify, document)
        self.note(host.name, "imported and verified")

    def same(self, host: Host, document: bytes) -> None:
        """That the target is still what was exported."""
        now = documents.state_bytes(documents.loads(host.call(pipeline.export_state)))
        if now != documents.state_bytes(documents.loads(document)):
            raise Wrong(f"{host.name}: not what it exported")

    @contextmanager
    def occupy(self, host: Host) -> Iterator[None]:
        """Our own initiator sits on the endpoint."""
        folder = self.folder / f"hold-{next(self._holds)}"
        folder.mkdir()
        ended: Future[str] = self._threads.submit(host.call, inhost.hold, str(folder),
                                                  timeout=600)
        while not (folder / "held").exists():
            if ended.done():
                raise Wrong(f"{host.name}: not occupied: {ended.exception()}")
            time.sleep(0.02)
        self.note(host.name, "endpoint occupied")
        try:
            yield
        finally:
            (folder / "release").touch()
            ended.result(60)
            self.note(host.name, "endpoint given back")
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, host: Host) -> None:
        """Take the target down where it is not served any more."""
        host.call(pipeline.remove, ("reserved",), timeout=120)
        self.note(host.name, "removed")

    def reservation(self, host: Host) -> str:
        """What this host's kernel says about it."""
        return " ".join(host.call(inhost.holder)[0].split())

    # ── the judgement ────────────────────────────────────────────────────────────────────────

    def judge(self, *, twice: bool = False) -> Records:
        """What the records say must be right: one guest, nothing lost.

        :raises Wrong: it is not; with `twice` the other way round: two guests must be seen.
        """
        assert self.bed.disk
        records = read(self.bed.disk, self.folder, self.run)
        self.note("disk", str(records))
        if twice and not records.twice:
            raise Wrong(f"two guests should have been seen: {records}")
        if not twice and not records.good:
            raise Wrong(str(records))
        return records


def consoles(bench: Bench) -> str:
    """What the guests' kernels wrote, for who looks for a mistake."""
    return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}"
                     for path in sorted(Path(bench.folder).glob(f"said-{bench.run}-*.console")))

"""The product on two hosts that reach each other: packages, services, ssh, QEMUs with monitors."""
from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from lio_handover.drivers.live_steps import STEPS
from lio_handover.records.journal import Handover
from tests.lab.bed import GATEWAY
from tests.lab.host import Host, Program
from tests.migration import inhost, inproduct
from tests.migration.bench import Bench, Vm, Wrong
from tests.migration.net import Json
from tests.support import inbus, inhandover, inhost as pipeline, inmove

TARGET = f"vhost/{inhost.WWPN}"
PYTHON = "/usr/bin/python3"
MOVE_SECONDS, STEP_SECONDS = 900, 600
DEADLINES = [word for step in STEPS if step.deadline
             for word in ("--deadline", f"{step.name}={STEP_SECONDS}")]
_RECORD = re.compile(r"^a \d+ \d$", re.M)
SOCKET = "/run/guest.qmp"
MONITOR = ("-qmp", f"unix:{SOCKET},server=on,wait=off")
#: Emulated, a guest that stands still for less than this is no migration at all.
LIMITS = {"downtime-limit": 3000, "max-bandwidth": 1 << 30}


class Downtime:
    """How long a guest stands still: from its QEMU's STOP to its first record elsewhere."""

    def __init__(self, source: Vm, destination: Vm) -> None:
        self._source, self._destination = source, destination
        self._before = len(destination.said())      # of an earlier QEMU of this number
        self._first = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Downtime:
        self._source.forget()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            if _RECORD.search(self._destination.said(), self._before):
                self._first = time.monotonic()
                return

    def seconds(self, patience: float = 60) -> float:
        """Wait for that record.

        :raises Wrong: it does not come, or the guest was not stopped.
        """
        self._thread.join(patience)
        stopped = [at for at, name, _ in self._source.events if name == "STOP"]
        if not self._first or not stopped:
            raise Wrong("the guest was not stopped, or writes no record any more")
        return self._first - stopped[0]


class Pair:
    """Hosts a and b of a bench, with the service; each reaches the other by ssh, by that name."""

    names = ("a", "b")

    def __init__(self, bench: Bench, settings: str = pipeline.CONFIG) -> None:
        self.bench = bench
        self.targets = [TARGET]
        self.daemons: dict[str, Program] = {}
        keys = bench.bed.shared / "keys"
        keys.mkdir(exist_ok=True)
        if not (keys / "host").exists():
            inmove.make_keys(keys)
        staged = inbus.stage(bench.bed)
        addresses = {name: host.address for name, host in zip(self.names, bench.hosts)}

        def serve(host: Host) -> None:
            command = host.call(inproduct.furnish, staged, str(keys), addresses, settings,
                                timeout=180)
            self.daemons[host.name] = host.popen(command)
            host.call(inbus.wait_for_name, inbus.SYSTEM, 120, timeout=150)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(serve, bench.hosts))

    def anew(self) -> Pair:
        """Another pair on the same hosts, where this one left something that was not expected."""
        self.bench.clear()
        return Pair(self.bench)

    def name(self, host: Host) -> str:
        """What the other host calls this one."""
        return self.names[self.bench.hosts.index(host)]

    def running(self, build: bool = True, host: Host | None = None) -> Vm:
        """A guest that writes, by default on the first host; the product reaches its monitor."""
        vm = self.bench.fresh(*MONITOR, build=build, host=host)
        vm.qmp("migrate-set-parameters", **LIMITS)
        return vm

    def guest(self) -> Vm:
        """The guest that runs, or a new one."""
        vm = self.bench.source_vm
        if vm is None or vm.status() != "running":
            return self.running()
        vm.forget()
        return vm

    def again(self) -> Vm:
        """The guest is booted once more, where its target is; its disk knows its key."""
        asked = self.bench.asked
        self.bench.asked = f"{asked} again"
        try:
            return self.running(build=False, host=self.bench.vm.host)
        finally:
            self.bench.asked = asked

    def states(self) -> list[str]:
        """Where the last handover stands on both hosts."""
        found: list[list[Handover]] = [
            [answer.handover for answer in host.call(inhandover.status)]
            for host in self.bench.hosts]
        return [handovers[-1].state if handovers else "" for handovers in found]

    def cable(self) -> None:
        """What both hosts call `cable` is on the source a port of ours that leads to the same port
        of the destination."""
        there = self.bench.other(self.bench.vm.host)
        for host, address in ((self.bench.vm.host, GATEWAY), (there, there.address)):
            host.call(inproduct.call_host, "cable", address)

    def waiting(self, host: Host) -> Vm:
        """A QEMU on a host that waits for the guest."""
        vm = self.bench.start(host, ["-incoming", "defer", "-S", *MONITOR])
        vm.qmp("migrate-set-parameters", **LIMITS)
        return vm

    def words(self, there: Host) -> list[str]:
        """The command that moves the guest to a host, as people type it."""
        return ["lio-handover", "move", *self.targets, "--to", self.name(there),
                "--here", self.name(self.bench.other(there)),
                "--guest", SOCKET, "--guest-there", SOCKET]

    def move(self, there: Host, *more: str) -> Program:
        """Start that command on the guest's host; no step is given up because the host is slow."""
        program, *words = [*self.words(there), *DEADLINES, *more]
        return self.bench.other(there).popen([PYTHON, "-I", f"/usr/bin/{program}", *words])

    def moved(self, destination: Vm, *more: str) -> Json:
        """Move the guest; the command's answer, as --json has it.

        :raises Wrong: it failed, or the guest does not write there.
        """
        program = self.move(destination.host, "--json", *more)
        if program.wait(MOVE_SECONDS):
            raise Wrong(f"move: exit {program.returncode}: {program.stderr_so_far().decode()}")
        answer: Json = json.loads(program.stdout_so_far())
        self.bench.note("move", ", ".join(f"{name} {took:.1f} s" for name, took in
                                          answer["seconds"].items()))
        self.arrived(destination)
        return answer

    def arrived(self, destination: Vm) -> None:
        """The guest is another QEMU's now.

        :raises Wrong: it does not write there.
        """
        if not self.bench.writes(destination, 5):
            raise Wrong(f"{destination.name}: the guest does not write; {destination.status()}; it "
                        f"said {destination.said()[-300:]!r}; {destination.complaints()}")
        self.bench.vm.kill()
        self.bench.source_vm = destination

"""Two hosts of the bench with their services, between which a target moves."""
from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lio_handover.drivers.move import STEP_NAMES
from tests import lab
from tests.lab.host import CHECKOUT
from tests.support import inbus, inmove, inopens, neighbour
from tests.support.inbus import Service

from . import inhost, inwindow

#: Fabric → the kernels of source and destination; vhost is on emulated PCs.
ROLES = {"iscsi": ("stable", "newest"), "vhost": ("vhost-oldest", "vhost-newest")}
MEMORY = "2G"
#: Seconds for a move, or for what is made before.
PATIENCE = 900


@dataclass(frozen=True)
class Build:
    """A tree of the product, where the hosts find it."""

    name: str
    folder: Path

    @property
    def program(self) -> list[str]:
        return ["/usr/bin/python3", str(self.folder / "scripts" / "lio-handover")]

    @property
    def daemon(self) -> str:
        return neighbour.DAEMON.format(folder=str(self.folder))


def build(name: str, tree: Path, shared: Path) -> Build:
    """A copy of a tree, with its modules compiled, as a package has them."""
    folder = shared / f"build-{name}"
    for part in neighbour.PARTS:
        shutil.copytree(tree / part, folder / part,
                        ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(folder / neighbour.PARTS[0])],
                   env=neighbour.ENVIRONMENT, check=True)
    return Build(name, folder)


class Pair:
    """Two booted hosts that reach each other by ssh, and their services, of one build."""

    def __init__(self, bed: lab.Lab, made: Build, memory: str = MEMORY,
                 fabric: str = "iscsi") -> None:
        self.bed, self.build, self.fabric = bed, made, fabric
        self.hosts = bed.add(*ROLES[fabric])
        for host in self.hosts:
            host.memory = memory
        keys = bed.shared / "keys"
        if not keys.exists():
            keys.mkdir()
            inmove.make_keys(keys)
        names = {host.name: host.address for host in self.hosts}

        def ready(host: lab.Host) -> Service:
            host.boot()
            host.call(inmove.serve_ssh, str(keys))
            host.call(inmove.reach, str(keys), names)
            service = Service(host)
            host.call(inbus.install, inhost.CONFIG, inbus.stage(bed))
            # What an older build can read, too.
            host.call(Path.write_text, inbus.CONFIG, inhost.CONFIG)
            host.call(inbus.start_bus)
            service.restart(made.daemon)
            return service

        with ThreadPoolExecutor(2) as both:
            self.services = list(both.map(ready, self.hosts))
        self.running = True

    def stop(self) -> None:
        self.running = False
        for service in self.services:
            service.call(inmove.stop_service)
            service.daemon.wait()

    def afresh(self, folder: str, luns: int, reserved: int, counted: bool = False) -> None:
        """The first host serves; neither service knows of a handover."""
        a, b = self.hosts
        if self.running:
            self.stop()
        b.call(inwindow.clear, timeout=PATIENCE)
        a.call(inwindow.serve, folder, luns, reserved, self.fabric, timeout=PATIENCE)
        daemon = inopens.noting_syncs(inwindow.SYNCS, inwindow.DAEMON) if counted \
            else self.build.daemon
        for service in self.services:
            service.call(Path.write_text, Path(inwindow.DAEMON), self.build.daemon)
            service.restart(daemon)
        self.running = True

    def move(self, patience: float = PATIENCE) -> inwindow.Moved:
        a, b = self.hosts
        moved = a.call(inwindow.move, self.build.program, neighbour.ENVIRONMENT, b.name, a.name,
                       self.fabric, timeout=patience)
        if len(moved.began) != len(STEP_NAMES) + 1:
            raise RuntimeError(f"the steps were not seen: {moved}")
        return moved

    @contextmanager
    def probed(self, seconds: list[float]) -> Iterator[None]:
        """An initiator asks while the target moves; ``seconds`` gets how long nobody answered."""
        a, b = self.hosts
        with self.bed.namespace.popen(
                [sys.executable, "-m", "tests.bench.prober", a.address, b.address, inhost.IQN,
                 inhost.INITIATOR.format(0)], cwd=CHECKOUT, stdout=subprocess.PIPE,
                text=True) as one:
            try:
                assert one.stdout is not None
                if one.stdout.readline() != "ready\n":
                    raise RuntimeError("the initiator is not answered")
                yield
                seconds.append(float(one.stdout.readline()))
            finally:
                one.kill()

    def off(self) -> None:
        for host in self.hosts:
            host.kill()

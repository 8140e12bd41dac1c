"""The bed: hosts on one network, with shared files and a shared disk, and always an end."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from . import inside, kernels, openiscsi, qemu
from .errors import LabError
from .host import Host
from .namespace import Namespace

MiB = 1024 * 1024
GATEWAY = "198.18.0.1"
# Removes the folder when the lab is gone, also where the lab was killed and could not do it.
_UNDERTAKER = """
cat >/dev/null
for try in 1 2 3; do
    if [ -e "$1/keep" ]; then rm -rf "$1/hosts" "$1/shared" "$1/disk"; else rm -rf "$1"; fi &&
    exit 0
    sleep 0.3
done
"""


class Lab:
    """A network, a scratch folder and hosts.  Use it with `with`; its end takes all of it away.

    `shared` is a folder at the same path in all hosts and here, `disk` the file behind their shared
    disk.  Hosts cache: what one wrote and flushed, another sees when it opens the file anew.
    """

    def __init__(self, disk: int = 64 * MiB) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lio-handover-lab-"))
        self.shared = self.folder / "shared"
        self.consoles = self.folder / "consoles"
        self.shared.mkdir()
        self.consoles.mkdir()
        self.disk: Path | None = None
        self.all: dict[str, Host] = {}
        self._undertaker = subprocess.Popen(
            ["/bin/sh", "-c", _UNDERTAKER, "undertaker", str(self.folder)],
            stdin=subprocess.PIPE, start_new_session=True)
        self._taps = 0
        self.memory_folder = _memory_folder(self.folder)
        if disk:
            self._make_disk(disk)
        try:
            self.namespace = Namespace()
            self._ip("link", "add", "br0", "type", "bridge")
            self._ip("address", "add", f"{GATEWAY}/15", "dev", "br0")
            self._ip("link", "set", "br0", "up")
        except BaseException:
            self._bury()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is not None:
            self.keep_consoles()
        self.close()

    # ── hosts ────────────────────────────────────────────────────────────────────────────────

    def hosts(self, *roles: str, disk: int | None = None) -> list[Host]:
        """Boot hosts with kernels of these roles, side by side."""
        if disk:
            self._make_disk(disk)
        hosts = self.add(*roles)
        with ThreadPoolExecutor(len(hosts) or 1) as pool:
            for booted in [pool.submit(host.boot) for host in hosts]:
                booted.result()
        return hosts

    def host(self, role: str, name: str = "", iscsi_initiator: bool = False) -> Host:
        """Boot one host; as an iSCSI initiator it has the kernel's initiator running, too."""
        host = self.add(role, name=name)[0].boot()
        if iscsi_initiator:
            host.call(openiscsi.start, f"iqn.2003-01.org.example:{host.name}")
        return host

    def add(self, *roles: str, name: str = "") -> list[Host]:
        """Hosts of these roles, cabled and switched off."""
        return [self._new(role, name) for role in roles]

    def _new(self, role: str, name: str) -> Host:
        kernel = qemu.kernel(role) if role in qemu.ROLES else kernels.kernel(role)
        self._taps += 1
        name = name or _letters(self._taps)
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name in self.all:
            raise LabError(f"{name!r} is taken, or no name for a host")
        tap = f"tap{self._taps}"
        self._ip("tuntap", "add", tap, "mode", "tap")
        self._ip("link", "set", tap, "master", "br0")
        self._ip("link", "set", tap, "up")
        kind = qemu.QemuHost if role in qemu.ROLES else Host
        host = kind(self, name, kernel, f"198.18.0.{10 + self._taps}", tap)
        self.all[name] = host
        return host

    def _make_disk(self, size: int) -> None:
        self.disk = self.folder / "disk"
        with self.disk.open("ab") as disk:
            disk.truncate(size)

    def empty_storage(self) -> None:
        """Remove all shared files and zero the shared disk; no host may be using them."""
        for entry in self.shared.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if self.disk:
            size = self.disk.stat().st_size
            os.truncate(self.disk, 0)
            os.truncate(self.disk, size)

    # ── network ──────────────────────────────────────────────────────────────────────────────

    def run_in_network(self, argv: Sequence[str], **options: Any
                       ) -> subprocess.CompletedProcess[Any]:
        """Run a program of this machine, such as libiscsi's, on the hosts' network."""
        return self.namespace.run(argv, **options)

    def move_address(self, address: str, source: Host | None, destination: Host) -> None:
        """Move a service address; the network learns at once who has it now."""
        if source is not None and source.alive:
            source.call(inside.drop_address, address)
        destination.call(inside.add_address, address)

    def cut(self, host: Host) -> None:
        """Pull the host's network cable."""
        self._ip("link", "set", host.tap, "nomaster")

    def heal(self, host: Host) -> None:
        """Plug it in again."""
        self._ip("link", "set", host.tap, "master", "br0")

    def _ip(self, *words: str) -> None:
        self.namespace.run(["ip", *words])

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def keep_consoles(self) -> None:
        """Leave the consoles where they are when the lab ends, and say where."""
        if self.folder.exists() and not (self.folder / "keep").exists():
            (self.folder / "keep").touch()
            print(f"lab: consoles are kept in {self.consoles}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Switch everything off and remove it."""
        for host in self.all.values():
            host.kill()
        self.namespace.close()
        self._bury()

    def _bury(self) -> None:
        if self._undertaker.stdin:
            self._undertaker.stdin.close()
        self._undertaker.wait()
        if self.folder.exists() and not (self.folder / "keep").exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def _letters(number: int) -> str:
    """a, b, … z, then host27 and so on."""
    return chr(ord("a") + number - 1) if number <= 26 else f"host{number}"


def _memory_folder(otherwise: Path) -> str:
    """Where hosts keep their memory, a file each that they also run from.

    Containers often have a /dev/shm too small for it, or one that nothing may run from; there a
    host would die of a bus error in the middle of something.
    """
    try:
        shm = os.statvfs("/dev/shm")
    except OSError:
        return str(otherwise)
    fits = shm.f_bavail * shm.f_frsize >= 4096 * MiB and not shm.f_flag & os.ST_NOEXEC
    return "/dev/shm" if fits else str(otherwise)

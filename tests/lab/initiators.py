"""Real initiators: open-iscsi in a host, and libiscsi's programs on the hosts' network."""
from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import Any

from . import blocks, openiscsi
from .bed import Lab
from .host import Host

PORT = 3260


@dataclass(frozen=True)
class Chap:
    """What both ends know: the initiator's name and secret, and the target's if it is mutual."""

    user: str
    password: str
    mutual_user: str = ""
    mutual_password: str = ""

    def settings(self) -> dict[str, str]:
        """As open-iscsi calls them."""
        found = {"node.session.auth.authmethod": "CHAP",
                 "node.session.auth.username": self.user,
                 "node.session.auth.password": self.password}
        if self.mutual_user:
            found |= {"node.session.auth.username_in": self.mutual_user,
                      "node.session.auth.password_in": self.mutual_password}
        return found


class OpenIscsi:
    """The kernel's initiator in one host, with as many initiator names as a test wants.

        client = OpenIscsi(host)
        session = client.login("iqn.2003-01.org.example:t", bed_address, name="iqn.…:first")
        disk = session.disk(0)
        disk.register(0xabc)
    """

    def __init__(self, host: Host, name: str = "iqn.2003-01.org.example:client") -> None:
        self.host = host
        self.name = name
        host.call(openiscsi.start, name)

    def discover(self, address: str, port: int = PORT) -> list[tuple[str, str]]:
        """The (portal, target name) pairs that a portal tells of."""
        return self.host.call(openiscsi.discover, f"{address}:{port}")

    def login(self, target: str, address: str, name: str = "", chap: Chap | None = None,
              port: int = PORT, settings: dict[str, str] | None = None) -> Session:
        """Log in by portal, without discovery; `settings` are open-iscsi's own, by their names."""
        wanted = {**(chap.settings() if chap else {}), **(settings or {})}
        number = self.host.call(openiscsi.login, target, f"{address}:{port}", name or self.name,
                                wanted, timeout=60)
        return Session(self.host, number)

    def stop(self) -> None:
        """End all sessions and the daemon."""
        self.host.call(openiscsi.stop)


class Session:
    """One login of an initiator."""

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.number = number

    @property
    def state(self) -> str:
        """LOGGED_IN, FAILED (being recovered) or FREE."""
        return self.host.call(openiscsi.state, self.number)

    def wait_for(self, state: str = "LOGGED_IN", timeout: float = 30) -> float:
        """Wait for a state; how many seconds it took."""
        return self.host.call(openiscsi.wait_for_state, self.number, state, timeout,
                              timeout=timeout + 10)

    def disks(self) -> dict[int, Disk]:
        """Every LUN that is a disk."""
        nodes = self.host.call(openiscsi.devices, self.number, "block")
        return {lun: Disk(self.host, node) for lun, node in nodes.items()}

    def disk(self, lun: int) -> Disk:
        """The disk behind one LUN."""
        return self.disks()[lun]

    def generic(self) -> dict[int, str]:
        """Every LUN's /dev/sgX, disk or not."""
        return self.host.call(openiscsi.devices, self.number, "scsi_generic")

    def rescan(self) -> None:
        """Look for LUNs that came later."""
        self.host.call(openiscsi.rescan, self.number)

    def logout(self) -> None:
        """End it in good order."""
        self.host.call(openiscsi.logout, self.number)


@dataclass(frozen=True)
class Disk:
    """A SCSI disk as a host sees it, for I/O and for reservations by sg3-utils."""

    host: Host
    node: str

    def read(self, offset: int, length: int) -> bytes:
        """Past every cache of the host."""
        return self.host.call(blocks.read, self.node, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """On the device when this returns."""
        self.host.call(blocks.write, self.node, offset, data)

    def size(self) -> int:
        """In bytes."""
        return self.host.call(blocks.size, self.node)

    def persist(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[Any]:
        """sg_persist with these words (exit code 24: reservation conflict)."""
        return self.host.run(["sg_persist", "--no-inquiry", *words, self.node], check=check)

    def register(self, key: int, old: int = 0, aptpl: bool = False) -> None:
        """Register a key; key 0 takes the registration away."""
        self.persist("--out", "--register", f"--param-rk={old:#x}", f"--param-sark={key:#x}",
                     *(["--param-aptpl"] if aptpl else []))

    def reserve(self, key: int, kind: int) -> None:
        """Take a reservation of a type (5: write exclusive, registrants only; 8: all registrants
        exclusive access)."""
        self.persist("--out", "--reserve", f"--param-rk={key:#x}", f"--prout-type={kind}")

    def release(self, key: int, kind: int) -> None:
        """Give the reservation back."""
        self.persist("--out", "--release", f"--param-rk={key:#x}", f"--prout-type={kind}")

    def keys(self) -> list[int]:
        """The registered keys, as the target lists them."""
        text = self.persist("--in", "--read-keys").stdout
        return [int(word, 16) for word in re.findall(r"(?m)^\s+0x([0-9a-f]+)\s*$", text)]

    def reservation(self) -> tuple[int, int] | None:
        """(key, type) of the reservation, or None."""
        text = self.persist("--in", "--read-reservation").stdout
        key = re.search(r"Key=0x([0-9a-f]+)", text)
        if key is None:
            return None
        lowered = text.lower()
        kind = next(number for number, words in _TYPES.items() if words in lowered)
        return int(key[1], 16), kind


# Longest first: one is the beginning of another.
_TYPES = {7: "write exclusive, all registrants", 8: "exclusive access, all registrants",
          5: "write exclusive, registrants only", 6: "exclusive access, registrants only",
          1: "write exclusive", 3: "exclusive access"}


class Libiscsi:
    """libiscsi's programs under one initiator name: an initiator that needs no host."""

    def __init__(self, bed: Lab, name: str = "iqn.2003-01.org.example:libiscsi",
                 chap: Chap | None = None) -> None:
        self.bed = bed
        self.name = name
        self.chap = chap

    def url(self, address: str, target: str, lun: int = 0) -> str:
        """As libiscsi writes a LUN."""
        login = f"{self.chap.user}%{self.chap.password}@" if self.chap else ""
        return f"iscsi://{login}{address}:{PORT}/{target}/{lun}"

    def inquiry(self, address: str, target: str, lun: int = 0, page: int | None = None) -> str:
        """What iscsi-inq prints of a LUN."""
        words = ["iscsi-inq", "-i", self.name]
        if page is not None:
            words += ["-e", "1", "-c", str(page)]
        return str(self._run(*words, self.url(address, target, lun)).stdout)

    def targets(self, address: str) -> str:
        """What iscsi-ls prints of a portal.  (With the LUNs, it gives up at a unit attention.)"""
        return str(self._run("iscsi-ls", "-i", self.name, f"iscsi://{address}:{PORT}").stdout)

    def _run(self, *words: str) -> subprocess.CompletedProcess[Any]:
        return self.bed.run_in_network(words)

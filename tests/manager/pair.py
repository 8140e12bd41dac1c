"""Two hosts between which libvirt migrates a guest, whose target comes along."""
from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests import lab
from tests.lab import libvirt, newest
from tests.migration import firmware
from tests.service.test_systemd import Systemd
from tests.support import inbus, inhandover, inhooks, inhost, inlibvirt, inmove, insystemd
from tests.support.inlibvirt import GUEST, HELPER, ITS_BUS

#: Of the guest's file: this machine may be busy.
MORE = "deadline = 20\n"
WHOLE = re.compile(r"a \d+ \d")


class Pair:
    """Hosts a and b, to each other by ssh, each with libvirtd, the service, and the guest's
    helper."""

    def __init__(self, bed: lab.Lab, hosts: list[lab.Host], age: str = "9.0") -> None:
        self.bed, self.hosts = bed, hosts
        self.systemd = [Systemd(host) for host in hosts]
        keys = bed.shared / "keys"
        keys.mkdir()
        inmove.make_keys(keys)
        names = {"a": hosts[0].address, "b": hosts[1].address}
        trees = [str(libvirt.daemon())] if age == "9.0" else [
            str(newest.tree(name)) for name in ("libvirt", "qemu")]
        self._install = trees, str(keys), names, inbus.stage(bed)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.ready, (0, 1)))
        hosts[0].call(inhost.build, inhandover.state(bed.shared))

    def ready(self, number: int) -> None:
        """Install and start all of it on a host that was booted."""
        trees, keys, names, staged = self._install
        host, systemd = self.hosts[number], self.systemd[number]
        host.call(inlibvirt.install, trees, host.address, number + 1)
        host.call(inbus.install, inhost.CONFIG, staged)
        host.call(inhooks.stand_in, inlibvirt.ADDED)
        host.call(inmove.reach, keys, names)
        self.configure(number)
        assert systemd.start("libvirtd.service", f"{ITS_BUS}.service",
                             f"{HELPER}.service") == "running"
        systemd.call(inmove.serve_ssh, keys)

    def configure(self, number: int = 1) -> None:
        """The other host is a peer."""
        self.hosts[number].call(inhooks.configure, ["ba"[number]],
                                f"here = {'ab'[number]}\ndeadline = 200\n", MORE)

    def call(self, number: int, function: Any, *words: Any) -> Any:
        """In a host, beside what systemd runs there, for longer than a moment."""
        return self.hosts[number].call(insystemd.within, function, *words, timeout=600)

    def virsh(self, number: int, *words: str, data: bytes = b"") -> tuple[int, str]:
        done: tuple[int, str] = self.call(number, inlibvirt.virsh, words, data)
        return done

    def migrate(self, source: int, *more: str, guest: str = GUEST) -> tuple[int, str]:
        to = "ba"[source]
        return self.virsh(source, "migrate", "--live", *more, guest, f"qemu+ssh://{to}/system")

    def each(self, function: Any, *words: Any) -> list[Any]:
        return [systemd.call(function, *words) for systemd in self.systemd]

    def until(self, function: Any, *wanted: Any) -> None:
        """Wait until a function says this on both hosts."""
        now = [self.call(number, inlibvirt.until, function, one)
               for number, one in enumerate(wanted)]
        assert now == [*wanted], self.told()

    def records(self) -> tuple[int, list[int], list[int]]:
        """How many records the guest has said, which were said twice, and which are missing.

        A number that one QEMU has begun to say and another has ended is cut in two; it is not
        missing.
        """
        said = self.each(inlibvirt.said)
        found = Counter(number for text in said for number, _ in firmware.records([text]))
        cut = sum(not WHOLE.fullmatch(line) for text in said for line in text.splitlines())
        missing = sorted({*range(max(found, default=0))} - {*found})
        return (len(found), sorted(number for number, times in found.items() if times > 1),
                missing if len(missing) > cut else [])

    def one_guest(self) -> None:
        """Raise AssertionError where two have run, or none of one guest."""
        count, twice, missing = self.records()
        assert count and not twice and not missing, (count, twice[:9], missing[:9])

    def told(self) -> str:
        units = (inhooks.UNIT, HELPER, "libvirtd", "lio-handoverd")
        return "\n".join(systemd.call(inlibvirt.told, unit)
                         for systemd in self.systemd for unit in units)

"""The host's own SCSI bus, while a scratch nexus puts a disk on it that is not the host's."""
from __future__ import annotations

import errno
import os
import time
from typing import List, Set

_BUS = "/sys/bus/scsi"
AUTOPROBE = f"{_BUS}/drivers_autoprobe"


class Drivers:
    """Switches off that the kernel attaches drivers to new SCSI devices: without a driver sd reads
    no partitions, and udev, LVM and mdadm do not take the disk for one of the host's.

    ``off`` and ``on`` raise OSError; ``on`` attaches drivers to the devices that came meanwhile.
    """

    def __init__(self) -> None:
        self._was = b""
        self._there: Set[str] = set()

    def are_on(self) -> bool:
        """Whether ``on`` has nothing to put back."""
        return self._was != b"1"

    def off(self) -> None:
        if not self._was:
            with open(AUTOPROBE, "rb") as file:
                self._was = file.read().strip()
            self._there = self._devices()
        self._write(b"0")

    def on(self) -> None:
        """Restore the setting of before the first ``off``; without one do nothing."""
        self._write(b"1")
        if self._was == b"1":
            for name in self._devices() - self._there:
                if not os.path.exists(f"{_BUS}/devices/{name}/driver"):
                    try:
                        with open(f"{_BUS}/drivers_probe", "w") as probe:
                            probe.write(name)
                    except OSError:
                        pass  # no driver wants it, or it is gone
        self._was = b""

    @staticmethod
    def _devices() -> Set[str]:
        return {name for name in os.listdir(f"{_BUS}/devices") if name[0].isdigit()}

    def _write(self, value: bytes) -> None:
        if self._was == b"1":  # else the administrator has switched it off
            with open(AUTOPROBE, "wb") as file:
                file.write(value)


def sg_of(address: str, lun: int, patience: float = 5.0) -> str:
    """The sg device of a loopback LUN: ``address`` is what its TPG shows, host:channel:target.

    Raises OSError ENODEV where none comes within ``patience`` seconds.
    """
    folder = f"/sys/class/scsi_device/{address}:{lun}/device/scsi_generic"
    until = time.monotonic() + patience
    names: List[str] = []
    while not names:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            if time.monotonic() > until:
                raise OSError(errno.ENODEV, f"no sg device for {address}:{lun}") from None
            time.sleep(0.01)
    path = f"/dev/{names[0]}"
    while not os.path.exists(path) and time.monotonic() < until:
        time.sleep(0.01)
    return path

"""A target made by nothing but mkdir, write and symlink: the bed's own tests must not need the
product, and the product's tests want sources it has not made."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .inside import TARGET


def fileio(name: str, path: str, size: int, hba: int = 0, serial: str = "") -> str:
    """Make a fileio backstore; return its folder."""
    device = TARGET / "core" / f"fileio_{hba}" / name
    device.mkdir(parents=True)
    (device / "control").write_text(f"fd_dev_name={path},fd_dev_size={size}")
    return _enable(device, path, serial)


def iblock(name: str, path: str, hba: int = 1, serial: str = "") -> str:
    """Make an iblock backstore; return its folder."""
    device = TARGET / "core" / f"iblock_{hba}" / name
    device.mkdir(parents=True)
    (device / "control").write_text(f"udev_path={path}")
    return _enable(device, path, serial)


def _enable(device: Path, path: str, serial: str) -> str:
    (device / "udev_path").write_text(path)
    (device / "enable").write_text("1")
    # The kernel makes none up: without one, two LUNs would look like two paths to one disk.
    (device / "wwn" / "vpd_unit_serial").write_text(serial or device.name)
    return str(device)


def iscsi(target: str, address: str, luns: Mapping[int, str],
          acls: Sequence[str] | Mapping[str, tuple[str, str]] = (), enable: bool = True) -> str:
    """Make an iSCSI target with these LUNs (number → backstore folder); return its TPG's folder.

    Without ACLs anybody may log in; ACLs are names, or name → (user, password).
    """
    tpg = TARGET / "iscsi" / target / "tpgt_1"
    tpg.mkdir(parents=True)
    for number, device in luns.items():
        lun = tpg / "lun" / f"lun_{number}"
        lun.mkdir()
        (lun / "lio-lab").symlink_to(device)
    (tpg / "np" / f"{address}:3260").mkdir()
    _set(tpg / "attrib", authentication=0, generate_node_acls=0 if acls else 1,
         demo_mode_write_protect=0, cache_dynamic_acls=0 if acls else 1)
    for name in acls:
        acl = tpg / "acls" / name
        acl.mkdir()
        if isinstance(acls, Mapping):
            user, password = acls[name]
            _set(acl / "auth", userid=user, password=password)
            _set(tpg / "attrib", authentication=1)
        for number in luns:
            mapped = acl / f"lun_{number}"
            mapped.mkdir()
            (mapped / "lio-lab").symlink_to(tpg / "lun" / f"lun_{number}")
    if enable:
        (tpg / "enable").write_text("1")
    return str(tpg)


def loopback(name: str, wwn: str = "naa.5001405000000001", hba: str = "fileio_0") -> str:
    """Give this host itself a backstore as a disk; return its device node."""
    tpg = TARGET / "loopback" / wwn / "tpgt_1"
    tpg.mkdir(parents=True)
    (tpg / "nexus").write_text("naa.5001405000000002")
    before = set(Path("/sys/class/block").iterdir())
    lun = tpg / "lun" / "lun_0"
    lun.mkdir()
    (lun / "lio-lab").symlink_to(TARGET / "core" / hba / name)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for entry in set(Path("/sys/class/block").iterdir()) - before:
            if (Path("/dev") / entry.name).exists():
                return f"/dev/{entry.name}"
        time.sleep(0.02)
    raise TimeoutError(f"no disk appeared for {name}")


def _set(folder: Path, **values: int | str) -> None:
    for name, value in values.items():
        (folder / name).write_text(str(value))

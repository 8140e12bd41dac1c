"""The permissions that libvirt's QEMU needs for a guest that moves in QEMU's own stream.

libvirt runs QEMU as a user of its own, with a /dev of its own (mount namespace), an allow-list of
devices (cgroup), and a profile (AppArmor).  libvirt opens /dev/vhost-scsi itself for a ``hostdev``;
a device of ``qemu:commandline`` has QEMU open it (qemu_command.c:qemuBuildSCSIVHostHostdevDevStr).
Each permission is a row of NEEDS.  All of it is read from files: libvirt is not asked.
"""
from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass
from typing import Callable, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

CONF = "/etc/libvirt/qemu.conf"
DEVICE = "/dev/vhost-scsi"
#: The user that libvirt runs QEMU as where its file names none: Debian's, Fedora's.
USERS = ("libvirt-qemu", "qemu")
#: AppArmor: whether it is on; the rules that each guest's profile includes.
ENABLED = "/sys/module/apparmor/parameters/enabled"
RULES = ("/etc/apparmor.d/abstractions/libvirt-qemu",
         "/etc/apparmor.d/local/abstractions/libvirt-qemu")
#: The folder of rules that newer profiles include, too (libvirt 12.8 does, 9.0 does not).
RULES_FOLDER = "/etc/apparmor.d/abstractions/libvirt-qemu.d"
_LONGEST = 1 << 20  # bytes of a file that are read


@dataclass(frozen=True)
class Libvirt:
    """libvirt on this host: the user of QEMU (uid, groups; None where there is no such user), its
    devices, and the rules of AppArmor ("" where it is off)."""

    user: str
    ids: Optional[Tuple[int, FrozenSet[int]]]
    devices: str
    apparmor: bool
    rules: str
    root: str = ""


class Need(NamedTuple):
    """A permission.  ``opens``: only where QEMU opens the device itself; ``lacking`` tells why it
    is not given for the bus at a path, or ""; ``way_out`` is a sentence."""

    name: str
    opens: bool
    lacking: Callable[[Libvirt, str], str]
    way_out: str


# ---- the checks ----------------------------------------------------------------------------------
def _may(host: Libvirt, path: str, bits: int) -> bool:
    """Whether QEMU's user has these permission bits (of rwx) of a path."""
    try:
        status = os.stat(host.root + path)
    except OSError:
        return True  # nothing is there yet, which others tell
    if host.ids is None or host.ids[0] == 0:
        return True
    uid, groups = host.ids
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return status.st_mode >> shift & bits == bits


def _bus_folder(host: Libvirt, bus: str) -> str:
    folder = os.path.dirname(bus)
    return "" if _may(host, folder, 1) else f"{host.user} may not enter {folder}"


def _bus_rule(host: Libvirt, bus: str) -> str:
    return "" if _allowed(host, bus) else f"AppArmor keeps QEMU from {bus}"


def _device_mode(host: Libvirt, _bus: str) -> str:
    return "" if _may(host, DEVICE, 6) else f"{host.user} may not open {DEVICE}"


def _device_listed(host: Libvirt, _bus: str) -> str:
    return "" if f'"{DEVICE}"' in host.devices else \
        f"{DEVICE} is not in cgroup_device_acl of {CONF}, so QEMU's own /dev has none"


def _device_rule(host: Libvirt, _bus: str) -> str:
    return "" if _allowed(host, DEVICE) else f"AppArmor keeps QEMU from {DEVICE}"


def _allowed(host: Libvirt, path: str) -> bool:
    """Whether a rule of AppArmor's lets QEMU read and write a path; globs (apparmor.d(5))."""
    if not host.apparmor:
        return True
    for rule in re.findall(r'(?m)^[ \t]*(?:owner[ \t]+)?"?(/[^\s"]*)"?[ \t]+[a-z]*rw[a-z]*,',
                           host.rules):
        if re.fullmatch(_pattern(rule), path):
            return True
    return False


def _pattern(rule: str) -> str:
    """A path of AppArmor's as a regular expression: ``**`` is anything, ``*`` anything but /."""
    return "".join({"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
                   for part in re.split(r"(\*\*|\*|\?)", rule))


_LOCAL = f"{RULES[1]}, then start the guest again"
NEEDS = (
    Need("the bus's folder", False, _bus_folder,
         "usermod --append --groups kvm {user}, or give its unit, lio-handover-vmstate-bus@, "
         "another Group="),
    Need("the bus, by AppArmor", False, _bus_rule, f"put the line `{{bus}} rw,` into {_LOCAL}"),
    Need("the device's mode", True, _device_mode,
         f"have udev give {DEVICE} to a group of {{user}}'s, or name the target by a hostdev"),
    Need("the device, by libvirt", True, _device_listed,
         f"add {DEVICE} to cgroup_device_acl there, or name the target by a hostdev"),
    Need("the device, by AppArmor", True, _device_rule,
         f"put the line `{DEVICE} rw,` into {_LOCAL}, or name the target by a hostdev"),
)


# ---- looking -------------------------------------------------------------------------------------
def unready(bus: str, root: str = "") -> List[str]:
    """The permissions that libvirt's QEMU lacks here, a line each with its way out; none where
    there is no libvirt.  ``bus``: the path of the guest's; ``root``: where files are, in tests."""
    host = look(root)
    return [] if host is None else list(_lines(host, bus))


def _lines(host: Libvirt, bus: str) -> Iterator[str]:
    for need in NEEDS:
        why = need.lacking(host, bus)
        if why:
            yield ("libvirt: " + ("where the target is a device of <qemu:commandline>: "
                                  if need.opens else "") + why
                   + "; next: " + need.way_out.format(user=host.user, bus=bus))


def look(root: str = "") -> Optional[Libvirt]:
    """libvirt on this host, by its files; None where it is not installed."""
    conf = _read(root + CONF)
    if conf is None:
        return None
    user = _set(conf, "user") or next(filter(_known, USERS), USERS[0])
    rules = [_read(root + path) or "" for path in RULES]
    try:
        rules += [_read(f"{root}{RULES_FOLDER}/{name}") or ""
                  for name in sorted(os.listdir(root + RULES_FOLDER))]
    except OSError:
        pass
    listed = re.search(r"(?ms)^\s*cgroup_device_acl\s*=\s*\[(.*?)\]", conf)
    on = (_read(root + ENABLED) or "").startswith("Y") and any(rules)
    return Libvirt(user, _ids(user), listed[1] if listed else "", on, "\n".join(rules), root)


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST)
    except OSError:
        return None


def _set(conf: str, key: str) -> str:
    """A text that libvirt's file sets (virconf.c): the last line that does."""
    values = re.findall(rf"""(?m)^\s*{key}\s*=\s*["']([^"']*)["']""", conf)
    return values[-1] if values else ""


def _known(user: str) -> bool:
    return _ids(user) is not None


def _ids(user: str) -> Optional[Tuple[int, FrozenSet[int]]]:
    """The uid and all groups of a user, who may be written as a number, or +number."""
    try:
        entry = pwd.getpwuid(int(user)) if user.lstrip("+").isdigit() else pwd.getpwnam(user)
        return entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    except (KeyError, OverflowError):
        return None

"""Paths, block devices, mounts and swap of this host, as the kernel shows them.

A path is first opened with O_PATH, which does not open the file or device itself; only a regular
file or a block device is then read.  A Host says where /sys, /proc and /dev are, so that a test can
give its own.
"""
from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple, Union

from ..errors import shown
from . import native_aio

#: Bytes that are read at once.
PAGE = 4096

Evidence = Dict[str, Union[str, int, bool]]
#: major:minor of a block device; of a file its device and inode.
Identity = Union[str, Tuple[int, int]]


@dataclass(frozen=True)
class Host:
    """Where the kernel tells about this host."""

    sys: str = "/sys"
    proc: str = "/proc"
    dev: str = "/dev"

    @property
    def mounts(self) -> List["Mount"]:
        """The mounts in their order.  Raises OSError."""
        return _mounts(self)

    @property
    def swaps(self) -> List[str]:
        """The paths of what is swap space."""
        return _swaps(self)

    @property
    def unsettled(self) -> Dict[str, str]:
        """{mount point: type} of the file systems whose names lead where a program likes: what FUSE
        serves, and proc, where they are a process's files and folders.  Raises OSError."""
        points = {mount.point: mount.type for mount in self.mounts}  # the last one is on top
        return {point: kind for point, kind in points.items()
                if kind in ("fuse", "fuseblk", "proc") or kind.startswith("fuse.")}

    @property
    def components(self) -> Dict[str, "Component"]:
        """The folders and symbolic links that were looked at, see trusted.py: none."""
        return {}

    @property
    def ways(self) -> Dict[str, "Way"]:
        """The ways to folders that were walked, see trusted.py: none."""
        return {}

    @property
    def looked(self) -> Dict[str, Identity]:
        """{path: identity} of the storage that was looked at: none."""
        return {}

    @property
    def real(self) -> Dict[str, str]:
        """{path: where it leads} of the folders that were asked for, see policy.py: none."""
        return {}

    @property
    def pages(self) -> Any:
        """Memory (mmap.mmap) of `native_aio.MOST` pages, which begins where O_DIRECT wants it to.
        """
        import mmap
        return mmap.mmap(-1, native_aio.MOST * PAGE)

    @property
    def buffered(self) -> Set[int]:
        """Devices of the file systems that were found to have no O_DIRECT: none."""
        return set()


class HostSnapshot(Host):
    """The host at one moment: the mounts are read, and each folder is looked at, once; what a path
    led to is remembered."""

    @cached_property
    def mounts(self) -> List["Mount"]:
        return _mounts(self)

    @cached_property
    def swaps(self) -> List[str]:
        return _swaps(self)

    @cached_property
    def unsettled(self) -> Dict[str, str]:
        return super().unsettled

    @cached_property
    def components(self) -> Dict[str, "Component"]:
        return {}

    @cached_property
    def ways(self) -> Dict[str, "Way"]:
        return {}

    @cached_property
    def looked(self) -> Dict[str, Identity]:
        return {}

    @cached_property
    def real(self) -> Dict[str, str]:
        return {}

    @cached_property
    def pages(self) -> Any:
        return super().pages

    @cached_property
    def buffered(self) -> Set[int]:
        return set()


class Component(NamedTuple):
    """A folder or a symbolic link on the way of a path: the link's target, and why somebody else
    than root could exchange what is in the folder."""

    target: str = ""
    why: str = ""


class Way(NamedTuple):
    """A resolved path, why somebody else than root could exchange what it leads to, and what
    lstat(2) said of its end, where that is no folder."""

    real: str
    why: str = ""
    status: Optional[os.stat_result] = None


HERE = Host()


class PathStat(NamedTuple):
    """The file or device at a path, not opened: ``fd`` is O_PATH."""

    fd: int
    real: str
    block: bool
    regular: bool
    device: str  # major:minor of a block device
    identity: Tuple[int, int]  # of a file: device and inode
    size: int  # of a file, bytes
    links: int = 1  # names of a file

    @property
    def leads_to(self) -> Identity:
        """The identity of the storage: two paths of one storage have the same."""
        return self.device if self.block else self.identity


# --- looking -------------------------------------------------------------------------------------
def look(path: str) -> PathStat:
    """The file or device at ``path``; the caller closes ``fd``.  Raises OSError.

    Opens nothing: no fifo is waited for, no device starts to do what devices do when opened.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        real = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        os.close(fd)
        raise
    return backing_of(fd, real, status)


def backing_of(fd: int, real: str, status: os.stat_result) -> PathStat:
    """The facts of a resolved path as stat(2) has them, with its descriptor, or -1 for none."""
    return PathStat(fd, real, stat.S_ISBLK(status.st_mode), stat.S_ISREG(status.st_mode),
                    f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}",
                    (status.st_dev, status.st_ino), status.st_size, status.st_nlink)


def reopen(backing: PathStat, flags: int = 0) -> int:
    """A descriptor to read from the same file or device as ``backing``.  Raises OSError."""
    if not (backing.block or backing.regular):
        raise OSError(errno.EINVAL, "neither a file nor a block device")
    return os.open(f"/proc/self/fd/{backing.fd}",
                   os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | flags)


def one_line_of(path: str) -> str:
    """The one line of a file in sysfs, "" without the file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip("\0 \n\t")
    except OSError:
        return ""


def names_in(path: str) -> List[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def folder_of(device: str, host: Host) -> str:
    """A block device's directory in sysfs."""
    return os.path.realpath(f"{host.sys}/dev/block/{device}")


def wwid_of(device: str, host: Host = HERE) -> str:
    """The name under which every host knows a block device (``8:16``), "" if it has none.

    ``naa.…``, ``eui.…`` or ``t10.…`` as the kernel gives it, ``dm:UUID`` (LVM, crypt),
    ``md:UUID`` or ``serial:…``; ``/part3`` is added for a partition.  A multipath device has
    the name of the unit that its paths lead to.
    """
    return _wwid(folder_of(device, host))


def _wwid(folder: str) -> str:
    number = one_line_of(folder + "/partition")
    if number:
        whole = _wwid(os.path.dirname(folder))
        return f"{whole}/part{number}" if whole else ""
    uuid = one_line_of(folder + "/dm/uuid")
    before, mpath, name = uuid.partition("mpath-")
    if mpath and (not before or (before.startswith("part") and before[4:-1].isdigit())):
        part = f"/{before[:-1]}" if before else ""
        if name[:1] == "3" and len(name) in (17, 33):  # as scsi_id writes an NAA name
            return "naa." + name[1:].lower() + part
        if name.startswith(("eui.", "nvme.", "uuid.")):
            return name + part
    if uuid:
        return "dm:" + uuid
    if os.path.isdir(folder + "/dm"):
        return ""
    for prefix, file in (("", "wwid"), ("", "device/wwid"), ("md:", "md/uuid"),
                         ("serial:", "serial"), ("serial:", "device/serial")):
        name = " ".join(one_line_of(f"{folder}/{file}").split())
        if name and name != "(null)":  # as some drivers say that they have none
            return prefix + name
    return ""


def block_facts(device: str, host: Host = HERE) -> Evidence:
    """Size in bytes, logical block size and WWID of a block device.  Raises OSError."""
    folder = folder_of(device, host)
    whole = os.path.dirname(folder) if os.path.exists(folder + "/partition") else folder
    try:
        facts: Evidence = {
            "kind": "block", "size": int(one_line_of(folder + "/size")) * 512,
            "logical_block_size": int(one_line_of(whole + "/queue/logical_block_size") or "512")}
    except ValueError:
        raise OSError(errno.ENODEV, "the kernel knows no such block device") from None
    wwid = _wwid(folder)
    if wwid:
        facts["wwid"] = wwid
    return facts


def hctl_of(device: str, host: Host = HERE) -> str:
    """The address of the SCSI device that a block device (``8:16``) is: ``0:0:0:1``, or ""."""
    name = os.path.basename(os.path.realpath(folder_of(device, host) + "/device"))
    return name if re.fullmatch(r"\d+:\d+:\d+:\d+", name) else ""


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    device: str
    point: str
    type: str
    source: str


#: fs/proc_namespace.c:mangle: a backslash and three octal digits.
_OCTAL = re.compile(r"\\([0-3][0-7]{2})")


def _unescape(text: str) -> str:
    """The kernel writes a blank as \\040."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _mounts(host: Host) -> List[Mount]:
    mounts = []
    with open(f"{host.proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _dash, after = line.partition(" - ")
            words, more = before.split(), after.split()
            if len(words) >= 5 and len(more) >= 2:
                mounts.append(Mount(words[2], _unescape(words[4]), more[0], _unescape(more[1])))
    return mounts


def file_system(real: str, host: Host) -> str:
    """The type of the file system in which a resolved path lies."""
    best, name = "", ""
    for mount in host.mounts:
        if len(mount.point) >= len(best) and is_below(real, mount.point):
            best, name = mount.point, mount.type
    return name


def is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def show(path: str) -> str:
    """A path, for a message."""
    return shown(path, 300)


# --- who uses it ---------------------------------------------------------------------------------
def holders_of(device: str, host: Host = HERE) -> Tuple[Dict[str, str], Dict[str, str]]:
    """({major:minor: name} of a device and its partitions, the same for all their holders).

    The names are the kernel's (``sdb1``, ``dm-0``).
    """
    own: Dict[str, str] = {}
    holders: Dict[str, str] = {}
    folder = folder_of(device, host)
    own[device] = os.path.basename(folder)
    pending = [folder]
    for name in _partitions(folder):
        own[one_line_of(f"{folder}/{name}/dev")] = name
        pending.append(f"{folder}/{name}")
    while pending:
        folder = pending.pop()
        for name in names_in(folder + "/holders"):
            holder = os.path.realpath(f"{folder}/holders/{name}")
            if one_line_of(holder + "/dev") not in holders:
                holders[one_line_of(holder + "/dev")] = name
                pending.append(holder)
                for part in _partitions(holder):
                    holders[one_line_of(f"{holder}/{part}/dev")] = part
                    pending.append(f"{holder}/{part}")
    return own, holders


def backing_devices(device: str, host: Host = HERE) -> Tuple[Dict[str, str], List[str]]:
    """({major:minor: name} of all block devices below a device, the files of its loop devices).

    A partition stands on its disk, a mapped device or array on its parts.
    """
    lower: Dict[str, str] = {}
    files: List[str] = []
    pending = [folder_of(device, host)]
    while pending:
        folder = pending.pop()
        parents = [os.path.realpath(f"{folder}/slaves/{name}")
                   for name in names_in(folder + "/slaves")]
        if os.path.exists(folder + "/partition"):
            parents.append(os.path.dirname(folder))
        backing = one_line_of(folder + "/loop/backing_file")
        if backing:
            files.append(backing)
        for parent in parents:
            number = one_line_of(parent + "/dev")
            if number and number not in lower:
                lower[number] = os.path.basename(parent)
                pending.append(parent)
    return lower, files


def _partitions(folder: str) -> List[str]:
    return [name for name in names_in(folder) if os.path.exists(f"{folder}/{name}/partition")]


def usage_of(device: str, host: Host = HERE) -> List[str]:
    """How this host itself uses a block device, in words: mounted, swap, held by another."""
    own, holders = holders_of(device, host)
    every = {**own, **holders}
    known = set(every.values())
    for name in tuple(known):
        known.add(one_line_of(f"{host.sys}/block/{name}/dm/name"))
    folder = folder_of(device, host)
    if os.path.exists(folder + "/partition"):  # the whole disk may be mounted, or held
        whole = os.path.dirname(folder)
        every[one_line_of(whole + "/dev")] = os.path.basename(whole)
        known.add(os.path.basename(whole))
        holders.update((one_line_of(f"{whole}/holders/{name}/dev"), name)
                       for name in names_in(whole + "/holders"))
    known.discard("")
    uses = []
    for mount in host.mounts:
        if mount.device in every or _basename(mount.source, host) in known:
            uses.append("holds this host's root" if mount.point == "/"
                        else f"is mounted on {show(mount.point)}")
    for path in host.swaps:
        if _basename(path, host) in known:
            uses.append("is swap space")
    if holders:
        uses.append("is part of " + ", ".join(sorted(
            one_line_of(f"{host.sys}/block/{name}/dm/name") or name for name in holders.values())))
    return list(dict.fromkeys(uses))


def _basename(path: str, host: Host) -> str:
    """The kernel's name of a device that a path of /dev leads to, "" for other paths."""
    if not path.startswith("/dev/") or "\0" in path:
        return ""
    return os.path.basename(os.path.realpath(host.dev + path[4:]))


def _swaps(host: Host) -> List[str]:
    try:
        with open(f"{host.proc}/swaps", encoding="utf-8", errors="surrogateescape") as file:
            return [_unescape(line.split()[0]) for line in file.readlines()[1:] if line.strip()]
    except OSError:
        return []


# --- finding a device ----------------------------------------------------------------------------
def find_by_wwid(wwid: str, host: Host = HERE) -> Optional[str]:
    """A path of the block device with this WWID on this host, None if there is none.

    A multipath device comes before its paths; a name that lasts (/dev/disk/by-id) before others.
    A mere serial number that two devices have finds neither: anybody may give it.
    """
    candidates = []
    for name in names_in(f"{host.sys}/block"):
        folder = os.path.realpath(f"{host.sys}/block/{name}")
        for node in [folder, *(f"{folder}/{part}" for part in _partitions(folder))]:
            if _wwid(node) == wwid:
                candidates.append((not os.path.isdir(folder + "/dm"), os.path.basename(node), node))
    if not candidates or (wwid.startswith("serial:") and len(candidates) > 1):
        return None
    _paths, kernel, folder = min(candidates)
    return _lasting(kernel, one_line_of(folder + "/dm/name"), host)


def _lasting(kernel: str, mapped: str, host: Host) -> str:
    node = f"{host.dev}/{kernel.replace('!', '/')}"
    links = [f"{host.dev}/disk/by-id/{name}" for name in names_in(f"{host.dev}/disk/by-id")]
    same = [link for link in links if os.path.realpath(link) == node]
    for prefix in ("wwn-", "nvme-eui.", "nvme-uuid.", "dm-uuid-", ""):
        for link in same:
            if os.path.basename(link).startswith(prefix):
                return link
    return f"{host.dev}/mapper/{mapped}" if mapped else node

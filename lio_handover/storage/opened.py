"""Whether the kernel has open the file or device to which a backstore's path leads now.

A backstore opens its storage once, when it is enabled.  The path is only a name: after ``mv``,
``rm``, a mount, ``dmsetup rename`` or a write to ``control`` it leads to something else, and the
kernel goes on serving what it has.  The other host would open what the path leads to.

The kernel tells this by plugin:

- iblock: ``info`` has the Major and Minor that were opened
  (target_core_iblock.c:iblock_show_configfs_dev_params)
- pscsi: the address H:C:T:L is what is used, the path only claims it
- fileio on a file: a read lease is refused with EAGAIN while anybody has the file open for
  writing, and granted where nobody has (fs/locks.c:check_conflicting_open).  Granted, it proves
  that the kernel has another file open.  Refused, it proves no more than that somebody writes,
  so other writers are looked for: processes, loop devices, and this host's other backstores of
  which it is known that they do not have what their own path leads to
- fileio on a device, on a network's file system, or where somebody else writes: nothing, unless
  the device is asked (probes.reads): then it is said that it is not known

Nothing here opens for writing.
"""
from __future__ import annotations

import errno
import os
import signal
import stat
from functools import cached_property
from typing import Dict, FrozenSet, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ..errors import Finding, HandoverError, StorageDiffers, StorageMissing, refuse
from ..model import plugins
from ..model.keys import display
from ..model.objects import Backstore, Key, State
from ..model.plugins import HCTL, Opens
from . import block_devices, protection
from .block_devices import (Host, HostSnapshot, PathStat, file_system, folder_of, hctl_of,
                            one_line_of, show)
from .evidence import OpenFiles
from .policy import Served

#: File systems that give leases by what this kernel alone knows, and each file one inode.
_LEASES = frozenset("""bcachefs btrfs exfat ext2 ext3 ext4 f2fs hostfs jfs nilfs2 overlay ramfs
    tmpfs vfat xfs zfs""".split())
#: A path that leads to nothing.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: The remedy for a backstore whose path leads elsewhere.
_PUT_BACK = ("put what it has open back at that path; what was deleted has no name any more: copy "
             "the LUN's data through an initiator to a new file, and serve that")

#: The files of an HBA, beside its backstores (target_core_configfs.c).
_OF_HBAS = frozenset({"hba_info", "hba_mode"})


class Look(NamedTuple):
    """One path of one backstore.  ``same``: whether the kernel has open the file or device to which
    the path leads, None where that cannot be known; ``why`` says why not."""

    store: Backstore
    same: Optional[bool]
    why: str = ""
    error: type[HandoverError] = StorageDiffers
    do: str = _PUT_BACK

    @property
    def finding(self) -> Finding:
        return Finding(self.error, display(self.store.key), self.why, do=self.do)


class Looks:
    """Looks at the backstores of one host; ``asked``: whether a backstore has its own path open, as
    the device itself said (probes.reads).  As far as they were read before, ``served`` has those
    that are enabled, and ``there`` is HBA/NAME of every one."""

    def __init__(self, host: Optional[Host] = None,
                 asked: Optional[Mapping[Key, Optional[bool]]] = None,
                 served: Iterable[Backstore] = (), there: Optional[Iterable[str]] = None) -> None:
        self.host = host or HostSnapshot()
        self.asked = asked or {}
        self._paths = {f"{store.hba}/{store.name}": store.path for store in served}
        self._there = there
        self._files: Optional[OpenFiles] = None
        self._keeps = False
        self._kinds: Dict[int, str] = {}  # device of a mount → type of its file system
        self._leases: Dict[Tuple[int, int], int] = {}  # device and inode → see _lease
        self._looked: Dict[str, PathStat] = {}  # path → what it leads to, without a descriptor
        self._before: Dict[str, Tuple[PathStat, Look]] = {}  # path → of the last look

    def again(self, files: Optional[OpenFiles] = None, keeps: bool = False) -> Looks:
        """For another look: what is found out about the files of these backstores is forgotten, and
        not who else has files open.  A file that a path leads to still is the one that the kernel
        has open still, as it opens one once.  ``files``: what is open already, and with ``keeps``
        gets what this opens."""
        self._files, self._keeps = files, keeps
        self._leases.clear()
        self._looked.clear()
        return self

    def at(self, stores: Iterable[Backstore]) -> Iterator[Look]:
        """Each path of each backstore that opens one."""
        for store in stores:
            if plugins.opened_by(store.plugin) and store.path:
                yield self._look(store)
                beside = protection.companion(store)
                if beside is not None:
                    yield self._look(beside)

    def plainly_elsewhere(self, store: Backstore) -> bool:
        """Whether the kernel itself tells that the path leads elsewhere now; who else has a file
        open, which may hide that, is not looked for."""
        try:
            backing = self._backing(store.path)
        except OSError:
            return True
        if plugins.opened_by(store.plugin) is Opens.BLOCK:
            return _iblock(store, backing, self.host).same is False
        return self._lease(backing) == 0

    def _look(self, store: Backstore) -> Look:
        try:
            if self._as_before(store):
                return self._before[store.path][1]._replace(store=store)
            backing = self._backing(store.path)
        except OSError as error:
            return _nowhere(store, error, self.host)
        opens = plugins.opened_by(store.plugin)
        if opens is Opens.BLOCK:
            return _iblock(store, backing, self.host)
        if opens is Opens.SCSI:
            return _pscsi(store, backing, self.host)
        look = self._fileio(store, backing)
        if look.same or self._lease(backing) not in (0, errno.EAGAIN):
            self._before[store.path] = backing, look
        return look

    def _as_before(self, store: Backstore) -> bool:
        """Whether a path leads to the file to which it led at the last look, where the kernel had
        that open, or where its file system does not tell: one call in place of eight.  Raises
        OSError."""
        backing, look = self._before.get(store.path, (None, None))
        if backing is None or look is None or look.same is False or not backing.regular \
                or look.store.parameters != store.parameters:
            return False
        status = os.stat(store.path)
        return (status.st_dev, status.st_ino, status.st_size) == (*backing.identity, backing.size)

    def _backing(self, path: str) -> PathStat:
        """The file or device at a path, without a descriptor, looked at once.  Raises OSError."""
        backing = self._looked.get(path)
        is_open = self._files.there(path) if self._files is not None and backing is None else None
        if is_open is not None:
            if is_open.identity not in self._leases and self._kind(is_open) in _LEASES:
                self._leases[is_open.identity] = _lease(is_open.fd)
            backing = self._looked[path] = is_open._replace(fd=-1)
        if backing is None:
            with_fd = block_devices.look(path)
            try:
                if with_fd.regular and with_fd.identity not in self._leases \
                        and self._kind(with_fd) in _LEASES:
                    self._leases[with_fd.identity] = self._asked_for_a_lease(path, with_fd)
            finally:
                os.close(with_fd.fd)
            backing = self._looked[path] = with_fd._replace(fd=-1)
        return backing

    def _asked_for_a_lease(self, path: str, backing: PathStat) -> int:
        """See `_lease`."""
        try:
            fd = block_devices.reopen(backing)
        except OSError as error:
            return error.errno or errno.EIO
        refused = _lease(fd)
        if not self._keeps or self._files is None \
                or not self._files.keep(path, backing._replace(fd=fd)):
            os.close(fd)
        return refused

    # ---- fileio ---
    def _fileio(self, store: Backstore, backing: PathStat) -> Look:
        # No command reads the companion: ``asked`` is about the backstore's own path.
        own = not store.path.endswith(protection.SUFFIX)
        asked = self.asked.get(store.key) if own else None
        same, why = self._file(backing)
        if same is False or asked is False:
            return Look(store, False, f"{show(store.path)} leads to another file now than the one "
                        "which the kernel has open and serves")
        served = int(store.parameters.get("fd_dev_size", "0"))
        if backing.regular and served > backing.size:
            return Look(store, False, f"{show(store.path)} has {backing.size} bytes, and {served} "
                        "are served of it: the other host would refuse it",
                        do=f"truncate -s {served} {show(store.path)}, which adds zeroes")
        return Look(store, True if asked else same, "" if asked else why)

    def _file(self, backing: PathStat) -> Tuple[Optional[bool], str]:
        """(whether the kernel has it open, why that is not known)."""
        if not backing.regular:
            return None, "the kernel does not show which device a fileio backstore has open"
        kind = self._kind(backing)
        if kind not in _LEASES:
            return None, f"a {kind} file system does not tell who has a file open"
        refused = self._lease(backing)
        if refused == 0:
            return False, ""
        if refused != errno.EAGAIN:
            return None, f"this kernel's {kind} gives no leases"
        others = self._writers.get(backing.identity, []) + self._served.loops(backing)
        if others:
            return None, f"{others[0]} has the file open for writing, too"
        if self._strays:
            return None, f"{self._strays[0]} has another file open than its own path leads to, " \
                "maybe this one"
        return True, ""

    def _kind(self, backing: PathStat) -> str:
        return self._kinds.get(backing.identity[0]) or self._kinds.setdefault(
            backing.identity[0], file_system(backing.real, self.host))

    def _lease(self, backing: PathStat) -> Optional[int]:
        """See `_lease`; None for what gives none."""
        return self._leases.get(backing.identity) if backing.regular else None

    @cached_property
    def _strays(self) -> List[str]:
        """The enabled backstores of this host that open files (fileio) and whose file has no name,
        or another one than theirs."""
        strays = []
        for at in self._listed() if self._there is None else self._there:
            plugin, path = plugins.of(at.partition("/")[0].rpartition("_")[0]), self._paths.get(at)
            if plugin.opens is not Opens.FILE:
                continue
            if path is None:
                text = one_line_of(f"{self._core}/{at}/info")
                path = plugins.parse(plugin.name, text).get(plugin.path_in[1], "") \
                    if "Status: ACTIVATED" in text else ""
            if path and self._is_stray(path):
                strays.append(at)
        return strays

    @property
    def _core(self) -> str:
        return f"{self.host.sys}/kernel/config/target/core"

    def _listed(self) -> Iterator[str]:
        """HBA/NAME of every backstore."""
        for hba in block_devices.names_in(self._core):
            yield from (f"{hba}/{name}" for name in set(
                block_devices.names_in(f"{self._core}/{hba}")) - _OF_HBAS)

    def _is_stray(self, path: str) -> bool:
        try:
            return self._lease(self._backing(path)) == 0
        except OSError as error:  # what is no UTF-8 was not read as it is
            return error.errno in _NOWHERE and "\ufffd" not in path

    @cached_property
    def _served(self) -> Served:
        return Served(State(), self.host)

    @cached_property
    def _writers(self) -> Dict[Tuple[int, int], List[str]]:
        """Regular files that processes have open for writing: device and inode → who."""
        writers: Dict[Tuple[int, int], List[str]] = {}
        for pid in filter(str.isdigit, block_devices.names_in(self.host.proc)):
            folder = f"{self.host.proc}/{pid}"
            for name in block_devices.names_in(f"{folder}/fd") if pid != str(os.getpid()) else ():
                try:
                    status = os.stat(f"{folder}/fd/{name}")
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    with open(f"{folder}/fdinfo/{name}") as file:
                        words = file.read().split()
                    flags = int(words[words.index("flags:") + 1], 8)
                except (OSError, ValueError, IndexError):
                    continue  # it is gone meanwhile
                if flags & os.O_ACCMODE != os.O_RDONLY:
                    writers.setdefault((status.st_dev, status.st_ino), []).append(
                        f"process {pid} ({one_line_of(folder + '/comm')})")
        return writers


def _lease(fd: int) -> int:
    """0 where a read lease is granted, which is given back at once, else the errno."""
    import fcntl
    try:
        # A process that opens the file for writing meanwhile waits for us; the kernel then sends a
        # signal, by default SIGIO, which would end this process.  SIGURG is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return 0
    except OSError as error:
        return error.errno or errno.EIO


# ---- devices ---
def _name(device: str, host: Host) -> str:
    """A block device for people: ``254:0 (dm-0, vg-lv)``."""
    folder = folder_of(device, host)
    names = [os.path.basename(folder), one_line_of(folder + "/dm/name")]
    return f"{device} ({', '.join(filter(None, names))})"


def _iblock(store: Backstore, backing: PathStat, host: Host) -> Look:
    if not store.opened:
        return Look(store, None, "the kernel does not show which device it has open")
    if backing.block and backing.device == store.opened:
        return Look(store, True)
    here = f"block device {_name(backing.device, host)}" if backing.block else "no block device"
    return Look(store, False, f"{show(store.path)} leads to {here} now, and the kernel has "
                f"{_name(store.opened, host)} open and serves it",
                do="make the path lead to that device again, or remove the backstore and make it "
                   "anew on the right one")


def _pscsi(store: Backstore, backing: PathStat, host: Host) -> Look:
    asked = ":".join(store.parameters.get(name, "?") for name in HCTL)
    address = hctl_of(backing.device, host) if backing.block else ""
    if not backing.block or "?" in asked or not address:
        return Look(store, None, "its path and its address can't be compared")
    if address == asked:
        return Look(store, True)
    return Look(store, False, f"{show(store.path)} leads to SCSI device {address} now, and {asked} "
                "is what the kernel serves", do="make the path (udev_path) that of the device")


def _nowhere(store: Backstore, error: OSError, host: Host) -> Look:
    if error.errno not in _NOWHERE:
        return Look(store, None, f"{show(store.path)}: {error.strerror}")
    has = f"block device {_name(store.opened, host)}" if store.opened else \
        "a file or device that was there when it was enabled"
    return Look(store, False, f"{show(store.path)} leads nowhere, and the kernel has {has} open "
                "and serves it", StorageMissing)


# ---- what is made of it ---
def judge(stores: Iterable[Backstore], asked: Optional[Mapping[Key, Optional[bool]]] = None,
          looks: Optional[Looks] = None) -> Tuple[List[Finding], Tuple[str, ...]]:
    """(why another host would not find by its path what this kernel serves, a line for each reason
    why that cannot be known of some backstores).  ``looks``: looks that were taken before."""
    problems: List[Finding] = []
    unsure: Dict[str, List[str]] = {}
    for store in (looks or Looks(asked=asked)).at(stores):
        if store.same is False:
            problems.append(store.finding)
        elif store.same is None:
            unsure.setdefault(store.why, []).append(display(store.store.key))
    return problems, tuple(
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: whether "
        f"the path leads to what the source has open is not known: {why}"
        + ("" if asked else " (--probe asks the device)") for why, names in unsure.items())


def findings(stores: Iterable[Backstore],
             asked: Optional[Mapping[Key, Optional[bool]]] = None,
             looks: Optional[Looks] = None) -> List[Finding]:
    """The first part of `judge`."""
    return judge(stores, asked, looks)[0]


def elsewhere(stores: Iterable[Backstore]) -> FrozenSet[Key]:
    """The backstores whose path certainly leads elsewhere now."""
    return frozenset(store.store.key for store in Looks().at(stores) if store.same is False)


def check(stores: Iterable[Backstore], looks: Optional[Looks] = None) -> None:
    """Check that the kernel has open what the paths lead to.  Raises StorageDiffers,
    StorageMissing."""
    refuse(findings(stores, looks=looks))

"""Whether root alone decides what a path leads to.

The kernel opens a backstore's path as root, after the checks, and again at each boot.  Whoever can
write to a folder on the way can put another file, or a symbolic link to any file or device of the
host, in its place meanwhile.  So each folder on the way (of the resolved path, and those that
symbolic links on the way live in) is root's, and neither its group nor others can write to it.  A
sticky folder is no exception: its users cannot rename the names of others, but each of them can
make a name before root does, and exchange that one.  With an access control list the bits of the
group are the most that any entry has (acl(5)), so those are looked at as well.

A file may be somebody else's (QEMU's images often are): its owner writes to what is served anyway,
and cannot exchange it.  A file has one name, as another may be in a folder that is not root's.

A file system that a program serves (FUSE) says whatever that program likes, and keeps whoever looks
waiting: it is not looked at, unless the configuration names it.

Nothing here opens a file or device.
"""
from __future__ import annotations

import errno
import os
import stat
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ..errors import Finding, StorageDiffers, StorageMissing, StorageNotAllowed, refuse
from ..model import plugins
from ..model.keys import display
from ..model.objects import Backstore
from ..model.plugins import HCTL, Opens
from ..system.locks import room_for
from . import protection
from .block_devices import (HERE, Component, Host, HostSnapshot, Identity, PathStat, Way,
                            backing_of, hctl_of, is_below, show)

_NOWHERE = (errno.ENOENT, errno.ENOTDIR)
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
#: As many symbolic links the kernel follows in one path (include/linux/namei.h:MAXSYMLINKS).
_MOST_LINKS = 40
#: The remedy for a path that others can exchange.
KEEP = "keep it in folders that are root's, and that root alone may write to"


def words_of(path: str) -> List[str]:
    """The names in a path, the last one first."""
    return [word for word in reversed(path.split("/")) if word not in ("", ".")]


def walk(path: str, fuse: Sequence[str] = (), host: Host = HERE) -> Way:
    """The way to what ``path`` leads to; ``why`` others than root could exchange that.

    ``fuse``: folders at or below which FUSE file systems may be.  Each folder is looked at once for
    one snapshot of the host.  Raises OSError.
    """
    folder, _slash, name = path.rpartition("/")
    way = host.ways.get(folder)
    if way is None:
        way = host.ways.setdefault(folder, _walk("/", words_of(folder), fuse, host))
    return way if way.why else _walk(way.real, words_of(name), fuse, host)


def _walk(here: str, pending: List[str], fuse: Sequence[str], host: Host) -> Way:
    known, mounted = host.components, host.unsettled
    links, status = 0, None
    look, _status = _component(here, known)
    while not look.why and pending:
        word = pending.pop()
        if word == "..":
            here = os.path.dirname(here)
            continue
        there = f"{here.rstrip('/')}/{word}"
        if there in mounted and (mounted[there] == "proc" or not any(
                is_below(there, folder) for folder in fuse)):
            return Way(there, f"lies in {show(there)}, a file system of type "
                       f"{show(mounted[there])}, whose names lead where a program likes")
        look, status = _component(there, known)
        if not look.target:
            here = there
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if look.target.startswith("/"):
            here = "/"
        pending += words_of(look.target)
    return Way(here, look.why, status)


def _component(path: str, known: Dict[str, Component]) \
        -> Tuple[Component, Optional[os.stat_result]]:
    """(a folder or symbolic link, None), or what lstat(2) said of the end of the way."""
    if path in known:
        return known[path], None
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        look = Component(target=os.readlink(path))
    elif not stat.S_ISDIR(status.st_mode):
        return Component(), status
    elif status.st_uid:
        look = Component(why=f"lies below {show(path)}, which belongs to uid {status.st_uid}: "
                             "whoever owns a folder can exchange what is in it")
    elif status.st_mode & _OTHERS:
        look = Component(why=f"lies below {show(path)}, which others than root may write to (mode "
                             f"{stat.S_IMODE(status.st_mode):04o})")
    else:
        look = Component()
    return known.setdefault(path, look), None


def judge(store: Backstore, backing: PathStat, host: Host = HERE) -> Optional[Finding]:
    """The finding that ``backing``, to which a backstore's path leads, is not root's to decide: its
    file has another name, or its path and its address (pscsi) are two things.  None where neither
    is so."""
    why = do = ""
    if backing.regular and backing.links > 1:
        why = f"has {backing.links} names (hard links), and its folders say nothing of the others"
        do = "remove the other names, or copy it"
    elif plugins.opened_by(store.plugin) is Opens.SCSI:
        why, do = _other_address(store, backing, host), "name it with --map device:OLD=NEW"
    return not_allowed(store, why, do) if why else None


def not_allowed(store: Backstore, why: str, do: str = KEEP) -> Finding:
    """The finding that a backstore's path may not be served, whatever is overridden."""
    return Finding(StorageNotAllowed, display(store.key), f"{show(store.path)} {why}", do=do)


def _other_address(store: Backstore, backing: PathStat, host: Host) -> str:
    """pscsi claims the device at its path, and uses the one at its address
    (target_core_pscsi.c:pscsi_configure_device)."""
    address = hctl_of(backing.device, host) if backing.block else ""
    asked = ":".join(store.parameters.get(name, "?") for name in HCTL)
    return "" if address and address == asked else \
        f"is SCSI device {address or 'no'}, and {asked} is to be served"


def findings(stores: Iterable[Backstore], fuse: Sequence[str] = (),
             host: Optional[Host] = None) -> List[Finding]:
    """A finding for each backstore that others than root could have serve something else.  Paths
    that lead nowhere have none: that is told elsewhere."""
    host = host or HostSnapshot()
    problems: List[Finding] = []
    for store in _paths(stores):
        try:
            way = walk(store.path, fuse, host)
            problem = _judged(store, way, host)
            problems += [problem] if problem else []
        except OSError as error:
            if error.errno not in _NOWHERE:
                problems.append(not_allowed(store, f"can't be looked at: {error.strerror}"))
    return problems


def _judged(store: Backstore, way: Way, host: Host) -> Optional[Finding]:
    if way.why:
        return not_allowed(store, way.why)
    return judge(store, backing_of(-1, way.real, way.status), host) if way.status else None


def _paths(stores: Iterable[Backstore]) -> Iterator[Backstore]:
    """Each backstore that opens a path, and each companion file."""
    for store in stores:
        if plugins.opened_by(store.plugin) and store.path:
            yield store
            beside = protection.companion(store)
            if beside is not None:
                yield beside


class Watch:
    """The storage that the kernel is about to open, looked at right before ``enable`` and right
    after it.  A descriptor (O_PATH) of each file or device is open in between, so that no other
    file has its inode meanwhile.  ``fuse``: as `walk` has it."""

    def __init__(self, fuse: Sequence[str] = ()) -> None:
        self.fuse = fuse
        self._kept: Dict[str, Identity] = {}  # path → what it led to
        self._fds: List[int] = []

    def before(self, stores: Sequence[Backstore], looked: Mapping[str, Identity] = {}) -> None:
        """Look at what these backstores will open.  ``looked``: what the paths led to when the
        storage was checked.  Raises StorageNotAllowed, StorageMissing, StorageDiffers."""
        room_for(2 * len(stores))
        host = HostSnapshot()
        refuse([finding for store in _paths(stores)
                for finding in self._look(store, host, looked.get(store.path))])

    def after(self, stores: Iterable[Backstore]) -> List[Finding]:
        """The findings that a path leads to something else now than before, or that others than
        root could have exchanged it meanwhile."""
        host = HostSnapshot()
        problems = [finding for store in _paths(stores) if store.path in self._kept
                    for finding in self._look(store, host, self._kept[store.path])]
        self.close()
        return problems

    def _look(self, store: Backstore, host: Host, before: Optional[Identity]) -> List[Finding]:
        try:
            way = walk(store.path, self.fuse, host)
            if way.status and not way.why and store.path not in self._kept:
                fd = os.open(way.real, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                self._fds.append(fd)
                status = os.fstat(fd)
                self._kept[store.path] = leads_to(status)
                way = way._replace(status=status)
        except OSError as error:
            how = "is not there any more" if error.errno in _NOWHERE else \
                f"can't be looked at: {error.strerror}"
            return [Finding(StorageMissing, display(store.key), f"{show(store.path)} {how}",
                            do="put back what was there, and run it again")]
        now = leads_to(way.status) if way.status else ""
        if not way.why and before not in (None, now):
            return [Finding(StorageDiffers, display(store.key), f"{show(store.path)} leads to "
                            "something else than when it was looked at",
                            do="keep others from it, and run it again")]
        problem = _judged(store, way, host)
        return [problem] if problem else []

    def close(self) -> None:
        """Let go of everything."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._kept.clear()


def leads_to(status: os.stat_result) -> Identity:
    """See PathStat.leads_to."""
    if stat.S_ISBLK(status.st_mode):
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return status.st_dev, status.st_ino

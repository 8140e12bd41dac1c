"""Wait until missing storage may have arrived, by events of the kernel and udev, without polling.

The events are uevents of block and SCSI devices and of modules, inotify events of each folder on
the way to a path, and changes of the mounts.  No event tells of a file that another host creates
on a file system that both hosts have mounted (NFS, OCFS2, GFS2).
"""
from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import struct
import time
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Dict, Iterable, Iterator, Optional, Set, Tuple, Type

from . import inotify as watching
from .inotify import Inotify

_UEVENTS = 15  # linux/netlink.h:NETLINK_KOBJECT_UEVENT
_KERNEL, _UDEV = 1, 2  # its groups: the kernel's uevents; udev's, once udev has made the links
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
#: A libudev message: "libudev", magic; size of the header, offset and length of the properties.
_UDEV_HEAD = struct.Struct("!8sI"), struct.Struct("3I")
_UDEV_MAGIC = (b"libudev\0", 0xfeedcafe)
#: Modules bring fabrics and handlers; misc has vhost-scsi, uio the devices of TCMU.
_SUBSYSTEMS = {b"block", b"module", b"misc", b"uio"}

_MASK = (watching.IN_CREATE | watching.IN_MOVED_TO | watching.IN_ATTRIB | watching.IN_DELETE_SELF
         | watching.IN_MOVE_SELF | watching.IN_ONLYDIR | watching.IN_DONT_FOLLOW)
_LINKS = 40  # as many as the kernel follows
_LONGEST = 2**31 - 1  # milliseconds that poll takes


class Arrivals:
    """A watch for the storage at these full paths.

    A caller opens the watch, then looks for the storage, and looks again after each `wait`: so no
    arrival in between is missed.  Existing paths are watched, too, as they may be replaced.  The
    watch takes five descriptors, and one inotify watch for each folder on the way to any of the
    paths.  Raises OSError.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = list(dict.fromkeys(paths))
        self._names: Dict[int, Set[str]] = {}  # watch of a folder → the names that matter in it
        self._cut_short = False  # the last wait raised, and its events are lost
        with ExitStack() as opened:
            self._uevents = opened.enter_context(_uevents())
            self._inotify = Inotify()
            opened.callback(self._inotify.close)
            self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, self._mounts)
            self._woken, self._waker = socket.socketpair()
            for end in (self._woken, self._waker):
                opened.enter_context(end)
                end.setblocking(False)
            # Not epoll: polling the mounts makes the kernel forget that they have changed
            # (fs/proc_namespace.c:mounts_poll), and polling an epoll descriptor polls them twice.
            self._poll = select.poll()
            self._poll.register(self._mounts, select.POLLPRI | select.POLLERR)
            for fd in (self._uevents, self._inotify, self._woken):
                self._poll.register(fd, select.POLLIN)
            self._arm()
            self._opened = opened.pop_all()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """True once storage may have arrived since the last call, or since the watch was opened;
        False after ``timeout`` seconds.  True may be a false alarm.  Raises OSError.

        A signal's Python handler runs as usual, and its exception is raised here.  Where the
        handler raises nothing, the result is True, so that the caller can look at a flag that the
        handler has set; outside the main thread `wake` does that.  The call after a call that
        raised returns True at once.
        """
        cut_short, self._cut_short = self._cut_short, True
        with self._signals():
            came = cut_short or self._told(timeout)
            if came:
                self._arm()
        self._cut_short = False
        return came

    def wake(self) -> None:
        """Make `wait` return True: for other threads, and for signal handlers."""
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            pass  # the socket is full of wake-ups already

    def close(self) -> None:
        """Close all descriptors; Python writes no signal to them any more, even where a handler
        has raised in the middle of `wait`."""
        try:
            before = signal.set_wakeup_fd(-1)
            if before not in (-1, self._waker.fileno()):
                signal.set_wakeup_fd(before)
        except ValueError:  # not the main thread
            pass
        self._opened.close()

    def __enter__(self) -> "Arrivals":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    # ---- events ---
    def _told(self, timeout: Optional[float]) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            ready = self._poll.poll(None if left is None else min(left, _LONGEST))
            if self._matters({fd for fd, _events in ready}):
                return True
            if until is not None and time.monotonic() >= until:
                return False

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have signals wake poll: a signal just before poll sleeps would wait for another event."""
        try:
            before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        except ValueError:  # not the main thread
            before = None
        try:
            yield
        finally:
            if before is not None:
                signal.set_wakeup_fd(before)

    def _matters(self, ready: Set[int]) -> bool:
        """Whether an event matters; all events are read, so that the next call can sleep."""
        matters = self._mounts in ready
        if self._woken.fileno() in ready:
            matters |= any(self._bytes())
        if self._uevents.fileno() in ready:
            matters |= any([_is_storage(message) for message in _messages(self._uevents)])
        if self._inotify.fileno() in ready:
            matters |= any([self._is_on_the_way(event) for event in self._inotify.events()])
        return matters

    def _bytes(self) -> Iterator[bytes]:
        try:
            while True:
                yield self._woken.recv(4096)
        except BlockingIOError:
            return

    def _is_on_the_way(self, event: watching.Event) -> bool:
        if event.mask & watching.IN_Q_OVERFLOW:
            return True
        names = self._names.get(event.watch)
        return names is not None and (not event.name or event.name in names)

    # ---- watches ---
    def _arm(self) -> None:
        """Watch every existing folder on the way to each path.

        A folder is watched before it is read, so a file that is created later makes an event.
        """
        walk = _Walk(self._inotify)
        try:
            for path in self._paths:
                walk.along(path)
        finally:
            for watch in self._names.keys() - walk.names.keys():
                self._inotify.drop(watch)
            self._names = walk.names


class _Walk:
    """One walk along all paths; folders that several paths share are read once."""

    def __init__(self, inotify: Inotify) -> None:
        self.names: Dict[int, Set[str]] = {}
        self._inotify = inotify
        self._watches: Dict[str, Optional[int]] = {}
        self._seen: Dict[str, Tuple[int, str]] = {}

    def along(self, path: str) -> None:
        """Walk by component, and follow symbolic links by hand, as each link may be replaced."""
        folder, links, rest = "/", 0, path.split("/")[::-1]
        while rest:
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                folder = os.path.dirname(folder)
                continue
            watch = self._watch(folder)
            if watch is not None:
                self.names.setdefault(watch, set()).add(name)
            here = os.path.join(folder, name)
            kind, target = self._look(here)
            if kind == stat.S_IFLNK and links < _LINKS:
                links += 1
                rest += target.split("/")[::-1]
                folder = "/" if target.startswith("/") else folder
            elif kind == stat.S_IFDIR:
                folder = here
            else:
                return

    def _watch(self, folder: str) -> Optional[int]:
        """The watch of a folder; None where the folder has gone (the watch of the folder above
        tells), or may not be read (on a file system of another host)."""
        if folder not in self._watches:
            try:
                self._watches[folder] = self._inotify.add(folder, _MASK)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                    raise
                self._watches[folder] = None
        return self._watches[folder]

    def _look(self, path: str) -> Tuple[int, str]:
        """(file type, target of a symbolic link or ""); (0, "") where the path does not exist."""
        if path not in self._seen:
            try:
                kind = stat.S_IFMT(os.lstat(path).st_mode)
                self._seen[path] = kind, os.readlink(path) if kind == stat.S_IFLNK else ""
            except OSError:
                self._seen[path] = 0, ""
        return self._seen[path]


# --- uevents -------------------------------------------------------------------------------------
def _uevents() -> socket.socket:
    """A socket of both groups: the kernel's, as udev may not run; udev's, as its links come after
    the kernel's uevent."""
    uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _UEVENTS)
    try:
        uevents.setblocking(False)
        uevents.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        uevents.bind((0, _KERNEL | _UDEV))
    except OSError:
        uevents.close()
        raise
    return uevents


def _messages(uevents: socket.socket) -> Iterator[bytes]:
    """The messages of the kernel and of root; an empty message where messages were lost."""
    while True:
        try:
            data, ancillary, flags, (sender, _groups) = uevents.recvmsg(
                8192, socket.CMSG_SPACE(_CREDENTIALS.size))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield b""
            continue
        users = [_CREDENTIALS.unpack(value)[1] for level, kind, value in ancillary
                 if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)]
        if users != [0] or sender and not data.startswith(_UDEV_MAGIC[0]):
            continue
        yield b"" if flags & socket.MSG_TRUNC else data


def _is_storage(message: bytes) -> bool:
    """Whether a message is of a subsystem that brings storage, a fabric or a handler."""
    if not message:
        return True
    properties = message
    if message.startswith(_UDEV_MAGIC[0]):
        first, second = _UDEV_HEAD
        if len(message) < first.size + second.size or first.unpack_from(message) != _UDEV_MAGIC:
            return False
        _size, start, length = second.unpack_from(message, first.size)
        properties = message[start:start + length]
    names = [item[10:] for item in properties.split(b"\0") if item.startswith(b"SUBSYSTEM=")]
    return any(name in _SUBSYSTEMS or name.startswith(b"scsi") for name in names)

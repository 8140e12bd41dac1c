"""inotify(7): events of files and folders, reads of a file among them."""
from __future__ import annotations

import ctypes
import errno
import os
import struct
from types import TracebackType
from typing import Iterator, NamedTuple, Optional, Type

IN_ACCESS = 0x00000001  # linux/inotify.h
IN_ATTRIB = 0x00000004
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800
IN_UNMOUNT = 0x00002000
IN_Q_OVERFLOW = 0x00004000  # events were lost; the event belongs to no watch
IN_IGNORED = 0x00008000  # the last event of a watch, which is gone
IN_ONLYDIR = 0x01000000
IN_DONT_FOLLOW = 0x02000000

_HEAD = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, len; then the name
#: errno → the limit that is reached; the kernel's own text for it names another cause.
_LIMITS = {errno.EMFILE: "fs.inotify.max_user_instances",
           errno.ENOSPC: "fs.inotify.max_user_watches"}


class Event(NamedTuple):
    """``name``: a name in the watched folder, or "" where the event is of the watched file or
    folder itself."""

    watch: int
    mask: int
    name: str


class Inotify:
    """An inotify instance.  Raises OSError."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("")

    def add(self, path: str, mask: int) -> int:
        """Watch the inode that a path leads to; two paths of one inode have the same watch."""
        watch: int = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if watch < 0:
            raise _error(path)
        return watch

    def drop(self, watch: int) -> None:
        """Remove a watch; the watch may be gone already, with its file."""
        self._libc.inotify_rm_watch(self._fd, watch)

    def events(self) -> Iterator[Event]:
        """The events since the last call; the kernel merges equal events in a row."""
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return
            start = 0
            while start < len(data):
                watch, mask, _cookie, length = _HEAD.unpack_from(data, start)
                start += _HEAD.size + length
                name = data[start - length:start].rstrip(b"\0")
                yield Event(watch, mask, os.fsdecode(name))

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    text = os.strerror(number)
    if number in _LIMITS:
        text = f"this host's limit of {_LIMITS[number]} is reached"
    return OSError(number, text, path) if path else OSError(number, text)


class Watch:
    """A watch for reads of a file or of a device's node.  Raises OSError."""

    def __init__(self, path: str) -> None:
        self._inotify = Inotify()
        try:
            self._inotify.add(path, IN_ACCESS)
        except OSError:
            self.close()
            raise

    def accesses(self) -> int:
        """The number of events of reads since the last call; the kernel merges reads in a row."""
        return sum(1 for _event in self._inotify.events())

    def close(self) -> None:
        self._inotify.close()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

"""fanotify(7): writes to any file of a file system, and whose they are.

The kernel tells writes to configfs (fs/read_write.c:vfs_write), and nothing of folders and links
there that come and go: an event of these needs a file handle, which configfs does not give.
"""
from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Iterator, NamedTuple

# linux/fanotify.h
_CLOEXEC, _NONBLOCK = 0x1, 0x2
_ADD, _FILE_SYSTEM = 0x1, 0x100
_MODIFY, _Q_OVERFLOW = 0x2, 0x4000
_AT_FDCWD = -100
#: struct fanotify_event_metadata.  One at a time: with more in a buffer, read(2) would not tell
#: when the file of the last could not be opened (fanotify_user.c:fanotify_read).
_EVENT = struct.Struct("=IBBHQii")
#: The file of an event cannot be opened to be read: it can only be written to, or it is gone.
_UNKNOWN = (errno.EACCES, errno.EPERM, errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ESTALE)


class Write(NamedTuple):
    """A write: by which process (0: not known), and to which file ("": not known).  ``lost``: the
    queue was full (fs.fanotify.max_queued_events), so there were others that are not told."""

    pid: int
    path: str
    lost: bool = False


class Fanotify:
    """The writes to files of the file system that a path is on.  Raises OSError, also where this
    kernel, or this process, has no fanotify."""

    def __init__(self, path: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.fanotify_init(_CLOEXEC | _NONBLOCK, os.O_RDONLY | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "fanotify_init")
        if libc.fanotify_mark(self._fd, _ADD | _FILE_SYSTEM, ctypes.c_uint64(_MODIFY), _AT_FDCWD,
                              os.fsencode(path)):
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), path)

    def writes(self) -> Iterator[Write]:
        """The writes since the last call; the kernel merges those of one process to one file."""
        while True:
            try:
                data = os.read(self._fd, _EVENT.size)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise
                yield Write(0, "")
                continue
            _length, _version, _reserved, _size, mask, fd, pid = _EVENT.unpack(data)
            if fd < 0:
                yield Write(pid, "", bool(mask & _Q_OVERFLOW))
                continue
            try:
                yield Write(pid, os.readlink(f"/proc/self/fd/{fd}"))
            finally:
                os.close(fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

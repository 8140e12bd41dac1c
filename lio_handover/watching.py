"""Who reads a file: inotify, which is told of the kernel's own reads of what it has open, too."""
from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Optional, Type

_IN_ACCESS = 0x00000001  # linux/inotify.h
_EVENT = 16  # bytes of one without a name


class Watch:
    """Watches what a path leads to, a file or the node of a device.  Raises OSError."""

    def __init__(self, path: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0 and libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_ACCESS) >= 0:
            return
        number = ctypes.get_errno()
        self.close()
        raise OSError(number, os.strerror(number), path)

    def accesses(self) -> int:
        """How many reads were told since the last call; reads that follow each other at once may
        be told as one."""
        try:
            return len(os.read(self._fd, 4096)) // _EVENT
        except BlockingIOError:
            return 0

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

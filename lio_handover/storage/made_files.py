"""Files that are made, or made longer, to be served; and how that is taken back."""
from __future__ import annotations

import errno
import os
import stat
from typing import Dict, List

from .. import errors
from .block_devices import Identity
from .trusted import leads_to

#: A file of root's alone.
MODE = 0o600


class MadeFiles:
    """The files that one run has made or made longer."""

    def __init__(self) -> None:
        self._paths: List[str] = []
        self._lengths: Dict[str, int] = {}  # what they were

    def make(self, path: str, size: int, sparse: bool) -> Identity:
        """Make a file where there is nothing, not even a symbolic link; its identity.  Raises
        OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            self._paths.append(path)
            os.fchmod(fd, MODE)
            if sparse:
                os.ftruncate(fd, size)
            else:
                os.posix_fallocate(fd, 0, size)
            return leads_to(os.fstat(fd))
        finally:
            os.close(fd)

    def grow(self, path: str, size: int) -> None:
        """Make a file at least ``size`` bytes long.  Raises OSError, StorageMissing for what is no
        file."""
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise errors.StorageMissing(f"{errors.shown(path)} is no file that could grow")
            if status.st_size < size:
                self._lengths.setdefault(path, status.st_size)
                os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def take_back(self) -> None:
        """Remove what was made, and shorten what was made longer, the last first.  Raises
        OSError."""
        for path, size in self._lengths.items():
            os.truncate(path, size)
        self._lengths.clear()
        while self._paths:
            try:
                os.unlink(self._paths.pop())
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise

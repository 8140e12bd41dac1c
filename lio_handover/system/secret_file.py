"""Secrets that a file holds: its path names them, so that no command line and no log has them."""
from __future__ import annotations

import os
import stat

from .. import errors
from ..errors import shown

#: Bytes of such a file at most; the kernel takes 255 (iscsi_target_configfs.c).
MOST = 4096


def read(path: str) -> str:
    """The first line of a file.  Raises BadFile."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise errors.BadFile(f"{shown(path)}: {getattr(error, 'strerror', None) or 'no path'}",
                             do="name a file with the secret in its first line") from None
    try:
        return read_descriptor(fd, shown(path))
    finally:
        os.close(fd)


def read_descriptor(fd: int, where: str) -> str:
    """The same of an open file.  Raises BadFile."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise errors.BadFile(f"{where} is no file", do="name a file with the secret in its first "
                                                       "line")
    data = os.pread(fd, MOST + 1, 0)
    line = data.split(b"\n", 1)[0]
    if len(data) > MOST or not line or b"\0" in line:
        raise errors.BadFile(f"{where} has no secret in its first line",
                             do=f"write it there, and at most {MOST} bytes in all")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise errors.BadFile(f"{where} is not UTF-8 text", do="correct it") from None

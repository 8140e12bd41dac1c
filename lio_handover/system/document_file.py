"""Documents as files: read without trust, written whole, readable by their owner alone."""
from __future__ import annotations

import errno
import os
import stat
import sys
from typing import NoReturn

from .. import errors
from .atomic_file import write_file

#: The FILE that stands for standard input or output.
STREAM = "-"
#: Bytes of the largest document that the service reads for somebody who may only look.
SMALL = 8 << 20


def read(path: str, limit: int) -> bytes:
    """The bytes of a document's file, at most ``limit``.  Raises BadFile, TooLarge.

    Only standard input can make this wait; a device is not opened.
    """
    if path == STREAM:
        return _read_stream(limit)
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            _bad(path, f"is {_kind(kind)}, not a file", "give a file, or - for standard input")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                _bad(path, "is not a file any more", "try again")
            if status.st_size > limit:
                _too_large(path, limit)
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        _bad(path, f"can't be read: {_reason(error)}")
    if len(data) > limit:
        _too_large(path, limit)
    return data


def read_descriptor(fd: int, limit: int) -> bytes:
    """The bytes of the file behind a descriptor, from its start.  Raises BadFile, TooLarge.

    The descriptor comes from a client of the service: it may be of any kind, and its offset and
    its size are not trusted.
    """
    path = "the descriptor"
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            _bad(path, f"is {_kind(status.st_mode)}, not a file", "pass a file, or a memfd")
        if status.st_size > limit:
            _too_large(path, limit)
        data = b""
        while len(data) <= limit:
            more = os.pread(fd, min(limit + 1 - len(data), 1 << 20), len(data))
            if not more:
                return data
            data += more
    except OSError as error:
        _bad(path, f"can't be read: {_reason(error)}")
    _too_large(path, limit)


def _read_stream(limit: int) -> bytes:
    if sys.stdin is None:
        _bad("standard input", "is closed")
    if sys.stdin.isatty():
        _bad("standard input", "is a terminal", "give a file, or pipe a document in")
    try:
        data = sys.stdin.buffer.read(limit + 1)
    except OSError as error:
        _bad("standard input", f"can't be read: {_reason(error)}")
    if len(data) > limit:
        _too_large("standard input", limit)
    return data


def write(path: str, data: bytes) -> None:
    """Write a document whole or not at all; it is on the disk when this returns.  Raises BadFile.

    The file's mode is 0600 from the start, as a document has secrets.
    """
    if path == STREAM:
        _write_stream(data)
        return
    check_place(path)
    try:
        write_file(path, data)
    except OSError as error:
        _bad(path, f"can't be written: {_reason(error)}")


def check_place(path: str) -> None:
    """Raises BadFile where no file of this name can be created, or the name is not a file's."""
    try:
        kind = os.stat(path, follow_symlinks=False).st_mode
        if not stat.S_ISREG(kind):
            _bad(path, f"is {_kind(kind)} and stays as it is", "name a file, or - for standard "
                                                               "output")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        _bad(path, f"can't be written: {_reason(error)}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        _bad(path, f"can't be written: {folder} is no folder")
    if not os.access(folder, os.W_OK):
        _bad(path, f"can't be written: nothing can be made in {folder}")


def check_stream() -> None:
    """Raises BadFile where a document must not go to standard output."""
    if sys.stdout is None:
        _bad("standard output", "is closed", "-o FILE")
    if sys.stdout.isatty():
        _bad("standard output", "is a terminal, and a document holds secrets", "-o FILE")


def _write_stream(data: bytes) -> None:
    check_stream()
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _bad("standard output", f"can't be written: {_reason(error)}")


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a fifo"),
                       (stat.S_ISLNK, "a symbolic link"), (stat.S_ISSOCK, "a socket"),
                       (stat.S_ISBLK, "a block device"), (stat.S_ISCHR, "a device")):
        if test(mode):
            return name
    return "something else"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or errno.errorcode.get(error.errno or 0, "no reason given")
    return str(error)  # a NUL in the name


def _bad(path: str, what: str, do: str = "") -> NoReturn:
    raise errors.BadFile(f"{path} {what}", do=do) from None


def _too_large(path: str, limit: int) -> NoReturn:
    raise errors.TooLarge(f"{path} has more than {limit} bytes",
                          do="export the document again, or raise [limits] document")

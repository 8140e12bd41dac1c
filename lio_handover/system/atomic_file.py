"""Files that are written whole or not at all."""
from __future__ import annotations

import errno
import os
from typing import Callable, List, Mapping, Tuple


def write_file(path: str, content: bytes, still: Callable[[], bool] = lambda: True,
               durable: bool = True) -> bool:
    """Replace a file: it has all of ``content`` or its old content, on the disk when this returns.

    The file's mode is 0600 from the start.  ``still`` is called last, just before the rename:
    where it returns False, nothing is replaced.  Without ``durable`` a power cut may leave anything
    of it, and whoever reads it after a boot must not believe it.  Returns the result of ``still``.
    Raises OSError.
    """
    return write_files({path: content}, still, durable)


def append_line(path: str, line: bytes, most: int) -> bool:
    """Append a line to a file, of mode 0600 where it is made: on the disk when this returns.  Half
    a line, as a crash leaves it, becomes a line of its own.  False where the file would have more
    than ``most`` bytes, and is as it was.  Raises OSError; then the file may have half a line."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size + len(line) > most:
            return False
        whole = line + b"\n"
        if size and os.pread(fd, 1, size - 1) != b"\n":
            whole = b"\n" + whole
        if os.write(fd, whole) != len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)
    if not size:
        fsync_folder(os.path.dirname(path))
    return True


def write_files(files: Mapping[str, bytes], still: Callable[[], bool] = lambda: True,
                durable: bool = True) -> bool:
    """Replace several files, ``{path: content}``, as `write_file` does.  After an error some files
    may be new and some old; each of them is whole."""
    new_files: List[Tuple[str, str]] = []
    try:
        for path, content in files.items():
            folder, name = os.path.split(path)
            new = os.path.join(folder or ".", f".{name[:200]}.{os.urandom(8).hex()}")
            _write(new, content, durable)
            new_files.append((new, path))
        if not still():
            for new, _path in new_files:
                os.unlink(new)
            return False
        while new_files:
            os.rename(*new_files[-1])
            new_files.pop()
    except BaseException:
        for new, _path in new_files:
            os.unlink(new)
        raise
    for folder in {os.path.dirname(path) or "." for path in files} if durable else ():
        fsync_folder(folder)
    return True


def new_file(path: str, content: bytes) -> None:
    """Make a file that does not exist yet, of mode 0600: whole, and on the disk when this returns.
    Raises FileExistsError, OSError."""
    folder, name = os.path.split(path)
    new = os.path.join(folder or ".", f".{name[:200]}.{os.urandom(8).hex()}")
    _write(new, content)
    try:
        os.link(new, path, follow_symlinks=False)  # which replaces nothing, as rename would
    finally:
        os.unlink(new)
    fsync_folder(folder or ".")


def read_file(path: str) -> bytes:
    """The content of a file, with four calls of the kernel: what Python's open() takes besides
    costs more than a short file.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wanted = os.fstat(fd).st_size + 1
        data = os.read(fd, wanted)
        while len(data) == wanted or wanted == 1 and data:  # it grows, or tells no size
            more = os.read(fd, 1 << 16)
            if not more:
                break
            data += more
            wanted = 1
        return data
    finally:
        os.close(fd)


def fsync_folder(path: str) -> None:
    """Bring a folder's created, renamed and removed names to the disk.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: str, content: bytes, durable: bool = True) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view):]
        if durable:
            os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)

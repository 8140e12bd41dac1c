"""Files written whole or not at all."""
from __future__ import annotations

import os
from typing import Callable, List, Mapping, Tuple


def write_file(path: str, content: bytes, still: Callable[[], bool] = lambda: True) -> bool:
    """All of ``content`` or what was there before, on the disk when this returns.

    Nobody but the owner may read it, at no moment.  ``still`` is asked last of all whether it is
    to be done: what it says is returned.  Raises OSError.
    """
    return write_files({path: content}, still)


def write_files(files: Mapping[str, bytes], still: Callable[[], bool] = lambda: True) -> bool:
    """The same for several, ``{path: content}``: each is whole, and all are on the disk when this
    returns.  Where it fails, some may be new and some what they were."""
    made: List[Tuple[str, str]] = []
    try:
        for path, content in files.items():
            folder, name = os.path.split(path)
            new = os.path.join(folder or ".", f".{name[:200]}.{os.urandom(8).hex()}")
            _write(new, content)
            made.append((new, path))
        if not still():
            for new, _path in made:
                os.unlink(new)
            return False
        while made:
            os.rename(*made[-1])
            made.pop()
    except BaseException:
        for new, _path in made:
            os.unlink(new)
        raise
    for folder in {os.path.dirname(path) or "." for path in files}:
        fsync_folder(folder)
    return True


def fsync_folder(path: str) -> None:
    """What was made, renamed or removed in a folder is on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view):]
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)

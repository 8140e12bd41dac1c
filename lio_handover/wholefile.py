"""A file written whole or not at all."""
from __future__ import annotations

import os


def write_file(path: str, content: bytes) -> None:
    """All of ``content`` or what was there before, on the disk when this returns.

    Nobody but the owner may read it, at no moment.  Raises OSError.
    """
    folder = os.path.dirname(path) or "."
    made = os.path.join(folder, f".{os.path.basename(path)[:200]}.{os.urandom(8).hex()}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(made, path)
    except BaseException:
        os.unlink(made)
        raise
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The text of targetcli's save file, read and parsed."""
from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Dict, Iterator, List, Tuple

from .. import errors
from . import writers
from .json_splice import Splice

#: The members of a save file that are looked at.
LISTS = ("targets", "storage_objects")

#: The text of a file, its identity and its bytes.
Content = Tuple[Splice, writers.Identity, bytes]

#: File → what was read of it, of each `parsed_once` that goes on.
_parsed: List[Dict[str, Content]] = []


@contextmanager
def parsed_once() -> Iterator[None]:
    """Within this context, which one thread uses, a file is parsed again only once it is another
    (see `writers.Identity`)."""
    _parsed.append({})
    try:
        yield
    finally:
        _parsed.pop()


def read(path: str) -> Content:
    """The content of a file; nothing where it is not there.  Raises SavefileBroken."""
    if not _parsed:
        return _read(path)
    if path not in _parsed[-1] or _parsed[-1][path][1] != writers.identity(path):
        _parsed[-1][path] = _read(path)
    return _parsed[-1][path]


def _read(path: str) -> Content:
    try:
        with open(path, "rb") as file:
            seen = writers.of_stat(os.fstat(file.fileno()))
            data = file.read()
        return Splice(data.decode(), LISTS), seen, data
    except FileNotFoundError:
        return Splice("", LISTS), None, b""
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        broken = errors.SavefileBroken(f"{path} can't be read: {why}",
                                       do=f"look at {path}, or restore a backup of it")
        broken.half = not isinstance(error, OSError)
        raise broken from None

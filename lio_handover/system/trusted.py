"""Folders, and records in them, that nobody but root can have changed.

A folder is taken only where root, or who runs this, owns it and each folder on the way to it, and
nobody else can write there, and no link on the way is somebody else's.  (In a folder with the
sticky bit, like /tmp, others can't rename what is root's.)
"""
from __future__ import annotations

import os
import stat

from .. import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

#: Symbolic links on the way to one folder, as path_resolution(7) counts them.
_MOST_LINKS = 40


class Fault:
    """``why`` what is at a path is not root's alone, and the command that makes it so (``do``)."""

    __slots__ = ("path", "why", "do")

    def __init__(self, path: str, why: str, do: str) -> None:
        self.path, self.why, self.do = path, why, do


def fault(path: str) -> Optional[Fault]:
    """The fault of a folder, or of the way to it; None also for one that is not there yet."""
    here, rest, links = "/", _parts(os.path.abspath(path)), 0
    while True:
        try:
            status = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            return None
        wrong = _fault_of(here, status, sticky=bool(rest))
        if wrong is not None:
            return wrong
        if stat.S_ISLNK(status.st_mode):
            links += 1
            target = os.readlink(here)
            here, rest = "/" if os.path.isabs(target) else os.path.dirname(here), \
                _parts(target) + rest
            if links > _MOST_LINKS:
                return Fault(path, "is reached by too many links", f"namei -l {_quoted(path)}")
        elif not stat.S_ISDIR(status.st_mode):
            return Fault(here, "is no folder", f"mv {_quoted(here)} {_quoted(here + '.old')}")
        elif rest:
            here = os.path.normpath(os.path.join(here, rest.pop(0)))
        else:
            return None


def record_fault(folder: str, names: Sequence[str]) -> Optional[Fault]:
    """The fault of one of these names in a folder that has none itself; None also for names that
    are not there."""
    for name in names:
        path = os.path.join(folder, name)
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        wrong = _fault_of(path, status)
        if wrong is not None:
            return wrong
        if stat.S_ISLNK(status.st_mode):
            return Fault(path, "is a link", f"ls -l {_quoted(path)}")
    return None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _fault_of(path: str, status: os.stat_result, sticky: bool = False) -> Optional[Fault]:
    """``sticky``: whether others may make names beside what is root's."""
    if status.st_uid and status.st_uid != os.geteuid():
        return Fault(path, f"is user {status.st_uid}'s, not root's",
                     f"chown -h root {_quoted(path)}")
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o022 \
            and not (sticky and status.st_mode & stat.S_ISVTX):
        return Fault(path, "can be written by others than root", f"chmod go-w {_quoted(path)}")
    return None


def _quoted(path: str) -> str:
    import shlex
    return errors.one_line(shlex.quote(path))

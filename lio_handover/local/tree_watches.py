"""inotify watches of the target tree and of targetcli's save files: what programs change there is
told (fs/configfs goes through the VFS); what the kernel changes by itself is told to nobody.

A LUN alone has some twenty folders, so what is seldom changed is not watched: see `folders`.
"""
from __future__ import annotations

import os
from typing import Dict, Iterator, List, Mapping, Sequence, Set

from ..actions.context import HandoverContext
from ..model import directories
from ..model.fabrics import FABRICS
from ..system import inotify
from ..system.inotify import Inotify

_MASK = (inotify.IN_CREATE | inotify.IN_DELETE | inotify.IN_CLOSE_WRITE | inotify.IN_MOVED_TO
         | inotify.IN_DELETE_SELF | inotify.IN_ONLYDIR)
#: Watches of one handover: of the 8192 that a small host lets one user have.
MOST = 1500
#: Folders of a TPG.
_PARTS = ("lun", "acls", "np", "attrib", "param", "auth")
#: The key whose folders concern every handover: fabrics and targets that come and go.
EVERYBODY = ""


class TreeWatches:
    """Folders under watch, each for somebody.  Raises OSError."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._of: Dict[int, Set[str]] = {}

    def fileno(self) -> int:
        return self._inotify.fileno()

    def arm(self, wanted: Mapping[str, Sequence[str]]) -> bool:
        """Watch these folders: who is to be told → full paths.  One that is not there is left out.
        Whether there is any that was not watched before: look again then."""
        watches: Dict[int, Set[str]] = {}
        for who, paths in wanted.items():
            for path in paths:
                try:
                    watches.setdefault(self._inotify.add(path, _MASK), set()).add(who)
                except (FileNotFoundError, NotADirectoryError):
                    continue
        for watch in self._of.keys() - watches.keys():
            self._inotify.drop(watch)
        new = bool(watches.keys() - self._of.keys())
        self._of = watches
        return new

    def told(self) -> Set[str]:
        """To whom something happened since the last call; EVERYBODY where some was lost."""
        names: Set[str] = set()
        for event in self._inotify.events():
            if event.mask & inotify.IN_Q_OVERFLOW:
                names.add(EVERYBODY)
            if event.mask & inotify.IN_IGNORED:
                self._of.pop(event.watch, None)
            names |= self._of.get(event.watch, set())
        return names


def roots(root: str) -> List[str]:
    """Where fabrics and targets come and go."""
    return [root, *(f"{root}/{fabric}" for fabric in FABRICS)]


def gates(context: HandoverContext) -> Iterator[str]:
    """Where the gates of a handover's targets are, and whatever may bring one."""
    for name in context.local_targets():
        path = context.fs.path(name)
        yield path
        for tpg in _folders(path):
            if directories.is_tpg(tpg):
                yield f"{path}/{tpg}"


def folders(context: HandoverContext) -> List[str]:
    """Where a handover's targets are changed, what matters most first: not in a LUN (its ALUA state
    changes while it is served) nor in a mapped one."""
    paths = list(gates(context))
    tpgs = [path for path in paths if directories.is_tpg(os.path.basename(path))]
    paths += [f"{tpg}/{name}" for tpg in tpgs for name in _PARTS]
    acls = [f"{tpg}/acls/{acl}" for tpg in tpgs for acl in _folders(f"{tpg}/acls")]
    paths += acls
    paths += [f"{acl}/{name}" for acl in acls for name in ("attrib", "auth", "param")]
    placed = context.reader(False).placed()
    paths += [context.fs.path(f"core/{placed[key]}/{key[2]}/attrib")
              for key in context.stores() if key in placed]
    return paths[:MOST]


def _folders(path: str) -> List[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []

"""Changes of some targets in the target tree by other processes: heard, instead of read again.

The kernel tells writes by fanotify, with the process that wrote; and folders and links that come
and go by inotify, on each folder in which they can (fs/configfs/dir.c), without saying whose they
are: so this process's own are known by name.  Nobody is told what the kernel changes by itself
(reservations, ALUA states that initiators set, what enable sets).
"""
from __future__ import annotations

import os
from typing import Dict, Iterable, Iterator, Set, Tuple

from ..kernel.configfs import Configfs
from ..kernel.reader import Reader
from ..model import directories
from ..model.objects import Key, State, kernel_name
from ..system import inotify
from ..system.fanotify import Fanotify
from ..system.inotify import Inotify

_MASK = inotify.IN_CREATE | inotify.IN_DELETE | inotify.IN_ONLYDIR
#: Events after which nothing more is told of a folder, or something was not.
_LOST = inotify.IN_Q_OVERFLOW | inotify.IN_IGNORED | inotify.IN_UNMOUNT
_LU_GROUPS = "core/alua/lu_gps"


class TreeWatch:
    """Hears of changes to some targets and their backstores.  Raises OSError where the kernel has
    no way to tell, or a limit of this host's (fs.inotify.max_user_watches) is reached."""

    def __init__(self, fs: Configfs) -> None:
        self.fs, self._pid = fs, os.getpid()
        self._writes, self._names = Fanotify(fs.root), Inotify()
        self._watches: Dict[int, str] = {}  # watch → folder
        #: folder → the only names in it that matter, where others may come and go
        self._only: Dict[str, Set[str]] = {}
        self._objects: Tuple[str, ...] = ()  # folders of the targets and the backstores
        fs.entries_changed = {}

    def listen(self, names: Iterable[Tuple[str, str]], stores: Iterable[Key] = ()) -> None:
        """Hear from now on of all that can change of these targets, (fabric, WWN), of what they
        export, and of these backstores."""
        wanted: Dict[str, Set[str]] = {"core": set()}
        objects = [f"{fabric}/{wwn}" for fabric, wwn in names]
        folders = [folder for name in objects for folder in self._of_target(name)]
        reader = Reader(self.fs, reservations=False)
        placed = reader.placed()
        for key in {*stores, *(key for fabric, wwn in names
                               for _tpg, _lun, key in reader.links(fabric, wwn))} & placed.keys():
            objects.append(f"core/{placed[key]}/{kernel_name(key)}")
            folders.append(f"{objects[-1]}/alua")
        for name in objects:
            words = name.split("/")
            for number, word in enumerate(words):
                wanted.setdefault("/".join(words[:number]), set()).add(word)
        self._only = wanted
        self._objects = tuple(f"{name}/" for name in {*objects, _LU_GROUPS})
        watches = {}
        for folder in {*folders, *wanted, _LU_GROUPS}:
            path = self.fs.path(folder) if folder else self.fs.root
            if os.path.isdir(path):
                watches[self._names.add(path, _MASK)] = folder
        for watch in self._watches.keys() - watches.keys():
            self._names.drop(watch)
        self._watches = watches
        self.others()  # what came before

    def _of_target(self, name: str) -> Iterator[str]:
        """The folders of a target in which something can come or go."""
        yield name
        for tpg in self.fs.entries(name)[1]:
            if not directories.is_tpg(tpg):
                continue
            for part in ("lun", "acls", "np"):
                folder = f"{name}/{tpg}/{part}"
                if not self.fs.exists(folder):
                    continue
                yield folder
                for entry in self.fs.entries(folder)[1]:
                    if part != "np":
                        yield f"{folder}/{entry}"
                    if part == "acls":
                        yield from (f"{folder}/{entry}/{lun}" for lun in self.fs.entries(
                            f"{folder}/{entry}")[1] if directories.is_lun(lun))

    def covers(self, state: State) -> bool:
        """Whether all of a state is listened to, which was read since."""
        there = {*self._watches.values()}
        return all(folder in there for target in state.targets
                   for folder in self._of_target(target.name)) and all(
            f"core/{store.hba}/{store.name}/" in self._objects for store in state.backstores)

    def others(self) -> bool:
        """Whether another process has changed any of it since the last call, or may have."""
        changed = False
        for write in self._writes.writes():
            if write.lost or write.pid != self._pid and (not write.path or any(
                    write.path.startswith(self.fs.path(name)) for name in self._objects)):
                changed = True
        own, self.fs.entries_changed = self.fs.entries_changed or {}, {}
        for event in self._names.events():
            folder = self._watches.get(event.watch)
            if event.mask & _LOST:
                changed |= event.watch < 0 or folder is not None
                continue
            if folder is None or event.name not in self._only.get(folder, {event.name}):
                continue
            change = (bool(event.mask & inotify.IN_CREATE),
                      f"{folder}/{event.name}" if folder else event.name)
            if own.get(change, 0):
                own[change] -= 1
            else:
                changed = True
        return changed

    def close(self) -> None:
        """Listen no more."""
        self._writes.close()
        self._names.close()
        self.fs.entries_changed = None

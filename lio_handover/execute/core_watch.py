"""The backstores of this host as a process knows them that stays: it hears which come and go, and
what is written to them, instead of reading each again for each change.

HBAs and backstores are told by inotify on the folders that have them, whoever makes them; writes by
one fanotify mark on configfs.
"""
from __future__ import annotations

import os
from typing import Dict, List, Mapping

from ..kernel.configfs import Configfs, KnownBackstores
from ..model.objects import Backstore
from ..system import inotify
from ..system.fanotify import Fanotify
from ..system.inotify import Inotify

_MASK = inotify.IN_CREATE | inotify.IN_DELETE | inotify.IN_ONLYDIR
_NOT_HBAS = ("alua",)


class CoreWatch(KnownBackstores):
    """HBA → its backstores and, with ``writes``, what was read of each.  Raises OSError where the
    kernel has no way to tell, or a limit of this host's is reached."""

    def __init__(self, fs: Configfs, writes: bool = True) -> None:
        self.fs, self._names = fs, Inotify()
        self._writes = Fanotify(fs.root) if writes else None
        self._pid = os.getpid()
        self._folders: Dict[int, str] = {}  # watch → HBA, "" for the folder of them all
        self._listed: Dict[str, List[str]] = {}
        self._outlines: Dict[str, Backstore] = {}
        self._all()

    def listed(self) -> Mapping[str, List[str]]:
        """HBA → the names of its backstores, now.  Raises OSError."""
        if not self._folders:
            self._all()  # the tree was not there
        changed = set()
        for event in self._names.events():
            folder = self._folders.get(event.watch)
            if event.watch < 0 or folder == "" and event.mask & inotify.IN_IGNORED:
                self._forget()
                self._all()
                return self._listed
            if folder is not None:
                changed.add(folder or event.name)
        for hba in changed - {*_NOT_HBAS}:
            self._list(hba)
        return self._listed

    def outlines(self) -> Dict[str, Backstore]:
        """HBA/NAME → an outline that was read, and to which nobody has written since."""
        self.listed()
        if self._writes is None:
            return {}
        for write in self._writes.writes():
            words = write.path[len(self.fs.root) + 1:].split("/")
            if write.lost or not write.path and write.pid != self._pid:
                self._outlines.clear()
            elif not write.path:
                continue  # to control, of a backstore that this process made or let grow
            elif words[0] == "core":
                self._outlines.pop("/".join(words[1:3]), None)
        return self._outlines

    def _all(self) -> None:
        self._watch("")
        for hba in self.fs.names("core"):
            if hba not in _NOT_HBAS:
                self._list(hba)

    def _watch(self, hba: str) -> None:
        self._folders[self._names.add(self.fs.path(f"core/{hba}".rstrip("/")), _MASK)] = hba

    def _list(self, hba: str) -> None:
        """List an HBA, which is watched from before that on."""
        for name in self._listed.pop(hba, ()):
            self._outlines.pop(f"{hba}/{name}", None)
        try:
            self._watch(hba)
            self._listed[hba] = sorted(self.fs.entries(f"core/{hba}")[1])
        except (FileNotFoundError, NotADirectoryError):
            return  # it is gone, or no HBA

    def _forget(self) -> None:
        self._folders.clear()
        self._listed.clear()
        self._outlines.clear()

    def close(self) -> None:
        self._names.close()
        if self._writes is not None:
            self._writes.close()

"""Has the copies of registrations follow the kernel's APTPL files, by a child that may get lost.

The kernel's write of such a file is told to inotify watchers as anybody's (fs/file_table.c:
__fput).  What could be missed, as a folder may be replaced, or too much happen at once, is looked
for every few seconds.
"""
from __future__ import annotations

import os
from typing import Any, Dict, Optional, Tuple

from gi.repository import Gio, GLib

from ..system.journald import Log
from .children import Child

#: Milliseconds until another look in any case.
ALWAYS = 5000


class Follower:
    """One child; it is told to look whenever something may have been written."""

    def __init__(self, config: str, log: Log) -> None:
        self._config, self._log = config, log
        self._child: Optional[Child] = None
        self._monitors: Dict[Tuple[str, int, int], Any] = {}
        self._asked = self._again = self._stopped = False
        self._failed = ""

    def start(self) -> None:
        """Follow from now on."""
        self.look()
        GLib.timeout_add(ALWAYS, self._always)

    def look(self) -> None:
        """Something may have been written, or begun."""
        if self._stopped:
            return
        if self._asked:
            self._again = True
            return
        if self._child is None:
            self._child = Child("--follows", self._config)
            self._child.said, self._child.ended = self._said, self._ended
        self._asked = True
        self._child.ask()

    def stop(self) -> None:
        """The child takes a last look, notes that nobody follows any more, and ends."""
        self._stopped = True
        if self._child:
            self._child.dismiss()

    def _always(self) -> bool:
        self.look()
        return not self._stopped

    def _said(self, words: Dict[str, Any]) -> None:
        self._asked = False
        failed = str(words.get("failed", ""))
        if failed != self._failed:
            self._failed = failed
            if failed:
                self._log.warn(f"copies do not follow the APTPL files: {failed}")
        self._watch({str(one) for one in words.get("watch", ())})
        if self._again:
            self._again = False
            self.look()

    def _ended(self, code: int) -> None:
        self._child, self._asked = None, False
        if not self._stopped:  # the next look has another
            self._log.warn(f"the process that follows the APTPL files ended (exit {code})")

    def _watch(self, folders: set[str]) -> None:
        wanted = {(path, *_identity(path)) for path in folders}
        for one in {*self._monitors} - wanted:
            self._monitors.pop(one).cancel()
        for one in wanted - {*self._monitors}:
            try:
                made = Gio.File.new_for_path(one[0]).monitor_directory(
                    Gio.FileMonitorFlags.NONE, None)
            except GLib.Error:
                continue  # it is looked for again
            made.connect("changed", self._changed)
            self._monitors[one] = made
            self._again = True  # what was written before it was watched

    def _changed(self, _monitor: Any, _file: Any, _other: Any, event: Any) -> None:
        if event != Gio.FileMonitorEvent.CHANGED:  # which is told again when it is closed
            self.look()


def _identity(path: str) -> Tuple[int, int]:
    """Of a folder: another one may have its place."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino

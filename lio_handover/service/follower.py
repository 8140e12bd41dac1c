"""A worker process that has the copies of registrations follow the kernel's APTPL files.

inotify tells of the kernel's write of such a file as of any write (fs/file_table.c:__fput).  A
folder may be replaced, and inotify may overflow, so the worker also looks every few seconds.
"""
from __future__ import annotations

import os
from typing import Any, Dict, Optional, Tuple

from gi.repository import Gio, GLib

from ..client.worker_process import WorkerProcess
from ..system.journald import Log
from .inventory import PutOff

#: Milliseconds between two looks without an event.
ALWAYS = 5000


class Follower:
    """One worker; it is asked to look whenever a file may have been written."""

    def __init__(self, config: str, log: Log) -> None:
        self._config, self._log = config, log
        self._child: Optional[WorkerProcess] = None
        self._monitors: Dict[Tuple[str, int, int], Any] = {}
        self._asked = self._again = self._stopped = False
        self._failed = ""
        #: Has the worker look: a file may have been written, or a handover begun.
        self.look = PutOff(self._look)

    def start(self) -> None:
        """Follow from now on."""
        self.look()
        GLib.timeout_add(ALWAYS, self._always)

    def _look(self) -> None:
        if self._stopped:
            return
        if self._asked:
            self._again = True
            return
        if self._child is None:
            self._child = WorkerProcess("--follows", self._config)
            self._child.said, self._child.ended = self._said, self._ended
        self._asked = True
        self._child.ask()

    def stop(self) -> None:
        """Have the worker look a last time, record that nothing follows the files, and end."""
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
        self._watch({str(folder) for folder in words.get("watch", ())})
        if self._again:
            self._again = False
            self.look()

    def _ended(self, code: int) -> None:
        self._child, self._asked = None, False
        if not self._stopped:  # the next look starts another worker
            self._log.warn(f"the process that follows the APTPL files ended (exit {code})")

    def _watch(self, folders: set[str]) -> None:
        wanted = {(path, *_identity(path)) for path in folders}
        for watched in {*self._monitors} - wanted:
            self._monitors.pop(watched).cancel()
        for watched in wanted - {*self._monitors}:
            try:
                monitor = Gio.File.new_for_path(watched[0]).monitor_directory(
                    Gio.FileMonitorFlags.NONE, None)
            except GLib.Error:
                continue  # the next look tries again
            monitor.connect("changed", self._changed)
            self._monitors[watched] = monitor
            self._again = True  # a file may have been written before its folder was watched

    def _changed(self, _monitor: Any, _file: Any, _other: Any, event: Any) -> None:
        if event != Gio.FileMonitorEvent.CHANGED:  # the close of the file is another event
            self.look()


def _identity(path: str) -> Tuple[int, int]:
    """(device, inode) of a folder, as another folder may take its path; (0, 0) where it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino

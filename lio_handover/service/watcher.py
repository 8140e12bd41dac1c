"""The worker process that guards the targets of handovers against changes by others (guards.py,
local/guard.py).  It is asked to look when a journal was written; the kernel tells it the rest."""
from __future__ import annotations

import os
from typing import Any, Dict, Optional

from gi.repository import GLib

from ..client.worker_process import WorkerProcess
from ..system.journald import Log

#: Milliseconds until another worker is started after one has ended.
AGAIN = 5000


class Watcher:
    """One worker, once ``folder`` has a handover.  ``busy``: whether the worker runs."""

    def __init__(self, config: str, folder: str, log: Log) -> None:
        self._config, self._folder, self._log = config, folder, log
        self._child: Optional[WorkerProcess] = None
        self._stopped = False
        self._failed = ""

    @property
    def busy(self) -> bool:
        return self._child is not None

    def start(self) -> bool:
        if not self._stopped and self._child is None and self._wanted():
            self._child = WorkerProcess("--guards", self._config)
            self._child.said, self._child.ended = self._said, self._ended
        return False

    def look(self) -> None:
        """Have the worker look: a handover may have begun or ended."""
        if self._child:
            self._child.ask()
        else:
            self.start()

    def _wanted(self) -> bool:
        try:
            return bool(os.listdir(self._folder))
        except OSError:
            return False

    def stop(self) -> None:
        """Tell the worker to end; it finishes a change that has begun."""
        self._stopped = True
        if self._child:
            self._child.dismiss()

    def _said(self, words: Dict[str, Any]) -> None:
        if "warn" in words:
            self._log.warn(str(words["warn"]), handover=str(words.get("handover", "")),
                           target=str(words.get("target", "")))
        failed = str(words.get("failed", self._failed))
        if failed != self._failed:
            self._failed = failed
            if failed:
                self._log.warn(f"what others do to targets is not seen: {failed}")

    def _ended(self, code: int) -> None:
        self._child = None
        if not self._stopped:
            self._log.warn(f"the process that looks after targets ended (exit {code})")
            GLib.timeout_add(AGAIN, self.start)

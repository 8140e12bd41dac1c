"""Child processes of the main loop: lines of JSON in, and their end."""
from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from typing import Any, Callable, Dict, Sequence

from gi.repository import GLib

PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CHUNK = 1 << 16


class Child:
    """A worker.  ``said`` is called with each line, then ``ended`` with what waitpid says."""

    def __init__(self, arguments: Sequence[str], stdin: int, passed: Sequence[int],
                 said: Callable[[Dict[str, Any]], None], ended: Callable[[int], None]) -> None:
        self._said, self._ended = said, ended
        self._rest = b""
        path = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lio_handover.service.worker", *arguments], stdin=stdin,
            stdout=subprocess.PIPE, pass_fds=passed, start_new_session=True, cwd="/",
            env={**os.environ, "PYTHONPATH": path})
        self.pid = self._process.pid
        assert self._process.stdout
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._watch = GLib.io_add_watch(self._out, GLib.PRIORITY_DEFAULT,
                                        GLib.IO_IN | GLib.IO_HUP, self._readable)
        GLib.child_watch_add(GLib.PRIORITY_DEFAULT, self.pid, self._exited)

    def signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def _readable(self, *_: Any) -> bool:
        try:
            data = os.read(self._out, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            self._watch = 0
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        return True

    def _take(self, line: bytes) -> None:
        try:
            words = json.loads(line)
        except ValueError:
            return  # the end of one that was killed
        if isinstance(words, dict):
            self._said(words)

    def _exited(self, _pid: int, status: int) -> None:
        while self._watch and self._more() and self._readable():
            pass
        if self._watch:
            GLib.source_remove(self._watch)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        assert self._process.stdout
        self._process.stdout.close()
        self._ended(self._process.returncode)

    def _more(self) -> bool:
        return bool(select.select([self._out], [], [], 0)[0])

"""Child processes of the main loop: lines of JSON in, and their end.

A process that has not begun waits with everything loaded: starting one takes longer than most
verbs, and a target may be shut meanwhile.
"""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any, Callable, Dict, Optional, Sequence

from gi.repository import GLib

from ..started import WORKER

PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CHUNK = 1 << 16


class Child:
    """A worker.  ``said`` is called with each line, then ``ended`` with its exit code."""

    def __init__(self, *arguments: str) -> None:
        self.said: Callable[[Dict[str, Any]], None] = lambda words: None
        self.ended: Callable[[int], None] = lambda code: None
        self._rest = b""
        path = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._line, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER, *arguments],
                stdin=its.fileno(), stdout=subprocess.PIPE, start_new_session=True, cwd="/",
                env={**os.environ, "PYTHONPATH": path})
        self.pid = self._process.pid
        assert self._process.stdout
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._watch = GLib.io_add_watch(self._out, GLib.PRIORITY_DEFAULT,
                                        GLib.IO_IN | GLib.IO_HUP, self._readable)
        GLib.child_watch_add(GLib.PRIORITY_DEFAULT, self.pid, self._exited)

    def ask(self, descriptors: Sequence[int] = ()) -> None:
        """Have it begin; the descriptors are passed on."""
        try:
            socket.send_fds(self._line, [b"\n"], list(descriptors))
        except OSError:
            pass  # it is gone, and its end is about to be heard of

    def dismiss(self) -> None:
        """Nothing more is wanted of it."""
        self._line.close()

    def signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def _readable(self, *_: Any) -> bool:
        if self._read() == 0:
            self._watch = 0
        return bool(self._watch)

    def _read(self) -> int:
        """Take what it has said: how many bytes; -1 for nothing now, 0 for nothing ever."""
        try:
            data = os.read(self._out, _CHUNK)
        except BlockingIOError:
            return -1
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        return len(data)

    def _take(self, line: bytes) -> None:
        try:
            words = json.loads(line)
        except ValueError:
            return  # the end of one that was killed
        if isinstance(words, dict):
            self.said(words)

    def _exited(self, _pid: int, status: int) -> None:
        if self._watch:  # or it would watch whoever has the number of this descriptor next
            GLib.source_remove(self._watch)
        while self._read() > 0:
            pass
        self._process.returncode = os.waitstatus_to_exitcode(status)
        assert self._process.stdout
        self._process.stdout.close()
        self._line.close()
        self.ended(self._process.returncode)


class Spare:
    """One child that waits."""

    def __init__(self) -> None:
        self._child: Optional[Child] = None

    def prepare(self) -> bool:
        if self._child is None:
            self._child = Child()
            self._child.ended = self._lost
        return False

    def _lost(self, _code: int) -> None:
        self._child = None

    def take(self) -> Child:
        """The child that waits, or a new one; soon another waits."""
        self.prepare()
        child, self._child = self._child, None
        assert child is not None
        GLib.idle_add(self.prepare, priority=GLib.PRIORITY_LOW)
        return child

    def dismiss(self) -> None:
        if self._child:
            self._child.dismiss()

"""Worker processes of the main loop: their lines of JSON, and their exit.

A spare worker waits with all modules loaded: a start takes longer than most verbs, and a target may
be shut meanwhile.
"""
from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import Any, Callable, Dict, Optional, Sequence

from gi.repository import GLib

from ..started import WORKER, command

_CHUNK = 1 << 16


class WorkerProcess:
    """A worker.  ``said`` is called with each line, a dict; then ``ended`` with the exit code.
    ``module``: what it runs, a name of started.py."""

    def __init__(self, *arguments: str, module: str = WORKER) -> None:
        self.said: Callable[[Dict[str, Any]], None] = lambda words: None
        self.ended: Callable[[int], None] = lambda code: None
        self._rest = b""
        self._line, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                command(module, *arguments), stdin=its.fileno(), stdout=subprocess.PIPE,
                start_new_session=True, cwd="/")
        self.pid = self._process.pid
        assert self._process.stdout
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._watch = GLib.io_add_watch(self._out, GLib.PRIORITY_DEFAULT,
                                        GLib.IO_IN | GLib.IO_HUP, self._readable)
        GLib.child_watch_add(GLib.PRIORITY_DEFAULT, self.pid, self._exited)

    def ask(self, descriptors: Sequence[int] = ()) -> None:
        """Send the worker a request: a byte with these descriptors."""
        try:
            socket.send_fds(self._line, [b"\n"], list(descriptors))
        except OSError:
            pass  # the worker is gone, and ``ended`` will be called

    def dismiss(self) -> None:
        """Tell the worker that no request follows."""
        self._line.close()

    @property
    def dead(self) -> bool:
        """Whether the process has ended, also where the loop has not come to tell that yet."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

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
        """Read the worker's output: the number of bytes; -1 for none now, 0 at its end."""
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
            return  # the cut-off line of a killed worker
        if isinstance(words, dict):
            self.said(words)

    def _exited(self, _pid: int, status: int) -> None:
        if self._watch:  # otherwise it would watch the next file with this descriptor's number
            GLib.source_remove(self._watch)
        while self._read() > 0:
            pass
        self._process.returncode = os.waitstatus_to_exitcode(status)
        assert self._process.stdout
        self._process.stdout.close()
        self._line.close()
        self.ended(self._process.returncode)


class WorkerPool:
    """The spare worker."""

    def __init__(self, *arguments: str, module: str = WORKER) -> None:
        self._arguments, self._module = arguments, module
        self._child: Optional[WorkerProcess] = None

    def prepare(self) -> bool:
        if self._child is None:
            self._child = WorkerProcess(*self._arguments, module=self._module)
            self._child.ended = self._lost
        return False

    def _lost(self, _code: int) -> None:
        self._child = None

    def take(self, another: bool = True) -> WorkerProcess:
        """The spare worker, or a new worker.  With ``another`` the next spare is started when the
        loop is idle; else by who calls ``prepare_soon``."""
        self.prepare()
        child, self._child = self._child, None
        assert child is not None
        if another:
            self.prepare_soon()
        return child

    def prepare_soon(self) -> None:
        """Start a spare when the loop is idle."""
        GLib.idle_add(self.prepare, priority=GLib.PRIORITY_LOW)

    def dismiss(self) -> None:
        if self._child:
            self._child.dismiss()

"""Process 1 of a lab host: runs functions and programs for the lab.

It is a Python that has everything loaded already and forks for each call, so a call costs
milliseconds under User Mode Linux, where starting an interpreter costs a good part of a second.
One thread, one loop: whoever forks must not have threads.
"""
from __future__ import annotations

import errno
import fcntl
import gc
import importlib
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
import traceback
import tty
from dataclasses import dataclass, field
from typing import Any

from . import inside, wire

_LINE = os.environ.get("LAB_LINE", "/dev/ttyS0")
_CHUNK = 65536


@dataclass
class _Job:
    """A forked call or a program, until its end was reported."""

    ident: int
    pid: int
    call: bool
    pipes: dict[int, int] = field(default_factory=dict)     # our descriptor → 1, 2 (or 0: result)
    result: bytearray = field(default_factory=bytearray)


class Agent:
    """The loop: messages in, children's output and ends out."""

    def __init__(self) -> None:
        self._line = os.open(_LINE, os.O_RDWR | os.O_NOCTTY)
        if os.isatty(self._line):
            tty.setraw(self._line)
        self._decoder = wire.Decoder()
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[int, _Job] = {}        # by process
        self._warm: set[str] = set()
        wake_in, wake_out = os.pipe()
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        self._wake = wake_in
        self._selector.register(self._line, selectors.EVENT_READ)
        self._selector.register(wake_in, selectors.EVENT_READ)

    def serve(self) -> None:
        """Never returns: a host ends by losing its power."""
        inside.prepare()
        self._send("hello", 0, inside.identity())
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._line:
                    data = os.read(self._line, _CHUNK)
                    self._send("took", 0, len(data))
                    for message in self._decoder.feed(data):
                        self._obey(*message)
                elif key.fd == self._wake:
                    _drain(self._wake)
                else:
                    job, stream = key.data
                    self._read(job, key.fd, stream)
            self._reap()

    def _send(self, *message: Any) -> None:
        data = memoryview(wire.encode(message))
        while data:
            data = data[os.write(self._line, data):]

    def _obey(self, kind: str, ident: int, *rest: Any) -> None:
        if kind == "call":
            self._call(ident, *rest)
        elif kind == "spawn":
            self._spawn(ident, *rest)
        elif kind == "signal":
            for job in self._jobs.values():
                if job.ident == ident:
                    _signal_group(job.pid, rest[0])

    # ── calls ────────────────────────────────────────────────────────────────────────────────

    def _call(self, ident: int, module: str, body: bytes) -> None:
        self._load(module)
        gc.freeze()     # or the fork's collector would write to, and so copy, all that is loaded
        inner, outer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(inner)
                self._leave_parent()
                _answer(outer, body)
            finally:
                os._exit(0)
        os.close(outer)
        self._watch(_Job(ident, pid, True), {inner: 0})

    def _load(self, module: str) -> None:
        """Import here what calls need, once; the fork then finds it loaded.

        A module that cannot be imported is the caller's error, and the fork will report it.
        """
        if module in self._warm:
            return
        self._warm.add(module)
        try:
            importlib.import_module(module)
        except BaseException:       # noqa: B902 - even SystemExit must not end the host
            pass

    # ── programs ─────────────────────────────────────────────────────────────────────────────

    def _spawn(self, ident: int, argv: list[str], stdin: bytes, env: dict[str, str],
               cwd: str | None) -> None:
        source, sink = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            # subprocess forks by vfork(2): a copy of this process takes longer than most programs.
            program = subprocess.Popen(argv, stdin=source, stdout=out_write, stderr=err_write,
                                       cwd=cwd, env={**os.environ, **env}, start_new_session=True)
            pid = program.pid
            program.returncode = 0      # it is collected here
        except (OSError, ValueError) as error:
            pid = self._fail(err_write, f"{argv[0]}: {getattr(error, 'strerror', error)}\n")
        for descriptor in (source, out_write, err_write):
            os.close(descriptor)
        self._feed(sink, stdin)
        self._watch(_Job(ident, pid, False), {out_read: 1, err_read: 2})

    def _fail(self, descriptor: int, words: str) -> int:
        """A child that says why a program can't be run, and ends as a shell would."""
        pid = os.fork()
        if pid == 0:
            try:
                self._leave_parent()
                os.write(descriptor, words.encode())
            finally:
                os._exit(127)
        return pid

    @staticmethod
    def _feed(sink: int, data: bytes) -> None:
        """Give a program its input; what a pipe does not hold at once needs a feeder."""
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, max(4096, min(len(data), 1 << 20)))
        os.set_blocking(sink, False)
        try:
            data = data[os.write(sink, data):] if data else b""
        except OSError:
            data = b""
        if data and os.fork() == 0:
            try:
                os.set_blocking(sink, True)
                while data:
                    data = data[os.write(sink, data):]
            finally:
                os._exit(0)
        os.close(sink)

    # ── children ─────────────────────────────────────────────────────────────────────────────

    def _leave_parent(self) -> None:
        """What a fork must undo before it runs anything of somebody else's."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._line)

    def _watch(self, job: _Job, pipes: dict[int, int]) -> None:
        self._jobs[job.pid] = job
        for descriptor, stream in pipes.items():
            os.set_blocking(descriptor, False)
            job.pipes[descriptor] = stream
            self._selector.register(descriptor, selectors.EVENT_READ, (job, stream))

    def _read(self, job: _Job, descriptor: int, stream: int) -> bool:
        """Pass on what a child wrote; False when there is no more for now."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._forget(job, descriptor)
        elif job.call:
            job.result += data
        else:
            self._send("output", job.ident, stream, data)
        return bool(data)

    def _forget(self, job: _Job, descriptor: int) -> None:
        if job.pipes.pop(descriptor, None) is not None:
            self._selector.unregister(descriptor)
            os.close(descriptor)

    def _reap(self) -> None:
        """Report the children that ended; orphans that fell to process 1 are just collected."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            job = self._jobs.pop(pid, None)
            if job is None:
                continue
            # Not until EOF: a daemon it left behind may hold the other end for ever.
            for descriptor, stream in list(job.pipes.items()):
                while descriptor in job.pipes and self._read(job, descriptor, stream):
                    pass
                self._forget(job, descriptor)
            code = os.waitstatus_to_exitcode(status)
            self._send("exit", job.ident, code, bytes(job.result))


def _answer(outer: int, body: bytes) -> None:
    """In the fork of a call: run the function, write its pickled outcome."""
    try:
        function, args, keywords = pickle.loads(body)
        outcome: tuple[bool, Any, str] = (True, function(*args, **keywords), "")
    except BaseException as error:      # noqa: B902 - SystemExit is an outcome too
        outcome = (False, error, traceback.format_exc())
    try:
        data = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
        pickle.loads(data)      # an exception may pickle well and yet not load
    except Exception:       # noqa: B902
        data = pickle.dumps((outcome[0], None, outcome[2] or f"cannot pickle {outcome[1]!r}"))
    sys.stdout.flush()
    sys.stderr.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(outer, view):]


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise


def main() -> None:
    """Serve; when that fails, give the console the time to take the words out of the machine."""
    try:
        Agent().serve()
    except BaseException:       # noqa: B902
        traceback.print_exc()
        time.sleep(1)
        raise


if __name__ == "__main__":
    main()

"""What programs ask of the kernel, counted from outside them, in a lab host: which files and
folders of configfs they open (fanotify), and what they sync (strace).

Whoever counts is a process of its own.
"""
from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import select
import signal
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CONFIGFS = "/sys/kernel/config"
THROTTLE = Path("/proc/sys/kernel/sched_rt_runtime_us")
#: linux/fanotify.h
_CLOEXEC, _UNLIMITED_QUEUE, _NONBLOCK = 1, 16, 2
_ADD, _FILESYSTEM = 1, 0x100
_OPEN, _ON_FOLDERS = 0x20, 0x40000000
_AT_FDCWD = -100
#: One event: with more in a buffer, read(2) would not tell that the kernel could open no file for
#: the last (fanotify_user.c:fanotify_read).
_EVENT = struct.Struct("=IBBHQii")
#: The calls that bring data to a disk.
SYNCS = "fsync,fdatasync,syncfs,sync,sync_file_range"


class Event(NamedTuple):
    """Something was opened or synced: when (seconds of the host's clock), by which process,
    ``what``: file or folder, or the name of the call; ``path``: below configfs, or the file."""

    at: float
    pid: int
    what: str
    path: str


class Opens:
    """Listens to what is opened below configfs, by everybody."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.fanotify_init(_CLOEXEC | _UNLIMITED_QUEUE | _NONBLOCK, os.O_RDONLY)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "fanotify_init")
        if libc.fanotify_mark(self.fd, _ADD | _FILESYSTEM, ctypes.c_uint64(_OPEN | _ON_FOLDERS),
                              _AT_FDCWD, CONFIGFS.encode()):
            raise OSError(ctypes.get_errno(), "fanotify_mark")

    def __iter__(self) -> Opens:
        return self

    def __next__(self) -> Event:
        """The next event; StopIteration where there is none now."""
        try:
            data = os.read(self.fd, _EVENT.size)
        except BlockingIOError:
            raise StopIteration from None
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENODEV):
                raise
            # It can't be opened to be read: a file that is only written to.
            return Event(time.time(), 0, "file", "")
        _length, _version, _reserved, _size, _mask, fd, pid = _EVENT.unpack(data)
        try:
            what = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
            path = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return Event(time.time(), pid, what, path.removeprefix(CONFIGFS + "/"))

    def close(self) -> None:
        os.close(self.fd)


def start_opens(out: str) -> int:
    """Begin to count, into a file; the process that counts.

    It runs first whenever it has something to do: an event has the time of the opening, and is not
    merged with the next one of the same file (fanotify.c:fanotify_merge)."""
    ready, its = os.pipe()
    pid = os.fork()
    if pid:
        os.close(its)
        assert os.read(ready, 1)
        os.close(ready)
        return pid
    try:
        os.setsid()
        THROTTLE.write_text("-1")  # else it waits after a second in which it ran all the time
        told: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1))
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        opens, events = Opens(), []
        os.write(its, b"\n")
        poll = select.poll()
        poll.register(opens.fd, select.POLLIN)
        while not told:
            poll.poll(500)
            events += [*opens]
        Path(f"{out}.new").write_text(json.dumps(events))
        os.rename(f"{out}.new", out)
    finally:
        os._exit(0)


def noting_syncs(out: str, program: str) -> str:
    """A Python program that runs another one, a file, and notes what this and those that it starts
    sync."""
    words = ["strace", "--seccomp-bpf", "-f", "-qq", "-y", "-ttt", "-e", f"trace={SYNCS}",
             "-e", "signal=none", "-o", out, "/usr/bin/python3", program]
    return f"import os\nos.execvp('strace', {words!r})\n"


def syncs(out: str) -> list[Event]:
    """What such a program has noted, once it has ended."""
    found = re.findall(r"(?m)^(\d+) +([0-9.]+) (\w+)\((?:\d+<([^>]*)>)?", Path(out).read_text())
    return [Event(float(at), int(pid), what, path) for pid, at, what, path in found]


def _runs(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:   # another process started it
        return Path(f"/proc/{pid}").exists()


def stop(pid: int, out: str) -> list[Event]:
    """End the process that counts; what it has counted."""
    return [Event(*event) for event in ended(pid, out)]


def aside(out: str, work: Callable[[Callable[[], bool]], Any]) -> int:
    """Begin work in a process of its own, which outlives the call; the process.  ``work`` is given
    a function that says whether it is to end, and what it returns is kept in a file."""
    Path(out).unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        told: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1))
        Path(f"{out}.new").write_text(json.dumps(work(lambda: bool(told))))
        os.rename(f"{out}.new", out)
    finally:
        os._exit(0)


def ended(pid: int, out: str) -> Any:
    """End such a process; what it has kept."""
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 60
    while _runs(pid) or not os.path.exists(out):
        assert time.monotonic() < until, f"{pid} does not end"
        time.sleep(0.02)
    return json.loads(Path(out).read_text())

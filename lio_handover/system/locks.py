"""Locks of this host: one for each backstore and target, for the process that changes it.

The files are ``<state directory>/locks/*``.  The kernel releases a flock(2) when the process
exits, even after SIGKILL, so no lock is left over; the files stay.  Operations on different
backstores run side by side, in the service or in commands; each of them holds ``host`` shared, and
an operation on the whole host holds it exclusively.

The service's guard, which nobody asked for what it does, holds ``guard`` besides: it waits for
nobody, and everybody waits for it.
"""
from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager
from typing import Iterable, Iterator, List

from .. import errors

HOST = "host"
GUARD = "guard"
#: The lock of a process that uses the scratch target, or keeps drivers from new SCSI devices.
SCRATCH = "scratch"
#: Seconds to wait for a lock that other processes hold for moments only.
PATIENCE = 30.0
#: Descriptors that a verb needs besides those of its locks and backstores.
_OTHER_FILES = 256

_PLAIN = re.compile(r"[A-Za-z0-9_.:@,=-][A-Za-z0-9_.:@,=/-]{0,199}")


class Locks:
    """The locks of a host.  Raises StillRunning where another process holds the lock, JournalBroken
    where the lock's file cannot be opened."""

    def __init__(self, directory: str) -> None:
        self.folder = os.path.join(directory, "locks")

    @contextmanager
    def alone(self, names: Iterable[str] = (), guard: bool = False, patience: float = 0.0) \
            -> Iterator[None]:
        """Keep other processes from changing these (``fileio/disk0``, ``iscsi/iqn.…``) meanwhile;
        without names, from changing anything on this host.  ``guard``: this is the guard; nobody
        else is refused for its sake.  ``patience``: seconds to wait for each lock; they are taken
        in one order, so no two wait for each other."""
        wanted = sorted(set(names))
        room_for(len(wanted))
        fds: List[int] = []
        try:
            if guard:
                fds.append(self._locked(GUARD))
            for name in (HOST, *wanted):
                shared = name == HOST and bool(wanted)
                fds.append(self._locked(name, shared) if guard else
                           self._locked_after_guard(name, shared, patience))
            yield
        finally:
            for fd in reversed(fds):
                os.close(fd)

    def _locked_after_guard(self, name: str, shared: bool, patience: float) -> int:
        """The descriptor of a lock; wait for it ``patience`` seconds, and longer where it may be
        the guard that has it."""
        until, unguarded = 0.0, 0
        while True:
            try:
                return self._locked(name, shared, patience)
            except errors.StillRunning:
                until = until or time.monotonic() + PATIENCE
                # It may have ended between both looks.
                unguarded = 0 if self._guarded() else unguarded + 1
                if unguarded > 1 or time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def _guarded(self) -> bool:
        """Whether the guard holds its lock."""
        try:
            with self.hold(GUARD, shared=True):
                return False
        except errors.StillRunning:
            return True

    @contextmanager
    def hold(self, name: str, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
        """Hold a lock; wait for it at most ``patience`` seconds."""
        fd = self._locked(name, shared, patience)
        try:
            yield
        finally:
            os.close(fd)

    def _locked(self, name: str, shared: bool = False, patience: float = 0.0) -> int:
        """The descriptor of a lock that is held until it is closed."""
        path = os.path.join(self.folder, _file_name(name))
        try:
            fd = self._opened(path)
        except OSError as error:
            raise errors.JournalBroken(f"{path} can't be opened: {error.strerror}") from None
        try:
            deadline = 0.0
            while not _try(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                deadline = deadline or time.monotonic() + patience
                if time.monotonic() > deadline:
                    what = "this host" if name == HOST else name
                    raise errors.StillRunning(
                        f"another lio-handover is changing {what}",
                        do=f"wait for it, or find it with: fuser {path}")
                time.sleep(0.02)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _opened(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            return os.open(path, flags, 0o600)


def room_for(files: int) -> None:
    """Raise this process's limit of open files by so many, as far as it may: a shell's soft limit
    is 1024 files, and each lock takes one."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(os.listdir("/proc/self/fd")) + files + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    for limits in ((wanted, max(hard, wanted)), (min(wanted, hard), hard)):
        try:
            return resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (OSError, ValueError):
            continue  # the hard limit can be raised with CAP_SYS_RESOURCE alone


def _try(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _file_name(name: str) -> str:
    """No two names share a file, and no name leads out of the folder."""
    if _PLAIN.fullmatch(name) and "+" not in name:
        return name.replace("/", "+")
    import hashlib
    return "sha256-" + hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()

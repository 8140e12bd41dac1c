"""The program of a guest's unit lio-handover-incoming@: it stages, and takes back what is not used.

systemd is told that the unit is started once the guest's targets are staged.  The unit then stays
until QEMU has carried the rest, and lio-handover-vmstate has the handover; or until that will not
be: the guest's QEMU ended here, none came in time, the hook that waits for the unit is gone, or the
unit is stopped.  Managers tell a destination nothing of a migration that failed before it had a
QEMU.
"""
from __future__ import annotations

import os
import select
import signal
import time
from typing import Optional, Sequence

from .. import errors
from ..host.guests import Guest
from ..records.journal import Journal
from ..settings import Settings
from ..system import supervisor
from ..system.journald import NOTICE, Log
from . import domain, unit
from .staging import Staging

#: Seconds between two looks whether the handover, or the guest's QEMU, has come further.
OFTEN = 0.5
KILLED = "the hook that waited for it was killed"
#: Bytes of a command line that are read (Linux, MAX_ARG_STRLEN: one argument may have 128 KiB).
_LONGEST = 1 << 20


def refused(error: errors.HandoverError) -> bool:
    """Whether an error stays until somebody changes something; else the same may go well later."""
    return isinstance(error, (errors.Refusal, errors.BadSettings, errors.BadCall, errors.BadMap,
                              errors.NotRoot, errors.NotAuthentic, errors.VersionsDiffer,
                              errors.NoSuchTarget))


class Incoming:
    """The unit of one guest."""

    def __init__(self, guest: Guest, settings: Settings, log: Log, source: str = "") -> None:
        self.guest, self.settings, self.log = guest, settings, log
        self.stopping = False
        self._hook = _opened(unit.who_waits(guest.name))
        self.staging = Staging(guest, settings, self.say,
                               lambda: self.stopping or self._hook_is_gone(), source)

    def say(self, text: str) -> None:
        self.log.say(text, NOTICE)

    def run(self) -> int:
        """The exit code: 0, or 1 or 2 as of a hook (main.py)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            self.staging.begin()
            supervisor.notify(READY=1, STATUS=f"{self.guest.name} is staged, and waits for QEMU")
            self._take_back(self._watch())
        except errors.HandoverError as error:
            if isinstance(error, errors.Interrupted) and self._hook_is_gone():
                error = errors.Interrupted(KILLED, error.changed, "migrate again")
            self.log.warn(f"{self.guest.name}: {error}")
            supervisor.notify(STATUS=str(error))
            return 2 if refused(error) else 1
        return 0

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _hook_is_gone(self) -> bool:
        """Whether the hook ended before it was told that all is staged: its manager will not start
        a QEMU then."""
        return unit.who_waits(self.guest.name) != 0 and (self._hook is None or _ended(self._hook))

    # ---- watching ------------------------------------------------------------------------------
    def _watch(self) -> str:
        """Wait until the guest's targets are no longer only staged, or never will be: why they are
        to be taken back then, or "" where they are not."""
        journal = self.staging.journal
        if journal is None:
            return ""
        until = time.monotonic() + self.settings.hook_wait
        qemu: Optional[int] = None
        try:
            while Journal(self.settings.state_directory, journal.id).handover.state == "staged":
                if self.stopping:
                    return "this unit is stopped"
                if qemu is None:
                    qemu = qemu_of(self.guest.targets)
                if qemu is None and self._hook_is_gone():
                    return KILLED
                if qemu is not None and _ended(qemu):
                    return "its QEMU has ended"
                if qemu is None and time.monotonic() > until:
                    return f"no QEMU of it came in {self.settings.hook_wait} s"
                time.sleep(OFTEN)
        except errors.NoSuchHandover:
            pass  # it was aborted, and is forgotten
        finally:
            if qemu is not None:
                os.close(qemu)
        return ""

    def _take_back(self, why: str) -> None:
        if why and self.staging.take_back():
            self.say(f"{self.guest.name} does not come: {why}")


def _opened(pid: int) -> Optional[int]:
    """A descriptor of a process (pidfd_open(2)), or None."""
    try:
        return os.pidfd_open(pid) if pid else None
    except OSError:
        return None  # it is gone already


def _ended(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def qemu_of(targets: Sequence[str]) -> Optional[int]:
    """A descriptor (pidfd_open(2)) of a QEMU on this host that has one of these targets, or None.
    """
    wanted = {name.partition("/")[2] for name in targets}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if not _has(pid, wanted):
            continue
        try:
            fd = os.pidfd_open(int(pid))
        except OSError:
            continue  # it is gone
        if _has(pid, wanted):  # another process may have the number by now
            return fd
        os.close(fd)
    return None


def _has(pid: str, wwpns: set[str]) -> bool:
    """Whether a process has a vhost-scsi device of these in its command line."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(_LONGEST).split(b"\0")
    except OSError:
        return False
    return any(wwpn in wwpns for word in words if b"vhost-scsi" in word
               for wwpn in domain.of_argument(word.decode(errors="replace")))

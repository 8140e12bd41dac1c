"""The holders of a host's vhost endpoints: starting, asking and ending them (holder_process.py).

Under systemd the holder gets a unit of its own: otherwise it would end with the service's unit.
"""
from __future__ import annotations

import fcntl
import os
import signal
import time
from types import TracebackType
from typing import Dict, Iterable, List, Optional, Type

from .. import errors
from ..started import ENDPOINT_HOLDER, command
from ..system.external_program import ENVIRONMENT
from .holder_process import DONE, DRAIN, EXPECT, HOLD, NUMBER, PATIENCE
from .vhost_ioctl import DEVICE

#: Settings of the unit that a holder gets (systemd.exec(5), systemd 247 knows all of them).  It
#: opens /dev/vhost-scsi and its lock, wherever that is, and owns both: it needs no capability.
SANDBOX = (
    "CapabilityBoundingSet=", "NoNewPrivileges=yes", "UMask=0077", "LimitCORE=0",
    "DevicePolicy=closed", f"DeviceAllow={DEVICE} rw", "PrivateNetwork=yes", "ProtectSystem=full",
    "ProtectHome=read-only", "ProtectProc=invisible", "ProcSubset=pid", "ProtectClock=yes",
    "ProtectControlGroups=yes", "ProtectHostname=yes", "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes", "ProtectKernelTunables=yes", "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes", "RestrictAddressFamilies=AF_UNIX", "RestrictNamespaces=yes",
    "RestrictRealtime=yes", "RestrictSUIDSGID=yes", "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM", "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources", "KeyringMode=private", "OOMScoreAdjust=-900")


class Holders:
    """The occupied endpoints of one host.

    ``ready``: WWPN → a holder without an endpoint that this process has started ahead.  It is a
    cache: where such a holder is gone, another one is started.
    """

    def __init__(self, directory: str, ready: Optional[Dict[str, Holder]] = None) -> None:
        self.folder = os.path.join(directory, "holders")
        self.ready = {} if ready is None else ready

    def _path(self, wwpn: str) -> str:
        return os.path.join(self.folder, wwpn.replace("/", "_"))

    def pid_of(self, wwpn: str) -> Optional[int]:
        """The process that occupies the endpoint, or None."""
        pid = self._holder(wwpn)
        return pid if pid > 0 else None

    def _holder(self, wwpn: str) -> int:
        """The process of an endpoint's holder, negative as long as it has not the endpoint; 0 where
        there is none."""
        try:
            fd = os.open(self._path(wwpn), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return 0
                except BlockingIOError:
                    said = os.pread(fd, NUMBER, 0)
                if len(said) == NUMBER:
                    return int(said)
                time.sleep(0.001)  # it has just locked the file
        finally:
            os.close(fd)
        return 0

    def device_is_used(self) -> bool:
        """Whether any process but holders has /dev/vhost-scsi open: a QEMU has, as long as it
        lives, so its guest may be paused and attach again.  (No file tells of which target.)"""
        holders = {str(abs(self._holder(name))) for name in _names(self.folder)}
        try:
            device = os.stat(DEVICE).st_rdev
        except OSError:
            return False
        for pid in set(filter(str.isdigit, os.listdir("/proc"))) - holders:
            for name in _names(f"/proc/{pid}/fd"):
                try:
                    if os.stat(f"/proc/{pid}/fd/{name}").st_rdev == device:
                        return True
                except OSError:
                    continue  # it is gone meanwhile
        return False

    def occupy(self, wwpn: str) -> None:
        """Start a holder for the endpoint, unless it has one.  Raises InUse where a guest is
        attached, or there is no such endpoint."""
        if self.pid_of(wwpn) is not None:
            return
        if wwpn in self.ready:
            try:
                with self.start(wwpn) as holder:
                    return holder.hold()
            except errors.InUse:
                pass  # it may just have been gone
        with self.start(wwpn) as holder:
            holder.hold()

    def keep_ready(self, wwpns: Iterable[str]) -> None:
        """Start holders for verbs of this process that follow: an endpoint is occupied while a
        guest stands still.  Each ends with this process, where nothing asks it before."""
        for wwpn in wwpns:
            if wwpn not in self.ready and not self._holder(wwpn):
                self.ready[wwpn] = self.start(wwpn)

    def start(self, wwpn: str) -> Holder:
        """Start a holder that has no endpoint yet, instead of the one that there is, or take the
        one that is ready.  It does not wait for the holder to be there.  Raises StillRunning."""
        ready = self.ready.pop(wwpn, None)
        if ready is not None:
            if ready.runs:
                return ready
            ready.close()
        self._end(wwpn)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self._forget(wwpn)
        return Holder(wwpn, self._path(wwpn))

    def _forget(self, wwpn: str) -> None:
        """Take the number of an earlier holder out of its file: it may be another process's by now,
        and the next holder has the lock before it has written its own."""
        fd = os.open(self._path(wwpn), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
        except BlockingIOError:
            pass  # somebody looks, or holds it
        finally:
            os.close(fd)

    def release(self, wwpn: str) -> None:
        """End the endpoint's holder, if it has one.  Raises StillRunning."""
        self._end(wwpn)

    def _end(self, wwpn: str) -> None:
        pid = abs(self._holder(wwpn))
        if not pid:
            return
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        deadline = time.monotonic() + PATIENCE
        while self._holder(wwpn):
            if time.monotonic() > deadline:
                raise errors.StillRunning(
                    f"vhost/{wwpn}: process {pid} does not let go of its endpoint",
                    do=f"kill {pid}, and run it again")
            time.sleep(0.01)


class Holder:
    """A holder that this process has started, and whose questions it answers until ``close``, from
    when on it keeps what it has.  All questions raise InUse where it could not, or has ended."""

    def __init__(self, wwpn: str, path: str) -> None:
        import subprocess

        self.wwpn, self.holds = wwpn, False
        words = command(ENDPOINT_HOLDER, wwpn, path)
        self._apart = os.path.isdir("/run/systemd/system")
        if self._apart:
            words = ["systemd-run", "--quiet", "--pipe", "--collect",
                     *(f"--property={line}" for line in SANDBOX), *words]
        # systemd keeps the unit's descriptors open while the unit exists: it must not get our
        # caller's standard error, as the caller may wait for its end of file.
        self._process = subprocess.Popen(
            words, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if self._apart else None, start_new_session=True, cwd="/",
            env=ENVIRONMENT)

    @property
    def runs(self) -> bool:
        """Whether it has not ended, as far as this process knows yet."""
        return self._process.poll() is None

    def expect(self) -> None:
        """Have it try to take the endpoint from now on, until it is told to ``hold`` it, or until
        this process ends: a nexus is about to be made."""
        self._ask(EXPECT)

    def hold(self, *tpgts: int) -> None:
        """Have it take the endpoint now.  It has it then, with these TPGs."""
        self._ask(HOLD, tpgts)
        self.holds = True

    def drain(self, tpgts: Iterable[int]) -> None:
        """Have it take the pending unit attentions of every LUN away, see vhost.drain."""
        self._ask(DRAIN, tpgts)

    def _ask(self, question: str, tpgts: Iterable[int] = ()) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(" ".join([question, *map(str, tpgts)]).encode() + b"\n")
        except BrokenPipeError:
            pass  # its last line says why
        said = ""
        for line in stdout:
            word, _, said = line.decode(errors="replace").strip().partition(": ")
            if word == DONE:
                return
            if word == question:
                break
            said = line.decode(errors="replace").strip()  # of Python, or of systemd-run
        raise errors.InUse(f"vhost/{self.wwpn}: its endpoint can't be occupied: "
                           f"{said or 'its holder ended'}",
                           do="stop the guest, or let QEMU finish the migration")

    def close(self) -> None:
        """Leave it alone.  It ends if it has no endpoint."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        if self._apart:
            self._process.kill()  # systemd-run, which would wait for the holder's end
        if self._apart or not self.holds:
            self._process.wait()
        elif self._process.poll() is None:
            self._process.returncode = 0  # the holder runs on, and Popen must not wait for it

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()


def _names(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []

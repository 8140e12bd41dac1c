"""The holder: a small process that keeps a vhost endpoint occupied, and outlives its starter.

While the holder has the endpoint no guest can start on it: any other SET_ENDPOINT gets ENODEV
(drivers/vhost/scsi.c:vhost_scsi_set_endpoint).  The kernel releases the endpoint when the process
exits, even after SIGKILL.  The holder locks ``<state directory>/holders/<wwpn>`` (flock) and
writes its process id there (negative until it has the endpoint), so that a later process can see
whether the holder lives, and end it.

Under systemd the holder gets a unit of its own: otherwise it would end with the service's unit.
"""
from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from typing import List, NoReturn, Optional

from .. import errors
from ..started import ENDPOINT_HOLDER, command
from ..system.external_program import ENVIRONMENT
from .vhost_ioctl import DEVICE

#: Seconds for an endpoint to be occupied, or to be released.
PATIENCE = 10.0
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
_HELD = b"held\n"
#: Bytes of the number in a holder's file.
_NUMBER = 12


class Holders:
    """The occupied endpoints of one host."""

    def __init__(self, directory: str) -> None:
        self.folder = os.path.join(directory, "holders")

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
                    said = os.pread(fd, _NUMBER, 0)
                if len(said) == _NUMBER:
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
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        import subprocess

        words = command(ENDPOINT_HOLDER, wwpn, self._path(wwpn))
        apart = os.path.isdir("/run/systemd/system")
        if apart:
            words = ["systemd-run", "--quiet", "--pipe", "--collect",
                     *(f"--property={line}" for line in SANDBOX), *words]
        # systemd keeps the unit's descriptors open while the unit exists: it must not get our
        # caller's standard error, as the caller may wait for its end of file.
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT if apart else None,
                              start_new_session=True, cwd="/", env=ENVIRONMENT) as started:
            assert started.stdout is not None
            said = b""
            for said in started.stdout:
                if said == _HELD:
                    break
            else:  # the holder has ended
                why = said.decode(errors="replace").strip() or "its holder ended"
                raise errors.InUse(f"vhost/{wwpn}: its endpoint can't be occupied: {why}",
                                   do="stop the guest, or let QEMU finish the migration")
            started.stdout.close()
            if apart:
                started.kill()  # systemd-run, which would wait for the holder's end
            else:
                started.returncode = 0  # the holder runs on, and Popen must not wait for it

    def release(self, wwpn: str) -> None:
        """End the endpoint's holder, if it has one.  Raises StillRunning."""
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


def _names(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _occupied(wwpn: str, path: str) -> NoReturn:
    """Occupy the endpoint until SIGTERM."""
    from .vhost import occupy
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another holder has it", flush=True)
        raise SystemExit(1) from None
    os.ftruncate(fd, 0)  # the number of an earlier holder may be another process's by now
    _tell(fd, -os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        endpoint = occupy(wwpn, PATIENCE)
    except OSError as error:
        print(error.strerror or error, flush=True)
        raise SystemExit(1) from None
    _tell(fd, os.getpid())
    sys.stdout.buffer.write(_HELD)
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    signal.sigwait({signal.SIGTERM})
    endpoint.close()
    raise SystemExit(0)


def _tell(fd: int, number: int) -> None:
    """Write a number over the one that was there, in one piece."""
    os.pwrite(fd, b"%0*d\n" % (_NUMBER - 1, number), 0)


def main() -> NoReturn:
    """Its arguments: WWPN FILE."""
    wwpn, path = sys.argv[1:]
    _occupied(wwpn, path)

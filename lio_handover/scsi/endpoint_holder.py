"""The holder: a small process that keeps a vhost endpoint occupied, and outlives its starter.

While the holder has the endpoint no guest can start on it: any other SET_ENDPOINT gets ENODEV
(drivers/vhost/scsi.c:vhost_scsi_set_endpoint).  The kernel releases the endpoint when the process
exits, even after SIGKILL.  The holder locks ``<state directory>/holders/<wwpn>`` (flock) and
writes its process id there (negative as long as it waits for the endpoint), so that a later process
can see whether the holder lives, and end it.

Under systemd the holder gets a unit of its own: otherwise it would end with the service's unit.
"""
from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, List, NoReturn, Optional

from .. import errors
from ..started import ENDPOINT_HOLDER, command
from ..system.external_program import ENVIRONMENT
from .vhost_ioctl import DEVICE

if TYPE_CHECKING:
    from subprocess import Popen

    from .vhost import Endpoint

#: Seconds for an endpoint to be occupied, or to be released; and that a holder waits for a nexus.
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
#: Lines of a holder: it waits for the nexus; it has the endpoint.
_WAITS, _HELD = b"waits\n", b"held\n"


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
        """The process of an endpoint's holder, negative where it waits for the nexus; 0: none."""
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
                    said = os.pread(fd, 32, 0)
                if said.endswith(b"\n"):
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
        if self.pid_of(wwpn) is None:
            self.release(wwpn)
            self.taken(wwpn, self._start(wwpn, 0))

    def expect(self, wwpn: str) -> Popen[bytes]:
        """Start a holder that takes the endpoint once it has a nexus, whatever becomes of this
        process; it gives up after ``PATIENCE`` seconds.  ``taken`` waits for it.  Raises InUse."""
        self.release(wwpn)
        started = self._start(wwpn, PATIENCE)
        assert started.stdout is not None
        said = started.stdout.readline()
        if said != _WAITS:
            with started:
                raise _refused(wwpn, said)
        return started

    def _start(self, wwpn: str, patience: float) -> Popen[bytes]:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        import subprocess

        words = command(ENDPOINT_HOLDER, wwpn, self._path(wwpn), str(patience))
        apart = _apart()
        if apart:
            words = ["systemd-run", "--quiet", "--pipe", "--collect",
                     *(f"--property={line}" for line in SANDBOX), *words]
        # systemd keeps the unit's descriptors open while the unit exists: it must not get our
        # caller's standard error, as the caller may wait for its end of file.
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT if apart else None,
                                start_new_session=True, cwd="/", env=ENVIRONMENT)

    def taken(self, wwpn: str, started: Popen[bytes]) -> None:
        """Wait until a holder has its endpoint.  Raises InUse where it has ended."""
        with started:
            assert started.stdout is not None
            said = b""
            for said in started.stdout:
                if said == _HELD:
                    break
            else:  # the holder has ended
                raise _refused(wwpn, said)
            started.stdout.close()
            if _apart():
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


def _apart() -> bool:
    """Whether a holder has a unit of its own."""
    return os.path.isdir("/run/systemd/system")


def _refused(wwpn: str, said: bytes) -> errors.InUse:
    why = said.decode(errors="replace").strip() or "its holder ended"
    return errors.InUse(f"vhost/{wwpn}: its endpoint can't be occupied: {why}",
                        do="stop the guest, or let QEMU finish the migration")


def _occupied(wwpn: str, path: str, patience: float) -> NoReturn:
    """Occupy the endpoint until SIGTERM; wait for it to have a nexus for so many seconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another holder has it", flush=True)
        raise SystemExit(1) from None
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _tell(fd, -os.getpid())
    if patience:
        _say(_WAITS)
    endpoint = _endpoint(wwpn, time.monotonic() + patience)
    _tell(fd, os.getpid())
    _say(_HELD)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    signal.sigwait({signal.SIGTERM})
    endpoint.close()
    raise SystemExit(0)


def _say(line: bytes) -> None:
    """Tell the process that started this one, unless it was killed."""
    try:
        os.write(1, line)
    except OSError:
        pass


def _tell(fd: int, number: int) -> None:
    """Write a number in one piece over what was there."""
    os.pwrite(fd, b"%031d\n" % number, 0)
    os.ftruncate(fd, 32)


def _endpoint(wwpn: str, deadline: float) -> Endpoint:
    """The endpoint, once it is ours.  Ends the process at the deadline, and at SIGTERM."""
    from .vhost import occupy
    while True:
        try:
            return occupy(wwpn, PATIENCE)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EEXIST) or time.monotonic() >= deadline:
                _say(f"{error.strerror or error}\n".encode())
                os._exit(1)  # with standard output, which may lead nowhere
        if signal.sigtimedwait({signal.SIGTERM}, 0.005):
            raise SystemExit(0)


def main() -> NoReturn:
    """Its arguments: WWPN FILE SECONDS."""
    wwpn, path, patience = sys.argv[1:]
    _occupied(wwpn, path, float(patience))

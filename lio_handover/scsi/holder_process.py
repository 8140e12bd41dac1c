"""The holder: a small process that keeps a vhost endpoint occupied, and outlives its starter.

While the holder has the endpoint no guest can start on it: any other SET_ENDPOINT gets ENODEV
(drivers/vhost/scsi.c:vhost_scsi_set_endpoint).  The kernel releases the endpoint when the process
exits, even after SIGKILL.  The holder locks ``<state directory>/holders/<wwpn>`` (flock) and
writes its process id there (negative until it has the endpoint), so that a later process can see
whether the holder lives, and end it.

The kernel has no way to make a nexus and to take its endpoint at once.  So a holder can be there
before the nexus, and tries to take the endpoint until it has it.  The holder listens at its
standard input, which ends with its starter: the starter makes no nexus any more then, so the holder
tries once more, and ends if it has no endpoint.

A guest stands still while a holder starts: this module imports little.
"""
from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .vhost import Endpoint

#: Seconds for an endpoint to be occupied, or to be released.
PATIENCE = 10.0
#: Seconds for which others may have the lock of a holder's file who do not hold the endpoint.
MOMENT = 2.0
#: The questions to a holder, with the tags of TPGs behind them, and its answer when that is done.
EXPECT, HOLD, DRAIN = "expect", "hold", "drain"
DONE = "done"
#: Bytes of the number in a holder's file.
NUMBER = 12
#: Milliseconds between two tries to take an endpoint whose nexus is expected.
_BETWEEN_TRIES = 2


class _Occupier:
    """The holder itself, in its process.

    Each ``Endpoint`` takes the TPGs of the WWPN that have a nexus and are free, so that it takes
    another one for a TPG that gets its nexus later (drivers/vhost/scsi.c:vhost_scsi_set_endpoint).
    """

    def __init__(self, wwpn: str, file: int) -> None:
        self.wwpn, self.file = wwpn, file
        self.endpoints: list[Endpoint] = []
        self.spare: Endpoint | None = None
        self.expecting = False

    def run(self, told_to_end: int) -> None:
        """Answer until the starter ends, and hold until ``told_to_end`` can be read."""
        from . import vhost  # noqa: F401 - a question may come much later, and is in a hurry then
        poll = select.poll()
        poll.register(told_to_end, select.POLLIN)
        poll.register(0, select.POLLIN)
        while True:
            ready = poll.poll(_BETWEEN_TRIES if self.expecting else None)
            if any(fd == told_to_end for fd, _event in ready):
                return
            asked = os.read(0, 4096) if ready else b""
            if asked:
                self._answer(*asked.decode().split())
            elif ready:
                break
            elif self.expecting:
                self._try()
        if self.expecting:
            self._try()
        if self.endpoints:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            poll.unregister(0)
            poll.poll()

    def _answer(self, question: str, *tpgts: str) -> None:
        try:
            if question == DRAIN:
                self._drain([int(tpgt) for tpgt in tpgts])
            else:
                self.expecting = question == EXPECT
                why = self._try()
                if question == HOLD and not (self.endpoints and all(
                        self._endpoint_of(int(tpgt)) for tpgt in tpgts)):
                    raise OSError(errno.ENODEV, why)
            said = DONE
        except OSError as error:
            said = f"{question}: {error.strerror or error}"
        try:
            os.write(1, said.encode() + b"\n")
        except OSError:
            pass  # the starter has ended

    def _try(self) -> str:
        """Take what is free of the endpoint; why no more of it."""
        from .vhost import holder
        while True:
            self.spare = self.spare or holder(self.wwpn, PATIENCE)
            try:
                self.spare.attach()
            except OSError as error:
                # There is none, or somebody has it; kernels up to 5.10 say EEXIST.
                if error.errno not in (errno.ENODEV, errno.EEXIST):
                    raise
                return error.strerror or str(error)
            self.endpoints.append(self.spare)
            self.spare = None
            _tell(self.file, os.getpid())

    def _endpoint_of(self, tpgt: int) -> Endpoint | None:
        """The endpoint that has a TPG.  It asks for nothing that takes a unit attention away."""
        for endpoint in self.endpoints:
            try:
                endpoint.luns(tpgt)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            else:
                return endpoint
        return None

    def _drain(self, tpgts: Iterable[int]) -> None:
        from .vhost import drain_tpg
        for tpgt in tpgts:
            endpoint = self._endpoint_of(tpgt)
            if endpoint is None:
                raise OSError(errno.ENXIO, f"there is no TPG {tpgt}")
            drain_tpg(endpoint, tpgt)

    def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.close()


def _occupied(wwpn: str, path: str) -> NoReturn:
    """Occupy the endpoint until SIGTERM."""
    told_to_end, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells)
    signal.signal(signal.SIGTERM, lambda *_: None)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + MOMENT
    while True:  # who looks for a holder has the lock for a moment
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                print("another holder has it", flush=True)
                raise SystemExit(1) from None
            time.sleep(0.001)
    os.ftruncate(fd, 0)  # the number of an earlier holder may be another process's by now
    _tell(fd, -os.getpid())
    occupier = _Occupier(wwpn, fd)
    occupier.run(told_to_end)
    occupier.close()  # before the lock goes, by which others see that the endpoint is free
    os._exit(0)  # at once: a guest may be waiting


def _tell(fd: int, number: int) -> None:
    """Write a number over the one that was there, in one piece."""
    os.pwrite(fd, b"%0*d\n" % (NUMBER - 1, number), 0)


def main() -> NoReturn:
    """Its arguments: WWPN FILE."""
    wwpn, path = sys.argv[1:]
    _occupied(wwpn, path)

"""SCSI commands from user space: one ``execute`` over different roads to a logical unit.

``sg.py`` talks to the host's own SCSI devices, ``vhost.py`` to a vhost-scsi endpoint without any
guest. Both offer the same ``execute``; ``cdb.py`` builds what goes through it, ``replies.py`` takes
apart what comes back::

    with sg.Device("/dev/sg0") as disk:
        result = disk.execute(*cdb.read_keys())
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple, Protocol

GOOD = 0x00
CHECK_CONDITION = 0x02
CONDITION_MET = 0x04
BUSY = 0x08
RESERVATION_CONFLICT = 0x18
TASK_SET_FULL = 0x28
TASK_ABORTED = 0x40


class Result(NamedTuple):
    """The logical unit's answer to a command.

    ``status`` is the SCSI status byte (SAM-5 5.3.1), ``sense`` the autosense bytes (empty unless
    ``CHECK_CONDITION``), ``data`` the bytes that really arrived: the residual is cut off.
    """

    status: int
    sense: bytes = b""
    data: bytes = b""

    @property
    def good(self) -> bool:
        return self.status == GOOD


class Execute(Protocol):
    """Sends one command to one logical unit and waits for the answer.

    ``cdb`` 6 to 32 bytes; ``data_out`` is sent; ``data_in`` bytes are accepted at most; ``timeout``
    in seconds. A SCSI error is a ``Result``; where no SCSI status came back, ``TransportError`` is
    raised, ``CommandTimeout`` if that was for want of time.
    """

    def __call__(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0,
                 timeout: float = 10.0) -> Result: ...


class TransportError(OSError):
    """The road to the logical unit failed: there is no SCSI status to look at.

    An ``OSError`` with ``errno``, ``strerror`` and the device or WWPN as ``filename``.
    """

    def __init__(self, code: int, reason: str, where: str) -> None:
        super().__init__(code, f"{reason} ({os.strerror(code)})", where)
        self.reason, self.where = reason, where

    def __reduce__(self) -> tuple[object, ...]:
        # It has to survive the way home from a child process.
        return type(self), (self.errno, self.reason, self.where)


class CommandTimeout(TransportError, TimeoutError):
    """No answer in time. The command may still be executed later."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(errno.ETIMEDOUT, reason, where)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.where)

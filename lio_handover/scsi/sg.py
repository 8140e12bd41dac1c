"""SCSI commands to a device of this host, through the SG_IO ioctl of /dev/sgX or /dev/sdX.

Opening /dev/sdX makes the kernel's disk driver send commands of its own, which take a pending unit
attention away; opening /dev/sgX sends nothing (drivers/scsi/sd.c:sd_open, drivers/scsi/sg.c).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import math
import os
from types import TracebackType

from . import CommandTimeout, Result, TransportError

_SG_IO = 0x2285
_NONE, _TO_DEVICE, _FROM_DEVICE = -1, -2, -3
_SENSE_ROOM = 96  # SCSI_SENSE_BUFFERSIZE, include/scsi/scsi_cmnd.h

# include/scsi/scsi_status.h. Host bytes 0x10 to 0x13 only repeat what a SCSI status said.
_HOST_TIME_OUT = 0x03
_HOST_STATUS_ECHO = range(0x10, 0x14)
_HOST = {
    0x01: (errno.ENODEV, "no connection to the device"),
    0x02: (errno.EBUSY, "bus busy"),
    0x04: (errno.ENODEV, "no such target"),
    0x05: (errno.ECANCELED, "command aborted"),
    0x06: (errno.EIO, "parity error"),
    0x07: (errno.EIO, "internal error of the host adapter"),
    0x08: (errno.ECONNRESET, "reset by another"),
    0x0b: (errno.EIO, "soft error, retries exhausted"),
    0x0d: (errno.EAGAIN, "requeued"),
    0x0e: (errno.ECONNRESET, "transport disrupted"),
    0x0f: (errno.ENOLINK, "transport failed fast"),
    0x14: (errno.ETIMEDOUT, "transport marginal"),
}
_DRIVER_TIMEOUT = 0x06
_DRIVER_HARMLESS = (0x00, 0x08)  # nothing; sense data present


class _SgIoHdr(ctypes.Structure):
    """struct sg_io_hdr, include/scsi/sg.h."""

    _fields_ = [
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    ]


def check_transport(host: int, driver: int, status: int, where: str) -> None:
    """Raise unless host and driver bytes say that ``status`` came from the device.

    :raises CommandTimeout: no answer in time.
    :raises TransportError: any other failure on the way.
    """
    if host == _HOST_TIME_OUT or driver & 0x0f == _DRIVER_TIMEOUT:
        raise CommandTimeout("the device did not answer in time", where)
    if host and not (host in _HOST_STATUS_ECHO and status):
        code, reason = _HOST.get(host, (errno.EIO, "host adapter error"))
        raise TransportError(code, f"{reason}, host byte 0x{host:02x}", where)
    if driver & 0x0f not in _DRIVER_HARMLESS and not status:
        raise TransportError(errno.EIO, f"driver byte 0x{driver:02x}", where)


class Device:
    """One open /dev/sgX or /dev/sdX; a context manager.

    :raises OSError: the node cannot be opened for reading and writing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def execute(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0,
                timeout: float = 10.0) -> Result:
        """See ``Execute``. The kernel itself ends the command after ``timeout`` (in steps of one
        millisecond), but its error handling may take longer than that to return.

        :raises ValueError: both directions at once, or a CDB that is not 6 to 32 bytes.
        :raises TransportError: no SCSI status came back, or the node refuses SG_IO.
        """
        if not 6 <= len(cdb) <= 32:
            raise ValueError(f"a CDB has 6 to 32 bytes, not {len(cdb)}")
        if data_out and data_in:
            raise ValueError("SG_IO moves data in one direction only")
        command = ctypes.create_string_buffer(cdb, len(cdb))
        sense = ctypes.create_string_buffer(_SENSE_ROOM)
        direction, size = _NONE, 0
        payload = ctypes.create_string_buffer(1)
        if data_out:
            direction, size = _TO_DEVICE, len(data_out)
            payload = ctypes.create_string_buffer(data_out, size)
        elif data_in:
            direction, size = _FROM_DEVICE, data_in
            payload = ctypes.create_string_buffer(size)
        header = _SgIoHdr(
            interface_id=ord("S"), dxfer_direction=direction,
            cmd_len=len(cdb), cmdp=ctypes.addressof(command),
            mx_sb_len=_SENSE_ROOM, sbp=ctypes.addressof(sense),
            dxfer_len=size, dxferp=ctypes.addressof(payload) if size else None,
            timeout=max(1, math.ceil(timeout * 1000)))
        try:
            fcntl.ioctl(self._fd, _SG_IO, header)
        except OSError as error:
            raise TransportError(error.errno or errno.EIO, "SG_IO refused", self.path) from error
        check_transport(header.host_status, header.driver_status, header.status, self.path)
        arrived = min(size, max(0, size - header.resid)) if data_in else 0
        return Result(header.status, sense.raw[:header.sb_len_wr], payload.raw[:arrived])

    def close(self) -> None:
        """Close the node; again is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

"""Requests and responses of virtio-scsi, as bytes (include/uapi/linux/virtio_scsi.h)."""

from __future__ import annotations

import errno
import struct

OK, SUCCEEDED, REJECTED = 0, 10, 11
_FAILURES = {
    1: (errno.EOVERFLOW, "more data than asked for"),
    2: (errno.ECANCELED, "command aborted"),
    3: (errno.ENXIO, "no such target"),
    4: (errno.ECONNRESET, "reset while waiting"),
    5: (errno.EBUSY, "target busy"),
    6: (errno.EIO, "transport failure"),
    7: (errno.EIO, "target failure"),
    8: (errno.EIO, "nexus failure"),
    9: (errno.EIO, "failure"),
    12: (errno.ENXIO, "no such LUN"),
}
_LOGICAL_UNIT_RESET = 5

ANSWER_SIZE, SENSE_SIZE = 108, 96


def failure(response: int) -> tuple[int, str]:
    """(errno, what it means) of a response that is neither ``OK`` nor ``SUCCEEDED``."""
    return _FAILURES.get(response, (errno.EIO, "unknown failure"))


def address(tpgt: int, lun: int) -> bytes:
    """The eight bytes by which a guest names a logical unit: struct virtio_scsi_cmd_req, lun."""
    return struct.pack(">BBH4x", 1, tpgt, 0x4000 | lun)


def command(unit: bytes, tag: int, cdb: bytes) -> bytes:
    """struct virtio_scsi_cmd_req, for the unit of that ``address``; a CDB of up to 32 bytes."""
    return unit + struct.pack("<QBBB", tag, 0, 0, 0) + cdb.ljust(32, b"\0")


def reset(unit: bytes) -> bytes:
    """struct virtio_scsi_ctrl_tmf_req: LOGICAL UNIT RESET of the unit of that ``address``."""
    return struct.pack("<II", 0, _LOGICAL_UNIT_RESET) + unit + bytes(8)

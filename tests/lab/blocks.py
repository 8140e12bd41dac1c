"""Reading and writing a disk's blocks past every cache, inside a host (these are calls)."""
from __future__ import annotations

import fcntl
import mmap
import os
import struct

_BLKGETSIZE64 = 0x80081272


def size(path: str) -> int:
    """Bytes of a block device."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return int(struct.unpack("Q", fcntl.ioctl(handle, _BLKGETSIZE64, b"\0" * 8))[0])
    finally:
        os.close(handle)


def read(path: str, offset: int, length: int) -> bytes:
    """What the device, not this host's memory, has there."""
    # A mapping is page-aligned: newer kernels refuse direct I/O from less.
    with mmap.mmap(-1, length) as buffer:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            done = os.preadv(handle, [buffer], offset)
        finally:
            os.close(handle)
        return bytes(buffer[:done])


def write(path: str, offset: int, data: bytes) -> None:
    """Put it on the device; it is there when this returns."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        handle = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_SYNC)
        try:
            done = os.pwritev(handle, [buffer], offset)
        finally:
            os.close(handle)
    if done != len(data):
        raise OSError(f"wrote {done} of {len(data)} bytes to {path}")

"""A virtqueue from the driver's side, in memory shared with the kernel, which is the device.

Split layout (virtio 1.1, 2.6): a table of descriptors, the available ring, the used ring. The other
side is told with one eventfd (kick) and tells with two (call, error).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

PAGE = 0x1000  # VHOST_PAGE_SIZE, the unit of the dirty log
RING_SPAN = 4 * PAGE  # descriptors, available ring and used ring, a page each
WRITE = 2  # VRING_DESC_F_WRITE: the device writes it
_NEXT = 1  # VRING_DESC_F_NEXT
_VRING_F_LOG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _eventfd() -> int:
    """Non-blocking and not inherited (os.eventfd needs Python 3.10)."""
    fd: int = _libc.eventfd(0, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


class Memory:
    """Zeroed memory shared with the kernel, as the guest's memory would be; starts at address 0."""

    def __init__(self, size: int) -> None:
        self.map = mmap.mmap(-1, size)
        self.size = size
        # Shared, not private: pages the kernel has pinned stay ours through a fork.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))


class Ring:
    """One virtqueue, split layout (virtio 1.1, 2.6), with the kernel as the device."""

    def __init__(self, memory: Memory, index: int, size: int) -> None:
        self.map = memory.map
        self.index, self.size = index, size
        self.descriptors = index * RING_SPAN
        self.available = self.descriptors + PAGE
        self.used = self.descriptors + 2 * PAGE
        self._given = self._taken = 0
        self.kick, self.call, self.error = _eventfd(), _eventfd(), _eventfd()

    def address(self, base: int, log: bool) -> bytes:
        """struct vhost_vring_addr."""
        return struct.pack("IIQQQQ", self.index, _VRING_F_LOG if log else 0,
                           base + self.descriptors, base + self.used, base + self.available,
                           self.used)

    def give(self, head: int, chain: list[tuple[int, int, int]]) -> None:
        """Hand a chain of (address, length, flags) over, in descriptors from ``head`` on."""
        for number, (at, length, flags) in enumerate(chain, head):
            more = number < head + len(chain) - 1
            struct.pack_into("<QIHH", self.map, self.descriptors + 16 * number, at, length,
                             flags | (_NEXT if more else 0), number + 1 if more else 0)
        struct.pack_into("<H", self.map, self.available + 4 + 2 * (self._given % self.size), head)
        self._given = (self._given + 1) & 0xffff
        struct.pack_into("<H", self.map, self.available + 2, self._given)
        os.write(self.kick, struct.pack("Q", 1))

    def take(self) -> list[int]:
        """The heads of the chains that came back since the last time."""
        heads = []
        end = struct.unpack_from("<H", self.map, self.used + 2)[0]
        while self._taken != end:
            at = self.used + 4 + 8 * (self._taken % self.size)
            heads.append(struct.unpack_from("<I", self.map, at)[0])
            self._taken = (self._taken + 1) & 0xffff
        return heads

    def close(self) -> None:
        for fd in (self.kick, self.call, self.error):
            os.close(fd)


def rang(fd: int) -> bool:
    """Whether an eventfd was signalled, and silence it."""
    try:
        os.read(fd, 8)
    except BlockingIOError:
        return False
    return True

"""Linux's native AIO (io_submit(2)): many pieces of a file are read by two calls of the kernel, and
a disk has all of them at once."""
from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import lru_cache
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence


class _Numbers(NamedTuple):
    """The numbers of io_setup, io_getevents and io_submit."""

    setup: int
    getevents: int
    submit: int


_GENERIC = _Numbers(0, 4, 2)  # include/uapi/asm-generic/unistd.h
_NUMBERS: Mapping[str, _Numbers] = {
    "x86_64": _Numbers(206, 208, 209),  # arch/x86/entry/syscalls/syscall_64.tbl
    "aarch64": _GENERIC, "riscv64": _GENERIC, "loongarch64": _GENERIC}
#: Pieces that are asked for at once, at most.
MOST = 32


class _Asked(ctypes.Structure):
    """struct iocb (include/uapi/linux/aio_abi.h) of a little-endian machine."""

    _fields_ = [("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("rw_flags", ctypes.c_uint32),
                ("opcode", ctypes.c_uint16), ("priority", ctypes.c_int16), ("fd", ctypes.c_uint32),
                ("buffer", ctypes.c_uint64), ("bytes", ctypes.c_uint64),
                ("offset", ctypes.c_int64), ("reserved", ctypes.c_uint64),
                ("flags", ctypes.c_uint32), ("eventfd", ctypes.c_uint32)]


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_ = [("data", ctypes.c_uint64), ("asked", ctypes.c_uint64), ("result", ctypes.c_int64),
                ("more", ctypes.c_int64)]


class _Context:
    """A kioctx of the kernel for one process, kept until the process ends: to destroy it waits for
    other processors (fs/aio.c:kill_ioctx)."""

    def __init__(self) -> None:
        self._numbers = _NUMBERS[os.uname().machine]
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._id = ctypes.c_ulong(0)
        self._asked, self._events = (_Asked * MOST)(), (_Event * MOST)()
        self._pointers = (ctypes.c_void_p * MOST)(*(
            ctypes.addressof(asked) for asked in self._asked))
        self._do(self._numbers.setup, ctypes.c_uint(MOST), ctypes.byref(self._id))

    def _do(self, number: int, *args: Any) -> int:
        """Raises OSError."""
        while True:
            result = int(self._call(ctypes.c_long(number), *args))
            if result >= 0:
                return result
            if ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def read(self, fd: int, offsets: Sequence[int], memory: int, size: int) -> List[int]:
        for number, offset in enumerate(offsets):
            asked = self._asked[number]
            asked.data, asked.fd, asked.offset = number, fd, offset
            asked.buffer, asked.bytes = memory + number * size, size
        begun = self._do(self._numbers.submit, self._id, ctypes.c_long(len(offsets)),
                         self._pointers)
        counts = [-errno.EAGAIN] * len(offsets)
        done = 0
        while done < begun:
            many = self._do(self._numbers.getevents, self._id, ctypes.c_long(begun - done),
                            ctypes.c_long(MOST), self._events, None)
            for event in self._events[:many]:
                counts[event.data] = event.result
            done += many
        return counts


@lru_cache(maxsize=1)
def _context() -> Optional[_Context]:
    """This process's context; None where the kernel gives none."""
    if sys.byteorder != "little" or sys.maxsize < 1 << 32 or os.uname().machine not in _NUMBERS:
        return None
    try:
        return _Context()
    except OSError:
        return None


os.register_at_fork(after_in_child=_context.cache_clear)


def read(fd: int, offsets: Sequence[int], memory: Any, size: int) -> Optional[List[int]]:
    """Read a piece of ``size`` bytes at each offset, at most `MOST`, into ``memory`` (mmap.mmap),
    one after the other: the bytes of each.  None where the kernel has no way to do that, or where a
    piece could not be read."""
    context = _context()
    if context is None or len(offsets) > MOST or len(offsets) * size > len(memory):
        return None
    try:
        counts = context.read(fd, offsets,
                              ctypes.addressof(ctypes.c_char.from_buffer(memory)), size)
    except OSError:
        return None
    return counts if min(counts, default=0) >= 0 else None

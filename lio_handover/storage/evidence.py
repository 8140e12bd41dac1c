"""Evidence of storage: facts which prove that both hosts have the same storage, and all data on it.

Nothing here opens for writing, creates a file, or waits for one (block_devices.look).
"""
from __future__ import annotations

import errno
import os
import stat
from functools import lru_cache
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Tuple

from ..errors import KernelRefused, StorageMissing, StorageNotAllowed
from ..model import plugins
from ..model.keys import display
from ..model.objects import Backstore
from ..system.locks import room_for
from . import block_devices, native_aio, protection
from .block_devices import (HERE, PAGE, Evidence, Host, PathStat, block_facts, file_system, reopen,
                            show)

BLOCK = PAGE  # bytes of one sample
SAMPLES = 16
#: Files that are flushed at once, and stay open.
OPEN = 512

_BLKFLSBUF = 0x1261
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h


# --- evidence ------------------------------------------------------------------------------------
def evidence(backstore: Backstore, sample: bool, host: Host = HERE) -> Evidence:
    """The facts that identify a backstore's storage.  Raises StorageMissing, StorageNotAllowed.

    A file: ``kind`` "file", ``size`` (bytes), ``inode``, ``filesystem``.  A device: ``kind``
    "block", ``size``, ``logical_block_size`` (bytes), ``wwid`` where it has one.  With
    ``sample``, which only holds while nobody writes: ``sample`` (SHA-256 of some blocks) and
    ``sample_zero`` (all of them were zeroes, so that it proves little).  ``protection_…`` is the
    same of the companion file, see protection.  {} for a plugin that opens neither.
    """
    if plugins.opened_by(backstore.plugin) is None or not backstore.path:
        return {}
    name, path = display(backstore.key), backstore.path
    try:
        backing = block_devices.look(path)
    except OSError as error:
        raise StorageMissing(f"{name}: {show(path)}: {error.strerror}") from None
    try:
        facts = evidence_of(backing, sample, host)
    except OSError as error:
        raise StorageMissing(f"{name}: {show(path)} can't be read: {error.strerror}") from None
    finally:
        os.close(backing.fd)
    beside = protection.companion(backstore)
    return {**facts, **protection.named(evidence(beside, sample, host))} if beside else facts


def evidence_of(backing: PathStat, sample: bool, host: Host) -> Evidence:
    """The evidence of a file or device that was looked at, without its companion.  Raises
    StorageNotAllowed, OSError."""
    if backing.block:
        facts = block_facts(backing.device, host)
    elif backing.regular:
        facts = {"kind": "file", "size": backing.size, "inode": backing.identity[1],
                 "filesystem": file_system(backing.real, host)}
    else:
        raise StorageNotAllowed(f"{show(backing.real)} is neither a file nor a block device")
    if sample:
        facts["sample"], facts["sample_zero"] = _sample(backing, int(facts["size"]), host)
    return facts


def offsets(size: int) -> List[int]:
    """The offsets of the samples, in bytes: where labels stand, the end, and evenly between."""
    last = max(size - 1, 0) // BLOCK * BLOCK
    spread = (last * number // (SAMPLES - 3) // BLOCK * BLOCK for number in range(SAMPLES - 2))
    return sorted({offset for offset in (0, BLOCK, 64 * 1024, 1024 * 1024, *spread)
                   if offset < size})


def _sample(backing: PathStat, size: int, host: Host) -> Tuple[str, bool]:
    """(SHA-256 of the blocks at ``offsets``, whether all were zeroes), past the page cache."""
    if backing.block or backing.identity[0] not in host.buffered:
        try:
            return _digest(backing, size, os.O_DIRECT, host)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        if backing.regular:
            host.buffered.add(backing.identity[0])
    return _digest(backing, size, 0, host)


def _digest(backing: PathStat, size: int, flags: int, host: Host) -> Tuple[str, bool]:
    import hashlib
    parts: List[bytes] = []
    fd = reopen(backing, flags)
    try:
        if not flags:
            _forget(fd, backing.block)
        zero, pages, wanted = True, host.pages, offsets(size)
        counts = native_aio.read(fd, wanted, pages, BLOCK)
        if counts is None:
            views = [memoryview(pages)[at:at + BLOCK] for at in range(0, len(pages), BLOCK)]
            counts = [os.preadv(fd, [view], offset) for view, offset in zip(views, wanted)]
        for at, (count, offset) in enumerate(zip(counts, wanted)):
            data = pages[at * BLOCK:at * BLOCK + min(count, size - offset)]
            zero = zero and not data.strip(b"\0")
            parts += (b"%d:" % offset, data)
    finally:
        os.close(fd)
    return hashlib.sha256(b"".join(parts)).hexdigest(), zero


def _forget(fd: int, block: bool) -> None:
    """Drop the clean pages of a file or device from the page cache.  Raises OSError."""
    if block:
        import fcntl
        fcntl.ioctl(fd, _BLKFLSBUF, 0)
    else:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


# --- flushing ------------------------------------------------------------------------------------
def opened(path: str) -> int:
    """A descriptor for ``flush``: the kernel reports an error of writing back to the descriptors
    that are open at that time, so the caller opens it before the last writes, and closes it.
    Raises KernelRefused."""
    try:
        backing = block_devices.look(path)
        try:
            return reopen(backing)
        finally:
            os.close(backing.fd)
    except OSError as error:
        _refused("open", path, error)


def flush(path: str, fd: Optional[int] = None) -> None:
    """Everything written is on the storage when this returns.  Raises KernelRefused.

    A file: fsync.  A device: fsync, which also has its own cache written, then BLKFLSBUF, which
    drops this host's pages.
    """
    mine = opened(path) if fd is None else fd
    try:
        os.fsync(mine)
        if stat.S_ISBLK(os.fstat(mine).st_mode):
            import fcntl
            fcntl.ioctl(mine, _BLKFLSBUF, 0)
    except OSError as error:
        _refused("flush", path, error)
    finally:
        if fd is None:
            os.close(mine)


class Flushing:
    """Brings data to the storage, of each file or device by itself.  First the writing of all of
    them is begun, so that a disk has them at once.  Descriptors stay open for the next time, up to
    `OPEN`."""

    def __init__(self) -> None:
        self._fds: Dict[str, int] = {}

    def flush(self, paths: Sequence[str]) -> None:
        """`flush` of each.  Raises KernelRefused."""
        room_for(min(len(paths), OPEN))
        for number in range(0, len(paths), OPEN):
            part = dict.fromkeys(paths[number:number + OPEN])
            for path in part:
                if path not in self._fds:
                    self._fds[path] = opened(path)
                _start_writing(self._fds[path])
            for path in part:
                flush(path, self._fds[path])
            if len(paths) > OPEN:
                self.close()

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def __del__(self) -> None:
        self.close()


def flush_all(paths: Sequence[str]) -> None:
    """`flush` of each, of all of which the writing is begun first.  Raises KernelRefused."""
    flushing = Flushing()
    try:
        flushing.flush(paths)
    finally:
        flushing.close()


@lru_cache(maxsize=1)
def _libc() -> Any:
    import ctypes
    return ctypes.CDLL(None)


def _start_writing(fd: int) -> None:
    """Have the kernel begin to write what is dirty, and do not wait for it (sync_file_range(2)).
    The rest is for fsync."""
    import ctypes
    begin, end = ctypes.c_int64(0), ctypes.c_int64(0)  # to the end of it
    _libc().sync_file_range(fd, begin, end, _SYNC_FILE_RANGE_WRITE)


def drop_cache(path: str) -> None:
    """Drop this host's page cache of the storage, so that it is read again.  Raises KernelRefused.

    For the destination, after the source has flushed: fileio serves from the page cache.
    """
    try:
        # The kernel has it open, for writing: to open it once more starts nothing.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            os.fsync(fd)
            _forget(fd, stat.S_ISBLK(os.fstat(fd).st_mode))
        finally:
            os.close(fd)
    except OSError as error:
        _refused("drop the cache of", path, error)


def _refused(what: str, path: str, error: OSError) -> NoReturn:
    raise KernelRefused(f"the kernel refused to {what} {show(path)}: {error.strerror}",
                        do="dmesg")

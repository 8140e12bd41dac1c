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
def evidence(backstore: Backstore, sample: bool, host: Host = HERE,
             files: "Optional[OpenFiles]" = None) -> Evidence:
    """The facts that identify a backstore's storage.  Raises StorageMissing, StorageNotAllowed.

    A file: ``kind`` "file", ``size`` (bytes), ``inode``, ``filesystem``.  A device: ``kind``
    "block", ``size``, ``logical_block_size`` (bytes), ``wwid`` where it has one.  With
    ``sample``, which only holds while nobody writes: ``sample`` (SHA-256 of some blocks) and
    ``sample_zero`` (all of them were zeroes, so that it proves little).  ``protection_…`` is the
    same of the companion file, see protection.  {} for a plugin that opens neither.  ``files``:
    what is open already.
    """
    if plugins.opened_by(backstore.plugin) is None or not backstore.path:
        return {}
    name, path = display(backstore.key), backstore.path
    try:
        is_open = files.there(path) if files is not None else None
        backing = is_open or block_devices.look(path)
    except OSError as error:
        raise StorageMissing(f"{name}: {show(path)}: {error.strerror}") from None
    try:
        facts = evidence_of(backing, sample, host, is_open is not None)
    except OSError as error:
        raise StorageMissing(f"{name}: {show(path)} can't be read: {error.strerror}") from None
    finally:
        if is_open is None:
            os.close(backing.fd)
    beside = protection.companion(backstore)
    return {**facts, **protection.named(evidence(beside, sample, host, files))} if beside else facts


def evidence_of(backing: PathStat, sample: bool, host: Host, readable: bool = False) -> Evidence:
    """The evidence of a file or device that was looked at, without its companion; ``readable``: its
    descriptor is one to read by.  Raises StorageNotAllowed, OSError."""
    if backing.block:
        facts = block_facts(backing.device, host)
    elif backing.regular:
        facts = {"kind": "file", "size": backing.size, "inode": backing.identity[1],
                 "filesystem": file_system(backing.real, host)}
    else:
        raise StorageNotAllowed(f"{show(backing.real)} is neither a file nor a block device")
    if sample:
        facts["sample"], facts["sample_zero"] = _sample(
            backing, int(facts["size"]), host, readable)
    return facts


def offsets(size: int) -> List[int]:
    """The offsets of the samples, in bytes: where labels stand, the end, and evenly between."""
    last = max(size - 1, 0) // BLOCK * BLOCK
    spread = (last * number // (SAMPLES - 3) // BLOCK * BLOCK for number in range(SAMPLES - 2))
    return sorted({offset for offset in (0, BLOCK, 64 * 1024, 1024 * 1024, *spread)
                   if offset < size})


def _sample(backing: PathStat, size: int, host: Host, readable: bool) -> Tuple[str, bool]:
    """(SHA-256 of the blocks at ``offsets``, whether all were zeroes), past the page cache."""
    if backing.block or backing.identity[0] not in host.buffered:
        try:
            return _digest(backing, size, os.O_DIRECT, host)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        if backing.regular:
            host.buffered.add(backing.identity[0])
    return _digest(backing, size, 0, host, readable)


def _digest(backing: PathStat, size: int, flags: int, host: Host, readable: bool = False
            ) -> Tuple[str, bool]:
    import hashlib
    parts: List[bytes] = []
    fd = backing.fd if readable else reopen(backing, flags)
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
        if not readable:
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
    return _opened(path).fd


def _opened(path: str) -> PathStat:
    """The same, with what it is of."""
    try:
        backing = block_devices.look(path)
        try:
            return backing._replace(fd=reopen(backing))
        finally:
            os.close(backing.fd)
    except OSError as error:
        _refused("open", path, error)


def flush(path: str, fd: Optional[int] = None, block: Optional[bool] = None) -> None:
    """Everything written is on the storage when this returns.  Raises KernelRefused.

    A file: fsync.  A device: fsync, which also has its own cache written, then BLKFLSBUF, which
    drops this host's pages.  ``block``: whether it is one, where that is known.
    """
    mine = opened(path) if fd is None else fd
    try:
        os.fsync(mine)
        if stat.S_ISBLK(os.fstat(mine).st_mode) if block is None else block:
            import fcntl
            fcntl.ioctl(mine, _BLKFLSBUF, 0)
    except OSError as error:
        _refused("flush", path, error)
    finally:
        if fd is None:
            os.close(mine)


class OpenFiles:
    """Files and devices that are open to be read, up to `OPEN`: each is looked at and opened once
    for all that a verb does with it while nobody is served."""

    def __init__(self) -> None:
        self._open: Dict[str, PathStat] = {}

    def keep(self, path: str, backing: PathStat) -> bool:
        """Have a regular file's descriptor from now on; whether it is wanted."""
        if not backing.regular or path in self._open or len(self._open) >= OPEN:
            return False
        self._open[path] = backing
        return True

    def opened(self, path: str, backing: PathStat) -> Optional[PathStat]:
        """A regular file that was looked at, opened, where there is room.  Raises OSError."""
        if not backing.regular or path in self._open or len(self._open) >= OPEN:
            return None
        self._open[path] = backing._replace(fd=reopen(backing))
        return self._open[path]

    def there(self, path: str) -> Optional[PathStat]:
        """The regular file to which a path leads, as it is now, where that is open.  Raises
        OSError."""
        before = self._open.get(path)
        if before is None or not before.regular:
            return None
        now = block_devices.backing_of(before.fd, before.real, os.stat(path))
        return now if now.regular and now.identity == before.identity else None

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1].fd)

    def __del__(self) -> None:
        self.close()


class Flushing(OpenFiles):
    """Brings data to the storage, of each file or device by itself.  First the writing of all of
    them is begun, so that a disk has them at once.  Descriptors stay open for the next time."""

    def flush(self, paths: Sequence[str]) -> None:
        """`flush` of each.  Raises KernelRefused."""
        room_for(min(len(paths), OPEN))
        for number in range(0, len(paths), OPEN):
            part = dict.fromkeys(paths[number:number + OPEN])
            for path in part:
                if path not in self._open:
                    self._open[path] = _opened(path)
                _start_writing(self._open[path].fd)
            for path in part:
                flush(path, self._open[path].fd, self._open[path].block)
            if len(paths) > OPEN:
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

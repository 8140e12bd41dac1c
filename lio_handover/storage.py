"""The storage behind backstores: what proves that it is the same, and whether it may be used.

Nothing here opens for writing, creates a file, or waits for one: a path is first opened without
opening what it leads to (O_PATH), and only a regular file or a block device is then read.  The
kernel's fileio creates a missing file and takes no claim on one in use, so what is found here is
all that stands between a wrong path and somebody's data.

What /sys, /proc and /dev say is asked through a Host, so that a test can give its own.
"""
from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Dict, Iterator, List, Mapping, NamedTuple, NoReturn, Optional, Set, Tuple, Union

from .errors import (Finding, HandoverError, KernelRefused, StorageDiffers, StorageInUse,
                     StorageMissing, StorageNotAllowed)
from .model import Backstore, State, say
from .settings import Settings

Evidence = Dict[str, Union[str, int, bool]]

BLOCK = 4096  # bytes of one sample
SAMPLES = 16

_BLKFLSBUF = 0x1261
#: File systems that keep nothing, or whose files do things when they are read.
_NOT_STORAGE = frozenset("""autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs
    efivarfs fusectl hugetlbfs mqueue nsfs proc pstore rpc_pipefs securityfs selinuxfs sysfs
    tracefs""".split())
#: File systems which give one file the same inode number on every host.
_SHARED = frozenset("nfs nfs4 ocfs2 gfs2 ceph lustre fuse.glusterfs".split())


@dataclass(frozen=True)
class Host:
    """Where the kernel tells about this host."""

    sys: str = "/sys"
    proc: str = "/proc"
    dev: str = "/dev"


HERE = Host()


class Seen(NamedTuple):
    """What a path leads to, without having opened it: ``fd`` is O_PATH."""

    fd: int
    real: str
    block: bool
    regular: bool
    device: str  # major:minor of a block device
    identity: Tuple[int, int]  # of a file: device and inode
    size: int  # of a file, bytes


# --- looking -------------------------------------------------------------------------------------
def look(path: str) -> Seen:
    """What ``path`` leads to; the caller closes ``fd``.  Raises OSError.

    Opens nothing: no fifo is waited for, no device starts to do what devices do when opened.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        real = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        os.close(fd)
        raise
    return Seen(fd, real, stat.S_ISBLK(found.st_mode), stat.S_ISREG(found.st_mode),
                f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}",
                (found.st_dev, found.st_ino), found.st_size)


def _reopen(seen: Seen, flags: int = 0) -> int:
    """A descriptor to read from the very thing that was looked at."""
    if not (seen.block or seen.regular):
        raise OSError(errno.EINVAL, "neither a file nor a block device")
    return os.open(f"/proc/self/fd/{seen.fd}",
                   os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | flags)


def _read(path: str) -> str:
    """The one line of a file in sysfs, "" without the file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip("\0 \n\t")
    except OSError:
        return ""


def _list(path: str) -> List[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _folder(device: str, host: Host) -> str:
    """A block device's directory in sysfs."""
    return os.path.realpath(f"{host.sys}/dev/block/{device}")


def wwid_of(device: str, host: Host = HERE) -> str:
    """The name under which every host knows a block device (``8:16``), "" if it has none.

    ``naa.…``, ``eui.…`` or ``t10.…`` as the kernel gives it, ``dm:UUID`` (LVM, crypt),
    ``md:UUID`` or ``serial:…``; ``/part3`` is added for a partition.  A multipath device has
    the name of the unit that its paths lead to.
    """
    return _wwid(_folder(device, host))


def _wwid(folder: str) -> str:
    number = _read(folder + "/partition")
    if number:
        whole = _wwid(os.path.dirname(folder))
        return f"{whole}/part{number}" if whole else ""
    uuid = _read(folder + "/dm/uuid")
    before, mpath, name = uuid.partition("mpath-")
    if mpath and (not before or (before.startswith("part") and before[4:-1].isdigit())):
        part = f"/{before[:-1]}" if before else ""
        if name[:1] == "3" and len(name) in (17, 33):  # as scsi_id writes an NAA name
            return "naa." + name[1:].lower() + part
        if name.startswith(("eui.", "nvme.", "uuid.")):
            return name + part
    if uuid:
        return "dm:" + uuid
    if os.path.isdir(folder + "/dm"):
        return ""
    for prefix, file in (("", "wwid"), ("", "device/wwid"), ("md:", "md/uuid"),
                         ("serial:", "serial"), ("serial:", "device/serial")):
        name = " ".join(_read(f"{folder}/{file}").split())
        if name and name != "(null)":  # as some drivers say that they have none
            return prefix + name
    return ""


def block_facts(device: str, host: Host = HERE) -> Evidence:
    """Size in bytes, logical block size and WWID of a block device.  Raises OSError."""
    folder = _folder(device, host)
    whole = os.path.dirname(folder) if os.path.exists(folder + "/partition") else folder
    try:
        found: Evidence = {
            "kind": "block", "size": int(_read(folder + "/size")) * 512,
            "logical_block_size": int(_read(whole + "/queue/logical_block_size") or "512")}
    except ValueError:
        raise OSError(errno.ENODEV, "the kernel knows no such block device") from None
    wwid = _wwid(folder)
    if wwid:
        found["wwid"] = wwid
    return found


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    device: str
    point: str
    type: str
    source: str


def _unescape(text: str) -> str:
    """The kernel writes a blank as \\040."""
    if "\\" not in text:
        return text
    first, *rest = text.split("\\")
    return first + "".join(chr(int(one[:3], 8)) + one[3:] if one[:3].isdigit() else "\\" + one
                           for one in rest)


def mounts(host: Host = HERE) -> List[Mount]:
    found = []
    with open(f"{host.proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _dash, after = line.partition(" - ")
            words, more = before.split(), after.split()
            if len(words) >= 5 and len(more) >= 2:
                found.append(Mount(words[2], _unescape(words[4]), more[0], _unescape(more[1])))
    return found


def _file_system(real: str, host: Host) -> str:
    """The type of the file system in which a resolved path lies."""
    best, name = "", ""
    for one in mounts(host):
        if len(one.point) >= len(best) and _below(real, one.point):
            best, name = one.point, one.type
    return name


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


# --- evidence ------------------------------------------------------------------------------------
def evidence(backstore: Backstore, sample: bool, host: Host = HERE) -> Evidence:
    """What proves that storage is the same storage.  Raises StorageMissing, StorageNotAllowed.

    A file: ``kind`` "file", ``size`` (bytes), ``inode``, ``filesystem``.  A device: ``kind``
    "block", ``size``, ``logical_block_size`` (bytes), ``wwid`` where it has one.  With
    ``sample``, which only holds while nobody writes: ``sample`` (SHA-256 of some blocks) and
    ``sample_zero`` (all of them were zeroes, so that it proves little).  {} for a plugin that
    opens neither.
    """
    if backstore.plugin not in ("fileio", "iblock"):
        return {}
    name, path = say(backstore.key), backstore.path
    try:
        seen = look(path)
    except OSError as error:
        raise StorageMissing(f"{name}: {_show(path)}: {error.strerror}") from None
    try:
        return _evidence(seen, sample, host)
    except OSError as error:
        raise StorageMissing(f"{name}: {_show(path)} can't be read: {error.strerror}") from None
    finally:
        os.close(seen.fd)


def _evidence(seen: Seen, sample: bool, host: Host) -> Evidence:
    if seen.block:
        found = block_facts(seen.device, host)
    elif seen.regular:
        found = {"kind": "file", "size": seen.size, "inode": seen.identity[1],
                 "filesystem": _file_system(seen.real, host)}
    else:
        raise StorageNotAllowed(f"{_show(seen.real)} is neither a file nor a block device")
    if sample:
        found["sample"], found["sample_zero"] = _sample(seen, int(found["size"]))
    return found


def offsets(size: int) -> List[int]:
    """Where samples are taken: the places where labels stand, the end, and evenly between."""
    last = max(size - 1, 0) // BLOCK * BLOCK
    spread = (last * number // (SAMPLES - 3) // BLOCK * BLOCK for number in range(SAMPLES - 2))
    return sorted({one for one in (0, BLOCK, 64 * 1024, 1024 * 1024, *spread) if one < size})


def _sample(seen: Seen, size: int) -> Tuple[str, bool]:
    """(SHA-256 of the blocks at ``offsets``, whether all were zeroes), past the page cache."""
    try:
        return _digest(seen, size, os.O_DIRECT)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    return _digest(seen, size, 0)


def _digest(seen: Seen, size: int, flags: int) -> Tuple[str, bool]:
    import hashlib
    import mmap
    digest = hashlib.sha256()
    fd = _reopen(seen, flags)
    try:
        if not flags:
            _forget(fd, seen)
        zero = True
        with mmap.mmap(-1, BLOCK) as page:  # O_DIRECT wants an aligned buffer
            for offset in offsets(size):
                count = os.preadv(fd, [page], offset)
                data = page[:min(count, size - offset)]
                zero = zero and not any(data)
                digest.update(b"%d:" % offset + data)
        return digest.hexdigest(), zero
    finally:
        os.close(fd)


def _forget(fd: int, seen: Seen) -> None:
    """Drop the clean pages that the page cache has of it.  Raises OSError."""
    if seen.block:
        import fcntl
        fcntl.ioctl(fd, _BLKFLSBUF, 0)
    else:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


# --- flushing ------------------------------------------------------------------------------------
def opened(path: str) -> int:
    """A descriptor for ``flush``: an error of writing back reaches those open at that time,
    so it is had before the last writes.  The caller closes it.  Raises KernelRefused."""
    try:
        seen = look(path)
        try:
            return _reopen(seen)
        finally:
            os.close(seen.fd)
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


def drop_cache(path: str) -> None:
    """What this host still remembers of the storage is read afresh.  Raises KernelRefused.

    For the destination, after the source has flushed: fileio serves from the page cache.
    """
    try:
        seen = look(path)
        try:
            fd = _reopen(seen)
        finally:
            os.close(seen.fd)
        try:
            os.fsync(fd)
            _forget(fd, seen)
        finally:
            os.close(fd)
    except OSError as error:
        _refused("drop the cache of", path, error)


def _refused(what: str, path: str, error: OSError) -> NoReturn:
    raise KernelRefused(f"the kernel refused to {what} {_show(path)}: {error.strerror}",
                        do="dmesg")


def _show(text: str) -> str:
    text = text if len(text) <= 300 else text[:297] + "..."
    return text if text.isprintable() and text.isascii() else ascii(text)


# --- what may be used ----------------------------------------------------------------------------
def matches(path: str, pattern: str) -> bool:
    """A glob in which ``*`` stops at ``/``."""
    from fnmatch import fnmatchcase
    words, wanted = path.split("/"), pattern.split("/")
    return len(words) == len(wanted) and all(map(fnmatchcase, words, wanted))


def leaves(path: str, root: str) -> bool:
    """Whether a symbolic link on the way from ``root`` to ``path`` leads out of it, even if a
    later one leads back.  The root itself may be reached through links."""
    real = os.path.realpath(root)
    here, pending = real, _words(path[len(root):])
    for _ in range(400):
        if not pending:
            return False
        word = pending.pop()
        if word == "..":
            here = os.path.dirname(here)
            if not _below(here, real):
                return True
            continue
        try:
            target = os.readlink(f"{here.rstrip('/')}/{word}")
        except OSError:
            here = f"{here.rstrip('/')}/{word}"
            continue
        if target.startswith("/"):
            inside = next((one for one in (real, root) if _below(target, one)), None)
            if inside is None:
                return True
            here, target = real, target[len(inside):]
        pending += _words(target)
    return True  # a loop


def _words(path: str) -> List[str]:
    return [word for word in reversed(path.split("/")) if word not in ("", ".")]


def findings(wanted: Backstore, proof: Mapping[str, Union[str, int, bool]], settings: Settings,
             here: State = State(), host: Host = HERE) -> List[Finding]:
    """Why this host can't serve ``wanted``, whose evidence on the source was ``proof``.

    ``here`` is what this host serves already.  Changes nothing; never opens for writing.
    """
    if wanted.plugin not in ("fileio", "iblock"):
        return []
    return list(_findings(wanted, proof, settings, here, host))


def _finding(error: type[HandoverError], wanted: Backstore, sentence: str, override: str = "",
             do: str = "") -> Finding:
    return Finding(error, say(wanted.key), f"{_show(wanted.path)} {sentence}", override, do)


def _findings(wanted: Backstore, proof: Mapping[str, Union[str, int, bool]], settings: Settings,
              here: State, host: Host) -> Iterator[Finding]:
    path = wanted.path
    roots = [root for root in settings.roots if _below(path, root) and path != root]
    named = any(matches(path, one) for one in settings.devices)
    if not roots and not named and not _below(path, host.dev):
        yield _finding(StorageNotAllowed, wanted, "lies under no configured root",
                       do="allow it in the configuration file, or use --map root:OLD=NEW")
        return
    if roots and all(leaves(path, root) for root in roots):
        yield _finding(StorageNotAllowed, wanted, "is reached through a symbolic link that leaves "
                       f"{' and '.join(roots)}", do="name the file where it really is")
        return
    try:
        seen = look(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and (roots or named):
            yield _finding(StorageMissing, wanted, "does not exist on this host",
                           do="make it reachable here, or name it with --map")
        else:
            yield _finding(StorageNotAllowed, wanted, f"can't be looked at: {error.strerror}")
        return
    try:
        why = _not_allowed(wanted, seen, settings, bool(roots), host)
        if why:
            yield _finding(StorageNotAllowed, wanted, why,
                           do="allow it in the configuration file, if it is meant to be served")
            return
        for use in _uses(wanted, seen, here, host):
            yield _finding(StorageInUse, wanted, use, do="free it first, or use --map")
        yield from _differences(wanted, seen, proof, host)
    except OSError as error:
        yield _finding(StorageMissing, wanted, f"can't be read: {error.strerror}")
    finally:
        os.close(seen.fd)


def _not_allowed(wanted: Backstore, seen: Seen, settings: Settings, in_roots: bool,
                 host: Host) -> str:
    if seen.regular:
        if wanted.plugin == "iblock":
            return "is a file, and iblock needs a block device"
        if not in_roots or not any(_below(seen.real, os.path.realpath(root))
                                   for root in settings.roots):
            return "lies under no configured root"
        kind = _file_system(seen.real, host)
        return f"lies in a file system of type {kind}, which keeps nothing" \
            if kind in _NOT_STORAGE else ""
    if not seen.block:
        return "is neither a file nor a block device"
    names = [wanted.path]
    if _below(wanted.path, host.dev) and _below(seen.real, host.dev):
        names.append(seen.real)
        mapped = _read(_folder(seen.device, host) + "/dm/name")
        if mapped:
            names.append(f"{host.dev}/mapper/{mapped}")
    elif wanted.path != seen.real:
        return "is a symbolic link to a device elsewhere"
    if not any(matches(name, one) for name in names for one in settings.devices):
        return "matches no configured device pattern"
    return ""


def _differences(wanted: Backstore, seen: Seen, proof: Mapping[str, Union[str, int, bool]],
                 host: Host) -> Iterator[Finding]:
    found = _evidence(seen, "sample" in proof, host)
    size = int(found["size"])
    asked = int(wanted.parameters.get("fd_dev_size", "0"))
    if seen.regular and asked > size:
        yield _finding(StorageDiffers, wanted,
                       f"has {size} bytes, and {asked} are to be served of it")
    if not proof:
        yield _finding(StorageDiffers, wanted,
                       "can't be compared: the document does not say what the source served",
                       "unproven-storage", "export the document again")
        return
    for name, what in (("kind", "is a {} on this host, on the source it was a {}"),
                       ("size", "has {} bytes, on the source it had {}"),
                       ("logical_block_size", "has blocks of {} bytes, on the source of {}"),
                       ("wwid", "is {}, on the source it was {}")):
        if name in proof and found.get(name) != proof[name]:
            yield _finding(StorageDiffers, wanted, what.format(
                _show(str(found.get(name, "without a name"))), _show(str(proof[name]))),
                do="attach the same storage, or name it with --map")
            if name == "kind":
                return
    if "sample" in proof and found["size"] == proof.get("size") \
            and found["sample"] != proof["sample"]:
        yield _finding(StorageDiffers, wanted, "holds other data than on the frozen source"
                       + (": zeroes" if found["sample_zero"] else ""),
                       do="attach the same storage, or finish copying it")
    if {found.get("filesystem"), proof.get("filesystem")} <= _SHARED \
            and found["inode"] != proof.get("inode"):
        yield _finding(StorageDiffers, wanted, "is another file of a shared file system "
                       f"(inode {found['inode']}, on the source {proof.get('inode')})",
                       "other-file", "name the file with --map")


# --- who uses it ---------------------------------------------------------------------------------
def family(device: str, host: Host = HERE) -> Tuple[Dict[str, str], Dict[str, str]]:
    """({major:minor: name} of a device and its partitions, the same of all that stands on them).

    The names are the kernel's (``sdb1``, ``dm-0``).
    """
    own: Dict[str, str] = {}
    held: Dict[str, str] = {}
    folder = _folder(device, host)
    own[device] = os.path.basename(folder)
    pending = [folder]
    for name in _partitions(folder):
        own[_read(f"{folder}/{name}/dev")] = name
        pending.append(f"{folder}/{name}")
    while pending:
        one = pending.pop()
        for name in _list(one + "/holders"):
            holder = os.path.realpath(f"{one}/holders/{name}")
            if _read(holder + "/dev") not in held:
                held[_read(holder + "/dev")] = name
                pending.append(holder)
                for part in _partitions(holder):
                    held[_read(f"{holder}/{part}/dev")] = part
                    pending.append(f"{holder}/{part}")
    return own, held


def _partitions(folder: str) -> List[str]:
    return [name for name in _list(folder) if os.path.exists(f"{folder}/{name}/partition")]


def users(device: str, host: Host = HERE) -> List[str]:
    """How this host itself uses a block device, in words: mounted, swap, held by another."""
    own, held = family(device, host)
    every = {**own, **held}
    known = set(every.values())
    for name in tuple(known):
        known.add(_read(f"{host.sys}/block/{name}/dm/name"))
    folder = _folder(device, host)
    if os.path.exists(folder + "/partition"):  # the whole disk may be mounted, or held
        whole = os.path.dirname(folder)
        every[_read(whole + "/dev")] = os.path.basename(whole)
        known.add(os.path.basename(whole))
        held.update((_read(f"{whole}/holders/{name}/dev"), name)
                    for name in _list(whole + "/holders"))
    known.discard("")
    found = []
    for one in mounts(host):
        if one.device in every or _basename(one.source, host) in known:
            found.append("holds this host's root" if one.point == "/"
                         else f"is mounted on {_show(one.point)}")
    for path in _swaps(host):
        if _basename(path, host) in known:
            found.append("is swap space")
    if held:
        found.append("is part of " + ", ".join(sorted(
            _read(f"{host.sys}/block/{name}/dm/name") or name for name in held.values())))
    return list(dict.fromkeys(found))


def _basename(path: str, host: Host) -> str:
    """The kernel's name of a device that a path of /dev leads to, "" for other paths."""
    if not path.startswith("/dev/"):
        return ""
    return os.path.basename(os.path.realpath(host.dev + path[4:]))


def _swaps(host: Host) -> List[str]:
    try:
        with open(f"{host.proc}/swaps", encoding="utf-8", errors="surrogateescape") as file:
            return [_unescape(line.split()[0]) for line in file.readlines()[1:] if line.strip()]
    except OSError:
        return []


def _uses(wanted: Backstore, seen: Seen, here: State, host: Host) -> Iterator[str]:
    if seen.block:
        found = users(seen.device, host)
        yield from found
        if not found and here.backstore(wanted.key) is None and _claimed(seen):
            yield "is claimed by something of this host (mounted elsewhere, or another target)"
        own, held = family(seen.device, host)
        overlapping = {*own, *held}
        folder = _folder(seen.device, host)
        if os.path.exists(folder + "/partition"):
            overlapping.add(_read(os.path.dirname(folder) + "/dev"))
    else:
        overlapping = set()
        for path in _swaps(host):
            if _same(path, seen, overlapping):
                yield "is swap space"
        for name in _list(f"{host.sys}/block"):
            backing = _read(f"{host.sys}/block/{name}/loop/backing_file")
            if backing and _same(backing, seen, overlapping):
                yield f"is the file of {name}"
    for other in here.backstores:
        if other.key != wanted.key and other.path and _same(other.path, seen, overlapping):
            yield f"is served by {say(other.key)} of this host already"


def _claimed(seen: Seen) -> bool:
    """Whether the kernel would let nobody else have the device: sees what other mount
    namespaces hide."""
    try:
        os.close(_reopen(seen, os.O_EXCL))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _same(path: str, seen: Seen, overlapping: Set[str]) -> bool:
    """Whether a path leads to the same file, or to one of the devices."""
    try:
        other = look(path)
    except OSError:
        return False
    os.close(other.fd)
    if other.block:
        return other.device in overlapping
    return other.regular and seen.regular and other.identity == seen.identity


# --- finding a device ----------------------------------------------------------------------------
def find_by_wwid(wwid: str, host: Host = HERE) -> Optional[str]:
    """A path of the block device with this WWID on this host, None if there is none.

    A multipath device comes before its paths; a name that lasts (/dev/disk/by-id) before others.
    A mere serial number that two devices have finds neither: anybody may give it.
    """
    found = []
    for name in _list(f"{host.sys}/block"):
        folder = os.path.realpath(f"{host.sys}/block/{name}")
        for one in [folder, *(f"{folder}/{part}" for part in _partitions(folder))]:
            if _wwid(one) == wwid:
                found.append((not os.path.isdir(folder + "/dm"), os.path.basename(one), one))
    if not found or (wwid.startswith("serial:") and len(found) > 1):
        return None
    _paths, kernel, folder = min(found)
    return _lasting(kernel, _read(folder + "/dm/name"), host)


def _lasting(kernel: str, mapped: str, host: Host) -> str:
    node = f"{host.dev}/{kernel.replace('!', '/')}"
    links = [f"{host.dev}/disk/by-id/{one}" for one in _list(f"{host.dev}/disk/by-id")]
    same = [one for one in links if os.path.realpath(one) == node]
    for prefix in ("wwn-", "nvme-eui.", "nvme-uuid.", "dm-uuid-", ""):
        for one in same:
            if os.path.basename(one).startswith(prefix):
                return one
    return f"{host.dev}/mapper/{mapped}" if mapped else node

"""Whether storage may be used on this host: is it allowed, there, free, and the source's.

Nothing here opens for writing, creates a file, or waits for one (block_devices.look).  The kernel's
fileio creates a missing file and takes no claim on a file in use, so only these checks stand
between a wrong path and other data.
"""
from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from functools import cached_property
from typing import Dict, Iterator, List, Mapping, Optional, Set, Tuple, Union

from ..errors import (Finding, HandoverError, StorageDiffers, StorageInUse, StorageMissing,
                      StorageNotAllowed)
from ..model import plugins
from ..model.keys import display
from ..model.objects import Backstore, Key, State
from ..model.plugins import Data, Opens
from ..settings import Settings
from . import block_devices, protection, trusted
from .block_devices import (HERE, Host, PathStat, backing_devices, block_facts, file_system,
                            folder_of, holders_of, is_below, names_in, one_line_of, reopen, show,
                            usage_of)
from .evidence import OpenFiles, evidence_of
from .trusted import not_allowed, words_of

#: File systems that keep nothing, or whose files do things when they are read.
_NOT_STORAGE = frozenset("""autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs
    efivarfs fusectl hugetlbfs mqueue nsfs proc pstore rpc_pipefs securityfs selinuxfs sysfs
    tracefs""".split())
#: File systems which give one file the same inode number on every host.
_SHARED = frozenset("nfs nfs4 ocfs2 gfs2 ceph lustre fuse.glusterfs".split())


def matches(path: str, pattern: str) -> bool:
    """A glob in which ``*`` stops at ``/``."""
    from fnmatch import fnmatchcase
    words, wanted = path.split("/"), pattern.split("/")
    return len(words) == len(wanted) and all(map(fnmatchcase, words, wanted))


def escapes_root(path: str, root: str) -> bool:
    """Whether a symbolic link on the way from ``root`` to ``path`` leads out of it, even if a
    later one leads back.  The root itself may be reached through links."""
    real = os.path.realpath(root)
    here, pending = real, words_of(path[len(root):])
    for _ in range(400):
        if not pending:
            return False
        word = pending.pop()
        if word == "..":
            here = os.path.dirname(here)
            if not is_below(here, real):
                return True
            continue
        try:
            target = os.readlink(f"{here.rstrip('/')}/{word}")
        except OSError:
            here = f"{here.rstrip('/')}/{word}"
            continue
        if target.startswith("/"):
            inside = next((top for top in (real, root) if is_below(target, top)), None)
            if inside is None:
                return True
            here, target = real, target[len(inside):]
        pending += words_of(target)
    return True  # a loop


def findings(wanted: Backstore, proof: Mapping[str, Union[str, int, bool]], settings: Settings,
             here: "Union[State, Served]" = State(), host: Host = HERE,
             files: Optional[OpenFiles] = None) -> List[Finding]:
    """Why this host can't serve ``wanted``, whose evidence on the source was ``proof``.

    ``here`` is what this host serves already; ``files`` gets what is opened.  Changes nothing;
    never opens for writing.
    """
    problems = list(_by_plugin(wanted, settings))
    if problems or plugins.opened_by(wanted.plugin) is None:
        return problems
    served = here if isinstance(here, Served) else Served(here, host)
    beside = protection.companion(wanted)
    return [*_findings(wanted, proof, settings, served, host, files),
            *(_findings(beside, protection.part_of(proof), settings, served, host, files)
              if beside else ())]


def findings_of_new_file(wanted: Backstore, settings: Settings, host: Host = HERE) \
        -> List[Finding]:
    """Why this host may make no file for ``wanted`` where its path says.  Makes none."""
    problems = list(_by_plugin(wanted, settings))
    folder, roots = os.path.dirname(wanted.path), _roots(wanted, settings)
    if problems or not roots:
        return problems or [_finding(StorageNotAllowed, wanted, "lies under no configured root", "",
                                     "allow it in the configuration file, or make it elsewhere")]
    try:
        way = trusted.walk(folder, settings.fuse, host)
        if not way.why and not stat.S_ISDIR(os.lstat(way.real).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        return [_finding(StorageMissing, wanted, f"can't be made: its folder: {error.strerror}",
                         do="make the folder, of root's alone")]
    if way.why:
        return [not_allowed(wanted, way.why)]
    if way.real != folder and all(escapes_root(folder, root) for root in roots):
        return [_finding(StorageNotAllowed, wanted, "is reached through a symbolic link that "
                         f"leaves {' and '.join(roots)}", do="name the file where it really is")]
    kind = file_system(way.real, host)
    return [_finding(StorageNotAllowed, wanted, f"lies in a file system of type {kind}, which "
                     "keeps nothing")] if kind in _NOT_STORAGE else []


def absent(wanted: Backstore, host: Host = HERE) -> List[Finding]:
    """The finding that a backstore's storage does not exist yet: no file, or a device without a
    medium, such as a loop device that is not set up; [] where it exists."""
    if plugins.opened_by(wanted.plugin) is None or not wanted.path:
        return []
    try:
        status = os.stat(wanted.path)
        if stat.S_ISBLK(status.st_mode) and not block_facts(
                f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}", host)["size"]:
            return [_finding(StorageMissing, wanted, "is there, and has no medium yet")]
    except OSError as error:
        return [_finding(StorageMissing, wanted, "does not exist on this host" if error.errno in (
            errno.ENOENT, errno.ENOTDIR) else f"can't be looked at: {error.strerror}",
            do="make it reachable here")]
    return []


def findings_by_name(wanted: Backstore, proof: Mapping[str, Union[str, int, bool]],
                     settings: Settings,
                     here: "Union[State, Served]" = State(), host: Host = HERE) -> List[Finding]:
    """Why this host cannot serve ``wanted``, judged by its name alone: for storage that must not be
    looked at yet, because another host has it open."""
    problems = list(_by_plugin(wanted, settings))
    allowed = _roots(wanted, settings) or _is_named(wanted, settings) \
        or is_below(wanted.path, host.dev)  # which may be the device mapper's other name of it
    problems += [] if allowed else [_finding(StorageNotAllowed, wanted, *_NOWHERE)]
    with suppress(OSError):
        why = trusted.walk(wanted.path, settings.fuse, host).why if allowed else ""
        problems += [not_allowed(wanted, why)] if why else []
    if not proof:
        problems.append(_finding(StorageDiffers, wanted, *_UNPROVEN))
    real = os.path.realpath(wanted.path)
    stores = (here.state if isinstance(here, Served) else here).backstores
    problems += [_finding(StorageInUse, wanted,
                          f"is served by {display(other.key)} of this host already")
                 for other in stores if other.key != wanted.key and other.path
                 and os.path.realpath(other.path) == real]
    return problems


def _by_plugin(wanted: Backstore, settings: Settings) -> Iterator[Finding]:
    """Why this host does not serve such a backstore, whatever its storage is."""
    plugin = plugins.of(wanted.plugin)
    if settings.limited and plugin.opens not in (Opens.FILE, Opens.BLOCK):
        yield Finding(StorageNotAllowed, display(wanted.key), "is no fileio or iblock backstore, "
                      "and the members of [service] group may have those alone",
                      do="have root do it")
    elif plugin.data is Data.HANDLER:
        config = wanted.parameters.get("dev_config", "")
        if not any(matches_config(config, pattern) for pattern in settings.user_configs):
            yield Finding(StorageNotAllowed, display(wanted.key), f"its dev_config {show(config)} "
                          "matches no pattern of user_configs, so its program may open anything",
                          do="allow it in the configuration file, if it is meant to be served")
    said = wanted.attributes.get("udev_path", "")
    if plugin.path_in[0] == "parameters" and said not in ("", wanted.path):
        yield Finding(StorageNotAllowed, display(wanted.key), f"its udev_path says {show(said)}, "
                      f"which targetcli would restore, and it is on {show(wanted.path)}",
                      do="write the path that it has open to its udev_path on the source")


def matches_config(config: str, pattern: str) -> bool:
    """Whether a tcmu dev_config matches a pattern: ``*`` stops at ``/`` and at ``;``, behind which
    handlers have options, and no part of it leads to the folder above."""
    from fnmatch import fnmatchcase
    parts, wanted = re.split("([/;])", config), re.split("([/;])", pattern)
    return len(parts) == len(wanted) and not {".", ".."} & {*parts} \
        and all(map(fnmatchcase, parts, wanted))


_NOWHERE = ("lies under no configured root", "",
            "allow it in the configuration file, or use --map root:OLD=NEW")
_UNPROVEN = ("can't be compared: the document does not say what the source served",
             "unproven-storage", "export the document again")


def _roots(wanted: Backstore, settings: Settings) -> List[str]:
    path = wanted.path
    return [root for root in settings.roots if is_below(path, root) and path != root]


def _is_named(wanted: Backstore, settings: Settings) -> bool:
    return any(matches(wanted.path, device) for device in settings.devices)


def _finding(error: type[HandoverError], wanted: Backstore, sentence: str, override: str = "",
             do: str = "") -> Finding:
    return Finding(error, display(wanted.key), f"{show(wanted.path)} {sentence}", override, do)


def _findings(wanted: Backstore, proof: Mapping[str, Union[str, int, bool]], settings: Settings,
              here: "Served", host: Host, files: Optional[OpenFiles]) -> Iterator[Finding]:
    path = wanted.path
    roots, is_named = _roots(wanted, settings), _is_named(wanted, settings)
    if not roots and not is_named and not is_below(path, host.dev):
        yield _finding(StorageNotAllowed, wanted, *_NOWHERE)
        return
    try:
        real = ""
        with suppress(FileNotFoundError, NotADirectoryError):  # which is told after the roots
            way = trusted.walk(path, settings.fuse, host)
            if way.why:
                yield not_allowed(wanted, way.why)
                return
            real = way.real
        # Where there is no symbolic link on the way, none leads out.
        if roots and real != path and all(escapes_root(path, root) for root in roots):
            yield _finding(StorageNotAllowed, wanted, "is reached through a symbolic link that "
                           f"leaves {' and '.join(roots)}", do="name the file where it really is")
            return
        backing = block_devices.look(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and (roots or is_named):
            yield _finding(StorageMissing, wanted, "does not exist on this host",
                           do="make it reachable here, or name it with --map")
        else:
            yield _finding(StorageNotAllowed, wanted, f"can't be looked at: {error.strerror}")
        return
    try:
        host.looked[path] = backing.leads_to
        why = _not_allowed(wanted, backing, settings, bool(roots), host)
        if why:
            yield _finding(StorageNotAllowed, wanted, why,
                           do="allow it in the configuration file, if it is meant to be served")
            return
        problem = trusted.judge(wanted, backing, host)
        if problem:
            yield problem
            return
        for use in _uses(wanted, backing, here, host):
            yield _finding(StorageInUse, wanted, use, do="free it first, or use --map")
        is_open = files.opened(path, backing) if files is not None else None
        yield from _differences(wanted, is_open or backing, proof, host, is_open is not None)
    except OSError as error:
        yield _finding(StorageMissing, wanted, f"can't be read: {error.strerror}")
    finally:
        os.close(backing.fd)


def _not_allowed(wanted: Backstore, backing: PathStat, settings: Settings, in_roots: bool,
                 host: Host) -> str:
    if backing.regular:
        if plugins.opened_by(wanted.plugin) is not Opens.FILE:
            return f"is a file, and {wanted.plugin} needs a block device"
        if not in_roots or not any(is_below(backing.real, _real_folder(root, host))
                                   for root in settings.roots):
            return "lies under no configured root"
        kind = file_system(backing.real, host)
        return f"lies in a file system of type {kind}, which keeps nothing" \
            if kind in _NOT_STORAGE else ""
    if not backing.block:
        return "is neither a file nor a block device"
    if os.fstatvfs(backing.fd).f_flag & os.ST_NODEV:
        return "lies in a file system that is mounted nodev, in which the kernel opens no device"
    names = [wanted.path]
    if is_below(wanted.path, host.dev) and is_below(backing.real, host.dev):
        names.append(backing.real)
        mapped = one_line_of(folder_of(backing.device, host) + "/dm/name")
        if mapped:
            names.append(f"{host.dev}/mapper/{mapped}")
    elif wanted.path != backing.real:
        return "is a symbolic link to a device elsewhere"
    if not any(matches(name, device) for name in names for device in settings.devices):
        return "matches no configured device pattern"
    return ""


def _differences(wanted: Backstore, backing: PathStat, proof: Mapping[str, Union[str, int, bool]],
                 host: Host, readable: bool) -> Iterator[Finding]:
    facts = evidence_of(backing, "sample" in proof, host, readable)
    size = int(facts["size"])
    asked = int(wanted.parameters.get("fd_dev_size", "0"))
    if backing.regular and asked > size:
        yield _finding(StorageDiffers, wanted,
                       f"has {size} bytes, and {asked} are to be served of it")
    if not proof:
        yield _finding(StorageDiffers, wanted, *_UNPROVEN)
        return
    if plugins.opened_by(wanted.plugin) is Opens.SCSI and not proof.get("wwid"):
        yield _finding(StorageDiffers, wanted, "has no WWID by which it would be known to be the "
                       "same on both hosts", "unproven-storage")
    for name, what in (("kind", "is a {} on this host, on the source it was a {}"),
                       ("size", "has {} bytes, on the source it had {}"),
                       ("logical_block_size", "has blocks of {} bytes, on the source of {}"),
                       ("wwid", "is {}, on the source it was {}")):
        if name in proof and facts.get(name) != proof[name]:
            yield _finding(StorageDiffers, wanted, what.format(
                show(str(facts.get(name, "without a name"))), show(str(proof[name]))),
                do="attach the same storage, or name it with --map")
            if name == "kind":
                return
    if "sample" in proof and facts["size"] == proof.get("size") \
            and facts["sample"] != proof["sample"]:
        yield _finding(StorageDiffers, wanted, "holds other data than on the frozen source"
                       + (": zeroes" if facts["sample_zero"] else ""),
                       do="attach the same storage, or finish copying it")
    if {facts.get("filesystem"), proof.get("filesystem")} <= _SHARED \
            and facts["inode"] != proof.get("inode"):
        yield _finding(StorageDiffers, wanted, "is another file of a shared file system "
                       f"(inode {facts['inode']}, on the source {proof.get('inode')})",
                       "other-file", "name the file with --map")


def _uses(wanted: Backstore, backing: PathStat, here: "Served", host: Host) -> Iterator[str]:
    if backing.block:
        uses = usage_of(backing.device, host)
        yield from uses
        if not uses and here.state.backstore(wanted.key) is None and _claimed(backing):
            yield "is claimed by something of this host (mounted elsewhere, or another target)"
    else:
        if backing.identity in map(_identity, host.swaps):
            yield "is swap space"
        for name in here.loops(backing):
            yield f"is the file of {name}"
    for key in here.sharers(wanted, backing):
        yield f"is served by {display(key)} of this host already"


class Served:
    """The open storage of a host's backstores, looked at once: which backstores share storage."""

    def __init__(self, here: State, host: Host = HERE) -> None:
        self.state, self.host = here, host
        self._seen: Dict[str, Optional[PathStat]] = {}

    def _look(self, path: str) -> Optional[PathStat]:
        """The file or device at a path, whose descriptor is closed; None for none."""
        if path not in self._seen:
            try:
                backing = block_devices.look(path)
            except OSError:
                self._seen[path] = None
            else:
                os.close(backing.fd)
                self._seen[path] = backing._replace(fd=-1)
        return self._seen[path]

    @cached_property
    def _index(self) -> Dict[Union[str, Tuple[int, int]], List[Key]]:
        """major:minor of a block device, or device and inode of a file → backstores."""
        by_identity: Dict[Union[str, Tuple[int, int]], List[Key]] = {}
        for store in self.state.backstores:
            backing = self._look(store.path) if store.path else None
            if backing is not None and (backing.block or backing.regular):
                by_identity.setdefault(backing.leads_to, []).append(store.key)
        return by_identity

    @cached_property
    def _loops(self) -> Dict[Tuple[int, int], List[str]]:
        """A file → the names of the loop devices on it."""
        by_file: Dict[Tuple[int, int], List[str]] = {}
        for name in names_in(f"{self.host.sys}/block"):
            backing = one_line_of(f"{self.host.sys}/block/{name}/loop/backing_file")
            identity = _identity(backing) if backing else None
            if isinstance(identity, tuple):
                by_file.setdefault(identity, []).append(name)
        return by_file

    def loops(self, backing: PathStat) -> List[str]:
        """The loop devices on a file."""
        return self._loops.get(backing.identity, [])

    def sharers(self, wanted: Backstore, backing: PathStat) -> List[Key]:
        """The backstores that share storage with ``wanted``: by another name, a partition, the disk
        of a partition, a mapped device above or below, a loop device."""
        same: Set[Union[str, Tuple[int, int]]] = set()
        if backing.block:
            own, holders = holders_of(backing.device, self.host)
            lower, files = backing_devices(backing.device, self.host)
            same.update(own, holders, lower)
            same.update(identity for identity in map(_identity, files) if identity is not None)
        else:
            same.add(backing.identity)
            for name in self.loops(backing):
                own, holders = holders_of(one_line_of(f"{self.host.sys}/block/{name}/dev"),
                                          self.host)
                same.update(own, holders)
        return sorted({key for identity in same for key in self._index.get(identity, ())}
                      - {wanted.key})

    def sharers_of(self, store: Backstore) -> List[Key]:
        """The sharers of a backstore that this host serves; [] where its storage cannot be found,
        which ``evidence`` reports."""
        if plugins.opened_by(store.plugin) is None or not store.path:
            return []
        backing = self._look(store.path)
        return [] if backing is None else self.sharers(store, backing)


def _real_folder(path: str, host: Host) -> str:
    """Where a folder's path leads, which is looked at once for one snapshot of the host."""
    known = host.real
    if path not in known:
        known[path] = os.path.realpath(path)
    return known[path]


def _identity(path: str) -> Union[str, Tuple[int, int], None]:
    """A block device's major:minor, a file's device and inode, None for neither."""
    try:
        backing = block_devices.look(path)
    except OSError:
        return None
    os.close(backing.fd)
    return backing.device if backing.block else backing.identity if backing.regular else None


def _claimed(backing: PathStat) -> bool:
    """Whether a device is claimed (O_EXCL): this also sees mounts of other mount namespaces."""
    try:
        os.close(reopen(backing, os.O_EXCL))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False

"""The only code that touches the kernel's target tree, /sys/kernel/config/target.

Reading is free; every change goes through one guard, so that the writes which panic a kernel
or destroy data can't be made, whatever asked for them.  Paths are relative to the tree.
"""
from __future__ import annotations

import os
import re
from typing import Callable, Dict, List, Optional, Set, Tuple

from . import directories, errors
from .attributes import HOST, TABLE
from .parameters import parse
from .protection import SUFFIX

ROOT = "/sys/kernel/config/target"

#: One write(2) is one store(), and a store takes no more (fs/configfs/file.c:fill_write_buffer).
MAX_WRITE = 4095
#: One read(2) is one show(), and a show gives no more (fs/configfs/file.c:fill_read_buffer).
PAGE = os.sysconf("SC_PAGESIZE")

#: The one form of a registration that every kernel reads right (target_core_configfs.c:
#: target_pr_res_aptpl_metadata_store): 12 hex digits of ISID, types as decimals without a zero.
_PR_LINE = re.compile(
    rb"initiator_fabric=\w+,initiator_node=[^,\n]+,(?:initiator_sid=[0-9a-f]{12},)?"
    rb"sa_res_key=0x[0-9a-f]{1,16},res_holder=[01],res_type=[0135678],res_scope=0,"
    rb"res_all_tg_pt=[01],mapped_lun=\d+,target_fabric=\w+,target_node=[^,\n]+,"
    rb"tpgt=\d+,port_rtpi=\d+,target_lun=\d+\n")

Guard = Callable[["Configfs", str, bytes], Optional[str]]


def _as_read(data: bytes) -> str:
    """A word as the kernel reads it: up to a NUL, and 0xe, 016 or +14 for 14 (kstrtoul)."""
    word = data.partition(b"\0")[0].decode(errors="replace").strip()
    digits = word.lstrip("+")
    try:
        return str(int(digits, 8 if re.fullmatch("0[0-7]+", digits) else 0))
    except ValueError:
        return word


def _never(values: Dict[str, str]) -> Guard:
    def guard(_: "Configfs", path: str, data: bytes) -> Optional[str]:
        return values.get(_as_read(data))
    return guard


def _only_enabled(fs: "Configfs", path: str, data: bytes) -> Optional[str]:
    if path.rsplit("/", 2)[0] in fs.enabled:
        return None
    if fs.read(path.rsplit("/", 2)[0] + "/enable").strip() == "1":
        return None
    return "before the backstore is enabled it panics a 6.1 kernel (fd_configure_unmap)"


def _control(_: "Configfs", path: str, data: bytes) -> Optional[str]:
    for word in re.split(rb"[,\n]", data):
        name, _equals, value = word.partition(b"=")
        if name in (b"fd_buffered_io", b"fd_async_io") and value != b"1":
            return "the kernel takes no value but 1"
    return None


def _file_is_there(fs: "Configfs", path: str, data: bytes) -> Optional[str]:
    """fileio opens with O_CREAT (target_core_file.c:fd_configure_device, fd_init_prot)."""
    if not path.startswith("core/fileio_") or _as_read(data) == "0":
        return None
    store, file = "/".join(path.split("/")[:3]), path.rpartition("/")[2]
    name = parse("fileio", fs.read(f"{store}/info")).get("fd_dev_name", "")
    if name and file == "pi_prot_type":
        name += SUFFIX
    if name and not os.path.exists(name):
        raise errors.StorageMissing(f"{errors.one_line(name)} is not there any more, and the "
                                    "kernel would make an empty file of that name")
    return None


def _pr_line(_: "Configfs", path: str, data: bytes) -> Optional[str]:
    return None if _PR_LINE.fullmatch(data) else "not a registration which every kernel reads right"


#: The last word of a path → what must not be written there (kernel hazards, all in one place).
_GUARDS: Dict[str, Guard] = {
    "emulate_tpu": _only_enabled,
    "emulate_tpws": _only_enabled,
    "unmap_zeroes_data": _only_enabled,
    "control": _control,
    "enable": _file_is_there,
    "pi_prot_type": _file_is_there,
    "res_aptpl_metadata": _pr_line,
    **{row.path.rsplit("/", 1)[-1]: _never(dict(row.forbidden)) for row in TABLE if row.forbidden},
}

#: Files which may be written although the table has no row that is carried for them.
_ALSO_WRITTEN = {"control", "enable", "res_aptpl_metadata", "transport_status", "nexus"}
_WRITTEN = _ALSO_WRITTEN | {row.path.rsplit("/", 1)[-1] for row in TABLE if row.kind != HOST}


class Configfs:
    """The target tree.  ``changes`` counts the changes asked of the kernel.

    Reading raises OSError; a change raises OSError as the kernel gave it, or HazardRefused
    before the kernel is asked.
    """

    def __init__(self, root: str = ROOT) -> None:
        self.root = root
        self.changes = 0
        #: backstores that were enabled through this object
        self.enabled: Set[str] = set()

    # ---- reading --------------------------------------------------------------------------
    def path(self, path: str) -> str:
        return f"{self.root}/{path}"

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    def read(self, path: str) -> str:
        """The whole text of a file: a show() gives at most one page."""
        fd = os.open(f"{self.root}/{path}", os.O_RDONLY)
        try:
            data = os.read(fd, PAGE)
        finally:
            os.close(fd)
        return data.decode(errors="surrogateescape")

    def names(self, path: str = "") -> List[str]:
        """What stands in a directory, in an order that does not depend on the kernel's."""
        return sorted(os.listdir(self.path(path)))

    def entries(self, path: str) -> Tuple[List[str], List[str], List[Tuple[str, str]]]:
        """(files, directories, [(link's name, path in the tree where it leads)])."""
        files: List[str] = []
        folders: List[str] = []
        links: List[Tuple[str, str]] = []
        with os.scandir(self.path(path)) as found:
            for one in found:
                if one.is_symlink():
                    links.append((one.name, self._target(one.path)))
                elif one.is_dir(follow_symlinks=False):
                    folders.append(one.name)
                else:
                    files.append(one.name)
        return files, folders, links

    def link_in(self, path: str) -> Optional[Tuple[str, str]]:
        """(name, path in the tree where it leads) of the one link in a directory, or None."""
        with os.scandir(self.path(path)) as found:
            for one in found:
                if one.is_symlink():
                    return one.name, self._target(one.path)
        return None

    @staticmethod
    def _target(path: str) -> str:
        return os.readlink(path).rpartition("../target/")[2]

    def writable(self, path: str) -> bool:
        return bool(os.stat(self.path(path)).st_mode & 0o200)

    # ---- changing -------------------------------------------------------------------------
    def _guard(self, op: str, path: str, makes: bool = False) -> None:
        """Names are few; what is there already may have any that the kernel took."""
        words = path.split("/")
        if not {"", ".", ".."}.isdisjoint(words) or "\0" in path or makes and "\n" in words[-1]:
            raise errors.HazardRefused(f"{op} {path!r}: not a name in the target tree")
        for place, numbered, usual in directories.in_path(path):
            if not numbered or not usual and (makes and place == len(words) - 1
                                              or not self.exists("/".join(words[:place + 1]))):
                raise errors.HazardRefused(
                    f"{op} {errors.one_line(path)}: {errors.one_line(words[place])} would be a "
                    "second name of a number already taken")

    def mkdir(self, path: str) -> None:
        self._guard("mkdir", path, True)
        self.changes += 1
        os.mkdir(self.path(path))

    def rmdir(self, path: str) -> None:
        self._guard("rmdir", path)
        self.changes += 1
        self.enabled.discard(path)
        os.rmdir(self.path(path))

    def try_rmdir(self, path: str) -> int:
        """The errno of an rmdir that can't succeed, because there are LUNs below."""
        self._guard("rmdir", path)
        if not any(map(directories.is_lun, os.listdir(self.path(path) + "/lun"))):
            raise errors.HazardRefused(f"rmdir {path}: it could succeed")
        try:
            os.rmdir(self.path(path))
        except OSError as error:
            return error.errno or 0
        return 0

    def link(self, path: str, target: str) -> None:
        self._guard("link", path)
        self.changes += 1
        os.symlink(self.path(target), self.path(path))

    def unlink(self, path: str) -> None:
        self._guard("unlink", path)
        self.changes += 1
        os.unlink(self.path(path))

    def write(self, path: str, data: bytes) -> None:
        """One store(): all of ``data`` or an error."""
        self._guard("write", path)
        name = path.rsplit("/", 1)[-1]
        reason: Optional[str] = None
        if name not in _WRITTEN:
            reason = "not an attribute that is known to be safe to write"
        elif not data or len(data) > MAX_WRITE:
            reason = f"{len(data)} bytes: a write takes 1 to {MAX_WRITE}"
        elif name in _GUARDS:
            reason = _GUARDS[name](self, path, data)
        if reason:
            raise errors.HazardRefused(f"write {errors.one_line(path)}: {reason}")
        self.changes += 1
        fd = os.open(f"{self.root}/{path}", os.O_WRONLY)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written != len(data):
            raise OSError(5, f"the kernel took {written} of {len(data)} bytes")
        if name == "enable" and path.startswith("core/"):
            self.enabled.add(path[:-len("/enable")])

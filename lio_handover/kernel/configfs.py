"""The only code that touches the kernel's target tree, /sys/kernel/config/target.

Every change goes through one guard, which allows what is known to be good and refuses all else,
whoever asked for it; reading is not guarded.  Paths are relative to the tree.
"""
from __future__ import annotations

import os
import re
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Protocol, Set, Tuple

from .. import errors
from ..model import directories, plugins
from ..model.attributes import (BLANKS, COMPANY, COMPANY_ID, DECIMAL, ENABLED_ONLY, FILE_THERE,
                                HOST, LU_GROUP, MAX_WRITE, NONE, TABLE)
from ..model.objects import Backstore
from ..model.pr_texts import METADATA_LINE
from ..storage.protection import SUFFIX

ROOT = "/sys/kernel/config/target"

#: One read(2) is one show(), and a show gives no more (fs/configfs/file.c:fill_read_buffer).
PAGE = os.sysconf("SC_PAGESIZE")

#: Words of a path which name nothing in the directory before them.
_NO_NAMES = frozenset(("", ".", ".."))

Guard = Callable[["Configfs", str, bytes], Optional[str]]


def _word(data: bytes) -> str:
    """The written text, without the newline that may end it."""
    return data.removesuffix(b"\n").decode(errors="surrogateescape")


def _spelled(pattern: "re.Pattern[str]", what: str) -> Guard:
    def guard(_: "Configfs", path: str, data: bytes) -> Optional[str]:
        return None if pattern.fullmatch(_word(data)) else f"only {what} is written there"
    return guard


def _one_of(values: Iterable[str]) -> Guard:
    allowed = tuple(values)

    def guard(_: "Configfs", path: str, data: bytes) -> Optional[str]:
        return None if _word(data) in allowed else f"only {', '.join(allowed)} is written there"
    return guard


def _text(_: "Configfs", path: str, data: bytes) -> Optional[str]:
    return "only text without a NUL is written there" if b"\0" in data else None


def _lu_group(fs: "Configfs", path: str, data: bytes) -> Optional[str]:
    """The default group can't be named (core_alua_set_lu_gp_id)."""
    name, bare = _word(data), data.removesuffix(b"\n")
    if bare == bare.strip(BLANKS) and "/" not in name \
            and name not in ("", ".", "..", NONE, "default_lu_gp") \
            and fs.exists(f"core/alua/lu_gps/{name}"):
        return None
    return "only the name of an LU group that is there is written there"


def _only_enabled(fs: "Configfs", path: str, data: bytes) -> Optional[str]:
    store = path.rsplit("/", 2)[0]
    if store in fs.enabled or fs.read(f"{store}/enable").strip() == "1":
        return None
    return "it is written on an enabled backstore only"


def _plugin(path: str) -> plugins.Plugin:
    """The plugin of the backstore that has a path; a row without a name for other paths."""
    return plugins.of(path.split("/")[1].rpartition("_")[0] if path.startswith("core/") else "")


def _control(_: "Configfs", path: str, data: bytes) -> Optional[str]:
    """name=value, separated by commas, of the backstore's plugin."""
    plugin = _plugin(path)
    for word in _word(data).split(","):
        name, _equals, value = word.partition("=")
        row = plugin.parameters.get(name)
        if row is None or "\n" in value or "\0" in value:
            return f"only the parameters of {plugin.name or 'a backstore'} are written there"
        if row.choices and value not in row.choices:
            return f"only {' or '.join(row.choices)} is written as {name}"
        if row.most is not None and not (DECIMAL.fullmatch(value) and 0 <= int(value) <= row.most):
            return f"only a plain decimal number is written as {name}"
    return None


def _file_is_there(fs: "Configfs", path: str, data: bytes) -> Optional[str]:
    """fileio opens with O_CREAT (target_core_file.c:fd_configure_device, fd_init_prot)."""
    plugin = _plugin(path)
    if plugin.opens is not plugins.Opens.FILE or _word(data) == "0":
        return None
    store, file = "/".join(path.split("/")[:3]), path.rpartition("/")[2]
    name = fs.told.get(store) or plugins.parse(
        plugin.name, fs.read(f"{store}/info")).get(plugin.path_in[1], "")
    if name and file == "pi_prot_type":
        name += SUFFIX
    if name and not os.path.exists(name):
        raise errors.StorageMissing(f"{errors.shown(name)} is not there any more, and the "
                                    "kernel would make an empty file of that name")
    return None


def _pr_line(_: "Configfs", path: str, data: bytes) -> Optional[str]:
    return None if METADATA_LINE.fullmatch(data) else \
        "not a registration which every kernel reads right"


#: Guard of a row of the attribute table → the function that checks it.
_LOOKS: Dict[str, Guard] = {ENABLED_ONLY: _only_enabled, FILE_THERE: _file_is_there}


def _guards() -> Dict[str, List[Guard]]:
    guards: Dict[str, List[Guard]] = {}
    for row in TABLE:
        name = row.path.rsplit("/", 1)[-1]
        if row.kind != HOST and name not in guards:  # rows of one name have one guard
            guards[name] = [
                _one_of(row.allowed) if row.allowed
                else _spelled(DECIMAL, "a plain decimal number") if row.numeric
                else _spelled(COMPANY_ID, "0x and six hex digits") if row.format is COMPANY
                else _lu_group if row.format is LU_GROUP else _text,
                *(_LOOKS[guard] for guard in row.guards)]
    # Actions; enable is also that of a TPG.
    guards["control"] = [_control]
    guards["enable"] = [_one_of("01"), _file_is_there]
    guards["res_aptpl_metadata"] = [_pr_line]
    return guards


#: The last word of a path that may be written → the guards of its values: the one allow-list.
_GUARDS = _guards()


class KnownBackstores(Protocol):
    """Somebody who hears which backstores come and go, and of writes to them."""

    def listed(self) -> Mapping[str, List[str]]:
        """HBA → the names of its backstores, now.  Raises OSError."""

    def outlines(self) -> Dict[str, Backstore]:
        """HBA/NAME → its outline, where one was put there that is true still."""


class Configfs:
    """The target tree.  ``changes`` counts the changes asked of the kernel, ``moves`` those of them
    that make or remove an HBA or a backstore, ``gates`` those that open or shut a TPG.

    Reading raises OSError; a change raises OSError as the kernel gave it, or HazardRefused
    before the kernel is asked.
    """

    def __init__(self, root: str = ROOT) -> None:
        self.root = root
        self.changes = self.moves = self.gates = 0
        #: (whether it came, its path) → how often: the folders and links that were made and removed
        #: through this object, where somebody wants to know
        self.entries_changed: Optional[Dict[Tuple[bool, str], int]] = None
        #: backstores that were enabled through this object, and those that were told through it
        #: which file to open
        self.enabled: Set[str] = set()
        self.told: Dict[str, str] = {}
        #: see placement.once: whether readings are remembered, or that of the HBAs alone; what →
        #: (changes when read, it)
        self.remembers = self.remembers_hbas = False
        self.remembered: Dict[str, Tuple[int, object]] = {}
        #: who knows the backstores without reading them, in a process that stays
        self.known_backstores: Optional[KnownBackstores] = None
        #: directory → the name that the one link in it had last
        self._links: Dict[str, str] = {}

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
        """The names in a directory, sorted: the kernel's own order is arbitrary."""
        return sorted(os.listdir(self.path(path)))

    def entries(self, path: str) -> Tuple[List[str], List[str], List[Tuple[str, str]]]:
        """(files, directories, [(link's name, path in the tree where it leads)])."""
        files: List[str] = []
        folders: List[str] = []
        links: List[Tuple[str, str]] = []
        with os.scandir(self.path(path)) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links.append((entry.name, self._target(entry.path)))
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                else:
                    files.append(entry.name)
        return files, folders, links

    def link_in(self, path: str) -> Optional[Tuple[str, str]]:
        """(name, path in the tree where it leads) of the one link in a directory, or None.  It is
        looked for by the name that it had last, before the directory is listed."""
        name = self._links.get(path)
        if name is not None:
            try:
                return name, self._target(f"{self.path(path)}/{name}")
            except OSError:
                del self._links[path]
        with os.scandir(self.path(path)) as entries:
            for entry in entries:
                if entry.is_symlink():
                    self._links[path] = entry.name
                    return entry.name, self._target(entry.path)
        return None

    def leads(self, path: str) -> str:
        """The path in the tree to which a link leads."""
        return self._target(self.path(path))

    @staticmethod
    def _target(path: str) -> str:
        return os.readlink(path).rpartition("../target/")[2]

    def writable(self, path: str) -> bool:
        return bool(os.stat(self.path(path)).st_mode & 0o200)

    # ---- changing -------------------------------------------------------------------------
    def _guard(self, op: str, path: str, makes: bool = False) -> None:
        """Refuse a path that is no name in the tree, or a second spelling of a number in use; an
        existing directory may have any name.  Raises HazardRefused."""
        words = path.split("/")
        if not _NO_NAMES.isdisjoint(words) or "\0" in path or makes and "\n" in words[-1]:
            raise errors.HazardRefused(f"{op} {path!r}: not a name in the target tree")
        for place, numbered, usual in directories.in_path(words):
            if not numbered or not usual and (makes and place == len(words) - 1
                                              or not self.exists("/".join(words[:place + 1]))):
                raise errors.HazardRefused(
                    f"{op} {errors.shown(path)}: {errors.shown(words[place])} would be a "
                    "second name of a number already taken")

    @property
    def others(self) -> int:
        """The number of changes but for those of gates."""
        return self.changes - self.gates

    def _moved(self, path: str) -> None:
        self.changes += 1
        self.moves += path.startswith("core/") and path.count("/") < 3

    def _noted(self, path: str, came: bool) -> None:
        if self.entries_changed is not None:
            self.entries_changed[came, path] = self.entries_changed.get((came, path), 0) + 1

    def mkdir(self, path: str) -> None:
        self._guard("mkdir", path, True)
        self._moved(path)
        os.mkdir(self.path(path))
        self._noted(path, True)

    def rmdir(self, path: str) -> None:
        self._guard("rmdir", path)
        self._moved(path)
        self.enabled.discard(path)
        self.told.pop(path, None)
        os.rmdir(self.path(path))
        self._noted(path, False)

    def try_rmdir(self, path: str) -> int:
        """The errno of an rmdir that cannot succeed, because there are LUNs below.  Raises
        HazardRefused where it could succeed."""
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
        self._noted(path, True)
        folder, _slash, name = path.rpartition("/")
        self._links[folder] = name

    def unlink(self, path: str) -> None:
        self._guard("unlink", path)
        self.changes += 1
        os.unlink(self.path(path))
        self._noted(path, False)

    def refusal(self, path: str, data: bytes) -> Optional[str]:
        """Why a write would be refused, None where it may be made.  Writes nothing.

        Raises StorageMissing where the kernel would make the file that it is to open.
        """
        name = path.rsplit("/", 1)[-1]
        if name not in _GUARDS:
            return "not an attribute that is known to be safe to write"
        if not data or len(data) > MAX_WRITE:
            return f"{len(data)} bytes: a write takes 1 to {MAX_WRITE}"
        for guard in _GUARDS[name]:
            reason = guard(self, path, data)
            if reason:
                return reason
        return None

    def write(self, path: str, data: bytes) -> None:
        """One write(2), so one store() in the kernel: all of ``data`` or an error."""
        self._guard("write", path)
        name = path.rsplit("/", 1)[-1]
        reason = self.refusal(path, data)
        if reason:
            raise errors.HazardRefused(f"write {errors.shown(path)}: {reason}")
        self.changes += 1
        self.gates += name == "enable" and not path.startswith("core/")
        fd = os.open(f"{self.root}/{path}", os.O_WRONLY)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written != len(data):
            raise OSError(5, f"the kernel took {written} of {len(data)} bytes")
        store = path[:-len(name) - 1]
        if name == "enable" and path.startswith("core/"):
            self.enabled.add(store)
        elif name == "control":
            words = dict(word.partition("=")[::2] for word in _word(data).split(","))
            self.told[store] = words.get(_plugin(path).path_in[1], self.told.get(store, ""))

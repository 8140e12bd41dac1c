"""The configuration of a host: /etc/lio-handover/lio-handover.conf and its drop-ins.

INI, with lists of one entry a line.  Files of ``lio-handover.conf.d/`` are read after the main
one, in the order of their names; what a later file sets replaces what an earlier one set.
Everything has a default, and no file need exist.
"""
from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import Dict, List, NamedTuple, NoReturn, Optional, Tuple, Union

from .errors import BadSettings

PATH = "/etc/lio-handover/lio-handover.conf"

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True)
class Late:
    """Storage that one host alone may have open at a time, and how it is got and given up.

    name     of its section, ``[late NAME]``
    paths    patterns of the files or devices; ``*`` stops at ``/``
    acquire  a program's full path and its arguments; the path of the storage is added
    release  likewise
    timeout  seconds that either may take
    """

    name: str
    paths: Tuple[str, ...] = ()
    acquire: Tuple[str, ...] = ()
    release: Tuple[str, ...] = ()
    timeout: int = 30


@dataclass(frozen=True)
class Settings:
    """What a document may make of this host.

    roots            directories below which a file may be served
    devices          patterns of block devices which may be served; ``*`` stops at ``/``
    state_directory  the journal, owners and APTPL copies
    dbroot           the directory of the kernel's APTPL files, "" for what the kernel has
    document_bytes   the largest document that is read
    group            whose members the service obeys where there is no polkit, "" for nobody's
    late             storage that is opened only once the source has released it
    fence_program    what confirms that another host is off: a program and its first arguments
    fence_seconds    how long it may take
    savefiles        targetcli's save files beside those that are found
    """

    roots: Tuple[str, ...] = ("/srv", "/var/lib/lio-handover/images")
    devices: Tuple[str, ...] = (
        "/dev/disk/by-id/*", "/dev/disk/by-path/*", "/dev/mapper/*", "/dev/sd*", "/dev/nvme*n*",
        "/dev/vd*", "/dev/drbd*", "/dev/drbd/by-res/*/*", "/dev/rbd*", "/dev/rbd/*/*",
        "/dev/md*", "/dev/zvol/*/*")
    state_directory: str = "/var/lib/lio-handover"
    dbroot: str = ""
    document_bytes: int = 64 * 1024**2
    group: str = ""
    late: Tuple[Late, ...] = ()
    fence_program: Tuple[str, ...] = ()
    fence_seconds: int = 60
    savefiles: Tuple[str, ...] = ()


class _Entry(NamedTuple):
    """One assignment: its lines, and where it stands."""

    values: List[str]
    line: int


_Value = Union[str, int, Tuple[str, ...]]
#: section → key → (field of Settings, its kind)
_KEYS = {
    "storage": {"roots": ("roots", "paths"), "devices": ("devices", "patterns")},
    "host": {"state_directory": ("state_directory", "path"), "dbroot": ("dbroot", "path or none"),
             "savefiles": ("savefiles", "paths")},
    "limits": {"document": ("document_bytes", "bytes")},
    "service": {"group": ("group", "name or none")},
    "late": {"paths": ("paths", "patterns"), "acquire": ("acquire", "command"),
             "release": ("release", "command"), "timeout": ("timeout", "seconds")},
    "fence": {"program": ("fence_program", "command"), "timeout": ("fence_seconds", "seconds")},
}
#: The section that there may be many of, each with a name.
_NAMED = "late"


@dataclass
class _File:
    """One file, as it is read."""

    path: str
    section: str = ""
    found: Dict[Tuple[str, str], _Entry] = field(default_factory=dict)
    #: sections with a name → the line where each begins
    named: Dict[str, int] = field(default_factory=dict)

    def fail(self, line: int, what: str) -> NoReturn:
        raise BadSettings(f"{self.path}, line {line}: {what}", do=f"correct {self.path}")

    def read(self, text: str) -> None:
        values: Optional[List[str]] = None
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line[0] in "#;":
                continue
            if raw[0] in " \t":
                if values is None:
                    self.fail(number, "an indented line continues nothing")
                values.append(line)
            elif line.startswith("["):
                self._begin(number, line)
                values = None
            else:
                values = self._assign(number, line)

    def _begin(self, number: int, line: str) -> None:
        self.section = " ".join(line[1:-1].split())
        kind, _, name = self.section.partition(" ")
        if not line.endswith("]") or kind not in _KEYS or bool(name) != (kind == _NAMED):
            self.fail(number, f"no such section: {line!a} (there are " + ", ".join(
                f"[{one} NAME]" if one == _NAMED else f"[{one}]" for one in _KEYS) + ")")
        if kind == _NAMED:
            self.named.setdefault(self.section, number)

    def _assign(self, number: int, line: str) -> List[str]:
        key, equals, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not self.section:
            self.fail(number, f"{key!a} stands in no section")
        known = _KEYS[self.section.partition(" ")[0]]
        if key not in known:
            self.fail(number, f"[{self.section}] has no key {key!a} (it has {', '.join(known)})")
        if not equals:
            self.fail(number, f"{key} has no =")
        if (self.section, key) in self.found:
            self.fail(number, f"{key} was set before, in line "
                              f"{self.found[self.section, key].line}")
        values = [value] if value else []
        self.found[self.section, key] = _Entry(values, number)
        return values

    def apply(self, settings: Settings) -> Settings:
        made: Dict[str, Dict[str, _Value]] = {}
        for (section, key), entry in self.found.items():
            field_name, kind = _KEYS[section.partition(" ")[0]][key]
            name = section if section in self.named else ""
            made.setdefault(name, {})[field_name] = self._value(kind, key, entry)
        late = {one.name: one for one in settings.late}
        for section, line in self.named.items():
            name = section.partition(" ")[2]
            late[name] = replace(late.get(name, Late(name)),
                                 **made.get(section, {}))  # type: ignore[arg-type]
            for needed in ("paths", "acquire", "release"):
                if not getattr(late[name], needed):
                    self.fail(line, f"[{section}] has no {needed}")
        return replace(settings, late=tuple(late.values()),
                       **made.get("", {}))  # type: ignore[arg-type]

    def _value(self, kind: str, key: str, entry: _Entry) -> _Value:
        values, line = entry
        if kind == "command":
            return self._command(key, values, line)
        if kind in ("paths", "patterns"):
            return tuple(self._path(key, one, line) for one in values)
        if kind.endswith("or none") and not values:
            return ""
        if len(values) != 1:
            self.fail(line, f"{key} needs one value")
        if kind == "seconds":
            if not re.fullmatch("[1-9][0-9]{0,3}", values[0]):
                self.fail(line, f"{key}: {values[0]!a} is not a number of seconds, 1 to 9999")
            return int(values[0])
        if kind == "bytes":
            return self._bytes(key, values[0], line)
        if kind.startswith("name"):
            return self._name(key, values[0], line)
        return self._path(key, values[0], line)

    def _path(self, key: str, value: str, line: int) -> str:
        if not value.startswith("/") or {".", ".."} & set(value.split("/")) or "\0" in value:
            self.fail(line, f"{key}: {value!a} is not a full path")
        return value.rstrip("/") or "/"

    def _name(self, key: str, value: str, line: int) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", value):  # useradd(8)
            self.fail(line, f"{key}: {value!a} is no name of a group")
        return value

    def _command(self, key: str, values: List[str], line: int) -> Tuple[str, ...]:
        """A program and its arguments, one a line."""
        if values and not values[0].startswith("/"):
            self.fail(line, f"{key}: {values[0]!a} is not the full path of a program")
        if values and " " in values[0]:
            self.fail(line, f"{key}: {values[0]!a}: each argument has a line of its own")
        if any("\0" in one for one in values):
            self.fail(line, f"{key} has a NUL")
        return tuple(values)

    def _bytes(self, key: str, value: str, line: int) -> int:
        digits, unit = (value[:-1], value[-1].upper()) if value[-1].isalpha() else (value, "")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 12 or unit not in _UNITS:
            self.fail(line, f"{key}: {value!a} is not a number of bytes (K, M, G)")
        number = int(digits) * _UNITS[unit]
        if not number:
            self.fail(line, f"{key} can't be 0")
        return number


def parse(text: str, path: str, settings: Settings = Settings()) -> Settings:
    """``settings`` as changed by one file's text.  Raises BadSettings naming path and line."""
    file = _File(path)
    file.read(text)
    return file.apply(settings)


def load(path: str = PATH) -> Settings:
    """The host's settings: ``path``, then ``path.d/*.conf``.

    Raises BadSettings, also where a file is there and can't be read.
    """
    settings = Settings()
    folder = path + ".d"
    try:
        dropins = [f"{folder}/{name}" for name in sorted(os.listdir(folder))
                   if name.endswith(".conf") and not name.startswith(".")]
    except FileNotFoundError:
        dropins = []
    except OSError as error:
        raise BadSettings(f"{folder}: {error.strerror}", do=f"look at {folder}") from None
    for one in [path, *dropins]:
        try:
            with open(one, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        except UnicodeDecodeError:
            raise BadSettings(f"{one}: not UTF-8 text", do=f"correct {one}") from None
        except OSError as error:
            raise BadSettings(f"{one}: {error.strerror}", do=f"look at {one}") from None
        settings = parse(text, one, settings)
    return settings

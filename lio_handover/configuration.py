"""The text of the configuration files; settings.py has the meaning of their values.

The format is INI, with lists of one entry a line.  Files of ``lio-handover.conf.d/`` are read after
the main file, in the order of their names; a later file's value replaces an earlier file's value.
"""
from __future__ import annotations

import os

from .errors import BadSettings, quoted

# A boot with nothing to do reads these files, too, so this imports neither dataclasses, typing nor
# re.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Optional, Union
    Value = Union[str, int, tuple[str, ...]]
    #: section with a name of its own ("" for all others) → field of Settings, or Late → value
    Values = dict[str, dict[str, Value]]

PATH = "/etc/lio-handover/lio-handover.conf"
#: The directory of the journals, unless a file sets another.
STATE_DIRECTORY = "/var/lib/lio-handover"

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
#: section → key → (field of Settings or of Late, kind).  lio-handover.conf(5) is made from it.
KEYS = {
    "storage": {"roots": ("roots", "paths"), "devices": ("devices", "patterns"),
                "fuse": ("fuse", "paths"), "user_configs": ("user_configs", "texts")},
    "host": {"state_directory": ("state_directory", "path"), "dbroot": ("dbroot", "path or none"),
             "savefiles": ("savefiles", "paths"), "key": ("key", "path or none")},
    "limits": {"document": ("document_bytes", "bytes"), "memory": ("memory_reserve", "bytes")},
    "service": {"group": ("group", "name or none"), "peers": ("peers", "hosts"),
                "session": ("session_seconds", "seconds")},
    "late": {"paths": ("paths", "patterns"), "acquire": ("acquire", "command"),
             "release": ("release", "command"), "timeout": ("timeout", "seconds")},
    "fence": {"program": ("fence_program", "command"), "timeout": ("fence_seconds", "seconds")},
    "hooks": {"deadline": ("hook_seconds", "seconds"), "wait": ("hook_wait", "seconds"),
              "here": ("hook_here", "host or none")},
}
#: The section that may occur several times, each time with a name; the keys that it must have.
NAMED = "late"
NEEDED = ("paths", "acquire", "release")

_DIGITS = frozenset("0123456789")
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_USER = _LETTERS | _DIGITS | frozenset(".-")
_HOST = _USER | frozenset(":%[]")


class File:
    """A file's assignments.  Raises BadSettings naming path and line."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.section = path, ""
        #: (section, key) → (the lines of its value, the number of its line)
        self.assigned: dict[tuple[str, str], tuple[list[str], int]] = {}
        #: sections with a name → the line where each begins
        self.named: dict[str, int] = {}
        self._read(text)

    def fail(self, line: int, what: str) -> NoReturn:
        raise BadSettings(f"{self.path}, line {line}: {what}", do=f"correct {self.path}")

    def _read(self, text: str) -> None:
        values: Optional[list[str]] = None
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
        if not line.endswith("]") or kind not in KEYS or bool(name) != (kind == NAMED):
            self.fail(number, f"no such section: {quoted(line)} (there are " + ", ".join(
                f"[{key} NAME]" if key == NAMED else f"[{key}]" for key in KEYS) + ")")
        if kind == NAMED:
            self.named.setdefault(self.section, number)

    def _assign(self, number: int, line: str) -> list[str]:
        key, equals, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not self.section:
            self.fail(number, f"{quoted(key)} stands in no section")
        known = KEYS[self.section.partition(" ")[0]]
        if key not in known:
            self.fail(number, f"[{self.section}] has no key {quoted(key)} "
                              f"(it has {', '.join(known)})")
        if not equals:
            self.fail(number, f"{key} has no =")
        if (self.section, key) in self.assigned:
            self.fail(number, f"{key} was set before, in line "
                              f"{self.assigned[self.section, key][1]}")
        values = [value] if value else []
        self.assigned[self.section, key] = values, number
        return values

    def values(self) -> Values:
        """The values that the file sets, by section.  Raises BadSettings for a wrong value."""
        checked: Values = {"": {}}
        for (section, key), (values, line) in self.assigned.items():
            field_name, kind = KEYS[section.partition(" ")[0]][key]
            name = section if section in self.named else ""
            checked.setdefault(name, {})[field_name] = self._value(kind, key, values, line)
        return checked

    def _value(self, kind: str, key: str, values: list[str], line: int) -> Value:
        if kind == "command":
            return self._command(key, values, line)
        if kind == "hosts":
            return tuple(self._host(key, value, line) for value in values)
        if kind == "texts":
            return tuple(self._text(key, value, line) for value in values)
        if kind in ("paths", "patterns"):
            return tuple(self._path(key, value, line) for value in values)
        if kind.endswith("or none") and not values:
            return ""
        if len(values) != 1:
            self.fail(line, f"{key} needs one value")
        if kind.startswith("host"):
            return self._host(key, values[0], line)
        if kind == "seconds":
            return self._seconds(key, values[0], line)
        if kind == "bytes":
            return self._bytes(key, values[0], line)
        if kind.startswith("name"):
            return self._name(key, values[0], line)
        return self._path(key, values[0], line)

    def _path(self, key: str, value: str, line: int) -> str:
        if not value.startswith("/") or {".", ".."} & set(value.split("/")) or "\0" in value:
            self.fail(line, f"{key}: {quoted(value)} is not a full path")
        return value.rstrip("/") or "/"

    def _text(self, key: str, value: str, line: int) -> str:
        if not value.isprintable():
            self.fail(line, f"{key}: {value!a} is not printable")
        return value

    def _name(self, key: str, value: str, line: int) -> str:
        if value[0] not in _LETTERS or len(value) > 32 \
                or not _LETTERS | _DIGITS | set(".-") >= set(value):  # useradd(8)
            self.fail(line, f"{key}: {quoted(value)} is no name of a group")
        return value

    def _host(self, key: str, value: str, line: int) -> str:
        """A host as ssh is told it (dbus_names.HOST): nothing that ssh takes for an option."""
        user, at, host = value.rpartition("@")
        if not host or host[0] == "-" or not _HOST >= set(host) or at and (
                not user or user[0] == "-" or not _USER >= set(user)):
            self.fail(line, f"{key}: {quoted(value)} is no host for ssh, HOST or USER@HOST")
        return value

    def _command(self, key: str, values: list[str], line: int) -> tuple[str, ...]:
        """A program and its arguments, one a line."""
        if values and not values[0].startswith("/"):
            self.fail(line, f"{key}: {quoted(values[0])} is not the full path of a program")
        if values and " " in values[0]:
            self.fail(line, f"{key}: {quoted(values[0])}: each argument has a line of its own")
        if any("\0" in value for value in values):
            self.fail(line, f"{key} has a NUL")
        return tuple(values)

    def _seconds(self, key: str, value: str, line: int) -> int:
        if not _DIGITS >= set(value) or value[0] == "0" or len(value) > 4:
            self.fail(line, f"{key}: {quoted(value)} is not a number of seconds, 1 to 9999")
        return int(value)

    def _bytes(self, key: str, value: str, line: int) -> int:
        digits, unit = (value[:-1], value[-1].upper()) if value[-1].isalpha() else (value, "")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 12 or unit not in _UNITS:
            self.fail(line, f"{key}: {quoted(value)} is not a number of bytes (K, M, G)")
        number = int(digits) * _UNITS[unit]
        if not number:
            self.fail(line, f"{key} can't be 0")
        return number


def files(path: str = PATH) -> list[File]:
    """``path``, then ``path.d/*.conf``, where they exist.

    Raises BadSettings, also where a file exists and cannot be read.
    """
    folder = path + ".d"
    try:
        dropins = [f"{folder}/{name}" for name in sorted(os.listdir(folder))
                   if name.endswith(".conf") and not name.startswith(".")]
    except FileNotFoundError:
        dropins = []
    except OSError as error:
        raise BadSettings(f"{folder}: {error.strerror}", do=f"look at {folder}") from None
    read = []
    for dropin in [path, *dropins]:
        try:
            with open(dropin, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        except UnicodeDecodeError:
            raise BadSettings(f"{dropin}: not UTF-8 text", do=f"correct {dropin}") from None
        except OSError as error:
            raise BadSettings(f"{dropin}: {error.strerror}", do=f"look at {dropin}") from None
        read.append(File(dropin, text))
    return read

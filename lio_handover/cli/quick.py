"""`create`, `set` and `delete` where the service runs: one call of it, by a program that loads next
to nothing.

Whatever is not plain (an option that it does not know, a secret to be typed, no service) is left to
the command line, which starts over; nothing was asked then.
"""
from __future__ import annotations

import os

from .. import errors
from .output import PROG, say, seconds_text, writes_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Optional

#: Verb → (the method of the Manager, what is said once it is done), from verb_table.py and
#: manage_commands.py.
VERBS = {"create": ("CreateObject", "created"), "set": ("SetValues", "set"),
         "delete": ("DeleteObject", "deleted")}
#: From dbus_names.py.
BUS_NAME, ROOT = "io.github.lio_handover1", "/io/github/lio_handover1"
RUNNING = "/run/lio-handover/service"
#: Names of secrets, from manage/settable.py.
SECRETS = ("password", "password_mutual", "mutual_password")
_NOT_KNOWN = "whether anything was changed is not known"


def run(words: Sequence[str]) -> Optional[int]:
    """The exit code of a command, None where it is not done here, and nothing was asked."""
    if words[0] not in VERBS or os.geteuid() or not os.path.exists(RUNNING):
        return None
    asked = _asked(words[1:])
    if asked is None:
        return None
    from ..client import wire
    try:
        return _called(words[0], *asked, bus=wire.Bus())
    except wire.Unreachable:
        return None
    except wire.CallFailed as error:
        if error.name in ("org.freedesktop.DBus.Error.ServiceUnknown",
                          "org.freedesktop.DBus.Error.NameHasNoOwner"):
            return None
        return _failed(error.name, error.text)
    except wire.Lost:
        return _explained(errors.NoService("lio-handoverd ended while it worked", _NOT_KNOWN,
                                           f"{PROG} show, and the same command again"))
    except KeyboardInterrupt:
        say(f"interrupted; the service goes on with it; next: {PROG} show")
        return errors.SIGNAL + 2


def _asked(words: Sequence[str]) -> Optional[tuple[str, list[str], dict[str, str], list[str]]]:
    """(path, values by position, by name, names to allow), None for what is not plain."""
    positional: list[str] = []
    values: dict[str, str] = {}
    allow: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--allow" and rest:
            allow.append(rest.pop(0))
            continue
        name, equals, value = word.partition("=")
        if word.startswith("-") or not _is_text(word):
            return None
        if not equals or not positional or not (name.isascii() and name.isidentifier()):
            if values:
                return None
            positional.append(word)
        elif name in values:
            return None
        elif name in SECRETS and value:
            if not value.startswith("@") or value == "@":
                return None
            values[name] = "@" + os.path.abspath(value[1:])
        else:
            values[name] = value
    return (positional[0], positional[1:], values, allow) if positional else None


def _is_text(word: str) -> bool:
    """Whether a message may have it: it is UTF-8, and has no NUL."""
    try:
        return "\0" not in word and bool(word.encode() or True)
    except UnicodeEncodeError:
        return False


def _called(verb: str, path: str, words: list[str], values: dict[str, str], allow: list[str],
            bus: Any) -> int:
    member, done = VERBS[verb]
    options = {"wait": ("b", True), **({"words": ("as", words)} if words else {}),
               **({"allow": ("as", allow)} if allow else {})}
    job, = bus.call(BUS_NAME, ROOT, f"{BUS_NAME}.Manager", member, "sa{ss}a{sv}", path, values,
                    options)
    facts, = bus.call(BUS_NAME, job, "org.freedesktop.DBus.Properties", "GetAll", "s",
                      f"{BUS_NAME}.Job")
    bus.call(BUS_NAME, job, f"{BUS_NAME}.Job", "Release", "a{sv}", {}, reply=False)
    bus.close()
    if facts["State"] != "done":
        return _failed(*facts["Error"])
    _say_done(facts["Result"], done, path)
    return errors.SAME


def _say_done(result: Mapping[str, Any], done: str, path: str) -> None:
    """The lines that manage_commands.py says, too."""
    for note in result["notes"]:
        say(f"note: {note}")
    if result["same"]:
        say(f"{result['about'] or path} is just so already; nothing was changed")
    else:
        say(f"{done} {result['about']}: {writes_text(result['writes'])} in "
            f"{seconds_text(result['seconds'])}, read back and the same")


def _failed(name: str, line: str) -> int:
    """Say the service's line; the exit code of its error."""
    kinds = {kind.__name__: kind for kind in errors.classes()}
    kind = kinds.get(name.rpartition(".")[2])
    if kind is None:
        return _explained(errors.NoService(f"the service answers {name}: {line}", _NOT_KNOWN,
                                           "systemctl status lio-handoverd, or use --alone"))
    say(line)
    return kind.code


def _explained(error: errors.HandoverError) -> int:
    say(str(error))
    return error.code

"""`create`, `set` and `delete`, also as a line of the shell, where the service runs: one call of
it, by a program that loads next to nothing.

Whatever is not plain (an option that it does not know, a secret to be typed, no service) is left to
the command line, which starts over; nothing was asked then.
"""
from __future__ import annotations

import os
import sys

from .. import errors
from .output import PROG, flushed, say, seconds_text, writes_text

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
#: Commands of the shell that make, change and delete objects, and need no more than a path; from
#: shell/commands.py.
COMMANDS = ("create", "delete", "disable", "enable", "enable_iser", "enable_offload", "set", "tag",
            "untag")
#: Where a user's preferences of the shell are, from shell/preferences.py.
HOME, FOLDER, FILE, MAX_BYTES = ("LIO_HANDOVER_SHELL_HOME", "~/.lio-handover", "preferences.json",
                                 256 * 1024)
#: The exit code of a line that failed, from shell/main.py.
FAILED = 1
#: D-Bus's errors where nobody was asked: no service, or one that is older than the command line.
_NOBODY = tuple(f"org.freedesktop.DBus.Error.{name}"
                for name in ("ServiceUnknown", "NameHasNoOwner", "UnknownMethod"))
_NOT_KNOWN = "whether anything was changed is not known"


class Failed(Exception):
    """The service has failed in what it was asked for: D-Bus's name of the error, its one line."""


def run(words: Sequence[str]) -> Optional[int]:
    """The exit code of a command, None where it is not done here, and nothing was asked."""
    if not runs():
        return None
    try:
        if words[0] in VERBS:
            asked = _asked(words[1:])
            return _changed(words[0], *asked) if asked is not None else None
        line = _line(words[1:])
        return _typed(*line) if line is not None else None
    except KeyboardInterrupt:
        say(f"interrupted; the service goes on with it; next: {PROG} show")
        return errors.SIGNAL + 2


def runs() -> bool:
    """Whether the service runs, and is asked by who may change all."""
    return not os.geteuid() and os.path.exists(RUNNING)


# ---- create, set, delete -------------------------------------------------------------------------
def _changed(verb: str, path: str, words: list[str], values: dict[str, str],
             allow: list[str]) -> Optional[int]:
    member, done = VERBS[verb]
    options = {**({"words": ("as", words)} if words else {}),
               **({"allow": ("as", allow)} if allow else {})}
    try:
        result = _job(member, "sa{ss}a{sv}", path, values, options)
    except Failed as failed:
        return _failed(*failed.args)
    except errors.NoService as error:
        return _explained(error)
    if result is None:
        return None
    _say_done(result, done, path)
    return errors.SAME


def _job(member: str, signature: str, *args: Any) -> Optional[Mapping[str, Any]]:
    """The result of a job of the Manager's; None where there is no service, and nothing was asked.
    The last argument is the method's options.  Raises Failed, NoService."""
    from ..client import wire
    try:
        bus = wire.Bus()
        job, = bus.call(BUS_NAME, ROOT, f"{BUS_NAME}.Manager", member, signature, *args[:-1],
                        {"wait": ("b", True), **args[-1]})
        facts, = bus.call(BUS_NAME, job, "org.freedesktop.DBus.Properties", "GetAll", "s",
                          f"{BUS_NAME}.Job")
        bus.call(BUS_NAME, job, f"{BUS_NAME}.Job", "Release", "a{sv}", {}, reply=False)
        bus.close()
    except wire.Unreachable:
        return None
    except wire.CallFailed as error:
        if error.name in _NOBODY:
            return None
        raise Failed(error.name, error.text) from None
    except wire.Lost:
        raise errors.NoService("lio-handoverd ended while it worked", _NOT_KNOWN,
                               f"{PROG} show, and the same command again") from None
    if facts["State"] != "done":
        raise Failed(*facts["Error"])
    result: Mapping[str, Any] = facts["Result"]
    return result


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
        if word.startswith("-") or not is_text(word):
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


def is_text(word: str) -> bool:
    """Whether a message may have it: it is UTF-8, and has no NUL."""
    try:
        return "\0" not in word and bool(word.encode() or True)
    except UnicodeEncodeError:
        return False


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


# ---- a line of the shell -------------------------------------------------------------------------
def typed(line: Sequence[str], allow: Sequence[str], preferences: str,
          folder: str) -> Optional[Mapping[str, Any]]:
    """Have the service run a line: what that came to (results.Typed), None where there is no
    service.  Raises Failed, NoService."""
    return _job("RunLine", "asa{sv}", line, {
        "folder": ("s", folder), **({"allow": ("as", allow)} if allow else {}),
        **({"preferences": ("s", preferences)} if preferences else {})})


def _line(given: Sequence[str]) -> Optional[tuple[list[str], list[str]]]:
    """(the words of a line that the service can run, names to allow), None for any other."""
    line: list[str] = []
    allow: list[str] = []
    rest = list(given)
    while rest:
        word = rest.pop(0)
        if word == "--allow" and rest:
            allow.append(rest.pop(0))
        elif word.startswith("-") or not is_text(word):
            return None
        else:
            line.append(word)
    if len(line) == 1 and line[0].isprintable() and not any(mark in line[0] for mark in "'\"\\"):
        line = line[0].split()
    path, command, *words = line if len(line) > 1 else ("", "")
    if not path.startswith("/") or path.endswith("*") or command not in COMMANDS:
        return None
    if command == "set" and (len(words) < 2 or words[0] == "global" or "=" in words[0]):
        return None
    if command == "delete" and "backstores" in path and len(words) != 1:
        return None
    for word in words:
        name, equals, value = word.partition("=")
        if "~" in (word[:1], value[:1]) \
                or equals and name in SECRETS and value and not value.startswith("@/"):
            return None
    return line, allow


def _typed(line: list[str], allow: list[str]) -> Optional[int]:
    """Have a line run, and tell what it told; the exit code."""
    folder = os.path.expanduser(os.environ.get(HOME) or FOLDER)
    path = f"{folder}/{FILE}" if folder.startswith("/") else ""
    try:
        preferences = _read(path) if path else ""
        answer = typed(line, allow, preferences, os.getcwd())
    except (OSError, ValueError):
        return None
    except Failed as failed:
        return _told(failed.args[1])
    except errors.NoService as error:
        return _told(str(error))
    if answer is None:
        return None
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    _show(answer["said"])
    if path and answer["preferences"]:
        try:
            _write(folder, path, answer["preferences"])
        except OSError as error:
            return _told(str(errors.BadFile(f"{path} can't be written: {error.strerror}",
                                            do="look at the folder")))
    return flushed(errors.SAME)


def _told(line: str) -> int:
    sys.stdout.flush()
    print(line, file=sys.stderr)
    return flushed(FAILED)


def _show(said: Sequence[str]) -> None:
    """The lines as the shell shows them (shell/changes.py:Session.tell); there is no green where
    the preferences want none: then a line says what it is."""
    for text in said:
        kind, line = text[:1], text[1:]
        if kind == "+" and not line.startswith("Info: ") and sys.stdout.isatty():
            line = f"\x1b[32m{line}\x1b[0m"
        print(f"note: {line}" if kind == "!" else line,
              file=sys.stderr if kind == "!" else sys.stdout)


def _read(path: str) -> str:
    """Raises OSError, and ValueError for what is no text, or too long."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return ""
    if len(data) > MAX_BYTES:
        raise ValueError(path)
    return data.decode()


def _write(folder: str, path: str, text: str) -> None:
    """As Preferences.save does.  Raises OSError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    new = f"{path}.{os.getpid()}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.rename(new, path)
    except OSError:
        os.unlink(new)
        raise
    finally:
        os.close(fd)

"""systemd: tell it how far this process is, and have it start and stop units."""
from __future__ import annotations

import os
import re
from typing import Sequence, Union

from ..errors import one_line, shown

_BOOTED = "/run/systemd/system"
#: Bytes of a value: systemd drops a whole message of more than 4096 (core/manager.c).
_LONGEST = 2048
_PATIENCE = 60  # seconds for a message to be taken, as while systemd reads its units
_ANSWER = 30  # seconds for systemctl, which waits for no unit
#: The bytes that a unit's name has unescaped (systemd, basic/unit-name.c:do_escape).
_PLAIN = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:_.")
_LONGEST_NAME = 255  # bytes of the name of a unit, its type included (UNIT_NAME_MAX)


def running() -> bool:
    """Whether systemd is this host's first process (as in sd_booted(3))."""
    return os.path.isdir(_BOOTED)


def notify(**fields: Union[str, int]) -> None:
    """Notify the service manager, as sd_notify(3) does: ``notify(READY=1, STATUS="waiting")``.

    Does nothing without $NOTIFY_SOCKET, or where no manager listens.  A value becomes one line and
    is cut where it is long.
    """
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place[:1] not in ("/", "@") or len(place) < 2:
        return
    import socket
    lines = "".join(f"{key}={_value(str(value))}\n" for key, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(_PATIENCE)
            line.connect("\0" + place[1:] if place[0] == "@" else place)
            line.send(lines.encode())
    except OSError:
        pass  # this process's work matters more than the notification


def _value(text: str) -> str:
    """A value with its backslashes doubled: systemd takes a backslash for the start of an escape,
    before the end of the line, too (basic/strv.h:strv_split_newlines, seen with 252)."""
    data = one_line(text).replace("\\", "\\\\").encode()
    if len(data) <= _LONGEST:
        return data.decode()
    return data[:_LONGEST - 3].decode(errors="ignore") + "..."


# --- the names of units --------------------------------------------------------------------------
def escaped(target: str) -> str:
    """The instance of a unit that is for a target, as systemd-escape(1) writes it."""
    data = os.fsencode(target)
    return "".join(
        "-" if byte == ord("/") else
        chr(byte) if byte in _PLAIN and (index or byte != ord(".")) else f"\\x{byte:02x}"
        for index, byte in enumerate(data))


def unescaped(instance: str) -> str:
    """The target that an instance is for, as %I of its unit says.  Raises ValueError."""
    if not re.fullmatch(r"(?:\\x(?!00)[0-9a-fA-F]{2}|[^\\\0])*", instance):
        raise ValueError(f"no name of an instance: {shown(instance)}")
    return os.fsdecode(re.sub(
        rb"\\x([0-9a-fA-F]{2})", lambda match: bytes([int(match[1], 16)]),
        os.fsencode(instance).replace(b"-", b"/")))


def unit(template: str, target: str) -> str:
    """``name@.service`` for a target.  Raises ValueError where no unit can have so long a name."""
    before, _at, after = template.partition("@")
    name = f"{before}@{escaped(target)}{after}"
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"the unit {shown(name)} would have a name of {len(name)} bytes; "
                         f"systemd takes {_LONGEST_NAME}")
    return name


# --- systemctl -----------------------------------------------------------------------------------
def start(units: Sequence[str]) -> str:
    """Have systemd start units, without waiting; the failure in one line, or ""."""
    return _ask("start", units)


def stop(units: Sequence[str]) -> str:
    """Have systemd stop units, without waiting; the failure in one line, or ""."""
    return _ask("stop", units)


def _ask(verb: str, units: Sequence[str]) -> str:
    if not units:
        return ""
    from . import external_program
    words = ["systemctl", "--no-ask-password", "--no-block", verb, "--", *units]
    try:
        code, said = external_program.run(words, _ANSWER)
    except OSError as error:
        return f"systemctl {verb}: can't be run: {error.strerror}"
    except external_program.TooLong as error:
        return f"systemctl {verb} did not end within {_ANSWER} s and {error.how}"
    if code:
        return f"systemctl {verb}: " + (said or (
            f"ended with {code}" if code > 0 else f"was ended by signal {-code}"))
    return ""

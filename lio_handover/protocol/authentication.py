"""The key that two hosts have in common, and what it proves: that a message is the other host's.

The key is a file of root's alone (``[host] key`` of the settings): 64 hex digits and a newline.
Where a host has one, each message and each whole answer of it names the host, and carries an
HMAC-SHA-256 (RFC 2104) of all its other members; and no other message or answer is believed there.
"""
from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from typing import Any, Mapping

from .. import errors
from ..settings import Settings
from ..system.atomic_file import new_file

#: Bytes of a key.
KEY_BYTES = 32
#: Part of what a MAC is of, so that no MAC fits anything else: what it is of, and its version.
MESSAGE, ANSWER = b"lio-handover message 2\n", b"lio-handover answer 2\n"

_TEXT = re.compile(rb"[0-9a-f]{%d}\n" % (2 * KEY_BYTES))
_NO_NAME = re.compile(r"[^\x21-\x7e]")


def has_key(settings: Settings) -> bool:
    """Whether messages to this host are authenticated: it has a key that can be used.  A file that
    can't be used is no key, and yet no message is taken without one."""
    try:
        return bool(Authentication.of(settings))
    except errors.BadSettings:
        return False


def make_key(path: str) -> None:
    """Make a new key.  Raises BadSettings where there is a file of that name, or none can be made.
    """
    try:
        new_file(path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    except FileExistsError:
        raise errors.BadSettings(
            f"{path} is there already, and stays as it is",
            do="use it on both hosts; or, for another key, move it away on both") from None
    except OSError as error:
        raise errors.BadSettings(f"{path} can't be made: {error.strerror}",
                                 do=f"look at {os.path.dirname(path) or '.'}") from None


def _read(path: str) -> bytes:
    """The key in a file; b"" where there is no file.  Raises BadSettings for a file that anybody
    else could have read or written, or that holds no key."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
                     | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _unfit(path, f"can't be read: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(path, "is no file")
        if status.st_uid not in (0, os.geteuid()):
            raise _unfit(path, f"is user {status.st_uid}'s, not root's")
        if stat.S_IMODE(status.st_mode) & ~0o600:
            raise _unfit(path, f"has mode {stat.S_IMODE(status.st_mode):04o}, not 0600")
        text = file.read(2 * KEY_BYTES + 2)
    if not _TEXT.fullmatch(text):
        raise _unfit(path, f"holds no key, which is {2 * KEY_BYTES} hex digits in one line")
    return bytes.fromhex(text.decode())


def _unfit(path: str, why: str) -> errors.BadSettings:
    return errors.BadSettings(f"the key {path} {why}",
                              do="make it root's with mode 0600, as `lio-handover make-key` does; "
                                 "if others may have read it, make another for both hosts")


@dataclass(frozen=True)
class Authentication:
    """This host's name, and its key; true where it has one.  ``path``: where the key is, or would
    be."""

    host: str = ""
    key: bytes = field(default=b"", repr=False)
    path: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Authentication:
        """As the settings say.  Raises BadSettings for a file that can't be used as a key."""
        name = _NO_NAME.sub("?", os.uname().nodename) or "?"
        return cls(name, _read(settings.key) if settings.key else b"", settings.key)

    def __bool__(self) -> bool:
        return bool(self.key)

    def mac(self, what: bytes, members: Mapping[str, Any]) -> str:
        """The MAC, as hex digits, of all members of a JSON object but ``mac``.  ``what`` is MESSAGE
        or ANSWER."""
        import json
        text = json.dumps({name: value for name, value in members.items() if name != "mac"},
                          sort_keys=True, separators=(",", ":"))
        return hmac.digest(self.key, what + text.encode(), "sha256").hex()

    def fits(self, what: bytes, members: Mapping[str, Any]) -> bool:
        """Whether an object has the MAC that it says it has."""
        return hmac.compare_digest(self.mac(what, members), str(members["mac"]))

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
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Optional

from .. import errors
from ..settings import Settings
from ..system.atomic_file import new_file
from .messages import Message, members
from .table import SAID_BY

#: The service has this among its Features where its host has a key.
KEY = "key"
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
                              do="make it root's with mode 0600, as `lio-handover keygen` does; "
                                 "if others may have read it, make another for both hosts")


@dataclass(frozen=True)
class Authentication:
    """This host's name, and its key; true where it has one.  ``path``: where the key is, or would
    be; ``unfit``: why what is there can't be used."""

    host: str = ""
    key: bytes = field(default=b"", repr=False)
    path: str = ""
    unfit: Optional[errors.BadSettings] = None

    @classmethod
    def of(cls, settings: Settings) -> Authentication:
        """As the settings say.  Raises BadSettings for a file that can't be used as a key."""
        name = _NO_NAME.sub("?", os.uname().nodename) or "?"
        return cls(name, _read(settings.key) if settings.key else b"", settings.key)

    def __bool__(self) -> bool:
        return bool(self.key)

    @classmethod
    def to_say(cls, settings: Settings) -> Authentication:
        """The same; with a file that can't be used this host says without a MAC what it says, so
        that its targets come back at a boot all the same, and believes nobody."""
        try:
            return cls.of(settings)
        except errors.BadSettings as error:
            return cls(path=settings.key, unfit=error)

    def usable(self) -> None:
        """Raises BadSettings where there is a file, and it is no key."""
        if self.unfit:
            raise self.unfit

    def mac(self, what: bytes, tree: Mapping[str, Any]) -> str:
        """The MAC, as hex digits, of all members of a JSON object but ``mac``.  ``what`` is MESSAGE
        or ANSWER."""
        import json
        text = json.dumps({name: value for name, value in tree.items() if name != "mac"},
                          sort_keys=True, separators=(",", ":"))
        return hmac.digest(self.key, what + text.encode(), "sha256").hex()

    def fits(self, what: bytes, tree: Mapping[str, Any]) -> bool:
        """Whether an object has the MAC that it says it has."""
        return hmac.compare_digest(self.mac(what, tree), str(tree["mac"]))

    def signed(self, message: Message) -> Message:
        """The message as this host says it."""
        if not self:
            return message
        named = replace(message, host=self.host)
        return replace(named, mac=self.mac(MESSAGE, members(named)))

    def check(self, message: Message, role: str, other: str = "") -> None:
        """Raises NotAuthentic for a message that is not the other side's.

        ``role`` is this host's in the handover, ``other`` the host that the handover's earlier
        messages came from, where there were any.  Without a key every message passes that has no
        MAC.
        """
        name = f"the message {message.type.name.lower()}"
        self.check_mac(MESSAGE, name, message.host, members(message))
        if not self:
            return
        if message.host == self.host or SAID_BY[message.type] == role:
            raise errors.NotAuthentic(
                f"{name} of {message.host} is this side's own word, not the other side's",
                do="give the messages as the other side's verb answered them; two hosts of one "
                   "name can't hand over to each other: hostnamectl")
        check_other(name, message.host, other)

    def check_mac(self, what: bytes, name: str, host: str, tree: Mapping[str, Any]) -> None:
        """Raises NotAuthentic for an object, called ``name``, that this host's key does not prove
        to be the word of ``host``; "" where it has no MAC.  BadSettings where the key can't be
        used."""
        self.usable()
        if not self and host:
            raise errors.NotAuthentic(
                f"{name} of {host} is authenticated, and this host has no key to check that with",
                do=f"carry the key of {host} here"
                   + (f", to {self.path} (root's, mode 0600)" if self.path else " ([host] key)"))
        if self and not host:
            raise errors.NotAuthentic(
                f"{name} has no MAC: whoever carried it could have made it up",
                do=f"have both hosts use one key: carry {self.path} to the other host, then give "
                   "what the other side's verb answers anew")
        if self and not self.fits(what, tree):
            raise errors.NotAuthentic(
                f"{name} was made up or altered, or {host} has another key than this host",
                do=f"see that {self.path} is the same on both hosts, then give what the other "
                   "side's verb answers anew")


def check_other(name: str, host: str, other: str) -> None:
    """Raises NotAuthentic for a word of another host than the one that spoke before."""
    if other and host != other:
        raise errors.NotAuthentic(
            f"{name} is of {host}, and what came before of this handover was of {other}",
            do=f"give what {other} says")

"""Messages as they travel between two hosts: what a side said, and for which handover.

JSON, a list of objects, each with every field of ``Message``::

    [{"version": 2, "type": "armed", "handover": "…uuid…", "epoch": 3,
      "digest": "…64 hex digits…", "targets": ["iscsi/iqn.…"], "mode": "iscsi", "document": "",
      "host": "b", "mac": "…64 hex digits…"}]

``document`` is a document's bytes as text (they are ASCII).  Documents hold CHAP secrets, so
messages are for root's eyes only.  ``host`` and ``mac`` are of authentication.py; a message of a
host without a key has neither, and version 1.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, NoReturn, Tuple, Type

from ..document import document as documents
from ..document.document import Document
from ..document.envelope import MAX_BYTES
from ..errors import BadStructure, BadValue, DocumentError, NotJson, TooLarge, WrongVersion
from .table import MessageType, Mode

#: The version of messages, and of whole answers (handover/reply.py), that are authenticated; and of
#: those that are not, which hosts without a key go on writing.
VERSION, WITHOUT_MAC = 2, 1
#: A handover has at most nine messages; a longer list is refused.
MAX_MESSAGES = 16
#: Values of JSON in messages, or in a whole answer; a document in it is one.
MAX_VALUES = 1 << 17
#: A note of abort: no guest has had the disk since the destination owned it.
NEVER_RAN = "no command was executed here since the document was loaded"
#: The messages that carry a document.
WITH_DOCUMENT = (MessageType.OFFER, MessageType.DOCUMENT, MessageType.RETURNED)

_AGAIN = "give the messages as the other side's verb answered them"
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_MAC = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[\x21-\x7e]{1,255}")
_PLAIN = ("version", "type", "handover", "epoch", "digest", "targets", "mode", "document")
#: Version → the members of a message.
_FIELDS = {WITHOUT_MAC: _PLAIN, VERSION: (*_PLAIN, "host", "mac")}


@dataclass(frozen=True)
class Message:
    """One message.  ``digest`` is that of the run-time state where registrations are concerned
    (runtime.digest), ``document`` what documents.dumps wrote, for OFFER, DOCUMENT, RETURNED.
    ``host`` calls itself so; both it and ``mac`` are "" where it has no key."""

    type: MessageType
    handover: str
    epoch: int
    digest: str = ""
    targets: Tuple[str, ...] = ()
    mode: str = ""
    document: bytes = field(default=b"", repr=False)
    host: str = ""
    mac: str = ""
    #: what document_in read of it, or was told of it by carrying: at most one
    _read: List[Document] = field(default_factory=list, init=False, repr=False, compare=False)


def is_id(text: str) -> bool:
    """Whether the text is a handover's id: a UUID in small letters."""
    return bool(_ID.fullmatch(text))


def fail(error: Type[DocumentError], what: str) -> NoReturn:
    raise error(what, do=_AGAIN)


def document_in(message: Message, limit: int) -> Document:
    """The document that a message carries, parsed once.  Raises a DocumentError."""
    if not message._read:
        try:
            message._read.append(documents.loads(message.document, limit))
        except DocumentError as error:
            error.do = _AGAIN
            raise
    return message._read[0]


def carrying(message: Message, document: Document) -> Message:
    """The message, whose bytes are those of ``document``: so nobody decodes them again."""
    message._read[:] = [document]
    return message


def members(message: Message) -> Dict[str, Any]:
    """A message as an object of JSON."""
    plain = {
        "version": WITHOUT_MAC, "type": message.type.name.lower(), "handover": message.handover,
        "epoch": message.epoch, "digest": message.digest, "targets": list(message.targets),
        "mode": message.mode, "document": message.document.decode("ascii")}
    return {**plain, "version": VERSION, "host": message.host, "mac": message.mac} \
        if message.host else plain


def to_json(messages: Iterable[Message]) -> bytes:
    """The bytes that ``from_json`` reads."""
    import json
    return json.dumps([members(message) for message in messages],
                      indent=1, sort_keys=True).encode() + b"\n"


def from_json(data: bytes, limit: int = 2 * MAX_BYTES) -> Tuple[Message, ...]:
    """The messages in ``data``.  Raises a DocumentError, and nothing else, for any other bytes.

    The documents in them are not looked at here: who needs one gives it to documents.loads.
    """
    return of_entries(parsed(data, "the messages", limit))


def of_entries(entries: Any) -> Tuple[Message, ...]:
    """The same of values of JSON."""
    if not isinstance(entries, list) or len(entries) > MAX_MESSAGES:
        fail(BadStructure, f"the messages are not a list of at most {MAX_MESSAGES}")
    return tuple(_message(entry, f"$[{number}]") for number, entry in enumerate(entries))


def parsed(data: bytes, what: str, limit: int = 2 * MAX_BYTES) -> Any:
    """The JSON in ``data``, which is another host's: neither its size nor that of what Python makes
    of it is trusted.  Raises TooLarge, NotJson."""
    import json
    if len(data) > limit:
        raise TooLarge(f"{what} has more than {limit} bytes", do=_AGAIN)
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * MAX_VALUES \
            or sum(part.count(b",") for part in bare.split(b'"')[::2]) > MAX_VALUES:
        raise TooLarge(f"{what} has more than {MAX_VALUES} values", do=_AGAIN)
    try:
        return json.loads(data.decode("utf-8"), parse_int=_whole_number)
    except (ValueError, RecursionError):
        raise NotJson(f"{what} is no JSON of lio-handover", do=_AGAIN) from None


def _whole_number(digits: str) -> int:
    if len(digits) > 20:  # of many digits Python makes a number only slowly
        raise ValueError
    return int(digits)


def check_version(version: object, what: str) -> None:
    """Refuse what is of another version, before the rest of it is judged.  Raises WrongVersion."""
    if type(version) is int and version not in _FIELDS:
        raise WrongVersion(
            f"{what} has version {version}, this lio-handover knows {WITHOUT_MAC} and {VERSION}",
            do="bring the older lio-handover of the two hosts up to date")


def _message(value: Any, where: str) -> Message:
    version = value.get("version") if isinstance(value, dict) else None
    check_version(version, f"message {where}")
    fields = _FIELDS[version] if type(version) is int else _PLAIN
    if not isinstance(value, dict) or set(value) != set(fields):
        fail(BadStructure, f"{where} is no object with just {', '.join(fields)}")
    entry: Dict[str, Any] = value
    for name in fields:
        kind = int if name in ("version", "epoch") else list if name == "targets" else str
        if type(entry[name]) is not kind:
            fail(BadStructure, f"{where}.{name} is no {kind.__name__}")
    if entry["type"].upper() not in MessageType.__members__ \
            or entry["type"] != entry["type"].lower():
        fail(BadValue, f"{where}.type is none of "
                       + ", ".join(name.lower() for name in MessageType.__members__))
    if not is_id(entry["handover"]):
        fail(BadValue, f"{where}.handover is no UUID in small letters")
    if not 0 <= entry["epoch"] < 1 << 53:
        fail(BadValue, f"{where}.epoch is out of range")
    if not _DIGEST.fullmatch(entry["digest"]):
        fail(BadValue, f"{where}.digest is not 64 hex digits")
    if entry["mode"] and entry["mode"] not in {mode.value for mode in Mode}:
        fail(BadValue, f"{where}.mode is none of " + ", ".join(mode.value for mode in Mode))
    if len(entry["targets"]) > 4096 or not all(
            isinstance(name, str) and 0 < len(name) < 300 and name.isprintable()
            for name in entry["targets"]):
        fail(BadStructure, f"{where}.targets are not names of targets")
    if not entry["document"].isascii():
        fail(BadValue, f"{where}.document is not a document")
    for name, pattern in (("host", _HOST), ("mac", _MAC)):
        if name in entry and not pattern.fullmatch(entry[name]):
            fail(BadValue, f"{where}.{name} is not as a lio-handover writes it")
    return Message(MessageType[entry["type"].upper()], entry["handover"], entry["epoch"],
                   entry["digest"], tuple(entry["targets"]), entry["mode"],
                   entry["document"].encode("ascii"), entry.get("host", ""), entry.get("mac", ""))

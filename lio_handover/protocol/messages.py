"""Messages as they travel between two hosts: what a side said, and for which handover.

JSON, a list of objects, each with every field of ``Message``::

    [{"version": 1, "type": "armed", "handover": "…uuid…", "epoch": 3,
      "digest": "…64 hex digits…", "targets": ["iscsi/iqn.…"], "mode": "iscsi", "document": ""}]

``document`` is a document's bytes as text (they are ASCII).  Documents hold CHAP secrets, so
messages are for root's eyes only.
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

#: Of messages, and of whole answers (handover/reply.py).
VERSION = 1
#: More messages than a handover has are nobody's.
MAX_MESSAGES = 16
#: The messages that carry a document.
WITH_DOCUMENT = (MessageType.OFFER, MessageType.DOCUMENT, MessageType.RETURNED)

_AGAIN = "give the messages as the other side's verb answered them"
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_FIELDS = ("version", "type", "handover", "epoch", "digest", "targets", "mode", "document")


@dataclass(frozen=True)
class Message:
    """One message.  ``digest`` is that of the run-time state where registrations are concerned
    (runtime.digest), ``document`` what documents.dumps wrote, for OFFER, DOCUMENT, RETURNED."""

    type: MessageType
    handover: str
    epoch: int
    digest: str = ""
    targets: Tuple[str, ...] = ()
    mode: str = ""
    document: bytes = field(default=b"", repr=False)
    #: what document_in read of it, at most one
    _read: List[Document] = field(default_factory=list, init=False, repr=False, compare=False)


def is_id(text: str) -> bool:
    """Whether this is how a handover is named: a UUID in small letters."""
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


def to_json(messages: Iterable[Message]) -> bytes:
    """The bytes that ``from_json`` reads."""
    import json
    return json.dumps([{
        "version": VERSION, "type": message.type.name.lower(), "handover": message.handover,
        "epoch": message.epoch, "digest": message.digest, "targets": list(message.targets),
        "mode": message.mode,
        "document": message.document.decode("ascii")} for message in messages],
        indent=1, sort_keys=True).encode() + b"\n"


def from_json(data: bytes, limit: int = 2 * MAX_BYTES) -> Tuple[Message, ...]:
    """The messages in ``data``.  Raises a DocumentError, and nothing else, for any other bytes.

    The documents in them are not looked at here: who needs one gives it to documents.loads.
    """
    import json
    if len(data) > limit:
        raise TooLarge(f"the messages have more than {limit} bytes", do=_AGAIN)
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NotJson("the messages are not JSON", do=_AGAIN) from None
    if not isinstance(found, list) or len(found) > MAX_MESSAGES:
        fail(BadStructure, f"the messages are not a list of at most {MAX_MESSAGES}")
    return tuple(_message(one, f"$[{number}]") for number, one in enumerate(found))


def check_version(version: object, what: str) -> None:
    """Refuse what is of another version, before the rest of it is judged.  Raises WrongVersion."""
    if type(version) is int and version != VERSION:
        raise WrongVersion(f"{what} has version {version}, this lio-handover knows {VERSION}",
                           do="bring the older lio-handover of the two hosts up to date")


def _message(value: Any, where: str) -> Message:
    if isinstance(value, dict):
        check_version(value.get("version"), f"message {where}")
    if not isinstance(value, dict) or set(value) != set(_FIELDS):
        fail(BadStructure, f"{where} is no object with just {', '.join(_FIELDS)}")
    one: Dict[str, Any] = value
    for name in _FIELDS:
        kind = int if name in ("version", "epoch") else list if name == "targets" else str
        if type(one[name]) is not kind:
            fail(BadStructure, f"{where}.{name} is no {kind.__name__}")
    if one["type"].upper() not in MessageType.__members__ or one["type"] != one["type"].lower():
        fail(BadValue, f"{where}.type is none of "
                       + ", ".join(name.lower() for name in MessageType.__members__))
    if not is_id(one["handover"]):
        fail(BadValue, f"{where}.handover is no UUID in small letters")
    if not 0 <= one["epoch"] < 1 << 53:
        fail(BadValue, f"{where}.epoch is out of range")
    if not _DIGEST.fullmatch(one["digest"]):
        fail(BadValue, f"{where}.digest is not 64 hex digits")
    if one["mode"] and one["mode"] not in {mode.value for mode in Mode}:
        fail(BadValue, f"{where}.mode is none of " + ", ".join(mode.value for mode in Mode))
    if len(one["targets"]) > 4096 or not all(
            isinstance(name, str) and 0 < len(name) < 300 and name.isprintable()
            for name in one["targets"]):
        fail(BadStructure, f"{where}.targets are not names of targets")
    if not one["document"].isascii():
        fail(BadValue, f"{where}.document is not a document")
    return Message(MessageType[one["type"].upper()], one["handover"], one["epoch"], one["digest"],
                   tuple(one["targets"]), one["mode"], one["document"].encode("ascii"))

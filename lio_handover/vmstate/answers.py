"""The bytes that travel in QEMU's stream: what Save() answers, and Load() is given.

JSON, at most `LIMIT` bytes, with just these members::

    {"lio-handover": 1, "kind": "handover", "host": "a", "identity": "…64 hex digits…",
     "targets": {"vhost/naa.…": 3}, "about": {…}}

``identity`` is the source's (see `identity`), ``targets`` the guest's targets with their epochs
there.  By ``kind``, ``about`` is

handover    {"message": …, "staged": …, "changes": …, "document": …}: the message ``document`` of a
            handover in mode vhost-inband.  Its document is told as what differs from the offer,
            which the destination staged: only run-time state travels.  ``staged`` and ``document``
            are the SHA-256 of the bytes of both.
beside      {"handover": …, "epoch": …, "mode": …}: a driver of handovers carries the state.
nothing     {}: there is no handover.  The guest is saved, or migrates to a host that shares this.

Nothing here looks at a kernel.  The stream is another host's: every byte of it is judged.
"""
from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Mapping, NoReturn, Sequence, Tuple, Type, Union

from .. import errors
from ..document.envelope import MAX_BYTES, MAX_DEPTH, encode
from ..errors import BadDigest, BadStructure, BadValue, DocumentError, NotJson, TooLarge
from ..protocol.messages import Message, from_json, is_id, to_json
from ..protocol.table import MessageType, Mode

#: The version of these bytes.
VERSION = 1
#: QEMU takes no more of one helper (backends/dbus-vmstate.c:DBUS_VMSTATE_SIZE_LIMIT).
LIMIT = 1 << 20
HANDOVER, BESIDE, NOTHING = "handover", "beside", "nothing"

_ABOUT: Mapping[str, Tuple[str, ...]] = {
    HANDOVER: ("message", "staged", "changes", "document"),
    BESIDE: ("handover", "epoch", "mode"), NOTHING: ()}
_MEMBERS = ("lio-handover", "kind", "host", "identity", "targets", "about")
_DIGEST = re.compile("[0-9a-f]{64}")
_TARGET = re.compile(r"vhost/naa\.[0-9a-f]{16}(?:[0-9a-f]{16})?")
_HOST = re.compile(r"[\x21-\x7e]{1,255}")
_AGAIN = "migrate again, with the same lio-handover on both hosts"

#: Where a document differs: [path, [new value]], or [path, []] for what is left out.
Changes = List[List[Any]]


@dataclass(frozen=True)
class Answer:
    """What one host's helper tells another's.  ``targets``: FABRIC/WWN → epoch; ``about``: as the
    module says, by ``kind``."""

    kind: str
    host: str
    identity: str
    targets: Mapping[str, int]
    about: Mapping[str, Any]


def _refuse(error: Type[DocumentError], what: str) -> NoReturn:
    raise error(f"what QEMU's stream brings {what}", do=_AGAIN)


# ---- the envelope ------------------------------------------------------------------------------
def pack(answer: Answer) -> bytes:
    """The bytes for QEMU.  Raises TooLarge."""
    data = json.dumps({"lio-handover": VERSION, "kind": answer.kind, "host": answer.host,
                       "identity": answer.identity, "targets": dict(answer.targets),
                       "about": dict(answer.about)}, sort_keys=True).encode()
    if len(data) > LIMIT:
        raise TooLarge(f"{len(data)} bytes of run-time state are more than QEMU's stream takes "
                       f"({LIMIT})", do="move the guest by QMP: lio-handover move --guest")
    return data


def unpack(data: bytes) -> Answer:
    """What is in the bytes.  Raises a DocumentError, and nothing else, for what `pack` never
    makes."""
    if len(data) > LIMIT:
        _refuse(TooLarge, f"has more than {LIMIT} bytes")
    try:
        tree = json.loads(data.decode("ascii"), object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        _refuse(NotJson, "is not from lio-handover")
    if isinstance(tree, dict) and type(tree.get("lio-handover")) is int \
            and tree["lio-handover"] != VERSION:
        raise errors.WrongVersion(
            f"what QEMU's stream brings has version {tree['lio-handover']}, this lio-handover "
            f"knows {VERSION}", do="bring the older lio-handover of the two hosts up to date")
    _members(tree, "it", _MEMBERS)
    kind = tree["kind"]
    if type(tree["lio-handover"]) is not int or type(kind) is not str or kind not in _ABOUT:
        _refuse(BadValue, "is of no kind that is known")
    if type(tree["host"]) is not str or not _HOST.fullmatch(tree["host"]):
        _refuse(BadValue, "names no host")
    _digest(tree["identity"], "identity")
    _targets(tree["targets"])
    _members(tree["about"], "about", _ABOUT[kind])
    return Answer(kind, tree["host"], tree["identity"], tree["targets"], tree["about"])


def _pairs(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a member stands twice")
    return dict(pairs)


def _members(value: Any, where: str, names: Sequence[str]) -> None:
    if type(value) is not dict or set(value) != set(names):
        _refuse(BadStructure, f"has not just {', '.join(names) or 'nothing'} in {where}")


def _digest(value: Any, where: str) -> str:
    if type(value) is not str or not _DIGEST.fullmatch(value):
        _refuse(BadValue, f"has no 64 hex digits as {where}")
    return str(value)


def _epoch(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        _refuse(BadValue, "has an epoch that is none")
    return int(value)


def _targets(value: Any) -> None:
    if type(value) is not dict or not 0 < len(value) <= 256:
        _refuse(BadStructure, "names no targets")
    for name, epoch in value.items():
        if not _TARGET.fullmatch(name):
            _refuse(BadValue, "names a target that no guest has")
        _epoch(epoch)


# ---- a handover --------------------------------------------------------------------------------
def about_handover(message: Message, staged: bytes) -> Mapping[str, Any]:
    """``about`` of a message ``document``; ``staged``: the bytes of the document in the offer."""
    tree, = json.loads(to_json([replace(message, document=b"")]))
    return {"message": tree, "staged": _sha256(staged), "document": _sha256(message.document),
            "changes": list(changes(json.loads(staged), json.loads(message.document)))}


def message_of(about: Mapping[str, Any], staged: bytes) -> Message:
    """The message that `about_handover` told of.  Raises a DocumentError."""
    if _digest(about["staged"], "staged") != _sha256(staged):
        _refuse(BadDigest, "is not about the offer that was staged here")
    wanted = _digest(about["document"], "document")
    message, = from_json(json.dumps([about["message"]]).encode())
    if message.type is not MessageType.DOCUMENT or message.document \
            or message.mode != Mode.VHOST_INBAND.value:
        _refuse(BadValue, "is not the document of a handover in mode vhost-inband")
    tree = changed(json.loads(staged), about["changes"])
    tree.pop("digest", None)
    try:
        document = encode(tree)
    except (RecursionError, TypeError, ValueError):
        _refuse(BadStructure, "makes no document")
    if len(document) > MAX_BYTES or _sha256(document) != wanted:
        _refuse(BadDigest, "does not make the document that it names")
    return replace(message, document=document)


def handover_of(answer: Answer) -> Tuple[str, int, str]:
    """(id, epoch, mode) of the handover that an answer of kind `HANDOVER` or `BESIDE` is about.
    Raises a DocumentError."""
    about = answer.about["message"] if answer.kind == HANDOVER else answer.about
    if type(about) is not dict:
        _refuse(BadStructure, "has no message")
    name, mode = about.get("handover"), about.get("mode")
    if type(name) is not str or not is_id(name):
        _refuse(BadValue, "names no handover")
    if type(mode) is not str or mode not in {known.value for known in Mode}:
        _refuse(BadValue, "names no mode of a handover")
    return name, _epoch(about.get("epoch")), mode


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- where two documents differ ----------------------------------------------------------------
def changes(old: Any, new: Any, path: Tuple[Union[str, int], ...] = ()) -> Iterator[List[Any]]:
    """What makes ``new`` of ``old``; both are JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            if name not in new:
                yield [[*path, name], []]
            elif name not in old:
                yield [[*path, name], [new[name]]]
            else:
                yield from changes(old[name], new[name], (*path, name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new)):
            yield from changes(before, after, (*path, number))
    elif old != new or type(old) is not type(new):
        yield [list(path), [new]]


def changed(tree: Any, listed: Any) -> Any:
    """``tree``, which is JSON, changed in place.  Raises BadStructure where a change does not
    fit."""
    if type(listed) is not list:
        _refuse(BadStructure, "has no list of changes")
    for change in listed:
        if type(change) is not list or len(change) != 2 or type(change[0]) is not list \
                or not 0 < len(change[0]) <= MAX_DEPTH or type(change[1]) is not list \
                or len(change[1]) > 1:
            _refuse(BadStructure, "has a change that is none")
        *way, last = change[0]
        place = tree
        for step in way:
            place = place[_inside(place, step)]
        if isinstance(place, dict) and type(last) is str and (change[1] or last in place):
            if change[1]:
                place[last] = change[1][0]
            else:
                del place[last]
        elif change[1]:
            place[_inside(place, last)] = change[1][0]
        else:
            _refuse(BadStructure, "leaves out what is not there")
    return tree


def _inside(place: Any, step: Any) -> Any:
    """A step that leads on from a place.  Raises BadStructure for any other."""
    if isinstance(place, dict) and type(step) is str and step in place \
            or isinstance(place, list) and type(step) is int and 0 <= step < len(place):
        return step
    _refuse(BadStructure, "changes what is not there")


# ---- this host ---------------------------------------------------------------------------------
def identity(node: str, machine: str) -> str:
    """A host's identity: of its name and its machine-id(5), which must not be told as it is."""
    return _sha256(f"lio-handover\n{machine.strip()}\n{node}".encode())

"""A document's bytes: canonical JSON with the digest of it in front.

``encode`` turns JSON objects into bytes; ``decode`` turns such bytes into the objects again and
refuses all others.  json_types.py, values.py and decode.py validate what the objects say.
"""
from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Set, Tuple

from ..errors import (BadDigest, BadStructure, BadValue, Duplicate, NotJson, TooDeep, TooLarge,
                      Truncated, WrongVersion, quoted)
from .json_types import kind_of, reject

VERSION = 1
MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 32  # a document needs 11
#: For so many bytes that are taken, one value may stand in them: a document has a value in seven to
#: nine bytes, and each costs a hundred bytes of memory, or several times as many in a plan.
BYTES_OF_A_VALUE = 8
FEWER = "hand over fewer targets at once, or raise [limits] document"


# --- writing -------------------------------------------------------------------------------------
def encode(tree: Mapping[str, Any]) -> bytes:
    """Canonical bytes of a document's JSON objects with the digest they must have.

    Validates nothing: a test, or an operator's script, can make any document with it.
    """
    return with_digest(body_of(tree))


def with_digest(body: bytes, digest: str = "") -> bytes:
    """The bytes of a document with the digest in front; ``body``: the bytes of all other members,
    ``digest``: their digest, if known."""
    return b'{\n "digest": "%s",\n' % (digest or digest_of(body)).encode() + body[2:]


def digest_of(body: bytes) -> str:
    import hashlib
    return hashlib.sha256(body).hexdigest()


def body_of(tree: Mapping[str, Any]) -> bytes:
    text = text_of({name: value for name, value in tree.items() if name != "digest"})
    return text.encode("ascii")


#: Members whose own members, or entries, stand on lines of their own.
_MULTILINE_MEMBERS = frozenset("""state common backstores lu_groups targets tpgs luns acls portals
    storage host""".split())


def text_of(tree: Mapping[str, Any]) -> str:
    """Canonical JSON: keys sorted, a line for each thing that a person would compare."""
    import json
    encode = json.JSONEncoder(sort_keys=True, check_circular=False, default=_no_json).encode
    out: List[str] = []
    _render(tree, "\n", out, encode)
    out.append("\n")
    return "".join(out)


def _render(value: Any, line: str, out: List[str], encode: Callable[[Any], str]) -> None:
    inner = line + " "
    if isinstance(value, dict):
        opening = "{"
        for name in sorted(value):
            out.append(f"{opening}{inner}{encode(name)}: ")
            if name in _MULTILINE_MEMBERS and value[name]:
                _render(value[name], inner, out, encode)
            else:
                out.append(encode(value[name]))
            opening = ","
        out.append(line + "}")
    elif isinstance(value, (list, tuple)):
        opening = "["
        for entry in value:
            out.append(opening + inner)
            if isinstance(entry, dict) and not _MULTILINE_MEMBERS.isdisjoint(entry):
                _render(entry, inner, out, encode)
            else:
                out.append(encode(entry))
            opening = ","
        out.append(line + "]")
    else:
        out.append(encode(value))


def _no_json(value: Any) -> NoReturn:
    raise BadStructure(f"a {type(value).__name__} can't stand in a document")


# --- reading -------------------------------------------------------------------------------------
def decode(data: bytes, limit: int = MAX_BYTES) -> Dict[str, Any]:
    """The objects that ``encode`` turned into these bytes.  Raises a DocumentError, and nothing
    else,
    for any other bytes."""
    if len(data) > limit:
        reject(TooLarge, f"the document has {len(data)} bytes, more than {limit}")
    tree = parse(data, limit)
    if not isinstance(tree, dict):
        reject(BadStructure, f"the document is {kind_of(tree)}, not an object")
    if "version" not in tree:
        reject(BadStructure, "$.version is missing")
    version = tree["version"]
    if type(version) is not int:
        reject(BadStructure, f"$.version is {kind_of(version)}, not a number")
    if version != VERSION:
        reject(WrongVersion, f"the document has version {version}, this program knows {VERSION}",
               "use the same lio-handover on both hosts")
    _check_digest(data, tree)
    return {name: value for name, value in tree.items() if name != "digest"}


def parse(data: bytes, limit: int = MAX_BYTES, what: str = "the document") -> Any:
    """The values in JSON of another host, whose size, depth and number are bounded.  ``what``: the
    bytes, in a message.  Raises a DocumentError."""
    import json
    if len(data) > limit:
        reject(TooLarge, f"{what} has {len(data)} bytes, more than {limit}")
    _check_values(data, limit, what)
    depth, unclosed = _depth(data)
    if depth > MAX_DEPTH:
        reject(TooDeep, f"{what} is nested more than {MAX_DEPTH} deep")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        reject(NotJson, f"{what} is not UTF-8 text (byte {error.start})")
    if not text.strip(" \t\r\n"):
        reject(Truncated, f"{what} is empty")
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_int=_int, parse_constant=_constant)
    except RecursionError:
        reject(TooDeep, f"{what} is nested more than {MAX_DEPTH} deep")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        # Truncated text ends inside a string, a word or a number, or where one should begin.
        at_end = error.msg.startswith("Unterminated") or len(text) - error.pos <= 6
        if text[0] == "{" and unclosed and at_end:
            reject(Truncated, f"{what} ends too early ({where})", "copy the document again")
        if re.match(r"[0-9]", text[error.pos - 1:error.pos]):
            reject(NotJson, f"a number is not written in plain decimal digits ({where})")
        reject(NotJson, f"{what} is not JSON ({where}: {error.msg})")


def _check_values(data: bytes, limit: int, what: str) -> None:
    """Refuse more values than fit into the memory that a reader may have.  Strings, commas and
    brackets are counted wherever they stand; nothing is copied."""
    most = max(limit // BYTES_OF_A_VALUE, 1024)
    values = data.count(b'"') // 2 + sum(map(data.count, (b",", b"[", b"{")))
    if values > most:
        reject(TooLarge, f"{what} has more than {most} values", FEWER)


def _depth(data: bytes) -> Tuple[int, int]:
    """(how deep brackets are nested in JSON, how many are open at its end).

    For bytes that are not JSON, the depth is no less than a parser would reach.  The count stops
    above MAX_DEPTH.
    """
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = b"".join(bare.split(b'"')[::2]).translate(_ALL_ALIKE, _NOT_BRACKETS)
    levels = 0
    while levels <= MAX_DEPTH and b"[]" in kept:
        kept = kept.replace(b"[]", b"")  # the innermost ones
        levels += 1
    unclosed = kept.count(b"[")
    return levels + unclosed, unclosed


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ALL_ALIKE = bytes.maketrans(b"{}", b"[]")


def _pairs(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: Set[str] = set()
        for name, _ in pairs:
            if name in seen:
                reject(Duplicate, f"one object of the document has {quoted(name)} twice")
            seen.add(name)
    return members


def _int(text: str) -> int:
    if len(text) > 20:
        reject(BadValue, f"the document has a number of {len(text)} digits")
    return int(text)


def _constant(text: str) -> NoReturn:
    reject(NotJson, f"{text} is not JSON")


def _check_digest(data: bytes, tree: Mapping[str, Any]) -> None:
    digest = tree.get("digest")
    if digest is None:
        reject(BadStructure, "$.digest is missing")
    if not isinstance(digest, str):
        reject(BadStructure, f"$.digest is {kind_of(digest)}, not a string")
    head = b'{\n "digest": "%s",\n' % digest.encode("ascii", "replace")
    body = b"{\n" + data[len(head):]
    if not data.startswith(head) or digest_of(body) != digest:
        if digest_of(body + b"\n") == digest:
            reject(Truncated, "the document ends too early (its last newline is missing)",
                   "copy the document again")
        reject(BadDigest, "the document's digest does not fit: it was changed after it was written",
               "copy or export the document again")


def digest_told(data: bytes) -> str:
    """The digest that a document's bytes tell of themselves; "" where they tell none."""
    told = re.match(rb'\{\s*"digest": "([0-9a-f]{64})"', data)
    return told[1].decode() if told else ""

"""Inputs of up to 8 MiB that cost as much memory as such bytes can: python3 -m tests.fuzz.heavy

Each is read in a process of its own, whose peak is told.
"""
from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lio_handover.document.document import Document
from lio_handover.errors import HandoverError
from lio_handover.model.objects import State
from lio_handover.protocol.messages import Message, to_json
from lio_handover.protocol.table import MessageType
from tests.support import samples

from . import documents
from .runner import judged, peak

BYTES = 8 << 20
Tree = dict[str, Any]


def _tree(state: State = documents.ISCSI) -> Tree:
    return json.loads(json.dumps(Document(state).tree))  # type: ignore[no-any-return]


def _sealed(change: Callable[[Tree, int], None], most: int) -> bytes:
    """The document with as much of a change as fits into BYTES, or into what is taken."""
    tree = _tree()
    change(tree, most)
    data = documents.seal(tree)
    return data if len(data) <= BYTES else _sealed(change, most * BYTES // len(data) - 1)


def _attributes(tree: Tree, count: int) -> None:
    tree["state"]["backstores"][0]["attributes"].update(
        (f"attrib/{number:x}", "1") for number in range(count))


def _shared(tree: Tree, count: int) -> None:
    """As many LUNs as shared attributes of LUNs."""
    tree["state"]["common"]["lun/iscsi"] = {f"a{number}": "1" for number in range(count)}
    tree["state"]["targets"][0]["tpgs"][0]["luns"] = [
        {"attributes": {}, "backstore": "fileio/disk0", "number": number}
        for number in range(count)]


def _groups(tree: Tree, count: int) -> None:
    """As many LUNs as ALUA groups, each LUN in the last of them."""
    tree["state"]["backstores"][0]["alua_groups"] = [
        {"attributes": {}, "name": f"g{number}"} for number in range(count)]
    tree["state"]["targets"][0]["tpgs"][0]["luns"] = [
        {"attributes": {"alua_tg_pt_gp": f"g{count - 1}"}, "backstore": "fileio/disk0",
         "number": number} for number in range(count)]


def _mapped(tree: Tree, count: int) -> None:
    acl = tree["state"]["targets"][0]["tpgs"][0]["acls"][0]
    acl["mapped_luns"] = [{"attributes": {}, "lun": 0, "number": number}
                          for number in range(count)]


def _registrations(tree: Tree, count: int) -> None:
    reservations = tree["state"]["backstores"][0]["reservations"]
    first = reservations["registrations"][0]
    reservations["registrations"] = [{**first, "isid": f"{number:012x}"}
                                     for number in range(count)]


def _notes(tree: Tree, count: int) -> None:
    tree["notes"] = ["a" * 10] * count


def _facts(tree: Tree, count: int) -> None:
    tree["storage"]["fileio/disk0"] = {f"a{number}": 1 for number in range(count)}


def _host(tree: Tree, count: int) -> None:
    tree["host"]["fileio/disk0"] = {f"a{number}": "1" for number in range(count)}


def _portals(tree: Tree, count: int) -> None:
    tree["state"]["targets"][0]["tpgs"][0]["portals"] = [
        {"address": f"[::{number:x}]:1", "attributes": {}} for number in range(count)]


def _tokens(token: bytes) -> bytes:
    """A list of one token, as often as it fits."""
    head = b'{\n "digest": "%s",\n "version": 1,\n "x": [' % (b"0" * 64)
    return head + b",".join([token] * ((BYTES - len(head) - 8) // (len(token) + 1))) + b"]\n}\n"


def _spaced(token: bytes) -> bytes:
    """The same with as much space as makes them few enough to be taken."""
    values = token.count(b'"') // 2 + sum(map(token.count, (b"[", b"{", b","))) + 1
    return _tokens(token.ljust(8 * values + 1))


def _messages(document: bytes) -> bytes:
    return to_json([Message(MessageType.OFFER, documents.ID, 3, "", ("iscsi/a",), "iscsi",
                            document)])


#: name → (the input, the reader)
SHAPES: Mapping[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    "luns": (lambda: documents.seal(_tree(samples.iscsi(luns=7000, acls=4))),
             documents.read_large),
    "acls": (lambda: documents.seal(_tree(samples.iscsi(luns=4, acls=13000))),
             documents.read_large),
    **{name: (partial(_sealed, change, most), documents.read_large) for name, change, most in (
        ("attributes", _attributes, 174_000), ("shared", _shared, 400),
        ("shared-too-many", _shared, 1 << 15), ("groups", _groups, 65_000),
        ("mapped", _mapped, 87_000), ("registrations", _registrations, 43_000),
        ("notes", _notes, 500_000), ("facts", _facts, 340_000), ("host", _host, 340_000),
        ("portals", _portals, 65_000))},
    **{f"tokens {token.decode()}": (partial(_tokens, token), documents.sealed)
       for token in (b"0", b"{}", b'"ab"', b'{"":0}', b'""')},
    **{f"spaced {token.decode()}": (partial(_spaced, token), documents.sealed)
       for token in (b"0", b"{}", b'"ab"', b'{"":0}', b"[0]", "\"\U0001f600\"".encode())},
    "message": (lambda: _messages(_sealed(_registrations, 43_000)), documents.read_messages),
    "message of quotes": (lambda: _messages(b'"' * (BYTES // 2)), documents.read_messages),
    "message tokens": (lambda: b"[" + b",".join([b"{}"] * (BYTES // 3 - 2)) + b"]",
                       documents.read_messages),
    "answer tokens": (lambda: b'{"a": [' + b",".join([b"{}"] * (BYTES // 3 - 8)) + b"]}",
                      documents.read_reply),
    "stream tokens": (lambda: b"[" + b",".join([b"{}"] * ((1 << 20) // 3 - 2)) + b"]",
                      documents.read_stream),
}


def measured(name: str) -> tuple[int, float, str]:
    """(peak in MiB, seconds of the processor, what was said) of a shape, in a fresh process."""
    data = SHAPES[name][0]()
    done = subprocess.run([sys.executable, "-m", "tests.fuzz.heavy", "--read", name], input=data,
                          stdout=subprocess.PIPE, check=True)
    peak, seconds, words = json.loads(done.stdout)
    return peak, seconds, words


def _read(name: str) -> None:
    data = sys.stdin.buffer.read()
    begin = time.process_time()
    try:
        SHAPES[name][1](data)
        words = "taken"
    except HandoverError as error:
        words = judged(error) or f"{type(error).__name__}: {error.what}"
    print(json.dumps([peak(),
                      time.process_time() - begin, words]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        _read(sys.argv[2])
    else:
        for chosen in sys.argv[1:] or SHAPES:
            print(chosen, *measured(chosen), flush=True)

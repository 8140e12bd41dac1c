"""The changes of served targets since their copy was kept: ``changed.jsonl``, beside the copy.

A copy has all of its targets, so that to write it anew for each LUN that is added would take longer
with each.  A change adds a line instead, which is on the disk when `append` returns; whoever reads
the copy reads these, too.  Lines of another copy than the one that lies there say nothing: a copy
that is kept anew has all of it.
"""
from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, Iterator, List, Tuple

from .. import errors
from ..document import document as documents
from ..document.document import Document
from ..model.keys import Key, display
from ..model.objects import Backstore, State
from ..plan import edits
from ..system.atomic_file import append_line, write_file
from .journal import CHANGED, Journal, way_out
from .record_kinds import VERSION

#: Bytes of lines after which the copy is to be written anew, unless the copy itself has more.
MOST = 1 << 20
#: A file for each target that is being changed, from before the kernel is until the copy has it,
#: too.  A boot brings the copy back, and forgets these.
UNDER_WAY = "/run/lio-handover/changing"
_DIGEST = re.compile(rb'\{\n "digest": "([0-9a-f]{64})",\n')


@dataclass(frozen=True)
class CopyChange:
    """``put``: objects that were made or changed, of which ``document`` has each, and whatever it
    refers to; ``gone``: objects that were removed."""

    document: Document
    put: Tuple[Key, ...] = ()
    gone: Tuple[Key, ...] = ()


def append(journal: Journal, name: str, change: CopyChange) -> bool:
    """Add a change to the copy of this name: on the disk when this returns.  False where the copy
    has to be kept anew, as there are too many, or it is none.  Raises JournalBroken, and a
    DocumentError where the document could not be read again."""
    base = _digest(journal, name)
    path = os.path.join(journal.folder, CHANGED)
    if not base:
        return False
    line = json.dumps({"version": VERSION, "base": base, "put": change.put, "gone": change.gone,
                       "document": documents.dumps(change.document).decode("ascii")},
                      sort_keys=True).encode()
    try:
        most = max(MOST, os.stat(os.path.join(journal.folder, name)).st_size)
        if not append_line(path, line, most):
            return False
    except OSError as error:
        raise errors.JournalBroken(f"{path}: {error.strerror or error}") from None
    journal.documents.clear()
    return True


# ---- changes that are under way ------------------------------------------------------------------
def begin(names: Iterable[str], keep: bool) -> None:
    """Note that these targets are being changed, and whether a new one shall be kept for a boot."""
    for name in names:
        try:
            os.makedirs(UNDER_WAY, mode=0o700, exist_ok=True)
            write_file(_noted(name), b"keep" if keep else b"", durable=False)
        except OSError:
            pass  # then the guard of the service, which compares, finds what was cut off


def end(names: Iterable[str]) -> None:
    """Note that the copies have all of it."""
    for name in names:
        try:
            os.unlink(_noted(name))
        except OSError:
            pass


def cut_off(names: Iterable[str]) -> Dict[str, bool]:
    """The targets of these that a change was begun of and not ended, and whether a new one was to
    be kept; for who has their locks."""
    there: Dict[str, bool] = {}
    for name in names:
        try:
            with open(_noted(name), "rb") as file:
                there[name] = file.read(8) == b"keep"
        except OSError:
            pass
    return there


def _noted(name: str) -> str:
    return os.path.join(UNDER_WAY, name.replace("/", "_"))


def applied(journal: Journal, name: str, document: Document) -> Document:
    """The copy of this name, ``document``, with what was changed since.  Raises JournalBroken."""
    for change in _changes(journal, name):
        document = _with(document, change)
    return document


def _changes(journal: Journal, name: str) -> Iterator[CopyChange]:
    path = os.path.join(journal.folder, CHANGED)
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise errors.JournalBroken(f"{path}: {error.strerror}",
                                   do=way_out(journal.folder)) from None
    base = _digest(journal, name)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"}"):
            continue  # half a line, of a crash
        try:
            words = json.loads(line)
            if words["version"] != VERSION:
                raise ValueError("version")
            if words["base"] == base:
                yield CopyChange(documents.loads(words["document"].encode("ascii")),
                                 _keys(words["put"]), _keys(words["gone"]))
        except (*errors.MISSHAPEN, errors.DocumentError) as error:
            raise errors.JournalBroken(f"{path}, line {number} can't be read: "
                                       f"{type(error).__name__}",
                                       do=way_out(journal.folder)) from None


def _keys(words: Any) -> Tuple[Key, ...]:
    keys = tuple(tuple(key) for key in words)
    if not all(key and all(isinstance(word, str) for word in key) for key in keys):
        raise ValueError("keys")
    return keys


def _digest(journal: Journal, name: str) -> str:
    """The digest that a copy says it has, "" where there is none."""
    try:
        with open(os.path.join(journal.folder, name), "rb") as file:
            head = _DIGEST.match(file.read(128))
    except OSError:
        return ""
    return head[1].decode() if head else ""


def _with(document: Document, change: CopyChange) -> Document:
    """A copy with a change; of backstores those stay that a LUN of it exports."""
    state, there = document.state, change.document.state.index()
    for key in change.gone:
        if edits.find(state, key) is not None:
            state = edits.without(state, key)
    for key in sorted(change.put, key=len):
        state = edits.put_alone(state, there[key])
    groups = {group.key: group for group in (*state.lu_groups, *change.document.state.lu_groups)}
    used = {lun.backstore for _, _, lun in state.all_luns()}
    stores: List[Backstore] = [store for store in state.backstores if store.key in used]
    named = {store.attributes.get("alua_lu_gp") for store in stores}
    state = State(tuple(group for group in groups.values() if group.name in named), tuple(stores),
                  state.targets, state.discovery_auth)
    evidence: Dict[str, documents.Evidence] = {**document.storage, **change.document.storage}
    kept = {display(store.key) for store in stores}
    return replace(document, state=state, storage={
        name: proof for name, proof in evidence.items() if name in kept})

"""What of a host no document can carry: found where it is, before a gate is shut.

The rules are those by which every document is read (shape, values, objects).
"""
from __future__ import annotations

import re
from dataclasses import replace
from typing import Iterator, List, Tuple

from . import document as documents
from . import dynamic, errors, reservations
from .document import Document
from .errors import Finding, one_line
from .model import Backstore, Object, State, Target, Tpg, backstore_key, say

_STORE = Backstore(backstore_key("rd_mcp", "x"), {"rd_pages": "1"})
_CHILDREN = {"tpgs": "tpg", "luns": "lun", "acls": "acl", "portals": "portal",
             "mapped_luns": "mapped_lun", "alua_groups": "alua_group"}
_WHERE = re.compile(r"\$\.state\.[a-z_]+\[[0-9]+\]((?:\.[a-z_]+\[[0-9]+\])*)(.*)", re.DOTALL)


def of(state: State) -> List[Finding]:
    """What speaks against a document of ``state``, as the kernel shows it."""
    settled = replace(state, backstores=tuple(
        replace(one, reservations=reservations.settled(one.reservations))
        for one in state.backstores))
    return findings(Document(dynamic.made_explicit(settled, {})[0]))


def findings(document: Document) -> List[Finding]:
    """Nothing where the document can be read; else one finding for each object that is wrong, as
    far as one error does not hide another."""
    try:
        documents.check(document)
    except errors.DocumentError as error:
        found = list(_each(documents.canonical(document.state)))
        return found or [Finding(errors.CannotRepresent, "the document", _plain(error.what))]
    return []


def _each(state: State) -> Iterator[Finding]:
    bad = set()
    for group in state.lu_groups:
        for one in _wrong(State((group,)), group):
            bad.add(group.key)
            yield one
    groups = tuple(one for one in state.lu_groups if one.key not in bad)
    for store in state.backstores:
        if {("lu_group", store.attributes.get("alua_lu_gp", ""))} & bad:
            store = replace(store, attributes={
                name: value for name, value in store.attributes.items() if name != "alua_lu_gp"})
        yield from _wrong(State(groups, (store,)), store)
    for target in state.targets:
        yield from _wrong(State((), (_STORE,), (_without_stores(target),)), target)


def _without_stores(target: Target) -> Target:
    """The target by itself: what its LUNs link to is judged elsewhere."""
    def tpg(one: Tpg) -> Tpg:
        return replace(one, luns=tuple(replace(
            lun, backstore=_STORE.key if lun.backstore else None, attributes={
                name: value for name, value in lun.attributes.items() if name != "alua_tg_pt_gp"})
            for lun in one.luns))
    return replace(target, tpgs=tuple(map(tpg, target.tpgs)))


def _wrong(state: State, root: Object) -> Iterator[Finding]:
    try:
        documents.check(Document(state))
    except errors.DocumentError as error:
        subject, sentence = _where(root, error.what)
        yield Finding(errors.CannotRepresent, one_line(say(subject.key)),
                      f"{sentence}: no document can carry that",
                      do="change it on this host first, or take it out of the target")


def _where(root: Object, what: str) -> Tuple[Object, str]:
    """The object that an error is about, and what it says of it."""
    found = _WHERE.fullmatch(what)
    if found is None:
        return root, _plain(what)
    one = root
    for kind, number in re.findall(r"\.([a-z_]+)\[([0-9]+)\]", found[1]):
        below = [child for child in one.children() if child.kind == _CHILDREN.get(kind)]
        if int(number) >= len(below):
            return root, _plain(what)
        one = below[int(number)]
    rest = found[2]
    return one, f"its {rest[1:]}" if rest.startswith(".") else f"it {rest.strip()}"


def _plain(what: str) -> str:
    return what.replace("$.state.", "").replace("$.", "")

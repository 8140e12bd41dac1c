"""Parts of this host's state that no document can carry, reported where they can still be changed.

The source and the destination validate a document by the same rules (document.check).  This module
turns the place in the document that a rule names into a file of the target tree.
"""
from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

from .. import errors
from ..errors import Finding
from ..model.objects import Backstore, Lun, MappedLun, State, Target, Tpg
from ..model.reservations import with_known_all_tg_pt
from . import document as documents
from .document import Document

_STEP = re.compile(r"\.(\w+)\[(\d+)\]|\.(\w+)|\[('(?:[^'\\]|\\.)*')\]")
#: A list in a document → the folder below its owner that holds it.
_FOLDERS: Mapping[str, str] = {"luns": "lun/{}", "portals": "np/{}", "acls": "acls/{}",
                               "alua_groups": "alua/{}", "mapped_luns": "{}", "tpgs": "{}"}


class Location(NamedTuple):
    """A path in the target tree, and what the user can do there."""

    path: str
    do: str


_ANEW = "remove it, and make it anew under another name"
_VALUE = "write another value to it on this host"
_UNREGISTER = "let that initiator unregister, which a new key may follow"


def findings(document: Document) -> List[Finding]:
    """The reasons why this document of this host could not be read again, each with a remedy."""
    try:
        documents.check(document)
        return []
    except errors.DocumentError as error:
        whole = _finding(document.state, error)
    problems = [finding for state in _parts(document.state) for finding in _alone(state)]
    return list({finding.subject: finding for finding in problems or [whole]}.values())


def registered(state: State) -> List[Finding]:
    """The findings for the reservations alone, where the rest has been validated before."""
    stores = tuple(replace(backstore, attributes={}, alua_groups=())
                   for backstore in state.backstores
                   if backstore.reservations)
    return of_state(State((), stores)) if stores else []


def of_state(state: State) -> List[Finding]:
    """The findings for a state in which ALL_TG_PT may not be known yet."""
    return findings(Document(replace(state, backstores=tuple(
        replace(backstore, reservations=with_known_all_tg_pt(backstore.reservations))
        for backstore in state.backstores))))


def _parts(state: State) -> List[State]:
    """Each backstore alone, then each target whose backstores are valid, with them: so that all
    reasons are reported, not only the first."""
    stores = [State(state.lu_groups, (backstore,)) for backstore in state.backstores]
    wrong = {store.backstores[0].key for store in stores if _alone(store)}
    of: Dict[str, Tuple[Backstore, ...]] = {
        target.name: tuple(backstore for backstore in state.backstores if backstore.key in {
            lun.backstore for tpg in target.tpgs for lun in tpg.luns})
        for target in state.targets}
    return [*stores, *(State(state.lu_groups, of[target.name], (target,))
                       for target in state.targets
                       if not wrong & {backstore.key for backstore in of[target.name]})]


def _alone(state: State) -> List[Finding]:
    state = documents.canonical(state)
    try:
        documents.check(Document(state))
    except errors.DocumentError as error:
        return [_finding(state, error)]
    return []


def _finding(state: State, error: errors.DocumentError) -> Finding:
    where, said = _split(error.what)
    place = _place(documents.canonical(state), where)
    return Finding(errors.CannotRepresent, errors.shown(place.path),
                   f"no document can carry it: {said or error.what}", do=place.do)


def _split(what: str) -> Tuple[str, str]:
    """(where in the document, what is wrong there)."""
    at = 1 if what.startswith("$") else 0
    while at:
        step = _STEP.match(what, at)
        if not step:
            return what[:at], what[at:].lstrip(" ,:")
        at = step.end()
    return "", what


def _place(state: State, where: str) -> Location:
    """The location for a place in the document; a place that is not understood keeps the
    document's name.  Raises nothing."""
    path, do = "", "lio-handover show"
    obj: Any = state
    for name, number, member, quoted in _STEP.findall(where):
        if name in ("backstores", "targets", "lu_groups"):
            obj = getattr(state, name)[int(number)]
            path = _root(obj)
        elif name == "registrations":
            return Location(f"{path}/res_pr_registered_i_pts", _UNREGISTER)
        elif name in _FOLDERS:
            obj = getattr(obj, name)[int(number)]
            path += "/" + _FOLDERS[name].format(
                obj.at if isinstance(obj, (Tpg, Lun, MappedLun)) else obj.key[-1])
            do = _ANEW
        elif member in ("name", "wwn", "initiator", "address", "number", "tag", "plugin", "fabric"):
            do = _ANEW
        elif member == "parameters":
            path, do = f"{path}/info", "remove the backstore, and make it anew with what can be"
        elif member == "reservations":
            path, do = f"{path}/pr", _UNREGISTER
        elif member == "common":
            path = "every object of that kind"
        elif quoted and not path.endswith("/info"):
            path, do = f"{path}/{quoted[1:-1]}", _VALUE
    return Location(path or where or "the document", do)


def _root(obj: object) -> str:
    if isinstance(obj, Backstore):
        return f"core/{obj.hba or obj.plugin}/{obj.name}"
    if isinstance(obj, Target):
        return obj.name
    return f"core/alua/lu_gps/{getattr(obj, 'name')}"

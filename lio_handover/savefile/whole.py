"""targetcli's save file as a whole: what is served becomes what a restore brings back.

As ``saveconfig`` of targetcli, with what that loses: entries of fabrics that this program does not
know, and members that nobody knows, stay byte for byte, and so does each entry that says already
what is served.
"""
from __future__ import annotations

import os
from functools import partial
from typing import AbstractSet, Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .. import errors
from ..model import fabrics, plugins
from ..model.attributes import NONE
from ..model.objects import DiscoveryAuth, State
from . import parsed, places, rtslib_entries, rtslib_names, save_file
from .json_splice import Element, Part, Splice

LISTS = ("fabric_modules", *parsed.LISTS)
#: Attribute of discovery authentication → rtslib's member (rtslib/fabric.py:dump).
_DISCOVERY: Mapping[str, str] = {
    "userid": "discovery_userid", "password": "discovery_password",
    "userid_mutual": "discovery_mutual_userid", "password_mutual": "discovery_mutual_password"}


def default_path(dbroot: str, more: Sequence[str] = ()) -> str:
    """The file that a restore at a boot reads: the one that the owner or a unit names, else the one
    in the kernel's ``dbroot``, else the one that is there, else rtslib's.  Raises SavefileBroken.
    """
    there = places.everywhere(more)
    named = [*places.named(more),
             *(path for path in there if os.path.dirname(path) == dbroot), *there]
    return named[0] if named else places.KNOWN[0]


def save(state: State, path: str, directory: str, staying: AbstractSet[str] = frozenset()) -> None:
    """Have the file say what ``state`` is, and nothing else of the fabrics that are known here, but
    for entries of the targets ``staying``.  ``directory``: where the locks are.

    Raises SavefileBroken where rtslib could not restore a name, or the file is none.
    """
    refused = rtslib_names.refused(state)
    if refused:
        raise errors.SavefileBroken(f"targetcli can't have the name {refused}",
                                    do="lio-handover adopt the target, or save it under another")
    wanted: Dict[str, List[Dict[str, Any]]] = {
        "targets": [rtslib_entries.target(target) for target in state.targets],
        "storage_objects": [rtslib_entries.storage_object(store) for store in state.backstores],
        "fabric_modules": _discovery(state.discovery_auth)}
    save_file.settle(path, partial(_saved, wanted, staying), directory)


def _discovery(auth: "DiscoveryAuth | None") -> List[Dict[str, Any]]:
    """rtslib saves it where it is enforced."""
    has = auth.attributes if auth else {}
    if has.get("enforce_discovery_auth") != "1":
        return []
    return [{"name": "iscsi", "discovery_enable_auth": True,
             **{member: has[name] for name, member in _DISCOVERY.items()
                if has.get(name, NONE) not in ("", NONE)}}]


def _saved(wanted: Mapping[str, Sequence[Mapping[str, Any]]], staying: AbstractSet[str],
           content: Splice) -> str:
    whole = Splice(content.text, LISTS)
    parts: Dict[str, List[List[Part]]] = {}
    for name in LISTS:
        arrays = [array for array in whole.arrays if array.name == name]
        left = [dict(entry) for entry in wanted[name]]
        lists: List[List[Part]] = []
        for array in arrays:
            kept: List[Part] = []
            for element in array.elements:
                kept += _instead(whole, name, element, left, staying)
            lists.append(kept)
        lists = lists or [[]]
        lists[-1] += [whole.written(entry) for entry in left]
        parts[name] = lists
    return whole.with_parts(parts)


def _instead(whole: Splice, name: str, element: Element, left: List[Dict[str, Any]],
             staying: AbstractSet[str]) -> List[Part]:
    """The parts that stand in the place of an element from now on, taken from those ``left``."""
    if not _is_ours(name, element.value) or name == "targets" \
            and rtslib_names.targets(element.value) & staying:
        return [element]
    for entry in left:
        if _same(name, entry, element.value):
            left.remove(entry)
            return [element if _says(element.value, entry)
                    else whole.written({**element.value, **entry})]
    return []


#: Members by which objects of a list are told apart; rtslib writes them in the kernel's order.
_NAMED_BY = ("tag", "index", "node_wwn", "name", "ip_address", "port")


def _says(there: Any, wanted: Any) -> bool:
    """Whether an element says all that is wanted, whatever it says besides, and in whichever
    order."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            _says(there.get(name, _ABSENT.get(name)), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(
            map(_says, _sorted(there), _sorted(wanted)))
    return _word(there) == _word(wanted)


#: Members that rtslib leaves out where they are so.
_ABSENT: Mapping[str, Any] = {"aio": False, "offload": False, "iser": False, "exclusive": True,
                              "nullio": False}


def _sorted(entries: Sequence[Any]) -> List[Any]:
    return sorted(entries, key=lambda entry: [str(entry.get(name)) for name in _NAMED_BY]
                  if isinstance(entry, dict) else [str(entry)])


def _word(value: Any) -> str:
    """The text that the kernel would get; str() of a secret does not tell it."""
    if isinstance(value, str):
        return value
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)


def _is_ours(name: str, entry: Mapping[str, Any]) -> bool:
    if name == "targets":
        return str(entry.get("fabric")) in fabrics.FABRICS
    if name == "storage_objects":
        return str(entry.get("plugin")) in plugins.BY_RTSLIB_NAME
    return entry.get("name") == "iscsi"


_SAME: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Any]] = {
    "targets": lambda entry, other: rtslib_names.targets(entry) & rtslib_names.targets(other),
    "storage_objects": lambda entry, other: rtslib_names.store(entry) == rtslib_names.store(other),
    "fabric_modules": lambda entry, other: entry["name"] == other.get("name")}


def _same(name: str, entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries become the same object."""
    return bool(_SAME[name](entry, other))


def others(text: str) -> Tuple[str, ...]:
    """The targets of a file whose fabrics are not known here: ``tcm_fc/naa.…``."""
    return tuple(f"{element.value.get('fabric')}/{element.value.get('wwn')}"
                 for element in Splice(text, LISTS).elements("targets")
                 if not _is_ours("targets", element.value))

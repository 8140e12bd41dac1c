"""Dynamic ACLs made explicit: a TPG with generate_node_acls gives one at each initiator's login.

The kernel activates a restored registration only when its initiator's ACL exists.  A dynamic ACL
comes with the login, and until then the reservation keeps no initiator out (target_core_tpg.c:
core_tpg_check_initiator_node_acl).  So on the destination each such initiator gets an ACL of its
own, with all that its dynamic ACL had from the TPG.
"""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Dict, List, Mapping, Sequence, Tuple

from . import fabrics
from .attributes import rows
from .defaults import DEFAULTS
from .keys import acl_key, display, mapped_lun_key, target_key, tpg_key
from .objects import Acl, Key, MappedLun, State, Tpg

#: TPG's key → initiators
Initiators = Mapping[Key, Sequence[str]]


def generates_acls(tpg: Tpg) -> bool:
    """Whether the kernel gives an initiator that logs in to the TPG without an ACL a dynamic one,
    which then stays."""
    return fabrics.of(tpg.fabric).logins and tpg.attributes.get("attrib/generate_node_acls") == "1"


def sessions(tpg: Tpg) -> List[str]:
    """The initiators that are logged in and have no ACL of their own, sorted."""
    explicit = {acl.initiator for acl in tpg.acls}
    return sorted({name for name in tpg.sessions if name not in explicit})


def with_explicit_acls(state: State, recorded: Initiators) -> Tuple[State, Tuple[str, ...]]:
    """(the state with an ACL for each initiator that has a dynamic one, notes for the user).

    An initiator has a dynamic ACL where it is logged in, is ``recorded`` as logged in before the
    target was frozen, or is registered.
    """
    registered: Dict[Key, List[str]] = {}
    for store in state.backstores:
        for registration in store.reservations.registrations:
            fabric = fabrics.of_pr_name(registration.fabric).name
            key = tpg_key(target_key(fabric, registration.target), registration.tpgt)
            registered.setdefault(key, []).append(registration.initiator)
    notes: List[str] = []

    def explicit(tpg: Tpg) -> Tpg:
        if not generates_acls(tpg):
            return tpg
        there = {acl.initiator for acl in tpg.acls}
        names = {*sessions(tpg), *recorded.get(tpg.key, ()), *registered.get(tpg.key, ())} - there
        notes.extend(
            f"{display(tpg.key)}: {name}, there by a dynamic ACL, gets one of its own with the "
            "TPG's CHAP, depth and write protection, so that its reservations hold before it is "
            "back; LUNs that are added later have to be mapped for it" for name in sorted(names))
        return replace(tpg, acls=(*tpg.acls, *(_acl(tpg, name) for name in sorted(names))))

    return replace(state, targets=tuple(
        replace(target, tpgs=tuple(map(explicit, target.tpgs)))
        for target in state.targets)), tuple(notes)


@lru_cache(maxsize=None)
def _defaults(fabric: str) -> Mapping[str, str]:
    """The attributes of an ACL that was not changed; a dynamic ACL cannot be changed."""
    table = rows("acl", fabric)
    return {name: value for name, value in DEFAULTS["acl", fabric].items()
            if value and table[name].if_absent != value}


@lru_cache(maxsize=None)
def _from_tpg(fabric: str) -> Mapping[str, str]:
    """Attribute of the TPG → attribute of the ACL that has its value from there."""
    return {row.inherits or path: path for path, row in rows("acl", fabric).items()
            if row.inherits or path.startswith("auth/")}


def _acl(tpg: Tpg, initiator: str) -> Acl:
    """Each LUN under its own number (target_core_tpg.c:core_tpg_add_node_to_devs)."""
    key = acl_key(tpg.key, initiator)
    attributes = {**_defaults(tpg.fabric), **{
        name: tpg.attributes[of_tpg] for of_tpg, name in _from_tpg(tpg.fabric).items()
        if tpg.attributes.get(of_tpg, "NULL") != "NULL"}}
    protected = tpg.attributes.get("attrib/demo_mode_write_protect", "1")
    return Acl(key, attributes, tuple(
        MappedLun(mapped_lun_key(key, lun.number), lun.number,
                  attributes={"write_protect": protected})
        for lun in tpg.luns if lun.backstore is not None))

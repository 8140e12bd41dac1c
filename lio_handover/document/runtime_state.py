"""What of a state changes while it is served, and what does not.

Run-time state (registrations, ALUA states) is carried as it last was; a change of anything else
between prepare and freeze ends a handover.  Gates belong to neither: freeze shuts them.
"""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Callable, FrozenSet, Tuple

from ..model import dynamic_acls, fabrics
from ..model.attributes import RUNTIME, owner_of, rows
from ..model.diff import Change, diff
from ..model.fabrics import Gate
from ..model.objects import (NO_RESERVATIONS, Acl, Backstore, Lun, MappedLun, Object, State, Target,
                             Tpg)
from ..model.reservations import settled
from .document import Document, canonical, state_bytes

_Keeps = Callable[[str, FrozenSet[str]], bool]


@lru_cache(maxsize=None)
def _runtime_names(kind: str, owner: str) -> FrozenSet[str]:
    return frozenset(name for name, one in rows(kind, owner).items() if one.kind == RUNTIME)


def _filtered(one: Object, keeps: _Keeps) -> dict[str, str]:
    """Those of its attributes that ``keeps`` lets stay, told which of the kind are run-time
    state."""
    names = _runtime_names(one.kind, owner_of(one.key))
    return {name: value for name, value in one.attributes.items() if keeps(name, names)}


def _map(state: State, keeps: _Keeps) -> State:
    """The state with those attributes only that ``keeps`` names."""
    def tpg(one: Tpg) -> Tpg:
        return replace(
            one, attributes=_filtered(one, keeps),
            portals=tuple(replace(portal, attributes=_filtered(portal, keeps))
                          for portal in one.portals),
            luns=tuple(replace(lun, attributes=_filtered(lun, keeps)) for lun in one.luns),
            acls=tuple(replace(
                acl, attributes=_filtered(acl, keeps), mapped_luns=tuple(
                    replace(mapped, attributes=_filtered(mapped, keeps))
                    for mapped in acl.mapped_luns)) for acl in one.acls))

    return State(
        tuple(replace(group, attributes=_filtered(group, keeps)) for group in state.lu_groups),
        tuple(replace(backstore, attributes=_filtered(backstore, keeps), alua_groups=tuple(
            replace(group, attributes=_filtered(group, keeps)) for group in backstore.alua_groups))
            for backstore in state.backstores),
        tuple(replace(target, attributes=_filtered(target, keeps),
                      tpgs=tuple(map(tpg, target.tpgs)))
              for target in state.targets))


def digest(state: State) -> str:
    """64 hex digits: the same for the same run-time state, wherever it is read."""
    import hashlib
    kept = _map(state, lambda name, runtime: name != "enable" and name in runtime)
    kept = replace(kept, backstores=tuple(
        replace(backstore, parameters={}, reservations=settled(backstore.reservations))
        for backstore in kept.backstores), targets=tuple(
        replace(target, tpgs=tuple(replace(tpg, portals=(), acls=()) for tpg in target.tpgs))
        for target in kept.targets))
    return hashlib.sha256(state_bytes(Document(kept))).hexdigest()


def structure(state: State) -> State:
    """The state without what changes while it is served."""
    kept = _map(canonical(state), lambda name, runtime: name not in runtime)
    return replace(kept, backstores=tuple(
        replace(backstore, reservations=NO_RESERVATIONS) for backstore in kept.backstores))


def changes(old: State, new: State) -> Tuple[Change, ...]:
    """What was changed between two looks, other than run-time state and gates.

    Where who logs in is given an ACL, those come and go.
    """
    made = {tpg.key for state in (old, new) for target in state.targets for tpg in target.tpgs
            if dynamic_acls.generates_acls(tpg)}
    return tuple(change for change in diff(structure(old), structure(new), gates=False)
                 if change.key[4:5] != ("acl",) or change.key[:4] not in made)


def staged(state: State, has_rtpi: bool) -> State:
    """As much of the state as a destination builds while the source still serves: places for
    LUNs and no links, so no registrations; no nexus, and every gate shut."""
    def store(one: Backstore) -> Backstore:
        return replace(one, reservations=NO_RESERVATIONS)

    def acl(one: Acl) -> Acl:
        return replace(one, mapped_luns=tuple(MappedLun(lun.key) for lun in one.mapped_luns))

    def tpg(one: Tpg) -> Tpg:
        left = {"nexus", *(() if has_rtpi else ("rtpi",))}
        attributes = {name: value for name, value in one.attributes.items() if name not in left}
        if "enable" in attributes:
            attributes["enable"] = "0"
        return replace(one, attributes=attributes, luns=tuple(Lun(lun.key) for lun in one.luns),
                       acls=tuple(map(acl, one.acls)))

    def target(one: Target) -> Target:
        return replace(one, tpgs=tuple(map(tpg, one.tpgs)))

    return replace(state, backstores=tuple(map(store, state.backstores)),
                   targets=tuple(map(target, state.targets)))


def shut(state: State) -> State:
    """The state with every gate shut that can be shut (iSCSI's)."""
    return replace(state, targets=tuple(
        replace(target, tpgs=tuple(
            replace(tpg, attributes={**tpg.attributes, "enable": "0"})
            if fabrics.gate_of(target.fabric) is Gate.ENABLE else tpg for tpg in target.tpgs))
        for target in state.targets))

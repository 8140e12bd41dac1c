"""The part of a state that changes while it is served, and the part that does not.

A handover carries run-time state (registrations, ALUA states) as it last was; a change of anything
else between prepare and freeze ends the handover.  Gates belong to neither part: freeze shuts them.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Callable, FrozenSet, Tuple

from ..model import dynamic_acls, fabrics
from ..model.attributes import owner_of, runtime_names
from ..model.diff import Change, diff
from ..model.fabrics import Gate
from ..model.objects import (NO_RESERVATIONS, Acl, Backstore, Lun, MappedLun, Object, State, Target,
                             Tpg)
from ..model.reservations import with_known_all_tg_pt
from .document import Document, canonical, state_bytes

_Keeps = Callable[[str, FrozenSet[str]], bool]
#: Where a State, which nobody changes, keeps what was worked out of it.
_DIGEST, _STRUCTURE = "_digest", "_structure"


def _filtered(obj: Object, keeps: _Keeps) -> dict[str, str]:
    """The attributes of an object for which ``keeps`` (name, the kind's run-time names) is true."""
    names = runtime_names(obj.kind, owner_of(obj.key))
    return {name: value for name, value in obj.attributes.items() if keeps(name, names)}


def _map(state: State, keeps: _Keeps) -> State:
    """The state with only the attributes for which ``keeps`` is true."""
    def filtered_tpg(tpg: Tpg) -> Tpg:
        return replace(
            tpg, attributes=_filtered(tpg, keeps),
            portals=tuple(replace(portal, attributes=_filtered(portal, keeps))
                          for portal in tpg.portals),
            luns=tuple(replace(lun, attributes=_filtered(lun, keeps)) for lun in tpg.luns),
            acls=tuple(replace(
                acl, attributes=_filtered(acl, keeps), mapped_luns=tuple(
                    replace(mapped, attributes=_filtered(mapped, keeps))
                    for mapped in acl.mapped_luns)) for acl in tpg.acls))

    return State(
        tuple(replace(group, attributes=_filtered(group, keeps)) for group in state.lu_groups),
        tuple(replace(backstore, attributes=_filtered(backstore, keeps), alua_groups=tuple(
            replace(group, attributes=_filtered(group, keeps)) for group in backstore.alua_groups))
            for backstore in state.backstores),
        tuple(replace(target, attributes=_filtered(target, keeps),
                      tpgs=tuple(map(filtered_tpg, target.tpgs)))
              for target in state.targets))


def digest(state: State) -> str:
    """SHA-256 of the run-time state, 64 hex digits: the same on every host with the same state."""
    import hashlib
    known = vars(state).get(_DIGEST)
    if known is not None:
        return str(known)
    kept = _map(state, lambda name, runtime: name != "enable" and name in runtime)
    kept = replace(kept, backstores=tuple(
        replace(backstore, parameters={}, reservations=with_known_all_tg_pt(backstore.reservations))
        for backstore in kept.backstores), targets=tuple(
        replace(target, tpgs=tuple(replace(tpg, portals=(), acls=()) for tpg in target.tpgs))
        for target in kept.targets))
    vars(state)[_DIGEST] = hashlib.sha256(state_bytes(Document(kept))).hexdigest()
    return str(vars(state)[_DIGEST])


def structure(state: State) -> State:
    """The state without its run-time state and reservations."""
    if _STRUCTURE not in vars(state):
        vars(state)[_STRUCTURE] = without_reservations(
            _map(canonical(state), lambda name, runtime: name not in runtime))
    known: State = vars(state)[_STRUCTURE]
    return known


def without_reservations(state: State) -> State:
    return replace(state, backstores=tuple(replace(store, reservations=NO_RESERVATIONS)
                                           for store in state.backstores))


def structural_changes(old: State, new: State) -> Tuple[Change, ...]:
    """The changes between two readings of a host, other than those of run-time state and gates.

    ACLs of a TPG that generates dynamic ones do not count: they come and go with logins.
    """
    generating = {tpg.key for state in (old, new) for target in state.targets for tpg in target.tpgs
                  if dynamic_acls.generates_acls(tpg)}
    return tuple(change for change in diff(structure(old), structure(new), gates=False)
                 if change.key[4:5] != ("acl",) or change.key[:4] not in generating)


def staged_state(state: State, has_rtpi: bool) -> State:
    """The part of the state that a destination builds while the source still serves: directories
    for LUNs but no links, so no registrations; no nexus, and every gate shut."""
    def staged_backstore(backstore: Backstore) -> Backstore:
        return replace(backstore, reservations=NO_RESERVATIONS)

    def staged_acl(acl: Acl) -> Acl:
        return replace(acl, mapped_luns=tuple(MappedLun(lun.key) for lun in acl.mapped_luns))

    def staged_tpg(tpg: Tpg) -> Tpg:
        left = {"nexus", *(() if has_rtpi else ("rtpi",))}
        attributes = {name: value for name, value in tpg.attributes.items() if name not in left}
        if "enable" in attributes:
            attributes["enable"] = "0"
        return replace(tpg, attributes=attributes, luns=tuple(Lun(lun.key) for lun in tpg.luns),
                       acls=tuple(map(staged_acl, tpg.acls)))

    def staged_target(target: Target) -> Target:
        return replace(target, tpgs=tuple(map(staged_tpg, target.tpgs)))

    return replace(state, backstores=tuple(map(staged_backstore, state.backstores)),
                   targets=tuple(map(staged_target, state.targets)))


def with_gates_closed(state: State) -> State:
    """The state with every gate shut that can be shut (iSCSI's)."""
    return replace(state, targets=tuple(
        replace(target, tpgs=tuple(
            replace(tpg, attributes={**tpg.attributes, "enable": "0"})
            if fabrics.gate_of(target.fabric) is Gate.ENABLE else tpg for tpg in target.tpgs))
        for target in state.targets))

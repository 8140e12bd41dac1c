"""The findings against a change of what this host serves, before the kernel is asked."""
from __future__ import annotations

from typing import Dict, Iterator, List, Mapping, Sequence, Set

from .. import errors
from ..errors import Finding
from ..kernel import dbroot, portals
from ..kernel.reader import Reader
from ..model import fabrics
from ..model.attributes import UNEXPORTED, owner_of, row
from ..model.diff import Change, Create, Remove, Set as SetValue
from ..model.fabrics import Gate
from ..model.keys import Key, display, target_key
from ..model.objects import Acl, Backstore, Lun, MappedLun, Portal, State, Target, Tpg
from ..plan import edits
from ..settings import Settings
from ..storage import memory, policy
from ..storage.block_devices import HostSnapshot
from . import preflight

#: The name that --allow takes where initiators that are logged in lose something.
IN_USE = "in-use"
#: Attributes whose change ends sessions (iscsi_target_configfs.c:lio_target_nacl_cmdsn_depth_store,
#: target_core_fabric_configfs.c:target_fabric_tpg_base_enable_store).
_ENDS_SESSIONS = {"enable": "0", "cmdsn_depth": None}


def against(have: State, want: State, changes: Sequence[Change], allocate: Mapping[Key, bool],
            reader: Reader, settings: Settings, snapshot: HostSnapshot) -> List[Finding]:
    """Everything that speaks against these changes."""
    removed = [change.object for change in changes if isinstance(change, Remove)]
    created = [change.object for change in changes if isinstance(change, Create)]
    stores = [obj for obj in created if isinstance(obj, Backstore)]
    return [*_storage(stores, allocate, reader, settings, snapshot),
            *_new_luns(created, want, reader), *_portals(created, have, want, reader),
            *_ports(have, want, changes, reader), *_exported(removed, have, want, changes, reader),
            *_users(removed, have, reader), *_registered(removed, have, reader),
            *_sessions_ended(have, changes), *dbroot.findings(reader.fs)]


# ---- what is made -------------------------------------------------------------------------------
def _storage(stores: Sequence[Backstore], allocate: Mapping[Key, bool], reader: Reader,
             settings: Settings, snapshot: HostSnapshot) -> Iterator[Finding]:
    if not stores:
        return
    here = reader.outline()
    served = policy.Served(here, snapshot)
    paths: Dict[str, Key] = {}
    for store in stores:
        if store.path and store.path in paths:
            yield Finding(errors.StorageInUse, display(store.key),
                          f"is on the storage of {display(paths[store.path])}")
        paths[store.path] = store.key
        problems = policy.findings_of_new_file(store, settings, snapshot) \
            if store.key in allocate else policy.findings(store, {}, settings, served, snapshot)
        yield from (finding for finding in problems if finding.override != "unproven-storage")
    wanted = State(backstores=tuple(stores))
    yield from memory.findings(list(stores), settings.memory_reserve, snapshot)
    yield from preflight.serials(wanted, here)
    yield from preflight.handler(wanted, State())
    yield from preflight.twins(stores, here)


def _new_luns(created: Sequence[object], want: State, reader: Reader) -> Iterator[Finding]:
    """A LUN can export what is there, and was enabled."""
    placed = reader.placed()
    for obj in created:
        if isinstance(obj, Lun) and obj.backstore is not None \
                and want.backstore(obj.backstore) is None and obj.backstore not in placed:
            yield Finding(errors.NoSuchTarget, display(obj.key),
                          f"there is no backstore {display(obj.backstore)}",
                          do="make it first, or correct its name")


def _portals(created: Sequence[object], have: State, want: State, reader: Reader) \
        -> Sequence[Finding]:
    return portals.findings(want, have, reader.fs) if any(
        isinstance(obj, Portal) for obj in created) else ()


def _ports(have: State, want: State, changes: Sequence[Change], reader: Reader) \
        -> Iterator[Finding]:
    numbered = {change.key for change in changes if isinstance(change, SetValue)
                and change.name == "rtpi"} | {
        change.key for change in changes if isinstance(change, Create)
        and change.object.attributes.get("rtpi", "0") != "0"}
    if numbered:
        part = State(targets=tuple(target for target in want.targets
                                   if any(tpg.key in numbered for tpg in target.tpgs)))
        yield from preflight.relative_ports(part, reader.relative_ports())


# ---- what is taken away -------------------------------------------------------------------------
def _exported(removed: Sequence[object], have: State, want: State, changes: Sequence[Change],
              reader: Reader) -> Iterator[Finding]:
    """A backstore goes only when no LUN exports it, and most of its attributes change only then."""
    going = {obj.key for obj in removed if isinstance(obj, Backstore)}
    fixed: Dict[Key, str] = {}
    for change in changes:
        if isinstance(change, SetValue) and change.key[0] == "backstore" and len(change.key) == 3:
            known = row("backstore", owner_of(change.key), change.name)
            if known is not None and known.window == UNEXPORTED:
                fixed.setdefault(change.key, change.name)
    if not going and not fixed:
        return
    unlinked = {f"{obj.key[1]}/{obj.key[2]}/tpgt_{obj.key[3]}/lun_{obj.key[-1]}"
                for obj in removed if isinstance(obj, Lun)}
    for key, exporters in reader.exporters({*going, *fixed}).items():
        left = sorted(set(exporters) - unlinked)
        if not left:
            continue
        if key in going:
            yield Finding(errors.InUse, display(key), "is exported by " + ", ".join(left[:4]),
                          do="delete those LUNs first")
        else:
            yield Finding(errors.CannotChange, display(key), f"its {fixed[key]} changes only while "
                          "no LUN exports it, and " + ", ".join(left[:4]) + " does",
                          do="delete those LUNs, set it, and make them again")


def _users(removed: Sequence[object], have: State, reader: Reader) -> Iterator[Finding]:
    """Sessions and guests that would lose something."""
    keys = {obj.key for obj in removed}  # type: ignore[attr-defined]
    for target in have.targets:
        gone = [tpg for tpg in target.tpgs if tpg.key in keys]
        gate = fabrics.gate_of(target.fabric)
        if gate is Gate.ENDPOINT and _touches(target, keys) and reader.attached(target):
            yield Finding(errors.InUse, target.name, "a guest is attached to it",
                          "" if gone else IN_USE, "stop the guest first")
        for tpg in target.tpgs:
            yield from _sessions(tpg, keys)
            if gate is Gate.LOCAL and tpg.attributes.get("nexus") and any(
                    lun.key in keys for lun in tpg.luns):
                yield Finding(errors.InUse, display(tpg.key), "its LUNs are disks of this very "
                              "host", IN_USE, "umount them first")


def _touches(target: Target, keys: Set[Key]) -> bool:
    return any(key[:3] == target_key(target.fabric, target.wwn) for key in keys)


def _sessions(tpg: Tpg, keys: Set[Key]) -> Iterator[Finding]:
    explicit = {acl.initiator: acl for acl in tpg.acls}
    luns = {lun.number for lun in tpg.luns if lun.key in keys}
    portals_gone = any(portal.key in keys for portal in tpg.portals)
    for name in sorted(set(tpg.sessions)):
        acl = explicit.get(name)
        lost = tpg.key in keys or portals_gone or acl is None and bool(luns) or acl is not None \
            and (acl.key in keys or any(mapped.key in keys or mapped.lun in luns
                                        for mapped in acl.mapped_luns))
        if lost:
            yield Finding(errors.InUse, display(tpg.key), f"{name} is logged in, and would lose "
                          "what is deleted", IN_USE, "let it log out first")


def _registered(removed: Sequence[object], have: State, reader: Reader) -> Iterator[Finding]:
    """Registrations end with the mapped LUN, or LUN, by which they were made."""
    index = have.index()
    said: Set[Key] = set()
    for obj in removed:
        if not isinstance(obj, (Lun, MappedLun, Acl)):
            continue
        tpg = index.get(obj.key[:4])
        if not isinstance(tpg, Tpg):
            continue
        for lun in tpg.luns:
            if lun.backstore is None or lun.backstore in said:
                continue
            initiators = _who(obj, lun, tpg)
            there = _registrants(lun.backstore, reader)
            who = sorted(there & initiators) if initiators is not None else sorted(there)
            if who:
                said.add(lun.backstore)
                yield Finding(errors.InUse, display(lun.backstore), f"{', '.join(who[:4])} "
                              f"{'is' if len(who) == 1 else 'are'} registered there (persistent "
                              "reservations), and would not be any more", do="let it unregister "
                              "first, or remove the whole target: lio-handover remove")


def _who(obj: object, lun: Lun, tpg: Tpg) -> "Set[str] | None":
    """The initiators that lose a LUN; None for all."""
    if isinstance(obj, Lun):
        return None if obj.key == lun.key else set()
    acl = next((acl for acl in tpg.acls if getattr(obj, "key")[:6] == acl.key), None)
    if acl is None:
        return set()
    mapped = [obj] if isinstance(obj, MappedLun) else acl.mapped_luns
    return {acl.initiator} if any(
        getattr(mapped_lun, "lun") == lun.number for mapped_lun in mapped) else set()


def _registrants(store: Key, reader: Reader) -> Set[str]:
    hba = reader.placed().get(store)
    path = f"core/{hba}/{store[2].rpartition('/')[2]}/pr/res_pr_registered_i_pts"
    if not hba or not reader.fs.exists(path):
        return set()
    lines = reader.fs.read(path).splitlines()
    return {line.partition(" Node: ")[2].partition(" Key: ")[0].partition(",i,0x")[0]
            for line in lines if " Node: " in line}


def _sessions_ended(have: State, changes: Sequence[Change]) -> Iterator[Finding]:
    for change in changes:
        if not isinstance(change, SetValue) or change.name not in _ENDS_SESSIONS \
                or _ENDS_SESSIONS[change.name] not in (None, change.new):
            continue
        tpg = edits.find(have, change.key[:4])
        who = [name for name in sorted(set(getattr(tpg, "sessions", ())))
               if change.key[-1] == name or len(change.key) == 4]
        if who:
            yield Finding(errors.InUse, display(change.key), f"{', '.join(who[:4])} "
                          f"{'is' if len(who) == 1 else 'are'} logged in, and would be thrown out",
                          IN_USE, "let it log out first")

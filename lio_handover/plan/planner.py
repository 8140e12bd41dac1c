"""Changes → steps: makes a plan."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from os import fsencode
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from .. import errors
from ..document import collector
from ..kernel import dbroot, portals
from ..kernel.facts import Facts
from ..model import defaults, diff as differ, fabrics, plugins
from ..model.attributes import CARRIED, Attribute, owner_of, rows
from ..model.diff import Change, Create, Register, Relink, Remove, diff
from ..model.fabrics import Gate
from ..model.keys import display, lun_key
from ..model.objects import (DEFAULT_GROUP, Acl, AluaGroup, Backstore, DiscoveryAuth, Key, LuGroup,
                             Lun, MappedLun, Object, Portal, Secret, State, Target, Tpg)
from ..model.tree_paths import Paths
from ..storage import protection
from ..storage.exclusive import DeferredOpen
from .draft import Draft
from .lun_links import LunLinks
from .order import PLACE
from .plan import (ACQUIRE, ALLOCATE, DRAIN, FLUSH, FOLDER, GROW, IDLE, LINK, MKDIR, OPEN, PROVE,
                   RELEASE, RMDIR, SYNC, UNLINK, VERIFY, WRITE, Plan, Step)
from .pr_order import LAST, RestoreOrder, nearest_reachable
from .pr_steps import ReservationPlanner

_Writes = Tuple[Mapping[str, str], Mapping[str, str], List[Tuple[Attribute, str, bool]]]
_NOTHING: Mapping[str, str] = {}
#: The slots in which directories are made.
_MADE_IN = {LuGroup: "LU group", Target: "target", Tpg: "TPG", Portal: "portal", Lun: "LUN",
            Acl: "ACL", MappedLun: "mapped LUN"}


@collector.paused()
def plan(have: State, want: State, facts: Facts,
         keep_fabrics: Optional[Sequence[str]] = None, verify: bool = True,
         partial: bool = False, trusting: bool = True,
         late: Optional[Mapping[Key, DeferredOpen]] = None, there: State = State(),
         live: bool = False, allocate: Mapping[Key, bool] = {},  # noqa: B006
         back: bool = False) -> Plan:
    """The steps from ``have`` to ``want`` on the host that ``facts`` describe.

    ``keep_fabrics``: which fabric directories may stay when they become empty (None: all).
    ``partial``: an attribute that ``want`` does not have may have the kernel's value, see diff.
    ``trusting``: new objects have the defaults of model/attributes.py; else each attribute is read
    before it is written.
    ``late``: backstores on either side whose storage only one host may have open, see
    storage/exclusive.py.
    ``there``: objects of this host besides ``have``; directories keep their names.
    ``live``: see Plan.  ``allocate``: new backstores whose file is to be made → whether sparse.
    ``back``: what was done a moment ago is taken back, so that a disk may get its old size.
    Raises nothing for a change that cannot be made in place: ``refused`` has it.
    """
    changes = diff(have, want, partial=partial)
    planner = _Planner(have, want, facts, keep_fabrics, partial, trusting, late or {},
                       there.index(), live, allocate, back)
    return replace(planner.plan(changes, verify), partial=partial, late=late or {}, live=live)


def freezing(have: State, shut: State, facts: Facts) -> Plan:
    """The steps from ``have`` to the same with gates shut, idle, and its data on the storage."""
    the_plan = plan(have, shut, facts, verify=False)
    steps = [*the_plan.steps, Step(IDLE, "", slot="idle"),
             *(Step(op, path, slot=slot, about=store.key) for store in have.backstores
               for path in protection.files(store)
               for op, slot in ((OPEN, "open storage"), (SYNC, "flush")))]
    return replace(the_plan, steps=tuple(sorted(steps, key=lambda step: PLACE[step.slot])))


@dataclass
class _Planner:
    have: State
    want: State
    facts: Facts
    keep_fabrics: Optional[Sequence[str]]
    partial: bool
    trusting: bool
    late: Mapping[Key, DeferredOpen]
    there: Mapping[Key, Object]
    live: bool = False
    allocate: Mapping[Key, bool] = field(default_factory=dict)
    back: bool = False
    known: Dict[Tuple[Key, str, bool], Mapping[str, str]] = field(default_factory=dict)
    #: (kind, plugin or fabric) → attributes and values of the last new object, what to write of it
    last: Dict[Tuple[str, str], _Writes] = field(default_factory=dict)
    unknown: Set[str] = field(default_factory=set)
    unlinked: Set[Key] = field(default_factory=set)  # LUNs that are there and are to be linked

    def plan(self, changes: Sequence[Change], verify: bool) -> Plan:
        self.old, self.new = self.have.index(), self.want.index()
        self.created = {change.key for change in changes if isinstance(change, Create)}
        self.removed = {change.key for change in changes if isinstance(change, Remove)}
        self.hba = dict(self.facts.placed or {})
        self.hbas = set(self.facts.hbas)
        self.path = Paths(self.hba, self.old, self.there).of
        self._place_backstores()
        self.staying = {hba for key, hba in self.hba.items() if key not in self.removed}
        self.exported = {lun.backstore for _, _, lun in self.have.all_luns()
                         if lun.key not in self.removed}
        self.restore_order = RestoreOrder(self.want)
        self.draft = Draft(self.want, self.new, self.created, self.facts, self.path, self.late,
                           self.restore_order)
        self._add, self._once, self._load = self.draft.add, self.draft.once, self.draft.load
        self.refused = self.draft.refused
        self.link_place = self.restore_order.link_place
        for change in changes:
            if isinstance(change, Create):
                self._create(change)
            elif isinstance(change, Remove):
                self._remove(change)
            elif isinstance(change, differ.Set):
                self._set(change)
            elif not isinstance(change, Relink) or not self._again(change):
                self._cannot(change)
        LunLinks(self.draft, self.unlinked).link_luns()
        ReservationPlanner(self.draft).plan()
        self._fabrics()
        self._drain()
        if self.live:
            self._add("verify", VERIFY, "", about=())
        elif verify and self.created:
            self._add("verify stage", VERIFY, "", about=())
            self._add("verify", VERIFY, "", about=())
        want, notes = nearest_reachable(self.want, restore_order=self.restore_order)
        notes += tuple(f"{name} is not known to this version: it is never written, and compared "
                       "before initiators are let in" for name in sorted(self.unknown))
        return Plan(self.draft.steps(), want, notes, tuple(self.refused))

    def _place_backstores(self) -> None:
        """An HBA of its own for each new backstore, as rtslib does: the one it had on this host
        before, else the lowest free number."""
        used = {hba for key, hba in self.hba.items() if key not in self.removed}
        taken = set(self.hbas)
        free: Dict[str, Iterator[str]] = {}
        for backstore in self.want.backstores:
            if backstore.key not in self.created:
                continue
            if backstore.hba.startswith(f"{backstore.plugin}_") and backstore.hba not in used:
                self.hba[backstore.key] = backstore.hba
            else:
                names = free.setdefault(backstore.plugin, _numbered(backstore.plugin))
                self.hba[backstore.key] = next(name for name in names if name not in taken)
            taken.add(self.hba[backstore.key])

    def _again(self, change: Relink) -> bool:
        """Link a LUN or mapped LUN that exists without its link, as an undone removal leaves it.
        False where that is not all that differs."""
        old, new = self.old[change.key], self.new[change.key]
        if isinstance(new, Backstore):
            return self._grow(new, change)
        if isinstance(old, Lun) and old.backstore is None:
            self.unlinked.add(change.key)
            return True
        if isinstance(old, MappedLun) and isinstance(new, MappedLun) and old.lun is None \
                and not old.dead:
            self._link_mapped(new)
            return True
        return False

    def _grow(self, store: Backstore, change: Relink) -> bool:
        name = change.name.partition("/")[2]
        row = plugins.of(store.plugin).parameters[name]
        if not row.grows or not change.old.isdigit() \
                or int(change.new or 0) < int(change.old) and not self.back:
            return False
        if not self.back:  # the file itself is shortened once nobody serves that part
            self._add("grow file", GROW, store.path, change.new.encode(), store.key)
        self._add("resize", WRITE, f"{self.path(store.key)}/control",
                  f"{name}={change.new}\n".encode(), store.key)
        return True

    def _cannot(self, change: Change) -> None:
        what = {Relink: "is linked to something else", Register: "has other reservations"}.get(
            type(change), "can't be changed")
        self.refused.append(errors.Finding(
            errors.CannotChange, display(change.key), f"it is there already and {what}",
            do="lio-handover diff"))

    # ---- attributes -----------------------------------------------------------------------------
    def _write(self, key: Key, kind: str, row: Attribute, value: str, sure: bool = False) -> None:
        if row.path == "enable" and value == "0":
            return  # a TPG begins with its gate shut
        if row.path == "rtpi" and not self.facts.has_rtpi:
            return  # numbered by the order of the links instead
        slot = row.slot
        order: Tuple[int, ...] = (row.rank,)
        if slot == "nexus" and key[:3] in self.restore_order.late:
            self._add(slot, WRITE, f"{self.path(key)}/{row.path}", b"NULL\n", key)
            slot, order = "late nexus", self.restore_order.nexus_rank.get(key, LAST)
            if key in self.restore_order.last:
                slot, order = "last nexus", (self.link_place[key],)
        if value in (row.first or {}):
            path, before = row.first[value]
            other = rows(kind, owner_of(key))[path]
            after = self.new[key].attributes.get(path, before)
            for place, text in ((order, before), ((other.rank,), after)):
                self._add(slot, WRITE, f"{self.path(key)}/{path}", other.encode(text), key, place,
                          other)
        if slot == "gate":
            self._port_of(key)
            self._after_gate(key)
        self._add(slot, WRITE, f"{self.path(key)}/{row.path}", row.encode(value), key, order, row,
                  isinstance(value, Secret), sure)

    def _port_of(self, key: Key) -> None:
        """Write the relative port of a TPG that was shut: the kernel has freed its number, though
        the file still shows it (see records/relative_ports.py)."""
        number, row = self.new[key].attributes.get("rtpi", "0"), rows("tpg", key[1])["rtpi"]
        if key in self.old and self.facts.has_rtpi and number not in row.unset:
            self._add("TPG attribute", WRITE, f"{self.path(key)}/{row.path}", row.encode(number),
                      key, (row.rank,), row, sure=True)

    def _after_gate(self, key: Key) -> None:
        """Where authentication is 1, enable takes None out of AuthMethod (iscsi_target_tpg.c:
        iscsit_tpg_enable_portal_group); the source may have been told to admit it since."""
        attributes = self.new[key].attributes
        methods = attributes.get("param/AuthMethod", "")
        row = rows("tpg", owner_of(key)).get("param/AuthMethod")
        if row and attributes.get("attrib/authentication") == "1" and "None" in methods.split(","):
            self._add("after gate", WRITE, f"{self.path(key)}/{row.path}", row.encode(methods), key,
                      row=row)

    def _write_all(self, key: Key, kind: str, attributes: Mapping[str, str],
                   known: Mapping[str, str] = _NOTHING) -> None:
        """Write every attribute that a new object does not have already; ``known``: its values."""
        place = kind, owner_of(key)
        last = self.last.get(place)
        if last is None or last[0] != attributes or last[1] is not known:
            # Most objects of a kind are alike.
            last = self.last[place] = attributes, known, self._writes(*place, attributes, known)
        for row, value, sure in last[2]:
            self._write(key, kind, row, value, sure)

    def _writes(self, kind: str, owner: str, attributes: Mapping[str, str],
                known: Mapping[str, str]) -> List[Tuple[Attribute, str, bool]]:
        """(row, value, whether the kernel cannot have it) of the attributes to write."""
        if not self.trusting:
            known = _NOTHING
        own = [item for item in attributes.items() if known.get(item[0]) != item[1]]
        unsure = defaults.overwritten_by(kind, owner, [name for name, _value in own], known)
        wanted = [*own, *((name, attributes[name]) for name in unsure
                          if name in attributes and known.get(name) == attributes[name])]
        if not self.partial:
            wanted += defaults.implied_values(kind, owner, attributes, known)
        table, writes = rows(kind, owner), []
        for name, value in sorted(wanted):
            row = table.get(name)
            if row is None:
                if kind != "lun" or name != "rtpi":
                    self.unknown.add(f"{kind} {name}")
            elif row.kind in CARRIED and value not in row.unset:
                writes.append((row, value, name in known and name not in unsure))
        return writes

    def _set(self, change: differ.Set) -> None:
        kind = (self.new.get(change.key) or self.old[change.key]).kind
        row = rows(kind, owner_of(change.key)).get(change.name)
        new = change.new
        if row is not None and row.cleared and new in (None, *row.unset):
            new = row.cleared
        if row is not None and row.window == "NEXUS":
            return self._set_nexus(change, row)
        in_place = {"ANY", "GATE", "LINKED", "ENABLED"}
        if change.key not in self.exported and not self._used(change.key):
            in_place |= {"UNEXPORTED"}
        if kind in ("tpg", "acl", "portal", "lun", "mapped_lun"):
            in_place |= {"GATE_SHUT"}
        tpg = self.old.get(change.key)
        if change.name == "rtpi" and tpg and tpg.attributes.get("enable", "0") != "0":
            in_place.discard("GATE_SHUT")  # target_core_fabric_configfs.c: ..._rtpi_store
        if row is None or row.window not in in_place \
                or new is None or new in row.unset and (not new or new != row.cleared):
            self.refused.append(errors.Finding(
                errors.CannotChange, display(change.key),
                f"its {change.name} differs and can't be changed in place",
                do="lio-handover diff"))
            return
        if row.window == "GATE" and new == "0":
            self._add("shut gate", WRITE, f"{self.path(change.key)}/{row.path}", b"0\n",
                      change.key, row=row)
        else:
            self._write(change.key, kind, row, new)
            old = self.old.get(change.key)
            for name in sorted(row.overwritten(old.attributes if old else _NOTHING)):
                value = self.new[change.key].attributes.get(name)
                other = rows(kind, owner_of(change.key)).get(name)
                if value is not None and other is not None and value not in other.unset:
                    self._write(change.key, kind, other, value)

    def _set_nexus(self, change: differ.Set, row: Attribute) -> None:
        """A nexus goes only while no LUN is linked; it may come at any time (drivers/vhost/scsi.c:
        vhost_scsi_drop_nexus, drivers/target/loopback/tcm_loop.c:tcm_loop_drop_nexus)."""
        tpg = self.old[change.key]
        if change.old and isinstance(tpg, Tpg):
            if any(lun.backstore and lun.key not in self.removed for lun in tpg.luns):
                self.refused.append(errors.Finding(
                    errors.CannotChange, display(change.key), "its nexus stays as long as LUNs are "
                    "linked", do="delete its LUNs first"))
                return
            self._add("drop nexus", WRITE, f"{self.path(change.key)}/{row.path}", b"NULL\n",
                      change.key)
        if change.new:
            self._write(change.key, tpg.kind, row, change.new)

    def _used(self, key: Key) -> bool:
        return key[0] == "backstore" and key[:3] in self.exported

    # ---- building up --------------------------------------------------------------------------
    def _create(self, change: Create) -> None:
        obj = change.object
        key, path = obj.key, self.path(obj.key)
        if isinstance(obj, Backstore):
            self._create_backstore(obj, path)
        elif isinstance(obj, AluaGroup):
            if obj.name != DEFAULT_GROUP:
                self._add("ALUA group", MKDIR, path, about=key)
            self._write_all(key, obj.kind, obj.attributes, defaults.DEFAULTS["alua_group", ""])
        elif isinstance(obj, DiscoveryAuth):
            self._write_all(key, obj.kind, obj.attributes)  # it comes with the fabric
        else:
            self._add(_MADE_IN[type(obj)], MKDIR, path, about=key, order=portals.order(obj.address)
                      if isinstance(obj, Portal) else ())
            self._write_all(key, obj.kind, obj.attributes, self._fresh(obj))
        if isinstance(obj, MappedLun):
            self._link_mapped(obj)

    def _link_mapped(self, mapped_lun: MappedLun) -> None:
        if mapped_lun.lun is not None:
            link = self.path(lun_key(mapped_lun.key[:4], mapped_lun.lun))
            self._add("link mapped LUN", LINK,
                      f"{self.path(mapped_lun.key)}/{mapped_lun.alias or 'link'}",
                      fsencode(link), mapped_lun.key, (self.link_place[mapped_lun.key],))

    def _fresh(self, obj: Object) -> Mapping[str, str]:
        """{attribute: value} of a new object of a TPG, as the kernel makes it."""
        readonly = False
        if isinstance(obj, MappedLun):
            lun = self.new.get(lun_key(obj.key[:4], obj.lun))
            store = self.want.backstore(lun.backstore) if isinstance(lun, Lun) \
                and lun.backstore else None
            readonly = store is None or store.parameters.get("readonly", "0") != "0"
        place = (obj.key[:4], obj.kind, readonly)
        known = self.known.get(place)
        if known is None:
            tpg = self.new.get(obj.key[:4])
            known = self.known[place] = defaults.values(obj.key, obj.kind, tpg, readonly) \
                if isinstance(tpg, Tpg) else _NOTHING
        return known

    def _create_backstore(self, store: Backstore, path: str) -> None:
        module = plugins.of(store.plugin).module
        if module:
            self._load(module)
        if store.key in self.late:
            self._command("acquire", ACQUIRE, store.key, self.late[store.key].rule.acquire)
            self._add("prove", PROVE, store.path, about=store.key)
        if store.key in self.allocate:
            self._add("allocate", ALLOCATE, store.path,
                      f"{store.parameters['fd_dev_size']}"
                      f"{' sparse' * self.allocate[store.key]}".encode(), store.key)
        hba = self.hba[store.key]
        if hba not in self.hbas:
            self._once("HBA", MKDIR, f"core/{hba}", store.key)
        self._add("backstore", MKDIR, path, about=store.key)
        control = ",".join(f"{name}={value}" for name, value in store.parameters.items())
        self._add("control", WRITE, f"{path}/control", control.encode() + b"\n", store.key)
        self._add("enable", WRITE, f"{path}/enable", b"1\n", store.key)
        for row, value, sure in self._writes(store.kind, store.plugin, store.attributes,
                                             defaults.store_values(store)):
            self._write(store.key, store.kind, row, value, sure)
        for folder in dbroot.folders(store, self.facts.dbroot):
            self._once("folder", FOLDER, folder)
        for file in protection.files(store):
            self._add("drop cache", FLUSH, file, about=store.key)

    def _command(self, slot: str, op: str, key: Key, words: Sequence[str]) -> None:
        """Run a command with the wanted path: a backstore that was only begun has no path yet."""
        import shlex
        self._add(slot, op, self.late[key].path, " ".join(map(shlex.quote, words)).encode(), key)

    def _drain(self) -> None:
        for target in self.want.targets:
            tags = [tpg.tag for tpg in target.tpgs
                    if tpg.key in self.created and tpg.attributes.get("nexus") and tpg.luns]
            if tags and fabrics.gate_of(target.fabric) is Gate.ENDPOINT:
                self._add("drain", DRAIN, target.wwn,
                          ",".join(map(str, tags)).encode(), target.key)

    def _fabrics(self) -> None:
        wanted = sorted({target.fabric for target in self.want.targets})
        for fabric in wanted:
            if fabric not in self.facts.fabrics:
                self._load(fabrics.of(fabric).module)
                self._add("fabric", MKDIR, fabric)
        if self.keep_fabrics is not None:
            for fabric in self.facts.fabrics:
                if fabric not in wanted and fabric not in self.keep_fabrics:
                    self._add("remove fabric", RMDIR, fabric)

    # ---- taking down --------------------------------------------------------------------------
    def _remove(self, change: Remove) -> None:
        obj = change.object
        key, path = obj.key, self.path(obj.key)
        if isinstance(obj, Tpg):
            if obj.attributes.get("enable", "0") != "0":
                self._add("shut gate", WRITE, f"{path}/enable", b"0\n", key)
            if obj.attributes.get("nexus"):
                self._add("drop nexus", WRITE, f"{path}/nexus", b"NULL\n", key)
            self._add("remove TPG", RMDIR, path, about=key)
        elif isinstance(obj, MappedLun):
            if obj.lun is not None or obj.dead:
                self._add("unlink mapped LUN", UNLINK, f"{path}/{obj.alias}", about=key)
            self._add("remove mapped LUN", RMDIR, path, about=key)
        elif isinstance(obj, Lun):
            if obj.backstore is not None:
                self._add("unlink LUN", UNLINK, f"{path}/{obj.alias}", about=key)
            self._add("remove LUN", RMDIR, path, about=key)
        elif isinstance(obj, Backstore):
            self._add("remove backstore", RMDIR, path, about=key)
            hba = self.hba[key]
            if hba not in self.staying:
                self._once("remove HBA", RMDIR, f"core/{hba}", key)
            if key in self.late:
                self._command("release", RELEASE, key, self.late[key].rule.release)
        elif isinstance(obj, AluaGroup):
            if obj.name != DEFAULT_GROUP:
                self._add("remove ALUA group", RMDIR, path, about=key)
        elif isinstance(obj, DiscoveryAuth):
            for name in obj.attributes:
                row = rows(obj.kind)[name]
                self._add("clear discovery auth", WRITE, f"{path}/{name}",
                          row.encode(row.cleared), key, row=row)
        else:
            slot = {Acl: "remove ACL", Portal: "remove portal", Target: "remove target",
                    LuGroup: "remove LU group"}[type(obj)]
            self._add(slot, RMDIR, path, about=key)


def _numbered(plugin: str) -> Iterator[str]:
    """fileio_0, fileio_1, …"""
    return (f"{plugin}_{number}" for number in count())

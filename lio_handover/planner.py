"""Changes → steps: makes a plan."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from os import fsencode
from typing import (Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set,
                    Tuple)

from . import diff as differ
from . import dbroot, errors, fresh, portals, protection, reservations
from .attributes import CARRIED, Attribute, owner_of, rows
from .diff import Change, Create, Register, Relink, Remove, diff
from .facts import Facts
from .late import Opening
from .model import (DEFAULT_GROUP, Acl, AluaGroup, Backstore, DiscoveryAuth, Key, Lun, LuGroup,
                    MappedLun, Object, Portal, Registration, Reservations, Secret, State, Target,
                    Tpg, say)
from .order import LATE, PLACE
from .plan import (ACQUIRE, DRAIN, DRIVERS, FILE, FLUSH, FOLDER, IDLE, LINK, LOAD, MKDIR, OPEN,
                   PROVE, RELEASE, RMDIR, SCRATCH_NEXUS, SCRATCH_TARGET, SCSI, SYNC, UNLINK, VERIFY,
                   WRITE, Plan, Step)
from .revival import LAST, Revival, dummies, merged, reachable
from .scsibus import AUTOPROBE
from .treepaths import Paths

_NOTHING: Mapping[str, str] = {}

#: A target port group for the time of the scratch target, where the default one's state is in the
#: way.
SCRATCH_GROUP = "lio-handover-scratch"

MODULES = {"fileio": "target_core_file", "iblock": "target_core_iblock",
           "pscsi": "target_core_pscsi", "user": "target_core_user",
           "iscsi": "iscsi_target_mod", "vhost": "vhost_scsi", "loopback": "tcm_loop"}


def plan(have: State, want: State, facts: Facts,
         keep_fabrics: Optional[Sequence[str]] = None, verify: bool = True,
         partial: bool = False, trusting: bool = True,
         late: Optional[Mapping[Key, Opening]] = None, there: State = State()) -> Plan:
    """The steps from ``have`` to ``want`` on the host that ``facts`` describe.

    ``keep_fabrics``: which fabric directories may stay when they become empty (None: all).
    ``partial``: what ``want`` leaves open may be as the kernel makes it, see diff.
    ``trusting``: new objects are what fresh.py says they are; else each attribute is looked at.
    ``late``: backstores on either side whose storage one host alone may have open, see late.
    ``there``: what is here besides ``have``; directories keep their names.
    Nothing is raised for what can't be done in place: it stands in ``refused``.
    """
    changes = diff(have, want, partial=partial)
    planner = _Planner(have, want, facts, keep_fabrics, partial, trusting, late or {},
                       there.index())
    return replace(planner.plan(changes, verify), partial=partial, late=late or {})


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
    late: Mapping[Key, Opening]
    there: Mapping[Key, Object]
    steps: List[Tuple[Tuple[int, Tuple[int, ...], int], Step]] = field(default_factory=list)
    refused: List[errors.Finding] = field(default_factory=list)
    said: Set[Tuple[str, str]] = field(default_factory=set)
    known: Dict[Tuple[Key, str, bool], Mapping[str, str]] = field(default_factory=dict)
    unknown: Set[str] = field(default_factory=set)
    unlinked: Set[Key] = field(default_factory=set)  # LUNs that are there and are to be linked

    def plan(self, changes: Sequence[Change], verify: bool) -> Plan:
        self.old, self.new = self.have.index(), self.want.index()
        self.created = {one.key for one in changes if isinstance(one, Create)}
        self.removed = {one.key for one in changes if isinstance(one, Remove)}
        self.hba = dict(self.facts.placed or {})
        self.hbas = set(self.facts.hbas)
        self.path = Paths(self.hba, self.old, self.there).of
        self._place_backstores()
        self.staying = {hba for key, hba in self.hba.items() if key not in self.removed}
        self.exported = {lun.backstore for _, _, lun in self.have.luns()
                         if lun.key not in self.removed}
        self.revival = Revival(self.want)
        self.rtpi = {(target.wwn, tpg.tag): int(tpg.attributes.get("rtpi", "0"))
                     for target in self.want.targets for tpg in target.tpgs}
        self.link_place = merged(
            [[one.key for one in acl.mapped_luns] for target in self.want.targets
             for tpg in target.tpgs for acl in tpg.acls],
            self.revival.chains())
        for one in changes:
            if isinstance(one, Create):
                self._create(one)
            elif isinstance(one, Remove):
                self._remove(one)
            elif isinstance(one, differ.Set):
                self._set(one)
            elif not isinstance(one, Relink) or not self._again(one):
                self._cannot(one)
        self._link_luns()
        self._reservations()
        self._fabrics()
        self._drain()
        if verify and self.created:
            self._add("verify stage", VERIFY, "", about=())
            self._add("verify", VERIFY, "", about=())
        self.steps.sort(key=lambda pair: pair[0])
        want, notes = reachable(self.want)
        notes += tuple(f"{one} is not known to this version: it is never written, and compared "
                       "before initiators are let in" for one in sorted(self.unknown))
        return Plan(tuple(step for _, step in self.steps), want, notes, tuple(self.refused))

    # ---- small things -------------------------------------------------------------------------
    def _add(self, slot: str, op: str, path: str, value: bytes = b"", about: Key = (),
             order: Tuple[int, ...] = (), row: Optional[Attribute] = None,
             secret: bool = False, sure: bool = False) -> None:
        if self.late and about[:3] in self.late:
            slot = LATE.get(slot, slot)
        self.steps.append(((PLACE[slot], order, len(self.steps)),
                           Step(op, path, value, slot, about, row, secret, sure)))

    def _once(self, slot: str, op: str, path: str, about: Key = ()) -> None:
        if (op, path) not in self.said:
            self.said.add((op, path))
            self._add(slot, op, path, about=about)

    def _place_backstores(self) -> None:
        """An HBA of its own for each new backstore, as rtslib does: the one it had on this host
        before, else the lowest free number."""
        used = {hba for key, hba in self.hba.items() if key not in self.removed}
        taken = set(self.hbas)
        free: Dict[str, Iterator[str]] = {}
        for one in self.want.backstores:
            if one.key not in self.created:
                continue
            if one.hba.startswith(f"{one.plugin}_") and one.hba not in used:
                self.hba[one.key] = one.hba
            else:
                names = free.setdefault(one.plugin, _numbered(one.plugin))
                self.hba[one.key] = next(name for name in names if name not in taken)
            taken.add(self.hba[one.key])

    def _again(self, change: Relink) -> bool:
        """What is there without a link gets it, as a removal that is taken back has left it."""
        old, new = self.old[change.key], self.new[change.key]
        if isinstance(old, Lun) and old.backstore is None:
            self.unlinked.add(change.key)
            return True
        if isinstance(old, MappedLun) and isinstance(new, MappedLun) and old.lun is None \
                and not old.dead:
            self._link_mapped(new)
            return True
        return False

    def _cannot(self, change: Change) -> None:
        what = {Relink: "is linked to something else", Register: "has other reservations"}.get(
            type(change), "can't be changed")
        self.refused.append(errors.Finding(
            errors.CannotChange, say(change.key), f"it is there already and {what}",
            do="lio-handover diff"))

    # ---- attributes -----------------------------------------------------------------------------
    def _slot_of(self, key: Key, kind: str, row: Attribute) -> str:
        if row.window in ("GATE", "NEXUS"):
            return row.window.lower()
        if kind == "backstore":
            if row.window == "PRE_ENABLE":
                return "before enable"
            if row.rank >= 90:
                return "LU group member"
            return "backstore group" if row.rank >= 80 else "backstore attribute"
        if kind == "alua_group":
            return "ALUA state" if row.rank >= 90 else "ALUA group attribute"
        return {"lu_group": "LU group id", "tpg": "TPG attribute", "portal": "portal attribute",
                "lun": "LUN attribute", "acl": "ACL attribute", "target": "TPG attribute",
                "mapped_lun": "mapped LUN attribute", "discovery_auth": "discovery auth"}[kind]

    def _write(self, key: Key, kind: str, row: Attribute, value: str, sure: bool = False) -> None:
        if row.path == "enable" and value == "0":
            return  # a TPG begins with its gate shut
        if row.path == "rtpi" and not self.facts.has_rtpi:
            return  # numbered by the order of the links instead
        slot = self._slot_of(key, kind, row)
        order: Tuple[int, ...] = (row.rank,)
        if slot == "nexus" and key[:3] in self.revival.late:
            self._add(slot, WRITE, f"{self.path(key)}/{row.path}", b"NULL\n", key)
            slot, order = "late nexus", self.revival.nexus_seen.get(key, LAST)
        if value in (row.first or {}):
            path, before = row.first[value]
            other = rows(kind, owner_of(key))[path]
            after = self.new[key].attributes.get(path, before)
            for place, one in ((order, before), ((other.rank,), after)):
                self._add(slot, WRITE, f"{self.path(key)}/{path}", other.encode(one), key, place,
                          other)
        if slot == "gate":
            self._port_of(key)
            self._after_gate(key)
        self._add(slot, WRITE, f"{self.path(key)}/{row.path}", row.encode(value), key, order, row,
                  isinstance(value, Secret), sure)

    def _port_of(self, key: Key) -> None:
        """A gate that was shut has lost its number, though it still reads (see ports)."""
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
        """Everything that a new object does not have by itself; ``known``: what it has."""
        owner = owner_of(key)
        table = rows(kind, owner)
        if not self.trusting:
            known = _NOTHING
        own = attributes.items() - known.items() if known else attributes.items()
        unsure = fresh.clobbered(kind, [name for name, _value in own], known)
        wanted = [*own, *((name, attributes[name]) for name in unsure
                          if name in attributes and known.get(name) == attributes[name])]
        if not self.partial:
            wanted += fresh.meant(kind, owner, attributes, known)
        for name, value in sorted(wanted):
            row = table.get(name)
            if row is None:
                if kind != "lun" or name != "rtpi":
                    self.unknown.add(f"{kind} {name}")
            elif row.kind in CARRIED and value not in row.unset:
                self._write(key, kind, row, value, name in known and name not in unsure)

    def _set(self, change: differ.Set) -> None:
        kind = (self.new.get(change.key) or self.old[change.key]).kind
        row = rows(kind, owner_of(change.key)).get(change.name)
        new = change.new
        if row is not None and row.cleared and new in (None, *row.unset):
            new = row.cleared
        in_place = {"ANY", "GATE", "LINKED", "ENABLED"}
        if change.key not in self.exported and not self._used(change.key):
            in_place |= {"UNEXPORTED"}
        if kind in ("tpg", "acl", "portal", "lun", "mapped_lun"):
            in_place |= {"GATE_SHUT"}
        if row is None or row.window not in in_place \
                or new is None or new in row.unset and (not new or new != row.cleared):
            self.refused.append(errors.Finding(
                errors.CannotChange, say(change.key),
                f"its {change.name} differs and can't be changed in place",
                do="lio-handover diff"))
            return
        if row.window == "GATE" and new == "0":
            self._add("shut gate", WRITE, f"{self.path(change.key)}/{row.path}", b"0\n",
                      change.key, row=row)
        else:
            self._write(change.key, kind, row, new)
            old = self.old.get(change.key)
            for name in sorted(fresh.clobbered(kind, [change.name],
                                               old.attributes if old else _NOTHING)):
                value = self.new[change.key].attributes.get(name)
                other = rows(kind, owner_of(change.key)).get(name)
                if value is not None and other is not None and value not in other.unset:
                    self._write(change.key, kind, other, value)

    def _used(self, key: Key) -> bool:
        return key[0] == "backstore" and key[:3] in self.exported

    # ---- building up --------------------------------------------------------------------------
    def _create(self, change: Create) -> None:
        one = change.object
        key, path = one.key, self.path(one.key)
        if isinstance(one, Backstore):
            self._create_backstore(one, path)
        elif isinstance(one, AluaGroup):
            if one.name != DEFAULT_GROUP:
                self._add("ALUA group", MKDIR, path, about=key)
            self._write_all(key, one.kind, one.attributes, fresh.FRESH["alua_group", ""])
        elif isinstance(one, DiscoveryAuth):
            self._write_all(key, one.kind, one.attributes)  # it comes with the fabric
        else:
            slot = {LuGroup: "LU group", Target: "target", Tpg: "TPG", Portal: "portal",
                    Lun: "LUN", Acl: "ACL", MappedLun: "mapped LUN"}[type(one)]
            self._add(slot, MKDIR, path, about=key, order=portals.order(one.address)
                      if isinstance(one, Portal) else ())
            self._write_all(key, one.kind, one.attributes, self._fresh(one))
        if isinstance(one, MappedLun):
            self._link_mapped(one)

    def _link_mapped(self, one: MappedLun) -> None:
        if one.lun is not None:
            link = self.path((*one.key[:4], "lun", str(one.lun)))
            self._add("link mapped LUN", LINK, f"{self.path(one.key)}/{one.alias or 'link'}",
                      fsencode(link), one.key, (self.link_place[one.key],))

    def _fresh(self, one: Object) -> Mapping[str, str]:
        """What a new object of a TPG has by itself."""
        readonly = False
        if isinstance(one, MappedLun):
            lun = self.new.get((*one.key[:4], "lun", str(one.lun)))
            store = self.want.backstore(lun.backstore) if isinstance(lun, Lun) \
                and lun.backstore else None
            readonly = store is None or store.parameters.get("readonly", "0") != "0"
        place = (one.key[:4], one.kind, readonly)
        known = self.known.get(place)
        if known is None:
            tpg = self.new.get(one.key[:4])
            known = self.known[place] = fresh.values(one.key, one.kind, tpg, readonly) \
                if isinstance(tpg, Tpg) else _NOTHING
        return known

    def _create_backstore(self, one: Backstore, path: str) -> None:
        module = MODULES.get(one.plugin)
        if module:
            self._load(module)
        if one.key in self.late:
            self._command("acquire", ACQUIRE, one.key, self.late[one.key].rule.acquire)
            self._add("prove", PROVE, one.path, about=one.key)
        hba = self.hba[one.key]
        if hba not in self.hbas:
            self._once("HBA", MKDIR, f"core/{hba}", one.key)
        self._add("backstore", MKDIR, path, about=one.key)
        control = ",".join(f"{name}={value}" for name, value in one.parameters.items())
        self._add("control", WRITE, f"{path}/control", control.encode() + b"\n", one.key)
        self._add("enable", WRITE, f"{path}/enable", b"1\n", one.key)
        self._write_all(one.key, one.kind, one.attributes, fresh.store_values(one))
        for folder in dbroot.folders(one, self.facts.dbroot):
            self._once("folder", FOLDER, folder)
        for file in protection.files(one):
            self._add("drop cache", FLUSH, file, about=one.key)

    def _command(self, slot: str, op: str, key: Key, words: Sequence[str]) -> None:
        """With the path as it was wanted: a backstore that is half made has none yet."""
        import shlex
        self._add(slot, op, self.late[key].path, " ".join(map(shlex.quote, words)).encode(), key)

    def _drain(self) -> None:
        for target in self.want.targets:
            tags = [tpg.tag for tpg in target.tpgs
                    if tpg.key in self.created and tpg.attributes.get("nexus") and tpg.luns]
            if target.fabric == "vhost" and tags:
                self._add("drain", DRAIN, target.wwn,
                          ",".join(map(str, tags)).encode(), target.key)

    def _load(self, module: str) -> None:
        self._once("module", LOAD, module)

    def _fabrics(self) -> None:
        wanted = sorted({one.fabric for one in self.want.targets})
        for fabric in wanted:
            if fabric not in self.facts.fabrics:
                self._load(MODULES.get(fabric, fabric))
                self._add("fabric", MKDIR, fabric)
        if self.keep_fabrics is not None:
            for fabric in self.facts.fabrics:
                if fabric not in wanted and fabric not in self.keep_fabrics:
                    self._add("remove fabric", RMDIR, fabric)

    # ---- exports, in the order that gives each its relative port --------------------------------
    def _new_links(self) -> Iterator[Tuple[Target, Tpg, Lun]]:
        for target, tpg, lun in self.want.luns():
            if lun.backstore is not None and (lun.key in self.created or lun.key in self.unlinked):
                yield target, tpg, lun

    def _link_luns(self) -> None:
        links = {lun.key: (tpg, lun) for _, tpg, lun in self._new_links()}
        ports = {key: int(lun.attributes.get("rtpi", tpg.attributes.get("rtpi", "0")))
                 for key, (tpg, lun) in links.items()}
        if self.facts.has_rtpi:
            for key, (_tpg, lun) in links.items():
                if "rtpi" in lun.attributes:
                    self._no_port(key, ports[key], "its TPG's LUNs have different ones, and this "
                                                   "kernel has one a TPG")
        # Ascending ports: up to 6.1 the links number them, and RTPG answers in the links' order.
        chains: Dict[Optional[Key], List[Key]] = {}
        for key in sorted(links, key=lambda key: ports[key]):
            chains.setdefault(links[key][1].backstore, []).append(key)
        # A nexus made after the links takes the LUNs in the reverse of their order
        # (target_core_tpg.c:core_tpg_add_node_to_devs), and REPORT LUNS shows it.
        rows_of = [[lun.key for lun in tpg.luns][::-1 if target.key in self.revival.late else 1]
                   for target in self.want.targets for tpg in target.tpgs]
        counters: Dict[Key, int] = {}
        for key, place in sorted(merged(rows_of, chains.values()).items(),
                                 key=lambda pair: pair[1]):
            if key in links:
                self._link_lun(*links[key], ports[key], place, counters)

    def _link_lun(self, tpg: Tpg, lun: Lun, port: int, place: int,
                  counters: Dict[Key, int]) -> None:
        assert lun.backstore is not None
        path = f"{self.path(lun.key)}/{lun.alias or 'link'}"
        there = fsencode(self.path(lun.backstore))
        counter = counters.get(lun.backstore, 1)
        if port and not self.facts.has_rtpi:
            # Up to 6.1 each link of a backstore takes its next port number, from 1.
            if port < counter or port - counter > 1000 or lun.backstore not in self.created:
                self._no_port(lun.key, port, "this kernel gives them by the order of links")
            else:
                self._use_up_ports(lun, path, port - counter, place)
                counter = port
        self._add("link LUN", LINK, path, there, lun.key, (place,))
        counters[lun.backstore] = counter + 1

    def _use_up_ports(self, lun: Lun, path: str, count: int, place: int) -> None:
        """Link and unlink ``count`` times; where a nexus has the LUN at once, and an unlink would
        end its registrations, in a TPG that has none."""
        assert lun.backstore is not None
        there = fsencode(self.path(lun.backstore))
        target = self.new[lun.key[:3]]
        assert isinstance(target, Target)
        made: List[str] = []
        if count and any(tpg.attributes.get("nexus") for tpg in target.tpgs):
            tags = {tpg.tag for tpg in target.tpgs}
            free = next(tag for tag in range(32) if tag not in tags)
            tpg = f"{self.path(target.key)}/tpgt_{free}"
            made = [tpg, f"{tpg}/lun/lun_0"]
            path = f"{made[-1]}/link"
        for one in made:
            self._add("link LUN", MKDIR, one, about=lun.key, order=(place,))
        for _ in range(count):
            self._add("link LUN", LINK, path, there, lun.key, (place,))
            self._add("link LUN", UNLINK, path, about=lun.key, order=(place,))
        for one in reversed(made):
            self._add("link LUN", RMDIR, one, about=lun.key, order=(place,))

    def _no_port(self, key: Key, port: int, why: str) -> None:
        self.refused.append(errors.Finding(
            errors.CannotRepresent, say(key),
            f"it can't have the relative port {port} here: {why}",
            do=f"--map rtpi:{say(key[:4])}=NUMBER, if initiators may see another"))

    # ---- reservations ------------------------------------------------------------------------
    def _reservations(self) -> None:
        clear: List[Backstore] = []
        burns: Dict[Key, List[Tuple[Registration, int, Backstore]]] = {}
        for store in self.want.backstores:
            held = self.revival.order(store)
            if store.key not in self.created or not held:
                continue
            path = f"{self.path(store.key)}/pr/res_aptpl_metadata"
            place = self.revival.burn_places.get(store.key)
            burn = dummies(held, place)
            if burn and place is not None:
                for line in reservations.dummies(burn, place[1]):
                    self._add("PR dummy", WRITE, path, line, store.key)
                burns.setdefault(place[0], []).append((place[1], burn, store))
            for line in reservations.metadata(held):
                self._add("PR line", WRITE, path, line, store.key)
            if reservations.needs_clearing(held):
                clear.append(store)
            self._aptpl_file(store, held)
        for tpg, ones in burns.items():
            self._burn(tpg, ones)
        if clear:
            self._clear_aptpl(clear)

    def _burn(self, tpg: Key, ones: Sequence[Tuple[Registration, int, Backstore]]) -> None:
        acl = f"{self.path(tpg)}/acls/{reservations.BURN_INITIATOR}"
        self._add("burn", MKDIR, acl, about=tpg)
        for like, _count, store in ones:
            lun = f"{acl}/lun_{like.mapped_lun}"
            self._add("burn", MKDIR, lun, about=store.key)
            self._add("burn", LINK, f"{lun}/link",
                      fsencode(self.path((*tpg, "lun", str(like.lun)))), store.key)
            self._add("burn", UNLINK, f"{lun}/link", about=store.key)
            self._add("burn", RMDIR, lun, about=store.key)
        self._add("burn", RMDIR, acl, about=tpg)

    def _clear_aptpl(self, stores: Iterable[Backstore]) -> None:
        """A loopback nexus of our own registers and unregisters with APTPL=0."""
        fabric, wwn = SCRATCH_TARGET[1:]
        tpg = f"{fabric}/{wwn}/tpgt_1"
        slot = "clear APTPL"
        self._load(MODULES[fabric])
        new_fabric = fabric not in self.facts.fabrics and fabric not in {
            one.fabric for one in self.want.targets}
        # Else sd would read the disk's partitions, and udev, LVM and mdadm take it for the host's.
        self._add(slot, DRIVERS, AUTOPROBE, b"off")
        if new_fabric:
            self._add(slot, MKDIR, fabric)
        for path in (f"{fabric}/{wwn}", tpg):
            self._add(slot, MKDIR, path, about=SCRATCH_TARGET)
        self._add(slot, WRITE, f"{tpg}/nexus", SCRATCH_NEXUS.encode() + b"\n", SCRATCH_TARGET)
        for number, store in enumerate(stores):
            lun = f"{tpg}/lun/lun_{number}"
            self._add(slot, MKDIR, lun, about=store.key)
            self._add(slot, LINK, f"{lun}/link", fsencode(self.path(store.key)), store.key)
            group = f"{self.path(store.key)}/alua/{SCRATCH_GROUP}"
            if _refuses_registers(store):
                self._add(slot, MKDIR, group, about=store.key)
                self._add(slot, WRITE, f"{group}/tg_pt_gp_id", b"0\n", store.key)  # the next free
                self._add(slot, WRITE, f"{lun}/alua_tg_pt_gp", SCRATCH_GROUP.encode() + b"\n",
                          store.key)
            self._add(slot, SCSI, tpg, str(number).encode(), store.key)
            self._add(slot, UNLINK, f"{lun}/link", about=store.key)
            self._add(slot, RMDIR, lun, about=store.key)
            if _refuses_registers(store):
                self._add(slot, RMDIR, group, about=store.key)
        self._add(slot, WRITE, f"{tpg}/nexus", b"NULL\n", SCRATCH_TARGET)
        for path in (tpg, f"{fabric}/{wwn}"):
            self._add(slot, RMDIR, path, about=SCRATCH_TARGET)
        if new_fabric:
            self._add(slot, RMDIR, fabric)
        self._add(slot, DRIVERS, AUTOPROBE, b"on")

    def _aptpl_file(self, store: Backstore, held: Reservations) -> None:
        if not store.serial:
            return
        self._add("APTPL file", FILE, f"{self.facts.dbroot}/pr/aptpl_{store.serial}",
                  reservations.file(held, self.rtpi), store.key)

    # ---- taking down --------------------------------------------------------------------------
    def _remove(self, change: Remove) -> None:
        one = change.object
        key, path = one.key, self.path(one.key)
        if isinstance(one, Tpg):
            if one.attributes.get("enable", "0") != "0":
                self._add("shut gate", WRITE, f"{path}/enable", b"0\n", key)
            if one.attributes.get("nexus"):
                self._add("drop nexus", WRITE, f"{path}/nexus", b"NULL\n", key)
            self._add("remove TPG", RMDIR, path, about=key)
        elif isinstance(one, MappedLun):
            if one.lun is not None or one.dead:
                self._add("unlink mapped LUN", UNLINK, f"{path}/{one.alias}", about=key)
            self._add("remove mapped LUN", RMDIR, path, about=key)
        elif isinstance(one, Lun):
            if one.backstore is not None:
                self._add("unlink LUN", UNLINK, f"{path}/{one.alias}", about=key)
            self._add("remove LUN", RMDIR, path, about=key)
        elif isinstance(one, Backstore):
            self._add("remove backstore", RMDIR, path, about=key)
            hba = self.hba[key]
            if hba not in self.staying:
                self._once("remove HBA", RMDIR, f"core/{hba}", key)
            if key in self.late:
                self._command("release", RELEASE, key, self.late[key].rule.release)
        elif isinstance(one, AluaGroup):
            if one.name != DEFAULT_GROUP:
                self._add("remove ALUA group", RMDIR, path, about=key)
        elif isinstance(one, DiscoveryAuth):
            for name in one.attributes:
                row = rows(one.kind)[name]
                self._add("clear discovery auth", WRITE, f"{path}/{name}",
                          row.encode(row.cleared), key, row=row)
        else:
            slot = {Acl: "remove ACL", Portal: "remove portal", Target: "remove target",
                    LuGroup: "remove LU group"}[type(one)]
            self._add(slot, RMDIR, path, about=key)


def _refuses_registers(store: Backstore) -> bool:
    """Whether a LUN of the default group takes no REGISTER: in unavailable and transitioning
    (target_core_alua.c:core_alua_state_unavailable, core_alua_state_transition)."""
    return any(group.name == DEFAULT_GROUP and group.attributes.get("alua_access_state") in
               ("3", "15") for group in store.alua_groups)


def _numbered(plugin: str) -> Iterator[str]:
    """fileio_0, fileio_1, …"""
    return (f"{plugin}_{number}" for number in count())

"""A file of `apply` → the state that it wishes for, beside what is there.

An object of the file is as a new one but for what the file says; objects that it does not have
stay, or with ``prune`` go.  Run-time state that it does not say stays as it is.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import AbstractSet, Any, Callable, Dict, List, Mapping, Optional, Tuple

from .. import errors
from ..document.values import attributes_of
from ..errors import quoted
from ..model import defaults, fabrics, plugins
from ..model.attributes import RUNTIME, SECRET, rows
from ..model.keys import (Key, acl_key, alua_group_key, backstore_key, lu_group_key, lun_key,
                          mapped_lun_key, portal_key, target_key, tpg_key)
from ..model.objects import (DEFAULT_GROUP, Acl, AluaGroup, Backstore, DiscoveryAuth, LuGroup, Lun,
                             MappedLun, Portal, Secret, State, Target, Tpg)
from . import backstores, words
from .changes import Changed, cleared, new_tpg
from .nouns import ALIASES, BACKSTORES, DEFAULTS, NOUNS
from .places import portal_name
from .schema import MEMBERS
from .settable import settable
from .surroundings import Surroundings

#: The secret in a file that {file: PATH} names.
ReadSecret = Callable[[str], str]


def store_name(name: str) -> Key:
    """The key of a backstore as the file has it.  Raises BadName."""
    plugin, _, rest = words.store(name, "backstores").partition("/")
    return backstore_key(plugin, rest)


def about(tree: Mapping[str, Any]) -> Tuple[Tuple[str, ...], Tuple[Key, ...]]:
    """(names of the targets, keys of the backstores) of a file."""
    return (tuple(tree.get("targets") or ()),
            tuple(store_name(name) for name in tree.get("backstores") or ()))


def wish(state: State, tree: Mapping[str, Any], host: Surroundings, prune: bool,
         secret: ReadSecret) -> Changed:
    """The state as the file wishes for.  Raises a DocumentError, BadFile, CannotChange."""
    return _Wish(state, host, prune, secret).of(tree)


@dataclass
class _Wish:
    have: State
    host: Surroundings
    prune: bool
    secret: ReadSecret
    allocate: Dict[Key, bool] = field(default_factory=dict)

    def of(self, tree: Mapping[str, Any]) -> Changed:
        groups = self._kept(self.have.lu_groups, (
            self._lu_group(name, entry or {})
            for name, entry in (tree.get("lu_groups") or {}).items()))
        stores = self._kept(self.have.backstores, (
            self._store(store_name(name), entry)
            for name, entry in (tree.get("backstores") or {}).items()))
        going = {group.name for group in self.have.lu_groups} - {group.name for group in groups}
        stores = tuple(_left(store, going) for store in stores)
        targets = self._kept(self.have.targets, (
            self._target(name, entry or {})
            for name, entry in (tree.get("targets") or {}).items()))
        state = State(groups, stores, targets, self.have.discovery_auth)
        if "discovery_auth" in tree:
            state = replace(state, discovery_auth=self._discovery(tree["discovery_auth"] or {}))
        return Changed(state, "", self.allocate)

    def _kept(self, there: Tuple[Any, ...], wanted: Any) -> Tuple[Any, ...]:
        """The wanted objects, and unless they are pruned those that are there besides."""
        objects: Dict[Key, Any] = {}
        for obj in wanted:
            if obj.key in objects:
                raise errors.Duplicate(f"{'/'.join(obj.key[1:])} is there twice",
                                       do="correct the file")
            objects[obj.key] = obj
        rest = [obj for obj in there if obj.key not in objects and (
            not self.prune or obj.key[-1] == DEFAULT_GROUP)]
        return tuple(sorted((*rest, *objects.values()), key=_place))

    # ---- attributes ---
    def _attributes(self, kind: str, owner: str, entry: Mapping[str, Any], where: str,
                    old: Mapping[str, str], known: Mapping[str, str]) -> Dict[str, str]:
        """The attributes of an object: what the entry says, else its value in a new object
        (``known``), else what it has (``old``)."""
        noun, aliases = NOUNS[kind], ALIASES.get(kind, {})
        table = settable(noun, owner)
        said: Dict[str, str] = {}
        for group, prefix in noun.groups.items():
            member = MEMBERS.get(group)
            inside = entry.get(member) or {} if member else {
                name: value for name, value in entry.items()
                if aliases.get(name, name) in table and "/" not in aliases.get(name, name)}
            for name, value in inside.items():
                path = aliases.get(prefix + name, prefix + name)
                if path not in table:
                    raise errors.BadStructure(f"{where}: {quoted(name)} is not known there",
                                              do="correct the file")
                said[path] = self._secret(value, f"{where}: {name}", old.get(path)) \
                    if table[path].kind == SECRET else _word(value, table[path].numeric)
        said = attributes_of(said, where, kind, owner)
        told = {**DEFAULTS.get((kind, owner), {}), **said}
        before = {**known, **old}
        loose = defaults.overwritten_by(kind, owner, told, before)
        changing = defaults.overwritten_by(kind, owner, [
            path for path, value in told.items() if old.get(path) != value], before)
        values = {path: value for path, value in old.items() if path not in table}
        for path, row in table.items():
            if path in said:
                values[path] = said[path]
            elif path in loose:  # somebody else's, or as the kernel makes it
                if path in old and path not in changing:
                    values[path] = old[path]
            elif path in known and known[path] not in row.unset:
                # A new object has it anyway, if this kernel has it at all.
                if path in told or path in old or old and row.if_absent is None:
                    values[path] = known[path]
            elif path in old:
                gone = path in known or path.startswith("auth/")
                values[path] = cleared(row) if gone and row.kind != RUNTIME else old[path]
        return values

    def _secret(self, value: Any, where: str, old: Optional[str]) -> str:
        if value.get("keep"):
            if not old:
                raise errors.BadValue(f"{where}: this host has none that could be kept",
                                      do="name a file: {file: PATH}")
            return old
        return Secret(self.secret(value["file"]))

    # ---- backstores ---
    def _store(self, key: Key, entry: Mapping[str, Any]) -> Backstore:
        plugin, where = key[1], "/".join(key[1:])
        old = self.have.backstore(key)
        values = {"name": key[2]}
        for row in BACKSTORES[plugin]:
            if entry.get(row.name) is not None:
                values[row.name] = words.TYPES[row.type](
                    _said(entry[row.name]), f"{where}: {row.name}")
        store, sparse = backstores.new(plugin, values, self.host)
        if old is None:
            if sparse is not None:
                self.allocate[key] = sparse
        else:
            store = self._as_there(store, old, values, where)
        known = {**{name: value for name, value in defaults.store_values(store).items()
                    if not name.startswith("wwn/vpd")}, **DEFAULTS.get((store.kind, plugin), {})} \
            if plugins.of(plugin).listed else dict(DEFAULTS.get((store.kind, plugin), {}))
        serial = {name: value for name, value in store.attributes.items()
                  if name == "wwn/vpd_unit_serial" or name == "udev_path" and (
                      old is None or name in old.attributes)}
        attributes = self._attributes("backstore", plugin, entry, where,
                                      old.attributes if old else {}, known)
        attributes.update({name: value for name, value in serial.items()
                           if name not in attributes or name == "wwn/vpd_unit_serial"
                           and "wwn" in values})
        groups = self._kept(old.alua_groups if old else (), (
            self._alua_group(key, name, group or {}, old)
            for name, group in (entry.get("alua") or {}).items()))
        return replace(store, attributes=attributes, alua_groups=groups,
                       reservations=old.reservations if old else store.reservations)

    @staticmethod
    def _as_there(store: Backstore, old: Backstore, values: Mapping[str, str],
                  where: str) -> Backstore:
        """A backstore that is there: a size that is not said stays."""
        grows = [row.name for row in plugins.of(store.plugin).parameters.values() if row.grows]
        said = {name: value for name, value in store.parameters.items() if name not in grows}
        for name in grows:
            if name in old.parameters:
                said[name] = values.get("size", old.parameters[name])
                if int(said[name]) < int(old.parameters[name]):
                    backstores.grown(old, said[name])  # which says why not
        known = plugins.of(store.plugin).parameters
        rest = {name: value for name, value in old.parameters.items()
                if name not in said and (known[name].own or name == "rd_dummy")}
        return replace(store, parameters={**rest, **said}, hba=old.hba)

    def _alua_group(self, store: Key, name: str, entry: Mapping[str, Any],
                    old: Optional[Backstore]) -> AluaGroup:
        key = alua_group_key(store, words.name(name, "alua"))
        before = next((group.attributes for group in old.alua_groups if group.key == key), {}) \
            if old else {}
        tag = str(entry.get("tag", before.get("tg_pt_gp_id", "")))
        if not tag and name != DEFAULT_GROUP:
            raise errors.BadStructure(f"{'/'.join(key[1:])}: tag is missing",
                                      do="give the group an id: tag: 1")
        known = {path: value for path, value in defaults.DEFAULTS["alua_group", ""].items()
                 if rows("alua_group")[path].kind != RUNTIME}
        attributes = self._attributes("alua_group", "", entry, "/".join(key[1:]), before, known)
        return AluaGroup(key, {**attributes, **({"tg_pt_gp_id": tag} if tag else {})})

    def _lu_group(self, name: str, entry: Mapping[str, Any]) -> LuGroup:
        key = lu_group_key(words.name(name, "lu_groups"))
        before = next((group for group in self.have.lu_groups if group.key == key), None)
        number = str(entry.get("id", before.attributes.get("lu_gp_id", "") if before else ""))
        if not number:
            raise errors.BadStructure(f"lu_groups / {errors.shown(name)}: id is missing",
                                      do="give the group an id")
        return LuGroup(key, {"lu_gp_id": number})

    # ---- targets ---
    def _target(self, name: str, entry: Mapping[str, Any]) -> Target:
        fabric, _, wwn = name.partition("/")
        key = target_key(fabric, words.wwn(wwn, "targets", fabric))
        old = next((target for target in self.have.targets if target.key == key), None)
        tpgs = self._kept(old.tpgs if old else (), (
            self._tpg(key, words.number(tag, name, 0, fabrics.of(fabric).max_tag, "tpg"),
                      said or {}, old) for tag, said in entry.items()))
        return Target(key, old.attributes if old else {}, tpgs)

    def _tpg(self, target: Key, tag: str, entry: Mapping[str, Any],
             old: Optional[Target]) -> Tpg:
        key, fabric = tpg_key(target, tag), target[1]
        before = next((tpg for tpg in old.tpgs if tpg.key == key), None) if old else None
        where = f"{fabric}/{target[2]}/tpg{tag}"
        fresh = new_tpg(target, tag, self.host)
        known = {**defaults.DEFAULTS.get(("tpg", fabric), {}),
                 **DEFAULTS.get(("tpg", fabric), {})}
        attributes = self._attributes("tpg", fabric, entry, where,
                                      before.attributes if before else {}, known)
        if fabrics.of(fabric).nexus:
            nexus = entry.get("nexus") or attributes.get("nexus") or fresh.attributes["nexus"]
            attributes["nexus"] = words.wwn(str(nexus), f"{where}: nexus", fabric)
        portals = self._portals(key, entry, before) if fabrics.of(fabric).portals else ()
        luns = self._kept(before.luns if before else (), (
            self._lun(key, number, lun, before)
            for number, lun in (entry.get("luns") or {}).items()))
        acls = self._kept(before.acls if before else (), (
            self._acl(key, name, acl or {}, before, luns)
            for name, acl in (entry.get("acls") or {}).items()))
        if self.prune:
            numbers = {lun.number for lun in luns}
            acls = tuple(replace(acl, mapped_luns=tuple(
                mapped for mapped in acl.mapped_luns if mapped.lun in numbers)) for acl in acls)
        return Tpg(key, attributes, portals, luns, acls, before.sessions if before else (),
                   before.directory if before else "")

    def _portals(self, tpg: Key, entry: Mapping[str, Any], old: Optional[Tpg]) \
            -> Tuple[Portal, ...]:
        if "portals" not in entry and old:
            return old.portals
        said = entry.get("portals", [self.host.default_portal()])
        pairs: List[Tuple[str, Mapping[str, Any]]] = [
            (address, (said[address] or {}) if isinstance(said, dict) else {}) for address in said]
        there = {portal.key: portal for portal in old.portals} if old else {}
        known = {path: value for path, value in defaults.DEFAULTS["portal", tpg[1]].items()}

        def portal(address: str, attributes: Mapping[str, Any]) -> Portal:
            host, _, port = address.rpartition(":")
            key = portal_key(tpg, portal_name(host, port, "portals"))
            before = there[key].attributes if key in there else {}
            return Portal(key, self._attributes("portal", tpg[1], attributes, address, before,
                                                known))
        return self._kept(tuple(there.values()), (portal(*pair) for pair in pairs))

    def _lun(self, tpg: Key, number: str, entry: Any, old: Optional[Tpg]) -> Lun:
        key = lun_key(tpg, words.lun(str(number), "luns"))
        before = next((lun for lun in old.luns if lun.key == key), None) if old else None
        said = {"backstore": entry} if isinstance(entry, str) else entry
        attributes = self._attributes("lun", tpg[1], said, f"lun{number}",
                                      before.attributes if before else {}, {})
        if before and "alua_tg_pt_gp_name" not in said and "alua_tg_pt_gp" in attributes:
            attributes["alua_tg_pt_gp"] = ""
        return Lun(key, store_name(said["backstore"]), before.alias if before else "", attributes,
                   before.directory if before else "")

    def _acl(self, tpg: Key, initiator: str, entry: Mapping[str, Any], old: Optional[Tpg],
             luns: Tuple[Lun, ...]) -> Acl:
        key, fabric = acl_key(tpg, words.initiator(initiator, "acls")), tpg[1]
        before = next((acl for acl in old.acls if acl.key == key), None) if old else None
        known = dict(defaults.values(key, "acl", old)) if old else \
            dict(defaults.DEFAULTS.get(("acl", fabric), {}))
        attributes = self._attributes("acl", fabric, entry, initiator,
                                      before.attributes if before else {}, known)
        if not before:
            attributes = {path: value for path, value in attributes.items()
                          if value != known.get(path)}
        said = entry.get("mapped_luns")
        if said is None:
            said = {str(lun.number): lun.number for lun in luns if lun.backstore is not None}
        mapped = self._kept(before.mapped_luns if before else (), (
            self._mapped(key, number, lun, before, luns) for number, lun in said.items()))
        return Acl(key, attributes, mapped)

    def _mapped(self, acl: Key, number: str, entry: Any, old: Optional[Acl],
                luns: Tuple[Lun, ...]) -> MappedLun:
        key = mapped_lun_key(acl, words.lun(str(number), "mapped_luns"))
        before = next((mapped for mapped in old.mapped_luns if mapped.key == key), None) \
            if old else None
        said = {"lun": entry} if isinstance(entry, int) else entry
        if all(lun.number != said["lun"] for lun in luns):
            raise errors.NoSuchTarget(f"{acl[-1]}: mapped LUN {number} is of LUN {said['lun']}, "
                                      "which the TPG does not have", do="correct the file")
        protect = "1" if said.get("write_protect") in (True, 1) else "0"
        return MappedLun(key, said["lun"], before.alias if before else "",
                         {"write_protect": protect} if before or protect == "1" else {},
                         before.directory if before else "")

    def _discovery(self, entry: Mapping[str, Any]) -> DiscoveryAuth:
        old = self.have.discovery_auth or DiscoveryAuth()
        table = rows(old.kind)
        said = self._attributes(old.kind, "", entry, "discovery_auth", old.attributes, {})
        given = {ALIASES[old.kind].get(name, name) for name in entry}
        return replace(old, attributes={path: value if path in given else cleared(table[path])
                                        for path, value in said.items() if path in table})


def _left(store: Backstore, going: AbstractSet[str]) -> Backstore:
    """A backstore that leaves its LU group where that goes: then the kernel puts it into the
    default one (target_core_alua.c:core_alua_free_lu_gp)."""
    attributes = {name: value for name, value in store.attributes.items()
                  if name != "alua_lu_gp" or value and value not in going}
    return replace(store, attributes=attributes) if going else store


def _word(value: Any, numeric: bool) -> str:
    """A value of the file as the kernel has it; of some YAML, Yes and No are switches."""
    if isinstance(value, bool):
        return ("1" if value else "0") if numeric else ("Yes" if value else "No")
    return "" if value is None else str(value)


def _said(value: Any) -> str:
    """A parameter of the file, in the words of the command line."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _place(obj: Any) -> Tuple[Any, ...]:
    word = obj.key[-1]
    numbered = isinstance(obj, (Tpg, Lun, MappedLun)) and word.isdigit()
    return (int(word), "") if numbered else (0, *obj.key)

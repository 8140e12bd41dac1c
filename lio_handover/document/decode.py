"""A document's JSON objects made into the state that they describe, or refused.

This module checks what concerns several objects: whether a LUN's backstore is in the document,
whether two objects have one name, whether a reservation's holder is registered.
"""
from __future__ import annotations

import re
from typing import AbstractSet, Any, Callable, Dict, Iterable, Mapping, Optional, Set

from ..errors import BadName, BadStructure, BadValue, Duplicate, TooLarge, quoted
from ..model import keys, objects
from ..model.attributes import NONE, U32
from ..model.fabrics import BY_PR_NAME, FABRICS
from ..model.keys import (Key, acl_key, alua_group_key, backstore_key, lu_group_key, lun_key,
                          mapped_lun_key, portal_key, target_key, tpg_key)
from ..model.objects import State
from ..model.plugins import PLUGINS
from .envelope import FEWER
from .json_types import (expect_bool, expect_int, expect_list, expect_mapping, expect_name,
                         expect_object, expect_string, reject)
from .values import INITIATOR, U64, attributes_of, parameters_of, port_name, portal_address, without


# --- objects -------------------------------------------------------------------------------------
def _reject_duplicate(seen: Set[Any], name: Any, where: str, what: str) -> None:
    if name in seen:
        reject(Duplicate, f"{where} is a second {what}")
    seen.add(name)


def label(kind: str, owner: str) -> str:
    """The name of a kind of object with its plugin or fabric: ``backstore/fileio``."""
    return f"{kind}/{owner}" if owner else kind


_LABELS = {label(*place): place for place in (
    *(("backstore", plugin) for plugin in PLUGINS), ("alua_group", ""), ("lu_group", ""),
    *((kind, fabric) for kind in ("target", "tpg", "portal", "lun", "acl", "mapped_lun")
      for fabric in FABRICS))}


class SharedAttributes:
    """A document's member ``common``: the attributes that all objects of a kind share.

    ``most``: of objects and their attributes in all, shared ones counted for each object: so few
    bytes can't become a plan of any size."""

    def __init__(self, value: Any, where: str, most: int) -> None:
        self.most = self.left = most
        #: backstore → the names of its ALUA groups
        self.groups: Dict[str, AbstractSet[str]] = {}
        self.known: Dict[str, Dict[str, str]] = {}
        for name, attributes in expect_mapping(value, where).items():
            at = f"{where}[{quoted(name)}]"
            if name not in _LABELS:
                reject(BadStructure, f"{at} is no kind of object")
            self.known[name] = attributes_of(attributes, at, *_LABELS[name])

    def attributes(self, value: Any, where: str, kind: str, owner: str = "",
                   unlinked: bool = False) -> Dict[str, str]:
        """All attributes of one object; its own win over the shared ones.  An object without
        its link (``unlinked``) has only its own."""
        own = attributes_of(value, where, kind, owner, unlinked)
        shared = None if unlinked else self.known.get(label(kind, owner))
        self.count(1 + len(own) + len(shared or ()))
        return {**shared, **own} if shared and own else shared or own

    def count(self, more: int) -> None:
        """Raises TooLarge."""
        self.left -= more
        if self.left < 0:
            reject(TooLarge, f"the document has more than {self.most} objects and attributes",
                   FEWER)


def decode_state(value: Any, where: str, most: int,
                 host: Mapping[str, Mapping[str, str]]) -> State:
    """The state that a document's member ``state`` describes; ``where`` is its place, ``$.state``,
    ``most`` see SharedAttributes; ``host``: the HOST attributes of each backstore, by its name.
    Raises a DocumentError."""
    discovery = None
    if type(value) is dict and "discovery_auth" in value:
        discovery = objects.DiscoveryAuth(attributes=attributes_of(
            value["discovery_auth"], f"{where}.discovery_auth", "discovery_auth"))
        value = {name: member for name, member in value.items() if name != "discovery_auth"}
    members = expect_object(value, where, "common", "lu_groups", "backstores", "targets")
    common = SharedAttributes(members["common"], f"{where}.common", most)
    seen: Set[Any] = set()
    lu_groups = tuple(_groups(members["lu_groups"], f"{where}.lu_groups", "lu_group",
                              lu_group_key, common))
    backstores: Dict[str, objects.Backstore] = {}
    lu_group_names = {group.name for group in lu_groups}
    for at, entry in expect_list(members["backstores"], f"{where}.backstores"):
        backstore = _backstore(entry, at, common, host)
        name = keys.display(backstore.key)
        if name in backstores:
            reject(Duplicate, f"{at} is a second backstore {quoted(name)}")
        _group_named(backstore.attributes.get("alua_lu_gp", ""), lu_group_names, "default_lu_gp",
                     f"{at}.attributes['alua_lu_gp']", "LU group of the document")
        backstores[name] = backstore
        common.groups[name] = {group.name for group in backstore.alua_groups}
    targets = []
    for at, entry in expect_list(members["targets"], f"{where}.targets"):
        target = _target(entry, at, backstores, common)
        _reject_duplicate(seen, target.key, at, f"target {quoted(target.name)}")
        targets.append(target)
    return State(lu_groups, tuple(backstores.values()), tuple(targets), discovery)


def _group_named(name: str, groups: AbstractSet[str], default: str, where: str,
                 what: str) -> None:
    if name not in ("", default) and name not in groups:
        reject(BadValue, f"{where}, {quoted(name)}, is no {what}")


def _groups(value: Any, where: str, kind: str, key: Callable[[str], Key],
            common: SharedAttributes) -> Iterable[Any]:
    """LU groups or ALUA groups: unique by name, and by the id that an initiator sees."""
    names: Set[Any] = set()
    ids: Set[Any] = set()
    for at, entry in expect_list(value, where):
        members = expect_object(entry, at, "name", "attributes")
        name = expect_name(members["name"], f"{at}.name")
        if name == NONE:
            reject(BadName, f"{at}.name, {quoted(name)}, is the kernel's word for none")
        _reject_duplicate(names, name, at, f"group {quoted(name)}")
        attributes = common.attributes(members["attributes"], f"{at}.attributes", kind)
        number = attributes.get("lu_gp_id" if kind == "lu_group" else "tg_pt_gp_id", "")
        if number:
            _reject_duplicate(ids, number, at, f"group with id {number}")
        yield (objects.LuGroup if kind == "lu_group" else objects.AluaGroup)(key(name), attributes)


def _backstore(value: Any, where: str, common: SharedAttributes,
               host: Mapping[str, Mapping[str, str]]) -> objects.Backstore:
    members = expect_object(value, where, "plugin", "name", "parameters", "attributes",
                            "alua_groups",
                            "reservations")
    plugin = expect_name(members["plugin"], f"{where}.plugin")
    if plugin not in PLUGINS:
        reject(BadValue, f"{where}.plugin is {quoted(plugin)}, not {', '.join(PLUGINS)}")
    key = backstore_key(plugin, expect_name(members["name"], f"{where}.name"))
    return objects.Backstore(
        key,
        parameters=parameters_of(members["parameters"], f"{where}.parameters", plugin),
        attributes=common.attributes(members["attributes"], f"{where}.attributes", "backstore",
                                     plugin),
        alua_groups=tuple(_groups(members["alua_groups"], f"{where}.alua_groups", "alua_group",
                                  lambda name: alua_group_key(key, name), common)),
        reservations=_reservations(members["reservations"], f"{where}.reservations", common),
        host=host.get(keys.display(key), {}))


def _reservations(value: Any, where: str, common: SharedAttributes) -> objects.Reservations:
    members = expect_object(value, where, "generation", "aptpl", "type", "holder", "registrations")
    registrations = []
    seen: Set[Any] = set()
    for at, entry in expect_list(members["registrations"], f"{where}.registrations"):
        registration = _registration(entry, at)
        common.count(1)
        _reject_duplicate(seen, registration.nexus, at, "registration of one nexus")
        registrations.append(registration)
    kind = expect_int(members["type"], f"{where}.type", 0, 8)
    if kind and kind not in [*objects.PrType]:
        reject(BadValue, f"{where}.type is {kind}, not 0, "
               + ", ".join(f"{known:d}" for known in objects.PrType))
    holder = members["holder"]
    if holder is not None:
        holder = expect_int(holder, f"{where}.holder", 0, U32)
        if holder >= len(registrations):
            reject(BadValue, f"{where}.holder is {holder}, there are {len(registrations)} "
                   "registrations")
        if not kind:
            reject(BadValue, f"{where} has a holder and no reservation")
    elif kind and kind not in objects.ALL_REGISTRANTS:
        reject(BadValue, f"{where} has a reservation and no holder")
    if kind and not registrations:
        reject(BadValue, f"{where} has a reservation and no registration")
    return objects.Reservations(
        generation=expect_int(members["generation"], f"{where}.generation", 0, U32),
        aptpl=expect_bool(members["aptpl"], f"{where}.aptpl"), type=kind, holder=holder,
        registrations=tuple(registrations))


def _registration(value: Any, where: str) -> objects.Registration:
    members = expect_object(value, where, "initiator", "isid", "key", "fabric", "target", "tpgt",
                            "lun",
                            "mapped_lun", "all_tg_pt")
    fabric = BY_PR_NAME.get(expect_string(members["fabric"], f"{where}.fabric"))
    if fabric is None:
        reject(BadValue, f"{where}.fabric is none of {', '.join(BY_PR_NAME)}")
    key = expect_string(members["key"], f"{where}.key")
    if not re.fullmatch("0x[0-9a-f]{16}", key) or key == "0x" + 16 * "0":
        reject(BadValue, f"{where}.key is not 0x and 16 hex digits, or is zero")
    isid = expect_string(members["isid"], f"{where}.isid")
    if isid and (not fabric.logins or not re.fullmatch("[0-9a-f]{12}", isid)):
        reject(BadValue, f"{where}.isid is not 12 lowercase hex digits of an iSCSI session")

    def name(field_name: str) -> str:
        at = f"{where}.{field_name}"
        return without(expect_name(members[field_name], at, INITIATOR), at, ", ")

    return objects.Registration(
        initiator=name("initiator"), isid=isid, key=int(key, 16), fabric=members["fabric"],
        target=name("target"),
        tpgt=expect_int(members["tpgt"], f"{where}.tpgt", 0, fabric.max_tag),
        lun=expect_int(members["lun"], f"{where}.lun", 0, U64),
        mapped_lun=expect_int(members["mapped_lun"], f"{where}.mapped_lun", 0, U64),
        all_tg_pt=expect_bool(members["all_tg_pt"], f"{where}.all_tg_pt"))


def _target(value: Any, where: str, backstores: Mapping[str, objects.Backstore],
            common: SharedAttributes) -> objects.Target:
    members = expect_object(value, where, "fabric", "wwn", "attributes", "tpgs")
    fabric = expect_string(members["fabric"], f"{where}.fabric")
    if fabric not in FABRICS:
        reject(BadValue, f"{where}.fabric is {quoted(fabric)}, not {', '.join(FABRICS)}")
    wwn = port_name(members["wwn"], f"{where}.wwn", FABRICS[fabric].wwns)
    key = target_key(fabric, wwn)
    tags: Set[Any] = set()
    addresses: Set[Any] = set()
    tpgs = []
    for at, entry in expect_list(members["tpgs"], f"{where}.tpgs"):
        tpg = _tpg(entry, at, key, fabric, backstores, addresses, common)
        _reject_duplicate(tags, tpg.tag, at, f"TPG {tpg.tag}")
        tpgs.append(tpg)
    return objects.Target(key, common.attributes(
        members["attributes"], f"{where}.attributes", "target", fabric), tuple(tpgs))


def _tpg(value: Any, where: str, target: Key, fabric: str,
         backstores: Mapping[str, objects.Backstore], addresses: Set[Any],
         common: SharedAttributes) -> objects.Tpg:
    members = expect_object(value, where, "tag", "attributes", "portals", "luns", "acls")
    key = tpg_key(target, expect_int(members["tag"], f"{where}.tag", 0, FABRICS[fabric].max_tag))
    attributes = common.attributes(members["attributes"], f"{where}.attributes", "tpg", fabric)
    if attributes.get("nexus"):
        port_name(attributes["nexus"], f"{where}.attributes['nexus']", FABRICS[fabric].wwns)
    portals = []
    for at, entry in expect_list(members["portals"], f"{where}.portals"):
        if not FABRICS[fabric].portals:
            reject(BadValue, f"{at}: only iSCSI has portals")
        portal = expect_object(entry, at, "address", "attributes")
        address, said = portal_address(portal["address"], f"{at}.address")
        _reject_duplicate(addresses, said, at, f"portal {quoted(address)} of one target")
        portals.append(objects.Portal(portal_key(key, address), common.attributes(
            portal["attributes"], f"{at}.attributes", "portal", fabric)))
    luns: Dict[int, objects.Lun] = {}
    for at, entry in expect_list(members["luns"], f"{where}.luns"):
        lun = _lun(entry, at, key, fabric, backstores, common)
        if lun.number in luns:
            reject(Duplicate, f"{at} is a second LUN {lun.number}")
        luns[lun.number] = lun
    names: Set[Any] = set()
    acls = []
    for at, entry in expect_list(members["acls"], f"{where}.acls"):
        acl = _acl(entry, at, key, fabric, luns, common)
        _reject_duplicate(names, acl.initiator, at, f"ACL {quoted(acl.initiator)}")
        acls.append(acl)
    return objects.Tpg(key, attributes, tuple(portals), tuple(luns.values()), tuple(acls))


def _lun(value: Any, where: str, tpg: Key, fabric: str,
         backstores: Mapping[str, objects.Backstore], common: SharedAttributes) -> objects.Lun:
    members = expect_object(value, where, "number", "backstore", "attributes")
    number = expect_int(members["number"], f"{where}.number", 0, U64)
    backstore: Optional[objects.Backstore] = None
    if members["backstore"] is not None:
        name = expect_string(members["backstore"], f"{where}.backstore")
        backstore = backstores.get(name)
        if backstore is None:
            reject(BadStructure, f"{where}.backstore, {quoted(name)}, is not in the document")
    attributes = common.attributes(members["attributes"], f"{where}.attributes", "lun", fabric,
                                   unlinked=backstore is None)
    groups = common.groups[members["backstore"]] if backstore else set()
    _group_named(attributes.get("alua_tg_pt_gp", ""), groups, "default_tg_pt_gp",
                 f"{where}.attributes['alua_tg_pt_gp']", "ALUA group of the backstore")
    return objects.Lun(lun_key(tpg, number), backstore.key
                       if backstore else None, attributes=attributes)


def _acl(value: Any, where: str, tpg: Key, fabric: str,
         luns: Mapping[int, objects.Lun], common: SharedAttributes) -> objects.Acl:
    members = expect_object(value, where, "initiator", "attributes", "mapped_luns")
    at = f"{where}.initiator"
    key = acl_key(tpg, without(expect_name(members["initiator"], at, INITIATOR), at, ", "))
    mapped: Dict[int, objects.MappedLun] = {}
    for at, entry in expect_list(members["mapped_luns"], f"{where}.mapped_luns"):
        mapped_lun = expect_object(entry, at, "number", "lun", "attributes")
        number = expect_int(mapped_lun["number"], f"{at}.number", 0, U64)
        lun = mapped_lun["lun"]
        if lun is not None:
            lun = expect_int(lun, f"{at}.lun", 0, U64)
            if lun not in luns:
                reject(BadStructure, f"{at}.lun is {lun}, which is no LUN of its TPG")
            if luns[lun].backstore is None:
                reject(BadValue, f"{at}.lun is {lun}, which has no backstore")
        if number in mapped:
            reject(Duplicate, f"{at} is a second mapped LUN {number}")
        attributes = common.attributes(mapped_lun["attributes"], f"{at}.attributes", "mapped_lun",
                                       fabric,
                                       unlinked=lun is None)
        mapped[number] = objects.MappedLun(mapped_lun_key(key, number), lun, attributes=attributes)
    attributes = common.attributes(members["attributes"], f"{where}.attributes", "acl", fabric)
    return objects.Acl(key, attributes, tuple(mapped.values()))

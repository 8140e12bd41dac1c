"""A document's JSON objects made into the state that they describe, or refused.

What belongs together is judged together: whether a LUN's backstore is in the document, whether
two objects have one name, whether a reservation's holder is registered.
"""
from __future__ import annotations

import re
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Set, Union

from ..errors import BadName, BadStructure, BadValue, Duplicate
from ..model import objects
from ..model.attributes import NONE, U32
from ..model.fabrics import BY_PR_NAME, FABRICS
from ..model.keys import (Key, acl_key, alua_group_key, backstore_key, lu_group_key, lun_key,
                          mapped_lun_key, portal_key, target_key, tpg_key)
from ..model.objects import State
from ..model.plugins import PLUGINS
from .json_types import (an_object, any_object, entries, fail, plain_name, show, string,
                         true_or_false, whole)
from .values import INITIATOR, U64, attributes_of, parameters_of, port_name, portal_address, without


# --- objects -------------------------------------------------------------------------------------
def _once(seen: Set[Any], name: Any, where: str, what: str) -> None:
    if name in seen:
        fail(Duplicate, f"{where} is a second {what}")
    seen.add(name)


def label(kind: str, owner: str) -> str:
    """What stands for a kind of object, with its plugin or fabric: ``backstore/fileio``."""
    return f"{kind}/{owner}" if owner else kind


_LABELS = {label(*place): place for place in (
    *(("backstore", plugin) for plugin in PLUGINS), ("alua_group", ""), ("lu_group", ""),
    *((kind, fabric) for kind in ("target", "tpg", "portal", "lun", "acl", "mapped_lun")
      for fabric in FABRICS))}


class Common:
    """The attributes which all objects of a kind have, and which do not stand with each."""

    def __init__(self, value: Any, where: str) -> None:
        self.known: Dict[str, Dict[str, str]] = {}
        for name, one in any_object(value, where).items():
            at = f"{where}[{show(name)}]"
            if name not in _LABELS:
                fail(BadStructure, f"{at} is no kind of object")
            self.known[name] = attributes_of(one, at, *_LABELS[name])

    def attributes(self, value: Any, where: str, kind: str, owner: str = "",
                   unlinked: bool = False) -> Dict[str, str]:
        """All attributes of one object, its own before what is common; without its link
        (``unlinked``) it has but its own."""
        own = attributes_of(value, where, kind, owner, unlinked)
        shared = None if unlinked else self.known.get(label(kind, owner))
        return {**shared, **own} if shared else own


def state_of(value: Any, where: str) -> State:
    discovery = None
    if type(value) is dict and "discovery_auth" in value:
        discovery = objects.DiscoveryAuth(attributes=attributes_of(
            value["discovery_auth"], f"{where}.discovery_auth", "discovery_auth"))
        value = {name: one for name, one in value.items() if name != "discovery_auth"}
    members = an_object(value, where, "common", "lu_groups", "backstores", "targets")
    common = Common(members["common"], f"{where}.common")
    seen: Set[Any] = set()
    lu_groups = tuple(_groups(members["lu_groups"], f"{where}.lu_groups", "lu_group",
                              lu_group_key, common))
    backstores: Dict[str, objects.Backstore] = {}
    for at, one in entries(members["backstores"], f"{where}.backstores"):
        made = _backstore(one, at, common)
        _once(seen, made.key, at, f"backstore {show(objects.say(made.key))}")
        _group_named(made.attributes.get("alua_lu_gp", ""), lu_groups, "default_lu_gp",
                     f"{at}.attributes['alua_lu_gp']", "LU group of the document")
        backstores[objects.say(made.key)] = made
    targets = []
    for at, one in entries(members["targets"], f"{where}.targets"):
        target = _target(one, at, backstores, common)
        _once(seen, target.key, at, f"target {show(target.name)}")
        targets.append(target)
    return State(lu_groups, tuple(backstores.values()), tuple(targets), discovery)


def _group_named(name: str, groups: Iterable[Union[objects.LuGroup, objects.AluaGroup]],
                 default: str, where: str, what: str) -> None:
    if name not in ("", default) and all(group.name != name for group in groups):
        fail(BadValue, f"{where}, {show(name)}, is no {what}")


def _groups(value: Any, where: str, kind: str, key: Callable[[str], Key],
            common: Common) -> Iterable[Any]:
    """LU groups or ALUA groups: unique by name, and by the id that an initiator sees."""
    names: Set[Any] = set()
    ids: Set[Any] = set()
    for at, one in entries(value, where):
        members = an_object(one, at, "name", "attributes")
        name = plain_name(members["name"], f"{at}.name")
        if name == NONE:
            fail(BadName, f"{at}.name, {show(name)}, is the kernel's word for none")
        _once(names, name, at, f"group {show(name)}")
        made = common.attributes(members["attributes"], f"{at}.attributes", kind)
        number = made.get("lu_gp_id" if kind == "lu_group" else "tg_pt_gp_id", "")
        if number:
            _once(ids, number, at, f"group with id {number}")
        yield (objects.LuGroup if kind == "lu_group" else objects.AluaGroup)(key(name), made)


def _backstore(value: Any, where: str, common: Common) -> objects.Backstore:
    members = an_object(value, where, "plugin", "name", "parameters", "attributes", "alua_groups",
                        "reservations")
    plugin = plain_name(members["plugin"], f"{where}.plugin")
    if plugin not in PLUGINS:
        fail(BadValue, f"{where}.plugin is {show(plugin)}, not {', '.join(PLUGINS)}")
    key = backstore_key(plugin, plain_name(members["name"], f"{where}.name"))
    return objects.Backstore(
        key,
        parameters=parameters_of(members["parameters"], f"{where}.parameters", plugin),
        attributes=common.attributes(members["attributes"], f"{where}.attributes", "backstore",
                                     plugin),
        alua_groups=tuple(_groups(members["alua_groups"], f"{where}.alua_groups", "alua_group",
                                  lambda name: alua_group_key(key, name), common)),
        reservations=_reservations(members["reservations"], f"{where}.reservations"))


def _reservations(value: Any, where: str) -> objects.Reservations:
    members = an_object(value, where, "generation", "aptpl", "type", "holder", "registrations")
    found = []
    seen: Set[Any] = set()
    for at, one in entries(members["registrations"], f"{where}.registrations"):
        made = _registration(one, at)
        _once(seen, made.nexus, at, "registration of one nexus")
        found.append(made)
    kind = whole(members["type"], f"{where}.type", 0, 8)
    if kind and kind not in [*objects.PrType]:
        fail(BadValue, f"{where}.type is {kind}, not 0, "
             + ", ".join(f"{known:d}" for known in objects.PrType))
    holder = members["holder"]
    if holder is not None:
        holder = whole(holder, f"{where}.holder", 0, U32)
        if holder >= len(found):
            fail(BadValue, f"{where}.holder is {holder}, there are {len(found)} registrations")
        if not kind:
            fail(BadValue, f"{where} has a holder and no reservation")
    elif kind and kind not in objects.ALL_REGISTRANTS:
        fail(BadValue, f"{where} has a reservation and no holder")
    if kind and not found:
        fail(BadValue, f"{where} has a reservation and no registration")
    return objects.Reservations(
        generation=whole(members["generation"], f"{where}.generation", 0, U32),
        aptpl=true_or_false(members["aptpl"], f"{where}.aptpl"), type=kind, holder=holder,
        registrations=tuple(found))


def _registration(value: Any, where: str) -> objects.Registration:
    members = an_object(value, where, "initiator", "isid", "key", "fabric", "target", "tpgt", "lun",
                        "mapped_lun", "all_tg_pt")
    fabric = BY_PR_NAME.get(string(members["fabric"], f"{where}.fabric"))
    if fabric is None:
        fail(BadValue, f"{where}.fabric is none of {', '.join(BY_PR_NAME)}")
    key = string(members["key"], f"{where}.key")
    if not re.fullmatch("0x[0-9a-f]{16}", key) or key == "0x" + 16 * "0":
        fail(BadValue, f"{where}.key is not 0x and 16 hex digits, or is zero")
    isid = string(members["isid"], f"{where}.isid")
    if isid and (not fabric.logins or not re.fullmatch("[0-9a-f]{12}", isid)):
        fail(BadValue, f"{where}.isid is not 12 lowercase hex digits of an iSCSI session")

    def name(field_name: str) -> str:
        at = f"{where}.{field_name}"
        return without(plain_name(members[field_name], at, INITIATOR), at, ", ")

    return objects.Registration(
        initiator=name("initiator"), isid=isid, key=int(key, 16), fabric=members["fabric"],
        target=name("target"),
        tpgt=whole(members["tpgt"], f"{where}.tpgt", 0, fabric.max_tag),
        lun=whole(members["lun"], f"{where}.lun", 0, U64),
        mapped_lun=whole(members["mapped_lun"], f"{where}.mapped_lun", 0, U64),
        all_tg_pt=true_or_false(members["all_tg_pt"], f"{where}.all_tg_pt"))


def _target(value: Any, where: str, backstores: Mapping[str, objects.Backstore],
            common: Common) -> objects.Target:
    members = an_object(value, where, "fabric", "wwn", "attributes", "tpgs")
    fabric = string(members["fabric"], f"{where}.fabric")
    if fabric not in FABRICS:
        fail(BadValue, f"{where}.fabric is {show(fabric)}, not {', '.join(FABRICS)}")
    wwn = port_name(members["wwn"], f"{where}.wwn", FABRICS[fabric].wwns)
    key = target_key(fabric, wwn)
    tags: Set[Any] = set()
    addresses: Set[Any] = set()
    tpgs = []
    for at, one in entries(members["tpgs"], f"{where}.tpgs"):
        tpg = _tpg(one, at, key, fabric, backstores, addresses, common)
        _once(tags, tpg.tag, at, f"TPG {tpg.tag}")
        tpgs.append(tpg)
    return objects.Target(key, common.attributes(
        members["attributes"], f"{where}.attributes", "target", fabric), tuple(tpgs))


def _tpg(value: Any, where: str, target: Key, fabric: str,
         backstores: Mapping[str, objects.Backstore], addresses: Set[Any],
         common: Common) -> objects.Tpg:
    members = an_object(value, where, "tag", "attributes", "portals", "luns", "acls")
    key = tpg_key(target, whole(members["tag"], f"{where}.tag", 0, FABRICS[fabric].max_tag))
    made = common.attributes(members["attributes"], f"{where}.attributes", "tpg", fabric)
    if made.get("nexus"):
        port_name(made["nexus"], f"{where}.attributes['nexus']", FABRICS[fabric].wwns)
    portals = []
    for at, one in entries(members["portals"], f"{where}.portals"):
        if not FABRICS[fabric].portals:
            fail(BadValue, f"{at}: only iSCSI has portals")
        each = an_object(one, at, "address", "attributes")
        address, said = portal_address(each["address"], f"{at}.address")
        _once(addresses, said, at, f"portal {show(address)} of one target")
        portals.append(objects.Portal(portal_key(key, address), common.attributes(
            each["attributes"], f"{at}.attributes", "portal", fabric)))
    luns: Dict[int, objects.Lun] = {}
    for at, one in entries(members["luns"], f"{where}.luns"):
        lun = _lun(one, at, key, fabric, backstores, common)
        if lun.number in luns:
            fail(Duplicate, f"{at} is a second LUN {lun.number}")
        luns[lun.number] = lun
    names: Set[Any] = set()
    acls = []
    for at, one in entries(members["acls"], f"{where}.acls"):
        acl = _acl(one, at, key, fabric, luns, common)
        _once(names, acl.initiator, at, f"ACL {show(acl.initiator)}")
        acls.append(acl)
    return objects.Tpg(key, made, tuple(portals), tuple(luns.values()), tuple(acls))


def _lun(value: Any, where: str, tpg: Key, fabric: str,
         backstores: Mapping[str, objects.Backstore], common: Common) -> objects.Lun:
    members = an_object(value, where, "number", "backstore", "attributes")
    number = whole(members["number"], f"{where}.number", 0, U64)
    backstore: Optional[objects.Backstore] = None
    if members["backstore"] is not None:
        name = string(members["backstore"], f"{where}.backstore")
        backstore = backstores.get(name)
        if backstore is None:
            fail(BadStructure, f"{where}.backstore, {show(name)}, is not in the document")
    made = common.attributes(members["attributes"], f"{where}.attributes", "lun", fabric,
                             unlinked=backstore is None)
    _group_named(made.get("alua_tg_pt_gp", ""), backstore.alua_groups if backstore else (),
                 "default_tg_pt_gp", f"{where}.attributes['alua_tg_pt_gp']",
                 "ALUA group of the backstore")
    return objects.Lun(lun_key(tpg, number), backstore.key if backstore else None, attributes=made)


def _acl(value: Any, where: str, tpg: Key, fabric: str,
         luns: Mapping[int, objects.Lun], common: Common) -> objects.Acl:
    members = an_object(value, where, "initiator", "attributes", "mapped_luns")
    at = f"{where}.initiator"
    key = acl_key(tpg, without(plain_name(members["initiator"], at, INITIATOR), at, ", "))
    mapped: Dict[int, objects.MappedLun] = {}
    for at, one in entries(members["mapped_luns"], f"{where}.mapped_luns"):
        each = an_object(one, at, "number", "lun", "attributes")
        number = whole(each["number"], f"{at}.number", 0, U64)
        lun = each["lun"]
        if lun is not None:
            lun = whole(lun, f"{at}.lun", 0, U64)
            if lun not in luns:
                fail(BadStructure, f"{at}.lun is {lun}, which is no LUN of its TPG")
            if luns[lun].backstore is None:
                fail(BadValue, f"{at}.lun is {lun}, which has no backstore")
        if number in mapped:
            fail(Duplicate, f"{at} is a second mapped LUN {number}")
        made = common.attributes(each["attributes"], f"{at}.attributes", "mapped_lun", fabric,
                                 unlinked=lun is None)
        mapped[number] = objects.MappedLun(mapped_lun_key(key, number), lun, attributes=made)
    made = common.attributes(members["attributes"], f"{where}.attributes", "acl", fabric)
    return objects.Acl(key, made, tuple(mapped.values()))

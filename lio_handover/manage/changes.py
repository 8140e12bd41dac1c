"""State → State: `create`, `set` and `delete` of one object.  Nothing here touches the host.

A change asks ``Surroundings`` (surroundings.py) for all that it has to know of the host besides the
state: what is at a path, a new serial.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, Sequence, Tuple

from .. import errors
from ..errors import quoted
from ..model import fabrics
from ..model.attributes import NONE, Attribute, owner_of, rows
from ..model.keys import (Key, acl_key, alua_group_key, backstore_key, display, lu_group_key,
                          lun_key, mapped_lun_key, portal_key, target_key, tpg_key)
from ..model.objects import (DEFAULT_GROUP, Acl, AluaGroup, Backstore, DiscoveryAuth, LuGroup, Lun,
                             MappedLun, Portal, State, Target, Tpg)
from ..plan import edits
from . import backstores, words
from .nouns import DEFAULTS, IPV4_PORTAL, NOUNS, PORTAL, Noun
from .places import Node, parse, path_of, portal_name
from .settable import attributes_to_set
from .surroundings import Surroundings

CREATE, SET, DELETE = "create", "set", "delete"


@dataclass(frozen=True)
class Request:
    """One change: ``words`` by position, then ``values`` by name, as people type them."""

    verb: str
    path: str
    words: Tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Changed:
    """The state after a change; ``about``: the object's path; ``allocate``: backstores whose file
    is to be made → whether sparse; ``told``: what is worth a line."""

    state: State
    about: str = ""
    allocate: Mapping[Key, bool] = field(default_factory=dict)
    told: Tuple[str, ...] = ()


def about_discovery(node: Node, request: Request) -> bool:
    """Whether a request is about discovery authentication: ``set /iscsi userid=me``, ``delete
    /iscsi discovery_auth``."""
    return node.kind == "discovery_auth" and (
        request.verb == SET or request.verb == DELETE and not request.values
        and request.words == ("discovery_auth",))


def needs(request: Request) -> Node:
    """The node that a request is about.  Raises BadName."""
    return parse(request.path)


def subject(place: Node, request: Request) -> Tuple[str, Key]:
    """(kind of the object that a request is about, its key; of one that is made the key of what
    gets it).  Raises BadCall, BadName."""
    if request.verb == CREATE:
        return place.has, place.above or place.key
    if request.verb == DELETE and (request.words or request.values or not place.key
                                   or place.has not in ("", "nexus")):
        return place.has, _named(place, request)
    return place.kind, place.key


def apply(state: State, request: Request, host: Surroundings) -> Changed:
    """The state after a change.  Raises a DocumentError, BadCall, NoSuchTarget, TargetDiffers."""
    place = parse(request.path)
    if request.verb == CREATE:
        return _create(state, place, request, host)
    if request.verb == SET:
        return _set(state, place, request)
    return _delete(state, place, request)


# ---- arguments ----------------------------------------------------------------------------------
def _given(noun: Noun, request: Request, known: Sequence[str]) -> Dict[str, str]:
    """{parameter: word} of what was given by position and by name.  Raises BadCall."""
    if len(request.words) > len(known):
        raise errors.BadCall(f"{request.verb} ({noun.name}) takes {_listed(known)}, not "
                             f"{quoted(request.words[len(known)])} as well", do="see --help")
    given = dict(zip(known, request.words))
    for name, word in request.values.items():
        if name not in known:
            raise errors.BadCall(f"{request.verb} ({noun.name}) has no parameter "
                                 f"{quoted(name)} (it has {_listed(known)})", do="correct it")
        if name in given:
            raise errors.BadCall(f"{name} is given twice", do="give it once")
        given[name] = word
    return given


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _parameters(noun: Noun, request: Request, plugin: str = "", fabric: str = "") -> Dict[str, str]:
    """{parameter: value} of what a making was given.  Raises BadCall, BadName, BadValue."""
    known = backstores.parameters(plugin) if plugin else noun.create
    given = _given(noun, request, [row.name for row in known])
    for row in known:
        if row.needed and not given.get(row.name):
            raise errors.BadCall(f"create ({noun.name}) needs {row.name}: {row.help}",
                                 do=f"lio-handover create {request.path.rstrip('/')} "
                                 + " ".join(f"{other.name}=..." for other in known if other.needed))
    values = {}
    for row in known:
        if given.get(row.name):
            word, where = given[row.name], f"{row.name} ({noun.name})"
            values[row.name] = words.wwn(word, where, fabric) if row.type == "wwn" \
                else words.TYPES[row.type](word, where)
    return values


# ---- create -------------------------------------------------------------------------------------
def _create(state: State, place: Node, request: Request, host: Surroundings) -> Changed:
    if not place.has:
        raise errors.BadName(f"{quoted(place.path)} has nothing that could be made in it",
                             do="name the node above, as targetcli does: .../luns, .../acls")
    noun = NOUNS[place.has]
    if place.above and place.has != "tpg" or place.key[:1] == ("target",):
        _there(state, place.above or place.key)
    if place.has == "backstore":
        values = _parameters(noun, request, place.plugin.partition(":")[0])
        store, sparse = backstores.new(place.plugin, values, host)
        _absent(state, store.key)
        return Changed(edits.put(state, store), path_of(store.key),
                       {} if sparse is None else {store.key: sparse})
    values = _parameters(noun, request, fabric=place.fabric)
    making = {"alua_group": _alua_group, "lu_group": _lu_group, "target": _target, "tpg": _tpg,
              "portal": _portal, "lun": _lun, "acl": _acl, "mapped_lun": _mapped_lun,
              "nexus": _nexus}[place.has]
    changed, key = making(state, place, values, host)
    return Changed(changed, path_of(key) if place.has != "nexus" else place.path)


def _there(state: State, key: Key) -> None:
    if edits.find(state, key) is None:
        raise errors.NoSuchTarget(f"{path_of(key)} is not there", do="lio-handover show")


def _absent(state: State, key: Key) -> None:
    if edits.find(state, key) is not None:
        raise errors.TargetDiffers(f"{path_of(key)} is there already",
                                   do="change it with set, or delete it first")


def _alua_group(state: State, place: Node, values: Mapping[str, str], _: Surroundings) \
        -> Tuple[State, Key]:
    key = alua_group_key(place.above, _group_name(values["name"]))
    _absent(state, key)
    store = edits.find(state, place.above)
    assert isinstance(store, Backstore)
    for group in store.alua_groups:
        if group.attributes.get("tg_pt_gp_id") == values["tag"]:
            raise errors.Duplicate(f"{path_of(group.key)} has the id {values['tag']}",
                                   do="choose another tag")
    return edits.put(state, AluaGroup(key, {"tg_pt_gp_id": values["tag"]})), key


def _group_name(name: str) -> str:
    if name in (NONE, "default_lu_gp"):
        raise errors.BadName(f"{quoted(name)} is the kernel's word for none")
    return name


def _lu_group(state: State, place: Node, values: Mapping[str, str], _: Surroundings) \
        -> Tuple[State, Key]:
    key = lu_group_key(_group_name(values["name"]))
    _absent(state, key)
    taken = {group.attributes.get("lu_gp_id", "") for group in state.lu_groups}
    number = values.get("id") or _free({int(word) for word in taken if word}, 1)
    if number in taken:
        raise errors.Duplicate(f"an LU group has the id {number}", do="choose another id")
    return edits.put(state, LuGroup(key, {"lu_gp_id": number})), key


def _free(taken: "set[int]", lowest: int = 0) -> str:
    while lowest in taken:
        lowest += 1
    return str(lowest)


def _target(state: State, place: Node, values: Mapping[str, str], host: Surroundings) \
        -> Tuple[State, Key]:
    key = target_key(place.plugin, values.get("wwn") or host.new_wwn(place.plugin))
    _absent(state, key)
    return edits.put(state, Target(key, {}, (new_tpg(key, "1", host),))), key


def new_tpg(target: Key, tag: str, host: Surroundings, portal: bool = True) -> Tpg:
    """A TPG as targetcli makes one."""
    key, fabric = tpg_key(target, tag), fabrics.of(target[1])
    attributes = dict(DEFAULTS.get(("tpg", fabric.name), {}))
    if fabric.nexus:
        attributes["nexus"] = host.new_wwn(fabric.name)
    portals = (Portal(portal_key(key, host.default_portal())),) \
        if fabric.portals and portal else ()
    return Tpg(key, attributes, portals)


def _tpg(state: State, place: Node, values: Mapping[str, str], host: Surroundings) \
        -> Tuple[State, Key]:
    target = edits.find(state, place.key)
    assert isinstance(target, Target)
    tag = values.get("tag") or _free({tpg.tag for tpg in target.tpgs}, 1)
    key = tpg_key(place.key, words.number(tag, "tag of a TPG", 0,
                                          fabrics.of(target.fabric).max_tag))
    _absent(state, key)
    taken = any(portal.address in (PORTAL, IPV4_PORTAL) for tpg in target.tpgs
                for portal in tpg.portals)
    return edits.put(state, new_tpg(target.key, tag, host, not taken)), key


def _portal(state: State, place: Node, values: Mapping[str, str], _: Surroundings) \
        -> Tuple[State, Key]:
    where = "ip_address of a portal"
    address = portal_name(values.get("ip_address") or words.ip("::0", where),
                          values.get("ip_port") or "3260", where)
    key = portal_key(place.above, address)
    _absent(state, key)
    target = edits.find(state, place.above[:3])
    assert isinstance(target, Target)
    for tpg in target.tpgs:
        if any(portal.address == address for portal in tpg.portals):
            raise errors.Duplicate(f"{path_of(tpg.key)} has the portal {address}, and TPGs of one "
                                   "target can't share one", do="choose another address or port")
    return edits.put(state, Portal(key)), key


def _lun(state: State, place: Node, values: Mapping[str, str], _: Surroundings) \
        -> Tuple[State, Key]:
    tpg = _the_tpg(state, place.above)
    plugin, _slash, name = values["storage_object"].partition("/")
    number = values.get("lun") or _free({lun.number for lun in tpg.luns})
    key = lun_key(tpg.key, number)
    _absent(state, key)
    changed = edits.put(state, Lun(key, backstore_key(plugin, name)))
    for acl in tpg.acls if values.get("add_mapped_luns", "1") == "1" else ():
        taken = {mapped.number for mapped in acl.mapped_luns}
        mapped = str(_free(taken)) if int(number) in taken else number
        changed = edits.put(changed, MappedLun(mapped_lun_key(acl.key, mapped), int(number)))
    return changed, key


def _the_tpg(state: State, key: Key) -> Tpg:
    tpg = edits.find(state, key)
    assert isinstance(tpg, Tpg)
    return tpg


def _acl(state: State, place: Node, values: Mapping[str, str], _: Surroundings) \
        -> Tuple[State, Key]:
    tpg, key = _the_tpg(state, place.above), acl_key(place.above, values["wwn"])
    _absent(state, key)
    return edits.put(state, Acl(key, {}, tuple(
        MappedLun(mapped_lun_key(key, lun.number), lun.number) for lun in tpg.luns
        if lun.backstore is not None)
        if values.get("add_mapped_luns", "1") == "1" else ())), key


def _mapped_lun(state: State, place: Node, values: Mapping[str, str], _: Surroundings) \
        -> Tuple[State, Key]:
    tpg, wanted = _the_tpg(state, place.key[:4]), values["tpg_lun_or_backstore"]
    key = mapped_lun_key(place.key, values["mapped_lun"])
    _absent(state, key)
    luns = [lun for lun in tpg.luns if lun.backstore is not None and wanted in (
        str(lun.number), "/".join(lun.backstore[1:]))]
    if not luns:
        raise errors.NoSuchTarget(f"{path_of(tpg.key)} has no LUN {quoted(wanted)}",
                                  do=f"lio-handover create {path_of(tpg.key)}/luns {wanted}")
    attributes = {"write_protect": "1"} if values.get("write_protect") == "1" else {}
    return edits.put(state, MappedLun(key, luns[0].number, attributes=attributes)), key


def _nexus(state: State, place: Node, values: Mapping[str, str], host: Surroundings) \
        -> Tuple[State, Key]:
    tpg = _the_tpg(state, place.key)
    if tpg.attributes.get("nexus"):
        raise errors.TargetDiffers(f"{path_of(tpg.key)} has the nexus {tpg.attributes['nexus']}",
                                   do="delete it first")
    nexus = values.get("wwn") or host.new_wwn(tpg.fabric)
    return edits.put(state, replace(tpg, attributes={**tpg.attributes, "nexus": nexus})), tpg.key


# ---- set ----------------------------------------------------------------------------------------
def _set(state: State, place: Node, request: Request) -> Changed:
    if not place.key or place.kind in ("target", "nexus"):
        raise errors.BadName(f"{quoted(place.path)} has no values of its own to set",
                             do="name an object: a backstore, .../tpg1, .../luns/lun0")
    obj = edits.find(state, place.key)
    if obj is None:
        if place.kind != "discovery_auth":
            raise errors.NoSuchTarget(f"{path_of(place.key)} is not there",
                                      do="lio-handover show")
        obj = DiscoveryAuth()
    if len(request.words) > 1:
        raise errors.BadCall(f"{quoted(request.words[1])} is not NAME=VALUE", do="see --help")
    group = request.words[0] if request.words else ""
    if not request.values:
        raise errors.BadCall(f"nothing to set of {request.path}", do="give NAME=VALUE")
    values = dict(request.values)
    if isinstance(obj, Backstore) and "size" in values and group in ("", "backstore"):
        obj = backstores.grown(obj, words.size(values.pop("size"), "size of a backstore"))
    owner = owner_of(obj.key)
    changed = attributes_to_set(NOUNS[obj.kind], owner, group, values, request.path)
    before, table = obj.attributes, rows(obj.kind, owner)
    gone = {*changed, *(other for name in changed for other in table[name].overwritten(before))}
    known = {name: value for name, value in before.items() if name not in gone}
    obj = replace(obj, attributes={**known, **{
        name: cleared(table[name], value) for name, value in changed.items()
        if value.encode(errors="surrogateescape") or before.get(name)}})
    _references(state, obj)
    return Changed(edits.put(state, obj), path_of(place.key))


def cleared(row: Attribute, value: str = "") -> str:
    """The value to wish for: of what is taken away, that of a new object, or the kernel's word."""
    if value.encode(errors="surrogateescape"):
        return value
    if row.path.startswith("auth/"):
        return NONE
    return "" if "" in row.unset else row.cleared


def _references(state: State, obj: object) -> None:
    """Raises NoSuchTarget where an object names a group that is not there."""
    if isinstance(obj, Backstore):
        group = obj.attributes.get("alua_lu_gp", "")
        if group and edits.find(state, lu_group_key(group)) is None:
            raise errors.NoSuchTarget(f"there is no LU group {quoted(group)}",
                                      do=f"lio-handover create /backstores/lu_groups {group}")
    if isinstance(obj, Lun):
        group = obj.attributes.get("alua_tg_pt_gp", "")
        store = obj.backstore and state.backstore(obj.backstore)
        if group not in ("", DEFAULT_GROUP) and store and \
                edits.find(state, alua_group_key(store.key, group)) is None:
            raise errors.NoSuchTarget(f"{display(store.key)} has no ALUA group {quoted(group)}",
                                      do=f"lio-handover create {path_of(store.key)}/alua {group}")


# ---- delete -------------------------------------------------------------------------------------
def _delete(state: State, place: Node, request: Request) -> Changed:
    key = place.key
    if about_discovery(place, request):
        return _no_discovery(state)
    # A node that has others, and is named alone, may have lost the word behind it.
    _kind, key = subject(place, request)
    if place.kind == "nexus" and place.key:
        return _no_nexus(state, place)
    _there(state, key)
    if key[-1] == DEFAULT_GROUP and len(key) > 4:
        raise errors.BadName(f"{path_of(key)} is there as long as its backstore is",
                             do="delete another one")
    changed = edits.without(state, key)
    if key[0] == "target" and len(key) == 6 and key[4] == "lun":
        tpg = _the_tpg(changed, key[:4])
        gone: List[MappedLun] = [mapped for acl in tpg.acls for mapped in acl.mapped_luns
                                 if mapped.lun is not None and str(mapped.lun) == key[-1]]
        for mapped in gone:
            changed = edits.without(changed, mapped.key)
    if key[:2] == ("lu_group", key[-1]):
        changed = replace(changed, backstores=tuple(
            replace(store, attributes={name: value for name, value in store.attributes.items()
                                       if name != "alua_lu_gp" or value != key[-1]})
            for store in changed.backstores))
    return Changed(changed, path_of(key))


def _named(place: Node, request: Request) -> Key:
    """The key of the object below a node that `delete` names."""
    if not place.has:
        raise errors.BadName(f"{quoted(place.path)} has nothing below it that could be deleted",
                             do="name the object by its path alone")
    noun = NOUNS[place.has]
    given = _given(noun, request, noun.delete)
    missing = [name for name in noun.delete if not given.get(name)]
    if missing:
        raise errors.BadCall(f"delete ({noun.name}) needs {_listed(missing)}",
                             do=f"lio-handover delete {request.path.rstrip('/')} "
                             + " ".join(f"{name}=..." for name in noun.delete)
                             + (f", or of it: {_of_itself(place.key)}" if place.key else ""))
    where = f"{noun.name} to delete"
    if place.has == "portal":
        return portal_key(place.above, portal_name(given["ip_address"], given["ip_port"], where))
    word, = given.values()
    if place.has == "target":
        return target_key(place.plugin, words.wwn(word, where, place.plugin))
    if place.has == "backstore":
        return backstore_key(place.plugin.partition(":")[0], words.name(word, where))
    if place.has == "alua_group":
        return alua_group_key(place.above, words.name(word, where))
    if place.has == "lu_group":
        return lu_group_key(words.name(word, where))
    if place.has == "tpg":
        return tpg_key(place.key, words.tag(word, where))
    if place.has == "lun":
        return lun_key(place.above, words.lun(word, where))
    if place.has == "acl":
        return acl_key(place.above, words.initiator(word, where))
    return mapped_lun_key(place.key, words.lun(word, where))


def _of_itself(key: Key) -> str:
    """The command that deletes an object which has others."""
    above, _, name = path_of(key).rpartition("/")
    return f"lio-handover delete {above} {name}" if key[0] == "target" \
        else "lio-handover delete /iscsi discovery_auth"


def _no_discovery(state: State) -> Changed:
    auth = state.discovery_auth or DiscoveryAuth()
    table = rows(auth.kind)
    return Changed(edits.put(state, replace(auth, attributes={
        name: cleared(table[name]) for name in auth.attributes if name in table})), "/iscsi")


def _no_nexus(state: State, place: Node) -> Changed:
    tpg = _the_tpg(state, place.key) if edits.find(state, place.key) else None
    if tpg is None or not tpg.attributes.get("nexus"):
        raise errors.NoSuchTarget(f"{place.path} is not there", do="lio-handover show")
    return Changed(edits.put(state, replace(tpg, attributes={
        **tpg.attributes, "nexus": ""})), place.path)

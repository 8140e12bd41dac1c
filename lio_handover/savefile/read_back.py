"""Entries of targetcli's save file → the data of a file of `apply`: what rtslib 2.1 and 2.2 write,
read as rtslib restores it.

A member that is missing is as rtslib takes it: a TPG is enabled, authentication is the kernel's
default, an ACL maps nothing.  A member that nobody knows is left out, and said.  An object that
would come up otherwise than it says (of a fabric that is not known here, a LUN without its
backstore) is refused by its name.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from .. import errors
from ..errors import quoted, shown
from ..model import fabrics, plugins
from . import rtslib_names
from .json_splice import Splice

Tree = Dict[str, Any]
#: Bytes of a save file at most.
MAX_BYTES = 64 << 20
LISTS = ("storage_objects", "fabric_modules", "targets")
#: rtslib's member of discovery authentication → its name for `set`.
_DISCOVERY: Mapping[str, str] = {
    "discovery_userid": "userid", "discovery_password": "password",
    "discovery_mutual_userid": "mutual_userid", "discovery_mutual_password": "mutual_password"}
_CHAP = ("userid", "password", "mutual_userid", "mutual_password")
_SECRETS = ("password", "mutual_password")


@dataclass
class ReadBack:
    """``tree``: what a file of `apply` would say; ``secrets``: what its {file: @N} stand for;
    ``notes``: what of the save file is left out; ``others``: targets of other fabrics."""

    tree: Tree = field(default_factory=lambda: {"backstores": {}, "targets": {}})
    secrets: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    others: List[str] = field(default_factory=list)

    def secret(self, name: str) -> str:
        """The secret that a word of ``tree`` names."""
        return self.secrets[int(name[1:])]

    def hide(self, value: Any) -> Mapping[str, str]:
        self.secrets.append(_text(value, "a password"))
        return {"file": f"@{len(self.secrets) - 1}"}


#: Tells whether `set` knows an attribute: (kind of object, plugin or fabric, group, name).
Known = Any


def read(path: str) -> str:
    """The text of a save file.  Raises BadFile."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise errors.BadFile(f"{shown(path)} can't be read: {error.strerror}",
                             do="name a save file of targetcli's") from None
    if len(data) > MAX_BYTES:
        raise errors.BadFile(f"{shown(path)} has more than {MAX_BYTES} bytes",
                             do="name a save file of targetcli's")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise errors.BadFile(f"{shown(path)} is no text",
                             do="name a save file of targetcli's") from None


def of_text(text: str, path: str, known: Known, target: str = "", store: str = "") -> ReadBack:
    """The data of a save file: all, or of one target (its WWN), or of one backstore (its name).

    Raises BadFile where it is no save file; BadStructure, BadName, BadValue.
    """
    try:
        splice = Splice(text, LISTS)
    except (ValueError, RecursionError, json.JSONDecodeError) as error:
        raise errors.BadFile(f"{shown(path)} is no save file: {shown(str(error))}",
                             do="look at it, or restore a backup of it") from None
    back = ReadBack()
    whole = not target and not store
    for element in splice.elements("storage_objects"):
        if whole or store and element.value.get("name") == store or target and _uses(
                splice, target, element.value):
            _store(back, element.value, known)
    for element in splice.elements("targets"):
        if whole or target and element.value.get("wwn") == target:
            _target(back, element.value, known)
    for element in splice.elements("fabric_modules") if whole else ():
        _fabric(back, element.value)
    if not whole and not back.tree["backstores"] and not back.tree["targets"] and not back.others:
        raise errors.NoSuchTarget(f"{shown(path)} has no {quoted(target or store)}",
                                  do="look at it")
    return back


def _uses(splice: Splice, wwn: str, entry: Mapping[str, Any]) -> bool:
    return any(element.value.get("wwn") == wwn
               and rtslib_names.store(entry) in rtslib_names.stores_named(element.value)
               for element in splice.elements("targets"))


# ---- values -------------------------------------------------------------------------------------
def _text(value: Any, where: str) -> str:
    """A value as the kernel is given it: text, numbers and switches alone."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (int, str)):
        return str(value)
    raise errors.BadStructure(f"{where}: {quoted(json.dumps(value))} is neither text nor a number",
                              do="correct the file")


def _objects(value: Any, where: str) -> Iterable[Mapping[str, Any]]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise errors.BadStructure(f"{where} is no list of objects", do="correct the file")
    return value


def _name(entry: Mapping[str, Any], name: str, where: str) -> str:
    value = entry.get(name)
    if value is None or isinstance(value, (dict, list, bool)) or value == "":
        raise errors.BadStructure(f"{where}: {name} is missing", do="correct the file")
    return str(value)


def _attributes(back: ReadBack, values: Any, kind: str, owner: str, group: str, where: str,
                known: Known) -> Dict[str, str]:
    """The attributes that `set` knows; of the others a note, as rtslib skips what it does not
    know."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise errors.BadStructure(f"{where}: {group} is no object", do="correct the file")
    taken = {}
    for name, value in values.items():
        if known(kind, owner, group, name):
            taken[name] = _text(value, f"{where}: {name}")
        elif value not in (None, ""):
            back.notes.append(f"{where}: {shown(str(name))} is not set: it is not known here")
    return taken


def _chap(back: ReadBack, entry: Mapping[str, Any], where: str) -> Dict[str, Any]:
    said: Dict[str, Any] = {}
    for name in _CHAP:
        value = entry.get(f"chap_{name}")
        if value not in (None, ""):
            said[name] = back.hide(value) if name in _SECRETS else _text(value, where)
    return said


# ---- backstores ---------------------------------------------------------------------------------
#: Plugin → members of the entry, as the parameters of `create`.
_BACKING: Mapping[str, Mapping[str, str]] = {
    "fileio": {"dev": "file_or_dev", "size": "size", "write_back": "write_back", "aio": "aio",
               "wwn": "wwn"},
    "iblock": {"dev": "dev", "readonly": "readonly", "exclusive": "exclusive", "wwn": "wwn"},
    "pscsi": {"dev": "dev"},
    "rd_mcp": {"size": "size", "nullio": "nullio", "wwn": "wwn"},
    "user": {"config": "cfgstring", "size": "size", "hw_max_sectors": "hw_max_sectors",
             "control": "control", "wwn": "wwn"}}


def _store(back: ReadBack, entry: Mapping[str, Any], known: Known) -> None:
    plugin, name = rtslib_names.store(entry)
    where = f"{shown(str(entry.get('plugin')))}/{shown(name)}"
    if plugin not in _BACKING:
        raise errors.BadName(f"{where}: {quoted(plugin)} is no plugin that is known here",
                             do="targetcli restoreconfig")
    said: Tree = {}
    for member, parameter in _BACKING[plugin].items():
        value = entry.get(member)
        if value is not None and value != "":
            said[parameter] = value if isinstance(value, (bool, int)) else _text(value, where)
    if plugin == "fileio":
        said.setdefault("write_back", False)  # rtslib/tcm.py:FileIOStorageObject.__init__
    attributes = _attributes(back, entry.get("attributes"), "backstore", plugin, "attribute", where,
                             known)
    if known("backstore", plugin, "attribute", "emulate_model_alias"):
        attributes.setdefault("emulate_model_alias", "0")
    if attributes:
        said["attributes"] = attributes
    groups = {}
    for group in _objects(entry.get("alua_tpgs"), f"{where}: alua_tpgs"):
        title = _name(group, "name", where)
        if title == "default_tg_pt_gp":  # rtslib/alua.py:setup skips it
            continue
        groups[title] = {"tag": int(_text(group.get("tg_pt_gp_id"), where)), **_attributes(
            back, {key: value for key, value in group.items()
                   if key not in ("name", "tg_pt_gp_id")},
            "alua_group", "", "alua", f"{where}/alua/{shown(title)}", known)}
    if groups:
        said["alua"] = groups
    back.tree["backstores"][f"{plugins.of(plugin).rtslib_name}/{name}"] = said


# ---- targets ------------------------------------------------------------------------------------
def _target(back: ReadBack, entry: Mapping[str, Any], known: Known) -> None:
    fabric, spelling = str(entry.get("fabric")), _name(entry, "wwn", "targets")
    if fabric not in fabrics.FABRICS:
        back.others.append(f"{shown(fabric)}/{shown(spelling)}")
        return
    names = sorted(rtslib_names.wwns(fabric, spelling))
    wwn = spelling if spelling in names or len(names) != 1 else names[0]
    back.tree["targets"][f"{fabric}/{wwn}"] = {
        f"tpg{_number(tpg, 'tag', wwn)}": _tpg(back, tpg, fabric, wwn, known)
        for tpg in _objects(entry.get("tpgs"), f"{shown(wwn)}: tpgs")}


def _number(entry: Mapping[str, Any], name: str, where: str) -> int:
    word = _name(entry, name, where)
    if not word.isascii() or not word.isdigit():
        raise errors.BadStructure(f"{shown(where)}: {name} is {quoted(word)}, no number",
                                  do="correct the file")
    return int(word)


def _tpg(back: ReadBack, entry: Mapping[str, Any], fabric: str, wwn: str, known: Known) -> Tree:
    where = f"{shown(wwn)}/tpg{_number(entry, 'tag', wwn)}"
    row = fabrics.of(fabric)
    said: Tree = {"luns": {}}
    if row.gate is fabrics.Gate.ENABLE:
        said["enable"] = entry.get("enable", True) not in (False, 0, "0")
    attributes = _attributes(back, entry.get("attributes"), "tpg", fabric, "attribute", where,
                             known)
    if row.logins:
        attributes.setdefault("authentication", "1")
    for member, values in (
            ("attributes", attributes),
            ("parameters", _attributes(back, entry.get("parameters"), "tpg", fabric, "parameter",
                                       where, known)),
            ("auth", _chap(back, entry, where) if row.logins else {})):
        if values:
            said[member] = values
    for lun in _objects(entry.get("luns"), f"{where}: luns"):
        said["luns"][str(_number(lun, "index", where))] = _lun(lun, where)
    if row.portals:
        said["portals"] = {_address(portal, where): {
            name: bool(portal.get(name)) for name in ("iser", "offload") if portal.get(name)}
            for portal in _objects(entry.get("portals"), f"{where}: portals")}
    acls = {_name(acl, "node_wwn", where): _acl(back, acl, fabric, where, known)
            for acl in _objects(entry.get("node_acls"), f"{where}: node_acls")}
    if acls:
        said["acls"] = acls
    return said


def _lun(entry: Mapping[str, Any], where: str) -> Any:
    words = _name(entry, "storage_object", where).split("/")
    if len(words) != 4 or words[1] != "backstores":
        raise errors.BadStructure(f"{where}: {quoted('/'.join(words))} is no backstore's path",
                                  do="correct the file")
    name, group = "/".join(words[2:]), entry.get("alua_tg_pt_gp_name")
    return {"backstore": name, "alua_tg_pt_gp_name": str(group)} \
        if group and group != "default_tg_pt_gp" else name


def _address(entry: Mapping[str, Any], where: str) -> str:
    host = _name(entry, "ip_address", where)
    bare = host.strip("[]")
    return f"{f'[{bare}]' if ':' in bare else bare}:{_number(entry, 'port', where)}"


def _acl(back: ReadBack, entry: Mapping[str, Any], fabric: str, where: str, known: Known) -> Tree:
    name = f"{where}/{shown(str(entry.get('node_wwn')))}"
    said: Tree = {"mapped_luns": {}}
    attributes = _attributes(back, entry.get("attributes"), "acl", fabric, "attribute", name, known)
    if attributes:
        said["attributes"] = attributes
    auth = _chap(back, entry, name)
    if auth:
        said["auth"] = auth
    if entry.get("tag"):
        said["tag"] = _text(entry["tag"], name)
    for lun in _objects(entry.get("mapped_luns"), f"{name}: mapped_luns"):
        number = _number(lun, "tpg_lun", name)
        said["mapped_luns"][str(_number(lun, "index", name))] = {
            "lun": number, "write_protect": True} if lun.get("write_protect") in (
            True, 1, "1") else number
    return said


def _fabric(back: ReadBack, entry: Mapping[str, Any]) -> None:
    """Discovery authentication, where it is enforced: rtslib writes no other."""
    if entry.get("name") != "iscsi":
        return
    said: Tree = {}
    for member, name in _DISCOVERY.items():
        value = entry.get(member)
        if value not in (None, ""):
            said[name] = back.hide(value) if name in _SECRETS else _text(value, "discovery_auth")
    enforced = entry.get("discovery_enable_auth", entry.get("enable"))
    if enforced in (True, 1, "1"):
        said["enable"] = True
    if said:
        back.tree["discovery_auth"] = said


def counted(tree: Tree) -> Tuple[int, int]:
    """(backstores, targets)."""
    return len(tree["backstores"]), len(tree["targets"])


def named(tree: Tree, there: Sequence[str]) -> List[str]:
    """The objects of the file that are there already."""
    return [name for name in (*tree["backstores"], *tree["targets"]) if name in there]

"""A state → the file of `apply` that wishes for it: only what differs from the defaults."""
from __future__ import annotations

import json
import re
from typing import Any, Callable, Dict, List, Mapping

from ..model import defaults, plugins
from ..model.attributes import RUNTIME, SECRET, rows
from ..model.objects import DEFAULT_GROUP, Acl, AluaGroup, Backstore, Lun, MappedLun, State, Tpg
from .backstores import PAGE
from .nouns import ALIASES, BACKSTORES, DEFAULTS, NOUNS, PORTAL, SWITCHES, targetcli_name
from .schema import MEMBERS
from .settable import settable
from .tree_file import NUMBER

Tree = Dict[str, Any]

#: Words that stand as they are, and those of them that some YAML takes for something else.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9/._-]*(?::[A-Za-z0-9/._-]+)*")
_TAKEN = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


def tree(state: State) -> Tree:
    """The file's data; secrets are ``{keep: true}``."""
    entry: Tree = {}
    if state.lu_groups:
        entry["lu_groups"] = {group.name: {"id": int(group.attributes.get("lu_gp_id", "1"))}
                              for group in state.lu_groups}
    entry["backstores"] = {f"{targetcli_name(store.plugin)}/{store.name}": _store(store)
                           for store in state.backstores}
    entry["targets"] = {target.name: {f"tpg{tpg.tag}": _tpg(tpg) for tpg in target.tpgs}
                        for target in state.targets}
    auth = state.discovery_auth
    if auth is not None:
        said = _attributes("discovery_auth", "", auth.attributes,
                           {"enforce_discovery_auth": "0"})
        if said:
            entry["discovery_auth"] = said
    return entry


def _attributes(kind: str, owner: str, values: Mapping[str, str],
                known: Mapping[str, str]) -> Tree:
    """The members for the attributes that are not as in a new object."""
    noun, table = NOUNS[kind], settable(NOUNS[kind], owner)
    said: Tree = {}
    names = {path: name for name, path in ALIASES.get(kind, {}).items()}
    for path, row in table.items():
        value = values.get(path)
        if value is None or value in row.unset or value == known.get(path) or value == "NULL" \
                or row.if_absent == value:
            continue
        shown = names.get(path, path)
        group, prefix = next((group, prefix) for group, prefix in noun.groups.items()
                             if shown.startswith(prefix))
        place: Tree = said.setdefault(MEMBERS[group], {}) if group in MEMBERS else said
        if row.kind == SECRET:
            place[shown[len(prefix):]] = {"keep": True}
        elif row.numeric and not row.allowed and row.range == (0, 1):
            place[shown[len(prefix):]] = value == "1"
        else:
            place[shown[len(prefix):]] = int(value) if row.numeric or NUMBER.fullmatch(value) \
                else str(value)
    return said


def _store(store: Backstore) -> Tree:
    entry = {**_parameters(store), **(_MORE[store.plugin](store) if store.plugin in _MORE else {})}
    if store.serial and any(row.name == "wwn" for row in BACKSTORES[store.plugin]):
        entry["wwn"] = store.serial
    special = DEFAULTS.get(("backstore", store.plugin), {})
    known = {**(defaults.store_values(store) if plugins.of(store.plugin).listed else {}),
             **special}
    for path in defaults.overwritten_by("backstore", store.plugin, special, known):
        known.pop(path, None)
    if store.attributes.get("attrib/emulate_model_alias") == "1":
        known["wwn/product_id"] = store.name[:16]
    values = {path: value for path, value in store.attributes.items()
              if path not in ("wwn/vpd_unit_serial", "alua_lu_gp") and path in known}
    entry.update(_attributes("backstore", store.plugin, values, known))
    if store.attributes.get("alua_lu_gp"):
        entry["lu_group"] = store.attributes["alua_lu_gp"]
    groups = {group.name: said for group in store.alua_groups for said in [_group(group)]
              if said or group.name != DEFAULT_GROUP}
    if groups:
        entry["alua"] = groups
    return entry


def _parameters(store: Backstore) -> Tree:
    """The parameters that words of ``control`` say, but for those that are so anyway."""
    entry: Tree = {}
    for row in BACKSTORES[store.plugin]:
        value = store.parameters.get(row.word, "")
        if row.only:
            other = "0" if row.only == "1" else "1"
            is_so = row.only if value == row.only else other
            if is_so != SWITCHES.get(row.default, other):
                entry[row.name] = is_so == "1"
        elif row.word and value:
            entry[row.name] = int(value) if row.type in ("size", "number") else value
    return entry


#: What a file says of a plugin's backstore besides.
_MORE: Mapping[str, Callable[[Backstore], Tree]] = {
    "fileio": lambda store: {"size": int(store.parameters["fd_dev_size"])}
    if "fd_dev_size" in store.parameters else {},
    "rd_mcp": lambda store: {"size": int(store.parameters.get("rd_pages", "1")) * PAGE},
    "pscsi": lambda store: {"dev": store.path},
}


def _group(group: AluaGroup) -> Tree:
    known = {path: value for path, value in defaults.DEFAULTS["alua_group", ""].items()}
    values = {path: value for path, value in group.attributes.items()
              if rows("alua_group")[path].kind != RUNTIME} if group.attributes else {}
    tag = group.attributes.get("tg_pt_gp_id", "")
    return {**({"tag": int(tag)} if tag and group.name != DEFAULT_GROUP else {}),
            **_attributes("alua_group", "", values, known)}


def _tpg(tpg: Tpg) -> Tree:
    known = {**defaults.DEFAULTS.get(("tpg", tpg.fabric), {}),
             **DEFAULTS.get(("tpg", tpg.fabric), {})}
    if tpg.attributes.get("attrib/authentication", "1") == "0":
        known["param/AuthMethod"] = "CHAP,None"
    if tpg.attributes.get("attrib/generate_node_acls") == "1":
        known["attrib/cache_dynamic_acls"] = "1"
    # Whoever has it, the kernel gave it a relative port, which stays as it is where none is said.
    entry = _attributes("tpg", tpg.fabric, {path: value for path, value in tpg.attributes.items()
                                            if path != "rtpi"}, known)
    if tpg.attributes.get("nexus"):
        entry["nexus"] = tpg.attributes["nexus"]
    portals = {portal.address: _attributes("portal", tpg.fabric, portal.attributes,
                                           defaults.DEFAULTS["portal", tpg.fabric])
               for portal in tpg.portals}
    if tpg.fabric == "iscsi" and portals != {PORTAL: {}}:
        entry["portals"] = portals if any(portals.values()) else [*portals]
    luns = {str(lun.number): _lun(lun) for lun in tpg.luns if lun.backstore is not None}
    if luns:
        entry["luns"] = luns
    if tpg.acls:
        entry["acls"] = {acl.initiator: _acl(acl, tpg) for acl in tpg.acls}
    return entry


def _lun(lun: Lun) -> Any:
    assert lun.backstore is not None
    name = f"{targetcli_name(lun.backstore[1])}/{lun.backstore[2]}"
    values = {path: value for path, value in lun.attributes.items()
              if path in rows("lun", lun.key[1]) and rows("lun", lun.key[1])[path].kind != RUNTIME}
    more = _attributes("lun", lun.key[1], values, {})
    return {"backstore": name, **more} if more else name


def _acl(acl: Acl, tpg: Tpg) -> Tree:
    known = defaults.values(acl.key, "acl", tpg)
    entry = _attributes("acl", tpg.fabric, acl.attributes, known)
    mapped = {str(mapped.number): _mapped(mapped) for mapped in acl.mapped_luns
              if mapped.lun is not None}
    if mapped != {str(lun.number): lun.number for lun in tpg.luns if lun.backstore is not None}:
        entry["mapped_luns"] = mapped
    return entry


def _mapped(mapped: MappedLun) -> Any:
    protected = mapped.attributes.get("write_protect") == "1"
    return {"lun": mapped.lun, "write_protect": True} if protected else mapped.lun


# ---- as text ------------------------------------------------------------------------------------
def text(entry: Mapping[str, Any]) -> str:
    """The file as YAML that needs no library to be written: names and text are quoted as JSON."""
    return "".join(line + "\n" for line in _lines(entry, 0)) or "{}\n"


def _lines(value: Mapping[str, Any], depth: int) -> List[str]:
    lines = []
    for name, member in value.items():
        head = "  " * depth + _word(name) + ":"
        if isinstance(member, dict) and member and not (len(member) == 1 and "keep" in member):
            lines += [head, *_lines(member, depth + 1)]
        else:
            lines.append(f"{head} "
                         + (_word(member) if isinstance(member, str) else json.dumps(member)))
    return lines


def _word(word: str) -> str:
    """A word as it is where YAML takes it for nothing else, else quoted."""
    plain = _PLAIN.fullmatch(word) and word.lower() not in _TAKEN
    return word if plain else json.dumps(word)

"""The model as entries of targetcli's save file, in rtslib's words.

An entry has what the constructors and ``setup`` functions of rtslib 2.1 and 2.2 both take
(rtslib/tcm.py, rtslib/target.py): a member which a constructor does not know costs the object.
"""
from __future__ import annotations

import os
from typing import Any, Callable, Dict, Mapping, Tuple

from ..model import fabrics, plugins
from ..model.fabrics import Gate
from ..model.objects import DEFAULT_GROUP, Acl, AluaGroup, Backstore, Target, Tpg
from .rtslib_names import FABRICS, chap, path_of

Tree = Dict[str, Any]


# ---- what an entry says -------------------------------------------------------------------------
def enabled(entry: Mapping[str, Any]) -> bool:
    """Whether a target would come up serving: also where rtslib may stumble over it, so nobody
    knows (rtslib/target.py:TPG.setup, _set_enable).  Fabrics without a gate always do."""
    tpgs = entry.get("tpgs", [])
    if not isinstance(tpgs, list):
        return True
    if fabrics.gate_of(str(entry.get("fabric"))) is not Gate.ENABLE:
        return True
    return any(not isinstance(tpg, dict) or _opens(tpg.get("enable", True)) for tpg in tpgs)


def _opens(value: Any) -> bool:
    """Not only for false and 0: what is text goes through int()."""
    if isinstance(value, str):
        try:
            return int(value) != 0
        except ValueError:
            return True
    return bool(value != 0)


# ---- the model in rtslib's words ----------------------------------------------------------------
def _below(attributes: Mapping[str, str], folder: str) -> Tree:
    return {name[len(folder):]: value for name, value in attributes.items()
            if name.startswith(folder)}


def _number(value: str) -> Any:
    """rtslib shows what looks like a number as one (rtslib/node.py:CFSNode.dump)."""
    try:
        return int(value)
    except ValueError:
        return value


def _numbers(values: Tree) -> Tree:
    return {name: _number(value) for name, value in values.items()}


def _fileio(store: Backstore) -> Tree:
    said = store.parameters
    return {"dev": store.path, "wwn": store.serial, "size": int(said.get("fd_dev_size", "0")),
            # rtslib opens the file buffered where this is set (rtslib/tcm.py:_configure).
            "write_back": said.get("fd_buffered_io") == "1",
            "aio": said.get("fd_async_io") == "1"}


def _block(store: Backstore) -> Tree:
    said = store.parameters
    return {"dev": store.path, "wwn": store.serial, "readonly": said.get("readonly") == "1",
            "write_back": False,
            # which only 2.2 knows
            **({"exclusive": False} if said.get("exclusive") == "0" else {})}


def _ramdisk(store: Backstore) -> Tree:
    pages = int(store.parameters.get("rd_pages", "1"))
    return {"wwn": store.serial, "size": pages * os.sysconf("SC_PAGE_SIZE"),
            **({"nullio": True} if store.parameters.get("rd_nullio") == "1" else {})}


def _pscsi(store: Backstore) -> Tree:
    """Found by its path; the kernel's numbers are of one boot.  It has no serial of its own."""
    return {"dev": store.path}


def _user(store: Backstore) -> Tree:
    said = store.parameters
    control = ",".join(f"{name}={said[name]}" for name in (
        "max_data_area_mb", "hw_block_size", "data_pages_per_blk", "cmd_ring_size_mb")
        if name in said)
    return {"wwn": store.serial, "config": said.get("dev_config", ""),
            "size": int(said.get("dev_size", "0")),
            **({"hw_max_sectors": int(said["hw_max_sectors"])} if "hw_max_sectors" in said
               else {}),
            **({"control": control} if control else {})}


#: The kernel's plugin → what the constructor of its storage object takes besides the name.
BACKING: Mapping[str, Callable[[Backstore], Tree]] = {
    "fileio": _fileio, "iblock": _block, "rd_mcp": _ramdisk, "pscsi": _pscsi, "user": _user}


def storage_object(store: Backstore) -> Tree:
    return {"plugin": plugins.of(store.plugin).rtslib_name, "name": store.name,
            **BACKING[store.plugin](store),
            "attributes": _numbers(_below(store.attributes, "attrib/")),
            "alua_tpgs": [_group(group) for group in store.alua_groups]}


def _group(group: AluaGroup) -> Tree:
    return {"name": group.name, **_numbers(dict(group.attributes)),
            "tg_pt_gp_id": _number(group.attributes.get("tg_pt_gp_id", "0"))}


def target(obj: Target) -> Tree:
    fabric = next(name for name, row in FABRICS.items() if row.folder == obj.fabric)
    return {"fabric": fabric, "wwn": obj.wwn, "tpgs": [_tpg(tpg) for tpg in obj.tpgs]}


def _tpg(tpg: Tpg) -> Tree:
    entry: Tree = {
        "tag": tpg.tag, "enable": tpg.attributes.get("enable", "1") != "0",
        "attributes": _numbers(_below(tpg.attributes, "attrib/")),
        "luns": [{"index": lun.number, "alias": lun.alias,
                  "storage_object": path_of(*_two(lun.backstore[1:])),
                  "alua_tg_pt_gp_name": lun.attributes.get("alua_tg_pt_gp", DEFAULT_GROUP)}
                 for lun in tpg.luns if lun.backstore is not None],
        "portals": [_portal(portal.address, portal.attributes) for portal in tpg.portals],
        "node_acls": [_acl(acl) for acl in tpg.acls], **chap(tpg.attributes)}
    parameters = _below(tpg.attributes, "param/")
    if parameters:
        entry["parameters"] = parameters
    return entry


def _two(words: Tuple[str, ...]) -> Tuple[str, str]:
    plugin, name = words
    return plugin, name


def _portal(address: str, attributes: Mapping[str, str]) -> Tree:
    host, _, port = address.rpartition(":")
    return {"ip_address": host, "port": int(port), "iser": attributes.get("iser") == "1",
            "offload": attributes.get("cxgbit") == "1"}


def _acl(acl: Acl) -> Tree:
    entry: Tree = {
        "node_wwn": acl.initiator, "attributes": _numbers(_below(acl.attributes, "attrib/")),
        "mapped_luns": [{"index": lun.number, "tpg_lun": lun.lun, "alias": lun.alias,
                         "write_protect": lun.attributes.get("write_protect") == "1"}
                        for lun in acl.mapped_luns if lun.lun is not None],
        **chap(acl.attributes)}
    if acl.attributes.get("tag"):
        entry["tag"] = acl.attributes["tag"]
    return entry

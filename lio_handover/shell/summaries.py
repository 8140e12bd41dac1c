"""The text and the health of each node, as targetcli's `ls` and `status` have them: scripts read
them (``Mapped LUNs: 0``)."""
from __future__ import annotations

import os
import re
from typing import Callable, Dict, Mapping, Optional, Tuple

from .. import errors
from ..errors import one_line
from ..model import plugins
from ..model.attributes import NONE
from ..savefile import rtslib_names
from .nodes import Node, linked, members

#: (text, whether it is well, None where that is no question)
Summary = Tuple[str, Optional[bool]]

_STATES = {"0": "Active/optimized", "1": "Active/non-optimized", "2": "Standby",
           "3": "Unavailable", "4": "LBA Dependent", "14": "Offline", "15": "Transitioning"}
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def of(node: Node) -> Summary:
    text, well = _SUMMARIES[node.kind](node)
    return one_line(text), well


def size_text(size: int) -> str:
    """``10.0GiB``, as targetcli has it; bytes where they are few."""
    if size < 1024:
        return f"{size} bytes"
    value = float(size)
    for unit in _UNITS:
        value /= 1024
        if value < 1024:
            return f"{value:3.1f}{unit}"
    return "None"


# ---- backstores ---------------------------------------------------------------------------------
def _word(info: str, key: str) -> str:
    """The word behind another of a backstore's ``info`` (rtslib/tcm.py:_parse_info)."""
    match = re.search(f".*{key}: ([^: ]+)", " ".join(info.split()))
    return match[1] if match else ""


def device_size(path: str) -> int:
    """Bytes of a block device, 0 where there is none."""
    try:
        number = os.stat(path).st_rdev
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/size") as file:
            return int(file.read()) * 512
    except (OSError, ValueError):
        return 0


def store_facts(node: Node) -> Dict[str, str]:
    """Facts that `ls` and `info` tell of a backstore: dev, size, status, nullio, readonly …"""
    info = node.read("info")
    said = plugins.parse(node.plugin, info)
    path = node.read("udev_path")
    facts = {"status": _word(info, "Status").lower(), "dev": path}
    if node.plugin == "fileio":
        facts["dev"] = said.get("fd_dev_name", path)
        facts["size"] = said.get("fd_dev_size", "0")
        if os.path.exists(facts["dev"]) and not os.path.isfile(facts["dev"]):
            facts["size"] = str(device_size(facts["dev"]))
        facts["aio"] = said.get("fd_async_io", "0")
    elif node.plugin == "iblock":
        facts["size"] = str(device_size(path))
        facts["readonly"] = said.get("readonly", "0")
        facts["exclusive"] = said.get("exclusive", "1")
    elif node.plugin == "rd_mcp":
        pages, _, page = _word(info, "PAGES/PAGE_SIZE").partition("*")
        facts["size"] = str(int(pages or 0) * int(page or 0))
        facts["nullio"] = said.get("rd_nullio", "0")
    elif node.plugin == "user":
        facts["config"] = said.get("dev_config", "")
        facts["size"] = said.get("dev_size", "0")
    return facts


def _backstore(node: Node) -> Summary:
    facts = store_facts(node)
    size = f"({size_text(int(facts.get('size', 0)))})"
    cached = "write-back" if node.read("attrib/emulate_write_cache") == "1" else "write-thru"
    status = facts["status"]
    texts = {
        "fileio": f"{facts['dev']} {size} {cached} {status}",
        "iblock": f"{facts['dev']} {size} "
                  f"{'ro ' if facts.get('readonly') == '1' else ''}{cached} {status}",
        "rd_mcp": f"{'nullio ' if facts.get('nullio') == '1' else ''}{size} {status}",
        "pscsi": f"{facts['dev']} {status}",
        "user": f"{facts.get('config', '').partition('/')[2] or '(no config)'} {size} {status}",
    }
    return texts[node.plugin], True


def _alua_group(node: Node) -> Summary:
    state = node.read("alua_access_state")
    return f"ALUA state: {_STATES.get(state, state)}", True


# ---- fabrics ------------------------------------------------------------------------------------
def said(node: Node, name: str) -> str:
    """A name or secret of CHAP; "" where the kernel has none."""
    value = node.read(name)
    return "" if value == NONE else value


def _fabric(node: Node) -> Summary:
    words, well = [], None
    if "discovery_auth" in node.features \
            and node.read("discovery_auth/enforce_discovery_auth") == "1":
        well = bool(said(node, "discovery_auth/password") and said(node, "discovery_auth/userid"))
        words.append("mutual disc auth" if node.read("discovery_auth/authenticate_target") == "1"
                     else "1-way disc auth")
    return ", ".join([*words, f"Targets: {len(node.children())}"]), well


def _bad_name(node: Node) -> bool:
    return node.name not in rtslib_names.wwns(node.fabric, node.name)


def _target(node: Node) -> Summary:
    return ("INVALID WWN", False) if _bad_name(node) else (f"TPGs: {len(node.children())}", None)


def _tpg(node: Node) -> Summary:
    if "tpgts" not in node.features and _bad_name(node):
        return "INVALID WWN", False
    if node.read("enable", "1") == "0":
        return "disabled", False
    words, well = [], None
    if "nexus" in node.features:
        words.append(node.read("nexus") or "None")
    if "acls" not in node.features:
        return ", ".join(words), None
    dynamic = node.read("attrib/generate_node_acls", "0") not in ("", "0")
    words.append("gen-acls" if dynamic else "no-gen-acls")
    if "auth" in node.features:
        if node.read("attrib/authentication", "0") == "0":
            words.append("no-auth")
            well = True if dynamic else None
        elif not dynamic:
            words.append("auth per-acl")
        else:
            well = bool(said(node, "auth/password") and said(node, "auth/userid"))
            words += ["tpg-auth", _way(node)]
    return ", ".join(words), well


def _way(node: Node) -> str:
    return "mutual auth" if node.read("auth/authenticate_target") == "1" else "1-way auth"


def store_at(node: Node, at: str) -> Tuple[str, str]:
    """(targetcli's plugin, name) of the backstore of a directory."""
    hba, _, name = at.partition("/")[2].partition("/")
    return plugins.of(hba.rpartition("_")[0]).rtslib_name, name


def _lun(node: Node) -> Summary:
    try:
        at = linked(node)
    except errors.NoSuchTarget:
        at = None
    if not at:
        return "BROKEN STORAGE LINK", False
    plugin, name = store_at(node, at)
    store = Node(node.tree, node, name, "backstore", at)
    path = store.read("udev_path")
    if not path and plugin == "fileio":
        path = plugins.parse("fileio", store.read("info")).get("fd_dev_name", "")
    group = node.read("alua_tg_pt_gp").split("\n")[0].partition(":")[2].strip() \
        if plugin != "pscsi" else ""
    return f"{plugin}/{name}{f' ({path})' if path else ''} ({group or 'None'})", True


def _acl(node: Node) -> Summary:
    initiators = members(node)
    words, well = [], None
    if node.name not in initiators:
        words.append(f"(group of {len(initiators)})" if len(initiators) > 1
                     else f"({initiators[0]})")
    tpg = node.tpg
    if "auth" in node.features and tpg.read("attrib/authentication", "0") != "0":
        if tpg.read("attrib/generate_node_acls", "0") != "0":
            words.append("auth via tpg")
        else:
            well = bool(said(node, "auth/password") and said(node, "auth/userid"))
            words.append(_way(node))
    return ", ".join([*words, f"Mapped LUNs: {len(node.children())}"]), well


def _mapped_lun(node: Node) -> Summary:
    try:
        at = linked(node)
        lun = at and linked(Node(node.tree, node, "", "lun", at))
    except errors.NoSuchTarget:
        lun = None
    if not at or not lun:
        return "BROKEN LUN LINK", False
    plugin, name = store_at(node, lun)
    mode = "ro" if node.read("write_protect") == "1" else "rw"
    return f"lun{at.rpartition('_')[2]} {plugin}/{name} ({mode})", True


def _portal(node: Node) -> Summary:
    if node.read("iser") == "1":
        return "iser", True
    return ("offload" if node.read("cxgbit") == "1" else ""), True


def _nothing(_: Node) -> Summary:
    return "", None


def _counted(what: str) -> Callable[[Node], Summary]:
    return lambda node: (f"{what}: {len(node.children())}", None)


_SUMMARIES: Mapping[str, Callable[[Node], Summary]] = {
    "root": _nothing, "backstores": _nothing, "plugin": _counted("Storage Objects"),
    "backstore": _backstore, "alua": _counted("ALUA Groups"), "alua_group": _alua_group,
    "fabric": _fabric, "target": _target, "tpg": _tpg, "luns": _counted("LUNs"), "lun": _lun,
    "acls": _counted("ACLs"), "acl": _acl, "mapped_lun": _mapped_lun,
    "portals": _counted("Portals"), "portal": _portal}

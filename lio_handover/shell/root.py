"""Commands of the root: sessions, version, clearconfig, saveconfig, restoreconfig."""
from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Mapping

from .. import __version__, errors
from ..errors import quoted
from ..local import managing
from ..local.ours import BROUGHT_BACK
from ..manage import settable
from ..manage.changes import Request
from ..model import fabrics, plugins
from ..savefile import not_saved, read_back, whole
from . import nodes, summaries
from .changes import About, Making, Session, full_path, switch
from .nodes import Node

Given = Mapping[str, str]


def version(session: Session, node: Node, _: Given) -> None:
    session.info(f"lio-handover shell version {__version__}")


# ---- sessions -----------------------------------------------------------------------------------
_HEAD = re.compile(r"LIO Session ID: (\d+).*SessionType: (\S+)")
_CID = re.compile(r"CID: (\d+).*TARG_CONN_STATE_(\S+)")


def sessions(session: Session, node: Node, given: Given) -> None:
    """Also those of initiators that no ACL names, which targetcli does not see."""
    action, sid = given.get("action") or "list", given.get("sid")
    if action not in ("list", "detail"):
        raise errors.BadCall("action must be one of: list, detail", do="correct it")
    if sid and not sid.isdigit():
        raise errors.BadCall(f"sid must be a number, {quoted(sid)} given", do="correct it")
    listed = [entry for entry in _sessions(session.tree.root) if not sid or entry["id"] == sid]
    if not listed and sid:
        raise errors.NoSuchTarget(f"no session found with sid {sid}", do="sessions")
    for entry in listed:
        session.say(*_told(entry, action == "detail"))
    if not listed:
        session.say("(no open sessions)")


def _told(entry: Mapping[str, Any], detail: bool) -> Iterator[str]:
    yield (f"alias: {entry['alias']}\tsid: {entry['id']} type: {entry['type']} "
           f"session-state: {entry['state']}")
    if not detail:
        return
    yield f"    name: {entry['name']} ({entry['auth']})"
    for line in entry["luns"]:
        yield f"    mapped-lun: {line}"
    for cid, state, address, transport in entry["connections"]:
        yield f"    address: {address} {transport}  cid: {cid} connection-state: {state}"


def _sessions(root: Node) -> Iterator[Dict[str, Any]]:
    iscsi = root.child("iscsi")
    for target in iscsi.children() if iscsi else ():
        for tpg in target.children():
            acls = tpg.child("acls")
            named = set()
            for name in sorted(acls.folders()) if acls else ():
                named.add(name)
                acl = Node(root.tree, acls, name, "acl", f"{acls.at}/{name}")  # type: ignore
                entry = _parsed(acl.read("info"), name)
                if entry:
                    yield {**entry, "auth": _auth(tpg, acl), "luns": [*_luns(acl)]}
            for name in tpg.read("dynamic_sessions").split("\n"):
                name = name.strip("\0 ")
                if name and name not in named:
                    yield {"alias": "", "id": "-", "type": "Normal", "state": "LOGGED_IN",
                           "name": name, "auth": _auth(tpg, tpg), "connections": [],
                           "luns": [*_all_luns(tpg)]}


def _parsed(info: str, name: str) -> Dict[str, Any]:
    """An ACL's session, as the kernel tells of it (iscsi_target_configfs.c:
    lio_target_nacl_info_show), {} where there is none."""
    head = _HEAD.search(info)
    if not head or info.startswith("No active"):
        return {}
    entry: Dict[str, Any] = {"id": head[1], "type": head[2], "name": name, "alias": "", "state": "",
                             "connections": []}
    for line in info.splitlines():
        if line.startswith("InitiatorAlias:"):
            entry["alias"] = line.partition(":")[2].strip()
        elif "TARG_SESS_STATE_" in line:
            entry["state"] = line.partition("_STATE_")[2].split()[0]
        elif "TARG_CONN_STATE_" in line:
            match = _CID.search(line)
            entry["connections"].append([match[1] if match else "?", match[2] if match else "?",
                                         "?", ""])
        elif "Address" in line and entry["connections"]:
            words = line.split()
            entry["connections"][-1][2:] = words[1], words[2] if len(words) > 2 else ""
    return entry


def _auth(tpg: Node, acl: Node) -> str:
    """Whether, and how, who is logged in has proved who it is: by what LIO asks for."""
    if tpg.read("attrib/authentication", "0") == "0":
        return "NOT AUTHENTICATED"
    from_tpg = tpg.read("attrib/generate_node_acls", "0") != "0"
    asked = tpg if from_tpg else acl
    return "authenticated, mutual" if asked.read("auth/authenticate_target") == "1" \
        else "authenticated"


def _luns(acl: Node) -> Iterator[str]:
    for mapped in acl.children():
        text, well = summaries.of(mapped)
        match = re.fullmatch(r"lun\d+ (\S+) \((rw|ro)\)", text)
        if well and match:
            yield (f"{mapped.name[len('mapped_lun'):]} backstore: {match[1]} "
                   f"mode: {'r' if match[2] == 'ro' else 'rw'}")


def _all_luns(tpg: Node) -> Iterator[str]:
    """The LUNs of an initiator without an ACL: each under its own number."""
    mode = "r" if tpg.read("attrib/demo_mode_write_protect", "1") != "0" else "rw"
    luns = tpg.child("luns")
    for lun in luns.children() if luns else ():
        at = nodes.linked(lun)
        if at:
            plugin, name = summaries.store_at(lun, at)
            yield f"{lun.name[3:]} backstore: {plugin}/{name} mode: {mode}"


# ---- clearconfig --------------------------------------------------------------------------------
def clearconfig(session: Session, node: Node, given: Given) -> None:
    if not given.get("confirm") or not switch(given["confirm"], "confirm"):
        raise errors.BadCall("As a precaution, confirm=True needs to be set", do="confirm=true")
    others = _others(session.tree.root)
    if others:
        raise errors.CannotChange(f"{others[0]}: lio-handover changes none of its fabric",
                                  do="targetcli clearconfig, or delete the others alone")
    host = session.host
    reader = host._plain_reader()
    names = ["/".join(name) for name in reader.target_names()]
    stores = [*reader.placed()]

    def body(making: Making) -> None:
        for target in making.state.targets:
            making.do("delete", f"/{target.fabric}", target.wwn)
        for store in making.state.backstores:
            from ..manage.nouns import targetcli_name
            making.do("delete", f"/backstores/{targetcli_name(store.plugin)}", store.name)
        if making.state.discovery_auth is not None:
            making.do("delete", "/iscsi", "discovery_auth")
        making.said.append("All configuration cleared")
    discovery = [Request("delete", "/iscsi", ("discovery_auth",))] \
        if session.tree.fs.exists("iscsi/discovery_auth") else []
    session.change("clearconfig", discovery, body, About(stores, names))


def _others(root: Node) -> List[str]:
    """The targets of fabrics that are only shown."""
    return [target.path for fabric in root.children() if fabric.fabric
            and fabric.fabric not in fabrics.FABRICS for target in fabric.children()]


# ---- saveconfig, restoreconfig ------------------------------------------------------------------
def _file(session: Session, given: Given) -> str:
    """The save file that is meant."""
    word = given.get("savefile")
    if word:
        return full_path(word)
    host = session.host
    return whole.default_path(host._plain_reader().dbroot(), host.settings.savefiles)


def saveconfig(session: Session, node: Node, given: Given) -> None:
    """lio-handover's targets are kept by it, all others by targetcli's file."""
    host, path = session.host, _file(session, given)
    reader = host._plain_reader()
    counting = host.counting()
    names = ["/".join(name) for name in reader.target_names()]
    ours = [name for name in names if name in counting
            and counting[name].state in BROUGHT_BACK[counting[name].role]]
    confirmed = [name for name in ours if counting[name].state == "confirmed"]
    rest = [(fabric, wwn) for fabric, wwn in reader.target_names()
            if f"{fabric}/{wwn}" not in ours]
    mine = {lun.backstore for name in ours for target in [reader.target(*name.split("/", 1))]
            for tpg in target.tpgs for lun in tpg.luns if lun.backstore is not None}
    state = reader.state(rest, [key for key in reader.placed() if key not in mine],
                         session.tree.fs.exists("iscsi/discovery_auth"))
    if session.dry_run:
        session.say(f"would save {len(state.targets)} targets to {path}")
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    whole.save(state, path, host.settings.state_directory)
    for group in host._groups(confirmed) if confirmed else ():
        host.adopt([(name.partition("/")[0], name.partition("/")[2]) for name in group])
    session.info(f"Configuration saved to {path}")
    if confirmed:
        session.info(f"lio-handover keeps {', '.join(confirmed)} as it is now in its own records")
    for name in ours:
        if name not in confirmed:
            session.note(f"{name} is in a handover, which keeps it: it is not saved")
    for name, what in not_saved.lost(state):
        session.note(f"{name}: {path} can't hold {what}; next: lio-handover adopt")
    for name in _others(session.tree.root):
        session.note(f"{name}: its entry in {path} stays as it is; next: targetcli saveconfig")


def restoreconfig(session: Session, node: Node, given: Given) -> None:
    """All that the file says, or nothing of it.  Raises what `apply` raises."""
    path = _file(session, given)
    clear = bool(given.get("clear_existing")) and switch(given["clear_existing"], "clear_existing")
    target, store = given.get("target") or "", given.get("storage_object") or ""
    back = read_back.of_text(read_back.read(path), path, settable.knows, target, store)
    reader = session.host._plain_reader()
    if not clear:
        there = [*("/".join(name) for name in reader.target_names()), *(
            f"{plugins.of(key[1]).rtslib_name}/{key[2]}" for key in reader.placed())]
        taken = read_back.named(back.tree, there)
        if taken:
            raise errors.TargetDiffers(f"{taken[0]} exists, not restoring",
                                       do="clear_existing=true, or delete it first")
    done = managing.apply(session.host, back.tree, clear, back.secret, replace(
        session.order(), what=f"restoreconfig {path}", keep=False))
    session.tree.again()
    for line in back.notes:
        session.note(line)
    if session.dry_run:
        session.planned(done)
        return
    if back.others:
        raise errors.CannotChange(
            f"{', '.join(back.others)}: lio-handover changes none of its fabric", "all else of "
            f"{path} is restored", "targetcli restoreconfig target=WWN")
    session.info(f"Configuration restored from {path}")

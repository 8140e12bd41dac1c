"""targetcli's commands that make, change and delete objects: create, delete, enable, tag, set …,
with its defaults, habits and texts (targetcli/ui_backstore.py, ui_target.py).

Each is given the session, its node and its parameters by name.
"""
from __future__ import annotations

import os
from typing import List, Mapping, Sequence, Tuple

from .. import errors
from ..errors import quoted
from ..kernel.reader import Reader
from ..manage.changes import Request
from ..manage.nouns import targetcli_name
from ..model import fabrics
from ..model.keys import Key, backstore_key
from ..savefile import rtslib_names
from . import nodes
from .changes import About, Making, Session, every, full_path, mapped_number, switch
from .groups import managed_acls
from .nodes import Node

Given = Mapping[str, str]


def _wanted(session: Session, given: Given, name: str, preference: str) -> bool:
    return switch(given[name], name) if given.get(name) else bool(session.liked[preference])


# ---- backstores ---------------------------------------------------------------------------------
def create_backstore(session: Session, node: Node, given: Given) -> None:
    values = {name: word for name, word in given.items() if word}
    for name in ("file_or_dev", "dev"):
        if name in values:
            values[name] = full_path(values[name], session.folder)
    request = Request("create", node.managed, (), values)
    name = values["name"]

    def body(making: Making) -> None:
        making.request(request)
        if not session.liked["export_backstore_name_as_model"] and _has_alias(node.plugin):
            making.do("set", f"{node.managed}/{name}", "attribute", emulate_model_alias="0")
        store = making.state.backstore(backstore_key(node.plugin, name))
        size = store.parameters.get("fd_dev_size", "0") if store else "0"
        making.said.append({
            "fileio": f"Created fileio {name} with size {size}",
            "iblock": f"Created block storage object {name} using {values.get('dev')}.",
            "rd_mcp": f"Created ramdisk {name} with size {values.get('size')}.",
            "pscsi": f"Created pscsi storage object {name} using {values.get('dev')}",
            "user": f"Created user-backed storage object {name} size {values.get('size')}.",
        }[node.plugin])
    session.change(f"create {node.path}", [request], body)
    session.newest(Node(session.tree, node, name, "backstore"))


def _has_alias(plugin: str) -> bool:
    from ..manage.nouns import DEFAULTS
    return "attrib/emulate_model_alias" in DEFAULTS.get(("backstore", plugin), {})


def delete_backstore(session: Session, node: Node, given: Given) -> None:
    name = given["name"]
    if node.child(name) is None:
        raise errors.NoSuchTarget(f"No storage object named {quoted(name)}.", do=f"{node.path} ls")
    key = backstore_key(node.plugin, name)

    def body(making: Making) -> None:
        _unexport(making, key)
        making.do("delete", node.managed, name)
        making.said.append(f"Deleted storage object {name}.")
    session.change(f"delete {node.path}", [Request("delete", node.managed, (name,))], body,
                   About(targets=exporters(session, [key])))
    if given.get("save") and switch(given["save"], "save"):
        from . import root
        root.saveconfig(session, session.tree.root, {})


def exporters(session: Session, keys: Sequence[Key]) -> List[str]:
    """The targets that export one of these backstores.  Raises CannotChange for one of a fabric
    that is only shown."""
    paths = [path for paths in Reader(session.tree.fs).exporters(keys).values() for path in paths]
    names = [*dict.fromkeys("/".join(path.split("/")[:2]) for path in paths)]
    for name in names:
        if name.partition("/")[0] not in fabrics.FABRICS:
            raise errors.CannotChange(f"{name} exports it, and lio-handover changes none of its "
                                      "fabric", do="targetcli")
    return names


def _unexport(making: Making, key: Key) -> None:
    """Take a backstore's LUNs away."""
    for target in making.state.targets:
        for tpg in target.tpgs:
            for lun in tpg.luns:
                if lun.backstore == key:
                    making.do("delete", f"/{target.name}/tpg{tpg.tag}/luns", str(lun.number))


def create_alua_group(session: Session, node: Node, given: Given) -> None:
    request = Request("create", node.managed, (given["name"], given["tag"]))

    def body(making: Making) -> None:
        making.request(request)
        making.said.append(f"Created ALUA TPG {given['name']}.")
    session.change(f"create {node.path}", [request], body)
    session.newest(Node(session.tree, node, given["name"], "alua_group"))


def delete_alua_group(session: Session, node: Node, given: Given) -> None:
    request = Request("delete", node.managed, (given["name"],))
    session.change(f"delete {node.path}", [request], lambda making: _do(making, request))


def _do(making: Making, request: Request, *said: str) -> None:
    making.request(request)
    making.said += said


# ---- targets and TPGs ---------------------------------------------------------------------------
def _wwn(fabric: str, word: str) -> str:
    """A WWN as the kernel gets it, of one of the spellings that rtslib takes."""
    names = rtslib_names.wwns(fabric, word)
    return word if word in names or len(names) != 1 else min(names)


def create_target(session: Session, node: Node, given: Given) -> None:
    node.managed
    words = [_wwn(node.fabric, given["wwn"])] if given.get("wwn") else []
    request = Request("create", node.managed, tuple(words))
    about: List[str] = []

    def body(making: Making) -> None:
        about[:] = [making.request(request)]
        making.said.append(f"Created target {about[0].rpartition('/')[2]}.")
        if "tpgts" in node.features:
            making.said.append("Created TPG 1.")
        _as_liked(session, making, f"{about[0]}/tpg1")
    done = session.change(f"create {node.path}", [request], body)
    if done.changes:
        session.newest(Node(session.tree, node, about[0].rpartition("/")[2], "target"))


def delete_target(session: Session, node: Node, given: Given) -> None:
    wwn = _wwn(node.fabric, given["wwn"])
    request = Request("delete", node.managed, (wwn,))
    session.change(f"delete {node.path}", [request],
                   lambda making: _do(making, request, f"Deleted Target {wwn}."))


def create_tpg(session: Session, node: Node, given: Given) -> None:
    words = [given["tag"]] if given.get("tag") else []
    request = Request("create", node.managed, tuple(words))
    about: List[str] = []

    def body(making: Making) -> None:
        about[:] = [making.request(request)]
        making.said.append(f"Created TPG {about[0].rpartition('/tpg')[2]}.")
        _as_liked(session, making, about[0])
    session.change(f"create {node.path}", [request], body)
    session.newest(Node(session.tree, node, about[0].rpartition("/")[2], "tpg"))


def _as_liked(session: Session, making: Making, path: str) -> None:
    """A new TPG, as the preferences have it; tell of it."""
    tpg = making.tpg(path)
    fabric = fabrics.of(tpg.fabric)
    if fabric.gate is fabrics.Gate.ENABLE and not session.liked["auto_enable_tpgt"]:
        making.do("set", path, "tpg", enable="false")
    for portal in tpg.portals:
        where, _, port = portal.address.rpartition(":")
        if session.liked["auto_add_default_portal"]:
            making.said += [
                "Global pref auto_add_default_portal=true", "Created default portal listening on "
                f"all IPs ({where.strip('[]')}), port {port}."]
        else:
            making.do("delete", f"{path}/portals", where, port)
    if fabric.portals and not tpg.portals and session.liked["auto_add_default_portal"]:
        making.said.append("Default portal not created, TPGs within a target cannot share "
                           "ip:port.")


def delete_tpg(session: Session, node: Node, given: Given) -> None:
    tag = given["tag"].removeprefix("tpg")
    request = Request("delete", node.managed, (tag,))
    session.change(f"delete {node.path}", [request],
                   lambda making: _do(making, request, f"Deleted TPGT {tag}."))


def enable(session: Session, node: Node, given: Given) -> None:
    _gate(session, node, True)


def disable(session: Session, node: Node, given: Given) -> None:
    _gate(session, node, False)


def _gate(session: Session, node: Node, wanted: bool) -> None:
    word = "enabled" if wanted else "disabled"
    path = node.managed
    if (node.read("enable", "1") != "0") is wanted:
        session.info(f"The TPGT is already {word}.")
        return
    request = Request("set", path, ("tpg",), {"enable": "true" if wanted else "false"})
    session.change(f"{word[:-1]} {node.path}", [request],
                   lambda making: _do(making, request, f"The TPGT has been {word}."))


# ---- LUNs ---------------------------------------------------------------------------------------
def _storage_object(session: Session, node: Node, word: str) -> Tuple[str, str]:
    """(``iblock/disk0``, "") of a node's path, or (its name to be, the path) of a file or device
    that a backstore is to be made of.  Raises NoSuchTarget."""
    try:
        store = session.tree.node(word, node)
        if store.kind == "backstore":
            return f"{store.plugin}/{store.name}", ""
    except errors.NoSuchTarget:
        pass
    path = full_path(word, session.folder)
    if os.path.exists(path) and not os.path.isdir(path):
        plugin = "fileio" if os.path.isfile(path) else "iblock"
        return f"{plugin}/{os.path.basename(path)}", path
    raise errors.NoSuchTarget(f"{quoted(word)}: storage object or path not valid",
                              do="/backstores ls")


def _made_of(making: Making, store: str, path: str) -> None:
    """Make the backstore of a path, with targetcli's defaults for that, which are not those of
    `create` (rtslib/tcm.py:StorageObjectFactory)."""
    plugin, _, name = store.partition("/")
    word = "file_or_dev" if plugin == "fileio" else "dev"
    more = {"write_back": "false"} if plugin == "fileio" else {}
    making.do("create", f"/backstores/{targetcli_name(plugin)}", name=name, **{word: path}, **more)
    making.do("set", f"/backstores/{targetcli_name(plugin)}/{name}", "attribute",
              emulate_model_alias="0")
    making.said.append(f"Created storage object {name}.")


def _export(making: Making, tpg: str, store: str, number: str, mapped: bool) -> str:
    """Export a backstore by a TPG, and map it for the ACLs; the LUN's number."""
    plugin, _, name = store.partition("/")
    for lun in making.tpg(tpg).luns:
        if lun.backstore == backstore_key(plugin, name):
            raise errors.TargetDiffers(f"lun for storage object {targetcli_name(plugin)}/{name} "
                                       "already exists", do=f"{tpg}/luns ls")
    words = [store, *([number] if number else [])]
    about = making.do("create", f"{tpg}/luns", *words, add_mapped_luns="false")
    new = about.rpartition("/lun")[2]
    making.said.append(f"Created LUN {new}.")
    for acl in making.tpg(tpg).acls if mapped else ():
        mine = mapped_number(number, (lun.number for lun in acl.mapped_luns))
        making.do("create", f"{tpg}/acls/{acl.initiator}", mine, new)
        making.said.append(f"Created LUN {new}->{mine} mapping in node ACL {acl.initiator}")
    return new


def create_lun(session: Session, node: Node, given: Given) -> None:
    tpg = node.tpg.managed
    mapped = _wanted(session, given, "add_mapped_luns", "auto_add_mapped_luns")
    store, path = _storage_object(session, node, given["storage_object"])
    number = given.get("lun", "")
    number = number[3:] if number.lower().startswith("lun") else number
    request = Request("create", node.managed, (store, *([number] if number else [])))
    new: List[str] = []

    def body(making: Making) -> None:
        if path:
            _made_of(making, store, path)
        new[:] = [_export(making, tpg, store, number, mapped)]
    session.change(f"create {node.path}", [request], body, About(
        _store_keys(store) if path else (), links=("lun",)))
    session.newest(Node(session.tree, node, f"lun{new[0]}", "lun"))


def _store_keys(store: str) -> List[Key]:
    plugin, _, name = store.partition("/")
    return [backstore_key(plugin, name)]


def delete_lun(session: Session, node: Node, given: Given) -> None:
    lun = given["lun"]
    number = lun[3:] if lun.lower().startswith("lun") else lun
    if node.child(f"lun{number}") is None:
        raise errors.NoSuchTarget("Invalid LUN", do=f"{node.path} ls")
    request = Request("delete", node.managed, (number,))
    session.change(f"delete {node.path}", [request],
                   lambda making: _do(making, request, f"Deleted LUN {number}."))


# ---- ACLs ---------------------------------------------------------------------------------------
def create_acl(session: Session, node: Node, given: Given) -> None:
    mapped = _wanted(session, given, "add_mapped_luns", "auto_add_mapped_luns")
    wwn = _wwn(node.fabric, given["wwn"])
    if node.fabric in fabrics.FABRICS and not rtslib_names.wwns(node.fabric, wwn):
        raise errors.BadName(f"{quoted(wwn)} is no WWN of an initiator of {node.fabric}",
                             do=f"/{node.fabric} info")
    request = Request("create", node.managed, (wwn,),
                      {"add_mapped_luns": "true" if mapped else "false"})

    def body(making: Making) -> None:
        about = making.request(request)
        making.said.append(f"Created Node ACL for {wwn}")
        making.said += [f"Created mapped LUN {lun.number}."
                        for lun in making.acl(about).mapped_luns]
    session.change(f"create {node.path}", [request], body)
    session.newest(Node(session.tree, node, wwn, "acl"))


def delete_acl(session: Session, node: Node, given: Given) -> None:
    wwn = _wwn(node.fabric, given["wwn"])
    request = Request("delete", node.managed, (wwn,))
    session.change(f"delete {node.path}", [request],
                   lambda making: _do(making, request, f"Deleted Node ACL {wwn}."))


def _tagged(node: Node, word: str) -> List[str]:
    """The initiators that have this name, or this tag."""
    return [name for name in sorted(node.folders()) if word in (name, nodes.tag_of(node, name))]


def tag(session: Session, node: Node, given: Given) -> None:
    new, word = given["new_tag"], given["wwn_or_tag"]
    if new == word:
        return
    if "." in new:
        raise errors.BadCall("'.' not permitted in tag names.", do="choose another one")
    initiators = _tagged(node, word)
    if not initiators:
        raise errors.NoSuchTarget(f"wwn_or_tag {quoted(word)} not found.", do=f"{node.path} ls")
    models = [name for name in _tagged(node, new) if name not in initiators]

    def body(making: Making) -> None:
        for initiator in initiators:
            path = f"{node.managed}/{initiator}"
            if models:
                _like(making, path, f"{node.managed}/{models[0]}")
            making.do("set", path, "acl", tag=new)
    session.change(f"tag {node.path}", [Request("set", f"{node.managed}/{initiators[0]}", ("acl",),
                                                {"tag": new})], body, About(links=None))


def _like(making: Making, path: str, other: str) -> None:
    """Give an ACL what another has: the mapped LUNs, CHAP and the attributes."""
    model, acl = making.acl(other), making.acl(path)
    for lun in acl.mapped_luns:
        making.do("delete", path, str(lun.number))
    for lun in model.mapped_luns:
        making.do("create", path, str(lun.number), str(lun.lun),
                  write_protect=lun.attributes.get("write_protect", "0"))
    for name, value in model.attributes.items():
        group, _, short = name.partition("/")
        if group in ("attrib", "auth") and acl.attributes.get(name) != value:
            word = {"userid_mutual": "mutual_userid",
                    "password_mutual": "mutual_password"}.get(short, short)
            making.request(Request("set", path, ("attribute" if group == "attrib" else group,),
                                   {word: value}))


def untag(session: Session, node: Node, given: Given) -> None:
    initiators = _tagged(node, given["wwn_or_tag"])
    requests = [Request("set", f"{node.managed}/{initiator}", ("acl",), {"tag": ""})
                for initiator in initiators]
    if requests:
        session.change(f"untag {node.path}", requests, every(requests))


def create_mapped_lun(session: Session, node: Node, given: Given) -> None:
    tpg, paths = node.tpg.managed, managed_acls(node)
    wanted, word = given["mapped_lun"], given["tpg_lun_or_backstore"]
    protect = "1" if given.get("write_protect") and switch(
        given["write_protect"], "write_protect") else "0"
    number = word[3:] if word.startswith("lun") else word
    store, path = ("", "") if number.isdigit() else _storage_object(session, node, word)

    def body(making: Making) -> None:
        lun = number
        if path:
            _made_of(making, store, path)
        if store:
            plugin, _, name = store.partition("/")
            there = [str(other.number) for other in making.tpg(tpg).luns
                     if other.backstore == backstore_key(plugin, name)]
            lun = there[0] if there else _export(making, tpg, store, "", False)
        if any(str(other.lun) == lun for other in making.acl(paths[0]).mapped_luns):
            making.said.append(f"Warning: TPG LUN {lun} already mapped to this NodeACL")
        for acl in paths:
            making.do("create", acl, wanted, lun, write_protect=protect)
        making.said.append(f"Created Mapped LUN {wanted.removeprefix('mapped_lun')}.")
    session.change(f"create {node.path}", [Request("create", paths[0], (wanted, number))], body,
                   About(_store_keys(store) if path else (), links=("lun", "mapped_lun")))
    session.newest(Node(session.tree, node, f"mapped_lun{wanted}", "mapped_lun"))


def delete_mapped_lun(session: Session, node: Node, given: Given) -> None:
    number = given["mapped_lun"].removeprefix("mapped_lun")
    requests = [Request("delete", path, (number,)) for path in managed_acls(node)]
    session.change(f"delete {node.path}", requests,
                   every(requests, f"Deleted Mapped LUN {number}."))


# ---- portals ------------------------------------------------------------------------------------
def create_portal(session: Session, node: Node, given: Given) -> None:
    host, port = given.get("ip_address") or "::0", given.get("ip_port") or "3260"
    said = [f"Using default IP port {port}"] * (port == "3260") \
        + ["Binding to INADDR_ANY (::0)"] * (host == "::0")
    request = Request("create", node.managed, (host, port))
    bare = host.strip("[]")
    session.change(f"create {node.path}", [request], lambda making: _do(
        making, request, *said, f"Created network portal {bare}:{port}."))
    session.newest(Node(session.tree, node, f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}",
                        "portal"))


def delete_portal(session: Session, node: Node, given: Given) -> None:
    host, port = given["ip_address"], given["ip_port"]
    request = Request("delete", node.managed, (host, port))
    session.change(f"delete {node.path}", [request], lambda making: _do(
        making, request, f"Deleted network portal {host}:{port}"))


def enable_iser(session: Session, node: Node, given: Given) -> None:
    _portal_switch(session, node, given, "iser", "iSER")


def enable_offload(session: Session, node: Node, given: Given) -> None:
    _portal_switch(session, node, given, "offload", "offload")


def _portal_switch(session: Session, node: Node, given: Given, name: str, what: str) -> None:
    wanted = switch(given["boolean"], "boolean")
    request = Request("set", node.managed, ("portal",), {name: "true" if wanted else "false"})
    session.change(f"enable_{name} {node.path}", [request], lambda making: _do(
        making, request, f"{what} enable now: {wanted}"))

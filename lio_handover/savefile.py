"""targetcli's save file: what its restore brings back at boot, asking nobody.

``saveconfig.json`` as rtslib writes it (rtslib/root.py:RTSRoot.dump): ``storage_objects`` and
``targets``, both lists of objects.  Only entries of the handover's targets are touched; whatever
else is in the file, known or not, stays as it is.  A copy of the file as it was goes beside it,
into ``backup/``, where targetcli keeps its own.  What the file can't hold (a vhost nexus, relative
ports, queue depths) is put right by ``recover`` after targetcli's restore.
"""
from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from . import errors
from .locks import PATIENCE, Locks
from .model import DEFAULT_GROUP, Acl, AluaGroup, Backstore, State, Target, Tpg
from .wholefile import write_file

#: rtslib's own, and Debian's.
PATHS = ("/etc/target/saveconfig.json", "/etc/rtslib-fb-target/saveconfig.json")
#: How many of our copies are kept.
BACKUPS = 10
_LOCK = "saveconfig.json"
#: rtslib's name of a plugin (rtslib/tcm.py).
_PLUGINS = {"iblock": "block"}
_CHAP = {"auth/userid": "chap_userid", "auth/password": "chap_password",
         "auth/userid_mutual": "chap_mutual_userid",
         "auth/password_mutual": "chap_mutual_password"}
_TRIES = 10
#: A copy's name: its number, and when it was made, for people.
_COPY = re.compile("lio-handover-([0-9]+)-")

Tree = Dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A target in a save file: whether targetcli would bring it back serving."""

    path: str
    target: str
    enabled: bool


def files() -> List[str]:
    """The save files of this host."""
    return [path for path in PATHS if os.path.exists(path)]


def entries(targets: Iterable[str]) -> List[Entry]:
    """Where these targets are saved.  Raises SavefileBroken."""
    wanted, found = set(targets), []
    for path in files():
        for one in _list(_read(path)[0], "targets", path):
            if _name(one) in wanted:
                tpgs = one.get("tpgs", [])
                found.append(Entry(path, _name(one), one.get("fabric") != "iscsi" or any(
                    tpg.get("enable") for tpg in tpgs)))
    return found


def drop(targets: Iterable[str], stores: Iterable[str], directory: str) -> List[str]:
    """Take targets, and backstores (``fileio/disk0``) that no other target uses, out of every
    save file.  Returns the files that were changed.  ``directory``: where the locks are.  Raises
    SavefileBroken."""
    gone, leaving = set(targets), {_rtslib_name(one) for one in stores}
    changed = []
    for path in files():
        if _change(path, partial(_drop, path, gone, leaving), directory):
            changed.append(path)
    return changed


def put(state: State, dbroot: str, directory: str) -> List[str]:
    """Put targets and their backstores, as they are in ``state``, into the save file: the one
    that is there, of two the one in the kernel's ``dbroot``.  Returns the files that now hold
    them: none where the host has no targetcli.  Raises SavefileBroken."""
    there = files()
    chosen = [path for path in there if os.path.dirname(path) == dbroot] or there[:1]
    if not chosen:
        chosen = [path for path in PATHS if os.path.dirname(path) == dbroot
                  and os.path.isdir(dbroot)]
    for path in chosen:
        _change(path, partial(_put, path, state), directory)
    return chosen


# ---- the file -----------------------------------------------------------------------------------
def _read(path: str) -> Tuple[Tree, Optional[Tuple[int, int]], bytes]:
    """(what is in it, what tells whether it is still the same file, its bytes)."""
    import json
    try:
        with open(path, "rb") as file:
            seen = os.fstat(file.fileno())
            data = file.read()
        tree = json.loads(data) if data.strip() else {}
        if not isinstance(tree, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        return {}, None, b""
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise errors.SavefileBroken(f"{path} can't be read: {why}",
                                    do=f"look at {path}, or restore a backup of it") from None
    return tree, (seen.st_ino, seen.st_mtime_ns), data


def _change(path: str, change: Callable[[Tree], bool], directory: str) -> bool:
    """Read, change and write; no other verb does so meanwhile, and once more where targetcli saved.

    Where nothing is to be changed no lock is needed, so none has to be writable at a boot."""
    if not change(_read(path)[0]):
        return False
    with Locks(directory).hold(_LOCK, patience=PATIENCE):
        return _changed(path, change)


def _changed(path: str, change: Callable[[Tree], bool]) -> bool:
    import json
    for _attempt in range(_TRIES):
        tree, seen, data = _read(path)
        if not change(tree):
            return False
        text = json.dumps(tree, indent=2, sort_keys=True).encode() + b"\n"
        try:
            if _seen(path) != seen:
                continue
            if data:
                _back_up(path, data)
            write_file(os.path.realpath(path), text)  # a link to it stays one
        except OSError as error:
            raise errors.SavefileBroken(f"{path} can't be written: {error.strerror}") from None
        return True
    raise errors.SavefileBroken(f"{path} is written again and again by somebody else")


def _seen(path: str) -> Optional[Tuple[int, int]]:
    """What tells whether it is still the same file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _back_up(path: str, data: bytes) -> None:
    """Keep what the file was, and of such copies the last ones: by number, as clocks go back."""
    folder = os.path.join(os.path.dirname(path), "backup")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    numbers = {name: int(found.group(1)) for name in os.listdir(folder)
               for found in [_COPY.match(name)] if found}
    new = 1 + max(numbers.values(), default=0)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    write_file(os.path.join(folder, f"lio-handover-{new:06}-{stamp}.json"), data)
    for name in sorted(numbers, key=lambda one: (numbers[one], one))[:-BACKUPS + 1]:
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            pass  # somebody tidies up


def _list(tree: Tree, name: str, path: str) -> List[Tree]:
    found = tree.setdefault(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise errors.SavefileBroken(f"{path}: {name} is no list of objects",
                                    do=f"look at {path}, or restore a backup of it")
    return found


def _name(target: Tree) -> str:
    return f"{target.get('fabric')}/{target.get('wwn')}"


def _rtslib_name(store: str) -> str:
    plugin, _, name = store.partition("/")
    return f"/backstores/{_PLUGINS.get(plugin, plugin)}/{name}"


def _store_name(one: Tree) -> str:
    return f"/backstores/{one.get('plugin')}/{one.get('name')}"


def _used(targets: Iterable[Tree]) -> Set[str]:
    return {str(lun.get("storage_object")) for target in targets
            for tpg in target.get("tpgs", []) for lun in tpg.get("luns", [])}


def _drop(path: str, gone: Set[str], leaving: Set[str], tree: Tree) -> bool:
    targets, stores = _list(tree, "targets", path), _list(tree, "storage_objects", path)
    left = [one for one in targets if _name(one) not in gone]
    still = _used(left)
    kept = [one for one in stores if _store_name(one) not in leaving or _store_name(one) in still]
    if len(left) == len(targets) and len(kept) == len(stores):
        return False
    tree["targets"], tree["storage_objects"] = left, kept
    return True


def _put(path: str, state: State, tree: Tree) -> bool:
    made = {"targets": [_target(one) for one in state.targets],
            "storage_objects": [_storage_object(one) for one in state.backstores]}
    tree.setdefault("fabric_modules", [])
    changed = False
    for name, key in (("targets", _name), ("storage_objects", _store_name)):
        there = _list(tree, name, path)
        new = {key(one): one for one in made[name]}
        merged = [new.pop(key(one), one) for one in there] + list(new.values())
        changed = changed or merged != there
        tree[name] = merged
    return changed


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


def _numbers(found: Tree) -> Tree:
    return {name: _number(value) for name, value in found.items()}


def _storage_object(one: Backstore) -> Tree:
    parameters = one.parameters
    made: Tree = {"plugin": _PLUGINS.get(one.plugin, one.plugin), "name": one.name,
                  "dev": one.path, "wwn": one.serial,
                  "attributes": _numbers(_below(one.attributes, "attrib/")),
                  "alua_tpgs": [_group(group) for group in one.alua_groups]}
    if one.plugin == "fileio":
        made.update(size=int(parameters.get("fd_dev_size", "0")),
                    # rtslib opens the file buffered where this is set (rtslib/tcm.py:_configure).
                    write_back=parameters.get("fd_buffered_io") == "1",
                    aio=parameters.get("fd_async_io") == "1")
    else:
        made.update(readonly=parameters.get("readonly") == "1", write_back=False)
        if parameters.get("exclusive") == "0":
            made["exclusive"] = False  # which only newer ones know
    return made


def _group(one: AluaGroup) -> Tree:
    return {"name": one.name, **_numbers(dict(one.attributes)),
            "tg_pt_gp_id": _number(one.attributes.get("tg_pt_gp_id", "0"))}


def _target(one: Target) -> Tree:
    return {"fabric": one.fabric, "wwn": one.wwn, "tpgs": [_tpg(tpg) for tpg in one.tpgs]}


def _tpg(one: Tpg) -> Tree:
    made: Tree = {
        "tag": one.tag, "enable": one.attributes.get("enable", "1") != "0",
        "attributes": _numbers(_below(one.attributes, "attrib/")),
        "luns": [{"index": lun.number, "alias": lun.alias,
                  "storage_object": _rtslib_name("/".join(lun.backstore[1:])),
                  "alua_tg_pt_gp_name": lun.attributes.get("alua_tg_pt_gp", DEFAULT_GROUP)}
                 for lun in one.luns if lun.backstore is not None],
        "portals": [_portal(portal.address, portal.attributes) for portal in one.portals],
        "node_acls": [_acl(acl) for acl in one.acls], **_chap(one.attributes)}
    parameters = _below(one.attributes, "param/")
    if parameters:
        made["parameters"] = parameters
    return made


def _portal(address: str, attributes: Mapping[str, str]) -> Tree:
    host, _, port = address.rpartition(":")
    return {"ip_address": host, "port": int(port), "iser": attributes.get("iser") == "1",
            "offload": attributes.get("cxgbit") == "1"}


def _acl(one: Acl) -> Tree:
    made: Tree = {
        "node_wwn": one.initiator, "attributes": _numbers(_below(one.attributes, "attrib/")),
        "mapped_luns": [{"index": lun.number, "tpg_lun": lun.lun, "alias": lun.alias,
                         "write_protect": lun.attributes.get("write_protect") == "1"}
                        for lun in one.mapped_luns if lun.lun is not None],
        **_chap(one.attributes)}
    if one.attributes.get("tag"):
        made["tag"] = one.attributes["tag"]
    return made


def _chap(attributes: Mapping[str, str]) -> Tree:
    return {name: attributes[path] for path, name in _CHAP.items() if attributes.get(path)}

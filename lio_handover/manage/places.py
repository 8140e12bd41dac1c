"""Paths of targetcli's tree → the objects that they name."""
from __future__ import annotations

from dataclasses import dataclass
from typing import List, NoReturn, Tuple

from .. import errors
from ..errors import quoted
from ..model import fabrics
from ..model.keys import (Key, acl_key, alua_group_key, backstore_key, lu_group_key, lun_key,
                          mapped_lun_key, portal_key, target_key, tpg_key)
from ..model.objects import DiscoveryAuth
from . import words
from .nouns import NOUNS, PLUGINS

#: Names below a TPG → the kind of what is in them.
_BELOW = {"portals": "portal", "luns": "lun", "acls": "acl", "nexus": "nexus"}
#: Characters of a path at most.
LONGEST = 1024


@dataclass(frozen=True)
class Node:
    """A node of the tree: the object that it is (``key`` and its ``kind``, () where it is none),
    and the kind of what it ``has``, "" where `create` makes nothing in it.  ``above``: the key of
    the object that gets what is made there."""

    path: str
    key: Key = ()
    kind: str = ""
    has: str = ""
    above: Key = ()
    plugin: str = ""

    @property
    def fabric(self) -> str:
        key = self.key or self.above
        return key[1] if key and key[0] == "target" else self.plugin


def _fail(path: str, what: str) -> NoReturn:
    raise errors.BadName(f"{quoted(path)} {what}", do="name a node as targetcli has it: "
                         + ", ".join(dict.fromkeys(row.path for row in NOUNS.values())))


def parse(path: str) -> Node:
    """The node of a path; the first ``/`` may be left out.  Raises BadName."""
    if len(path) > LONGEST:
        _fail(path, f"has more than {LONGEST} characters")
    parts = path.strip("/").split("/")
    if parts[0] == "backstores":
        return _backstores(path, parts[1:])
    plugin = parts[0].partition(":")[0]
    if plugin in PLUGINS and len(parts) == 2:  # as `show` has it
        return _backstores(path, parts)
    if parts[0] not in fabrics.FABRICS:
        _fail(path, f"is no node: {quoted(parts[0])} is neither backstores nor one of "
              + ", ".join(fabrics.FABRICS))
    return _fabric(path, parts)


def _backstores(path: str, parts: List[str]) -> Node:
    if not parts:
        _fail(path, "has no objects of its own")
    if parts[0] == "lu_groups":
        if len(parts) == 1:
            return Node(path, has="lu_group")
        if len(parts) == 2:
            return Node(path, lu_group_key(words.name(parts[1], path)), "lu_group")
        _fail(path, "is no node")
    plugin, _, handler = parts[0].partition(":")
    if plugin not in PLUGINS or handler and plugin != "user":
        _fail(path, f"is no node: {quoted(parts[0])} is no plugin ("
              + ", ".join(sorted({*PLUGINS})) + ")")
    kernel_name = PLUGINS[plugin]
    if len(parts) == 1:
        return Node(path, has="backstore", plugin=parts[0] if handler else kernel_name)
    key = backstore_key(kernel_name, words.name(parts[1], path))
    if len(parts) == 2:
        return Node(path, key, "backstore", plugin=kernel_name)
    if parts[2] != "alua" or len(parts) > 4:
        _fail(path, "is no node")
    if len(parts) == 3:
        return Node(path, has="alua_group", above=key)
    return Node(path, alua_group_key(key, words.name(parts[3], path)), "alua_group", above=key)


def _fabric(path: str, parts: List[str]) -> Node:
    fabric = parts[0]
    if len(parts) == 1:
        if not fabrics.of(fabric).logins:
            return Node(path, has="target", plugin=fabric)
        return Node(path, DiscoveryAuth().key, "discovery_auth", "target", plugin=fabric)
    target = target_key(fabric, words.wwn(parts[1], path, fabric))
    if len(parts) == 2:
        return Node(path, target, "target", "tpg", target)
    tpg = tpg_key(target, words.number(parts[2], path, 0, fabrics.of(fabric).max_tag, "tpg"))
    if len(parts) == 3:
        return Node(path, tpg, "tpg", "", target)
    below = _BELOW.get(parts[3], "")
    if not below or below == "portal" and not fabrics.of(fabric).portals \
            or below == "nexus" and not fabrics.of(fabric).nexus or len(parts) > 6:
        _fail(path, "is no node")
    if below == "nexus":
        if len(parts) > 4:
            _fail(path, "is no node")
        return Node(path, tpg, "nexus", "nexus", tpg)
    if len(parts) == 4:
        return Node(path, has=below, above=tpg)
    return _in_tpg(path, parts, tpg, below)


def _in_tpg(path: str, parts: List[str], tpg: Key, below: str) -> Node:
    if below == "lun" and len(parts) == 5:
        return Node(path, lun_key(tpg, words.lun(parts[4], path)), "lun", "", tpg)
    if below == "portal" and len(parts) == 5:
        host, _, port = parts[4].rpartition(":")
        return Node(path, portal_key(tpg, portal_name(host, port, path)), "portal", "", tpg)
    if below == "acl":
        acl = acl_key(tpg, words.initiator(parts[4], path))
        if len(parts) == 5:
            return Node(path, acl, "acl", "mapped_lun", acl)
        return Node(path, mapped_lun_key(acl, words.lun(parts[5], path)), "mapped_lun", "", acl)
    _fail(path, "is no node")


def portal_name(host: str, port: str, where: str) -> str:
    return f"{words.ip(host, where)}:{words.number(port, where, 1, 65535)}"


def path_of(key: Key) -> str:
    """A key as a path of targetcli's tree."""
    kind, *rest = key
    if kind == "lu_group":
        return f"/backstores/lu_groups/{rest[0]}"
    if kind == "discovery_auth":
        return "/iscsi"
    if kind == "backstore":
        from .nouns import targetcli_name
        return "/".join(["/backstores", targetcli_name(rest[0]), *rest[1:]])
    where: Tuple[str, ...] = (f"/{rest[0]}/{rest[1]}",)
    if rest[2:]:
        where += (f"tpg{rest[2]}",)
    below = rest[3:]
    if below:
        what, name = below[:2]
        where += {"portal": ("portals", name), "lun": ("luns", f"lun{name}"),
                  "acl": ("acls", name)}[what]
        where += tuple(f"mapped_lun{number}" for number in below[3:])
    return "/".join(where)

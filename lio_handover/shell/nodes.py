"""targetcli's tree over the kernel's: a node is looked up, and its children are listed, only when
they are asked for.  Reading changes nothing: no module is loaded, no nexus made, no TPG enabled.

A node's ``kind`` is a word of the table of commands (commands.py).
"""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from .. import errors
from ..errors import quoted, shown
from ..kernel.configfs import Configfs
from ..model import fabrics, plugins
from ..savefile.rtslib_names import FABRICS as NAMES

_ENDS_IN_NUMBER = re.compile(r"(.*?)([0-9]+)$")


@dataclass(frozen=True)
class Layout:
    """How targetcli has a fabric (rtslib/fabric.py): its ``features``, and whether it is shown
    where the kernel has none of it."""

    features: Tuple[str, ...]
    always: bool = False


def _layout(features: str, always: bool = False) -> Layout:
    return Layout(tuple(features.split()), always)


#: targetcli's name of a fabric → how it has it.
LAYOUTS: Mapping[str, Layout] = {
    "iscsi": _layout("discovery_auth acls auth nps tpgts cpus_allowed_list", True),
    "loopback": _layout("nexus", True),
    "vhost": _layout("nexus acls tpgts", True),
    "xen-pvscsi": _layout("nexus tpgts", True),
    "qla2xxx": _layout("acls"), "efct": _layout("acls"), "srpt": _layout("acls"),
    "tcm_fc": _layout("acls"), "sbp": _layout(""), "ibmvscsis": _layout(""),
}


class Node:
    """``at``: its directory in the kernel's tree, "" where it has none; ``fabric``: targetcli's
    name of it, below a fabric; ``plugin``: the kernel's, below a plugin."""

    __slots__ = ("tree", "parent", "name", "kind", "at", "fabric", "plugin")

    def __init__(self, tree: "Tree", parent: Optional["Node"], name: str, kind: str, at: str = "",
                 fabric: str = "", plugin: str = "") -> None:
        self.tree, self.parent, self.name, self.kind, self.at = tree, parent, name, kind, at
        self.fabric: str = fabric or (parent.fabric if parent else "")
        self.plugin: str = plugin or (parent.plugin if parent else "")

    @property
    def path(self) -> str:
        if self.parent is None:
            return "/"
        above = self.parent.path
        return f"{above}{self.name}" if above == "/" else f"{above}/{self.name}"

    @property
    def features(self) -> Tuple[str, ...]:
        return LAYOUTS[self.fabric].features if self.fabric else ()

    @property
    def tpg(self) -> "Node":
        """The TPG that this is, or is below; of a fabric that shows no TPGs its target."""
        node = self
        while node.kind != "tpg":
            assert node.parent is not None
            node = node.parent
        return node

    @property
    def managed(self) -> str:
        """Its path in the words of `manage` (manage/places.py), where TPGs are always shown.
        Raises CannotChange for what this program does not hand over, by its name."""
        if self.fabric and self.fabric not in fabrics.FABRICS:
            raise errors.CannotChange(
                f"{self.path}: lio-handover changes no {self.fabric}, it shows it",
                do="targetcli, or one of " + ", ".join(fabrics.FABRICS))
        if self.fabric and "tpgts" not in self.features and self.kind not in ("fabric",):
            target = self.tpg
            return f"/{self.fabric}/{target.name}/tpg1" + self.path[len(target.path):]
        return self.path

    def children(self) -> List["Node"]:
        """As `ls` has them: numbers at the end of a name count as numbers."""
        return sorted(_CHILDREN[self.kind](self), key=_order)

    def child(self, name: str) -> Optional["Node"]:
        """One child, without a look at the others where its directory tells."""
        find = _CHILD.get(self.kind)
        if find:
            return find(self, name)
        return next((node for node in _CHILDREN[self.kind](self) if node.name == name), None)

    def read(self, name: str, default: str = "") -> str:
        """A file of its directory, without blanks around it; ``default`` where it can't be read."""
        try:
            return self.tree.fs.read(f"{self.at}/{name}").strip("\0\n ")
        except OSError:
            return default

    def folders(self, below: str = "") -> List[str]:
        """The directories in its own, or in one of it; none where there is none."""
        path = f"{self.at}/{below}" if below else self.at
        try:
            with os.scandir(self.tree.fs.path(path)) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def has(self, name: str) -> bool:
        return self.tree.fs.exists(f"{self.at}/{name}")


def _order(node: Node) -> Tuple[str, int]:
    match = _ENDS_IN_NUMBER.fullmatch(node.name)
    return (match[1], int(match[2])) if match else (node.name, 0)


class Tree:
    """The whole tree.  ``root`` is its first node."""

    def __init__(self, fs: Configfs) -> None:
        self.fs = fs
        self.root = Node(self, None, "/", "root")
        #: HBA's directory → its backstores; what a command reads is read once
        self._placed: Optional[Dict[Tuple[str, str], str]] = None

    def again(self) -> None:
        """Look at the kernel anew from now on."""
        self._placed = None

    def placed(self) -> Mapping[Tuple[str, str], str]:
        """(kernel's plugin, name) of each backstore → its directory."""
        if self._placed is None:
            self._placed = {}
            try:
                hbas = os.listdir(self.fs.path("core"))
            except OSError:
                hbas = []
            for hba in hbas:
                plugin, _, number = hba.rpartition("_")
                if plugin not in plugins.PLUGINS or not number.isdigit():
                    continue
                for name in os.listdir(self.fs.path(f"core/{hba}")):
                    if name not in ("hba_info", "hba_mode"):
                        self._placed[plugin, name] = f"core/{hba}/{name}"
        return self._placed

    def node(self, path: str, here: Optional[Node] = None) -> Node:
        """The node of a path, absolute or from ``here``.  Raises NoSuchTarget."""
        node = self.root if path.startswith("/") or here is None else here
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if name == "..":
                node = node.parent or node
                continue
            below = node.child(name)
            if below is None:
                raise errors.NoSuchTarget(f"No such path {shown(node.path.rstrip('/'))}/"
                                          f"{shown(name)}", do="ls")
            node = below
        return node


# ---- children -----------------------------------------------------------------------------------
def _root(node: Node) -> Iterator[Node]:
    yield Node(node.tree, node, "backstores", "backstores")
    for name in LAYOUTS:
        fabric = _root_child(node, name)
        if fabric:
            yield fabric


def _root_child(node: Node, name: str) -> Optional[Node]:
    if name == "backstores":
        return Node(node.tree, node, name, "backstores")
    layout = LAYOUTS.get(name)
    if layout is None:
        return None
    fabric = Node(node.tree, node, name, "fabric", NAMES[name].folder, name)
    return fabric if layout.always or fabric.folders() else None


def _backstores(node: Node) -> Iterator[Node]:
    for plugin in plugins.PLUGINS.values():
        if plugin.data is not plugins.Data.HANDLER:
            yield Node(node.tree, node, plugin.rtslib_name, "plugin", plugin=plugin.name)
    for handler in sorted({_handler(at, node) for (name, _), at in node.tree.placed().items()
                           if plugins.of(name).data is plugins.Data.HANDLER}):
        yield Node(node.tree, node, f"user:{handler}", "plugin", plugin="user")


def _handler(at: str, node: Node) -> str:
    """The program in user space of a backstore, which its configuration begins with."""
    info = Node(node.tree, node, "", "", at).read("info")
    return plugins.parse("user", info).get("dev_config", "").partition("/")[0]


def _backstores_child(node: Node, name: str) -> Optional[Node]:
    plugin = plugins.BY_RTSLIB_NAME.get(name)
    if plugin and plugin.data is not plugins.Data.HANDLER:
        return Node(node.tree, node, name, "plugin", plugin=plugin.name)
    word, _, handler = name.partition(":")
    return Node(node.tree, node, name, "plugin", plugin="user") if word == "user" and handler \
        else None


def _plugin(node: Node) -> Iterator[Node]:
    handler = node.name.partition(":")[2]
    for (plugin, name), at in node.tree.placed().items():
        if plugin == node.plugin and (not handler or _handler(at, node) == handler):
            yield Node(node.tree, node, name, "backstore", at)


def _plugin_child(node: Node, name: str) -> Optional[Node]:
    at = node.tree.placed().get((node.plugin, name))
    return Node(node.tree, node, name, "backstore", at) if at else None


def _backstore(node: Node) -> Iterator[Node]:
    yield Node(node.tree, node, "alua", "alua", f"{node.at}/alua")


def _alua(node: Node) -> Iterator[Node]:
    if plugins.of(node.plugin).opens is not plugins.Opens.SCSI:
        for name in node.folders():
            yield Node(node.tree, node, name, "alua_group", f"{node.at}/{name}")


def _fabric(node: Node) -> Iterator[Node]:
    for wwn in node.folders():
        target = _fabric_child(node, wwn)
        if target:
            yield target


def _fabric_child(node: Node, wwn: str) -> Optional[Node]:
    if wwn == "discovery_auth" or not _is_folder(node, wwn):
        return None
    if "tpgts" in node.features:
        return Node(node.tree, node, wwn, "target", f"{node.at}/{wwn}")
    return Node(node.tree, node, wwn, "tpg", f"{node.at}/{wwn}/tpgt_1")


def _is_folder(node: Node, name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name \
        and os.path.isdir(node.tree.fs.path(f"{node.at}/{name}"))


def _target(node: Node) -> Iterator[Node]:
    for name in node.folders():
        if name.startswith("tpgt_") and name[5:].isdigit():
            yield Node(node.tree, node, f"tpg{name[5:]}", "tpg", f"{node.at}/{name}")


def _target_child(node: Node, name: str) -> Optional[Node]:
    at = f"tpgt_{name[3:]}"
    return Node(node.tree, node, name, "tpg", f"{node.at}/{at}") \
        if name.startswith("tpg") and name[3:].isdigit() and _is_folder(node, at) else None


def _tpg(node: Node) -> Iterator[Node]:
    yield Node(node.tree, node, "luns", "luns", f"{node.at}/lun")
    if "acls" in node.features:
        yield Node(node.tree, node, "acls", "acls", f"{node.at}/acls")
    if "nps" in node.features:
        yield Node(node.tree, node, "portals", "portals", f"{node.at}/np")


def _numbered(prefix: str, kind: str) -> Tuple[Callable[[Node], Iterator[Node]],
                                               Callable[[Node, str], Optional[Node]]]:
    """The children ``PREFIX0`` that are directories ``lun_0``."""
    def every(node: Node) -> Iterator[Node]:
        for name in node.folders():
            if name.startswith("lun_") and name[4:].isdigit():
                yield Node(node.tree, node, f"{prefix}{name[4:]}", kind, f"{node.at}/{name}")

    def child(node: Node, name: str) -> Optional[Node]:
        at = f"lun_{name[len(prefix):]}"
        return Node(node.tree, node, name, kind, f"{node.at}/{at}") if name.startswith(prefix) \
            and name[len(prefix):].isdigit() and _is_folder(node, at) else None
    return every, child


_luns, _luns_child = _numbered("lun", "lun")
_mapped, _mapped_child = _numbered("mapped_lun", "mapped_lun")


def tag_of(acls: Node, initiator: str) -> str:
    return Node(acls.tree, acls, "", "", f"{acls.at}/{initiator}").read("tag")


def members(node: Node) -> List[str]:
    """The initiators of an ACL's node: one, or all that have its tag."""
    assert node.parent is not None
    acls = node.parent
    return sorted(name for name in acls.folders() if node.name in (name, tag_of(acls, name))) \
        if node.name != node.at.rpartition("/")[2] else [node.name]


def _acls(node: Node) -> Iterator[Node]:
    seen = set()
    for initiator in sorted(node.folders()):
        name = tag_of(node, initiator) or initiator
        if name not in seen:
            seen.add(name)
            yield Node(node.tree, node, name, "acl", f"{node.at}/{initiator}")


def _acls_child(node: Node, name: str) -> Optional[Node]:
    if _is_folder(node, name) and not tag_of(node, name):
        return Node(node.tree, node, name, "acl", f"{node.at}/{name}")
    return next((acl for acl in _acls(node) if acl.name == name), None)


def _portals(node: Node) -> Iterator[Node]:
    for name in node.folders():
        yield Node(node.tree, node, name, "portal", f"{node.at}/{name}")


def _portals_child(node: Node, name: str) -> Optional[Node]:
    return Node(node.tree, node, name, "portal", f"{node.at}/{name}") \
        if _is_folder(node, name) else None


def _none(_: Node) -> Iterator[Node]:
    return iter(())


_CHILDREN: Mapping[str, Callable[[Node], Iterator[Node]]] = {
    "root": _root, "backstores": _backstores, "plugin": _plugin, "backstore": _backstore,
    "alua": _alua, "alua_group": _none, "fabric": _fabric, "target": _target, "tpg": _tpg,
    "luns": _luns, "lun": _none, "acls": _acls, "acl": _mapped, "mapped_lun": _none,
    "portals": _portals, "portal": _none}
_CHILD: Mapping[str, Callable[[Node, str], Optional[Node]]] = {
    "root": _root_child, "backstores": _backstores_child, "plugin": _plugin_child,
    "fabric": _fabric_child, "target": _target_child, "luns": _luns_child, "acls": _acls_child,
    "acl": _mapped_child, "portals": _portals_child}


def linked(node: Node) -> Optional[str]:
    """Where the one link in a LUN's directory, or a mapped LUN's, leads to; None without one."""
    try:
        link = node.tree.fs.link_in(node.at)
    except OSError:
        link = None
    if link is None:
        return None
    if not node.tree.fs.exists(link[1]):
        raise errors.NoSuchTarget(f"{quoted(node.path)}: its link leads nowhere", do="ls")
    return link[1]

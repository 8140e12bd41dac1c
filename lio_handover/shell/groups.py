"""The groups of `get` and `set`: which parameters a node has, of which types, and their values as
targetcli shows them.

Attributes and parameters are the files that the kernel has; `set` takes those that `manage` knows,
by its rows (manage/nouns.py, model/attributes.py), which also give the groups that targetcli lacks.
"""
from __future__ import annotations

import os
import stat
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from .. import errors
from ..errors import quoted
from ..manage import places, settable
from ..manage.changes import Request
from ..manage.nouns import NOUNS
from ..manage.settable import SECRETS
from ..model import fabrics
from ..model.keys import Key
from . import nodes, preferences
from .changes import Making, Session, every
from .nodes import Node
from .preferences import Preferences
from .summaries import said

#: Shown in the place of a secret.
HIDDEN = "********"


class Parameter(NamedTuple):
    """A parameter of a group: its ``type`` is one of preferences.syntax; ``file``: where the kernel
    has it, below the node's directory."""

    name: str
    type: str = "string"
    help: str = ""
    writable: bool = True
    file: str = ""


#: Parameters that targetcli takes for numbers, and for Yes or No; all others are text.
_NUMBERS: Mapping[Tuple[str, str], str] = {
    ("tpg", "attribute"):
        "authentication cache_dynamic_acls default_cmdsn_depth default_erl demo_mode_discovery "
        "demo_mode_write_protect fabric_prot_type generate_node_acls login_timeout netif_timeout "
        "prod_mode_write_protect t10_pi tpg_enabled_sendtargets",
    ("acl", "attribute"):
        "dataout_timeout dataout_timeout_retries default_erl nopin_response_timeout nopin_timeout "
        "random_datain_pdu_offsets random_datain_seq_offsets random_r2t_offsets",
    ("tpg", "parameter"):
        "DefaultTime2Retain DefaultTime2Wait ErrorRecoveryLevel FirstBurstLength MaxBurstLength "
        "MaxConnections MaxOutstandingR2T MaxRecvDataSegmentLength MaxXmitDataSegmentLength"}
_YES_OR_NO = frozenset("DataPDUInOrder DataSequenceInOrder IFMarker InitialR2T OFMarker".split())
#: All attributes of a backstore are numbers but this.
_TEXT = frozenset(("control",))

_AUTH = ("mutual_password", "mutual_userid", "password", "userid")
_ALUA = tuple("""
    alua_access_state alua_access_status alua_access_type alua_support_active_nonoptimized
    alua_support_active_optimized alua_support_offline alua_support_standby
    alua_support_transitioning alua_support_unavailable alua_write_metadata implicit_trans_secs
    nonop_delay_msecs preferred trans_delay_msecs""".split())
_ALUA_FIXED = ("alua_support_lba_dependent", "members", "tg_pt_gp_id")
#: Values that the kernel shows in words and targetcli in numbers (rtslib/alua.py).
_WORDS: Mapping[str, Tuple[str, ...]] = {
    "alua_access_status": ("None", "Altered by Explicit STPG", "Altered by Implicit ALUA"),
    "alua_access_type": ("None", "Implicit", "Explicit", "Implicit and Explicit")}
_AUTH_FILES: Mapping[str, str] = {"mutual_userid": "userid_mutual",
                                  "mutual_password": "password_mutual"}


def names(node: Node) -> List[str]:
    """The groups of a node, with `global`."""
    return ["global", *_groups(node)]


def parameters(node: Node, group: str) -> List[Parameter]:
    """The parameters of a group, sorted.  Raises BadCall for a group that is not there."""
    if group == "global":
        return [Parameter(row.name, row.type, row.help) for row in preferences.ROWS]
    groups = _groups(node)
    if group not in groups:
        raise errors.BadCall(f"Unknown configuration group: {quoted(group)}", do="get")
    return sorted(groups[group]())


def _groups(node: Node) -> Dict[str, Callable[[], List[Parameter]]]:
    """{group: what lists it}, of all but `global`."""
    groups: Dict[str, Callable[[], List[Parameter]]] = {}
    for group, folder in (("attribute", "attrib"), ("parameter", "param")):
        if node.kind in ("backstore", "target", "tpg", "acl") and node.has(folder):
            groups[group] = lambda group=group, folder=folder: _files(  # type: ignore[misc]
                node, group, folder)
    if node.kind in ("tpg", "acl") and "auth" in node.features:
        groups["auth"] = lambda: [Parameter(name, file=f"auth/{_AUTH_FILES.get(name, name)}")
                                  for name in _AUTH]
    if node.kind == "fabric" and "discovery_auth" in node.features:
        groups["discovery_auth"] = lambda: [
            Parameter("enable", "number", file="discovery_auth/enforce_discovery_auth"),
            *(Parameter(name, file=f"discovery_auth/{_AUTH_FILES.get(name, name)}")
              for name in _AUTH)]
    if node.kind == "lun":
        groups["alua"] = lambda: [Parameter("alua_tg_pt_gp_name", file="alua_tg_pt_gp")]
    if node.kind == "alua_group":
        groups["alua"] = lambda: [*(Parameter(name, file=name) for name in _ALUA),
                                  *(Parameter(name, writable=False, file=name)
                                    for name in _ALUA_FIXED)]
    if node.kind == "tpg" and "nexus" in node.features and node.fabric in fabrics.FABRICS:
        groups["nexus"] = lambda: [Parameter(
            "wwn", help="The initiator port; targetcli makes one up.", file="nexus")]
    for group in _ours(node):
        groups.setdefault(group, lambda group=group: _own(node, group))  # type: ignore[misc]
    return groups


def _files(node: Node, group: str, folder: str) -> List[Parameter]:
    rows = []
    for name in os.listdir(node.tree.fs.path(f"{node.at}/{folder}")):
        mode = os.stat(node.tree.fs.path(f"{node.at}/{folder}/{name}")).st_mode
        rows.append(Parameter(name, _type(node.kind, group, name), "",
                              bool(mode & stat.S_IWUSR), f"{folder}/{name}"))
    return rows


def _type(kind: str, group: str, name: str) -> str:
    if kind == "backstore":
        return "string" if name in _TEXT else "number"
    if group == "parameter" and name in _YES_OR_NO:
        return "yesno"
    kind = "tpg" if group == "parameter" else kind
    return "number" if name in _NUMBERS.get((kind, group), "").split() else "string"


# ---- groups that targetcli lacks ----------------------------------------------------------------
#: Kind of node → groups of `manage` besides targetcli's; their parameters may have no file.
_MORE: Mapping[str, Tuple[str, ...]] = {
    "backstore": ("wwn", "backstore"), "tpg": ("tpg",), "acl": ("acl",),
    "mapped_lun": ("mapped_lun",)}


def key_of(node: Node) -> Key:
    return places.parse(node.managed).key


def _ours(node: Node) -> Tuple[str, ...]:
    if node.fabric and node.fabric not in fabrics.FABRICS:
        return ()
    return _MORE.get(node.kind, ())


def _own(node: Node, group: str) -> List[Parameter]:
    noun = NOUNS[node.kind]
    owner = node.plugin if node.kind == "backstore" else node.fabric
    prefix = noun.groups[group]
    known = [name for name in settable.names(noun, owner).get(group, ())
             if node.has(prefix + name) or prefix + name == "lu_group"]
    more = ["size"] if group == "backstore" and node.plugin == "fileio" else []
    return [Parameter(name, file=_FILES.get(prefix + name, prefix + name))
            for name in (*known, *more)]


_FILES: Mapping[str, str] = {"lu_group": "alua_lu_gp", "size": ""}


# ---- values -------------------------------------------------------------------------------------
def value(node: Node, group: str, row: Parameter, liked: Preferences) -> str:
    """A value as `get` shows it; of a secret whether there is one."""
    if group == "global":
        return preferences.shown(row.type, liked[row.name])
    if row.name in SECRETS and group in ("auth", "discovery_auth"):
        return HIDDEN if said(node, row.file) else ""
    if row.name == "enable" and group == "discovery_auth":
        return str(node.read(row.file, "0") == "1")
    if group in ("auth", "discovery_auth"):
        return said(node, row.file)
    if group == "alua" and node.kind == "lun":
        return node.read(row.file).split("\n")[0].partition(":")[2].strip() or "n/a"
    if row.name == "size" and group == "backstore":
        from .summaries import store_facts
        return store_facts(node)["size"]
    word = node.read(row.file)
    if row.name == "members":
        return str([_member(line) for line in word.split("\n") if line.count("/") == 3])
    if group == "wwn":  # "T10 Vendor Identification: LIO-ORG"
        word = word.rpartition(": ")[2]
    words = _WORDS.get(row.name) if group == "alua" else None
    return str(words.index(word)) if words and word in words else word


def _member(line: str) -> Dict[str, object]:
    """A LUN of an ALUA group, ``iSCSI/iqn.x/tpgt_1/lun_0``, as rtslib tells of it."""
    driver, target, tpgt, lun = line.strip("\0 ").split("/")
    return {"driver": driver, "target": target, "tpgt": int(tpgt.rpartition("_")[2]),
            "lun": int(lun.rpartition("_")[2])}


def checked(row: Parameter, word: str) -> str:
    """A word as targetcli takes it for this parameter.  Raises BadCall."""
    good = not word or {"number": lambda: word.lstrip("-").isdigit(),
                        "yesno": lambda: word in ("Yes", "No")}.get(row.type, lambda: True)()
    if not good:
        raise errors.BadCall(f"Not setting {row.name}! Syntax error, {quoted(word)} is not "
                             f"{'a NUMBER' if row.type == 'number' else 'Yes|No'}.",
                             do="correct it")
    return word


def find(node: Node, group: str, name: str, to_set: bool = False) -> Parameter:
    """The row of a parameter.  Raises BadCall."""
    row: Optional[Parameter] = next((row for row in parameters(node, group) if row.name == name),
                                    None)
    if row is None:
        raise errors.BadCall(f"Unknown parameter {quoted(name)} in group {quoted(group)}." if to_set
                             else f"No parameter {quoted(name)} in group {quoted(group)}.",
                             do=f"get {group}")
    if to_set and not row.writable:
        raise errors.BadCall(f"Parameter {name} is read-only.", do=f"get {group}")
    return row


# ---- set ----------------------------------------------------------------------------------------
def set_values(session: Session, node: Node, group: str, values: Dict[str, str]) -> None:
    """Set parameters of a group that is not `global`; on every initiator that a node stands for."""
    paths = managed_acls(node) if node.kind == "acl" else [node.managed]
    if group == "nexus":
        _set_nexus(session, node, values["wwn"])
        return
    if group == "discovery_auth" and "enable" in values:
        word = values["enable"]
        values = {**values, "enable": {"1": "true", "0": "false"}.get(word, word)}
    requests = [Request("set", path, (group,), values) for path in paths]
    session.change(f"set {node.path} {group}", requests, every(requests))


def _set_nexus(session: Session, node: Node, wwn: str) -> None:
    path = f"{node.managed}/nexus"

    def body(making: Making) -> None:
        if making.tpg(node.managed).attributes.get("nexus"):
            making.do("delete", path)
        if wwn:
            making.do("create", path, wwn)
    session.change(f"set {node.path} nexus", [Request("create", path, (wwn,))], body)


def managed_acls(node: Node) -> List[str]:
    """The paths of the ACLs that a node stands for, in the words of `manage`."""
    above = node.managed.rpartition("/")[0]
    return [f"{above}/{initiator}" for initiator in nodes.members(node)]

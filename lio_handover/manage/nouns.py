"""THE table of what can be made, changed and deleted: a row for each kind of object, with
targetcli's words for it, the parameters of its making, their types and their defaults.

The command line, the file of `apply` and its schema, D-Bus and the documentation are made of these
rows.  Attributes are rows of model/attributes.py; which of them are set by which group, and the
values that a new object gets here where the kernel's are others, are columns.
"""
from __future__ import annotations

from typing import Mapping, NamedTuple, Tuple

from ..model import fabrics, plugins
from ..model.plugins import Data, Opens


class Parameter(NamedTuple):
    """A parameter of the making of an object.

    name     in targetcli's words
    type     of words.TYPES
    help     a line
    default  what is taken where it is not given, in words
    needed   whether it has to be given
    word     the word of ``control`` that it becomes, "" for none
    only     of a switch: the value that is written to ``control``; the other one is the kernel's
    """

    name: str
    type: str
    help: str
    default: str = ""
    needed: bool = False
    word: str = ""
    only: str = ""


class Noun(NamedTuple):
    """A kind of object.

    name     as people call it
    kind     objects.Object.kind, or the name of an attribute that is made and deleted like one
    path     of the node that has such objects, targetcli's; {} stand for names
    create   the parameters of its making, in targetcli's order
    delete   those that name it below that node
    groups   group of `set` → where its attributes begin (model/attributes.py)
    source   where targetcli has it, "" where it has none
    """

    name: str
    kind: str
    path: str
    create: Tuple[Parameter, ...] = ()
    delete: Tuple[str, ...] = ()
    groups: Mapping[str, str] = {}
    source: str = ""


#: A default of a switch, in words → its value.
SWITCHES: Mapping[str, str] = {"true": "1", "false": "0"}
_NAME = Parameter("name", "name", "of the backstore: its directory in the kernel", needed=True)
_SERIAL = Parameter("wwn", "serial", "the unit serial, of which an initiator knows the disk",
                    "a new UUID")
_SIZE = "1024, 512k, 10G: powers of 1024"

#: Plugin → the parameters of a backstore's making, as targetcli has them.
BACKSTORES: Mapping[str, Tuple[Parameter, ...]] = {
    "fileio": (
        _NAME, Parameter("file_or_dev", "path", "a file, which is made where there is none, or a "
                         "block device", needed=True, word="fd_dev_name"),
        Parameter("size", "size", f"of the file: {_SIZE}", "that of the file"),
        Parameter("write_back", "bool", "whether writes are cached by this host", "true",
                  word="fd_buffered_io", only="1"),
        Parameter("sparse", "bool", "whether a new file has its blocks only once they are written",
                  "true"),
        _SERIAL, Parameter("aio", "bool", "whether I/O is asynchronous", "false",
                           word="fd_async_io", only="1")),
    "iblock": (
        _NAME, Parameter("dev", "path", "a block device", needed=True, word="udev_path"),
        Parameter("readonly", "bool", "whether nothing can be written", "as the device is",
                  word="readonly", only="1"),
        _SERIAL, Parameter("exclusive", "bool", "whether nobody else may open the device (since "
                           "Linux 6.17)", "true", word="exclusive", only="0")),
    "pscsi": (
        _NAME, Parameter("dev", "path", "the block device of a SCSI device", needed=True)),
    "rd_mcp": (
        _NAME, Parameter("size", "size", f"in memory: {_SIZE}", needed=True),
        Parameter("nullio", "bool", "whether what is written is dropped", "false",
                  word="rd_nullio", only="1"), _SERIAL),
    "user": (
        _NAME, Parameter("size", "size", _SIZE, needed=True, word="dev_size"),
        Parameter("cfgstring", "text", "for the handler: HANDLER/REST", needed=True,
                  word="dev_config"), _SERIAL,
        Parameter("hw_max_sectors", "number", "sectors of one command at most", "the handler's",
                  word="hw_max_sectors"),
        Parameter("control", "text", "further NAME=VALUE, with commas between")),
}

_ROWS = (
    Noun("backstore", "backstore", "/backstores/{plugin}", (), ("name",),
         {"attribute": "attrib/", "wwn": "wwn/", "backstore": ""}, "ui_backstore.py"),
    Noun("ALUA group", "alua_group", "/backstores/{plugin}/{name}/alua", (
        Parameter("name", "name", "of the group", needed=True),
        Parameter("tag", "id", "its id, as an initiator sees it", needed=True),
    ), ("name",), {"alua": ""}, "ui_backstore.py:UIALUATargetPortGroups"),
    Noun("LU group", "lu_group", "/backstores/lu_groups", (
        Parameter("name", "name", "of the group", needed=True),
        Parameter("id", "id", "its id, as an initiator sees it", "the lowest free one"),
    ), ("name",), {"lu_group": ""}),
    Noun("target", "target", "/{fabric}", (
        Parameter("wwn", "wwn", "an IQN; naa. and 16 hex digits (vhost, loopback)",
                  "a new one"),), ("wwn",), {}, "ui_target.py:UIFabricModule"),
    Noun("TPG", "tpg", "/{fabric}/{wwn}", (
        Parameter("tag", "tag", "its number", "the lowest free one from 1"),
    ), ("tag",), {"attribute": "attrib/", "parameter": "param/", "auth": "auth/", "tpg": ""},
        "ui_target.py:UIMultiTPGTarget"),
    Noun("portal", "portal", "/{fabric}/{wwn}/{tpg}/portals", (
        Parameter("ip_address", "ip", "an address, which need not be on this host yet", "::0"),
        Parameter("ip_port", "port", "a TCP port", "3260"),
    ), ("ip_address", "ip_port"), {"portal": ""}, "ui_target.py:UIPortals"),
    Noun("LUN", "lun", "/{fabric}/{wwn}/{tpg}/luns", (
        Parameter("storage_object", "store", "a backstore: PLUGIN/NAME, or its path", needed=True),
        Parameter("lun", "lun", "its number", "the lowest free one"),
        Parameter("add_mapped_luns", "bool", "whether each ACL gets it mapped, under its number "
                  "or the lowest free one", "true"),
    ), ("lun",), {"alua": ""}, "ui_target.py:UILUNs"),
    Noun("ACL", "acl", "/{fabric}/{wwn}/{tpg}/acls", (
        Parameter("wwn", "initiator", "the initiator's name", needed=True),
        Parameter("add_mapped_luns", "bool", "whether it gets each LUN mapped under its own "
                  "number", "true"),
    ), ("wwn",), {"attribute": "attrib/", "auth": "auth/", "acl": ""}, "ui_target.py:UINodeACLs"),
    Noun("mapped LUN", "mapped_lun", "/{fabric}/{wwn}/{tpg}/acls/{initiator}", (
        Parameter("mapped_lun", "lun", "its number for the initiator", needed=True),
        Parameter("tpg_lun_or_backstore", "lun or store", "the TPG's LUN, or a backstore that it "
                  "exports", needed=True),
        Parameter("write_protect", "bool", "whether nothing can be written", "false"),
    ), ("mapped_lun",), {"mapped_lun": ""}, "ui_target.py:UINodeACL"),
    Noun("nexus", "nexus", "/{fabric}/{wwn}/{tpg}/nexus", (
        Parameter("wwn", "wwn", "the initiator's name (vhost, loopback)", "a new one"),), ()),
    Noun("discovery authentication", "discovery_auth", "/iscsi", (), (), {"discovery_auth": ""},
         "ui_target.py:UIFabricModule"),
)
#: Kind → its row.
NOUNS: Mapping[str, Noun] = {row.kind: row for row in _ROWS}

#: targetcli's names of attributes → the kernel's, by kind of object; all others are the kernel's.
ALIASES: Mapping[str, Mapping[str, str]] = {
    "tpg": {"auth/mutual_userid": "auth/userid_mutual",
            "auth/mutual_password": "auth/password_mutual"},
    "acl": {"auth/mutual_userid": "auth/userid_mutual",
            "auth/mutual_password": "auth/password_mutual"},
    "discovery_auth": {"mutual_userid": "userid_mutual", "mutual_password": "password_mutual",
                       "enable": "enforce_discovery_auth"},
    "backstore": {"lu_group": "alua_lu_gp"},
    "portal": {"offload": "cxgbit"},
    "lun": {"alua_tg_pt_gp_name": "alua_tg_pt_gp"},
}

#: (kind, plugin or fabric) → attributes of a new object that are not the kernel's own defaults:
#: targetcli makes it so, and its users rely on that.  ``{name}`` is the object's name.
DEFAULTS: Mapping[Tuple[str, str], Mapping[str, str]] = {
    **{("backstore", row.name): {"attrib/emulate_model_alias": "1"}
       for row in plugins.PLUGINS.values() if not row.passthrough},
    **{("tpg", row.name): {"attrib/authentication": "0", "enable": "1"}
       for row in fabrics.FABRICS.values() if row.logins},
}
#: The portal of a new TPG that is not told otherwise (targetcli since 3.0.1), and where a target of
#: this host has the other one, by which nobody could reach the first (targetcli before that).
PORTAL, IPV4_PORTAL = "[::0]:3260", "0.0.0.0:3260"

#: targetcli's names of plugins, and the kernel's, which are taken as well.
PLUGINS: Mapping[str, str] = {**{row.rtslib_name: row.name for row in plugins.PLUGINS.values()},
                              **{row.name: row.name for row in plugins.PLUGINS.values()}}


def targetcli_name(plugin: str) -> str:
    """A plugin's name in targetcli's words: ``block``."""
    return plugins.of(plugin).rtslib_name


def has_file(plugin: str) -> bool:
    """Whether a backstore of this plugin may have a file made for it."""
    return plugins.of(plugin).opens is Opens.FILE


def in_memory(plugin: str) -> bool:
    return plugins.of(plugin).data is Data.MEMORY

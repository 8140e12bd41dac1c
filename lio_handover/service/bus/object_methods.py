"""The methods by which objects on D-Bus are changed: a row each, with what it asks of `create`,
`set` or `delete`.

They answer once it is done, with the node of what was made or changed; the errors are those of the
verbs.
"""
from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Sequence, Tuple

from ... import dbus_names


class Argument(NamedTuple):
    """An argument: its name, its type, the parameter of manage/nouns.py that it is ("" where it
    stands in the node, * for values by name), and what is told of it."""

    name: str
    type: str
    parameter: str
    text: str = ""


class ObjectMethod(NamedTuple):
    """A method.  ``node``: behind the object's own node, {} stand for arguments; ``above``: whether
    it is the node above the object's, in which that is named by ``own``."""

    interface: str
    member: str
    verb: str
    node: str
    arguments: Tuple[Argument, ...]
    help: str
    own: str = ""

    def wanted(self, about: str, arguments: Sequence[Any]) -> Tuple[str, Dict[str, str]]:
        """(node, values) that it asks for, of an object whose node is ``about``."""
        given = dict(zip((argument.name for argument in self.arguments), arguments))
        values: Dict[str, str] = {}
        for argument in self.arguments:
            value = given[argument.name]
            if argument.parameter == "*":
                values.update(value)
            elif argument.parameter and _said(value):
                values[argument.parameter] = _said(value)
        if self.own:
            about, _, name = about.rpartition("/")
            values[self.own] = name
        return about + self.node.format(**given), values


def _said(value: Any) -> str:
    """A value as the command line has it; "" where none is given."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if isinstance(value, int) and value < 0 else str(value)


_TPG = Argument("tpg", "u", "", "The TPG's number.")
_VALUES = Argument("values", "a{ss}", "*", "NAME=VALUE of the command line. Of a secret @0, @1...: "
                   "the content of a descriptor of option secret-fds.")

_ROWS = (
    ObjectMethod(dbus_names.MANAGER, "CreateBackstore", "create", "/backstores/{plugin}", (
        Argument("plugin", "s", "", "fileio, block, pscsi, ramdisk or user."),
        Argument("name", "s", "name"), _VALUES),
        "Make a backstore."),
    ObjectMethod(dbus_names.MANAGER, "CreateTarget", "create", "/{fabric}", (
        Argument("fabric", "s", "", "iscsi, vhost or loopback."),
        Argument("wwn", "s", "wwn", "Empty: a new one.")), "Make a target, with a TPG 1."),
    ObjectMethod(dbus_names.TARGET, "AddTpg", "create", "", (
        Argument("tag", "x", "tag", "-1: the lowest free one."),), "Make a TPG."),
    ObjectMethod(dbus_names.TARGET, "RemoveTpg", "delete", "", (Argument("tag", "u", "tag"),),
                 "Delete a TPG."),
    ObjectMethod(dbus_names.TARGET, "AddPortal", "create", "/tpg{tpg}/portals", (
        _TPG, Argument("address", "s", "ip_address"), Argument("port", "u", "ip_port")),
        "Make a portal."),
    ObjectMethod(dbus_names.TARGET, "RemovePortal", "delete", "/tpg{tpg}/portals", (
        _TPG, Argument("address", "s", "ip_address"), Argument("port", "u", "ip_port")),
        "Delete a portal."),
    ObjectMethod(dbus_names.TARGET, "AddLun", "create", "/tpg{tpg}/luns", (
        _TPG, Argument("backstore", "s", "storage_object", "PLUGIN/NAME."),
        Argument("lun", "x", "lun", "-1: the lowest free one."),
        Argument("map", "b", "add_mapped_luns", "Whether each ACL gets it mapped.")),
        "Make a LUN of a backstore."),
    ObjectMethod(dbus_names.TARGET, "RemoveLun", "delete", "/tpg{tpg}/luns", (
        _TPG, Argument("lun", "t", "lun")), "Delete a LUN, and what maps it."),
    ObjectMethod(dbus_names.TARGET, "AddAcl", "create", "/tpg{tpg}/acls", (
        _TPG, Argument("initiator", "s", "wwn"),
        Argument("map", "b", "add_mapped_luns", "Whether it gets each LUN mapped.")),
        "Make an ACL."),
    ObjectMethod(dbus_names.TARGET, "SetNexus", "create", "/tpg{tpg}/nexus", (
        _TPG, Argument("wwn", "s", "wwn", "Empty: a new one.")), "Make a nexus (vhost, loopback)."),
    ObjectMethod(dbus_names.TARGET, "DropNexus", "delete", "/tpg{tpg}/nexus", (_TPG,),
                 "Delete the nexus."),
    ObjectMethod(dbus_names.TARGET, "SetValues", "set", "/tpg{tpg}", (_TPG, _VALUES),
                 "Set attributes, parameters, CHAP, enable or rtpi of a TPG."),
    ObjectMethod(dbus_names.TARGET, "Delete", "delete", "", (), "Delete the target. Its backstores "
                 "stay.", "wwn"),
    ObjectMethod(dbus_names.ACL, "Map", "create", "", (
        Argument("mapped_lun", "t", "mapped_lun", "Its number for the initiator."),
        Argument("lun", "t", "tpg_lun_or_backstore", "The TPG's LUN."),
        Argument("write_protect", "b", "write_protect")), "Map a LUN."),
    ObjectMethod(dbus_names.ACL, "Unmap", "delete", "", (
        Argument("mapped_lun", "t", "mapped_lun"),), "Delete a mapped LUN."),
    ObjectMethod(dbus_names.ACL, "Protect", "set", "/mapped_lun{mapped_lun}", (
        Argument("mapped_lun", "t", ""), Argument("write_protect", "b", "write_protect")),
        "Say whether a mapped LUN can be written."),
    ObjectMethod(dbus_names.ACL, "SetValues", "set", "", (_VALUES,), "Set attributes or CHAP."),
    ObjectMethod(dbus_names.ACL, "Delete", "delete", "", (), "Delete the ACL.", "wwn"),
    ObjectMethod(dbus_names.BACKSTORE, "Grow", "set", "", (
        Argument("size", "t", "size", "Bytes."),), "Make the disk of a file larger."),
    ObjectMethod(dbus_names.BACKSTORE, "AddAluaGroup", "create", "/alua", (
        Argument("name", "s", "name"), Argument("tag", "u", "tag")), "Make an ALUA group."),
    ObjectMethod(dbus_names.BACKSTORE, "RemoveAluaGroup", "delete", "/alua", (
        Argument("name", "s", "name"),), "Delete an ALUA group."),
    ObjectMethod(dbus_names.BACKSTORE, "SetValues", "set", "", (_VALUES,), "Set attributes."),
    ObjectMethod(dbus_names.BACKSTORE, "Delete", "delete", "", (), "Delete the backstore. Its file "
                 "stays.", "name"),
)
#: (interface, method) → its row.
OBJECT_METHODS: Mapping[Tuple[str, str], ObjectMethod] = {
    (row.interface, row.member): row for row in _ROWS}

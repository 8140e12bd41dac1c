"""THE table of the shell's commands: a row for each command of a kind of node.

Execution, completion, `help` and the list of docs/usage/shell.md are made of these rows; the
function of a row is in the module that ``where`` names.
"""
from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Tuple


class Parameter(NamedTuple):
    """A parameter: ``default`` is what is taken where it is not given, in words for people ("" for
    nothing worth a word); ``complete``: what Tab offers (terminal.py)."""

    name: str
    default: str = ""
    needed: bool = False
    complete: str = ""


class Command(NamedTuple):
    """A command of the kinds of nodes ``kinds`` ("" for every node).

    ``more``: what it takes besides: "words" by position, "values" by name.
    ``changes``: whether only root may.  ``where``: the module and function that run it; one word is
    a verb of lio-handover's, which is given the node's target and the parameters as options.
    """

    kinds: str
    name: str
    where: str
    parameters: Tuple[Parameter, ...] = ()
    help: str = ""
    changes: bool = False
    more: str = ""


def _needed(name: str, complete: str = "") -> Parameter:
    return Parameter(name, "", True, complete)


_P = Parameter
_BOOL = "bool"
_WWN = _P("wwn", "a new one")
_SAVEFILE = _P("savefile", "/etc/target/saveconfig.json", complete="file")
_MAPPED = _P("add_mapped_luns", "auto_add_mapped_luns", complete=_BOOL)

_ALLOW, _PROBE = _P("allow"), _P("probe", "false", complete=_BOOL)
_FILE, _MAP = _needed("file", "file"), _P("map")

_ROWS: Tuple[Command, ...] = (
    # ---- every node ----
    Command("", "bookmarks", "everywhere.bookmarks", (
        _needed("action", "add del go show"), _P("bookmark", complete="bookmark")),
        "Keeps paths under names: add (this path), del, go, show.  @NAME stands for the path, "
        "@last for that of the newest node."),
    Command("", "cd", "everywhere.cd", (_P("path", complete="path"),),
            "Goes to a node.  < and > go back and forward in the history; a path alone is enough."),
    Command("", "exit", "everywhere.leave", (), "Leaves the shell."),
    Command("", "get", "everywhere.get", (_P("group", complete="group"),),
            "Shows parameters of a group, all of them, or the groups.", more="words"),
    Command("", "help", "everywhere.help_", (_P("topic", complete="command"),),
            "Tells of a command, or lists them."),
    Command("", "ls", "everywhere.ls", (
        _P("path", "this node", complete="path"), _P("depth", "tree_max_depth")),
        "Draws the tree below a node."),
    Command("", "pwd", "everywhere.pwd", (), "Says where you are."),
    Command("", "refresh", "everywhere.refresh", (),
            "Looks at the kernel anew, as every command does."),
    Command("", "set", "everywhere.set_", (_P("group", complete="group"),),
            "Sets parameters of a group, NAME=VALUE; with none lists those that can be set.  A "
            "secret is NAME=@/FILE, or NAME=- to be asked; in a script or at the prompt also "
            "itself.",
            more="values"),
    Command("", "status", "everywhere.status", (), "Says in a line how this node is."),
    # ---- the root ----
    Command("root", "saveconfig", "root.saveconfig", (_SAVEFILE,),
            "Saves what is served, for the next boot: lio-handover's targets in its own records, "
            "all others in targetcli's file.", True),
    Command("root", "restoreconfig", "root.restoreconfig", (
        _SAVEFILE, _P("clear_existing", "false", complete=_BOOL), _P("target", "all"),
        _P("storage_object", "all")), "Serves what a save file says, or changes nothing.", True),
    Command("root", "clearconfig", "root.clearconfig", (_P("confirm", "false", complete=_BOOL),),
            "Takes all targets and backstores away.  Save files stay.", True),
    Command("root", "sessions", "root.sessions", (
        _P("action", "list", complete="list detail"), _P("sid", "all")),
        "Lists who is logged in; detail: with addresses and mapped LUNs."),
    Command("root", "version", "root.version", (), "Says which version this is."),
    # ---- backstores ----
    Command("fileio", "create", "objects.create_backstore", (
        _needed("name"), _needed("file_or_dev", "file"), _P("size", "that of the file"),
        _P("write_back", "true", complete=_BOOL), _P("sparse", "true", complete=_BOOL), _WWN),
        "Makes a backstore of a file, which is made where there is none, or of a block device.",
        True),
    Command("block", "create", "objects.create_backstore", (
        _needed("name"), _needed("dev", "file"), _P("readonly", "as the device is", complete=_BOOL),
        _WWN, _P("exclusive", "true", complete=_BOOL)), "Makes a backstore of a block device.",
        True),
    Command("pscsi", "create", "objects.create_backstore", (
        _needed("name"), _needed("dev", "file")),
        "Makes a backstore of a SCSI device, which answers commands itself.", True),
    Command("ramdisk", "create", "objects.create_backstore", (
        _needed("name"), _needed("size"), _P("nullio", "false", complete=_BOOL), _WWN),
        "Makes a backstore in memory: its data is gone with it.", True),
    Command("user", "create", "objects.create_backstore", (
        _needed("name"), _needed("size"), _needed("cfgstring"), _WWN,
        _P("hw_max_sectors", "the handler's"), _P("control", "nothing")),
        "Makes a backstore of a program in user space.", True),
    Command("plugin", "delete", "objects.delete_backstore", (
        _needed("name", "child"), _P("save", "false", complete=_BOOL)),
        "Deletes a backstore with the LUNs that export it; its file stays.", True),
    Command("backstore", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    Command("backstore", "version", "everywhere.plugin_version", (), "Names its plugin."),
    Command("backstore", "saveconfig", "root.saveconfig", (_SAVEFILE,),
            "Saves what is served, this backstore among it.", True),
    Command("alua", "create", "objects.create_alua_group", (_needed("name"), _needed("tag")),
            "Makes an ALUA group.", True),
    Command("alua", "delete", "objects.delete_alua_group", (_needed("name", "child"),),
            "Deletes an ALUA group; LUNs in it come into the default one.", True),
    Command("alua_group", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    # ---- targets ----
    Command("fabric", "create", "objects.create_target", (_WWN,),
            "Makes a target with its TPG 1.", True),
    Command("fabric", "delete", "objects.delete_target", (_needed("wwn", "child"),),
            "Deletes a target with all that belongs to it.", True),
    Command("fabric", "info", "everywhere.fabric_info", (), "Tells what targets may be called."),
    Command("target", "create", "objects.create_tpg", (_P("tag", "the lowest free one"),),
            "Makes a TPG.", True),
    Command("target", "delete", "objects.delete_tpg", (_needed("tag", "child"),),
            "Deletes a TPG with all that belongs to it.", True),
    Command("target", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    Command("tpg", "enable", "objects.enable", (), "Lets initiators in.", True),
    Command("tpg", "disable", "objects.disable", (), "Keeps initiators out.", True),
    Command("tpg", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    Command("luns", "create", "objects.create_lun", (
        _needed("storage_object", "store"), _P("lun", "the lowest free one"), _MAPPED),
        "Exports a backstore, or a file or device, of which one is made first.", True),
    Command("luns", "delete", "objects.delete_lun", (_needed("lun", "child"),),
            "Takes a LUN away, and what is mapped to it.", True),
    Command("lun", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    Command("acls", "create", "objects.create_acl", (_needed("wwn"), _MAPPED),
            "Makes an ACL for an initiator.", True),
    Command("acls", "delete", "objects.delete_acl", (_needed("wwn", "child"),),
            "Deletes an initiator's ACL.", True),
    Command("acls", "tag", "objects.tag", (_needed("wwn_or_tag", "child"), _needed("new_tag")),
            "Shows initiators under one name; who joins others gets what they have.", True),
    Command("acls", "untag", "objects.untag", (_needed("wwn_or_tag", "child"),),
            "Shows initiators under their own names again.", True),
    Command("acl", "create", "objects.create_mapped_lun", (
        _needed("mapped_lun"), _needed("tpg_lun_or_backstore", "lun"),
        _P("write_protect", "false", complete=_BOOL)),
        "Maps a LUN for the initiator; of a backstore, file or device it makes the LUN first.",
        True),
    Command("acl", "delete", "objects.delete_mapped_lun", (_needed("mapped_lun", "child"),),
            "Takes a mapped LUN away.", True),
    Command("acl", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    Command("mapped_lun", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    Command("portals", "create", "objects.create_portal", (
        _P("ip_address", "::0", complete="address"), _P("ip_port", "3260")),
        "Makes a portal: an address, which need not be here yet, and a port.", True),
    Command("portals", "delete", "objects.delete_portal", (
        _needed("ip_address", "portal"), _needed("ip_port")), "Deletes a portal.", True),
    Command("portal", "enable_iser", "objects.enable_iser", (_needed("boolean", _BOOL),),
            "Has the portal speak iSER.", True),
    Command("portal", "enable_offload", "objects.enable_offload", (_needed("boolean", _BOOL),),
            "Has the card do the work (cxgbit).", True),
    Command("portal", "info", "everywhere.info", (), "Lists what the kernel tells of it."),
    # ---- lio-handover's own verbs ----
    Command("target", "prepare", "prepare", (_ALLOW, _PROBE),
            "Tells what speaks against handing the target over."),
    Command("target", "freeze", "freeze", (_ALLOW, _PROBE),
            "Shuts the gates, and waits until all is on the disk.", True),
    Command("target", "thaw", "thaw", (_ALLOW,), "Opens the gates that freeze has shut.", True),
    Command("target", "export", "export", (_needed("output", "file"), _ALLOW, _PROBE),
            "Writes a document of the target, which import takes.", True),
    Command("target", "move", "move", (_needed("to"), _P("map"), _P("mode"), _ALLOW),
            "Hands the target over to another host, from start to end.", True),
    Command("target", "adopt", "adopt", (_ALLOW,),
            "Has lio-handover restore the target at a boot, whole.", True),
    Command("target", "giveback", "giveback", (_ALLOW,),
            "Has targetcli restore the target at a boot.", True),
    Command("root", "plan", "plan", (_FILE, _MAP, _ALLOW),
            "Shows the steps that import of a document would take."),
    Command("root", "diff", "diff", (_FILE, _MAP), "Shows how this host differs from a document."),
    Command("root", "verify", "verify", (_FILE, _MAP),
            "Tells whether this host serves just what a document says."),
    Command("root", "import", "import", (_FILE, _MAP, _ALLOW), "Serves what a document says.",
            True),
    Command("root", "handovers", "status", (_P("id", "all"),),
            "Tells where handovers stand, and what leads on: the verb status."),
    Command("root", "recover", "recover", (_P("id", "all"), _P("peer")),
            "Finishes what was cut off, or says what a human may order.", True),
)


def kinds_of(kind: str, name: str) -> Tuple[str, ...]:
    """The words of ``kinds`` that a node answers to: backstores of each plugin are made
    otherwise."""
    return (kind, name.partition(":")[0]) if kind == "plugin" else (kind,)


def of(kind: str, name: str = "") -> Dict[str, Command]:
    """{name: command} of a kind of node; ``name``: of the node."""
    kinds = ("", *kinds_of(kind, name))
    return {row.name: row for row in sorted(_ROWS, key=lambda row: row.name)
            if row.kinds in kinds}


def rows() -> Tuple[Command, ...]:
    return _ROWS


def syntax(row: Command) -> str:
    """A line of `help`: ``create name [size] ``, as configshell has it."""
    words: List[str] = [row.name]
    words += [parameter.name for parameter in row.parameters if parameter.needed]
    words += [f"[{parameter.name}]" for parameter in row.parameters if not parameter.needed]
    words += {"words": ["[parameter...]"], "values": ["[parameter=value...]"]}.get(row.more, [])
    return " ".join(words) + " "


#: Kind → what people call it, for the documentation.
KINDS: Mapping[str, str] = {
    "root": "/", "backstores": "/backstores", "plugin": "/backstores/PLUGIN",
    "fileio": "/backstores/fileio", "block": "/backstores/block", "pscsi": "/backstores/pscsi",
    "ramdisk": "/backstores/ramdisk", "user": "/backstores/user:HANDLER",
    "backstore": "/backstores/PLUGIN/NAME", "alua": "…/NAME/alua", "alua_group": "…/alua/GROUP",
    "fabric": "/FABRIC", "target": "/FABRIC/WWN", "tpg": "…/tpgN", "luns": "…/luns",
    "lun": "…/luns/lunN", "acls": "…/acls", "acl": "…/acls/WWN", "mapped_lun": "…/mapped_lunN",
    "portals": "…/portals", "portal": "…/portals/IP:PORT", "": "every node"}

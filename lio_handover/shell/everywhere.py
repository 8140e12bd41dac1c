"""The commands that every node has, and those that only tell of a node: ls, cd, get, set, help,
info …, with targetcli's texts."""
from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..errors import one_line, quoted
from ..model import fabrics, plugins
from ..model.objects import Secret
from ..savefile.rtslib_names import FABRICS
from ..system import secret_file
from . import commands, nodes, preferences, summaries
from .changes import Session
from .nodes import LAYOUTS, Node

if TYPE_CHECKING:
    from .groups import Parameter

Given = Mapping[str, str]

#: Columns of a tree that goes to no terminal, and the most that a terminal gets (configshell).
WIDEST = 132
_GREEN, _RED, _BOLD, _UNDERLINE, _BLUE, _MAGENTA = "32", "31", "1", "4", "34", "35"


# ---- ls -----------------------------------------------------------------------------------------
def ls(session: Session, node: Node, given: Given) -> None:
    depth = given.get("depth") or str(session.liked["tree_max_depth"])
    if not depth.isdigit():
        raise errors.BadCall("The tree depth must be a number.", do="correct it")
    start = at(session, node, given.get("path") or ".")
    session.say(*_Drawing(session).lines(start, [], int(depth) or None))


def at(session: Session, node: Node, path: str) -> Node:
    """The node of a path as people type it: a bookmark, or a path from ``node``.  Raises
    NoSuchTarget."""
    if path.startswith("@"):
        name = path[1:].strip()
        if name not in session.liked.bookmarks:
            raise errors.NoSuchTarget(f"No such bookmark {quoted(name)}", do="bookmarks show")
        path = session.liked.bookmarks[name]
    return session.tree.node(path, node)


class _Drawing:
    """Draws trees as configshell does (configshell/node.py:ConfigNode._render_tree)."""

    def __init__(self, session: Session) -> None:
        self.liked = session.liked
        self.coloured = bool(session.liked["color_mode"]) and sys.stdout.isatty()
        self.width = width()

    def lines(self, node: Node, bars: Sequence[bool], depth: Optional[int],
              first: bool = True) -> List[str]:
        """The lines of a node and what is below it; ``bars``: for each level above whether more
        follows there."""
        lines = [self._line(node, bars, first)]
        below = node.children() if depth is None or depth > 0 else []
        if first and not self.liked["tree_show_root"]:
            lines = []
        for child in below:
            more = [*bars, child is not below[-1]] if lines or not first else []
            lines += self.lines(child, more, None if depth is None else depth - 1, False)
        return lines

    def _line(self, node: Node, bars: Sequence[bool], first: bool) -> str:
        level = node.path.rstrip("/").count("/")
        colour = ("", _BLUE, _MAGENTA)[level % 3]
        text, well = summaries.of(node)
        text = text or {True: "OK", False: "ERROR"}.get(well, "...")  # type: ignore[arg-type]
        head = "".join("| " if bar else "  " for bar in [False, *bars][:-1]) \
            + ("o- " if self.liked["tree_round_nodes"] else "+- ")
        name = one_line(node.name)
        dots = "." * (self.width - 1 - len(text) - 3 - len(head) - len(name))
        line = head + self._paint(name, colour, _BOLD, _UNDERLINE if first else "")
        if not self.liked["tree_status_mode"]:
            return line
        shown = self._paint(text, _GREEN if well else _RED if well is False else "",
                            _BOLD if well is False else "")
        return (f"{line} {self._paint(dots, colour)}{self._paint(' [', _BOLD)}{shown}"
                f"{self._paint(']', _BOLD)}")

    def _paint(self, text: str, *codes: str) -> str:
        codes = tuple(code for code in codes if code)
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.coloured and codes and text else text


def width() -> int:
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns or WIDEST, WIDEST)
    except (OSError, ValueError):
        return WIDEST


# ---- where one is -------------------------------------------------------------------------------
def cd(session: Session, node: Node, given: Given) -> None:
    path, liked = given.get("path"), session.liked
    if path in ("<", ">"):
        _along(session, -1 if path == "<" else 1)
        return
    if path is None:
        raise errors.BadCall("cd needs a path", do="ls shows the paths; Tab completes one")
    session.here = at(session, node, path)
    liked.went(session.here.path)
    if session.typed:
        liked.save()


def _along(session: Session, step: int) -> None:
    """Back or forward in the history of paths, past those that are gone."""
    liked = session.liked
    while 0 <= liked.index + step < len(liked.paths):
        liked.index += step
        try:
            session.here = session.tree.node(liked.paths[liked.index])
        except errors.NoSuchTarget:
            continue
        session.info(f"Taking you back to {session.here.path}.")
        return
    session.info("Reached begining of path history." if step < 0
                 else "Reached the end of path history.")


def pwd(session: Session, node: Node, _: Given) -> None:
    session.say(node.path)


def leave(session: Session, node: Node, _: Given) -> None:
    session.ended = True


def refresh(session: Session, node: Node, _: Given) -> None:
    session.tree.again()


def status(session: Session, node: Node, _: Given) -> None:
    session.info(f"Status for {node.path}: {summaries.of(node)[0]}")


def bookmarks(session: Session, node: Node, given: Given) -> None:
    action, name, marks = given["action"], given.get("bookmark", ""), session.liked.bookmarks
    if action == "show":
        session.say("", "BOOKMARKS", "=========", "", *(
            line for mark, path in marks.items()
            for line in (mark, "-" * len(mark), path, "")), *(() if marks else (
                "No bookmarks yet.", "")))
    elif action == "add" and name:
        if name in marks:
            raise errors.BadCall(f"Bookmark {quoted(name)} already exists.", do="bookmarks show")
        marks[name] = node.path
        session.liked.save()
        session.info(f"Bookmarked {node.path} as {name}.")
    elif action in ("del", "go") and name:
        if name not in marks:
            raise errors.BadCall(f"No such bookmark {quoted(name)}.", do="bookmarks show")
        if action == "go":
            cd(session, node, {"path": marks[name]})
            return
        del marks[name]
        session.liked.save()
        session.info(f"Deleted bookmark {name}.")
    else:
        raise errors.BadCall("Syntax error, see 'help bookmarks'.", do="help bookmarks")


# ---- help ---------------------------------------------------------------------------------------
def help_(session: Session, node: Node, given: Given) -> None:
    known, topic = commands.of(node.kind, node.name), given.get("topic")
    if not topic:
        session.say("", "[PATH] COMMAND [PARAMETER...] [NAME=VALUE...]", "",
                    "AVAILABLE COMMANDS", "==================",
                    "The following commands are available in the", "current path:", "",
                    *(f"  - {commands.syntax(row)}" for row in known.values()), "")
        return
    if topic not in known:
        raise errors.BadCall(f"Cannot find help topic {quoted(topic)}.", do="help")
    row = known[topic]
    defaults = [f"{parameter.name}={parameter.default}" for parameter in row.parameters
                if parameter.default]
    session.say("", "SYNTAX", "======", commands.syntax(row), "", *(
        ("DEFAULT VALUES", "==============", ", ".join(defaults), "") if defaults else ()),
        "DESCRIPTION", "===========", row.help, "")


# ---- get and set --------------------------------------------------------------------------------
def get(session: Session, node: Node, given: Given, words: Sequence[str] = ()) -> None:
    from . import groups
    group = given.get("group")
    if not group:
        _list_groups(session, node)
        return
    for name in words:
        row = groups.find(node, group, name)
        value = groups.value(node, group, row, session.liked)
        session.say(one_line(f"{name}={value} {'' if row.writable else '[ro]'}"))
    if not words:
        heads = [(f"{row.name}={groups.value(node, group, row, session.liked)}"
                  + ("" if row.writable else " [ro]"), row)
                 for row in groups.parameters(node, group)]
        _describe(session, group, heads)


def _list_groups(session: Session, node: Node) -> None:
    from . import groups
    session.say("", "AVAILABLE CONFIGURATION GROUPS", "==============================",
                " ".join(groups.names(node)), "")


def _describe(session: Session, group: str,
              heads: Sequence[Tuple[str, Parameter]]) -> None:
    title = f"{group.upper()} CONFIG GROUP"
    lines = [line for head, row in heads for line in (
        one_line(head), "-" * len(head), row.help or f"The {row.name} {group} parameter.", "")]
    session.say(title, "=" * len(title), *lines[:-1])


def set_(session: Session, node: Node, given: Given, values: Mapping[str, str]) -> None:
    from ..manage.settable import SECRETS
    from . import groups
    group = given.get("group")
    if not group and values:
        raise errors.BadCall("name the group that has them: set GROUP NAME=VALUE", do="set")
    if not group:
        _list_groups(session, node)
        return
    if not values:
        _describe(session, group, [(f"{row.name}={row.type}", row) for row in groups.parameters(
            node, group) if row.writable])
        return
    rows = [groups.find(node, group, name, to_set=True) for name in values]
    if group == "global":
        for row in rows:
            session.liked.values[row.name] = preferences.taken(row.type, values[row.name], row.name)
        session.liked.save()
    else:
        wanted: Dict[str, str] = {
            row.name: _secret(session, row.name, values[row.name]) if row.name in SECRETS
            else groups.checked(row, values[row.name]) for row in rows}
        groups.set_values(session, node, group, wanted)
        if session.dry_run:
            return
    for row in rows:
        session.say(one_line(f"Parameter {row.name} is now "
                             f"'{groups.value(node, group, row, session.liked)}'."))


def _secret(session: Session, name: str, word: str) -> str:
    """A secret as it was given.  Raises BadCall for one that every user has seen (ps)."""
    if word.startswith("@/"):
        return Secret(secret_file.read(word[1:]))
    if word == "-":
        import getpass
        return Secret(getpass.getpass(f"{name}: "))
    if word and not session.typed:
        raise errors.BadCall(f"a {name} on the command line can be read by every user (ps)",
                             do=f"{name}=@/FILE with it in the first line, {name}=- to be asked, "
                             "or the line on standard input")
    return Secret(word)


# ---- info ---------------------------------------------------------------------------------------
def info(session: Session, node: Node, _: Given) -> None:
    """As rtslib's dump has it, without lists, attributes and parameters."""
    facts = _INFO[node.kind](node)
    session.info(*(one_line(f"{name}: {value}") for name, value in sorted(facts.items())))
    if node.kind == "acl":
        session.info("wwns:", *nodes.members(node))


def _of_backstore(node: Node) -> Dict[str, object]:
    said = summaries.store_facts(node)
    cached = node.read("attrib/emulate_write_cache") == "1"
    serial = node.read("wwn/vpd_unit_serial").rpartition(": ")[2]
    facts: Dict[str, object] = {"name": node.name, "plugin": plugins.of(node.plugin).rtslib_name}
    if node.plugin != "pscsi":
        facts["wwn"] = serial
    more: Mapping[str, Mapping[str, object]] = {
        "fileio": {"write_back": cached, "dev": said["dev"], "size": said.get("size"),
                   "aio": said.get("aio") == "1"},
        "iblock": {"write_back": cached, "dev": said["dev"],
                   "readonly": said.get("readonly") == "1",
                   "exclusive": said.get("exclusive") != "0"},
        "rd_mcp": {"size": said.get("size"),
                   **({"nullio": True} if said.get("nullio") == "1" else {})},
        "pscsi": {"dev": said["dev"]},
        "user": {"config": said.get("config"), "size": said.get("size")}}
    return {**facts, **more[node.plugin]}


def _of_lun(node: Node) -> Dict[str, object]:
    link = node.tree.fs.link_in(node.at)
    if link is None:
        return {"index": node.name[3:]}
    plugin, name = summaries.store_at(node, link[1])
    return {"index": node.name[3:], "alias": link[0],
            "storage_object": f"/backstores/{plugin}/{name}", "alua_tg_pt_gp_name":
            node.read("alua_tg_pt_gp").split("\n")[0].partition(":")[2].strip() or None}


def _of_mapped_lun(node: Node) -> Dict[str, object]:
    link = node.tree.fs.link_in(node.at)
    return {"index": node.name[len("mapped_lun"):], "alias": link and link[0],
            "tpg_lun": link and link[1].rpartition("_")[2],
            "write_protect": node.read("write_protect") == "1"}


def _chap(node: Node) -> Dict[str, object]:
    from . import groups
    pairs = ((row.name, groups.value(node, "auth", row, _NOBODY))
             for row in groups.parameters(node, "auth")) if "auth" in node.features else ()
    return {f"chap_{name}": value for name, value in pairs if value}


def _of_acl(node: Node) -> Dict[str, object]:
    tag = node.read("tag")
    return {**_chap(node), **({"tag": tag} if tag else {})}


def _of_portal(node: Node) -> Dict[str, object]:
    host, _, port = node.name.rpartition(":")
    return {"ip_address": host, "port": port, "iser": node.read("iser") == "1",
            "offload": node.read("cxgbit") == "1"}


def _of_alua_group(node: Node) -> Dict[str, object]:
    from . import groups
    return {"name": node.name, **{
        row.name: groups.value(node, "alua", row, _NOBODY)
        for row in groups.parameters(node, "alua") if row.name not in (
            "members", "alua_support_lba_dependent")}}


_NOBODY = preferences.Preferences("")
_INFO: Mapping[str, Callable[[Node], Dict[str, object]]] = {
    "backstore": _of_backstore, "lun": _of_lun, "mapped_lun": _of_mapped_lun, "acl": _of_acl,
    "portal": _of_portal,
    "alua_group": _of_alua_group,
    "target": lambda node: {"wwn": node.name, "fabric": node.fabric},
    "tpg": lambda node: {**_chap(node), "enable": node.read("enable", "1") != "0",
                         "tag": node.at.rpartition("_")[2]}}


def plugin_version(session: Session, node: Node, _: Given) -> None:
    text = Node(node.tree, node, "", "", node.at.rpartition("/")[0]).read("hba_info")
    words = text.split()
    session.say(f"Backstore plugin {plugins.of(node.plugin).rtslib_name} "
                + (words[-1] if words else "n/a"))


def fabric_info(session: Session, node: Node, _: Given) -> None:
    session.info(f"Fabric module name: {node.name}",
                 f"ConfigFS path: {node.tree.fs.path(node.at)}",
                 f"Allowed WWN types: {', '.join(FABRICS[node.name].types)}",
                 f"Fabric module features: {', '.join(LAYOUTS[node.name].features)}",
                 f"Corresponding kernel module: {fabrics.of(node.name).module}")

"""A host as a tree of lines, like targetcli's."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterator, List, Sequence, Tuple

from ..document.values import admits_nobody
from ..errors import one_line
from ..host.looked_at import View
from ..model import fabrics, objects
from ..model.objects import DEFAULT_GROUP, Registration, say
from .phrases import count, gate_of, holds, mode_of, reservation, size
from .terminal import Terminal, wrap

_WIDEST_TREE = 120
_HARD = "\0"  # a blank where no line ends
_MANY = 4  # LUNs that are mapped alike are shown as one line from here on

ALUA_STATES = {"0": "active/optimized", "1": "active/non-optimized", "2": "standby",
               "3": "unavailable", "4": "LBA dependent", "14": "offline", "15": "transitioning"}


@dataclass
class Node:
    """One line of the tree: a name, what is to be said of it, and how that is meant."""

    name: str
    about: Sequence[str] = ()
    style: str = ""
    below: List["Node"] = field(default_factory=list)


def tree(view: View, terminal: Terminal) -> Iterator[str]:
    """The host as a tree."""
    return _draw(_host(view), terminal, "", True)


def _draw(node: Node, terminal: Terminal, bars: str, last: bool) -> Iterator[str]:
    width = min(terminal.width or 80, _WIDEST_TREE)
    below = bars + ("  " if last else "| ")
    head = f"{bars}o- {one_line(node.name)}"
    items = [one_line(one) for one in node.about if one]
    about = ", ".join(items)
    dots = width - len(head) - len(about) - 4
    if about and (dots > 0 or not terminal.width):
        yield (f"{head} {terminal.paint('.' * max(dots, 2), 'dim')} "
               f"[{terminal.paint(about, node.style)}]")
    else:
        indent = below + ("| " if node.below else "  ") + " "
        name = wrap(one_line(node.name), terminal.width - len(indent))
        for number, line in enumerate(name):
            yield (indent if number else f"{bars}o- ") + line
        # Between the things that are said, not within one of them.
        whole = ", ".join(one.replace(" ", _HARD) for one in items)
        lines = [line.replace(_HARD, " ") for line in
                 (wrap(whole, terminal.width - len(indent) - 2) if whole else [])]
        for number, line in enumerate(lines):
            yield (indent + (" " if number else "[") + terminal.paint(line, node.style)
                   + ("]" if number == len(lines) - 1 else ""))
    for child in node.below:
        yield from _draw(child, terminal, below, child is node.below[-1])


def _host(view: View) -> Node:
    state = view.state
    top = Node(view.host or "/", [f"kernel {view.kernel}"])
    top.below.append(Node("backstores", [str(len(state.backstores))], "", [
        _backstore(view, backstore) for backstore in state.backstores]))
    if state.lu_groups:
        top.below.append(Node("LU groups", [str(len(state.lu_groups))], "", [
            Node(group.name, ["id " + group.attributes.get("lu_gp_id", "unset")])
            for group in state.lu_groups]))
    top.below += [_target(view, target) for target in state.targets]
    if not state.targets:
        top.below.append(Node("no targets"))
    return top


def _backstore(view: View, one: objects.Backstore) -> Node:
    luns = [lun for _, _, lun in view.state.all_luns() if lun.backstore == one.key]
    about, style = [one.path or one.parameters.get("dev_config", "")], ""
    if one.path:
        if one.key in view.sizes:
            about.append(size(view.sizes[one.key]))
        else:
            about[0] += " IS NOT THERE"
            style = "bad"
        cached = one.attributes.get("attrib/emulate_write_cache") == "1" \
            or one.parameters.get("fd_buffered_io") == "1"
        about.append("write-back" if cached else "write-thru")
    if one.parameters.get("readonly", "0") != "0":
        about.append("read-only")
    if one.key in view.elsewhere and one.key in view.sizes:
        about.append("PATH LEADS ELSEWHERE")
        style = "bad"
    if one.key in view.off:
        about.append("NOT ENABLED")
        style = "bad"
    about.append(count(len(luns), "LUN") if luns else "not exported")
    below = []
    if one.serial:
        below.append(Node("serial " + one.serial))
    below += [_alua_group(group) for group in one.alua_groups if _is_worth_showing(group)]
    if view.unclear:
        below.append(Node("reservations", ["can't be told"], "bad"))
    elif one.reservations:
        below.append(_reservations(one.reservations))
    return Node(say(one.key), about, style, below)


def _is_worth_showing(group: objects.AluaGroup) -> bool:
    return group.name != DEFAULT_GROUP or group.attributes.get("alua_access_state", "0") != "0"


def _alua_group(group: objects.AluaGroup) -> Node:
    state = group.attributes.get("alua_access_state", "0")
    return Node(f"ALUA group {group.name}", [
        ALUA_STATES.get(state, f"state {state}"),
        "id " + group.attributes.get("tg_pt_gp_id", "unset"),
        "preferred" if group.attributes.get("preferred") == "1" else ""],
        "" if state in ("0", "1") else "warn")


def _reservations(held: objects.Reservations) -> Node:
    return Node("reservations", reservation(held), "warn" if held.type else "", [
        Node(one.initiator, [f"key 0x{one.key:016x}", *_through(one), holds(held, number)],
             "warn" if holds(held, number) else "")
        for number, one in enumerate(held.registrations)])


def _through(one: Registration) -> List[str]:
    return [f"isid {one.isid}" if one.isid else "", f"tpg{one.tpgt} lun{one.mapped_lun}"
            + (" and all ports" if one.all_tg_pt else "")]


def _target(view: View, one: objects.Target) -> Node:
    frozen = one.name in view.frozen
    gates = [gate_of(tpg)[0] for tpg in one.tpgs]
    about = ["FROZEN by lio-handover"] if frozen else []
    if not frozen and len(one.tpgs) != 1:
        about = [count(len(one.tpgs), "TPG"), f"{gates.count('enabled')} enabled"]
    return Node(one.name, about, "warn" if frozen else "", [_tpg(view, tpg) for tpg in one.tpgs])


def _tpg(view: View, one: objects.Tpg) -> Node:
    gate, style = gate_of(one)
    has = one.attributes.get
    about = [gate, f"relative port {has('rtpi')}" if has("rtpi") else ""]
    fabric = fabrics.of(one.fabric)
    if fabric.logins:
        about += ["dynamic ACLs" if has("attrib/generate_node_acls") == "1" else "",
                  "CHAP" if has("attrib/authentication") == "1" else "no authentication"]
    below = []
    if one.portals or fabric.portals:
        below.append(Node("portals", [str(len(one.portals))], "", [
            Node(portal.address, ["iSER"] if portal.attributes.get("iser") == "1" else [])
            for portal in one.portals]))
    below.append(Node("luns", [str(len(one.luns))], "", [_lun(view, lun) for lun in one.luns]))
    acls = [_acl(view, one, acl) for acl in one.acls]
    explicit = {acl.initiator for acl in one.acls}
    acls += [Node(name, ["logged in", "by a dynamic ACL"], "good")
             for name in one.sessions if name not in explicit]
    if acls or fabric.logins:
        below.append(Node("acls", [str(len(one.acls))], "", acls))
    return Node(*_called("tpg", one.tag, one.directory, about), style, below)


def _called(word: str, number: int, directory: str, about: Sequence[str]) \
        -> Tuple[str, Sequence[str]]:
    """A number as targetcli shows it, and what its directory is called where it is not like it."""
    if number < 0:
        return directory, about
    return f"{word}{number}", [f"called {directory}" if directory else "", *about]


def _lun(view: View, one: objects.Lun) -> Node:
    if one.backstore is None:
        return Node(*_called("lun", one.number, one.directory, ["nothing linked"]), "warn")
    store = view.state.backstore(one.backstore)
    group = one.attributes.get("alua_tg_pt_gp", "")
    offline = one.attributes.get("alua_tg_pt_offline", "0") not in ("", "0")
    return Node(*_called("lun", one.number, one.directory, [
        say(one.backstore), store.path if store else "",
        size(view.sizes[one.backstore]) if one.backstore in view.sizes else "",
        f"ALUA group {group}" if group else "", "OFFLINE" if offline else ""]),
        "bad" if offline else "")


def _acl(view: View, tpg: objects.Tpg, one: objects.Acl) -> Node:
    here = one.initiator in tpg.sessions
    has = one.attributes.get
    chap = ("mutual CHAP" if has("auth/userid_mutual") else "CHAP") if has("auth/userid") else ""
    logins = fabrics.of(tpg.fabric).logins
    none = logins and admits_nobody(one.initiator)
    return Node(one.initiator, ["ADMITS NOBODY: make it anew in small letters" if none else
                                "logged in" if here else "not logged in" if logins
                                else "", chap],
                "bad" if none else "good" if here else "", list(_mapped(tpg, one)))


def _mapped(tpg: objects.Tpg, one: objects.Acl) -> Iterator[Node]:
    """The mapped LUNs; runs of LUNs that are mapped alike as one line."""
    stores = {lun.number: say(lun.backstore) if lun.backstore else "nothing" for lun in tpg.luns}
    luns = list(one.mapped_luns)
    while luns:
        first, run = luns[0], 1
        while run < len(luns) and first.lun is not None and not first.directory \
                and not luns[run].directory \
                and luns[run].number == first.number + run \
                and luns[run].lun == first.lun + run and mode_of(luns[run]) == mode_of(first):
            run += 1
        if run >= _MANY and first.lun is not None:
            yield Node(f"mapped_lun{first.number}…{first.number + run - 1}",
                       [f"lun{first.lun}…{first.lun + run - 1}", mode_of(first)])
        else:
            run = 1
            yield Node(*_called("mapped_lun", first.number, first.directory, [
                "nothing" if first.lun is None else f"lun{first.lun}",
                stores.get(first.lun, "") if first.lun is not None else "", mode_of(first)]),
                "bad" if first.dead else "")
        del luns[:run]

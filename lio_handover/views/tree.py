"""A host as a tree of lines, like targetcli's."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterator, List, Sequence, Tuple

from ..document.values import admits_nobody
from ..errors import one_line
from ..host.looked_at import View
from ..model import fabrics, objects
from ..model.keys import display
from ..model.objects import DEFAULT_GROUP, Registration
from .phrases import count, gate_of, holds, mode_of, reservation, size
from .terminal import Terminal, wrap

_WIDEST_TREE = 120
_HARD = "\0"  # a blank where no line ends
_MANY = 4  # LUNs that are mapped alike are shown as one line from here on

ALUA_STATES = {"0": "active/optimized", "1": "active/non-optimized", "2": "standby",
               "3": "unavailable", "4": "LBA dependent", "14": "offline", "15": "transitioning"}


@dataclass
class Node:
    """One line of the tree: a name, facts about it, the style of the facts, and its children."""

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
    items = [one_line(item) for item in node.about if item]
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
        # A line ends between two facts, not within a fact.
        whole = ", ".join(item.replace(" ", _HARD) for item in items)
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


def _backstore(view: View, backstore: objects.Backstore) -> Node:
    luns = [lun for _, _, lun in view.state.all_luns() if lun.backstore == backstore.key]
    about, style = [backstore.path or backstore.parameters.get("dev_config", "")], ""
    if backstore.path:
        if backstore.key in view.sizes:
            about.append(size(view.sizes[backstore.key]))
        else:
            about[0] += " IS NOT THERE"
            style = "bad"
        cached = backstore.attributes.get("attrib/emulate_write_cache") == "1" \
            or backstore.parameters.get("fd_buffered_io") == "1"
        about.append("write-back" if cached else "write-thru")
    if backstore.parameters.get("readonly", "0") != "0":
        about.append("read-only")
    if backstore.key in view.elsewhere and backstore.key in view.sizes:
        about.append("PATH LEADS ELSEWHERE")
        style = "bad"
    if backstore.key in view.off:
        about.append("NOT ENABLED")
        style = "bad"
    about.append(count(len(luns), "LUN") if luns else "not exported")
    below = []
    if backstore.serial:
        below.append(Node("serial " + backstore.serial))
    below += [_alua_group(group) for group in backstore.alua_groups if _is_worth_showing(group)]
    if view.unclear:
        below.append(Node("reservations", ["can't be told"], "bad"))
    elif backstore.reservations:
        below.append(_reservations(backstore.reservations))
    return Node(display(backstore.key), about, style, below)


def _is_worth_showing(group: objects.AluaGroup) -> bool:
    return group.name != DEFAULT_GROUP or group.attributes.get("alua_access_state", "0") != "0"


def _alua_group(group: objects.AluaGroup) -> Node:
    state = group.attributes.get("alua_access_state", "0")
    return Node(f"ALUA group {group.name}", [
        ALUA_STATES.get(state, f"state {state}"),
        "id " + group.attributes.get("tg_pt_gp_id", "unset"),
        "preferred" if group.attributes.get("preferred") == "1" else ""],
        "" if state in ("0", "1") else "warn")


def _reservations(reservations: objects.Reservations) -> Node:
    return Node("reservations", reservation(reservations), "warn" if reservations.type else "", [
        Node(registration.initiator, [f"key 0x{registration.key:016x}", *_through(registration),
                                      holds(reservations, number)],
             "warn" if holds(reservations, number) else "")
        for number, registration in enumerate(reservations.registrations)])


def _through(registration: Registration) -> List[str]:
    return [f"isid {registration.isid}"
            if registration.isid else "", f"tpg{registration.tpgt} lun{registration.mapped_lun}"
            + (" and all ports" if registration.all_tg_pt else "")]


def _target(view: View, target: objects.Target) -> Node:
    frozen = target.name in view.frozen
    gates = [gate_of(tpg)[0] for tpg in target.tpgs]
    about = ["FROZEN by lio-handover"] if frozen else []
    if not frozen and len(target.tpgs) != 1:
        about = [count(len(target.tpgs), "TPG"), f"{gates.count('enabled')} enabled"]
    return Node(target.name, about, "warn"
                if frozen else "", [_tpg(view, tpg) for tpg in target.tpgs])


def _tpg(view: View, tpg: objects.Tpg) -> Node:
    gate, style = gate_of(tpg)
    has = tpg.attributes.get
    about = [gate, f"relative port {has('rtpi')}" if has("rtpi") else ""]
    fabric = fabrics.of(tpg.fabric)
    if fabric.logins:
        about += ["dynamic ACLs" if has("attrib/generate_node_acls") == "1" else "",
                  "CHAP" if has("attrib/authentication") == "1" else "no authentication"]
    below = []
    if tpg.portals or fabric.portals:
        below.append(Node("portals", [str(len(tpg.portals))], "", [
            Node(portal.address, ["iSER"] if portal.attributes.get("iser") == "1" else [])
            for portal in tpg.portals]))
    below.append(Node("luns", [str(len(tpg.luns))], "", [_lun(view, lun) for lun in tpg.luns]))
    acls = [_acl(view, tpg, acl) for acl in tpg.acls]
    explicit = {acl.initiator for acl in tpg.acls}
    acls += [Node(name, ["logged in", "by a dynamic ACL"], "good")
             for name in tpg.sessions if name not in explicit]
    if acls or fabric.logins:
        below.append(Node("acls", [str(len(tpg.acls))], "", acls))
    return Node(*_called("tpg", tpg.tag, tpg.directory, about), style, below)


def _called(word: str, number: int, directory: str, about: Sequence[str]) \
        -> Tuple[str, Sequence[str]]:
    """A number as targetcli shows it, and its directory's name where that is spelled otherwise."""
    if number < 0:
        return directory, about
    return f"{word}{number}", [f"called {directory}" if directory else "", *about]


def _lun(view: View, lun: objects.Lun) -> Node:
    if lun.backstore is None:
        return Node(*_called("lun", lun.number, lun.directory, ["nothing linked"]), "warn")
    store = view.state.backstore(lun.backstore)
    group = lun.attributes.get("alua_tg_pt_gp", "")
    offline = lun.attributes.get("alua_tg_pt_offline", "0") not in ("", "0")
    return Node(*_called("lun", lun.number, lun.directory, [
        display(lun.backstore), store.path if store else "",
        size(view.sizes[lun.backstore]) if lun.backstore in view.sizes else "",
        f"ALUA group {group}" if group else "", "OFFLINE" if offline else ""]),
        "bad" if offline else "")


def _acl(view: View, tpg: objects.Tpg, acl: objects.Acl) -> Node:
    here = acl.initiator in tpg.sessions
    has = acl.attributes.get
    chap = ("mutual CHAP" if has("auth/userid_mutual") else "CHAP") if has("auth/userid") else ""
    logins = fabrics.of(tpg.fabric).logins
    none = logins and admits_nobody(acl.initiator)
    return Node(acl.initiator, ["ADMITS NOBODY: make it anew in small letters" if none else
                                "logged in" if here else "not logged in" if logins
                                else "", chap],
                "bad" if none else "good" if here else "", list(_mapped(tpg, acl)))


def _mapped(tpg: objects.Tpg, acl: objects.Acl) -> Iterator[Node]:
    """The mapped LUNs; runs of LUNs that are mapped alike as one line."""
    stores = {lun.number: display(lun.backstore)
              if lun.backstore else "nothing" for lun in tpg.luns}
    luns = list(acl.mapped_luns)
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

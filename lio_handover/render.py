"""What people see: a tree of a host, two columns of a difference, the steps of a plan.

Everything here takes plain data and returns lines; nothing looks at the host.  No line holds a
secret, nor a character that a terminal would obey, but for the colours that are put in last.
"""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import IO, Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from . import diff as differ
from . import model
from .core import Ready, View
from .errors import Finding, one_line
from .executor import Outcome, writes
from .model import DEFAULT_GROUP, RESERVATION_TYPES, Key, Registration, Secret, State, say
from .plan import FILE, Plan, Step

#: Moods → SGR codes.  Every mood is said in words, too.
_COLOURS = {"good": "32", "warn": "33", "bad": "31;1", "title": "1", "dim": "2"}
_WIDEST_TREE = 120
_HARD = "\0"  # a blank where no line ends
_MANY = 4  # LUNs that are mapped alike are shown as one line from here on

ALUA_STATES = {"0": "active/optimized", "1": "active/non-optimized", "2": "standby",
               "3": "unavailable", "4": "LBA dependent", "14": "offline", "15": "transitioning"}


# --- the screen ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Screen:
    """How wide it is (0: no terminal, so nothing is wrapped), and whether it has colours."""

    width: int = 0
    colour: bool = False

    @staticmethod
    def of(stream: IO[str]) -> "Screen":
        try:
            if not stream.isatty():
                return Screen()
            width = int(os.environ.get("COLUMNS") or 0) \
                or os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            width = 0
        return Screen(max(40, width or 80), not os.environ.get("NO_COLOR")
                      and os.environ.get("TERM", "dumb") != "dumb")

    def paint(self, text: str, mood: str) -> str:
        if not self.colour or mood not in _COLOURS or not text:
            return text
        return f"\x1b[{_COLOURS[mood]}m{text}\x1b[0m"


def wrap(text: str, width: int) -> List[str]:
    """The text in lines of at most ``width``: broken at blanks, words that are too long behind
    their marks, or anywhere."""
    lines = []
    while 0 < width < len(text):
        at = text.rfind(" ", 1, width + 1)
        if at <= 0:
            at = 1 + max(text.rfind(mark, width // 3, width) for mark in "/:,")
        if at <= 0:
            at = width
        lines.append(text[:at])
        text = text[at:].lstrip(" ")
    return [*lines, text] if text or not lines else lines


def size(number: int) -> str:
    """Bytes as people say them: 64 MiB, 1.5 GiB."""
    value, unit = float(number), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def names(state: State, most: int = 3) -> str:
    found = [one.name for one in state.targets] or [say(one.key) for one in state.backstores]
    if len(found) > most:
        return ", ".join(found[:most]) + f" and {len(found) - most} more"
    return ", ".join(found) or "nothing"


# --- show: a tree, like targetcli's --------------------------------------------------------------
@dataclass
class Node:
    """One line of the tree: a name, what is to be said of it, and how that is meant."""

    name: str
    about: Sequence[str] = ()
    mood: str = ""
    below: List["Node"] = field(default_factory=list)


def tree(view: View, screen: Screen) -> Iterator[str]:
    """The host as a tree."""
    return _draw(_host(view), screen, "", True)


def _draw(node: Node, screen: Screen, bars: str, last: bool) -> Iterator[str]:
    width = min(screen.width or 80, _WIDEST_TREE)
    below = bars + ("  " if last else "| ")
    head = f"{bars}o- {one_line(node.name)}"
    items = [one_line(one) for one in node.about if one]
    about = ", ".join(items)
    dots = width - len(head) - len(about) - 4
    if about and (dots > 0 or not screen.width):
        yield (f"{head} {screen.paint('.' * max(dots, 2), 'dim')} "
               f"[{screen.paint(about, node.mood)}]")
    else:
        indent = below + ("| " if node.below else "  ") + " "
        name = wrap(one_line(node.name), screen.width - len(indent))
        for number, line in enumerate(name):
            yield (indent if number else f"{bars}o- ") + line
        # Between the things that are said, not within one of them.
        whole = ", ".join(one.replace(" ", _HARD) for one in items)
        lines = [line.replace(_HARD, " ") for line in
                 (wrap(whole, screen.width - len(indent) - 2) if whole else [])]
        for number, line in enumerate(lines):
            yield (indent + (" " if number else "[") + screen.paint(line, node.mood)
                   + ("]" if number == len(lines) - 1 else ""))
    for child in node.below:
        yield from _draw(child, screen, below, child is node.below[-1])


def _host(view: View) -> Node:
    state = view.state
    top = Node(view.host or "/", [f"kernel {view.kernel}"])
    top.below.append(Node("backstores", [str(len(state.backstores))], "", [
        _backstore(view, one) for one in state.backstores]))
    if state.lu_groups:
        top.below.append(Node("LU groups", [str(len(state.lu_groups))], "", [
            Node(one.name, ["id " + one.attributes.get("lu_gp_id", "unset")])
            for one in state.lu_groups]))
    top.below += [_target(view, one) for one in state.targets]
    if not state.targets:
        top.below.append(Node("no targets"))
    return top


def _backstore(view: View, one: model.Backstore) -> Node:
    luns = [lun for _, _, lun in view.state.luns() if lun.backstore == one.key]
    about, mood = [one.path or one_line(one.parameters.get("info", "").split("\n")[0])[:40]], ""
    if one.path:
        if one.key in view.sizes:
            about.append(size(view.sizes[one.key]))
        else:
            about[0] += " IS NOT THERE"
            mood = "bad"
        cached = one.attributes.get("attrib/emulate_write_cache") == "1" \
            or one.parameters.get("fd_buffered_io") == "1"
        about.append("write-back" if cached else "write-thru")
    if one.parameters.get("readonly", "0") != "0":
        about.append("read-only")
    if one.key in view.off:
        about.append("NOT ENABLED")
        mood = "bad"
    about.append(count(len(luns), "LUN") if luns else "not exported")
    below = []
    if one.serial:
        below.append(Node("serial " + one.serial))
    below += [_alua_group(group) for group in one.alua_groups if _is_worth_showing(group)]
    if view.unclear:
        below.append(Node("reservations", ["can't be told"], "bad"))
    elif one.reservations:
        below.append(_reservations(one.reservations))
    return Node(say(one.key), about, mood, below)


def _is_worth_showing(group: model.AluaGroup) -> bool:
    return group.name != DEFAULT_GROUP or group.attributes.get("alua_access_state", "0") != "0"


def _alua_group(group: model.AluaGroup) -> Node:
    state = group.attributes.get("alua_access_state", "0")
    return Node(f"ALUA group {group.name}", [
        ALUA_STATES.get(state, f"state {state}"),
        "id " + group.attributes.get("tg_pt_gp_id", "unset"),
        "preferred" if group.attributes.get("preferred") == "1" else ""],
        "" if state in ("0", "1") else "warn")


def reservation(held: model.Reservations) -> List[str]:
    """The reservations of a backstore in words, without the registrants."""
    return [f"{RESERVATION_TYPES.get(held.type, 'unknown')} (type {held.type})"
            if held.type else "registered, not reserved" if held.registrations else "none",
            f"generation {held.generation}", "APTPL" if held.aptpl else "no APTPL"]


def _reservations(held: model.Reservations) -> Node:
    return Node("reservations", reservation(held), "warn" if held.type else "", [
        Node(one.initiator, [f"key 0x{one.key:016x}", *_through(one), _holds(held, number)],
             "warn" if _holds(held, number) else "")
        for number, one in enumerate(held.registrations)])


def _through(one: Registration) -> List[str]:
    return [f"isid {one.isid}" if one.isid else "", f"tpg{one.tpgt} lun{one.mapped_lun}"
            + (" and all ports" if one.all_tg_pt else "")]


def _holds(held: model.Reservations, number: int) -> str:
    return "HOLDER" if held.type and (held.type in (7, 8) or held.holder == number) else ""


def _target(view: View, one: model.Target) -> Node:
    frozen = one.name in view.frozen
    gates = [_gate(tpg)[0] for tpg in one.tpgs]
    about = ["FROZEN by lio-handover"] if frozen else []
    if not frozen and len(one.tpgs) != 1:
        about = [count(len(one.tpgs), "TPG"), f"{gates.count('enabled')} enabled"]
    return Node(one.name, about, "warn" if frozen else "", [_tpg(view, tpg) for tpg in one.tpgs])


def _gate(one: model.Tpg) -> Tuple[str, str]:
    """(whether initiators get in, its mood)."""
    if one.fabric != "iscsi":
        nexus = one.attributes.get("nexus")
        return (f"nexus {nexus}", "good") if nexus else ("no nexus", "")
    if one.attributes.get("enable", "0") != "0":
        return "enabled", "good"
    return "disabled", "warn"


def _tpg(view: View, one: model.Tpg) -> Node:
    gate, mood = _gate(one)
    has = one.attributes.get
    about = [gate, f"relative port {has('rtpi')}" if has("rtpi") else ""]
    if one.fabric == "iscsi":
        about += ["dynamic ACLs" if has("attrib/generate_node_acls") == "1" else "",
                  "CHAP" if has("attrib/authentication") == "1" else "no authentication"]
    below = []
    if one.portals or one.fabric == "iscsi":
        below.append(Node("portals", [str(len(one.portals))], "", [
            Node(portal.address, ["iSER"] if portal.attributes.get("iser") == "1" else [])
            for portal in one.portals]))
    below.append(Node("luns", [str(len(one.luns))], "", [_lun(view, lun) for lun in one.luns]))
    acls = [_acl(view, one, acl) for acl in one.acls]
    explicit = {acl.initiator for acl in one.acls}
    acls += [Node(name, ["logged in", "by a dynamic ACL"], "good")
             for name in one.sessions if name not in explicit]
    if acls or one.fabric == "iscsi":
        below.append(Node("acls", [str(len(one.acls))], "", acls))
    return Node(f"tpg{one.tag}", about, mood, below)


def _lun(view: View, one: model.Lun) -> Node:
    if one.backstore is None:
        return Node(f"lun{one.number}", ["nothing linked"], "warn")
    store = view.state.backstore(one.backstore)
    group = one.attributes.get("alua_tg_pt_gp", "")
    offline = one.attributes.get("alua_tg_pt_offline", "0") not in ("", "0")
    return Node(f"lun{one.number}", [
        say(one.backstore), store.path if store else "",
        size(view.sizes[one.backstore]) if one.backstore in view.sizes else "",
        f"ALUA group {group}" if group else "", "OFFLINE" if offline else ""],
        "bad" if offline else "")


def _acl(view: View, tpg: model.Tpg, one: model.Acl) -> Node:
    here = one.initiator in tpg.sessions
    has = one.attributes.get
    chap = ("mutual CHAP" if has("auth/userid_mutual") else "CHAP") if has("auth/userid") else ""
    return Node(one.initiator, ["logged in" if here else "not logged in" if tpg.fabric == "iscsi"
                                else "", chap],
                "good" if here else "", list(_mapped(tpg, one)))


def _mapped(tpg: model.Tpg, one: model.Acl) -> Iterator[Node]:
    """The mapped LUNs; runs of LUNs that are mapped alike as one line."""
    stores = {lun.number: say(lun.backstore) if lun.backstore else "nothing" for lun in tpg.luns}
    luns = list(one.mapped_luns)
    while luns:
        first, run = luns[0], 1
        while run < len(luns) and first.lun is not None \
                and luns[run].number == first.number + run \
                and luns[run].lun == first.lun + run and _mode(luns[run]) == _mode(first):
            run += 1
        if run >= _MANY and first.lun is not None:
            yield Node(f"mapped_lun{first.number}…{first.number + run - 1}",
                       [f"lun{first.lun}…{first.lun + run - 1}", _mode(first)])
        else:
            run = 1
            yield Node(f"mapped_lun{first.number}", [
                "nothing" if first.lun is None else f"lun{first.lun}",
                stores.get(first.lun, "") if first.lun is not None else "", _mode(first)])
        del luns[:run]


def _mode(one: model.MappedLun) -> str:
    return "read-only" if one.attributes.get("write_protect", "0") != "0" else "rw"


# --- diff: two columns ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """One line of a comparison.  ``mark``: ! differs, + only in the document, - only here."""

    mark: str
    depth: int
    label: str
    here: str = ""
    there: str = ""


def rows(have: State, want: State, changes: Sequence[differ.Change]) -> List[Row]:
    """What differs, below the objects that it belongs to."""
    by_key: Dict[Key, List[differ.Change]] = {}
    for change in changes:
        by_key.setdefault(change.key, []).append(change)
    found: List[Row] = []
    for old, new in _pairs(have.roots(), want.roots()):
        found += _compare(old, new, by_key, 0)
    return found


_Pair = Tuple[Optional[model.Object], Optional[model.Object]]


def _pairs(have: Sequence[model.Object], want: Sequence[model.Object]) -> Iterator[_Pair]:
    """The objects of both sides by key, in the document's order."""
    old = {one.key: one for one in have}
    for one in want:
        yield old.pop(one.key, None), one
    for one in old.values():
        yield one, None


def _compare(old: Optional[model.Object], new: Optional[model.Object],
             changes: Dict[Key, List[differ.Change]], depth: int) -> List[Row]:
    one = new or old
    assert one is not None
    own: List[Row] = []
    mark = ""
    for change in changes.get(one.key, ()):
        if isinstance(change, differ.Create):
            mark = "+"
        elif isinstance(change, differ.Remove):
            mark = "-"
        elif isinstance(change, differ.Register):
            own += _registered(change, depth + 1)
        else:
            own.append(Row("!", depth + 1, change.name, _value(change.old),
                           _value(change.new, change.old)))
    below = [row for pair in _pairs(old.children() if old else (), new.children() if new else ())
             for row in _compare(*pair, changes, depth + 1)]
    if not (mark or own or below) or mark and one.key[-1] == DEFAULT_GROUP:
        return []  # the default group comes with its backstore
    head = Row(mark, depth, _label(one, depth), _about(old) if mark else "",
               _about(new) if mark else "")
    return [head, *own, *below]


def _label(one: model.Object, depth: int) -> str:
    if depth == 0:
        return say(one.key)
    return {"tpg": "tpg", "lun": "lun", "mapped_lun": "mapped_lun", "acl": "acl ",
            "portal": "portal ", "alua_group": "ALUA group "}.get(one.kind, "") + one.key[-1]


def _about(one: Optional[model.Object]) -> str:
    """What an object is that the other side does not have."""
    if one is None:
        return "(not there)"
    if isinstance(one, model.Lun):
        return say(one.backstore) if one.backstore else "nothing linked"
    if isinstance(one, model.MappedLun):
        return f"lun{one.lun}, {_mode(one)}"
    words = []
    if isinstance(one, model.Backstore):
        held = one.reservations
        words = [one.path, reservation(held)[0] if held else "",
                 count(len(held.registrations), "registration") if held else ""]
    elif isinstance(one, model.Acl):
        words = [count(len(one.mapped_luns), "mapped LUN")]
    elif isinstance(one, model.Tpg):
        words = [_gate(one)[0], count(len(one.luns), "LUN"), count(len(one.acls), "ACL")]
    elif isinstance(one, model.Target):
        words = [count(len(one.tpgs), "TPG")]
    return ", ".join(word for word in words if word) or "there"


def _value(value: Optional[str], other: Optional[str] = None) -> str:
    if value is None:
        return "(unset)"
    if isinstance(value, Secret):
        return "(another secret)" if isinstance(other, Secret) else "(secret)"
    return value or '""'


def _registered(change: differ.Register, depth: int) -> Iterator[Row]:
    old, new = change.old, change.new
    yield Row("", depth, "reservations")
    depth += 1
    for label, here, there in (
            ("type", reservation(old)[0], reservation(new)[0]),
            ("generation", str(old.generation), str(new.generation)),
            ("APTPL", "yes" if old.aptpl else "no", "yes" if new.aptpl else "no")):
        if here != there:
            yield Row("!", depth, label, here, there)
    mine = {one.nexus: number for number, one in enumerate(old.registrations)}
    theirs = {one.nexus: number for number, one in enumerate(new.registrations)}
    for nexus in [*theirs, *(one for one in mine if one not in theirs)]:
        fields = [_registration(side, at.get(nexus)) for side, at in ((old, mine), (new, theirs))]
        if fields[0] != fields[1]:
            here, there = (" ".join(word for at, word in enumerate(side) if word and (
                not at or side[at:at + 1] != other[at:at + 1])) or "(not there)"
                for side, other in (fields, fields[::-1]))
            mark = "+" if nexus not in mine else "-" if nexus not in theirs else "!"
            yield Row(mark, depth, nexus[0] + (f" isid {nexus[1]}" if nexus[1] else ""),
                      here, there)
    if mine.keys() == theirs.keys() and list(mine) != list(theirs):
        yield Row("!", depth, "order of the registrants", *(
            ", ".join(one.initiator for one in side.registrations) for side in (old, new)))


def _registration(held: model.Reservations, number: Optional[int]) -> List[str]:
    """Key, port, LUN, scope, whether it holds; nothing where there is no registration."""
    if number is None:
        return []
    one = held.registrations[number]
    return [f"0x{one.key:016x}", f"{one.target} tpg{one.tpgt}",
            f"lun{one.lun} mapped_lun{one.mapped_lun}", "all ports" if one.all_tg_pt else "",
            _holds(held, number)]


def columns(found: Sequence[Row], here: str, there: str, screen: Screen) -> Iterator[str]:
    """Rows as two columns, what differs marked in front."""
    lines = [Row(row.mark, row.depth, one_line(row.label), one_line(row.here),
                 one_line(row.there)) for row in found]
    lines.insert(0, Row("", 0, "", one_line(here), one_line(there)))
    label = max(2 * line.depth + len(line.label) for line in lines if line.here or line.there)
    left = max(len(line.here) for line in lines)
    right = max(len(line.there) for line in lines)
    if screen.width and 2 + label + 2 + left + 3 + right > screen.width:
        room = screen.width - 2 - 2 - 3
        label = min(label, max(room // 2, room - left - right))
        left = min(left, max((room - label) // 2, room - label - right))
        right = room - label - left
    mood = {"!": "warn", "+": "good", "-": "bad"}
    for number, line in enumerate(lines):
        paint = "title" if number == 0 else mood.get(line.mark, "")
        if not (line.here or line.there):
            indent = " " * (2 * line.depth)
            for part in wrap(line.label, screen.width - 2 - len(indent) if screen.width else 0):
                yield f"{line.mark or ' '} {indent}{part}"
            continue
        indent = " " * (2 * line.depth)
        parts = [indent + part if not at else f"{indent}  {part}" for at, part in enumerate(
            wrap(line.label, max(label - len(indent) - 2, 8)
                 if screen.width and len(indent + line.label) > label else 0))]
        cells = [parts, wrap(line.here, left if screen.width else 0),
                 wrap(line.there, right if screen.width else 0)]
        for at in range(max(map(len, cells))):
            one, two, three = (cell[at] if at < len(cell) else "" for cell in cells)
            yield (f"{screen.paint(line.mark, paint) if line.mark and not at else ' '} "
                   f"{one:<{label}}  {screen.paint(f'{two:<{left}}', paint)} | "
                   f"{screen.paint(three, paint)}").rstrip()
        if number == 0:
            yield "-" * (label + 4) + "-" * left + "-+-" + "-" * right


def alike(want: State, found: Sequence[Row]) -> str:
    """How much differs, in a few words."""
    marks = [row.mark for row in found]
    words = [f"{marks.count(mark)} {what}" for mark, what in (
        ("!", "differ (!)"), ("+", "only in the document (+)"), ("-", "only here (-)"))
        if mark in marks]
    return ", ".join(words) or f"the same: {contents(want)}"


def contents(state: State) -> str:
    """What a state is made of: 1 target, 3 backstores, …"""
    tpgs = [tpg for target in state.targets for tpg in target.tpgs]
    held = sum(len(store.reservations.registrations) for store in state.backstores)
    return ", ".join([
        count(len(state.targets), "target"), count(len(state.backstores), "backstore"),
        count(sum(len(tpg.luns) for tpg in tpgs), "LUN"),
        count(sum(len(tpg.acls) for tpg in tpgs), "ACL"), count(held, "registration")])


# --- plan ----------------------------------------------------------------------------------------
def plan(ready: Ready, screen: Screen, allowed: Sequence[str] = ()) -> Iterator[str]:
    """A plan as numbered steps, in the groups of the one order; last what one must know of it."""
    the_plan = ready.plan
    number = 0
    for phase, meaning in (("stage", "while the source still serves"),
                           ("activate", "when the source has let go")):
        steps = [step for step in the_plan.steps if step.phase == phase]
        if not steps:
            continue
        yield from _hanging("", f"{phase}: {meaning} ({count(len(steps), 'step')})", screen,
                            "title")
        slot = above = ""
        for step in steps:
            number += 1
            if step.slot != slot:
                slot, above = step.slot, ""
                yield from _hanging("  ", f"{slot}: {step.why}" if step.why else slot, screen,
                                    "dim")
            words = str(step).rstrip()
            folder = step.path[:-len(step.row.path)] if step.row else ""
            if folder and folder == above:
                words = words.replace(folder, "…/", 1)
            above = folder
            yield from _hanging(f"{number:6} ", words, screen)
    if ready.mapped:
        yield screen.paint("maps", "title")
        for what, old, new in ready.mapped:
            yield from _hanging("  ", f"{what}: {old} -> {new}", screen)
    if the_plan.notes:
        yield screen.paint("notes", "title")
        for note in the_plan.notes:
            yield from _hanging("  ", note, screen)
    yield from findings(ready.findings, screen, allowed)


def _hanging(before: str, text: str, screen: Screen, mood: str = "") -> Iterator[str]:
    room = screen.width - len(before) - 2 if screen.width else 0
    for number, line in enumerate(wrap(one_line(text), room)):
        yield (before if not number else " " * (len(before) + 2)) + screen.paint(line, mood)


def findings(found: Iterable[Finding], screen: Screen, allowed: Sequence[str] = ()) \
        -> Iterator[str]:
    """What speaks against it, each with its name and what can be done."""
    ones = list(found)
    if ones:
        yield screen.paint("findings", "title")
    for one in ones:
        passed = bool(one.override) and one.override in allowed
        yield from _hanging("  ", f"{'allowed' if passed else one.error.__name__}: {one.subject}: "
                                  f"{one.sentence}", screen, "dim" if passed else "bad")
        todo = [one.do] if one.do else []
        if one.override and not passed:
            todo.append(f"--allow {one.override} to go on all the same")
        if todo:
            yield from _hanging("    next: ", ", or ".join(todo), screen)


# --- JSON ----------------------------------------------------------------------------------------
def finding_tree(one: Finding, allowed: Sequence[str] = ()) -> Dict[str, Any]:
    return {"error": one.error.__name__, "code": one.error.code, "subject": one.subject,
            "sentence": one.sentence, "override": one.override, "do": one.do,
            "allowed": bool(one.override) and one.override in allowed}


def view_tree(view: View) -> Dict[str, Any]:
    from .document import Document, state_bytes
    import json
    return {
        "host": view.host, "kernel": view.kernel, "frozen": list(view.frozen),
        "sizes": {say(key): number for key, number in view.sizes.items()},
        "notes": list(view.notes),
        "not_enabled": sorted(say(key) for key in view.off), "unclear": view.unclear,
        "sessions": {say(tpg.key): list(tpg.sessions) for target in view.state.targets
                     for tpg in target.tpgs},
        "state": json.loads(state_bytes(Document(without_secrets(view.state))))}


def without_secrets(state: State) -> State:
    """The state with the words "(secret)" for every secret."""
    from dataclasses import replace

    def plain(one: Any) -> Any:
        return replace(one, attributes={name: str(value)
                                        for name, value in one.attributes.items()})

    return replace(state, targets=tuple(
        replace(target, tpgs=tuple(
            replace(plain(tpg), acls=tuple(plain(acl) for acl in tpg.acls))
            for tpg in target.tpgs)) for target in state.targets))


def change_tree(change: differ.Change) -> Dict[str, Any]:
    made: Dict[str, Any] = {"change": type(change).__name__.lower(), "object": say(change.key)}
    if isinstance(change, (differ.Set, differ.Relink)):
        made.update(name=change.name, here=_plain(change.old), document=_plain(change.new))
    elif isinstance(change, differ.Register):
        made.update(name="reservations", here=_held_tree(change.old),
                    document=_held_tree(change.new))
    return made


def _plain(value: Optional[str]) -> Optional[str]:
    return None if value is None else str(value)


def _held_tree(held: model.Reservations) -> Dict[str, Any]:
    return {"generation": held.generation, "aptpl": held.aptpl, "type": held.type,
            "holder": held.holder, "registrations": [
                {"initiator": one.initiator, "isid": one.isid, "key": f"0x{one.key:016x}",
                 "target": one.target, "tpgt": one.tpgt, "lun": one.lun,
                 "mapped_lun": one.mapped_lun, "all_tg_pt": one.all_tg_pt}
                for one in held.registrations]}


def plan_tree(ready: Ready, allowed: Sequence[str] = ()) -> Dict[str, Any]:
    return {
        "targets": [one.name for one in ready.document.state.targets],
        "maps": [{"kind": what, "old": old, "new": new} for what, old, new in ready.mapped],
        "notes": list(ready.plan.notes),
        "findings": [finding_tree(one, allowed) for one in ready.findings],
        "counts": ready.plan.counts(), "writes": writes(ready.plan.steps),
        "steps": [_step_tree(number, step) for number, step in enumerate(ready.plan.steps, 1)]}


def _step_tree(number: int, step: Step) -> Dict[str, Any]:
    value: Optional[str] = None
    if not step.secret and step.op != FILE and step.value:
        value = step.value.decode(errors="replace").rstrip("\n")
    return {"number": number, "phase": step.phase, "slot": step.slot, "op": step.op,
            "path": step.path, "value": value, "secret": step.secret,
            "about": say(step.about) if step.about else "", "why": step.why}


def outcome_tree(outcome: Outcome) -> Dict[str, Any]:
    return {"steps": outcome.steps, "writes": outcome.writes,
            "seconds": {phase: round(took, 6) for phase, took in outcome.seconds.items()},
            "notes": list(outcome.notes)}


def about_plan(the_plan: Plan) -> str:
    return (f"{count(len(the_plan.steps), 'step')}, of which at most "
            f"{count(writes(the_plan.steps), 'kernel write')}")

"""The differences between a host and a document, in two columns."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from ..errors import one_line
from ..model import diff as differ, objects
from ..model.keys import display
from ..model.objects import DEFAULT_GROUP, Key, Secret, State
from .phrases import contents, count, gate_of, holds, mode_of, reservation
from .terminal import Terminal, wrap


@dataclass(frozen=True)
class Row:
    """One line of a comparison.  ``mark``: ! differs, + only in the document, - only here."""

    mark: str
    depth: int
    label: str
    here: str = ""
    there: str = ""


def rows(have: State, want: State, changes: Sequence[differ.Change]) -> List[Row]:
    """The differing values, each below the object that it belongs to."""
    by_key: Dict[Key, List[differ.Change]] = {}
    for change in changes:
        by_key.setdefault(change.key, []).append(change)
    compared: List[Row] = []
    for old, new in _pairs(have.roots(), want.roots()):
        compared += _compare(old, new, by_key, 0)
    return compared


_Pair = Tuple[Optional[objects.Object], Optional[objects.Object]]


def _pairs(have: Sequence[objects.Object], want: Sequence[objects.Object]) -> Iterator[_Pair]:
    """The objects of both sides by key, in the document's order."""
    old = {obj.key: obj for obj in have}
    for obj in want:
        yield old.pop(obj.key, None), obj
    for obj in old.values():
        yield obj, None


def _compare(old: Optional[objects.Object], new: Optional[objects.Object],
             changes: Dict[Key, List[differ.Change]], depth: int) -> List[Row]:
    obj = new or old
    assert obj is not None
    own: List[Row] = []
    mark = ""
    for change in changes.get(obj.key, ()):
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
    if not (mark or own or below) or mark and obj.key[-1] == DEFAULT_GROUP:
        return []  # the default group comes with its backstore
    head = Row(mark, depth, _label(obj, depth), _about(old) if mark else "",
               _about(new) if mark else "")
    return [head, *own, *below]


def _label(obj: objects.Object, depth: int) -> str:
    if depth == 0:
        return display(obj.key)
    return {"tpg": "tpg", "lun": "lun", "mapped_lun": "mapped_lun", "acl": "acl ",
            "portal": "portal ", "alua_group": "ALUA group "}.get(obj.kind, "") + obj.key[-1]


def _about(obj: Optional[objects.Object]) -> str:
    """A few words about an object that the other side does not have."""
    if obj is None:
        return "(not there)"
    if isinstance(obj, objects.Lun):
        return display(obj.backstore) if obj.backstore else "nothing linked"
    if isinstance(obj, objects.MappedLun):
        return f"lun{obj.lun}, {mode_of(obj)}"
    words = []
    if isinstance(obj, objects.Backstore):
        reservations = obj.reservations
        words = [obj.path, reservation(reservations)[0] if reservations else "",
                 count(len(reservations.registrations), "registration") if reservations else ""]
    elif isinstance(obj, objects.Acl):
        words = [count(len(obj.mapped_luns), "mapped LUN")]
    elif isinstance(obj, objects.Tpg):
        words = [gate_of(obj)[0], count(len(obj.luns), "LUN"), count(len(obj.acls), "ACL")]
    elif isinstance(obj, objects.Target):
        words = [count(len(obj.tpgs), "TPG")]
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
    mine = {registration.nexus: number for number, registration in enumerate(old.registrations)}
    theirs = {registration.nexus: number for number, registration in enumerate(new.registrations)}
    for nexus in [*theirs, *(registration for registration in mine if registration not in theirs)]:
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
            ", ".join(registration.initiator for registration in side.registrations)
            for side in (old, new)))


def _registration(reservations: objects.Reservations, number: Optional[int]) -> List[str]:
    """The key, nexus path, scope and HOLDER of a registration; [] where there is none."""
    if number is None:
        return []
    registration = reservations.registrations[number]
    return [f"0x{registration.key:016x}", f"{registration.target} tpg{registration.tpgt}",
            f"lun{registration.lun} mapped_lun{registration.mapped_lun}", "all ports"
            if registration.all_tg_pt else "",
            holds(reservations, number)]


def columns(compared: Sequence[Row], here: str, there: str, terminal: Terminal) -> Iterator[str]:
    """Rows as two columns; the mark of a difference stands in front."""
    lines = [Row(row.mark, row.depth, one_line(row.label), one_line(row.here),
                 one_line(row.there)) for row in compared]
    lines.insert(0, Row("", 0, "", one_line(here), one_line(there)))
    label = max(2 * line.depth + len(line.label) for line in lines if line.here or line.there)
    left = max(len(line.here) for line in lines)
    right = max(len(line.there) for line in lines)
    if terminal.width and 2 + label + 2 + left + 3 + right > terminal.width:
        room = terminal.width - 2 - 2 - 3
        label = min(label, max(room // 2, room - left - right))
        left = min(left, max((room - label) // 2, room - label - right))
        right = room - label - left
    style = {"!": "warn", "+": "good", "-": "bad"}
    for number, line in enumerate(lines):
        paint = "title" if number == 0 else style.get(line.mark, "")
        if not (line.here or line.there):
            indent = " " * (2 * line.depth)
            for part in wrap(line.label, terminal.width - 2 - len(indent) if terminal.width else 0):
                yield f"{line.mark or ' '} {indent}{part}"
            continue
        indent = " " * (2 * line.depth)
        parts = [indent + part if not at else f"{indent}  {part}" for at, part in enumerate(
            wrap(line.label, max(label - len(indent) - 2, 8)
                 if terminal.width and len(indent + line.label) > label else 0))]
        cells = [parts, wrap(line.here, left if terminal.width else 0),
                 wrap(line.there, right if terminal.width else 0)]
        for at in range(max(map(len, cells))):
            first, second, third = (cell[at] if at < len(cell) else "" for cell in cells)
            yield (f"{terminal.paint(line.mark, paint) if line.mark and not at else ' '} "
                   f"{first:<{label}}  {terminal.paint(f'{second:<{left}}', paint)} | "
                   f"{terminal.paint(third, paint)}").rstrip()
        if number == 0:
            yield "-" * (label + 4) + "-" * left + "-+-" + "-" * right


def difference_summary(want: State, compared: Sequence[Row]) -> str:
    """The number of differences of each mark; the contents where nothing differs."""
    marks = [row.mark for row in compared]
    words = [f"{marks.count(mark)} {what}" for mark, what in (
        ("!", "differ (!)"), ("+", "only in the document (+)"), ("-", "only here (-)"))
        if mark in marks]
    return ", ".join(words) or f"the same: {contents(want)}"

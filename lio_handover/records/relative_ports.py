"""Relative target ports from 6.4 on: each number once among the enabled TPGs of a host.

A TPG that is disabled goes on showing its number, which is anybody's: enabled again, it gets the
lowest that is free, or, where the number was written, EINVAL if another has it (target_core_tpg.c:
target_tpg_register_rtpi).  So before a gate of a TPG that had a number is opened, who has that
number now is looked at, and it is written: all numbers first, then the gates.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, List, Mapping, Sequence, Tuple

from .. import errors
from ..document.rename import fresh_port
from ..kernel.configfs import Configfs
from ..kernel.reader import Reader
from ..model import fabrics
from ..model.fabrics import Gate
from ..model.keys import target_key, tpg_key
from ..model.objects import Key, State
from ..protocol.table import DESTINATION, AfterReboot, Mode, state_of
from .journal import Journal, ids

#: The override by which a gate is opened under another number.
OVERRIDE = "relative-port"
#: {path of a TPG in the target tree: the relative port that it had}
Numbers = Mapping[str, str]


def noted(state: State) -> Dict[Key, str]:
    """TPG → its number, of every iSCSI TPG that has one."""
    return {tpg.key: tpg.attributes["rtpi"] for target in state.targets
            if fabrics.gate_of(target.fabric) is Gate.ENABLE for tpg in target.tpgs
            if tpg.attributes.get("rtpi", "0") != "0"}


def taken(reader: Reader, wanted: Numbers, override: str = OVERRIDE) -> List[errors.Finding]:
    """Why these TPGs cannot be enabled under their numbers: who has them now."""
    findings: List[errors.Finding] = []
    here = {number: list(paths) for number, paths in reader.relative_ports().items()}
    for path, number in wanted.items():
        others = [other for other in here.get(number, ()) if other != path]
        here.setdefault(number, []).append(path)
        if others:
            findings.append(errors.Finding(
                errors.InUse, path, f"the relative port {number} that it had is taken by "
                f"{others[0]}: initiators know it by that number, and this kernel gives each once",
                override, f"disable {others[0]} and write another number to its rtpi"))
    return findings


def renumbered(reader: Reader, wanted: Numbers) -> Tuple[Numbers, List[str]]:
    """(numbers that are free, for those that are taken; what to tell of them)."""
    clashing = {finding.subject for finding in taken(reader, wanted)}
    used = {*reader.relative_ports(), *wanted.values()}
    numbers, notes = dict(wanted), []
    for path, number in wanted.items():
        if path in clashing:
            fabric, wwn, _ = path.split("/")
            free = int(fresh_port(tpg_key(target_key(fabric, wwn), path)))
            while str(free) in used:
                free = free % 65535 + 1
            numbers[path] = str(free)
            used.add(str(free))
            notes.append(f"{path}: relative port {number} becomes {free}: initiators may take it "
                         "for another port")
    return numbers, notes


def settled(reader: Reader, want: State, shut: Iterable[Key], allow: Sequence[str]) \
        -> Tuple[State, List[errors.Finding], List[str]]:
    """Before the gates of the TPGs ``shut`` are opened: (``want`` with the numbers they get, what
    speaks against it, what to tell)."""
    numbers, keys = noted(want), set(shut)
    paths = {f"{target.name}/{tpg.at}": tpg.key for target in want.targets for tpg in target.tpgs
             if tpg.key in keys and tpg.key in numbers}
    wanted: Numbers = {path: numbers[key] for path, key in paths.items()}
    findings = taken(reader, wanted)
    if not findings or OVERRIDE not in allow:
        return want, findings, []
    wanted, notes = renumbered(reader, wanted)
    new = {key: wanted[path] for path, key in paths.items()}
    want = replace(want, targets=tuple(replace(target, tpgs=tuple(
        replace(tpg, attributes={**tpg.attributes, "rtpi": new[tpg.key]})
        if tpg.key in new else tpg for tpg in target.tpgs)) for target in want.targets))
    return want, findings, notes


def give(fs: Configfs, reader: Reader, wanted: Numbers, shut: Sequence[str], override: str,
         allow: Sequence[str]) -> List[str]:
    """Write the numbers of the TPGs ``shut``, before the first of them is enabled; what to tell.
    ``wanted`` has those of all.

    Raises InUse before any is written, OSError.
    """
    mine: Numbers = {path: number for path, number in wanted.items() if path in shut}
    findings = taken(reader, mine, override)
    errors.refuse(findings, allow)
    notes: List[str] = []
    if findings:
        mine, notes = renumbered(reader, mine)
    for path, number in mine.items():
        fs.write(f"{path}/rtpi", number.encode() + b"\n")
    for path in wanted.keys() - mine.keys():
        now = str(int(fs.read(f"{path}/rtpi"), 0))
        if now != wanted[path]:
            notes.append(f"{path}: its relative port is {now}, and was {wanted[path]}: it was "
                         "enabled by other means")
    return notes


def claimed(directory: str) -> List[str]:
    """The targets of handovers under way on this host whose gates it may yet open, or which it
    builds for them: their numbers are wanted, though nobody has them."""
    targets: List[str] = []
    for name in ids(directory):
        journal = Journal(directory, name, tolerate_damage=True)
        handover = journal.handover
        if handover.state and not handover.over and (
                handover.role == DESTINATION
                or state_of(handover.role, handover.state,
                            Mode(handover.mode)).after_reboot == AfterReboot.OPEN):
            targets += journal.facts.local or handover.targets
    return targets

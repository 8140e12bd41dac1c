"""Breadth first over the model; the first thing wrong is told as a story, the shortest there is."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Set, Tuple

from tests.model.world import BOOT_D, BOOT_S, FORCE, OFF, PLAIN, ROLE, D, Model, S, World

_KINDS = {PLAIN: 0, FORCE: 1, BOOT_S: 2, BOOT_D: 3}
_HOST = {S: "source", D: "destination"}
_QEMU = {
    "stops the guest": "QEMU: migration reaches switch-over; the source's guest is stopped",
    "cancelled": "QEMU: the migration is cancelled or fails; the source resumes by itself",
    "sends the guest": "driver: migrate-continue; the source's QEMU sends the guest",
    "network cut": "network cut before the source hears of success: its QEMU resumes by itself",
    "arrives": "QEMU: the guest arrives at the destination",
    "completed": "QEMU: the source hears that the migration has completed",
    "cont destination": "somebody tells the destination's QEMU to cont",
    "cont source": "somebody tells the source's QEMU to cont",
    "source QEMU killed": "the source's QEMU dies",
    "destination QEMU killed": "the destination's QEMU dies",
    "destination QEMU started": "a new QEMU waits at the destination",
    "guest booted on source": "somebody boots the guest on the source",
    "guest booted on destination": "somebody boots the guest on the destination",
}


def tell(model: Model, label: Tuple[str, ...], world: World) -> str:
    """One line of a story: what happened, and how it looks afterwards where that matters."""
    if label[0] == "qemu" and label[2:]:
        return f"second guest: {tell(model, label[:2], world)}"
    if label[0] == "qemu":
        if model.stopped and label[1] == "stops the guest":
            return "driver: stop; the source's guest is paused"
        return _QEMU[label[1]]
    if label[0] == "initiator":
        how = {"volatile": " without APTPL", "preempts": ": preempts somebody"}[label[2]] \
            if len(label) > 2 else ""
        return (f"an initiator changes registrations{how} on the {_HOST[label[1]]} "
                f"(now version {world.latest})")
    if label[0] == "carrier":
        return f"whoever carries messages makes up the message {label[1]}"
    who = _HOST[label[0]]
    if label[1] in ("began", "went on", "refused", "ended", "took back"):
        row = model.table[int(label[2])]
        steps = row.steps
        done = int(label[3])
        if label[1] == "refused":
            return f"{who}: {row.verb}: {steps[done]}: refused, stays {row.state}"
        if label[1] == "ended":
            return f"{who}: {row.verb} is done"
        if label[1] == "took back":
            return f"{who}: {row.verb}: a step fails, and all of it is taken back"
        asks = sorted(message.name.lower() for message in row.messages)
        asks += sorted(condition.name.lower().replace("_", " ") for condition in row.conditions)
        on = f" (on: {', '.join(asks)})" if asks and label[1] == "began" else ""
        return f"{who}: {row.verb}{on}: {steps[done]}"
    return f"{who}: {label[1]}"


def describe(model: Model, w: World) -> str:
    parts = []
    for me, host in ((S, w.s), (D, w.d)):
        on = "" if host.up == 1 else ", host off"
        parts.append(f"{ROLE[me]} {host.state} (epoch {host.epoch}{on}), kernel {host.gate}"
                     f" version {host.pr}, kept {host.disk}, file {host.file}")
    if model.vhost:
        parts.append(f"QEMUs {w.qs}/{w.qd}")
    if w.beside.qs or any(w.beside.open):
        parts.append(f"second gates {', '.join('open' if it else 'shut' for it in w.beside.open)}"
                     + (f", QEMUs {w.beside.qs}/{w.beside.qd}" if w.beside.qs else ""))
    return "; ".join(parts) + f"; registrations at version {w.latest}"


@dataclass
class Result:
    model: Model
    states: int = 0
    transitions: int = 0
    seconds: float = 0.0
    problem: Optional[str] = None
    story: List[str] = field(default_factory=list)
    goals: Set[str] = field(default_factory=set)
    pairs: Dict[Tuple[str, str], Set[str]] = field(default_factory=dict)  # who serves in it
    rows: Set[int] = field(default_factory=set)
    needs_word: int = 0  # states from which only an operator's word leads out, both hosts alive
    dead_ends_checked: int = 0
    complete: bool = True

    def __str__(self) -> str:
        if self.problem is None:
            return "no violation"
        return "\n".join([f"{self.problem}:"] + [f"  {n}. {line}"
                                                 for n, line in enumerate(self.story, 1)])


def explore(model: Model, liveness: bool = True, limit: int = 0) -> Result:
    """Walk everything that is reachable; stop at the first world that breaks an invariant."""
    began = time.perf_counter()
    result = Result(model)
    first = model.initial()
    worlds: List[World] = [first]
    number: Dict[World, int] = {first: 0}
    parent = array("l", [-1])
    labels: List[Tuple[str, ...]] = [("",)]
    origin, target, kinds = array("l"), array("l"), array("b")

    def story(index: int) -> List[str]:
        way = []
        end = index
        while parent[index] >= 0:
            way.append(index)
            index = parent[index]
        lines: List[str] = []
        running: Tuple[str, ...] = ()  # the verb whose steps the last line tells
        for index in reversed(way):
            label, line = labels[index], tell(model, labels[index], worlds[index])
            if label[1] == "went on" and running == (label[0], label[2]):
                lines[-1] += line[line.rindex(":") + 1:].replace(" ", ", ", 1)
            else:
                lines.append(line)
            running = (label[0], label[2]) if len(label) == 4 else ()
        return lines + ["so: " + describe(model, worlds[end])]

    def finish(problem: Optional[str], index: int = -1) -> Result:
        result.states, result.seconds = len(worlds), time.perf_counter() - began
        result.problem = problem
        if problem is not None:
            result.story = story(index)
        return result

    here = 0
    while here < len(worlds):
        if limit and here >= limit:
            result.complete = False
            return finish(None)
        w = worlds[here]
        for label, kind, after in model.events(w):
            after = model.normal(after)
            if after == w:
                continue
            result.transitions += 1
            if label[0] in (S, D) and len(label) == 4 and label[1] != "took back":
                result.rows.add(int(label[2]))
            if label[:2] in (("qemu", "cont destination"), ("qemu", "arrives")) \
                    and model.here(after, D):
                result.goals.add("alive")
            there = number.get(after)
            if there is None:
                there = number[after] = len(worlds)
                worlds.append(after)
                parent.append(here)
                labels.append(label)
                problem = model.violation(after)
                if problem is not None:
                    return finish(problem, there)
            if liveness:
                origin.append(here)
                target.append(there)
                kinds.append(_KINDS[kind])
        here += 1

    for w in worlds:
        serve = result.pairs.setdefault((w.s.state, w.d.state), set())
        for me in (S, D):
            if model.serving(w, me):
                serve.add(ROLE[me])
    if not liveness:
        return finish(None)
    settled = [n for n, w in enumerate(worlds) if model.settled(w)]
    result.goals |= {
        "moved" if worlds[n].s.state == "retired" and worlds[n].d.state == "confirmed" else
        "removed" if worlds[n].s.state == "retired" else
        "stayed" if worlds[n].s.epoch else "untouched" for n in settled}
    for goal, why in (("moved", "no handover can ever complete"),
                      ("stayed", "no handover that was begun can ever be undone"),
                      ("alive" if model.vhost else "moved", "no guest ever arrives alive")):
        if goal not in result.goals:
            return finish(why, 0)
    graph = _Graph(len(worlds), origin, target, kinds)

    stuck = [n for n in graph.cannot_reach(settled, without=())
             if not _wants_another_word(model, worlds[n])]
    if stuck:
        return finish("there is no way out, not even with an operator's word", stuck[0])
    alone = graph.cannot_reach(settled, without=(_KINDS[FORCE],))
    result.needs_word = len(alone)
    for n in alone:
        if worlds[n].forces == 0 and _both_may_return(worlds[n]) and not any(worlds[n].files.torn):
            return finish("both hosts can come back, and yet only an operator leads out", n)

    # a host that is off for ever: the other one, with an operator's word, must come to serve
    for me, boot in ((D, BOOT_D), (S, BOOT_S)):
        other = S if me == D else D
        good = [n for n, w in enumerate(worlds)
                if getattr(w, me).up != 1 and getattr(w, other).row < 0 and model.serving(w, other)]
        lost = set(graph.cannot_reach(good, without=(_KINDS[boot],)))
        for n, w in enumerate(worlds):
            if getattr(w, me).up != OFF or w.forces >= model.scope.forces:
                continue
            if _can_carry_on(model, w, other):
                result.dead_ends_checked += 1
                if n in lost:
                    return finish(f"the {_HOST[me]} is gone for good and the {_HOST[other]} cannot "
                                  "be made to serve, by anybody's word", n)
    return finish(None)


def _wants_another_word(model: Model, w: World) -> bool:
    """Both were forced in turn and are dark: whose registrations count is a human's choice, and the
    words that this scope counts are spent."""
    return w.forces >= model.scope.forces and w.s.state == w.d.state == "forced"


def _both_may_return(w: World) -> bool:
    return w.s.up >= 0 and w.d.up >= 0


def _can_carry_on(model: Model, w: World, survivor: str) -> bool:
    """Does the survivor hold the target at all? (A staged destination has no registrations yet; a
    source that retires has given it up, and a destination that aborts too: that is the loss of a
    host, not of a handover. By file, an import that was cut off has not begun to be one; and
    what was given back is targetcli's to restore.)"""
    if survivor == S:
        return w.s.up != -1 and w.s.state not in ("retiring", "retired")
    return w.d.up != -1 and w.d.state not in (
        "none", "staged", "aborting", "given", *(["armed"] if model.by_file else []))


class _Graph:
    """Edges backwards, for reachability."""

    def __init__(self, size: int, origin: array[int], target: array[int],
                 kinds: array[int]) -> None:
        self.size = size
        start = array("l", bytes((size + 1) * array("l").itemsize))
        for there in target:
            start[there + 1] += 1
        for n in range(size):
            start[n + 1] += start[n]
        fill = array("l", start)
        self.back = array("l", bytes(len(target) * start.itemsize))
        self.kind = array("b", bytes(len(target)))
        for edge, there in enumerate(target):
            at = fill[there]
            fill[there] = at + 1
            self.back[at] = origin[edge]
            self.kind[at] = kinds[edge]
        self.start = start

    def cannot_reach(self, goals: List[int], without: Tuple[int, ...]) -> List[int]:
        seen = bytearray(self.size)
        stack = list(goals)
        for n in goals:
            seen[n] = 1
        back, kind, start = self.back, self.kind, self.start
        while stack:
            n = stack.pop()
            for at in range(start[n], start[n + 1]):
                m = back[at]
                if not seen[m] and kind[at] not in without:
                    seen[m] = 1
                    stack.append(m)
        return [n for n in range(self.size) if not seen[n]]

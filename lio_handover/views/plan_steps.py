"""A plan as numbered steps, and what speaks against it."""
from __future__ import annotations

from typing import Iterable, Iterator, Sequence

from ..errors import Finding
from ..host.looked_at import Ready
from ..plan.plan import Plan, writes
from .phrases import count
from .terminal import Terminal, hanging


def plan(ready: Ready, terminal: Terminal, allowed: Sequence[str] = ()) -> Iterator[str]:
    """A plan as numbered steps, in the groups of the one order; last what one must know of it."""
    the_plan = ready.plan
    number = 0
    for phase, meaning in (("stage", "while the source still serves"),
                           ("activate", "when the source has let go")):
        steps = [step for step in the_plan.steps if step.phase == phase]
        if not steps:
            continue
        yield from hanging("", f"{phase}: {meaning} ({count(len(steps), 'step')})", terminal,
                           "title")
        slot = above = ""
        for step in steps:
            number += 1
            if step.slot != slot:
                slot, above = step.slot, ""
                yield from hanging("  ", f"{slot}: {step.why}" if step.why else slot, terminal,
                                   "dim")
            words = str(step).rstrip()
            folder = step.path[:-len(step.row.path)] if step.row else ""
            if folder and folder == above:
                words = words.replace(folder, "…/", 1)
            above = folder
            yield from hanging(f"{number:6} ", words, terminal)
    if ready.mapped:
        yield terminal.paint("maps", "title")
        for what, old, new in ready.mapped:
            yield from hanging("  ", f"{what}: {old} -> {new}", terminal)
    if the_plan.notes:
        yield terminal.paint("notes", "title")
        for note in the_plan.notes:
            yield from hanging("  ", note, terminal)
    yield from findings(ready.findings, terminal, allowed)


def findings(found: Iterable[Finding], terminal: Terminal, allowed: Sequence[str] = ()) \
        -> Iterator[str]:
    """What speaks against it, each with its name and what can be done."""
    ones = list(found)
    if ones:
        yield terminal.paint("findings", "title")
    for one in ones:
        passed = bool(one.override) and one.override in allowed
        yield from hanging("  ", f"{'allowed' if passed else one.error.__name__}: {one.subject}: "
                           f"{one.sentence}", terminal, "dim" if passed else "bad")
        todo = [one.do] if one.do else []
        if one.override and not passed:
            todo.append(f"--allow {one.override} to go on all the same")
        if todo:
            yield from hanging("    next: ", ", or ".join(todo), terminal)


def about_plan(the_plan: Plan) -> str:
    return (f"{count(len(the_plan.steps), 'step')}, of which at most "
            f"{count(writes(the_plan.steps), 'kernel write')}")

"""A plan as numbered steps, and what speaks against it."""
from __future__ import annotations

from typing import Iterable, Iterator, Sequence

from ..errors import Finding
from ..host.looked_at import Ready
from ..plan.plan import Plan, writes
from .phrases import count
from .terminal import Screen, hanging


def plan(ready: Ready, screen: Screen, allowed: Sequence[str] = ()) -> Iterator[str]:
    """A plan as numbered steps, in the groups of the one order; last what one must know of it."""
    the_plan = ready.plan
    number = 0
    for phase, meaning in (("stage", "while the source still serves"),
                           ("activate", "when the source has let go")):
        steps = [step for step in the_plan.steps if step.phase == phase]
        if not steps:
            continue
        yield from hanging("", f"{phase}: {meaning} ({count(len(steps), 'step')})", screen,
                           "title")
        slot = above = ""
        for step in steps:
            number += 1
            if step.slot != slot:
                slot, above = step.slot, ""
                yield from hanging("  ", f"{slot}: {step.why}" if step.why else slot, screen,
                                   "dim")
            words = str(step).rstrip()
            folder = step.path[:-len(step.row.path)] if step.row else ""
            if folder and folder == above:
                words = words.replace(folder, "…/", 1)
            above = folder
            yield from hanging(f"{number:6} ", words, screen)
    if ready.mapped:
        yield screen.paint("maps", "title")
        for what, old, new in ready.mapped:
            yield from hanging("  ", f"{what}: {old} -> {new}", screen)
    if the_plan.notes:
        yield screen.paint("notes", "title")
        for note in the_plan.notes:
            yield from hanging("  ", note, screen)
    yield from findings(ready.findings, screen, allowed)


def findings(found: Iterable[Finding], screen: Screen, allowed: Sequence[str] = ()) \
        -> Iterator[str]:
    """What speaks against it, each with its name and what can be done."""
    ones = list(found)
    if ones:
        yield screen.paint("findings", "title")
    for one in ones:
        passed = bool(one.override) and one.override in allowed
        yield from hanging("  ", f"{'allowed' if passed else one.error.__name__}: {one.subject}: "
                           f"{one.sentence}", screen, "dim" if passed else "bad")
        todo = [one.do] if one.do else []
        if one.override and not passed:
            todo.append(f"--allow {one.override} to go on all the same")
        if todo:
            yield from hanging("    next: ", ", or ".join(todo), screen)


def about_plan(the_plan: Plan) -> str:
    return (f"{count(len(the_plan.steps), 'step')}, of which at most "
            f"{count(writes(the_plan.steps), 'kernel write')}")

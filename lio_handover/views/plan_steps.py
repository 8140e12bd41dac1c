"""A plan as numbered steps, and the findings that refuse it."""
from __future__ import annotations

from typing import Iterable, Iterator, Sequence

from ..errors import Finding
from ..host.looked_at import Ready
from ..plan.plan import Plan, writes
from .phrases import count
from .terminal import Terminal, hanging_indent


def plan(ready: Ready, terminal: Terminal, allowed: Sequence[str] = ()) -> Iterator[str]:
    """A plan as numbered steps, by phase and slot; then its maps, notes and findings."""
    the_plan = ready.plan
    number = 0
    for phase, meaning in (("stage", "while the source still serves"),
                           ("activate", "when the source has let go")):
        steps = [step for step in the_plan.steps if step.phase == phase]
        if not steps:
            continue
        if not the_plan.live:  # which has no other host
            yield from hanging_indent("", f"{phase}: {meaning} ({count(len(steps), 'step')})",
                                      terminal, "title")
        slot = above = ""
        for step in steps:
            number += 1
            if step.slot != slot:
                slot, above = step.slot, ""
                yield from hanging_indent("  ", f"{slot}: {step.why}"
                                          if step.why else slot, terminal,
                                          "dim")
            words = str(step).rstrip()
            folder = step.path[:-len(step.row.path)] if step.row else ""
            if folder and folder == above:
                words = words.replace(folder, "…/", 1)
            above = folder
            yield from hanging_indent(f"{number:6} ", words, terminal)
    if ready.mapped:
        yield terminal.paint("maps", "title")
        for what, old, new in ready.mapped:
            yield from hanging_indent("  ", f"{what}: {old} -> {new}", terminal)
    if the_plan.notes:
        yield terminal.paint("notes", "title")
        for note in the_plan.notes:
            yield from hanging_indent("  ", note, terminal)
    yield from findings(ready.findings, terminal, allowed)


def findings(refusals: Iterable[Finding], terminal: Terminal, allowed: Sequence[str] = ()) \
        -> Iterator[str]:
    """The findings, each with its error's name and the next step for the administrator."""
    refusals = list(refusals)
    if refusals:
        yield terminal.paint("findings", "title")
    for finding in refusals:
        passed = bool(finding.override) and finding.override in allowed
        label = "allowed" if passed else finding.error.__name__
        yield from hanging_indent("  ", f"{label}: {finding.subject}: {finding.sentence}",
                                  terminal, "dim" if passed else "bad")
        todo = [finding.do] if finding.do else []
        if finding.override and not passed:
            todo.append(f"--allow {finding.override} to go on all the same")
        if todo:
            yield from hanging_indent("    next: ", ", or ".join(todo), terminal)


def about_plan(the_plan: Plan) -> str:
    return (f"{count(len(the_plan.steps), 'step')}, of which at most "
            f"{count(writes(the_plan.steps), 'kernel write')}")

"""Steps → the kernel.  Runs a plan, or leaves the host as it was.

A plan may be stopped between any two steps; what takes it back is planned from what the
kernel then shows, so a step that was half done needs no inverse of its own.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, Optional, Sequence, Tuple

from .. import errors
from ..kernel.configfs import Configfs
from ..kernel.facts import Facts
from ..model.objects import State
from ..plan.plan import Plan
from .rollback import Rollback
from .step_runner import Nexuses, Progress, StepFailed, StepRunner, never, nothing


@dataclass
class Outcome:
    """The result of a plan: steps, kernel writes, and seconds of each phase.  ``now`` is the state
    as read back at the end, where the plan ends with that."""

    steps: int = 0
    writes: int = 0
    seconds: Dict[str, float] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()
    now: Optional[State] = None


def apply(fs: Configfs, the_plan: Plan, before: State, facts: Facts,
          progress: Optional[Progress] = None, stop: Callable[[], bool] = never,
          reservations: bool = True, before_gate: Callable[[], None] = nothing,
          fuse: Sequence[str] = (), nexuses: Optional[Nexuses] = None) -> Outcome:
    """Run a plan made from ``before``; where it fails or ``stop`` says so, undo it.

    ``before_gate`` is called once all but the gates is done, and read back; ``fuse``: see
    trusted.py; ``nexuses`` is told of each nexus that is made or dropped, by an undo, too.
    ``reservations`` says whether ``before`` was read with them: only then can what loses them
    be undone.  Raises KernelRefused, VerifyFailed or Interrupted after an undo (the message says
    that nothing is changed), UndoFailed where the undo failed too.
    """
    runner = StepRunner(fs, the_plan, before, facts, fuse)
    runner.before_gate, runner.nexuses = before_gate, nexuses or Nexuses()
    rollback = Rollback(runner, reservations)
    outcome = Outcome(notes=the_plan.notes)
    began = fs.changes
    try:
        runner.run(the_plan.steps, outcome.seconds, progress, stop)
    except (StepFailed, errors.HandoverError) as error:
        raise rollback.undo(error) from error
    except BaseException as error:
        failed = rollback.undo(errors.KernelRefused(type(error).__name__))
        if isinstance(failed, errors.UndoFailed):
            raise failed from error
        raise
    finally:
        runner.close()
    outcome.steps, outcome.now = runner.started, runner.now
    outcome.writes = fs.changes - began
    return outcome

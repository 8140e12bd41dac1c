"""The steps of a move of guests, a row each, and their deadlines.

drivers/live.py draws them and says why they are in this order.
"""
from __future__ import annotations

import math
from typing import Dict, Mapping, Sequence, Tuple

from .. import errors
from ..protocol.table import DESTINATION, SOURCE, Mode
from .move import Step

#: Seconds that RAM may be copied for, and that each step may take while the guest stands still.
COPIES, STANDS = 3600.0, 60.0


def _verb(role: str, verb: str, name: str, takes: str, does: str, deadline: float = 0.0) -> Step:
    return Step(role, verb, name, takes, does, deadline=deadline)


def _qmp(role: str, qmp: str, name: str, does: str, deadline: float, back: str = "") -> Step:
    return Step(role, "", name, "", does, qmp, deadline, back)


_LOOK = (
    _qmp(SOURCE, "query-status", "look", "ask both QEMUs what speaks against it", 60),
    _verb(SOURCE, "prepare", "prepare", "", "look whether anything speaks against it, and offer"),
    _verb(DESTINATION, "stage", "stage", "prepare", "build all but the registrations"),
    _qmp(DESTINATION, "migrate-incoming", "listen", "wait for the guest", 10, "quit"),
)
_QUIET = (
    _verb(SOURCE, "freeze", "freeze", "", "wait for commands, flush", STANDS),
    _verb(SOURCE, "export", "export", "", "read the registrations", STANDS),
    _verb(DESTINATION, "activate", "arm", "export", "keep them, and load them", STANDS),
)
_OVER = (
    _qmp(DESTINATION, "completed", "came", "see that QEMU has all of the guest", STANDS),
    _verb(SOURCE, "release", "release", "arm", "occupy the endpoint, and promise not to serve any "
          "more"),
    _verb(DESTINATION, "activate", "open", "release", "own the target, and free the endpoint"),
    _qmp(DESTINATION, "cont", "cont", "run the guest", STANDS),
    _verb(DESTINATION, "verify", "verify", "", "read it back, and see the guest attached", STANDS),
    _verb(SOURCE, "retire", "retire", "verify", "take the target down"),
    _verb(DESTINATION, "confirm", "confirm", "retire", "note that the source is gone"),
)
#: The steps of mode vhost-qmp, and those of vhost-stopped.
STEPS = (
    *_LOOK,
    _qmp(SOURCE, "migrate", "migrate", "begin to copy the guest's RAM", 10, "cancel"),
    _qmp(SOURCE, "pre-switchover", "copy", "copy RAM while the guest runs", COPIES, "cancel"),
    *_QUIET,
    _qmp(SOURCE, "migrate-continue", "continue", "send the guest's devices", 10),
    _qmp(SOURCE, "completed", "sent", "see that QEMU has sent the guest", STANDS),
    *_OVER,
)
STOPPED = (
    *_LOOK,
    _qmp(SOURCE, "stop", "stop", "stop the guest", STANDS, "cont"),
    *_QUIET,
    _qmp(SOURCE, "migrate", "migrate", "begin to copy the guest's RAM", 10, "cancel"),
    _qmp(SOURCE, "completed", "copy", "copy RAM while the guest stands still", COPIES, "cancel"),
    *_OVER,
)
ROWS: Mapping[Mode, Tuple[Step, ...]] = {Mode.VHOST_QMP: STEPS, Mode.VHOST_STOPPED: STOPPED}
#: Mode → the first step in which the guest stands still.
STILL = {Mode.VHOST_QMP: "freeze", Mode.VHOST_STOPPED: "stop"}
#: The steps of the window that are this program's, as the summary has them.
OURS = (("freeze to arm", ("freeze", "export", "arm")), ("release and open", ("release", "open")))


def deadlines(words: Sequence[str], steps: Sequence[Step]) -> Dict[str, float]:
    """The seconds that ``STEP=SECONDS`` give to steps.  Raises BadCall."""
    given: Dict[str, float] = {}
    names = [step.name for step in steps if step.deadline]
    for word in words:
        name, _, text = word.partition("=")
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if name not in names or not math.isfinite(seconds) or seconds <= 0:
            raise errors.BadCall(f"{errors.quoted(word)} is no deadline",
                                 do=f"--deadline STEP=SECONDS, where STEP is {', '.join(names)}")
        given[name] = seconds
    return given

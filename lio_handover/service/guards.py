"""The worker that guards the targets of handovers (local/guard.py): it looks at each line of input,
at events of inotify and from time to time, and acts by itself.

Its output: {"warn": text, "handover": id, "target": names}, {"busy": whether it acts}, and where it
cannot look {"failed": why}.
"""
from __future__ import annotations

import os
import select
import signal
import time
from typing import Any, Callable, Dict

from .. import errors, settings
from ..client import asking
from ..handover.engine import Handover, Reply
from ..local.guard import SOON, Guard
from ..local.ours import Ours

#: Seconds in which several events make one look.
TOGETHER = 0.02

Say = Callable[[Dict[str, Any]], None]


def guards(config: str, say: Say) -> None:
    """Guard targets until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a change that has begun is finished

    def core() -> Ours:
        return Ours(settings.load(config) if config else settings.load())

    def peer(handover: Handover, verb: str) -> Reply:
        return asking.ask(handover, verb, core().settings)

    guard = Guard(core, peer, lambda text, target, handover: say(
        {"warn": text, "target": target, "handover": handover}))
    poll = select.poll()
    for fd in (0, guard.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        wait = SOON
        try:
            wait = guard.look()
            say({"failed": ""})
        except Exception as error:  # noqa: B902 - another look may tell
            say({"failed": (error if isinstance(error, errors.HandoverError) else
                            errors.unforeseen(error)).what})
        ready = poll.poll(max(wait, TOGETHER) * 1000)
        if any(fd == 0 for fd, _events in ready) and not os.read(0, 4096):
            return
        time.sleep(TOGETHER)

"""What the verbs of a handover open of configfs and sync, counted in a lab host."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from lio_handover.handover.engine import Reply
from lio_handover.protocol.messages import Message
from tests.bench import inhost
from tests.support import inhandover, inopens

OUT = "/run/opens"
TARGET = f"iscsi/{inhost.IQN}"
PORTAL = "0.0.0.0:3260"
#: What brings data to a disk.
SYNCS = ("fsync", "fdatasync", "sync")


class Counted(NamedTuple):
    """A verb's answer; ``counts``: files and folders of configfs that were opened, syncs;
    ``paths``: how often each of configfs was opened; ``synced``: how often each file was."""

    answer: Reply
    counts: dict[str, int]
    paths: dict[str, int]
    synced: dict[str, int]


def serve(folder: str, luns: int, every: int) -> None:
    """A target of so many LUNs, every so many-th with a registration; with 0 none."""
    inhost.prepare(folder, luns)
    made = inhost.calls(folder, luns, 1, every, PORTAL)
    inhost.do(made.stage)
    inhost.do(made.activate)


def counted(verb: str, role: str, id: str = "",  # noqa: A002
            messages: Sequence[Message] = (), **more: Any) -> Counted:
    """A verb, in a process of its own as in the service."""
    syncs: Counter[str] = Counter()

    def counting(name: str) -> Any:
        plain = getattr(os, name)

        def counted_call(*args: Any) -> Any:
            syncs[os.readlink(f"/proc/self/fd/{args[0]}") if args else name] += 1
            return plain(*args)
        return counted_call

    for name in SYNCS:
        setattr(os, name, counting(name))
    pid = inopens.start_opens(OUT)
    answer = inhandover.do(verb, role, id, messages, allow=("all-tg-pt",), **more)
    events = inopens.stop(pid, OUT)
    os.unlink(OUT)
    kinds = Counter(event.what for event in events)
    return Counted(answer, {"files": kinds["file"], "folders": kinds["folder"],
                            "syncs": sum(syncs.values())},
                   dict(Counter(event.path for event in events)), dict(syncs))

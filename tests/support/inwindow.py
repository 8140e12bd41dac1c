"""What the verbs of a handover open of configfs and sync, counted in a lab host."""
from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lio_handover.handover.engine import Reply
from lio_handover.kernel.configfs import Configfs
from lio_handover.protocol.messages import Message
from tests.bench import inhost
from tests.support import inhandover

TARGET = f"iscsi/{inhost.IQN}"
PORTAL = "0.0.0.0:3260"
#: What brings data to a disk.
SYNCS = ("fsync", "fdatasync", "sync")
_KINDS = {"open": "files", "os.listdir": "folders", "os.scandir": "folders"}


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


class Counting:
    """Counts what this process asks for from now on."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.paths: Counter[str] = Counter()
        self.synced: Counter[str] = Counter()
        for name in SYNCS:
            setattr(os, name, self._counting(getattr(os, name)))
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _KINDS and str(args[0]).startswith(Configfs().root):
            self.counts[_KINDS[event]] += 1
            self.paths[args[0][len(Configfs().root) + 1:]] += 1

    def _counting(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*args: Any) -> Any:
            self.counts["syncs"] += 1
            self.synced[os.readlink(f"/proc/self/fd/{args[0]}") if args else ""] += 1
            return plain(*args)
        return counted_call

    def clear(self) -> None:
        for counter in (self.counts, self.paths, self.synced):
            counter.clear()

    def of(self, answer: Reply) -> Counted:
        """A verb's answer, with what was counted."""
        return Counted(answer, {name: self.counts[name] for name in ("files", "folders", "syncs")},
                       dict(self.paths), dict(self.synced))


def counted(verb: str, role: str, id: str = "",  # noqa: A002
            messages: Sequence[Message] = (), **more: Any) -> Counted:
    """A verb, in a process of its own as in the service."""
    counting = Counting()
    return counting.of(inhandover.do(verb, role, id, messages, allow=("all-tg-pt",), **more))

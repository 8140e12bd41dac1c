"""The peers of a move, which take a target from the one host to the other today, in the same run:
targetcli's save file, and ClusterLabs' agents for Pacemaker."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab import kernels

from . import inhost, inpeers, inwindow
from .pair import Pair

#: More LUNs take a peer too long: each targetcli looks at all of them.
MOST = 100
PATIENCE = 3000
#: The package of the agents, and the suite it is from.
_AGENTS, _SUITE, _FORMAT = "resource-agents", "bookworm", "1"

Row = dict[str, Any]


def agents() -> Path:
    """The folder that the agents call OCF_ROOT, from the cache."""
    def build(suite: str, work: Path, _folder: Path) -> str:
        (kernels.unpack(suite, work, _AGENTS) / "usr/lib/ocf").rename(work / "ocf")
        return _AGENTS
    return kernels.cached(_AGENTS, _SUITE, _FORMAT, build).root / "ocf"


def targetcli(pair: Pair, folder: str, luns: int, reserved: int) -> Row:
    """saveconfig and a copy while A serves; clearconfig on A, restoreconfig on B."""
    a, b = pair.hosts
    b.call(inwindow.clear, timeout=300)
    a.call(inwindow.serve, folder, luns, reserved, timeout=300)

    def move() -> tuple[float, float]:
        before = a.call(inpeers.save, b.name, timeout=PATIENCE)
        return before, sum(host.call(work, timeout=PATIENCE)
                           for host, work in ((a, inpeers.clear), (b, inpeers.restore)))
    return _timed(pair, luns, move)


def clusterlabs(pair: Pair, folder: str, luns: int, _reserved: int) -> Row:
    """Stop on A, start on B: a target, and an agent for each LUN."""
    a, b = pair.hosts
    root = str(agents())
    for host in pair.hosts:
        host.call(inwindow.clear, timeout=300)
    a.call(inhost.prepare, folder, luns)
    a.call(inpeers.agents, root, "start", folder, luns, a.address, timeout=PATIENCE)

    def move() -> tuple[float, float]:
        return 0.0, sum(host.call(inpeers.agents, root, action, folder, luns, host.address,
                                  timeout=PATIENCE)
                        for host, action in ((a, "stop"), (b, "start")))
    return _timed(pair, luns, move)


PEERS: dict[str, Callable[[Pair, str, int, int], Row]] = {
    "targetcli": targetcli, "agents": clusterlabs}


def _timed(pair: Pair, luns: int, move: Callable[[], tuple[float, float]]) -> Row:
    """``move`` returns the seconds before the window, and those of the window."""
    seconds: list[float] = []
    with pair.probed(seconds):
        before, window = move()
    b = pair.hosts[1]
    b.call(inwindow.serves, luns)
    return {"window": window, "blackout": seconds[0], "move": before + window,
            "registrations": b.call(inpeers.registrations)}

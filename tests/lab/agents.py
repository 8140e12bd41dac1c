"""ClusterLabs' resource agents of Debian's package, unpacked into the cache and never installed."""
from __future__ import annotations

from pathlib import Path

from . import kernels

_FORMAT = "1"       # raise it when what `_build` leaves in the cache changes


def folder() -> Path:
    """OCF_ROOT: resource.d/heartbeat has the agents, fetched if this cache has none yet."""
    return kernels.cached("resource-agents", kernels.SUITES["oldest"], _FORMAT, _build).root / "ocf"


def _build(suite: str, work: Path, _folder: Path) -> str:
    tree = kernels.unpack(suite, work, "resource-agents")
    (tree / "usr/lib/ocf").rename(work / "ocf")
    return suite

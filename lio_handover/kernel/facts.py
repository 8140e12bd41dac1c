"""Facts about the running kernel and its target tree, which no document carries."""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Mapping, Set, Tuple

from .. import errors
from ..model.objects import Key


@dataclass(frozen=True)
class Facts:
    """Facts about the host that a plan needs, and that no document carries."""

    release: str = ""
    boot_id: str = ""
    dbroot: str = ""
    hbas: Tuple[str, ...] = ()
    fabrics: Tuple[str, ...] = ()
    has_rtpi: bool = True
    #: the HBA of each backstore of the host, by key: ``fileio_0``
    placed: Mapping[Key, str] = None  # type: ignore[assignment]


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The boot id of the running kernel, which this process does not outlive: configfs and all its
    contents end with a boot.  Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def kernel_symbols(wanted: Set[str]) -> Set[str]:
    """The subset of ``wanted`` functions that the running kernel has (/proc/kallsyms): no other
    place tells which attributes a new object will have.  Empty where it cannot be read."""
    lines = b""
    try:
        with open("/proc/kallsyms", "rb") as file:
            lines = file.read()
    except OSError:
        pass
    return {name for name in wanted if re.search(rb"\s" + name.encode() + rb"\s", lines)}


@lru_cache(maxsize=None)
def knows_rtpi() -> bool:
    """Whether this kernel gives TPGs an rtpi file.  target_core_mod has the function, and is loaded
    wherever the target tree exists."""
    symbol = "target_fabric_tpg_base_rtpi_show"
    return symbol in kernel_symbols({symbol})


def no_modules() -> errors.NoTargetModules:
    """The error for a host without the target tree; the caller raises it."""
    return errors.NoTargetModules(
        "the kernel's target tree is not there",
        do="modprobe target_core_mod; mount -t configfs none /sys/kernel/config")

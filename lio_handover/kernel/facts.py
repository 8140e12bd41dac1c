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
    """What a plan must know of the host, and no document carries."""

    release: str = ""
    boot_id: str = ""
    dbroot: str = ""
    hbas: Tuple[str, ...] = ()
    fabrics: Tuple[str, ...] = ()
    has_rtpi: bool = True
    #: the HBA of each backstore of the host, by key: ``fileio_0``
    placed: Mapping[Key, str] = None  # type: ignore[assignment]


def boot_id() -> str:
    """Of the running kernel: configfs, and all that is in it, dies with it."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def kernel_symbols(wanted: Set[str]) -> Set[str]:
    """Those of the functions that the running kernel has; only a look at it tells which
    attributes an object will have that is not there yet."""
    lines = b""
    try:
        with open("/proc/kallsyms", "rb") as file:
            lines = file.read()
    except OSError:
        pass
    return {name for name in wanted if re.search(rb"\s" + name.encode() + rb"\s", lines)}


@lru_cache(maxsize=None)
def knows_rtpi() -> bool:
    """Whether TPGs get an rtpi file.  It is target_core_mod's, which is loaded where there is a
    tree to be read."""
    symbol = "target_fabric_tpg_base_rtpi_show"
    return symbol in kernel_symbols({symbol})


def no_modules() -> errors.NoTargetModules:
    return errors.NoTargetModules(
        "the kernel's target tree is not there",
        do="modprobe target_core_mod; mount -t configfs none /sys/kernel/config")

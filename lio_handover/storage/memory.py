"""The memory that backstores take as they are made: pages of memory disks, rings of tcmu.

rd_mcp allocates all of its pages at enable (target_core_rd.c:rd_allocate_sgl_table), and the kernel
ends processes where there are none.  tcmu allocates its command ring at enable, and its data area
as commands come (target_core_user.c:tcmu_configure_device, tcmu_get_empty_block).
"""
from __future__ import annotations

import os
from typing import Iterable, List, Optional

from ..errors import Finding, StorageNotAllowed
from ..model import plugins
from ..model.keys import display
from ..model.objects import Backstore
from ..model.plugins import Data
from .block_devices import HERE, Host

_MIB = 1024**2
#: target_core_user.c: TCMU_MAX_DATA_AREA default and MB_CMDR_SIZE_DEF, in MiB.
_DATA_AREA, _RING = 8, 8
_SCATTERLIST = 32  # bytes that a page of a memory disk takes beside itself (struct scatterlist)
_TUPLE = 8         # bytes of protection information for each block


def taken_by(store: Backstore) -> int:
    """The bytes of memory that the kernel takes for a backstore, at most; 0 of storage."""
    plugin, said = plugins.of(store.plugin), store.parameters
    if plugin.data is Data.HANDLER:
        return _MIB * (int(said.get("max_data_area_mb") or _DATA_AREA)
                       + int(said.get("cmd_ring_size_mb") or _RING))
    if plugin.data is not Data.MEMORY or said.get("rd_nullio") == "1":
        return 0
    page, pages = os.sysconf("SC_PAGE_SIZE"), int(said.get("rd_pages", "0"))
    taken = pages * (page + _SCATTERLIST)
    if store.attributes.get("attrib/pi_prot_type", "0") != "0":
        block = int(store.attributes.get("attrib/block_size") or "512")
        taken += pages * page // block * _TUPLE
    return taken


def available(host: Host = HERE) -> Optional[int]:
    """Bytes that can be allocated without swapping (MemAvailable), None where that is not told."""
    try:
        with open(f"{host.proc}/meminfo", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "MemAvailable":
                    return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def findings(stores: Iterable[Backstore], reserve: int, host: Host = HERE) -> List[Finding]:
    """The finding that this host has not the memory for these backstores, all of which are to be
    made; ``reserve``: bytes that stay available."""
    wanted = [(taken_by(store), display(store.key)) for store in stores]
    total = sum(taken for taken, _name in wanted)
    free = available(host) if total else None
    if not total or free is not None and total + reserve <= free:
        return []
    sentence = f"this host's memory has {_mib(free)} available, of which {_mib(reserve)} stay, " \
        f"and the document's memory disks and tcmu rings take {_mib(total)}"
    return [Finding(StorageNotAllowed, max(wanted)[1], sentence,
                    do="free memory, or hand it over in parts")]


def _mib(count: Optional[int]) -> str:
    return "nobody knows how much" if count is None else f"{-(-count // _MIB)} MiB"

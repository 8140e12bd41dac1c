"""What the kernel keeps below its dbroot, where it makes files but no folders.

Without <dbroot>/pr a REGISTER with APTPL answers NOT READY, and yet is done (target_core_pr.c:
__core_scsi3_write_aptpl_to_file); without alua/tpgs_SERIAL no ALUA state is written down
(target_core_alua.c:core_alua_update_tpg_primary_metadata).
"""
from __future__ import annotations

import os
from typing import Iterator, Tuple

from .configfs import Configfs
from .model import Backstore


def folders(store: Backstore, dbroot: str) -> Iterator[str]:
    """Those that a backstore needs."""
    yield f"{dbroot}/pr"
    if store.serial and any(group.attributes.get("alua_write_metadata", "0") != "0"
                            for group in store.alua_groups):
        yield f"{dbroot}/alua/tpgs_{store.serial}"


def notes(fs: Configfs) -> Tuple[str, ...]:
    """What an administrator should know of a host that serves."""
    if not fs.exists("dbroot") or all(hba == "alua" for hba in fs.names("core")):
        return ()  # whoever makes a backstore makes it
    folder = fs.read("dbroot").strip() + "/pr"
    if os.path.isdir(folder):
        return ()
    return (f"there is no folder {folder}: a REGISTER that shall survive power loss is answered "
            "NOT READY, and is done all the same; make it",)

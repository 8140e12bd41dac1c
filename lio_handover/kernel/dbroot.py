"""The folders below the kernel's dbroot: the kernel makes files there, but no folders.

Without <dbroot>/pr a REGISTER with APTPL answers NOT READY, and yet is done (target_core_pr.c:
__core_scsi3_write_aptpl_to_file); without alua/tpgs_SERIAL no ALUA state is written down
(target_core_alua.c:core_alua_update_tpg_primary_metadata).
"""
from __future__ import annotations

import os
from typing import Iterator, List, Tuple

from ..errors import Finding, KernelRefused
from ..model.objects import Backstore
from ..storage.block_devices import show
from ..system import trusted
from .configfs import Configfs


def folders(store: Backstore, dbroot: str) -> Iterator[str]:
    """The folders that a backstore needs below ``dbroot``."""
    yield f"{dbroot}/pr"
    if store.serial and any(group.attributes.get("alua_write_metadata", "0") != "0"
                            for group in store.alua_groups):
        yield f"{dbroot}/alua/tpgs_{store.serial}"


def findings(fs: Configfs) -> List[Finding]:
    """Why neither the kernel nor this program can keep registrations below dbroot."""
    folder = fs.read("dbroot").strip() + "/pr" if fs.exists("dbroot") else ""
    why = _unfit(folder) if folder else ""
    return [Finding(KernelRefused, show(folder), f"{why}, and registrations are kept in it", "",
                    "make it a folder that can be written to")] if why else []


def _unfit(folder: str) -> str:
    """Why files can't be made in a folder, or it can't be made itself; "" where they can."""
    if not os.path.lexists(folder):
        above = os.path.dirname(folder)
        return _unfit(above) and f"can't be made, as {show(above)} {_unfit(above)}"
    if not os.path.exists(folder):
        return "is a link that leads nowhere"
    if not os.path.isdir(folder):
        return "is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "can't be written to"
    wrong = trusted.fault(folder)
    return f"is not root's alone: {show(wrong.path)} {wrong.why} ({wrong.do})" if wrong else ""


def notes(fs: Configfs) -> Tuple[str, ...]:
    """Cautions about dbroot on a serving host."""
    if not fs.exists("dbroot") or all(hba == "alua" for hba in fs.names("core")):
        return ()  # a plan that makes a backstore makes the folder
    folder = fs.read("dbroot").strip() + "/pr"
    if os.path.isdir(folder):
        return ()
    return (f"there is no folder {folder}: a REGISTER that shall survive power loss is answered "
            "NOT READY, and is done all the same; make it",)

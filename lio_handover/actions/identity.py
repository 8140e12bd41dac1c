"""Whether a handover's targets are the ones that this host loaded, kept or served: somebody else
may have removed one and made another of its name.

A directory of configfs is pinned as long as it is there, so the number of its inode stays, and
another directory of its name has another (fs/configfs/dir.c: configfs_create_dir, inode.c:
configfs_new_inode).  The number is worth nothing after a boot.
"""
from __future__ import annotations

import os
from typing import Dict, List, Optional

from ..kernel.facts import boot_id
from .context import Standing


def seen(standing: Standing) -> Dict[str, int]:
    """Target → inode, of those that are here."""
    found = {}
    for name in standing.local_targets():
        try:
            found[name] = os.stat(standing.fs.path(name)).st_ino
        except FileNotFoundError:
            continue
    return found


def note(standing: Standing) -> None:
    """What is here is this host's: it was loaded or kept just now, or has all it should have."""
    now = boot_id(), seen(standing)
    if now[1] and standing.journal.notes.objects != now:
        standing.journal.note("objects", boot=now[0], inodes=now[1])


def known(standing: Standing) -> Dict[str, int]:
    """What was noted in this boot."""
    boot, inodes = standing.journal.notes.objects
    return inodes if boot == boot_id() else {}


def replaced(standing: Standing) -> List[str]:
    """The targets that are here, and are others than were noted in this boot.  What the kernel had
    of the noted ones, it has lost."""
    noted = known(standing)
    return sorted(name for name, inode in (seen(standing).items() if noted else ())
                  if noted.get(name) != inode)


def gone(standing: Standing) -> List[str]:
    """The targets that were noted in this boot, and are not here: no verb of ours removed them."""
    noted = known(standing)
    return sorted(set(noted) - set(seen(standing))) if noted else []


def made_at(standing: Standing) -> Optional[int]:
    """When the first of the targets that were replaced was made, in nanoseconds: what is in an
    APTPL file that was written later may not be of the ones before."""
    try:
        return min((os.stat(standing.fs.path(name)).st_ctime_ns for name in replaced(standing)),
                   default=None)
    except FileNotFoundError:
        return None

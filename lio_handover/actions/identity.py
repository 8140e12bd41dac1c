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
from .context import HandoverContext


def seen(context: HandoverContext) -> Dict[str, int]:
    """Target → inode, of those that are here."""
    found = {}
    for name in context.local_targets():
        try:
            found[name] = os.stat(context.fs.path(name)).st_ino
        except FileNotFoundError:
            continue
    return found


def note(context: HandoverContext) -> None:
    """What is here is this host's: it was loaded or kept just now, or has all it should have."""
    now = boot_id(), seen(context)
    if now[1] and context.journal.facts.objects != now:
        context.journal.note("objects", boot=now[0], inodes=now[1])


def known(context: HandoverContext) -> Dict[str, int]:
    """What was noted in this boot."""
    boot, inodes = context.journal.facts.objects
    return inodes if boot == boot_id() else {}


def replaced(context: HandoverContext) -> List[str]:
    """The targets that are here, and are others than were noted in this boot.  What the kernel had
    of the noted ones, it has lost."""
    noted = known(context)
    return sorted(name for name, inode in (seen(context).items() if noted else ())
                  if noted.get(name) != inode)


def gone(context: HandoverContext) -> List[str]:
    """The targets that were noted in this boot, and are not here: no verb of ours removed them."""
    noted = known(context)
    return sorted(set(noted) - set(seen(context))) if noted else []


def made_at(context: HandoverContext) -> Optional[int]:
    """When the first of the targets that were replaced was made, in nanoseconds: what is in an
    APTPL file that was written later may not be of the ones before."""
    try:
        return min((os.stat(context.fs.path(name)).st_ctime_ns for name in replaced(context)),
                   default=None)
    except FileNotFoundError:
        return None

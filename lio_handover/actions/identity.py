"""Whether a handover's targets are those that this host loaded, kept or served: another program may
have removed one and made another of its name.

A directory of configfs is pinned as long as it is there, so its inode number stays, and another
directory of its name has another number (fs/configfs/dir.c:configfs_create_dir,
inode.c:configfs_new_inode).  The number is worth nothing after a boot.
"""
from __future__ import annotations

import os
from typing import Dict, List, Optional

from ..kernel.facts import boot_id
from .context import HandoverContext


def seen(context: HandoverContext) -> Dict[str, int]:
    """Target → inode, of those that are here."""
    inodes = {}
    for name in context.local_targets():
        try:
            inodes[name] = os.stat(context.fs.path(name)).st_ino
        except FileNotFoundError:
            continue
    return inodes


def note(context: HandoverContext) -> None:
    """Record the inodes of the targets that are here: this host loaded or kept them just now, or
    they have all they should have."""
    now = boot_id(), seen(context)
    if now[1] and context.journal.facts.objects != now:
        context.journal.note("objects", boot=now[0], inodes=now[1])


def known(context: HandoverContext) -> Dict[str, int]:
    """Target → inode, as recorded in this boot."""
    boot, inodes = context.journal.facts.objects
    return inodes if boot == boot_id() else {}


def replaced(context: HandoverContext) -> List[str]:
    """The targets that are here with another inode than was recorded in this boot.  The kernel has
    lost the registrations of the recorded ones."""
    noted = known(context)
    return sorted(name for name, inode in (seen(context).items() if noted else ())
                  if noted.get(name) != inode)


def gone(context: HandoverContext) -> List[str]:
    """The targets that were recorded in this boot and are not here: no verb of lio-handover removed
    them."""
    noted = known(context)
    return sorted(set(noted) - set(seen(context))) if noted else []


def made_at(context: HandoverContext) -> Optional[int]:
    """When the first of the replaced targets was made, in nanoseconds, or None.  An APTPL file that
    was written later may have registrations of other targets than the recorded ones."""
    try:
        return min((os.stat(context.fs.path(name)).st_ctime_ns for name in replaced(context)),
                   default=None)
    except FileNotFoundError:
        return None

"""What is kept on disk, and has another version than this program writes."""
from __future__ import annotations

from .. import errors
from .record_kinds import VERSION


def check(path: str, found: object) -> None:
    """Refuse a file of another version before anything in it is believed.  ``found``: its member
    ``version``, or None.  Raises JournalBroken."""
    if type(found) is not int:
        raise errors.JournalBroken(
            f"{path} has no version: a lio-handover wrote it that was never released",
            do="end its handovers with that one, then upgrade")
    if found > VERSION:
        raise errors.JournalBroken(
            f"{path} has version {found}, this lio-handover knows {VERSION}",
            do="upgrade to the lio-handover that wrote it, or a later one")
    if found < VERSION:
        raise errors.JournalBroken(
            f"{path} has version {found}, this lio-handover knows {VERSION}",
            do="end its handovers with the lio-handover that wrote it, then upgrade")

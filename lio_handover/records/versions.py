"""Versions of the files on disk: a file of another version than this program writes is refused."""
from __future__ import annotations

from .. import errors
from .record_kinds import VERSION


def check(path: str, version: object) -> None:
    """Refuse a file of another version before anything in it is believed.  ``version``: its member
    ``version``, or None.  Raises JournalBroken."""
    if type(version) is int and version == VERSION:
        return
    do = "end its handovers with the lio-handover that wrote it, then upgrade"
    if type(version) is not int:
        what, do = "no version: a lio-handover wrote it that was never released", \
            "end its handovers with that one, then upgrade"
    else:
        what = f"version {version}, this lio-handover knows {VERSION}"
        if version > VERSION:
            do = "upgrade to the lio-handover that wrote it, or a later one"
    raise errors.JournalBroken(f"{path} has {what}", do=do)

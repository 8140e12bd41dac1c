"""Which attempt to move a target was the last one here, and which must never serve here.

``<state directory>/owners.json``, whole and fsynced at each change::

    {"version": 1, "targets": {
        "iscsi/iqn.…": {"epoch": 3, "aborted": 2, "handover": "…uuid…", "before": "…uuid…"}}}

``epoch`` is the highest number this host has heard of, ``aborted`` the highest that was given up
here (no epoch up to it will ever be served here), ``handover`` whose record counts, ``before``
whose counted before that one.  The names are those of this host; what was given up is kept by the
source's names too, as its offers come under these.
"""
from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Dict, Iterable, Optional

from .. import errors
from ..system.atomic_file import write_file
from ..system.locks import PATIENCE, Locks
from .record_kinds import VERSION
from .versions import check

NAME = "owners.json"
#: Instead of a handover: the target was removed, and none brings it back.
REMOVED = "removed"


@dataclass(frozen=True)
class Owner:
    """What is known of one target."""

    epoch: int = 0
    aborted: int = 0
    handover: str = ""
    before: str = ""


class Owners:
    """The owners' file of one host.  Raises JournalBroken."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, NAME)

    def load(self) -> Dict[str, Owner]:
        import json
        try:
            with open(self.path, "rb") as file:
                tree = json.load(file)
            check(self.path, tree.get("version"))
            return {name: Owner(int(one["epoch"]), int(one["aborted"]), str(one["handover"]),
                                str(one.get("before", "")))
                    for name, one in tree["targets"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.JournalBroken(
                f"{self.path} can't be read: {error}",
                do=f"put a backup of it back, or write it anew as {errors.RECOVERY_PAGE} says: "
                "without it an old attempt may be taken for a new one") from None

    def note(self, targets: Iterable[str], epoch: int = 0, aborted: int = 0,
             handover: Optional[str] = None, over: str = "", elsewhere: Iterable[str] = ()) -> None:
        """Raise the numbers of these targets, and note whose record counts from now on: that of
        ``handover``, or of the one before the handover ``over``.  Durable when it returns.

        ``elsewhere``: what the source calls them, of which ``aborted`` alone is noted."""
        import json
        with Locks(os.path.dirname(self.path)).hold(NAME, patience=PATIENCE):
            found = self.load()
            was = dict(found)
            here = set(targets)
            for name in here.union(elsewhere):
                owner = found.get(name, Owner())
                if name in here and handover not in (None, owner.handover):
                    owner = replace(owner, handover=str(handover), before=owner.handover)
                elif name in here and over and owner.handover == over:
                    owner = replace(owner, handover=owner.before, before="")
                found[name] = replace(
                    owner, epoch=max(owner.epoch, epoch if name in here else 0, aborted),
                    aborted=max(owner.aborted, aborted))
            if found == was:
                return
            text = json.dumps({"version": VERSION, "targets": {
                name: asdict(one) for name, one in found.items()}}, indent=1, sort_keys=True)
            try:
                write_file(self.path, text.encode() + b"\n")
            except OSError as error:
                raise errors.JournalBroken(
                    f"{self.path} can't be written: {error.strerror}") from None

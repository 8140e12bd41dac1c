"""Per target: the highest handover epoch seen, and the highest epoch aborted, on this host.

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
from ..document.json_types import check_fields
from ..system.atomic_file import read_file, write_file
from ..system.locks import PATIENCE, Locks
from .record_kinds import VERSION
from .versions import check

NAME = "owners.json"
#: Instead of a handover: the target was removed, and none brings it back.
REMOVED = "removed"


@dataclass(frozen=True)
class TargetEpochs:
    """The epochs of one target, and the handover whose record counts."""

    epoch: int = 0
    aborted: int = 0
    handover: str = ""
    before: str = ""


class OwnershipFile:
    """The owners' file of one host.  Raises JournalBroken."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, NAME)

    def load(self) -> Dict[str, TargetEpochs]:
        import json
        try:
            tree = json.loads(read_file(self.path))
            check(self.path, tree.get("version"))
            owners = {name: TargetEpochs(entry["epoch"], entry["aborted"], entry["handover"],
                                         entry.get("before", ""))
                      for name, entry in tree["targets"].items()}
            for epochs in owners.values():
                check_fields(epochs)
            return owners
        except FileNotFoundError:
            return {}
        except (OSError, *errors.MISSHAPEN) as error:
            raise errors.JournalBroken(
                f"{self.path} can't be read: {errors.shown(str(error))}",
                do=f"put a backup of it back, or write it anew as {errors.RECOVERY_PAGE} says: "
                "without it an old attempt may be taken for a new one") from None

    def note(self, targets: Iterable[str], epoch: int = 0, aborted: int = 0,
             handover: Optional[str] = None, ended: str = "",
             elsewhere: Iterable[str] = ()) -> None:
        """Raise the numbers of these targets, and note whose record counts from now on: that of
        ``handover``, or of the one before the handover ``ended``.  Durable when it returns.

        ``elsewhere``: what the source calls them, of which ``aborted`` alone is noted."""
        import json
        with Locks(os.path.dirname(self.path)).hold(NAME, patience=PATIENCE):
            owners = self.load()
            was = dict(owners)
            here = set(targets)
            for name in here.union(elsewhere):
                owner = owners.get(name, TargetEpochs())
                if name in here and handover not in (None, owner.handover):
                    owner = replace(owner, handover=str(handover), before=owner.handover)
                elif name in here and ended and owner.handover == ended:
                    owner = replace(owner, handover=owner.before, before="")
                owners[name] = replace(
                    owner, epoch=max(owner.epoch, epoch if name in here else 0, aborted),
                    aborted=max(owner.aborted, aborted))
            if owners == was:
                return
            text = json.dumps({"version": VERSION, "targets": {
                name: asdict(owner) for name, owner in owners.items()}}, indent=1, sort_keys=True)
            try:
                write_file(self.path, text.encode() + b"\n")
            except OSError as error:
                raise errors.JournalBroken(
                    f"{self.path} can't be written: {error.strerror}") from None

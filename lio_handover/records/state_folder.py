"""The folder that says what this host serves: root's alone, or nothing goes on.

Whoever can write a journal decides which host serves, and whoever can read the key makes messages
up; so both are looked at before each verb, and each journal before it is read.
"""
from __future__ import annotations

import os

from .. import errors
from ..system import trusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

#: The files and folders in it that decide: journal.py, ownership.py, pr_record.py, removed.py,
#: savefile/writers.py, system/locks.py, scsi/endpoint_holder.py.
NAMES = ("handovers", "owners.json", "restored.json", "removed", "savefile-written.json", "locks",
         "holders")


def check(directory: str, key: str = "") -> None:
    """Raises JournalBroken where others than root can change the state folder, what is in it, or
    the way to it or to the key."""
    wrong = trusted.fault(directory) or trusted.record_fault(directory, NAMES)
    if wrong is None and key:
        wrong = trusted.fault(os.path.dirname(os.path.abspath(key)))
    if wrong is not None:
        raise _broken(wrong)


def check_records(folder: str, names: Sequence[str]) -> None:
    """Raises JournalBroken where others than root can change a handover's folder, or one of these
    files in it; the folder above has been checked."""
    above, name = os.path.split(folder)
    wrong = trusted.record_fault(above, (name,)) or trusted.record_fault(folder, names)
    if wrong is not None:
        raise _broken(wrong)


def _broken(wrong: trusted.Fault) -> errors.JournalBroken:
    return errors.JournalBroken(
        f"{errors.one_line(wrong.path)} {wrong.why}, and whoever writes there says which host "
        "serves", do=f"see that nobody has changed what is there, then {wrong.do}")

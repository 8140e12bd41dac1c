"""Which registrations a backstore has when it is to be served again, as one table.

Pure data: for what the kernel has, whether the device keeps its registrations (APTPL), what its
APTPL file is and how old the kept copy is, it says whether the gate may open, and with what.
actions/surviving_registrations.py finds these four out, tests/model runs the same rows, and
docs/internals/handover-protocol.md is tested against them.  A power cut cannot be told from a
reboot: both are "rebooted".

Absence of evidence is no evidence: a file that says nothing never means that there is nothing.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import FrozenSet, Iterator, List, Mapping, Tuple, TypeVar

from .table import DESTINATION, SOURCE


class Kernel(str, Enum):
    """How much of the target this host's kernel has."""

    HOLDS = "holds all of it"
    PARTS = "lost parts of it in the boot in which the gate was opened"
    REBOOTED = "rebooted, or all of it was removed"


class Keeps(str, Enum):
    """Whether the device keeps its registrations when power is lost, as the newest copy has it."""

    ON = "on"
    OFF = "off"


class File(str, Enum):
    """The newest APTPL file of the backstore."""

    WHOLE = "whole"
    PLACEHOLDER = "the kernel's own \"No Registrations or Reservations\""
    BROKEN = "empty, zeros, cut off, garbage, unreadable"
    GONE = "not there, but was when the copy was kept"
    NEVER = "not there, nor was it then"
    FOREIGN = "whole, but of ports or initiators that this backstore does not have"
    OLDER = "other than what the copy followed, and written before it"


class Copy(str, Enum):
    """The newest copy of the registrations that is kept here."""

    CURRENT = "the gate was not open since"
    FOLLOWED = "the service followed the file with it"
    OLDER = "the gate was open since"


class Survival(str, Enum):
    OPEN, STAY, ASK = "open", "stay", "ask"


class Takes(str, Enum):
    """The source of the registrations that the gate opens with."""

    KERNEL = "the kernel's"
    FILE = "the file's"
    COPY = "the copy's"
    NONE = "none"
    UNKNOWN = "–"


@dataclass(frozen=True)
class Rule:
    kernel: FrozenSet[Kernel]
    keeps: FrozenSet[Keeps]
    file: FrozenSet[File]
    copy: FrozenSet[Copy]
    answer: Survival
    takes: Takes
    why: str

    def fits(self, kernel: Kernel, keeps: Keeps, file: File, copy: Copy) -> bool:
        return kernel in self.kernel and keeps in self.keeps and file in self.file \
            and copy in self.copy


_Column = TypeVar("_Column", bound=Enum)


def _any(of: type[_Column], *choices: _Column) -> FrozenSet[_Column]:
    return frozenset(choices or of)


def _rows() -> Iterator[Rule]:
    def row(kernel: Kernel, answer: Survival, takes: Takes, why: str, *,
            keeps: Tuple[Keeps, ...] = (), file: Tuple[File, ...] = (),
            copy: Tuple[Copy, ...] = ()) -> Rule:
        return Rule(frozenset({kernel}), _any(Keeps, *keeps), _any(File, *file),
                    _any(Copy, *copy), answer, takes, why)

    passed = (Copy.FOLLOWED, Copy.OLDER)
    yield row(Kernel.HOLDS, Survival.OPEN, Takes.KERNEL, "nothing was lost")
    yield row(Kernel.PARTS, Survival.STAY, Takes.UNKNOWN,
              "what is left of it may have registrations that nothing else has")
    yield row(Kernel.REBOOTED, Survival.OPEN, Takes.COPY, "nobody could register since",
              copy=(Copy.CURRENT,))
    yield row(Kernel.REBOOTED, Survival.OPEN, Takes.FILE,
              "the kernel wrote it, and it is synced before a copy follows it",
              file=(File.WHOLE,), copy=passed)
    yield row(Kernel.REBOOTED, Survival.OPEN, Takes.NONE,
              "the kernel wrote it: none was left, or none was to outlive power",
              file=(File.PLACEHOLDER,), copy=passed)
    yield row(Kernel.REBOOTED, Survival.OPEN, Takes.NONE,
              "the kernel never wrote one: none was to outlive power",
              keeps=(Keeps.OFF,), file=(File.NEVER,), copy=passed)
    yield row(Kernel.REBOOTED, Survival.ASK, Takes.UNKNOWN,
              "the last PERSISTENT RESERVE OUT is not known: in the copy somebody may be missing, "
              "or be who was preempted since", copy=passed)


#: The first row that fits counts.
TABLE: Tuple[Rule, ...] = tuple(_rows())

#: The overrides where the answer is ASK.
KEPT_OVERRIDE, NONE_OVERRIDE = "kept-registrations", "no-registrations"

#: Where this host may serve, so where the copy follows the APTPL file.
FOLLOWED: Mapping[str, Tuple[str, ...]] = {
    SOURCE: ("idle", "prepared", "freezing", "frozen", "thawing", "forced"),
    DESTINATION: ("armed", "opening", "serving", "confirmed", "forced"),
}


def decide(kernel: Kernel, keeps: Keeps, file: File, copy: Copy) -> Rule:
    """The row that counts."""
    return next(row for row in TABLE if row.fits(kernel, keeps, file, copy))


def rendered() -> List[str]:
    """The table as docs/internals/handover-protocol.md has it."""
    lines = ["| kernel | APTPL | its file | the kept copy | answer | registrations | why |",
             "|---|---|---|---|---|---|---|"]
    for row in TABLE:
        taken = {file for other in TABLE[:TABLE.index(row)] if other.kernel == row.kernel
                 and other.keeps >= row.keeps and other.copy >= row.copy for file in other.file}
        lines.append("| " + " | ".join((
            _said(Kernel, row.kernel), _said(Keeps, row.keeps), _said(File, row.file - taken),
            _said(Copy, row.copy), f"**{row.answer.value}**", row.takes.value, row.why)) + " |")
    return lines


def _said(of: type[_Column], choices: FrozenSet[_Column]) -> str:
    if choices == frozenset(of):
        return "any"
    return "; ".join(str(member.value) for member in of if member in choices)

"""libiscsi's test suite: some 230 questions to a LUN, and the verdict on each answer.

    suite = Suite(bed, "198.18.0.100", "iqn.…")
    suite.run("ProutReserve", lun=0)    # {"ProutReserve.Simple": Verdict("passed"), …}
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import LabError

if TYPE_CHECKING:
    from .bed import Lab

#: The names under which it logs in: the tests of reservations need two initiators.
INITIATORS = ("iqn.2003-01.org.example:conformance", "iqn.2003-01.org.example:conformance-2")

_TEST = re.compile(r"^  Test: (\S+) \.\.\.", re.M)
_END = re.compile(r"^Run Summary:", re.M)
_SKIPPED = re.compile(r"\[SKIPPED\] (.*)")
#: CUnit's own word, right behind the test's name or at the start of the line after what it said.
_WORD = re.compile(r"^(passed|FAILED)\b", re.M)
#: Which assertions did not hold: `1. test_inquiry.c:71  - CU_ASSERT_EQUAL(_r,0)`.
_ASSERTION = re.compile(r"^ +\d+\. (\S+\.c:\d+) ", re.M)


@dataclass(frozen=True)
class Verdict:
    """passed, FAILED or SKIPPED; with the assertions that failed, or why it was skipped."""

    word: str
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.word} ({'; '.join(self.why)})" if self.why else self.word


class Suite:
    """The suite against one target, through two of its portals (they are two paths to it)."""

    def __init__(self, bed: Lab, address: str, target: str, ports: tuple[int, int] = (3260, 3261)
                 ) -> None:
        self.bed = bed
        self._portals = [f"iscsi://{address}:{port}/{target}" for port in ports]

    @staticmethod
    def tests(bed: Lab) -> list[str]:
        """Every test that the program lists, as `FAMILY.TEST`."""
        words = [word.split(".") for word in
                 bed.run_in_network(["iscsi-test-cu", "--list"]).stdout.split()]
        return sorted(".".join(word[1:]) for word in words if word[0] == "ALL" and len(word) == 3)

    def run(self, family: str, lun: int, timeout: float = 60) -> dict[str, Verdict]:
        """The verdicts of a family on a LUN: `FAMILY.TEST` → verdict.  It destroys the data."""
        done = self.bed.run_in_network(
            ["iscsi-test-cu", "--dataloss", "--allow-sanitize", "--verbose",
             "-i", INITIATORS[0], "-I", INITIATORS[1], "-t", f"ALL.{family}",
             *(f"{portal}/{lun}" for portal in self._portals)], timeout=timeout, check=False)
        found = dict(parse(family, done.stdout))
        if not found:
            raise LabError(f"iscsi-test-cu said nothing of {family}: "
                           f"{(done.stderr or done.stdout).strip()}")
        return found

    def run_all(self, families: Iterable[str], lun: int) -> dict[str, Verdict]:
        """The verdicts of several families."""
        found: dict[str, Verdict] = {}
        for family in families:
            found.update(self.run(family, lun))
        return found


def parse(family: str, text: str) -> Iterator[tuple[str, Verdict]]:
    """What CUnit printed of a family → (FAMILY.TEST, verdict).

    Raises LabError where a test has no verdict, as it is where the program died in it.
    """
    end = _END.search(text)
    starts = [*_TEST.finditer(text)]
    for one, after in zip(starts, [*(match.start() for match in starts[1:]),
                                   end.start() if end else len(text)]):
        said = text[one.end():after]
        word = _WORD.search(said)
        if word is None or end is None and one is starts[-1]:
            raise LabError(f"iscsi-test-cu did not come to an end in {family}.{one[1]}: "
                           f"{said.strip()[-500:]}")
        skipped = _SKIPPED.findall(said)
        if word[1] == "passed" and skipped:
            yield f"{family}.{one[1]}", Verdict("SKIPPED", tuple(skipped))
        else:
            yield f"{family}.{one[1]}", Verdict(word[1], tuple(_ASSERTION.findall(said)))

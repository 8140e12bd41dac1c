"""libiscsi's suite judges a target before its move and after it: no verdict may differ."""
from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.lab import barehands, conformance, inside
from tests.lab.conformance import Suite, Verdict, parse
from tests.support import inhost

SERVICE = "198.18.0.100"
TARGET = "iqn.2003-01.org.example:judged"
SIZE = 64 * lab.MiB
#: Three LUNs that differ in what the suite asks of them: one in full, one that can be told to
#: forget blocks, and one that may only be read.
PLAIN, THIN, READ_ONLY = range(3)
LUNS = {"plain": PLAIN, "thin": THIN, "read-only": READ_ONLY}

#: What an initiator asks first, and all that reservations can be asked; seconds.
QUICK = ("ExtendedCopy", "Inquiry", "ModeSense6", "PrinReadKeys", "PrinReportCapabilities",
         "PrinServiceactionRange", "ProutClear", "ProutPreempt", "ProutRegister", "ProutReserve",
         "ReadCapacity16", "ReadOnly", "ReportSupportedOpcodes", "Unmap")


def serve(plain: str, read_only: str) -> None:
    """The target, by bare hands: two portals, an ACL for each of the suite's initiators."""
    thin = barehands.iblock("thin", "/dev/ubda", 1)
    for name in ("emulate_tpu", "emulate_tpws", "unmap_zeroes_data"):
        Path(thin, "attrib", name).write_text("1")
    tpg = Path(barehands.iscsi(TARGET, SERVICE, {
        PLAIN: barehands.fileio("plain", plain, SIZE, 0), THIN: thin,
        READ_ONLY: barehands.fileio("read-only", read_only, SIZE, 2)}, conformance.INITIATORS))
    (tpg / "np" / f"{SERVICE}:3261").mkdir()
    for name in conformance.INITIATORS:
        (tpg / "acls" / name / f"lun_{READ_ONLY}" / "write_protect").write_text("1")


#: Tests that wait some seconds for what the kernel does in its own time, which on a busy machine
#: can be too short on either host: these get another try, and a reason.
IN_ITS_OWN_TIME = {
    "Reserve6.Logout": "the kernel releases the LUN when it has taken the session apart",
    "Reserve6.ITNexusLoss": "the kernel releases the LUN when it has taken the session apart",
}
TRIES = 3


class Judged:
    """The target on the first of two hosts with one kernel, and its move to the second."""

    def __init__(self, bed: lab.Lab, here: lab.Host, there: lab.Host) -> None:
        self.bed, self.here, self.there = bed, here, there
        paths = [bed.shared / "plain.img", bed.shared / "read-only.img"]
        for path in paths:
            path.write_bytes(b"\0" * SIZE)
        here.call(serve, *map(str, paths))
        here.call(inside.add_address, SERVICE)
        self.suite = Suite(bed, SERVICE, TARGET)

    def move(self) -> None:
        self.here.call(inhost.freeze)
        document = self.here.call(inhost.export)
        self.there.call(inhost.import_, document)
        self.bed.move_address(SERVICE, self.here, self.there)
        self.here.call(inhost.remove, ("reserved",))

    def again(self, before: dict[str, Verdict], lun: int) -> dict[str, Verdict]:
        """The verdicts of the same families now."""
        families = sorted({name.partition(".")[0] for name in before})
        after = self.suite.run_all(families, lun)
        for _ in range(TRIES - 1):
            late = {name.partition(".")[0] for name in IN_ITS_OWN_TIME
                    if name in before and after.get(name) != before[name]}
            for name, verdict in self.suite.run_all(sorted(late), lun).items():
                if name in IN_ITS_OWN_TIME:
                    after[name] = verdict
        return after


def compared(before: dict[str, Verdict], after: dict[str, Verdict]) -> list[str]:
    """Each test whose verdict is not the same; prints how many are."""
    words = Counter(one.word for one in before.values())
    changed = [f"{name}: {before.get(name)} became {after.get(name)}"
               for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    print(f"{len(before)} tests: {dict(words)}; {len(changed)} verdicts changed")
    return changed


def test_no_verdict_changes_with_a_move(bed: lab.Lab, hosts: HostsOf) -> None:
    judged = Judged(bed, *hosts("newest", "newest"))
    before = {lun: judged.suite.run_all(QUICK, lun) for lun in LUNS.values()}
    judged.move()
    for lun, verdicts in before.items():
        assert compared(verdicts, judged.again(verdicts, lun)) == []
    # It is a suite that can tell these LUNs apart.
    assert before[PLAIN]["Unmap.Simple"].word == "SKIPPED"
    assert before[THIN]["Unmap.Simple"].word != "SKIPPED"
    assert before[READ_ONLY]["ProutReserve.Simple"].word == "FAILED"    # it is write-protected
    assert {name: str(one) for name, one in before[PLAIN].items()
            if name.startswith("Prout") and one.word != "passed"} == {}


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", LUNS)
@pytest.mark.parametrize("role", lab.ROLES)
def test_no_verdict_of_the_whole_suite_changes_with_a_move(
        role: str, kind: str, bed: lab.Lab, hosts: HostsOf) -> None:
    judged = Judged(bed, *hosts(role, role))
    tests = Suite.tests(bed)
    families = sorted({name.partition(".")[0] for name in tests})
    before = judged.suite.run_all(families, LUNS[kind])
    assert sorted(before) == tests      # none is left out
    judged.move()
    assert compared(before, judged.again(before, LUNS[kind])) == []


SAID = """
Suite: Reserve6
  Test: Simple ...passed
  Test: Logout ...    Take out a RESERVE6 from the first initiator
    RELEASE6 from the second initiator
passed
  Test: Warm ...    [SKIPPED] WarmReset is not implemented
passed
  Test: Wrong ...    [FAILED] wrong sense
FAILED
    1. test_wrong.c:71  - CU_ASSERT_EQUAL(_r,0)
    2. test_wrong.c:123  - CU_ASSERT_EQUAL(_r,0)
  Test: Reset ...passed    [FAILED] PRIN command: failed with sense.

Run Summary:    Type  Total    Ran Passed Failed Inactive
"""


def test_each_verdict_is_read() -> None:
    assert dict(parse("Reserve6", SAID)) == {
        "Reserve6.Simple": Verdict("passed"), "Reserve6.Logout": Verdict("passed"),
        "Reserve6.Warm": Verdict("SKIPPED", ("WarmReset is not implemented",)),
        "Reserve6.Wrong": Verdict("FAILED", ("test_wrong.c:71", "test_wrong.c:123")),
        "Reserve6.Reset": Verdict("passed")}


def test_a_suite_that_dies_is_no_verdict() -> None:
    for end in (SAID.index("\nRun Summary"), SAID.index("FAILED\n    1.")):
        with pytest.raises(lab.LabError, match="did not come to an end in Reserve6"):
            dict(parse("Reserve6", SAID[:end]))

"""Kernels that an initiator can crash are named, and no others."""
from __future__ import annotations

import pytest

from lio_handover.kernel import fixes
from lio_handover.kernel.fixes import FIXES, lacking, notes, version
from tests import lab


@pytest.mark.parametrize("release, build, known", [
    ("6.1.0-49-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-04)", (6, 1, 176)),
    ("6.12.113+deb13-amd64", "#1 SMP Debian 6.12.113-1 (2026-11-05)", (6, 12, 113)),
    ("6.1.176", "#1 Sat Jul  4 15:38:16 UTC 2026", (6, 1, 176)),
    ("5.14.0-687.44.1.el9_8.x86_64", "#1 SMP PREEMPT_DYNAMIC", None),
    ("6.8.0-41-generic", "#41-Ubuntu SMP", None),
    ("7.2.7-200.fc44.x86_64", "#1 SMP", None)])
def test_the_upstream_version(release: str, build: str,
                              known: tuple[int, int, int] | None) -> None:
    assert version(release, build) == known


@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: fix.cve)
def test_a_branch_has_a_fix_from_its_release_on(fix: fixes.Fix) -> None:
    assert tuple(sorted(fix.fixed)) == fix.fixed and fix.since < fix.fixed[0]
    for first in fix.fixed:
        assert fix not in lacking(first) and fix in lacking((*first[:2], first[2] - 1))
    last = fix.fixed[-1]
    assert fix not in lacking((last[0], last[1] + 1, 0)) and fix not in lacking((99, 0, 0))
    # A branch that ended before its fix never gets it.
    assert fix in lacking((6, 3, 999))


def test_one_line_for_a_kernel() -> None:
    said, = notes("6.1.150")
    assert said == ("this host's kernel (6.1.150) lacks the fixes of CVE-2025-68782, "
                    "CVE-2026-23193, CVE-2026-63886, CVE-2026-63887, CVE-2026-72084: who reaches "
                    "an iSCSI portal can crash it; update it")
    assert notes("6.1.178") == notes("5.14.0-687.44.1.el9_8.x86_64") == ()


def warned(path: str) -> tuple[str, ...]:
    return fixes.notes()


@pytest.mark.full
def test_which_of_the_labs_kernels_lack_fixes(bed: lab.Lab, each_host: lab.Host) -> None:
    lacks = {cve for note in each_host.call(warned, "") for cve in note.split() if "CVE" in cve}
    expected = {"CVE-2026-72084:"} if each_host.release == "6.1.176" else set()
    assert lacks == expected

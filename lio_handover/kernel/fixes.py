"""Kernels that an initiator can crash, or worse: which fixes the running one lacks.

Pure data and one look at os.uname().  A warning, never a refusal: both hosts of a handover are as
much at risk before it as after.
"""
from __future__ import annotations

import os
import re
from typing import Dict, NamedTuple, Optional, Tuple

Version = Tuple[int, int, int]

INITIATOR, ISCSI = "an initiator or a guest", "who reaches an iSCSI portal"


class Fix(NamedTuple):
    """A row.  ``who``: the actor that can do harm; ``since``: the first release with the fault;
    ``fixed``: for each stable branch the first release with the fix.  Every branch after the last
    of them has the fix from mainline."""

    cve: str
    who: str
    since: Version
    fixed: Tuple[Version, ...]
    source: str


def _versions(text: str) -> Tuple[Version, ...]:
    versions = []
    for word in text.split():
        numbers = [int(number) for number in word.split(".")]
        versions.append((numbers[0], numbers[1], numbers[2]))
    return tuple(versions)


def _fix(cve: str, who: str, since: str, fixed: str) -> Fix:
    return Fix(cve, who, _versions(since)[0], _versions(fixed),
               f"the kernel's CVE record (cve.org/CVERecord?id={cve})")


#: By the kernel's own CVE records, as they stood at the end of November 2026.
FIXES: Tuple[Fix, ...] = (
    _fix("CVE-2026-72084", INITIATOR, "2.6.38",
         "5.10.266 5.15.212 6.1.178 6.6.145 6.12.97 6.18.40 7.1.5"),
    _fix("CVE-2026-63887", ISCSI, "3.1.0",
         "5.10.259 5.15.210 6.1.176 6.6.143 6.12.93 6.18.35 7.0.12"),
    _fix("CVE-2026-63886", ISCSI, "6.0.0", "6.1.176 6.6.143 6.12.93 6.18.35 7.0.12"),
    _fix("CVE-2026-23193", ISCSI, "3.1.0",
         "5.10.250 5.15.200 6.1.163 6.6.124 6.12.70 6.18.10"),
    _fix("CVE-2025-68782", INITIATOR, "5.8.0",
         "5.10.248 5.15.198 6.1.160 6.6.120 6.12.64 6.18.3"),
    _fix("CVE-2025-38399", INITIATOR, "5.9.0",
         "5.10.240 5.15.187 6.1.144 6.6.97 6.12.37 6.15.6"),
)


def version(release: str, build: str) -> Optional[Version]:
    """The upstream version of a kernel by its ``uname -r`` and ``uname -v``, None where the number
    says nothing of its fixes.

    Debian's release is the name of an ABI, its upstream version stands in the build ("Debian
    6.1.176-1"); other distributions bring fixes to older numbers.
    """
    match = re.search(r"\bDebian (\d+)\.(\d+)\.(\d+)", build) or re.fullmatch(
        r"(\d+)\.(\d+)\.(\d+)\+?", release)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def lacking(running: Version) -> Tuple[Fix, ...]:
    """The fixes that a kernel of this upstream version lacks."""
    fixes = []
    for fix in FIXES:
        branches: Dict[Tuple[int, int], Version] = {fixed[:2]: fixed for fixed in fix.fixed}
        first = branches.get(running[:2])
        is_fixed = running >= first if first else running >= fix.fixed[-1]
        if running >= fix.since and not is_fixed:
            fixes.append(fix)
    return tuple(fixes)


def notes(release: str = "", build: str = "") -> Tuple[str, ...]:
    """At most one line, about the running kernel, or about that of ``release`` (uname -r) and
    ``build`` (uname -v)."""
    if not release:
        release, build = os.uname().release, os.uname().version
    running = version(release, build)
    if running is None:
        return ()
    fixes = lacking(running)
    if not fixes:
        return ()
    # The hosts that reach a portal include its initiators.
    who = ISCSI if any(fix.who == ISCSI for fix in fixes) else INITIATOR
    number = ".".join(map(str, running))
    return (f"this host's kernel ({number}) lacks the fixes of "
            f"{', '.join(sorted(fix.cve for fix in fixes))}: {who} can crash it; update it",)

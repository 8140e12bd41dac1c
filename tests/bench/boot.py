"""Times the restore of a target of ours at a boot, as a whole process, against the bare calls that
make it and one bare reading of every file of it; and against targetctl's restore of the same."""
from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tests import lab

from . import inboot

SIZES = [(100, 2), (300, 2)]
QUICK = [(20, 2), (100, 2)]
MEMORY = "3G"
#: rtslib takes no mapped LUN of a higher number (rtslib/target.py:MappedLUN.MAX_LUN).
PEERS_MOST = 256
#: What is to be reached.
MOST = 1.3

Row = dict[str, Any]


def row(host: lab.Host, folder: str, luns: int, acls: int, runs: int, peer: bool) -> Row:
    """One size: seconds and ratios."""
    took = host.call(inboot.measure, folder, luns, acls, runs, peer, timeout=1500)
    bare, few = took["bare"] + took["bare read"], \
        took["bare"] + took["bare read without statistics"]
    found: Row = {"luns": luns, "acls": acls, **took, "recover_ratio_to_bare":
                  took["recover"] / bare, "recover_ratio_to_bare_without_statistics":
                  took["recover"] / few}
    if peer:
        found["targetctl_ratio_to_bare"] = took["targetctl"] / bare
        found["targetctl_ratio_to_recover"] = took["targetctl"] / took["recover"]
    return found


def table(found: Row) -> str:
    lines = [f"kernel {found['kernel']}: a restore at boot, the least of several runs each", "",
             f"{'LUNs':>5}{'ACLs':>5}{'calls':>7}{'files':>7}{'bare s':>8}{'read s':>8}"
             f"{'ours s':>8}{'ratio':>8}{'without':>9}{'targetctl':>11}{'to ours':>9}"]
    for one in found["rows"]:
        ratio, peer = one["recover_ratio_to_bare"], one.get("targetctl_ratio_to_bare")
        lines.append(
            f"{one['luns']:>5}{one['acls']:>5}{one['calls']:>7.0f}{one['files']:>7.0f}"
            f"{one['bare']:>8.3f}{one['bare read']:>8.3f}{one['recover']:>8.3f}"
            f"{ratio:>7.2f}{'!' if ratio > MOST else ' '}"
            f"{one['recover_ratio_to_bare_without_statistics']:>9.2f}"
            + ("" if peer is None else f"{peer:>11.2f}{one['targetctl_ratio_to_recover']:>9.2f}"))
    lines += ["", "ratio    our restore, a whole process, to its bare calls and a reading of every "
              f"file (to be reached: {MOST})",
              "without  the same without the files of statistics, which nothing needs",
              "targetctl  its restore to the same; to ours"]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench boot", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 and 100 LUNs")
    parser.add_argument("--json", action="store_true", help="print figures instead of the table")
    parser.add_argument("--role", default="stable", choices=lab.ROLES,
                        help="the kernel (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, metavar="N",
                        help="the least of N runs counts (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="without targetctl")
    wanted = parser.parse_args(argv)
    with lab.Lab() as bed:
        host, = bed.add(wanted.role)
        host.memory = MEMORY
        host.boot()
        folder = str(bed.shared / "bench")
        host.call(inboot.measure, folder, 2, 1, 1, False)  # what is read for the first time
        rows = []
        for luns, acls in QUICK if wanted.quick else SIZES:
            print(f"bench: {luns} LUNs x {acls} ACLs", file=sys.stderr)
            rows.append(row(host, folder, luns, acls, wanted.runs,
                            not wanted.no_peers and luns <= PEERS_MOST))
        found = {"kernel": host.release, "role": wanted.role, "rows": rows}
    print(json.dumps(found, indent=1) if wanted.json else table(found))
    return 0

"""Times a handover against the bare calls of the same target, and against its peers."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests import lab
from tests.lab import qemu
from tests.support import inbus

from . import big, boot, inhost, manage, page, shell, window

SIZES = [(luns, acls) for luns in (20, 100, 200, 1000) for acls in (1, 4)]
#: Pairs to see whether anything grows faster than the number of LUNs.
GROWTH = [(500, 1), (1000, 1), (2000, 1)]
QUICK = [(20, 1), (20, 4), (100, 1), (100, 4)]
PEERS = ("rtslib", "targetcli")
#: Seconds after which a peer is stopped.
PATIENCE = 300
#: A host needs about so much memory for a LUN that is read whole.
MEMORY = "3G"

Row = dict[str, Any]


def row(host: lab.Host, folder: str, luns: int, acls: int, runs: int) -> Row:
    """One size: seconds and ratios."""
    took = host.call(inhost.measure, folder, luns, acls, runs, timeout=1500)
    bare = took["bare stage"] + took["bare activate"]
    replay = took["stage"] + took["activate"]
    return {
        "luns": luns, "acls": acls, "calls": int(took["calls"]), "writes": int(took["writes"]),
        "bare_seconds": bare, "replay_seconds": replay,
        "replay_ratio_to_bare": replay / bare,
        "activate_seconds": took["activate"],
        "activate_ratio_to_bare": took["activate"] / took["bare activate"],
        "activate_part_of_replay": took["activate"] / replay,
        "read_back_seconds": took["verify"],
        "import_ratio_to_bare": took["import"] / (bare + took["bare read back"]),
        "read_seconds": took["bare read"], "reads": int(took["bare reads"]),
        "export_seconds": took["export"],
        "export_ratio_to_bare": took["export"] / took["bare read"],
        "read_back_ratio_to_bare": took["verify"] / took["bare read back"],
        "planning_part_of_replay": (took["document"] + took["diff"] + took["plan"]) / replay,
    }


def peers(host: lab.Host, folder: str, one: Row, patience: float, late: set[str]) -> set[str]:
    """Add what rtslib and targetcli take, None where they were stopped; those that were.

    Who was ``late`` with less is not asked again.
    """
    stopped = set()
    for kind in PEERS:
        one[f"{kind}_ratio_to_bare"] = None
        if kind in late:
            continue
        print(f"bench: {kind}, {one['luns']} LUNs x {one['acls']} ACLs", file=sys.stderr)
        try:
            took = host.call(inhost.peer, kind, folder, one["luns"], one["acls"],
                             "/etc/target/bench.json", timeout=patience)
            one[f"{kind}_ratio_to_bare"] = took["restore"] / one["bare_seconds"]
            one["rtslib_dump_ratio_to_export"] = took["dump"] / one["export_seconds"]
        except lab.HostTimeout:
            stopped.add(kind)
            print(f"bench: {kind} did not end in {patience:.0f} s, and was stopped",
                  file=sys.stderr)
        except Exception as error:      # noqa: B902 - a peer that fails is a result, too
            one[f"{kind}_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"bench: {kind}: {one[f'{kind}_error']}", file=sys.stderr)
        host.call(inhost.down, timeout=600)
    return stopped


def answers(host: lab.Host, folder: str, luns: int) -> Row:
    """How fast the service answers, idle and while it imports so many LUNs: milliseconds."""
    document = host.call(inhost.document, folder, luns, 1, timeout=600)
    service = inbus.Service(host)
    service.start(inhost.CONFIG)
    times = host.call(inbus.answer_times, document, timeout=900)
    idle, busy = inbus.p99(times["idle"]), inbus.p99(times["busy"])
    service.daemon.kill()
    host.call(inhost.down, timeout=600)
    return {"luns": luns, "calls_while_busy": len(times["busy"]), "p99_idle_ms": idle * 1000,
            "p99_busy_ms": busy * 1000, "ratio": busy / idle}


def measure(role: str, sizes: list[tuple[int, int]], runs: int, patience: float,
            with_peers: bool, with_answers: bool) -> Row:
    """All rows of one kernel."""
    with lab.Lab() as bed:
        host, = bed.add(role)
        host.memory = MEMORY
        host.boot()
        folder = str(bed.shared / "bench")
        host.call(inhost.measure, folder, 2, 1, 1)      # what is imported late, and is no part
        found: Row = {"kernel": host.release, "role": role, "rows": []}
        for luns, acls in sizes:
            print(f"bench: {luns} LUNs x {acls} ACLs", file=sys.stderr)
            # A large target is its own average.
            found["rows"].append(row(host, folder, luns, acls, max(1, min(runs, 500 // luns))))
        found["side_by_side"] = host.call(inhost.side_by_side, folder, 100, 2, timeout=300)
        if with_answers:
            found["answers"] = answers(host, folder, max(luns for luns, _acls in sizes[:8]))
        late: set[str] = set()
        for one in found["rows"] if with_peers else ():
            if (one["luns"], one["acls"]) not in GROWTH[::2]:
                late |= peers(host, folder, one, patience, late)
        return found


def main() -> int:
    """Print a table, or JSON; write a plot."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true",
                        help="20 and 100 LUNs only; a peer has one minute")
    parser.add_argument("--json", action="store_true", help="print figures instead of the table")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the ratios (SVG)")
    parser.add_argument("--role", default="newest", choices=[*lab.ROLES, *qemu.ROLES],
                        help="the kernel (default: %(default)s); vhost-* are emulated PCs")
    parser.add_argument("--runs", type=int, default=5, metavar="N",
                        help="the least of N runs counts, of fewer where there are many LUNs "
                             "(default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="without rtslib and targetcli")
    parser.add_argument("--no-service", action="store_true",
                        help="without the daemon's answers during an import")
    wanted = parser.parse_args()
    sizes = QUICK if wanted.quick else [*SIZES, *GROWTH[::2]]
    found = measure(wanted.role, sizes, wanted.runs, 60 if wanted.quick else PATIENCE,
                    not wanted.no_peers, not wanted.no_service)
    if wanted.plot:
        wanted.plot.write_text(page.plot(found))
    print(json.dumps(found, indent=1) if wanted.json else page.table(found))
    return 0


if __name__ == "__main__":
    others = {"boot": boot.main, "manage": manage.main, "shell": shell.main, "window": window.main,
              "big": big.main}
    sys.exit(others[sys.argv[1]](sys.argv[2:]) if sys.argv[1:2] and sys.argv[1] in others
             else main())

"""Measures the window of a move between two hosts, in which nobody is served: how long it is, as
the move says it and as an initiator sees it, against the bare calls; and what the product reads of
configfs and syncs meanwhile, counted from outside it."""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from bisect import bisect_right
from collections import Counter
from contextlib import nullcontext
from math import nan
from pathlib import Path
from typing import Any

from lio_handover.drivers.move import BLACKOUT, STEP_NAMES
from tests import lab
from tests.lab.host import CHECKOUT
from tests.support import inbus

from . import inhost, inwindow, peers
from .pair import Pair, build

SIZES = [1, 20, 100, 300]
QUICK = [1, 20, 100]
#: Of a guest that is stopped, on emulated PCs.
OF_VHOST = [1, 3, 8]
#: Runs of the bare calls, of which the least counts.
BARE_RUNS = 3
HERE = "head"
#: What is to be reached: of the old build's window, of the bare window, of the old build's move.
OF_OLD, OF_BARE, OF_OLD_MOVE = 1 / 20, 15, 1 / 5
#: What is to be reached: of the agents' stop and start, and of an idle service's answers.
OF_AGENTS, OF_IDLE = 1 / 50, 3
#: So many LUNs move while others ask the services.
ASKED_WITH = 1000

Row = dict[str, Any]


def offset(host: lab.Host) -> float:
    """By how many seconds a host's clock is ahead of this machine's."""
    found = []
    for _ in range(5):
        began = time.time()
        there = host.call(inwindow.now)
        ended = time.time()
        found.append((ended - began, there - (began + ended) / 2))
    return min(found)[1]


def timed(pair: Pair, luns: int) -> Row:
    seconds: list[float] = []
    with pair.probed(seconds) if pair.fabric == "iscsi" else nullcontext():
        moved = pair.move()
    pair.hosts[1].call(inwindow.serves, luns, pair.fabric)
    return {"window": moved.told["window"], "blackout": seconds[0] if seconds else nan,
            "move": moved.seconds, "steps": moved.told["seconds"]}


def counts(pair: Pair, luns: int) -> Row:
    """What is opened and synced in each step, on both hosts together."""
    offsets = [offset(host) for host in pair.hosts]
    pids = [host.call(inwindow.count) for host in pair.hosts]
    moved = pair.move()
    pair.hosts[1].call(inwindow.serves, luns, pair.fabric)
    pair.stop()
    began = [at - offsets[0] for at in moved.began]
    found: dict[str, Counter[str]] = {what: Counter() for what in ("files", "folders", "syncs")}
    for host, pid, ahead in zip(pair.hosts, pids, offsets):
        for event in host.call(inwindow.counted, pid, timeout=120):
            number = bisect_right(began, event.at - ahead) - 1
            if 0 <= number < len(STEP_NAMES):
                kind = {"file": "files", "folder": "folders"}.get(event.what, "syncs")
                found[kind][STEP_NAMES[number]] += 1
    return {what: dict(steps) for what, steps in found.items()}


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def window_of(steps: dict[str, int]) -> int:
    return sum(steps.get(name, 0) for name in BLACKOUT)


def measured(pair: Pair, folder: str, luns: int, reserved: int, runs: int, counted: bool) -> Row:
    """One size: the median of the runs, and the counts of one more."""
    if pair.running:
        pair.stop()
    row: Row = {"build": pair.build.name, "luns": luns,
                "registered": len(range(0, luns, reserved)) if reserved else 0,
                "bare_window": pair.hosts[1].call(inwindow.bare_window, folder, luns, reserved,
                                                  BARE_RUNS, pair.fabric, timeout=600)}
    took = []
    for number in range(runs):
        say(f"{pair.build.name}, {luns} LUNs, move {number + 1} of {runs}")
        pair.afresh(folder, luns, reserved)
        took.append(timed(pair, luns))
    for name in ("window", "blackout", "move"):
        row[name] = statistics.median(one[name] for one in took)
    row["steps"] = {name: statistics.median(one["steps"][name] for one in took)
                    for name in took[0]["steps"]}
    row["window_to_bare"] = row["window"] / row["bare_window"]
    row["blackout_to_bare"] = row["blackout"] / row["bare_window"]
    if counted:
        say(f"{pair.build.name}, {luns} LUNs, counted")
        pair.afresh(folder, luns, reserved, True)
        row.update(counts(pair, luns))
    return row


def answers(pair: Pair, folder: str, luns: int, reserved: int) -> Row:
    """How fast both services answer others, idle and while a target moves: 99 of 100 calls."""
    say(f"{pair.build.name}, {luns} LUNs, while others ask")
    pair.afresh(folder, luns, reserved)
    idle = [host.call(inwindow.idle_answers) for host in pair.hosts]
    asking = [host.call(inwindow.start_asking) for host in pair.hosts]
    moved = pair.move()
    busy = [host.call(inwindow.asked, pid) for host, pid in zip(pair.hosts, asking)]
    return {"luns": luns, "move": moved.seconds, "hosts": [
        {"host": name, "calls": len(times), "p99_idle_ms": inbus.p99(quiet) * 1000,
         "p99_busy_ms": inbus.p99(times) * 1000, "ratio": inbus.p99(times) / inbus.p99(quiet)}
        for name, quiet, times in zip(("source", "destination"), idle, busy)]}


def peer_rows(pair: Pair, folder: str, luns: int, reserved: int) -> list[Row]:
    """The same target taken over by each peer, once; an error where one fails."""
    if pair.running:
        pair.stop()
    rows = []
    for name, peer in peers.PEERS.items():
        say(f"{name}, {luns} LUNs")
        row: Row = {"peer": name, "luns": luns}
        try:
            row.update(peer(pair, folder, luns, reserved))
        except Exception as error:      # noqa: B902 - a peer that fails is a result, too
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            say(f"{name}: {row['error']}")
        rows.append(row)
    return rows


def measure(sizes: list[int], reserved: int, runs: int, old: Path | None, counted: bool,
            with_peers: bool, asked: bool, fabric: str = "iscsi") -> Row:
    found: Row = {"source": "", "destination": "", "rows": [], "peers": []}
    with lab.Lab() as bed:
        folder = str(bed.shared / "bench")
        for name, tree in {"old": old, HERE: CHECKOUT}.items():
            if tree is None:
                continue
            pair = Pair(bed, build(name, tree, bed.shared), fabric=fabric)
            found["source"], found["destination"] = (host.release for host in pair.hosts)
            for luns in sizes:
                found["rows"].append(measured(pair, folder, luns, reserved, runs, counted))
                if name == HERE and with_peers and luns <= peers.MOST:
                    found["peers"] += peer_rows(pair, folder, luns, reserved)
            if name == HERE and asked:
                found["answers"] = answers(pair, folder, ASKED_WITH, reserved)
            pair.off()
    by_size = {row["luns"]: row for row in found["rows"] if row["build"] == HERE}
    for before in (row for row in found["rows"] if row["build"] != HERE):
        for name in ("window", "blackout", "move"):
            by_size[before["luns"]][f"{name}_to_old"] = by_size[before["luns"]][name] / before[name]
    for row in found["peers"]:
        if "window" in row:
            row["window_of_ours"] = by_size[row["luns"]]["window"] / row["window"]
    return found


def table(found: Row) -> str:
    lines = [f"a move by ssh from kernel {found['source']} to {found['destination']}, seconds", "",
             f"{'build':>6}{'LUNs':>6}{'bare':>8}{'window':>9}{'to bare':>9}{'blackout':>10}"
             f"{'to bare':>9}{'move':>8}{'to old':>9}{'move to old':>13}{'retire/LUN':>12}"]
    for row in found["rows"]:
        old = f"{row['window_to_old']:>9.3f}{row['move_to_old']:>13.3f}" \
            if "window_to_old" in row else f"{'-':>9}{'-':>13}"
        lines.append(
            f"{row['build']:>6}{row['luns']:>6}{row['bare_window']:>8.4f}{row['window']:>9.3f}"
            f"{row['window_to_bare']:>9.0f}{row['blackout']:>10.3f}{row['blackout_to_bare']:>9.0f}"
            f"{row['move']:>8.2f}{old}{row['steps']['retire'] / row['luns']:>12.4f}")
    lines += ["", "seconds of each step", f"{'build':>6}{'LUNs':>6}" + "".join(
        f"{name:>9}" for name in STEP_NAMES)]
    for row in found["rows"]:
        lines.append(f"{row['build']:>6}{row['luns']:>6}" + "".join(
            f"{row['steps'].get(name, 0):>9.2f}" for name in STEP_NAMES))
    for what, words in (("files", "files of configfs opened"), ("folders", "folders of configfs "
                                                                "opened"), ("syncs", "syncs")):
        rows = [row for row in found["rows"] if what in row]
        if rows:
            lines += ["", f"{words}, on both hosts together", f"{'build':>6}{'LUNs':>6}" + "".join(
                f"{name:>9}" for name in STEP_NAMES) + f"{'window':>9}{'a LUN':>8}"]
        for row in rows:
            lines.append(f"{row['build']:>6}{row['luns']:>6}" + "".join(
                f"{row[what].get(name, 0):>9}" for name in STEP_NAMES)
                + f"{window_of(row[what]):>9}{window_of(row[what]) / row['luns']:>8.1f}")
    return "\n".join([*lines, *_peer_lines(found), *_answer_lines(found)]) + "\n" + LEGEND


def _peer_lines(found: Row) -> list[str]:
    if not found["peers"]:
        return []
    lines = ["", "the same target by others: they bring no registration", f"{'peer':>10}"
             f"{'LUNs':>6}{'window':>9}{'blackout':>10}{'whole':>9}{'registrations':>15}"
             f"{'our window to its':>19}"]
    for row in found["peers"]:
        lines.append(f"{row['peer']:>10}{row['luns']:>6}" + (
            f"  {row['error']}" if "error" in row else
            f"{row['window']:>9.2f}{row['blackout']:>10.2f}{row['move']:>9.2f}"
            f"{row['registrations']:>15}{row['window_of_ours']:>19.4f}"))
    return lines


def _answer_lines(found: Row) -> list[str]:
    told = found.get("answers")
    return [] if told is None else ["", *(
        f"while {told['luns']} LUNs move, 99 of 100 calls are answered on the {one['host']} in "
        f"{one['p99_busy_ms']:.0f} ms, idle in {one['p99_idle_ms']:.0f} ms: {one['ratio']:.1f} x "
        f"({one['calls']} calls; to be reached: {OF_IDLE})" for one in told["hosts"])]


LEGEND = f"""
bare      links, registrations and the gate by bare calls on the destination: the least of some
window    {BLACKOUT[0]} to {BLACKOUT[-1]}, as move says it; the median of the runs, as what follows
blackout  from the last answer to the first of an initiator that asks every millisecond
move      the whole command
counts    of one more run: files and folders by fanotify, syncs by strace; window: all of its steps
targetcli saveconfig and scp while the source serves; window: clearconfig on it, then restoreconfig
agents    window: iSCSILogicalUnit and iSCSITarget stop on the source, then start on the destination
          (to be reached by our window: {OF_AGENTS} of it); blackout: of LUN 0, stopped last
"""


def main(argv: list[str]) -> int:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench window", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} LUNs, one run of each")
    parser.add_argument("--luns", type=int, nargs="+", metavar="N",
                        help=f"sizes (default: {SIZES}), such as 1000")
    parser.add_argument("--vhost", action="store_true",
                        help=f"a vhost target, without its guest, on emulated PCs: {OF_VHOST} LUNs")
    parser.add_argument("--runs", type=int, metavar="N",
                        help="the median of N runs counts (default: 3)")
    parser.add_argument("--reserved", type=int, default=inhost.RESERVED, metavar="N",
                        help="every N-th LUN has a registration, with 0 none (default: "
                             "%(default)s)")
    parser.add_argument("--old", type=Path, metavar="DIR",
                        help="measure the build in DIR, too: a worktree of an older commit")
    parser.add_argument("--no-counts", action="store_true", help="only times")
    parser.add_argument("--no-peers", action="store_true",
                        help=f"without targetcli and ClusterLabs' agents (up to {peers.MOST} LUNs)")
    parser.add_argument("--no-service", action="store_true",
                        help=f"without the services' answers while {ASKED_WITH} LUNs move")
    parser.add_argument("--json", action="store_true", help="print figures instead of the table")
    wanted = parser.parse_args(argv)
    usual = OF_VHOST if wanted.vhost else QUICK if wanted.quick else SIZES
    found = measure(wanted.luns or usual, 0 if wanted.vhost else wanted.reserved,
                    wanted.runs or (1 if wanted.quick else 3), wanted.old, not wanted.no_counts,
                    not (wanted.no_peers or wanted.vhost),
                    not (wanted.no_service or wanted.quick or wanted.vhost),
                    "vhost" if wanted.vhost else "iscsi")
    print(json.dumps(found, indent=1) if wanted.json else table(found))
    return 0

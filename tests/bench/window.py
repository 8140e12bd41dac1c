"""Measures the window of a move between two hosts, in which nobody is served: how long it is, as
the move says it and as an initiator sees it, against the bare calls; and what the product reads of
configfs and syncs meanwhile, counted from outside it."""
from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lio_handover.drivers.move import BLACKOUT, STEP_NAMES
from tests import lab
from tests.lab.host import CHECKOUT
from tests.support import inmove, inopens, neighbour
from tests.support.inbus import Service

from . import inhost, inwindow

SIZES = [1, 20, 100, 300]
QUICK = [1, 20, 100]
SOURCE, DESTINATION = "stable", "newest"
MEMORY = "2G"
#: Runs of the bare calls, of which the least counts.
BARE_RUNS = 3
HERE = "head"
#: What is to be reached: of the old build's window, of the bare window, of the old build's move.
OF_OLD, OF_BARE, OF_OLD_MOVE = 1 / 20, 15, 1 / 5

Row = dict[str, Any]


@dataclass(frozen=True)
class Build:
    """A tree of the product, where the hosts find it."""

    name: str
    folder: Path

    @property
    def program(self) -> list[str]:
        return ["/usr/bin/python3", str(self.folder / "scripts" / "lio-handover")]

    @property
    def daemon(self) -> str:
        return neighbour.DAEMON.format(folder=str(self.folder))


def build(name: str, tree: Path, shared: Path) -> Build:
    """A copy of a tree, with its modules compiled, as a package has them."""
    folder = shared / f"build-{name}"
    for part in neighbour.PARTS:
        shutil.copytree(tree / part, folder / part,
                        ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(folder / neighbour.PARTS[0])],
                   env=neighbour.ENVIRONMENT, check=True)
    return Build(name, folder)


class Pair:
    """Two booted hosts that reach each other by ssh, and their services, of one build."""

    def __init__(self, bed: lab.Lab, made: Build) -> None:
        self.bed, self.build = bed, made
        self.hosts = bed.add(SOURCE, DESTINATION)
        for host in self.hosts:
            host.memory = MEMORY
        keys = bed.shared / "keys"
        if not keys.exists():
            keys.mkdir()
            inmove.make_keys(keys)
        names = {host.name: host.address for host in self.hosts}

        def ready(host: lab.Host) -> Service:
            host.boot()
            host.call(inmove.serve_ssh, str(keys))
            host.call(inmove.reach, str(keys), names)
            service = Service(host)
            service.start(inhost.CONFIG, made.daemon)
            return service

        with ThreadPoolExecutor(2) as both:
            self.services = list(both.map(ready, self.hosts))
        self.running = True

    def stop(self) -> None:
        self.running = False
        for service in self.services:
            service.call(inmove.stop_service)
            service.daemon.wait()

    def afresh(self, folder: str, luns: int, reserved: int, counted: bool = False) -> None:
        """The first host serves; neither service knows of a handover."""
        a, b = self.hosts
        if self.running:
            self.stop()
        b.call(inwindow.clear, timeout=300)
        a.call(inwindow.serve, folder, luns, reserved, timeout=300)
        daemon = inopens.noting_syncs(inwindow.SYNCS, inwindow.DAEMON) if counted \
            else self.build.daemon
        for service in self.services:
            service.call(Path.write_text, Path(inwindow.DAEMON), self.build.daemon)
            service.restart(daemon)
        self.running = True

    def move(self) -> inwindow.Moved:
        a, b = self.hosts
        moved = a.call(inwindow.move, self.build.program, neighbour.ENVIRONMENT, b.name, a.name,
                       timeout=900)
        if len(moved.began) != len(STEP_NAMES) + 1:
            raise RuntimeError(f"the steps were not seen: {moved}")
        return moved

    @contextmanager
    def probed(self, seconds: list[float]) -> Iterator[None]:
        """An initiator asks while the target moves; ``seconds`` gets how long nobody answered."""
        a, b = self.hosts
        with self.bed.namespace.popen(
                [sys.executable, "-m", "tests.bench.prober", a.address, b.address, inhost.IQN,
                 inhost.INITIATOR.format(0)], cwd=CHECKOUT, stdout=subprocess.PIPE,
                text=True) as one:
            try:
                assert one.stdout is not None
                if one.stdout.readline() != "ready\n":
                    raise RuntimeError("the initiator is not answered")
                yield
                seconds.append(float(one.stdout.readline()))
            finally:
                one.kill()

    def off(self) -> None:
        for host in self.hosts:
            host.kill()


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
    with pair.probed(seconds):
        moved = pair.move()
    pair.hosts[1].call(inwindow.serves, luns)
    return {"window": moved.told["window"], "blackout": seconds[0], "move": moved.seconds,
            "steps": moved.told["seconds"]}


def counts(pair: Pair, luns: int) -> Row:
    """What is opened and synced in each step, on both hosts together."""
    offsets = [offset(host) for host in pair.hosts]
    pids = [host.call(inwindow.count) for host in pair.hosts]
    moved = pair.move()
    pair.hosts[1].call(inwindow.serves, luns)
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
                                                  BARE_RUNS, timeout=600)}
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


def measure(sizes: list[int], reserved: int, runs: int, old: Path | None, counted: bool) -> Row:
    found: Row = {"source": "", "destination": "", "rows": []}
    with lab.Lab() as bed:
        trees = {"old": old, HERE: CHECKOUT}
        for name, tree in trees.items():
            if tree is None:
                continue
            pair = Pair(bed, build(name, tree, bed.shared))
            found["source"], found["destination"] = (host.release for host in pair.hosts)
            for luns in sizes:
                found["rows"].append(measured(pair, str(bed.shared / "bench"), luns, reserved, runs,
                                              counted))
            pair.off()
    for row in found["rows"]:
        for before in found["rows"]:
            if before["build"] == "old" and row["build"] == HERE and before["luns"] == row["luns"]:
                for name in ("window", "blackout", "move"):
                    row[f"{name}_to_old"] = row[name] / before[name]
    return found


def table(found: Row) -> str:
    lines = [f"a move by ssh from kernel {found['source']} to {found['destination']}, seconds", "",
             f"{'build':>6}{'LUNs':>6}{'bare':>8}{'window':>9}{'to bare':>9}{'blackout':>10}"
             f"{'to bare':>9}{'move':>8}{'to old':>9}{'move to old':>13}"]
    for row in found["rows"]:
        lines.append(
            f"{row['build']:>6}{row['luns']:>6}{row['bare_window']:>8.4f}{row['window']:>9.3f}"
            f"{row['window_to_bare']:>9.0f}{row['blackout']:>10.3f}{row['blackout_to_bare']:>9.0f}"
            f"{row['move']:>8.2f}" + (f"{row['window_to_old']:>9.3f}{row['move_to_old']:>13.3f}"
                                      if "window_to_old" in row else ""))
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
    return "\n".join(lines) + "\n" + LEGEND


LEGEND = f"""
bare      links, registrations and the gate by bare calls on the destination: the least of some
window    {BLACKOUT[0]} to {BLACKOUT[-1]}, as move says it; the median of the runs, as what follows
blackout  from the last answer to the first of an initiator that asks every millisecond
move      the whole command
counts    of one more run: files and folders by fanotify, syncs by strace; window: all of its steps
"""


def main(argv: list[str]) -> int:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench window", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} LUNs, one run of each")
    parser.add_argument("--luns", type=int, nargs="+", metavar="N",
                        help=f"sizes (default: {SIZES})")
    parser.add_argument("--runs", type=int, metavar="N",
                        help="the median of N runs counts (default: 3)")
    parser.add_argument("--reserved", type=int, default=inhost.RESERVED, metavar="N",
                        help="every N-th LUN has a registration, with 0 none (default: "
                             "%(default)s)")
    parser.add_argument("--old", type=Path, metavar="DIR",
                        help="measure the build in DIR, too: a worktree of an older commit")
    parser.add_argument("--no-counts", action="store_true", help="only times")
    parser.add_argument("--json", action="store_true", help="print figures instead of the table")
    wanted = parser.parse_args(argv)
    found = measure(wanted.luns or (QUICK if wanted.quick else SIZES), wanted.reserved,
                    wanted.runs or (1 if wanted.quick else 3), wanted.old, not wanted.no_counts)
    print(json.dumps(found, indent=1) if wanted.json else table(found))
    return 0

"""Runs everything once with a few LUNs and once with very many, on two hosts: seconds of each
command and step, the most memory of each process, and what grows faster than the LUNs."""
from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_right
from typing import Any

from lio_handover import errors
from lio_handover.drivers.move import STEP_NAMES
from tests import lab
from tests.lab.host import CHECKOUT
from tests.support import neighbour

from . import inbig, inhost, inwindow
from .pair import Pair, build
from .window import offset, say

SIZES = [1000, 10000]
MEMORY = "5G"
#: Seconds for one of the steps of the bench.
PATIENCE = 3000
#: Time and memory that grow by more than this factor for each tenfold of LUNs are marked.
MOST = 1.2
DOCUMENT = "/root/bench.json"

Row = dict[str, Any]


def rows(pair: Pair, folder: str, luns: int, reserved: int) -> list[Row]:
    """A row for each command and step: what, where, seconds, MiB of the largest process."""
    a, b = pair.hosts
    target = f"iscsi/{inhost.IQN}"

    def command(where: str, *words: str, accepted: tuple[int, ...] = (0,)) -> Row:
        host = a if where == "source" else b
        say(f"{luns} LUNs: {words[0]} on the {where}")
        took = host.call(inbig.run, [*pair.build.program, *words], neighbour.ENVIRONMENT, accepted,
                         timeout=PATIENCE)
        say(f"{took.seconds:.1f} s, {took.peak:.0f} MiB")
        return {"what": words[0], "where": where, "luns": luns, "seconds": took.seconds,
                "peak": {"command": took.peak}}

    pair.afresh(folder, luns, reserved)
    found = [command("source", "show", target),
             command("source", "export", target, "-o", DOCUMENT, "--allow", "all-tg-pt")]
    a.run(["scp", "-qO", DOCUMENT, f"{b.name}:{DOCUMENT}"])
    found += [command("destination", "plan", DOCUMENT, accepted=(0, errors.NotFrozen.code)),
              command("destination", "diff", DOCUMENT, accepted=(0, 1))]
    say(f"{luns} LUNs: move")
    offsets = [offset(host) for host in pair.hosts]
    looking = [host.call(inbig.start_looking) for host in pair.hosts]
    moved = pair.move(PATIENCE)
    began = [at - offsets[0] for at in moved.began]
    peaks: list[dict[str, float]] = [{} for _ in STEP_NAMES]
    for host, pid, ahead, where in zip(pair.hosts, looking, offsets, ("source", "destination")):
        for look in host.call(inbig.looked, pid, timeout=120):
            number = bisect_right(began, look.at - ahead) - 1
            if 0 <= number < len(STEP_NAMES):
                name = f"{look.process} ({where})"
                peaks[number][name] = max(peaks[number].get(name, 0), look.peak)
    found += [{"what": name, "where": "move", "luns": luns, "peak": peak,
               "seconds": moved.told["seconds"].get(name, 0)}
              for name, peak in zip(STEP_NAMES, peaks)]
    say(f"{moved.seconds:.1f} s: {moved.told['seconds']}")
    found.append({"what": "move", "where": "both", "luns": luns, "seconds": moved.seconds,
                  "peak": {}})
    found.append(command("destination", "show", target))
    found.append(command("destination", "diff", DOCUMENT, accepted=(0, 1)))
    b.call(inwindow.serves, luns)
    return found


def measure(sizes: list[int], reserved: int, memory: str) -> Row:
    found: Row = {"sizes": sizes, "rows": []}
    with lab.Lab() as bed:
        pair = Pair(bed, build("head", CHECKOUT, bed.shared), memory)
        found["source"], found["destination"] = (host.release for host in pair.hosts)
        for luns in sizes:
            found["rows"].append(rows(pair, str(bed.shared / "bench"), luns, reserved))
    return found


def growth(found: Row) -> list[tuple[Row, Row, float, float]]:
    """(row of the least size, of the most, how much seconds and memory grow beyond the LUNs)."""
    few, many = found["rows"][0], found["rows"][-1]
    factor = found["sizes"][-1] / found["sizes"][0]
    return [(one, other, other["seconds"] / max(one["seconds"], 0.001) / factor,
             _peak(other) / max(_peak(one), 1) / factor) for one, other in zip(few, many)]


def _peak(row: Row) -> float:
    return max(row["peak"].values(), default=0)


def table(found: Row) -> str:
    few, many = found["sizes"][0], found["sizes"][-1]
    lines = [f"everything once, with {few} and with {many} LUNs, kernels {found['source']} and "
             f"{found['destination']}", "",
             f"{'what':<9}{'where':<12}{f's {few}':>9}{f's {many}':>9}{'growth':>8}"
             f"{f'MiB {few}':>10}{f'MiB {many}':>11}  the largest process"]
    for one, other, seconds, _memory in growth(found):
        largest = max(other["peak"], key=other["peak"].__getitem__, default="")
        lines.append(f"{other['what']:<9}{other['where']:<12}{one['seconds']:>9.2f}"
                     f"{other['seconds']:>9.2f}{seconds:>7.2f}{'!' if seconds > MOST else ' '}"
                     f"{_peak(one):>10.0f}{_peak(other):>11.0f}  {largest}")
    return "\n".join([*lines, "", "growth  of the seconds beyond that of the LUNs: 1 is linear",
                      "MiB     the most memory that a process had until the end of that step"])


def main(argv: list[str]) -> int:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench big", description=__doc__)
    parser.add_argument("--luns", type=int, nargs="+", metavar="N", default=SIZES,
                        help="sizes, the least first (default: %(default)s)")
    parser.add_argument("--reserved", type=int, default=inhost.RESERVED, metavar="N",
                        help="every N-th LUN has a registration (default: %(default)s)")
    parser.add_argument("--memory", default=MEMORY, help="of each host (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print figures instead of the table")
    wanted = parser.parse_args(argv)
    found = measure(wanted.luns, wanted.reserved, wanted.memory)
    print(json.dumps(found, indent=1) if wanted.json else table(found), file=sys.stdout)
    return 0

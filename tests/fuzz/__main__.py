"""python3 -m tests.fuzz [--count N] [--seed S] [--reader NAME] [--only NUMBER] [--processes P]

Gives N inputs to all readers, or to one; prints for each what came of them.  The exit code is 1
where something escaped; --only gives one input of a reader again, and shows it.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from . import runner
from .readers import READERS
from .runner import Told

#: Inputs for which one process is started.
AT_ONCE = 50_000


def parts(count: int, names: Sequence[str]) -> list[tuple[str, int, int]]:
    """(reader, first number, inputs) for each process."""
    shares = sum(READERS[name].share for name in names)
    tasks = []
    for name in names:
        left, first = -(-count * READERS[name].share // shares), 0
        while left > 0:
            tasks.append((name, first, min(left, AT_ONCE)))
            first, left = first + AT_ONCE, left - AT_ONCE
    return tasks


def in_process(name: str, seed: str, first: int, count: int) -> Told:
    """Inputs of a reader in a process of its own, whose memory is thus that reader's."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--reader", name, "--seed", seed, "--first",
         str(first), "--count", str(count), "--here"], capture_output=True, check=False)
    if done.returncode:
        return Told(name, escapes=[(first, f"the process ended with {done.returncode}: "
                                           f"{done.stderr[-400:].decode(errors='replace')}")])
    tree = json.loads(done.stdout)
    return Told(**{**tree, "kinds": Counter(tree["kinds"]), "slowest": tuple(tree["slowest"]),
                   "escapes": [(number, wrong) for number, wrong in tree["escapes"]]})


def together(results: Iterable[Told]) -> Iterator[Told]:
    """The outcomes of all processes, one for each reader as soon as it is whole: the processes of a
    reader come one after the other."""
    for name, of_reader in groupby(results, key=lambda told: told.reader):
        whole = Told(name)
        for told in of_reader:
            whole.inputs += told.inputs
            whole.kinds += told.kinds
            whole.escapes += told.escapes
            whole.seconds += told.seconds
            whole.slowest = max(whole.slowest, told.slowest)
            whole.peak = max(whole.peak, told.peak)
        yield whole


def fuzz(count: int, seed: str, names: Sequence[str], processes: int) -> Iterator[Told]:
    """``count`` inputs among these readers."""
    with ThreadPoolExecutor(processes) as pool:
        yield from together(pool.map(lambda task: in_process(task[0], seed, *task[1:]),
                                     parts(count, names)))


def main() -> int:
    commands = argparse.ArgumentParser(prog="python3 -m tests.fuzz", description=__doc__)
    commands.add_argument("--count", type=int, default=20_000)
    commands.add_argument("--seed", default="1")
    commands.add_argument("--reader", choices=READERS, action="append")
    commands.add_argument("--only", type=int)
    commands.add_argument("--processes", type=int, default=2)
    commands.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    commands.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = commands.parse_args()
    names = args.reader or list(READERS)
    if args.only is not None:
        reader = READERS[names[0]]
        given = runner.made(reader, list(reader.seeds()), args.seed, args.only)
        print(given if len(repr(given)) < 20_000 else f"{repr(given)[:20_000]}...")
        print(runner.wrong_with(reader, given))
        return 0
    if args.here:
        print(json.dumps(vars(runner.run(READERS[names[0]], args.seed, args.first, args.count))))
        return 0
    results = []
    for told in fuzz(args.count, args.seed, names, args.processes):
        results.append(told)
        print(told.line(), flush=True)
        seen: set[str] = set()
        for number, wrong in told.escapes:
            if wrong.rpartition(" at ")[2] not in seen and len(seen) < 12:
                seen.add(wrong.rpartition(" at ")[2])
                print(f"  --reader {told.reader} --seed {args.seed} --only {number}: {wrong}")
    print(f"{sum(told.inputs for told in results)} inputs, "
          f"{sum(len(told.escapes) for told in results)} escapes")
    return int(any(told.escapes for told in results))


if __name__ == "__main__":
    sys.exit(main())

"""A guest under libvirt, on two hosts:

    python3 -m tests.manager killed [--slice K/N] [--results FILE] [--hosts] [POINT:PARTY...]
    python3 -m tests.manager rounds [--rounds N] [--minutes M] [--results FILE]
    python3 -m tests.manager ratios [--pairs N]

Results are kept in a file of JSON lines; what stands there is not run again.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests import lab
from tests.manager import killed, ratios, rounds
from tests.manager.pair import Pair


def say(line: str) -> None:
    print(line, flush=True)


def kept(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, result: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def booted(bed: lab.Lab) -> Pair:
    return Pair(bed, bed.hosts("stable", "newest"))


def run_killed(args: argparse.Namespace) -> int:
    number, of = (int(word) for word in args.slice.split("/"))
    wanted = [tuple(word.split(":")) for word in args.words] or \
        killed.cases(args.hosts)[number - 1::of]
    done = {(result["point"], result["party"]) for result in kept(args.results)}
    left = [case for case in wanted if case not in done]
    while left:
        with lab.Lab() as bed:
            pair = booted(bed)
            while left:
                outcome = killed.run(pair, *left.pop(0))
                keep(args.results, outcome.json())
                say(f"{outcome.point:9} {outcome.party:21} runs {'/'.join(outcome.runs) or '-':12}"
                    f" serves {'/'.join(outcome.serves) or '-':12} {'/'.join(outcome.states):20}"
                    f" {outcome.led or 'by itself':10} {outcome.seconds:4.0f} s {outcome.steps} "
                    f"{'; '.join([outcome.before, *outcome.wrong])}")
                if outcome.wrong:
                    break  # what is left of it should not spoil the next one
    results = [result for result in kept(args.results)
               if (result["point"], result["party"]) in wanted]
    wrong = [result for result in results if result["wrong"]]
    ends = Counter(("runs on " + "/".join(result["runs"]) if result["runs"] else "guest lost")
                   + (", by " + result["led"] if result["led"] else ", by itself")
                   for result in results if not result["wrong"])
    say(f"{len(results)} of {len(wanted)} cases; two served or ran: "
        f"{sum('two have run' in str(result['wrong']) for result in results)}; wrong: {len(wrong)}")
    for words, count in sorted(ends.items()):
        say(f"  {count:3} {words}")
    return 1 if wrong else 0


def run_rounds(args: argparse.Namespace) -> int:
    until = time.monotonic() + args.minutes * 60
    with lab.Lab() as bed:
        trial = rounds.Rounds(booted(bed))
        while len(kept(args.results)) < args.rounds and time.monotonic() < until:
            keep(args.results, trial.round())
            if len(kept(args.results)) % 10 == 0:
                trial.pair.one_guest()
                say(f"{len(kept(args.results))} rounds")
        trial.pair.one_guest()
        count, twice, missing = trial.pair.records()
    times = sorted(result["virsh"] for result in kept(args.results))
    say(f"{len(times)} of {args.rounds} rounds, virsh migrate took {times[len(times) // 2]} s "
        f"(median); of the last {count} records {len(missing)} lost, {len(twice)} said twice; "
        "registrations byte for byte")
    return 0


def run_ratios(args: argparse.Namespace) -> int:
    with lab.Lab() as bed:
        pair = booted(bed)
        for ask in (ratios.starts, ratios.downtimes):  # which leaves its guests running
            say(json.dumps(ask(pair, args.pairs)))
    return 0


#: The first word → what runs, and where results are kept.
RUNS = {"killed": run_killed, "rounds": run_rounds, "ratios": run_ratios}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.manager", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(RUNS))
    parser.add_argument("words", nargs="*", metavar="POINT:PARTY")
    parser.add_argument("--slice", default="1/1", metavar="K/N")
    parser.add_argument("--results", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--hosts", action="store_true", help="a host's power, too (it boots)")
    args = parser.parse_intermixed_args(words)
    args.results = args.results or Path(f"build/manager-{args.what}.json")
    args.results.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code = RUNS[args.what](args)
    say(f"{time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Explore the protocol: counts, mutants and their stories.

    python3 -m tests.model                    the default runs and mutants
    python3 -m tests.model --full             the long ones too
    python3 -m tests.model --mode vhost-qmp   only this mode
    python3 -m tests.model --mutant no-freeze one mutant, with its story
    python3 -m tests.model --matrix iscsi     the matrix of the document; --steps iscsi: its steps
"""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from lio_handover.protocol.table import Mode
from tests.model.matrix import MATRICES, matrix, steps_table
from tests.model.mutants import MUTANTS
from tests.model.runs import RUNS, SLOW_MUTANTS, run

INVARIANTS = 10  # see docs/internals/handover-protocol.md, "What was proven"


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.model", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=[mode.value for mode in Mode])
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--stories", action="store_true", help="print every mutant's story")
    parser.add_argument("--matrix", choices=[mode.value for mode in MATRICES])
    parser.add_argument("--steps", choices=[mode.value for mode in Mode])
    options = parser.parse_args(arguments)

    if options.matrix or options.steps:
        lines = matrix(Mode(options.matrix)) if options.matrix else steps_table(Mode(options.steps))
        print("\n".join(lines))
        return 0
    failures = states = transitions = caught = tried = 0
    if not options.mutant:
        for name, one in RUNS.items():
            if (one.full and not options.full) or (options.mode and one.mode.value != options.mode):
                continue
            result = run(name)
            states += result.states
            transitions += result.transitions
            print(f"{name}: {result.states} states, {result.transitions} transitions, "
                  f"{len(result.rows)} rows used, {len(result.pairs)} pairs of states, "
                  f"{result.dead_ends_checked} worlds with a host gone for good, "
                  f"{result.seconds:.1f} s: {result}", flush=True)
            failures += result.problem is not None
    for name, mutant in MUTANTS.items():
        if options.mutant not in (None, name) or options.mode not in (None, mutant.mode.value):
            continue
        if name in SLOW_MUTANTS and not (options.full or options.mutant):
            continue
        result = mutant.run()
        tried += 1
        good = result.problem is not None and mutant.expects in result.problem
        caught += good
        print(f"mutant {name} ({mutant.mode.value}): {mutant.what}: "
              f"{'caught' if good else 'NOT CAUGHT'} after {result.states} states", flush=True)
        if options.mutant or options.stories or not good:
            print(result)
    print(f"{states} states, {transitions} transitions, {INVARIANTS} invariants, "
          f"{failures} violated; {caught} of {tried} mutants caught")
    return 1 if failures or caught != tried else 0


if __name__ == "__main__":
    sys.exit(main())

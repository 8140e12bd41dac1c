#!/usr/bin/python3
"""Hand a target over to another host, from start to end; lio-handoverd runs on both.

    04_move.py TARGET HOST [THIS-HOST]

HOST is how ssh reaches the other host as root, THIS-HOST how that reaches this one.
"""
import sys

import lio_handover as lio

target, to, *here = sys.argv[1:]
result = lio.move([target], to=to, here=here[0] if here else "", progress=print)
print(f"{target} is on {to}: nobody served for {result.blackout_seconds:.2f} s")
for note in result.notes:
    print(note)

"""An initiator with a path to each of two hosts that asks TEST UNIT READY, on this machine:

    python3 -m tests.bench.prober A B TARGET INITIATOR

It asks by the path to A, one millisecond after each answer, until there is none; then it tries
the path to B as often, until it has an answer.  It prints "ready", and at the end the seconds from
the last answer to the first.
"""
from __future__ import annotations

import sys
import time

from lio_handover.scsi import cdb
from tests.lab.initiators import PORT
from tests.lab.isid import LoginRefused, Session

PAUSE = 0.001
#: Seconds that a host may take for an answer while it is busy.
PATIENCE = 5
ISIDS = "00023d000001", "00023d000002"


def main(a: str, b: str, target: str, initiator: str) -> None:
    last = 0.0
    try:
        with Session(a, PORT, target, initiator, ISIDS[0], PATIENCE) as session:
            while True:
                session.unit().execute(*cdb.test_unit_ready())
                if not last:
                    print("ready", flush=True)
                last = time.monotonic()
                time.sleep(PAUSE)
    except OSError:
        if not last:
            raise
    print(f"{first_answer(b, target, initiator) - last:.6f}", flush=True)


def first_answer(address: str, target: str, initiator: str) -> float:
    """When a host that does not serve yet first answers."""
    while True:
        try:
            with Session(address, PORT, target, initiator, ISIDS[1], PATIENCE) as session:
                session.unit().execute(*cdb.test_unit_ready())
                return time.monotonic()
        except (OSError, LoginRefused):
            time.sleep(PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])

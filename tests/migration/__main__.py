"""Run rows: python3 -m tests.migration [--list] [--on vhost-oldest] [--qemu newest] [ROW...]

python3 -m tests.migration downtime [RUNS]    how long a guest stands still
python3 -m tests.migration plain [ROW...]     without vhost-scsi, on QEMUs of this machine
"""
from __future__ import annotations

import sys
import time

from tests.lab.bed import Lab
from tests.migration import downtime, plain
from tests.migration.bench import ROLE, Bench, consoles
from tests.migration.rows import ROWS


def say(line: str) -> None:
    print(line, flush=True)


def main(words: list[str]) -> int:
    role = ROLE
    if words[:1] == ["--on"]:
        role, words = words[1], words[2:]
    age = "7.2"
    if words[:1] == ["--qemu"]:
        age, words = words[1], words[2:]
    if words[:1] == ["plain"]:
        return plain.main(words[1:])
    if words[:1] == ["downtime"]:
        return measure(role, *(int(word) for word in words[1:]))
    unknown = [word for word in words if word not in ROWS]
    if unknown:
        say("Rows:")
        for name, function in ROWS.items():
            say(f"  {name:24} {function.__doc__}")
        return 0 if unknown == ["--list"] else 2
    failed = []
    with Lab() as bed:
        began = time.monotonic()
        bench = Bench(bed, bed.hosts(role, role), say, age)
        say(f"{bench.version}; hosts and guests have Linux {bench.hosts[0].release}; two hosts "
            f"up in {time.monotonic() - began:.0f} s")
        try:
            for name in words or ROWS:
                began = time.monotonic()
                say(f"\n== {name}: {ROWS[name].__doc__}")
                try:
                    ROWS[name](bench)
                    say(f"== {name}: as the table says ({time.monotonic() - began:.0f} s)")
                except Exception as error:   # noqa: B902 - the other rows are run all the same
                    failed.append(name)
                    say(f"== {name}: NOT as the table says: {error!r}")
                    say(consoles(bench))
                    bench.clear()
        finally:
            bench.close()
    if failed:
        say(f"not as the table says: {' '.join(failed)}")
    return 1 if failed else 0


def measure(role: str, runs: int = downtime.RUNS) -> int:
    with Lab() as bed:
        bench = Bench(bed, bed.hosts(role, role), say)
        try:
            downtime.report(bench, runs)
        finally:
            bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

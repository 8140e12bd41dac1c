"""Times changes of what a host serves: `scripts/bench manage`.

``apply`` of a file of many LUNs against the bare calls that it makes and one bare reading of every
file that it reads; LUNs made one by one, by commands that the service carries out, and by calls of
D-Bus, against targetcli's one-shot calls.
"""
from __future__ import annotations

import argparse
import json
import sys

from tests import lab
from tests.support.inbus import Service

from . import inmanage


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench manage", description=__doc__)
    parser.add_argument("--luns", type=int, default=1000, help="of the file (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=250, help="LUNs one by one (default: "
                                                               "%(default)s)")
    parser.add_argument("--role", default="newest", choices=lab.ROLES)
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="the least of N counts")
    wanted = parser.parse_args(argv)
    with lab.Lab() as bed:
        host, = bed.add(wanted.role)
        host.memory = "3G"
        host.boot()
        folder = str(bed.shared / "bench")
        host.call(inmanage.of_file, folder, 2, 1)  # what is imported late, and is no part
        figures = {"kernel": host.release, "apply": host.call(
            inmanage.of_file, folder, wanted.luns, wanted.runs, timeout=1500)}
        print(json.dumps(figures, indent=1), file=sys.stderr)
        Service(host).start("[storage]\nroots =\n    /tmp\n")
        figures["one by one"] = host.call(inmanage.one_by_one, folder, wanted.calls, timeout=1500)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Times the shell beside targetcli, in the same run: `scripts/bench shell`.

One call that makes an ACL, with 2 and with 250 LUNs there; and `ls` of them.  Each call is a
process of its own, as a script makes it.  (targetcli 2.1 ends with 255 where there are 1000 LUNs.)
"""
from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tests import lab
from tests.support.inbus import Service

from . import inshell


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench shell", description=__doc__)
    parser.add_argument("--luns", type=int, nargs="+", default=[2, 250], help="that are there "
                        "(default: 2 250)")
    parser.add_argument("--ls", type=int, default=250, help="LUNs that ls draws, 0 for none "
                        "(default: %(default)s)")
    parser.add_argument("--role", default="newest", choices=lab.ROLES)
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="the least of N counts; "
                        "of targetcli, with many LUNs, one")
    wanted = parser.parse_args(argv)
    with lab.Lab() as bed:
        host, = bed.add(wanted.role)
        host.memory = "3G"
        host.boot()
        folder = str(bed.shared / "bench")
        Service(host).start("[storage]\nroots =\n    /tmp\n")  # targetcli needs its bus
        figures: dict[str, Any] = {"kernel": host.release}
        for luns in wanted.luns:
            figures[f"one call, {luns} LUNs"] = host.call(inshell.one_call, folder, luns,
                                                          wanted.runs, timeout=1500)
            print(json.dumps(figures, indent=1), file=sys.stderr)
        if wanted.ls:
            figures[f"ls, {wanted.ls} LUNs"] = host.call(inshell.listing, folder, wanted.ls,
                                                         wanted.runs, timeout=3000)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

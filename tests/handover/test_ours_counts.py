"""What verbs of many targets read grows as the number of targets does: counts, which no machine's
speed changes."""
from __future__ import annotations

from tests import lab
from tests.support import incounts, inhost

#: How much more twice as many targets may take.
TWICE = 2.1
#: Each unit is a program of its own, which lists where the host's backstores are once.
BUT = ("restore", "configfs")


def test_what_is_read_grows_as_the_targets_do(bed: lab.Lab, stable: lab.Host) -> None:
    few, many = 5, 10
    found = []
    for targets in (few, many):
        found.append(stable.call(incounts.reads, str(bed.shared), targets))
        stable.call(inhost.forget_all)
        stable.wipe()
    print(*found, sep="\n")
    assert all(counts["journals"] for counts in found[1].values()), "nothing was counted"
    worse = [f"{verb}: {what} {found[0][verb].get(what, 0)} → {count}"
             for verb, counts in found[1].items() for what, count in counts.items()
             if (verb, what) != BUT and count > TWICE * found[0][verb].get(what, 0)]
    assert not worse, worse

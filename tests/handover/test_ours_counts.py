"""What verbs of many targets read grows as the number of targets does: counts, which no machine's
speed changes."""
from __future__ import annotations

from tests import lab
from tests.support import incounts, inhost

#: How much more twice as many targets may take.
TWICE = 2.1
#: Each unit is a program of its own, which reads something of each other target, see below.
BUT = ("restore", ("configfs", "HBAs"))
#: What one target's restore reads of each other one, as the kernel has nothing by which a name, a
#: number or an address is found but the objects that may have it.  The HBA may have a backstore of
#: the same name: it is listed before and after the build; once more with the backstore's info, as
#: that may have the same file open.  The TPG may have the relative port (where targets and TPGs
#: are, its enable and its rtpi: before anything is recorded, and before the gate is opened) or the
#: portal (the TPG and its portals).
MOST_OF_ANOTHER = {"configfs": 12, "HBAs": 3}


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
             if not (verb == BUT[0] and what in BUT[1])
             and count > TWICE * found[0][verb].get(what, 0)]
    assert not worse, worse


def test_a_restore_reads_of_other_targets_no_more_than_it_has_to(
        bed: lab.Lab, stable: lab.Host) -> None:
    """And of their journals and of targetcli's file nothing."""
    found = []
    for targets in (4, 6, 8):
        found.append(stable.call(incounts.reads_of_one, str(bed.shared), targets))
        stable.call(inhost.forget_all)
        stable.wipe()
    print(*found, sep="\n")
    few, some, more = found
    assert few["HBAs"] and few["save file"] == 1
    for what in few:
        each = some[what] - few[what], more[what] - some[what]
        assert each[0] == each[1], f"{what} does not grow as the targets do: {found}"
        assert each[0] / 2 <= MOST_OF_ANOTHER.get(what, 0), f"{what} of another target: {found}"

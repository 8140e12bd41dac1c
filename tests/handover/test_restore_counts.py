"""How much a restore after a boot asks of the kernel and of the disk: counts, which no machine's
speed changes, and what each LUN adds to them."""
from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from lio_handover.document import document as documents
from lio_handover.handover.engine import HandoverEngine
from lio_handover.kernel.configfs import Configfs
from lio_handover.local.by_file import ByFile
from lio_handover.settings import load
from tests import lab
from tests.bench import inboot, inhost

#: What a LUN with two ACLs and a registration adds at most.
MOST_OF_A_LUN = {"read": 76, "entries": 5, "exists": 4, "changes": 13, "fsync": 2}
#: And what a target takes besides.
MOST_BESIDES = {"read": 110, "entries": 75, "exists": 30, "changes": 16, "fsync": 8,
                "documents": 1}


class Counting(Configfs):
    """A tree that counts how it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def read(self, path: str) -> str:
        self.counts["read"] += 1
        return super().read(path)

    def entries(self, path: str) -> tuple[list[str], list[str], list[tuple[str, str]]]:
        self.counts["entries"] += 1
        return super().entries(path)

    def exists(self, path: str) -> bool:
        self.counts["exists"] += 1
        return super().exists(path)


class Meddling(Configfs):
    """A kernel that does otherwise while a target is loaded: one mapped LUN becomes read-only, or a
    registration does not arrive."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def link(self, path: str, target: str) -> None:
        super().link(path, target)
        if self.how == "read-only" and "/acls/" in path and path.endswith("/lun_1/link"):
            super().write(path[:-len("link")] + "write_protect", b"1\n")

    def write(self, path: str, data: bytes) -> None:
        if self.how != "unregistered" or not path.endswith("disk1/pr/res_aptpl_metadata"):
            super().write(path, data)


def meddled(folder: str, how: str) -> tuple[str, str, int]:
    """(what recover says where somebody meddles, the gate then, how it fails once nobody does)."""
    inboot.ours(folder, 2, 2)
    inboot.boot()
    failed, = HandoverEngine(ByFile(load(), Meddling(how))).recover()
    gate = Configfs().read(f"{inhost.TPG}/enable").strip()
    after, = HandoverEngine(ByFile(load())).recover()
    inboot.serves(2)
    inhost.down()
    return failed.notes[0], gate, after.error_code


@pytest.mark.parametrize("how, said", [
    ("read-only", "write_protect is 1 instead of 0"),
    ("unregistered", "fileio/disk1 has 0 registrations instead of 1")])
def test_what_was_loaded_otherwise_stays_shut(bed: lab.Lab, stable: lab.Host, how: str,
                                              said: str) -> None:
    """It is read back by the load itself, once, also of a target that has served before."""
    notes, gate, code = stable.call(meddled, str(bed.shared / "meddled"), how)
    assert "read back, the host is not what was asked for" in notes and said in notes
    assert (gate, code) == ("0", 0)


def restored(folder: str, luns: int) -> dict[str, int]:
    """What the recover of such a target counts, in a host as it is after a boot."""
    inboot.ours(folder, luns, 2)
    inboot.boot()
    fs = Counting()
    plain, loads = os.fsync, documents.loads

    def fsync(fd: int) -> None:
        fs.counts["fsync"] += 1
        plain(fd)

    def counted(*args: Any, **more: Any) -> documents.Document:
        fs.counts["documents"] += 1
        return loads(*args, **more)

    setattr(os, "fsync", fsync)
    setattr(documents, "loads", counted)
    HandoverEngine(ByFile(load(), fs)).recover(inboot.handover())
    fs.counts["changes"] = fs.changes
    inboot.serves(luns)
    inhost.down()
    return dict(fs.counts)


def test_a_restore_reads_each_thing_once(bed: lab.Lab, stable: lab.Host) -> None:
    folder = str(bed.shared / "counts")
    few, some, more = (stable.call(restored, folder, luns) for luns in (2, 4, 6))
    for name, most in MOST_OF_A_LUN.items():
        each = some[name] - few[name], more[name] - some[name]
        assert each[0] == each[1], f"{name} do not grow as LUNs do: {few}, {some}, {more}"
        assert each[0] / 2 <= most, f"{name} of a LUN: {each[0] / 2}"
        assert few[name] - each[0] <= MOST_BESIDES[name], f"{name} besides: {few}"
    assert more["documents"] <= MOST_BESIDES["documents"]

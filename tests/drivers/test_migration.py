"""A guest is live-migrated with its vhost-scsi disk and its reservation, between real kernels.

What QEMU does otherwise, and when something breaks, are the rows of
docs/reference/qemu-behaviour.md.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.migration import guest
from tests.migration.bench import ROLE, Bench, read
from tests.migration.rows import ROWS

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "qemu-behaviour.md"


@pytest.fixture
def bench(bed: lab.Lab, hosts: HostsOf) -> Iterator[Bench]:
    one = Bench(bed, hosts(ROLE, ROLE), print)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.timeout(600)
def test_a_guest_moves_with_its_reservation(bench: Bench) -> None:
    ROWS["vhost-qmp"](bench)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_qemu_does_what_the_table_says(bench: Bench) -> None:
    wrong = {}
    for name, row in ROWS.items():
        print(f"\n== {name}")
        try:
            row(bench)
        except Exception as error:   # noqa: B902 - the other rows are run all the same
            wrong[name] = repr(error)
            bench.clear()
    assert not wrong


def table() -> str:
    """What QEMU does by itself."""
    return DOCUMENT.read_text().partition("\n## The table\n")[2].partition("\n## ")[0]


def test_the_table_has_every_row() -> None:
    found = re.findall(r"^\| `([a-z-]+)` \|", table(), re.M)
    assert found == list(ROWS)


def test_the_table_says_something_in_every_column() -> None:
    for line in table().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 7 and all(cells), line


# ── the judgement itself ─────────────────────────────────────────────────────────────────────

class Disk:
    """Records as guests would leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "disk"
        self.path.write_bytes(bytes(guest.AREAS * guest.AREA))

    def write(self, qemu: int, *numbers: int, key: int = guest.KEY, run: int = 1,
              tell: bool = True) -> None:
        with self.path.open("r+b") as disk:
            for number in numbers:
                disk.seek(guest.place(qemu, number))
                disk.write(guest.pack(run, qemu, number, 0, key, guest.TYPE, 1, 0))
        if tell:
            self.tell(run, qemu, *(f"a {number} {qemu}" for number in numbers))

    def tell(self, run: int, qemu: int, *lines: str) -> None:
        with (self.folder / f"said-{run}-{qemu}").open("a") as said:
            said.writelines(line + "\n" for line in lines)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_one_guest_that_moved_there_and_back_is_right(disk: Disk) -> None:
    disk.write(1, *range(0, 5))
    disk.write(2, *range(5, 9))
    disk.write(3, *range(9, 12))
    disk.write(4, *range(3), run=2)     # another run's are not looked at
    records = read(disk.path, disk.folder, 1)
    assert records.good, records
    assert records.spans == {1: [(0, 4)], 2: [(5, 8)], 3: [(9, 11)]}


def test_two_guests_are_seen(disk: Disk) -> None:
    disk.write(1, *range(0, 8))
    disk.write(2, *range(6, 10), tell=False)
    records = read(disk.path, disk.folder, 1)
    assert records.twice == [6, 7] and not records.good


def test_what_was_acknowledged_and_is_not_there_is_lost(disk: Disk) -> None:
    disk.write(1, *range(0, 8))
    disk.tell(1, 1, "a 8 1", "a 9")     # the second was cut off in the middle: no word
    records = read(disk.path, disk.folder, 1)
    assert records.lost == [8] and not records.good


def test_a_record_that_is_overwritten_is_lost_and_missing(disk: Disk) -> None:
    disk.write(1, *range(0, 8))
    with disk.path.open("r+b") as file:
        file.seek(guest.place(1, 3) + 100)
        file.write(b"x")
    records = read(disk.path, disk.folder, 1)
    assert records.lost == [3] and records.missing == [3]


def test_a_lost_reservation_is_seen(disk: Disk) -> None:
    disk.write(1, *range(0, 4))
    disk.write(1, 4, key=0)
    assert read(disk.path, disk.folder, 1).unreserved == [4]


def test_complaints_of_the_guest_are_seen(disk: Disk) -> None:
    disk.write(1, 0)
    disk.tell(1, 1, "! memory: page 3 at record 7")
    records = read(disk.path, disk.folder, 1)
    assert not records.good and "memory" in str(records)

"""What QEMU does at a migration, shown without vhost-scsi: this machine's 7.2, and the newest.

Rows of docs/reference/qemu-behaviour.md, by the functions that show them with vhost-scsi, and what
else the newest one does otherwise.
"""
from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import lab
from tests.drivers.test_migration import DOCUMENT
from tests.lab.newest import QEMUS
from tests.migration import firmware, plain
from tests.migration.plain import PlainBench

#: Of each age in the default tests: a guest that moves, and one whose destination's word is lost.
FIRST = ("commit", "cut-after-load-paused")


@pytest.fixture(params=QEMUS)
def bench(bed: lab.Lab, request: pytest.FixtureRequest) -> Iterator[PlainBench]:
    one = PlainBench(bed, str(request.param), print)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in FIRST else pytest.mark.full) for name in plain.rows()])
@pytest.mark.timeout(200)
def test_qemu_does_what_the_table_says(bench: PlainBench, name: str) -> None:
    """Six minutes in all: a minute for each age is postmigrate-stays, two are QEMU's deadlines."""
    plain.rows()[name](bench)


def test_the_table_says_which_rows_are_shown_with_the_newest() -> None:
    table = DOCUMENT.read_text().partition("\n## The table\n")[2].partition("\n## ")[0]
    newest = {match[1]: match[2].strip() for match in
              re.finditer(r"^\| `([a-z-]+)` \|.*\|([^|]+)\|$", table, re.M)}
    others = ("not shown", "the same, with vhost-scsi")
    assert {name for name, words in newest.items() if words not in others} == {*plain.PLAIN}
    assert {*newest.values()} >= {*others}


@pytest.mark.parametrize("said, found", [
    (["a 0 1\na 1 1\na 2", " 2\na 3 2\n"], [(0, 1), (1, 1), (2, 2), (3, 2)]),
    (["a 0 1\n", "", "a 1 2\n"], [(0, 1), (1, 2)]),
    (["a 0 1\na 1 1\na", "a 1 2\na 2 2\n"], [(0, 1), (1, 1), (1, 2), (2, 2)])])
def test_a_record_that_two_qemus_wrote_is_one(said: list[str], found: list[tuple[int, int]]
                                              ) -> None:
    assert firmware.records(said) == found

"""Rows of docs/reference/qemu-behaviour.md by the product's command, on hosts booted once."""
from __future__ import annotations

import re

import pytest

from tests.drivers.test_migration import DOCUMENT
from tests.migration import product_rows, rows
from tests.migration.bench import Bench
from tests.migration.product import Pair


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_what_breaks_while_a_guest_moves_is_taken_back(bench: Bench) -> None:
    """A quarter of an hour, a minute or two a row: what `move` says, who serves, what is left."""
    bench.asked = "aptpl pace=0.1"
    pair = Pair(bench)
    wrong = {}
    for name, row in product_rows.ROWS.items():
        print(f"\n== {name}")
        try:
            row(pair)
        except Exception as error:   # noqa: B902 - the other rows are run all the same
            wrong[name] = repr(error)
            pair = pair.anew()
    assert not wrong


def test_each_row_of_the_product_is_a_row_of_the_table_and_is_named_there() -> None:
    named = re.findall(r"^\| `([a-z-]+)` \|.*`test_live_rows`", DOCUMENT.read_text(), re.M)
    assert sorted(named) == sorted(product_rows.ROWS)
    assert set(named) <= set(rows.ROWS)

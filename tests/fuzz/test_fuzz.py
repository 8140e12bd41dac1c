"""Inputs made by chance: a few for each reader, a million in all with --full."""
from __future__ import annotations

import pytest

from tests.fuzz import __main__ as fuzz, heavy, runner
from tests.fuzz.readers import READERS

#: Of these, one that is refused for its size, one that is taken, one for the parser alone.
FEW = ("shared-too-many", "shared", 'spaced {"":0}')


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_what_it_can_not_read(name: str) -> None:
    told = runner.run(READERS[name], "sample", 0, 40 * READERS[name].share)
    assert [wrong for _number, wrong in told.escapes if "MiB" not in wrong] == []


def test_an_input_is_made_again_by_its_number() -> None:
    for reader in READERS.values():
        seeds = list(reader.seeds())
        made = [runner.made(reader, seeds, "again", number) for number in range(20)]
        assert repr(made) == repr([runner.made(reader, list(reader.seeds()), "again", number)
                                   for number in range(20)])


@pytest.mark.parametrize("name", [
    *FEW, *(pytest.param(name, marks=pytest.mark.full) for name in heavy.SHAPES
            if name not in FEW)])
def test_a_reader_of_eight_mebibytes_has_256(name: str) -> None:
    peak, _seconds, words = heavy.measured(name)
    print(f"{name}: {peak} MiB, {words}")
    assert peak <= runner.MEBIBYTES
    assert words == "taken" or ":" in words


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_million_inputs_and_no_escape() -> None:
    """Half an hour on two cores."""
    results = list(fuzz.fuzz(1_000_000, "full", list(READERS), 2))
    for told in results:
        print(told.line())
    assert sum(told.inputs for told in results) >= 1_000_000
    assert {told.reader: told.escapes[:3] for told in results if told.escapes} == {}

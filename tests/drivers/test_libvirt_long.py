"""A guest under libvirt, while parties of its migration are killed, and there and back again.

All cases, in slices that can be resumed, are `python3 -m tests.manager killed`.
"""
from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests import lab
from tests.conftest import Pool
from tests.manager import killed
from tests.manager.pair import Pair
from tests.manager.rounds import Rounds

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

#: One of each kind, at points of its own.
CASES = (("staging", "hook"), ("copying", "network"), ("frozen", "qemu-destination"),
         ("loading", "helper-destination"), ("armed", "libvirtd-destination"),
         ("serving", "service-source"), ("retiring", "virsh"))
#: As many rounds as so many seconds give, at most.
SECONDS, ROUNDS = 1200, 200


@pytest.fixture
def pair(bed: lab.Lab, _pool: Pool) -> Iterator[Pair]:
    """Hosts of their own: what is installed there stays."""
    yield Pair(bed, _pool.take_named(("stable", "libvirt5"), ("newest", "libvirt6")))


def test_parties_are_killed_and_one_host_serves(pair: Pair) -> None:
    """Ten minutes."""
    outcomes = [killed.run(pair, *case) for case in CASES]
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    lost = [outcome for outcome in outcomes if not outcome.runs]
    assert lost == []


def test_a_guest_goes_there_and_back_again_and_again(pair: Pair) -> None:
    """Twenty minutes."""
    until, trial, count = time.monotonic() + SECONDS, Rounds(pair), 0
    while count < ROUNDS and time.monotonic() < until:
        trial.round()
        count += 1
        if count % 10 == 0:
            pair.one_guest()
    pair.one_guest()
    print(f"{count} rounds")
    assert count > 10

"""A guest moves there and back, again and again, by the product's command."""
from __future__ import annotations

import os
import re

import pytest

from tests.migration import inproduct
from tests.migration.bench import Bench
from tests.migration.product import Pair

#: How often it moves: a move takes a minute.
MOVES = int(os.environ.get("LIO_HANDOVER_MOVES", "20"))


def attentions(bench: Bench) -> list[str]:
    """The unit attentions, and all else that this guest's records were answered with but GOOD."""
    return [line for path in sorted(bench.folder.glob(f"said-{bench.run}-?"))
            for line in re.findall("(?m)^u .*", path.read_text())]


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_guest_that_moves_twenty_times_notices_nothing(bench: Bench) -> None:
    """Half an hour.  What the guest was answered before it moved is what it compares with."""
    bench.asked = "watch aptpl pace=0.05"
    pair = Pair(bench)
    assert bench.writes(pair.running(), 200)
    usual = attentions(bench)
    registered = bench.hosts[0].call(inproduct.registrations)
    assert registered["res_holder"].startswith("SPC-3 Reservation: vhost Initiator:")
    for number in range(MOVES):
        there = bench.other(bench.vm.host)
        bench.note("test", f"move {number + 1} of {MOVES}, to {pair.name(there)}")
        pair.moved(pair.waiting(there))
        assert bench.judge().good       # none lost, none doubled, each with the reservation
        now = there.call(inproduct.registrations)
        assert inproduct.digest(now) == inproduct.digest(registered), now
    assert attentions(bench) == usual

"""A host loses its power in a verb that its session runs; the other host's session stays, and
remembers what was before."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_crashes import FORWARD, KILLED
from tests.handover.test_power import Powered
from tests.handover.test_session_crashes import Warm
from tests.support import insession


class PoweredWarm(Powered, Warm):
    """Two hosts with disks, of which each has a session."""

    def boot(self, role: str) -> tuple[str, ...]:
        notes = super().boot(role)
        self.host[role].call(insession.start)
        return notes


@pytest.fixture
def powered(bed: lab.Lab, hosts: HostsOf) -> Iterator[Callable[[], PoweredWarm]]:
    """Two hosts that have just been booted, each time."""
    pairs: list[PoweredWarm] = []

    def make() -> PoweredWarm:
        off()
        pairs.append(PoweredWarm(bed, *hosts("stable", "newest")))
        pairs[-1].begin()
        return pairs[-1]

    def off() -> None:
        for pair in pairs:
            for host in pair.host.values():
                host.kill()
    yield make
    off()


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FORWARD)
def test_power_lost_at_each_record_of_a_verb_of_a_session(
        powered: Callable[[], PoweredWarm], name: str) -> None:
    """Before each record is on the disk, and after the last is.  Up to 3 minutes each."""
    way, verb, role = KILLED[name]
    point, killed = 0, True
    while killed:
        pair, point = powered(), point + 1
        pair.go(way)
        more = pair.asked(verb)
        pair.id = pair.id or "00000000-0000-4000-8000-%012x" % point
        killed, answer = pair.host[role].call(
            insession.crash, point, verb, role, pair.id, tuple(pair.messages), True, **more)
        if answer is not None:
            pair.messages += answer.messages
        pair.lose_power(role)
    print(f"{name}: {point} points")
    assert point > 1

"""A session killed anywhere: before and after every change of the kernel and every record of a verb
that goes by what verbs before it have read.  The other host's session stays, and remembers."""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lio_handover.handover.engine import Reply
from lio_handover.protocol.messages import from_json, to_json
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_crashes import KILLED, LATE, Killed
from tests.handover.test_engine import Two
from tests.support import inhandover, inhost, insession


class Warm(Two):
    """Two hosts, of which each has a session for the verbs that bring a handover further."""

    def do(self, verb: str, role: str, **more: Any) -> Reply:
        given = () if verb == "prepare" else from_json(to_json(self.newest()))
        answer: Reply = self.host[role].call(insession.do, verb, role, self.id, given,
                                             **more).answer
        self.id = answer.handover.id
        self.messages += [one for one in answer.messages if one not in self.messages]
        return answer

    def begin(self) -> None:
        for host in self.host.values():
            host.call(insession.start_again)


class KilledWarm(Killed):
    crash = staticmethod(insession.crash)
    pair: Warm

    def at(self, name: str, point: int, again: bool = False) -> bool:
        self.pair.begin()
        return super().at(name, point, again)


@pytest.fixture
def killed(bed: lab.Lab, hosts: HostsOf) -> Iterator[KilledWarm]:
    a, b = hosts("stable", "newest")
    state = inhandover.state(bed.shared)
    b.call(inhandover.save)  # which moves dbroot to the distribution's, once for all
    a.call(inhost.build, state)
    a.call(inhandover.save)
    yield KilledWarm(Warm(a, b), state)
    for host in (a, b):
        host.call(insession.end_any)


@pytest.mark.parametrize("name, point", [("arm", 7)])
def test_a_session_that_is_killed_leaves_a_way_on(killed: KilledWarm, name: str, point: int
                                                  ) -> None:
    assert killed.at(name, point, True)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*KILLED, *(f"late {name}" for name in LATE)])
def test_a_session_killed_anywhere_leaves_a_way_on(killed: KilledWarm, bed: lab.Lab, name: str
                                                   ) -> None:
    """Up to 4 minutes each."""
    if name.startswith("late "):
        killed.pair.mode = "iscsi-late"
        for host in killed.pair.host.values():
            host.call(inhandover.serve_late, str(bed.shared))
    point = 0
    while killed.at(name.removeprefix("late "), point := point + 1, point % 3 == 1):
        print(f"{name}: {point} {time.strftime('%X')}", flush=True)
    print(f"{name}: {point - 1} points")
    assert point > 3

"""A target moves between two real hosts by one command, over ssh."""
from __future__ import annotations

import pytest

from lio_handover import document as documents
from lio_handover import errors
from lio_handover.move import STEPS
from lio_handover.transitions import DESTINATION
from tests import inbus, inhandover, inhost, inmove, lab
from tests.conftest import Pool
from tests.inbus import Service
from tests.inhandover import TARGET
from tests.lab import scenario
from tests.lab.scenario import Scenario

Pair = tuple[lab.Host, lab.Host]


@pytest.fixture
def pair(bed: lab.Lab, _pool: Pool) -> Pair:
    """Two hosts with the service, b's of one version later, each of which reaches the other by
    ssh as a and b."""
    a, b = (_pool.take(role, name=name)[0]
            for role, name in (("stable", "bus"), ("newest", "bus2")))
    keys = bed.shared / "keys"
    keys.mkdir()
    inmove.make_keys(keys)
    for host in (a, b):
        host.call(inmove.serve_ssh, str(keys))
        host.call(inmove.reach, str(keys), {"a": a.address, "b": b.address})
        Service(host).start(program="" if host is a else inmove.LATER)
    return a, b


def test_a_target_moves_by_one_command_and_its_initiators_go_on(
        bed: lab.Lab, pair: Pair, client: lab.OpenIscsi) -> None:
    a, b = pair
    told = Scenario(bed, a, b, client.host)
    told.build()
    for host in pair:  # the story has a configuration of its own
        Service(host).call(inbus.install, inhost.CONFIG)
    told.start_writing()
    told.wait_for_writes(5)
    done = a.run([*inmove.PROGRAM, "move", scenario.NAME, "--to", "b", "--here", "a", "--probe"],
                 timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"moved {scenario.NAME} to b: 1 target, 3 backstores" in done.stderr
    assert "4 registrations" in done.stderr and "nobody served for " in done.stderr
    told.take_over()
    told.come_back()
    told.wait_for_writes(5)
    told.stop_writing()
    assert told.left_on_source() == []
    assert told.probe() == scenario.RIGHT
    assert told.wrong_through_target() == {lun: [] for lun in scenario.LUNS}
    for host, state in ((a, "retired"), (b, "confirmed")):
        one, = host.call(inhandover.status)
        assert (one.handover.state, one.handover.peer) == (state, "b" if host is a else "a")


def held(host: lab.Host) -> bytes:
    """The state of the target where it serves."""
    return documents.state_bytes(documents.loads(host.call(inhost.export_state)))


def states(pair: Pair) -> set[str]:
    """Where the handovers that are not over stand."""
    return {one.handover.state for host in pair for one in host.call(inhandover.status)
            if not one.handover.over}


def serving(pair: Pair) -> list[lab.Host]:
    return [host for host in pair if "1" in host.call(inhandover.gates).values()]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_what_it_says_when_the_line_is_cut_leads_out(bed: lab.Lab, pair: Pair) -> None:
    """At each step of the destination, before and after it; the commands are run as printed.
    Where that ends on b, the next way is from b to a: a later version to an earlier one."""
    a, b = pair
    name = {a: "a", b: "b"}
    assert [host.call(inmove.versions) for host in pair] == [(1, 1), (2, 2)]
    a.call(inhost.build, inhandover.state(bed.shared))
    before = held(a)
    tried = 0
    for step in STEPS:
        for after in (False, True) if step.role == DESTINATION else ():
            line = a.call(inmove.cut, TARGET, name[b], name[a], step.name, after, timeout=180)
            assert line, step
            told = inmove.commands(line)
            assert told, line
            for where, words in told:
                done = (b if where else a).run([*inmove.PROGRAM, *words], timeout=120, check=False)
                assert done.returncode in (0, errors.NoSuchHandover.code), (line, done.stderr)
            assert states((a, b)) == set(), (step, after, line)
            now, = serving((a, b))
            assert held(now) == before
            if now is b:
                a, b = b, a
            tried += 1
    assert tried == 10

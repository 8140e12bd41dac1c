"""A target moves between two real hosts by one command, over ssh."""
from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lio_handover import dbus_names, errors
from lio_handover.document import document as documents
from lio_handover.drivers.move import STEP_NAMES, STEPS
from lio_handover.protocol.table import DESTINATION
from tests import lab
from tests.conftest import Pool
from tests.lab import scenario
from tests.lab.scenario import Scenario
from tests.support import inbus, inhandover, inhost, inmove, samples
from tests.support.inbus import Service
from tests.support.inhandover import TARGET

Pair = tuple[lab.Host, lab.Host]


@pytest.fixture
def pair(bed: lab.Lab, _pool: Pool) -> Pair:
    """Two hosts with the service, b's of one version later, each of which reaches the other by
    ssh as a and b."""
    a, b = _pool.take_named(("stable", "bus"), ("newest", "bus2"))
    keys = bed.shared / "keys"
    keys.mkdir()
    inmove.make_keys(keys)

    def ready(host: lab.Host) -> None:
        host.call(inmove.serve_ssh, str(keys))
        host.call(inmove.reach, str(keys), {"a": a.address, "b": b.address})
        Service(host).start(program="" if host is a else inmove.LATER)

    with ThreadPoolExecutor(2) as both:
        list(both.map(ready, (a, b)))
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


PEERS = "[service]\npeers =\n    a\n    b\n"


@pytest.fixture
def served(bed: lab.Lab, pair: Pair) -> Pair:
    """The first serves a target; the service of each moves to the other."""
    for host in pair:
        host.call(inbus.install, inhost.CONFIG + PEERS)
    pair[0].call(inhost.build, inhandover.state(bed.shared))
    return pair


def held_at_stage(served: Pair) -> str:
    """The job of a move whose destination makes no step in `stage`."""
    a, b = served
    b.call(inmove.hold_workers)
    job: str = a.call(inmove.begin_move, TARGET, {"to": "b", "here": "a"})
    a.call(inmove.wait_for_phase, job, "stage")
    return job


def test_a_job_of_the_service_moves_a_target_or_takes_it_back(served: Pair) -> None:
    """It is cancelled before the source has released; the next one tells of each step."""
    a, b = served
    before = held(a)
    job = held_at_stage(served)
    assert a.call(inmove.cancel, job) == "cancelling"
    b.call(inmove.hold_workers, True)
    ended = a.call(inbus.wait_for, job, "State", "cancelled|done|failed")
    assert ended["State"] == "cancelled", ended
    assert f"; {a.name} serves on as before, and nothing is left on b; next: " \
        in ended["Error"][1], ended
    assert serving(served) == [a] and states(served) == set()

    moved = a.call(inmove.move_by_service, TARGET, {"to": "b", "here": "a"}, timeout=120)
    result = moved["Result"]
    assert moved["State"] == "done", moved
    assert (result["from"], result["to"], result["targets"]) == (a.name, "b", [TARGET])
    assert list(result["seconds"]) == STEP_NAMES and 0 < result["window"] < 30
    one, = [answer.handover for answer in a.call(inhandover.status)
            if answer.handover.state == "retired"]
    assert (result["handover"], result["epoch"]) == (one.id, one.epoch)
    assert result["path"] == dbus_names.path(dbus_names.HANDOVERS, one.id)
    numbers = [step[0] for step, _details in moved["heard"]]
    assert numbers == sorted(numbers) and set(numbers) <= {*range(1, 11)} and len(numbers) > 2
    for (number, total, line), details in moved["heard"]:
        assert total == 10 and details == {"phase": STEP_NAMES[number - 1]}
        assert line.startswith(f"{STEPS[number - 1].verb} on "), line
    assert serving(served) == [b] and held(b) == before


@pytest.mark.full
def test_a_service_that_is_stopped_takes_its_move_back_and_another_goes_on(served: Pair) -> None:
    """Half a minute: it ends once the move has gone back, as that takes the service; and a move
    whose driver is gone right after release is gone on with by the service."""
    a, b = served
    before, service = held(a), Service(a)
    a.call(inmove.stop_service)
    service.restart()
    held_at_stage(served)
    with ThreadPoolExecutor(1) as other:
        stopped = other.submit(a.call, inmove.stop_service)
        time.sleep(0.5)
        assert not stopped.done(), "it ends before its move has gone back"
        b.call(inmove.hold_workers, True)
        stopped.result()
    assert service.daemon.wait(20) == 0
    log = service.daemon.stderr_so_far().decode()
    assert "a move, is taken back, or finished where the source has released" in log
    assert re.search(f": move cancelled: .*; {a.name} serves on as before, and nothing", log), log
    assert serving(served) == [a] and states(served) == set() and held(a) == before

    service.restart()
    name = a.call(inmove.halfway, TARGET, "b", "a", STEP_NAMES.index("release") + 1, timeout=120)
    resumed = a.call(inmove.move_by_service, "", {"to": "b", "resume": name}, timeout=120)
    assert (resumed["State"], resumed["Handover"]) == ("done", name), resumed
    assert serving(served) == [b] and states(served) == set() and held(b) == before


Recover = Callable[[lab.Host, str], dict[str, Any]]


def by_the_daemon(host: lab.Host, id: str) -> dict[str, Any]:  # noqa: A002
    return host.call(inmove.recover_by_daemon, id, timeout=90)


def alone(host: lab.Host, id: str) -> dict[str, Any]:  # noqa: A002
    done = host.run([*inmove.PROGRAM, "--alone", "recover", id, "--json"], timeout=90, check=False)
    found: dict[str, Any] = json.loads(done.stdout)[0]
    assert done.returncode == (errors.Undecided.code if found["stays"] else 0), done.stderr
    return found


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("recover", [by_the_daemon, alone])
def test_recover_asks_the_other_host_by_itself(bed: lab.Lab, pair: Pair, recover: Recover) -> None:
    """The driver is gone after so many steps; recover on the source, then on the destination."""
    a, b = pair
    a.call(inhost.build, inhandover.state(bed.shared))
    before = held(a)
    for step, source, destination in (
            ("arm", "idle", "none"), ("release", "idle", "none"), ("open", "released", "opening"),
            ("verify", "retired", "confirmed"), ("retire", "retired", "confirmed")):
        to, here = ("b", "a") if a is pair[0] else ("a", "b")
        name = a.call(inmove.halfway, TARGET, to, here, STEP_NAMES.index(step) + 1, timeout=120)
        found = recover(a, name), recover(b, name)
        assert [one["state"] for one in found] == [source, destination], (step, found)
        owner = a if source == "idle" else b
        assert serving(pair) == [owner] and held(owner) == before, step
        if source == "released":  # it owns, and was not seen to serve: a driver carries on
            assert found[0]["stays"]
            assert f"answers that it is {destination}" in found[0]["notes"][0], found
            a.run([*inmove.PROGRAM, "move", "--resume", name, "--to", to], timeout=120)
        if owner is b:
            a, b = b, a
        assert states(pair) == set() and serving(pair) == [a] and held(a) == before


@pytest.mark.full
@pytest.mark.timeout(600)
def test_recover_stays_closed_while_the_other_host_is_out_of_reach(
        bed: lab.Lab, pair: Pair) -> None:
    a, b = pair
    a.call(inhost.build, inhandover.state(bed.shared))
    before = held(a)
    name = a.call(inmove.halfway, TARGET, "b", "a", STEP_NAMES.index("release") + 1, timeout=120)
    command = f"lio-handover recover {name}"
    bed.cut(b)
    for recover in (by_the_daemon, alone):
        for host, words in ((a, "--peer-is-fenced"), (b, "--peer-is-fenced --peer-never-returns")):
            found = recover(host, name)
            assert found["stays"] and "does not answer" in found["notes"][0], found
            assert found["next"] == f"{command} {words}"
            assert serving(pair) == []
    bed.heal(b)
    b.call(inmove.stop_service)  # it can be reached, and nobody is there
    for recover in (by_the_daemon, alone):
        found = recover(a, name)
        assert found["stays"] and "lio-handoverd does not run on b" in found["notes"][0], found
        assert serving(pair) == []
    Service(b).restart()
    # Both at once, as after a power cut: whoever is asked while he asks may say so, and then again.
    for _ in range(3):
        with ThreadPoolExecutor(2) as both:
            found_there = list(both.map(lambda host: by_the_daemon(host, name), pair))
        assert len(serving(pair)) < 2
    assert [one["state"] for one in found_there] == ["idle", "none"]
    assert serving(pair) == [a] and held(a) == before


LATE = """
[late files]
paths =
    {folder}/*.img
acquire =
    {acquire}
    acquire
release =
    {folder}/late.sh
    release
"""


@pytest.fixture
def late(bed: lab.Lab, pair: Pair) -> Pair:
    """The first serves a target whose storage only one host may have open."""
    a, b = pair
    a.call(inhost.build, inhandover.state(bed.shared))
    for host in pair:
        host.call(inhandover.serve_late, str(bed.shared))
        set_late(bed, host, "late.sh")
    return pair


def set_late(bed: lab.Lab, host: lab.Host, acquire: str) -> None:
    host.call(inbus.install, inhost.CONFIG + LATE.format(
        folder=bed.shared, acquire=bed.shared / acquire))


def move_late(a: lab.Host) -> subprocess.CompletedProcess[str]:
    return a.run([*inmove.PROGRAM, "move", TARGET, "--to", "b", "--here", "a", "--mode",
                  "iscsi-late"], timeout=120, check=False)


@pytest.mark.full
def test_storage_that_one_host_may_have_moves_along(
        bed: lab.Lab, late: Pair, client: lab.OpenIscsi) -> None:
    """While an initiator writes: each host asks for the storage, and gives it up, in its time."""
    a, b = late
    before = held(a)
    data = os.urandom(600 * 4096)
    (bed.shared / "data").write_bytes(data)
    bed.move_address(scenario.ADDRESS, None, a)
    disk = client.login(samples.IQN, scenario.ADDRESS, samples.initiator(0)).disk(1)
    writer = client.host.popen(["sh", "-c", (
        "for i in $(seq 0 599); do dd bs=4096 count=1 oflag=direct status=none skip=$i seek=$i "
        f"if={bed.shared}/data of={disk.node} || exit 1; done")])
    time.sleep(1)
    done = move_late(a)
    assert done.returncode == 0, done.stderr
    assert f"moved {TARGET} to b: 1 target, 2 backstores" in done.stderr
    assert writer.poll() is None, "it was not writing while the target moved"
    log = (bed.shared / "late.log").read_text().splitlines()
    assert log[:4] == [f"release {a.name}"] * 2 + [f"acquire {b.name}"] * 2
    assert set(log[4:]) <= {f"acquire {b.name}"}  # again, where it is harmless
    assert not a.call(inhost.read_all).backstores and serving(late) == [b]
    assert states(late) == set() and held(b) == before
    bed.move_address(scenario.ADDRESS, a, b)
    assert writer.wait(90) == 0, writer.stderr_so_far()
    assert (bed.shared / "one.img").read_bytes()[:len(data)] == data


@pytest.mark.full
def test_where_the_destination_cannot_have_the_storage_the_source_serves_again(
        bed: lab.Lab, late: Pair) -> None:
    """After it was released: the printed commands lead back, or on once that is cured."""
    a, b = late
    before = held(a)
    broken = bed.shared / "broken.sh"
    broken.write_text("#!/bin/sh\necho $1 broken >>${0%/*}/late.log\necho no quorum >&2\nexit 17\n")
    broken.chmod(0o755)
    for cured in (False, True):
        set_late(bed, b, "broken.sh")
        done = move_late(a)
        assert done.returncode == errors.StorageCommandFailed.code, done.stderr
        assert "b says: the acquire command of [late files] ended with 17: no quorum; the " \
            f"source, {a.name}, is released; the destination, b, is armed; next: " in done.stderr
        assert serving(late) == [] and not b.call(inhost.read_all).backstores
        told = inmove.commands(done.stderr.replace("; if that fails", ""))
        assert [words[0] for _host, words in told] == ["move", "recover", "recover"]
        assert (bed.shared / "late.log").read_text().split()[:4] == ["release", a.name] * 2
        if cured:
            set_late(bed, b, "late.sh")
            told = told[:1]
        for where, words in told:
            again = (b if where else a).run([*inmove.PROGRAM, *words], timeout=120, check=False)
            assert again.returncode == (0 if cured or words[0] == "recover" else
                                        errors.StorageCommandFailed.code), again.stderr
        owner = b if cured else a
        assert states(late) == set() and serving(late) == [owner]
        assert held(owner) == before
        log = (bed.shared / "late.log").read_text().split()
        assert log[-4:] == ["acquire", owner.name] * 2
        (bed.shared / "late.log").unlink()

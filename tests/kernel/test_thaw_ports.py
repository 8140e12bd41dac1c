"""Relative ports of targets that are frozen: the kernel gives them to others, and forgets."""
from __future__ import annotations

import pytest

from lio_handover import errors
from lio_handover.handover.engine import Reply
from lio_handover.kernel.configfs import Configfs
from lio_handover.model.objects import State
from lio_handover.protocol.table import MessageType
from lio_handover.records import relative_ports
from tests import lab
from tests.conftest import HostsOf
from tests.kernel.test_ports import called
from tests.kernel.test_preflight import small
from tests.support import inhandover, inhost

X, Y, Z = (f"iqn.2003-01.org.example:{name}" for name in "xyz")
TARGET = f"iscsi/{X}"
NEW_KERNELS = ["stable", pytest.param("newest", marks=pytest.mark.full)]


def numbers() -> dict[str, str]:
    """Target → relative port of its TPG, and a mark where that is not enabled."""
    fs = Configfs()
    return {name: str(int(fs.read(f"{path}/rtpi"), 0))
            + ("" if fs.read(f"{path}/enable") == "1\n" else " shut")
            for name in (X, Y, Z) for path in [f"iscsi/{name}/tpgt_1"] if fs.exists(path)}


def build(*states: State) -> dict[str, str]:
    """One after the other: the kernel numbers them so."""
    for one in states:
        inhost.build(one)
    return numbers()


def refused(*names: str, allow: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """What a thaw says, and what it changed."""
    before = inhost.tree()
    try:
        inhost.core().thaw([("iscsi", name) for name in names], ("exported", *allow))
    except errors.HandoverError as error:
        return str(error), inhost.differences(before, inhost.tree())
    return "", []


def thaw_and_tell(*names: str, allow: tuple[str, ...] = ()) -> list[str]:
    one = inhost.core()
    one.thaw([("iscsi", name) for name in names], allow)
    return one.notes


def states(bed: lab.Lab) -> list[State]:
    return [called(small(bed.shared, {}), name) for name in (Y, X, Z)]


@pytest.mark.parametrize("role", NEW_KERNELS)
def test_a_thaw_gives_each_the_number_that_it_had(
        role: str, bed: lab.Lab, hosts: HostsOf) -> None:
    host, = hosts(role)
    y, x, z = states(bed)
    assert host.call(build, y, x) == {X: "2", Y: "1"}
    host.call(inhost.freeze)
    assert host.call(numbers) == {X: "2 shut", Y: "1 shut"}
    host.call(inhost.thaw)
    assert host.call(numbers) == {X: "2", Y: "1"}
    # Somebody else has taken a number since: told before a gate is opened, and both ways out.
    host.call(inhost.freeze)
    assert host.call(build, z) == {X: "2 shut", Y: "1 shut", Z: "1"}
    said, changed = host.call(refused, X, Y)
    assert (f"iscsi/{Y}/tpgt_1: the relative port 1 that it had is taken by iscsi/{Z}/tpgt_1"
            in said) and "nothing was changed" in said and changed == []
    assert "--allow relative-port" in said
    note, = host.call(thaw_and_tell, X, Y, allow=("relative-port",))
    other = host.call(numbers)[Y]
    assert note.startswith(f"iscsi/{Y}/tpgt_1: relative port 1 becomes {other}: ")
    assert host.call(numbers) == {X: "2", Y: other, Z: "1"} and int(other) >= 4096


def free(name: str) -> None:
    """What the refusal says: another number for who has taken it."""
    path = f"iscsi/{name}/tpgt_1"
    fs = Configfs()
    fs.write(f"{path}/enable", b"0\n")
    fs.write(f"{path}/rtpi", b"77\n")
    fs.write(f"{path}/enable", b"1\n")


@pytest.mark.full
def test_two_that_were_frozen_one_after_the_other_under_one_number(
        bed: lab.Lab, stable: lab.Host) -> None:
    y, x, z = states(bed)
    stable.call(build, y)
    stable.call(inhost.freeze)
    assert stable.call(build, x) == {X: "1", Y: "1 shut"}
    stable.call(inhost.freeze)
    said, changed = stable.call(refused, X, Y)
    assert "the relative port 1 that it had is taken by iscsi/" in said and changed == []
    assert stable.call(thaw_and_tell, X) == []
    stable.call(free, X)
    assert stable.call(thaw_and_tell, Y) == []
    assert stable.call(numbers) == {X: "77", Y: "1"}


def failing_freeze() -> tuple[str, dict[str, str]]:
    inhost.fail_flush("flush", 3)  # two backstores, each once while it is served
    try:
        inhost.freeze()
    except errors.HandoverError as error:
        return str(error), numbers()
    return "", {}


def test_a_freeze_or_remove_that_is_undone_keeps_the_numbers(
        bed: lab.Lab, stable: lab.Host) -> None:
    y, x, _ = states(bed)
    before = stable.call(build, y, x)
    said, after = stable.call(failing_freeze)
    assert "the gates are as they were" in said and after == before == {X: "2", Y: "1"}
    for point in (2, 5, 7, 11):
        assert stable.call(failing_remove, point) == before


def failing_remove(point: int) -> dict[str, str]:
    fs = inhost.Stopping(point, "after")
    try:
        inhost.core(fs).remove([], True)
    except errors.HandoverError as error:
        assert "nothing was changed" in str(error), str(error)
        return numbers()
    return {}


# ── handovers ────────────────────────────────────────────────────────────────────────────────

def source(*verbs: str, allow: tuple[str, ...] = ()) -> Reply:
    """One verb after the other on the source of one handover."""
    one = inhandover.handovers()
    id = next((each.id for each in one.list() if not each.over), "")  # noqa: A001
    answer = None
    for verb in verbs:
        answer = one.do(verb, "source", id, targets=[TARGET] if verb == "prepare" else (),
                        mode="iscsi" if verb == "prepare" else "", allow=allow)
        id = answer.handover.id     # noqa: A001
    assert answer is not None
    return answer


def destination(verb: str, answer: Reply) -> Reply:
    return inhandover.handovers().do(verb, "destination", answer.handover.id,
                                     messages=answer.messages)


def state_of(role: str) -> str:
    return [one.state for one in inhandover.handovers().list() if one.role == role][-1]


@pytest.mark.parametrize("role", NEW_KERNELS)
def test_a_handover_that_goes_back_has_its_number(
        role: str, bed: lab.Lab, hosts: HostsOf) -> None:
    host, = hosts(role)
    y, x, z = states(bed)
    host.call(build, y, x)
    host.call(source, "prepare", "freeze")
    host.call(free, Y)      # now 1 is free: the kernel would give it
    assert host.call(source, "thaw").handover.state == "idle"
    assert host.call(numbers) == {X: "2", Y: "77"}
    host.call(source, "prepare", "freeze", "export")
    host.call(build, z)
    host.call(renumber, Z, "2")
    with pytest.raises(errors.InUse, match=f"port 2 that it had is taken by iscsi/{Z}/tpgt_1"):
        host.call(source, "thaw")
    assert host.call(state_of, "source") == "frozen"
    answer = host.call(source, "thaw", allow=("relative-port",))
    other = host.call(numbers)[X]
    assert any(f"relative port 2 becomes {other}: " in note for note in answer.notes)


def renumber(name: str, number: str) -> None:
    path = f"iscsi/{name}/tpgt_1"
    fs = Configfs()
    fs.write(f"{path}/enable", b"0\n")
    fs.write(f"{path}/rtpi", number.encode())
    fs.write(f"{path}/enable", b"1\n")


@pytest.mark.parametrize("roles", [
    ("stable", "newest"), pytest.param(("newest", "stable"), marks=pytest.mark.full)])
def test_a_number_that_was_taken_on_the_destination_is_told_before_the_source_lets_go(
        roles: tuple[str, str], bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts(*roles)
    y, x, z = states(bed)
    a.call(build, y, x)
    b.call(destination, "stage", a.call(source, "prepare"))
    frozen = a.call(source, "freeze", "export")
    b.call(build, z)
    b.call(renumber, Z, "2")
    with pytest.raises(errors.InUse, match=f"port 2 that it had is taken by iscsi/{Z}/tpgt_1"):
        b.call(destination, "activate", frozen)
    assert b.call(state_of, "destination") == "staged"
    b.call(renumber, Z, "78")
    armed = b.call(destination, "activate", frozen)
    assert [one.type for one in armed.messages] == [MessageType.ARMED]
    # What is staged has its number, also for other imports.
    assert b.call(claimed) == [TARGET]
    released = a.call(release, armed)
    b.call(destination, "activate", released)
    assert b.call(numbers)[X] == "2"


def claimed() -> list[str]:
    return relative_ports.claimed(inhost.SETTINGS.state_directory)


def release(armed: Reply) -> Reply:
    return inhandover.handovers().do("release", "source", armed.handover.id,
                                     messages=armed.messages)

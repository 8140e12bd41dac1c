"""Storage that one host alone may have open: acquired in the window, and given up again."""
from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.execute.rollback import Rollback
from lio_handover.local import ours as facade
from lio_handover.model.objects import State
from lio_handover.plan import order
from lio_handover.settings import Late, Settings, load
from lio_handover.storage import exclusive, policy
from tests import lab
from tests.conftest import HostsOf
from tests.support import inhost, samples

IQN = samples.IQN
SIZE = lab.MiB

#: The storage is a file which is there where it is acquired, and away where it is released.
SCRIPT = """#!/bin/sh
# acquire|release MODE PATH
echo "$1 $(uname -n)" >> {log}
case $1-$2 in
    acquire-fail) echo "no quorum" >&2; exit 17;;
    acquire-half) mv "$3.away" "$3"; echo "in use elsewhere" >&2; exit 1;;
    acquire-hang) sleep 61317 & wait;;
    acquire-other) mv "$3.away" "$3"; dd if=/dev/urandom of="$3" bs=4096 count=1 conv=notrunc;;
    acquire-nothing) exit 0;;
    release-stuck) exit 11;;
    acquire-*) [ -e "$3" ] || mv "$3.away" "$3";;
    release-*) [ ! -e "$3" ] || mv "$3" "$3.away";;
esac
"""


# ── the commands ─────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def script(roots_own: Path) -> Path:
    path = roots_own / "storage"
    path.write_text(SCRIPT.format(log=roots_own / "log"))
    path.chmod(0o755)
    (roots_own / "disk").touch()
    return path


def settings(script: Path, mode: str, timeout: int = 30) -> Settings:
    return Settings(roots=(str(script.parent),), late=(Late(
        "lab", (f"{script.parent}/disk*",), (str(script), "acquire", mode),
        (str(script), "release", mode), timeout),))


def test_a_command_gets_the_path_last_and_no_shell(script: Path) -> None:
    odd = script.parent / "disk $(touch x) ;*"
    odd.touch()
    exclusive.release(settings(script, "ok"), str(odd))
    assert not odd.exists() and Path(f"{odd}.away").exists()
    exclusive.acquire(settings(script, "ok"), str(odd))
    assert odd.exists()
    assert [line.split()[0] for line in (script.parent / "log").read_text().splitlines()] == [
        "release", "acquire"]


def test_a_command_that_fails_says_why_in_one_line(script: Path) -> None:
    with pytest.raises(errors.StorageCommandFailed) as caught:
        exclusive.acquire(settings(script, "fail"), str(script.parent / "disk"))
    assert caught.value.what == \
        "the acquire command of [late lab] ended with 17: no quorum"
    assert f"{script} acquire fail {script.parent}/disk" in str(caught.value)
    script.unlink()
    with pytest.raises(errors.StorageCommandFailed, match="can't be run: No such file"):
        exclusive.release(settings(script, "ok"), str(script.parent / "disk"))
    with pytest.raises(errors.StorageNotAllowed, match="matches no"):
        exclusive.release(settings(script, "ok"), "/dev/sda")


def test_a_command_that_hangs_is_killed_with_all_it_started(script: Path) -> None:
    began = time.monotonic()
    with pytest.raises(errors.StorageCommandFailed, match="did not end within 1 s and was killed"):
        exclusive.acquire(settings(script, "hang", 1), str(script.parent / "disk"))
    assert time.monotonic() - began < 6
    assert not samples.running("61317")


# ── what is known before ─────────────────────────────────────────────────────────────────────

def test_what_is_late_is_not_looked_at(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name tells where it may lie, and whether it is served here already; no more."""
    wanted = samples.backstore("late", path=str(script.parent / "disk"))
    proof: dict[str, str | int | bool] = {"kind": "file", "size": SIZE}
    monkeypatch.setattr("lio_handover.storage.block_devices.look", None)
    assert policy.findings_by_name(wanted, proof, settings(script, "ok")) == []
    other = samples.backstore("other", path=wanted.path)
    assert [one.error for one in policy.findings_by_name(
        wanted, proof, settings(script, "ok"), State((), (other,)))] == [errors.StorageInUse]
    unproven, = policy.findings_by_name(wanted, {}, settings(script, "ok"))
    assert unproven.override == "unproven-storage"
    outside, = policy.findings_by_name(wanted, proof,
                                       replace(settings(script, "ok"), roots=("/srv",)))
    assert outside.error is errors.StorageNotAllowed


def test_every_step_of_making_a_backstore_has_its_later_slot() -> None:
    places = [order.PLACE[one] for one in order.LATE.values()]
    assert places == sorted(places) and len(places) == len(order.LATE)
    first, last = order.PLACE["acquire"], order.PLACE["drop cache"]
    assert all(first < place < last for place in places)
    assert {order.PHASE[one] for one in order.LATE.values()} == {"activate"}


# ── on real kernels ──────────────────────────────────────────────────────────────────────────

class Beds:
    """Two hosts, the storage on the source, and the document of its target."""

    def __init__(self, bed: lab.Lab, source: lab.Host, destination: lab.Host) -> None:
        self.path = bed.shared / "late.img"
        self.log = bed.shared / "log"
        self.script = bed.shared / "storage.sh"
        self.script.write_text(SCRIPT.format(log=self.log))
        self.script.chmod(0o755)
        self.plain = bed.shared / "plain.img"
        self.path.write_bytes(b"late" * (SIZE // 4))
        self.plain.write_bytes(b"\0" * SIZE)
        self.source, self.destination = source, destination
        for host in (source, destination):
            self.configure(host, "ok")
        source.call(inhost.build, self.state())
        source.call(inhost.freeze)
        self.document = source.call(inhost.export)

    def state(self) -> State:
        state = samples.iscsi(luns=2, registrants=2, paths=(str(self.path), str(self.plain)),
                              groups=("near",))
        return replace(state, backstores=tuple(replace(
            one, parameters={**one.parameters, "fd_dev_size": str(SIZE)}, hba=f"fileio_{number}",
            attributes={"wwn/vpd_unit_serial": one.serial})
            for number, one in enumerate(state.backstores)))

    def configure(self, host: lab.Host, mode: str, timeout: int = 20) -> None:
        host.call(write_settings, str(self.path.parent), str(self.script), mode, timeout)

    def remove(self) -> None:
        self.source.call(remove)

    @property
    def is_away(self) -> bool:
        """Whether neither host has the storage."""
        return not self.path.exists() and Path(f"{self.path}.away").exists()

    def asked(self) -> list[str]:
        """What was asked of the storage since the last time."""
        said = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return said


def write_settings(folder: str, script: str, mode: str, timeout: int) -> None:
    os.makedirs("/etc/lio-handover", exist_ok=True)
    words = {what: f"\n    {script}\n    {what}\n    {mode}" for what in ("acquire", "release")}
    Path("/etc/lio-handover/lio-handover.conf").write_text(
        f"[storage]\nroots =\n    {folder}\n[late lab]\npaths =\n    {folder}/late*\n"
        f"acquire ={words['acquire']}\nrelease ={words['release']}\ntimeout = {timeout}\n")


def remove() -> None:
    inhost.SETTINGS = load()
    inhost.remove(("reserved",))


def try_import(data: bytes, allow: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """What an import says, and what was not as before."""
    inhost.SETTINGS = load()
    before = inhost.tree()
    try:
        inhost.import_(data, allow)
    except errors.HandoverError as error:
        return str(error), inhost.differences(before, inhost.tree())
    return "", []


def planned(data: bytes) -> tuple[list[tuple[str, str, str]], tuple[str, ...], list[str]]:
    """(phase, slot, op) of each step about the late backstore; the notes; the findings."""
    one = facade.Ours(load())
    ready = one.ready(documents.loads(data))
    return ([(step.phase, step.slot, step.op) for step in ready.plan.steps
             if step.about[:3] == ("backstore", "fileio", "disk0")], ready.plan.notes,
            [finding.sentence for finding in ready.findings])


@pytest.fixture
def beds(bed: lab.Lab, hosts: HostsOf) -> Iterator[Beds]:
    yield Beds(bed, *hosts("stable", "newest"))


def test_late_storage_moves_in_the_window_and_back(beds: Beds) -> None:
    steps, notes, findings = beds.destination.call(planned, beds.document)
    assert findings == [] and beds.asked() == []
    assert {phase for phase, slot, _op in steps if slot != "HBA"} == {"activate"}
    assert [op for _phase, slot, op in steps if slot != "HBA"][:3] == ["acquire", "prove", "mkdir"]
    assert "only once the source has released it" in " ".join(notes)

    beds.remove()
    assert beds.is_away and [one.split()[0] for one in beds.asked()] == ["release"]
    steps, _notes, findings = beds.destination.call(planned, beds.document)
    assert findings == [] and beds.asked() == []
    assert beds.destination.call(try_import, beds.document) == ("", [])
    assert [one.split()[0] for one in beds.asked()] == ["acquire"]
    beds.destination.call(inhost.verify, beds.document)

    beds.destination.call(inhost.freeze)
    back = beds.destination.call(inhost.export)
    beds.destination.call(remove)
    assert beds.is_away
    assert beds.source.call(try_import, back) == ("", [])
    assert [one.split()[0] for one in beds.asked()] == ["release", "acquire"]
    first, again = (documents.loads(one) for one in (beds.document, back))
    assert documents.state_bytes(first) == documents.state_bytes(again)


@pytest.mark.parametrize("mode, said, asked", [
    ("fail", "the acquire command of [late lab] ended with 17: no quorum", "acquire release"),
    pytest.param("half", "ended with 1: in use elsewhere", "acquire release",
                 marks=pytest.mark.full),
    ("hang", "did not end within 2 s and was killed", "acquire release"),
    pytest.param("other", "holds other data than on the frozen source", "acquire release",
                 marks=pytest.mark.full),
    pytest.param("nothing", "does not exist on this host", "acquire release",
                 marks=pytest.mark.full)])
def test_what_fails_in_the_window_is_taken_back_and_released(
        beds: Beds, mode: str, said: str, asked: str) -> None:
    beds.remove()
    beds.asked()
    beds.configure(beds.destination, mode, timeout=2 if mode == "hang" else 20)
    told, left = beds.destination.call(try_import, beds.document)
    assert said in told and "; nothing was changed; next: " in told and "\n" not in told
    assert left == []
    assert beds.is_away and " ".join(one.split()[0] for one in beds.asked()) == asked


@pytest.mark.full
def test_a_release_that_fails_is_said(beds: Beds) -> None:
    """And names what this host may still have open."""
    beds.remove()
    beds.configure(beds.destination, "stuck")
    told = beds.destination.call(meddled, beds.document)
    assert "taking it back failed: the release command of [late lab] ended with 11" in told
    assert f"{beds.path} not released" in told
    beds.configure(beds.destination, "ok")
    beds.destination.call(release, str(beds.path))
    assert beds.is_away


def release(path: str) -> None:
    exclusive.release(load(), path)


def meddled(data: bytes) -> str:
    """What an import says whose kernel refuses the 20th change of those after the acquire."""
    try:
        one = facade.Ours(load(), inhost.Stopping(45, "before"))
        one.import_(one.ready(documents.loads(data)))
    except errors.HandoverError as error:
        return str(error)
    return ""


@pytest.mark.full
@pytest.mark.parametrize("how", ["before", "after", "stop"])
def test_an_import_of_late_storage_stopped_anywhere_releases_it(beds: Beds, how: str) -> None:
    beds.remove()
    points, wrong = beds.destination.call(stopped_everywhere, "import", beds.document, how,
                                          str(beds.path), timeout=280)
    print(f"{points} points")
    print("\n".join(wrong))
    assert not wrong and points > 50


@pytest.mark.full
def test_a_removal_of_late_storage_stopped_anywhere_has_it_again(beds: Beds) -> None:
    beds.source.call(inhost.thaw)
    beds.source.call(inhost.freeze)
    points, wrong = beds.source.call(stopped_everywhere, "remove", beds.document, "before",
                                     str(beds.path), timeout=280)
    print(f"{points} points")
    print("\n".join(wrong))
    assert not wrong and points > 20
    assert beds.is_away


def stopped_everywhere(verb: str, data: bytes, how: str, path: str) -> tuple[int, list[str]]:
    """As inhost.stopped_everywhere, and the storage is where it was before."""
    inhost.SETTINGS = load()
    real, wrong = inhost.differences, []
    told: list[str] = []
    undo = Rollback.undo

    def undone(self: Rollback, error: Exception) -> errors.HandoverError:
        found = undo(self, error)
        told.append(str(found))
        return found
    Rollback.undo = undone  # type: ignore[method-assign]

    def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
        there = os.path.exists(path)
        if there != (verb == "remove"):
            wrong.append(f"the storage is {'' if there else 'not '}there: {told[-1:]}")
        return real(old, new)

    inhost.differences = differences
    try:
        points, found = inhost.stopped_everywhere(verb, data, how)
    finally:
        inhost.differences = real
    return points, [*found, *wrong]


def test_the_plan_shows_the_commands(beds: Beds) -> None:
    told = beds.destination.run(
        [inhost_program(), "plan", "--json", "-"], input=beds.document)
    steps = json.loads(told.stdout)["steps"]
    shown = [one for one in steps if one["op"] == "acquire"]
    assert [(one["path"], one["value"]) for one in shown] == [
        (str(beds.path), f"{beds.script} acquire ok")]


def inhost_program() -> str:
    from tests.lab import scenario
    return str(scenario.PROGRAM)

"""What registrations a target has after its kernel: each cell of the table, and its grounds."""
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.model import pr_texts, reservations
from lio_handover.model.pr_texts import Kind
from lio_handover.protocol.pr_survival import (TABLE, Copy, File, Keeps, Kernel, Survival, Takes,
                                               decide, rendered)
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.scsi import cdb
from tests import lab
from tests.conftest import Pool
from tests.handover.test_engine import WAY, Two, two
from tests.handover.test_power import Powered, powered
from tests.support import inhandover, inhost, insurviving, samples
from tests.support.inbus import Service

__all__ = ["powered", "two"]
DOCUMENT = Path(__file__).parents[2] / "docs" / "internals" / "handover-protocol.md"
SERVING = WAY.partition(" retire")[0]
ASK = (Survival.ASK, Takes.UNKNOWN)
#: After a reboot, where the gate was open since the copy: APTPL and file → answer.
LATER: dict[tuple[Keeps, File], tuple[Survival, Takes]] = {
    (Keeps.ON, File.WHOLE): (Survival.OPEN, Takes.FILE),
    (Keeps.OFF, File.WHOLE): (Survival.OPEN, Takes.FILE),
    (Keeps.ON, File.PLACEHOLDER): (Survival.OPEN, Takes.NONE),
    (Keeps.OFF, File.PLACEHOLDER): (Survival.OPEN, Takes.NONE),
    (Keeps.OFF, File.NEVER): (Survival.OPEN, Takes.NONE),
    (Keeps.ON, File.NEVER): ASK,
    **{(keeps, file): ASK for keeps in Keeps for file in (
        File.BROKEN, File.GONE, File.FOREIGN, File.OLDER)},
}
ONE, OTHER = (f"{sum(name.encode()):08x}-0000-4000-8000-000000000000" for name in (
    "disk0", "disk1"))
BOTH = [(samples.initiator(0), 0xabc0), (samples.initiator(1), 0xabc1)]


# ── the table ────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("kernel, keeps, file, copy", list(product(Kernel, Keeps, File, Copy)))
def test_each_cell(kernel: Kernel, keeps: Keeps, file: File, copy: Copy) -> None:
    row = decide(kernel, keeps, file, copy)
    wanted = {Kernel.HOLDS: (Survival.OPEN, Takes.KERNEL),
              Kernel.PARTS: (Survival.STAY, Takes.UNKNOWN),
              Kernel.REBOOTED: (Survival.OPEN, Takes.COPY) if copy is Copy.CURRENT
              else LATER[keeps, file]}[kernel]
    assert (row.answer, row.takes) == wanted and row.why


def test_every_row_decides_something() -> None:
    assert {decide(*cell) for cell in product(Kernel, Keeps, File, Copy)} == set(TABLE)


def test_the_document_has_the_table() -> None:
    text = DOCUMENT.read_text().split("<!-- surviving -->\n")[1].split("<!-- end -->")[0]
    assert text.strip().splitlines() == rendered()


# ── the file ─────────────────────────────────────────────────────────────────────────────────

HELD = samples.registrations(3, aptpl=True)
GOOD = pr_texts.aptpl_text(HELD, {(samples.IQN, 1): 1})


def test_a_whole_file_is_read() -> None:
    found = pr_texts.parse_aptpl(GOOD)
    assert found.kind is Kind.WHOLE and found.says
    assert reservations.from_aptpl(found.blocks, HELD.generation) == HELD
    assert {pr_texts.parse_aptpl(one).kind for one in pr_texts.PLACEHOLDERS} == {Kind.PLACEHOLDER}


@pytest.mark.parametrize("end", range(0, len(GOOD), 7))
def test_a_file_that_is_cut_off_says_nothing(end: int) -> None:
    for data in (GOOD[:end], GOOD[:end] + bytes(len(GOOD) + 1 - end)):
        found = pr_texts.parse_aptpl(data)
        assert found.kind is Kind.BROKEN and not found.blocks and found.why


@pytest.mark.parametrize("data, why", [
    (b"", "is empty"), (bytes(4096), "nothing but zeros"), (GOOD[:-1], "is cut off after 3"),
    (GOOD + b"\0", "the kernel does not write"), (GOOD + b"x", "the kernel does not write"),
    (b"\xff" + GOOD, "the kernel does not write"), (b"No Registrations", "does not write"),
    (pr_texts.EMPTY_FILE[:-1], "does not write"), (pr_texts.EMPTY_FILE * 2, "does not write"),
    (GOOD[GOOD.index(b"PR_REG_START: 1"):], "holds block 1 where block 0"),
    (GOOD.replace(b"PR_REG_END: 1", b"PR_REG_END: 2"), "cut off after 1"),
    (GOOD.replace(b"tpgt=1", b"tpgt=x"), "cut off after 0"),
    (GOOD.replace(b"res_holder=0", b"res_holder=1\nres_type=05\nres_scope=00"), "two holders")])
def test_what_the_kernel_does_not_write_says_nothing(data: bytes, why: str) -> None:
    found = pr_texts.parse_aptpl(data)
    assert found.kind is Kind.BROKEN and why in found.why


def test_the_newest_file_counts_also_where_it_is_broken(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(GOOD)
    os.utime(old, (1e9, 1e9))
    assert pr_texts.newest([str(old), str(new), str(old / "x")]).kind is Kind.WHOLE
    new.write_bytes(GOOD[:100])
    found = pr_texts.newest([str(old), str(new)])
    assert (found.kind, found.path) == (Kind.BROKEN, str(new))
    os.utime(new, (1e9, 1e9))
    assert "which differs" in pr_texts.newest([str(old), str(new)]).why
    new.unlink()
    new.mkdir()
    assert pr_texts.newest([str(old), str(new)]).why == "is no file"
    new.rmdir()
    new.symlink_to(new)
    found = pr_texts.newest([str(old), str(new)])
    assert found.kind is Kind.UNREADABLE and "can't be read: Too many" in found.why
    assert pr_texts.newest([str(tmp_path / "none")]).kind is Kind.MISSING


def test_the_kernel_writes_what_is_read(two: Callable[[str, str], Two]) -> None:
    """Both ways in which it says that there is nothing; and a type of 8."""
    pair = two("newest", "stable")
    found = pair.host[SOURCE].call(insurviving.what_the_kernel_writes, OTHER)
    kinds = {name: pr_texts.parse_aptpl(data).kind for name, data in found.items()}
    assert kinds == {"registered": Kind.WHOLE, "reserved": Kind.WHOLE, "gone": Kind.PLACEHOLDER,
                     "without": Kind.PLACEHOLDER, "with": Kind.WHOLE,
                     "cleared": Kind.PLACEHOLDER}, found
    assert pr_texts.parse_aptpl(found["reserved"]).blocks[0][1:] == (True, 8)
    assert {found["gone"], found["cleared"]} == set(pr_texts.PLACEHOLDERS)


# ── on a real kernel ─────────────────────────────────────────────────────────────────────────

#: File of the first backstore → why it asks; or the registrations that it opens with.
FILES: dict[str, str | list[tuple[str, int]]] = {
    "empty": "is empty", "placeholder too": [], "gone": "is not there",
    "elsewhere, torn": "/etc/target/pr/aptpl_.* is cut off after 1",
    "whole": BOTH, "placeholder": [], "zeros": "holds nothing but zeros",
    "torn": "is cut off after 1 registrations", "cut after a block": "is cut off after 1",
    "garbage": "holds what the kernel does not write",
    "with more behind it": "holds what the kernel does not write",
    "of another target": "names a port or an initiator",
    "of another initiator": "names a port or an initiator",
}


@pytest.mark.parametrize("files", [
    pytest.param(list(FILES)[:4], id="some"),
    pytest.param(list(FILES)[4:], id="others", marks=pytest.mark.full)])
def test_a_file_that_says_nothing_is_no_evidence(two: Callable[[str, str], Two],
                                                 files: list[str]) -> None:
    """The destination serves and loses its kernel's target; every file that there can be then."""
    pair = two("stable", "newest")
    pair.go(SERVING)
    b = pair.host[DESTINATION]
    good = b.call(insurviving.read, ONE)
    for how in files:
        wanted = FILES[how]
        b.call(insurviving.lose, pair.id, ONE, how, good)
        if isinstance(wanted, str):
            with pytest.raises(errors.Undecided, match=wanted) as error:
                b.call(insurviving.recover, pair.id)
            said = str(error.value)
            assert pair.serving() == [] and "\n" not in said, how
            assert "the copy kept here is of 2" in said and "has 2 registrations" in said
            assert "--allow kept-registrations" in said and "--allow no-registrations" in said
            allow = "no-registrations" if how == "empty" else "kept-registrations"
            answer = b.call(insurviving.recover, pair.id, [allow])
            assert "on the word that was given" in "".join(answer.notes)
            wanted = BOTH if allow[:4] == "kept" else []
        else:
            answer = b.call(insurviving.recover, pair.id)
            noted = "is served with no registrations" in "".join(answer.notes)
            assert noted == (not wanted), how
        assert pair.serving() == [DESTINATION] and b.call(insurviving.held) == [wanted, []], how
        # and what was decided is what counts from now on
        assert pr_texts.parse_aptpl(b.call(insurviving.read, ONE)).says, how
    if "gone" in files:
        return
    # The other backstore has no registrations; its file was left all the same, so it is missed.
    b.call(insurviving.lose, pair.id, ONE, "whole", good)
    b.call(insurviving.spoil, OTHER, "gone", b"")
    with pytest.raises(errors.Undecided, match="disk1: its APTPL file is not there"):
        b.call(insurviving.recover, pair.id)
    b.call(insurviving.spoil, OTHER, "a folder", b"")
    with pytest.raises(errors.Undecided, match="is no file.*next: move /etc/target/pr/aptpl_"):
        b.call(insurviving.recover, pair.id, ["kept-registrations"])
    b.call(insurviving.spoil, OTHER, "placeholder", b"")
    b.call(insurviving.recover, pair.id)
    assert b.call(insurviving.held) == [BOTH, []]
    pair.go("abort* thaw")
    pair.recover(DESTINATION)
    assert b.call(insurviving.files) == [] and pair.states() == ("idle", "none")


@pytest.mark.full
def test_a_source_that_only_prepared_has_what_was_registered_since(
        two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    pair.go("prepare")
    a = pair.host[SOURCE]
    a.call(insurviving.do, 0, 0, cdb.preempt(0xabc0, 0xabc1, 5))
    good = a.call(insurviving.read, ONE)
    a.call(insurviving.lose, pair.id, ONE, "whole", good)
    a.call(insurviving.recover, pair.id)
    assert a.call(insurviving.held) == [BOTH[:1], []] and pair.serving() == [SOURCE]


# ── the copy that follows ────────────────────────────────────────────────────────────────────

def test_the_copy_follows_each_write(bed: lab.Lab, _pool: Pool) -> None:
    """The service runs on the destination, which serves.  Who was preempted does not come back,
    and what the copy has is offered where the file is lost."""
    a, b = (Service(_pool.take(role, name=name)[0])
            for role, name in (("stable", "bus"), ("newest", "bus2")))
    b.start()
    a.call(inhost.build, inhandover.state(bed.shared))
    pair = Two(a.host, b.host)
    pair.go(SERVING)
    took = b.call(insurviving.followed_after, pair.id, ONE, cdb.preempt(0xabc0, 0xabc1, 5))
    assert took < 2, took   # some 30 ms where nothing else runs
    print(f"the copy followed in {took * 1000:.0f} ms")
    b.call(insurviving.replace_folder)
    b.call(insurviving.followed_after, pair.id, ONE, cdb.register(0xabc0, 0xabc7, aptpl=True))
    one = [(samples.initiator(0), 0xabc7)]
    assert not b.call(insurviving.ended, pair.id)
    b.daemon.kill(signal.SIGTERM)
    b.daemon.wait(30)
    b.call(insurviving.wait_for_end, pair.id)

    good = b.call(insurviving.read, ONE)
    b.call(insurviving.lose, pair.id, ONE, "zeros", good, True)
    with pytest.raises(errors.Undecided, match="zeros; the copy kept here .* has 1 registration:"):
        b.call(insurviving.recover, pair.id)
    b.call(insurviving.recover, pair.id, ["kept-registrations"])
    assert b.call(insurviving.held) == [one, []]
    # The service is down, and a verb catches up.
    b.call(insurviving.do, 0, 1, cdb.register(0, 0xabc9, aptpl=True))
    pair.go("verify*")
    assert b.call(insurviving.copy, pair.id)[ONE] == b.call(insurviving.read, ONE)
    # One that is older than what the copy followed can't be what the kernel wrote last.
    b.call(insurviving.lose, pair.id, ONE, "older", good, True)
    with pytest.raises(errors.Undecided, match="was written before what the copy has of it"):
        b.call(insurviving.recover, pair.id)
    assert pair.serving() == []


# ── power ────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.full
def test_who_was_preempted_does_not_come_back(powered: Callable[[], Powered]) -> None:
    """The destination's power is cut: with the file whole, and with it torn."""
    pair = powered()
    pair.go(SERVING)
    b = pair.host[DESTINATION]
    b.call(insurviving.do, 0, 0, cdb.preempt(0xabc0, 0xabc1, 5))
    b.call(insurviving.look)    # as the service does when it is told
    good = b.call(insurviving.read, ONE)
    assert b.call(insurviving.copy, pair.id) == {ONE: good}
    pair.cut(DESTINATION)
    pair.boot(DESTINATION)
    pair.recover(DESTINATION)
    assert b.call(insurviving.held) == [BOTH[:1], []] and pair.serving() == [DESTINATION]

    b.call(insurviving.do, 0, 0, cdb.register(0xabc0, 0xabc5, aptpl=True))
    b.call(insurviving.look)
    b.call(insurviving.spoil_disk, ONE, b"")
    pair.cut(DESTINATION)
    pair.boot(DESTINATION)
    with pytest.raises(errors.Undecided, match="is empty; the copy .* has 1 registration:"):
        pair.recover(DESTINATION)
    assert pair.serving() == []
    answers = {"status": pair.answer(SOURCE, "status")}
    answer = b.call(insurviving.recover, pair.id, ["kept-registrations"], answers)
    assert "1 registration" in "".join(answer.notes) and pair.serving() == [DESTINATION]
    assert b.call(insurviving.held) == [[(samples.initiator(0), 0xabc5)], []]
    # and by that word no power cut asks again
    pair.cut(DESTINATION)
    pair.boot(DESTINATION)
    pair.recover(DESTINATION)
    assert b.call(insurviving.held) == [[(samples.initiator(0), 0xabc5)], []]


@pytest.mark.full
def test_a_destination_that_was_rebooted_gives_back_what_survived(
        powered: Callable[[], Powered]) -> None:
    pair = powered()
    pair.go(SERVING)
    b = pair.host[DESTINATION]
    b.call(insurviving.do, 0, 0, cdb.preempt(0xabc0, 0xabc1, 5))
    b.call(insurviving.settled)
    good = b.call(insurviving.read, ONE)
    pair.cut(DESTINATION)
    pair.boot(DESTINATION)
    b.call(insurviving.spoil_disk, ONE, good[:-9])
    with pytest.raises(errors.Undecided, match="is cut off"):
        pair.go("abort*")
    assert pair.state(DESTINATION) == "serving"
    b.call(insurviving.spoil_disk, ONE, good)
    pair.go("abort* thaw")
    assert pair.host[SOURCE].call(insurviving.held) == [BOTH[:1], []]
    assert pair.serving() == [SOURCE]


@pytest.mark.full
def test_the_copy_counts_while_the_gate_was_shut(powered: Callable[[], Powered]) -> None:
    """A frozen source loses its power, and its file; which changes nothing, but is told."""
    pair = powered()
    pair.go("prepare stage* freeze")
    a = pair.host[SOURCE]
    a.call(insurviving.spoil_disk, ONE, b"")
    pair.cut(SOURCE)
    pair.boot(SOURCE)
    answer = pair.recover(SOURCE)
    assert "is empty; the copy kept here" in "".join(answer.notes)
    assert a.call(insurviving.held) == [BOTH, []] and pair.serving() == [SOURCE]


@pytest.mark.full
@pytest.mark.parametrize("way, role", [
    ("prepare", SOURCE), ("prepare thaw", SOURCE), (WAY, DESTINATION)])
def test_targetclis_restore_with_fewer_registrations_is_noticed(
        powered: Callable[[], Powered], way: str, role: str) -> None:
    """It restores what it can read of the file, and opens; recover shuts that, and asks."""
    pair = powered()
    pair.go(way)
    host = pair.host[role]
    good = host.call(insurviving.read, ONE)
    host.call(insurviving.spoil_disk, ONE, good.partition(b"PR_REG_START: 1")[0])
    pair.cut(role)
    pair.boot(role)
    assert pair.serving() == [role] and host.call(insurviving.held)[0] != BOTH
    with pytest.raises(errors.Undecided, match="is cut off after 1"):
        pair.recover(role)
    assert pair.serving() == []
    host.call(insurviving.spoil_disk, ONE, good)     # somebody has it
    pair.recover(role)
    assert pair.serving() == [role] and host.call(insurviving.held) == [BOTH, []]
    pair.again(role)

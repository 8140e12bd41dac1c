"""A target moves between real kernels while real initiators use it: the story of scenario.py."""
from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lio_handover import errors
from lio_handover.scsi import replies
from tests import demo, lab
from tests.conftest import HostsOf
from tests.lab import scenario
from tests.lab.differences import Difference, reason
from tests.lab.scenario import ALICE, BOB, DISK, IDENTITY, LUNS, PLAIN, Scenario
from tests.support import inhost

PAIRS = [("stable", "newest"), ("newest", "stable"), ("oldest", "stable"),
         pytest.param("oldest", "newest", marks=pytest.mark.full),
         pytest.param("newest", "oldest", marks=pytest.mark.full),
         pytest.param("stable", "stable", marks=pytest.mark.full)]
Story = Callable[[str, str], Scenario]
NOTHING: dict[int, list[int]] = {lun: [] for lun in LUNS}


@pytest.fixture
def story(bed: lab.Lab, hosts: HostsOf, client: lab.OpenIscsi) -> Story:
    """`story("stable", "newest")`: the source serves, alice and bob have registered."""
    def begin(source: str, destination: str) -> Scenario:
        a, b = hosts(source, destination)
        told = Scenario(bed, a, b, client.host)
        told.build()
        return told
    return begin


@contextmanager
def writing(told: Scenario) -> Iterator[None]:
    """Alice writes meanwhile; each of her writes has come to an end when this does."""
    told.start_writing()
    told.wait_for_writes(20)
    yield
    told.wait_for_writes(20)
    told.stop_writing()


@pytest.mark.parametrize("source, destination", PAIRS)
def test_the_initiators_go_on_and_see_the_same(story: Story, source: str, destination: str) -> None:
    told = story(source, destination)
    on_a = told.look("A")
    assert on_a.probes == scenario.RIGHT
    with writing(told):
        told.freeze()
        told.at_freeze()
        assert told.lost == NOTHING
        assert told.try_login(BOB).startswith("refused")
        told.export()
        told.before_import()
        assert told.late_counts == told.frozen_counts
        told.import_()
        told.take_over()
        told.come_back()
    assert told.wrong_through_target() == NOTHING
    on_b = told.look("B")
    assert on_b.probes == scenario.RIGHT
    unexplained = [one for one in scenario.differences(on_a, on_b) if not reason(one)]
    assert unexplained == []
    for lun, keys, generation, held, aptpl in (
            (PLAIN, (0xA11CE002,), 2, (0xA11CE002, 5), True),
            (IDENTITY, (0xB0B002, 0xA11CE101), 3, None, False),
            (DISK, (0xA11CE203,), 3, (0xA11CE203, 8), False)):
        answers = on_b.answers[ALICE, lun]
        assert replies.decode_keys(answers["pr in read keys"]) == (generation, keys)
        full = replies.decode_full_status(answers["pr in read full status"])
        assert [(one.key, one.type) for one in full.registrations if one.holder] == (
            [held] if held else [])
        assert replies.decode_capabilities(
            answers["pr in report capabilities"]).ptpl_active == aptpl

    # What A kept until now goes; B does not notice.
    assert told.left_on_source()
    told.remove()
    assert told.left_on_source() == []
    assert told.probe() == scenario.RIGHT
    assert told.wrong_through_target() == NOTHING
    told.verify()


def test_nothing_reaches_the_storage_once_frozen(story: Story) -> None:
    told = story("stable", "newest")

    def digest() -> str:
        assert told.bed.disk is not None
        found = hashlib.sha256()
        for path in (told.bed.shared / "plain.img", told.bed.shared / "identity.img",
                     told.bed.disk):
            found.update(path.read_bytes())
        return found.hexdigest()

    with writing(told):
        for _ in range(3):      # another write is under way each time
            told.freeze()
            frozen = digest()
            told.at_freeze()
            assert told.lost == NOTHING
            assert told.try_login(ALICE, scenario.SECRET).startswith("refused")
            time.sleep(0.5)
            assert digest() == frozen
            assert told.counts() == told.frozen_counts
            told.thaw()
            told.come_back()
            told.wait_for_writes(5)
    assert told.wrong_through_target() == NOTHING
    assert told.probe() == scenario.RIGHT


def test_the_document_is_what_stands_between_them(story: Story) -> None:
    """A document that was not frozen is refused; one that was is imported once, and twice is
    nothing."""
    told = story("stable", "newest")
    told.export()
    refused = told.lio_handover(told.destination, "import", "-", stdin=told.document, check=False)
    assert refused.code != 0 and "frozen" in refused.stderr
    told.freeze()
    told.export()
    told.import_()
    again = told.import_()
    assert "already; nothing was changed" in again.stderr
    told.take_over()
    told.come_back()
    assert told.probe() == scenario.RIGHT


def test_there_and_back_again_is_as_it_was(story: Story) -> None:
    told = story("stable", "newest")
    first = told.look("A")
    documents = []
    with writing(told):
        for _ in range(2):
            told.hand_over()
            told.wait_for_writes(5)
            assert told.lost == NOTHING and told.late_counts == told.frozen_counts
            told.remove()
            documents.append(json.loads(told.document))
            told.turn_round()
    assert told.wrong_through_target() == NOTHING
    again = told.look("A again")
    assert again.probes == scenario.RIGHT
    # The kernel is that of the beginning: nothing but the first login under an ACL tells of it.
    assert {one.question for one in scenario.differences(first, again)} == {"test unit ready"}
    assert all(map(reason, scenario.differences(first, again)))
    for one in documents:
        del one["digest"], one["origin"]
    for name in documents[0]:
        # alice went on writing; another kernel; another attempt
        if name not in ("storage", "host", "handovers"):
            assert documents[0][name] == documents[1][name], name


def test_where_the_destination_refuses_the_source_goes_on(story: Story) -> None:
    told = story("stable", "newest")
    before = told.destination.call(inhost.tree)
    told.destination.call(scenario.configure, told.folder, "/dev/disk/by-id/*")
    with writing(told):
        told.freeze()
        told.export()
        refused = told.lio_handover(told.destination, "import", "-", stdin=told.document,
                                    check=False)
        assert refused.code == errors.StorageNotAllowed.code, refused.stderr
        assert scenario.DEVICE in refused.stderr and "nothing was changed" in refused.stderr
        told.thaw()
        told.come_back()
    assert told.destination.call(inhost.tree) == before
    assert told.wrong_through_target() == NOTHING
    assert told.probe() == scenario.RIGHT


def test_the_table_of_reasons_explains_only_what_it_names() -> None:
    def explained(question: str, a: bytes, b: bytes, who: str = ALICE, lun: int = PLAIN) -> bool:
        return reason(
            Difference(who, lun, question, a, b, (who, lun) == (BOB, DISK))) is not None

    told = b"status 0x02 sense 6/3f/0e REPORTED LUNS DATA HAS CHANGED [70]"
    assert explained("test unit ready", b"", told)
    assert not explained("test unit ready", told, b"")
    assert not explained("test unit ready", b"", told.replace(b"3f/0e", b"29/00"))
    assert not explained("inquiry", b"", told)

    short = bytes.fromhex("00b0000c 01010001 00004000 00004000")
    long = bytes.fromhex("00b00010 01010001 00004000 00004000 00000000")
    assert explained("vpd b0", short, long) and explained("vpd b0", long, short)
    assert not explained("vpd b0", short, long[:-1] + b"\1")
    assert not explained("vpd b0", short, long.replace(b"\x40", b"\x41"))
    assert not explained("vpd b1", short, long)

    opcodes = bytes.fromhex("00000008 1200000000000006")
    more = bytes.fromhex("00000010 1200000000000006 a30000050001000c")
    assert explained("report supported opcodes", opcodes, more)
    assert explained("report supported opcodes", more, opcodes)
    assert not explained("report supported opcodes", opcodes, more.replace(b"\x05", b"\x0f"))
    assert not explained("report supported opcodes", opcodes, more + more[4:])
    assert not explained("report supported opcodes", more, b"status 0x18")

    assert explained("read capacity 10", b"status 0x18", bytes(8), BOB, DISK)
    assert not explained("read capacity 10", b"status 0x18", bytes(8), ALICE, DISK)
    assert not explained("read capacity 10", b"status 0x18", bytes(8), BOB, PLAIN)
    assert not explained("read capacity 16", b"status 0x18", bytes(32), BOB, DISK)


@pytest.mark.parametrize("question, changed, wrong", [
    ("vpd 83", bytes(8), 1), ("vpd b0", bytes.fromhex("00b0000c") + bytes(12), 0)])
def test_the_demo_marks_what_nothing_explains(
        capsys: pytest.CaptureFixture[str], question: str, changed: bytes, wrong: int) -> None:
    before = {"vpd 83": bytes(7) + b"\1", "vpd b0": bytes.fromhex("00b00010") + bytes(16)}
    a, b = (scenario.Sight({(who, lun): dict(before) for who in (ALICE, BOB) for lun in LUNS})
            for _ in range(2))
    b.answers[BOB, DISK][question] = changed
    page = demo.Page()
    demo.show_pages(page, a, b)
    printed = capsys.readouterr().out
    assert len(page.wrong) == wrong
    assert ("nothing explains vpd 83 of LUN 2 for bob" in printed) == bool(wrong)
    if wrong:       # the last of eight bytes, and a mark under it
        assert ["A  0000  00 00 00 00 00 00 00 01", "B  0000  00 00 00 00 00 00 00 00"] == [
            line.strip().removesuffix(" --" * 8) for line in printed.splitlines()
            if "  0000  " in line]
        assert "\n" + " " * 37 + "^^\n" in printed


@pytest.mark.lab
def test_the_demo_succeeds_and_fits_on_a_page(monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main() == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "The target moved, and its initiators went on." in printed
    assert max(map(len, printed.splitlines())) <= demo.WIDTH + 2

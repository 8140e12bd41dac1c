"""What came of inputs that python3 -m tests.fuzz has made: each is refused, in one short line."""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.cli import boot
from lio_handover.document import document as documents, envelope, rename
from lio_handover.drivers import guest_checks
from lio_handover.kernel import portals
from lio_handover.model import pr_texts, reservations
from lio_handover.model.keys import backstore_key
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.records import pr_record
from lio_handover.records.journal import Handover, Journal
from lio_handover.records.ownership import OwnershipFile
from lio_handover.savefile import places
from lio_handover.storage import block_devices
from lio_handover.vmstate import answers
from tests.fuzz import documents as fuzz_documents, peers, records
from tests.support import samples

ID = records.ID
Tree = dict[str, Any]


# ── a message ────────────────────────────────────────────────────────────────────────────────
def test_a_message_is_one_short_line_whatever_is_in_it() -> None:
    line = str(errors.BadMap("a\n\x1b[31m\u202e" * 5000, changed="\0" * 5000, do="x" * 50_000))
    assert line.isprintable() and len(line) == 2000
    assert "; next: xxx" in line and line.startswith("a\\n\\x1b[31m\\u202ea")


def test_a_message_of_usual_length_is_not_cut() -> None:
    assert str(errors.BadMap("what", do="do " * 200)) == \
        f"what; nothing was changed; next: {'do ' * 200}"


def test_a_long_map_is_cut_and_says_what_is_wrong() -> None:
    with pytest.raises(errors.BadMap) as raised:
        rename.parse(["rtpi:1=" + "x" * 70_000])
    assert "is neither 1 to 65535 nor fresh" in str(raised.value)
    assert len(str(raised.value)) < 1500


def test_what_a_unit_runs_does_not_reach_a_terminal(tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "FOLDERS", (str(tmp_path),))
    (tmp_path / "target.service").write_text(
        "[Service]\nExecStart=targetcli restoreconfig \x1b[2J$A")
    with pytest.raises(errors.SavefileBroken, match=r"can't be told: .*\\x1b\[2J") as raised:
        places.named()
    assert raised.value.what.isprintable()


# ── documents: few bytes that would take much memory ─────────────────────────────────────────
def spoilt(change: Callable[[Tree], None]) -> bytes:
    tree = json.loads(json.dumps(fuzz_documents.trees()[0]))
    change(tree)
    return fuzz_documents.seal(tree)


def share(count: int) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        tree["state"]["common"]["lun/iscsi"] = {f"a{number}": "1" for number in range(count)}
        tree["state"]["targets"][0]["tpgs"][0]["luns"] = [
            {"attributes": {}, "backstore": "fileio/disk0", "number": number}
            for number in range(count)]
    return change


def test_attributes_that_many_objects_share_are_counted_at_each() -> None:
    assert len(documents.loads(spoilt(share(100)), 1 << 20).state.targets[0].tpgs[0].luns) == 100
    with pytest.raises(errors.TooLarge, match="more than 21845 objects and attributes.*fewer"):
        try:
            documents.loads(spoilt(share(200)), 1 << 20)
        except errors.TooLarge as error:
            raise errors.TooLarge(str(error)) from None


@pytest.mark.parametrize("token", ["0", "{}", '""', '{"":0}', "[0]"])
def test_more_values_than_a_document_of_that_size_has_are_not_even_parsed(
        token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = f"[{','.join([token] * 140_000)}]".encode()
    monkeypatch.setattr(json, "loads", lambda *args, **more: pytest.fail("it was parsed"))
    with pytest.raises(errors.TooLarge, match="values"):
        envelope.decode(data, 1 << 20)


def test_a_large_document_that_hosts_write_is_taken() -> None:
    document = samples.document(samples.iscsi(luns=300, acls=30, registrants=64), frozen=True)
    data = documents.dumps(document)
    assert documents.loads(data, 8 << 20) == document


# ── this host's own files ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("old, new", [
    ('"role": "source"', '"role": "sourceress"'), ('"targets": ["iscsi', '"targets": [0.5, "iscsi'),
    ('"peer": "b"', '"peer": []'), ('"at": 1.5', '"at": 1e999'), ('"at": 1.5', '"at": NaN'),
    ('"maps": []', '"maps": [1]'), ('"stores": {"fileio/disk0": "serial"}', '"stores": {"a": 1}'),
])
def test_a_first_record_of_another_shape_is_a_broken_journal(tmp_path: Path, old: str,
                                                             new: str) -> None:
    plain = records.journals()[0].decode()
    assert old in plain
    folder = tmp_path / "handovers" / ID
    folder.mkdir(parents=True)
    (folder / "journal").write_text(plain.replace(old, new, 1))
    for tolerate in (False, True):
        with pytest.raises(errors.JournalBroken, match="line 1 can't be read"):
            Journal(str(tmp_path), ID, tolerate_damage=tolerate)


@pytest.mark.parametrize("old, new", [
    ('"epoch": 1', '"epoch": Infinity'), ('"epoch": 1', '"epoch": -1'),
    ('"boot": "boot"', '"boot": {}'), ('"state": "frozen"', '"state": ["frozen"]'),
    ('"1": "1"', '"1": 1'), ('["iqn.x"]', "[[]]"), ('"digest": "ab', '"digest": 1, "a": "ab'),
    ('"verb": "freeze"', '"verb": 1e999'), ('{"record": "end"}', "[" * 100_000),
])
def test_a_later_record_of_another_shape_leaves_the_first_one(tmp_path: Path, old: str,
                                                              new: str) -> None:
    plain = records.journals()[0].decode()
    assert old in plain
    folder = tmp_path / "handovers" / ID
    folder.mkdir(parents=True)
    (folder / "journal").write_text(plain.replace(old, new))
    with pytest.raises(errors.JournalBroken):
        Journal(str(tmp_path), ID)
    journal = Journal(str(tmp_path), ID, tolerate_damage=True)
    assert (journal.handover.role, journal.handover.state) == ("source", "")
    assert journal.handover.targets == (records.TARGET,) and journal.damage is not None


@pytest.mark.parametrize("old, new", [
    ('"targets": ["iscsi/', '"targets": [-Infinity, "iscsi/'), ('"local": []', '"local": [[]]'),
    ('"stores": {"fileio/disk0": "serial"}', '"stores": {"fileio/disk0": 7}'),
    ('"at": 1.5', '"at": NaN'), ('"at": 1.5', '"at": -1.5'), ('"at": 2.5', '"at": 1e300'),
    ('"epoch": 1', '"epoch": 1%s' % ("0" * 30)), ('["iqn.x"]', "[[]]"), ('"1": "1"', '"1": 1')])
def test_no_short_answer_at_a_boot_is_given_for_a_journal_that_is_not_read_whole(
        tmp_path: Path, old: str, new: str) -> None:
    idle = b'{"at": 2.5, "boot": "b", "epoch": 1, "record": "state", "state": "idle"}\n'
    plain = (records.journals()[0] + idle).decode()
    folder = tmp_path / "handovers" / ID
    folder.mkdir(parents=True)
    conf = tmp_path / "conf"
    conf.write_text(f"[host]\nstate_directory = {tmp_path}\n")
    (folder / "journal").write_text(plain)
    assert boot.nothing_to_do(str(conf))
    assert old in plain
    (folder / "journal").write_text(plain.replace(old, new))
    with pytest.raises(errors.JournalBroken):
        Journal(str(tmp_path), ID)
    assert not boot.nothing_to_do(str(conf))


OWNERS = [{"epoch": 1e999}, {"epoch": "1"}, {"handover": [[]]}, {"before": 1}, {"aborted": None}]


@pytest.mark.parametrize("odd", OWNERS)
def test_owners_of_another_shape_are_refused_also_by_the_short_answer_at_a_boot(
        tmp_path: Path, odd: Tree) -> None:
    entry = {"epoch": 3, "aborted": 2, "handover": "removed", "before": "", **odd}
    (tmp_path / "owners.json").write_text(json.dumps({"version": 1, "targets": {"iscsi/a": entry}}))
    with pytest.raises(errors.JournalBroken):
        OwnershipFile(str(tmp_path)).load()
    conf = tmp_path / "conf"
    conf.write_text(f"[host]\nstate_directory = {tmp_path}\n")
    assert not boot.nothing_to_do(str(conf))


@pytest.mark.parametrize("change", [
    lambda tree: tree["registrations"][0].update(initiator=None),
    lambda tree: tree["registrations"][0].update(key="0x1"),
    lambda tree: tree.update(holder=99), lambda tree: tree.update(holder=-1),
    lambda tree: tree.update(generation=[]), lambda tree: tree.update(type=1e999),
    lambda tree: tree.update(registrations=[[]])])
def test_restored_registrations_of_another_shape_are_not_known(
        tmp_path: Path, change: Callable[[Tree], None]) -> None:
    record = json.loads(records.restored()[0])
    path = tmp_path / pr_record.NAME
    path.write_text(json.dumps(record))
    assert backstore_key("fileio", "disk0") in pr_record.load(str(tmp_path), "boot")
    change(record["backstores"]["fileio/disk0"])
    path.write_text(json.dumps(record))
    assert pr_record.load(str(tmp_path), "boot") == {}


# ── others ───────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("command, answer", [
    ("query-migrate", []), ("query-status", {"status": {}}), ("query-cpus-fast", []),
    ("query-memory-size-summary", {"base-memory": {}}), ("query-target", None),
    ("query-migrate-capabilities", [{"capability": [], "state": True}]),
    ("qom-list", {"/machine/peripheral": [[]]}), ("query-migrate", {"blocked-reasons": [[]]})])
def test_a_monitor_that_answers_something_else_fails_before_the_guest_moves(
        command: str, answer: Any) -> None:
    tree = {**peers.monitors()[0], command: answer}
    with pytest.raises(errors.GuestFailed):
        guest_checks.ask(peers.Monitor(tree))  # type: ignore[arg-type]


def test_what_a_monitor_says_is_told_cut_and_escaped() -> None:
    good = guest_checks.ask(peers.Monitor(peers.monitors()[0]))  # type: ignore[arg-type]
    odd = replace(good, blocked=("\x1b[31m" + "x" * 5000,))
    names = {SOURCE: "the QEMU here", DESTINATION: "the QEMU on b"}
    found = guest_checks.findings([(names, guest_checks.Pair(good, odd, {}))], {})
    said = [finding.sentence for finding in found if "xxx" in finding.sentence]
    assert said and all(sentence.isprintable() and len(sentence) < 600 for sentence in said)


def test_a_mode_in_a_stream_that_is_no_text_is_refused() -> None:
    answer = answers.Answer(answers.BESIDE, "a", "ab" * 32, {"vhost/naa.5001405000000001": 3},
                            {"handover": ID, "epoch": 3, "mode": [[]]})
    with pytest.raises(errors.BadValue, match="names no mode"):
        answers.handover_of(answer)


def test_a_generation_that_can_not_be_read_is_ambiguous() -> None:
    files = pr_texts.PrFiles(*("",) * 8)
    with pytest.raises(pr_texts.Ambiguous, match="a generation that can't be read"):
        reservations.read(replace(files, generation="SPC-3"), {})


def test_a_table_of_sockets_that_nobody_knows_has_none(tmp_path: Path) -> None:
    (tmp_path / "self" / "net").mkdir(parents=True)
    for text in (b"sl\n\xf0\x9f", b"sl\n0: a\n", b"sl\n0: 0100007F:ZZ 0 0A 0 0 0 0 0 1\n"):
        (tmp_path / "self" / "net" / "tcp").write_bytes(text)
        assert portals.listening(str(tmp_path)).sockets == {}


def test_a_handover_that_can_not_be_is_none() -> None:
    good = Handover(ID, "source", "frozen", 3, "iscsi", ("iscsi/a",))
    good.check()
    for odd in ({"role": "nobody"}, {"state": "armed"}, {"mode": ""}, {"epoch": 1 << 60},
                {"since": float("nan")}, {"targets": ("a", 1)}, {"error": None}):
        with pytest.raises((ValueError, KeyError)):
            replace(good, **odd).check()


def test_a_mount_of_no_path_is_no_device() -> None:
    assert block_devices._basename("/dev/a\0", block_devices.HERE) == ""

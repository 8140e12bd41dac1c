"""What journals, owners and status say, and what is read of those that can't be: no kernel."""
from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.actions import aptpl_copies
from lio_handover.actions.context import HandoverContext
from lio_handover.document import document as documents
from lio_handover.handover import next_steps
from lio_handover.handover.engine import HandoverEngine
from lio_handover.host.verbs import HostVerbs
from lio_handover.kernel.facts import boot_id
from lio_handover.records import journal as journal_module
from lio_handover.records.journal import PREPARED, Handover, Journal
from lio_handover.records.ownership import OwnershipFile
from lio_handover.savefile import places, save_file, writers
from lio_handover.settings import Settings
from tests.support import samples

ID, OTHER = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"
TARGET = f"iscsi/{samples.IQN}"


def handovers(folder: Path) -> HandoverEngine:
    return HandoverEngine(HostVerbs(Settings(state_directory=str(folder))))


def begun(folder: Path, id: str = ID, role: str = "source",  # noqa: A002
          target: str = TARGET) -> Journal:
    return Journal.create(str(folder), Handover(id, role, "", 1, "iscsi", (target,)),
                          {"fileio/disk0": "serial"})


def test_status_says_where_a_verb_stopped(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.state("prepared", 1, boot_id())
    journal.note("begin", verb="freeze", to="frozen")
    journal.note("step", do="gate close")
    answer, = handovers(tmp_path).status()
    assert answer.notes[0] == "freeze was begun and has not ended: it was at gate close"
    assert answer.next == f"lio-handover recover {ID}"
    journal.note("end")
    journal.note("begin", verb="thaw", to="idle")
    answer, = handovers(tmp_path).status()
    assert answer.notes[0] == "thaw was begun and has not ended"


def test_the_first_handover_of_a_host_is_on_the_disk_with_its_folders(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    plain = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        plain(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = tmp_path / "state"
    begun(folder).state("prepared", 1, boot_id())
    path = folder / "handovers" / ID / "journal"
    assert {str(one) for one in (path, *path.parents) if tmp_path in one.parents} <= set(synced)
    assert str(tmp_path) in synced      # which holds the state directory's name
    synced.clear()
    begun(folder, OTHER).state("prepared", 1, boot_id())
    assert str(folder) not in synced


# ── at boot, when something can't be read ────────────────────────────────────────────────────

OURS, NEVER_MOVED, BACK = TARGET, "iscsi/iqn.2026-11.org.example:never", \
    "iscsi/iqn.2026-11.org.example:back"


@pytest.fixture
def booting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """targetcli would bring three targets back: one of which this host may not serve (its
    handover is ID), one that never moved, one that was here before and came back (OTHER), which
    is lio-handover's to restore."""
    save = tmp_path / "saveconfig.json"
    monkeypatch.setattr(places, "KNOWN", (str(save),))
    monkeypatch.setattr(writers, "LOCK", str(tmp_path / "targetcli.lock"))
    monkeypatch.setattr(writers, "RECENT", 0.0)
    save.write_text(json.dumps({"storage_objects": [], "targets": [
        {"fabric": "iscsi", "wwn": one.partition("/")[2], "tpgs": [{"tag": 1, "enable": True}]}
        for one in (OURS, NEVER_MOVED, BACK)]}))
    for target, id, role, state, epoch in (  # noqa: A001 - the field's word
            (OURS, ID, "source", "released", 1),
            (BACK, OTHER.replace("2", "3"), "source", "retired", 1),
            (BACK, OTHER, "destination", "confirmed", 2)):
        journal = begun(tmp_path, id, role, target)
        if state == "confirmed":
            state_ = samples.iscsi(paths=[], portals=(), wwn=target.partition("/")[2])
            only, = state_.targets
            bare = replace(only, tpgs=(replace(only.tpgs[0], luns=(), acls=()),))
            journal.keep(PREPARED, documents.dumps(samples.document(
                replace(state_, targets=(bare,)), True)))
        journal.state(state, epoch, "another boot")
        OwnershipFile(str(tmp_path)).note([target], epoch=epoch, handover=id)
    return tmp_path


def saved() -> set[str]:
    return {one.target for one in save_file.entries([OURS, NEVER_MOVED, BACK])}


def journal(folder: Path, id: str = ID) -> Path:  # noqa: A002
    return folder / "handovers" / id / "journal"


def test_at_boot_what_may_not_open_alone_is_taken_out(booting: Path) -> None:
    note, = handovers(booting).before_targetcli_restore()
    assert note.startswith(f"{OURS}: was in {booting}")
    assert saved() == {NEVER_MOVED}


@pytest.mark.parametrize("which", [ID, OTHER])
def test_a_journal_that_cannot_be_read_costs_its_own_targets(booting: Path, which: str) -> None:
    path = journal(booting, which)
    path.write_bytes(path.read_bytes() + b"\0\0\0\n")
    notes = handovers(booting).before_targetcli_restore()
    assert saved() == {NEVER_MOVED}
    assert any(f"{path}, line 3 can't be read" in one and
               f"next: lio-handover status {which} on the other host" in one and
               f"move {path.parent} aside" in one for one in notes)
    found = {one.handover.id: one for one in handovers(booting).status()}
    assert found[which].handover.state == "" and found[which].handover.targets
    assert found[which].error_code == errors.JournalBroken.code
    assert found[OTHER if which == ID else ID].handover.state in ("confirmed", "released")


def test_one_that_no_longer_counts_costs_nothing(booting: Path) -> None:
    path = journal(booting, OTHER.replace("2", "3"))
    path.write_bytes(path.read_bytes() + b"{]\n")
    assert len(handovers(booting).before_targetcli_restore()) == 1
    assert saved() == {NEVER_MOVED}


def test_where_not_even_its_targets_are_known_nothing_is_restored(booting: Path) -> None:
    """The unit fails, and so targetcli's does not start."""
    journal(booting).write_bytes(b"\0\0\0\n")
    with pytest.raises(errors.JournalBroken, match="line 1 can't be read") as error:
        handovers(booting).before_targetcli_restore()
    assert f"move {journal(booting).parent} aside" in error.value.do
    os.rename(journal(booting).parent, booting / "aside")
    assert handovers(booting).before_targetcli_restore() == ()


def test_owners_that_cannot_be_read_stop_verbs_and_keep_shut_what_moved(booting: Path) -> None:
    (booting / "owners.json").write_bytes(b"\0")
    first, *rest = handovers(booting).before_targetcli_restore()
    assert "owners.json can't be read" in first and errors.RECOVERY_PAGE in first
    assert saved() == {NEVER_MOVED}     # of the other it is not known which handover counts
    assert len(rest) == 2
    assert {one.handover.state for one in handovers(booting).status()} == {
        "released", "retired", "confirmed"}


# ── what a power cut leaves of a journal ─────────────────────────────────────────────────────

@pytest.mark.parametrize("left", [b"", b"\0" * 200, b'{"at": 17641', None])
def test_a_journal_that_is_lost_beside_its_documents_is_broken(
        booting: Path, left: bytes | None) -> None:
    path = journal(booting)
    (path.parent / "prepared.json").write_bytes(b"{}")
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(errors.JournalBroken, match="documents lie beside it") as error:
        handovers(booting).before_targetcli_restore()
    assert "make sure which host may serve it" in error.value.do
    assert saved() == {OURS, NEVER_MOVED, BACK}     # the unit fails, so targetcli's does not start
    found = {one.handover.id: one for one in handovers(booting).status()}
    assert found[ID].error_code == errors.JournalBroken.code


@pytest.mark.parametrize("left", [b"", b'{"at": 17641'])
def test_one_that_was_killed_before_it_was_begun_costs_nothing(booting: Path, left: bytes) -> None:
    folder = booting / "handovers" / ID.replace("1", "7")
    folder.mkdir()
    (folder / "journal").write_bytes(left)
    (folder / ".prepared.json.tmp").write_bytes(b"")
    assert len(handovers(booting).before_targetcli_restore()) == 1
    assert len(handovers(booting).status()) == 3


def test_the_first_record_is_on_the_disk_before_a_document(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(journal_module, "_sync", lambda path: done.append("journal"))
    monkeypatch.setattr(journal_module, "write_file", lambda path, data: done.append("document"))
    one = begun(tmp_path)
    one.keep("prepared.json", b"{}")
    one.state("prepared", 1, boot_id())
    one.keep("document.json", b"{}")
    assert done == ["journal", "document", "document"]


def test_a_handover_that_is_forgotten_loses_its_documents_first(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = begun(tmp_path)
    one.keep("prepared.json", b"{}")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *_args, **_more: None)
        one.remove()
    assert os.listdir(one.folder) == ["journal"]
    one.remove()
    assert not os.path.exists(one.folder)


def test_a_copy_that_followed_and_cannot_be_read_is_told(tmp_path: Path) -> None:
    one = begun(tmp_path)
    assert aptpl_copies.unread(one) == ""
    one.keep_beside("followed.json", b"\0" * 99)
    assert aptpl_copies.unread(one).startswith(f"{one.folder}/followed.json can't be read")
    one.keep_beside("followed.json", b'{"version": 1, "boot": "", "at": 1, '
                    b'"kept": "of another document", "ended": true, "files": {}}')
    assert aptpl_copies.unread(one) == ""


@pytest.mark.parametrize("mode, way", [
    ("iscsi", f"next: lio-handover status {ID} on the other host, which says who may serve; then"),
    ("file", "next: make sure which host may serve it: by file, none can be asked; then move")])
def test_a_damaged_document_leads_to_whom_can_be_asked(
        tmp_path: Path, mode: str, way: str) -> None:
    one = Journal.create(str(tmp_path), Handover(ID, "source", "", 1, mode, (TARGET,)), {})
    one.keep("document.json", b"\0" * 99)
    with pytest.raises(errors.JournalBroken) as error:
        HandoverContext(HostVerbs(Settings(state_directory=str(tmp_path))),
                        one).kept("document.json")
    assert way in str(error.value)


@pytest.mark.parametrize("role, state, said, leads", [
    ("source", "frozen", (), "source export ID"),
    ("source", "frozen", ("document",), "source release ID --messages FILE, with what destination "
     "activate answers"),
    ("source", "released", ("document",), "source retire ID --messages FILE, with what destination "
     "verify answers"),
    ("destination", "staged", (), "destination activate ID --messages FILE, with what source "
     "export answers"),
    ("destination", "armed", ("armed",), "destination activate ID --messages FILE, with what "
     "source release answers"),
    ("destination", "opening", (), "destination verify ID"),
    ("destination", "serving", (), "destination confirm ID --messages FILE, with what "
     "source retire answers")])
def test_what_leads_on_names_the_message_it_takes(
        tmp_path: Path, role: str, state: str, said: tuple[str, ...], leads: str) -> None:
    one = begun(tmp_path, role=role)
    one.state(state, 1, boot_id())
    for message in said:
        one.note("said", message=message, digest="")
    assert next_steps.command(one) == f"lio-handover {leads.replace('ID', ID)}"

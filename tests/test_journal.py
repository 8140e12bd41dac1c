"""What journals, owners and status say, and what is read of those that can't be: no kernel."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from lio_handover.core import Core
from lio_handover.handover import Handovers
from lio_handover.journal import Handover, Journal
from lio_handover.reader import boot_id
from lio_handover.settings import Settings
from tests import samples

ID, OTHER = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"
TARGET = f"iscsi/{samples.IQN}"


def handovers(folder: Path) -> Handovers:
    return Handovers(Core(Settings(state_directory=str(folder))))


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
    assert answer.notes == ("freeze was begun and has not ended: it was at gate close",)
    assert answer.next == f"lio-handover recover {ID}"
    journal.note("end")
    journal.note("begin", verb="thaw", to="idle")
    answer, = handovers(tmp_path).status()
    assert answer.notes == ("thaw was begun and has not ended",)


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

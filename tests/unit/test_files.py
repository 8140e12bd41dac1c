"""Documents as files: written whole or not at all, read without waiting and within bounds."""
from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.cli import session
from lio_handover.system import document_file
from tests.support.commandline import terminal


def test_a_document_is_written_for_its_owner_alone_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "doc"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as still_open:
        mask = os.umask(0)
        try:
            document_file.write(str(path), b"new")
        finally:
            os.umask(mask)
        assert still_open.read() == "old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["doc"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "doc"
    path.write_text("old")

    def fails(fd: int) -> None:
        assert all(stat.S_IMODE(os.stat(tmp_path / one).st_mode) == 0o600
                   for one in os.listdir(tmp_path) if one != "doc")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(errors.BadFile, match="No space left"):
        document_file.write(str(path), b"new")
    assert os.listdir(tmp_path) == ["doc"] and path.read_text() == "old"

    def stopped(fd: int) -> None:
        raise session.Stopped(15)

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(session.Stopped):
        document_file.write(str(path), b"new")
    assert os.listdir(tmp_path) == ["doc"]


def special_files(folder: Path) -> list[Path]:
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    return [folder / "fifo", folder / "folder", Path("/dev/zero"), Path("/dev/tty")]


def test_only_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    for path in (*special_files(tmp_path), tmp_path / "link", tmp_path / "no" / "folder",
                 Path("a\0b"), Path("")):
        with pytest.raises(errors.BadFile):
            document_file.write(str(path) if path != Path("") else "", b"new")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder", "link"]


def test_only_files_are_read_and_nothing_hangs(tmp_path: Path) -> None:
    for path in (*special_files(tmp_path), tmp_path / "missing", Path("a\0b"), Path("/dev/null")):
        with pytest.raises(errors.BadFile):
            document_file.read(str(path), 100)


def test_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "doc"
    path.write_bytes(b"x" * 100)
    assert document_file.read(str(path), 100) == b"x" * 100
    with pytest.raises(errors.TooLarge):
        document_file.read(str(path), 99)
    with open("/dev/zero") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(errors.TooLarge):
            document_file.read("-", 1 << 20)
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert document_file.read("-", 100) == b"x" * 100
    with terminal(80) as (_, its), open(its, closefd=False) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(errors.BadFile, match="is a terminal"):
            document_file.read("-", 100)

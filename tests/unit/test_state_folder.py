"""The folder that says what this host serves is root's alone, or nothing goes on."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.host.host import Host
from lio_handover.kernel import dbroot
from lio_handover.kernel.configfs import Configfs
from lio_handover.protocol.table import SOURCE
from lio_handover.records.journal import Handover, Journal
from lio_handover.records.ownership import OwnershipFile
from lio_handover.settings import Settings
from tests.support.commandline import LAUNCHER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="others are made owners of files")

ID = "11111111-2222-4333-8444-555555555555"
NAME = "iscsi/iqn.2026-11.org.example:a"
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with a handover, two folders below one that is root's alone."""
    folder = tmp_path / "var" / "state"
    folder.mkdir(parents=True)
    journal = Journal.create(str(folder), Handover(ID, SOURCE, "", 1, "iscsi", (NAME,)), {})
    journal.state("prepared", 1, "b")
    journal.keep("prepared.json", b"{}")
    OwnershipFile(str(folder)).note([NAME], epoch=1)
    (tmp_path / "conf").write_text(f"[host]\nstate_directory = {folder}\nkey =\n")
    return folder


def given_away(name: str) -> Callable[[Path], None]:
    return lambda folder: os.chown(folder / name, NOBODY, 0)


def writable(name: str, mode: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).chmod(mode)


def linked(folder: Path) -> None:
    """Somebody else's link is on the way."""
    (folder.parent.parent / "elsewhere").mkdir()
    folder.parent.rename(folder.parent.parent / "elsewhere" / "var")
    folder.parent.symlink_to("elsewhere/var")
    os.chown(folder.parent, NOBODY, 0, follow_symlinks=False)


def other_journal(folder: Path) -> None:
    """A journal that is a link, to one which root could not be kept from writing."""
    journal = folder / "handovers" / ID / "journal"
    journal.rename(folder / "journal")
    journal.symlink_to(folder / "journal")


HANDOVER = f"handovers/{ID}"
ROWS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "its owner": (given_away(""), "state is user 65534's, not root's", "chown -h root {}"),
    "its mode": (writable("", 0o770), "state can be written by others than root", "chmod go-w {}"),
    "mode for all": (writable("", 0o757), "state can be written by others", "chmod go-w {}"),
    "sticky": (writable("", 0o1777), "state can be written by others", "chmod go-w {}"),
    "the way": (writable("..", 0o777), "/var can be written by others", "chmod go-w {}/.."),
    "the way's owner": (given_away(".."), "/var is user 65534's, not", "chown -h root {}/.."),
    "a link": (linked, "/var is user 65534's, not root's", "chown -h root {}/.."),
    "handovers": (given_away("handovers"), "handovers is user 65534's",
                  "chown -h root {}/handovers"),
    "owners": (writable("owners.json", 0o666), "owners.json can be written by others than root",
               "chmod go-w {}/owners.json")}
OF_A_HANDOVER: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a handover": (given_away(HANDOVER), f"{ID} is user 65534's", "chown -h root {}/" + HANDOVER),
    "a journal": (writable(f"{HANDOVER}/journal", 0o622), "journal can be written by others",
                  "chmod go-w {}/" + f"{HANDOVER}/journal"),
    "a linked journal": (other_journal, "journal is a link", "ls -l {}/" + f"{HANDOVER}/journal"),
    "a document": (given_away(f"{HANDOVER}/prepared.json"), "prepared.json is user 65534's",
                   "chown -h root {}/" + f"{HANDOVER}/prepared.json")}


@pytest.mark.parametrize("row", [*ROWS, *OF_A_HANDOVER])
def test_a_folder_that_others_can_change_is_no_record(folder: Path, row: str) -> None:
    spoil, what, do = {**ROWS, **OF_A_HANDOVER}[row]
    Journal(str(folder), ID)
    spoil(folder)
    with pytest.raises(errors.JournalBroken) as caught:
        Host(Settings(state_directory=str(folder)))
        Journal(str(folder), ID, tolerate_damage=True)
    error = caught.value
    assert what in error.what and error.changed == errors.NOTHING_CHANGED
    assert error.do.endswith("then " + os.path.normpath(do.format(folder).replace(" ", "\0"))
                             .replace("\0", " "))


@pytest.mark.parametrize("row, words", [
    ("its owner", "recover --boot"), ("the way", "recover --boot"), ("owners", "status"),
    ("a journal", "recover --boot"), ("its mode", "show")])
def test_a_command_says_so_in_one_line(folder: Path, row: str, words: str) -> None:
    {**ROWS, **OF_A_HANDOVER}[row][0](folder)
    done = subprocess.run([sys.executable, str(LAUNCHER), *words.split(), "--config",
                           str(folder.parent.parent / "conf")], capture_output=True, text=True)
    assert done.returncode == errors.JournalBroken.code, done.stderr
    line, = done.stderr.splitlines()
    assert "and whoever writes there says which host serves; nothing was changed; next: see" in line


def test_what_is_roots_alone_is_taken_wherever_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    folder.parent.rename(tmp_path / "data" / "var")
    folder.parent.symlink_to("./data/../data/var")
    (tmp_path / "link").symlink_to(folder)
    (folder / "owners.json.bak").write_text("")
    (folder / "owners.json.bak").chmod(0o666)  # nobody reads it
    (tmp_path / "data").chmod(0o1777)  # nobody can rename what is root's there
    for path in (folder, tmp_path / "link", tmp_path / "none" / "at" / "all"):
        Host(Settings(state_directory=str(path)))


def test_the_way_to_the_key_is_roots_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o777)
    (tmp_path / "keys").chmod(0o777)
    with pytest.raises(errors.JournalBroken, match="keys can be written by others than root"):
        Host(Settings(state_directory=str(folder), key=f"{tmp_path}/keys/handover.key"))


def test_so_is_the_folder_of_the_kernels_files(tmp_path: Path) -> None:
    root = tmp_path / "configfs"
    root.mkdir()
    (tmp_path / "pr").mkdir()
    (root / "dbroot").write_text(f"{tmp_path}\n")
    assert dbroot.findings(Configfs(str(root))) == []
    (tmp_path / "pr").chmod(0o777)
    finding, = dbroot.findings(Configfs(str(root)))
    assert "pr can be written by others than root" in finding.sentence and not finding.override


def test_what_a_command_writes_others_cannot_read(folder: Path) -> None:
    code = "import os, sys; os.umask(0); from lio_handover.cli import boot; boot.main(['errors']); "
    done = subprocess.run([sys.executable, "-c", f"{code} print(oct(os.umask(0)))"], text=True,
                          capture_output=True, cwd=LAUNCHER.parent.parent, check=True)
    assert done.stdout.splitlines()[-1] == "0o77"

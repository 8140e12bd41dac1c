"""Man pages and completion: made from the parsers and the settings, and installed with the rest."""
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.cli import parser as command_line
from lio_handover.configuration import KEYS, NAMED
from tests.support.commandline import CHECKOUT

MAKER = CHECKOUT / "scripts" / "lib" / "manual.py"
INSTALL = CHECKOUT / "scripts" / "install"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/man makes."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, str(MAKER), str(folder)], check=True, cwd="/")
    return folder


def plain(page: Path) -> str:
    """The text of a page without the escapes that manual.py writes."""
    text = re.sub(r"\\f[BIR]|\\[,/&]", "", page.read_text())
    return text.replace("\\-", "-").replace("\\e", "\\").replace("\\(ga", "`")


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Every verb, with its own parser."""
    found: dict[str, argparse.ArgumentParser] = {}
    subparsers = [action for action in command_line.parser()._actions
                  if isinstance(action, argparse._SubParsersAction)]
    for verb in subparsers[0].choices:
        of_verb = [action for action in command_line.parser(verb)._actions
                   if isinstance(action, argparse._SubParsersAction)]
        found[verb] = of_verb[0].choices[verb]
    return found


def test_the_page_has_every_verb_with_its_options_and_examples(made: Path) -> None:
    text = plain(made / "lio-handover.8")
    common = {option for action in command_line.parser()._actions
              for option in action.option_strings}
    sections = dict(re.findall(r"(?ms)^\.SS lio-handover (\w+)\n(.*?)(?=^\.S[SH])", text))
    assert set(sections) == set(verbs())
    for verb, parser in verbs().items():
        options = {option for action in parser._actions for option in action.option_strings}
        for option in options - common:
            assert re.search(rf"(?m)^(-\w .*, )?{option}\b", sections[verb]), (verb, option)
        for line in (parser.epilog or "").splitlines():
            assert line.strip() in sections[verb], (verb, line)
    options_of_all = text.partition(".SH OPTIONS\n")[2].partition(".SH")[0]
    for option in common - {"-h", "--help"}:
        assert option in options_of_all


def test_the_page_has_every_exit_code(made: Path) -> None:
    status = plain(made / "lio-handover.8").partition(".SH EXIT STATUS\n")[2].partition(".SH")[0]
    for code, name, do in errors.table():
        assert f".TP\n{code} {name}\n{do}\n" in status + "\n"


def test_the_page_of_the_service_has_its_options(made: Path) -> None:
    text = plain(made / "lio-handoverd.8")
    assert "--bus BUS" in text and "--config FILE" in text and "lio-handover.conf" in text


def test_the_page_of_the_helper_shows_the_guests_file(made: Path) -> None:
    text = plain(made / "lio-handover-vmstate.8")
    assert "--bus ADDRESS" in text and "targets = vhost/naa." in text and "id-list=" in text


def test_the_page_of_the_hooks_has_its_calls_and_exit_codes(made: Path) -> None:
    text = plain(made / "lio-handover-hook.8")
    for word in ("pre-migrate", "post-migrate", "failed", "--from HOST", "--xml FILE",
                 "Exit status: 0"):
        assert word in text, word


def test_the_page_of_the_file_has_every_setting_with_its_default(made: Path) -> None:
    text = plain(made / "lio-handover.conf.5")
    for section, keys in KEYS.items():
        title = f"[{section} NAME]" if section == NAMED else f"[{section}]"
        part = re.split(r"(?m)^\.S[SH] ", text.partition(f".SS {title}\n")[2])[0]
        assert re.findall(r"(?m)^\.TP\n(\w+) = ", part) == list(keys), section
        assert part.count("\nDefault: ") + part.count("\nNeeded.") == len(keys)
        if section != NAMED:  # what each is for stands between its name and its default
            assert not re.search(r"(?m)^\w+ = .*\nDefault", part)
    assert "Default: 64M." in text and "/usr/sbin/drbdadm" in text


def test_no_page_has_faults(made: Path) -> None:
    pages = sorted(str(page) for page in made.glob("*.[58]"))
    assert len(pages) == 5
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    for page in pages:
        done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", page], capture_output=True)
        assert done.stderr == b"" and len(done.stdout) > 1000, page


def completed(made: Path, *words: str, **environment: str) -> list[str]:
    """What bash offers for the last word.  Bash takes a colon for the end of a word."""
    script = ('. "$0"; COMP_LINE=$1; COMP_POINT=${#1}; shift; COMP_WORDS=("$@"); '
              'COMP_CWORD=$(($# - 1)); _shtab_lio_handover; printf "%s\\n" "${COMPREPLY[@]}"')
    split = [part for word in words for part in (re.split(r"(:)", word) if word else [""])]
    done = subprocess.run(
        ["bash", "-c", script, str(made / "completions" / "lio-handover"),
         " ".join(["lio-handover", *words]), "lio-handover", *split],
        capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout.split()


def test_completion_offers_verbs_options_and_choices(made: Path, tmp_path: Path) -> None:
    assert set(completed(made, "")) == set(verbs())
    assert completed(made, "ver") == ["verify"]
    assert set(completed(made, "export", "--")) >= {"--probe", "--all", "--output", "--json"}
    assert "--map" not in completed(made, "export", "--")
    assert set(completed(made, "source", "re")) == {"release", "retire"}
    assert completed(made, "destination", "st") == ["stage"]
    assert "vhost-inband" in completed(made, "source", "prepare", "--mode", "vhost")
    (tmp_path / "array.json").touch()
    assert completed(made, "import", f"{tmp_path}/arr") == [f"{tmp_path}/array.json"]


def test_completion_offers_targets_of_this_host(made: Path, tmp_path: Path) -> None:
    for name in ("iscsi/iqn.2003-01.org.example:db", "iscsi/iqn.2003-01.org.example:mail",
                 "vhost/naa.5001405bd1d1f8bb", "iscsi/discovery_auth", "core/iblock_0"):
        (tmp_path / name).mkdir(parents=True)
    tree = {"LIO_HANDOVER_TREE": str(tmp_path)}
    assert completed(made, "freeze", "iscsi/", **tree) == [
        "iscsi/iqn.2003-01.org.example:db", "iscsi/iqn.2003-01.org.example:mail"]
    assert completed(made, "freeze", "vho", **tree) == ["vhost/naa.5001405bd1d1f8bb"]
    assert completed(made, "freeze", "iscsi/iqn.2003-01.org.example:d", **tree) == ["db"]
    assert completed(made, "freeze", "", LIO_HANDOVER_TREE="/nowhere") == []
    handover = "0b6c8b0e-5d0c-4b8e-9a53-3f8a6b7f2c11"
    (tmp_path / "handovers" / handover).mkdir(parents=True)
    state = {"LIO_HANDOVER_STATE": str(tmp_path)}
    assert completed(made, "source", "freeze", "0", **tree, **state) == [handover]
    assert completed(made, "recover", "0", **tree, **state) == [handover]
    assert completed(made, "source", "prepare", "vhost", **tree) == ["vhost/naa.5001405bd1d1f8bb"]


def test_completion_offers_nodes_and_names_below_them(made: Path, tmp_path: Path) -> None:
    target = "iscsi/iqn.2003-01.org.example:db"
    for name in (f"{target}/tpgt_1/lun/lun_0/statistics", f"{target}/tpgt_1/attrib",
                 f"{target}/tpgt_1/acls/iqn.1994-05.org.example:me/lun_3",
                 f"{target}/tpgt_1/np/[::0]:3260", "iscsi/discovery_auth",
                 "core/iblock_0/sdb", "core/rd_mcp_0/r", "core/fileio_7/disk0/attrib",
                 "core/alua/lu_gps"):
        (tmp_path / name).mkdir(parents=True)
    tree = {"LIO_HANDOVER_TREE": str(tmp_path)}
    assert {*completed(made, "create", "/backstores/", **tree)} == {
        f"/backstores/{name}" for name in (
            "block", "fileio", "pscsi", "ramdisk", "user", "lu_groups", "fileio/disk0",
            "block/sdb", "ramdisk/r")}
    assert {*completed(made, "set", f"/{target}/t", **tree)} == {
        f"db{rest}" for rest in ("/tpg1", "/tpg1/luns", "/tpg1/luns/lun0", "/tpg1/acls",
                                 "/tpg1/acls/iqn.1994-05.org.example:me", "/tpg1/portals",
                                 "/tpg1/acls/iqn.1994-05.org.example:me/mapped_lun3",
                                 "/tpg1/portals/[::0]:3260")}
    assert completed(made, "delete", f"/{target}/tpg1/luns", "", **tree) == ["lun0"]
    assert completed(made, "delete", "/backstores/block", "s", **tree) == ["sdb"]
    assert {*completed(made, "create", f"/{target}/tpg1/luns", "", **tree)} == {
        "fileio/disk0", "block/sdb", "ramdisk/r"}
    assert completed(made, "delete", f"/{target}/tpg1/acls", "iqn.1994-05.org.example:", **tree) \
        == ["me"]


# ── what scripts/install makes of it ─────────────────────────────────────────────────────────
def test_pages_are_installed_and_so_is_every_page_that_something_names(tmp_path: Path) -> None:
    subprocess.run([str(INSTALL), "--root", str(tmp_path)], check=True,
                   env={**os.environ, "PYTHON": sys.executable})
    for path in ("man/man8/lio-handover.8", "man/man8/lio-handoverd.8",
                 "man/man8/lio-handover-vmstate.8", "man/man8/lio-handover-hook.8",
                 "man/man5/lio-handover.conf.5", "bash-completion/completions/lio-handover"):
        assert (tmp_path / "usr/share" / path).stat().st_size > 1000
    named = {errors.RECOVERY_PAGE, errors.PROTOCOL_PAGE}
    for unit in (tmp_path / "usr/lib/systemd/system").iterdir():
        named |= set(re.findall(r"file:(?://)?(/\S+)", unit.read_text()))
    for page in sorted(named):
        assert (tmp_path / page[1:]).is_file(), page


def test_without_the_packages_all_else_is_installed_and_that_is_told(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    done = subprocess.run([str(INSTALL), "--root", str(tmp_path / "root")], check=True, text=True,
                          env={**os.environ, "PYTHON": str(python)}, capture_output=True)
    line, = done.stderr.splitlines()
    assert "man pages and completion are left out" in line and "argparse-manpage" in line
    assert (tmp_path / "root/usr/bin/lio-handover").is_symlink()
    assert not (tmp_path / "root/usr/share/man").exists()

"""`recover --boot` where nothing is to be done: answered with certainty, and fast."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.actions.actions import ActionRunner
from lio_handover.cli import boot
from lio_handover.configuration import PATH
from lio_handover.document import document as documents
from lio_handover.handover.engine import TARGETCLIS, HandoverEngine
from lio_handover.local.by_file import ByFile
from lio_handover.model.objects import State
from lio_handover.protocol.table import DESTINATION, SOURCE, STATES, Mode
from lio_handover.records.journal import PREPARED, Handover, Journal
from lio_handover.records.ownership import OwnershipFile
from lio_handover.savefile import parsed, places, save_file, writers
from lio_handover.savefile.json_splice import Splice
from lio_handover.settings import load
from tests.support import samples
from tests.support.commandline import LAUNCHER
from tests.unit.test_program import imported

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what is tested is root's")

ID = "11111111-2222-4333-8444-55555555555{}"
NAME = "iscsi/iqn.2026-11.org.example:a"
RECORDS = ("begin verb=stage", "step do=build", "said message=offer digest=00",
           "left serials= boot=b", "kept digest=00 stale=", "loading boot=b",
           "loaded boot=b digest=00 commands=", "opened boot=b", "saved paths= why=",
           "survived boot=b", "probe", "fenced said=x peer=b", "differs said=[]", "away portals=",
           "shutting gates=", "gone", "end error=x", "end")
OTHERS = {"serials": [], "portals": [], "gates": {NAME: {"1": "1"}}, "stale": False,
          "commands": {"fileio/a": 1}, "paths": ["/etc/x"]}


@pytest.fixture(autouse=True)
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the units and save files of this test are."""
    monkeypatch.setattr(boot, "SAVE_FILES", (str(tmp_path / "saveconfig.json"),))
    monkeypatch.setattr(boot, "FOLDERS", (str(tmp_path / "units"),))


@pytest.fixture
def config(tmp_path: Path) -> str:
    made = tmp_path / "lio-handover.conf"
    made.write_text(f"[host]\nstate_directory = {tmp_path}\n")
    return str(made)


def begun(config: str, role: str, mode: Mode, state: str, number: int = 0) -> Journal:
    """The journal of a handover with a record of every kind."""
    folder = load(config).state_directory
    made = Journal.create(folder, Handover(ID.format(number), role, "", 1, mode.value, (NAME,)),
                          {"fileio/a": "serial"})
    for words in RECORDS:
        kind, *more = words.split()
        values: Any = {name: OTHERS.get(name, [] if value == "[]" else value)
                       for name, _, value in (one.partition("=") for one in more)}
        made.note(kind, **values)
    if state:
        made.state(state, 1, "b", {NAME: {"1": "1"}}, dynamic={NAME: {"1": ["x"]}})
    return made


def test_it_knows_the_protocols_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (boot.UNITS, boot.FOLDERS) == (places.UNITS, places.FOLDERS)
    assert boot.SAVE_FILES == places.KNOWN
    assert set(boot.MODES) == {mode.value for mode in Mode}
    assert boot.STATES == {role: {state: state in TARGETCLIS[role] for state in states}
                           for role, states in STATES.items()}


def test_without_handovers_nothing_is_to_be_done(config: str, tmp_path: Path) -> None:
    assert boot.nothing_to_do(config)
    (tmp_path / "handovers").mkdir()
    assert boot.nothing_to_do(config)
    (tmp_path / "owners.json").write_text("{]")
    assert not boot.nothing_to_do(config)


@pytest.mark.parametrize("role, state", [(role, state) for role, states in STATES.items()
                                         for state in ("", *states)])
def test_each_state_is_answered_as_the_engine_does(
        config: str, role: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never "nothing" where the engine would take a target out of the save file."""
    taken: list[str] = []

    def leaving_at_boot(runner: ActionRunner) -> save_file.Leaving:
        taken.append(runner.journal.id)
        return save_file.Leaving(set(), set())
    monkeypatch.setattr(ActionRunner, "leaving_at_boot", leaving_at_boot)
    for number, mode in enumerate(Mode):
        one = begun(config, role, mode, state, number)
        taken.clear()
        HandoverEngine(ByFile(load(config))).before_targetcli_restore()
        nothing = boot.nothing_to_do(config)
        assert nothing is (not state or boot.STATES[role][state] or state == boot.AWAY)
        assert not nothing or not taken or state == boot.AWAY
        OwnershipFile(load(config).state_directory).note([NAME], epoch=2, handover="a later one")
        assert boot.nothing_to_do(config), "a later handover counts"
        OwnershipFile(load(config).state_directory).note([NAME], ended="a later one")
        one.remove()


@pytest.mark.parametrize("spoiled", [
    b"{]\n", b"{}\n", b"7\n", b'{"record": "neither"}\n', b'{"record": "state", "state": "gone"}\n',
    b'{"record": "left", "boot": "b"}\n', b'{"record": "kept", "digest": 7, "stale": false}\n',
    b'{"at": 1.0, "boot": "b", "epoch": 1, "record": "state", "state": "unheard of"}\n',
    b'{"at": 1.0, "boot": "b", "epoch": 1, "record": "state", "state": "idle", "gates": {}}\n'])
def test_what_it_can_not_read_the_engine_decides(config: str, spoiled: bytes) -> None:
    one = begun(config, SOURCE, Mode.ISCSI, "idle")
    assert boot.nothing_to_do(config)
    whole = Path(one.path).read_bytes()
    first, rest = whole.split(b"\n", 1)
    for data in (first + b"\n" + spoiled + rest, spoiled + whole, whole + spoiled):
        Path(one.path).write_bytes(data)
        assert not boot.nothing_to_do(config)
    Path(one.path).write_bytes(whole + b'{"record": "sta')    # cut off by a crash: it never was
    assert boot.nothing_to_do(config)


SAVED = {"targets": [{"fabric": "iscsi", "wwn": "iqn.2026-11.org.example:other"}],
         "storage_objects": [{"plugin": "fileio", "name": "other"}]}


def saved(tmp_path: Path, tree: Any) -> None:
    (tmp_path / "saveconfig.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))


def test_what_was_given_away_and_is_saved_nowhere_is_left_alone(
        config: str, tmp_path: Path) -> None:
    begun(config, SOURCE, Mode.FILE, "retired")
    for tree in ("", "{}", SAVED):
        saved(tmp_path, tree)
        assert boot.nothing_to_do(config)
    (tmp_path / "units").mkdir()
    unit = tmp_path / "units" / boot.UNITS[0]
    for command in ("mkdir -p /etc/rtslib-fb-target", "", "/usr/bin/targetctl restore",
                    f"/usr/bin/targetctl restore {tmp_path}/saveconfig.json"):
        unit.write_text(f"[Service]\nExecStart={command}\n")
        assert boot.nothing_to_do(config)


@pytest.mark.parametrize("tree", [
    {**SAVED, "targets": [{"fabric": "iscsi", "wwn": "IQN.2026-11.org.example:A"}]},
    {**SAVED, "storage_objects": [{"plugin": "block", "name": "a"}]},
    "{]", '{"targets": [], "targets": []}', {"targets": None}, {"targets": [{}]}, b"\xff".hex()])
def test_what_was_given_away_and_may_be_saved_the_engine_takes_out(
        config: str, tmp_path: Path, tree: Any) -> None:
    begun(config, SOURCE, Mode.FILE, "retired")
    saved(tmp_path, tree)
    assert not boot.nothing_to_do(config)


@pytest.mark.parametrize("text", [
    "ExecStart=/usr/bin/targetctl restore /etc/other.json",
    "ExecStart=/usr/bin/targetctl \\\nrestore",
    "ExecStart = targetcli restoreconfig savefile=/etc/x.json"])
@pytest.mark.parametrize("name", ["{}", "{}.d/more.conf"])
def test_where_another_file_may_be_restored_the_engine_looks(
        config: str, tmp_path: Path, name: str, text: str) -> None:
    begun(config, SOURCE, Mode.FILE, "retired")
    for unit in boot.UNITS:
        path = tmp_path / "units" / name.format(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[Service]\n{text}\n")
        assert not boot.nothing_to_do(config)
        path.unlink()
    assert boot.nothing_to_do(config)


def test_a_configuration_that_is_wrong_is_said(config: str) -> None:
    with open(config, "a") as file:
        file.write("[late a]\n")
    assert not boot.nothing_to_do(config)
    done = subprocess.run([sys.executable, str(LAUNCHER), "recover", "--boot", "--config", config],
                          capture_output=True, text=True)
    assert done.returncode == errors.BadSettings.code and "[late a] has no paths" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("option", ["--boot", "--units"])
def test_what_is_of_every_handover_takes_none(config: str, option: str) -> None:
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "recover", option, "--config", config,
         "00000000-0000-4000-8000-000000000001"], capture_output=True, text=True)
    assert done.returncode == 2 and "are of every handover: name none" in done.stderr


@pytest.mark.skipif(os.path.exists(PATH), reason="this machine is configured")
def test_nothing_takes_little_more_than_python(config: str) -> None:
    found = imported("import lio_handover.cli.boot as b; b.main(['recover', '--boot'])")
    assert {one for one in found if one.partition(".")[0] == "lio_handover"} == {
        "lio_handover", "lio_handover.cli", "lio_handover.cli.boot", "lio_handover.errors",
        "lio_handover.texts",
        "lio_handover.configuration", "lio_handover.records", "lio_handover.records.state_folder",
        "lio_handover.system", "lio_handover.system.trusted"}
    assert not {"re", "json", "functools"} & found
    begun(config, DESTINATION, Mode.FILE, "given")
    more = imported(f"import lio_handover.cli.boot as b; assert b.nothing_to_do({config!r})")
    assert {one for one in more - found if one.partition(".")[0] == "lio_handover"} == {
        "lio_handover.records.record_kinds"}  # which imports nothing
    assert not {"dataclasses", "typing", "argparse", "shutil"} & more


def test_with_json_it_answers_as_ever(config: str) -> None:
    done = subprocess.run([sys.executable, str(LAUNCHER), "recover", "--boot", "--json",
                           "--config", config], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"notes": []} and done.stderr == ""


def parses_of_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """How often each of two boots, of which the first finds its entries in it, parses and writes
    targetcli's file, on a host with so many targets to restore and as many given away."""
    folder = tmp_path / str(number)
    folder.mkdir()
    config, path = folder / "lio-handover.conf", folder / "saveconfig.json"
    config.write_text(f"[host]\nstate_directory = {folder}\n")
    monkeypatch.setattr(places, "KNOWN", (str(path),))
    monkeypatch.setattr(writers, "LOCK", str(folder / "targetcli.lock"))
    monkeypatch.setattr(writers, "RECENT", 0.0)
    names = [f"iqn.2026-11.org.example:{at}" for at in range(2 * number)]
    path.write_text(json.dumps({"storage_objects": [], "targets": [
        {"fabric": "iscsi", "wwn": name, "tpgs": []} for name in names]}))
    for at, name in enumerate(names):
        role, state = (DESTINATION, "confirmed") if at % 2 else (SOURCE, "retired")
        made = Journal.create(str(folder), Handover(
            str(uuid.uuid4()), role, "", 1, "iscsi", (f"iscsi/{name}",)), {})
        only, = samples.iscsi(luns=0, acls=0, portals=(), wwn=name).targets
        made.keep(PREPARED, documents.dumps(samples.document(State((), (), (only,)), True)))
        made.state(state, 1, "b")
    counts: Counter[str] = Counter()

    class Counted(Splice):
        def __init__(self, *words: Any) -> None:
            counts["parsed"] += 1
            super().__init__(*words)
    monkeypatch.setattr(parsed, "Splice", Counted)
    counted = []
    for _boot in range(2):
        counts.clear()
        HandoverEngine(ByFile(load(str(config)))).before_targetcli_restore()
        counted.append(counts["parsed"])
    assert json.loads(path.read_text())["targets"] == []
    assert len([*(folder / "backup").iterdir()]) == 1
    return counted


def test_a_boot_parses_targetclis_file_once_for_all_targets(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parses_of_a_boot(tmp_path, monkeypatch, 1) == [1, 1]
    assert parses_of_a_boot(tmp_path, monkeypatch, 4) == [1, 1]

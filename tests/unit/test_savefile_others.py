"""Other people's entries in targetcli's save file, and other people who write it."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.savefile import places, save_file, writers
from lio_handover.savefile.json_splice import Splice
from tests.support import samples
from tests.unit.test_savefile import STORES, TARGET

#: As nobody's JSON writer would write it again, with entries that are odd.
OTHERS = r"""{"zeta": 1E3, "storage_objects" : [ {"plugin":"fileio","name":"other","size":
 1.0e6,"dev":"\/srv\/\u0061"} ,
   {"plugin": null}, {"name": "disk0", "plugin": "block"},%(stores)s {"plugin":"fileio",
"name":"shared"}],
  "targets":[{"fabric": "iscsi", "wwn": "iqn.2026-11.org.example:other",
    "tpgs": [{"tag": 1, "luns": ["lun0"]}]},%(ours)s
    {"wwn": 7}, {"fabric": "iscsi", "wwn": "iqn.2026-11.org.example:uses",
    "tpgs": {"x": "/backstores/fileio/shared"},
     "wwn2": 1, "wwn2": 2, "big": 123456789012345678901234567890}  ],"fabric_modules" : [ ] }
"""
OURS = (r""" {"tpgs": [{"tag": 1, "luns": []}], "wwn": " iqn.2026-11.ORG.example:Target ","""
        r""" "fabric": "iscsi"},""")
OUR_STORE = r""" {"plugin":"fileio",  "name":"disk0", "wwn": "s\u00e9cret"},"""
FULL, REST = (OTHERS % {"ours": ours, "stores": stores}
              for ours, stores in ((OURS, OUR_STORE), ("", "")))
ALL = [*STORES, "fileio/shared"]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The save file, of a host where nobody wrote in the last second unless a test does."""
    found = tmp_path / "target" / "saveconfig.json"
    found.parent.mkdir()
    monkeypatch.setattr(places, "KNOWN", (str(found),))
    monkeypatch.setattr(writers, "LOCK", str(tmp_path / "targetcli.lock"))
    monkeypatch.setattr(writers, "RECENT", 0.0)
    return found


def drop(path: Path, **more: Any) -> list[str]:
    return save_file.drop([TARGET], ALL, str(path.parents[1] / "state"), **more)


def named(path: Path) -> list[Any]:
    return [one.get("wwn") for one in json.loads(path.read_text())["targets"]]


# ── entries ──────────────────────────────────────────────────────────────────────────────────

def test_what_is_not_ours_stays_byte_for_byte(path: Path) -> None:
    """Also what no shape that we know has; and ours is ours however it is spelled."""
    path.write_text(FULL)
    assert save_file.entries([TARGET]) == [save_file.Entry(str(path), TARGET, True)]
    kept: dict[str, tuple[str, str]] = {}
    assert drop(path, keep=lambda name, was, now: kept.update({name: (was, now)})) == [str(path)]
    assert path.read_text() == REST
    assert save_file.entries([TARGET]) == [] and drop(path) == []
    assert save_file.put_back(kept, [TARGET], ALL, str(path.parent)) == [str(path)]
    assert path.read_text() == FULL


def test_what_others_change_meanwhile_stays_and_ours_comes_back_as_it_was(path: Path) -> None:
    path.write_text(FULL)
    kept: dict[str, tuple[str, str]] = {}
    drop(path, keep=lambda name, was, now: kept.update({name: (was, now)}))
    changed = path.read_text().replace("1E3", "2E3").replace("[ ]", '[{"name": "iscsi"}]')
    path.write_text(changed)
    save_file.put_back(kept, [TARGET], ALL, str(path.parent))
    text = path.read_text()
    assert OURS.strip(" ,") in text and OUR_STORE.strip(" ,") in text and "2E3" in text
    found = json.loads(text)
    for text_of in (OURS, OUR_STORE):
        text = text.replace(text_of.strip(" ,"), "", 1)
    rest = json.loads(changed)
    assert found["targets"][:-1] == rest["targets"]
    assert found["storage_objects"][:-1] == rest["storage_objects"]
    save_file.put_back(kept, [TARGET], ALL, str(path.parent))    # once more, after a crash
    assert json.loads(path.read_text()) == found
    drop(path)
    assert path.read_text() == changed


def test_each_spelling_of_ours_goes_and_it_is_put_in_once(path: Path) -> None:
    names = ["iqn.2026-11.ORG.example:Target", " iqn.2026-11.org.example:target"]
    path.write_text(json.dumps({"targets": [
        {"fabric": "iscsi", "wwn": one, "tpgs": [{"enable": False}]} for one in names]}))
    assert [one.enabled for one in save_file.entries([TARGET])] == [False, False]
    save_file.put(samples.iscsi(), "", str(path.parent))
    assert named(path) == [samples.IQN]
    drop(path)
    assert named(path) == []


@pytest.mark.parametrize("state, name", [
    (samples.iscsi(wwn="iqn.2026-11.org.example:Upper"), "iqn.2026-11.org.example:Upper")])
def test_what_targetcli_would_bring_back_as_another_is_not_put_in(
        path: Path, state: Any, name: str) -> None:
    path.write_text(FULL)
    with pytest.raises(errors.SavefileBroken, match=name):
        save_file.put(state, "", str(path.parent))
    assert path.read_text() == FULL


def test_a_plugins_name_is_targetclis(path: Path) -> None:
    path.write_text("{}")
    state = samples.iscsi(plugin="iblock")
    save_file.put(state, "", str(path.parent))
    store, = json.loads(path.read_text())["storage_objects"]
    assert store["plugin"] == "block"
    store["plugin"] = "iblock"      # as restore takes it, too
    path.write_text(json.dumps({"targets": [], "storage_objects": [store]}))
    save_file.drop([TARGET], ["iblock/disk0"], str(path.parent))
    assert json.loads(path.read_text())["storage_objects"] == []


@pytest.mark.parametrize("text", [
    '{"targets": [], "targets": [{"wwn": "a"}]} x', '{"targets": [1]}', '{"targets": [{}',
    '{"targets" []}', "[]", "{,}", '{1: 2}', '{"targets": [{}{}]}', '{"a": 1 "b": 2}'])
def test_what_is_no_save_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Splice(text, ("targets",))


def test_a_list_that_is_there_twice_is_scrubbed_twice(path: Path) -> None:
    """The last counts for targetcli; who writes it anew may choose the other."""
    entry = json.dumps({"fabric": "iscsi", "wwn": samples.IQN, "tpgs": []})
    path.write_text(f'{{"targets": [{entry}], "targets": [{{"wwn": "x"}}, {entry}]}}')
    drop(path)
    assert path.read_text() == '{"targets": [], "targets": [{"wwn": "x"}]}'


# ── others who write ─────────────────────────────────────────────────────────────────────────

#: Reads the file, and writes what it read, again and again; says so each time.
LOOP = """
import sys, time
data = open(sys.argv[1], "rb").read()
while True:
    with open(sys.argv[1], "wb") as file:
        file.write(data)
    print("written", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def looping(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    monkeypatch.setattr(writers, "RECENT", 0.6)
    monkeypatch.setattr(save_file, "BUSY", 0.8)
    path.write_text(FULL)
    with subprocess.Popen([sys.executable, "-c", LOOP, str(path)],
                          stdout=subprocess.PIPE) as program:
        assert program.stdout and program.stdout.readline()
        yield program
        program.kill()


def test_what_somebody_writes_back_again_and_again_is_not_said_to_be_out(
        path: Path, looping: subprocess.Popen[bytes]) -> None:
    with pytest.raises(errors.SavefileBroken, match="again and again by somebody else") as error:
        drop(path)
    assert f"fuser -v {path}" in error.value.do
    looping.kill()
    looping.wait()
    path.write_text(FULL)
    assert drop(path) == [str(path)]
    assert not save_file.entries([TARGET])


def test_who_only_saves_something_else_meanwhile_is_waited_for(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "RECENT", 0.3)
    path.write_text(FULL)
    began = time.monotonic()
    assert drop(path) == [str(path)]
    assert 0.3 <= time.monotonic() - began < 2
    monkeypatch.setattr(writers, "RECENT", 3.0)
    began = time.monotonic()        # it is ours now, and just written
    assert drop(path) == [] and time.monotonic() - began < 1


def test_what_cannot_be_written_is_said_at_once(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: Any) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(writers, "RECENT", 3.0)
    monkeypatch.setattr(save_file, "write_file", refused)
    path.write_text(FULL)
    began = time.monotonic()
    with pytest.raises(errors.SavefileBroken, match="can't be written: Read-only"):
        drop(path)
    assert time.monotonic() - began < 1


@contextlib.contextmanager
def written_soon(path: Path) -> Iterator[None]:
    """Somebody else writes the file while this runs; a program of its own would start too late on a
    busy machine."""
    writer = threading.Timer(0.1, path.write_text, [FULL])
    writer.start()
    try:
        yield
    finally:
        writer.join()


def test_half_a_file_is_looked_at_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rtslib 2.1 copies into it (RTSRoot.save_to_file)."""
    monkeypatch.setattr(writers, "RECENT", 0.3)
    path.write_text(FULL[:100])
    with written_soon(path):
        assert drop(path) == [str(path)]
    assert path.read_text() == REST


@pytest.mark.parametrize("meant", ["", "{}"])
def test_an_empty_file_that_is_being_written_is_not_taken_for_one_without_us(
        path: Path, monkeypatch: pytest.MonkeyPatch, meant: str) -> None:
    monkeypatch.setattr(writers, "RECENT", 0.5)
    path.write_text(meant)
    with written_soon(path):
        assert drop(path) == [str(path)]
    assert not save_file.entries([TARGET])


def test_targetcli_is_waited_for_and_named_where_it_stays(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PATIENCE", 0.2)
    path.write_text(FULL)
    with open(writers.LOCK, "w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(errors.SavefileBroken, match=f"PID {os.getpid()}, .*targetcli.lock"):
            drop(path)
        assert path.read_text() == FULL
    assert drop(path) == [str(path)]


def test_where_nothing_is_to_be_changed_targetcli_may_run(path: Path) -> None:
    path.write_text(REST)
    with open(writers.LOCK, "w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert drop(path) == []


# ── removing ─────────────────────────────────────────────────────────────────────────────────

def test_a_removal_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    path.write_text(FULL)
    with pytest.raises(errors.Interrupted):
        with save_file.removing([TARGET], ALL, str(path.parent)) as left:
            assert path.read_text() == REST and left == []
            raise errors.Interrupted("interrupted")
    assert path.read_text() == FULL


def test_nothing_is_removed_where_the_file_would_bring_it_back(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(errors.SavefileBroken, match="can't be read") as error:
        with save_file.removing([TARGET], ALL, str(path.parent)):
            raise AssertionError("it was removed")
    assert "--allow savefile" in error.value.do
    with save_file.removing([TARGET], ALL, str(path.parent), ("savefile",)) as left:
        assert "may bring it back" in left[0]


def test_a_changed_target_is_put_in_as_it_is_now(path: Path) -> None:
    path.write_text(FULL)
    state = samples.iscsi(luns=2)
    save_file.put(state, "", str(path.parent))
    found = json.loads(path.read_text())
    assert [one["wwn"] for one in found["targets"]][:2] == [
        "iqn.2026-11.org.example:other", samples.IQN]
    assert [one["name"] for one in found["storage_objects"] if one.get("name")] == [
        "other", "disk0", "disk0", "shared", "disk1"]
    more = replace(state, targets=())
    before = path.read_bytes()
    save_file.put(more, "", str(path.parent))
    assert path.read_bytes() == before

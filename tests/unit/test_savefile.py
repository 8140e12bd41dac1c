"""targetcli's save file: our targets go in and out, and nothing else in it is touched."""
from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.model.objects import Secret, State
from lio_handover.savefile import places, save_file, writers
from lio_handover.savefile.save_file import BACKUPS
from tests.support import samples

TARGET = f"iscsi/{samples.IQN}"
STORES = ["fileio/disk0", "fileio/disk1"]

#: As rtslib 2.1 writes it, and what 2.2 adds: unknown here, and to be kept.
OLD: dict[str, Any] = {
    "fabric_modules": [],
    "storage_objects": [
        {"alua_tpgs": [], "attributes": {"block_size": 512}, "dev": "/srv/other.img",
         "name": "other", "plugin": "fileio", "size": 1048576, "write_back": True, "wwn": "0ther",
         "aio": False}],
    "targets": [
        {"fabric": "iscsi", "wwn": "iqn.2026-11.org.example:other", "tpgs": [
            {"tag": 1, "enable": True, "attributes": {}, "parameters": {}, "node_acls": [],
             "portals": [], "luns": [{"alias": "a", "alua_tg_pt_gp_name": "default_tg_pt_gp",
                                      "index": 0, "storage_object": "/backstores/fileio/other"}]}]}
    ]}
NEW: dict[str, Any] = {
    **OLD, "storage_objects": [{**OLD["storage_objects"][0], "exclusive": True}],
    "targets": [{**OLD["targets"][0], "parameters": {"cmd_completion_affinity": "-1"}}],
    "from_later": {"kept": [1, 2, 3]}}


def drop(targets: list[str], stores: list[str]) -> list[str]:
    return save_file.drop(targets, stores, _state_directory())


def put(state: State, dbroot: str) -> list[str]:
    return save_file.put(state, dbroot, _state_directory())


def _state_directory() -> str:
    return str(Path(places.KNOWN[0]).parents[1] / "state")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The save files of rtslib and of Debian; neither is there yet."""
    found = (tmp_path / "target" / "saveconfig.json", tmp_path / "debian" / "saveconfig.json")
    for path in found:
        path.parent.mkdir()
    monkeypatch.setattr(places, "KNOWN", tuple(map(str, found)))
    monkeypatch.setattr(writers, "LOCK", str(tmp_path / "targetcli.lock"))
    monkeypatch.setattr(writers, "RECENT", 0.0)    # the test's own writes are at rest
    return found


@pytest.mark.parametrize("content", [OLD, NEW], ids=["2.1", "2.2"])
def test_what_is_put_in_comes_out_again_and_nothing_else_moves(
        paths: tuple[Path, Path], content: dict[str, Any]) -> None:
    path = paths[1]
    path.write_text(json.dumps(content))
    state = samples.iscsi(luns=2, acls=2, chap=True)
    assert put(state, "/var/target") == [str(path)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = json.loads(path.read_text())
    assert save_file.entries([TARGET]) == [save_file.Entry(str(path), TARGET, True)]
    assert found["targets"][0] == content["targets"][0]
    tpg, = found["targets"][1]["tpgs"]
    assert (tpg["tag"], tpg["enable"], len(tpg["luns"]), len(tpg["node_acls"])) == (1, True, 2, 2)
    assert tpg["node_acls"][0]["chap_password"] == Secret(samples.SECRET).encode().decode()
    assert tpg["portals"] == [{"ip_address": "192.0.2.1", "port": 3260, "iser": False,
                               "offload": False}]
    assert [one["dev"] for one in found["storage_objects"]] == [
        "/srv/other.img", "/srv/disk0.img", "/srv/disk1.img"]
    assert drop([TARGET], STORES) == [str(path)]
    assert json.loads(path.read_text()) == content
    assert drop([TARGET], STORES) == []
    copies = sorted((path.parent / "backup").iterdir())
    assert [json.loads(one.read_text()) for one in copies] == [content, found]


def test_a_backstore_that_another_target_exports_stays(paths: tuple[Path, Path]) -> None:
    paths[0].write_text(json.dumps(OLD))
    state = samples.iscsi(luns=1)
    shared = replace(state.backstores[0], key=("backstore", "fileio", "other"))
    put(replace(state, backstores=(shared,)), "")
    drop([TARGET], ["fileio/other"])
    found = json.loads(paths[0].read_text())
    assert [one["name"] for one in found["storage_objects"]] == ["other"]
    assert [one["wwn"] for one in found["targets"]] == ["iqn.2026-11.org.example:other"]


def test_both_files_are_scrubbed_and_the_kernels_own_gets_it(paths: tuple[Path, Path]) -> None:
    state = samples.iscsi()
    for path in paths:
        path.write_text("{}")
        put(state, str(path.parent))
    assert len(save_file.entries([TARGET])) == 2
    assert drop([TARGET], STORES) == [str(path) for path in paths]
    assert put(state, str(paths[1].parent)) == [str(paths[1])]
    assert [one.path for one in save_file.entries([TARGET])] == [str(paths[1])]


def test_a_gate_that_is_shut_is_saved_shut(paths: tuple[Path, Path]) -> None:
    paths[0].write_text("")
    state = samples.iscsi()
    target, = state.targets
    tpg, = target.tpgs
    shut = replace(tpg, attributes={**tpg.attributes, "enable": "0"})
    put(replace(state, targets=(replace(target, tpgs=(shut,)),)), "")
    assert [one.enabled for one in save_file.entries([TARGET])] == [False]


@pytest.mark.parametrize("content", ["{", "[]", '{"targets": 1}', '{"targets": ["x"]}', "\x00"])
def test_a_file_that_cannot_be_read_is_left_alone(paths: tuple[Path, Path], content: str) -> None:
    paths[0].write_text(content)
    for work in (lambda: save_file.entries([TARGET]), lambda: drop([TARGET], STORES),
                 lambda: put(samples.iscsi(), "")):
        with pytest.raises(errors.SavefileBroken, match="saveconfig.json"):
            work()
    assert paths[0].read_text() == content and not (paths[0].parent / "backup").exists()


def test_without_targetcli_nothing_is_made(paths: tuple[Path, Path]) -> None:
    assert put(samples.iscsi(), "/var/target") == []
    assert not any(path.exists() for path in paths)
    assert put(samples.iscsi(), str(paths[0].parent)) == [str(paths[0])]


def test_no_more_copies_are_kept_than_are_useful(paths: tuple[Path, Path]) -> None:
    paths[0].write_text(json.dumps(OLD))
    for _ in range(BACKUPS):
        put(samples.iscsi(), "")
        drop([TARGET], STORES)
    assert len(list((paths[0].parent / "backup").iterdir())) == BACKUPS


def test_a_clock_set_back_costs_no_copy(paths: tuple[Path, Path],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """The last copies are there, each of which has what the next change took away."""
    path, state = paths[0], samples.iscsi()
    path.write_text(json.dumps(OLD))
    for _ in range(BACKUPS):
        put(state, "")
        drop([TARGET], STORES)
    monkeypatch.setattr(time, "strftime", lambda *_args: "20010101-000000")
    for number in range(3):
        path.write_text(json.dumps({"made": number}))
        put(state, "")
        copies = [json.loads(one.read_text()) for one in (path.parent / "backup").iterdir()]
        assert [{"made": one} in copies for one in range(number + 1)] == [True] * (number + 1)
        assert len(copies) == BACKUPS


def test_a_link_to_the_file_stays_one(paths: tuple[Path, Path], tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.json"
    real.write_text(json.dumps(OLD))
    paths[0].symlink_to(real)
    assert put(samples.iscsi(), "") == [str(paths[0])]
    assert paths[0].is_symlink() and TARGET.partition("/")[2] in real.read_text()
    assert len(list((paths[0].parent / "backup").iterdir())) == 1


def test_verbs_side_by_side_do_not_lose_each_others_change(paths: tuple[Path, Path]) -> None:
    """Each of several takes a target of its own out of the file, as N freezes do."""
    others = [f"iqn.2026-11.org.example:t{number}" for number in range(4)]
    for _ in range(6):
        paths[0].write_text(json.dumps({**OLD, "targets": [
            *OLD["targets"], *({**OLD["targets"][0], "wwn": one} for one in others)]}))
        pids = []
        for wwn in others:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = len(drop([f"iscsi/{wwn}"], [])) - 1
                finally:
                    os._exit(code)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(others)
        assert json.loads(paths[0].read_text()) == OLD


def many(paths: tuple[Path, Path], number: int) -> tuple[Path, list[save_file.Leaving]]:
    """A save file with so many targets of two backstores each, and their leaving: each keeps it."""
    path, leaving = paths[1], []
    path.write_text(json.dumps(NEW, indent=2))
    for one in range(number):
        state = samples.iscsi(wwn=f"iqn.2026-11.org.example:many{one}",
                              paths=[f"/srv/{one}-0.img", f"/srv/{one}-1.img"])
        stores = {store.key: replace(store, key=("backstore", "fileio", f"many{one}-{at}"))
                  for at, store in enumerate(state.backstores)}
        target, = state.targets
        tpg, = target.tpgs
        tpg = replace(tpg, luns=tuple(replace(lun, backstore=stores[lun.backstore].key)
                                      for lun in tpg.luns if lun.backstore))
        put(State((), tuple(stores.values()), (replace(target, tpgs=(tpg,)),)), "/var/target")
        leaving.append(save_file.Leaving(
            {target.name}, {f"fileio/many{one}-{at}" for at in range(len(stores))},
            Kept().keep))
    return path, leaving


class Kept(dict[str, tuple[str, str]]):
    """What a handover keeps of the save files."""

    def keep(self, path: str, was: str, now: str) -> None:
        self[path] = was, now


def kept_by(one: save_file.Leaving) -> Kept:
    kept = getattr(one.keep, "__self__")
    assert isinstance(kept, Kept)
    return kept


@pytest.mark.parametrize("first", [0, 1, 2])
def test_of_many_that_are_taken_out_together_each_comes_back_alone(
        paths: tuple[Path, Path], first: int) -> None:
    """The file is written once, and is as it was when all are back."""
    path, leaving = many(paths, 3)
    before, copies = path.read_text(), len([*(path.parent / "backup").iterdir()])
    assert save_file.drop_each(leaving, _state_directory()) == [[str(path)]] * 3
    assert json.loads(path.read_text()) == NEW
    assert len([*(path.parent / "backup").iterdir()]) == copies + 1
    back = [*leaving[first:], *leaving[:first]]
    for number, one in enumerate(back, 1):
        assert save_file.put_back(kept_by(one), one.targets, one.stores,
                                  _state_directory()) == [str(path)]
        assert {entry.target for entry in save_file.entries(
            {name for each in leaving for name in each.targets})} == {
            name for each in back[:number] for name in each.targets}
    found, was = json.loads(path.read_text()), json.loads(before)
    for name in ("targets", "storage_objects"):
        assert sorted(found.pop(name), key=str) == sorted(was.pop(name), key=str)
    assert found == was


def test_what_can_not_be_kept_stays_and_all_else_is_taken_out(paths: tuple[Path, Path]) -> None:
    path, leaving = many(paths, 3)

    def full(*_words: str) -> None:
        raise errors.JournalBroken("no space left")
    leaving[1] = replace(leaving[1], keep=full)
    with pytest.raises(errors.JournalBroken, match="no space left"):
        save_file.drop_each(leaving, _state_directory())
    assert {entry.target for entry in save_file.entries(
        {name for one in leaving for name in one.targets})} == leaving[1].targets
    for one in leaving[::2]:
        save_file.put_back(kept_by(one), one.targets, one.stores, _state_directory())
    assert len(json.loads(path.read_text())["targets"]) == 4

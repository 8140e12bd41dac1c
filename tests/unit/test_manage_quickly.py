"""What makes one change quick, without a kernel: how much of a target it knows, the call of the
service, the lines that are added to a copy."""
from __future__ import annotations

import os
import socket
import threading
from functools import lru_cache
from pathlib import Path

import pytest

from lio_handover import dbus_names, errors
from lio_handover.cli import quick
from lio_handover.client import wire
from lio_handover.document import document as documents
from lio_handover.document.document import Document
from lio_handover.manage import changes, places, reach, settable
from lio_handover.manage.changes import Request
from lio_handover.model.diff import diff
from lio_handover.model.keys import target_key, tpg_key
from lio_handover.model.objects import State
from lio_handover.plan import edits
from lio_handover.protocol.table import DESTINATION
from lio_handover.records import copy_changes
from lio_handover.records.copy_changes import CopyChange
from lio_handover.records.journal import SERVED, Handover, Journal
from lio_handover.shell import commands, main as shell_main, preferences
from lio_handover.verb_table import MEMBERS
from tests.unit.test_manage import HERE, IQN, ME, T, built, do

ID = "12345678-1234-1234-1234-123456789abc"
TPG = tpg_key(target_key("iscsi", IQN), 1)


# ---- how much of a target is known ---------------------------------------------------------------
@pytest.mark.parametrize("verb, path, words, touched", [
    ("create", f"{T}/tpg1/luns", ("fileio/disk0",), {"lun/1", f"acl/{ME}/lun/1"}),
    ("delete", f"{T}/tpg1/luns", ("0",), {"lun/0", f"acl/{ME}/lun/0"}),
    ("create", f"{T}/tpg1/acls/{ME}", ("5", "0"), {f"acl/{ME}/lun/5"}),
    ("create", f"{T}/tpg1/portals", ("192.0.2.1",), {"portal/192.0.2.1:3260"})])
def test_a_change_touches_what_it_is_about(verb: str, path: str, words: tuple[str, ...],
                                           touched: set[str]) -> None:
    """Trimmed to that, the change is the same."""
    request = Request(verb, path, words)
    assert reach.of(places.parse(path), request) is not None
    have = do(built(), "create", "/backstores/fileio", "disk1", "/srv/there.img")
    want = changes.apply(have, request, HERE).state
    whole = diff(have, want, partial=True)
    keys = {change.key for change in whole}
    assert {"/".join(key[4:]) for key in keys} == touched
    keys |= reach.mapped_by(have, keys) | reach.mapped_by(want, keys)
    assert diff(reach.trimmed(have, keys), reach.trimmed(want, keys), partial=True) == whole


def test_a_change_without_a_row_knows_all_of_its_target() -> None:
    for verb, path, words in (("delete", "/iscsi", (IQN,)), ("delete", T, ("1",)),
                              ("create", "/iscsi", ()), ("create", "/backstores/fileio", ("x",))):
        assert reach.of(places.parse(path), Request(verb, path, words)) is None


# ---- the call of the service ---------------------------------------------------------------------
def test_the_quick_way_has_the_names_of_the_others() -> None:
    assert (quick.BUS_NAME, quick.ROOT, quick.RUNNING) == (
        dbus_names.BUS_NAME, dbus_names.ROOT, dbus_names.RUNNING)
    assert {*quick.SECRETS} == {*settable.SECRETS}
    assert {**{verb: member for verb, (member, _done) in quick.VERBS.items()},
            "shell": "RunLine"} == dict(MEMBERS)
    assert {*quick.COMMANDS} == {row.name for row in commands.rows()
                                 if row.where.startswith("objects.") or row.name == "set"}
    assert (quick.HOME, quick.FOLDER, quick.FILE, quick.MAX_BYTES, quick.FAILED) == (
        preferences.HOME, preferences.FOLDER, preferences.FILE, preferences.MAX_BYTES,
        shell_main.FAILED)


@pytest.mark.parametrize("words", [
    (), ("ls",), ("/iscsi", "ls"), ("--dry-run", "/iscsi", "create"), ("-", "/iscsi", "create"),
    ("/iscsi create 'x'",), ("/iscsi create x\n",), ("iscsi", "create"), ("/iscsi/*", "create"),
    ("/", "set", "global", "color_mode=false"), ("/x", "set"), ("/x", "set", "attribute"),
    ("/x", "set", "group=global", "color_mode=false"), ("/x", "create", "\udcff"),
    ("/backstores/ramdisk", "delete", "r", "save=true"), ("/x", "set", "auth", "password=told"),
    ("/x", "set", "auth", "password=-"), ("/x", "create", "d", "~/d"), ("/x", "saveconfig")])
def test_a_line_that_is_not_plain_is_left_to_the_shell(words: tuple[str, ...]) -> None:
    assert quick._line(words) is None


def test_a_plain_line_is_asked_as_it_is() -> None:
    assert quick._line(["/iscsi create  iqn.x"]) == (["/iscsi", "create", "iqn.x"], [])
    assert quick._line(["--allow", "in-use", "/x", "delete", "a|b c"]) == (
        ["/x", "delete", "a|b c"], ["in-use"])
    assert quick._line(["/x", "set", "auth", "userid=", "password=@/s"]) == (
        ["/x", "set", "auth", "userid=", "password=@/s"], [])


@pytest.mark.parametrize("name, asks_nobody", [
    ("ServiceUnknown", True), ("UnknownMethod", True), ("AccessDenied", False)])
def test_a_service_that_is_older_is_not_there(name: str, asks_nobody: bool,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade leaves the old one running until it is restarted: the line is run without it."""
    def bus(*_: object) -> object:
        raise wire.CallFailed(f"org.freedesktop.DBus.Error.{name}", "the manager has no RunLine")
    monkeypatch.setattr(wire, "Bus", bus)
    if asks_nobody:
        assert quick.typed(["/iscsi", "create"], [], "", "/") is None
    else:
        with pytest.raises(quick.Failed):
            quick.typed(["/iscsi", "create"], [], "", "/")


@pytest.mark.parametrize("given, more, served", [
    ({"wwn": "iqn.x"}, {}, True), ({"name": "x", "save": "true"}, {}, False),
    ({"group": "auth"}, {"password": "@/s"}, True), ({"group": "auth"}, {"password": "x"}, False),
    ({"group": "auth"}, {"password": "-"}, False), ({"group": "auth"}, {}, False),
    ({"group": "global"}, {"color_mode": "false"}, False)])
def test_the_service_makes_changes_of_objects(given: dict[str, str], more: dict[str, str],
                                              served: bool) -> None:
    """It gets no secret, sets no preferences, and saves nothing."""
    row = commands.of("acl")["set"] if "group" in given else commands.of("plugin")["delete"]
    assert shell_main.serves(row, given, more) is served
    assert not shell_main.serves(commands.of("root")["saveconfig"], given, more)


@pytest.mark.parametrize("words", [
    (), ("--json", "/iscsi"), ("/iscsi", "--dry-run"), ("/iscsi", "a=1", "b"),
    ("/iscsi", "a=1", "a=2"), ("/x", "password=told"), ("/x", "password=-"), ("/x", "password=@"),
    ("/x", "a\0b"), ("/x", "\udcff"), ("/x", "--allow"), ("/x", "--alone"), ("-h",)])
def test_what_is_not_plain_is_left_to_the_command_line(words: tuple[str, ...]) -> None:
    assert quick._asked(words) is None


def test_what_is_plain_is_asked_as_it_is() -> None:
    assert quick._asked(["/x", "a", "b=c=d", "--allow", "in-use", "password=@/s", "e="]) == (
        "/x", ["a"], {"b": "c=d", "password": "@/s", "e": ""}, ["in-use"])
    assert quick._asked(["/x", "mutual_password=@s"]) == (
        "/x", [], {"mutual_password": f"@{os.getcwd()}/s"}, [])


def _bus(path: Path, answers: bytes) -> tuple[socket.socket, list[bytes]]:
    """A bus that reads a call, and says this."""
    listener, heard = socket.socket(socket.AF_UNIX), list[bytes]()
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        line, _address = listener.accept()
        heard.append(line.recv(65536))
        line.sendall(answers)
        line.close()
    threading.Thread(target=serve, daemon=True).start()
    return listener, heard


def test_a_call_as_a_bus_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    body = bytearray()
    wire._put(body, "a{sv}", {"State": ("s", "done"), "N": ("(iiu)", (1, -2, 3)),
                              "L": ("as", ["x", "y"]), "T": ("t", 1 << 40)})
    message = bytearray(b"l\x02\0\x01" + len(body).to_bytes(4, "little") + b"\x09\0\0\0")
    wire._put(message, "a(yv)", [(5, ("u", 2)), (8, ("g", "a{sv}"))])
    wire._pad(message, 8)
    message += body
    listener, heard = _bus(tmp_path / "bus", b"OK 1234\r\n" + message)
    with listener:
        bus = wire.Bus()
        assert bus.call("a.b", "/c", "a.b", "D", "sa{ss}", "é", {"k": "v"}) == [
            {"State": "done", "N": (1, -2, 3), "L": ["x", "y"], "T": 1 << 40}]
        bus.close()
    assert heard[0].startswith(b"\0AUTH EXTERNAL ") and b"Hello" in heard[0]


@pytest.mark.parametrize("answers, error", [
    (b"REJECTED EXTERNAL\r\n", wire.Unreachable), (b"", wire.Lost), (b"OK 1\r\nl", wire.Lost),
    (b"OK 1\r\nl\x02\0\x01" + b"\xff" * 12, wire.Lost)])
def test_a_bus_that_does_not_answer(answers: bytes, error: type[Exception], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    listener, _heard = _bus(tmp_path / "bus", answers)
    with listener, pytest.raises(error):
        wire.Bus().call("a.b", "/c", "a.b", "D", "")


def test_no_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"tcp:host=x;unix:path={tmp_path}/none")
    with pytest.raises(wire.Unreachable):
        wire.Bus()


# ---- a copy and what is added to it --------------------------------------------------------------
@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    tmp_path.chmod(0o700)
    journal = Journal.create(str(tmp_path), Handover(
        ID, DESTINATION, "", 1, "file", (f"iscsi/{IQN}",)), {})
    journal.keep(SERVED, documents.dumps(Document(_kept())))
    return journal


@lru_cache
def _kept() -> State:
    state = built()
    return State(backstores=state.backstores, targets=state.targets[:1])


def _copy(journal: Journal) -> State:
    data = journal.kept(SERVED)
    assert data is not None
    return copy_changes.applied(journal, SERVED, documents.loads(data)).state


def test_what_is_added_to_a_copy_is_read_with_it(journal: Journal) -> None:
    state = do(_kept(), "create", "/backstores/fileio", "disk1", "/srv/there.img")
    state = do(state, "create", f"{T}/tpg1/luns", "fileio/disk1")
    lun, mapped = (*TPG, "lun", "1"), (*TPG, "acl", ME, "lun", "1")
    part = edits.only(State(backstores=state.backstores[1:], targets=state.targets), [lun, mapped])
    assert copy_changes.append(journal, SERVED, CopyChange(
        Document(part), (("backstore", "fileio", "disk1"), lun, mapped)))
    assert _copy(journal) == documents.canonical(state)
    for key in (mapped, lun):
        assert copy_changes.append(journal, SERVED, CopyChange(Document(State()), (), (key,)))
    assert _copy(journal) == documents.canonical(_kept())


def test_half_a_line_of_a_crash_says_nothing_and_a_broken_one_is_told(journal: Journal) -> None:
    path = Path(journal.folder) / "changed.jsonl"
    gone = CopyChange(Document(State()), (), ((*TPG, "acl", ME, "lun", "0"),))
    assert copy_changes.append(journal, SERVED, gone)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    assert _copy(journal) == documents.canonical(_kept())
    assert copy_changes.append(journal, SERVED, gone)
    assert not _copy(journal).targets[0].tpgs[0].acls[0].mapped_luns
    path.write_bytes(whole.replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(errors.JournalBroken):
        _copy(journal)


def test_a_copy_that_is_kept_anew_has_it_all(journal: Journal, tmp_path: Path) -> None:
    gone = CopyChange(Document(State()), (), ((*TPG, "acl", ME, "lun", "0"),))
    assert copy_changes.append(journal, SERVED, gone)
    line = (Path(journal.folder) / "changed.jsonl").read_bytes()
    journal.keep(SERVED, documents.dumps(Document(_copy(journal))))
    assert not journal.has("changed.jsonl")
    (Path(journal.folder) / "changed.jsonl").write_bytes(line)  # of another copy
    assert not _copy(journal).targets[0].tpgs[0].acls[0].mapped_luns
    assert Journal(str(tmp_path), ID).copy == SERVED


def test_too_many_changes_make_a_copy_anew(journal: Journal,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_changes, "MOST", 0)
    gone = CopyChange(Document(State()), (), ((*TPG, "acl", ME, "lun", "0"),))
    added = 0
    while copy_changes.append(journal, SERVED, gone):
        added += 1
        assert added < 1000
    assert added  # up to the size of the copy itself

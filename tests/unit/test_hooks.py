"""lio-handover-hook without a second host: libvirt's XML, the rows, the peers, the unit."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.hooks import domain, incoming, main, peers, rows, staging, unit
from lio_handover.hooks.rows import Do
from lio_handover.host import guests
from lio_handover.host.guests import Guest
from lio_handover.kernel.facts import boot_id
from lio_handover.records.journal import Handover, Journal
from lio_handover.settings import Settings
from lio_handover.system import external_program, supervisor
from lio_handover.system.journald import Log
from tests.support import inhooks
from tests.support.commandline import CHECKOUT

TARGET, OTHER = "vhost/naa.5001405000000001", "vhost/naa.5001405000000002"
GUEST = guests.parse(f"[guest]\ntargets = {TARGET}\nallow = all-tg-pt\n", "vm1", "vm1.conf")
ID = "11111111-0000-4000-8000-000000000000"
HOOK = CHECKOUT / "etc" / "libvirt" / "lio-handover"
QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


# ── the XML ──────────────────────────────────────────────────────────────────────────────────
def with_arguments(*values: str) -> bytes:
    """A domain whose QEMU gets these arguments."""
    words = "".join(f"<qemu:arg value='{value}'/>" for value in values)
    text = inhooks.xml(more=f"<qemu:commandline>{words}</qemu:commandline>").decode()
    return text.replace("<domain ", f"<domain {QEMU} ").encode()


@pytest.mark.parametrize("data, targets", [
    (inhooks.xml(), ()),
    (inhooks.xml(devices=inhooks.hostdev()), (TARGET,)),
    (inhooks.xml(devices=inhooks.hostdev("naa.500140500000000A")),
     ("vhost/naa.500140500000000a",)),
    (inhooks.xml(devices=inhooks.hostdev() + inhooks.hostdev(OTHER[6:]) + inhooks.hostdev()),
     (TARGET, OTHER)),
    (with_arguments("-device", f"vhost-scsi-pci,wwpn={TARGET[6:]},migratable=on"), (TARGET,)),
    (with_arguments("-device", '{"driver":"vhost-scsi-pci","wwpn":"' + TARGET[6:] + '"}'),
     (TARGET,)),
    # None of these is a vhost-scsi device of the guest's.
    (inhooks.xml(devices=inhooks.hostdev().replace("'vhost'", "'scsi'")), ()),
    (inhooks.xml(devices=inhooks.hostdev().replace("scsi_host", "scsi")), ()),
    (inhooks.xml(more=f"<metadata>{inhooks.hostdev()}</metadata>"), ()),
    (inhooks.xml(more=f"<description>{TARGET} &lt;hostdev/&gt;</description>"), ()),
    (inhooks.xml(more=f"<!-- {inhooks.hostdev()} -->"), ()),
    (with_arguments("-drive", f"file=/vhost-scsi-pci,wwpn={TARGET[6:]}"), ()),
    (with_arguments(f"virtio-scsi-pci,wwpn={TARGET[6:]}", "{}", "{", "[" * 9999), ()),
])
def test_a_guests_targets_are_those_of_its_devices(data: bytes, targets: Sequence[str]) -> None:
    known = domain.parse(data)
    assert (known.name, known.targets) == ("vm1", tuple(targets))


@pytest.mark.parametrize("data, why", [
    (b"", "is not XML: line 1: no element found"),
    (inhooks.xml()[:-12], "is not XML: line"),
    (b"\0" + inhooks.xml(), "is not XML"),
    (b"<domain>\xff</domain>", "is not XML"),
    (b"<network/>", "is not of a domain"),
    (inhooks.xml(more="<a>" * 70 + "</a>" * 70), "elements within each other"),
    (inhooks.xml(more=" " * domain.LIMIT), f"has more than {domain.LIMIT} bytes"),
    (b"<!DOCTYPE domain>" + inhooks.xml(), "declares a document type"),
    (inhooks.xml(devices=inhooks.hostdev("naa.1")), "has a vhost-scsi device with 'naa.1' as WWPN"),
    (inhooks.xml(devices=inhooks.hostdev("../../../etc/passwd")), "'../../../etc/passwd' as WWPN"),
    (inhooks.xml(devices=inhooks.hostdev() * 257), "more than 256 vhost-scsi devices"),
    (with_arguments("vhost-scsi-pci,wwpn=\x1b[31m".replace("\x1b", "&#127;")), "as WWPN"),
])
def test_xml_that_no_libvirt_writes_is_refused_in_one_line(data: bytes, why: str) -> None:
    with pytest.raises(errors.BadCall) as caught:
        domain.parse(data)
    assert why in caught.value.what and str(caught.value).isprintable()


# ── the rows, and the program that libvirt starts ────────────────────────────────────────────
@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs the hook with other folders; "Python" writes its words and its input."""
    (tmp_path / "guests").mkdir()
    (tmp_path / "python3").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\n'
                                      f"cat >{tmp_path}/xml\nexit 3\n")
    (tmp_path / "python3").chmod(0o755)
    text = HOOK.read_text()
    for old, new in (("/etc/lio-handover", tmp_path), ("/usr/bin/python3", tmp_path / "python3")):
        assert old in text
        text = text.replace(old, str(new))
    (tmp_path / "hook").write_text(text)
    (tmp_path / "hook").chmod(0o755)

    def run(words: Sequence[str], data: bytes, guest: bool = True) -> tuple[int, str, str]:
        if guest:
            (tmp_path / "guests" / "vm1.conf").touch()
        (tmp_path / "words").unlink(missing_ok=True)
        done = inhooks.call(words, data, str(tmp_path / "hook"))
        assert done[1:] == ("", "")
        words_file = tmp_path / "words"
        return done[0], words_file.read_text().strip() if words_file.exists() else "", str(tmp_path)
    return run


WITH = inhooks.xml(devices=inhooks.hostdev())


def test_python_is_started_for_a_guest_with_a_target_where_there_is_something_to_do(
        shell: Callable[..., tuple[int, str, str]]) -> None:
    for call, row in rows.ROWS.items():
        code, words, folder = shell(["a b", *call, "-"], WITH)
        if row.does is Do.NOTHING:
            assert (code, words) == (0, ""), row
        else:
            assert code == 3 and words == ("-I /usr/lib/lio-handover/scripts/lio-handover-hook "
                                           f"libvirt a b {' '.join(call)} -"), row
            assert Path(folder, "xml").read_bytes().strip() == WITH.strip()
        assert shell(["vm1", *call, "-"], inhooks.xml())[:2] == (0, ""), row
    for odd in ([], ["vm1"], ["vm1", "migrate"], ["vm1", "migrate", "end", "-"],
                ["vm1", "../migrate", "begin", "-"], ["-x", "$(id)", "`id`", "*"]):
        assert shell(odd, WITH)[:2] == (0, ""), odd


def test_nothing_is_read_on_a_host_without_guests(
        shell: Callable[..., tuple[int, str, str]]) -> None:
    assert shell(["vm1", "migrate", "begin", "-"], WITH, guest=False)[:2] == (0, "")


def test_the_hook_has_the_calls_of_the_rows() -> None:
    listed = re.search(r"(?m)^    (\S+/\S+(?: \| \S+/\S+)*)\) ;;$", HOOK.read_text())
    assert listed and tuple(listed[1].split(" | ")) == rows.CALLS
    assert not re.search(r"\b(virsh|virt-\w+|libvirtd?)\b(?![-'s ]*(hook|/hooks| \"))", re.sub(
        "(?m)^#.*", "", HOOK.read_text()))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the unit is told, of a guest vm1 which has a file."""
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(unit, "start", lambda *words: told.append(("start", *words)))
    monkeypatch.setattr(unit, "stop", lambda *words: told.append(("stop", *words)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "vm1.conf").write_text(f"[guest]\ntargets = {TARGET}\n")
    return told


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, *words: str) -> int:
    """The program's exit code."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=(tmp_path / "stdin").open("w+b")))
    sys.stdin.buffer.write(data)
    sys.stdin.buffer.seek(0)
    monkeypatch.setattr(guests, "FOLDER", str(tmp_path))
    return main.main(words)


def test_libvirts_calls_start_and_stop_the_guests_unit(
        calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
            (("migrate", "begin", "-"), [("start", "vm1", "", 60)]),
            (("release", "end", "failed"), [("stop", "vm1")]),
            (("release", "end", "-"), [("stop", "vm1")]),
            (("started", "begin", "-"), []), (("unheard", "of", "-"), []), ((), [])):
        calls.clear()
        assert run(tmp_path, monkeypatch, WITH, "libvirt", "--help", *words) == 0
        assert calls == expected, words
    assert run(tmp_path, monkeypatch, inhooks.xml(devices=inhooks.hostdev(OTHER[6:])),
               "libvirt", "vm9", "migrate", "begin", "-") == 0
    assert len(calls) == 0 and capsys.readouterr() == ("", "")
    # The XML says otherwise than the guest's file.
    both = inhooks.xml(devices=inhooks.hostdev() + inhooks.hostdev(OTHER[6:]))
    assert run(tmp_path, monkeypatch, both, "libvirt", "vm1", "migrate", "begin", "-") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not calls
    assert f"has {TARGET}, {OTHER}, and of these vm1 has {TARGET}; nothing was changed" in err


def test_scripts_calls_name_a_guest_or_give_its_xml(
        calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, monkeypatch, b"", "pre-migrate", "vm1", "--from", "root@a") == 0
    assert calls.pop() == ("start", "vm1", "root@a", 60)
    assert run(tmp_path, monkeypatch, WITH, "pre-migrate", "--xml", "-") == 0
    assert calls.pop() == ("start", "vm1", "", 60)
    for words, why in (
            (["pre-migrate", "vm1", "--from=-oProxyCommand=x"], "is no host for ssh"),
            (["pre-migrate"], "takes one guest"), (["failed", "vm1", "vm2"], "takes one guest"),
            (["pre-migrate", "../vm1"], "is no name of a guest"),
            (["pre-migrate", "vm1", "--xml", "-"], "not by both"),
            (["pre-migrate", "--xml", "/nonexistent"], "No such file")):
        assert run(tmp_path, monkeypatch, WITH, *words) == 2, words
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and why in err, err
    assert not calls


# ── the unit, as the hook sees it ────────────────────────────────────────────────────────────
@pytest.mark.parametrize("shows, kind, line", [
    ({"StatusText": "no peer serves x: a has no x; nothing was changed; next: see [service]",
      "ExecMainStatus": "2"}, errors.Refusal,
     "no peer serves x: a has no x; nothing was changed; next: see [service]"),
    ({"StatusText": "a does not answer; a serves on as before; next: again",
      "ExecMainStatus": "1"}, errors.HandoverError,
     "a does not answer; a serves on as before; next: again"),
    ({"StatusText": "", "ExecMainStatus": "203"}, errors.HandoverError,
     f"{inhooks.UNIT} was not started: Job failed; whether anything was changed is not known; "
     f"next: journalctl -u {inhooks.UNIT}")])
def test_a_unit_that_fails_has_said_why(shows: dict[str, str], kind: type, line: str,
                                        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unit, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(supervisor, "running", lambda: True)
    monkeypatch.setattr(external_program, "run", lambda words, seconds: (1, "Job failed"))
    monkeypatch.setattr(unit, "_show", lambda name, *properties: [
        f"{key}={value}" for key, value in shows.items()])
    with pytest.raises(errors.HandoverError) as caught:
        unit.start("vm1", "a", 60)
    assert type(caught.value) is kind and str(caught.value) == line
    assert unit.source_of("vm1") == "a" and os.stat(tmp_path / "run").st_mode & 0o777 == 0o700
    with pytest.raises(errors.HandoverError):
        unit.start("vm1", "", 60)
    assert unit.source_of("vm1") == ""  # it is of one call


def test_a_unit_that_hangs_is_told_to_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = []

    def run(words: Sequence[str], seconds: float) -> tuple[int, str]:
        ran.append((words[2:], seconds))
        if "restart" in words:
            assert unit.who_waits("vm1") == os.getpid()
            raise external_program.TooLong("was killed")
        return 0, ""
    monkeypatch.setattr(unit, "FOLDER", str(tmp_path))
    monkeypatch.setattr(supervisor, "running", lambda: True)
    monkeypatch.setattr(external_program, "run", run)
    with pytest.raises(errors.StillRunning, match="is not started after 90 s; it is told to stop"):
        unit.start("vm1", "", 60)
    assert ran == [(["restart", "--", inhooks.UNIT], 90),
                   (["--no-block", "stop", "--", inhooks.UNIT], 30)]
    assert unit.who_waits("vm1") == 0  # a process that has its number later is not meant


def test_without_systemd_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unit, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(supervisor, "running", lambda: False)
    with pytest.raises(errors.NoService, match="systemd does not run here"):
        unit.start("vm1", "", 60)
    assert not (tmp_path / "run").exists()


# ── peers ────────────────────────────────────────────────────────────────────────────────────
def handover(role: str, state: str, mode: str = "vhost-inband") -> dict[str, str]:
    return {"Id": ID, "Role": role, "State": state, "Mode": mode}


def answer(peer: str, *handovers: dict[str, str], targets: Sequence[str] = (TARGET,),
           error: str = "") -> peers.Answer:
    return peers.Answer(peer, f"boot of {peer}", tuple(targets), handovers, error)


NEVER = answer("c", error="does not answer")
HAS_NONE = answer("d", targets=[])


@pytest.mark.parametrize("answers, kind, told", [
    ([HAS_NONE], errors.NoSuchTarget, f"no peer serves {TARGET}: d has no {TARGET}"),
    ([HAS_NONE, NEVER], errors.PeerUnreachable, f"d has no {TARGET}; c does not answer"),
    ([answer("a"), answer("b")], errors.InUse, f"a and b both serve {TARGET}"),
    ([answer("a", handover("source", "released"))], errors.NoSuchTarget,
     f"a is the source of handover {ID}, released"),
    ([answer("b", handover("destination", "staged"))], errors.NoSuchTarget,
     f"b is the destination of handover {ID}, staged"),
    ([peers.Answer("me", boot_id(), (TARGET,))], errors.NoSuchTarget,
     "all of [service] peers are this host")])
def test_where_no_one_peer_serves_each_answer_is_told(
        answers: list[peers.Answer], kind: type[errors.HandoverError], told: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ask", lambda *words: answers)
    with pytest.raises(kind, match=re.escape(told)):
        peers.serving([TARGET], ["a"], 1, lambda: False)


def test_the_peer_that_serves_is_taken_whoever_else_is_silent(
        monkeypatch: pytest.MonkeyPatch) -> None:
    serves = answer("a", handover("source", "prepared"))
    monkeypatch.setattr(peers, "ask", lambda *words: [
        NEVER, HAS_NONE, serves, answer("e", handover("destination", "staged"))])
    assert peers.serving([TARGET], ["a"], 1, lambda: False) is serves
    with pytest.raises(errors.BadSettings, match="no peer is configured"):
        peers.serving([TARGET], [], 1, lambda: False)


def test_a_peers_objects_are_its_answer() -> None:
    from lio_handover import dbus_names
    of = {"Id": ID, "Epoch": 1, "Role": "source", "Mode": "vhost-inband", "Targets": [TARGET]}
    objects = {
        "/1": {dbus_names.TARGET: {"Name": TARGET}}, "/2": {dbus_names.TARGET: {"Name": OTHER}},
        "/3": {dbus_names.HANDOVER: {**of, "State": "prepared"}},
        "/4": {dbus_names.HANDOVER: {**of, "State": "retired"}},
        "/5": {dbus_names.HANDOVER: {**of, "State": "confirmed", "Role": "destination"}},
        "/6": {dbus_names.HANDOVER: {**of, "State": "prepared", "Targets": [OTHER]}},
        "/7": {dbus_names.MANAGER: {}}}
    side: Any = SimpleNamespace(about=lambda: SimpleNamespace(boot_id="b"),
                                call=lambda *words: objects)
    assert peers.looked(side, [TARGET]) == {
        "boot": "b", "targets": [TARGET], "handovers": [handover("source", "prepared")]}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'{"boot": 1}', b"\xff",
                                  b'{"boot": "b", "targets": [], "handovers": [[]]}'])
def test_an_answer_that_is_none_is_one_line(data: bytes) -> None:
    assert peers._answer("a", data, [TARGET]) == peers.Answer(
        "a", error="gave no answer that can be taken")


def test_a_slow_peer_does_not_hold_the_others_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked by a process: here one that answers, one that never does, one that dies."""
    said = '{"boot": "x", "targets": ["%s"], "handovers": []}' % TARGET
    scripts = {"a": f"echo '{said}'", "slow": "exec sleep 60", "dies": "kill -9 $$",
               "talks": "exec yes", "odd": "printf '{\"error\": \"\\\\u001b[31m\"}'"}
    monkeypatch.setattr(peers, "command", lambda module, peer, *targets: [
        "sh", "-c", scripts[peer]])
    began = time.monotonic()
    told = {one.peer: one.error or one.targets for one in peers.ask([TARGET], [*scripts], 1.0)}
    assert time.monotonic() - began < 20
    assert told == {"a": (TARGET,), "slow": "has not answered in 1 s",
                    "dies": "gave no answer that can be taken",
                    "talks": "gave no answer that can be taken", "odd": "\\x1b[31m"}
    with pytest.raises(errors.Interrupted):
        peers.ask([TARGET], ["slow"], 30, lambda: True)


# ── staging, and what is taken back ──────────────────────────────────────────────────────────
class Side:
    """A host's service; ``told`` has the verbs of both hosts."""

    states: dict[str, str] = {}
    told: list[str] = []
    journal: Journal

    def __init__(self, where: str = "") -> None:
        self.where = where
        self.name = where or "here"

    def verb(self, verb: str, handover: str, **_more: Any) -> Any:
        if verb != "status":
            self.told.append(f"{verb} {self.name}")
            if verb == "abort" and not self.where:
                self.journal.state("none", 1, boot_id())
            self.states[self.where] = {"thaw": "idle", "abort": "none"}[verb]
        if self.where not in self.states:
            raise errors.PeerUnreachable(f"{self.name} does not answer")
        return SimpleNamespace(handover=SimpleNamespace(state=self.states[self.where]))

    def close(self) -> None:
        pass


class Moves:
    """In place of the driver."""

    id, notes, targets = ID, (), (TARGET,)

    def __init__(self, source: Side, destination: Side, _tell: object, _stop: object) -> None:
        Side.told.append(f"move {source.name} {destination.name}")

    def stage(self, targets: Sequence[str], **more: Any) -> None:
        Side.told.append(f"stage {more}")

    def close(self) -> None:
        pass


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> staging.Staging:
    """On a host that the peers reach as b; a serves the guest's target."""
    monkeypatch.setattr(staging, "RemoteService", Side)
    monkeypatch.setattr(staging, "Move", Moves)
    monkeypatch.setattr(peers, "serving", lambda *words: answer("a"))
    monkeypatch.setattr(Side, "states", {"a": "prepared", "": ""})
    monkeypatch.setattr(Side, "told", [])
    return staging.Staging(GUEST, Settings(state_directory=str(tmp_path), peers=("a", "b"),
                                           hook_here="b"), lambda line: None)


def staged(stage: staging.Staging, state: str = "staged", boot: str = "", peer: str = "a",
           targets: Sequence[str] = (TARGET,), role: str = "destination") -> None:
    """A handover of the guest's target is under way here."""
    Side.journal = Journal.create(stage.settings.state_directory, Handover(
        ID, role, "", 1, "vhost-inband", tuple(targets), peer=peer), {})
    Side.journal.state(state, 1, boot or boot_id())


STAGE = ("stage {'here': 'a', 'there': 'b', 'maps': (), 'allow': ('all-tg-pt',), 'probe': False}")


def test_a_guest_is_staged_by_the_peer_that_serves_it(stage: staging.Staging) -> None:
    assert stage.peers == ("a",)
    assert staging.Staging(GUEST, stage.settings, print, source="c").peers == ("c",)
    stage.begin()
    assert Side.told == ["move a here", STAGE]


def test_a_guest_that_is_staged_already_stays_so(stage: staging.Staging) -> None:
    staged(stage)
    stage.begin()
    assert Side.told == [] and stage.staged()


@pytest.mark.parametrize("how", [
    {"boot": "another"}, {"peer": "elsewhere"}, {"targets": (TARGET, OTHER)}])
def test_a_guest_that_was_staged_otherwise_is_staged_anew(
        stage: staging.Staging, how: dict[str, Any]) -> None:
    staged(stage, **how)
    Side.states["elsewhere"] = "prepared"
    stage.begin()
    assert Side.told == [f"thaw {how.get('peer', 'a')}", "abort here", "move a here", STAGE]


def test_a_guest_whose_source_has_gone_back_is_staged_anew(stage: staging.Staging) -> None:
    staged(stage)
    Side.states["a"] = "idle"
    stage.begin()
    assert Side.told == ["abort here", "move a here", STAGE]


def test_an_earlier_migration_that_has_come_further_is_not_touched(stage: staging.Staging) -> None:
    staged(stage, "armed")
    with pytest.raises(errors.WrongState, match="is armed here: an earlier migration is not over"):
        stage.begin()
    assert not stage.take_back() and Side.told == []


def test_what_was_prepared_for_another_migration_is_taken_back_first(
        stage: staging.Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "serving", lambda *words: answer(
        "a", handover("source", "prepared")))
    stage.begin()
    assert Side.told == ["thaw a", "move a here", STAGE]


def test_a_source_that_is_lost_keeps_nothing_here(stage: staging.Staging) -> None:
    told: list[str] = []
    stage.say = told.append
    staged(stage)
    del Side.states["a"]
    assert stage.take_back() and Side.told == ["abort here"]
    assert told == [f"vm1: handover {ID} is taken back; on a it is still prepared (a does not "
                    f"answer); next: there lio-handover source thaw {ID}"]


def test_a_source_gives_up_what_it_has_only_prepared(stage: staging.Staging) -> None:
    assert not stage.give_up()
    staged(stage, "prepared", peer="b", role="source")
    Side.states["b"] = "staged"
    assert stage.give_up() and Side.told == ["thaw here", "abort b"]


def test_a_guest_that_is_not_ready_in_time_fails_for_another_time(
        stage: staging.Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_words: object) -> peers.Answer:
        raise errors.Interrupted("interrupted", "a serves on as before")
    monkeypatch.setattr(peers, "serving", late)
    with pytest.raises(errors.StillRunning, match="vm1 is not ready after 60 s") as caught:
        stage.begin()
    assert caught.value.changed == "a serves on as before"
    stage.stop = lambda: True
    with pytest.raises(errors.Interrupted):
        stage.begin()


# ── the unit's program ───────────────────────────────────────────────────────────────────────
@pytest.fixture
def watching(stage: staging.Staging, monkeypatch: pytest.MonkeyPatch) -> incoming.Incoming:
    """Of a guest that is staged; it looks often."""
    monkeypatch.setattr(incoming, "OFTEN", 0.01)
    made = incoming.Incoming(GUEST, stage.settings, Log(otherwise=lambda *words: None))
    staged(stage)
    return made


@pytest.fixture
def qemu() -> Iterator[subprocess.Popen[bytes]]:
    """A process with the words of the guest's QEMU."""
    process = subprocess.Popen([sys.executable, "-Sc", "import time; time.sleep(60)", "-device",
                                f"vhost-scsi-pci,id=x,wwpn={TARGET[6:]}"])
    yield process
    process.kill()
    process.wait()


def test_the_unit_waits_for_a_qemu_as_long_as_it_lives(
        watching: incoming.Incoming, qemu: subprocess.Popen[bytes],
        monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def look(targets: Sequence[str]) -> int | None:
        looked.append(qemu_of(targets))
        if looked[-1] is not None:  # else it is only about to be a QEMU
            qemu.kill()
        return looked[-1]
    qemu_of = incoming.qemu_of
    monkeypatch.setattr(incoming, "qemu_of", look)
    assert watching._watch() == "its QEMU has ended" and looked[-1] is not None


def test_the_unit_ends_where_no_qemu_comes_where_it_is_stopped_and_where_qemu_brings_it(
        watching: incoming.Incoming, monkeypatch: pytest.MonkeyPatch) -> None:
    assert incoming.qemu_of([TARGET]) is None
    monkeypatch.setattr(incoming, "qemu_of", lambda targets: None)
    object.__setattr__(watching.settings, "hook_wait", 0)
    assert watching._watch() == "no QEMU of it came in 0 s"
    watching.stopping = True
    assert watching._watch() == "this unit is stopped"
    watching._take_back("this unit is stopped")
    assert Side.told == ["thaw a", "abort here"] and watching._watch() == ""
    with tempfile.TemporaryDirectory() as folder:
        object.__setattr__(watching.settings, "state_directory", folder)
        staged(watching.staging, "armed")
        assert watching._watch() == ""


def test_a_call_that_will_fail_again_has_a_code_of_its_own() -> None:
    for kind in errors.classes():
        error = kind("x")
        assert incoming.refused(error) == (30 <= error.code < 50 or type(error).__name__ in (
            "BadSettings", "BadCall", "BadMap", "NotRoot", "NotAuthentic", "VersionsDiffer",
            "NoSuchTarget")), kind


def test_a_guests_file_says_how_its_handover_is_begun() -> None:
    guest = guests.parse(f"[guest]\ntargets = {TARGET}\nallow = all-tg-pt ramdisk\nprobe = yes\n"
                         "map =\n  device:/dev/a=/dev/b\n  rtpi:1=2\n", "vm1", "vm1.conf")
    assert guest == Guest("vm1", (TARGET,), guest.id, guest.bus, allow=("all-tg-pt", "ramdisk"),
                          maps=("device:/dev/a=/dev/b", "rtpi:1=2"), probe=True)
    for line, why in (("allow = ../x", "is no name of a finding"), ("probe = maybe", "yes nor no")):
        with pytest.raises(errors.BadSettings, match=why):
            guests.parse(f"[guest]\ntargets = {TARGET}\n{line}\n", "vm1", "vm1.conf")

"""A service over a line on which no descriptor travels: the real bridge, and ssh's place taken by
a program that only runs what it is told to."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lio_handover import dbus_names, errors, started
from lio_handover.client import asking, ssh
from lio_handover.client.ssh import RemoteService
from lio_handover.document import document
from lio_handover.drivers.move import Move
from lio_handover.protocol.messages import Message, to_json
from lio_handover.protocol.table import SOURCE, MessageType
from lio_handover.records.journal import Handover
from tests.support import inmove, samples
from tests.support.inbus import CHECKOUT

pytest.importorskip("dbus")
from tests.support.privatebus import Bus, with_ssh  # noqa: E402 - it needs dbus, too

ID = "00000000-0000-4000-8000-000000000000"
SSH = """\
#!/bin/sh
echo "$@" >>{folder}/said
env >{folder}/env
while [ "$1" != -- ]; do shift; done
[ "$2" = b ] || {{ echo "ssh: $2: Name or service not known" >&2; exit 255; }}
exec "$3" --bus-path={bus}
"""


@pytest.fixture
def b(bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteService]:
    """The service of host b."""
    (tmp_path / "ssh").write_text(SSH.format(folder=tmp_path, bus=bus.address))
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setattr(ssh, "PROGRAM", str(tmp_path / "ssh"))
    monkeypatch.setattr(asking, "command", lambda *words: [  # recover's question, another process
        *with_ssh(str(tmp_path / "ssh")), *started.command(*words)])
    made = RemoteService("b")
    yield made
    made.close()


def test_it_says_what_it_is(b: RemoteService, tmp_path: Path) -> None:
    about = b.about()
    assert (about.api, about.document) == (dbus_names.API_VERSION, document.VERSION)
    assert about.host == os.uname().nodename and "uploads" in about.features
    assert (tmp_path / "said").read_text().endswith(" -- b systemd-stdio-bridge\n")


def test_its_errors_are_ours(b: RemoteService) -> None:
    with pytest.raises(errors.NoTargetModules):  # as this machine has none
        b.verb("prepare", ID, targets=["iscsi/iqn.2003-01.org.example:db"], mode="iscsi")
    for verb in ("status", "freeze"):
        with pytest.raises(errors.NoSuchHandover):
            b.verb(verb, ID)
    with pytest.raises(errors.NoSuchHandover):
        asking.ask(Handover(ID, "source", "released", 1, "iscsi", (), peer="b"), "status")


def test_a_host_of_which_anything_answers_is_not_off(bus: Bus, b: RemoteService) -> None:
    known = "22222222-0000-4000-8000-000000000000"
    folder = bus.folder / "state" / "handovers" / known
    folder.mkdir(parents=True)
    (folder / "journal").write_text("{]\n")
    for peer, alive in (("b", True), ("c", False)):
        with pytest.raises(errors.PeerUnreachable) as caught:
            asking.ask(Handover(known, SOURCE, "released", 1, "iscsi", (), peer=peer), "status")
        assert caught.value.alive is alive, caught.value


def test_messages_get_there_in_pieces(b: RemoteService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CHUNK_BYTES", 1000)
    data = document.dumps(samples.document(samples.iscsi(luns=4), True))
    offer = Message(MessageType.OFFER, ID, 1, targets=(f"iscsi/{samples.IQN}",), mode="iscsi",
                    document=data)
    assert len(to_json([offer])) > 4000
    with pytest.raises(errors.NoTargetModules):  # it was read, and is no offer of nonsense
        b.verb("stage", ID, to_json([offer]))
    with pytest.raises(errors.DocumentError):
        b.verb("stage", ID, to_json([offer])[:-1000])


def test_answers_come_in_pieces(bus: Bus, b: RemoteService,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CHUNK_BYTES", 100)
    known = bus.handover
    answer = asking.ask(Handover(known.id, SOURCE, "released", 1, "iscsi", (), peer="b"), "status")
    assert answer.handover == known
    assert [(one.type, one.handover) for one in answer.messages] == [
        (MessageType.ABORTED, known.id)]
    assert b.verb("status", known.id) == answer


def test_one_whose_work_hangs_has_not_answered(
        bus: Bus, b: RemoteService, monkeypatch: pytest.MonkeyPatch) -> None:
    """recover has to come back: only then a human can say what it can't see."""
    monkeypatch.setattr(asking, "ASK_SECONDS", 1)
    with bus.held():
        with pytest.raises(errors.PeerUnreachable, match="b has not ended status in 1 s"):
            asking.ask(Handover(bus.handover.id, SOURCE, "released", 1, "iscsi", (), peer="b"),
                       "status")


def test_a_line_that_dies_is_unreachable_and_then_another(b: RemoteService) -> None:
    b.about()
    pid, = inmove.lines("systemd-stdio-b")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.PeerUnreachable, match="b does not answer"):
        b.about()
    assert b.about().api == dbus_names.API_VERSION


def test_a_host_that_ssh_does_not_know(b: RemoteService) -> None:
    with pytest.raises(errors.PeerUnreachable, match="^nowhere does not answer"):
        RemoteService("nowhere").about()


def test_ssh_does_not_take_its_environment_from_whoever_calls(
        b: RemoteService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_LIBRARY_PATH", "SHELL", "BASH_ENV", "PYTHONPATH"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent", prepend=":")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    other = RemoteService("b")
    other.about()
    other.close()
    env = (tmp_path / "env").read_text()
    assert "/nonexistent" not in env and "SSH_AUTH_SOCK=/run/agent\n" in env, env


def test_ssh_is_looked_for_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "PROGRAM", f"{tmp_path}/none")
    with pytest.raises(errors.PeerUnreachable, match="next: install openssh-client"):
        RemoteService("b").about()


@pytest.mark.parametrize("module", ["dbus", "gi"])
def test_what_is_not_installed_is_said(
        b: RemoteService, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.PeerUnreachable, match=f"module {module} is not installed here"):
        b.about()


class Later(Bus):
    """A service of two versions later."""

    def start(self) -> subprocess.Popen[Any]:
        self._programs.append(subprocess.Popen([
            sys.executable, "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); "
            "from lio_handover import dbus_names; dbus_names.API_VERSION += 2; "
            "from lio_handover.service.main import main; sys.exit(main())",
            "--bus", self.address, "--config", str(self.config)]))
        return self._programs[-1]


def test_two_versions_apart_nothing_is_begun(
        b: RemoteService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ssh.TEST_BUSES, "1")
    with tempfile.TemporaryDirectory() as folder:
        later = Later(Path(folder))
        try:
            source = RemoteService(later.address)
            ours = dbus_names.API_VERSION
            with pytest.raises(errors.VersionsDiffer,
                               match=f"version {ours + 2} of the API .* version {ours} "):
                Move(source, b).run([f"iscsi/{samples.IQN}"])
            source.close()
        finally:
            later.stop()

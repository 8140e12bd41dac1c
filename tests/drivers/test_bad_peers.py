"""Another host answers what it likes: recover stays, and says so in one line; a move ends."""
from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors, started
from lio_handover.client import asking, ssh
from lio_handover.client.ssh import RemoteService
from lio_handover.drivers.move import Move
from lio_handover.handover.conditions import TransitionChooser
from lio_handover.host.verbs import HostVerbs
from lio_handover.protocol import table
from lio_handover.protocol.table import SOURCE
from lio_handover.records.journal import Handover, Journal
from lio_handover.settings import Settings
from lio_handover.verb_table import BOTH
from tests.drivers.test_move_bus import SSH
from tests.support.inbus import CHECKOUT

pytest.importorskip("dbus")
from tests.support import badpeer  # noqa: E402 - it needs dbus, too
from tests.support.privatebus import Bus, with_ssh  # noqa: E402

ID = "00000000-0000-4000-8000-0000000000"


class Bad(Bus):
    """The bus of such a host."""

    def start(self) -> subprocess.Popen[Any]:
        self._programs.append(subprocess.Popen(
            [sys.executable, "-m", "tests.support.badpeer", self.address], cwd=CHECKOUT))
        return self._programs[-1]


@pytest.fixture(scope="module")
def bad() -> Iterator[Bad]:
    with tempfile.TemporaryDirectory() as folder:
        made = Bad(Path(folder))
        yield made
        made.stop()


@pytest.fixture
def b(bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh leads to it as b; to c, where nothing greets."""
    (tmp_path / "ssh").write_text(SSH.format(folder=tmp_path, bus=bad.address).replace(
        '[ "$2" = b ]', '[ "$2" != c ] || exec sleep 60\n[ "$2" = b ]'))
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setattr(ssh, "PROGRAM", str(tmp_path / "ssh"))
    monkeypatch.setattr(asking, "command", lambda *words: [
        *with_ssh(str(tmp_path / "ssh")), *started.command(*words)])


def of(number: int, peer: str = "b") -> Handover:
    return Handover(f"{ID}{number:02}", SOURCE, "released", 1, "iscsi",
                    ("iscsi/iqn.2003-01.org.example:db",), peer=peer)


def shown(error: errors.HandoverError) -> None:
    assert str(error).isprintable() and len(str(error)) < 2000 and "\x1b" not in str(error)


@pytest.mark.parametrize("number", sorted(badpeer.WRONG), ids=lambda number: badpeer.WRONG[number])
def test_whatever_a_host_answers_it_is_at_most_unreachable(
        b: None, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if badpeer.WRONG[number] in ("nothing at all", *badpeer.ENDLESS):
        monkeypatch.setattr(asking, "ASK_SECONDS", 0.5)
    settings = Settings(state_directory=str(tmp_path / "state"), document_bytes=4 << 20)
    with pytest.raises(errors.PeerUnreachable) as caught:
        asking.ask(of(number), "status", settings)
    assert caught.value.alive  # something answers there, so nobody may say that it is off
    shown(caught.value)
    if "colours" in badpeer.WRONG[number]:
        assert caught.value.what.startswith("b says: \\x1b[31m\\nred\\u202e ")


# A driver waits for nothing at all as long as for any answer.
@pytest.mark.parametrize("number", [number for number in sorted(badpeer.WRONG)
                                    if badpeer.WRONG[number] != "nothing at all"],
                         ids=lambda number: badpeer.WRONG[number])
def test_nor_is_it_more_where_it_answers_at_once(b: None, number: int,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """As a driver asks a service that has `finish` among its features."""
    monkeypatch.setattr(ssh, "DEADLINES", 0.02)
    monkeypatch.setattr(ssh, "LONGEST", 3)
    side = RemoteService("b")
    side.finishes = True
    with pytest.raises(errors.HandoverError) as caught:
        side.verb("retire", of(number).id, b"[]")
    side.close()
    shown(caught.value)
    if badpeer.WRONG[number] not in ("an error in colours", "an error of no name",
                                     "a page of findings"):
        assert isinstance(caught.value, errors.PeerUnreachable), caught.value


def test_recover_stays_and_says_why(b: None, tmp_path: Path) -> None:
    settings = Settings(state_directory=str(tmp_path / "state"), document_bytes=4 << 20)
    journal = Journal.create(settings.state_directory, replace(of(0), state=""), {})
    journal.state("released", 1, "boot")
    run = TransitionChooser(HostVerbs(settings), asking.asker(settings), journal, "recover", 1, (),
                            frozenset({"peer-is-fenced"}), False)
    assert run.recovery() is None
    assert run.why() == (
        "the source is released and stays: the other side has to be asked, and b has "
        f"{1 << 40} bytes to say, more than {8 << 20}")


def test_a_line_on_which_nothing_greets_is_given_up(
        b: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ASK_SECONDS", 0.5)
    monkeypatch.setattr(ssh, "CONNECTED_SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(errors.PeerUnreachable, match="c has not ended status in 0.5 s"):
        asking.ask(of(0, "c"), "status", Settings(state_directory=str(tmp_path)))
    with pytest.raises(errors.PeerUnreachable, match="c does not answer"):
        RemoteService("c").about()
    assert time.monotonic() - began < 50  # of the sleep's 60


def test_a_move_ends_with_what_the_host_says_told_as_its_own(b: None) -> None:
    for number, wrong in badpeer.WRONG.items():
        if wrong in ("nothing at all", *badpeer.ENDLESS):
            continue
        side = RemoteService("b", limit=8 << 20)
        with pytest.raises(errors.HandoverError) as caught:
            side.verb("activate", of(number).id)
        side.close()
        shown(caught.value)
        assert isinstance(caught.value, errors.PeerUnreachable) \
            or caught.value.what.startswith("b says: "), wrong
        assert len(caught.value.findings) <= ssh.MOST_NOTES
        for finding in caught.value.findings:
            assert finding.sentence.isprintable() and finding.subject.isprintable()
    with pytest.raises(errors.PeerUnreachable, match="b answers what no lio-handoverd does"):
        RemoteService("b").about()


@pytest.mark.parametrize("wrong, silence, longest, why", [
    ("running for ever", 0.6, 60, "its last step came 1 s ago"),
    ("another step for ever", 60, 0.6, "has not ended in 1 s; its last step came 0 s ago")])
def test_a_verb_that_goes_on_for_ever_is_given_up(
        b: None, wrong: str, silence: float, longest: float, why: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it shows of its life, and in the end whatever it shows; also while it is cancelled,
    and by a move that is committed, which asks others more than once."""
    monkeypatch.setattr(ssh, "DEADLINES", silence / table.deadline(BOTH, "activate"))
    monkeypatch.setattr(ssh, "LONGEST", longest)
    number, = (number for number, name in badpeer.WRONG.items() if name == wrong)
    asked: list[str] = []
    steps: list[int] = []
    for stop in (lambda: False, lambda: True):
        move = Move(RemoteService("b"), RemoteService("b"), asked.append, stop, of(number).id)
        step, = (step for step in move.steps if step.name == "open")
        began = time.monotonic()
        with pytest.raises(errors.PeerUnreachable, match=why) as caught:
            move._do(move.number("open"), step._replace(takes=""), {})
        assert time.monotonic() - began < 20 and caught.value.alive
        assert caught.value.do.endswith("journalctl -u lio-handoverd, on b")
        assert not any("once more" in line for line in asked), asked
        shown(caught.value)
        with pytest.raises(errors.PeerUnreachable, match=why):
            move.destination.verb("activate", of(number).id, stop=stop,
                                  progress=lambda *words: steps.append(words[0]))
        move.close()
    assert (steps == sorted(set(steps)) and len(steps) > 2) is (wrong != "running for ever")


@pytest.mark.parametrize("script, why", [
    ("exec yes", "can't be believed: the answer has more than 8388608 bytes"),
    ("exec yes >&2", "no answer in time"), ("exec sleep 9", "no answer in time"),
    ("echo '{}'", "can't be believed: the answer can't be read: KeyError"),
    ("printf '\\033[31mred' >&2; exit 7", r"ended with 7, and says: \\x1b\[31mred"),
    ("exit 255", "ended with 255")])
def test_a_command_that_asks_is_no_better(
        tmp_path: Path, script: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lio_handover.cli.handover_commands import _peer_by_command
    monkeypatch.setattr(asking, "ASK_SECONDS", 0.5)
    (tmp_path / "ask").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "ask").chmod(0o755)
    with pytest.raises(errors.PeerUnreachable, match=why) as caught:
        _peer_by_command(str(tmp_path / "ask"), Settings(document_bytes=4 << 20))(of(0), "status")
    shown(caught.value)

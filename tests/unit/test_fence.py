"""The program that has to confirm that the other host is off, before an operator's word counts."""
from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.handover.conditions import TransitionChooser
from lio_handover.handover.reply import Reply
from lio_handover.host.verbs import HostVerbs
from lio_handover.kernel.facts import boot_id
from lio_handover.protocol.table import DESTINATION, SOURCE, Mode, Transition, rows_for
from lio_handover.records.journal import Handover, Journal
from lio_handover.settings import Late, Settings
from lio_handover.storage import exclusive
from lio_handover.system import fencing
from tests.support.inbus import forked
from tests.support.samples import running

Program = Callable[[str], Settings]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """`program("exit 1")`: the settings of a host whose fence program is this."""
    def make(text: str) -> Settings:
        path = tmp_path / "fence"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return Settings(state_directory=str(tmp_path / "state"), fence_program=(str(path), "off"),
                        fence_seconds=1)
    return make


def test_it_is_run_with_the_hosts_name_and_believed_if_it_ends_with_0(
        program: Program, tmp_path: Path) -> None:
    settings = program(f'echo "$@" >>{tmp_path}/said')
    assert fencing.confirm(settings, "b.example").endswith("fence confirms that b.example is off")
    fencing.confirm(settings, "root@c")
    assert (tmp_path / "said").read_text() == "off b.example\noff c\n"
    assert fencing.confirm(Settings(), "b.example") == ""


@pytest.mark.parametrize("text, host, why", [
    ("echo no answer from the controller >&2; exit 3", "b", "ended with 3: no answer from the con"),
    ("sleep 61319 & wait", "b", "did not end within 1 s and was killed"),
    ("exit 0", "", "its name is not recorded"),
    ("exit 0", "--help", "'--help' is no name of a host"),
    ("exit 0", "b; reboot", "'b; reboot' is no name of a host")])
def test_else_the_word_does_not_count(program: Program, text: str, host: str, why: str) -> None:
    with pytest.raises(errors.FenceFailed, match=why):
        fencing.confirm(program(text), host)
    assert not running("61319")


def test_what_it_leaves_behind_is_not_waited_for(program: Program) -> None:
    began = time.monotonic()
    assert fencing.confirm(program("sleep 3 & exit 0"), "b").endswith("b is off")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("text", [
    "setsid sleep 61320 & sleep 61320",
    "setsid sh -c 'sleep 61320 & exec sleep 61320' & exec sleep 61320",
    "(setsid sh -c 'trap : TERM HUP; (setsid sleep 61320 &); sleep 61320' &); exec sleep 61320",
    "env -i setsid setsid sleep 61320 & exec sleep 61320"])
def test_a_session_of_its_own_is_no_way_out(program: Program, text: str) -> None:
    with pytest.raises(errors.FenceFailed, match="did not end within 1 s and was killed"):
        fencing.confirm(program(text), "b")
    assert not running("61320")


def test_what_it_leaves_behind_goes_on_and_belongs_to_nobody_here(
        program: Program, tmp_path: Path) -> None:
    """A daemon that serves what was mapped has to."""
    settings = program(f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 61322' & "
                       f"while [ ! -s {tmp_path}/pid ]; do sleep 0.01; done")
    assert fencing.confirm(settings, "b").endswith("b is off")
    pid = int((tmp_path / "pid").read_text())
    above = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(pid, signal.SIGKILL)
    assert int(above) != os.getpid()


def test_it_inherits_no_file_and_no_word_of_the_environment(
        program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nonexistent")
    with open(tmp_path / "lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        fencing.confirm(program(f"env >{tmp_path}/env; ls -l /proc/$PPID/fd >{tmp_path}/fds"), "b")
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == {"PATH", "LC_ALL"}
    assert "/lock" not in (tmp_path / "fds").read_text()


def refuse_fifos() -> None:
    """A system call filter as a unit's, of this process: mknod(2) and mknodat(2) are EPERM."""
    code = [(0x20, 0, 0, 0),  # the number of the call; include/uapi/linux/filter.h
            (0x15, 1, 0, 133), (0x15, 0, 1, 259), (0x06, 0, 0, 0x00050000 | errno.EPERM),
            (0x06, 0, 0, 0x7fff0000)]
    lines = b"".join(struct.pack("=HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(lines)
    program = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP


def test_what_a_sandbox_refuses_is_said_to_be_of_the_sandbox(
        program: Program, tmp_path: Path) -> None:
    settings = program(f"mkfifo {tmp_path}/$1")
    assert fencing.confirm(settings, "b").endswith("b is off")
    late = Late("drbd", ("/dev/drbd*",), acquire=settings.fence_program, timeout=5)

    def said() -> list[str]:
        refuse_fifos()
        lines = []
        for run in (lambda: fencing.confirm(settings, "c"),
                    lambda: exclusive.run("acquire", late, "/dev/drbd1")):
            try:
                run()
            except errors.HandoverError as error:
                lines.append(str(error))
        return lines

    (tmp_path / "off").unlink()
    for line in forked(said):
        assert "ended with 1: mkfifo: " in line and "Operation not permitted" in line
        assert "; it runs in the sandbox of " in line and "SystemCallFilter=" in line
    if "Seccomp:\t0" in Path("/proc/self/status").read_text():  # as long as nobody confines us
        with pytest.raises(errors.FenceFailed) as caught:
            fencing.confirm(program("exit 1"), "b")
        assert "SystemCallFilter" not in str(caught.value)


def test_one_that_is_not_there_does_not_count(program: Program) -> None:
    settings = replace(program(""), fence_program=("/nonexistent/fence",))
    with pytest.raises(errors.FenceFailed, match="can't be run: No such file"):
        fencing.confirm(settings, "b")


ID = "00000000-0000-4000-8000-000000000000"


def recovery(settings: Settings, role: str, state: str, words: set[str], answers: str = "",
             boot: str = "another boot") -> tuple[Transition | None, str]:
    """(the row of recover that is taken on an operator's words, the journal after it).
    ``answers``: where the other host says that it is, before it says no more."""
    def peer(handover: Handover, verb: str) -> Reply:
        assert handover.peer == "b"
        if not answers or verb != "status":
            raise errors.PeerUnreachable("b does not answer")
        return Reply(replace(handover, role=DESTINATION, state=answers))

    journal = Journal.create(settings.state_directory, Handover(
        ID, role, "", 1, "iscsi", ("iscsi/iqn.2003-01.org.example:db",), peer="b"), {})
    journal.state(state, 1, boot)
    row = TransitionChooser(HostVerbs(settings), peer, journal, "recover", 1, (), frozenset(words),
                            False).recovery()
    return row, Path(journal.path).read_text()


def test_nobody_is_asked_while_qemu_waits_for_load(tmp_path: Path) -> None:
    """That takes a login by ssh, or as long as it takes to find that nobody answers; the source can
    not have released by then.  An activate of its own asks."""
    asked: list[str] = []

    def peer(_handover: Handover, verb: str) -> Reply:
        asked.append(verb)
        raise errors.PeerUnreachable("a does not answer")

    journal = Journal.create(str(tmp_path), Handover(
        ID, DESTINATION, "", 1, "vhost-inband", ("vhost/naa.5001405000000001",), peer="a"), {})
    journal.state("armed", 1, boot_id())
    run = TransitionChooser(HostVerbs(Settings(state_directory=str(tmp_path))), peer, journal,
                            "activate", 1, (), frozenset(), False)
    load, = (row for row in rows_for(DESTINATION, "staged", "activate", Mode.VHOST_INBAND))
    assert run.next_transition([load]) is None and not asked
    assert run.next_transition(()) is None and asked == ["status"]


def test_recover_believes_the_word_once_it_is_confirmed_and_notes_it(program: Program) -> None:
    row, told = recovery(program("exit 0"), SOURCE, "released", {"peer-is-fenced"})
    assert row and row.to == "forced" and row.forced
    assert "confirms that b is off" in told and '"record": "fenced"' in told


def test_without_confirmation_recover_stays(program: Program) -> None:
    with pytest.raises(errors.FenceFailed, match="ended with 1"):
        recovery(program("exit 1"), SOURCE, "released", {"peer-is-fenced"})


def test_without_a_program_the_word_counts_and_that_is_noted(tmp_path: Path) -> None:
    row, told = recovery(Settings(state_directory=str(tmp_path)), SOURCE, "released",
                         {"peer-is-fenced"})
    assert row and row.to == "forced" and "the word alone counts" in told


@pytest.mark.parametrize("role, state, words, answers", [
    (SOURCE, "released", set(), ""),  # nobody said it
    (SOURCE, "released", {"peer-is-fenced"}, "opening"),  # it answers, so it is not off
    (SOURCE, "released", {"peer-is-fenced"}, "armed"),  # the same, but it does not abort
    (DESTINATION, "armed", {"peer-is-fenced"}, ""),  # more would have to be said
    (SOURCE, "frozen", {"peer-is-fenced"}, "")])  # it is not needed
def test_no_host_is_fenced_for_nothing(program: Program, tmp_path: Path, role: str, state: str,
                                       words: set[str], answers: str) -> None:
    row, _told = recovery(program(f"touch {tmp_path}/ran"), role, state, words, answers)
    assert not (tmp_path / "ran").exists() and not (row and row.forced)

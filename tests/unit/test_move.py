"""A move between two hosts: what becomes of it where any step fails, and how hosts are reached."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.client import asking, ssh
from lio_handover.client.ssh import ServiceInfo
from lio_handover.document import document
from lio_handover.drivers import move
from lio_handover.drivers.move import COMMIT_STEP, STEP_NAMES, STEPS, Move
from lio_handover.handover.reply import Reply
from lio_handover.protocol.messages import Message, from_json
from lio_handover.protocol.table import (DESTINATION, SOURCE, TRANSITIONS, Action, MessageType,
                                         Mode, rows_for, state_of)
from lio_handover.records.journal import Handover
from tests.support import samples

TARGET = f"iscsi/{samples.IQN}"
ABOUT = ServiceInfo("1.0", 1, 1, ("descriptors", "uploads"), "a", "boot of a")
FIRST = {SOURCE: "idle", DESTINATION: "none"}


class Table(ssh.RemoteService):
    """A host that does what the protocol's table says, and breaks where it is told to.

    ``breaks``: verb and how often it was called → (the error, whether it was done before).
    ``silent``: from then on it does not answer.
    """

    def __init__(self, role: str, name: str, protocol: Mode = Mode.ISCSI) -> None:
        super().__init__()
        self.protocol = protocol
        self.role, self.name, self.where = role, name, name if role == DESTINATION else ""
        self.handover: Handover | None = None
        self.breaks: dict[tuple[str, int], tuple[errors.HandoverError, bool]] = {}
        self.silent = False
        self.called: list[str] = []
        self.said = replace(ABOUT, host=name, boot_id=f"boot of {name}")

    def about(self) -> ServiceInfo:
        return self.said

    @property
    def state(self) -> str:
        return self.handover.state if self.handover else FIRST[self.role]

    def verb(self, verb: str, handover: str, messages: bytes = b"",
             targets: Sequence[str] = (), mode: str = "", progress: Any = None,
             stop: Any = None, **options: Any) -> Reply:
        if self.silent:
            raise errors.PeerUnreachable(f"{self.name} does not answer")
        if verb == "status":
            if self.handover is None:
                raise errors.NoSuchHandover("never heard of it")
            return self._repeated()
        if stop and stop():
            raise errors.Interrupted("cancelled")
        self.called.append(verb)
        error, done = self.breaks.get((verb, self.called.count(verb)), (None, True))
        answer = self._carry_out(verb, handover, messages) if done else None
        if error:
            self.silent = self.silent or isinstance(error, errors.PeerUnreachable)
            raise error
        assert answer
        return answer

    def _repeated(self) -> Reply:
        """The messages of the state, as status has them."""
        assert self.handover
        gives = state_of(self.role, self.state, self.protocol).messages
        return Reply(self.handover, tuple(
            Message(message, self.handover.id, 1, targets=(TARGET,), mode=self.protocol.value)
            for message in gives if message is not MessageType.ABORTED))

    def _carry_out(self, verb: str, handover: str, messages: bytes) -> Reply:
        given = {one.type for one in from_json(messages)} if messages else set()
        rows = [row for row in rows_for(self.role, self.state, verb, self.protocol)
                if row.messages <= given]
        if not rows and self.handover and any(
                row.to == self.state for row in TRANSITIONS
                if (row.role, row.verb) == (self.role, verb)):
            return Reply(self.handover)
        if not rows:
            raise errors.WrongState(f"the {self.role} is {self.state}: no {verb}")
        rows.sort(key=lambda row: -len(row.messages))
        said = []
        for step in rows[0].steps:
            if step.action is Action.RECORD:
                self.handover = Handover(handover, self.role, step.state, 1,
                                         self.protocol.value, (TARGET,))
            elif step.message:
                said.append(Message(step.message, handover, 1, targets=(TARGET,),
                                    mode=self.protocol.value,
                                    document=document.dumps(samples.document(
                                        samples.iscsi(), True))
                                    if step.message in (
                                        MessageType.OFFER, MessageType.DOCUMENT) else b""))
        assert self.handover
        return Reply(self.handover, tuple(said))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> tuple[Table, Table]:
    monkeypatch.setattr(move, "RETRY_SECONDS", 0)
    return Table(SOURCE, "a"), Table(DESTINATION, "b")


def test_a_move_goes_through_in_the_protocols_order(two: tuple[Table, Table]) -> None:
    a, b = two
    told: list[str] = []
    made = Move(a, b, told.append)
    made.run([TARGET])
    assert (a.state, b.state) == ("retired", "confirmed")
    assert list(made.seconds) == STEP_NAMES
    assert "1 target" in made.contents and "registration" in made.contents
    assert told[0].startswith("1/10 prepare on a: ")
    assert 0 < made.window <= sum(made.seconds.values())


LOST = errors.PeerUnreachable("the line is gone", "whether anything was changed is not known")
REFUSED = errors.StorageMissing("/srv/x is not here", do="name it with --map")


def calls(step: move.Step) -> tuple[str, int]:
    """(verb, the how manieth call of it) that a step is."""
    same = [one for one in STEPS if (one.role, one.verb) == (step.role, step.verb)]
    return step.verb, same.index(step) + 1


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("error", [LOST, REFUSED])
@pytest.mark.parametrize("name", STEP_NAMES)
def test_what_fails_is_taken_back_or_says_where_both_hosts_are(
        two: tuple[Table, Table], name: str, error: errors.HandoverError, done: bool) -> None:
    a, b = two
    step = STEPS[STEP_NAMES.index(name)]
    side = a if step.role == SOURCE else b
    one = type(error)(error.what, do=error.do)
    side.breaks[calls(step)] = (one, done)
    made = Move(a, b)
    with pytest.raises(type(error)) as raised:
        made.run([TARGET])
    line, recover = str(raised.value), f"lio-handover recover {made.id}"
    released = "released" in (a.state,) or a.state in ("retiring", "retired")
    if a.silent and name != "prepare":
        assert recover in raised.value.do
    elif released:
        assert f"a, is {a.state}" in line
        assert "b, does not answer" in line if b.silent else f"b, is {b.state}" in line
        assert f"lio-handover move --resume {made.id} --to b" in line
        assert b.silent == (f"if it is lost: {recover}" in line)
        assert "abort" not in b.called and "thaw" not in a.called
        # and that leads on
        side.silent, side.breaks = False, {}
        again = Move(a, b, id=made.id)
        again.resume()
        assert (a.state, b.state) == ("retired", "confirmed")
        assert again.targets == (TARGET,)
    elif a.handover is None and not a.silent:
        assert b.called == []
    elif not a.silent:
        assert a.state == "idle" and "a serves on as before" in line
        if b.silent:
            assert f"on b: {recover}" in line
        else:
            assert b.state == "none" and f"lio-handover recover {made.id}" not in line
    if error is REFUSED:
        assert line.startswith("b says: /srv/x" if side is b else "/srv/x")


def test_only_what_was_released_is_gone_on_with(two: tuple[Table, Table]) -> None:
    a, b = two
    made = Move(a, b)
    b.breaks["activate", 1] = (REFUSED, True)
    with pytest.raises(errors.StorageMissing):
        made.run([TARGET])
    assert (a.state, b.state) == ("idle", "none")
    with pytest.raises(errors.WrongState, match="a is idle, b is none: .* recover .*both hosts"):
        made.resume()
    assert (a.state, b.state) == ("idle", "none")


def test_a_line_that_is_back_is_used_again_once_the_source_has_released(
        two: tuple[Table, Table]) -> None:
    a, b = two

    class Flaky(errors.PeerUnreachable):
        """Lost only once."""

    b.breaks["activate", 2] = (Flaky("gone"), True)
    plain = b.verb

    def verb(*args: Any, **more: Any) -> Reply:
        b.silent = False
        return plain(*args, **more)

    b.verb = verb  # type: ignore[method-assign]
    Move(a, b).run([TARGET])
    assert (a.state, b.state) == ("retired", "confirmed")
    assert b.called.count("activate") == 3


@pytest.mark.parametrize("number", range(len(STEP_NAMES)))
def test_an_interrupt_takes_back_what_can_be_and_else_lets_it_finish(
        two: tuple[Table, Table], number: int) -> None:
    a, b = two
    made = Move(a, b)
    made.stop = lambda: len(made.seconds) >= number
    if number <= COMMIT_STEP:
        with pytest.raises(errors.Interrupted):
            made.run([TARGET])
        assert (a.state, b.state) == ("idle", "none")
    else:
        made.run([TARGET])
        assert (a.state, b.state) == ("retired", "confirmed")


@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_verb_that_its_host_interrupts_is_no_interrupt_of_the_move(
        two: tuple[Table, Table], name: str) -> None:
    """A service that stops does that.  Before the commit all is taken back, and nobody is said to
    have cancelled the move; from there on the verb is said once more."""
    a, b = two
    step = STEPS[STEP_NAMES.index(name)]
    side = a if step.role == SOURCE else b
    side.breaks[calls(step)] = (errors.Interrupted("interrupted"), False)
    made = Move(a, b)
    if STEP_NAMES.index(name) >= COMMIT_STEP:
        made.run([TARGET])
        assert (a.state, b.state) == ("retired", "confirmed")
        return
    with pytest.raises(errors.PeerUnreachable) as raised:
        made.run([TARGET])
    line = str(raised.value)
    assert f"{step.verb} was ended on {side.name}: its lio-handoverd stops, or somebody" in line
    assert name == "prepare" or "a serves on as before" in line
    assert line.endswith(f"next: journalctl -u lio-handoverd, on {side.name}")
    assert (a.state, b.state) == ("idle", "none")


@pytest.mark.parametrize("here, there, common", [
    ((1, 1), (1, 1), 1), ((2, 2), (1, 1), 1), ((1, 1), (2, 2), 1), ((2, 3), (3, 2), 2),
    ((1, 1), (3, 1), None), ((1, 3), (1, 1), None), ((3, 1), (1, 1), None)])
def test_neighbouring_versions_work_together_and_no_others(
        two: tuple[Table, Table], here: tuple[int, int], there: tuple[int, int],
        common: int | None) -> None:
    a, b = two
    a.said = replace(a.said, api=here[0], document=here[1])
    b.said = replace(b.said, api=there[0], document=there[1])
    if common is None:
        with pytest.raises(errors.VersionsDiffer, match="a has version .* b version .*1.0"):
            Move(a, b).run([TARGET])
        assert a.called == b.called == []
    else:
        assert move.agree(a.said, b.said) == common
        Move(a, b).run([TARGET])


def test_the_newer_side_is_told_to_write_as_the_older_reads(
        two: tuple[Table, Table], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two
    b.said = replace(b.said, api=2, document=2)
    given: list[tuple[str, Any]] = []
    for side in two:
        def verb(*args: Any, _side: Table = side, **options: Any) -> Reply:
            given.append((_side.name, options.get("document-version")))
            return Table.verb(_side, *args, **options)
        monkeypatch.setattr(side, "verb", verb)
    Move(a, b).run([TARGET])
    assert set(given) == {("a", None), ("b", 1)}


def test_what_this_driver_can_not_move_is_refused_before_anything_is_asked(
        two: tuple[Table, Table]) -> None:
    a, b = two
    for targets, mode in (([TARGET], "vhost-qmp"), (["vhost/naa.6001405000000001"], "iscsi")):
        with pytest.raises(errors.WrongState, match="QEMU"):
            Move(a, b).run(targets, mode)
    b.said = replace(b.said, boot_id=a.said.boot_id)
    with pytest.raises(errors.BadCall, match="one host"):
        Move(a, b).run([TARGET])
    assert a.called == b.called == []


# ── how a host is reached ────────────────────────────────────────────────────────────────────

def test_a_host_is_an_argument_of_ssh_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ssh by its full path, which knows of this process's environment what it needs."""
    for name in {*os.environ} - {"HOME"}:
        monkeypatch.delenv(name)
    for name, value in (("HOME", "/root"), ("PATH", "/tmp"), ("LD_PRELOAD", "/tmp/x.so"),
                        ("SHELL", "/tmp/sh"), ("SSH_AUTH_SOCK", "/run/a=b")):
        monkeypatch.setenv(name, value)
    assert ssh.address("root@b.example") == (
        "unixexec:path=/usr/bin/env,argv1=-i,argv2=HOME%3d/root,"
        "argv3=SSH_AUTH_SOCK%3d/run/a%3db,argv4=PATH%3d/usr/sbin%3a/usr/bin%3a/sbin%3a/bin,"
        "argv5=/usr/bin/ssh,argv6=-axT,argv7=-o,argv8=ConnectTimeout%3d10,argv9=-o,"
        "argv10=ServerAliveInterval%3d5,argv11=-o,argv12=ServerAliveCountMax%3d2,argv13=--,"
        "argv14=root%40b.example,argv15=systemd-stdio-bridge")
    assert ",argv14=fe80%3a%3a1%25eth0," in ssh.address("fe80::1%eth0")
    for bad in ("", "-oProxyCommand=x", "root@-x", "a b", "a\nb", "a;b", "$(x)",
                "a,argv1=x", "unix:path=/run/x/bus", "unixexec:path=/bin/sh", "unix:path=/x,guid=1",
                "unix:tmpdir=/x", "a'b"):
        with pytest.raises(errors.BadCall):
            ssh.address(bad)


def test_a_bus_of_this_machine_is_a_peer_in_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by anything that a caller, a journal or a file of settings gives: whoever starts the
    process says so, in its environment."""
    with pytest.raises(errors.BadCall, match="is no host for ssh"):
        ssh.RemoteService("unix:path=/run/x/bus")
    handover = Handover("x", SOURCE, "released", 1, "iscsi", (TARGET,), peer="unix:path=/run/x/bus")
    with pytest.raises(errors.PeerUnreachable):
        asking.ask(handover, "status")
    monkeypatch.setenv(ssh.TEST_BUSES, "1")
    assert ssh.address("unix:path=/run/x/bus") == "unix:path=/run/x/bus"


def test_a_host_that_is_not_there_is_unreachable_in_one_line(
        monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dbus")
    monkeypatch.setenv(ssh.TEST_BUSES, "1")
    side = ssh.RemoteService("unix:path=/nonexistent/bus")
    with pytest.raises(errors.PeerUnreachable, match="^unix:path=/nonexistent/bus does not answer"):
        side.about()
    handover = Handover("x", SOURCE, "released", 1, "iscsi", (TARGET,), peer="-oProxyCommand=x")
    for peer in ("-oProxyCommand=x", "unixexec:path=/bin/sh", "", "unix:path=/nonexistent/bus"):
        with pytest.raises(errors.PeerUnreachable):
            asking.ask(replace(handover, peer=peer), "status")

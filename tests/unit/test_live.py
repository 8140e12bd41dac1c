"""A move with its guest: what both QEMUs are asked, and what becomes of it where a step fails.

The hosts do what the protocol's table says (test_move.py), the QEMUs are scripts that speak QMP.
"""
from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.drivers import live, move
from lio_handover.drivers.live import STEPS, LiveMove
from lio_handover.protocol.table import DESTINATION, SOURCE, Mode
from tests.unit.test_move import LOST, Table

pytest.importorskip("qemu.qmp")

TARGET = "vhost/naa.6001405000000001"
HOST, PATH = "unix:path=/run/bus", "/run/vm.qmp"


@dataclass
class Qemu:
    """A QEMU's monitor.  ``fails``: command → QEMU's words, or "" to hang up."""

    path: Path
    status: str
    migration: str = "none"
    fails: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    peer: Qemu | None = None
    blocked: list[str] = field(default_factory=list)
    listens: tuple[str, ...] = ("0.0.0.0", "::")
    line: asyncio.StreamWriter | None = None

    def become(self, migration: str, status: str = "") -> None:
        self.migration, self.status = migration, status or self.status
        self.tell("MIGRATION", {"status": migration})

    def tell(self, event: str, data: dict[str, Any]) -> None:
        if self.line:
            self.write({"event": event, "data": data,
                        "timestamp": {"seconds": 0, "microseconds": 0}})

    def write(self, tree: object) -> None:
        assert self.line
        self.line.write(json.dumps(tree).encode() + b"\r\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.line = writer
        self.write({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22},
                                        "package": ""}, "capabilities": ["oob"]}})
        said, decoder = "", json.JSONDecoder()
        while True:
            try:  # no line: the library ends its messages with nothing, as QEMU's parser allows
                asked, end = decoder.raw_decode(said)
            except ValueError:
                more = await reader.read(4096)
                if not more:
                    break
                said += more.decode()
                continue
            said, command = said[end:].lstrip(), asked["execute"]
            if not command.startswith(("query-", "qmp_")):
                self.asked.append(command)
            self.arguments[command] = asked.get("arguments", {})
            number = {"id": asked["id"]} if "id" in asked else {}
            if self.fails.get(command) == "":
                break
            if command in self.fails:
                self.write({**number, "error": {"class": "GenericError",
                                                "desc": self.fails[command]}})
                continue
            self.write({**number, "return": self.answer(command)})
        self.line = None
        writer.close()

    def answer(self, command: str) -> object:
        """What it returns; what the command does is done."""
        if command == "query-status":
            return {"status": self.status, "running": self.status == "running"}
        if command == "query-migrate":
            return self.about_migration()
        if command == "migrate":
            self.become("active")
        elif command == "migrate-continue":
            assert self.peer
            self.peer.become("completed", "paused")
            self.become("completed", "postmigrate")
        elif command == "migrate_cancel" and self.migration not in ("none", "completed", "failed"):
            self.become("cancelled", "running")
        elif command == "cont":
            self.status = "running"
            self.tell("RESUME", {})
        return {}

    def about_migration(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"blocked-reasons": self.blocked} if self.blocked else {}
        if self.migration == "none":
            return {**tree, "socket-address": [
                {"type": "inet", "host": host, "port": "4711"} for host in self.listens]}
        tree["status"] = self.migration
        if self.migration == "active":
            tree |= {"ram": {"remaining": 5 << 20, "total": 128 << 20}, "expected-downtime": 300}
            self.become("pre-switchover", "finish-migrate")
        return tree


class Host(Table):
    """A host in mode vhost-qmp, which believes who says that the guest has left."""

    def __init__(self, role: str, name: str) -> None:
        super().__init__(role, name, Mode.VHOST_QMP)

    def verb(self, verb: str, *args: Any, **more: Any) -> Any:
        if verb == "release" and not more.get("guest-left"):
            raise errors.WrongState("release needs that the migration has completed")
        return super().verb(verb, *args, **more)


@dataclass
class Two:
    """Both hosts and both QEMUs, and a move between them."""

    a: Table
    b: Table
    qemu: dict[str, Qemu]
    told: list[str] = field(default_factory=list)

    def driver(self, **more: Any) -> LiveMove:
        return LiveMove(self.a, self.b, self.told.append, guest=str(self.qemu[SOURCE].path),
                        guest_there=str(self.qemu[DESTINATION].path), **more)

    def run(self, targets: list[str], mode: str = Mode.VHOST_QMP.value) -> None:
        with closing(self.driver()) as made:
            made.run(targets, mode)

    def fails(self, step: move.Step) -> None:
        """Have a step fail."""
        if not step.qmp:
            side = self.a if step.role == SOURCE else self.b
            same = [one for one in STEPS if (one.role, one.verb) == (step.role, step.verb)]
            side.breaks[step.verb, same.index(step) + 1] = (
                errors.KernelRefused("the kernel refuses"), False)
        elif step.name in FAILS:
            self.qemu[step.role].fails.update(FAILS[step.name])
        else:
            setattr(self.qemu[step.role], "answer", self.ends_there(step))

    def ends_there(self, step: move.Step) -> Any:
        """A migration that fails where this step waits for it."""
        qemu, other = self.qemu[step.role], self.qemu[SOURCE]
        was = type(qemu).answer

        def answer(command: str) -> object:
            if command == "query-migrate" and qemu.migration in ("active", "completed"):
                qemu.become("failed")
                other.status = "running" if other is qemu else other.status
            return was(qemu, command)
        return answer


#: What a QEMU answers to what, where a step fails.
FAILS = {"look": {"query-status": ""}, "waits": {"query-status": ""},
         "listen": {"migrate-incoming": "Address already in use"},
         "migrate": {"migrate": "State blocked"},
         "continue": {"migrate-continue": "not now"}, "cont": {"cont": ""}}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    monkeypatch.setattr(move, "RETRY_SECONDS", 0)
    monkeypatch.setattr(live, "OFTEN", 0.01)
    source, destination = (Qemu(tmp_path / "a", "running"), Qemu(tmp_path / "b", "inmigrate"))
    source.peer = destination
    a, b = (Host(role, name) for role, name in ((SOURCE, "a"), (DESTINATION, "b")))
    b.where = HOST
    listening, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        for qemu in (source, destination):
            await asyncio.start_unix_server(qemu.serve, str(qemu.path))
        loop.append(asyncio.get_running_loop())
        listening.set()
        await over.wait()

    loop: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert listening.wait(30)
    yield Two(a, b, {SOURCE: source, DESTINATION: destination})
    loop[0].call_soon_threadsafe(over.set)
    thread.join()
    gc.collect()  # now: Python 3.11.2 fails where it collects coroutines while it compiles


def test_a_guest_moves_in_the_protocols_order(two: Two) -> None:
    made = two.driver()
    with closing(made):
        made.run([TARGET])
    source, destination = two.qemu[SOURCE], two.qemu[DESTINATION]
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert (source.status, destination.status) == ("postmigrate", "running")
    assert source.asked == ["migrate-set-capabilities", "migrate", "migrate-continue"]
    assert destination.asked == ["migrate-set-capabilities", "migrate-incoming", "cont"]
    assert destination.arguments["migrate-incoming"] == {"uri": "tcp:0.0.0.0:0"}
    assert source.arguments["migrate"] == {"uri": "tcp:127.0.0.1:4711"}
    switched = {one["capability"] for one in source.arguments["migrate-set-capabilities"][
        "capabilities"] if one["state"]}
    assert switched == {"events", "return-path", "pause-before-switchover"}
    assert list(made.seconds) == [step.name for step in STEPS]
    assert "the guest stood still for " in made.cost()
    assert any("5 of 128 MiB of RAM left, 300 ms of downtime expected" in line
               for line in two.told)


def test_monitors_may_be_sockets_that_somebody_has_connected(two: Two) -> None:
    """As the service is handed them; and the command that goes on says that it needs monitors."""
    sockets = []
    for role in (SOURCE, DESTINATION):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].connect(str(two.qemu[role].path))
    two.qemu[DESTINATION].fails.update(FAILS["cont"])
    made = LiveMove(two.a, two.b, guest=sockets[0], guest_there=sockets[1])
    with pytest.raises(errors.HandoverError) as raised:
        with closing(made):
            made.run([TARGET])
    assert f"--resume {made.id} --to {HOST} --guest SOCKET --guest-there SOCKET" in str(
        raised.value)
    assert two.qemu[SOURCE].status == "postmigrate"
    assert [one.fileno() for one in sockets] == [-1, -1]


@pytest.mark.parametrize("step", STEPS, ids=[step.name for step in STEPS])
def test_what_fails_is_taken_back_and_the_guest_runs_or_it_says_how_to_go_on(
        two: Two, step: move.Step) -> None:
    two.fails(step)
    made = two.driver()
    with pytest.raises(errors.HandoverError) as raised:
        with closing(made):
            made.run([TARGET])
    line, number = str(raised.value), made.number(step.name)
    source, destination = two.qemu[SOURCE], two.qemu[DESTINATION]
    if number <= made.commit:
        assert (two.a.state, two.b.state) == ("idle", "none")
        assert source.status == "running" and destination.status != "running"
        assert source.migration in ("none", "cancelled", "failed", "completed")
        begun = number >= made.number("migrate")
        assert ("migrate_cancel" in source.asked) == (begun and step.name != "release")
        assert ("cont" in source.asked) == (step.name in ("came", "release"))
        assert ("its guest runs" in line) == begun
        assert ("quit" in destination.asked) == (number >= made.number("listen"))
        return
    assert "migrate_cancel" not in source.asked and source.status == "postmigrate"
    assert f"lio-handover move --resume {made.id} --to {HOST} --guest {source.path} " \
        f"--guest-there {destination.path}" in line
    # and that leads on
    two.a.breaks, two.b.breaks, destination.fails = {}, {}, {}
    again = two.driver(id=made.id)
    with closing(again):
        again.resume()
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert destination.status == "running"


def test_a_step_that_hangs_is_given_up_and_taken_back(
        two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveMove, "steps", tuple(
        step._replace(deadline=0.0001) if step.name == "copy" else step for step in STEPS))
    monkeypatch.setattr(Qemu, "about_migration", lambda self: {"status": self.migration}
                        if self.migration != "none" else {"socket-address": [{"port": "1"}]})
    made = two.driver()
    with pytest.raises(errors.Interrupted, match="pre-switchover on a took longer than its 0.0001"):
        with closing(made):
            made.run([TARGET])
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert two.qemu[SOURCE].migration == "cancelled"


def test_an_answer_that_nobody_knows_is_taken_back_like_an_error(two: Two) -> None:
    two.qemu[DESTINATION].listens = ()
    with pytest.raises(errors.GuestFailed, match="answers migrate-incoming with something unknown"):
        two.run([TARGET])
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert two.qemu[SOURCE].status == "running"


def test_a_service_that_is_lost_before_the_commit_leaves_the_guest_running(two: Two) -> None:
    two.a.breaks["freeze", 1] = (type(LOST)(LOST.what), False)
    made = two.driver()
    with pytest.raises(errors.PeerUnreachable) as raised:
        with closing(made):
            made.run([TARGET])
    assert two.qemu[SOURCE].status == "running" and two.qemu[SOURCE].migration == "cancelled"
    assert f"lio-handover recover {made.id}" in str(raised.value)


def test_what_can_not_be_moved_with_a_guest_is_refused_before_anything_is_done(two: Two) -> None:
    source, destination = two.qemu[SOURCE], two.qemu[DESTINATION]
    for targets, mode in ((["iscsi/iqn.2003-01.org.example:db"], "vhost-qmp"),
                          ([TARGET], "vhost-stopped")):
        with pytest.raises(errors.WrongState, match="only vhost targets move"):
            two.run(targets, mode)
    source.blocked = ["vhost-scsi does not support migration in all cases"]
    with pytest.raises(errors.GuestFailed, match="can't be migrated: vhost-scsi does not"):
        two.run([TARGET])
    source.blocked, destination.status = [], "running"
    with pytest.raises(errors.GuestFailed, match="does not wait for a guest: it is running"):
        two.run([TARGET])
    source.status = "paused"
    with pytest.raises(errors.GuestFailed, match="does not run a guest: it is paused"):
        two.run([TARGET])
    source.path.unlink()
    with pytest.raises(errors.GuestFailed, match="nobody greets"):
        two.run([TARGET])
    assert two.a.called == two.b.called == source.asked == destination.asked == []

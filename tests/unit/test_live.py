"""A move with its guest: what both QEMUs are asked, and what becomes of it where a step fails.

The hosts do what the protocol's table says (test_move.py), the QEMUs are scripts that speak QMP.
"""
from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.cli import main
from lio_handover.client import ssh
from lio_handover.drivers import guest as guests, live, move, moves
from lio_handover.drivers.guest import Monitors
from lio_handover.drivers.live import LiveMove
from lio_handover.drivers.live_steps import ROWS
from lio_handover.handover.reply import Reply
from lio_handover.protocol.messages import NEVER_RAN, from_json
from lio_handover.protocol.table import DESTINATION, SOURCE, Mode
from lio_handover.verb_table import OPTIONS
from tests.unit.test_move import LOST, Table

pytest.importorskip("qemu.qmp")

WWPNS = ("naa.6001405000000001", "naa.6001405000000002")
TARGET = f"vhost/{WWPNS[0]}"
ISCSI = "iscsi/iqn.2003-01.org.example:db"
HOST = "unix:path=/run/bus"
DISK = {"migratable": True, "boot_tpgt": 1, "num_queues": 4, "virtqueue_size": 128}
STEPS = [pytest.param(mode, step, id=f"{mode.value}-{step.name}")
         for mode, steps in ROWS.items() for step in steps]


@pytest.fixture(autouse=True)
def bus_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST is taken for a host, as in tests alone."""
    monkeypatch.setenv(ssh.TEST_BUSES, "1")


@dataclass
class Qemu:
    """A QEMU's monitor.  ``fails``: command → QEMU's words, or "" to end; ``gone``: it has."""

    path: Path
    status: str
    wwpn: str
    thread: int
    migration: str = "none"
    gone: bool = False
    fails: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    peer: Qemu | None = None
    blocked: list[str] = field(default_factory=list)
    listens: tuple[str, ...] = ("0.0.0.0", "::")
    line: asyncio.StreamWriter | None = None
    machine: str = "pc-i440fx-7.2-machine"
    cpus: int = 1
    memory: int = 128 << 20
    bandwidth: int = 1 << 20
    disk: dict[str, Any] = field(default_factory=lambda: dict(DISK))
    others: list[str] = field(default_factory=lambda: ["virtio-rng-pci"])
    vmstates: dict[str, str] = field(default_factory=dict)
    capabilities: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(
        ("events", "return-path", "pause-before-switchover", "postcopy-ram", "multifd"), False))
    #: `query-migrate` says no more than "active" so many times
    slow: int = 0
    #: it says "completed" so many times before it knows how long that took, as QEMU 7.2 does
    unsettled: int = 2
    #: it says "finish-migrate" so many times more before the guest runs again
    leaving: int = 0
    downtime: int = 300
    mode: str = ""      # 7.2 has none

    def put(self, **values: Any) -> Qemu:
        """With other attributes."""
        for name, value in values.items():
            setattr(self, name, value)
        return self

    def other(self, **disk: Any) -> Qemu:
        """With other properties of its disk."""
        self.disk |= disk
        return self

    def become(self, migration: str, status: str = "") -> None:
        before, self.migration, self.status = self.status, migration, status or self.status
        if before == "running" != self.status:
            self.tell("STOP", {})
        self.tell("MIGRATION", {"status": migration})

    def tell(self, event: str, data: dict[str, Any]) -> None:
        if self.line:
            self.write({"event": event, "data": data,
                        "timestamp": {"seconds": 0, "microseconds": 0}})

    def write(self, tree: object) -> None:
        assert self.line
        self.line.write(json.dumps(tree).encode() + b"\r\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.gone:
            writer.close()
            return
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
            if not command.startswith(("query-", "qmp_", "qom-")):
                self.asked.append(command)
            self.arguments[command] = asked.get("arguments", {})
            number = {"id": asked["id"]} if "id" in asked else {}
            if self.gone or self.fails.get(command) == "":
                self.gone = True
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
        if command.startswith(("query-", "qom-")):
            return self.about(command, self.arguments[command])
        if command == "migrate":
            self.become("active")
        elif command == "migrate-continue":
            self.all_sent()
        elif command == "migrate_cancel" and self.migration not in ("none", "completed", "failed"):
            self.leaving = 2 if self.status == "finish-migrate" else 0
            self.become("cancelled", "running" if self.leaving else "")
        elif command == "stop" and self.status == "running":
            self.become(self.migration, "paused")
        elif command == "cont":
            self.status = "running"
            self.tell("RESUME", {})
        elif command == "quit":
            self.gone = True
        elif command == "migrate-set-parameters":
            self.downtime = self.arguments[command]["downtime-limit"]
        return {}

    def all_sent(self) -> None:
        assert self.peer
        self.peer.become("completed", "paused")
        self.become("completed", "postmigrate")

    def about(self, command: str, given: dict[str, Any]) -> object:
        """Questions that change nothing."""
        if command == "query-status":
            if self.leaving:
                self.leaving -= 1
                return {"status": "finish-migrate", "running": False}
            return {"status": self.status, "running": self.status == "running"}
        if command == "query-migrate":
            return self.about_migration()
        if command in ("qom-list", "qom-get"):
            return self.about_object(**given)
        return {"query-cpus-fast": [{"thread-id": self.thread + cpu, "qom-path": "/cpu"}
                                    for cpu in range(self.cpus)],
                "query-target": {"arch": "x86_64"},
                "query-memory-size-summary": {"base-memory": self.memory},
                "query-migrate-parameters": {"max-bandwidth": self.bandwidth,
                                             "downtime-limit": self.downtime,
                                             **({"mode": self.mode} if self.mode else {})},
                "query-migrate-capabilities": [
                    {"capability": name, "state": state}
                    for name, state in self.capabilities.items()]}[command]

    def about_object(self, path: str, property: str = "") -> object:  # noqa: A002
        objects: dict[str, dict[str, Any]] = {
            "/machine": {"type": self.machine}, "/cpu": {"type": "qemu64-x86_64-cpu"},
            "/machine/peripheral/disk": {"wwpn": self.wwpn, **self.disk},
            **{f"/objects/{name}": {"id-list": ids} for name, ids in self.vmstates.items()}}
        if property:
            return objects[path][property]
        if path in objects:
            return [{"name": name, "type": "str"} for name in objects[path]]
        kinds = {"/machine/peripheral": {"disk": "vhost-scsi-pci"},
                 "/machine/peripheral-anon": {
                     f"device[{number}]": kind for number, kind in enumerate(self.others)},
                 "/objects": {"pc.ram": "memory-backend-ram",
                              **dict.fromkeys(self.vmstates, "dbus-vmstate")}}[path]
        return [{"name": "type", "type": "string"},
                *({"name": name, "type": f"child<{kind}>"} for name, kind in kinds.items())]

    def about_migration(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"blocked-reasons": self.blocked} if self.blocked else {}
        if self.migration == "none":
            return {**tree, **({} if self.status != "inmigrate" else {"socket-address": [
                {"type": "inet", "host": host, "port": "4711"} for host in self.listens]})}
        tree["status"] = self.migration
        if self.migration == "active":
            tree |= {"ram": {"remaining": 5 << 20, "total": 128 << 20,
                             "dirty-sync-count": 1 if self.slow else 2}, "expected-downtime": 300}
            if self.slow:
                self.slow -= 1
            elif not self.downtime:
                pass
            elif self.status == "paused":
                self.all_sent()
            else:
                self.become("pre-switchover", "finish-migrate")
        elif self.migration == "completed":
            settled = not self.unsettled
            self.unsettled -= not settled
            tree |= {"ram": {"transferred": 7 << 20, "remaining": 0, "total": 128 << 20},
                     "downtime": 321 * settled, "total-time": 4321 * settled}
        return tree


class Host(Table):
    """A host in one of the modes with guests, which believes who says that the guest has left."""

    notes: tuple[str, ...] = ()

    def verb(self, verb: str, *args: Any, **more: Any) -> Any:
        if verb == "release" and not more.get("guest-left"):
            raise errors.WrongState("release needs that the migration has completed")
        if verb == "prepare":
            self.protocol = Mode(more["mode"])
        elif verb == "stage":
            self.protocol = Mode(from_json(args[1])[0].mode)
        answer: Reply = super().verb(verb, *args, **more)
        if verb == "abort":
            return Reply(answer.handover, answer.messages, self.notes)
        return answer


@dataclass
class Two:
    """Both hosts, the QEMUs of each guest there, and a move between them."""

    a: Host
    b: Host
    guests: list[dict[str, Qemu]]
    told: list[str] = field(default_factory=list)
    mode: Mode = Mode.VHOST_QMP

    @property
    def qemu(self) -> dict[str, Qemu]:
        return self.guests[0]

    def all(self, role: str) -> list[Qemu]:
        return [pair[role] for pair in self.guests]

    def driver(self, **more: Any) -> LiveMove:
        return LiveMove(self.a, self.b, self.told.append, guests=tuple(
            Monitors(*(str(pair[role].path) for role in (SOURCE, DESTINATION)))
            for pair in self.guests), **more)

    def run(self, targets: list[str] | None = None, mode: str = "", **more: Any) -> None:
        driver = self.driver(**{name: more.pop(name) for name in ("limits",) if name in more})
        with closing(driver):
            driver.run(targets or self.targets, mode or self.mode.value, **more)

    @property
    def targets(self) -> list[str]:
        return [f"vhost/{pair[SOURCE].wwpn}" for pair in self.guests]

    def fails(self, step: move.Step) -> None:
        """Have a step fail, with the last guest."""
        qemu = self.guests[-1][step.role]
        if not step.qmp:
            side = self.a if step.role == SOURCE else self.b
            same = [row for row in ROWS[self.mode] if (row.role, row.verb) == (
                step.role, step.verb)]
            side.breaks[step.verb, same.index(step) + 1] = (
                errors.KernelRefused("the kernel refuses"), False)
        elif step.name in FAILS:
            qemu.fails.update(FAILS[step.name])
        else:
            qemu.put(answer=self.ends_there(qemu, self.guests[-1][SOURCE]))

    def ends_there(self, qemu: Qemu, source: Qemu) -> Any:
        """A migration that fails where this step waits for it: it runs again by itself."""
        was = type(qemu).answer

        def answer(command: str) -> object:
            if command == "query-migrate" and qemu.migration in ("active", "completed"):
                qemu.become("failed")
                if source is qemu and source.status != "paused":
                    source.status = "running"
            return was(qemu, command)
        return answer


#: What a QEMU answers to what, where a step fails.
FAILS = {"look": {"query-status": ""}, "listen": {"migrate-incoming": "Address already in use"},
         "migrate": {"migrate": "State blocked"}, "stop": {"stop": "not now"},
         "continue": {"migrate-continue": "not now"}, "cont": {"cont": ""}}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Two]]:
    """Two hosts with so many guests."""
    monkeypatch.setattr(move, "RETRY_SECONDS", 0)
    monkeypatch.setattr(guests, "OFTEN", 0.01)
    monkeypatch.setattr(live, "AGAIN", 0.01)
    threads: list[threading.Thread] = []
    ends: list[Callable[[], object]] = []

    def of(number: int) -> Two:
        pairs = [{SOURCE: Qemu(tmp_path / f"a{at}", "running", WWPNS[at], 100 + 10 * at),
                  DESTINATION: Qemu(tmp_path / f"b{at}", "inmigrate", WWPNS[at], 200 + 10 * at)}
                 for at in range(number)]
        listening, over = threading.Event(), asyncio.Event()

        async def serve() -> None:
            for pair in pairs:
                pair[SOURCE].peer = pair[DESTINATION]
                for qemu in pair.values():
                    await asyncio.start_unix_server(qemu.serve, str(qemu.path))
            loop = asyncio.get_running_loop()
            ends.append(lambda: loop.call_soon_threadsafe(over.set))
            listening.set()
            await over.wait()

        threads.append(threading.Thread(target=asyncio.run, args=(serve(),)))
        threads[-1].start()
        assert listening.wait(30)
        a, b = (Host(role, name) for role, name in ((SOURCE, "a"), (DESTINATION, "b")))
        b.where = HOST
        return Two(a, b, pairs)

    yield of
    for end, thread in zip(ends, threads):
        end()
        thread.join()
    gc.collect()  # now: Python 3.11.2 fails where it collects coroutines while it compiles


@pytest.fixture
def two(start: Callable[[int], Two]) -> Two:
    """Two hosts and a guest."""
    return start(1)


# ---- a move ------------------------------------------------------------------------------------
def test_a_guest_moves_in_the_protocols_order(two: Two) -> None:
    made = two.driver()
    with closing(made):
        made.run([TARGET])
    source, destination = two.qemu[SOURCE], two.qemu[DESTINATION]
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert (source.status, destination.status) == ("postmigrate", "running")
    assert source.asked == ["migrate-set-capabilities", "migrate", "migrate-continue"]
    assert destination.asked == ["stop", "migrate-set-capabilities", "migrate-incoming", "cont"]
    assert destination.arguments["migrate-incoming"] == {"uri": "tcp:0.0.0.0:0"}
    assert source.arguments["migrate"] == {"uri": "tcp:127.0.0.1:4711"}
    assert switched(source) == {"events", "return-path", "pause-before-switchover"}
    assert list(made.seconds) == [step.name for step in ROWS[Mode.VHOST_QMP]]
    cost = made.cost()
    assert f"the guest stood still for {made.window:.2f} s" in cost
    assert "QEMU's downtime 321 ms, 7 MiB of RAM copied" in cost
    assert "freeze to arm 0." in cost and "release and open 0." in cost
    of_guest, = made.told_of_guests()
    assert of_guest == {"monitor": str(source.path), "downtime": 0.321, "ram": 7 << 20,
                        "stood_still": round(made.window, 6)}
    assert any("5 of 128 MiB of RAM left, 300 ms of downtime expected" in line
               for line in two.told)


def test_monitors_may_be_sockets_that_somebody_has_connected(two: Two) -> None:
    """As the service is handed them; and the command that goes on says that it needs monitors."""
    sockets = []
    for role in (SOURCE, DESTINATION):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].connect(str(two.qemu[role].path))
    two.b.breaks["verify", 1] = (errors.KernelRefused("the kernel refuses"), False)
    made = LiveMove(two.a, two.b, guests=[Monitors(sockets[0], sockets[1])])
    with pytest.raises(errors.HandoverError) as raised:
        with closing(made):
            made.run([TARGET])
    assert f"--resume {made.id} --to {HOST} --guest SOCKET --guest-there SOCKET" in str(
        raised.value)
    assert two.qemu[SOURCE].status == "postmigrate"
    assert [line.fileno() for line in sockets] == [-1, -1]


def test_a_connection_that_was_handed_in_and_cut_proves_nothing(two: Two) -> None:
    """By a path, that somebody hung up is looked into; here the source's QEMU may run the guest."""
    source, lines = two.qemu[SOURCE], []
    for role in (SOURCE, DESTINATION):
        lines.append(socket.socket(socket.AF_UNIX))
        lines[-1].connect(str(two.qemu[role].path))
    setattr(source, "all_sent", lambda: setattr(source, "gone", True))
    with pytest.raises(errors.GuestFailed, match="the connection to the QEMU of a was cut") as cut:
        with closing(LiveMove(two.a, two.b, guests=[Monitors(lines[0], lines[1])])) as made:
            made.run([TARGET])
    assert "see whether the QEMU of a still runs" in str(cut.value)
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert two.qemu[DESTINATION].status != "running"


def switched(qemu: Qemu) -> set[str]:
    """The capabilities that were switched on last."""
    return {row["capability"] for row in qemu.arguments["migrate-set-capabilities"]["capabilities"]
            if row["state"]}


def test_a_guest_is_stopped_before_its_ram_is_copied_where_nothing_is_logged(two: Two) -> None:
    two.mode = Mode.VHOST_STOPPED
    made = two.driver()
    with closing(made):
        made.run([TARGET], two.mode.value)
    source, destination = two.qemu[SOURCE], two.qemu[DESTINATION]
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert source.asked == ["stop", "migrate-set-capabilities", "migrate"]
    assert switched(source) == {"events", "return-path"}
    assert (source.status, destination.status) == ("postmigrate", "running")
    order = list(made.seconds)
    assert order.index("stop") < order.index("freeze") < order.index("arm") < order.index("migrate")
    assert made.window > 0


def test_guests_that_share_a_disk_stand_still_together_before_the_freeze(
        start: Callable[[int], Two]) -> None:
    two = start(2)
    slow, quick = two.all(SOURCE)
    slow.slow = 5
    left: list[int] = []
    was_told = quick.become

    def become(migration: str, status: str = "") -> None:
        if migration == "pre-switchover":
            left.append(slow.slow)
        was_told(migration, status)

    setattr(quick, "become", become)
    made = two.driver()
    frozen: list[str] = []
    was = two.a.verb

    def verb(verb: str, *args: Any, **more: Any) -> Any:
        if verb == "freeze":
            frozen.extend(qemu.migration for qemu in two.all(SOURCE))
        if verb == "release":
            frozen.extend(qemu.migration for qemu in two.all(DESTINATION))
        return was(verb, *args, **more)

    setattr(two.a, "verb", verb)
    with closing(made):
        made.run([*two.targets, ISCSI])
    assert left == [0], "the quick one stood still while the slow one was being copied"
    assert [qemu.downtime for qemu in two.all(SOURCE)] == [300, 300]
    assert frozen == ["pre-switchover"] * 2 + ["completed"] * 2
    assert [qemu.status for qemu in two.all(DESTINATION)] == ["running"] * 2
    assert [qemu.status for qemu in two.all(SOURCE)] == ["postmigrate"] * 2
    assert made.cost().count("QEMU's downtime") == 2
    assert f"the QEMU of a at {two.guests[1][SOURCE].path}: QEMU's downtime" in made.cost()
    assert len(made.told_of_guests()) == 2
    assert any("10 of 256 MiB of RAM left" in line for line in two.told)


# ---- what fails --------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("mode, step", STEPS)
def test_what_fails_is_taken_back_and_the_guest_runs_or_it_says_how_to_go_on(
        start: Callable[[int], Two], number: int, mode: Mode, step: move.Step) -> None:
    two = start(number)
    two.mode = mode
    two.b.notes = (NEVER_RAN,)
    two.fails(step)
    made = two.driver()
    with pytest.raises(errors.HandoverError) as raised:
        with closing(made):
            made.run(two.targets, mode.value)
    line, at = str(raised.value), made.number(step.name)
    sources, destinations = two.all(SOURCE), two.all(DESTINATION)
    back = at <= made.commit or step.name == "open" or step.name == "cont" and number == 1
    if not step.qmp:
        assert line.startswith("b says: " if step.role == DESTINATION else "the kernel refuses")
    if back:
        assert (two.a.state, two.b.state) == ("idle", "none")
        assert all(qemu.status == "running" for qemu in sources)
        assert not any(qemu.status == "running" for qemu in destinations)
        begun = at >= made.number("migrate" if mode is Mode.VHOST_QMP else "stop")
        assert ("its guest runs" in line or "its 2 guests run" in line) == begun
        for qemu in sources:
            assert qemu.migration in ("none", "cancelled", "failed", "completed")
            assert ("migrate_cancel" in qemu.asked) == (
                made.number("migrate") <= at < made.commit)
        ended = at >= made.number("listen")
        assert all(("quit" in qemu.asked or qemu.gone) == ended for qemu in destinations
                   if step.name != "look")
        return
    assert not any("migrate_cancel" in qemu.asked for qemu in sources)
    assert all(qemu.status == "postmigrate" for qemu in sources)
    again = f"lio-handover move --resume {made.id} --to {HOST} " + " ".join(
        f"--guest {pair[SOURCE].path} --guest-there {pair[DESTINATION].path}"
        for pair in two.guests)
    assert again in line
    # and that leads on
    two.a.breaks, two.b.breaks = {}, {}
    for qemu in destinations:
        qemu.fails, qemu.gone = {}, False
    once_more = two.driver(id=made.id)
    with closing(once_more):
        once_more.resume()
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert all(qemu.status == "running" for qemu in destinations)


def test_a_guest_that_may_have_run_over_there_is_not_run_again_here(two: Two) -> None:
    two.qemu[DESTINATION].fails = {"cont": ""}
    with pytest.raises(errors.GuestFailed, match="hung up, at cont.* b has given the target back, "
                       "and a serves on as before; its guest may have run .*boot the guest there"):
        two.run()
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert two.qemu[SOURCE].status == "postmigrate" and "cont" not in two.qemu[SOURCE].asked


def test_a_destination_that_dies_before_it_runs_the_guest_gives_the_target_back(two: Two) -> None:
    destination = two.qemu[DESTINATION]
    was = two.b.verb

    def verb(verb: str, *args: Any, **more: Any) -> Any:
        answer = was(verb, *args, **more)
        if verb == "activate" and two.b.state == "opening":
            destination.gone = True
        return answer

    setattr(two.b, "verb", verb)
    with pytest.raises(errors.GuestFailed, match="hung up.* a serves on as before; its guest runs"):
        two.run()
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert two.qemu[SOURCE].status == "running" and "cont" not in destination.asked


def test_a_guest_that_ran_over_there_stays_there(two: Two) -> None:
    """Its QEMU has answered `cont`; then it is gone."""
    two.qemu[DESTINATION].fails = {}
    was = Qemu.answer
    qemu = two.qemu[DESTINATION]

    def answer(command: str) -> object:
        found = was(qemu, command)
        qemu.gone = qemu.gone or command == "cont"
        return found

    qemu.put(answer=answer)
    with pytest.raises(errors.GuestFailed) as raised:
        two.run()
    assert "abort" not in two.b.called and "thaw" not in two.a.called
    assert (two.a.state, two.b.state) == ("released", "opening")
    assert "once its guest runs on" in str(raised.value)
    assert "if it never ran there: on" in str(raised.value)


def test_a_source_that_ends_is_as_good_as_completed_where_the_other_has_all(two: Two) -> None:
    source = two.qemu[SOURCE]
    was = source.all_sent

    def all_sent() -> None:
        was()
        source.gone = True

    setattr(source, "all_sent", all_sent)
    two.run()
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert two.qemu[DESTINATION].status == "running"


def test_a_source_that_ends_before_is_told_as_a_lost_guest(two: Two) -> None:
    def all_sent() -> None:
        two.qemu[SOURCE].gone = True
        two.qemu[DESTINATION].become("failed")

    setattr(two.qemu[SOURCE], "all_sent", all_sent)
    with pytest.raises(errors.GuestFailed, match="so the guest is lost.*boot the guest on the "
                       "source"):
        two.run()
    assert (two.a.state, two.b.state) == ("idle", "none")


def test_a_stopped_guest_goes_on_where_only_the_destinations_word_was_lost(two: Two) -> None:
    two.mode = Mode.VHOST_STOPPED
    source = two.qemu[SOURCE]

    def all_sent() -> None:
        two.qemu[DESTINATION].become("completed", "paused")
        source.become("failed", "postmigrate")

    setattr(source, "all_sent", all_sent)
    two.run()
    assert (two.a.state, two.b.state) == ("retired", "confirmed")


def test_a_guest_is_waited_for_until_it_is_attached(two: Two) -> None:
    for number in (1, 2):
        two.b.breaks["verify", number] = (errors.WrongState("no guest is attached"), False)
    two.run()
    assert two.b.called.count("verify") == 3 and two.b.state == "confirmed"


def test_a_guest_that_is_not_attached_in_time_is_told(two: Two) -> None:
    for number in range(1, 1000):
        two.b.breaks["verify", number] = (errors.WrongState("no guest is attached"), False)
    with pytest.raises(errors.GuestFailed, match="runs on b, and is not attached to its disk "
                       "there: no guest is attached; .*--resume"):
        two.run(limits=["verify=0.05"])
    assert two.b.state == "opening"


# ---- deadlines ---------------------------------------------------------------------------------
def test_a_step_that_passes_its_deadline_is_given_up_and_taken_back(two: Two) -> None:
    two.qemu[SOURCE].slow = 10**6
    with pytest.raises(errors.Interrupted, match="pre-switchover on a took longer than its 0.05 s"
                       ".* --deadline copy=SECONDS"):
        two.run(limits=["copy=0.05"])
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert two.qemu[SOURCE].migration == "cancelled"


@pytest.mark.parametrize("word", ["copy", "copy=", "copy=0", "copy=-1", "copy=nan", "copy=inf",
                                  "copy=1m", "paint=1", "release=5", "stop=5", "=5"])
def test_what_is_no_deadline_is_refused_before_anything_is_done(two: Two, word: str) -> None:
    with pytest.raises(errors.BadCall, match="is no deadline.*STEP is look, listen, migrate, copy"):
        two.run(limits=[word])
    assert two.a.called == two.b.called == two.qemu[SOURCE].asked == []


def test_help_has_each_step_that_has_a_deadline_and_its_seconds() -> None:
    words = OPTIONS["deadline"].help.replace(";", ",").replace(":", ",").split(", ")
    told, waiting = {}, []
    for word in words:
        name, _, rest = word.partition(" (")
        waiting.append(name)
        if rest:
            told.update(dict.fromkeys(waiting, float(rest.rstrip(")"))))
            waiting = []
    assert {name: seconds for name, seconds in told.items() if " " not in name} == {
        step.name: step.deadline for steps in ROWS.values() for step in steps if step.deadline}


# ---- before it begins --------------------------------------------------------------------------
def test_an_answer_that_nobody_knows_is_taken_back_like_an_error(two: Two) -> None:
    two.qemu[DESTINATION].listens = ()
    with pytest.raises(errors.GuestFailed, match="answers migrate-incoming with something unknown"):
        two.run()
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert two.qemu[SOURCE].status == "running"


@pytest.mark.parametrize("odd", [{"ram": [1]}, {"ram": {"transferred": "x"}}, {"downtime": "x"},
                                 {"expected-downtime": None}])
def test_numbers_that_are_none_are_an_error_before_the_commit(
        two: Two, odd: dict[str, Any]) -> None:
    """Which a summary would stumble over when all is done."""
    source = two.qemu[SOURCE]
    was = source.about_migration
    setattr(source, "about_migration", lambda: {**was(), **odd})
    with pytest.raises(errors.GuestFailed, match="a answers query-migrate with something unknown"):
        two.run()
    assert (two.a.state, two.b.state) == ("idle", "none")
    assert source.status == "running"


def test_a_service_that_is_lost_before_the_commit_leaves_the_guest_running(two: Two) -> None:
    two.a.breaks["freeze", 1] = (type(LOST)(LOST.what), False)
    made = two.driver()
    with pytest.raises(errors.PeerUnreachable) as raised:
        with closing(made):
            made.run([TARGET])
    assert two.qemu[SOURCE].status == "running" and two.qemu[SOURCE].migration == "cancelled"
    assert f"lio-handover recover {made.id}" in str(raised.value)


@pytest.mark.parametrize("targets, mode", [
    ([ISCSI], "vhost-qmp"), ([TARGET], "vhost-inband"), ([TARGET], "iscsi"),
    ([TARGET, "loopback/naa.6001405000000009"], "vhost-qmp")])
def test_what_can_not_be_moved_with_a_guest_is_refused(two: Two, targets: list[str], mode: str
                                                       ) -> None:
    with pytest.raises(errors.WrongState, match="with a guest its vhost targets move, and iSCSI"):
        two.run(targets, mode)
    assert two.a.called == two.b.called == two.qemu[SOURCE].asked == []


#: What is wrong → what is done to the source's QEMU and to the destination's; what is found.
FINDINGS: dict[str, tuple[Callable[[Qemu, Qemu], Any], str]] = {
    "source-paused": (lambda a, b: a.put(status="paused"),
                      "the QEMU of a: does not run a guest: it is paused"),
    "destination-runs": (lambda a, b: b.put(status="running"),
                         "the QEMU of b: does not wait for a guest: it is running"),
    "destination-listens": (lambda a, b: b.put(migration="setup"),
                            r"listens for a guest already \(its migration is setup\)"),
    "one-qemu": (lambda a, b: (b.put(thread=a.thread), b.put(status="running")),
                 "the QEMU of b: is the QEMU that runs the guest"),
    "source-blocked": (lambda a, b: a.put(blocked=["a disk of its own"]),
                       "the QEMU of a: can't be migrated: a disk of its own"),
    "destination-blocked": (lambda a, b: b.put(blocked=["no log"]),
                            "the QEMU of b: can't be migrated: no log"),
    "source-unmigratable": (lambda a, b: a.other(migratable=False).put(
        blocked=["vhost-scsi does not support migration in all cases"]),
        "the QEMU of a: can't migrate its vhost-scsi disk naa.6001405000000001"),
    "destination-unmigratable": (lambda a, b: b.other(migratable=False),
                                 "the QEMU of b: can't migrate its vhost-scsi disk"),
    "no-such-disk-there": (lambda a, b: b.put(wwpn="naa.1"),
                           r"has no vhost-scsi disk naa.6001405000000001 \(it has naa.1\)"),
    "machine": (lambda a, b: b.put(machine="pc-q35-7.2-machine"),
                "machine type is pc-q35-7.2-machine, that of the source pc-i440fx-7.2-machine"),
    "cpus": (lambda a, b: b.put(cpus=2),
             "number of CPUs is 2, that of the source 1"),
    "memory": (lambda a, b: b.put(memory=64 << 20), "RAM size in bytes is 67108864"),
    "devices": (lambda a, b: b.put(others=["usb-tablet"]),
                "it lacks virtio-rng-pci and has usb-tablet besides"),
    "queues": (lambda a, b: b.other(num_queues=1),
               "naa.6001405000000001 has num_queues=1, that of the source 4"),
    "tpgt": (lambda a, b: b.other(boot_tpgt=2), "has boot_tpgt=2, that of the source 1"),
    "unknown-property": (lambda a, b: a.other(hotplug=True),
                         "has hotplug=off, that of the source on"),
    "old-qemu": (lambda a, b: b.capabilities.pop("return-path"), "does not know return-path"),
    "postcopy": (lambda a, b: b.capabilities.update({"postcopy-ram": True}),
                 "the QEMU of b: has postcopy-ram on"),
    "mode": (lambda a, b: a.put(mode="cpr-reboot"),
             "the QEMU of a: would migrate in mode cpr-reboot, which is another thing"),
    "multifd": (lambda a, b: a.capabilities.update(multifd=True),
                "has multifd off, the source on"),
    "vmstates": (lambda a, b: [qemu.put(vmstates={"v1": "x", "v2": "y"})
                               for qemu in (a, b)], "has several dbus-vmstate objects: v1 v2"),
    "lone-vmstate": (lambda a, b: a.put(vmstates={"v": "x"}),
                     "lacks the dbus-vmstate object that the source has: the migration would"),
    "no-source": (lambda a, b: a.path.unlink(), "the QEMU of a: nobody greets at its monitor"),
    "no-destination": (lambda a, b: b.path.unlink(), "the QEMU of b: nobody greets at its"),
}


def test_a_newer_qemu_may_know_a_property_that_is_off(two: Two) -> None:
    two.qemu[DESTINATION].other(hotplug=False, in_order=False).put(mode="normal")
    two.run()
    assert (two.a.state, two.b.state) == ("retired", "confirmed")


@pytest.mark.parametrize("name", FINDINGS)
def test_both_qemus_are_asked_before_anything_is_done(two: Two, name: str) -> None:
    spoil, words = FINDINGS[name]
    source, destination = two.qemu[SOURCE], two.qemu[DESTINATION]
    spoil(source, destination)
    with pytest.raises(errors.GuestFailed, match=words) as raised:
        two.run()
    assert raised.value.next and raised.value.changed == errors.NOTHING_CHANGED
    assert two.a.called == two.b.called == source.asked == destination.asked == []


def test_all_findings_come_at_once(two: Two) -> None:
    for name in ("source-paused", "destination-unmigratable", "queues", "postcopy"):
        FINDINGS[name][0](two.qemu[SOURCE], two.qemu[DESTINATION])
    with pytest.raises(errors.GuestFailed, match="and 3 more") as raised:
        two.run()
    assert len(raised.value.findings) == 4
    assert all(finding.do for finding in raised.value.findings)


def test_people_see_every_finding_and_its_way_out(
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    against = [errors.Finding(errors.GuestFailed, "the QEMU of b", sentence, do=do)
               for sentence, do in (("is another machine", "start both alike"),
                                    ("has several dbus-vmstate objects", "leave one"))]
    orders = []

    def carry_out(order: moves.Order, *args: Any) -> None:
        orders.append(order)
        errors.refuse(against)

    monkeypatch.setattr(moves, "carry_out", carry_out)
    words = ["move", TARGET, "--to", "b", "--guest", "/run/1", "--guest-there", "/run/2",
             "--guest", "/run/3", "--guest-there", "/run/4", "--deadline", "copy=5"]
    assert main.main(words) == errors.GuestFailed.code
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == [
        "lio-handover: the QEMU of b: is another machine; start both alike",
        "lio-handover: the QEMU of b: has several dbus-vmstate objects; leave one"]
    assert len(lines) == 3 and "and 1 more" in lines[2]
    assert (orders[0].guests, orders[0].guests_there) == (["/run/1", "/run/3"],
                                                          ["/run/2", "/run/4"])
    assert (orders[0].deadlines, orders[0].mode) == (["copy=5"], "")
    for more in (["--guest", "/run/5"], ["--guest-uri", "tcp:x:1"], ["--mode", "iscsi"]):
        assert main.main([*words, *more]) == errors.USAGE
    assert "no guest moves in mode 'iscsi': leave --mode out" in capfd.readouterr().err
    assert main.main(["move", TARGET, "--to", "b", "--deadline", "copy=5"]) == errors.USAGE
    assert len(orders) == 1


@pytest.mark.parametrize("ids, asks", [("net,lio-handover/vm1", True), ("", True),
                                       ("net", False)])
def test_a_qemu_that_asks_our_helper_is_moved_with_a_note(two: Two, ids: str, asks: bool) -> None:
    """The helper leaves the handover to this driver (test_vmstate_follow.py)."""
    for qemu in two.qemu.values():
        qemu.put(vmstates={"v": ids})
    with closing(two.driver()) as made:
        made.run(two.targets)
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert made.notes[:-1] == ["the QEMU of a: its dbus-vmstate object v has lio-handover-vmstate "
                               "asked, too, which leaves the handover to this driver"] * asks


def test_a_target_of_no_guest_and_a_disk_that_would_stay_are_found(two: Two) -> None:
    with pytest.raises(errors.GuestFailed) as raised:
        two.run([f"vhost/{WWPNS[1]}"])
    said = [f"{finding.subject}: {finding.sentence}" for finding in raised.value.findings]
    assert said == [f"the QEMU of a: has {TARGET}, too, which would stay behind",
                    f"vhost/{WWPNS[1]}: no guest that was named has it (they have {WWPNS[0]})"]
    assert two.a.called == []


def test_a_mapped_wwpn_is_looked_for_under_its_new_name(two: Two) -> None:
    two.qemu[DESTINATION].wwpn = "naa.6001405000000009"
    two.run(maps=[f"target:{WWPNS[0]}=naa.6001405000000009"])
    assert (two.a.state, two.b.state) == ("retired", "confirmed")


def test_a_monitor_that_is_named_twice_is_refused(start: Callable[[int], Two]) -> None:
    two = start(1)
    two.guests *= 2
    with pytest.raises(errors.BadCall, match="each guest has a monitor of its own on a"):
        two.run([TARGET])
    assert two.a.called == []


def test_a_kernel_that_does_not_log_is_offered_the_other_mode(two: Two) -> None:
    two.a.breaks["prepare", 1] = (errors.CannotRepresent(
        "this kernel: its vhost-scsi does not log what it writes", do="stop the guest, or "
        "--allow stopped-guest to go on all the same"), False)
    with pytest.raises(errors.CannotRepresent) as raised:
        two.run()
    source, destination = two.qemu[SOURCE].path, two.qemu[DESTINATION].path
    assert (f"next: lio-handover move {TARGET} --to {HOST} --guest {source} --guest-there "
            f"{destination} --mode vhost-stopped, in which the guest stands still for about "
            "128 s, by its RAM size and max-bandwidth") in str(raised.value)
    assert "--allow stopped-guest" not in str(raised.value)


# ---- resumed -----------------------------------------------------------------------------------
def cut_off(two: Two) -> str:
    """A move whose program ends before the guest is run; its id."""
    made = two.driver()
    two.b.breaks["activate", 2] = (errors.PeerUnreachable("the line is gone"), True)
    with pytest.raises(errors.PeerUnreachable):
        with closing(made):
            made.run([TARGET])
    two.b.silent, two.b.breaks = False, {}
    assert (two.a.state, two.b.state) == ("released", "opening")
    return made.id


def test_a_move_is_gone_on_with_by_its_monitors_only(two: Two) -> None:
    number = cut_off(two)
    plain = move.Move(two.a, two.b, id=number)
    with pytest.raises(errors.WrongState, match="not seen to run yet.*--guest and --guest-there"):
        plain.resume()
    again = two.driver(id=number)
    with closing(again):
        again.resume()
    assert (two.a.state, two.b.state) == ("retired", "confirmed")
    assert two.qemu[DESTINATION].status == "running"


@pytest.mark.parametrize("ends", [{"gone": True}, {"fails": {"query-status": ""}},
                                  {"fails": {"cont": ""}}])
def test_a_resumed_move_whose_guest_may_have_run_is_not_taken_back(two: Two, ends: dict[str, Any]
                                                                   ) -> None:
    """Its first run may have told the destination to run the guest."""
    number = cut_off(two)
    two.qemu[DESTINATION].put(**ends)
    again = two.driver(id=number)
    with pytest.raises(errors.GuestFailed, match=f"once its guest runs on b: .*--resume {number}.*"
                       f"if it never ran there: on b lio-handover destination abort {number}"):
        with closing(again):
            again.resume()
    assert "abort" not in two.b.called

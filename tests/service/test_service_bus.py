"""The service on a private bus of this machine, which has no target: what needs no kernel."""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lio_handover import dbus_names as names, errors, verb_table
from lio_handover.cli import main
from lio_handover.protocol import table
from lio_handover.protocol.messages import Message, to_json
from lio_handover.protocol.table import FILE, MessageType
from lio_handover.records.journal import Handover, Journal
from lio_handover.system import journald
from lio_handover.verb_table import HANDOVER_VERBS, HOST_VERBS, MEMBERS, PAIR_VERBS, VERBS
from tests.support import inbus
from tests.support.inbus import CHECKOUT, NOBODY, Client, descriptors, options

dbus = pytest.importorskip("dbus")
bus_interfaces = pytest.importorskip("lio_handover.service.bus.interfaces")
from tests.support.privatebus import Bus, wait_until  # noqa: E402 - it needs dbus, too


@pytest.fixture
def client(bus: Bus) -> Client:
    return bus.client()


# ── the contract ─────────────────────────────────────────────────────────────────────────────

def shape(xml: str) -> dict[str, set[tuple[str, ...]]]:
    """Interface → its members, whatever the order and the comments."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for interface in ElementTree.fromstring(xml.partition("?>")[2] or xml).iter("interface"):
        found[interface.get("name", "")] = {
            (one.tag, one.get("name", ""), one.get("type", ""), *(
                f"{part.tag} {part.get('name')} {part.get('direction', '')} {part.get('type', '')}"
                f"{part.get('value', '')}" for part in one.iter() if part is not one))
            for one in interface}
    return found


def test_introspection_is_what_the_contract_says(bus: Bus, client: Client) -> None:
    """Of the root, a job and a handover; and all that is to be had of an object is managed."""
    shipped: dict[str, set[tuple[str, ...]]] = {}
    for interface in bus_interfaces.load().values():
        shipped.update(shape(interface.text))
    job = client.manager("Show", "asa{sv}", [], options({}))
    client.job(job)
    objects = client.objects()
    assert {job, handover_path(bus)} <= set(objects)
    managed = client.call(ROOT, names.OBJECT_MANAGER, "GetManagedObjects")
    for path, interfaces in objects.items():
        told = shape(client.call(path, names.INTROSPECTABLE, "Introspect"))
        assert told == {name: shipped[name] for name in interfaces}, path
        for interface in interfaces:
            properties = client.get(path, interface)
            assert {("property", name) for name in properties} == {
                one[:2] for one in shipped[interface] if one[0] == "property"}, (path, interface)
            assert path == ROOT or managed[path][interface] == properties, (path, interface)
    state = managed[handover_path(bus)][names.HANDOVER]
    assert (state["Role"], state["State"], state["Targets"]) == (
        "destination", "none", list(bus.handover.targets))


def handover_path(bus: Bus) -> str:
    return names.path(names.HANDOVERS, bus.handover.id)


def test_the_tree_can_be_walked_from_its_root(client: Client) -> None:
    """As busctl tree does: every object is found, and no other."""
    found, left = set(), ["/"]
    while left:
        path = left.pop()
        root = ElementTree.fromstring(client.call(path, names.INTROSPECTABLE, "Introspect"))
        if any(one.get("name") == names.PROPERTIES for one in root.iter("interface")):
            found.add(path)
        left += [f"{path.rstrip('/')}/{one.get('name')}" for one in root.findall("node")]
    assert found == set(client.objects())


#: What a verb takes → what its method does, options aside.
SIGNATURES = {verb_table.TARGETS: "as", verb_table.ANY_TARGETS: "as", verb_table.NEW_TARGETS: "as",
              verb_table.A_DOCUMENT: "ah", verb_table.MESSAGES: "ah", verb_table.NOTHING: "",
              verb_table.A_FILE: "ah", verb_table.A_NODE: "sa{ss}",
              verb_table.A_LINE: "as"}


def test_the_verbs_are_those_of_the_protocols_table() -> None:
    """Each step is a method of a handover's object; what begins a handover is the Manager's too."""
    known = bus_interfaces.load()
    steps = {name.lower(): method for name, method in known[names.HANDOVER].methods.items()}
    assert set(steps) == {name for name, row in HANDOVER_VERBS.items() if row.bus}
    first = {row.verb for row in table.TRANSITIONS
             if row.state in ("idle", "none") and row.modes - FILE}
    manager = known[names.MANAGER].methods
    begun = {name[:-len("Handover")].lower(): method for name, method in manager.items()
             if name.endswith("Handover")}
    of_all = {name[:-len("Handovers")].lower(): method for name, method in manager.items()
              if re.fullmatch("(Status|Recover)Handovers", name)}
    assert (set(begun) | set(of_all), set(of_all)) == (first | {"status"}, {"status", "recover"})
    for methods in (steps, begun, of_all):
        for verb, method in methods.items():
            row = HANDOVER_VERBS[verb]
            assert method.action == row.action and method.gives == "o"
            takes = "" if methods is of_all or methods is steps and verb in begun else \
                SIGNATURES[row.takes]
            assert method.takes == takes + "a{sv}", verb
            assert set(method.options) <= set(row.on_bus), verb
    for verb in ("prepare", "stage"):
        assert not {"mode", "handover", "maps", "uploads", "said"} & set(steps[verb].options), verb
    assert {verb for verb, method in {**steps, **begun}.items()
            if set(method.options) & {"peer-is-fenced", "peer-never-returns"}} == {"recover"}


def test_what_the_xml_says_of_actions_is_what_is_asked(bus: Bus) -> None:
    """The annotation of a verb can't say less than the table; and one-host verbs are the CLI's."""
    assert {*HOST_VERBS, *PAIR_VERBS} == set(VERBS) - {"errors"} - set(_OTHER)
    for interface in bus_interfaces.load().values():
        root = ElementTree.fromstring(interface.text)
        for method in root.iter("method"):
            told = {one.get("value") for one in method.findall("annotation")
                    if one.get("name") == f"{names.BUS_NAME}.Action"}
            assert told == {interface.methods[method.get("name", "")].action}, method.get("name")
    for verb, row in {**HOST_VERBS, **PAIR_VERBS}.items():
        method = bus_interfaces.load()[names.MANAGER].methods[MEMBERS.get(verb, verb.capitalize())]
        assert (method.action, method.takes) == (row.action, SIGNATURES[row.takes] + "a{sv}")


def test_a_verb_and_its_options_are_introspected_from_its_row(monkeypatch: pytest.MonkeyPatch
                                                              ) -> None:
    """One that is made up, with nothing but its row: its help, action, argument and options."""
    row = verb_table.Verb("polish", verb_table.HOST, verb_table.WRITE, verb_table.TARGETS,
                          "all probe", "make targets shine", bus=True, deadline=5)
    monkeypatch.setitem(HOST_VERBS, "polish", row)
    method = bus_interfaces.load()[names.MANAGER].methods["Polish"]
    assert (method.takes, method.gives, method.action) == ("asa{sv}", "o", "write")
    assert method.options == {"all": "b", "probe": "b"}
    text = bus_interfaces.load()[names.MANAGER].text
    assert "Make targets shine." in text
    assert f"all (b): {verb_table.OPTIONS['all'].help}" in text


def test_all_that_is_introspected_is_documented() -> None:
    for name, interface in bus_interfaces.load().items():
        if not name.startswith(names.BUS_NAME):
            continue
        root = ElementTree.fromstring(interface.text)
        for member in [root, *root.iter("method"), *root.iter("property"), *root.iter("signal")]:
            told = [one.get("value", "") for one in member.findall("annotation")
                    if one.get("name") == "org.gtk.GDBus.DocString"]
            assert len(told) == 1 and re.match(r'[(A-Z"]|[a-z, -]+[.:]', told[0]), (
                name, member.get("name"), told)


def test_what_is_installed_is_what_is_introspected(tmp_path: Path) -> None:
    subprocess.run([CHECKOUT / "scripts" / "install", "--root", tmp_path], check=True,
                   capture_output=True)
    folder = tmp_path / "usr" / "share" / "dbus-1" / "interfaces"
    assert {file.name: shape(file.read_text()) for file in folder.iterdir()} == {
        f"{name}.xml": shape(interface.text) for name, interface in bus_interfaces.load().items()
        if name.startswith(names.BUS_NAME)}


#: Verbs of the command line that are not of one host.
_OTHER = ("source", "destination", "status", "recover", "restore", "clear", "keygen")


def test_every_polkit_action_is_there() -> None:
    from lio_handover.service.bus.polkit import action_id
    root = ElementTree.parse(CHECKOUT / "etc" / "polkit-1" / "io.github.lio-handover1.policy")
    assert {one.get("id") for one in root.iter("action")} == {
        action_id(one) for one in verb_table.ACTIONS}
    assert {one.text for one in root.iter("allow_any")} <= {"auth_admin", "auth_admin_keep"}


# ── calls that make no sense ─────────────────────────────────────────────────────────────────

def test_nobody_may_do_anything(bus: Bus) -> None:
    """Every method of every object, as an unprivileged user: what is not open is refused; so is to
    say what interfaces an object has that may not be looked at."""
    with bus.held():
        bus.client().manager("Show", "asa{sv}", [], options({}))
        asked = inbus.call_everything(NOBODY, bus.address)
    assert {(handover_path(bus), name)
            for name in bus_interfaces.load()[names.HANDOVER].methods} <= {
        (path, member) for path, _interface, member, _answer in asked}
    for path, interface, member, answer in asked:
        free = interface == names.PEER or (path, interface) == (ROOT, names.INTROSPECTABLE)
        assert answer == ("" if free else "NotAuthorized"), (path, interface, member, answer)


ROOT = names.ROOT
NOT_OURS = "org.freedesktop.DBus.Error."


@pytest.mark.parametrize("path, interface, member, signature, args, error", [
    (ROOT, names.MANAGER, "Nonsense", "", (), NOT_OURS + "UnknownMethod"),
    (ROOT, names.JOB, "Release", "a{sv}", ({},), NOT_OURS + "UnknownInterface"),
    (f"{ROOT}/jobs/999", names.JOB, "Release", "a{sv}", ({},), NOT_OURS + "UnknownObject"),
    (ROOT, names.MANAGER, "ListTargets", "s", ("",), NOT_OURS + "InvalidArgs"),
    (ROOT, names.MANAGER, "ListTargets", "", (), NOT_OURS + "InvalidArgs"),
    (ROOT, names.MANAGER, "Freeze", "asa{sv}", (["iscsi/x"], {"alow": True}), "BadCall"),
    (ROOT, names.MANAGER, "Freeze", "asa{sv}", (["iscsi/x"], {"allow": "x"}), "BadCall"),
    (ROOT, names.MANAGER, "Freeze", "asa{sv}", (["iscsi/x"], {"all": 1}), "BadCall"),
    (ROOT, names.MANAGER, "Freeze", "asa{sv}", (["nonsense"], {}), "BadCall"),
    (ROOT, names.MANAGER, "Freeze", "asa{sv}", (["x" * 200 + "/y"] * 30000, {}), "BadCall"),
    (ROOT, names.MANAGER, "Upload", "saya{sv}", ("nonsense", b"x", {}), "BadFile"),
    (ROOT, names.PROPERTIES, "Set", "ssv", (names.MANAGER, "Stale", "x"),
     NOT_OURS + "PropertyReadOnly"),
    (ROOT, names.PROPERTIES, "Get", "ss", (names.MANAGER, "Nonsense"),
     NOT_OURS + "UnknownProperty"),
    (ROOT, names.PROPERTIES, "GetAll", "s", (names.TARGET,), NOT_OURS + "UnknownInterface"),
])
def test_calls_that_make_no_sense_end_in_errors_with_a_name(
        client: Client, path: str, interface: str, member: str, signature: str, args: Any,
        error: str) -> None:
    args = [options(one) if isinstance(one, dict) else one for one in args]
    assert client.error(path, interface, member, signature, *args) == error


def bad_descriptors(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(what, a descriptor, what the error that it ends in may be)."""
    yield "a pipe", os.pipe()[0], "BadFile"
    yield "a directory", os.open(folder, os.O_RDONLY), "BadFile"
    yield "a device", os.open("/dev/zero", os.O_RDONLY), "BadFile"
    yield "a socket", socket.socket().detach(), "BadFile"
    yield "written only", os.open(folder / "written", os.O_WRONLY | os.O_CREAT), "BadFile"
    yield "empty", os.memfd_create("empty"), "Truncated NotJson"
    large = os.memfd_create("large")
    os.truncate(large, 2 << 30)
    yield "2 GiB", large, "TooLarge"
    wrong = os.memfd_create("wrong")
    os.write(wrong, b"\xff" * 1000)
    yield "no document", wrong, "NotJson"


def test_descriptors_of_anything_end_in_errors_with_a_name(bus: Bus, client: Client,
                                                           tmp_path: Path) -> None:
    def opened() -> int:
        return len(os.listdir(f"/proc/{bus.daemon.pid}/fd"))

    at_first = opened()
    calls = [
        (names.MANAGER, "Import", "aha{sv}"),
        (names.MANAGER, "StageHandover", "aha{sv}")]
    for interface, member, signature in calls:
        for what, fd, expected in bad_descriptors(tmp_path):
            job = client.call(ROOT, interface, member, signature, descriptors(fd), options({}))
            os.close(fd)
            ended = client.job(job)
            assert ended["State"] == "failed", (member, what)
            assert ended["Error"][0].removeprefix(names.ERROR) in expected, (member, what, ended)
            client.call(job, names.JOB, "Release", "a{sv}", options({}))
    for some in (descriptors(), descriptors(0, 0)):
        assert client.error(ROOT, names.MANAGER, "Import", "aha{sv}", some,
                            options({})) == NOT_OURS + "InvalidArgs"
    for given in ({"nonsense": 1}, {"upload": "nonsense"}, {"all": True},
                  {"maps": dbus.types.UnixFd(0)}, {"maps": descriptors(0)}):
        assert client.error(ROOT, names.MANAGER, "Import", "aha{sv}", descriptors(0),
                            options(given))
    wait_until(lambda: opened() <= at_first + 2)  # the spare child may be another


# ── uploads ──────────────────────────────────────────────────────────────────────────────────

def test_what_is_uploaded_is_used_once_and_is_its_owners(bus: Bus, client: Client) -> None:
    token = ""
    for chunk in (b"[", b"]", b" "):
        token = client.manager("Upload", "saya{sv}", token, chunk, options({}))
    stage: tuple[Any, ...] = ("StageHandover", "aha{sv}", descriptors())
    job = client.job(client.manager(*stage, options({"uploads": [token]})))
    assert job["Error"][0].removeprefix(names.ERROR) in (  # no messages, but they could be read
        "WrongState", "NoTargetModules"), job
    assert client.error(ROOT, names.MANAGER, *stage, options({"uploads": [token]})) == "BadFile"


def test_a_verb_takes_one_exchange_where_its_messages_are_said(bus: Bus, client: Client) -> None:
    assert names.FINISHES in client.get(ROOT, names.MANAGER)["Features"]
    job = client.manager("StageHandover", "aha{sv}", descriptors(), options({"said": "[]"}))
    state, error, result, size, data = client.call(job, names.JOB, "Finish", "a{sv}", options({}))
    assert (state, size, bytes(data)) == ("failed", 0, b"") and "findings" in result
    assert error[0].removeprefix(names.ERROR) in ("WrongState", "NoTargetModules")  # it was read
    assert client.get(job, names.JOB)["State"] == "failed"  # who comes late still learns of it
    with ThreadPoolExecutor(1) as pool, bus.held():
        job = client.manager("Show", "asa{sv}", [], options({}))
        assert client.get(job, names.JOB)["State"] == "running"
        answer = pool.submit(bus.client().call, job, names.JOB, "Finish", "a{sv}", options({}))
        time.sleep(0.2)
        assert not answer.done()
        client.call(job, names.JOB, "Cancel", "a{sv}", options({}))
    assert answer.result(30)[0] == "cancelled"


def test_a_job_that_is_done_is_forgotten_once_its_data_are_handed_over(client: Client) -> None:
    job = client.manager("StatusHandovers", "a{sv}", options({}))
    state, error, _result, size, data = client.call(job, names.JOB, "Finish", "a{sv}", options({}))
    assert (state, tuple(error), len(data)) == ("done", ("", ""), size) and json.loads(bytes(data))
    assert client.error(job, names.JOB, "Finish", "a{sv}", options({})) == \
        NOT_OURS + "UnknownObject"


def test_uploads_have_limits(client: Client) -> None:
    def upload(token: str, size: int) -> str:
        return client.error(ROOT, names.MANAGER, "Upload", "saya{sv}", token, b"x" * (size << 10),
                            options({}))

    token = client.manager("Upload", "saya{sv}", "", b"x", options({}))
    sizes = [upload(token, 300) for _ in range(5)]
    assert sizes[:3] == ["", "", ""] and "TooLarge" in sizes, sizes
    assert sizes[-1] == "BadFile"  # it is forgotten
    tokens = [client.manager("Upload", "saya{sv}", "", b"x", options({})) for _ in range(16)]
    assert upload("", 1) == "TooMany"
    for one in tokens:
        client.error(ROOT, names.MANAGER, "Import", "aha{sv}", descriptors(),
                     options({"upload": one}))


# ── clients that come, go and do not listen ──────────────────────────────────────────────────

def test_as_many_clients_as_the_bus_lets_in(bus: Bus) -> None:
    clients: list[Client] = []
    try:
        while len(clients) < 1000:
            clients.append(bus.client())
    except dbus.DBusException as error:
        assert error.get_dbus_name() == NOT_OURS + "LimitsExceeded"
    assert len(clients) > 200
    for one in clients:
        one.get(ROOT, names.MANAGER)
    for one in clients:
        one.bus.close()


def test_a_client_that_never_reads_harms_nobody(bus: Bus, client: Client) -> None:
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(bus.address.partition("=")[2])
    deaf.settimeout(10)
    deaf.send(b"\0AUTH EXTERNAL 30\r\n")
    assert deaf.recv(100).startswith(b"OK")
    hello = message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                    "Hello", 1)
    deaf.send(b"BEGIN\r\n" + hello)
    deaf.setblocking(False)
    sent = 0
    for number in range(2, 20000):
        call = message(names.BUS_NAME, ROOT, names.OBJECT_MANAGER, "GetManagedObjects", number)
        try:
            sent += deaf.send(call) == len(call)
        except BlockingIOError:
            break
    times = []
    for _ in range(20):
        started = time.monotonic()
        client.get(ROOT, names.MANAGER)
        times.append(time.monotonic() - started)
    deaf.close()
    assert sent > 100 and sorted(times)[10] < 1, (sent, times)


def message(destination: str, path: str, interface: str, member: str, serial: int) -> bytes:
    """A method call without arguments, as the wire has it."""
    def field(code: int, kind: bytes, value: str) -> bytes:
        data = value.encode()
        made = bytes([code, 1]) + kind + b"\0" + len(data).to_bytes(4, "little") + data + b"\0"
        return made + bytes(-len(made) % 8)

    fields = (field(1, b"o", path) + field(2, b"s", interface) + field(3, b"s", member)
              + field(6, b"s", destination))
    used = len(fields.rstrip(b"\0")) + 1  # the last one is not padded within the array
    header = b"l\1\0\1" + bytes(4) + serial.to_bytes(4, "little") + used.to_bytes(4, "little")
    made = header + fields[:used]
    return made + bytes(-len(made) % 8)


def test_a_client_that_goes_away_leaves_its_job_and_the_next_learns_of_it(bus: Bus) -> None:
    with bus.held():
        first = bus.client()
        job = first.manager("Show", "asa{sv}", [], options({}))
        first.bus.call_async(names.BUS_NAME, job, names.JOB, "Wait", "ta{sv}", (0, options({})),
                             None, None)
        first.bus.flush()
        first.bus.close()
        assert bus.client().get(job, names.JOB)["State"] == "running"
    ended = bus.client().job(job)
    assert ended["Error"][0] == names.ERROR + "NoTargetModules", ended  # as this machine has none


def test_other_calls_are_answered_while_one_makes_no_step(bus: Bus, client: Client) -> None:
    with bus.held():
        job = client.manager("Show", "asa{sv}", [], options({}))
        before = client.get(job, names.JOB)
        assert before["State"] == "running" and before["Process"] in bus.workers()
        started = time.monotonic()
        for path, interfaces in client.objects().items():
            for interface in interfaces:
                client.get(path, interface)
        assert client.manager("ListTargets") == []
        assert client.manager("ListHandovers") == [(bus.handover.id, handover_path(bus))]
        assert client.call(job, names.JOB, "Wait", "ta{sv}", 50000, options({})) == "running"
        for member in ("Open", "Release"):
            assert client.error(job, names.JOB, member, "a{sv}", options({})) == "NotEnded"
        other = client.job(client.manager("Export", "asa{sv}", ["iscsi/x"], options({})))
        assert other["State"] == "failed"
        assert time.monotonic() - started < 10
        client.call(job, names.JOB, "Cancel", "a{sv}", options({}))
        assert client.get(job, names.JOB)["State"] == "cancelling"
    assert client.job(job)["State"] == "cancelled"


def test_too_many_jobs_at_once_are_refused(bus: Bus, client: Client) -> None:
    wait_until(lambda: all(client.get(path, names.JOB)["State"] not in ("running", "cancelling")
                           for path in client.objects() if "/jobs/" in path))
    jobs: list[Any] = []
    try:
        for _ in range(25):
            wait_until(lambda: len(bus.workers()) > len(jobs))
            for pid in bus.workers():
                os.kill(pid, signal.SIGSTOP)
            error = ""
            try:
                jobs.append(client.manager("Show", "asa{sv}", [], options({})))
            except dbus.DBusException as refused:
                error = refused.get_dbus_name().removeprefix(names.ERROR)
        assert (len(jobs), error) == (24, "TooMany")
    finally:
        for pid in bus.workers():
            os.kill(pid, signal.SIGCONT)
    for one in jobs:
        assert client.job(one)["State"] == "failed"


def test_a_worker_that_is_killed_costs_its_job_alone(bus: Bus, client: Client) -> None:
    with bus.held():
        job = client.manager("Show", "asa{sv}", [], options({}))
        os.kill(client.get(job, names.JOB)["Process"], signal.SIGKILL)
    ended = client.job(job)
    assert (ended["State"], ended["Error"][0]) == ("failed", names.ERROR + "WorkerDied")
    for one in Path(f"/proc/{bus.daemon.pid}/task/{bus.daemon.pid}/children").read_text().split():
        os.kill(int(one), signal.SIGKILL)
    wait_until(lambda: client.error(ROOT, names.MANAGER, "ListTargets", "a{sv}",
                                    options({})) == "")
    assert client.get(ROOT, names.MANAGER)["Stale"] == ""
    assert client.job(client.manager("Show", "asa{sv}", [], options({})))["State"] == "failed"
    assert bus.daemon.poll() is None


def test_a_handover_whose_journal_cannot_be_read_is_shown_with_its_targets(
        bus: Bus, client: Client) -> None:
    folder = bus.folder / "state"
    id, target = "33333333-0000-4000-8000-000000000000", "iscsi/iqn.x"  # noqa: A001
    Journal.create(str(folder), Handover(id, "source", "", 1, "iscsi", (target,)), {})
    with open(folder / "handovers" / id / "journal", "ab") as file:
        file.write(b"\0\n")
    try:
        path = names.path(names.HANDOVERS, id)
        wait_until(lambda: not client.error(ROOT, names.MANAGER, "ListHandovers", "a{sv}",
                                            options({})) and path in client.objects())
        shown = client.get(path, names.HANDOVER)
        assert (list(shown["Targets"]), shown["State"], shown["Role"]) == ([target], "", "source")
        assert "line 2 can't be read" in shown["Error"]
    finally:
        shutil.rmtree(folder / "handovers" / id)


@pytest.mark.full
def test_a_worker_that_gives_no_sign_of_life_raises_the_alarm(bus: Bus, client: Client) -> None:
    with bus.held():
        job = client.manager("Show", "asa{sv}", [], options({}))
        wait_until(lambda: bool(client.get(job, names.JOB)["Alarm"]), 30)
        alarm = client.get(job, names.JOB)["Alarm"]
        assert "no sign of life for 1" in alarm and "is in state T" in alarm
    assert "no sign of life" in (bus.folder / "log").read_text()
    assert client.job(job)["Alarm"] == ""


# ── who may ──────────────────────────────────────────────────────────────────────────────────

@pytest.fixture(scope="module")
def guarded() -> Iterator[Bus]:
    """A bus on which polkit may be; without it, the members of a group are obeyed."""
    with tempfile.TemporaryDirectory() as folder:
        made = Bus(Path(folder), """<policy user="root"><allow own="org.freedesktop.PolicyKit1"/>
            </policy><policy context="default">
            <allow send_destination="org.freedesktop.PolicyKit1"/></policy>""",
                   f"[service]\ngroup = {inbus.GROUP}\n")
        yield made
        made.stop()


def answers(address: str) -> list[str]:
    """What a user is told who looks, changes, and forces."""
    client = Client(address)
    force = options({"peer-is-fenced": True})
    return [client.error(ROOT, names.MANAGER, "ListTargets", "a{sv}", options({})),
            client.error(ROOT, names.MANAGER, "Freeze", "asa{sv}", ["iscsi/x"], options({})),
            client.error(ROOT, names.MANAGER, "RecoverHandovers", "a{sv}", force)]


def test_without_polkit_a_group_may_all_but_force(guarded: Bus) -> None:
    assert inbus.as_member(answers, guarded.address) == ["", "", "NotAuthorized"]
    assert inbus.as_user(NOBODY, answers, guarded.address) == ["NotAuthorized"] * 3
    assert answers(guarded.address) == ["", "", ""]


def test_without_polkit_a_group_may_not_say_where_roots_ssh_goes(guarded: Bus) -> None:
    """What the other host answers decides: not even the one that is recorded already."""
    def told(member: str, signature: str, *args: Any, path: str = ROOT, peer: str) -> str:
        interface = names.MANAGER if path == ROOT else names.HANDOVER
        return str(inbus.as_member(refusal, guarded.address, path, interface, member, signature,
                                   *args, options({"peer": peer})))

    known = guarded.handover
    path = names.path(names.HANDOVERS, known.id)
    for peer in ("mine", known.peer):
        assert told("PrepareHandover", "asa{sv}", ["iscsi/x"], peer=peer) == "NotAuthorized"
        assert told("Recover", "aha{sv}", descriptors(), path=path, peer=peer) == "NotAuthorized"


def refusal(address: str, *call: Any) -> str:
    return Client(address).error(*call)


def test_polkit_decides_and_holds_nobody_up(guarded: Bus) -> None:
    """Each action is asked for by its name; while polkit thinks, others are answered."""
    action = "io.github.lio-handover1."
    with inbus.polkit(guarded.address, {action + "read": "yes", action + "force": "challenge"},
                      delay=1.0):
        started = time.monotonic()
        slow = ThreadPoolExecutor(1).submit(inbus.as_member, answers, guarded.address)
        time.sleep(0.5)
        for _ in range(10):
            before = time.monotonic()
            guarded.client().get(ROOT, names.MANAGER)
            assert time.monotonic() - before < 0.4
        told = slow.result(30)
        assert time.monotonic() - started > 3
    assert told == ["", "NotAuthorized", "NotAuthorized"], "the group counts only without polkit"


def test_polkit_that_has_a_question_says_so(guarded: Bus) -> None:
    with inbus.polkit(guarded.address, {"io.github.lio-handover1.read": "challenge"}):
        assert inbus.as_user(NOBODY, answers, guarded.address)[0] == \
            NOT_OURS + "InteractiveAuthorizationRequired"


def others_job(address: str, job: str) -> list[str]:
    client = Client(address)
    return [client.error(job, names.JOB, member, "a{sv}", options({}))
            for member in ("Open", "Cancel", "Release")]


def test_anothers_job_may_be_looked_at_and_no_more(guarded: Bus) -> None:
    client = guarded.client()
    job = client.manager("Show", "asa{sv}", [], options({}))
    client.job(job)
    with inbus.polkit(guarded.address, {"io.github.lio-handover1.read": "yes"}):
        assert inbus.as_user(NOBODY, others_job, guarded.address, job) == [
            "", "NotAuthorized", "NotAuthorized"]
        assert client.get(job, names.JOB)["State"] == "failed"


# ── from start to end ────────────────────────────────────────────────────────────────────────

def test_there_is_one_service(bus: Bus) -> None:
    other = bus.start()
    assert other.wait(20) == errors.NoService.code
    assert "another process owns" in (bus.folder / "log").read_text()


def test_it_ends_when_told_and_when_the_bus_goes(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one = Bus(Path(folder))
        with one.held():
            job = one.client().manager("Show", "asa{sv}", [], options({}))
            one.daemon.terminate()
            time.sleep(0.3)
            assert one.daemon.poll() is None  # somebody is at work
        assert one.daemon.wait(20) == 0
        again = one.start()
        inbus.wait_for_name(one.address)
        client = one.client()
        client.job(client.manager("Show", "asa{sv}", [], options({})))
        assert client.error(job, names.JOB, "Wait", "ta{sv}", 0, options({})) == \
            NOT_OURS + "UnknownObject"  # and nobody else's
        one.stop()
        assert again.returncode == 0


def test_a_handovers_job_says_what_it_is_about_however_it_ends(bus: Bus, client: Client) -> None:
    """Its properties, and the fields in the log: also before there is a journal of it."""
    known = bus.handover
    offer = Message(MessageType.OFFER, known.id.replace("1", "2"), 1, targets=("iscsi/offered",),
                    mode="iscsi")
    fd = os.memfd_create("messages")
    os.write(fd, to_json([offer]))
    for about, job in (
            (known.targets, client.call(handover_path(bus), names.HANDOVER, "Retire", "aha{sv}",
                                        descriptors(), options({}))),
            (known.targets, inbus.object_verb(client, known.id, "Recover")),
            (("iscsi/x",), client.manager("PrepareHandover", "asa{sv}", ["iscsi/x"], options({}))),
            (offer.targets, client.manager("StageHandover", "aha{sv}", descriptors(fd),
                                           options({})))):
        ended = client.job(job)
        assert ended["Targets"] == list(about), ended
        assert re.fullmatch("[0-9a-f-]{36}", ended["Handover"]), ended
        said = (bus.folder / "log").read_text().splitlines()
        assert [line for line in said if f"job {ended['Id']}: " in line and ended["State"] in line
                and f"(handover={ended['Handover']}, target={' '.join(about)}" in line], said


def test_the_journal_gets_fields_of_its_own(tmp_path: Path) -> None:
    from lio_handover.system.journald import WARNING, Log
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        Log(str(tmp_path / "socket")).say("one\nline", WARNING, handover="1-2", target="iscsi/x",
                                          step="gate", job="")
        fields = dict(line.split("=", 1) for line in journal.recv(4096).decode().splitlines())
    assert fields == {"MESSAGE": "one line", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "lio-handoverd",
                      "LIO_HANDOVER_ID": "1-2", "LIO_TARGET": "iscsi/x", "LIO_STEP": "gate"}


def test_who_says_that_a_host_is_off_stands_in_the_log(
        bus: Bus, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the service and by the command line alone, of one handover and of all."""
    known, force = bus.handover, {"peer-is-fenced": True}
    job = client.call(handover_path(bus), names.HANDOVER, "Recover", "aha{sv}", descriptors(),
                      options(force))
    sender = client.bus.get_unique_name()
    assert (f"<4>user 0 ({sender}) says peer-is-fenced of handover {known.id} "
            f"(handover={known.id}, target={known.targets[0]})\n"
            ) in (bus.folder / "log").read_text(), job
    monkeypatch.setattr(journald, "SOCKET", str(tmp_path / "socket"))
    monkeypatch.setenv("SUDO_USER", "alice")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        journal.settimeout(10)
        for words, about in (([known.id], f"handover {known.id}"), ([], "every handover")):
            main.main(["--config", str(bus.config), "recover", *words, "--peer-is-fenced"])
            fields = dict(line.split("=", 1) for line in journal.recv(4096).decode().splitlines())
            assert fields["MESSAGE"] == f"alice says peer-is-fenced of {about}"
            assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"]) == ("4", "lio-handover")
            assert fields.get("LIO_HANDOVER_ID", "") == "".join(words)


def test_the_log_goes_to_standard_error_without_a_journal(capfd: pytest.CaptureFixture[str],
                                                          tmp_path: Path) -> None:
    from lio_handover.system.journald import Log
    Log(str(tmp_path / "none")).say("what\nhappened", job="7")
    assert capfd.readouterr().err == "<6>what happened (job=7)\n"


# ── names and values ─────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("name, element", [
    ("iscsi/iqn.2003-01.org.x:a", "iscsi_2fiqn_2e2003_2d01_2eorg_2ex_3aa"), ("", "_"),
    ("_", "_5f"), ("é\udcff", "_c3_a9_ff")])
def test_names_are_written_as_elements_of_paths(name: str, element: str) -> None:
    assert (names.encode(name), names.decode(element)) == (element, name)
    assert dbus.ObjectPath(f"/{element}")


@pytest.mark.parametrize("element", ["", "a-b", "_5", "_xx", "_5F", "a/b"])
def test_other_elements_are_no_names(element: str) -> None:
    with pytest.raises(ValueError, match="no path element"):
        names.decode(element)


@pytest.mark.parametrize("signature, value", [
    ("o", "iqn.2003-01.org.x"), ("u", -1), ("u", 1 << 32), ("a{sv}", {"x": None}),
    ("(su)", ("x",)), ("t", "x"), ("(uus)", (1, 2))])
def test_what_has_no_place_in_a_message_is_an_error_and_not_the_end(
        signature: str, value: Any) -> None:
    from lio_handover.service.bus import marshal
    with pytest.raises(marshal.Wrong):
        marshal.typed(signature, value)


def test_text_is_made_fit_for_a_message() -> None:
    from lio_handover.service.bus import marshal
    assert marshal.typed("s", "a\0b\udcff") == "a\\0b\\udcff"
    assert marshal.plain(marshal.variant({"a": [1, "x"], "b": [], "c": True, "d": 1.5,
                                          "e": {}})) == {
        "a": [1, "x"], "b": [], "c": True, "d": 1.5, "e": {}}


# ── signals ──────────────────────────────────────────────────────────────────────────────────

Heard = list[tuple[str, str, Any]]


@pytest.fixture
def heard(bus: Bus) -> Iterator[Heard]:
    """(path, member, arguments) of every signal so far, once `hear` has waited for them."""
    mainloop = pytest.importorskip("dbus.mainloop.glib").DBusGMainLoop()
    connection = dbus.bus.BusConnection(bus.address, mainloop=mainloop)
    found: Heard = []
    connection.add_signal_receiver(
        lambda *args, member, path: found.append((str(path), str(member), inbus.plain(args))),
        bus_name=names.BUS_NAME, member_keyword="member", path_keyword="path")
    yield found
    connection.close()


def hear(true: Callable[[], bool]) -> None:
    """Take what is signalled until it is enough."""
    context = pytest.importorskip("gi.repository.GLib").MainContext.default()

    def enough() -> bool:
        while context.iteration(False):
            pass
        return true()

    wait_until(enough)


def test_what_others_write_to_journals_is_told_and_shown(
        bus: Bus, client: Client, heard: Heard) -> None:
    """As the command line's recover does: a change of state, a handover that comes and one that
    goes are heard by who waits; who asks is told what is true now."""
    folder, path = f"{bus.folder}/state", handover_path(bus)

    def told(path: str) -> list[str]:
        """The states of a handover that signals spoke of."""
        return [properties["State"] for where, member, args in heard for properties in (
            args[1] if (where, member) == (path, "PropertiesChanged") else
            args[1][names.HANDOVER] if member == "InterfacesAdded" and args[0] == path else {},)
            if "State" in properties]

    client.manager("ListHandovers")
    time.sleep(1)
    new = inbus.handover_here(folder, id=bus.handover.id.replace("1", "3"))
    hear(lambda: told(names.path(names.HANDOVERS, new.id))[-1:] == ["none"])
    time.sleep(1)  # nothing of that is left to be looked at
    journal = Journal(folder, bus.handover.id)
    for state in ("staged", "armed", "none"):
        journal.state(state, 1, "some boot")
        hear(lambda: told(path)[-1:] == [state])
    shutil.rmtree(f"{folder}/handovers/{new.id}")
    hear(lambda: any(one[1] == "InterfacesRemoved" for one in heard))
    for _ in range(5):  # faster than anybody is told
        journal.note("begin", verb="verify", to="")
        assert client.get(path, names.HANDOVER)["Busy"] == "verify"
        journal.note("end")
        assert client.get(path, names.HANDOVER)["Busy"] == ""


def test_changes_are_told(bus: Bus, heard: Heard) -> None:
    """InterfacesAdded, PropertiesChanged, Completed and InterfacesRemoved, as a job comes and
    goes; and nothing but the state is told to everybody."""
    client = bus.client()
    job = client.manager("Show", "asa{sv}", [], options({}))
    client.job(job)
    client.call(job, names.JOB, "Release", "a{sv}", options({}))
    hear(lambda: bool(heard) and heard[-1][1] == "InterfacesRemoved")
    mine = [one for one in heard if one[0] == job or job in one[2]]
    assert [member for _, member, _ in mine] == [
        "InterfacesAdded", "PropertiesChanged", "Completed", "InterfacesRemoved"]
    assert mine[0][2][1][names.JOB] == {"State": "running"}
    interface, changed, invalid = mine[1][2]
    assert (interface, changed) == (names.JOB, {"State": "failed"})
    assert {"Error", "Result", "Targets", "Handover", "Step"} <= set(invalid)
    assert mine[2][2] == ["failed", ""]

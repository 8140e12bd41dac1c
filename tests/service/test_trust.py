"""What callers of the service are trusted with: who may look learns no secret, holds nobody up, and
gets nothing that is another's.  On a private bus, where polkit is played by somebody."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lio_handover import dbus_names as names, errors
from tests.support import inbus, samples
from tests.support.inbus import NOBODY, Client, options
from tests.support.instandin_worker import DATA

dbus = pytest.importorskip("dbus")
jobs = pytest.importorskip("lio_handover.service.jobs")
from tests.support.privatebus import POLKIT, STANDIN, Bus, wait_until  # noqa: E402 - it needs dbus

ACTION = "io.github.lio-handover1."
READ = {ACTION + "read": "yes"}
ROOT, NOT_OURS = names.ROOT, "org.freedesktop.DBus.Error."


def service(patch: str) -> Iterator[Bus]:
    with tempfile.TemporaryDirectory() as folder:
        made = Bus(Path(folder), POLKIT, f"[service]\ngroup = {inbus.GROUP}\n", patch)
        yield made
        made.stop()


@pytest.fixture(scope="module")
def standin() -> Iterator[Bus]:
    """Its workers do what their targets' names say; a minute has a second."""
    yield from service(STANDIN + "from lio_handover.service import jobs\njobs.READ_SECONDS = 1\n")


def begun(client: Client, *steps: str, member: str = "Show") -> str:
    """A job whose worker takes these steps."""
    return str(client.manager(member, "asa{sv}", [f"do/{step}" for step in steps], options({})))


def ended(client: Client, *steps: str) -> str:
    job = begun(client, *steps)
    client.job(job)
    return job


def shown(opened: Any) -> bytes:
    with os.fdopen(opened.take(), "rb") as file:
        return file.read()


def read_all(address: str, job: str) -> tuple[str, bytes, str, bytes]:
    """What Open and Read answer: the error's name, or the data."""
    client = Client(address)
    told: list[Any] = []
    for member, signature, *args in (("Open", "a{sv}"), ("Read", "tua{sv}", 0, 1 << 20)):
        try:
            answer = client.call(job, names.JOB, member, signature, *args, options({}))
            told += ["", shown(answer) if member == "Open" else bytes(answer)]
        except dbus.DBusException as error:
            told += [error.get_dbus_name().removeprefix(names.ERROR), b""]
    return told[0], told[1], told[2], told[3]


# ── what is gone meanwhile ───────────────────────────────────────────────────────────────────────

Answers = list[tuple[str, bytes]]


def calls_on(address: str, job: str) -> Answers:
    """(error, data) of each method of a job, all called at once."""
    found: dict[str, tuple[str, bytes]] = {}
    mainloop = pytest.importorskip("dbus.mainloop.glib").DBusGMainLoop()
    glib = pytest.importorskip("gi.repository.GLib")
    bus = dbus.bus.BusConnection(address, mainloop=mainloop)
    methods = (("Open", "a{sv}"), ("Read", "tua{sv}", dbus.UInt64(0), dbus.UInt32(1 << 20)),
               ("Cancel", "a{sv}"), ("Release", "a{sv}"), ("Wait", "ta{sv}", dbus.UInt64(1)))
    for member, signature, *args in methods:
        def answered(*values: Any, member: str = member) -> None:
            found[member] = "", shown(values[0]) if member == "Open" else bytes(
                values[0]) if member == "Read" else b""

        def failed(error: Any, member: str = member) -> None:
            found[member] = str(error.get_dbus_name()).removeprefix(names.ERROR), b""

        bus.call_async(names.BUS_NAME, job, names.JOB, member, signature, (*args, options({})),
                       answered, failed, byte_arrays=True, timeout=30)
    while len(found) < len(methods):
        glib.MainContext.default().iteration(True)
    return [found[member] for member, *_ in methods]


@pytest.mark.parametrize("steps", [("plain", "write"), ("secret", "write")],
                         ids=["first-answer", "second-answer"])
def test_a_job_that_is_released_while_polkit_thinks_is_unknown(
        standin: Bus, steps: tuple[str, ...]) -> None:
    """Its descriptor's number is another's by then: root's upload.  All calls waited for polkit's
    first answer, or (data with secrets; what is of another user) for the second."""
    client = standin.client()
    job = ended(client, *steps)
    slow = {f"{NOBODY}:{ACTION}{action}": "yes" for action in ("read", "write", "document")}
    with inbus.polkit(standin.address, slow, delay=0.4):
        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(inbus.as_user, NOBODY, calls_on, standin.address, job)
            time.sleep(0.6 if steps[0] == "secret" else 0.2)
            client.call(job, names.JOB, "Release", "a{sv}", options({}))
            token = client.manager("Upload", "saya{sv}", "", b"root's upload" * 9, options({}))
            told = answers.result(30)
    gone = NOT_OURS + "UnknownObject"
    assert {error for error, _data in told} <= {"", gone}, told
    assert [data for _error, data in told if b"root" in data] == []
    if steps[0] == "plain":
        assert [error for error, _data in told] == [gone] * 5, told
    else:  # Open, Read, Cancel and Release wait for a second answer
        assert [error for error, _data in told[:4]] == [gone] * 4, told
    client.error(ROOT, names.MANAGER, "Import", "aha{sv}", inbus.descriptors(),
                 options({"upload": token}))


def test_a_handover_that_is_gone_meanwhile_is_unknown(standin: Bus) -> None:
    new = inbus.handover_here(f"{standin.bus_state}", id="44444444-0000-4000-8000-000000000000")
    path = names.path(names.HANDOVERS, new.id)
    wait_until(lambda: path in standin.client().objects())
    import shutil
    with inbus.polkit(standin.address, {f"{NOBODY}:{ACTION}{action}": "yes"
                                        for action in ("read", "write")}, delay=0.5):
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(inbus.as_user, NOBODY, verify_it, standin.address, path)
            time.sleep(0.2)
            shutil.rmtree(f"{standin.bus_state}/handovers/{new.id}")
            wait_until(lambda: path not in standin.client().objects())
            assert answer.result(30) == NOT_OURS + "UnknownObject"


def verify_it(address: str, path: str) -> str:
    return Client(address).error(path, names.HANDOVER, "Verify", "a{sv}", options({}))


def test_a_caller_who_left_is_not_waited_for(standin: Bus, tmp_path: Path) -> None:
    """polkit's question is withdrawn, descriptors that came with the call are closed, nothing is
    begun, and a Wait is forgotten."""
    def opened() -> int:
        """The descriptors of the document that the service has."""
        return [os.readlink(file).startswith("/memfd:document") for file in Path(
            f"/proc/{standin.daemon.pid}/fd").iterdir() if file.is_symlink()].count(True)

    client = standin.client()
    held = begun(client, "wait")
    before = len(client.objects())
    with inbus.polkit(standin.address, {**READ, f"{NOBODY}:{ACTION}write": "wait"},
                      seen=str(tmp_path / "seen")):
        (tmp_path / "seen").touch()
        tmp_path.chmod(0o777)
        inbus.as_user(NOBODY, call_and_leave, standin.address, held)
        wait_until(lambda: "cancelled" in (tmp_path / "seen").read_text())
        wait_until(lambda: opened() == 0)
        asked = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
        question, = {call["question"] for call in asked if call.get("action") == f"{ACTION}write"}
        assert question and {"cancelled": question} in asked
        assert len(client.objects()) == before
    client.call(held, names.JOB, "Cancel", "a{sv}", options({}))
    client.job(held)


def call_and_leave(address: str, job: str) -> None:
    """An Import with a descriptor, which polkit has a question about, and a Wait."""
    client, fd = Client(address), os.memfd_create("document")
    for path, interface, member, signature, *args in (
            (ROOT, names.MANAGER, "Import", "aha{sv}", inbus.descriptors(fd)),
            (job, names.JOB, "Wait", "ta{sv}", dbus.UInt64(0))):
        client.bus.call_async(names.BUS_NAME, path, interface, member, signature,
                              (*args, options({})), None, None)
    client.bus.flush()
    assert client.get(ROOT, names.MANAGER)  # by then both have come
    client.bus.close()


# ── data are secret until the worker says otherwise ──────────────────────────────────────────────

def test_data_that_were_not_announced_are_nobodys(standin: Bus) -> None:
    """However the job ends: it died, was cancelled, forgot to say, wrote more than it said."""
    client = standin.client()
    with inbus.polkit(standin.address, READ):
        for steps, size in ((("write", "die"), 0), (("write", "wait"), 0), (("write",), 0),
                            (("secret", "write", "die"), 0),
                            (("plain", "write", "write"), len(DATA))):
            job = begun(client, *steps)
            if "wait" in steps:
                time.sleep(0.3)
                client.call(job, names.JOB, "Cancel", "a{sv}", options({}))
            assert client.job(job)["Size"] == size, steps
            told = inbus.as_user(NOBODY, read_all, standin.address, job)
            assert told == ("", DATA[:size], "", DATA[:size]), steps
            assert read_all(standin.address, job)[1] == DATA[:size], steps


def test_secret_data_are_read_by_who_may(standin: Bus) -> None:
    job = ended(standin.client(), "secret", "write")
    with inbus.polkit(standin.address, READ):
        assert inbus.as_user(NOBODY, read_all, standin.address, job) == (
            "NotAuthorized", b"", "NotAuthorized", b"")
    assert read_all(standin.address, job) == ("", DATA, "", DATA)


def test_the_worker_says_what_data_are_before_it_writes_them(
        monkeypatch: pytest.MonkeyPatch) -> None:
    from lio_handover.service import worker
    answer, sizes = os.memfd_create("answer"), []
    monkeypatch.setattr(worker, "say", lambda words: sizes.append(
        (words, os.fstat(answer).st_size)))
    worker._answer(SimpleNamespace(answer=answer), DATA, True)  # type: ignore[arg-type]
    assert sizes == [({"data": len(DATA), "secret": True}, 0)]
    assert os.fstat(answer).st_size == len(DATA)
    os.close(answer)


# ── places ───────────────────────────────────────────────────────────────────────────────────────

USERS = (1, 2, 3)  # daemon, bin and sys: the bus lets in who has an account


def fill(address: str) -> list[str]:
    """Begin jobs until no more are taken, upload until no more are taken; the errors."""
    client, told = Client(address), []
    for member, signature, *args in (
            ("Show", "asa{sv}", ["do/wait"]), ("Upload", "saya{sv}", "", b"x")):
        for _ in range(40):
            error = client.error(ROOT, names.MANAGER, member, signature, *args, options({}))
            if error:
                told.append(error)
                break
    return told


def test_root_has_places_of_its_own(standin: Bus) -> None:
    """Whatever others began; and theirs end after a minute (here: a second), root's do not."""
    client = standin.client()
    mine = begun(client, "wait")
    kept = ended(client, "plain", "write")
    with inbus.polkit(standin.address, READ):
        for uid in USERS:
            assert inbus.as_user(uid, fill, standin.address) == ["TooMany", "TooMany"]
    mine_too = begun(client, "wait", member="Freeze")
    token = client.manager("Upload", "saya{sv}", "", b"x", options({}))

    def others() -> list[dict[str, Any]]:
        found = [client.get(path, names.JOB) for path in client.objects() if "/jobs/" in path]
        return [job for job in found if job["User"] in USERS]

    assert len(others()) >= jobs.PLACES["others"].jobs
    wait_until(lambda: all(job["State"] == "failed" for job in others()))
    assert {str(job["Error"][0]) for job in others()} == {names.ERROR + "TooMany"}
    assert "minute" in others()[0]["Error"][1]
    assert client.get(mine, names.JOB)["State"] == "running"
    for job in (mine, mine_too):
        client.call(job, names.JOB, "Cancel", "a{sv}", options({}))
        client.job(job)
    client.error(ROOT, names.MANAGER, "Import", "aha{sv}", inbus.descriptors(),
                 options({"upload": token}))
    assert read_all(standin.address, kept)[1] == DATA  # others' ended jobs did not take its place


def end_many(address: str) -> int:
    """Begin and end more jobs than are kept."""
    client = Client(address)
    return len([ended(client, "plain") for _ in range(jobs.KEPT + 2)])


@pytest.mark.full
def test_what_root_was_answered_is_kept_whatever_others_do(standin: Bus) -> None:
    """Takes 15 seconds: 66 jobs."""
    kept = ended(standin.client(), "plain", "write")
    with inbus.polkit(standin.address, READ):
        assert inbus.as_user(NOBODY, end_many, standin.address) == jobs.KEPT + 2
    assert read_all(standin.address, kept)[1] == DATA


def compared(address: str, mib: int, by_upload: bool) -> str:
    """How Diff ends, with a document of so many MiB."""
    client, data = Client(address), b" " * (mib << 20)
    document, token = os.memfd_create("document"), ""
    os.write(document, data)
    try:
        for at in range(0, len(data), 1 << 20) if by_upload else ():
            token = client.manager("Upload", "saya{sv}", token, data[at:at + (1 << 20)],
                                   options({}))
        job = client.manager("Diff", "aha{sv}", inbus.descriptors(
            *([] if by_upload else [document])), options({"upload": token} if token else {}))
    except dbus.DBusException as error:
        return str(error.get_dbus_name().removeprefix(names.ERROR))
    return str(client.job(job)["Error"][0]).removeprefix(names.ERROR)


def test_who_may_only_look_has_documents_of_8_mib() -> None:
    """As a descriptor or in pieces; root, and in pieces who may change, has what [limits] says."""
    with tempfile.TemporaryDirectory() as folder:
        dropins = Path(folder, "lio-handover.conf.d")
        dropins.mkdir()
        (dropins / "large.conf").write_text("[limits]\ndocument = 64M\n")
        bus = Bus(Path(folder), POLKIT)
        try:
            with inbus.polkit(bus.address, {**READ, f"1:{ACTION}write": "yes"}):
                told = [inbus.as_user(uid, compared, bus.address, 9, by_upload)
                        for uid in (NOBODY, 1) for by_upload in (False, True)]
            assert told == ["TooLarge", "NotAuthorized", "TooLarge", "TooLarge"]
            assert compared(bus.address, 9, False) == "Truncated"  # of blanks
        finally:
            bus.stop()


#: Work that takes 300 MiB, for whoever may only look or for root: how it ends.
MEMORY = """
import sys
from lio_handover.service import worker
worker.Work({"verb": "show", "role": "", "config": "/dev/null", "probe": False, "secrets": True,
             "limited": False, "small": sys.argv[1] == "small"}, -1, [])
try:
    print(len(bytearray(300 << 20)) >> 20, "MiB")
except MemoryError as error:
    print(type(worker.as_handover_error(error)).__name__)
"""


@pytest.mark.parametrize("whose, ends", [("small", "TooLarge"), ("root", "300 MiB")])
def test_who_may_only_look_has_256_mib(whose: str, ends: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, whose], cwd=inbus.CHECKOUT, text=True,
                          capture_output=True, check=False)
    assert done.stdout.strip() == ends, done.stderr


def test_who_may_only_look_locks_nothing_and_makes_nothing(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a vhost target, prepare asks the kernel by a scratch target: not for them."""
    from lio_handover.document import representable
    from lio_handover.document.document import Document
    from lio_handover.host import preflight, probes, verbs as host_verbs
    from lio_handover.savefile import save_file
    from lio_handover.settings import Settings
    made: Any = []
    state = samples.vhost()
    host = host_verbs.HostVerbs(Settings(state_directory=str(tmp_path / "state")))
    monkeypatch.setattr(host_verbs.HostVerbs, "reader", lambda *_: SimpleNamespace(
        state=lambda names: state))
    monkeypatch.setattr(host_verbs.HostVerbs, "_document", lambda *_: Document(state))
    monkeypatch.setattr(host_verbs.HostVerbs, "lock_names", lambda *_: ["vhost/x"])
    monkeypatch.setattr(preflight, "source", lambda *_: [])
    monkeypatch.setattr(representable, "findings", lambda *_: [])
    monkeypatch.setattr(save_file, "findings", lambda *_: [])
    monkeypatch.setattr(probes, "logs_guest_writes", lambda _fs: made.append("target") or True)
    host.read_only = True
    host.prepare([("vhost", "x")])
    with pytest.raises(errors.NotAuthorized, match="locks nothing"), host.alone([("vhost", "x")]):
        pass
    assert made == [] and not (tmp_path / "state").exists()
    host.read_only = False
    host.prepare([("vhost", "x")])
    assert made == ["target"]


# ── signals and names ────────────────────────────────────────────────────────────────────────────

def listen(address: str, seconds: float) -> list[tuple[str, str, Any]]:
    """(path, member, arguments) of all signals of the service."""
    mainloop = pytest.importorskip("dbus.mainloop.glib").DBusGMainLoop()
    glib = pytest.importorskip("gi.repository.GLib")
    bus = dbus.bus.BusConnection(address, mainloop=mainloop)
    found: list[tuple[str, str, Any]] = []
    bus.add_signal_receiver(
        lambda *args, member, path: found.append((str(path), str(member), inbus.plain(args))),
        bus_name=names.BUS_NAME, member_keyword="member", path_keyword="path")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        glib.MainContext.default().iteration(False)
        time.sleep(0.005)
    return found


def values_in(told: Any) -> Iterator[Any]:
    """Every text and number in a signal's arguments."""
    if isinstance(told, dict):
        for value in told.values():
            yield from values_in(value)
    elif isinstance(told, list):
        for value in told:
            yield from values_in(value)
    else:
        yield told


def test_signals_carry_path_and_state_and_no_more(standin: Bus) -> None:
    """Whoever is on the bus hears them: no name, error or result, and of properties the State."""
    client = standin.client()
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(inbus.as_user, NOBODY, listen, standin.address, 2.0)
        time.sleep(0.5)
        job = begun(client, "iqn.2003-01.org.example:private", "die")
        client.job(job)
        new = inbus.handover_here(standin.bus_state, id="55555555-0000-4000-8000-000000000000")
        path = names.path(names.HANDOVERS, new.id)
        wait_until(lambda: path in client.objects())
        client.call(job, names.JOB, "Release", "a{sv}", options({}))
        signals = heard.result(30)
    import shutil
    shutil.rmtree(f"{standin.bus_state}/handovers/{new.id}")
    mine = [(member, args) for where, member, args in signals
            if where in (job, path) or args and args[0] in (job, path)]
    states = {"running", "failed", "none", "staged", "armed", ""}
    for member, args in mine:
        if member == "PropertiesChanged":
            interface, changed, invalid = args
            assert set(changed) <= {"State"} and set(changed.values()) <= states, args
            assert interface in (names.JOB, names.HANDOVER)
        elif member == "InterfacesAdded":
            assert {name for properties in args[1].values() for name in properties} <= {"State"}
        elif member == "Completed":
            assert args == ["failed", ""]
    assert {"PropertiesChanged", "InterfacesAdded", "Completed", "InterfacesRemoved"} <= {
        member for member, _args in mine}
    said = json.dumps(signals)
    assert "private" not in said and "WorkerDied" not in said and "iqn" not in said, said


def look_around(address: str, paths: list[str]) -> list[str]:
    client, told = Client(address), []
    for path in paths:
        try:
            xml = str(client.call(path, names.INTROSPECTABLE, "Introspect"))
            told.append("children" if "<node name" in xml else "alone")
        except dbus.DBusException as error:
            told.append(error.get_dbus_name().removeprefix(names.ERROR))
    return told


def test_what_there_is_is_listed_to_who_may_look(standin: Bus) -> None:
    """To nobody else, not even whether an object of a known name is there."""
    job = ended(standin.client(), "plain")
    folders = ["/", "/io", ROOT, f"{ROOT}/jobs", f"{ROOT}/handovers"]
    there = names.path(names.HANDOVERS, standin.handover.id)
    objects = [job, there, there[:-1] + "7", f"{ROOT}/targets/iscsi_2fx", f"{ROOT}/jobs/7"]
    told = inbus.as_user(NOBODY, look_around, standin.address, [*folders, *objects])
    assert told == ["children", "children", "alone", "alone", "alone"] + ["NotAuthorized"] * 5
    get = inbus.as_user(NOBODY, errors_of_get, standin.address, objects)
    assert get == ["NotAuthorized"] * 5
    unknown = NOT_OURS + "UnknownObject"
    with inbus.polkit(standin.address, READ):
        told = inbus.as_user(NOBODY, look_around, standin.address, [*folders, *objects])
        assert told == ["children"] * 5 + ["alone"] * 2 + [unknown] * 3


def errors_of_get(address: str, paths: list[str]) -> list[str]:
    client = Client(address)
    return [client.error(path, names.PROPERTIES, "GetAll", "s", names.JOB) for path in paths]


# ── polkit ───────────────────────────────────────────────────────────────────────────────────────

def ask_often(address: str, times: int) -> list[str]:
    """Call so many times at once; the errors that came within a second."""
    mainloop = pytest.importorskip("dbus.mainloop.glib").DBusGMainLoop()
    glib = pytest.importorskip("gi.repository.GLib")
    bus = dbus.bus.BusConnection(address, mainloop=mainloop)
    told: list[str] = []
    for _ in range(times):
        bus.call_async(names.BUS_NAME, ROOT, names.MANAGER, "ListTargets", "a{sv}", (options({}),),
                       lambda *_: told.append(""),
                       lambda error: told.append(str(error.get_dbus_name())), timeout=30)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        glib.MainContext.default().iteration(False)
        time.sleep(0.005)
    return told


def test_a_user_has_sixteen_questions_at_most(standin: Bus) -> None:
    """On however many connections; others are not held up by them."""
    with inbus.polkit(standin.address, {f"{NOBODY}:{ACTION}read": "wait", **READ}):
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(inbus.as_user, NOBODY, ask_often, standin.address, 15)
                     for _ in range(2)]
            time.sleep(0.6)
            assert inbus.as_user(USERS[0], errors_of_get, standin.address, [ROOT]) != [
                names.ERROR + "TooMany"]
            told = [error for answer in asked for error in answer.result(30)]
        assert told == [names.ERROR + "TooMany"] * 14
        # They left: their questions are withdrawn.
        told = inbus.as_user(NOBODY, ask_often, standin.address, 17)
        assert told == [names.ERROR + "TooMany"]


def ask_for(address: str, calls: list[tuple[Any, ...]]) -> list[str]:
    client = Client(address)
    return [client.error(*call) for call in calls]


def test_a_question_names_verb_and_target(standin: Bus, tmp_path: Path) -> None:
    """One line, without what a terminal obeys; of a handover and a job, whose they are."""
    tmp_path.chmod(0o777)
    seen = tmp_path / "seen"
    handover = names.path(names.HANDOVERS, standin.handover.id)
    job = ended(standin.client(), "iqn.2003-01.org.example:db")
    target, odd = "iscsi/iqn.2003-01.org.example:db", "iscsi/\x1b[2Jx\ny" + "z" * 400
    calls: list[tuple[Any, ...]] = [
        (ROOT, names.MANAGER, "Freeze", "asa{sv}", [target, odd]),
        (handover, names.HANDOVER, "Verify", "a{sv}"),
        (job, names.JOB, "Release", "a{sv}"),
        (ROOT, names.MANAGER, "ListTargets", "a{sv}")]
    with inbus.polkit(standin.address, READ, seen=str(seen)):
        told = inbus.as_user(NOBODY, ask_many, standin.address, calls)
    assert told == ["NotAuthorized"] * 3 + [""]
    asked = {(call["details"]["verb"], call["action"].removeprefix(ACTION)): call["details"]
             for call in map(json.loads, seen.read_text().splitlines()) if "details" in call}
    freeze = asked["Freeze", "write"]
    assert freeze["target"].startswith(target) and len(freeze["target"]) <= 200
    assert freeze["target"].isprintable()
    assert "$(verb)" in freeze["polkit.message"] and "$(target)" in freeze["polkit.message"]
    assert asked["Verify", "write"]["target"] == standin.handover.targets[0]
    assert asked["Release", "write"]["target"] == "do/iqn.2003-01.org.example:db"
    assert asked["ListTargets", "read"]["target"] == "this host"


def ask_many(address: str, calls: list[tuple[Any, ...]]) -> list[str]:
    client = Client(address)
    return [client.error(*call, options({})) for call in calls]


# ── errors ───────────────────────────────────────────────────────────────────────────────────────

def test_an_error_of_unexpected_type_shows_its_type_alone() -> None:
    """Of a job, of whoever looks after targets, and of QEMU's helper: its text may be anything."""
    from lio_handover.service import worker
    shown = str(worker.as_handover_error(ValueError("CHAP-SECRET-4711")))
    assert "ValueError" in shown and "SECRET" not in shown
    assert "SECRET" not in str(worker.as_handover_error(OSError("CHAP-SECRET-4711")))


def test_the_guard_and_qemus_helper_tell_the_type_alone(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lio_handover.service import guards
    from lio_handover.vmstate import worker as helper

    class Odd:
        def __init__(self, *_: Any) -> None:
            self.fd = os.open("/dev/null", os.O_RDONLY)

        def fileno(self) -> int:
            return self.fd

        def look(self) -> float:
            raise ValueError("CHAP-SECRET-4711")

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(guards, "Guard", Odd)
    ours, its = os.pipe()
    os.close(its)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stdin = os.dup(0)
    try:
        os.dup2(ours, 0)
        guards.guards("", told.append)
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(ours)
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def fails() -> None:
        raise ValueError("CHAP-SECRET-4711")

    helper.answering(fails)
    said = json.dumps(told) + capsys.readouterr().out
    assert said.count("ValueError") == 2 and "SECRET" not in said, said

"""The service as it is shipped, on the system bus of hosts with real kernels."""
from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import dbus_names as names, errors
from lio_handover.document import document as documents
from lio_handover.model import diff as differ, objects
from lio_handover.model.objects import State
from lio_handover.service.bus import interfaces as bus_interfaces
from tests import lab
from tests.conftest import Pool
from tests.kernel.test_import import rich
from tests.support import inbus, inhandover, inhost, samples
from tests.support.inbus import Service


@pytest.fixture
def service(bed: lab.Lab, _pool: Pool) -> Service:
    """Of the stable kernel's host of its own: what is installed there stays."""
    made = Service(_pool.take("stable", name="bus")[0])
    made.start()
    return made


NAME = f"iscsi/{samples.IQN}"


@pytest.fixture
def two(bed: lab.Lab, _pool: Pool) -> tuple[Service, Service]:
    """Two hosts with the service; the first serves a target without secrets."""
    a, b = (Service(_pool.take(role, name=name)[0])
            for role, name in (("stable", "bus"), ("newest", "bus2")))
    for one in (a, b):
        one.start()
    a.call(inhost.build, inhandover.state(bed.shared))
    return a, b


@pytest.fixture
def served(service: Service, bed: lab.Lab) -> Service:
    """It serves a target with three LUNs, CHAP secrets and reservations."""
    service.call(inhost.build, rich(bed.shared))
    return service


def test_a_target_goes_and_comes_back_by_the_service(served: Service) -> None:
    """By descriptors; and who monitors the bus, as root may, sees no secret go by."""
    path = f"{names.ROOT}/targets/{names.encode(NAME)}"
    monitor = served.host.popen(["sh", "-c", "exec dbus-monitor --system --binary >/run/seen"])
    assert served.call(inbus.targets) == [(NAME, path)]
    assert served.call(inbus.get, path, names.TARGET)["RestoredBy"] == "targetcli"
    frozen = served.call(inbus.run, "Freeze", NAME)
    assert frozen["State"] == "done" and frozen["Result"]["writes"] == 1, frozen
    number, total, step = served.call(inbus.steps_heard, "Freeze", NAME)[-1]
    assert 0 < number <= total and step, (number, total, step)
    shown = served.call(inbus.get, path, names.TARGET)
    assert (shown["Frozen"], shown["RestoredBy"]) == (True, "lio-handover")
    exported, document = served.call(inbus.export, NAME)
    assert exported["State"] == "done" and exported["Secret"], exported
    assert "digest" not in exported["Result"], "it has secrets, which could be tried"
    refused = served.call(inbus.run, "Remove", NAME)
    assert refused["Error"][0] == names.ERROR + "InUse" and refused["Result"]["findings"]
    removed = served.call(inbus.run, "Remove", NAME, {"allow": ["reserved"]})
    assert removed["State"] == "done", removed
    assert served.call(inbus.targets) == []
    for verb in ("Plan", "Import", "Verify", "Diff"):
        # It was exported, and removed, on this very host.
        job = served.call(inbus.run_document, verb, document,
                          {"allow": ["exported"]} if verb in ("Plan", "Import") else {})
        assert (job["State"], job["Progress"], job["Secret"]) == ("done", 1.0, False), job
    assert served.call(inbus.get, path, names.TARGET)["Enabled"]
    served.call(inhandover.clock, int(time.time()) + 7200)
    time.sleep(1.5)  # jobs are looked at every second
    assert served.call(inbus.get, f"{names.ROOT}/jobs/{exported['Id']}", names.JOB) == exported
    served.call(inhandover.clock, int(time.time()))
    assert served.call(inbus.without_configfs) == (
        "NoTargetModules", "configfs is not mounted", [path])
    assert served.call(inbus.targets) == [(NAME, path)]
    assert served.call(inbus.get, names.ROOT, names.MANAGER)["Stale"] == ""
    monitor.kill(signal.SIGTERM)
    seen = served.host.run(["cat", "/run/seen"], text=False).stdout
    assert NAME.encode() in seen and b"Completed" in seen
    assert samples.SECRET.encode() in document and samples.SECRET.encode() not in seen


@pytest.mark.full
def test_the_command_line_has_the_service_do_the_work(served: Service) -> None:
    def run(*words: str, code: int = 0) -> str:
        done = served.host.run(["/usr/bin/python3", "/usr/bin/lio-handover", *words], check=False)
        assert done.returncode == code, done.stderr
        return str(done.stdout + done.stderr)

    assert "done by lio-handoverd" in run("freeze", NAME)
    assert "done by" not in run("--alone", "export", NAME, "--allow", "all-tg-pt", "-o", "/run/a")
    assert "done by lio-handoverd" in run("export", NAME, "--allow", "all-tg-pt", "-o", "/run/b")
    assert served.host.run(["cmp", "/run/a", "/run/b"]).returncode == 0
    assert "--allow reserved" in run("remove", NAME, code=errors.InUse.code)
    told = json.loads(run("remove", NAME, "--json", code=errors.InUse.code).partition("\nlio")[0])
    assert told["error"]["findings"][0]["override"] == "reserved"
    assert "done by lio-handoverd" in run("remove", NAME, "--allow", "reserved")
    assert "done by" not in run("--config", "/dev/null", "show")
    told = json.loads(run("import", "/run/b", "--allow", "exported", "--json"))
    assert told["by"] == "lio-handoverd" and told["writes"] > 50
    run("verify", "/run/b")
    assert "done by lio-handoverd" in run("source", "prepare", NAME, "--allow", "all-tg-pt", "-o",
                                          "/run/offer")
    assert "done by lio-handoverd" in run("source", "thaw")
    served.daemon.kill(signal.SIGKILL)  # the mark that it runs stays behind
    served.daemon.wait(10)
    assert "done by" not in run("thaw", "--all")


@pytest.mark.full
def test_nobody_may_do_anything(served: Service) -> None:
    """Every method of every object, as an unprivileged user: what is not open is refused."""
    prepared = served.call(inbus.prepare, NAME, {"allow": ["all-tg-pt"]})
    assert prepared["State"] == "done", prepared
    before = served.call(inhost.tree)
    asked = served.call(inbus.call_everything, inbus.NOBODY)
    assert (names.path(names.HANDOVERS, prepared["Handover"]), names.HANDOVER, "Retire",
            "NotAuthorized") in asked
    for path, interface, member, answer in asked:
        free = interface in (names.INTROSPECTABLE, names.PEER)
        assert answer == ("" if free else "NotAuthorized"), (path, interface, member, answer)
    assert served.call(inhost.tree) == before


@pytest.mark.full
def test_a_group_may_touch_what_lies_in_the_roots_alone(service: Service, bed: lab.Lab) -> None:
    """Where there is no polkit; whatever name a handover has for it."""
    inside, other = bed.shared / "inside", inhandover.OTHER
    inside.mkdir()
    service.call(inhost.build, inhandover.state(inside, registrants=0))
    service.call(inhost.build, inhandover.other_state(bed.shared))
    service.call(inbus.install, f"[storage]\nroots =\n    {inside}\n[service]\n"
                 f"group = {inbus.GROUP}\n")
    service.daemon.kill(signal.SIGTERM)
    service.daemon.wait(10)
    service.restart()
    known = service.call(inbus.handover_here, inhost.SETTINGS.state_directory, "serving", [other])
    before = service.call(inhost.tree)

    def told(work: Callable[..., Any], *args: Any) -> str:
        job = service.call(inbus.as_member, work, *args)
        return str(job["Error"][0].removeprefix(names.ERROR) or job["State"])

    for verb in ("Freeze", "Remove", "Thaw", "Export"):
        assert told(inbus.run, verb, other) == "StorageNotAllowed", verb
    assert told(inbus.prepare, other) == "StorageNotAllowed"
    for verb in ("Status", "Verify", "Recover", "Abort"):
        assert told(inbus.handover_verb, known.id, verb) == "StorageNotAllowed", verb
    assert service.call(inhost.tree) == before

    for verb, allow in (("Freeze", []), ("Export", []), ("Thaw", ["exported"])):
        assert told(inbus.run, verb, NAME, {"allow": allow} if allow else {}) == "done", verb
    assert told(inbus.prepare, NAME) == "done"
    handover, = {one for one, _path in service.call(inbus.handovers)} - {known.id}
    assert told(inbus.handover_verb, handover, "Thaw") == "done"
    assert told(inbus.run, "Remove", NAME) == "done"
    assert [name for name, _path in service.call(inbus.targets)] == [other]


#: An administrator's: the members of games may look and change, but not remove; nobody may nothing.
RULE = """polkit.addRule(function(action, subject) {
    if (subject.user == "nobody")
        return polkit.Result.NO;
    if (subject.isInGroup("games") && (action.id == "io.github.lio-handover1.read" ||
        action.id == "io.github.lio-handover1.write" && action.lookup("verb") != "Remove" &&
        action.lookup("target").indexOf("iscsi/iqn.") == 0))
        return polkit.Result.YES;
});
"""
ASKS = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
DAEMON, BIN, GAMES = 1, 2, 5  # the users that have these names


@pytest.mark.skipif(not Path(inbus.POLKITD).exists(), reason="polkitd is not installed")
def test_polkit_itself_knows_the_actions_that_are_shipped(served: Service) -> None:
    """Debian's, with the policy that is installed: who sits at the host may look, all else takes a
    password; of a session that is not active, or without one, that as well; a rule lets members of
    a group, by verb and target; and refuses.  Manager.Move, too."""
    exported, _document = served.call(inbus.export, NAME)
    served.call(inbus.begin_session, DAEMON, True)
    served.call(inbus.begin_session, BIN, False)
    served.call(inbus.start_polkit, RULE)
    words = inbus.told_of_actions, NAME, exported["Id"]
    told = served.call(inbus.in_session, DAEMON, *words)
    assert told.pop("ListTargets") == "" and set(told.values()) == {ASKS}, told
    for work, uid in ((inbus.as_user, DAEMON), (inbus.in_session, BIN)):
        told = served.call(work, uid, *words)
        assert set(told.values()) == {ASKS}, (uid, told)
    told = served.call(inbus.as_user, GAMES, *words)
    assert {name for name, error in told.items() if error == ""} == {
        "ListTargets", "Freeze", "Move"}, told
    assert set(told.values()) == {"", ASKS}, told
    told = served.call(inbus.as_user, inbus.NOBODY, *words)
    assert set(told.values()) == {"NotAuthorized"}, told


@pytest.mark.full
def test_secrets_are_compared_for_who_may_be_handed_them(served: Service) -> None:
    """Somebody who may look and change tries secrets: no answer tells whether one is right; and the
    digest of a document with secrets is told in the document alone.  Takes 15 seconds."""
    served.call(inbus.install, f"{inhost.CONFIG}[service]\ngroup = {inbus.GROUP}\n")
    served.daemon.kill(signal.SIGTERM)
    served.daemon.wait(10)
    served.restart()
    exported, document = served.call(inbus.export, NAME)
    assert "digest" not in exported["Result"]
    right = documents.loads(document)
    state = differ.with_secrets(right.state, lambda secret: objects.Secret(secret.encode().decode()
                                                                           [:-1] + "X"))
    wrong = documents.dumps(replace(right, state=state))
    assert documents.loads(wrong).digest != right.digest
    mine, others = served.call(inbus.compared, document), served.call(inbus.compared, wrong)
    assert (mine["Diff"], mine["Verify"], mine["Import"]) == (True, True, 0)
    assert (others["Diff"], others["Verify"], others["Import"]) == (
        False, "VerifyFailed", "NotFrozen"), others
    told = [served.call(inbus.as_member, inbus.compared, data) for data in (document, wrong)]
    assert told[0] == told[1], told
    assert (told[0]["Diff"], told[0]["Verify"], told[0]["Import"]) == (True, True, "NotAuthorized")


def many(bed: lab.Lab, luns: int) -> State:
    """A target with so many LUNs."""
    paths = [str(bed.shared / f"many{number}.img") for number in range(luns)]
    for path in paths:
        Path(path).write_bytes(b"\0" * 65536)
    state = samples.iscsi(luns=luns, acls=1, paths=paths, portals=("0.0.0.0:3260",))
    return replace(state, backstores=tuple(replace(
        store, hba="", parameters={**store.parameters, "fd_dev_size": "65536"},
        attributes={"wwn/vpd_unit_serial": f"many-{number}"})
        for number, store in enumerate(state.backstores)))


@pytest.fixture
def moved(service: Service, bed: lab.Lab, request: pytest.FixtureRequest) -> bytes:
    """A document of a target with so many LUNs; the host served it until just now."""
    service.call(inhost.build, many(bed, request.param), timeout=200)
    service.call(inhost.freeze)
    document: bytes = service.call(inhost.export, timeout=100)
    service.call(inhost.remove, timeout=100)
    return document


@pytest.mark.full
@pytest.mark.parametrize("moved", [20], indirect=True)
def test_while_an_import_stands_between_two_steps_others_are_answered(
        service: Service, moved: bytes) -> None:
    known = service.call(inbus.handover_here, inhost.SETTINGS.state_directory)
    argv = ["/usr/bin/python3", "/usr/bin/lio-handover", "--alone", "remove", NAME]
    target, before = f"/sys/kernel/config/target/{NAME}", service.call(inhost.tree)
    cancelled = service.call(inbus.cancelled_import, moved, target, timeout=100)
    assert (cancelled["State"], cancelled["Error"][0]) == (
        "cancelled", names.ERROR + "Interrupted"), cancelled
    assert cancelled["Step"][0] < cancelled["Step"][1] and not cancelled["Alarm"], cancelled
    assert service.call(inhost.tree) == before
    held = service.call(inbus.held_import, moved, target, argv, timeout=200)
    number, total, what = held["step"]
    assert held["state"] == "running" and 0 < number < total and what, held["step"]
    verbs = {member: answer for path, interface, member, answer in held["answers"]
             if (path, interface) == (names.path(names.HANDOVERS, known.id), names.HANDOVER)}
    assert set(verbs) == set(bus_interfaces.load()[names.HANDOVER].methods), verbs
    assert set(verbs.values()) == {"", "WrongState", "StaleEpoch"}, verbs  # its, and of no other
    broken = ("HandoverError", "WorkerDied", "UnknownMethod")  # a crash is no answer
    assert [one for one in held["answers"] if one[-1].endswith(broken)] == []
    print(f"{len(held['answers'])} calls in {held['seconds']:.2f} s, held at {held['step']}")
    assert held["alone"][0] == errors.StillRunning.code, held["alone"]
    assert held["ended"]["State"] == "done", held["ended"]
    service.call(inhost.verify, moved)


def test_a_look_at_the_host_is_as_short_where_it_has_more_luns(
        bed: lab.Lab, stable: lab.Host) -> None:
    """One stands behind nearly every answer; the bench times them during an import.  A handover
    costs it three: whether the journal is whole, the journal, and whose record counts."""
    looks = []
    for luns in (2, 40):
        stable.call(inhost.build, many(bed, luns))
        looks.append(stable.call(inbus.looks))
        if luns == 40:
            stable.call(inbus.handover_here, inhost.SETTINGS.state_directory)
            looks.append(stable.call(inbus.looks))
        stable.call(inhost.remove)
    assert 0 < looks[0] == looks[1] <= 5
    assert looks[2] == looks[1] + 3


@pytest.fixture
def stuck(bed: lab.Lab, _pool: Pool) -> Iterator[tuple[Service, str]]:
    """The service, and a folder whose disk can be made to hang: there is the target's storage.
    Another target has its own."""
    service = Service(_pool.take("stable", name="bus")[0])
    folder = bed.shared / "stuck"
    folder.mkdir()
    service.call(inbus.mount_stuck, str(folder))
    try:
        service.call(inhost.build, service.call(inhandover.state, folder))
        service.call(inhost.build, inhandover.other_state(bed.shared))
        service.start(program=inbus.HURRIED)
        yield service, str(folder)
    finally:
        service.call(inbus.unmount_stuck, str(folder))


@pytest.mark.full
@pytest.mark.parametrize("verb", ["the host's", "a handover's"])
def test_a_write_that_hangs_in_the_kernel_costs_its_job_alone(
        stuck: tuple[Service, str], client: lab.OpenIscsi, verb: str) -> None:
    """A freeze waits for it, where no signal reaches: the alarm says so, all else is answered."""
    (service, folder), other = stuck, inhandover.OTHER
    path = f"{names.ROOT}/targets/{names.encode(NAME)}"
    before = documents.state_bytes(documents.loads(service.call(inhost.export_state)))
    disk = client.login(samples.IQN, service.host.address, samples.initiator(0)).disk(1)
    service.call(inbus.stick, folder, True)
    write = client.host.popen(["dd", "if=/dev/urandom", f"of={disk.node}", "bs=4096", "count=1",
                               "oflag=direct"])
    handover, job = "", ""
    if verb == "the host's":
        job = service.call(inbus.begin, "Freeze", NAME)
    else:
        handover, job = service.call(inbus.begin_handover, NAME, "Freeze")
    hung = service.call(inbus.wait_for, job, "Alarm", ".")
    print(hung["Alarm"])
    assert re.search("no sign of life|longer than it should", hung["Alarm"])
    assert f"process {hung['Process']} is in state D" in hung["Alarm"]
    if handover:
        assert "in step 3 of " in hung["Alarm"] and "(gate close)" in hung["Alarm"]
        assert "it was at gate close" in service.call(inhandover.status, handover)[0].notes[0]

    began = time.monotonic()
    assert {name for name, _path in service.call(inbus.targets)} == {NAME, other}
    assert service.call(inbus.get, path, names.TARGET)["Enabled"]
    assert service.call(inbus.get, names.ROOT, names.MANAGER)["Stale"] == ""
    assert service.call(inbus.run, "Freeze", other)["State"] == "done"
    assert service.call(inbus.export, other)[0]["State"] == "done"
    assert service.call(inbus.run, "Thaw", other, {"allow": ["exported"]})["State"] == "done"
    for member in ("Freeze", "Export", "Thaw", "Remove"):
        refused = service.call(inbus.run, member, NAME)
        assert refused["Error"][0] == names.ERROR + "StillRunning", refused
    assert time.monotonic() - began < 15
    looking = service.call(inbus.begin, "Show", NAME)  # waits, and can be told not to
    assert service.call(inbus.cancelled, looking) == "cancelled"
    assert set(service.call(inhandover.gates).values()) == {"1"}
    still = service.call(inbus.get, job, names.JOB)
    assert (still["State"], still["Alarm"]) == ("running", hung["Alarm"])
    assert write.poll() is None

    service.call(inbus.stick, folder, False)
    ended = service.call(inbus.wait_for, job, "State", "done|failed", 10)
    assert (ended["State"], ended["Alarm"]) == ("done", ""), ended
    gates = service.call(inhandover.gates)
    assert gates == {f"{NAME}/tpgt_1": "0", f"{other}/tpgt_1": "1"}
    thawed = service.call(inbus.handover_verb, handover, "Thaw") if handover else \
        service.call(inbus.run, "Thaw", NAME)
    assert thawed["State"] == "done", thawed
    assert write.wait(40) == 0
    assert documents.state_bytes(documents.loads(service.call(inhost.export_state))) == before


def test_a_handover_by_busctl_alone(two: tuple[Service, Service]) -> None:
    """As docs/usage/d-bus.md has it, word by word; b's bus is reached without descriptors."""
    a, b = two
    text = (inbus.CHECKOUT / "docs" / "usage" / "d-bus.md").read_text()
    script, = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    b.host.popen(["/usr/bin/python3", "-m", "tests.support.inbus", "--forward", "5555"])
    before = a.call(inhost.export_state)
    a.call(inbus.wait_for_port, b.host.address, 5555)
    done = a.host.run(["bash", "-c", script], timeout=120, env={
        "TARGET": NAME, "ALLOW": "1 allow as 1 all-tg-pt",
        "B": f"busctl --timeout=600 --address=tcp:host={b.host.address},port=5555"})
    assert done.stdout.splitlines()[-1] == 's "confirmed"', done.stderr
    assert not a.call(inhost.read_all).targets
    after = b.call(inhost.export_state)
    assert documents.state_bytes(documents.loads(before)) == documents.state_bytes(
        documents.loads(after))

"""The shipped units, run by a real systemd on real kernels."""
from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lio_handover import dbus_names as names
from lio_handover.document import document as documents
from lio_handover.local import restoring
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import State
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.system import supervisor
from tests import lab
from tests.conftest import HostsOf, Pool
from tests.handover.test_engine import Two
from tests.handover.test_power import Powered
from tests.kernel.test_import import rich
from tests.service.test_service import NAME
from tests.support import inbus, inhandover, inhost, inmove, insystemd, samples
from tests.support.insystemd import BOOT, DAEMON, RECOVER, RESTORE

T = TypeVar("T")


class Systemd:
    """A host, and systemd running in it."""

    def __init__(self, host: lab.Host) -> None:
        self.host = host

    def start(self, *enabled: str, settings: str = inhost.CONFIG) -> str:
        return self.host.call(insystemd.start, settings, enabled, timeout=100,
                              staged=inbus.stage(self.host.bed))

    def call(self, function: Callable[..., T], *args: Any) -> T:
        done: T = self.host.call(insystemd.within, function, *args)
        return done

    def run(self, *argv: str) -> str:
        return self.call(insystemd.run, *argv)

    def popen(self, *argv: str) -> lab.Program:
        """A program beside what systemd runs, which goes on."""
        return self.host.popen(self.host.call(insystemd.entering, argv))

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 120  # a busy machine compiles all of it meanwhile
        while not true():
            assert time.monotonic() < end, self.run("journalctl", "--no-pager",
                                                    f"--unit={DAEMON}")
            time.sleep(0.1)

    def show(self, unit: str, *properties: str) -> Sequence[str]:
        said = self.call(insystemd.show, unit, *properties)
        return [said[one] for one in properties]


@pytest.fixture
def systemd(bed: lab.Lab, _pool: Pool) -> Systemd:
    """Of a host that has the service installed."""
    return Systemd(_pool.take("stable", name="systemd")[0])


#: The same host imports what it has exported and removed.
BACK = {"allow": ["exported"]}
LIST = ("busctl", "call", names.BUS_NAME, names.ROOT, names.MANAGER, "ListTargets", "a{sv}", "0")


def test_a_call_starts_the_service(systemd: Systemd) -> None:
    assert systemd.start() == "running"
    assert systemd.show(DAEMON, "ActiveState") == ["inactive"]
    assert systemd.run(*LIST) == "a(so) 0"
    assert systemd.show(DAEMON, "ActiveState", "SubState") == ["active", "running"]


@pytest.mark.full
def test_a_call_starts_the_service_that_was_just_installed(systemd: Systemd) -> None:
    systemd.start()
    systemd.run("sh", "-c", "rm -r /usr/lib/systemd/system/lio-handover* /usr/lib/lio-handover "
                "/usr/share/dbus-1/*/io.github.lio_handover1*")
    systemd.run("systemctl", "daemon-reload")
    systemd.until(lambda: "not provided by any" in systemd.run(*LIST))
    assert systemd.run(str(inbus.CHECKOUT / "scripts" / "install")) == ""
    systemd.run("systemctl", "enable", BOOT, RECOVER)
    systemd.until(lambda: systemd.run(*LIST) == "a(so) 0")


@pytest.mark.full
def test_systemd_has_nothing_to_say_about_the_units(systemd: Systemd) -> None:
    systemd.start()
    units = [f"/usr/lib/systemd/system/{one}" for one in (DAEMON, BOOT, RECOVER)]
    assert systemd.run("systemd-analyze", "verify", "--man=no", *units) == ""


def confinement(unit: str) -> tuple[float, dict[str, str]]:
    """How exposed systemd says that a unit is, and how its process is confined (proc(5))."""
    said = insystemd.run("systemd-analyze", "security", "--no-pager", unit)
    score = float(said.rpartition(": ")[2].split()[0])
    pid = insystemd.show(unit, "MainPID")["MainPID"]
    status = Path(f"/proc/{pid}/status").read_text() if pid != "0" else ""
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    return score, {name: lines.get(name, "")
                   for name in ("CapEff", "NoNewPrivs", "Seccomp", "Umask")}


#: A process that takes memory until it is killed.
HOG = "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))"


def out_of_memory(unit: str) -> int:
    """A process of a unit takes more memory than the unit has; how it ends."""
    folder = Path("/sys/fs/cgroup" + insystemd.show(unit, "ControlGroup")["ControlGroup"])
    (folder / "memory.max").write_text(str(int((folder / "memory.current").read_text())
                                           + (16 << 20)))
    done = subprocess.run(["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(folder / "cgroup.procs"),
                           "/usr/bin/python3", "-c", HOG])
    return done.returncode


@pytest.mark.full
def test_the_sandbox_is_what_systemd_makes_of_it(systemd: Systemd) -> None:
    """10 s."""
    systemd.start(BOOT, RECOVER)
    systemd.run(*LIST)
    target = supervisor.unit(restoring.UNIT, NAME)
    for unit, most in ((DAEMON, 5.9), (BOOT, 6.8), (RECOVER, 6.8), (target, 6.8)):
        score, process = systemd.call(confinement, unit)
        print(f"{unit}: {score} (at most {most})")
        assert score <= most
    _score, process = systemd.call(confinement, DAEMON)
    assert (process["NoNewPrivs"], process["Umask"]) == ("1", "0077")
    assert process["Seccomp"] == "2" or not systemd.run("grep", "^Seccomp:", "/proc/self/status")
    assert systemd.show(DAEMON, "LimitCORE", "OOMPolicy") == ["0", "continue"]
    before = systemd.show(DAEMON, "MainPID")
    assert systemd.call(out_of_memory, DAEMON) == -9
    assert systemd.run(*LIST) == "a(so) 0"
    assert systemd.show(DAEMON, "MainPID", "NRestarts", "Result") == [*before, "0", "success"]


@pytest.mark.full
def test_in_its_sandbox_a_target_goes_and_comes_back(systemd: Systemd, bed: lab.Lab) -> None:
    """Files, a device, an APTPL file; and modules that it has to load."""
    systemd.host.call(inhost.build, rich(bed.shared))
    before = systemd.host.call(inhost.export_state)
    systemd.start()
    frozen = systemd.call(inbus.run, "Freeze", NAME)
    assert frozen["State"] == "done", frozen
    exported, document = systemd.call(inbus.export, NAME)
    assert exported["State"] == "done", exported
    unit = supervisor.unit(restoring.UNIT, NAME)
    assert systemd.run("systemctl", "start", unit) == ""  # a freeze has it started, too
    assert systemd.show(unit, "ActiveState", "Result") == ["active", "success"]
    removed = systemd.call(inbus.run, "Remove", NAME, {"allow": ["reserved"]})
    assert removed["State"] == "done", removed
    systemd.host.run(["modprobe", "-r", "target_core_iblock", "target_core_file"])
    assert systemd.host.run(["ls", "/etc/target/pr"]).stdout == ""
    imported = systemd.call(inbus.run_document, "Import", document, BACK)
    said = systemd.run("journalctl", "--no-pager", "-u", DAEMON)
    assert imported["State"] == "done", said
    assert "[Errno" not in said and systemd.run("systemctl", "is-system-running") == "running"
    systemd.host.call(inhost.verify, document)
    assert documents.state_bytes(documents.loads(before)) == documents.state_bytes(
        documents.loads(systemd.host.call(inhost.export_state)))
    kept = systemd.host.run(["sh", "-c", "cat /etc/target/pr/*"]).stdout
    assert kept.count("PR_REG_START:") == 2


def small(path: str, wwn: str = samples.IQN) -> State:
    """A target with one file."""
    state = samples.iscsi(paths=[path], portals=("0.0.0.0:3260",), wwn=wwn)
    (store,), (target,) = state.backstores, state.targets
    store = replace(
        store, key=backstore_key("fileio", "small"), hba="",
        parameters={**store.parameters, "fd_dev_size": str(lab.MiB)},
        attributes={"wwn/vpd_unit_serial": "small"})
    tpg, = target.tpgs
    tpg = replace(tpg, attributes={**tpg.attributes, "rtpi": "2"},
                  luns=(replace(tpg.luns[0], backstore=store.key),))
    return State((), (store,), (replace(target, tpgs=(tpg,)),))


@pytest.mark.full
def test_it_sees_what_is_mounted_after_it_was_started(systemd: Systemd) -> None:
    """And keeps nothing of it busy."""
    systemd.start(settings=inhost.CONFIG.replace("/tmp\n", "/tmp\n    /srv\n"))
    assert systemd.call(inbus.targets) == []
    systemd.run("mount", "-t", "tmpfs", "-o", "mode=755", "none", "/srv")
    systemd.run("truncate", "--size", str(lab.MiB), "/srv/small.img")
    systemd.call(inhost.build, small("/srv/small.img"))
    systemd.call(inbus.run, "Freeze", NAME)
    _job, document = systemd.call(inbus.export, NAME)
    systemd.call(inbus.run, "Remove", NAME)
    job = systemd.call(inbus.run_document, "Import", document, BACK)
    assert job["State"] == "done", job
    systemd.call(inbus.run, "Remove", NAME)
    assert systemd.run("umount", "/srv") == ""


@pytest.mark.full
def test_in_its_sandbox_it_asks_the_other_host(systemd: Systemd, bed: lab.Lab, _pool: Pool) -> None:
    """By root's ssh; there the service runs as well."""
    keys, b = bed.shared / "keys", inbus.Service(_pool.take("newest", name="bus2")[0])
    keys.mkdir()
    inmove.make_keys(keys)
    b.call(inmove.serve_ssh, str(keys))
    b.start()
    systemd.host.call(inmove.reach, str(keys), {"b": b.host.address})
    systemd.host.call(inhost.build, inhandover.state(bed.shared))
    pair = Two(systemd.host, b.host)
    pair.do("prepare", SOURCE, targets=(NAME,), peer="b")
    pair.go("stage* freeze export activate* release")
    systemd.start()
    recovered = systemd.call(insystemd.verb, names.path(names.HANDOVERS, pair.id), "Recover")
    assert recovered["State"] == "done", recovered
    assert (pair.states(), pair.serving()) == (("idle", "none"), [SOURCE]), recovered


# ── being stopped ────────────────────────────────────────────────────────────────────────────

#: Storage that is acquired by a command which takes as long as the test wants.
HOLDING = """
date --set=@0 >/dev/null 2>&1 && echo "the clock can be set" >>{folder}/log
echo $1 >>{folder}/log
while [ $1 = acquire ] && [ -e {folder}/hold ]; do sleep 0.1; done
"""


class Held:
    """An import that the service carries out, held while it acquires storage."""

    def __init__(self, systemd: Systemd, folder: Path) -> None:
        self.systemd, self.folder = systemd, folder
        self.start(systemd, folder, HOLDING.format(folder=folder))
        self.document = self.gone(systemd, folder)
        self.before = systemd.call(inhost.tree)
        (folder / "hold").touch()
        (folder / "log").unlink()
        systemd.call(insystemd.begin_import, self.document, BACK)
        systemd.until(lambda: self.asked() == ["acquire"])

    @staticmethod
    def start(systemd: Systemd, folder: Path, command: str) -> None:
        """systemd, and storage in the folder for which a command is run: acquire|release PATH."""
        script = folder / "late.sh"
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)
        late = "".join(f"{what} =\n    {script}\n    {what}\n" for what in ("acquire", "release"))
        systemd.start(
            settings=f"{inhost.CONFIG}[late lab]\npaths =\n    {folder}/late*\n{late}")

    @staticmethod
    def gone(systemd: Systemd, folder: Path) -> bytes:
        """The document of a target on that storage, which the service has removed."""
        (folder / "late.img").write_bytes(bytes(lab.MiB))
        systemd.call(inhost.build, small(f"{folder}/late.img"))
        systemd.call(inbus.run, "Freeze", NAME)
        _job, document = systemd.call(inbus.export, NAME)
        assert systemd.call(inbus.run, "Remove", NAME)["State"] == "done"
        return document

    def asked(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().split("\n")[:-1] if log.exists() else []

    def let_go(self) -> None:
        (self.folder / "hold").unlink()


@pytest.fixture
def held(systemd: Systemd, bed: lab.Lab) -> Held:
    return Held(systemd, bed.shared)


@pytest.mark.full
def test_a_stop_waits_until_what_was_begun_is_taken_back(held: Held) -> None:
    systemd = held.systemd
    stop = systemd.popen("systemctl", "stop", DAEMON)
    systemd.until(lambda: systemd.show(DAEMON, "ActiveState") == ["deactivating"])
    time.sleep(3)
    assert stop.poll() is None and held.asked() == ["acquire"]
    held.let_go()
    assert stop.wait() == 0
    assert systemd.show(DAEMON, "ActiveState", "Result") == ["inactive", "success"]
    assert held.asked() == ["acquire", "release"]
    assert systemd.call(inhost.tree) == held.before


@pytest.mark.full
def test_a_service_that_is_killed_comes_back_and_its_work_goes_on(held: Held) -> None:
    systemd = held.systemd
    systemd.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", DAEMON)
    systemd.until(lambda: systemd.show(DAEMON, "ActiveState", "NRestarts") == ["active", "1"])
    held.let_go()
    systemd.until(lambda: [name for name, _path in systemd.call(inbus.targets)] == [NAME])
    systemd.until(lambda: "1" in systemd.host.call(inhandover.gates).values())
    systemd.call(inhost.verify, held.document)


@pytest.mark.full
def test_a_restart_forgets_nothing(systemd: Systemd, bed: lab.Lab) -> None:
    """What is frozen, and what is handed over, is what it was."""
    systemd.host.call(inhost.build, inhandover.state(bed.shared))
    systemd.start()
    prepared = systemd.call(inbus.prepare, NAME)
    assert prepared["State"] == "done", prepared
    path = names.path(names.HANDOVERS, prepared["Handover"])
    frozen = systemd.call(insystemd.verb, path, "Freeze")
    assert frozen["State"] == "done", frozen
    process, before = systemd.show(DAEMON, "MainPID"), systemd.call(inbus.get, path, names.HANDOVER)
    assert before["State"] == "frozen"
    fields = (f"LIO_HANDOVER_ID={prepared['Handover']}", f"LIO_TARGET={NAME}")
    said = systemd.run("journalctl", "--no-pager", "--output=cat", *fields)
    assert re.findall(r"(\w+) (?:for|done)", said) == ["prepare"] * 2 + ["freeze"] * 2, said
    assert systemd.run("systemctl", "restart", DAEMON) == ""
    assert systemd.call(inbus.get, path, names.HANDOVER) == before  # however early it is asked
    assert systemd.show(DAEMON, "MainPID") != process
    assert set(systemd.host.call(inhandover.gates).values()) == {"0"}
    assert systemd.call(insystemd.verb, path, "Thaw")["State"] == "done"
    assert set(systemd.host.call(inhandover.gates).values()) == {"1"}


# ── booting ──────────────────────────────────────────────────────────────────────────────────

UNITS = (BOOT, RECOVER, RESTORE)


class Booting(Powered):
    """Two hosts with disks, which boot with the shipped units and targetcli's own."""

    def __init__(self, bed: lab.Lab, a: lab.Host, b: lab.Host) -> None:
        super().__init__(bed, a, b)
        self.systemd = {role: Systemd(host) for role, host in self.host.items()}
        #: targetcli's save file of before: with the target, open.
        self.stale = a.call(insystemd.saved)

    def serve_another(self) -> None:
        """The source has a target that is not handed over."""
        path = f"{self.folder[SOURCE]}/other.img"
        Path(path).write_bytes(bytes(lab.MiB))
        other = small(path, inhandover.OTHER.partition("/")[2])
        self.host[SOURCE].call(inhost.build, other)
        self.host[SOURCE].call(inhandover.save)
        self.stale = self.host[SOURCE].call(insystemd.saved)

    def start(self, role: str, units: Sequence[str] = UNITS,
              settings: str = inhost.CONFIG) -> str:
        host = self.host[role]
        host.kill()
        host.boot().call(inhandover.disk, self.folder[role])
        if role == SOURCE:
            host.call(insystemd.save, self.stale)
        return self.systemd[role].start(*units, settings=settings)

    def units(self, role: str) -> list[Sequence[str]]:
        return [self.systemd[role].show(one, "ActiveState", "Result") for one in UNITS]

    def serving(self) -> list[str]:
        return [role for role in (SOURCE, DESTINATION) if self.host[role].alive
                and self.gates(role).get(f"{inhandover.TARGET}/tpgt_1") == "1"]

    def gates(self, role: str) -> dict[str, str]:
        return self.host[role].call(inhandover.gates)


@pytest.fixture
def booting(bed: lab.Lab, hosts: HostsOf) -> Iterator[Booting]:
    made = Booting(bed, *hosts("stable", "newest"))
    yield made
    for host in made.host.values():
        host.kill()


DONE, RAN = ["active", "success"], ["inactive", "success"]


@pytest.mark.full
def test_after_a_boot_who_owns_a_target_serves_it(booting: Booting) -> None:
    """And who gave it away does not, whatever targetcli has saved; what never moved is there."""
    booting.serve_another()
    booting.go("prepare stage* freeze export activate* release activate* verify* retire confirm*")
    assert booting.start(SOURCE) == "running"
    assert booting.units(SOURCE) == [RAN, DONE, DONE]
    assert booting.serving() == [DESTINATION]
    assert booting.gates(SOURCE) == {f"{inhandover.OTHER}/tpgt_1": "1"}
    assert booting.start(DESTINATION) == "running"
    assert booting.units(DESTINATION) == [RAN, DONE, DONE]
    assert booting.serving() == [DESTINATION]
    for role in (SOURCE, DESTINATION):
        told = [booting.systemd[role].call(insystemd.times, one) for one in UNITS]
        boot, recover, restore = told
        assert boot[1] <= restore[0] and restore[1] <= recover[0], told


@pytest.mark.full
def test_after_a_boot_in_the_middle_nobody_serves_but_it_can_go_on(booting: Booting) -> None:
    booting.go("prepare stage* freeze export activate* release")
    assert booting.start(SOURCE, (BOOT, RESTORE)) == "running"
    assert booting.serving() == []
    booting.systemd[SOURCE].run("systemctl", "start", RECOVER)
    assert booting.units(SOURCE) == [RAN, DONE, DONE]
    said = booting.systemd[SOURCE].run("journalctl", "--no-pager", f"--unit={RECOVER}")
    assert f"lio-handover recover {booting.id}" in said
    assert booting.serving() == []
    booting.go("activate* verify* retire confirm*")
    assert booting.serving() == [DESTINATION]


@pytest.mark.full
def test_where_nobody_knows_what_may_open_targetcli_restores_nothing(booting: Booting) -> None:
    booting.go("prepare stage* freeze")
    assert booting.start(SOURCE, settings="[storage\n") == "degraded"
    boot, _recover, restore = booting.units(SOURCE)
    assert boot == ["failed", "exit-code"] and restore == ["inactive", "success"]
    assert booting.gates(SOURCE) == {}


@pytest.mark.full
def test_on_a_host_without_handovers_targetcli_restores_all(booting: Booting) -> None:
    assert booting.start(SOURCE) == "running"
    assert booting.units(SOURCE) == [RAN, RAN, DONE]
    assert booting.serving() == [SOURCE]


@pytest.mark.full
def test_stopping_our_units_stops_no_target(booting: Booting) -> None:
    """targetcli's unit depends on one of them, and clears all targets when it is stopped."""
    booting.go("prepare")
    assert booting.start(SOURCE) == "running"
    for command in ("stop", "restart", "try-restart", "reload-or-restart"):
        for unit in (BOOT, RECOVER, DAEMON):
            booting.systemd[SOURCE].run("systemctl", command, unit)
    booting.systemd[SOURCE].run("systemctl", "disable", "--now", BOOT, RECOVER, DAEMON)
    assert booting.serving() == [SOURCE]


# ── an occupied endpoint ─────────────────────────────────────────────────────────────────────

#: In place of an endpoint, which these kernels don't have.
NO_ENDPOINT = b"""

class Endpoint:
    there = False

    def __init__(self, *_, **__):
        pass

    def attach(self):
        if Endpoint.there:
            raise OSError(errno.ENODEV, "there is one")
        Endpoint.there = True

    def close(self):
        pass
"""
OCCUPY = ("from lio_handover.scsi.endpoint_holder import Holders; import sys; "
          "Holders('/var/lib/lio-handover').occupy(sys.argv[1])")
ALONE = ("env", "PYTHONPATH=/usr/lib/lio-handover", "/usr/bin/python3", "-c", OCCUPY)
OTHER = "naa.5001405abcdef0aa"


@pytest.mark.full
def test_who_occupies_an_endpoint_outlives_the_service(systemd: Systemd, bed: lab.Lab) -> None:
    """The service occupies one, here while it acquires storage, and so does somebody alone: who
    waits for the end of what that says does not wait for the holder."""
    systemd.host.call(inbus.install, inhost.CONFIG)
    systemd.host.run(["sh", "-c", "cat >>/usr/lib/lio-handover/lio_handover/scsi/vhost.py"],
                     input=NO_ENDPOINT)
    Held.start(systemd, bed.shared, f"[ $1 = release ] || {shlex.join((*ALONE, samples.WWPN))}")
    imported = systemd.call(inbus.run_document, "Import", Held.gone(systemd, bed.shared), BACK)
    assert imported["State"] == "done", imported
    assert systemd.run(*ALONE, OTHER) == ""
    held = systemd.call(insystemd.holders, samples.WWPN, OTHER)
    assert None not in held
    units = [line.split()[0] for line in systemd.run(
        "systemctl", "--no-legend", "--plain", "list-units", "run-*").splitlines()]
    for unit in units:
        score, process = systemd.call(confinement, unit)
        print(f"{unit}: {score} (at most 6.8)")
        assert score <= 6.8 and int(process["CapEff"], 16) == 0 and process["NoNewPrivs"] == "1"
        assert systemd.show(unit, "LimitCORE") == ["0"]
    assert systemd.run("systemctl", "restart", DAEMON) == ""
    assert systemd.run("systemctl", "stop", DAEMON) == ""
    systemd.until(lambda: systemd.show(DAEMON, "ControlGroup") == [""])     # nothing is left
    assert systemd.call(insystemd.holders, samples.WWPN, OTHER) == held
    assert systemd.run("systemctl", "--no-legend", "list-units", "run-*").count("running") == 2
    systemd.call(insystemd.let_go, samples.WWPN, OTHER)
    assert systemd.call(insystemd.holders, samples.WWPN, OTHER) == [None, None]

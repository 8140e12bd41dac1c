"""The units of targets that lio-handover restores, by a real systemd and a real udev."""
from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from lio_handover.document import document as documents
from lio_handover.local.restoring import UNIT
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import State
from lio_handover.system import supervisor
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_ours import odd
from tests.service.test_systemd import Systemd, small
from tests.support import inbus, inhandover, inhost, inours, insystemd
from tests.support.inhandover import TARGET
from tests.support.insystemd import BOOT, DAEMON, RECOVER, RESTORE

MINE = supervisor.unit(UNIT, TARGET)
OPEN = {f"{TARGET}/tpgt_1": "1"}
SERVED = ["active", "exited", f"{TARGET} is served"]


class Served:
    """A host with a disk; what it serves is adopted, and it boots with systemd."""

    def __init__(self, bed: lab.Lab, host: lab.Host) -> None:
        self.host, self.systemd, self.bed = host, Systemd(host), bed
        self.folder = str(bed.shared / f"disk-{uuid.uuid4()}")
        host.call(inhandover.disk, self.folder)
        host.call(inhandover.save)

    def adopt(self, *states: State) -> None:
        for state in states:
            self.host.call(inhost.build, state)
        self.host.call(inhandover.save)
        names = [target.name for state in states for target in state.targets]
        self.host.call(inours.adopt, names)
        self.before = self.state()

    def boots(self, before: Callable[[], None] = lambda: None) -> str:
        self.host.kill()
        self.host.boot().call(inhandover.disk, self.folder)
        before()
        said = self.systemd.host.call(insystemd.start, inhost.CONFIG + ROOTS, (
            BOOT, RECOVER, RESTORE), udev=True, timeout=100)
        return said

    def state(self) -> bytes:
        return documents.state_bytes(documents.loads(self.host.call(inhost.export_state)))

    def gates(self) -> dict[str, str]:
        return self.host.call(inhandover.gates)

    def unit(self, name: str = MINE) -> list[str]:
        return list(self.systemd.show(name, "ActiveState", "SubState", "StatusText"))

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, self.systemd.run("journalctl", "--no-pager", "-b")
            time.sleep(0.2)


#: What a document of this host may name.
ROOTS = ""


@pytest.fixture
def served(bed: lab.Lab, hosts: HostsOf) -> Iterator[Served]:
    made = Served(bed, *hosts("newest"))
    yield made
    made.host.kill()


def test_a_boot_and_targetclis_unit(served: Served) -> None:
    """Whole after a boot, and after each restart of targetcli's unit; its stop stops ours."""
    served.adopt(odd(served.bed.shared))
    served.host.call(inhandover.save)       # so targetcli would restore what it knows of it
    assert served.boots() == "running"
    served.until(lambda: served.unit() == SERVED)
    assert served.gates() == OPEN and served.state() == served.before
    assert served.host.call(inhandover.saved) == {}
    systemd = served.systemd
    served.host.call(inhandover.register, 1, 1, 0x55)
    served.before = served.state()
    assert systemd.run("systemctl", "restart", RESTORE) == ""
    served.until(lambda: served.unit() == SERVED and served.gates() == OPEN)
    assert served.state() == served.before
    assert systemd.run("systemctl", "stop", RESTORE) == ""
    assert served.gates() == {} and served.unit()[0] == "inactive"
    assert systemd.run("systemctl", "start", RESTORE) == ""
    served.until(lambda: served.unit() == SERVED)
    assert served.gates() == OPEN and served.state() == served.before
    # An upgrade of the package.
    assert systemd.run(str(inbus.CHECKOUT / "scripts" / "install")) == ""
    systemd.run("systemctl", "daemon-reload")
    for unit in (DAEMON, RECOVER, BOOT):
        systemd.run("systemctl", "try-restart", unit)
    assert served.gates() == OPEN and served.unit() == SERVED
    assert served.state() == served.before


#: The command as it is, but for the time that a link takes; where it is noted that it builds.
SLOW = """
import sys, time
sys.path.insert(0, "/usr/lib/lio-handover")
from lio_handover.kernel.configfs import Configfs
plain = Configfs.link
def link(self, path, target):
    open("/run/building", "w").close()
    time.sleep(1)
    plain(self, path, target)
Configfs.link = link
from lio_handover.cli.main import main
sys.exit(main())
"""
DROP_IN = f"/etc/systemd/system/{UNIT}.d/slow.conf"


def test_a_unit_that_is_stopped_while_it_builds_opens_nothing(served: Served) -> None:
    """Nor does a recover, until it is started."""
    served.adopt(inhandover.state(served.bed.shared))
    assert served.boots() == "running"
    served.until(lambda: served.unit() == SERVED)
    systemd = served.systemd
    assert systemd.run("systemctl", "stop", MINE) == "" and served.gates() == {}
    systemd.call(insystemd.write, {
        "/run/slow.py": SLOW, DROP_IN: "[Service]\nExecStart=\n"
        "ExecStart=/usr/bin/python3 /run/slow.py --alone restore %I\n"})
    systemd.run("systemctl", "daemon-reload")
    assert systemd.run("systemctl", "start", "--no-block", MINE) == ""
    served.until(lambda: systemd.run("ls", "/run/building") == "/run/building")
    assert served.unit()[0] == "activating"
    assert systemd.run("systemctl", "stop", MINE) == ""
    assert served.gates() == {} and served.unit()[0] == "inactive"
    assert "stopped on purpose" in systemd.run("lio-handover", "--alone", "recover")
    assert served.gates() == {}
    systemd.run("rm", DROP_IN)
    systemd.run("systemctl", "daemon-reload")
    assert systemd.run("systemctl", "start", MINE) == ""
    served.until(lambda: served.unit() == SERVED)
    assert served.gates() == OPEN and served.state() == served.before


@pytest.mark.full
def test_devices_and_files_that_come_late(served: Served) -> None:
    """What waits says for what, and holds nobody up; when that is there, so is the target."""
    shared = served.bed.shared
    late = {"file": str(shared / "late.img"), "loop": "/dev/loop3", "scsi": BY_ID}
    assert served.boots() == "running"
    (shared / "loop.img").write_bytes(bytes(4 << 20))
    (shared / "late.img").write_bytes(bytes(lab.MiB))
    for words in COME:
        served.systemd.run(*words, *([str(shared / "loop.img")] if words[0] == "losetup" else []))
    served.systemd.run("udevadm", "settle")
    served.adopt(inhandover.state(shared), *(target_on(name, path) for name, path in late.items()))

    def away() -> None:
        served.host.run(["mv", late["file"], f"{late['file']}.away"])
    assert served.boots(away) == "running"
    served.until(lambda: served.unit() == SERVED)
    waiting = {name: supervisor.unit(UNIT, f"iscsi/iqn.2026-11.org.example:{name}")
               for name in late}
    for name, path in late.items():
        active, sub, status = served.unit(waiting[name])
        assert (active, sub) == ("active", "running") and path in status, status
        said = served.systemd.run("journalctl", "--no-pager", f"--unit={waiting[name]}")
        assert "is shut, and waits: " in said and path in said
    notes = {name: one.notes for name, one in served.host.call(inours.restorers).items()}
    assert str(shared / "late.img") in str(notes["iscsi/iqn.2026-11.org.example:file"])
    assert served.gates() == OPEN
    served.systemd.run("mv", f"{late['file']}.away", late["file"])
    served.until(lambda: served.unit(waiting["file"])[1] == "exited")
    assert len(served.gates()) == 2
    for number, words in enumerate(COME):
        served.systemd.run(*words, *([str(shared / "loop.img")] if words[0] == "losetup" else []))
        if number:
            served.until(lambda: len(served.gates()) == 2 + number)
    served.until(lambda: set(served.gates().values()) == {"1"} and len(served.gates()) == 4)
    assert served.state().splitlines() == served.before.splitlines()


BY_ID = "/dev/disk/by-id/wwn-0x33333330000007d0"
#: What makes the devices: a loop device has no medium at first.
COME: tuple[tuple[str, ...], ...] = (
    ("modprobe", "loop"), ("losetup", "/dev/loop3"),
    ("modprobe", "scsi_debug", "dev_size_mb=8"))


def target_on(name: str, path: str) -> State:
    """A target with one backstore, all of them called after ``name``."""
    state = small(path, f"iqn.2026-11.org.example:{name}")
    store, = state.backstores
    (target,) = state.targets
    tpg, = target.tpgs
    store = replace(store, key=backstore_key("fileio", name),
                    attributes={**store.attributes, "wwn/vpd_unit_serial": name})
    if path.startswith("/dev/"):
        store = replace(store, key=backstore_key("iblock", name), parameters={"udev_path": path},
                        attributes={**store.attributes, "udev_path": path})
    tpg = replace(tpg, attributes={**tpg.attributes, "rtpi": str(len(name) + ord(name[0]))},
                  luns=(replace(tpg.luns[0], backstore=store.key),))
    return State((), (store,), (replace(target, tpgs=(tpg,)),))

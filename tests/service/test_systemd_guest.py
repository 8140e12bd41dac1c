"""A guest's bus and helper, started by their units under a real systemd."""
from __future__ import annotations

import signal

import pytest

from lio_handover import dbus_names
from tests import lab
from tests.conftest import Pool
from tests.service.test_systemd import Systemd
from tests.support import inbus, invmstate
from tests.support.insystemd import DAEMON
from tests.support.invmstate import GUEST, ID

TARGET = "vhost/naa.5001405000000001"
BUS, HELPER = f"lio-handover-vmstate-bus@{GUEST}.service", f"lio-handover-vmstate@{GUEST}.service"


@pytest.fixture
def systemd(bed: lab.Lab, _pool: Pool) -> Systemd:
    """With a guest, whose units are enabled."""
    found = Systemd(_pool.take("stable", name="systemd")[0])
    found.host.call(invmstate.configure, [TARGET])
    assert found.start(BUS, HELPER) == "running"
    return found


def refused(user: int) -> str:
    """What a user is told who wants to ask the guest's helper."""
    import dbus

    def ask() -> str:
        try:
            invmstate.known_as()
        except dbus.DBusException as error:
            return str(error.get_dbus_name())
        return ""
    return str(inbus.as_user(user, ask))


def test_a_guests_helper_is_there_after_a_boot(systemd: Systemd) -> None:
    assert systemd.show(HELPER, "ActiveState", "StatusText") == ["active", f"{ID} waits for QEMU"]
    assert systemd.call(invmstate.known_as) == [ID]
    systemd.call(invmstate.rests)
    data, error = systemd.call(invmstate.save)
    assert data == b"" and error.startswith(dbus_names.ERROR + "NoSuchTarget: this host has no")
    # Who is neither root nor of the group kvm does not reach the bus.
    folder = f"/run/lio-handover-guests/{GUEST}"
    assert systemd.run("stat", "--format=%a %U %G", folder) == "750 root kvm"
    assert systemd.call(refused, inbus.NOBODY) != ""
    said = systemd.run("journalctl", "--no-pager", f"--unit={HELPER}")
    assert "Save() failed: this host has no vhost/naa." in said


@pytest.mark.full
def test_helper_and_bus_come_back_each_by_itself(systemd: Systemd) -> None:
    bus, helper = (systemd.show(unit, "MainPID") for unit in (BUS, HELPER))
    systemd.run("systemctl", "start", DAEMON)
    systemd.run("systemctl", "stop", DAEMON)  # which takes /run/lio-handover away
    systemd.call(invmstate.end_helper, signal.SIGKILL)
    systemd.until(lambda: systemd.show(HELPER, "MainPID") not in (helper, ["0"])
                  and systemd.show(HELPER, "ActiveState") == ["active"])
    assert systemd.call(invmstate.known_as) == [ID]
    assert systemd.show(BUS, "MainPID") == bus
    helper = systemd.show(HELPER, "MainPID")
    systemd.run("systemctl", "restart", BUS)
    systemd.call(invmstate.wait_for_helper, 30)
    assert systemd.call(invmstate.known_as) == [ID]
    assert systemd.show(HELPER, "MainPID") == helper
    systemd.run("systemctl", "stop", HELPER)
    assert systemd.show(HELPER, "ActiveState", "Result") == ["inactive", "success"]


@pytest.mark.full
def test_systemd_has_nothing_to_say_about_these_units(systemd: Systemd) -> None:
    units = [f"/usr/lib/systemd/system/lio-handover-{unit}@.service"
             for unit in ("vmstate", "vmstate-bus", "incoming")]
    assert systemd.run("systemd-analyze", "verify", "--man=no", *units) == ""

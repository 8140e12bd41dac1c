"""The engine and vhost: who may attach when, in each mode, between kernels that have the fabric."""
from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.scsi import TransportError, cdb, replies, vhost
from lio_handover.scsi.fingerprint import drain
from tests import inhandover, inhost, lab, test_vhost
from tests.conftest import HostsOf
from tests.test_engine import Two
from tests.test_vhost import WWPN

TARGET = f"vhost/{WWPN}"
GUEST = ("from lio_handover.scsi.vhost import occupy; import sys, time\n"
         f"guest = occupy('{WWPN}'); print('attached', flush=True); time.sleep(300)")

ALLOW = ("all-tg-pt",)

pytestmark = pytest.mark.timeout(900)


def attaches() -> str:
    """"" where a guest could attach, else what it is told."""
    try:
        with vhost.Endpoint(WWPN):
            return ""
    except TransportError as error:
        return str(error)


def registers_again() -> None:
    """The first nexus gives itself another key on LUN 0."""
    with vhost.Endpoint(WWPN) as endpoint:
        execute = endpoint.unit(0, 1).execute
        drain(execute)
        assert execute(*cdb.register(0x100, 0x999)).good
        drain(endpoint.unit(0, 2).execute)


def keys() -> list[int]:
    """Who is registered on LUN 0."""
    with vhost.Endpoint(WWPN) as endpoint:
        answer = endpoint.unit(0, 1).execute(*cdb.read_keys())
        return sorted(replies.decode_keys(answer.data).keys)


class Pair(Two):
    def may_attach(self) -> list[str]:
        return [role for role, host in self.host.items() if not host.call(attaches)]

    @contextmanager
    def guest(self, role: str) -> Iterator[None]:
        """A guest on this host: to the kernel our initiator is one."""
        program = self.host[role].popen([sys.executable, "-c", GUEST])
        while "attached" not in program.stdout_so_far().decode():
            assert program.poll() is None, program.stderr_so_far().decode()
        try:
            yield
        finally:
            program.kill()
            program.wait()


@pytest.fixture
def pair(bed: lab.Lab, hosts: HostsOf) -> Callable[[str, str], Pair]:
    def make(source: str, destination: str) -> Pair:
        a, b = hosts(source, destination)
        a.call(inhost.build, test_vhost.state(bed.shared, 2))
        a.call(test_vhost.reserve, 2)
        return Pair(a, b)
    return make


@pytest.mark.full
@pytest.mark.parametrize("mode", ["vhost-qmp", "vhost-stopped"])
def test_the_endpoint_is_free_on_one_host_at_most(pair: Callable[[str, str], Pair],
                                                  mode: str) -> None:
    both = pair("vhost-newest", "vhost-newest")
    left: dict[str, Any] = {"words": frozenset({"guest-left"})}
    with both.guest(SOURCE):
        both.do("prepare", SOURCE, targets=(TARGET,), mode=mode, allow=ALLOW)
        both.go("stage*")
        with pytest.raises(errors.WrongState, match="no endpoint is attached here"):
            both.go("freeze")
    both.go("freeze export")
    assert both.may_attach() == [SOURCE]     # QEMU resumes by itself where the migration fails
    both.go("activate*")
    assert both.may_attach() == [SOURCE]
    with pytest.raises(errors.WrongState, match="migration has completed"):
        both.go("release")
    with both.guest(SOURCE):
        with pytest.raises(errors.WrongState, match="migration has completed"):
            both.do("release", SOURCE, **left)
    both.do("release", SOURCE, **left)
    assert both.may_attach() == []
    both.go("activate*")
    assert both.may_attach() == [DESTINATION]
    with pytest.raises(errors.WrongState, match="the guest is attached here"):
        both.go("verify*")
    with both.guest(DESTINATION):
        both.go("verify* retire confirm*")
        assert both.states() == ("retired", "confirmed")
    assert both.host[DESTINATION].call(test_vhost.foreign_write, 2) == [0x18, 0x18]
    assert not both.host[SOURCE].call(inhost.read_all).backstores


@pytest.mark.full
def test_a_guest_that_did_not_start_there_goes_on_here(pair: Callable[[str, str], Pair]) -> None:
    both = pair("vhost-newest", "vhost-newest")
    both.do("prepare", SOURCE, targets=(TARGET,), mode="vhost-qmp", allow=ALLOW)
    both.go("stage* freeze export activate*")
    both.do("release", SOURCE, words=frozenset({"guest-left"}))
    both.go("activate*")
    both.host[DESTINATION].call(registers_again)
    both.go("abort*")
    assert both.may_attach() == []
    both.go("thaw")
    assert both.may_attach() == [SOURCE]
    assert both.host[SOURCE].call(keys) == [0x200, 0x999]
    both.recover(DESTINATION)
    assert both.states() == ("idle", "none")
    assert both.host[SOURCE].call(test_vhost.foreign_write, 2) == [0x18, 0x18]


@pytest.mark.full
def test_in_band_the_gate_is_open_before_the_commit(pair: Callable[[str, str], Pair]) -> None:
    both = pair("vhost-newest", "vhost-newest")
    both.do("prepare", SOURCE, targets=(TARGET,), mode="vhost-inband", allow=ALLOW)
    both.go("stage* freeze export activate*")
    assert both.may_attach() == [SOURCE, DESTINATION]
    with pytest.raises(errors.WrongState, match="thaw needs"):
        both.go("thaw")
    with both.guest(DESTINATION):
        with pytest.raises(errors.InUse):
            both.go("abort*")
        both.go("verify* release retire confirm*")
    assert both.states() == ("retired", "confirmed")
    both.host[DESTINATION].call(inhandover.status)


#: A handover by QMP, verb by verb; what the driver says of QEMU is said where it is asked.
QMP = "prepare stage* freeze export activate* release activate* verify* retire confirm*".split()


@pytest.mark.full
@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
@pytest.mark.parametrize("count", range(1, len(QMP) + 1))
def test_a_host_that_lost_power_lets_one_guest_attach_at_most(
        pair: Callable[[str, str], Pair], bed: lab.Lab, count: int, role: str) -> None:
    """With targetcli's own restore, which makes up a nexus, before ours."""
    both = pair("vhost-newest", "vhost-newest")
    folders = {one: str(bed.shared / f"disk-{uuid.uuid4()}") for one in both.host}
    for one, host in both.host.items():
        host.call(inhandover.disk, folders[one])
        host.call(inhandover.save)
    for verb in QMP[:count]:
        more: dict[str, Any] = {"words": frozenset({"guest-left"})} if verb == "release" else {}
        if verb == "prepare":
            more = {"targets": (TARGET,), "mode": "vhost-qmp", "allow": ALLOW}
        where = DESTINATION if "*" in verb else SOURCE
        if verb == "verify*":
            with both.guest(DESTINATION):
                both.do("verify", where, **more)
        else:
            both.do(verb.strip("*"), where, **more)
    both.host[role].kill()
    both.host[role].boot().call(inhandover.boots, folders[role])
    for one in (role, SOURCE, DESTINATION, SOURCE, DESTINATION):
        try:
            both.recover(one)
        except errors.NoSuchHandover:
            continue  # the destination never heard of it
        assert len(both.may_attach()) < 2
    owner = both.may_attach()
    states = both.states()
    print(f"{QMP[count - 1]}, {role}: {states}, {owner}")
    assert owner == ([SOURCE] if states[0] == "idle" else [DESTINATION]), states
    assert both.host[owner[0]].call(test_vhost.foreign_write, 2) == [0x18, 0x18]
    for host in both.host.values():
        host.kill()

"""The engine and vhost: who may attach when, in each mode, between kernels that have the fabric."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from lio_handover import errors
from lio_handover.handover.engine import Reply
from lio_handover.kernel.configfs import Configfs
from lio_handover.protocol.messages import NEVER_RAN, Message
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.scsi import TransportError, cdb, replies, vhost
from lio_handover.scsi.fingerprint import drain
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import Two
from tests.kernel import test_vhost
from tests.kernel.test_vhost import WWPN
from tests.support import inhandover, inhost
from tests.support.attached import attached

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
        with attached(self.host[role], GUEST):
            yield


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
    left: dict[str, Any] = {"assertions": frozenset({"guest-left"})}
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
@pytest.mark.parametrize("ran", [False, True])
def test_a_guest_that_did_not_start_there_goes_on_here(pair: Callable[[str, str], Pair],
                                                       ran: bool) -> None:
    """And abort says so, if it is known: then the source's QEMU may run the guest again."""
    both = pair("vhost-newest", "vhost-newest")
    both.do("prepare", SOURCE, targets=(TARGET,), mode="vhost-qmp", allow=ALLOW)
    both.go("stage* freeze export activate*")
    both.do("release", SOURCE, assertions=frozenset({"guest-left"}))
    both.go("activate*")
    if ran:
        both.host[DESTINATION].call(registers_again)
    assert (NEVER_RAN in both.do("abort", DESTINATION).notes) is not ran
    assert both.may_attach() == []
    both.go("thaw")
    assert both.may_attach() == [SOURCE]
    assert both.host[SOURCE].call(keys) == ([0x200, 0x999] if ran else [0x100, 0x200])
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


def watched_activate(id: str, messages: Sequence[Message], meddles: bool  # noqa: A002
                     ) -> tuple[Reply, list[str]]:
    """activate, and the LUNs at whose link a guest could attach; perhaps somebody makes a nexus
    there before ours, as rtslib does when it lists."""
    plain_link, plain_write = Configfs.link, Configfs.write
    free, times = [], [1] * meddles

    def link(fs: Configfs, path: str, to: str) -> None:
        plain_link(fs, path, to)
        if path.startswith("vhost/") and not attaches():
            free.append(path)

    def write(fs: Configfs, path: str, data: bytes) -> None:
        if path.endswith("/nexus") and data != b"NULL\n" and times and times.pop():
            plain_write(fs, path, b"naa.5001405ffffffffe\n")
            time.sleep(0.2)     # our initiator has taken the endpoint
        plain_write(fs, path, data)

    with mock.patch.multiple(Configfs, link=link, write=write):
        return inhandover.do("activate", DESTINATION, id, messages), free


@pytest.mark.full
@pytest.mark.parametrize("role", ["vhost-oldest", "vhost-newest"])
@pytest.mark.parametrize("late, meddles", [(False, False), (False, True), (True, False)],
                         ids=["early", "meddled", "late"])
def test_nobody_attaches_while_registrations_are_loaded(
        bed: lab.Lab, hosts: HostsOf, role: str, late: bool, meddles: bool) -> None:
    """Two emulated hosts, a minute.  ``late``: nexuses are made after their LUNs are linked."""
    a, b = hosts(role, role)
    a.call(inhost.build, test_vhost.state(bed.shared, 2))
    if late:
        a.call(test_vhost.reserve, 2)
    both = Pair(a, b)
    both.do("prepare", SOURCE, targets=(TARGET,), mode="vhost-stopped", allow=ALLOW)
    both.go("stage* freeze export")
    answer, free = b.call(watched_activate, both.id, tuple(both.messages), meddles, timeout=120)
    both.messages += answer.messages
    assert not free and both.may_attach() == [SOURCE]
    both.do("release", SOURCE, assertions=frozenset({"guest-left"}))
    both.go("activate*")
    with both.guest(DESTINATION):
        both.go("verify* retire confirm*")
    assert both.states() == ("retired", "confirmed")
    if late:
        assert b.call(keys) == [0x100, 0x200]
        assert b.call(test_vhost.foreign_write, 2) == [0x18, 0x18]

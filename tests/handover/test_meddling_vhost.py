"""What somebody else does to a vhost target beside the guard."""
from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lio_handover.document import document as documents
from lio_handover.local.guard import Guard
from lio_handover.protocol.table import SOURCE
from lio_handover.scsi import cdb, vhost
from lio_handover.scsi.endpoint_holder import Holders
from lio_handover.scsi.fingerprint import drain
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine_vhost import ALLOW, TARGET, Pair, attaches, keys, pair
from tests.kernel import test_vhost
from tests.kernel.test_vhost import WWPN
from tests.support import byfile, inhandover, inhost, inmeddling

__all__ = ["pair"]
pytestmark = pytest.mark.timeout(900)


class Watched:
    """A guard that looks as often as the service has it look."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.guard = Guard(byfile.core, None, lambda text, *_: self.told.append(text))

    def until(self, done: Callable[[], bool], seconds: float = 200.0) -> None:
        ends = time.monotonic() + seconds
        while True:
            wait = self.guard.look()
            if done():
                return
            assert time.monotonic() < ends, self.told
            time.sleep(min(wait, 0.2))


def let_go_of() -> tuple[str, str, list[str]]:
    """(what a guest is told whose endpoint nobody occupies, the same once the guard has looked,
    what was told)."""
    watched = Watched()
    Holders(inhost.SETTINGS.state_directory).release(WWPN)
    free = attaches()
    watched.until(lambda: bool(Holders(inhost.SETTINGS.state_directory).pid_of(WWPN)))
    return free, attaches(), watched.told


@pytest.mark.full
def test_an_endpoint_that_was_given_away_is_occupied_again(
        pair: Callable[[str, str], Pair]) -> None:  # noqa: F811
    """Somebody has killed who occupies it."""
    both = pair("vhost-newest", "vhost-newest")
    both.do("prepare", SOURCE, targets=(TARGET,), mode="vhost-qmp", allow=ALLOW)
    both.go("stage* freeze export activate*")
    both.do("release", SOURCE, assertions=frozenset({"guest-left"}))
    assert both.states() == ("released", "armed")
    free, after, told = both.host[SOURCE].call(let_go_of)
    assert free == "" and after
    assert any("was open although this host may not serve it" in text for text in told), told


def registers() -> None:
    """Both nexuses register on LUN 0, so that it outlives power, and the first reserves it."""
    with vhost.Endpoint(WWPN) as endpoint:
        for tpgt, key in ((1, 0x100), (2, 0x200)):
            execute = endpoint.unit(0, tpgt).execute
            drain(execute)
            assert execute(*cdb.register(0, key, True)).good
        assert endpoint.unit(0, 1).execute(*cdb.reserve(0x100, 1)).good


def adopted() -> bytes:
    """What is served, once lio-handover restores it; targetcli has saved it, too."""
    one = byfile.core()
    one.adopt([("vhost", WWPN)])
    inhandover.save()
    return state()


def state() -> bytes:
    return documents.state_bytes(documents.loads(inhost.export_state()))


def cleared_and_restored(before: bytes) -> tuple[bytes, list[int], bytes, list[int], list[str]]:
    """(what is served once targetcli has cleared and restored all of it, who is registered then;
    both again once the guard has looked; what it told)."""
    watched = Watched()
    watched.guard.look()
    inmeddling.restart_targetcli()
    meddled, left = state(), keys()
    watched.until(lambda: any("was rebuilt" in text for text in watched.told))
    watched.guard.look()
    return meddled, left, state(), keys(), watched.told


@pytest.mark.full
def test_what_is_cleared_and_restored_under_it_is_whole_again(bed: lab.Lab, hosts: HostsOf) -> None:
    """With its registrations and its own nexus, which targetcli's file does not hold."""
    host, = hosts("vhost-newest")
    host.call(inhost.build, test_vhost.state(bed.shared, 2))
    host.call(registers)
    before, mine = host.call(adopted), host.call(keys)
    meddled, left, after, again, told = host.call(cleared_and_restored, before)
    assert left != mine and meddled != before
    assert after == before and again == mine == [0x100, 0x200], told
    assert host.call(test_vhost.foreign_write, 1) == [0x18]
    assert any("was removed by somebody else and made again" in text for text in told), told

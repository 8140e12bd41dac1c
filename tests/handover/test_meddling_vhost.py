"""What somebody else does to a vhost target beside the guard."""
from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lio_handover.local.guard import Guard
from lio_handover.protocol.table import SOURCE
from lio_handover.scsi.endpoint_holder import Holders
from tests.handover.test_engine_vhost import ALLOW, TARGET, Pair, attaches, pair
from tests.kernel.test_vhost import WWPN
from tests.support import byfile, inhost

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

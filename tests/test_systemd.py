"""The shipped units, run by a real systemd on real kernels."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from lio_handover import names
from tests import inhost, insystemd, lab
from tests.conftest import Pool
from tests.insystemd import BOOT, DAEMON, RECOVER

T = TypeVar("T")
pytestmark = pytest.mark.full


class Systemd:
    """A host, and systemd running in it."""

    def __init__(self, host: lab.Host) -> None:
        self.host = host

    def start(self, *enabled: str, settings: str = inhost.CONFIG) -> str:
        return self.host.call(insystemd.start, settings, enabled)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return self.host.call(insystemd.within, function, *args)

    def run(self, *argv: str) -> str:
        return self.call(insystemd.run, *argv)

    def show(self, unit: str, *properties: str) -> Sequence[str]:
        said = self.call(insystemd.show, unit, *properties)
        return [said[one] for one in properties]


@pytest.fixture
def systemd(bed: lab.Lab, _pool: Pool) -> Systemd:
    """Of a host that has the service installed."""
    return Systemd(_pool.take("stable", name="systemd")[0])


def test_a_call_starts_the_service(systemd: Systemd) -> None:
    assert systemd.start() == "running"
    assert systemd.show(DAEMON, "ActiveState") == ["inactive"]
    said = systemd.run("busctl", "call", names.BUS_NAME, names.ROOT, names.MANAGER, "ListTargets",
                       "a{sv}", "0")
    assert said == "a(so) 0"
    assert systemd.show(DAEMON, "ActiveState", "SubState") == ["active", "running"]

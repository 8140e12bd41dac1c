"""Our own client of the service, on a private bus of this machine, which has no target."""
from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.client import connection

pytest.importorskip("dbus")
from tests.support.privatebus import Bus  # noqa: E402 - it needs dbus, too


class Counting(connection.Service):
    """Notes which methods it calls."""

    def __init__(self, address: str) -> None:
        self.called: list[str] = []
        super().__init__(connection.connect(address))

    def call(self, path: str, interface: str, member: str, signature: str, *args: Any,
             patience: float = connection.PATIENCE) -> Any:
        self.called.append(member)
        return super().call(path, interface, member, signature, *args, patience=patience)


def show_held(bus: Bus, service: Counting, then: Callable[[], None], stop: bool = False
              ) -> errors.HandoverError:
    """What a verb ends with whose worker makes no step for a second, until ``then``."""
    until = time.monotonic() + 1
    done: list[bool] = []

    def asked() -> bool:
        if time.monotonic() > until and not done:
            done.append(True)
            then()
        return stop

    with bus.held(), pytest.raises(errors.HandoverError) as caught:
        service.run("Show", [], {}, stop=asked)
    return caught.value


def let_go(bus: Bus) -> None:
    for pid in bus.workers():
        os.kill(pid, signal.SIGCONT)


def test_it_hears_of_the_end_and_does_not_ask_for_it(bus: Bus) -> None:
    service = Counting(bus.address)
    error = show_held(bus, service, lambda: let_go(bus))
    assert isinstance(error, errors.NoTargetModules), error  # as this machine has none
    assert service.called == ["Show", "GetAll"]


def test_what_ends_at_once_is_not_missed(bus: Bus) -> None:
    service = Counting(bus.address)
    for _ in range(5):
        with pytest.raises(errors.NoTargetModules):
            service.run("Show", [], {})
    assert service.called == ["Show", "GetAll"] * 5


def test_it_cancels_its_job_once_when_it_is_to_stop(bus: Bus) -> None:
    service = Counting(bus.address)
    error = show_held(bus, service, lambda: let_go(bus), stop=True)
    assert isinstance(error, errors.Interrupted), error
    assert service.called == ["Show", "Cancel", "GetAll"]


def test_it_learns_that_the_service_ended_before_its_job() -> None:
    """And does not take another service's word for it."""
    with tempfile.TemporaryDirectory() as folder:
        bus = Bus(Path(folder))

        def end() -> None:
            let_go(bus)
            bus.daemon.kill()
            bus.daemon.wait()
            bus.daemon = bus.start()

        try:
            error = show_held(bus, Counting(bus.address), end)
        finally:
            bus.stop()
    assert isinstance(error, errors.NoService), error
    assert "ended while it worked; whether anything was changed is not known" in str(error)

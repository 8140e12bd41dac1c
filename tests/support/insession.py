"""What tests of sessions run in a lab host."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.support import inbus, inmove

stop_service = inmove.stop_service


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_until_gone(pid: int, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until, f"process {pid} does not end"
        time.sleep(0.02)


def configure(more: str) -> None:
    Path(f"{inbus.CONFIG}.d", "session.conf").write_text(more)

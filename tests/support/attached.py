"""A guest of a lab host: to the kernel our initiator is one."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests import lab


@contextmanager
def attached(host: lab.Host, script: str, *words: str) -> Iterator[None]:
    """Run a script, which says `attached` once it is, on a host meanwhile."""
    program = host.popen([sys.executable, "-c", script, *words])
    while "attached" not in program.stdout_so_far().decode():
        assert program.poll() is None, program.stderr_so_far().decode()
    try:
        yield
    finally:
        program.kill()
        program.wait()

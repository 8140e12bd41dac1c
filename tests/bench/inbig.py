"""What the bench of a large host runs inside the lab hosts: commands with their time and memory,
and a look at the memory of each process while a target moves."""
from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support import inopens

#: Seconds between two looks.
PAUSE = 0.1
_LOOKS = "/run/bench-memory"
#: A module of the product, as the command of its process has it.
_MODULE = re.compile(r" lio_handover\.([a-z_.]+)|scripts/(lio-handover) |/run/(daemon) ")


class Took(NamedTuple):
    """What a process took: its seconds, and the most memory it had, in MiB."""

    seconds: float
    peak: float


class Look(NamedTuple):
    """A process at a time of the host's clock; ``peak``: the most memory it had so far, in MiB."""

    at: float
    process: str
    peak: float


def run(words: Sequence[str], environment: Mapping[str, str], accepted: Sequence[int] = (0,)
        ) -> Took:
    """Raises RuntimeError with what it said where it fails."""
    began = time.monotonic()
    with open("/run/bench-said", "w+") as said, open(os.devnull, "w") as nothing:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=nothing, stderr=said,
                                   env={**os.environ, **environment})
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = Took(time.monotonic() - began, usage.ru_maxrss / 1024)
        said.seek(0)
        if process.returncode not in accepted:
            raise RuntimeError(f"{words}: exit {process.returncode}: {said.read()[-2000:]}")
    return took


def start_looking() -> int:
    """Begin to look at the product's processes; the process that looks."""
    def work(is_over: Callable[[], bool]) -> list[Look]:
        looks: list[Look] = []
        while not is_over():
            looks += _look()
            time.sleep(PAUSE)
        return looks

    return inopens.aside(_LOOKS, work)


def _look() -> list[Look]:
    looks = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            status = (folder / "status").read_text()
        except OSError:
            continue    # it has ended
        module, peak = _MODULE.search(command), re.search(r"VmHWM:\s+(\d+) kB", status)
        if module and peak and "python" in command:
            looks.append(Look(time.time(), next(filter(None, module.groups())),
                              int(peak[1]) / 1024))
    return looks


def looked(pid: int) -> list[Look]:
    """End the process that looks; what it saw."""
    return [Look(*look) for look in inopens.ended(pid, _LOOKS)]

"""What the bench of the window runs inside the lab hosts: the target by bare calls, and `move` as
an administrator has it in a terminal."""
from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lio_handover import dbus_names
from lio_handover.kernel.configfs import ROOT
from lio_handover.settings import Settings
from tests.bench import inhost
from tests.support import inbus, inopens

PORTAL = "0.0.0.0:3260"
#: Of a guest that is stopped: it moves with nobody attached.
WWPN, NEXUS = "naa.500140500000be9c", "naa.500140500000be9d"
VHOST_TPG = f"vhost/{WWPN}/tpgt_1"
#: Fabric → what `move` is told.
MOVES = {"iscsi": [f"iscsi/{inhost.IQN}", "--allow", "all-tg-pt"],
         "vhost": [f"vhost/{WWPN}", "--mode", "vhost-stopped"]}
#: What of the bare calls cannot be done before nobody is served.
IN_THE_WINDOW = ("link", "write")
#: A move tells of a step that begins: "3/10 freeze on a: …", and then of what it does.
_STEP = re.compile(r"\r(\d+)/\d+ [a-z-]+ on ")
OPENS, SYNCS = "/run/bench-opens", "/run/bench-syncs"
#: The seconds of each answer of a service that others ask.
ANSWERS = "/run/bench-answers"
#: The service's program, where another one runs it.
DAEMON = "/run/bench-daemon"


def serve(folder: str, luns: int, reserved: int, fabric: str = "iscsi") -> None:
    """The target serves here, and nothing was ever handed over."""
    clear()
    inhost.prepare(folder, luns)
    made = calls(folder, luns, reserved, fabric)
    inhost.do(made.stage)
    inhost.do(made.activate)


def calls(folder: str, luns: int, reserved: int, fabric: str) -> inhost.Calls:
    """The bare calls of a target with one ACL, which needs no password; of a vhost target with a
    nexus, and no registration."""
    if fabric == "vhost":
        stores = [call for call in inhost.calls(folder, luns, 0, 0).stage
                  if call[1].startswith("core/")]
        folders = ["vhost", f"vhost/{WWPN}", VHOST_TPG,
                   *(f"{VHOST_TPG}/lun/lun_{lun}" for lun in range(luns))]
        return inhost.Calls(
            [*stores, *(("mkdir", path, "") for path in folders)],
            [("write", f"{VHOST_TPG}/nexus", f"{NEXUS}\n"),
             *(("link", f"{VHOST_TPG}/lun/lun_{lun}/link", f"core/fileio_{lun}/disk{lun}")
               for lun in range(luns))])
    made = inhost.calls(folder, luns, 1, reserved, PORTAL)
    made.stage.append(("write", f"{inhost.TPG}/attrib/authentication", "0\n"))
    return made


def clear() -> None:
    inhost.down()
    state = Path(Settings().state_directory)
    for path in state.iterdir() if state.exists() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def bare_window(folder: str, luns: int, reserved: int, runs: int, fabric: str) -> float:
    """Seconds of the bare calls that make a staged target serve: links, registrations, the gate."""
    clear()
    inhost.prepare(folder, luns)
    best = []
    for _ in range(runs):
        made = calls(folder, luns, reserved, fabric)
        inhost.do(made.stage)
        best.append(inhost.do([call for call in made.activate if call[0] in IN_THE_WINDOW]))
        clear()
    return min(best)


class Moved(NamedTuple):
    """A move: what it said (--json), its seconds as a whole, and when each step began by this
    host's clock; the last of these is its end."""

    told: dict[str, Any]
    seconds: float
    began: list[float]


def move(program: list[str], environment: dict[str, str], to: str, here: str,
         fabric: str) -> Moved:
    """Raises RuntimeError with what it said where it fails."""
    words = [*program, "move", *MOVES[fabric], "--to", to, "--here", here, "--json"]
    terminal, its = pty.openpty()
    began = time.time()
    with subprocess.Popen(words, stdin=its, stdout=subprocess.PIPE, stderr=its,
                          env={**os.environ, **environment, "TERM": "xterm"}) as process:
        os.close(its)
        steps: dict[int, float] = {}
        said = b""
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:     # nobody has it open any more
                break
            now = time.time()
            said += data
            for found in _STEP.finditer(said.decode(errors="replace")):
                steps.setdefault(int(found[1]), now)
        assert process.stdout is not None
        text = process.stdout.read()
    ended = time.time()
    os.close(terminal)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {said.decode(errors='replace')[-2000:]}")
    return Moved(json.loads(text), ended - began, [*(steps[one] for one in sorted(steps)), ended])


def _answer(client: inbus.Client) -> float:
    """Seconds that the service takes for what a tool asks it again and again."""
    began = time.perf_counter()
    client.get(dbus_names.ROOT, dbus_names.MANAGER)
    client.call(dbus_names.ROOT, dbus_names.OBJECT_MANAGER, "GetManagedObjects")
    return time.perf_counter() - began


def idle_answers(count: int = 300) -> list[float]:
    """Seconds of so many calls, sorted, while nothing happens."""
    client = inbus.Client()
    return sorted(_answer(client) for _ in range(count))


def start_asking() -> int:
    """Begin to ask the service one call after the other; the process that asks."""
    def work(is_over: Callable[[], bool]) -> list[float]:
        client, times = inbus.Client(), list[float]()
        while not is_over():
            times.append(_answer(client))
        return sorted(times)

    return inopens.aside(ANSWERS, work)


def asked(pid: int) -> list[float]:
    """End the process that asks; the seconds of its calls, sorted."""
    return [*map(float, inopens.ended(pid, ANSWERS))]


def now() -> float:
    return time.time()


def count() -> int:
    """Begin to count what everybody opens in configfs; the process that counts."""
    Path(OPENS).unlink(missing_ok=True)
    return inopens.start_opens(OPENS)


def counted(pid: int) -> list[inopens.Event]:
    """What was opened in configfs, and what the service, which has ended, and its workers synced.
    """
    return [*inopens.stop(pid, OPENS), *inopens.syncs(SYNCS)]


def serves(luns: int, fabric: str = "iscsi") -> None:
    """Raises RuntimeError where not all LUNs are served."""
    tpg, file, wanted = (VHOST_TPG, "nexus", NEXUS) if fabric == "vhost" else \
        (inhost.TPG, "enable", "1")
    there = len(os.listdir(f"{ROOT}/{tpg}/lun"))
    gate = Path(f"{ROOT}/{tpg}/{file}").read_text().strip()
    if (there, gate) != (luns, wanted):
        raise RuntimeError(f"{there} of {luns} LUNs, gate {gate}")

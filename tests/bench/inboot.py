"""What the bench of a boot runs inside a lab host: a target that is ours, brought back again.

A boot is simulated: all of the target tree goes, and what was recorded under this kernel was
recorded under another.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lio_handover.document import document as documents
from lio_handover.kernel.configfs import ROOT, Configfs
from lio_handover.kernel.facts import boot_id
from tests.lab import inside
from tests.lab.scenario import PROGRAM

from . import inhost
from .inhost import Figures

BEFORE = "11111111-2222-4333-8444-555555555555"
STATE = Path("/var/lib/lio-handover")
#: The APTPL files as they were when the power went.
KEPT = "/etc/target/bench-pr"
SAVED = "/etc/target/bench.json"


def forget() -> None:
    """No handover, and nothing else that was recorded."""
    subprocess.run(["rm", "-rf", *STATE.iterdir()] if STATE.exists() else ["true"], check=True)


def ours(folder: str, luns: int, acls: int, peer: bool = False) -> None:
    """A target with a registration on every LUN that this host was handed by file, and for its
    ``peer`` targetcli's file with the same."""
    import rtslib_fb
    inhost.prepare(folder, luns)
    inhost.down()
    forget()
    rtslib_fb.RTSRoot()  # which moves dbroot to its own place, once for all
    for one in bare_calls(folder, luns, acls):
        inhost.do(one)
    if peer:
        rtslib_fb.RTSRoot().save_to_file(SAVED)
    core = inhost.core()
    names = core.names([], True)
    core.freeze(names)
    data = documents.dumps(core.export(names))
    down()
    forget()
    Path("/etc/lio-handover/lio-handover.conf").write_text(inhost.CONFIG)
    core = inhost.core()
    core.import_(core.ready(documents.loads(data)))
    shutil.rmtree(KEPT, ignore_errors=True)
    shutil.copytree(aptpl_folder(), KEPT)


def aptpl_folder() -> Path:
    found = Path(Configfs().read("dbroot").strip(), "pr")
    found.mkdir(exist_ok=True)
    return found


def bare_calls(folder: str, luns: int, acls: int) -> list[list[inhost.Call]]:
    """What makes the target, with a registration on each LUN and their files where the kernel
    looks for them."""
    made = inhost.calls(folder, luns, acls, 1)
    here = str(inside.DBROOT / "pr")
    return [[(op, path.replace(here, str(aptpl_folder())), what) for op, path, what in one]
            for one in (made.stage, made.activate)]


def down() -> None:
    inhost.down()
    shutil.rmtree(aptpl_folder())


def boot() -> None:
    """The kernel's part of it goes; the disk's stays, with the APTPL files as the kernel left
    them."""
    inside.clear_targets()
    shutil.copytree(KEPT, aptpl_folder(), dirs_exist_ok=True)
    here = boot_id()
    for path in [*STATE.glob("handovers/*/journal"), *STATE.glob("handovers/*/followed.json"),
                 *STATE.glob("*.json")]:
        text = path.read_text()
        if here in text:
            path.write_text(text.replace(here, BEFORE))


def handover() -> str:
    return os.listdir(STATE / "handovers")[0]


def trees() -> list[str]:
    """The folders of the target: its backstores and itself."""
    found = [f"{ROOT}/core/{name}" for name in os.listdir(f"{ROOT}/core") if name != "alua"]
    return [*found, f"{ROOT}/iscsi/{inhost.IQN}"]


def paths(statistics: bool) -> list[str]:
    """Every file of it."""
    return [os.path.join(where, name) for tree in trees() for where, names in walked(
        tree, statistics) for name in names]


def walked(tree: str, statistics: bool) -> Iterator[tuple[str, list[str]]]:
    for where, folders, names in os.walk(tree):
        if not statistics:
            folders[:] = [one for one in folders if not one.endswith("statistics")]
        yield where, names


def bare_read(statistics: bool) -> tuple[float, int]:
    """(seconds, files) of finding and reading every file of the target once."""
    began = time.perf_counter()
    there = paths(statistics)
    for path in there:
        try:
            fd = os.open(path, os.O_RDONLY)
        except PermissionError:
            continue    # it is only written to
        try:
            os.read(fd, 4096)
        except OSError:
            pass        # what has no value yet says so by an error
        os.close(fd)
    return time.perf_counter() - began, len(there)


def serves(luns: int) -> None:
    """Raises AssertionError where it does not, with all that was registered."""
    fs = Configfs()
    assert fs.read(f"{inhost.TPG}/enable").strip() == "1"
    there = sum(inhost.INITIATOR.format(0) in fs.read(f"{path}/pr/res_pr_registered_i_pts")
                for path in stores(fs))
    assert there == luns, f"{there} of {luns} LUNs have registrations"


def stores(fs: Configfs) -> list[str]:
    return [f"core/{hba}/{name}" for hba in fs.names("core") if hba != "alua"
            for name in fs.entries(f"core/{hba}")[1]]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def recover() -> None:
    """As a unit does."""
    _run(PROGRAM, "recover", handover())


def restore() -> None:
    """targetcli's."""
    _run("targetctl", "restore", SAVED)


def _run(*words: str | Path) -> None:
    """As an installed program is run: what it imports was compiled before."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": "/etc/target/bench-pycache"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def measure(folder: str, luns: int, acls: int, runs: int, peer: bool) -> Figures:
    """Seconds of one size, the least of the runs; each in turn."""
    ours(folder, luns, acls, peer)
    best: Figures = {}

    def note(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    bare = bare_calls(folder, luns, acls)
    for _ in range(runs):
        boot()
        note("bare", sum(map(inhost.do, bare)))
        seconds, files = bare_read(True)
        note("bare read", seconds)
        few, fewer = bare_read(False)
        note("bare read without statistics", few)
        best["files"], best["files without statistics"] = files, fewer
        boot()
        note("recover", timed(recover))
        serves(luns)
        note("python", timed(lambda: subprocess.run(["python3", "-c", "pass"], check=True)))
        if peer:
            boot()
            note("targetctl", timed(restore))
            serves(luns)
    best["calls"] = sum(map(len, bare))
    down()
    forget()
    return best

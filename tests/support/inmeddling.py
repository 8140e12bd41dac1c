"""What tests of what somebody else does to targets run inside a lab host."""
from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lio_handover import dbus_names
from lio_handover.actions import identity
from lio_handover.actions.context import HandoverContext
from lio_handover.document import document as documents
from lio_handover.handover import meddling
from lio_handover.handover.engine import HandoverEngine
from lio_handover.kernel.configfs import Configfs
from lio_handover.records.journal import Journal, ids
from lio_handover.system.inotify import (IN_CLOSE_WRITE, IN_CREATE, IN_DELETE, IN_DELETE_SELF,
                                         Inotify)
from tests.support import byfile, inbus, inhandover, inhost
from tests.support.inhandover import SAVED, TARGET

TPG = f"{TARGET}/tpgt_1"
LOG = Path("/run/daemon.log")
#: The service as it is; what it says is kept.
LOGGED = f"""
import os
import sys
os.dup2(os.open("{LOG}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
sys.path.insert(0, "/usr/lib/lio-handover")
from lio_handover.service.main import main
sys.exit(main())
"""


def until(done: Callable[[], Any], seconds: float = 20.0) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, f"{done}: not after {seconds:.0f} s"
        time.sleep(0.02)
    return time.monotonic() - began


def rtslib(newer: str = "") -> dict[str, str]:
    """The environment in which targetctl uses another rtslib."""
    return {**os.environ, **({"PYTHONPATH": newer} if newer else {})}


def targetctl(verb: str, newer: str = "") -> str:
    done = subprocess.run(["targetctl", verb, *([] if verb == "clear" else [SAVED])],
                          capture_output=True, text=True, env=rtslib(newer))
    return done.stdout + done.stderr


def restart_targetcli(newer: str = "") -> float:
    """As by hand, without our units: clear, then restore; when that ended."""
    targetctl("clear", newer)
    targetctl("restore", newer)
    return time.monotonic()


# ── what is there ────────────────────────────────────────────────────────────────────────────

def whole(wanted: bytes) -> bool:
    """Whether the target is served as it was."""
    try:
        if inhandover.gates().get(TPG) != "1" or not mine():
            return False  # nothing is asked yet: that takes the locks
        return documents.state_bytes(documents.loads(inhost.export_state())) == wanted
    except Exception:  # noqa: B902 - it is being made
        return False


def mine() -> bool:
    """Whether the target that is here is the one that the journal notes."""
    return bool(identity.known(context())) and not identity.replaced(context())


def context() -> HandoverContext:
    return HandoverContext(byfile.core(), journal())


def facts(path: str) -> dict[str, Any]:
    """What inodes and inotify tell of changes by programs, and by the kernel below them."""
    fs = Path(Configfs().root)
    store, target = fs / "core/fileio_88/told", fs / "iscsi/iqn.2026-11.org.example:told"
    Path(path).write_bytes(bytes(1 << 20))
    for folder in (fs / "iscsi", store):
        folder.mkdir(parents=True, exist_ok=True)
    (store / "control").write_text(f"fd_dev_name={path},fd_dev_size={1 << 20}")
    (store / "enable").write_text("1")
    told: dict[str, list[str]] = {}
    inotify = Inotify()

    def step(name: str, *work: Callable[[], Any]) -> None:
        for one in work:
            one()
        told[name] = sorted({
            f"{label} {event.name}".strip() for event in inotify.events()
            for bit, label in ((IN_CREATE, "create"), (IN_DELETE, "delete"),
                               (IN_CLOSE_WRITE, "write"), (IN_DELETE_SELF, "gone"))
            if event.mask & bit})

    mask = IN_CREATE | IN_DELETE | IN_CLOSE_WRITE | IN_DELETE_SELF
    tpg, lun = target / "tpgt_1", target / "tpgt_1/lun/lun_0"
    inotify.add(str(fs / "iscsi"), mask)
    step("target", target.mkdir, tpg.mkdir)
    first = os.stat(target)
    for one in (target, tpg, tpg / "lun"):
        inotify.add(str(one), mask)
    step("lun", lun.mkdir)
    inotify.add(str(lun), mask)
    step("link", lambda: (lun / "told").symlink_to(store))
    step("enable", lambda: (tpg / "enable").write_text("1"))
    shutil.rmtree("/run/nothing", ignore_errors=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    later = os.stat(target)
    step("read", lambda: (tpg / "enable").read_text())
    step("unlink", (lun / "told").unlink, lun.rmdir)
    step("rmdir", tpg.rmdir, target.rmdir)
    target.mkdir()
    second = os.stat(target)
    target.rmdir()
    for folder in (store, store.parent):
        folder.rmdir()
    return {"stays": first.st_ino == later.st_ino, "another": first.st_ino != second.st_ino,
            "made after": first.st_ctime_ns <= second.st_ctime_ns, **told}


def said(words: str = "") -> str:
    """What the service has said, once these words are in it: it tells of what it has done."""
    until(lambda: words in LOG.read_text())
    return LOG.read_text()


# ── with the service ─────────────────────────────────────────────────────────────────────────

def journal() -> Journal:
    name, = ids(inhandover.FOLDER)
    return Journal(inhandover.FOLDER, name)


def meddled() -> str:
    return journal().facts.meddled


def wait_known() -> None:
    """Until the service knows the targets as they are."""
    until(lambda: journal().facts.objects[1])


def bus_error() -> str:
    (_id, path), = inbus.handovers()
    return str(inbus.get(path, dbus_names.HANDOVER)["Error"])


def adopted_with(luns: int) -> bool:
    """Whether the copy that a boot goes by has so many LUNs."""
    return len([*context().durable().state.all_luns()]) == luns


def wait(what: str, *args: Any) -> float:
    """Seconds until a function of this module says yes."""
    return until(lambda: globals()[what](*args))


def status() -> list[str]:
    return [note for one in HandoverEngine(byfile.core()).status() for note in one.notes]


def shut() -> bool:
    return "1" not in inhandover.gates().values()


def unsaved() -> bool:
    return TARGET not in inhandover.saved()


def targetcli() -> str:
    """It saves when it ends, as it does by default."""
    done = subprocess.run(["targetcli"], input="ls /iscsi\nexit\n", capture_output=True, text=True)
    assert "Configuration saved" in done.stdout, done.stdout + done.stderr
    return done.stdout


def save_file_of_open() -> bytes:
    """What targetcli saved while the target was served."""
    inhandover.save()
    return inhandover.save_file()


def open_gate() -> None:
    (Path(Configfs().root) / TPG / "enable").write_text("1")


def saved_and_restored(newer: str) -> tuple[str, float]:
    """(what targetctl said, for how long a gate was open) of a save and a restore."""
    said = targetctl("save", newer)
    time.sleep(0.5)  # as fast as nobody types
    opened, more = never_open(1.0, "restore", newer)
    return said + more, opened


def never_open(seconds: float, work: str, newer: str = "") -> tuple[float, str]:
    """(for how long a gate was seen open while, and after, targetctl did that; what it said)."""
    program = subprocess.Popen(["targetctl", work, SAVED], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=rtslib(newer))
    opened, last = 0.0, time.monotonic()
    ends = 0.0
    while not ends or last < ends:
        time.sleep(0.002)
        now = time.monotonic()
        try:
            if "1" in inhandover.gates().values():
                opened += now - last
        except OSError:
            pass  # it goes while it is looked at
        last = now
        if not ends and program.poll() is not None:
            ends = now + seconds
    assert program.stdout
    return opened, program.stdout.read()


def clear_and_lose() -> None:
    """All is cleared, and the APTPL files are zeros then."""
    targetctl("clear")
    for path in Path(Configfs().read("dbroot").strip(), "pr").glob("aptpl_*"):
        path.write_bytes(bytes(path.stat().st_size))


def undecided() -> bool:
    return journal().handover.error.startswith("Undecided: ")


def recover(allow: list[str]) -> None:
    HandoverEngine(byfile.core()).recover(journal().id, allow=allow)


def opens_again_and_again(seconds: float) -> int:
    """How often it was found shut, and opened."""
    opened, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        if shut():
            open_gate()
            opened += 1
        time.sleep(0.02)
    return opened


def rebuilt(times: int) -> bool:
    return said().count(" was rebuilt: ") >= times


def open_again() -> bool:
    """Whether the target that is open is the one that the handover's journal notes."""
    return not shut() and all(
        not identity.replaced(one) for name in ids(inhandover.FOLDER)
        for one in [HandoverContext(byfile.core(), Journal(inhandover.FOLDER, name))]
        if meddling.kept(one.handover))

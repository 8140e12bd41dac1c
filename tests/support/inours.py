"""What tests of what lio-handover restores run inside a lab host."""
from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.facts import boot_id
from lio_handover.local import restoring
from lio_handover.local.ours import Restorer
from tests.support import byfile, inhandover, inmeddling
from tests.support.commandline import LAUNCHER
from tests.support.inhandover import TARGET

TPG = f"{TARGET}/tpgt_1"


def restorers() -> dict[str, Restorer]:
    """Target → who brings it back at a boot."""
    return {one.target: one for one in byfile.core().restorers()}


def restore(*names: str) -> tuple[int, str]:
    """(exit code, what it said) of the units' program."""
    return run_("restore", *names)


def clear(*names: str) -> tuple[int, str]:
    return run_("clear", *names)


def run_(*words: str) -> tuple[int, str]:
    """(exit code, what it said) of the program."""
    inhandover.configure()
    done = subprocess.run([str(LAUNCHER), "--alone", *words], capture_output=True, text=True,
                          timeout=120)
    return done.returncode, done.stderr


def boot(folder: str) -> list[str]:
    """What a host does when it boots: our unit, targetcli's, then ours for each target."""
    notes = list(inhandover.boots(folder))
    for name in byfile.core().to_restore():
        notes.append(restore(name)[1])
    return notes


def refused(verb: str, allow: Sequence[str] = ()) -> tuple[str, list[str]]:
    """(the line, each of the findings) with which a verb was refused."""
    try:
        byfile.verb(verb, allow=tuple(allow))
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}", [f"{one.subject}: {one.sentence}"
                                                    for one in error.findings]
    return "", []


def add_lun(path: str, number: int = 7) -> None:
    """As targetcli does: a backstore, its LUN, mapped for every ACL; and it saves."""
    Path(path).write_bytes(bytes(4 << 20))
    fs = Path(Configfs().root)
    store, tpg = fs / "core/fileio_77/added", fs / TPG
    store.mkdir(parents=True)
    (store / "control").write_text(f"fd_dev_name={path},fd_dev_size={4 << 20}")
    (store / "enable").write_text("1")
    lun = tpg / f"lun/lun_{number}"
    lun.mkdir()
    (lun / "added").symlink_to(store)
    for acl in (tpg / "acls").iterdir():
        mapped = acl / f"lun_{number}"
        mapped.mkdir()
        (mapped / "added").symlink_to(lun)


def luns() -> list[str]:
    return sorted(one.name for one in (Path(Configfs().root) / TPG / "lun").iterdir())


def set_value(path: str, value: str) -> None:
    (Path(Configfs().root) / path).write_text(value)


def add_acl(name: str) -> None:
    """One with the first LUN mapped."""
    acl = Path(Configfs().root) / TPG / "acls" / name
    acl.mkdir()
    (acl / "lun_0").mkdir()
    (acl / "lun_0/mapped").symlink_to(acl.parent.parent / "lun/lun_0")


def adopt(names: Sequence[str]) -> None:
    one = byfile.core()
    one.adopt(one.names(names))


def second(path: str, name: str = inhandover.OTHER) -> None:
    """Another target, with a backstore and a port of its own."""
    Path(path).write_bytes(bytes(4 << 20))
    fs = Path(Configfs().root)
    store, tpg = fs / "core/fileio_88/second", fs / name / "tpgt_1"
    store.mkdir(parents=True)
    (store / "control").write_text(f"fd_dev_name={path},fd_dev_size={4 << 20}")
    (store / "wwn/vpd_unit_serial").write_text("0123456789ab-second")
    (store / "enable").write_text("1")
    tpg.mkdir(parents=True)
    (tpg / "np/0.0.0.0:3261").mkdir()
    lun = tpg / "lun/lun_0"
    lun.mkdir()
    (lun / "second").symlink_to(store)
    (tpg / "enable").write_text("1")


def many(verb: str, names: Sequence[str], data: bytes = b"", allow: Sequence[str] = ()) -> bytes:
    """A verb on several targets; the document of an export."""
    one = byfile.core()
    if verb == "import":
        one.import_(one.ready(documents.loads(data)), allow)
    elif verb == "remove":
        one.remove(list(names), False, ("reserved", *allow))
    elif verb == "export":
        return documents.dumps(one.export(one.names(names), ("all-tg-pt",)))
    else:
        getattr(one, verb)(one.names(names), allow)
    return b""


#: Where a restore is → whether it has come there.
REACHED: dict[str, Callable[[], bool]] = {
    "building": lambda: Configfs().exists(TARGET),
    "loaded": lambda: inmeddling.journal().facts.loaded[0] == boot_id(),
    "opened": lambda: inhandover.gates().get(TPG) == "1"}


def stopped_restore(reached: str) -> str:
    """How a restore ends that is told to stop as soon as it has come so far."""
    told: list[bool] = []

    def stop() -> bool:
        if not told and REACHED[reached]():
            told.append(True)
        return bool(told)
    try:
        restoring.restore(byfile.core(), TARGET, print, wait=True, stop=stop)
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}"
    return "served"


def killed_restore(reached: str) -> bool:
    """Whether a restore was killed as soon as it had come so far."""
    def stop() -> bool:
        if REACHED[reached]():
            os.kill(os.getpid(), signal.SIGKILL)
        return False
    child = os.fork()
    if not child:
        restoring.restore(byfile.core(), TARGET, print, stop=stop)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def spoil_saved(content: bytes) -> int:
    """How many of what was kept of targetcli's file have that content now."""
    paths = [*Path(inhandover.FOLDER).glob("handovers/*/savefile.json")]
    for path in paths:
        path.write_bytes(content)
    return len(paths)

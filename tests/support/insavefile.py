"""What tests of targetcli's save file run inside a lab host."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lio_handover import errors
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.reader import Reader
from lio_handover.model.keys import display
from lio_handover.model.objects import State
from lio_handover.savefile import save_file
from tests.support import inhandover, inhost
from tests.support.inhandover import SAVED, TARGET

#: Reads the file, and writes what it read, again and again; says so once it has done it once.
LOOP = """
import os, sys, time
data = open(sys.argv[1], "rb").read()
while True:
    open(sys.argv[1] + "~", "wb").write(data)
    os.rename(sys.argv[1] + "~", sys.argv[1])
    print("written", flush=True)
    time.sleep(0.1)
"""
_PID = Path("/run/savefile-loop.pid")
#: Where no distribution has the file, and the unit that restores it.
ELSEWHERE = "/run/elsewhere/targets.json"
_UNIT = Path("/run/systemd/system/targetcli.service")


def loop() -> None:
    """Start it, and wait until it writes: a host that others keep busy starts it late."""
    said = _PID.with_suffix(".said")
    with open(said, "w") as file:
        program = subprocess.Popen([sys.executable, "-c", LOOP, SAVED], stdout=file)
    _PID.write_text(str(program.pid))
    while not said.read_text():
        time.sleep(0.01)


def end_loop() -> None:
    pid = int(_PID.read_text())
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.01)


def spelled(wwn: str, *others: Any) -> bytes:
    """targetcli's file with our target spelled so, and with entries of others; its bytes."""
    inhandover.save()
    found = json.loads(Path(SAVED).read_text())
    for one in found["targets"]:
        one["wwn"] = wwn
        del one["tpgs"][0]["enable"]
    found["targets"] += others
    Path(SAVED).write_text(json.dumps(found))
    return Path(SAVED).read_bytes()


def read_only(there: bool) -> None:
    folder = os.path.dirname(SAVED)
    if there:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    else:
        subprocess.run(["umount", folder], check=True)


def put_and_restored(state: State) -> tuple[str, State]:
    """(what targetctl says, what is then here) of a file that we have made of ``state``."""
    Path(SAVED).write_text("{}")
    save_file.put(state, os.path.dirname(SAVED), inhandover.FOLDER)
    done = inhandover.targetctl("restore", SAVED)
    return done.stdout + done.stderr, Reader(Configfs(), reservations=False).state()


def booted(path: str = SAVED) -> tuple[tuple[str, ...], str]:
    """(what our unit says, what targetcli's restore says) of a boot."""
    subprocess.run(["targetctl", "clear"], check=True)
    notes = inhandover.before_targetcli_restore()
    done = subprocess.run(["targetctl", "restore", path], capture_output=True, text=True)
    return notes, done.stdout + done.stderr


def elsewhere(there: bool) -> None:
    """What this host has is saved in another place, which only a unit names."""
    if not there:
        shutil.rmtree(os.path.dirname(ELSEWHERE))
        _UNIT.unlink()
        return
    os.makedirs(os.path.dirname(ELSEWHERE))
    subprocess.run(["targetctl", "save", ELSEWHERE], check=True)
    _UNIT.parent.mkdir(parents=True, exist_ok=True)
    _UNIT.write_text(f"[Service]\nExecStart=/usr/bin/targetctl restore {ELSEWHERE}\n")


def saved_elsewhere() -> bytes:
    return Path(ELSEWHERE).read_bytes()


def remove_refused() -> str:
    """What remove says; that all is as it was."""
    before = inhost.tree()
    try:
        inhost.core().remove([TARGET], allow=("reserved",))
    except errors.HandoverError as error:
        assert inhost.tree() == before
        return str(error)
    return ""


def acl(name: str, there: bool = True) -> None:
    path = Path(Configfs().path(f"{TARGET}/tpgt_1/acls/{name}"))
    path.mkdir() if there else path.rmdir()


def prepared(probe: bool) -> list[str]:
    """Subjects and sentences of what speaks against it."""
    core = inhost.core()
    return [f"{one.subject}: {one.sentence}; next: {one.do}" for one in
            core.prepare(core.names([], True), probe)[1]]


def freeze(probe: bool) -> str:
    """What it says where it is refused; it is thawed again."""
    core = inhost.core()
    names = core.names([], True)
    try:
        core.freeze(names, probe=probe)
    except errors.HandoverError as error:
        assert "1" in inhandover.gates().values()
        return str(error)
    core.thaw(names)
    return ""


def stores(state: State) -> set[str]:
    return {display(one.key) for one in state.backstores}

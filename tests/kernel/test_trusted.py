"""Others than root exchange a path while we work: what the kernel opened is taken away again, and
no gate was ever open.  On real kernels."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.document.document import Document
from lio_handover.execute.step_runner import nothing
from lio_handover.kernel.configfs import Configfs
from lio_handover.local import restoring
from lio_handover.local.ours import Ours
from lio_handover.model.keys import backstore_key, display
from lio_handover.model.objects import Backstore, State
from lio_handover.protocol.messages import Message
from lio_handover.protocol.table import DESTINATION
from lio_handover.settings import Late, Settings
from lio_handover.storage.evidence import evidence
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import Two
from tests.support import inhandover, inhost, samples
from tests.support.inhandover import TARGET

FOLDER = "/srv/images"
PATH = f"{FOLDER}/image"


# ── inside the host ──────────────────────────────────────────────────────────────────────────

def image(path: str = PATH) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(b"image" + bytes(lab.MiB - 5))
    return path


def exchanged() -> None:
    os.rename(PATH, PATH + ".old")
    image()


def linked_elsewhere() -> None:
    """The way: a symbolic link to what shall never be served."""
    os.rename(PATH, PATH + ".old")
    os.symlink(image("/root/secret"), PATH)


def opened_up() -> None:
    os.chmod(FOLDER, 0o1777)


WAYS: dict[str, tuple[Callable[[], None], str]] = {
    "exchanged": (exchanged, "StorageDiffers"), "linked": (linked_elsewhere, "StorageDiffers"),
    "opened up": (opened_up, "StorageNotAllowed")}


class Exchanging(Configfs):
    """Somebody does something to the path right before the kernel is asked to open it, and
    something else right after."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None] = nothing) -> None:
        super().__init__()
        self.before, self.after, self.opened = before, after, 0

    def write(self, path: str, value: bytes) -> None:
        store = path.startswith("core/") and path.endswith("/enable")
        self.opened += path.endswith("/enable") and not store and value.strip() == b"1"
        if store:
            self.before()
        super().write(path, value)
        if store:
            self.after()


def state(path: str = PATH) -> State:
    made = samples.iscsi(paths=(path,))
    store, = made.backstores
    return replace(made, backstores=(replace(
        store, hba="", attributes={}, host={},
        parameters={**store.parameters, "fd_dev_size": str(lab.MiB)}),))


def document() -> Document:
    """A document of what another host served from the same path."""
    inhost.build(state())
    inhost.freeze()
    data = inhost.export()
    inhost.remove()
    return documents.loads(data)


def imported(want: Document, fs: Configfs | None = None, settings: Settings = Settings(),
             allow: tuple[str, ...] = ()) -> str:
    """The error's name and line; "" where it is served."""
    core = Ours(settings, fs)
    try:
        core.import_(core.ready(want), allow)
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def clean() -> None:
    subprocess.run(["rm", "-rf", FOLDER, "/root/secret"], check=True)
    image()
    os.chmod(FOLDER, 0o755)
    inhost.forget_all()


def imports_while_it_is_exchanged() -> dict[str, tuple[str, list[str], int]]:
    """Way → (what it says, what it changed, how many gates it opened)."""
    said = {}
    for name, (change, _error) in WAYS.items():
        clean()
        want = document()
        fs, before = Exchanging(change), inhost.tree()
        said[name] = imported(want, fs), inhost.differences(before, inhost.tree()), fs.opened
    clean()
    want, fs = document(), Exchanging(nothing)
    said["nothing"] = imported(want, fs), [], fs.opened
    return said


def test_what_is_exchanged_before_the_kernel_opens_it_is_taken_back(newest: lab.Host) -> None:
    said = newest.call(imports_while_it_is_exchanged)
    assert said.pop("nothing") == ("", [], 1)
    for name, (line, changed, gates) in said.items():
        assert line.startswith(WAYS[name][1]) and "nothing was changed" in line, line
        assert (changed, gates) == ([], 0), name
    assert "leads to something else than when it was looked at" in said["exchanged"][0]
    assert "lies below /srv/images, which others than root may write to (mode 1777)" \
        in said["opened up"][0]


def put_back() -> None:
    os.rename(PATH + ".old", PATH)


def import_while_it_is_away() -> tuple[str, list[str], int, list[str]]:
    """The kernel opens another file, and all is as it was before anybody looks again."""
    clean()
    want = document()
    fs, before = Exchanging(exchanged, put_back), inhost.tree()
    line = imported(want, fs)
    return line, inhost.differences(before, inhost.tree()), fs.opened, os.listdir(FOLDER)


def test_what_was_exchanged_only_while_the_kernel_opened_it_is_seen(stable: lab.Host) -> None:
    """By what the kernel has open (opened.py)."""
    line, changed, gates, left = stable.call(import_while_it_is_away)
    assert "leads to another file now than the one which the kernel has open" in line
    assert (changed, gates, left) == ([], 0, ["image"])


# ── the source ───────────────────────────────────────────────────────────────────────────────

ALL = ("not-frozen", "unproven-storage", "exported", "all-tg-pt", "shared-storage", "imported")


def source_verbs() -> dict[str, str]:
    """What the verbs of a source say of a target that lies where others can write."""
    clean()
    inhost.build(state())
    core, before, said = Ours(Settings()), inhost.tree(), {}
    names = core.names([], True)
    document, findings = core.prepare(names)
    said["before"] = ", ".join(finding.sentence for finding in findings)
    opened_up()
    verbs: dict[str, Callable[[], object]] = {
        "prepare": lambda: errors.refuse(core.prepare(names)[1], ALL),
        "freeze": lambda: core.freeze(names, ALL), "export": lambda: core.export(names, ALL),
        "adopt": lambda: core.adopt(names, ALL)}
    for name, verb in verbs.items():
        try:
            verb()
            said[name] = "not refused"
        except errors.HandoverError as error:
            said[name] = f"{type(error).__name__}: {error}"
    said["changed"] = ", ".join(inhost.differences(before, inhost.tree()))
    os.chmod(FOLDER, 0o755)
    core.freeze(names)
    opened_up()
    try:
        core.export(names, ALL)
    except errors.HandoverError as error:
        said["export when frozen"] = f"{type(error).__name__}: {error}"
    core.thaw(names)
    return said


def test_a_source_gives_nothing_away_that_others_could_exchange(stable: lab.Host) -> None:
    said = stable.call(source_verbs)
    assert (said.pop("before"), said.pop("changed")) == ("", "")
    for name, line in said.items():
        assert line.startswith("StorageNotAllowed") and "lies below /srv/images" in line, name
    assert len(said) == 5


# ── what a boot restores ─────────────────────────────────────────────────────────────────────

def restored(fs: Configfs | None = None) -> str:
    try:
        restoring.restore(Ours(Settings(), fs), TARGET, bool)  # type: ignore[arg-type]
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def boots() -> tuple[dict[str, str], list[int], str]:
    """(what a restore says, how many gates it opened, the gate in the end)."""
    clean()
    inhost.build(state())
    core = Ours(Settings())
    core.adopt(core.names([], True))
    core.clear(TARGET)
    said, gates = {}, []
    for name, (change, _error) in WAYS.items():
        fs = Exchanging(change)
        said[name] = restored(fs)
        gates.append(fs.opened)
        if os.path.exists(PATH + ".old"):
            os.rename(PATH + ".old", PATH)
        os.chmod(FOLDER, 0o755)
    os.chmod(FOLDER, 0o777)
    said["before"] = restored()
    os.chmod(FOLDER, 0o755)
    said["again"] = restored()
    return said, gates, Configfs().read(f"{TARGET}/tpgt_1/enable").strip()


def test_a_boot_restores_nothing_that_others_could_exchange(stable: lab.Host) -> None:
    said, gates, served = stable.call(boots)
    assert (said.pop("again"), served, gates) == ("", "1", [0, 0, 0])
    assert said.pop("before").startswith("StorageNotAllowed")
    for name, line in said.items():
        assert line.startswith(WAYS[name][1]), line


# ── between two hosts ────────────────────────────────────────────────────────────────────────

def stage_while(change: str, shared: str, id: str,  # noqa: A002
                given: list[Message]) -> tuple[str, int, list[str]]:
    """(what stage says, how many gates it opened, the backstores that are left)."""
    path = f"{shared}/zero.img"

    def exchange() -> None:
        if not os.path.exists(path + ".old"):  # there are two backstores
            os.rename(path, path + ".old")
            image(path)

    fs, engine = Exchanging(exchange if change == "exchanged" else
                            lambda: os.chmod(shared, 0o1777)), inhandover.handovers()
    engine.core.fs = fs
    try:
        engine.do("stage", DESTINATION, id, messages=given)
        line = ""
    except errors.HandoverError as error:
        line = f"{type(error).__name__}: {error}"
    left = [name for hba in fs.entries("core")[1] if hba.startswith("fileio_")
            for name in fs.entries(f"core/{hba}")[1]]
    os.chmod(shared, 0o755)
    if os.path.exists(path + ".old"):
        os.rename(path + ".old", path)
    return line, fs.opened, left


@pytest.mark.parametrize("change, error", [
    ("exchanged", "StorageDiffers"),
    pytest.param("opened up", "StorageNotAllowed", marks=pytest.mark.full)])
def test_no_verb_of_a_destination_serves_what_was_exchanged(
        bed: lab.Lab, hosts: HostsOf, change: str, error: str) -> None:
    """Neither stage, which has the kernel open it, nor activate, which comes later."""
    a, b = hosts("stable", "newest")
    a.call(inhost.build, inhandover.state(bed.shared))
    two = Two(a, b)
    two.go("prepare")
    line, gates, left = b.call(stage_while, change, str(bed.shared), two.id, two.newest())
    assert line.startswith(error) and (gates, left) == (0, []), line
    assert ("leads to something else than" if change == "exchanged" else "lies below") in line
    two.go("stage* freeze export")
    b.call(os.chmod, str(bed.shared), 0o757)
    with pytest.raises(errors.StorageNotAllowed, match="which others than root may write to"):
        two.go("activate*")
    assert two.serving() == []
    b.call(os.chmod, str(bed.shared), 0o755)
    two.go("activate* release activate* verify*")
    assert two.serving() == [DESTINATION]


# ── late storage, device nodes, memory ───────────────────────────────────────────────────────

def late(folder: str) -> tuple[str, str, list[str], list[str]]:
    """The command that acquires the storage has its folder opened to all: (what an import says
    then, what without, the commands, what was changed)."""
    clean()
    script, log = Path(folder, "storage.sh"), Path(folder, "log")
    script.write_text(f"#!/bin/sh\necho $1 >>{log}\n[ $1$2 = acquireyes ] && chmod 1777 {FOLDER}\n"
                      "exit 0\n")
    script.chmod(0o755)

    def settings(word: str) -> Settings:
        return Settings(late=(Late("lab", (PATH,), (str(script), "acquire", word),
                                   (str(script), "release", word)),))
    want, before = document(), inhost.tree()
    refused = imported(want, None, settings("yes"))
    changed = inhost.differences(before, inhost.tree())
    os.chmod(FOLDER, 0o755)
    commands = log.read_text().split()
    inhost.forget_all()
    return refused, imported(want, None, settings("no")), commands, changed


def test_late_storage_is_looked_at_once_it_is_acquired(bed: lab.Lab, stable: lab.Host) -> None:
    refused, served, commands, changed = stable.call(late, str(bed.shared))
    assert refused.startswith("StorageNotAllowed") and "lies below /srv/images" in refused
    assert (served, commands, changed) == ("", ["acquire", "release"], [])


def on_nodev() -> tuple[str, str]:
    """What a device node says that lies in /srv: (mounted as usual, mounted nodev)."""
    os.makedirs("/srv/nodes", exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", "/srv/nodes"], check=True)
    os.mknod("/srv/nodes/disk", 0o60600, os.stat("/dev/ubda").st_rdev)
    store = samples.backstore("disk", "iblock", "/srv/nodes/disk")
    clean()
    store = replace(store, attributes={}, host={}, hba="")
    want = replace(document(), carried=(), state=State((), (store,)),
                   storage={display(store.key): evidence(store, True)})
    settings = Settings(devices=("/srv/nodes/*",))
    found = []
    for how in ("remount,dev", "remount,nodev"):
        subprocess.run(["mount", "-o", how, "/srv/nodes"], check=True)
        findings = Ours(settings).ready(want).findings
        found.append(", ".join(finding.sentence for finding in findings))
    subprocess.run(["umount", "/srv/nodes"], check=True)
    return found[0], found[1]


@pytest.mark.full
def test_a_device_node_where_the_kernel_opens_none_is_refused(stable: lab.Host) -> None:
    """Two seconds."""
    clean_, nodev = stable.call(on_nodev)
    assert clean_ == "" and "is mounted nodev" in nodev


def memory_disk() -> tuple[str, str, list[str]]:
    """A memory disk of all that is available: (the plan's refusal, with a reserve that leaves
    nothing, what was changed)."""
    clean()
    with open("/proc/meminfo") as file:
        free = int(next(line for line in file if line.startswith("MemAvailable")).split()[1])
    key = backstore_key("rd_mcp", "ram")
    made = state()
    target, = made.targets
    tpg, = target.tpgs
    lun, = tpg.luns
    want = replace(document(), storage={}, state=State(
        (), (Backstore(key, {"rd_pages": str(free // 4)}),), (replace(target, tpgs=(replace(
            tpg, luns=(replace(lun, backstore=key),)),)),)))
    before = inhost.tree()
    said = imported(want, allow=("ramdisk",))
    small = replace(want, state=replace(want.state, backstores=(
        Backstore(key, {"rd_pages": "256"}),)))
    core = Ours(Settings(memory_reserve=2 * free * 1024))
    short = ", ".join(finding.sentence for finding in core.ready(small).findings
                      if finding.error is errors.StorageNotAllowed)
    return said, short, inhost.differences(before, inhost.tree())


@pytest.mark.full
def test_a_memory_disk_that_does_not_fit_is_never_made(stable: lab.Host) -> None:
    """Two seconds."""
    said, short, changed = stable.call(memory_disk)
    assert "StorageNotAllowed" in said and "memory" in short and changed == []

"""What the bench runs inside a lab host: one target, made, read, taken down, made again.

The bare calls are the least that makes this target on a fresh host: they are written out here and
know nothing of the product.  Every figure is in seconds of one process on this host.
"""
from __future__ import annotations

import mmap
import os
import shutil
import signal
import time
from dataclasses import dataclass, field

from lio_handover.document import document as documents
from lio_handover.kernel.configfs import ROOT, Configfs
from lio_handover.local.by_file import ByFile
from lio_handover.model.diff import diff
from lio_handover.plan.planner import plan
from lio_handover.settings import Settings
from lio_handover.storage import evidence
from tests.lab import inside

IQN = "iqn.2026-11.org.example:bench"
INITIATOR = "iqn.2026-11.org.example:client{}"
PORTAL = "198.18.0.200:3260"
SIZE = 1 << 20
TPG = f"iscsi/{IQN}/tpgt_1"

Call = tuple[str, str, str]     # mkdir, write or link; path below the tree; what


#: What the service is told.
CONFIG = "[storage]\nroots =\n    /tmp\n"
#: Every so many-th LUN is reserved by the first initiator.
RESERVED = 10


@dataclass
class Calls:
    """The bare calls of one target: what may be done early, and what only in the window."""

    stage: list[Call] = field(default_factory=list)
    activate: list[Call] = field(default_factory=list)


def calls(folder: str, luns: int, acls: int, reserved: int = RESERVED,
          portal: str = PORTAL) -> Calls:
    """A target of ``luns`` files of ``folder``, all mapped by each of ``acls`` ACLs; every
    ``reserved``-th of them is reserved, and none where that is 0."""
    made = Calls()
    held = range(0, luns, reserved) if reserved else range(0)
    stage, activate = made.stage.append, made.activate.append
    for lun in range(luns):
        store = f"core/fileio_{lun}/disk{lun}"
        stage(("mkdir", f"core/fileio_{lun}", ""))
        stage(("mkdir", store, ""))
        stage(("write", f"{store}/control", f"fd_dev_name={folder}/{lun},fd_dev_size={SIZE}\n"))
        stage(("write", f"{store}/enable", "1\n"))
        stage(("write", f"{store}/attrib/emulate_tpu", "1\n"))
        stage(("write", f"{store}/wwn/vpd_unit_serial", f"{serial(lun)}\n"))
        activate(("forget", f"{folder}/{lun}", ""))
    for lun in held:
        activate(("write", f"core/fileio_{lun}/disk{lun}/pr/res_aptpl_metadata",
                  registration(lun)))
    for name in ("iscsi", f"iscsi/{IQN}", TPG):
        stage(("mkdir", name, ""))
    for name, value in (("attrib/generate_node_acls", "0"), ("attrib/login_timeout", "20"),
                        ("param/MaxBurstLength", "524288"), ("param/TargetAlias", "bench")):
        stage(("write", f"{TPG}/{name}", f"{value}\n"))
    stage(("mkdir", f"{TPG}/np/{portal}", ""))
    for lun in range(luns):
        stage(("mkdir", f"{TPG}/lun/lun_{lun}", ""))
        activate(("link", f"{TPG}/lun/lun_{lun}/link", f"core/fileio_{lun}/disk{lun}"))
    for number in range(acls):
        acl = f"{TPG}/acls/{INITIATOR.format(number)}"
        stage(("mkdir", acl, ""))
        stage(("write", f"{acl}/attrib/nopin_timeout", "20\n"))
        for lun in range(luns):
            stage(("mkdir", f"{acl}/lun_{lun}", ""))
            activate(("link", f"{acl}/lun_{lun}/link", f"{TPG}/lun/lun_{lun}"))
    for lun in held:
        activate(("file", f"{inside.DBROOT}/pr/aptpl_{serial(lun)}", aptpl(lun)))
    activate(("write", f"{TPG}/enable", "1\n"))
    return made


def serial(lun: int) -> str:
    return f"{lun:08x}-0000-4000-8000-000000000000"


def registration(lun: int) -> str:
    """The first initiator's, which holds LUN ``lun`` (Write Exclusive, Registrants Only)."""
    return (f"initiator_fabric=iSCSI,initiator_node={INITIATOR.format(0)},"
            f"initiator_sid=00023d000001,sa_res_key={0xb0 + lun:#x},res_holder=1,res_type=5,"
            f"res_scope=0,res_all_tg_pt=0,mapped_lun={lun},target_fabric=iSCSI,"
            f"target_node={IQN},tpgt=1,port_rtpi=1,target_lun={lun}\n")


def aptpl(lun: int) -> str:
    """The same as the kernel's own file has it."""
    words = registration(lun).strip().replace("res_type=5", "res_type=05").replace(
        "res_scope=0", "res_scope=00").replace(f"{0xb0 + lun:#x}", str(0xb0 + lun))
    lines = words.split(",")
    return "\n".join(["PR_REG_START: 0", *lines, "PR_REG_END: 0", "\0"])


def prepare(folder: str, luns: int) -> None:
    """The files that the LUNs are made of."""
    os.makedirs(folder, exist_ok=True)
    for lun in range(luns):
        with open(f"{folder}/{lun}", "wb") as file:
            file.truncate(SIZE)


def do(asked: list[Call]) -> float:
    """Seconds that the bare calls take."""
    began = time.perf_counter()
    for op, path, what in asked:
        if op == "mkdir":
            os.mkdir(f"{ROOT}/{path}")
        elif op == "link":
            os.symlink(f"{ROOT}/{what}", f"{ROOT}/{path}")
        elif op == "write":
            fd = os.open(f"{ROOT}/{path}", os.O_WRONLY)
            os.write(fd, what.encode())
            os.close(fd)
        elif op == "forget":        # this host's pages of a file
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        else:                       # a file, whole and durable
            fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, what.encode())
            os.fsync(fd)
            os.close(fd)
            os.rename(path + ".new", path)
    return time.perf_counter() - began


def read(paths: list[str], backing: list[str], flush: bool = True) -> float:
    """Seconds that it takes to read these files once each, and to have the ``backing`` files on
    the storage (``flush``) and read the blocks that prove which they are."""
    began = time.perf_counter()
    page = mmap.mmap(-1, evidence.BLOCK)
    for path in backing:
        fd = os.open(path, os.O_RDONLY)
        if flush:
            os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for offset in evidence.offsets(SIZE):
            os.preadv(fd, [page], offset)
        os.close(fd)
    for path in paths:
        fd = os.open(f"{ROOT}/{path}", os.O_RDONLY)
        try:
            os.read(fd, 4096)
        except OSError:
            pass        # what has no value yet says so by an error
        os.close(fd)
    return time.perf_counter() - began


class Recording(Configfs):
    """A tree that remembers which files were read."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[str, None] = {}

    def read(self, path: str) -> str:
        self.paths[path] = None
        return super().read(path)


def core(fs: Configfs | None = None) -> ByFile:
    return ByFile(Settings(roots=("/tmp",)), fs)


def down() -> None:
    """Take everything down with bare calls, so that each run begins with an empty tree."""
    inside.clear_targets()
    for name in os.listdir(inside.DBROOT / "pr"):
        os.unlink(inside.DBROOT / "pr" / name)


#: What the bench measures, in seconds: the least of the runs.
Figures = dict[str, float]


def forget() -> None:
    """This host becomes one that knows of no handover: what was exported here may come."""
    shutil.rmtree(Settings().state_directory, ignore_errors=True)


def measure(folder: str, luns: int, acls: int, runs: int) -> Figures:
    """One size: the bare calls and the product's in turn, ``runs`` times."""
    prepare(folder, luns)
    best: Figures = {}

    def note(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    bare = calls(folder, luns, acls)
    backing = [f"{folder}/{lun}" for lun in range(luns)]
    paths: list[str] = []
    for _ in range(runs):
        note("bare stage", do(bare.stage))
        note("bare activate", do(bare.activate))
        data, figures = _export(backing)
        for name, seconds in figures.items():
            note(name, seconds)
        down()
        forget()
        paths = paths or _import_reads(data)
        for name, seconds in _replay(data).items():
            note(name, seconds)
        note("bare read back", read(paths, backing, False))
        down()
        forget()
    best["calls"] = len(bare.stage) + len(bare.activate)
    return best


def peer(kind: str, folder: str, luns: int, acls: int, path: str) -> Figures:
    """The same target restored by rtslib or targetcli from the file that rtslib wrote.

    Seconds of ``dump`` and ``restore``; raises what they raise.
    """
    prepare(folder, luns)
    made = calls(folder, luns, acls)
    do(made.stage)
    do(made.activate)
    import rtslib_fb
    began = time.perf_counter()
    rtslib_fb.RTSRoot().save_to_file(path)
    took = {"dump": time.perf_counter() - began}
    down()
    if kind == "rtslib":
        began = time.perf_counter()
        rtslib_fb.RTSRoot().restore_from_file(path)
    else:
        # It asks the system's bus for handlers of tcmu, and does not go on without a bus.
        address, pid = inside.run("dbus-daemon", "--session", "--fork", "--print-address=1",
                                  "--print-pid=1").split()
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = address
        began = time.perf_counter()
        try:
            inside.run("targetcli", "restoreconfig", path)
        finally:
            os.kill(int(pid), signal.SIGTERM)
    took["restore"] = time.perf_counter() - began
    there = len(os.listdir(f"{ROOT}/{TPG}/lun"))
    if there != luns:
        raise RuntimeError(f"{kind} restored {there} of {luns} LUNs")
    return took


def side_by_side(folder: str, luns: int, workers: int) -> Figures:
    """Seconds of the bare calls of ``workers`` targets' backstores: one after the other, and by
    one process each at the same time."""
    prepare(folder, luns * workers)
    stores = [[call for call in calls(folder, luns * workers, 0).stage
               if call[1].startswith("core/") and first <= int(
                   call[1].split("/")[1].partition("_")[2]) < first + luns]
              for first in range(0, luns * workers, luns)]
    alone = sum(map(do, stores))
    down()
    began = time.perf_counter()
    children = []
    for one in stores:
        pid = os.fork()
        if pid == 0:
            try:
                do(one)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    together = time.perf_counter() - began
    down()
    return {"alone": alone, "together": together, "processors": os.cpu_count() or 1}


def document(folder: str, luns: int, acls: int) -> bytes:
    """The frozen document of a target which is then taken down."""
    prepare(folder, luns)
    made = calls(folder, luns, acls)
    do(made.stage)
    do(made.activate)
    data, _figures = _export([f"{folder}/{lun}" for lun in range(luns)])
    down()
    forget()
    return data


def _export(backing: list[str]) -> tuple[bytes, Figures]:
    one = core()
    names = one.names([], True)
    one.freeze(names)
    fs = Recording()
    core(fs).export(names)
    paths = list(fs.paths)
    # An export is done once for a freeze: the next one hands out what was kept.
    core().thaw(names, ["exported"])
    core().freeze(names)
    took = {"bare read": read(paths, backing)}
    one = core()
    began = time.perf_counter()
    document = one.export(names)
    data = documents.dumps(document)
    took["export"] = time.perf_counter() - began
    took["bare reads"] = len(paths)
    return data, took


def _import_reads(data: bytes) -> list[str]:
    """The files that an import reads once or more."""
    fs = Recording()
    one = core(fs)
    one.import_(one.ready(documents.loads(data)))
    down()
    forget()
    return [*fs.paths]


def _replay(data: bytes) -> Figures:
    took = {}
    one = core()
    began = time.perf_counter()
    document = documents.loads(data)
    took["document"] = time.perf_counter() - began
    ready = one.ready(document)
    began = time.perf_counter()
    diff(ready.have, document.state)
    took["diff"] = time.perf_counter() - began
    began = time.perf_counter()
    plan(ready.have, document.state, ready.facts)
    took["plan"] = time.perf_counter() - began - took["diff"]
    began = time.perf_counter()
    outcome = one.import_(ready)
    took["import"] = time.perf_counter() - began
    took.update(outcome.seconds)
    took["writes"] = outcome.writes
    return took

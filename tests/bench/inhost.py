"""What the bench runs inside a lab host: one target, made, read, taken down, made again.

The bare calls are the least that makes this target on a fresh host: they are written out here and
know nothing of the product.  Every figure is in seconds of one process on this host.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from lio_handover import document as documents
from lio_handover.configfs import ROOT, Configfs
from lio_handover.core import Core
from lio_handover.diff import diff
from lio_handover.plan import plan
from lio_handover.settings import Settings
from tests.lab import inside

IQN = "iqn.2026-11.org.example:bench"
INITIATOR = "iqn.2026-11.org.example:client{}"
PORTAL = "198.18.0.200:3260"
SIZE = 1 << 20
TPG = f"iscsi/{IQN}/tpgt_1"

Call = tuple[str, str, str]     # mkdir, write or link; path below the tree; what


@dataclass
class Calls:
    """The bare calls of one target: what may be done early, and what only in the window."""

    stage: list[Call] = field(default_factory=list)
    activate: list[Call] = field(default_factory=list)


def calls(folder: str, luns: int, acls: int) -> Calls:
    """A target of ``luns`` files of ``folder``, each reserved by the first of ``acls`` ACLs."""
    made = Calls()
    stage, activate = made.stage.append, made.activate.append
    for lun in range(luns):
        store = f"core/fileio_{lun}/disk{lun}"
        stage(("mkdir", f"core/fileio_{lun}", ""))
        stage(("mkdir", store, ""))
        stage(("write", f"{store}/control", f"fd_dev_name={folder}/{lun},fd_dev_size={SIZE}\n"))
        stage(("write", f"{store}/enable", "1\n"))
        stage(("write", f"{store}/attrib/emulate_tpu", "1\n"))
        stage(("write", f"{store}/wwn/vpd_unit_serial", f"{lun:08x}-0000-4000-8000-000000000000\n"))
        activate(("write", f"{store}/pr/res_aptpl_metadata", registration(lun)))
    for folder_ in ("iscsi", f"iscsi/{IQN}", TPG):
        stage(("mkdir", folder_, ""))
    for name, value in (("attrib/generate_node_acls", "0"), ("attrib/login_timeout", "20"),
                        ("param/MaxBurstLength", "524288"), ("param/TargetAlias", "bench")):
        stage(("write", f"{TPG}/{name}", f"{value}\n"))
    stage(("mkdir", f"{TPG}/np/{PORTAL}", ""))
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
    activate(("write", f"{TPG}/enable", "1\n"))
    return made


def registration(lun: int) -> str:
    """The first initiator's, which holds LUN ``lun`` (Write Exclusive, Registrants Only)."""
    return (f"initiator_fabric=iSCSI,initiator_node={INITIATOR.format(0)},"
            f"initiator_sid=00023d000001,sa_res_key={0xb0 + lun:#x},res_holder=1,res_type=5,"
            f"res_scope=0,res_all_tg_pt=0,mapped_lun={lun},target_fabric=iSCSI,"
            f"target_node={IQN},tpgt=1,port_rtpi=1,target_lun={lun}\n")


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
        else:
            fd = os.open(f"{ROOT}/{path}", os.O_WRONLY)
            os.write(fd, what.encode())
            os.close(fd)
    return time.perf_counter() - began


def read(paths: list[str]) -> float:
    """Seconds that it takes to read these files once each."""
    began = time.perf_counter()
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


def core(fs: Configfs | None = None) -> Core:
    return Core(Settings(roots=("/tmp",)), fs)


def down() -> None:
    """Take everything down with bare calls, so that each run begins with an empty tree."""
    inside.clear_targets()
    for name in os.listdir(inside.DBROOT / "pr"):
        os.unlink(inside.DBROOT / "pr" / name)


#: What the bench measures, in seconds: the least of the runs.
Figures = dict[str, float]


def measure(folder: str, luns: int, acls: int, runs: int) -> Figures:
    """One size: the bare calls and the product's in turn, ``runs`` times."""
    prepare(folder, luns)
    best: Figures = {}

    def note(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    bare = calls(folder, luns, acls)
    made = len(bare.stage) + len(bare.activate)
    for _ in range(runs):
        note("bare stage", do(bare.stage))
        note("bare activate", do(bare.activate))
        data, figures = _export()
        for name, seconds in figures.items():
            note(name, seconds)
        down()
        for name, seconds in _replay(data).items():
            note(name, seconds)
        down()
    best["bare calls"] = made
    return best


def _export() -> tuple[bytes, Figures]:
    one = core()
    names = one.names([], True)
    one.freeze(names)
    fs = Recording()
    core(fs).export(names)
    paths = list(fs.paths)
    took = {"bare read": read(paths)}
    one = core()
    began = time.perf_counter()
    document = one.export(names)
    data = documents.dumps(document)
    took["export"] = time.perf_counter() - began
    took["bare reads"] = len(paths)
    return data, took


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

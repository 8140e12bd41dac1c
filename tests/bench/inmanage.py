"""The part of `scripts/bench manage` that runs in a host."""
from __future__ import annotations

import os
import time
from pathlib import Path

from lio_handover.local import managing
from lio_handover.local.managing import Order
from lio_handover.local.ours import Ours
from lio_handover.manage import as_file, schema, tree_file
from lio_handover.plan.plan import FLUSH, LINK, MKDIR, WRITE
from lio_handover.settings import Settings
from tests.bench import inhost
from tests.bench.inhost import Recording
from tests.lab import inside

IQN, ME = "iqn.2026-11.org.example:bench", "iqn.1994-05.org.example:me"
CONFIG = "/run/lio-handover-bench.conf"
TCLI = "iqn.2026-11.org.example:bench2"
_OPS = {MKDIR: "mkdir", LINK: "link", WRITE: "write", FLUSH: "forget"}


def _host(fs: Recording | None = None) -> Ours:
    return Ours(Settings(roots=("/tmp",)), fs)


def _text(folder: str, luns: int) -> bytes:
    return as_file.text({
        "backstores": {f"fileio/d{number}": {"file_or_dev": f"{folder}/{number}",
                                             "wwn": f"{number:08x}-bench"}
                       for number in range(luns)},
        "targets": {f"iscsi/{IQN}": {"tpg1": {
            "portals": [], "luns": {str(number): f"fileio/d{number}" for number in range(luns)},
            "acls": {ME: {}}}}}}).encode()


def _down() -> None:
    inhost.down()
    inhost.forget()


def of_file(folder: str, luns: int, runs: int) -> dict[str, float]:
    """Seconds of the bare calls, of the bare reading, of the kernel's part of an apply, of all
    else of it but what keeps it for a boot, and of that."""
    inhost.prepare(folder, luns)
    _down()
    data, best, paths = _text(folder, luns), dict[str, float](), dict[str, None]()

    def note(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    fs = Recording()
    kept = managing._keep_for_boot
    took = [0.0]

    def timed(*args: object) -> list[str]:
        began = time.perf_counter()
        try:
            return kept(*args)  # type: ignore[arg-type]
        finally:
            took[0] = time.perf_counter() - began
    managing._keep_for_boot = timed  # type: ignore[assignment]
    try:
        for run in range(runs + 1):
            began = time.perf_counter()
            tree = tree_file.load(data)
            schema.check(tree)
            read = time.perf_counter() - began
            host = _host(fs if not run else None)
            done = managing.apply(host, tree, False, str, Order("bench", "apply"))
            whole = time.perf_counter() - began - took[0]
            if run:
                replay = sum(done.outcome.seconds.values())
                note("file and schema", read)
                note("kernel and reading back", replay)
                note("looking and planning", whole - read - replay)
                note("apply", whole)
                note("kept for a boot", took[0])
            _down()
            calls = [(_OPS[step.op], step.path, os.fsdecode(step.value))
                     for step in done.plan.steps if step.op in _OPS]
            if run:
                note("bare calls", inhost.do(calls))
                note("bare reading", inhost.read([*paths], []))
            else:
                paths = dict(fs.paths)
            _down()
    finally:
        managing._keep_for_boot = kept
    bare = best["bare calls"] + best["bare reading"]
    best["reads"], best["writes"] = len(paths), len(calls)
    best["kernel part, ratio to bare"] = best["kernel and reading back"] / bare
    best["the rest, ratio to bare"] = (best["apply"] - best["kernel and reading back"]) / bare
    return best


def one_by_one(folder: str, luns: int) -> dict[str, float]:
    """Seconds of a LUN, with its backstore, made by two commands, and by two of targetcli's."""
    inhost.prepare(folder, luns)
    _down()
    Path(CONFIG).write_text("[storage]\nroots =\n    /tmp\n")
    ours = ["lio-handover", "--config", CONFIG]
    if not Path("/usr/bin/lio-handover").exists():
        ours[0] = str(Path(__file__).resolve().parents[2] / "scripts" / "lio-handover")
    inside.run(*ours, "create", "/iscsi", IQN)
    took = []
    for number in range(luns):
        began = time.perf_counter()
        inside.run(*ours, "create", "/backstores/fileio", f"d{number}", f"{folder}/{number}")
        inside.run(*ours, "create", f"/iscsi/{IQN}/tpg1/luns", f"fileio/d{number}")
        took.append(time.perf_counter() - began)
    _down()
    address, _pid = inside.run("dbus-daemon", "--session", "--fork", "--print-address=1",
                               "--print-pid=1").split()
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = address
    few = min(luns, 10)
    inside.run("targetcli", "/iscsi", "create", TCLI)
    first = _targetcli(folder, range(few))
    # The same host with nearly all of them, as fast as they can be made.
    managing.apply(_host(), tree_file.load(_text(folder, luns)), False, str, Order("bench", ""))
    last = _targetcli(folder, range(few, few + 2))
    _down()
    return {"first": sum(took[:5]) / 5, "last": sum(took[-5:]) / 5, "all": sum(took),
            "last to first": sum(took[-5:]) / sum(took[:5]),
            "targetcli, few LUNs there": first, "targetcli, all LUNs there": last,
            "ours to targetcli's": sum(took) / (luns * (first + last) / 2)}


def _targetcli(folder: str, numbers: range) -> float:
    """Seconds of one LUN."""
    began = time.perf_counter()
    for number in numbers:
        path = f"{folder}/t{number}"
        with open(path, "wb") as file:
            file.truncate(inhost.SIZE)
        inside.run("targetcli", "/backstores/fileio", "create", f"t{number}", path)
        inside.run("targetcli", f"/iscsi/{TCLI}/tpg1/luns", "create",
                   f"/backstores/fileio/t{number}")
    return (time.perf_counter() - began) / len(numbers)

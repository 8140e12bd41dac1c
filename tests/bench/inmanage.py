"""The part of `scripts/bench manage` that runs in a host."""
from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

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


def one_by_one(folder: str, luns: int) -> dict[str, Any]:
    """Seconds of one call, of a backstore and of a LUN of it with its mapped LUN: by the command
    line, by D-Bus, and by targetcli, with few LUNs there and with all."""
    inhost.prepare(folder, luns)
    _down()
    _command("create", "/iscsi", IQN)
    _command("create", f"/iscsi/{IQN}/tpg1/acls", ME)
    ours = [_timed(_backstore, folder, number) + _timed(_lun, number)
            for number in range(luns)]
    figures: dict[str, Any] = {
        "ours, backstore": _growth([made for made, _linked in ours]),
        "ours, LUN": _growth([linked for _made, linked in ours])}
    figures["ours alone, LUN"] = _alone(folder, luns)
    figures["D-Bus, LUN"] = _by_bus(5)
    _down()
    few = min(luns, 5)
    inside.run("targetcli", "/iscsi", "create", TCLI)
    inside.run("targetcli", f"/iscsi/{TCLI}/tpg1/acls", "create", ME)
    first = _targetcli(folder, range(few))
    # The same host with nearly all of them, as fast as they can be made.
    managing.apply(_host(), tree_file.load(_text(folder, luns)), False, str, Order("bench", ""))
    last = _targetcli(folder, range(few, few + 2))
    _down()
    for kind in ("backstore", "LUN"):
        theirs = (first[kind] + last[kind]) / 2
        figures[f"targetcli, {kind}"] = {"few LUNs there": first[kind], "all there": last[kind]}
        figures[f"ours to targetcli's, {kind}"] = figures[f"ours, {kind}"]["mean"] / theirs
    figures["D-Bus to the command line"] = \
        figures["D-Bus, LUN"] / figures["ours, LUN"]["last"]
    return figures


def _command(*words: str) -> None:
    inside.run("/usr/bin/lio-handover", *words)


def _timed(does: Callable[..., object], *args: Any) -> tuple[float]:
    began = time.perf_counter()
    does(*args)
    return (time.perf_counter() - began,)


def _backstore(folder: str, number: int) -> None:
    _command("create", "/backstores/fileio", f"d{number}", f"{folder}/{number}")


def _lun(number: int) -> None:
    _command("create", f"/iscsi/{IQN}/tpg1/luns", f"fileio/d{number}")


def _growth(took: list[float]) -> dict[str, float]:
    first, last = statistics.median(took[:9]), statistics.median(took[-9:])
    return {"mean": sum(took) / len(took), "first": first, "last": last,
            "last to first": last / first, "longest": max(took)}


def _alone(folder: str, luns: int) -> float:
    """The same without the service, with all of them there."""
    return min(_timed(_command, "create", "--alone", f"/iscsi/{IQN}/tpg1/luns", "fileio/d0",
                      str(luns + number))[0] for number in range(3))


def _by_bus(calls: int) -> float:
    """A call of a client that is connected."""
    from tests.support.inmanagebus import Orchestrator
    bus, target = Orchestrator(), f"iscsi/{IQN}"

    def call() -> None:
        answer = bus.of("Target", target, "AddLun", "usxb", 1, "fileio/d0", -1, True)
        assert answer.startswith("/"), answer
    return min(_timed(call)[0] for _call in range(calls))


def _targetcli(folder: str, numbers: range) -> dict[str, float]:
    """Seconds of one call."""
    took: dict[str, list[float]] = {"backstore": [], "LUN": []}
    for number in numbers:
        path = f"{folder}/t{number}"
        with open(path, "wb") as file:
            file.truncate(inhost.SIZE)
        took["backstore"] += _timed(inside.run, "targetcli", "/backstores/fileio", "create",
                                    f"t{number}", path)
        took["LUN"] += _timed(inside.run, "targetcli", f"/iscsi/{TCLI}/tpg1/luns", "create",
                              f"/backstores/fileio/t{number}")
    return {kind: min(seconds) for kind, seconds in took.items()}

"""The part of `scripts/bench shell` that runs in a host."""
from __future__ import annotations

import time

from lio_handover.local import managing
from lio_handover.local.managing import Order
from lio_handover.manage import tree_file
from tests.bench import inhost, inmanage
from tests.lab import inside

TPG = f"/iscsi/{inmanage.IQN}/tpg1"
OURS = ("/usr/bin/lio-handover", "shell")
ALONE = ("/usr/bin/lio-handover", "--alone", "shell")
THEIRS = ("targetcli",)


def _serve(folder: str, luns: int) -> None:
    inhost.prepare(folder, luns)
    inmanage._down()
    managing.apply(inmanage._host(), tree_file.load(inmanage._text(folder, luns)), False, str,
                   Order("bench", "", keep=False))


def _least(program: tuple[str, ...], lines: list[tuple[str, ...]]) -> float:
    took = []
    for words in lines:
        began = time.perf_counter()
        inside.run(*program, *words)
        took.append(time.perf_counter() - began)
    return min(took)


def _both(ours: list[tuple[str, ...]], theirs: list[tuple[str, ...]]) -> dict[str, float]:
    figures = {"ours": _least(OURS, ours), "targetcli": _least(THEIRS, theirs),
               "python3 -I -S -c pass": _least(("python3", "-I", "-S", "-c", "pass"), [()] * 3)}
    return {**figures, "ours to targetcli's": figures["ours"] / figures["targetcli"]}


def one_call(folder: str, luns: int, runs: int) -> dict[str, float]:
    """Seconds of making an ACL, with so many LUNs there, of which it maps none."""
    _serve(folder, luns)

    def lines(who: str, calls: int) -> list[tuple[str, ...]]:
        return [(f"{TPG}/acls", "create", f"iqn.1994-05.org.example:{who}{number}", "false")
                for number in range(calls)]
    figures = _both(lines("ours", runs), lines("theirs", runs if luns < 50 else 1))
    figures["ours, without the service"] = _least(ALONE, lines("alone", runs))
    inmanage._down()
    return figures


def listing(folder: str, luns: int, runs: int) -> dict[str, float]:
    """Seconds of `ls` of all that is there."""
    _serve(folder, luns)
    figures = _both([("ls",)] * runs, [("ls",)])
    inmanage._down()
    return figures

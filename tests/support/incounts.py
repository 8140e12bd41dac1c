"""What a host reads for verbs of many targets: files opened and folders listed, counted by kind."""
from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lio_handover.handover.engine import HandoverEngine
from lio_handover.kernel.configfs import Configfs
from lio_handover.local import restoring
from lio_handover.local.guard import Guard
from lio_handover.local.ours import Ours
from tests.support import byfile, inhandover, inhost

_HBA = re.compile("/core/[a-z_]+_[0-9]+$")
NAME = "iscsi/iqn.2026-11.org.example:many{}"
FOLDER = inhandover.FOLDER


def make(shared: str, targets: int) -> list[str]:
    """So many targets, each with a backstore and a port of its own, saved by targetcli."""
    fs = Path(Configfs().root)
    names = [NAME.format(number) for number in range(targets)]
    for number, name in enumerate(names):
        path = Path(shared, f"many{number}.img")
        path.write_bytes(bytes(1 << 20))
        store, tpg = fs / f"core/fileio_{100 + number}/many{number}", fs / name / "tpgt_1"
        store.mkdir(parents=True)
        (store / "control").write_text(f"fd_dev_name={path},fd_dev_size={1 << 20}")
        (store / "wwn/vpd_unit_serial").write_text(f"0123456789ab-{number}")
        (store / "enable").write_text("1")
        tpg.mkdir(parents=True)
        (tpg / f"np/0.0.0.0:{3300 + number}").mkdir()
        lun = tpg / "lun/lun_0"
        lun.mkdir()
        (lun / "many").symlink_to(store)
        (tpg / "enable").write_text("1")
    inhandover.save()
    return names


class Counted:
    """What is opened and listed from now on, until it is asked; a process has one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in ("open", "os.listdir", "os.scandir") or not isinstance(args[0], str):
            return
        path = args[0]
        if path.startswith(f"{FOLDER}/handovers/"):
            self.counts["journals"] += 1
        elif path.startswith(Configfs().root):
            self.counts["configfs"] += 1
            if _HBA.search(path):
                self.counts["HBAs"] += 1
        elif path == f"{FOLDER}/owners.json":
            self.counts["owners"] += 1
        elif path == inhandover.SAVED:
            self.counts["save file"] += 1

    def of(self, work: Callable[[], Any]) -> dict[str, int]:
        self.counts.clear()
        work()
        return dict(self.counts)


def reads(shared: str, targets: int) -> dict[str, dict[str, int]]:
    """What each of these opens and lists on a host of so many targets."""
    inhost.forget_all()
    names, counted = make(shared, targets), Counted()

    def core() -> Ours:
        return byfile.core()

    def verb(name: str) -> None:
        one = core()
        getattr(one, name)(one.names(names), ("not-saved",))

    def restores() -> None:
        for name in names:
            restoring.restore(core(), name, print)

    def boots() -> None:
        HandoverEngine(core()).before_targetcli_restore()
        core().to_restore()

    def guards() -> Callable[[], None]:
        guard = Guard(core, None, lambda *_: None)
        guard.look()  # so all of it is known

        def look() -> None:
            guard._new = True
            guard.look()
        return look

    found = {"adopt": counted.of(lambda: verb("adopt")),
             "adopt again": counted.of(lambda: verb("adopt")),
             "status": counted.of(lambda: core().restorers()),
             "boot": counted.of(boots), "restore": counted.of(restores),
             "guard": counted.of(guards()),
             "giveback": counted.of(lambda: verb("giveback"))}
    os.sync()
    return found


def reads_of_one(shared: str, targets: int) -> dict[str, int]:
    """What the restore of one target opens and lists on a host of so many."""
    inhost.forget_all()
    names, counted = make(shared, targets), Counted()
    one = byfile.core()
    one.adopt(one.names(names))
    one.clear(names[0])
    found = counted.of(lambda: restoring.restore(byfile.core(), names[0], print))
    assert inhandover.gates()[f"{names[0]}/tpgt_1"] == "1"
    return found

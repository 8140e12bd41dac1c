"""What tests of surviving registrations run inside a lab host."""
from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from lio_handover.actions import aptpl_copies
from lio_handover.handover.engine import Reply
from lio_handover.kernel.configfs import Configfs
from lio_handover.model import pr_texts
from lio_handover.model.objects import Reservations
from lio_handover.scsi import cdb
from lio_handover.scsi.fingerprint import describe, drain
from tests.lab import inside
from tests.lab.isid import Session
from tests.support import inhandover, inhost, samples

#: Other places where a kernel may have written.
ELSEWHERE = Path("/etc/target")


def file_of(serial: str) -> Path:
    return Path(Configfs().read("dbroot").strip(), "pr", f"aptpl_{serial}")


def read(serial: str) -> bytes:
    return file_of(serial).read_bytes()


def files() -> list[str]:
    """Every APTPL file of this host."""
    return sorted(path.name for folder in ("/var/target", "/etc/target", "/etc/rtslib-fb-target")
                  for path in Path(folder, "pr").glob("aptpl_*"))


def spoil(serial: str, how: str, good: bytes) -> None:
    """Make the file what a power cut, or a human, makes of it."""
    path = file_of(serial)
    for one in (path, ELSEWHERE / "pr" / path.name):
        if one.is_dir():
            one.rmdir()
        elif one.exists():
            one.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "a folder":
        path.mkdir()
    elif how == "elsewhere, torn":
        path.write_bytes(good)
        os.utime(path, (1e9, 1e9))
        (ELSEWHERE / "pr").mkdir(parents=True, exist_ok=True)
        (ELSEWHERE / "pr" / path.name).write_bytes(good[:-200])
    elif how == "older":
        path.write_bytes(good)
        os.utime(path, (1e9, 1e9))
    elif how != "gone":
        path.write_bytes({
            "whole": good, "empty": b"", "zeros": bytes(len(good)), "torn": good[:-200],
            "cut after a block": good.partition(b"PR_REG_START: 1")[0],
            "garbage": b"\x7fELF" + bytes(range(256)), "with more behind it": good + b"x\0",
            "of another target": good.replace(samples.IQN.encode(), b"iqn.2003-01.org.other:x"),
            "of another initiator": good.replace(samples.initiator(1).encode(),
                                                 b"iqn.2003-01.org.other:nobody"),
            "placeholder": pr_texts.EMPTY_FILE, "placeholder too": pr_texts.PLACEHOLDERS[1]}[how])


def lose(id: str, serial: str, how: str, good: bytes,  # noqa: A002
         followed_too: bool = False) -> None:
    """All of the target is gone from this kernel, as after a reboot, and the file is so; and
    unless ``followed_too`` nobody followed it."""
    inside.clear_targets()
    if not followed_too:
        Path(inhandover.FOLDER, "handovers", id, "followed.json").unlink(missing_ok=True)
    spoil(serial, how, good)


def replace_folder() -> None:
    """As a backup that is put back does."""
    folder = file_of("x").parent
    os.rename(folder, f"{folder}.old")
    shutil.copytree(f"{folder}.old", folder)
    shutil.rmtree(f"{folder}.old")


def recover(id: str, allow: Sequence[str] = (),  # noqa: A002
            answers: inhandover.Answers | None = None) -> Reply:
    return inhandover.handovers(answers).recover(id, allow=allow)[0]


def held() -> list[list[tuple[str, int]]]:
    """(initiator, key) of what is registered here, of each backstore."""
    return [[(one.initiator, one.key) for one in store.reservations.registrations]
            for store in inhost.read_all().backstores]


def do(lun: int, number: int, *asked: cdb.Command) -> None:
    """What the initiator with that number does: PERSISTENT RESERVE OUT."""
    isid = f"00023d{number:06x}"
    with Session("127.0.0.1", 3260, samples.IQN, samples.initiator(number), isid) as session:
        unit = session.unit(lun)
        drain(unit.execute)
        for one in asked:
            result = unit.execute(*one)
            assert result.good, describe(result)


def what_the_kernel_writes(serial: str) -> dict[str, bytes]:
    """What is in the file after each PERSISTENT RESERVE OUT by one registrant of LUN 1."""
    found = {}
    for name, one in (
            ("registered", cdb.register(0, 7, aptpl=True)),
            ("reserved", cdb.reserve(7, 8)),
            ("gone", cdb.register(7, 0, aptpl=True)),
            ("without", cdb.register(0, 8)),
            ("with", cdb.register(8, 9, aptpl=True)),
            ("cleared", cdb.clear(9))):
        do(1, 0, one)
        found[name] = read(serial)
    return found


def written(held_: Reservations) -> bytes:
    return pr_texts.aptpl_text(held_, {(samples.IQN, 1): 1})


def copy(id: str) -> dict[str, bytes]:  # noqa: A002
    """serial → what followed the file, as it is kept."""
    path = Path(inhandover.FOLDER, "handovers", id, "followed.json")
    if not path.exists():
        return {}
    assert path.stat().st_mode & 0o777 == 0o600
    return {serial: one["data"].encode()
            for serial, one in json.loads(path.read_text())["files"].items()}


def ended(id: str) -> bool:  # noqa: A002
    path = Path(inhandover.FOLDER, "handovers", id, "followed.json")
    return bool(json.loads(path.read_text())["ended"])


def wait_for_end(id: str) -> None:  # noqa: A002
    """Until the service's child has noted that nobody follows any more."""
    until = time.monotonic() + 10
    while not ended(id):
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_for_copy(id: str, serial: str, seconds: float = 10.0) -> None:  # noqa: A002
    """Until the copy has what the file has."""
    until = time.monotonic() + seconds
    while copy(id).get(serial) != read(serial):
        assert time.monotonic() < until, (copy(id), read(serial))
        time.sleep(0.005)


def followed_after(id: str, serial: str, *asked: cdb.Command) -> float:  # noqa: A002
    """Seconds from the status of the last command until the copy has what the kernel wrote."""
    do(0, 0, *asked)
    began = time.monotonic()
    wait_for_copy(id, serial)
    return time.monotonic() - began


def spoil_disk(serial: str, data: bytes) -> None:
    """What a power cut leaves of the file; on the host's disk when this returns."""
    path = file_of(serial)
    path.write_bytes(data)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def settled() -> None:
    """All that this host has written is on its disks."""
    os.sync()


def look() -> None:
    """What the service does when a file was written."""
    aptpl_copies.Follower(inhandover.handovers().core).look()

"""What tests of lio-handover-vmstate run inside a host: the guest's bus, and QEMU's calls on it."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lio_handover.host import guests
from lio_handover.vmstate.main import BUS_NAME, PATH
from tests.support import inbus, inhost

GUEST = "vm1"
ADDRESS = guests.BUS.format(name=GUEST)
ID = f"lio-handover/{GUEST}"
UNITS = inbus.CHECKOUT / "etc" / "systemd"
HELPER, BUS = "lio-handover-vmstate@.service", "lio-handover-vmstate-bus@.service"
#: An emulated host is slow.
SECONDS = 60


def configure(targets: Sequence[str], more: str = "") -> None:
    """The guest's file."""
    folder = Path(guests.FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"\n  {name}" for name in targets)
    (folder / f"{GUEST}.conf").write_text(f"[guest]\ntargets ={lines}\n{more}")


def command(unit: str) -> list[str]:
    """A unit's program, for this guest."""
    text = (UNITS / unit).read_text()
    line, = (line for line in text.splitlines() if line.startswith("ExecStart="))
    return line.partition("=")[2].replace("%i", GUEST).split()


def start_bus() -> None:
    """The guest's bus, as its unit starts it."""
    folder = Path(f"/run/lio-handover-guests/{GUEST}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bus").unlink(missing_ok=True)
    subprocess.run(command(BUS), check=True)


def sandboxed() -> list[str]:
    """The helper's program with its capabilities and read-only folders."""
    return inbus.sandboxed((UNITS / HELPER).read_text().replace("%i", GUEST))


def wait_for_helper(seconds: float = SECONDS) -> None:
    """Until QEMU would find it."""
    until = time.monotonic() + seconds
    while True:
        try:
            if inbus.connect(ADDRESS).name_has_owner(BUS_NAME):
                return
        except Exception as error:  # noqa: B902 - no bus yet
            assert time.monotonic() < until, error
        assert time.monotonic() < until, "no helper"
        time.sleep(0.1)


def _call(member: str, signature: str, *args: Any) -> Any:
    return inbus.connect(ADDRESS).call_blocking(BUS_NAME, PATH, BUS_NAME, member, signature, args,
                                                timeout=25, byte_arrays=True)


def known_as(address: str = "") -> list[str]:
    """The ids that QEMU sees: of who has the name, and of who waits for it."""
    bus = inbus.connect(address or ADDRESS)
    owners = bus.call_blocking("org.freedesktop.DBus", "/org/freedesktop/DBus",
                               "org.freedesktop.DBus", "ListQueuedOwners", "s", (BUS_NAME,))
    return [str(bus.call_blocking(owner, PATH, "org.freedesktop.DBus.Properties", "GetAll", "s",
                                  (BUS_NAME,))["Id"]) for owner in owners]


def save() -> tuple[bytes, str]:
    """What Save() answers, or (b"", the error's sentence)."""
    return _answered("Save", "")


def load(data: bytes) -> str:
    """The error's sentence that Load() ends with; "" for none."""
    import dbus
    return _answered("Load", "ay", dbus.ByteArray(data))[1]


def _answered(member: str, signature: str, *args: Any) -> tuple[bytes, str]:
    import dbus
    try:
        answer = _call(member, signature, *args)
    except dbus.DBusException as error:
        return b"", f"{error.get_dbus_name()}: {error.get_dbus_message()}"
    return (bytes(answer) if answer is not None else b""), ""


def end_helper(number: int) -> None:
    """A signal to who has the name on the guest's bus, and to its processes, as systemd sends it to
    the whole unit."""
    pid = _helper()
    for process in (pid, *children(pid)):
        os.kill(process, number)


def hang(record: str, seconds: float = 120.0) -> str:
    """Stop the helper's processes as soon as a journal of this host has this text; what was
    stopped."""
    until = time.monotonic() + seconds
    pids = children(_helper())  # one of them waits for the next call
    while not any(record in path.read_text() for path in Path(
            inhost.SETTINGS.state_directory, "handovers").glob("*/journal")):
        assert time.monotonic() < until, f"no {record}"
        time.sleep(0.005)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return f"{len(pids)} processes"


def go_on() -> None:
    """Undo `hang`."""
    for pid in children(_helper()):
        os.kill(pid, signal.SIGCONT)


def rests(seconds: float = 2.0) -> None:
    """Until the helper's processes do nothing: the next one has loaded all that it wants."""
    until = time.monotonic() + SECONDS
    while True:
        before = _work()
        time.sleep(seconds)
        if before and _work() == before:
            return
        assert time.monotonic() < until, "the helper's processes work and work"


def _work() -> dict[int, str]:
    """Process of the helper → its time on the processor."""
    found = {}
    for pid in children(_helper()):
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue  # it has ended
        found[pid] = " ".join(text.rpartition(")")[2].split()[11:13])
    return found


def _helper() -> int:
    bus = inbus.connect(ADDRESS)
    return int(bus.call_blocking("org.freedesktop.DBus", "/org/freedesktop/DBus",
                                 "org.freedesktop.DBus", "GetConnectionUnixProcessID", "s",
                                 (BUS_NAME,)))


def children(pid: int) -> list[int]:
    """Its processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

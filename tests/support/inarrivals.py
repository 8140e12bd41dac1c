"""What tests of arrivals run inside a lab host."""
from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lio_handover.system.arrivals import Arrivals

HERE = Path("/run/arrivals")


def quiet(arrivals: Arrivals) -> None:
    """Take what is still told of earlier deeds."""
    until = time.monotonic() + 10
    while arrivals.wait(0.05):
        assert time.monotonic() < until, "it is never quiet"


def wakes(arrivals: Arrivals, deed: Callable[[], object]) -> bool:
    """Whether a deed is told."""
    quiet(arrivals)
    deed()
    return arrivals.wait(0.3)


def run(*argv: str) -> Callable[[], object]:
    return lambda: subprocess.run(argv, check=True, capture_output=True)


def write(path: str, text: str) -> Callable[[], object]:
    return lambda: Path(path).write_text(text)


def comes(path: str, argv: Sequence[str], true: Callable[[str], bool] = os.path.exists) -> int:
    """How often one that waits for a path looked, while a program brought it some time later; the
    path is there, and it never waited in vain."""
    with Arrivals([path]) as arrivals:
        assert not true(path)
        child = subprocess.Popen(["sh", "-c", 'sleep 0.2; exec "$@"', "later", *argv])
        looks = 1
        while not true(path):
            assert arrivals.wait(20), "nothing was told"
            looks += 1
        assert child.wait(20) == 0
        return looks


def idle(seconds: float) -> tuple[bool, float]:
    """Whether it woke while nothing happened, and the seconds of CPU that this took."""
    with Arrivals([f"/dev/disk/by-id/{number}" for number in range(300)]) as arrivals:
        quiet(arrivals)
        before = time.process_time()
        return arrivals.wait(seconds), time.process_time() - before


# ── mounts ───────────────────────────────────────────────────────────────────────────────────

def mounts() -> dict[str, bool]:
    """What is told of what is done to a folder by mounts only."""
    folder = HERE / "folder"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    (folder / "disk").touch()
    other = HERE / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", str(folder), str(other)], check=True)
    found = {}
    with Arrivals([f"{folder}/disk"]) as arrivals:
        found["unmounted"] = wakes(arrivals, run("umount", str(folder)))
        found["mounted"] = wakes(arrivals, run("mount", "-t", "tmpfs", "tmpfs", str(folder)))
        found["a file in it"] = wakes(arrivals, (folder / "disk").touch)
        found["unmounted lazily"] = wakes(arrivals, run("umount", "--lazy", str(folder)))
        found["bound"] = wakes(arrivals, run("mount", "--bind", str(other), str(folder)))
        found["the old file again"] = wakes(arrivals, (folder / "disk").touch)
        found["a neighbour"] = wakes(arrivals, (folder / "neighbour").touch)
    subprocess.run(["umount", str(folder), str(other)], check=True)
    shutil.rmtree(HERE)
    return found


# ── uevents ──────────────────────────────────────────────────────────────────────────────────

def loop(image: str) -> str:
    """A loop device that is there, and has no file yet."""
    subprocess.run(["modprobe", "loop"], check=True)
    Path(image).touch()
    os.truncate(image, 1 << 20)
    return subprocess.run(["losetup", "--find"], check=True, capture_output=True,
                          text=True).stdout.strip()


def size_of(device: str) -> int:
    return int(Path(f"/sys/block/{os.path.basename(device)}/size").read_text())


def devices() -> dict[str, int]:
    """How often one looked who waits for a loop device's size, and for a SCSI disk's node."""
    device = loop("/run/loop.image")
    looks = {"loop": comes(device, ["losetup", device, "/run/loop.image"],
                           lambda path: size_of(path) > 0)}
    looks["scsi_debug"] = comes("/dev/sda", ["modprobe", "scsi_debug", "dev_size_mb=8"])
    subprocess.run(["modprobe", "-r", "scsi_debug"], check=True)
    looks["module"] = comes("/sys/module/scsi_debug", ["modprobe", "scsi_debug", "dev_size_mb=8"])
    subprocess.run(["modprobe", "-r", "scsi_debug"], check=True)
    return looks


def _udev(subsystem: str = "block", user: int = 0, magic: int = 0xfeedcafe,
          start: int = 40, group: int = 2) -> Callable[[], object]:
    """Say something as udev does, as this user."""
    words = f"ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM={subsystem}\0SEQNUM=1\0".encode()
    data = struct.pack("!8sI", b"libudev\0", magic) + struct.pack(
        "7I", 40, start, len(words), 0, 0, 0, 0) + words

    def send() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as line:
            line.bind((0, 0))
            line.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS,
                                   struct.pack("3i", os.getpid(), user, 0))], 0, (0, group))

    return send


def uevents() -> dict[str, bool]:
    """Which messages count."""
    subprocess.run(["modprobe", "loop"], check=True)
    memory = write("/sys/class/mem/null/uevent", "change")
    nothing = [_udev("net"), _udev(magic=1), _udev(start=4000), _udev(user=65534), memory]
    found = {}
    with Arrivals(["/dev/nothing"]) as arrivals:
        for name, deed in {
                "udev's": _udev(), "of SCSI": _udev("scsi_device"), "of a module": _udev("module"),
                "to the kernel's group": _udev(group=1),
                "the kernel's": write("/sys/block/loop0/uevent", "change"),
                "of no interest": lambda: [one() for one in nothing],
                "too many": lambda: [memory() for _ in range(1000)]}.items():
            found[name] = wakes(arrivals, deed)
        found["none after them"] = arrivals.wait(0.3)
    return found


# ── limits of inotify ────────────────────────────────────────────────────────────────────────

def overflow() -> dict[str, bool]:
    """What is told of events of no interest, and where some of them were lost."""
    HERE.mkdir(exist_ok=True)
    found, most = {}, Path("/proc/sys/fs/inotify/max_queued_events")
    before = most.read_text()
    most.write_text("50")
    try:
        with Arrivals([f"{HERE}/missing"]) as arrivals:
            for count in (20, 200):
                found[f"{count} neighbours"] = wakes(arrivals, run(
                    "touch", *(f"{HERE}/{count}-{number}" for number in range(count))))
            found["the file, later"] = wakes(arrivals, (HERE / "missing").touch)
    finally:
        most.write_text(before)
        shutil.rmtree(HERE)
    return found


def limits() -> list[str]:
    """What is raised where the host has no more watches, or no more instances."""
    said = []
    for name, value in (("watches", "1"), ("instances", "0")):
        limit = Path(f"/proc/sys/fs/inotify/max_user_{name}")
        before = limit.read_text()
        limit.write_text(value)
        try:
            descriptors = len(os.listdir("/proc/self/fd"))
            try:
                Arrivals(["/run/lock/missing"]).close()
            except OSError as error:
                said.append(str(error.strerror))
            assert len(os.listdir("/proc/self/fd")) == descriptors
        finally:
            limit.write_text(before)
    return said

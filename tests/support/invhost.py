"""What tests of the vhost initiator run inside a lab host, and the targets they run it against.

The targets are made with bare mkdir, write and symlink, so that a mistake of the product cannot
hide one of its initiator.
"""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lio_handover.scsi import TransportError, cdb, replies, sg, vhost
from lio_handover.scsi.cdb import Command
from lio_handover.scsi.fingerprint import fingerprint
from lio_handover.scsi.replies import Sense
from tests.lab.inside import TARGET, run

WWPN = "naa.5001405000000001"
OTHER = "naa.5001405000000002"
NEXUS = "naa.5001405000000011"
OTHER_NEXUS = "naa.5001405000000012"


# ── targets ──────────────────────────────────────────────────────────────────────────────────


def ramdisk(number: int) -> Path:
    """256 KiB of memory in blocks of 512 bytes, with a unit serial."""
    device = TARGET / f"core/rd_mcp_{number}" / f"disk{number}"
    if not device.exists():
        device.mkdir(parents=True)
        (device / "control").write_text("rd_pages=64")
        (device / "enable").write_text("1")
        (device / "wwn/vpd_unit_serial").write_text(f"0000-{number}")
    return device


def target(wwpn: str = WWPN, luns: int = 1, tpgt: int = 1, nexus: str = NEXUS,
           fabric: str = "vhost") -> None:
    """A TPG whose LUN n is ramdisk n."""
    tpg = TARGET / fabric / wwpn / f"tpgt_{tpgt}"
    tpg.mkdir(parents=True)
    if fabric == "loopback":        # its LUNs are looked for when they are linked
        (tpg / "nexus").write_text(nexus)
    for number in range(luns):
        lun = tpg / f"lun/lun_{number}"
        lun.mkdir(parents=True)
        (lun / "link").symlink_to(ramdisk(number))
    if fabric != "loopback":
        (tpg / "nexus").write_text(nexus)


def stuck_target(seconds: int) -> None:
    """A disk in user space that nobody serves: each command is kept for so long."""
    run("modprobe", "target_core_user")
    device = TARGET / "core/user_0/stuck"
    device.mkdir(parents=True)
    (device / "control").write_text("dev_config=lab/none,dev_size=1048576,nl_reply_supported=-1")
    (device / "enable").write_text("1")
    (device / "attrib/cmd_time_out").write_text(str(seconds))
    lun = TARGET / "vhost" / WWPN / "tpgt_1/lun/lun_0"
    lun.mkdir(parents=True)
    (lun / "link").symlink_to(device)
    (lun.parents[1] / "nexus").write_text(NEXUS)


def tree() -> dict[str, str]:
    """Every path below the target tree, with what it says; counters and times left out."""
    found = {}
    for folder, folders, files in os.walk(TARGET):
        folders[:] = [name for name in folders if "statistics" not in name]
        for name in (*folders, *files):
            path = Path(folder, name)
            try:
                found[str(path)] = os.readlink(path) if path.is_symlink() else (
                    path.read_text(errors="replace") if path.is_file() else "")
            except OSError as error:
                found[str(path)] = f"errno {error.errno}"
    return found


def _failure(action: Callable[[], object]) -> tuple[str, int, str]:
    """(type, errno, words) of what an action raises."""
    try:
        action()
    except OSError as error:
        return type(error).__name__, error.errno or 0, str(error)
    return "", 0, ""


# ── questions ────────────────────────────────────────────────────────────────────────────────


def fingerprints(luns: int, tpgt: int = 1) -> tuple[list[int], list[dict[str, bytes]]]:
    """What REPORT LUNS says, and every LUN's fingerprint."""
    with vhost.Endpoint(WWPN) as endpoint:
        return endpoint.luns(tpgt), [fingerprint(endpoint.unit(lun, tpgt).execute)
                                     for lun in range(luns)]


def ask(*steps: tuple[int, Command]) -> list[tuple[int, Sense | None, bytes]]:
    """Send commands to LUN 0 of TPGs of one endpoint; (status, sense, data) of each."""
    answers = []
    with vhost.Endpoint(WWPN) as endpoint:
        for tpgt, command in steps:
            result = endpoint.unit(0, tpgt).execute(*command)
            answers.append((result.status, replies.sense_of(result), result.data))
    return answers


def outstanding(count: int) -> tuple[bool, list[int]]:
    """Write a pattern, read all of it with ``count`` commands at once, some waited for late."""
    data = b"".join(block.to_bytes(2, "big") * 256 for block in range(512))
    with vhost.Endpoint(WWPN, depth=count) as endpoint:
        unit = endpoint.unit()
        assert unit.execute(*cdb.write_10(0, data)).good
        for _ in range(6):      # more than once around the rings
            pending = [unit.submit(*cdb.read_10(block, 8)) for block in range(count)]
            answers = [one.wait().data for one in reversed(pending)]
        whole = unit.execute(*cdb.read_16(0, 512)).data
    expected = [data[512 * block:512 * (block + 8)] for block in reversed(range(count))]
    return answers == expected and whole == data, [len(answer) for answer in answers]


def drained() -> list[dict[tuple[int, int], list[Sense]]]:
    """Two drains in a row."""
    return [vhost.drain(WWPN), vhost.drain(WWPN)]


def reset() -> list[dict[tuple[int, int], list[Sense]]]:
    """A drain, and one after the only LUN was reset and asked for the list of LUNs."""
    before = vhost.drain(WWPN)
    with vhost.Endpoint(WWPN) as endpoint:
        endpoint.unit(0).reset()
        assert endpoint.luns() == [0]
    return [before, vhost.drain(WWPN)]


# ── the endpoint ─────────────────────────────────────────────────────────────────────────────


def held() -> dict[str, tuple[str, int, str]]:
    """What others meet while an endpoint is held, and after."""
    tpg = TARGET / "vhost" / WWPN / "tpgt_1"
    seen = {}
    holder = vhost.occupy(WWPN)
    seen["attach"] = _failure(lambda: vhost.occupy(WWPN))
    seen["rmdir"] = _failure(tpg.rmdir)
    holder.close()
    holder.close()
    seen["rmdir when free"] = _failure(tpg.rmdir)
    seen["attach when free"] = _failure(lambda: vhost.occupy(WWPN).close())
    vhost.occupy(WWPN)
    seen["attach when forgotten"] = _failure(lambda: vhost.occupy(WWPN).close())
    seen["command when closed"] = _failure(
        lambda: holder.unit().execute(*cdb.test_unit_ready()))
    seen["nobody"] = _failure(lambda: vhost.occupy(OTHER))
    seen["descriptors"] = "", len(os.listdir("/proc/self/fd")), ""
    for _ in range(20):
        vhost.occupy(WWPN).close()
    seen["descriptors after 20 more"] = "", len(os.listdir("/proc/self/fd")), ""
    return seen


@contextmanager
def _child(action: Callable[[], object]) -> Iterator[int]:
    """A process that does something and then sleeps; killed at the end."""
    inner, outer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(inner)
            kept = action()
            os.write(outer, b"!" if kept else b"?")
            signal.pause()
        finally:
            os._exit(1)
    os.close(outer)
    assert os.read(inner, 1) == b"!"
    os.close(inner)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def killed_holder() -> tuple[tuple[str, int, str], tuple[str, int, str]]:
    """What a second holder meets before and after the first was killed at its work."""
    def work() -> object:
        endpoint = vhost.Endpoint(WWPN).__enter__()
        return endpoint, [endpoint.unit().submit(*cdb.read_10(0)) for _ in range(16)]

    with _child(work):
        before = _failure(lambda: vhost.occupy(WWPN))
    return before, _failure(lambda: vhost.occupy(WWPN).close())


def probe() -> bool:
    """Whether this kernel logs, asked of the target at hand."""
    return vhost.probe_dirty_logging(WWPN)


def failures() -> dict[str, tuple[str, int, str]]:
    """What an initiator is told of what is not there."""
    with vhost.Endpoint(WWPN, depth=1, room=4096) as endpoint:
        unit = endpoint.unit()
        return {
            "no such TPG": _failure(
                lambda: endpoint.unit(0, 9).execute(*cdb.test_unit_ready())),
            "no device": _failure(lambda: vhost.Endpoint(WWPN, device="/dev/nothing")),
            "not the device": _failure(lambda: vhost.Endpoint(WWPN, device="/dev/null")),
            "still works": _failure(lambda: unit.execute(*cdb.test_unit_ready())),
        }


# ── a backstore that does not answer ─────────────────────────────────────────────────────────


def stuck() -> tuple[dict[str, tuple[str, int, str]], dict[str, float]]:
    """Time limits, resets and the end, against the disk that keeps every command."""
    seen: dict[str, tuple[str, int, str]] = {}
    seconds: dict[str, float] = {}
    begin = time.monotonic()
    endpoint = vhost.Endpoint(WWPN, depth=2, timeout=0.5).__enter__()
    unit = endpoint.unit()
    first = unit.submit(*cdb.read_10(0))
    seen["command"] = _failure(lambda: unit.execute(*cdb.read_10(0), timeout=0.3))
    seen["too many"] = _failure(lambda: unit.submit(*cdb.read_10(0)))
    seen["reset"] = _failure(lambda: unit.reset(timeout=0.3))
    seconds["limits"] = time.monotonic() - begin
    seen["reset first"] = _failure(lambda: first.wait(10))
    assert replies.sense_of(unit.execute(*cdb.test_unit_ready())) == (6, 0x29, 3)
    begin = time.monotonic()
    unit.submit(*cdb.read_10(0))
    seen["detach"] = _failure(endpoint.detach)
    seen["close"] = _failure(endpoint.close)
    seconds["end"] = time.monotonic() - begin
    return seen, seconds


def eventually_free(timeout: float = 10) -> bool:
    """Whether the endpoint can be taken after a while."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            vhost.occupy(WWPN, timeout=1).close()
            return True
        except TransportError:
            time.sleep(0.1)
    return False


# ── the host's own devices ───────────────────────────────────────────────────────────────────


def _node(kind: str) -> str:
    """/dev/sgX or /dev/sdX of the loopback LUN 0."""
    folder = Path("/sys/class/scsi_generic") if kind == "sg" else Path("/sys/block")
    return "/dev/" + next(path.name for path in folder.iterdir() if path.name.startswith(kind))


def through_sg(*steps: Command) -> list[tuple[int, Sense | None, bytes]]:
    """Send commands to the loopback LUN 0 through its /dev/sgX."""
    answers = []
    with sg.Device(_node("sg")) as disk:
        for command in steps:
            result = disk.execute(*command)
            answers.append((result.status, replies.sense_of(result), result.data))
    return answers


def sg_fingerprint(kind: str) -> dict[str, bytes]:
    """The loopback LUN 0's fingerprint through its /dev/sgX or /dev/sdX."""
    with sg.Device(_node(kind)) as disk:
        return fingerprint(disk.execute)

"""What a host does to itself: set-up at boot, wiping between tests, and proving it is clean.

These functions run in the host, as calls.  They speak to configfs with nothing but mkdir, rmdir,
unlink and write, so that they share no mistake with the code under test.
"""
from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import openiscsi

TARGET = Path("/sys/kernel/config/target")
DBROOT = Path("/etc/target")
MODULES = ("configfs", "target_core_mod", "target_core_file", "target_core_iblock",
           "iscsi_target_mod", "tcm_loop", "sg", "sd_mod")
# Folders that belong to a host alone: empty at boot and after a wipe.
OWN = ("/etc/target", "/var/target", "/etc/rtslib-fb-target", "/etc/lio-handover",
       "/var/lib/lio-handover", "/etc/iscsi", "/var/lib/iscsi")
_COMPLAINT = re.compile(
    rb"BUG:|Oops|WARNING:|general protection|Kernel panic|blocked for more than|list_\w+ corrupt")


# ── boot ─────────────────────────────────────────────────────────────────────────────────────

def prepare() -> None:
    """Turn a fresh kernel into a SCSI target host: name, network, modules, configfs."""
    name = os.environ["LAB_NAME"]
    os.umask(0o022)
    Path("/proc/sys/kernel/hostname").write_text(name)
    Path("/etc/hostname").write_text(name + "\n")
    Path("/etc/machine-id").write_text(os.environ["LAB_MACHINE_ID"] + "\n")
    _furnish()
    run("modprobe", "-a", *MODULES)
    run("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    run("ip", "-batch", "-", text="link set lo up\nlink set vec0 up\n"
        f"address add {os.environ['LAB_ADDRESS']} dev vec0\n")


def _furnish() -> None:
    """Put into the host's own folders what an installed host has there.

    LIO looks for /etc/target when target_core_mod loads and keeps APTPL files in pr below it; where
    that is missing, a REGISTER is carried out and yet answered with an error.
    """
    for folder in ("pr", "alua"):
        (DBROOT / folder).mkdir(exist_ok=True)


def identity() -> dict[str, str]:
    """What the lab tells people about a host."""
    return {"release": os.uname().release,
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}


def run(*argv: str, text: str = "") -> str:
    """Run a program that should just work; its words are the error when it does not.  ``text`` is
    its standard input."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: "
                           f"{(done.stderr or done.stdout).strip()}")
    return done.stdout


# ── network ──────────────────────────────────────────────────────────────────────────────────

def add_address(address: str) -> None:
    """Take over a service address, and tell every neighbour who has it now."""
    run("ip", "address", "add", f"{address}/15", "dev", "vec0")
    mac = bytes.fromhex(Path("/sys/class/net/vec0/address").read_text().strip().replace(":", ""))
    packed = socket.inet_aton(address)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as line:
        line.bind(("vec0", 0))
        for operation in (1, 2):
            line.send(b"\xff" * 6 + mac + b"\x08\x06"
                      + struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
                      + mac + packed + (b"\0" if operation == 1 else b"\xff") * 6 + packed)


def drop_address(address: str) -> None:
    """Give a service address up; that it is not there is an error."""
    run("ip", "address", "del", f"{address}/15", "dev", "vec0")


def _extra_addresses() -> list[str]:
    own = os.environ["LAB_ADDRESS"]
    if _addresses() <= {own.partition("/")[0]}:     # as nearly always: no program has to say more
        return []
    return [word for word in re.findall(r"inet (\S+)", run("ip", "-4", "-o", "address", "show",
                                                           "dev", "vec0")) if word != own]


def _addresses() -> set[str]:
    """The IPv4 addresses of the host's device (netdevice(7), SIOCGIFCONF)."""
    room = bytearray(4096)
    start = (ctypes.c_char * len(room)).from_buffer(room)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        asked = struct.pack("iP", len(room), ctypes.addressof(start))
        size, = struct.unpack_from("i", fcntl.ioctl(line, 0x8912, asked))
    entries = [bytes(room[at:at + 40]) for at in range(0, size, 40)]    # struct ifreq
    return {socket.inet_ntoa(entry[20:24]) for entry in entries
            if entry[:16].rstrip(b"\0") == b"vec0"}


# ── wiping ───────────────────────────────────────────────────────────────────────────────────

def wipe() -> list[str]:
    """Remove all that a test can have left here; return what would not go (empty: clean)."""
    _stop_programs()
    openiscsi.stop()
    for address in _extra_addresses():
        run("ip", "address", "del", address, "dev", "vec0")
    clear_targets()
    if Path("/sys/module/scsi_debug").exists():
        run("modprobe", "-r", "scsi_debug")
    if Path("/dev/mapper/control").exists():
        run("env", "DM_DISABLE_UDEV=1", "dmsetup", "remove_all")
    dbroot = TARGET / "dbroot"
    if dbroot.read_text().strip() != str(DBROOT):
        dbroot.write_text(f"{DBROOT}\n")
    if any(Path("/sys/block").glob("loop*/loop")):
        run("losetup", "--detach-all")
    shutil.rmtree("/dev/disk", ignore_errors=True)      # links of a udev that is no more
    for folder in OWN:
        _empty(Path(folder))
    _furnish()
    # The bed is about to empty the shared disk under this host.
    Path("/proc/sys/vm/drop_caches").write_text("3")
    return leftovers()


def leftovers() -> list[str]:
    """Everything here that a freshly booted host does not have."""
    found = [f"target object {path}" for path in _objects()]
    found += [f"SCSI device {path.name}" for path in _entries(Path("/sys/class/scsi_device"))]
    found += [f"iSCSI session {path.name}" for path in _entries(Path("/sys/class/iscsi_session"))]
    found += [f"process {pid} {name}" for pid, name in _programs()]
    found += [f"address {address}" for address in _extra_addresses()]
    for folder in OWN:
        found += [f"file {path}" for path in Path(folder).rglob("*") if path.is_file()]
    found += [f"kernel: {line}" for line in complaints()]
    return found


def complaints() -> list[str]:
    """Lines in which this kernel reported a mistake of its own since it booted."""
    lines: list[str] = []
    with open("/dev/kmsg", "rb", buffering=0) as log:
        os.set_blocking(log.fileno(), False)
        while True:
            try:
                record = os.read(log.fileno(), 8192)
            except BlockingIOError:
                return lines
            except BrokenPipeError:     # overwritten while we read: go on with the next
                continue
            text = record.partition(b";")[2].partition(b"\n")[0]
            if _COMPLAINT.search(text):
                lines.append(text.decode(errors="replace"))


def clear_targets() -> None:
    """Take every fabric's targets and every backstore down, in the order the kernel wants."""
    told = discovery_is_set()
    for fabric in _folders(TARGET):
        if fabric.name == "core":
            continue
        for wwn in _folders(fabric):
            for tpg in _folders(wwn):
                if "tpgt_" in tpg.name:     # iSCSI takes any word before it
                    _clear_tpg(tpg)
            if wwn.name != "discovery_auth":
                wwn.rmdir()
        fabric.rmdir()
    if told:
        forget_discovery()
    groups = TARGET / "core" / "alua" / "lu_gps"
    for hba in _folders(TARGET / "core"):
        if hba.name == "alua":
            continue
        for device in _folders(hba):
            for group in _folders(device / "alua"):
                if group.name != "default_tg_pt_gp":
                    group.rmdir()
            device.rmdir()
        hba.rmdir()
    for group in _folders(groups):
        if group.name != "default_lu_gp":
            group.rmdir()


def discovery_is_set() -> bool:
    """Whether somebody has written into iscsi/discovery_auth, which outlives every target."""
    folder = TARGET / "iscsi" / "discovery_auth"
    return folder.exists() and any((folder / name).read_text() != usual for name, usual in (
        ("userid", "\n"), ("userid_mutual", "\n"), ("enforce_discovery_auth", "0\n")))


def forget_discovery() -> None:
    """What was written there goes with the module only; no iSCSI target may be there."""
    run("modprobe", "-r", "iscsi_target_mod")
    run("modprobe", "iscsi_target_mod")


def _clear_tpg(tpg: Path) -> None:
    if (tpg / "enable").exists():
        (tpg / "enable").write_text("0")
    for acl in _folders(tpg / "acls"):
        for lun in _folders(acl):
            if lun.name.startswith("lun_"):
                _unlink_all(lun)
                lun.rmdir()
    luns = [lun for lun in _folders(tpg / "lun") if lun.name.startswith("lun_")]
    for lun in luns:
        _unlink_all(lun)
    if (tpg / "nexus").exists():
        try:
            (tpg / "nexus").write_text("NULL")
        except OSError:     # there was none
            pass
    for acl in _folders(tpg / "acls"):      # after the nexus
        acl.rmdir()
    for lun in luns:
        lun.rmdir()
    for portal in _folders(tpg / "np"):
        portal.rmdir()
    tpg.rmdir()


def _objects() -> Iterator[str]:
    """What a person or a program made under configfs, below what the kernel has by itself."""
    for fabric in _folders(TARGET):
        if fabric.name != "core":
            yield from (str(path.relative_to(TARGET)) for path in _folders(fabric)
                        if path.name != "discovery_auth")
    for hba in _folders(TARGET / "core"):
        if hba.name != "alua":
            yield str(hba.relative_to(TARGET))
    for group in _folders(TARGET / "core" / "alua" / "lu_gps"):
        if group.name != "default_lu_gp":
            yield str(group.relative_to(TARGET))


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir()
                  if entry.is_dir() and not entry.is_symlink())


def _entries(path: Path) -> Iterable[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []


def _unlink_all(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_symlink():
            entry.unlink()


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


# ── processes ────────────────────────────────────────────────────────────────────────────────

def _programs() -> list[tuple[int, str]]:
    """Processes that are neither the kernel's, nor process 1, nor this call and its ancestors."""
    spared = {1, 2, os.getpid()}
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if pid in spared:
            continue
        try:
            name, _, rest = _read(f"/proc/{pid}/stat").partition("(")[2].rpartition(")")
            # A child of kthreadd is a thread of the kernel's; no command line has a zombie.
            if rest.split()[1] == "2" or not _read(f"/proc/{pid}/cmdline"):
                continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append((pid, name))
    return found


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read(4096).decode(errors="replace")


def _stop_programs() -> None:
    # iscsid has to stay until its sessions were logged out; `openiscsi.stop` ends it.
    wanted = [pid for pid, name in _programs() if name != "iscsid"]
    for pid in wanted:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and {pid for pid, _ in _programs()} & set(wanted):
        time.sleep(0.02)

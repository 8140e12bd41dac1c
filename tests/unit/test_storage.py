"""Storage: the same, allowed, free; and never written to by looking at it."""
from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Type

import pytest

from lio_handover import errors
from lio_handover.errors import StorageDiffers, StorageInUse, StorageMissing, StorageNotAllowed
from lio_handover.model import objects
from lio_handover.settings import Settings
from lio_handover.storage import (block_devices as devices, evidence as storage_evidence,
                                  native_aio, policy)
from lio_handover.storage.block_devices import Host, find_by_wwid, usage_of
from lio_handover.storage.evidence import evidence
from lio_handover.storage.policy import findings
from tests.support import samples

MIB = 1 << 20


class Machine:
    """A host made of files: what its /sys, /proc and /dev say."""

    def __init__(self, folder: Any) -> None:
        self.folder = str(folder)
        self.host = Host(f"{folder}/sys", f"{folder}/proc", f"{folder}/dev")
        for name in ("sys/block", "sys/dev/block", "proc/self", "dev/disk/by-id", "dev/mapper"):
            os.makedirs(f"{folder}/{name}")
        self.mountinfo: List[str] = ["1 0 0:9 / / rw - ext4 /dev/root rw"]
        self.swaps: List[str] = []
        self.write()

    def write(self) -> None:
        self.file("proc/self/mountinfo", "\n".join(self.mountinfo) + "\n")
        self.file("proc/swaps", "Filename\tType\tSize\n" + "".join(
            f"{one} partition 1024 0 -2\n" for one in self.swaps))

    def file(self, name: str, text: str) -> None:
        path = f"{self.folder}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def disk(self, name: str, number: str, size: int = MIB, of: str = "", **more: str) -> None:
        """A block device; ``of`` is the disk of a partition; ``more``: dm__uuid="…"."""
        where = f"sys/devices/{of}/{name}" if of else f"sys/devices/{name}"
        self.file(f"{where}/size", f"{size // 512}\n")
        self.file(f"{where}/dev", f"{number}\n")
        os.makedirs(f"{self.folder}/{where}/holders")
        if of:
            self.file(f"{where}/partition", name[-1] + "\n")
        else:
            self.file(f"{where}/queue/logical_block_size", "512\n")
            os.symlink(f"../devices/{name}", f"{self.folder}/sys/block/{name}")
        for file, text in more.items():
            self.file(f"{where}/{file.replace('__', '/')}", text + "\n")
        os.symlink(f"../../{where[4:]}", f"{self.folder}/sys/dev/block/{number}")
        with open(f"{self.folder}/dev/{name}", "wb") as made:
            made.truncate(size)

    def holds(self, below: str, holder: str) -> None:
        os.symlink(f"{self.folder}/sys/devices/{holder}",
                   f"{self.folder}/sys/devices/{below}/holders/{holder}")
        os.makedirs(f"{self.folder}/sys/devices/{holder}/slaves", exist_ok=True)
        os.symlink(f"{self.folder}/sys/devices/{below}",
                   f"{self.folder}/sys/devices/{holder}/slaves/{os.path.basename(below)}")

    def mount(self, device: str, point: str, source: str) -> None:
        self.mountinfo.append(f"9 1 {device} / {point} rw shared:1 - ext4 {source} rw")
        self.write()


@pytest.fixture
def machine(roots_own: Path) -> Machine:
    return Machine(roots_own / "host")


@pytest.fixture
def blocks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Files below the machine's /dev pass for the block devices of their names."""
    real = devices.look

    def look(path: str) -> devices.PathStat:
        seen = real(path)
        name = os.path.basename(seen.real)
        found = next((link for link in os.listdir(f"{machine.folder}/sys/dev/block")
                      if os.path.basename(os.path.realpath(
                          f"{machine.folder}/sys/dev/block/{link}")) == name), None)
        if found and seen.real.startswith(machine.host.dev):
            return seen._replace(block=True, regular=False, device=found)
        return seen

    monkeypatch.setattr(devices, "look", look)
    return machine


@pytest.fixture
def root(roots_own: Path) -> str:
    os.mkdir(roots_own / "srv")
    return str(roots_own / "srv")


def made(path: str, size: int = MIB, data: bytes = b"") -> str:
    with open(path, "wb") as file:
        file.truncate(size)
        file.write(data)
    return path


def store(path: str, plugin: str = "fileio", size: int = MIB, name: str = "disk0",
          ) -> objects.Backstore:
    return samples.backstore(name, plugin, path, size)


def kinds(found: List[errors.Finding]) -> List[Type[errors.HandoverError]]:
    return [one.error for one in found]


# --- evidence ------------------------------------------------------------------------------------
def test_evidence_of_a_file(root: str, machine: Machine) -> None:
    path = made(f"{root}/a", 3 * MIB + 100)
    first = evidence(store(path), False, machine.host)
    assert first == {"kind": "file", "size": 3 * MIB + 100, "inode": os.stat(path).st_ino,
                     "filesystem": "ext4"}
    assert devices.file_system("/proc/self/mountinfo", devices.HERE) == "proc"
    blank = evidence(store(path), sample=True)
    assert blank["sample_zero"] is True and len(str(blank["sample"])) == 64
    with open(path, "r+b") as file:
        file.seek(3 * MIB + 99)
        file.write(b"x")
    changed = evidence(store(path), sample=True)
    assert changed["sample_zero"] is False and changed["sample"] != blank["sample"]
    assert evidence(store(path), sample=True) == changed


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, MIB, 2**50 + 3])
def test_samples_lie_inside(size: int) -> None:
    found = storage_evidence.offsets(size)
    assert found == sorted(set(found)) and len(found) <= 20
    assert all(one % 4096 == 0 and one < size for one in found)
    assert not size or (found[0] == 0 and found[-1] == (size - 1) // 4096 * 4096)


def test_samples_are_the_same_without_o_direct(root: str, monkeypatch: Any) -> None:
    path = made(f"{root}/a", MIB + 7, b"label")
    wanted = evidence(store(path), sample=True)
    real = os.open

    def refuse(name: Any, flags: int, *more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(name, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    assert evidence(store(path), sample=True) == wanted


@pytest.mark.parametrize("size", [0, 1, 4096, MIB + 7, 3 * MIB])
def test_samples_are_the_same_asked_for_at_once_and_one_by_one(
        root: str, monkeypatch: Any, size: int) -> None:
    path = made(f"{root}/a", size, b"label"[:size])
    at_once = evidence(store(path), sample=True)
    asked: List[int] = []
    real = os.preadv

    def one_by_one(fd: int, buffers: Any, offset: int) -> int:
        asked.append(offset)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", one_by_one)
    assert evidence(store(path), sample=True) == at_once and not asked
    monkeypatch.setattr(native_aio, "read", lambda *_arguments: None)
    assert evidence(store(path), sample=True) == at_once
    assert asked == storage_evidence.offsets(size)


def test_evidence_of_a_device(blocks: Machine) -> None:
    blocks.disk("sdb", "8:16", 2 * MIB, device__wwid="naa.6001405aaaa")
    blocks.disk("sdb1", "8:17", MIB, of="sdb")
    assert evidence(store(f"{blocks.host.dev}/sdb", "iblock"), False, blocks.host) == {
        "kind": "block", "size": 2 * MIB, "logical_block_size": 512, "wwid": "naa.6001405aaaa"}
    part = evidence(store(f"{blocks.host.dev}/sdb1", "iblock"), False, blocks.host)
    assert (part["size"], part["wwid"]) == (MIB, "naa.6001405aaaa/part1")


def test_no_evidence_of_what_is_not_there(root: str) -> None:
    with pytest.raises(StorageMissing, match="No such file"):
        evidence(store(f"{root}/none"), False)
    with pytest.raises(StorageNotAllowed):
        evidence(store(root), False)
    assert evidence(samples.backstore("ram", "rd_mcp"), True) == {}


@pytest.mark.parametrize("files, wanted", [
    ({"device__wwid": "naa.600140512345"}, "naa.600140512345"),
    ({"device__wwid": "t10.ATA     QEMU HARDDISK    QM0001"}, "t10.ATA QEMU HARDDISK QM0001"),
    ({"wwid": "eui.0025385b"}, "eui.0025385b"),
    ({"serial": "disk-7"}, "serial:disk-7"),
    ({"dm__uuid": "mpath-36001405AB12345678901234567890abc"},
     "naa.6001405ab12345678901234567890abc"),
    ({"dm__uuid": "mpath-eui.0025385b"}, "eui.0025385b"),
    ({"dm__uuid": "part2-mpath-36001405AB1234567"}, "naa.6001405ab1234567/part2"),
    ({"dm__uuid": "mpath-1ATA_disk"}, "dm:mpath-1ATA_disk"),
    ({"dm__uuid": "LVM-abc"}, "dm:LVM-abc"),
    ({"dm__name": "x"}, ""),
    ({"md__uuid": "1:2:3"}, "md:1:2:3"),
    ({}, ""),
])
def test_wwid(machine: Machine, files: Dict[str, str], wanted: str) -> None:
    machine.disk("d", "8:0", MIB, "", **files)
    assert devices.wwid_of("8:0", machine.host) == wanted


def test_find_by_wwid(machine: Machine) -> None:
    wwid = "naa.6001405ab12345678901234567890abc"
    assert find_by_wwid(wwid, machine.host) is None
    machine.disk("sdb", "8:16", device__wwid=wwid)
    machine.disk("sdc", "8:32", device__wwid=wwid)
    assert find_by_wwid(wwid, machine.host) == f"{machine.host.dev}/sdb"
    os.symlink("../../sdb", f"{machine.host.dev}/disk/by-id/wwn-0x6001405")
    os.symlink("../../sdb", f"{machine.host.dev}/disk/by-id/scsi-36001405")
    assert find_by_wwid(wwid, machine.host) == f"{machine.host.dev}/disk/by-id/wwn-0x6001405"
    machine.disk("dm-0", "253:0", dm__uuid="mpath-3" + wwid[4:], dm__name="mpatha")
    assert find_by_wwid(wwid, machine.host) == f"{machine.host.dev}/mapper/mpatha"
    machine.disk("sdb1", "8:17", of="sdb")
    assert find_by_wwid(wwid + "/part1", machine.host) == f"{machine.host.dev}/sdb1"


def test_a_serial_of_two_devices_finds_neither(machine: Machine) -> None:
    machine.disk("vda", "252:0", serial="disk")
    assert find_by_wwid("serial:disk", machine.host) == f"{machine.host.dev}/vda"
    machine.disk("vdb", "252:16", serial="disk")
    assert find_by_wwid("serial:disk", machine.host) is None


# --- which paths ---------------------------------------------------------------------------------
def test_a_file_under_a_root_is_allowed(root: str) -> None:
    wanted = store(made(f"{root}/a"))
    proof = evidence(wanted, sample=True)
    assert findings(wanted, proof, Settings(roots=(root,))) == []


def test_a_root_may_be_a_link(root: str, roots_own: Path) -> None:
    made(f"{root}/a")
    os.symlink(root, roots_own / "link")
    wanted = store(f"{roots_own}/link/a")
    proof = evidence(wanted, False)
    assert findings(wanted, proof, Settings(roots=(f"{roots_own}/link",))) == []
    os.symlink(f"{roots_own}/link/a", f"{root}/again")
    assert findings(replace(wanted, parameters={"fd_dev_name": f"{roots_own}/link/again"}), proof,
                    Settings(roots=(f"{roots_own}/link",))) == []


def test_a_missing_file_is_not_made(root: str) -> None:
    found = findings(store(f"{root}/none"), {}, Settings(roots=(root,)))
    assert kinds(found) == [StorageMissing] and os.listdir(root) == []


@pytest.mark.parametrize("make", ["outside", "link", "folder link", "there and back", "dangling",
                                  "up", "loop"])
def test_paths_that_leave_the_roots(root: str, roots_own: Path, make: str) -> None:
    made(str(roots_own / "secret"))
    made(f"{root}/inside")
    path = f"{root}/a"
    if make == "outside":
        path = str(roots_own / "secret")
    elif make == "link":
        os.symlink(roots_own / "secret", path)
    elif make == "folder link":
        os.symlink(roots_own, path)
        path += "/secret"
    elif make == "there and back":
        os.symlink(root, roots_own / "back")
        os.symlink(roots_own / "back", path)
        path += "/inside"
    elif make == "dangling":
        os.symlink(roots_own / "nothing", path)
    elif make == "up":
        os.symlink("../secret", path)
    else:
        os.symlink("a", path)
    found = findings(store(path), {}, Settings(roots=(root,)))
    assert kinds(found) == [StorageNotAllowed]
    assert "\n" not in found[0].sentence and found[0].override == ""


def test_a_root_s_name_is_not_a_prefix(root: str, roots_own: Path) -> None:
    os.mkdir(root + "2")
    found = findings(store(made(root + "2/a")), {}, Settings(roots=(root,)))
    assert kinds(found) == [StorageNotAllowed]


@pytest.mark.parametrize("make", ["fifo", "folder", "socket", "null", "iblock"])
def test_what_is_no_disk(root: str, make: str) -> None:
    path, plugin = f"{root}/a", "fileio"
    if make == "fifo":
        os.mkfifo(path)  # would block whoever opens it
    elif make == "folder":
        os.mkdir(path)
    elif make == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path)
    elif make == "null":
        path = "/dev/null"
    else:
        made(path)
        plugin = "iblock"
    found = findings(store(path, plugin), {}, Settings(roots=(root, "/dev")))
    assert kinds(found) == [StorageNotAllowed]


def test_files_of_the_kernel_are_no_disks() -> None:
    for path in ("/proc/version", "/proc/self/mem", "/sys/kernel/notes"):
        found = findings(store(path), {}, Settings(roots=("/",)))
        assert kinds(found) == [StorageNotAllowed], path


@pytest.mark.parametrize("path, pattern, is_one", [
    ("/dev/sda", "/dev/sd*", True), ("/dev/sd/a", "/dev/sd*", False),
    ("/dev/disk/by-id/x", "/dev/*", False), ("/dev/nvme0n1p2", "/dev/nvme*n*", True),
    ("/dev/nvme0", "/dev/nvme*n*", False), ("/dev/sd*", "/dev/sda", False),
])
def test_patterns(path: str, pattern: str, is_one: bool) -> None:
    assert policy.matches(path, pattern) is is_one


def test_devices_are_allowed_by_any_of_their_names(blocks: Machine) -> None:
    dev = blocks.host.dev
    blocks.disk("dm-0", "253:0", dm__uuid="LVM-1", dm__name="vg-lv")
    os.makedirs(f"{dev}/vg")
    os.symlink("../dm-0", f"{dev}/vg/lv")
    wanted = store(f"{dev}/vg/lv", "iblock")
    proof = evidence(wanted, True, blocks.host)

    def found(*devices: str) -> List[Type[errors.HandoverError]]:
        return kinds(findings(wanted, proof, Settings((), devices), host=blocks.host))

    for pattern in (f"{dev}/mapper/*", f"{dev}/vg/*", f"{dev}/dm-*"):
        assert found(pattern) == []
    assert found() == found(f"{dev}/sd*", f"{dev}/*/x") == [StorageNotAllowed]


def test_a_link_from_a_root_to_a_device_is_refused(blocks: Machine, root: str) -> None:
    blocks.disk("sdb", "8:16")
    os.symlink(f"{blocks.host.dev}/sdb", f"{root}/a")
    found = findings(store(f"{root}/a", "iblock"), {},
                     Settings((root,), (f"{blocks.host.dev}/sd*",)), host=blocks.host)
    assert kinds(found) == [StorageNotAllowed]


# --- the same ------------------------------------------------------------------------------------
def test_another_size_or_content(root: str) -> None:
    wanted = store(made(f"{root}/a", data=b"label"))
    proof = evidence(wanted, sample=True)
    made(f"{root}/a", data=b"other")
    found = findings(wanted, proof, Settings(roots=(root,)))
    assert kinds(found) == [StorageDiffers] and "other data" in found[0].sentence
    made(f"{root}/a")
    found = findings(wanted, proof, Settings(roots=(root,)))
    assert "zeroes" in found[0].sentence
    made(f"{root}/a", MIB // 2)
    found = findings(wanted, proof, Settings(roots=(root,)))
    assert kinds(found) == [StorageDiffers, StorageDiffers]
    assert str(MIB) in found[0].sentence and str(MIB // 2) in found[1].sentence


def test_nothing_to_compare_with(root: str) -> None:
    found = findings(store(made(f"{root}/a")), {}, Settings(roots=(root,)))
    assert kinds(found) == [StorageDiffers] and found[0].override == "unproven-storage"


def test_another_file_of_a_shared_file_system(machine: Machine, root: str) -> None:
    wanted = store(made(f"{root}/a"))
    machine.mountinfo.append(f"7 1 0:50 / {root} rw - nfs4 server:/x rw")
    machine.write()
    proof = evidence(wanted, True, machine.host)
    assert proof["filesystem"] == "nfs4"
    settings = Settings(roots=(root,))
    assert findings(wanted, proof, settings, host=machine.host) == []
    found = findings(wanted, {**proof, "inode": 1}, settings, host=machine.host)
    assert kinds(found) == [StorageDiffers] and found[0].override == "other-file"
    assert findings(wanted, {**proof, "inode": 1, "filesystem": "xfs"}, settings,
                    host=machine.host) == []


@pytest.mark.parametrize("change, word", [
    ({"size": 5}, "5"), ({"logical_block_size": 4096}, "4096"), ({"wwid": "naa.1"}, "naa.1"),
    ({"kind": "file"}, "file"), ({"sample": "00"}, "other data"),
])
def test_another_device(blocks: Machine, change: Dict[str, Any], word: str) -> None:
    blocks.disk("sdb", "8:16", device__wwid="naa.2")
    wanted = store(f"{blocks.host.dev}/sdb", "iblock")
    settings = Settings((), (f"{blocks.host.dev}/sd*",))
    proof = {**evidence(wanted, True, blocks.host), **change}
    found = findings(wanted, proof, settings, host=blocks.host)
    assert kinds(found) == [StorageDiffers] and word in found[0].sentence


# --- free ----------------------------------------------------------------------------------------
def disks(machine: Machine) -> None:
    machine.disk("sda", "8:0")
    machine.disk("sda1", "8:1", of="sda")
    machine.disk("sda2", "8:2", of="sda")
    machine.disk("sdb", "8:16")
    machine.disk("dm-0", "253:0", dm__name="vg-lv", dm__uuid="LVM-1")
    machine.disk("md0", "9:0")
    os.symlink("../dm-0", f"{machine.host.dev}/mapper/vg-lv")


@pytest.mark.parametrize("device, do, wanted", [
    ("8:0", "none", None),
    ("8:0", "mount sda1", "is mounted on /mnt/a b"),
    ("8:1", "mount sda1", "is mounted on /mnt/a b"),
    ("8:2", "mount sda1", None),
    ("8:1", "mount sda", "is mounted on /mnt/a b"),
    ("8:16", "mount sda1", None),
    ("8:0", "root", "holds this host's root"),
    ("8:0", "btrfs", "is mounted on /mnt"),
    ("8:0", "swap", "is swap space"),
    ("8:2", "swap", "is swap space"),
    ("8:1", "swap", None),
    ("8:0", "lv", "is mounted on /mnt"),
    ("8:2", "lv", "is mounted on /mnt"),
    ("8:1", "lv", None),
    ("8:16", "raid", "is part of md0, vg-lv"),
    ("9:0", "raid", "is part of vg-lv"),
    ("253:0", "raid", None),
    ("253:0", "swap lv", "is swap space"),
])
def test_who_uses_a_device(machine: Machine, device: str, do: str, wanted: Optional[str]) -> None:
    disks(machine)
    if do == "mount sda1":
        machine.mount("8:1", "/mnt/a\\040b", "/dev/sda1")
    elif do == "mount sda":
        machine.mount("8:0", "/mnt/a\\040b", "/dev/sda")
    elif do == "root":
        machine.mountinfo = ["1 0 8:1 / / rw - ext4 /dev/root rw"]
        machine.write()
    elif do == "btrfs":
        machine.mount("0:33", "/mnt", "/dev/sda2")
    elif do.startswith("swap"):
        machine.swaps = ["/dev/sda2" if do == "swap" else "/dev/mapper/vg-lv"]
        machine.write()
    elif do == "lv":
        machine.holds("sda/sda2", "dm-0")
        machine.mount("253:0", "/mnt", "/dev/mapper/vg-lv")
    elif do == "raid":
        machine.holds("sdb", "md0")
        machine.holds("md0", "dm-0")
    found = usage_of(device, machine.host)
    assert (wanted in found) if wanted else found == []


def test_a_device_in_use_is_refused(blocks: Machine) -> None:
    disks(blocks)
    blocks.mount("8:1", "/mnt", "/dev/sda1")
    settings = Settings((), (f"{blocks.host.dev}/sd*",))
    for plugin in ("iblock", "fileio"):
        wanted = store(f"{blocks.host.dev}/sda", plugin)
        found = findings(wanted, evidence(wanted, True, blocks.host), settings, host=blocks.host)
        assert kinds(found) == [StorageInUse] and "/mnt" in found[0].sentence


def test_a_device_claimed_out_of_sight_is_refused(blocks: Machine, monkeypatch: Any) -> None:
    disks(blocks)
    wanted = store(f"{blocks.host.dev}/sdb", "iblock")
    proof = evidence(wanted, True, blocks.host)
    settings = Settings((), (f"{blocks.host.dev}/sd*",))
    real = os.open

    def claimed(name: Any, flags: int, *more: Any) -> int:
        if flags & os.O_EXCL:
            raise OSError(16, "Device or resource busy")
        return real(name, flags, *more)

    monkeypatch.setattr(os, "open", claimed)
    found = findings(wanted, proof, settings, host=blocks.host)
    assert kinds(found) == [StorageInUse] and "claimed" in found[0].sentence
    # By the very backstore, where the target is there already.
    here = objects.State(backstores=(wanted,))
    assert findings(wanted, proof, settings, here, blocks.host) == []


def test_the_root_of_the_real_host_is_in_use() -> None:
    """In a chroot the kernel does not tell of the mount its root lies in (show_mountinfo)."""
    device = os.stat("/").st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    if os.major(device) and any(mount.point == "/" for mount in devices.HERE.mounts):
        assert "holds this host's root" in usage_of(name)
    else:  # an overlay, or btrfs: at least nothing goes wrong
        assert isinstance(usage_of("8:0"), list)


def test_two_backstores_on_one_storage(blocks: Machine, root: str) -> None:
    disks(blocks)
    dev = blocks.host.dev
    settings = Settings((root,), (f"{dev}/sd*",))
    os.symlink(made(f"{root}/a"), f"{root}/b")
    for mine, theirs, plugin in ((f"{root}/a", f"{root}/b", "fileio"),
                                 (f"{dev}/sda", f"{dev}/sda", "iblock"),
                                 (f"{dev}/sda", f"{dev}/sda1", "iblock"),
                                 (f"{dev}/sda1", f"{dev}/sda", "iblock"),
                                 (f"{dev}/sda1", f"{dev}/sda2", "")):
        wanted = store(mine, plugin or "iblock")
        here = objects.State(backstores=(store(theirs, name="other"),))
        proof = evidence(wanted, True, blocks.host)
        found = findings(wanted, proof, settings, here, blocks.host)
        assert kinds(found) == ([StorageInUse] if plugin else []), (mine, theirs)
        assert not plugin or "fileio/other" in found[0].sentence
        same = objects.State(backstores=(store(theirs, wanted.plugin),))
        assert findings(wanted, proof, settings, same, blocks.host) == []


@pytest.mark.parametrize("mine, theirs, shared", [
    ("dm-0", "md0", True), ("md0", "dm-0", True), ("dm-0", "sdb", True), ("sdb", "dm-0", True),
    ("dm-0", "sda2", True), ("dm-0", "sda", True), ("dm-0", "sda1", False), ("dm-0", "sdc", False),
    ("sda1", "sdb", False), ("loop0", "a", True), ("a", "loop0", True), ("loop0", "b", False),
    ("b", "loop0", False), ("loop0", "a.link", True), ("loop0", "a.hard", True),
])
def test_storage_is_shared_over_and_under(blocks: Machine, root: str, mine: str, theirs: str,
                                          shared: bool) -> None:
    """A volume on an array of two disks, one a partition; and a loop device on a file."""
    disks(blocks)
    blocks.disk("sdc", "8:32")
    blocks.holds("sda/sda2", "md0")
    blocks.holds("sdb", "md0")
    blocks.holds("md0", "dm-0")
    for name in "ab":
        made(f"{root}/{name}")
    os.symlink(f"{root}/a", f"{root}/a.link")
    os.link(f"{root}/a", f"{root}/a.hard")
    blocks.disk("loop0", "7:0", loop__backing_file=f"{root}/a")

    def at(name: str) -> str:
        return f"{root}/{name}" if name[0] in "ab" else f"{blocks.host.dev}/{name}"

    one, other = store(at(mine), name="one"), store(at(theirs), name="other")
    served = policy.Served(objects.State(backstores=(one, other)), blocks.host)
    assert served.sharers_of(one) == ([other.key] if shared else [])
    assert served.sharers_of(other) == ([one.key] if shared else [])


def test_a_file_that_is_swap_or_a_loop_device(machine: Machine, root: str) -> None:
    path = made(f"{root}/a")
    wanted, settings = store(path), Settings((root,))
    proof = evidence(wanted, True, machine.host)
    machine.disk("loop0", "7:0", loop__backing_file=path)
    machine.swaps = [path]
    machine.write()
    found = findings(wanted, proof, settings, host=machine.host)
    assert [one.sentence.partition(" ")[2] for one in found] \
        == ["is swap space", "is the file of loop0"]


# --- flushing ------------------------------------------------------------------------------------
def test_flush_and_drop(root: str) -> None:
    path = made(f"{root}/a")
    storage_evidence.flush(path)
    storage_evidence.drop_cache(path)
    fd = storage_evidence.opened(path)
    storage_evidence.flush(path, fd)
    os.close(fd)
    for do in (storage_evidence.flush, storage_evidence.drop_cache):
        with pytest.raises(errors.KernelRefused, match="No such file"):
            do(f"{root}/none")


def test_a_failed_flush_is_told(root: str, monkeypatch: Any) -> None:
    path = made(f"{root}/a")

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(errors.KernelRefused, match="Input/output error"):
        storage_evidence.flush(path)


def test_nothing_is_ever_opened_for_writing(root: str, monkeypatch: Any) -> None:
    path = made(f"{root}/a", data=b"label")
    os.mkfifo(f"{root}/fifo")
    real, before = os.open, (os.stat(path).st_mtime_ns, os.stat(path).st_ctime_ns)
    flags: List[int] = []

    def watch(name: Any, flag: int, *more: Any) -> int:
        flags.append(flag)
        return real(name, flag, *more)

    monkeypatch.setattr(os, "open", watch)
    settings = Settings((root,))
    wanted = store(path)
    assert findings(wanted, evidence(wanted, True), settings) == []
    for one in (f"{root}/fifo", f"{root}/none", root):
        findings(store(one), {"sample": "00"}, settings)
    storage_evidence.flush(path)
    storage_evidence.drop_cache(path)
    assert flags and all(flag & os.O_ACCMODE == os.O_RDONLY for flag in flags)
    assert all(flag & (os.O_PATH | os.O_NONBLOCK) for flag in flags)
    assert not any(flag & (os.O_CREAT | os.O_TRUNC) for flag in flags)
    assert (os.stat(path).st_mtime_ns, os.stat(path).st_ctime_ns) == before
    assert sorted(os.listdir(root)) == ["a", "fifo"]


@pytest.mark.parametrize("written, meant", [
    ("/mnt/a\\040b", "/mnt/a b"), ("/mnt/\\134\\012", "/mnt/\\\n"), ("/mnt/a\\840", "/mnt/a\\840"),
    ("/mnt/\\²²²", "/mnt/\\²²²"), ("/mnt/\\", "/mnt/\\"), ("/mnt", "/mnt")])
def test_only_what_the_kernel_escapes_is_taken_for_an_escape(written: str, meant: str) -> None:
    """Others were a ValueError: found by tests.fuzz among a million."""
    assert devices._unescape(written) == meant

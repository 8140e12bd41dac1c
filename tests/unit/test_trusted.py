"""Nobody but root decides what a backstore's path leads to, and what a document says twice is one
thing; nothing overrides that."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.errors import Finding, StorageDiffers, StorageMissing, StorageNotAllowed
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import Backstore
from lio_handover.model.plugins import HCTL
from lio_handover.settings import Settings
from lio_handover.storage import block_devices, policy
from lio_handover.storage.block_devices import HostSnapshot
from lio_handover.storage.evidence import evidence
from tests.support import samples
from tests.unit.test_storage import MIB, Machine, blocks, machine, made, root

__all__ = ["blocks", "machine", "root"]
SOMEBODY = 4711


def image(path: str) -> Backstore:
    return samples.backstore("disk0", "fileio", made(path), MIB)


def served(store: Backstore, root: str, **settings: Any) -> list[Finding]:
    """What speaks against serving it, with a proof that it is the source's."""
    return policy.findings(store, evidence(store, True), Settings(roots=(root,), **settings))


def only(findings: list[Finding]) -> str:
    """The sentence of the one finding, which nothing overrides."""
    finding, = findings
    assert (finding.error, finding.override) == (StorageNotAllowed, "")
    assert finding.do and "\n" not in finding.sentence
    return finding.sentence


# ── folders ──────────────────────────────────────────────────────────────────────────────────

def owned(folder: str) -> None:
    os.chown(folder, SOMEBODY, -1)


def sticky(folder: str) -> None:
    os.chmod(folder, 0o1777)


def of_group(folder: str) -> None:
    os.chmod(folder, 0o775)


def of_others(folder: str) -> None:
    os.chmod(folder, 0o757)


WAYS = pytest.mark.parametrize("change", [owned, sticky, of_group, of_others])


@WAYS
def test_a_folder_that_others_can_change_is_refused(root: str,
                                                    change: Callable[[str], None]) -> None:
    os.makedirs(f"{root}/a/b/c")
    store = image(f"{root}/a/b/c/image")
    assert served(store, root) == []
    change(f"{root}/a/b")
    assert f"lies below {root}/a/b, which" in only(served(store, root))


@WAYS
def test_a_folder_of_a_link_on_the_way_is_looked_at_too(root: str,
                                                        change: Callable[[str], None]) -> None:
    """The file's own folders are root's."""
    os.makedirs(f"{root}/a/links")
    os.mkdir(f"{root}/b")
    real = image(f"{root}/b/image")
    os.symlink("../../b/image", f"{root}/a/links/second")
    os.symlink("a/links/second", f"{root}/first")
    store = replace(real, parameters={**real.parameters, "fd_dev_name": f"{root}/first"})
    assert served(store, root) == served(real, root) == []
    change(f"{root}/a/links")
    assert f"lies below {root}/a/links, which" in only(served(store, root))
    assert served(real, root) == []


def test_a_root_that_others_can_change_is_none(root: str) -> None:
    store = image(f"{root}/image")
    os.chmod(os.path.dirname(root), 0o777)
    assert f"lies below {os.path.dirname(root)}, which" in only(served(store, root))


def test_a_file_may_be_somebody_s(root: str) -> None:
    """QEMU's images often are: whoever writes to the file is not who exchanges it."""
    store = image(f"{root}/image")
    os.chown(f"{root}/image", SOMEBODY, SOMEBODY)
    os.chmod(f"{root}/image", 0o666)
    assert served(store, root) == []


def test_a_file_with_another_name_is_refused(root: str) -> None:
    store = image(f"{root}/image")
    os.link(f"{root}/image", f"{root}/other")
    assert "has 2 names" in only(served(store, root))
    os.unlink(f"{root}/other")
    assert served(store, root) == []


def test_the_companion_is_looked_at_as_well(root: str) -> None:
    store = image(f"{root}/image")
    store = replace(store, attributes={**store.attributes, "attrib/pi_prot_type": "1"})
    made(f"{root}/image.protection")
    assert served(store, root) == []
    os.link(f"{root}/image.protection", f"{root}/other")
    assert "image.protection has 2 names" in only(served(store, root))


def test_shared_memory_is_nobody_s_folder() -> None:
    path = Path("/dev/shm/lio-handover-test-image")
    try:
        store = image(str(path))
        assert "lies below /dev/shm, which" in only(served(store, "/dev/shm"))
    finally:
        path.unlink()


def test_a_descriptor_is_no_name(root: str) -> None:
    """It is another process's file at each boot."""
    image(f"{root}/image")
    with open(f"{root}/image", "rb") as file:
        store = samples.backstore("disk0", "fileio", f"/proc/{os.getpid()}/fd/{file.fileno()}", MIB)
        for allowed in ("/proc", f"/proc/{os.getpid()}/fd", "/"):
            assert "lies in /proc, a file system of type proc" in only(served(store, allowed))
        os.symlink(store.path, f"{root}/link")
        store = samples.backstore("disk0", "fileio", f"{root}/link", MIB)
        assert "lies in /proc" in only(served(store, root))


def test_a_device_s_folder_is_looked_at_too(blocks: Machine, root: str) -> None:
    """Its node, and whatever link leads to it."""
    blocks.disk("sdb", "8:16")
    dev = blocks.host.dev
    os.symlink("../../sdb", f"{dev}/disk/by-id/wwn-1")
    settings = Settings((), (f"{dev}/sd*", f"{dev}/disk/by-id/*"))

    def findings(path: str) -> list[Finding]:
        store = samples.backstore("disk0", "iblock", path)
        return policy.findings(store, evidence(store, True, blocks.host), settings,
                               host=blocks.host)

    assert findings(f"{dev}/sdb") == findings(f"{dev}/disk/by-id/wwn-1") == []
    os.chown(f"{dev}/disk/by-id", SOMEBODY, -1)
    assert findings(f"{dev}/sdb") == []
    assert f"{dev}/disk/by-id, which belongs to uid 4711" in only(
        findings(f"{dev}/disk/by-id/wwn-1"))
    os.chmod(dev, 0o1777)
    assert f"lies below {dev}, which" in only(findings(f"{dev}/sdb"))


def test_storage_that_is_acquired_late_is_looked_at_by_its_folders(root: str) -> None:
    settings = Settings(roots=(root,))
    os.mkdir(f"{root}/a")
    store = samples.backstore("disk0", "fileio", f"{root}/a/image", MIB)
    assert policy.findings_by_name(store, {"kind": "file"}, settings) == []
    os.chmod(f"{root}/a", 0o777)
    assert f"lies below {root}/a, which" in only(
        policy.findings_by_name(store, {"kind": "file"}, settings))


# ── file systems of programs ─────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("kind", ["fuse", "fuse.sshfs", "fuseblk"])
def test_fuse_is_not_even_looked_at_unless_it_is_named(
        machine: Machine, root: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(f"{root}/mounted/by")
    store = image(f"{root}/mounted/by/image")
    proof = evidence(store, True)
    machine.mountinfo.append(f"7 1 0:50 / {root}/mounted rw - {kind} who rw")
    machine.write()
    looked: list[str] = []
    for name in ("lstat", "stat", "readlink", "open"):
        def look(path: Any, *more: Any, real: Any = getattr(os, name), **most: Any) -> Any:
            looked.append(str(path))
            return real(path, *more, **most)
        monkeypatch.setattr(os, name, look)

    def findings(*fuse: str) -> list[Finding]:
        return policy.findings(store, proof, Settings(roots=(root,), fuse=fuse), host=machine.host)

    assert f"lies in {root}/mounted, a file system of type {kind}" in only(findings())
    assert only(findings(f"{root}/mounted/by"))
    assert [path for path in looked if path.startswith(f"{root}/mounted")] == []
    assert findings(f"{root}/mounted") == findings(root) == []
    os.chmod(f"{root}/mounted/by", 0o777)
    assert f"lies below {root}/mounted/by" in only(findings(root))


# ── what a document says twice ───────────────────────────────────────────────────────────────

@pytest.mark.parametrize("proven", [True, False])
def test_pscsi_is_the_disk_at_its_path(blocks: Machine, proven: bool) -> None:
    blocks.disk("sdb", "8:16", device__wwid="naa.2")
    scsi = f"{blocks.folder}/sys/devices/0:0:0:1"
    os.mkdir(scsi)
    device = f"{blocks.folder}/sys/devices/sdb/device"
    os.rename(device, f"{scsi}/scsi")
    os.symlink(scsi, device)
    os.rename(f"{scsi}/scsi/wwid", f"{scsi}/wwid")
    dev = blocks.host.dev

    def findings(address: str, path: str = f"{dev}/sdb") -> list[Finding]:
        store = Backstore(backstore_key("pscsi", "disk0"), dict(zip(HCTL, address.split(":"))),
                          {"udev_path": path})
        proof = evidence(store, True, blocks.host) if proven else {}
        return [finding for finding in policy.findings(
            store, proof, Settings((), (f"{dev}/sd*", f"{dev}/vd*")), host=blocks.host)
            if finding.override != "unproven-storage"]

    assert findings("0:0:0:1") == []
    assert "is SCSI device 0:0:0:1, and 0:0:0:2 is to be served" in only(findings("0:0:0:2"))
    blocks.disk("vda", "254:0")
    assert "is SCSI device no, and 0:0:0:1 is to be served" in only(
        findings("0:0:0:1", f"{dev}/vda"))


def test_udev_path_is_the_path(root: str) -> None:
    """targetcli restores what udev_path says, whatever the kernel has open."""
    store = image(f"{root}/image")
    for said in ("", store.path):
        assert served(replace(store, attributes={"udev_path": said}), root) == []
    assert "its udev_path says /etc/shadow" in only(
        served(replace(store, attributes={"udev_path": "/etc/shadow"}), root))


# ── tcmu, memory disks, members of the group ─────────────────────────────────────────────────

def tcmu(config: str, **more: str) -> Backstore:
    return Backstore(backstore_key("user", "disk0"),
                     {"dev_config": config, "dev_size": str(MIB), **more})


@pytest.mark.parametrize("config, pattern", [
    ("rbd/pool/a", "rbd/pool/*"), ("qcow//srv/a", "qcow//srv/*"), ("glfs/v@h/a", "glfs/v@h/*"),
    ("rbd/pool/a;osd_op_timeout=30", "rbd/pool/*;osd_op_timeout=*")])
def test_a_tcmu_config_that_is_allowed(config: str, pattern: str) -> None:
    assert policy.findings(tcmu(config), {}, Settings(user_configs=("x/y", pattern))) == []


@pytest.mark.parametrize("config, patterns", [
    ("rbd/pool/a", ()), ("rbd/pool/a", ("rbd/other/*",)), ("qcow//srv/a/b", ("qcow//srv/*",)),
    ("qcow//srv/../a", ("qcow//srv/*/*",)), ("qcow//srv/..", ("qcow//srv/*",)),
    ("rbd/pool/a;conf=x", ("rbd/pool/*",)), ("rbd/pool/a", ("rbd/pool/*;*",))])
def test_a_tcmu_config_that_no_pattern_allows(config: str, patterns: tuple[str, ...]) -> None:
    assert f"its dev_config {config} matches no pattern" in only(
        policy.findings(tcmu(config), {}, Settings(user_configs=patterns)))


def test_members_of_the_group_have_files_and_block_devices_alone(root: str) -> None:
    for store in (tcmu("rbd/pool/a"), samples.backstore("ram", "rd_mcp"),
                  Backstore(backstore_key("pscsi", "disk0"), dict.fromkeys(HCTL, "0"),
                            {"udev_path": "/dev/sda"})):
        assert "is no fileio or iblock backstore" in only(policy.findings(
            store, {}, Settings(user_configs=("rbd/pool/*",), limited=True)))
    assert served(image(f"{root}/image"), root, limited=True) == []


@pytest.mark.parametrize("limited", [True, False])
def test_the_worker_of_a_member_of_the_group_knows_it(root: str, limited: bool) -> None:
    from lio_handover.service.worker import Work
    Path(root, "conf").write_text("[storage]\nuser_configs =\n  rbd/pool/*\n  x;y\n")
    work = Work({"verb": "import", "role": "", "probe": False, "config": f"{root}/conf",
                 "small": False, "secrets": True, "limited": limited}, -1, [])
    assert work.core.settings.user_configs == ("rbd/pool/*", "x;y")
    assert bool(policy.findings(tcmu("rbd/pool/a"), {}, work.core.settings)) is limited


RD = {"rd_pages": "25600"}   # 100 MiB


@pytest.mark.parametrize("stores, free, fits", [
    ([RD], 229 * MIB, True), ([RD], 228 * MIB, False), ([RD, RD], 300 * MIB, False),
    ([RD, RD], 330 * MIB, True), ([{**RD, "rd_nullio": "1"}] * 3, 0, True), ([], 0, True)])
def test_memory_disks_fit_into_what_is_available_together(
        machine: Machine, stores: list[dict[str, str]], free: int, fits: bool) -> None:
    from lio_handover.storage import memory
    machine.file("proc/meminfo", f"MemTotal: 9999999 kB\nMemAvailable: {free // 1024} kB\n")
    findings = memory.findings(
        [Backstore(backstore_key("rd_mcp", f"ram{number}"), words)
         for number, words in enumerate(stores)], 128 * MIB, machine.host)
    assert fits == (not findings) and (fits or f"{free // MIB} MiB available" in only(findings))


def test_tcmu_rings_and_protection_are_memory_too(machine: Machine) -> None:
    from lio_handover.storage import memory
    machine.file("proc/meminfo", f"MemAvailable: {200 * 1024} kB\n")
    rings = [tcmu("x", max_data_area_mb="60", cmd_ring_size_mb="4"), tcmu("y")]
    assert [memory.taken_by(store) for store in rings] == [64 * MIB, 16 * MIB]
    assert "take 80 MiB" in only(memory.findings(rings, 128 * MIB, machine.host))
    assert memory.findings(rings, 100 * MIB, machine.host) == []
    disk = Backstore(backstore_key("rd_mcp", "ram"), RD, {"attrib/pi_prot_type": "1"})
    assert memory.taken_by(disk) - memory.taken_by(replace(disk, attributes={})) \
        == 25600 * 4096 // 512 * 8


def test_memory_that_nobody_tells_of_is_none(machine: Machine) -> None:
    from lio_handover.storage import memory
    assert only(memory.findings([tcmu("x")], MIB, machine.host))


# ── how much is looked at ────────────────────────────────────────────────────────────────────

def test_each_folder_is_looked_at_once(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lio_handover.storage import trusted
    os.makedirs(f"{root}/a/b")
    stores = [samples.backstore(f"disk{number}", "fileio", made(f"{root}/a/b/{number}"), MIB)
              for number in range(300)]
    looked: Counter[str] = Counter()
    real = os.lstat

    def lstat(path: Any, **more: Any) -> os.stat_result:
        looked[str(path)] += 1
        return real(path, **more)

    monkeypatch.setattr(os, "lstat", lstat)
    assert trusted.findings(stores, (), HostSnapshot()) == []
    folders = [path for path in looked if os.path.isdir(path)]
    assert f"{root}/a/b" in folders and max(looked.values()) == 1
    assert len(looked) == 300 + len(folders)


# ── before and after the kernel opens it ─────────────────────────────────────────────────────

def exchanged(path: str) -> None:
    os.rename(made(path + ".new"), path)


def renamed_back(path: str) -> None:
    """The same inode number would do, if nothing held the old one."""
    os.unlink(path)
    made(path)


def gone(path: str) -> None:
    os.unlink(path)


def a_folder(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def opened_up(path: str) -> None:
    os.chmod(os.path.dirname(path), 0o777)


def linked(path: str) -> None:
    os.link(path, path + ".other")


@pytest.mark.parametrize("change, error, said", [
    (exchanged, StorageDiffers, "leads to something else than when it was looked at"),
    (renamed_back, StorageDiffers, "leads to something else than when it was looked at"),
    (a_folder, StorageDiffers, "leads to something else than when it was looked at"),
    (gone, StorageMissing, "is not there any more"), (opened_up, StorageNotAllowed, "lies below"),
    (linked, StorageNotAllowed, "has 2 names")])
def test_what_changes_while_it_is_opened_is_seen(
        root: str, change: Callable[[str], None], error: type, said: str) -> None:
    from lio_handover.storage.trusted import Watch
    stores = [image(f"{root}/image"), samples.backstore("disk1", "fileio", f"{root}/image", MIB)]
    descriptors = os.listdir("/proc/self/fd")
    watch = Watch()
    watch.before(stores)
    assert watch.after(stores) == []
    watch.before(stores)
    change(f"{root}/image")
    findings = watch.after(stores)
    assert {finding.error for finding in findings} == {error}
    assert said in findings[0].sentence and not any(finding.override for finding in findings)
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_what_was_exchanged_since_it_was_checked_is_never_opened(root: str) -> None:
    from lio_handover.storage.trusted import Watch
    store, here = image(f"{root}/image"), HostSnapshot()
    assert policy.findings(store, evidence(store, True), Settings(roots=(root,)), host=here) == []
    looked: Mapping[str, block_devices.Identity] = here.looked
    Watch().before([store], looked)
    exchanged(store.path)
    with pytest.raises(errors.StorageDiffers, match="leads to something else"):
        Watch().before([store], looked)

"""Backstores that are neither files nor block devices: carried, each with its own refusals."""
from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.host import preflight
from lio_handover.kernel import tcmu
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.reader import Reader
from lio_handover.model import plugins
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import Backstore, State
from lio_handover.settings import Settings
from tests import lab
from tests.conftest import HostsOf
from tests.support import inhost, samples

PAIRS = pytest.mark.parametrize("source, destination", [
    ("oldest", "newest"), pytest.param("newest", "stable", marks=pytest.mark.full)])
WWID = "naa.33333330000007d0"


def served(plugin: str, words: dict[str, str], attributes: dict[str, str],
           registrants: int = 0) -> State:
    """The sample target with one LUN on such a backstore."""
    state = samples.iscsi(registrants=registrants)
    store, = state.backstores
    key = backstore_key(plugin, "disk0")
    target, = state.targets
    tpg, = target.tpgs
    lun, = tpg.luns
    held = replace(store.reservations, aptpl=True) if registrants else store.reservations
    return State((), (Backstore(key, words, attributes, (), held),), (replace(
        target, tpgs=(replace(tpg, luns=(replace(lun, backstore=key),)),)),))


def freeze_and_export(allow: tuple[str, ...]) -> bytes:
    one = inhost.core()
    one.freeze(one.names([], True), allow)
    return documents.dumps(one.export(one.names([], True), (*allow, "all-tg-pt")))


def try_freeze(allow: tuple[str, ...] = ()) -> str:
    try:
        freeze_and_export(allow)
    except errors.HandoverError as error:
        return str(error)
    return ""


def try_import(data: bytes, allow: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """(what it says, what it changed where it is refused)."""
    inhost.SETTINGS = Settings(roots=("/tmp",), devices=("/dev/sd*",), user_configs=("lab/*",))
    one, before = inhost.core(), inhost.tree()
    try:
        one.import_(one.ready(documents.loads(data)), allow)
    except errors.HandoverError as error:
        return str(error), inhost.differences(before, inhost.tree())
    one.verify(documents.loads(data))
    return "", []


def backstore() -> Backstore:
    found, = [one for one in Reader(Configfs()).state().backstores if one.name == "disk0"]
    return found


# ── tcmu ─────────────────────────────────────────────────────────────────────────────────────

TCMU = {"dev_config": "lab/what it serves", "dev_size": "1048576", "hw_block_size": "4096",
        "hw_max_sectors": "64", "max_data_area_mb": "16", "data_pages_per_blk": "2",
        "cmd_ring_size_mb": "4"}


def with_handler(do: Callable[..., object], *words: object) -> object:
    """Do something while somebody listens to what the kernel says of tcmu backstores."""
    subprocess.run(["modprobe", "target_core_user"], check=True)
    group = tcmu._group(b"TCM-USER", b"config")
    assert tcmu.handler_listens() is False and group is not None
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as line:
        line.bind((0, 0))
        line.setsockopt(270, 1, group)      # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
        assert tcmu.handler_listens() is True
        return do(*words)


@PAIRS
def test_tcmu_is_carried_where_a_program_serves_it(
        bed: lab.Lab, hosts: HostsOf, source: str, destination: str) -> None:
    a, b = hosts(source, destination)
    a.call(inhost.build, served("user", TCMU, {
        "wwn/vpd_unit_serial": "tcmu-1", "attrib/cmd_time_out": "7",
        "attrib/qfull_time_out": "0", "attrib/emulate_write_cache": "1",
        "attrib/nl_reply_supported": "-1"}, registrants=2))
    assert "--allow unseen-data" in a.call(try_freeze)
    document = a.call(freeze_and_export, ("unseen-data",))
    said, left = b.call(try_import, document)
    assert "unseen-data" in said and left == []
    said, left = b.call(try_import, document, ("unseen-data",))
    assert "no program on this host serves tcmu backstores" in said and left == []
    assert b.call(with_handler, try_import, document, ("unseen-data",)) == ("", [])
    there, here = a.call(backstore), b.call(backstore)
    assert here.parameters == there.parameters == TCMU
    assert there.attributes["attrib/cmd_time_out"] == here.attributes["attrib/cmd_time_out"] == "7"
    assert len(here.reservations.registrations) == 2
    assert here.reservations.type == there.reservations.type == 5


@pytest.mark.full
def test_a_disk_that_nobody_serves_is_not_made(bed: lab.Lab, stable: lab.Host) -> None:
    """But with the operator's word, and nl_reply_supported=-1."""
    def finding(more: dict[str, str]) -> errors.Finding:
        found, = stable.call(handlers, served("user", TCMU, more))
        return found

    assert finding({"attrib/nl_reply_supported": "-1"}).override == "no-handler"
    assert finding({}).override == ""


def handlers(state: State) -> list[errors.Finding]:
    return list(preflight.handler(state, State()))


# ── pscsi ────────────────────────────────────────────────────────────────────────────────────

def scsi_disk(loopbacks: int) -> str:
    """A SCSI disk in memory, whose host has so many others before it; its address."""
    for number in range(loopbacks):
        tpg = Path(f"/sys/kernel/config/target/loopback/naa.500140500000000{number}/tpgt_1")
        tpg.mkdir(parents=True)
    subprocess.run(["modprobe", "scsi_debug", "dev_size_mb=8", "vpd_use_hostno=0"], check=True)
    subprocess.run(["modprobe", "target_core_pscsi"], check=True)
    found, = Path("/sys/class/scsi_device").iterdir()
    assert (found / "device/wwid").read_text().strip() == WWID
    deadline = time.monotonic() + 10
    while not (found / "device/block/sda").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return found.name


@PAIRS
def test_pscsi_finds_its_disk_by_wwid(
        bed: lab.Lab, hosts: HostsOf, source: str, destination: str) -> None:
    a, b = hosts(source, destination)
    address, other = a.call(scsi_disk, 0), b.call(scsi_disk, 2)
    assert address != other
    words = dict(zip(plugins.HCTL, address.split(":")))
    a.call(inhost.build, served("pscsi", words, {"udev_path": "/dev/sda"}))
    said = a.call(try_freeze)
    assert "reservations go to the physical device" in said and "--allow pgr-passthrough" in said
    document = a.call(freeze_and_export, ("pgr-passthrough",))
    assert documents.loads(document).storage["pscsi/disk0"]["wwid"] == WWID
    said, left = b.call(try_import, document)
    assert "--allow pgr-passthrough" in said and left == []
    assert b.call(try_import, document, ("pgr-passthrough",)) == ("", [])
    here = b.call(backstore)
    assert here.parameters == dict(zip(plugins.HCTL, other.split(":")))
    assert here.serial == a.call(backstore).serial == "2000"


@pytest.mark.full
def test_another_disk_at_that_address_is_refused(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "newest")
    address, _ = a.call(scsi_disk, 0), b.call(scsi_disk, 0)
    words = dict(zip(plugins.HCTL, address.split(":")))
    a.call(inhost.build, served("pscsi", words, {"udev_path": "/dev/sda"}))
    good = documents.loads(a.call(freeze_and_export, ("pgr-passthrough",)))
    for change, said in (({"wwid": "naa.7"}, f"is {WWID}, on the source it was naa.7"),
                         ({"sample": "0" * 64}, "holds other data")):
        proof = {**good.storage["pscsi/disk0"], **change}
        told, left = b.call(try_import, documents.dumps(
            replace(good, storage={"pscsi/disk0": proof})), ("pgr-passthrough",))
        assert said in told and "StorageDiffers" not in told and left == []
    nameless = {name: value for name, value in good.storage["pscsi/disk0"].items()
                if name != "wwid"}
    told, left = b.call(try_import, documents.dumps(
        replace(good, storage={"pscsi/disk0": nameless})), ("pgr-passthrough",))
    assert "has no WWID" in told and "--allow unproven-storage" in told and left == []


# ── memory ───────────────────────────────────────────────────────────────────────────────────

@pytest.mark.full
def test_a_disk_in_memory_is_carried_only_where_it_keeps_nothing(
        bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "newest")
    a.call(inhost.build, served("rd_mcp", {"rd_pages": "256"}, {"wwn/vpd_unit_serial": "ram"}))
    assert "--allow ramdisk" in a.call(try_freeze)
    document = a.call(freeze_and_export, ("ramdisk",))
    said, left = b.call(try_import, document)
    assert "its data is in this host's memory" in said and left == []
    assert b.call(try_import, document, ("ramdisk",)) == ("", [])
    for host in (a, b):
        host.call(inhost.freeze, True, ("ramdisk",))
        host.call(inhost.remove)
    a.call(inhost.build, served("rd_mcp", {"rd_pages": "256", "rd_nullio": "1"}, {
        "wwn/vpd_unit_serial": "ram", "attrib/emulate_tas": "0"}))
    assert b.call(try_import, a.call(freeze_and_export, ())) == ("", [])
    assert b.call(backstore).parameters == {"rd_pages": "256", "rd_nullio": "1"}


# ── what info says ───────────────────────────────────────────────────────────────────────────

STATUS = "Status: DEACTIVATED  Max Queue Depth: 0  SectorSize: 4096  HwMaxSectors: 64\n        "


@pytest.mark.parametrize("plugin, info, wanted", [
    ("user", "Config: lab/a b, Size: 3 Size: 1048576 MaxDataAreaMB: 8 DataPagesPerBlk: 1 "
     "CmdRingSizeMB: 8 \n",
     {"dev_config": "lab/a b, Size: 3", "dev_size": "1048576", "hw_block_size": "4096",
      "hw_max_sectors": "64", "max_data_area_mb": "8", "data_pages_per_blk": "1",
      "cmd_ring_size_mb": "8"}),
    ("pscsi", "SCSI Device Bus Location: Channel ID: 1 Target ID: 2 LUN: 3 Host ID: 4\n"
     "        Vendor: Linux    Model: scsi_debug       Rev: 0191\n",
     {"scsi_host_id": "4", "scsi_channel_id": "1", "scsi_target_id": "2", "scsi_lun_id": "3"}),
    ("pscsi", "SCSI Device Bus Location: Channel ID: 1 Target ID: 2 LUN: 3 Host ID: PHBA Mode\n",
     {"scsi_channel_id": "1", "scsi_target_id": "2", "scsi_lun_id": "3"}),
    ("rd_mcp", "TCM RamDisk ID: 0  RamDisk Makeup: rd_mcp\n        PAGES/PAGE_SIZE: 16*4096  "
     "SG_table_count: 0  nullio: 1 dummy: 0\n", {"rd_pages": "16", "rd_nullio": "1"}),
    ("rd_mcp", "PAGES/PAGE_SIZE: 16*4096  SG_table_count: 0  nullio: 0 dummy: 1\n",
     {"rd_pages": "16", "rd_dummy": "1"}),
    ("unheard_of", "", {}), ("fileio", "nothing", {}),
])
def test_what_info_says(plugin: str, info: str, wanted: dict[str, str]) -> None:
    assert plugins.parse(plugin, STATUS + info) == wanted


def test_a_physical_hba_is_refused_whatever_is_allowed() -> None:
    state = served("pscsi", dict.fromkeys(plugins.HCTL[1:], "0"), {})
    found = [one for one in preflight._unsupported_backstores(state) if not one.override]
    assert ["hba_mode" in one.sentence or "udev_path" in one.sentence for one in found] == [
        True, True]

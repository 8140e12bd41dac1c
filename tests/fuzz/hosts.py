"""The texts of a kernel, below configfs, /proc and /sys, of a device and of udev: another kernel's,
or what another program put there."""
from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from lio_handover.kernel import fixes, portals
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.rereader import Rereader
from lio_handover.model import directories, plugins, pr_texts, reservations
from lio_handover.model.attributes import TABLE
from lio_handover.model.objects import PrType
from lio_handover.model.reservations import NexusPath
from lio_handover.scsi import replies
from lio_handover.storage import block_devices, device_limits
from lio_handover.storage.block_devices import Host
from lio_handover.system import arrivals, supervisor
from tests.support import samples

from . import records

# ---- registrations -----------------------------------------------------------------------------
_REGISTERED = ("T10-PR-APTPL-Generation...\n"
               + "".join(f"iSCSI Node: {samples.initiator(number)},i,0x00023d00000{number} Key: "
                         f"0x000000000000abc{number} PRgen: 0x0000000{number}\n"
                         for number in range(3)))
_PR = (_REGISTERED, "SPC3_PERSISTENT_RESERVATIONS\n",
       f"SPC-3 Reservation: iSCSI Initiator: {samples.initiator(0)},i,0x00023d000000\n",
       f"SPC-3 Reservation Type: {PrType(5).kernel_text}\n", "0x00000003\n",
       "APTPL Bit Status: Activated\n", "SPC-3 Reservation: No\n",
       f"SPC-3 Reservation: iSCSI Target Node Endpoint: {samples.IQN}\nSPC-3 Reservation: Relative "
       "Port Identifier Tag: 1 iSCSI Portal Group Tag: 1 iSCSI Logical Unit: 0\n")
_FIELDS = ("registered", "res_type", "holder", "type", "generation", "aptpl", "all_tg_pt", "port")
_PATHS = {samples.initiator(number): (NexusPath("iSCSI", samples.IQN, 1, 0, 0, 1),)
          for number in range(3)}


def registrations() -> Sequence[bytes]:
    aptpl = pr_texts.aptpl_text(samples.registrations(3, aptpl=True), {})
    return ["\x1e".join(_PR).encode() + b"\x1e" + aptpl,
            "\x1e".join((*_PR[:4], "0x00000003\n", "", "", "")).encode() + b"\x1e"]


def read_registrations(data: bytes) -> None:
    """The files pr/res_*, and the APTPL file, whose bytes follow."""
    *texts, aptpl = (data + b"\x1e" * 8).split(b"\x1e", 8)
    files = pr_texts.PrFiles(**{
        name: text.decode(errors="surrogateescape") for name, text in zip(_FIELDS, texts)})
    found = reservations.read(files, _PATHS, aptpl.rstrip(b"\x1e"),
                              known=[samples.registrations(3)])
    for line in pr_texts.metadata_lines(found):
        assert line.count(b"\n") == 1


def aptpl_files() -> Sequence[bytes]:
    return [pr_texts.aptpl_text(samples.registrations(count, aptpl=True), {})
            for count in (0, 1, 5)]


def read_aptpl(data: bytes) -> None:
    file = pr_texts.parse_aptpl(data)
    assert len(file.why) < 200 and file.why.isprintable()
    if file.says:
        reservations.from_aptpl(file.blocks, 1)


# ---- info, attributes, names -------------------------------------------------------------------
_INFO = {
    "fileio": "Status: ACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 16384\n"
              "        TCM FILEIO ID: 0        File: /srv/a.img  Size: 1048576  Mode: O_DSYNC "
              "Async: 0\n",
    "iblock": "iBlock device: sdb  UDEV PATH: /dev/sdb  readonly: 0\n        Major: 8 Minor: 16  "
              "CLAIMED: IBLOCK\n",
    "rd_mcp": "TCM RamDisk ID: 0  RAMDISK Makeup: rd_mcp\n        PAGES/PAGE_SIZE: 1*4096  SG_table"
              "_count: 1  nullio: 0\n",
    "pscsi": "SCSI Device Bus Location: Channel ID: 0 Target ID: 1 LUN: 2 Host ID: 3\n",
    "user": "SectorSize: 512  HwMaxSectors: 128\n Config: qcow//srv/a Size: 1048576 MaxDataAreaMB: "
            "8\n"}


def infos() -> Sequence[bytes]:
    return [text.encode() for text in _INFO.values()]


def read_info(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    for plugin in _INFO:
        read = plugins.parse(plugin, text)
        assert all(type(value) is str for value in read.values())
    assert re.fullmatch(r"(?:\d+:\d+)?", plugins.device(text))


def attributes() -> Sequence[bytes]:
    return [b"1\n", b"0x001405\n", b"T10 VPD Unit Serial Number: a-b\n", b"Active/Optimized\n",
            b"T10 Vendor Identification: LIO-ORG\n", b"Implicit and Explicit\n", b"Yes\n",
            b"lun_0\n", b"lun_010\n", b"tpgt_1\n", b"xtpgt_3\n", b"[::1]:3260", b"192.0.2.1:0xcbc"]


def read_attribute(data: bytes) -> None:
    """The text of a file, as each row of the table may read it, and as each kind of name."""
    text = data.decode(errors="surrogateescape")
    for row in TABLE:
        try:
            assert type(row.format.read(text)) is str
        except ValueError:
            pass  # refused as CannotRepresent, see Reader._attributes
    for fabric in ("iscsi", "vhost"):
        directories.numbered_tpgs(fabric, [text, "tpgt_1", "tpgt_01"])
    directories.numbered_luns([text, "lun_1", "lun_01"])
    list(directories.in_path(f"iscsi/a/{text}/lun/{text}"))
    portals.address(text)
    portals.order(text)
    fixes.notes(text, text)
    if os.fsencode(text):
        supervisor.escaped(text)
    try:
        supervisor.unescaped(text)
    except ValueError:
        pass


# ---- a target tree -----------------------------------------------------------------------------
IQN = "iqn.2026-11.org.example:target"
_TPG = f"iscsi/{IQN}/tpgt_1"
_STORE = "core/fileio_0/disk0"
#: Files of a tree, as those of a kernel with one target.
_TREE: Mapping[str, str] = {
    "dbroot": "/var/target\n", f"{_STORE}/info": _INFO["fileio"], f"{_STORE}/enable": "1\n",
    f"{_STORE}/attrib/block_size": "512\n", f"{_STORE}/attrib/hw_block_size": "512\n",
    f"{_STORE}/wwn/vpd_unit_serial": "T10 VPD Unit Serial Number: serial\n",
    f"{_STORE}/wwn/company_id": "0x001405\n", f"{_STORE}/alua_lu_gp": "LU Group Alias: a\n",
    f"{_STORE}/alua/default_tg_pt_gp/alua_access_type": "Implicit and Explicit\n",
    f"{_STORE}/alua/default_tg_pt_gp/alua_access_state": "0\n",
    **{f"{_STORE}/pr/{name}": text for name, text in zip(
        ("res_pr_registered_i_pts", "res_type", "res_holder", "res_pr_type", "res_pr_generation",
         "res_aptpl_active", "res_pr_all_tgt_pts", "res_pr_holder_tg_port"), _PR)},
    f"{_TPG}/enable": "1\n", f"{_TPG}/rtpi": "0x1\n", f"{_TPG}/attrib/authentication": "0\n",
    f"{_TPG}/param/AuthMethod": "CHAP,None\n", f"{_TPG}/auth/password": "NULL\n",
    f"{_TPG}/dynamic_sessions": "", f"{_TPG}/np/192.0.2.1:3260/iser": "0\n",
    f"{_TPG}/lun/lun_0/alua_tg_pt_gp": "TG Port Alias: default_tg_pt_gp\nTG Port Group ID: 0\n",
    **{f"{_TPG}/acls/{samples.initiator(number)}/{name}": text for number in range(3)
       for name, text in (("info", "No active iSCSI Session for Initiator Endpoint\n"),
                          ("cmdsn_depth", "64\n"), ("lun_0/write_protect", "0\n"))},
}


@lru_cache(maxsize=None)
def _root() -> Path:
    root = records.folder() / "sys/kernel/config/target"
    for path, text in _TREE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for folder, link, to in ((f"{_TPG}/lun/lun_0", "abc", _STORE),
                             *((f"{_TPG}/acls/{samples.initiator(number)}/lun_0", "abc",
                                f"{_TPG}/lun/lun_0") for number in range(3))):
        (root / folder / link).symlink_to("../" * (folder.count("/") + 2) + f"target/{to}")
    return root


def tree_files() -> Sequence[bytes]:
    """The file's path, and its text."""
    return [f"{path}\x1e{text}".encode() for path, text in _TREE.items()]


def read_tree(data: bytes) -> None:
    """A file of the tree says something else; or a directory has another name."""
    path, _, text = data.decode(errors="surrogateescape").partition("\x1e")
    root = _root()
    if path not in _TREE:
        return
    (root / path).write_bytes(text.encode(errors="surrogateescape"))
    try:
        reader = Rereader(Configfs(str(root)))
        state = reader.state()
        reader.runtime(state)
        reader.served(state)
        reader.outline()
        reader.relative_ports()
        reader.exporters([store.key for store in state.backstores])
        reader.off(state.backstores)
        reader.facts()
    finally:
        (root / path).write_text(_TREE[path])


# ---- /proc, /sys -------------------------------------------------------------------------------
_PROC: Mapping[str, str] = {
    "proc/self/mountinfo":
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:21 / /proc rw shared:12 - proc proc rw\n"
        "40 22 8:16 / /mnt/a\\040b rw - xfs /dev/sdb rw\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/sdb\\0401 partition 8 0 -2\n",
    "proc/self/net/tcp":
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout"
        " inode\n   0: 010200C0:0CBC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0 "
        "       0 12345 1 0000000000000000 100 0 0 10 0\n",
    "proc/77/comm": "qemu\n", "sys/dev/block/8:16/size": "2048\n",
    "sys/dev/block/8:16/queue/logical_block_size": "512\n",
    "sys/dev/block/8:16/queue/discard_max_bytes": "0\n", "sys/dev/block/8:16/ro": "0\n",
    "sys/dev/block/8:16/integrity/format": "T10-DIF-TYPE1-CRC\n",
    "sys/dev/block/8:16/wwid": "naa.5000c500a1b2c3d4\n", "sys/dev/block/8:16/dm/uuid": "",
    "sys/dev/block/8:16/dev": "8:16\n", "sys/dev/block/8:16/loop/backing_file": "/srv/a\n",
}


def proc_files() -> Sequence[bytes]:
    return [f"{path}\x1e{text}".encode() for path, text in _PROC.items()]


def read_proc(data: bytes) -> None:
    path, _, text = data.decode(errors="surrogateescape").partition("\x1e")
    if path not in _PROC:
        return
    root = records.folder() / "host"
    for name, usual in _PROC.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name == path or not (root / name).exists():
            (root / name).write_bytes((text if name == path else usual).encode(
                errors="surrogateescape"))
    try:
        host = Host(proc=str(root / "proc"), sys=str(root / "sys"))
        for use in block_devices.usage_of("8:16", host):
            assert use.isprintable() and len(use) < 1000, use
        block_devices.file_system("/mnt/a b/c", host)
        block_devices.backing_devices("8:16", host)
        assert type(block_devices.wwid_of("8:16", host)) is str
        device_limits.Device("", host)
        portals.listening(str(root / "proc"))
        portals.holder(12345, str(root / "proc"))
        block_devices.block_facts("8:16", host)
    finally:
        (root / path).write_text(_PROC[path])


# ---- a device's, and udev's, bytes -------------------------------------------------------------
_DECODERS = tuple(getattr(replies, name) for name in sorted(vars(replies))
                  if name.startswith("decode_"))


def device_replies() -> Sequence[bytes]:
    full = bytes.fromhex("00000003 00000040 000000000000abc0 00000000 01 05 00000000 0001 00000028")
    name = b"iqn.2026-11.org.example:a\0".ljust(36, b"\0")
    return [full + b"\x05\0\0\x24" + name, bytes(8) + b"LIO-ORG DISK            4.0 ",
            bytes.fromhex("0000000c 00010203 00000001 00000002"), bytes(32),
            bytes.fromhex("70000500 0000000a 00000000 20000000 0000")]


def read_reply(data: bytes) -> None:
    for decode in _DECODERS:
        try:
            decode(data)
        except replies.Malformed:
            pass


def uevents() -> Sequence[bytes]:
    return [b"add@/devices/pci/block/sdb\0ACTION=add\0SUBSYSTEM=block\0",
            b"libudev\0\xfe\xed\xca\xfe" + bytes.fromhex("28000000 28000000 20000000") + bytes(16)
            + b"ACTION=add\0SUBSYSTEM=scsi_generic\0"]


def read_uevent(data: bytes) -> None:
    assert arrivals._is_storage(data) in (True, False)

"""What a backstore opens: what ``control`` takes, and the words of its ``info`` → that.

``info`` is the only place where ``control`` can be read back.  The words are those of the plugins'
show_configfs_dev_params functions (drivers/target/target_core_{file,iblock,rd,pscsi,user}.c).
"""
from __future__ import annotations

import re
from typing import Dict, FrozenSet

_FILEIO = re.compile(r"TCM FILEIO ID: \d+ +File: (.*?)  Size: (\d+)  Mode: (\S+)"
                     r"(?: Async: (\d))?", re.S)
_IBLOCK = re.compile(r"iBlock device: (\S+)  UDEV PATH: (.*?)  readonly: (\d)"
                     r"(?:\s+exclusive: (\d))?", re.S)
_RAMDISK = re.compile(r"PAGES/PAGE_SIZE: (\d+)\*\d+ .* nullio: (\d)(?: dummy: (\d))?")
_PSCSI = re.compile(r"Channel ID: (\d+) Target ID: (\d+) LUN: (\d+) Host ID: (.+)")
_USER = re.compile(r"SectorSize: (\d+)  HwMaxSectors: (\d+)\n\s*Config: (.*) Size: (\d+) "
                   r"MaxDataAreaMB: (\d+)(?: DataPagesPerBlk: (\d+) CmdRingSizeMB: (\d+))?", re.S)

#: The address of a pscsi device, in the order in which H:C:T:L names it.
HCTL = ("scsi_host_id", "scsi_channel_id", "scsi_target_id", "scsi_lun_id")

#: Plugin → the words that are written to its ``control``.
PARAMETERS: Dict[str, FrozenSet[str]] = {plugin: frozenset(names.split()) for plugin, names in {
    "fileio": "fd_dev_name fd_dev_size fd_buffered_io fd_async_io",
    "iblock": "udev_path readonly exclusive",
    "rd_mcp": "rd_pages rd_nullio rd_dummy",
    "pscsi": " ".join(HCTL),
    "user": "dev_config dev_size hw_block_size hw_max_sectors max_data_area_mb data_pages_per_blk "
            "cmd_ring_size_mb",
}.items()}
#: Words with few values → the values.
CHOICES = {"fd_buffered_io": frozenset("1"), "fd_async_io": frozenset("1"),
           "readonly": frozenset("01"), "exclusive": frozenset("01"),
           "rd_nullio": frozenset("1"), "rd_dummy": frozenset("1"),
           "hw_block_size": frozenset(("512", "1024", "2048", "4096"))}
#: Words that are numbers, plain decimals from 0 → the largest that the kernel takes.
NUMBERS = {"fd_dev_size": 2**63 - 1, "dev_size": 2**63 - 1, **dict.fromkeys((
    *HCTL, "rd_pages", "hw_max_sectors", "max_data_area_mb", "data_pages_per_blk",
    "cmd_ring_size_mb"), 2**31 - 1)}


def parse(plugin: str, info: str) -> Dict[str, str]:
    """What was written to ``control``; {} where ``info`` is not as known."""
    pattern, read = _PLUGINS.get(plugin, (None, None))
    match = pattern.search(info) if pattern else None
    return read(match) if match and read else {}


def device(info: str) -> str:
    """major:minor of the block device that the kernel opened, "" where it shows none."""
    match = re.search(r"Major: (\d+) Minor: (\d+)", info)
    return f"{match[1]}:{match[2]}" if match and match.groups() != ("0", "0") else ""


def _fileio(match: "re.Match[str]") -> Dict[str, str]:
    found = {"fd_dev_name": match[1]}
    if match[2] != "0":
        found["fd_dev_size"] = match[2]
    if match[3] != "O_DSYNC":
        found["fd_buffered_io"] = "1"
    if match[4] == "1":
        found["fd_async_io"] = "1"
    return found


def _iblock(match: "re.Match[str]") -> Dict[str, str]:
    found = {"udev_path": match[2]}
    if match[3] != "0":
        found["readonly"] = match[3]
    if match[4] == "0":
        found["exclusive"] = "0"
    return found


def _ramdisk(match: "re.Match[str]") -> Dict[str, str]:
    found = {"rd_pages": match[1]}
    for name, value in (("rd_nullio", match[2]), ("rd_dummy", match[3])):
        if value == "1":
            found[name] = "1"
    return found


def _pscsi(match: "re.Match[str]") -> Dict[str, str]:
    """Without a host where its HBA is a physical one ("PHBA Mode")."""
    found = dict(zip(HCTL[1:], match.groups()))
    if match[4].isdigit():
        found[HCTL[0]] = match[4]
    return found


def _user(match: "re.Match[str]") -> Dict[str, str]:
    found = {"dev_config": match[3], "dev_size": match[4], "hw_block_size": match[1],
             "hw_max_sectors": match[2], "max_data_area_mb": match[5]}
    if match[6]:
        found.update(data_pages_per_blk=match[6], cmd_ring_size_mb=match[7])
    return found


_PLUGINS = {"fileio": (_FILEIO, _fileio), "iblock": (_IBLOCK, _iblock),
            "rd_mcp": (_RAMDISK, _ramdisk), "pscsi": (_PSCSI, _pscsi), "user": (_USER, _user)}

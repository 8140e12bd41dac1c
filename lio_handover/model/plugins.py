"""The backstore plugins: one row each, with what ``control`` takes and what ``info`` shows of it.

``info`` is the only place where ``control`` can be read back.  The words are those of the plugins'
show_configfs_dev_params functions (drivers/target/target_core_{file,iblock,rd,pscsi,user}.c).
"""
from __future__ import annotations

import re
from enum import Enum
from typing import Callable, Dict, Mapping, NamedTuple, Optional, Pattern, Tuple

#: The address of a pscsi device, in the order in which H:C:T:L names it.
HCTL = ("scsi_host_id", "scsi_channel_id", "scsi_target_id", "scsi_lun_id")


class Opens(Enum):
    """The kind of storage that a plugin opens on the host."""

    FILE = "file"    # a file or a block device, through its file system and page cache
    BLOCK = "block"  # a block device, whose queue gives the backstore its limits
    SCSI = "scsi"    # a SCSI device by its address, claimed by the path of its block device


class Data(Enum):
    """Where the data of a backstore is."""

    STORAGE = "storage"  # in what it opens
    MEMORY = "memory"    # in the host's memory
    HANDLER = "handler"  # behind a program in user space


class Parameter(NamedTuple):
    """One word of ``control``.

    choices  the only values, where they are few
    most     the highest value that the kernel takes, for a plain decimal from 0; None: no number
    needed   whether the kernel makes no backstore without it
    path     the most bytes, for the full path of a file or device; 0: no path
    what     how a message names the number
    grows    whether a backstore that is served takes a higher number
             (target_core_file.c:fd_set_configfs_dev_params, fd_get_blocks)
    own      whether the kernel has a value of its own, which ``info`` shows, where none is told
             (target_core_user.c:tcmu_alloc_device, tcmu_configure_device)
    """

    name: str
    choices: Tuple[str, ...] = ()
    most: Optional[int] = None
    needed: bool = False
    path: int = 0
    what: str = "number"
    grows: bool = False
    own: bool = False


class Plugin(NamedTuple):
    """A plugin.

    name         as the directories of its HBAs begin
    module       the kernel module that has it; "" where target_core_mod has
    rtslib_name  as targetcli's save file has it (rtslib/tcm.py:bs_params)
    opens        what it opens on the host, None for nothing
    path_in      (parameters or attributes of a backstore, which of them) is the path of that
    data         where its data is
    parameters   what ``control`` takes, in the order in which a document is judged
    info         how ``info`` shows what ``control`` took
    read         a match of that → {name: value} as they were written to ``control``
    product      the product that an initiator is told (inquiry_prod), "" where it is the device's
    passthrough  whether commands are answered by the device or handler, not by LIO
    listed       whether a new one has the defaults of attributes.py: a test holds it to them
    """

    name: str
    module: str = ""
    rtslib_name: str = ""
    opens: Optional[Opens] = None
    path_in: Tuple[str, str] = ("", "")
    data: Data = Data.STORAGE
    parameters: Mapping[str, Parameter] = {}
    info: Optional[Pattern[str]] = None
    read: Callable[["re.Match[str]"], Dict[str, str]] = re.Match.groupdict
    product: str = ""
    passthrough: bool = False
    listed: bool = False


# ---- what info shows ----------------------------------------------------------------------------
_FILEIO = re.compile(r"TCM FILEIO ID: \d+ +File: (.*?)  Size: (\d+)  Mode: (\S+)"
                     r"(?: Async: (\d))?", re.S)
_IBLOCK = re.compile(r"iBlock device: (\S+)  UDEV PATH: (.*?)  readonly: (\d)"
                     r"(?:\s+exclusive: (\d))?", re.S)
_RAMDISK = re.compile(r"PAGES/PAGE_SIZE: (\d+)\*\d+ .* nullio: (\d)(?: dummy: (\d))?")
_PSCSI = re.compile(r"Channel ID: (\d+) Target ID: (\d+) LUN: (\d+) Host ID: (.+)")
_USER = re.compile(r"SectorSize: (\d+)  HwMaxSectors: (\d+)\n\s*Config: (.*) Size: (\d+) "
                   r"MaxDataAreaMB: (\d+)(?: DataPagesPerBlk: (\d+) CmdRingSizeMB: (\d+))?", re.S)


def _fileio(match: "re.Match[str]") -> Dict[str, str]:
    parameters = {"fd_dev_name": match[1]}
    if match[2] != "0":
        parameters["fd_dev_size"] = match[2]
    if match[3] != "O_DSYNC":
        parameters["fd_buffered_io"] = "1"
    if match[4] == "1":
        parameters["fd_async_io"] = "1"
    return parameters


def _iblock(match: "re.Match[str]") -> Dict[str, str]:
    parameters = {"udev_path": match[2]}
    if match[3] != "0":
        parameters["readonly"] = match[3]
    if match[4] == "0":
        parameters["exclusive"] = "0"
    return parameters


def _ramdisk(match: "re.Match[str]") -> Dict[str, str]:
    parameters = {"rd_pages": match[1]}
    for name, value in (("rd_nullio", match[2]), ("rd_dummy", match[3])):
        if value == "1":
            parameters[name] = "1"
    return parameters


def _pscsi(match: "re.Match[str]") -> Dict[str, str]:
    """No host number where the HBA is a physical one ("PHBA Mode")."""
    parameters = dict(zip(HCTL[1:], match.groups()))
    if match[4].isdigit():
        parameters[HCTL[0]] = match[4]
    return parameters


def _user(match: "re.Match[str]") -> Dict[str, str]:
    parameters = {"dev_config": match[3], "dev_size": match[4], "hw_block_size": match[1],
                  "hw_max_sectors": match[2], "max_data_area_mb": match[5]}
    if match[6]:
        parameters.update(data_pages_per_blk=match[6], cmd_ring_size_mb=match[7])
    return parameters


# ---- the rows -----------------------------------------------------------------------------------
_BYTES, _INT = 2**63 - 1, 2**31 - 1


def _parameters(*rows: Parameter) -> Mapping[str, Parameter]:
    return {row.name: row for row in rows}


def _number(name: str, needed: bool = False, own: bool = False) -> Parameter:
    return Parameter(name, most=_INT, needed=needed, own=own)


_ROWS = (
    Plugin("fileio", "target_core_file", "fileio", Opens.FILE, ("parameters", "fd_dev_name"),
           parameters=_parameters(
               Parameter("fd_dev_name", path=255),
               Parameter("fd_dev_size", most=_BYTES, what="number of bytes", grows=True),
               Parameter("fd_buffered_io", ("1",)), Parameter("fd_async_io", ("1",))),
           info=_FILEIO, read=_fileio, product="FILEIO", listed=True),
    Plugin("iblock", "target_core_iblock", "block", Opens.BLOCK, ("parameters", "udev_path"),
           parameters=_parameters(
               Parameter("udev_path", path=511),
               Parameter("readonly", ("0", "1")), Parameter("exclusive", ("0", "1"))),
           info=_IBLOCK, read=_iblock, product="IBLOCK", listed=True),
    Plugin("rd_mcp", "", "ramdisk", data=Data.MEMORY,
           parameters=_parameters(
               _number("rd_pages", needed=True),
               Parameter("rd_nullio", ("1",)), Parameter("rd_dummy", ("1",))),
           info=_RAMDISK, read=_ramdisk, product="RAMDISK-MCP"),
    # control takes the device's address; the block device is the attribute udev_path.
    Plugin("pscsi", "target_core_pscsi", "pscsi", Opens.SCSI, ("attributes", "udev_path"),
           parameters=_parameters(*(_number(name, needed=name != HCTL[0]) for name in HCTL)),
           info=_PSCSI, read=_pscsi, passthrough=True),
    Plugin("user", "target_core_user", "user", data=Data.HANDLER,
           parameters=_parameters(
               Parameter("dev_config", needed=True),
               Parameter("dev_size", most=_BYTES, needed=True, what="number of bytes"),
               Parameter("hw_block_size", ("1024", "2048", "4096", "512"), own=True),
               *(_number(name, own=True) for name in ("hw_max_sectors", "max_data_area_mb",
                                                      "data_pages_per_blk", "cmd_ring_size_mb"))),
           info=_USER, read=_user, passthrough=True),
)
PLUGINS: Mapping[str, Plugin] = {row.name: row for row in _ROWS}
BY_RTSLIB_NAME: Mapping[str, Plugin] = {row.rtslib_name: row for row in _ROWS}


def named(**column: object) -> str:
    """The names of the plugins with these values in their columns: ``fileio,iblock``."""
    return ",".join(row.name for row in _ROWS
                    if all(getattr(row, name) == value for name, value in column.items()))


def of(name: str) -> Plugin:
    """The row of a plugin; an unknown plugin has a row with the name alone."""
    return PLUGINS.get(name) or Plugin(name, rtslib_name=name)


def opened_by(name: str) -> Optional[Opens]:
    """The kind of storage that backstores of this plugin open, None for nothing."""
    return of(name).opens


def parse(plugin: str, info: str) -> Dict[str, str]:
    """{parameter: value} as written to ``control``; {} where ``info`` has no known form."""
    row = of(plugin)
    match = row.info.search(info) if row.info else None
    return row.read(match) if match else {}


def device(info: str) -> str:
    """major:minor of the block device that the kernel opened, "" where it shows none."""
    match = re.search(r"Major: (\d+) Minor: (\d+)", info)
    return f"{match[1]}:{match[2]}" if match and match.groups() != ("0", "0") else ""

"""The ranges of attributes that a host's own device, or kernel, can have, known before a write.

A source's value is often its device's own limit (queue_depth, optimal_sectors), which the other
host's device need not reach.  The kernel says so only when the value is written, so it is known
here from where the kernel has it: /sys/block/*/queue, and its own constants.
"""
from __future__ import annotations

import os
import re
import stat
from functools import cached_property
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

from .. import errors
from ..errors import Finding
from ..model import plugins
from ..model.keys import display
from ..model.objects import Backstore, Key, State
from ..model.plugins import Opens
from . import block_devices
from .block_devices import HERE, Host, one_line_of
from .exclusive import Proof

#: Lowest and highest value that can be had, None where that is not known before it is tried.
Range = Tuple[Optional[int], Optional[int]]

_QUEUE_DEPTH = 128        # target_core_file.h:FD_MAX_DEVICE_QUEUE_DEPTH, blkdev.h:BLKDEV_DEFAULT_RQ
_BYTES = 8 * 1024 * 1024  # target_core_file.h:FD_MAX_BYTES
_PAGE = 4096


class Device:
    """The file or device that a backstore opens on this host; each limit is read once."""

    def __init__(self, path: str, host: Host = HERE) -> None:
        status = os.stat(path) if path else None
        self.block = status is not None and stat.S_ISBLK(status.st_mode)
        self.number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if status else ""
        self.host = host
        self._said: Dict[str, str] = {}

    @cached_property
    def _folders(self) -> Tuple[str, str]:
        """(the device's directory in sysfs, that of its whole disk)."""
        folder = block_devices.folder_of(self.number, self.host)
        return folder, os.path.dirname(folder) if os.path.exists(folder + "/partition") else folder

    def said(self, name: str) -> str:
        """The text of a file in the whole disk's directory, "" without the file."""
        if name not in self._said:
            self._said[name] = one_line_of(f"{self._folders[1]}/{name}")
        return self._said[name]

    def number_of(self, name: str) -> Optional[int]:
        text = self.said(f"queue/{name}")
        return int(text) if text.isdecimal() else None

    @property
    def block_size(self) -> int:
        return (self.number_of("logical_block_size") if self.block else None) or 512

    @cached_property
    def read_only(self) -> bool:
        return self.block and one_line_of(f"{self._folders[0]}/ro") == "1"


#: Stands for every file: LIO's limits are the same for all.
FILE = Device("")


def _queue_depth(plugin: str, device: Optional[Device]) -> Range:
    """se_dev hw_queue_depth: a block device's nr_requests, of one without a queue the default."""
    if plugins.opened_by(plugin) is Opens.BLOCK:
        assert device is not None
        return 1, device.number_of("nr_requests") or _QUEUE_DEPTH
    return 1, _QUEUE_DEPTH


def _optimal_sectors(plugin: str, device: Optional[Device]) -> Range:
    """se_dev hw_max_sectors as it is when the backstore has been enabled, in its own blocks
    (target_core_device.c:se_dev_align_max_sectors).  Up to 6.1 iblock has sectors of 512."""
    if device is None:
        return 0, None
    block = device.block_size
    if plugins.opened_by(plugin) is Opens.FILE:
        most = _BYTES // block
    else:
        kib = device.number_of("max_hw_sectors_kb")
        if kib is None:
            return 0, None
        most = kib * 1024 // (512 if _release() < (6, 2) else block)
    pages = max(_PAGE // block, 1)
    return 0, most // pages * pages


def _discards(plugin: str, device: Optional[Device]) -> Range:
    """A file always can (fd_configure_unmap), a device where its queue says so
    (target_configure_unmap_from_queue)."""
    if device is None or not device.block:
        return 0, 1
    most = device.number_of("discard_max_bytes")
    return 0, None if most is None else min(most, 1)


def _protection(plugin: str, device: Optional[Device]) -> Range:
    """A file's is LIO's own, a device's is its own or none (pi_prot_type_store)."""
    if device is None or not device.block:
        return 0, 3
    match = re.search(r"DIF-TYPE([13])-CRC", device.said("integrity/format"))
    own = int(match[1]) if match and plugins.opened_by(plugin) is Opens.BLOCK else 0
    return own, own


def _write_cache(plugin: str, device: Optional[Device]) -> Range:
    """iblock's is the device's own (emulate_write_cache_store)."""
    return (0, 0) if plugins.opened_by(plugin) is Opens.BLOCK else (0, 1)


def _always(plugin: str, device: Optional[Device]) -> Range:
    return 1, 1


class Limit(NamedTuple):
    """A row: an attribute of the backstores of some plugins, and whether the device or the kernel
    limits it (``who``).

    ``seen``: how initiators notice another value.
    """

    path: str
    plugins: str
    range: Callable[[str, Optional[Device]], Range]
    who: str
    seen: str


_VPD_B2 = "initiators see it in VPD page B2"
#: Attributes that a host's device, or the kernel for this kind of backstore, limits.
LIMITS: Tuple[Limit, ...] = (
    Limit("attrib/queue_depth", "fileio iblock rd_mcp", _queue_depth, "device",
          "initiators do not see it"),
    Limit("attrib/optimal_sectors", "fileio iblock", _optimal_sectors, "device",
          "initiators see it in VPD page B0"),
    Limit("attrib/emulate_tpu", "fileio iblock", _discards, "device", _VPD_B2),
    Limit("attrib/emulate_tpws", "fileio iblock", _discards, "device", _VPD_B2),
    Limit("attrib/unmap_zeroes_data", "fileio iblock", _discards, "device",
          "initiators see it in READ CAPACITY(16)"),
    Limit("attrib/pi_prot_type", "fileio iblock", _protection, "device",
          "initiators see it in READ CAPACITY(16)"),
    Limit("attrib/emulate_write_cache", "iblock", _write_cache, "kernel",
          "initiators see it in mode page 08"),
    Limit("attrib/emulate_dpo", "fileio iblock rd_mcp", _always, "kernel",
          "initiators see it in mode sense"),
    Limit("attrib/alua_support", "fileio iblock rd_mcp", _always, "kernel",
          "initiators see it in INQUIRY"),
    Limit("attrib/pgr_support", "fileio rd_mcp", _always, "kernel",
          "initiators see it in PERSISTENT RESERVE IN"),
)
#: A portal's transports → the kernel's module for it.
TRANSPORTS = {"iser": "ib_isert", "cxgbit": "cxgbit"}

#: NAME of ``--map limit:NAME=MOST`` → the effect that initiators notice.
MAPPED: Dict[str, str] = {
    **{limit.path.partition("/")[2]: limit.seen for limit in LIMITS if limit.range is not _always},
    "pi_prot_verify": "initiators do not see it",
    **dict.fromkeys(TRANSPORTS, "initiators that come by it must come by TCP")}


def path_of(name: str) -> str:
    """The attribute's path for NAME of ``--map limit:NAME=MOST``."""
    return name if name in TRANSPORTS else f"attrib/{name}"


def _release() -> Tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0,)


# --- what can't be had ---------------------------------------------------------------------------
def findings(want: State, have: State, skip: Set[Key], proofs: Mapping[str, Proof] = {},
             host: Host = HERE) -> List[Finding]:
    """The attributes of ``want`` that this host's devices and modules cannot have.

    ``skip``: backstores whose storage must not be looked at yet; ``proofs``: the document's
    evidence.  Storage that was a file on the source is a file here, or is refused for that, so it
    is not read.
    """
    problems: List[Finding] = []
    folders: Dict[str, bool] = {}
    for store in want.backstores:
        if store.key in skip or have.backstore(store.key) is not None:
            continue
        device: Optional[Device] = None
        if plugins.opened_by(store.plugin) in (Opens.FILE, Opens.BLOCK):
            try:
                device = FILE if proofs.get(display(store.key), {}).get("kind") == "file" else \
                    Device(store.path, host)
            except OSError:
                continue  # it is missing, which is said of it
        problems += _of_store(store, device, folders)
    return problems + list(_transports(want, have))


def _of_store(store: Backstore, device: Optional[Device], folders: Dict[str, bool]) \
        -> Iterator[Finding]:
    if device is not None and store.parameters.get("readonly", "0") == "0" and (
            device.read_only or not device.block and _mounted_read_only(store.path, folders)):
        yield Finding(errors.StorageDiffers, display(store.key),
                      f"{block_devices.show(store.path)} is read-only on this host",
                      do="make it writable")
    for limit in LIMITS:
        text = store.attributes.get(limit.path)
        if text is None or store.plugin not in limit.plugins.split():
            continue
        low, high = limit.range(store.plugin, device)
        if high is not None and int(text) > high:
            yield _too_much(display(store.key), limit.path, text, high, limit.who)
        elif low is not None and int(text) < low:
            yield Finding(errors.CannotRepresent, display(store.key),
                          f"its {_name(limit.path)} is {text}, and this host's {limit.who} "
                          f"has {low}",
                          do=f"write {low} to it on the source, if it may be so")
    if store.attributes.get("attrib/pi_prot_verify", "0") != "0" \
            and store.attributes.get("attrib/pi_prot_type", "0") == "0":
        yield Finding(errors.CannotRepresent, display(store.key),
                      "its pi_prot_verify is 1, which this kernel does not take without a "
                      "pi_prot_type", do="--map limit:pi_prot_verify=0")


def _mounted_read_only(path: str, folders: Dict[str, bool]) -> bool:
    """Whether a file's folder is mounted read-only; ``folders`` remembers the answers."""
    folder = os.path.dirname(path)
    if folder not in folders:
        try:
            folders[folder] = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
        except OSError:
            folders[folder] = False
    return folders[folder]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _too_much(subject: str, path: str, text: str, most: int, who: str) -> Finding:
    return Finding(errors.CannotRepresent, subject,
                   f"its {_name(path)} is {text}, and this host's {who} has at most {most}",
                   do=f"--map limit:{_name(path)}={most}, which gives it that")


def _transports(want: State, have: State) -> Iterator[Finding]:
    """iscsi_target_configfs.c:lio_target_np_driver_store loads the module, or fails."""
    there = have.index()
    for target in want.targets:
        for tpg in target.tpgs:
            for portal in tpg.portals:
                for name, module in TRANSPORTS.items():
                    if portal.attributes.get(name, "0") != "0" and portal.key not in there \
                            and not available(module):
                        yield Finding(
                            errors.CannotRepresent, display(portal.key),
                            f"its {name} is on, and this kernel has no module {module}",
                            do=f"install it, or --map limit:{name}=0, after which initiators come "
                            "by TCP alone")


def available(module: str, root: str = "/lib/modules") -> bool:
    """Whether a module is loaded, built in, or can be loaded by modprobe."""
    if os.path.isdir(f"/sys/module/{module}"):
        return True
    folder = f"{root}/{os.uname().release}"
    wanted = re.compile(rf"^\S*/{module.replace('_', '[-_]')}\.ko\b", re.MULTILINE)
    for name in ("modules.dep", "modules.builtin"):
        try:
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
                if wanted.search(file.read()):
                    return True
        except OSError:
            continue
    return False

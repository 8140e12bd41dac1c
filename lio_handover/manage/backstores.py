"""The making of backstores: targetcli's parameters → the kernel's."""
from __future__ import annotations

import os
from dataclasses import replace
from typing import Dict, Mapping, Optional, Tuple

from .. import errors
from ..document.values import attributes_of, parameters_of
from ..errors import quoted
from ..model import plugins
from ..model.keys import backstore_key
from ..model.objects import Backstore
from .nouns import BACKSTORES, DEFAULTS, PLUGINS, Parameter
from .surroundings import Surroundings

_PAGE = os.sysconf("SC_PAGE_SIZE")
#: fileio serves whole blocks (target_core_file.c:fd_get_blocks).
BLOCK = 512


def parameters(plugin: str) -> Tuple[Parameter, ...]:
    return BACKSTORES[plugin]


def new(plugin: str, values: Mapping[str, str], host: Surroundings) \
        -> Tuple[Backstore, Optional[bool]]:
    """(a new backstore, whether the file that is to be made for it is sparse, None where none is).

    ``plugin``: the kernel's name, for tcmu with ``:HANDLER``.  Raises BadCall, BadValue,
    StorageMissing.
    """
    plugin, _, handler = plugin.partition(":")
    plugin = PLUGINS[plugin]
    where = f"backstore {quoted(values['name'])}"
    attributes: Dict[str, str] = dict(DEFAULTS.get(("backstore", plugin), {}))
    said, sparse = _MAKE[plugin](values, host, attributes, handler, where)
    if plugin != "pscsi":
        attributes["wwn/vpd_unit_serial"] = values.get("wwn") or host.new_serial()
    return Backstore(backstore_key(plugin, values["name"]), parameters_of(said, where, plugin),
                     attributes_of(attributes, where, "backstore", plugin)), sparse


_Made = Tuple[Dict[str, str], Optional[bool]]


def _fileio(values: Mapping[str, str], host: Surroundings, attributes: Dict[str, str], _: str,
            where: str) -> _Made:
    path = values["file_or_dev"]
    there = host.storage(path)
    said, sparse = {"fd_dev_name": path}, None
    if there is None:
        if "size" not in values:
            raise errors.BadCall(f"{where}: there is no {quoted(path)}, and no size to make it of",
                                 do="give size=...")
        said["fd_dev_size"] = values["size"]
        sparse = values.get("sparse", "1") == "1"
    elif there[0] == "file":
        said["fd_dev_size"] = str(there[1])
    if int(said.get("fd_dev_size", BLOCK)) < BLOCK:
        raise errors.BadValue(f"{where}: {said['fd_dev_size']} bytes are less than a block",
                              do=f"give {BLOCK} or more")
    if values.get("write_back", "1") == "1":
        said["fd_buffered_io"] = "1"
    if values.get("aio") == "1":
        said["fd_async_io"] = "1"
    attributes["udev_path"] = path  # where targetcli's users, and rtslib, look for it
    return said, sparse


def _iblock(values: Mapping[str, str], host: Surroundings, attributes: Dict[str, str], _: str,
            where: str) -> _Made:
    path = values["dev"]
    readonly = values.get("readonly") or ("1" if host.is_readonly(path) else "0")
    said = {"udev_path": path}
    if readonly == "1":
        said["readonly"] = "1"
    if values.get("exclusive") == "0":
        said["exclusive"] = "0"
    attributes["udev_path"] = path
    return said, None


def _rd_mcp(values: Mapping[str, str], host: Surroundings, attributes: Dict[str, str], _: str,
            where: str) -> _Made:
    said = {"rd_pages": str(-(-int(values["size"]) // _PAGE))}
    if values.get("nullio") == "1":
        said["rd_nullio"] = "1"
    return said, None


def _pscsi(values: Mapping[str, str], host: Surroundings, attributes: Dict[str, str], _: str,
           where: str) -> _Made:
    address = host.scsi_address(values["dev"])
    if not address:
        raise errors.StorageMissing(f"{where}: {quoted(values['dev'])} is no SCSI device",
                                    do="name the block device of one")
    attributes["udev_path"] = values["dev"]
    return dict(address), None


def _user(values: Mapping[str, str], host: Surroundings, attributes: Dict[str, str], handler: str,
          where: str) -> _Made:
    config = values["cfgstring"]
    said = {"dev_config": f"{handler}/{config}" if handler else config,
            "dev_size": values["size"]}
    if "hw_max_sectors" in values:
        said["hw_max_sectors"] = values["hw_max_sectors"]
    for word in values.get("control", "").split(",") if values.get("control") else ():
        name, equals, value = word.partition("=")
        if not equals or name in said:
            raise errors.BadValue(f"control of a {where}: {quoted(word)} is not NAME=VALUE, or is "
                                  "given twice", do="correct it")
        said[name] = value
    return said, None


_MAKE = {"fileio": _fileio, "iblock": _iblock, "rd_mcp": _rd_mcp, "pscsi": _pscsi, "user": _user}


def grown(store: Backstore, size: str) -> Backstore:
    """A backstore whose disk is larger.  Raises CannotChange."""
    name = next((row.name for row in plugins.of(store.plugin).parameters.values() if row.grows), "")
    now = store.parameters.get(name, "")
    if not name or not now:
        raise errors.CannotChange(f"{store.plugin}/{store.name} has the size of what it opens",
                                  do="grow that: the kernel follows it")
    if int(size) < int(now):
        raise errors.CannotChange(f"{store.plugin}/{store.name} has {now} bytes, and {size} are "
                                  "less: what is behind them would be lost",
                                  do="copy what is needed to a smaller one")
    return replace(store, parameters={**store.parameters, name: size})

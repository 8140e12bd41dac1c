"""The making of backstores: targetcli's parameters → the kernel's."""
from __future__ import annotations

import os
from dataclasses import replace
from typing import Callable, Dict, Mapping, Optional, Tuple

from .. import errors
from ..document.values import attributes_of, parameters_of
from ..errors import quoted
from ..model import plugins
from ..model.keys import backstore_key
from ..model.objects import Backstore
from .nouns import BACKSTORES, DEFAULTS, PLUGINS, SWITCHES, Parameter
from .surroundings import Surroundings

PAGE = os.sysconf("SC_PAGE_SIZE")
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
    said = _words(plugin, values)
    sparse = _MAKE[plugin](values, host, said, attributes, handler, where)
    if plugin != "pscsi":
        attributes["wwn/vpd_unit_serial"] = values.get("wwn") or host.new_serial()
    return Backstore(backstore_key(plugin, values["name"]), parameters_of(said, where, plugin),
                     attributes_of(attributes, where, "backstore", plugin)), sparse


def _words(plugin: str, values: Mapping[str, str]) -> Dict[str, str]:
    """The words of ``control`` that parameters become by themselves."""
    said: Dict[str, str] = {}
    for row in BACKSTORES[plugin]:
        value = values.get(row.name) or SWITCHES.get(row.default, "")
        if row.word and value and row.only in ("", value):
            said[row.word] = value
    return said


# ---- what a plugin has besides ------------------------------------------------------------------
def _fileio(values: Mapping[str, str], host: Surroundings, said: Dict[str, str],
            attributes: Dict[str, str], _: str, where: str) -> Optional[bool]:
    path, sparse = values["file_or_dev"], None
    there = host.storage(path)
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

    attributes["udev_path"] = path  # where targetcli's users, and rtslib, look for it
    return sparse


def _iblock(values: Mapping[str, str], host: Surroundings, said: Dict[str, str],
            attributes: Dict[str, str], _: str, where: str) -> None:
    if not values.get("readonly") and host.is_readonly(values["dev"]):
        said["readonly"] = "1"
    attributes["udev_path"] = values["dev"]


def _rd_mcp(values: Mapping[str, str], host: Surroundings, said: Dict[str, str],
            attributes: Dict[str, str], _: str, where: str) -> None:
    said["rd_pages"] = str(-(-int(values["size"]) // PAGE))


def _pscsi(values: Mapping[str, str], host: Surroundings, said: Dict[str, str],
           attributes: Dict[str, str], _: str, where: str) -> None:
    address = host.scsi_address(values["dev"])
    if not address:
        raise errors.StorageMissing(f"{where}: {quoted(values['dev'])} is no SCSI device",
                                    do="name the block device of one")
    attributes["udev_path"] = values["dev"]
    said.update(address)


def _user(values: Mapping[str, str], host: Surroundings, said: Dict[str, str],
          attributes: Dict[str, str], handler: str, where: str) -> None:
    if handler:
        said["dev_config"] = f"{handler}/{said['dev_config']}"
    for word in values.get("control", "").split(",") if values.get("control") else ():
        name, equals, value = word.partition("=")
        if not equals or name in said:
            raise errors.BadValue(f"control of a {where}: {quoted(word)} is not NAME=VALUE, or is "
                                  "given twice", do="correct it")
        said[name] = value


_MAKE: Mapping[str, Callable[..., Optional[bool]]] = {
    "fileio": _fileio, "iblock": _iblock, "rd_mcp": _rd_mcp, "pscsi": _pscsi, "user": _user}


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

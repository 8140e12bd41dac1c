"""Words that people type → values: sizes, switches, numbers, names, addresses.

A wrong word is refused with what it should be, before anything is looked at.
"""
from __future__ import annotations

import ipaddress
import re
from typing import Callable, Mapping, Type

from .. import errors
from ..document.json_types import expect_name, expect_text
from ..document.values import INITIATOR, U64, port_name, without
from ..errors import BadName, BadValue, quoted
from ..model import fabrics
from ..model.attributes import U16
from .nouns import PLUGINS

_SIZE = re.compile(r"([0-9]{1,18})([kmgt]?)i?b?", re.I)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
MOST_BYTES = 2**63 - 1


def _refuse(error: Type[errors.DocumentError], where: str, word: str, what: str) -> errors.Refusal:
    raise error(f"{where}: {quoted(word)} {what}")


def text(word: str, where: str) -> str:
    """Text on one line."""
    return expect_text(word, where)


def name(word: str, where: str) -> str:
    """The name of one directory."""
    return expect_name(word, where)


def path(word: str, where: str) -> str:
    """The full path of a file or device."""
    expect_text(word, where)
    if not word.startswith("/") or word.endswith("/") or word != word.strip() or "," in word \
            or {".", "..", ""} & {*word.split("/")[1:]}:
        _refuse(BadValue, where, word, "is not the full path of a file or device, without . and .. "
                                       "and commas")
    return word


def size(word: str, where: str) -> str:
    """A number of bytes, more than 0: ``10G`` → ``10737418240``."""
    match = _SIZE.fullmatch(word)
    number = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not 0 < number <= MOST_BYTES:
        _refuse(BadValue, where, word, "is not a size: a number, and k, M, G or T")
    return str(number)


def boolean(word: str, where: str) -> str:
    """``true`` or ``false``, in any case, and 1 and 0 → ``1`` or ``0``."""
    said = word.lower()
    if said not in ("true", "false", "1", "0"):
        _refuse(BadValue, where, word, "is neither true nor false")
    return "1" if said in ("true", "1") else "0"


def number(word: str, where: str, low: int = 0, high: int = 2**31 - 1, prefix: str = "") -> str:
    """A plain decimal number, behind which may be a ``prefix``: ``lun3`` → ``3``."""
    digits = word[len(prefix):] if prefix and word.startswith(prefix) else word
    if not re.fullmatch("0|[1-9][0-9]{0,19}", digits) or not low <= int(digits) <= high:
        _refuse(BadValue, where, word, f"is not a number from {low} to {high}")
    return digits


def lun(word: str, where: str) -> str:
    return number(word, where, 0, U64, "mapped_lun" if word.startswith("m") else "lun")


def tag(word: str, where: str) -> str:
    return number(word, where, 0, U16, "tpg")


def ip(word: str, where: str) -> str:
    """An address, as the kernel has it in the name of a portal: IPv6 in brackets."""
    bare = word[1:-1] if word.startswith("[") and word.endswith("]") else word
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        _refuse(BadName, where, word, "is no IPv4 or IPv6 address")
    return f"[{bare}]" if address.version == 6 else bare


def store(word: str, where: str) -> str:
    """A backstore: ``/backstores/block/d0``, ``block/d0`` or ``iblock/d0`` → ``iblock/d0``."""
    words = word.removeprefix("/backstores/").split("/")
    if len(words) != 2 or words[0].partition(":")[0] not in PLUGINS:
        _refuse(BadName, where, word, "is no backstore: PLUGIN/NAME, with a PLUGIN of "
                + ", ".join(sorted({*PLUGINS})))
    return f"{PLUGINS[words[0].partition(':')[0]]}/{expect_name(words[1], where)}"


def lun_or_store(word: str, where: str) -> str:
    return store(word, where) if "/" in word else lun(word, where)


def serial(word: str, where: str) -> str:
    """A unit serial; attributes.py judges it further."""
    expect_text(word, where)
    if not word or "/" in word:
        _refuse(BadValue, where, word, "is no unit serial: the kernel names a file after it")
    return word


def initiator(word: str, where: str) -> str:
    expect_name(word, where, INITIATOR)
    return without(word, where, ", ")


def wwn(word: str, where: str, fabric: str) -> str:
    """The WWN of a target or nexus of this fabric."""
    return port_name(word, where, fabrics.of(fabric).wwns)


#: Type of a parameter → the function that reads its word.  ``wwn`` needs the fabric, too.
TYPES: Mapping[str, Callable[[str, str], str]] = {
    "name": name, "path": path, "size": size, "bool": boolean, "text": text,
    "number": number, "lun": lun, "tag": tag, "ip": ip, "store": store, "serial": serial,
    "lun or store": lun_or_store, "initiator": initiator,
    "id": lambda word, where: number(word, where, 1, U16),
    "port": lambda word, where: number(word, where, 1, U16)}

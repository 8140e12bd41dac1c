"""Names of numbered directories, tpgt_N and lun_N, as the kernel reads them.

It takes C's numbers (lib/kstrtox.c: kstrtou16, kstrtoull): ``lun_010`` is LUN 8, ``lun_0x10`` LUN
16.  iSCSI does not look at what stands before ``tpgt_``: ``xtpgt_3`` is TPG 3
(iscsi_target_configfs.c:lio_target_tiqn_addtpg, target_core_fabric_configfs.c:
target_fabric_make_lun, drivers/vhost/scsi.c:vhost_scsi_make_tpg).  Two spellings of one number are
two directories.  An initiator sees numbers alone.
"""
from __future__ import annotations

import re
from typing import Dict, Iterable, Iterator, List, Tuple

from . import fabrics

#: What a number is that no spelling of a number was found in: no document takes it.
NO_NUMBER = -1

_C = re.compile(r"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\n?")
_DECIMAL = re.compile(r"\+?([0-9]+)\n?")


def _number(text: str, pattern: "re.Pattern[str]") -> int:
    found = pattern.fullmatch(text)
    if found is None:
        return NO_NUMBER
    digits = found[1]
    octal = pattern is _C and digits[0] == "0" and digits[1:2] not in ("x", "X", "")
    return int(digits, 8 if octal else 16 if digits[1:2] in ("x", "X") else 10)


def lun_number(directory: str) -> int:
    """Of ``lun_N``, a LUN's or a mapped LUN's; NO_NUMBER where it is none."""
    return _number(directory[4:], _C) if directory.startswith("lun_") else NO_NUMBER


def tag(fabric: str, directory: str) -> int:
    """Of ``tpgt_N``, a TPG's; NO_NUMBER where it is none."""
    before, found, text = directory.partition("tpgt_")
    as_c = fabrics.of(fabric).c_numbers
    if not found or before and not as_c:
        return NO_NUMBER
    return _number(text, _C if as_c else _DECIMAL)


def is_tpg(directory: str) -> bool:
    """Whether a directory of a target is a TPG: its other ones are param and statistics."""
    return "tpgt_" in directory


def is_lun(directory: str) -> bool:
    return directory.startswith("lun_")


def numbered_luns(found: Iterable[str]) -> List[Tuple[str, str]]:
    """[(word, directory)] of LUNs, or mapped LUNs, by number.  The word is the number; of a second
    directory with it, and of one without, the directory's name."""
    return _by_number([(lun_number(one), one) for one in found], "lun_")


def numbered_tpgs(fabric: str, found: Iterable[str]) -> List[Tuple[str, str]]:
    """The same of TPGs."""
    return _by_number([(tag(fabric, one), one) for one in found], "tpgt_")


def _by_number(found: List[Tuple[int, str]], prefix: str) -> List[Tuple[str, str]]:
    # The kernel's own spelling first: it is what every other host has.
    found.sort(key=lambda pair: (pair[0], pair[1] != f"{prefix}{pair[0]}", pair[1]))
    made: Dict[str, str] = {}
    for number, one in found:
        word = str(number)
        made[one if number == NO_NUMBER or word in made else word] = one
    return [*made.items()]


def in_path(path: str) -> Iterator[Tuple[int, bool, bool]]:
    """(place, whether it has a number, whether that is spelled as the kernel does) of each numbered
    directory of a path in the target tree: where it stands in the path says that it is one."""
    words = path.split("/")
    if words[0] == "core" or len(words) < 3:
        return
    if is_tpg(words[2]):
        number = tag(words[0], words[2])
        yield 2, number != NO_NUMBER, words[2] == f"tpgt_{number}"
    place = {"lun": 4, "acls": 5}.get(words[3] if len(words) > 3 else "", len(words))
    if place < len(words) and (place == 4 or is_lun(words[place])):
        number = lun_number(words[place])
        yield place, number != NO_NUMBER, words[place] == f"lun_{number}"

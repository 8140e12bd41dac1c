"""Names of numbered directories, tpgt_N and lun_N, as the kernel reads them.

The kernel takes C's numbers (lib/kstrtox.c: kstrtou16, kstrtoull): ``lun_010`` is LUN 8,
``lun_0x10`` LUN 16.  iSCSI does not look at what stands before ``tpgt_``: ``xtpgt_3`` is TPG 3
(iscsi_target_configfs.c:lio_target_tiqn_addtpg, target_core_fabric_configfs.c:
target_fabric_make_lun, drivers/vhost/scsi.c:vhost_scsi_make_tpg).  Two spellings of one number are
two directories.  An initiator sees numbers alone.
"""
from __future__ import annotations

import re
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

from . import fabrics

#: The number of a directory whose name has no number; no document takes it.
NO_NUMBER = -1

_C = re.compile(r"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\n?")
_DECIMAL = re.compile(r"\+?([0-9]+)\n?")


def _number(text: str, pattern: "re.Pattern[str]") -> int:
    if text.isdigit() and text.isascii() and (text[0] != "0" or text == "0"):
        return int(text)  # the kernel's own spelling, in any pattern
    match = pattern.fullmatch(text)
    if match is None:
        return NO_NUMBER
    digits = match[1]
    octal = pattern is _C and digits[0] == "0" and digits[1:2] not in ("x", "X", "")
    return int(digits, 8 if octal else 16 if digits[1:2] in ("x", "X") else 10)


def lun_number(directory: str) -> int:
    """The number of ``lun_N``, a LUN's or mapped LUN's directory; NO_NUMBER for another name."""
    return _number(directory[4:], _C) if directory.startswith("lun_") else NO_NUMBER


def tag(fabric: str, directory: str) -> int:
    """The tag of ``tpgt_N``, a TPG's directory; NO_NUMBER for another name."""
    before, mark, text = directory.partition("tpgt_")
    as_c = fabrics.of(fabric).c_numbers
    if not mark or before and not as_c:
        return NO_NUMBER
    return _number(text, _C if as_c else _DECIMAL)


def is_tpg(directory: str) -> bool:
    """Whether a directory of a target is a TPG: its other ones are param and statistics."""
    return "tpgt_" in directory


def is_lun(directory: str) -> bool:
    return directory.startswith("lun_")


def numbered_luns(names: Iterable[str]) -> List[Tuple[str, str]]:
    """[(word, directory)] of LUNs, or mapped LUNs, by number.  The word is the number; for a second
    directory with the same number, and for a directory without a number, it is the directory's
    name."""
    return _by_number([(lun_number(name), name) for name in names], "lun_")


def numbered_tpgs(fabric: str, names: Iterable[str]) -> List[Tuple[str, str]]:
    """[(word, directory)] of TPGs, as numbered_luns has them."""
    return _by_number([(tag(fabric, name), name) for name in names], "tpgt_")


def _by_number(numbered: List[Tuple[int, str]], prefix: str) -> List[Tuple[str, str]]:
    # The kernel's own spelling first: it is what every other host has.
    numbered.sort(key=lambda pair: (pair[0], pair[1] != f"{prefix}{pair[0]}", pair[1]))
    by_word: Dict[str, str] = {}
    for number, name in numbered:
        word = str(number)
        by_word[name if number == NO_NUMBER or word in by_word else word] = name
    return [*by_word.items()]


#: The folders of a TPG in which there are numbered directories → where these stand in a path.
_PLACES = {"lun": 4, "acls": 5}


def in_path(words: Sequence[str]) -> Iterator[Tuple[int, bool, bool]]:
    """(place, whether it has a number, whether that is spelled as the kernel does) of each numbered
    directory of a path in the target tree: where it stands among the path's names says that it is
    one."""
    if words[0] == "core" or len(words) < 3:
        return
    if is_tpg(words[2]):
        number = tag(words[0], words[2])
        yield 2, number != NO_NUMBER, words[2] == f"tpgt_{number}"
    place = _PLACES.get(words[3], len(words)) if len(words) > 3 else len(words)
    if place < len(words) and (place == 4 or is_lun(words[place])):
        number = lun_number(words[place])
        yield place, number != NO_NUMBER, words[place] == f"lun_{number}"

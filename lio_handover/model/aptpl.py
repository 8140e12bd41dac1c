"""The APTPL file of a backstore: what registrations survive power loss.

The kernel opens it with O_TRUNC, writes it, and syncs nothing (target_core_pr.c:
__core_scsi3_write_aptpl_to_file): after a power cut it may be empty, zeros, cut off, or not there.
So only a whole file is believed; a file that is not whole does not mean that there are no
registrations.
"""
from __future__ import annotations

import os
import re
import stat
from enum import Enum
from typing import Iterable, List, NamedTuple, Optional, Tuple

from .objects import Registration

#: As the kernel writes it at a CLEAR, and at a REGISTER without APTPL.
EMPTY_FILE = b"No Registrations or Reservations\n\0"
#: The same with APTPL, when the last registrant is gone (core_scsi3_update_aptpl_buf).
PLACEHOLDERS = (EMPTY_FILE, b"No Registrations or Reservations\0")

_BLOCK = re.compile(
    r"PR_REG_START: (?P<number>[0-9]+)\n"
    r"initiator_fabric=[^\n]+\ninitiator_node=(?P<initiator>[^\n]+)\n"
    r"(?:initiator_sid=(?P<isid>[0-9a-f]{12})\n)?"
    r"sa_res_key=(?P<key>[0-9]{1,20})\n"
    r"(?:res_holder=0\n|res_holder=1\nres_type=(?P<type>[0-9a-f]{2})\nres_scope=[0-9a-f]{2}\n)"
    r"res_all_tg_pt=(?P<all>[01])\nmapped_lun=(?P<mapped>[0-9]{1,20})\n"
    r"target_fabric=(?P<fabric>[^\n]+)\ntarget_node=(?P<target>[^\n]+)\n"
    r"tpgt=(?P<tpgt>[0-9]{1,5})\nport_rtpi=[0-9]{1,5}\ntarget_lun=(?P<lun>[0-9]{1,20})\n"
    r"PR_REG_END: (?P=number)\n")

#: (registration, whether it holds the reservation, the type of that)
Block = Tuple[Registration, bool, int]


class Kind(str, Enum):
    """The state of an APTPL file; the value completes a sentence about the file."""

    WHOLE = "is whole"
    PLACEHOLDER = "says that there are no registrations"
    BROKEN = "is broken"
    UNREADABLE = "can't be read"
    MISSING = "is not there"


class File(NamedTuple):
    """An APTPL file as it was read; ``why`` says what is wrong with a broken file."""

    kind: Kind
    blocks: Tuple[Block, ...] = ()
    why: str = ""
    path: str = ""
    mtime_ns: int = 0

    @property
    def says(self) -> bool:
        """Whether it says which registrations there are."""
        return self.kind in (Kind.WHOLE, Kind.PLACEHOLDER)


def parse(data: bytes) -> File:
    """The file with these bytes: WHOLE or PLACEHOLDER where every byte is as the kernel writes it,
    else BROKEN."""
    if data in PLACEHOLDERS:
        return File(Kind.PLACEHOLDER)
    if not data.strip(b"\0"):
        return _broken("holds nothing but zeros" if data else "is empty")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _broken("holds what the kernel does not write")
    blocks: List[Block] = []
    at = 0
    for block in iter(lambda: _BLOCK.match(text, at), None):
        if int(block["number"]) != len(blocks):
            return _broken(f"holds block {block['number']} where block {len(blocks)} has to be")
        at = block.end()
        blocks.append((Registration(
            block["initiator"], block["isid"] or "", int(block["key"]), block["fabric"],
            block["target"], int(block["tpgt"]), int(block["lun"]), int(block["mapped"]),
            block["all"] == "1"), block["type"] is not None, int(block["type"] or "0", 16)))
    rest = text[at:]
    if rest != "\0":
        begun = rest.strip("\0").startswith("PR_REG_")
        return _broken(f"is cut off after {len(blocks)} registrations" if begun or not rest
                       else "holds what the kernel does not write")
    if sum(holds for _, holds, _ in blocks) > 1:
        return _broken("names two holders of one reservation")
    return File(Kind.WHOLE, tuple(blocks))


def newest(paths: Iterable[str]) -> File:
    """The file that was written last among the ``paths`` that exist; MISSING where none exists.

    A file that cannot be read may be the last one, so the result is then UNREADABLE.  Never waits
    (O_NONBLOCK), and never starts a device.
    """
    files: List[Tuple[int, bytes, str]] = []
    for path in paths:
        try:
            content = _read(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return File(Kind.UNREADABLE, (), f"can't be read: {error.strerror}", path)
        if content is None:
            return File(Kind.UNREADABLE, (), "is no file", path)
        files.append((*content, path))
    if not files:
        return File(Kind.MISSING)
    last, data, path = max(files)
    if any(file[0] == last and file[1] != data for file in files):
        return _broken("is as old as another one, which differs", path)
    return parse(data)._replace(path=path, mtime_ns=last)


def _read(path: str) -> Optional[Tuple[int, bytes]]:
    """(mtime in ns, bytes) of a regular file; None for anything else.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            return None
        data = b""
        for more in iter(lambda: os.read(fd, 1 << 20), b""):
            data += more
        return seen.st_mtime_ns, data
    finally:
        os.close(fd)


def _broken(why: str, path: str = "") -> File:
    return File(Kind.BROKEN, (), why, path)

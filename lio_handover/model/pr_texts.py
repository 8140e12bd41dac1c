"""The kernel's texts of persistent reservations: this module alone reads and writes their grammar.

* the files ``pr/res_*`` of a backstore: the registrations as they are now, but not all about them
  (`PrFiles`, `ShownRegistration`);
* a line for ``pr/res_aptpl_metadata``, by which a registration is restored (`METADATA_LINE`);
* the APTPL file: what survives power loss, complete, but stale after many changes.

The kernel opens the APTPL file with O_TRUNC, writes it, and syncs nothing (target_core_pr.c:
__core_scsi3_write_aptpl_to_file): after a power cut it may be empty, zeros, cut off, or not there.
So only a whole file is believed; a file that is not whole does not mean that there are no
registrations.
"""
from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from enum import Enum
from typing import Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ..errors import quoted
from .objects import PrType, Registration, Reservations

# --- the files pr/res_* ---------------------------------------------------------------------------
_LINE = re.compile(r"(\S+) Node: (.+?)(?:,i,0x([0-9a-f]{12}))? Key: 0x([0-9a-f]{16}) "
                   r"PRgen: 0x[0-9a-f]{8}")
_HOLDER = re.compile(r"(SPC-[23]) Reservation: (\S+) Initiator: (.+?)(?:,i,0x([0-9a-f]{12}))?")
_PORT = re.compile(r"Target Node Endpoint: (\S+)\n.*Relative Port Identifier Tag: (\d+) \S+ "
                   r"Portal Group Tag: (\d+) \S+ Logical Unit: (\d+)", re.S)
_TYPES = {kind.kernel_text: int(kind) for kind in PrType}
#: The list stops without a mark when the next line would not fit into a page.
_PAGE_ALMOST_FULL = 4096 - 384

PRESENT = "SPC3_PERSISTENT_RESERVATIONS"
SPC2 = "SPC2_RESERVATIONS"


class ShownRegistration(NamedTuple):
    """A registration as ``pr/res_pr_registered_i_pts`` shows it."""

    fabric: str
    initiator: str
    isid: str
    key: int


@dataclass(frozen=True)
class PrFiles:
    """The files of ``pr/`` that matter, as read; "" for those that say nothing."""

    res_type: str
    holder: str = ""
    type: str = ""
    registered: str = ""
    generation: str = ""
    aptpl: str = ""
    all_tg_pt: str = ""
    port: str = ""

    @property
    def unused(self) -> bool:
        """Whether nobody is registered, and nobody was since the backstore was made."""
        return self.generation.strip() == "0x00000000" and not shows_any(self.registered)


#: Field of PrFiles, file below pr/.  Generation stands first and is read again last.
FILES: Tuple[Tuple[str, str], ...] = (
    ("generation", "res_pr_generation"), ("registered", "res_pr_registered_i_pts"),
    ("res_type", "res_type"), ("aptpl", "res_aptpl_active"))
#: The same, of files that say something only where somebody is registered (or there is an SPC-2
#: reservation), and of those that do only where somebody holds a reservation.
REGISTERED_FILES: Tuple[Tuple[str, str], ...] = (("holder", "res_holder"),)
HELD_FILES: Tuple[Tuple[str, str], ...] = (
    ("type", "res_pr_type"), ("all_tg_pt", "res_pr_all_tgt_pts"),
    ("port", "res_pr_holder_tg_port"))


class Ambiguous(ValueError):
    """The kernel's files do not determine a registration; the text says what is missing.  ``ask``:
    the device may say it (READ FULL STATUS)."""

    def __init__(self, what: str, ask: bool = False) -> None:
        super().__init__(what)
        self.ask = ask


def shows_any(registered: str) -> bool:
    """Whether the list of registrations has any."""
    return registered.splitlines()[1:2] not in ([], ["None"])


def parse_registered(text: str) -> Tuple[List[ShownRegistration], bool]:
    """(registrations in READ KEYS order, whether the text may lack some).

    Raises Ambiguous for a line that cannot be read.
    """
    registrations: List[ShownRegistration] = []
    for line in text.splitlines()[1:]:
        if line == "None":
            break
        match = _LINE.fullmatch(line)
        if not match:
            raise Ambiguous(f"the kernel shows a registration that can't be read: {quoted(line)}")
        fabric, initiator, isid, key = match.groups()
        registrations.append(ShownRegistration(fabric, initiator, isid or "", int(key, 16)))
    return registrations, len(text) > _PAGE_ALMOST_FULL


def parse_holder(text: str) -> Optional[Tuple[str, str, str]]:
    """(SPC-2 or SPC-3, initiator, ISID) of who holds the reservation, or None."""
    match = _HOLDER.fullmatch(text.strip())
    return (match[1], match[3], match[4] or "") if match else None


def parse_type(text: str) -> int:
    """The code of a PrType as ``res_pr_type`` shows it, 0 where it shows none."""
    word = text.strip().partition("SPC-3 Reservation Type: ")[2]
    return _TYPES.get(word, 0)


def parse_port(text: str) -> Optional[Tuple[str, int, int]]:
    """(target, tag, LUN) by which the holder of the reservation registered, or None."""
    match = _PORT.search(text)
    return (match[1], int(match[3]), int(match[4])) if match else None


# --- lines of pr/res_aptpl_metadata ---------------------------------------------------------------
#: The one form of a registration that every kernel reads right (target_core_configfs.c:
#: target_pr_res_aptpl_metadata_store): 12 hex digits of ISID, types as decimals without a zero.
METADATA_LINE = re.compile(
    rb"initiator_fabric=\w+,initiator_node=[^,\n\0]+,(?:initiator_sid=[0-9a-f]{12},)?"
    rb"sa_res_key=0x[0-9a-f]{1,16},res_holder=[01],res_type=[0T],res_scope=0,"
    rb"res_all_tg_pt=[01],mapped_lun=N,target_fabric=\w+,target_node=[^,\n\0]+,"
    rb"tpgt=N,port_rtpi=N,target_lun=N\n".replace(b"=N", b"=(?:0|[1-9][0-9]*)").replace(
        b"[0T]", f"[0{''.join(f'{kind:d}' for kind in PrType)}]".encode()))

#: The initiator of padding: registrations that are made and removed to raise PRgeneration.
PADDING_INITIATOR = "iqn.2026-11.io.github.lio-handover:prgeneration"
#: More padding registrations than this take too long to write in a blackout.
MAX_PADDING = 4096


def _metadata_line(registration: Registration, holder: bool, kind: int, rtpi: int = 0) -> bytes:
    sid = f"initiator_sid={registration.isid}," if registration.isid else ""
    return (f"initiator_fabric={registration.fabric},initiator_node={registration.initiator},{sid}"
            f"sa_res_key={registration.key:#x},res_holder={int(holder)},"
            f"res_type={kind if holder else 0},res_scope=0,"
            f"res_all_tg_pt={int(bool(registration.all_tg_pt))},"
            f"mapped_lun={registration.mapped_lun},target_fabric={registration.fabric},"
            f"target_node={compared_name(registration)},tpgt={registration.tpgt},"
            f"port_rtpi={rtpi},target_lun={registration.lun}\n").encode()


def metadata_lines(reservations: Reservations) -> List[bytes]:
    """The ``pr/res_aptpl_metadata`` lines of the real registrations, one write each."""
    return [_metadata_line(registration, number == reservations.holder, reservations.type)
            for number, registration in enumerate(reservations.registrations)]


def padding_lines(count: int, like: Registration) -> List[bytes]:
    """``count`` lines of registrations that exist only to be counted by PRgeneration."""
    return [_metadata_line(replace(like, initiator=PADDING_INITIATOR, isid="", key=number + 1,
                                   all_tg_pt=False), False, 0) for number in range(count)]


def compared_name(registration: Registration) -> str:
    """The target's name that the kernel compares with the TPG's own: a ``fc.`` WWPN without that
    prefix."""
    return compared_wwn(registration.target)


def compared_wwn(wwn: str) -> str:
    """The same for a WWN."""
    return wwn[3:] if wwn.startswith("fc.") else wwn


# --- the APTPL file -------------------------------------------------------------------------------
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


class AptplFile(NamedTuple):
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


def parse_aptpl(data: bytes) -> AptplFile:
    """The file with these bytes: WHOLE or PLACEHOLDER where every byte is as the kernel writes it,
    else BROKEN."""
    if data in PLACEHOLDERS:
        return AptplFile(Kind.PLACEHOLDER)
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
    return AptplFile(Kind.WHOLE, tuple(blocks))


def aptpl_text(reservations: Reservations, rtpi: Mapping[Tuple[str, int], int]) -> bytes:
    """The APTPL file, as the kernel would write it (__core_scsi3_write_aptpl_to_file).

    ``rtpi`` gives the relative port of each (target, tpgt).
    """
    if not reservations.aptpl or not reservations.registrations:
        return EMPTY_FILE
    blocks: List[str] = []
    for number, registration in enumerate(reservations.registrations):
        holder = number == reservations.holder
        lines = [f"PR_REG_START: {number}", f"initiator_fabric={registration.fabric}",
                 f"initiator_node={registration.initiator}"]
        if registration.isid:
            lines.append(f"initiator_sid={registration.isid}")
        lines.append(f"sa_res_key={registration.key}")
        if holder:
            lines += ["res_holder=1", f"res_type={reservations.type:02x}", "res_scope=00"]
        else:
            lines.append("res_holder=0")
        lines += [f"res_all_tg_pt={int(bool(registration.all_tg_pt))}",
                  f"mapped_lun={registration.mapped_lun}", f"target_fabric={registration.fabric}",
                  f"target_node={compared_name(registration)}", f"tpgt={registration.tpgt}",
                  f"port_rtpi={rtpi.get((registration.target, registration.tpgt), 0)}",
                  f"target_lun={registration.lun}", f"PR_REG_END: {number}"]
        blocks.append("\n".join(lines) + "\n")
    return "".join(blocks).encode() + b"\0"


def has_file(serial: str) -> bool:
    """Whether the kernel can keep registrations of a backstore in a file, ``aptpl_<serial>``
    (target_core_pr.c:__core_scsi3_write_aptpl_to_file)."""
    return bool(serial) and "/" not in serial and len(
        serial.encode(errors="surrogateescape")) <= 255 - len("aptpl_")


def newest(paths: Iterable[str]) -> AptplFile:
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
            return AptplFile(Kind.UNREADABLE, (), f"can't be read: {error.strerror}", path)
        if content is None:
            return AptplFile(Kind.UNREADABLE, (), "is no file", path)
        files.append((*content, path))
    if not files:
        return AptplFile(Kind.MISSING)
    last, data, path = max(files)
    if any(file[0] == last and file[1] != data for file in files):
        return _broken("is as old as another one, which differs", path)
    return parse_aptpl(data)._replace(path=path, mtime_ns=last)


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


def _broken(why: str, path: str = "") -> AptplFile:
    return AptplFile(Kind.BROKEN, (), why, path)

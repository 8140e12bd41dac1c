"""SCSI commands as data: CDBs and parameter lists.

A builder returns a ``Command`` which goes straight into any ``execute``; what comes back is taken
apart by ``replies``::

    generation, keys = decode_keys(execute(*read_keys()).data)

Numbers in CDBs and parameter data are big endian throughout. Layouts are those of SPC-4 and SBC-3;
the clause is named where it is not the command's own.
"""

from __future__ import annotations

import struct
from typing import NamedTuple


class Command(NamedTuple):
    """The first three arguments of an ``execute``."""

    cdb: bytes
    data_out: bytes = b""
    data_in: int = 0


def encode_lun(lun: int) -> bytes:
    """Eight bytes, SAM-5 4.7: peripheral addressing below 256, flat space addressing above.

    :raises ValueError: not 0 to 16383.
    """
    if not 0 <= lun < 1 << 14:
        raise ValueError(f"no LUN of single level addressing: {lun}")
    return struct.pack(">H6x", lun if lun < 256 else 0x4000 | lun)


# --- questions -----------------------------------------------------------------------------------


def test_unit_ready() -> Command:
    return Command(bytes(6))


def request_sense(length: int = 252) -> Command:
    return Command(struct.pack(">BBHBx", 0x03, 0, 0, length), data_in=length)


def inquiry(length: int = 255) -> Command:
    """Standard INQUIRY data."""
    return Command(struct.pack(">BBBHx", 0x12, 0, 0, length), data_in=length)


def vpd(page: int, length: int = 4096) -> Command:
    """One page of vital product data; page 0 lists the pages there are."""
    return Command(struct.pack(">BBBHx", 0x12, 1, page, length), data_in=length)


def read_capacity_10() -> Command:
    return Command(struct.pack(">BxIxxxx", 0x25, 0), data_in=8)


def read_capacity_16(length: int = 32) -> Command:
    return Command(struct.pack(">BBQIxx", 0x9e, 0x10, 0, length), data_in=length)


def mode_sense_6(page: int = 0x3f, subpage: int = 0, control: int = 0,
                 length: int = 255) -> Command:
    """``control``: 0 current, 1 changeable, 2 default, 3 saved values; page 3Fh is all pages."""
    return Command(struct.pack(">BBBBBx", 0x1a, 0, control << 6 | page, subpage, length),
                   data_in=length)


def mode_sense_10(page: int = 0x3f, subpage: int = 0, control: int = 0,
                  length: int = 1024) -> Command:
    """As ``mode_sense_6``, with the longer header."""
    return Command(struct.pack(">BBBBxxxHx", 0x5a, 0, control << 6 | page, subpage, length),
                   data_in=length)


def report_luns(select: int = 0, length: int = 8192) -> Command:
    return Command(struct.pack(">BxBxxxIxx", 0xa0, select, length), data_in=length)


def report_target_port_groups(extended: bool = False, length: int = 4096) -> Command:
    """``extended`` asks for the header with the implicit transition time."""
    return Command(struct.pack(">BBxxxxIxx", 0xa3, 0x0a | (0x20 if extended else 0), length),
                   data_in=length)


def report_supported_opcodes(timeouts: bool = False, length: int = 8192) -> Command:
    """All commands in one list; ``timeouts`` adds a descriptor to each."""
    return Command(struct.pack(">BBBBHIxx", 0xa3, 0x0c, 0x80 if timeouts else 0, 0, 0, length),
                   data_in=length)


# --- persistent reservations ---------------------------------------------------------------------

def persistent_reserve_in(action: int, length: int = 8192) -> Command:
    return Command(struct.pack(">BBxxxxxHx", 0x5e, action, length), data_in=length)


def read_keys(length: int = 8192) -> Command:
    return persistent_reserve_in(0, length)


def read_reservation(length: int = 8192) -> Command:
    return persistent_reserve_in(1, length)


def report_capabilities(length: int = 8192) -> Command:
    return persistent_reserve_in(2, length)


def read_full_status(length: int = 65535) -> Command:
    return persistent_reserve_in(3, length)


def persistent_reserve_out(action: int, key: int, service_key: int = 0, type: int = 0,
                           aptpl: bool = False, all_tg_pt: bool = False) -> Command:
    """Any service action with the basic parameter list (SPC-4 6.16.3); SPEC_I_PT is never set."""
    flags = (0x04 if all_tg_pt else 0) | (0x01 if aptpl else 0)
    parameters = struct.pack(">QQ4xBxxx", key, service_key, flags)
    return Command(struct.pack(">BBBxxIx", 0x5f, action, type, len(parameters)), parameters)


def register(key: int, new_key: int, aptpl: bool = False, all_tg_pt: bool = False) -> Command:
    """``key`` is the one registered now (0: none), ``new_key`` the one wanted (0: unregister)."""
    return persistent_reserve_out(0, key, new_key, aptpl=aptpl, all_tg_pt=all_tg_pt)


def reserve(key: int, type: int) -> Command:
    return persistent_reserve_out(1, key, type=type)


def release(key: int, type: int) -> Command:
    return persistent_reserve_out(2, key, type=type)


def clear(key: int) -> Command:
    return persistent_reserve_out(3, key)


def preempt(key: int, victim: int, type: int) -> Command:
    return persistent_reserve_out(4, key, victim, type)


def preempt_and_abort(key: int, victim: int, type: int) -> Command:
    return persistent_reserve_out(5, key, victim, type)


def register_and_ignore(new_key: int, aptpl: bool = False, all_tg_pt: bool = False) -> Command:
    return persistent_reserve_out(6, 0, new_key, aptpl=aptpl, all_tg_pt=all_tg_pt)


def register_and_move(key: int, new_key: int, transport_id: bytes, rtpi: int, type: int = 0,
                      aptpl: bool = False, unregister: bool = False) -> Command:
    """Hands reservation and registration to ``transport_id`` at relative target port ``rtpi``."""
    flags = (0x02 if unregister else 0) | (0x01 if aptpl else 0)
    parameters = struct.pack(">QQxBHI", key, new_key, flags, rtpi, len(transport_id)) + transport_id
    return Command(struct.pack(">BBBxxIx", 0x5f, 7, type, len(parameters)), parameters)


def iscsi_transport_id(name: str, isid: str | None = None) -> bytes:
    """SPC-4 7.6.4.6: format 00b is the node's name alone, 01b has the ISID (12 hex digits)."""
    text = name.encode() if isid is None else f"{name},i,0x{isid}".encode()
    text += b"\0" * max(4 - len(text) % 4, 20 - len(text))
    return struct.pack(">BxH", 0x05 if isid is None else 0x45, len(text)) + text


def naa_transport_id(wwn: str) -> bytes:
    """SPC-4 7.6.4.7, SAS: ``naa.`` and 16 hex digits, the form of a vhost or loopback nexus.

    :raises ValueError: another form.
    """
    address = bytes.fromhex(wwn.removeprefix("naa."))
    if len(address) != 8:
        raise ValueError(f"not an NAA name of 16 digits: {wwn!r}")
    return b"\x06\0\0\0" + address + bytes(12)


# --- data ----------------------------------------------------------------------------------------


def read_10(lba: int, blocks: int = 1, block_size: int = 512) -> Command:
    return Command(struct.pack(">BxIxHx", 0x28, lba, blocks), data_in=blocks * block_size)


def read_16(lba: int, blocks: int = 1, block_size: int = 512) -> Command:
    return Command(struct.pack(">BxQIxx", 0x88, lba, blocks), data_in=blocks * block_size)


def write_10(lba: int, data: bytes, block_size: int = 512, fua: bool = False) -> Command:
    return Command(struct.pack(">BBIxHx", 0x2a, 0x08 if fua else 0, lba,
                               _blocks(data, block_size)), data)


def write_16(lba: int, data: bytes, block_size: int = 512, fua: bool = False) -> Command:
    return Command(struct.pack(">BBQIxx", 0x8a, 0x08 if fua else 0, lba,
                               _blocks(data, block_size)), data)


def synchronize_cache() -> Command:
    """The whole logical unit, with an answer when it is done."""
    return Command(struct.pack(">BxIxHx", 0x35, 0, 0))


def _blocks(data: bytes, block_size: int) -> int:
    if len(data) % block_size:
        raise ValueError(f"{len(data)} bytes are not whole blocks of {block_size}")
    return len(data) // block_size

"""SCSI commands as data, and their answers decoded.

A builder returns a ``Command`` which goes straight into any ``execute``; a decoder takes the bytes
of the answer::

    generation, keys = decode_keys(execute(*read_keys()).data)

Numbers in CDBs and parameter data are big endian throughout. Layouts are those of SPC-4 and SBC-3;
the clause is named where it is not the command's own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from lio_handover.initiator import BUSY, CHECK_CONDITION, Execute, Result

UNIT_ATTENTION = 0x06


class Command(NamedTuple):
    """The first three arguments of an ``execute``."""

    cdb: bytes
    data_out: bytes = b""
    data_in: int = 0


class Malformed(ValueError):
    """An answer is shorter than what it says it holds."""


# --- sense ---------------------------------------------------------------------------------------

# SPC-4 annex D.2; the ones LIO reports (drivers/target/target_core_ua.h, target_core_transport.c).
SENSE_NAMES = {
    (0x04, 0x01): "LOGICAL UNIT IS IN PROCESS OF BECOMING READY",
    (0x04, 0x0a): "ASYMMETRIC ACCESS STATE TRANSITION",
    (0x04, 0x0b): "TARGET PORT IN STANDBY STATE",
    (0x04, 0x0c): "TARGET PORT IN UNAVAILABLE STATE",
    (0x08, 0x00): "LOGICAL UNIT COMMUNICATION FAILURE",
    (0x0e, 0x03): "INVALID FIELD IN COMMAND INFORMATION UNIT",
    (0x1a, 0x00): "PARAMETER LIST LENGTH ERROR",
    (0x1d, 0x00): "MISCOMPARE DURING VERIFY OPERATION",
    (0x20, 0x00): "INVALID COMMAND OPERATION CODE",
    (0x21, 0x00): "LOGICAL BLOCK ADDRESS OUT OF RANGE",
    (0x24, 0x00): "INVALID FIELD IN CDB",
    (0x25, 0x00): "LOGICAL UNIT NOT SUPPORTED",
    (0x26, 0x00): "INVALID FIELD IN PARAMETER LIST",
    (0x26, 0x04): "INVALID RELEASE OF PERSISTENT RESERVATION",
    (0x27, 0x00): "WRITE PROTECTED",
    (0x29, 0x00): "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED",
    (0x29, 0x01): "POWER ON OCCURRED",
    (0x29, 0x02): "SCSI BUS RESET OCCURRED",
    (0x29, 0x03): "BUS DEVICE RESET FUNCTION OCCURRED",
    (0x29, 0x04): "DEVICE INTERNAL RESET",
    (0x29, 0x07): "I_T NEXUS LOSS OCCURRED",
    (0x2a, 0x00): "PARAMETERS CHANGED",
    (0x2a, 0x01): "MODE PARAMETERS CHANGED",
    (0x2a, 0x03): "RESERVATIONS PREEMPTED",
    (0x2a, 0x04): "RESERVATIONS RELEASED",
    (0x2a, 0x05): "REGISTRATIONS PREEMPTED",
    (0x2a, 0x06): "ASYMMETRIC ACCESS STATE CHANGED",
    (0x2a, 0x07): "IMPLICIT ASYMMETRIC ACCESS STATE TRANSITION FAILED",
    (0x2a, 0x08): "PRIORITY CHANGED",
    (0x2a, 0x09): "CAPACITY DATA HAS CHANGED",
    (0x2c, 0x09): "PREVIOUS RESERVATION CONFLICT STATUS",
    (0x2f, 0x00): "COMMANDS CLEARED BY ANOTHER INITIATOR",
    (0x38, 0x07): "THIN PROVISIONING SOFT THRESHOLD REACHED",
    (0x3f, 0x01): "MICROCODE HAS BEEN CHANGED",
    (0x3f, 0x02): "CHANGED OPERATING DEFINITION",
    (0x3f, 0x03): "INQUIRY DATA HAS CHANGED",
    (0x3f, 0x0e): "REPORTED LUNS DATA HAS CHANGED",
    (0x55, 0x04): "INSUFFICIENT REGISTRATION RESOURCES",
}


class Sense(NamedTuple):
    """Sense key and additional sense code; reads as ``6/3f/0e REPORTED LUNS DATA HAS CHANGED``."""

    key: int
    asc: int
    ascq: int

    @property
    def unit_attention(self) -> bool:
        return self.key == UNIT_ATTENTION

    @property
    def name(self) -> str:
        """SPC-4's words for the additional sense code, or an empty string."""
        return SENSE_NAMES.get((self.asc, self.ascq), "")

    def __str__(self) -> str:
        return f"{self.key:x}/{self.asc:02x}/{self.ascq:02x} {self.name}".rstrip()


def decode_sense(sense: bytes) -> Sense | None:
    """Fixed (70h, 71h) or descriptor (72h, 73h) format, SPC-4 4.5; None where there is none."""
    form = sense[0] & 0x7f if sense else 0
    padded = sense.ljust(14, b"\0")
    if form in (0x70, 0x71):
        return Sense(padded[2] & 0x0f, padded[12], padded[13])
    if form in (0x72, 0x73):
        return Sense(padded[1] & 0x0f, padded[2], padded[3])
    return None


def sense_of(result: Result) -> Sense | None:
    """The sense of a CHECK CONDITION, else None."""
    return decode_sense(result.sense) if result.status == CHECK_CONDITION else None


# --- builders: questions -------------------------------------------------------------------------


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


# --- builders: persistent reservations -----------------------------------------------------------

WRITE_EXCLUSIVE = 1
EXCLUSIVE_ACCESS = 3
WRITE_EXCLUSIVE_REGISTRANTS = 5
EXCLUSIVE_ACCESS_REGISTRANTS = 6
WRITE_EXCLUSIVE_ALL = 7
EXCLUSIVE_ACCESS_ALL = 8
RESERVATION_TYPES = (1, 3, 5, 6, 7, 8)


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


# --- builders: data ------------------------------------------------------------------------------


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


# --- decoders ------------------------------------------------------------------------------------


def _need(data: bytes, length: int) -> None:
    if len(data) < length:
        raise Malformed(f"{len(data)} bytes where {length} are needed")


def _listed(data: bytes, header: int, length: int) -> bytes:
    """The ``length`` bytes behind a header, which must all have arrived."""
    _need(data, header + length)
    return data[header:header + length]


class Inquiry(NamedTuple):
    device_type: int
    vendor: str
    product: str
    revision: str


def decode_inquiry(data: bytes) -> Inquiry:
    """Names without their padding. :raises Malformed: cut off."""
    _need(data, 36)
    words = [data[at:end].decode("ascii", "replace").strip(" \0")
             for at, end in ((8, 16), (16, 32), (32, 36))]
    return Inquiry(data[0] & 0x1f, *words)


def decode_vpd_pages(data: bytes) -> list[int]:
    """The page codes in VPD page 0. :raises Malformed: cut off."""
    _need(data, 4)
    return list(_listed(data, 4, data[2] << 8 | data[3]))


class Capacity(NamedTuple):
    """``blocks`` in all (not the last address) of ``block_size`` bytes."""

    blocks: int
    block_size: int


def decode_capacity_10(data: bytes) -> Capacity:
    """A device too large for this command says 2**32 blocks. :raises Malformed: cut off."""
    _need(data, 8)
    last, size = struct.unpack_from(">II", data)
    return Capacity(last + 1, size)


def decode_capacity_16(data: bytes) -> Capacity:
    """:raises Malformed: cut off."""
    _need(data, 12)
    last, size = struct.unpack_from(">QI", data)
    return Capacity(last + 1, size)


def encode_lun(lun: int) -> bytes:
    """Eight bytes, SAM-5 4.7: peripheral addressing below 256, flat space addressing above.

    :raises ValueError: not 0 to 16383.
    """
    if not 0 <= lun < 1 << 14:
        raise ValueError(f"no LUN of single level addressing: {lun}")
    return struct.pack(">H6x", lun if lun < 256 else 0x4000 | lun)


def decode_luns(data: bytes) -> list[int]:
    """The numbers in REPORT LUNS data. :raises Malformed: cut off, or multi level addressing."""
    _need(data, 8)
    luns = []
    for first, rest in struct.iter_unpack(">H6s", _listed(data, 8, _u32(data, 0) & ~7)):
        if any(rest) or first >> 14 > 1:
            raise Malformed(f"not a single level LUN: {first:04x}{rest.hex()}")
        luns.append(first & 0x3fff)
    return luns


def _u32(data: bytes, at: int) -> int:
    value: int = struct.unpack_from(">I", data, at)[0]
    return value


class Keys(NamedTuple):
    generation: int
    keys: tuple[int, ...]


def decode_keys(data: bytes) -> Keys:
    """READ KEYS, in the order the device has them. :raises Malformed: cut off."""
    _need(data, 8)
    body = _listed(data, 8, _u32(data, 4) & ~7)
    return Keys(_u32(data, 0), tuple(key for (key,) in struct.iter_unpack(">Q", body)))


class Reservation(NamedTuple):
    """``type`` 0 and ``key`` 0: nothing is reserved. (Types 7 and 8 have holders but key 0.)"""

    generation: int
    key: int
    type: int


def decode_reservation(data: bytes) -> Reservation:
    """READ RESERVATION. :raises Malformed: cut off."""
    _need(data, 8)
    if not _u32(data, 4):
        return Reservation(_u32(data, 0), 0, 0)
    body = _listed(data, 8, 16)
    return Reservation(_u32(data, 0), struct.unpack_from(">Q", body)[0], body[13] & 0x0f)


class Capabilities(NamedTuple):
    """Whether reservations can outlive a power loss, and whether they do now; ALL_TG_PT; types."""

    ptpl_capable: bool
    ptpl_active: bool
    all_target_ports: bool
    types: tuple[int, ...]


def decode_capabilities(data: bytes) -> Capabilities:
    """REPORT CAPABILITIES. :raises Malformed: cut off."""
    _need(data, 8)
    mask = data[4] | data[5] << 8
    bits = {7: 0x80, 6: 0x40, 5: 0x20, 3: 0x08, 1: 0x02, 8: 0x100}
    types = tuple(kind for kind in RESERVATION_TYPES if data[3] & 0x80 and mask & bits[kind])
    return Capabilities(bool(data[2] & 0x01), bool(data[3] & 0x01), bool(data[2] & 0x04), types)


class Registration(NamedTuple):
    """One full status descriptor. ``type`` is 0 unless ``holder``; ``rtpi`` None with ALL_TG_PT;
    ``initiator`` is ``iqn…``, ``iqn…,i,0x<isid>``, ``naa.…`` or the TransportID in hex."""

    key: int
    initiator: str
    rtpi: int | None
    holder: bool
    type: int


def decode_transport_id(data: bytes) -> str:
    """SPC-4 7.6.4 for iSCSI and SAS; others come back as hex. :raises Malformed: cut off."""
    _need(data, 4)
    if data[0] & 0x0f == 0x05:
        text = _listed(data, 4, struct.unpack_from(">H", data, 2)[0]).split(b"\0")[0]
        return text.decode("utf-8", "replace")
    if data[0] & 0x0f == 0x06:
        return "naa." + _listed(data, 4, 8).hex()
    return data.hex()


class FullStatus(NamedTuple):
    generation: int
    registrations: tuple[Registration, ...]


def decode_full_status(data: bytes) -> FullStatus:
    """READ FULL STATUS. :raises Malformed: cut off."""
    _need(data, 8)
    body = _listed(data, 8, _u32(data, 4))
    found = []
    at = 0
    while at < len(body):
        _need(body, at + 24)
        key, flags, kind, rtpi, extra = struct.unpack_from(">Q4xBB4xHI", body, at)
        initiator = decode_transport_id(_listed(body, at + 24, extra))
        holder = bool(flags & 0x01)
        found.append(Registration(key, initiator, None if flags & 0x02 else rtpi, holder,
                                  kind & 0x0f if holder else 0))
        at += 24 + extra
    return FullStatus(_u32(data, 0), tuple(found))


class PortGroup(NamedTuple):
    """``state`` 0 optimized, 1 non-optimized, 2 standby, 3 unavailable, 4 LBA dependent,
    0xe offline, 0xf transitioning; ``ports`` are relative target port identifiers."""

    id: int
    state: int
    preferred: bool
    status: int
    ports: tuple[int, ...]


def decode_target_port_groups(data: bytes) -> list[PortGroup]:
    """RTPG with the short header. :raises Malformed: cut off."""
    _need(data, 4)
    body = _listed(data, 4, _u32(data, 0))
    groups = []
    at = 0
    while at < len(body):
        _need(body, at + 8)
        state, number, status, count = struct.unpack_from(">BxHxBxB", body, at)
        ports = struct.unpack(f">{count * 2}H", _listed(body, at + 8, 4 * count))[1::2]
        groups.append(PortGroup(number, state & 0x0f, bool(state & 0x80), status, ports))
        at += 8 + 4 * count
    return groups


def decode_opcodes(data: bytes) -> list[tuple[int, int | None]]:
    """(operation code, service action or None) in the device's order, without timeout descriptors.

    :raises Malformed: cut off.
    """
    _need(data, 4)
    body = _listed(data, 4, _u32(data, 0))
    return [(code, action if flags & 0x01 else None)
            for code, action, flags in struct.iter_unpack(">BxHxBxx", body[:len(body) & ~7])]


# --- everything an initiator can ask -------------------------------------------------------------


def drain(execute: Execute, most: int = 16) -> list[Sense]:
    """Take the pending unit attentions of a logical unit away, as its initiator's driver would.

    TEST UNIT READY until the answer is no unit attention; one that stays (UA_INTLCK_CTRL) is
    fetched with REQUEST SENSE, which is also what ends LIO's BUSY for it (target_core_ua.c:
    core_scsi3_ua_for_check_condition). Returns what was taken; after ``most`` it gives up.
    """
    taken: list[Sense] = []
    while len(taken) < most:
        result = execute(*test_unit_ready())
        busy = result.status == BUSY
        sense = decode_sense(execute(*request_sense()).data) if busy else sense_of(result)
        if sense is None or not sense.unit_attention:
            break
        if not busy and taken and taken[-1] == sense:
            execute(*request_sense())
        taken.append(sense)
    return taken


def describe(result: Result) -> bytes:
    """What a fingerprint holds for one question: the data, or status and sense as text."""
    if result.good:
        return result.data
    text = f"status 0x{result.status:02x}"
    sense = sense_of(result)
    if sense:
        # Both formats have their additional length in byte 7; LIO fills up with zeros.
        text += f" sense {sense} [{result.sense[:8 + (result.sense[7:8] or b'0')[0]].hex()}]"
    return text.encode()


# The order of a fingerprint; TEST UNIT READY comes first as anything else would eat what it tells.
_QUESTIONS: tuple[tuple[str, Callable[[], Command]], ...] = (
    ("inquiry", inquiry),
    ("mode sense 6", mode_sense_6),
    ("mode sense 10", mode_sense_10),
    ("mode sense 10 changeable", lambda: mode_sense_10(control=1)),
    ("mode sense 10 default", lambda: mode_sense_10(control=2)),
    ("read capacity 10", read_capacity_10),
    ("read capacity 16", read_capacity_16),
    ("report luns", report_luns),
    ("report target port groups", report_target_port_groups),
    ("report target port groups extended", lambda: report_target_port_groups(extended=True)),
    ("report supported opcodes", report_supported_opcodes),
    ("report supported opcodes timeouts", lambda: report_supported_opcodes(timeouts=True)),
    ("pr in read keys", read_keys),
    ("pr in read reservation", read_reservation),
    ("pr in report capabilities", report_capabilities),
    ("pr in read full status", read_full_status),
)

# Without a unit serial LIO answers these and lists none (target_core_spc.c:spc_emulate_evpd_00).
_VPD_PAGES = (0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2)


def fingerprint(execute: Execute) -> dict[str, bytes]:
    """Everything an initiator can ask one logical unit, in a stable order.

    Values are the data, or ``status 0x… sense …`` in ASCII. The first TEST UNIT READY is part of it
    (empty when GOOD), so the second fingerprint of a unit with a pending unit attention differs.
    """
    answers = {"test unit ready": describe(execute(*test_unit_ready()))}
    answers["further unit attentions"] = ", ".join(map(str, drain(execute))).encode()
    for name, question in _QUESTIONS:
        answers[name] = describe(execute(*question()))
    pages = execute(*vpd(0))
    answers["vpd 00"] = describe(pages)
    listed = decode_vpd_pages(pages.data) if pages.good else []
    for page in sorted({*listed, *_VPD_PAGES} - {0}):
        answers[f"vpd {page:02x}"] = describe(execute(*vpd(page)))
    return answers

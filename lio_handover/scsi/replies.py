"""Replies to SCSI commands, taken apart: sense data and the parameter data of each question.

A decoder takes the bytes of a ``Result``. Numbers are big endian throughout. Layouts are those of
SPC-4 and SBC-3; the clause is named where it is not the command's own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from . import CHECK_CONDITION, Result

if TYPE_CHECKING:  # not wanted by who holds an endpoint, and long to import
    from ..model.reservations import FullStatusDescriptor

UNIT_ATTENTION = 0x06


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
    from ..model.objects import PrType
    _need(data, 8)
    mask = data[4] | data[5] << 8
    types = tuple(kind for kind in PrType if data[3] & 0x80 and mask >> kind & 1)
    return Capabilities(bool(data[2] & 0x01), bool(data[3] & 0x01), bool(data[2] & 0x04), types)


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
    registrations: tuple[FullStatusDescriptor, ...]


def decode_full_status(data: bytes) -> FullStatus:
    """READ FULL STATUS. :raises Malformed: cut off."""
    from ..model.reservations import FullStatusDescriptor
    _need(data, 8)
    body = _listed(data, 8, _u32(data, 4))
    registrations = []
    at = 0
    while at < len(body):
        _need(body, at + 24)
        key, flags, kind, rtpi, extra = struct.unpack_from(">Q4xBB4xHI", body, at)
        initiator, _, isid = decode_transport_id(
            _listed(body, at + 24, extra)).partition(",i,0x")
        holder = bool(flags & 0x01)
        registrations.append(FullStatusDescriptor(
            initiator, isid, key, None if flags & 0x02 else rtpi, holder,
            kind & 0x0f if holder else 0))
        at += 24 + extra
    return FullStatus(_u32(data, 0), tuple(registrations))


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

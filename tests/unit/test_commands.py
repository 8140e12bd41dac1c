"""CDBs against the bytes SPC-4 and SBC-3 ask for, and answers as real LIO kernels gave them."""

from __future__ import annotations

import errno
import pickle
import struct
from collections.abc import Callable

import pytest

from lio_handover.scsi import (CHECK_CONDITION, RESERVATION_CONFLICT, CommandTimeout, Result,
                               TransportError, cdb, replies, sg)
from lio_handover.scsi.cdb import Command
from lio_handover.scsi.fingerprint import drain, fingerprint
from lio_handover.scsi.replies import Malformed, Sense

FIXED = bytes.fromhex("700006000000000a000000003f0e00000000")
DESCRIPTOR = bytes.fromhex("7206290300000000")
NEXUS = "naa.60014059811d880b"


def cdb_hex(command: Command) -> str:
    return command.cdb.hex()


@pytest.mark.parametrize("command, expected", [
    (cdb.test_unit_ready(), "000000000000"),
    (cdb.request_sense(), "03000000fc00"),
    (cdb.inquiry(96), "120000006000"),
    (cdb.vpd(0x83, 512), "120183020000"),
    (cdb.read_capacity_10(), "25000000000000000000"),
    (cdb.read_capacity_16(), "9e100000000000000000000000200000"),
    (cdb.mode_sense_6(), "1a003f00ff00"),
    (cdb.mode_sense_6(0x08, control=1), "1a004800ff00"),
    (cdb.mode_sense_10(0x0a, 1), "5a000a01000000040000"),
    (cdb.report_luns(length=4096), "a00000000000000010000000"),
    (cdb.report_target_port_groups(length=4096), "a30a00000000000010000000"),
    (cdb.report_target_port_groups(True, 4096), "a32a00000000000010000000"),
    (cdb.report_supported_opcodes(length=4096), "a30c00000000000010000000"),
    (cdb.read_keys(512), "5e000000000000020000"),
    (cdb.read_full_status(), "5e030000000000ffff00"),
    (cdb.read_10(0x01020304, 8), "28000102030400000800"),
    (cdb.read_16(1 << 32), "88000000000100000000000000010000"),
    (cdb.write_10(1, bytes(1024)), "2a000000000100000200"),
    (cdb.write_16(1, bytes(4096), 4096, fua=True), "8a080000000000000001000000010000"),
    (cdb.synchronize_cache(), "35000000000000000000"),
])
def test_a_cdb_has_the_bytes_of_the_standard(command: Command, expected: str) -> None:
    assert cdb_hex(command) == expected


def test_reservations_go_out_with_their_parameters() -> None:
    out = cdb.register(0xab, 0xcd, aptpl=True, all_tg_pt=True)
    assert cdb_hex(out) == "5f000000000000001800"
    assert out.data_out.hex() == "00000000000000ab00000000000000cd" "00000000" "05000000"
    assert out.data_in == 0
    assert cdb_hex(cdb.reserve(1, 5)) == "5f010500000000001800"
    assert cdb_hex(cdb.release(1, 8)) == "5f020800000000001800"
    assert cdb_hex(cdb.clear(1)) == "5f030000000000001800"
    assert cdb_hex(cdb.preempt(1, 2, 6)) == "5f040600000000001800"
    assert cdb_hex(cdb.preempt_and_abort(1, 2, 6)) == "5f050600000000001800"
    assert cdb.register_and_ignore(7).data_out[:16] == struct.pack(">QQ", 0, 7)


def test_register_and_move_carries_a_transport_id() -> None:
    identity = cdb.naa_transport_id(NEXUS)
    out = cdb.register_and_move(1, 2, identity, rtpi=3, unregister=True, aptpl=True)
    assert cdb_hex(out) == "5f070000000000003000"
    assert out.data_out[16:24].hex() == "0003000300000018"
    assert out.data_out[24:] == identity


@pytest.mark.parametrize("name, isid, length", [
    ("iqn.2003-01.org.x:a", None, 20), ("iqn.2003-01.org.x:ab", None, 24), ("iqn.a", None, 20),
    ("iqn.2003-01.org.x:a", "00023d000001", 40),
])
def test_transport_ids_read_back(name: str, isid: str | None, length: int) -> None:
    identity = cdb.iscsi_transport_id(name, isid)
    assert len(identity) == 4 + length and identity[-1] == 0
    assert replies.decode_transport_id(identity) == name + (f",i,0x{isid}" if isid else "")
    assert replies.decode_transport_id(cdb.naa_transport_id(NEXUS)) == NEXUS


def test_a_short_naa_name_is_no_transport_id() -> None:
    with pytest.raises(ValueError, match="16 digits"):
        cdb.naa_transport_id("naa.5001")


def test_sense_is_read_in_both_formats() -> None:
    assert replies.decode_sense(FIXED) == (6, 0x3f, 0x0e)
    assert str(replies.decode_sense(FIXED)) == "6/3f/0e REPORTED LUNS DATA HAS CHANGED"
    assert replies.decode_sense(DESCRIPTOR) == (6, 0x29, 0x03)
    assert replies.decode_sense(b"") is None
    assert replies.decode_sense(FIXED[:3]) == (6, 0, 0)
    assert str(Sense(5, 0x99, 1)) == "5/99/01"
    assert replies.sense_of(Result(RESERVATION_CONFLICT, FIXED)) is None


def test_luns_go_and_come() -> None:
    assert cdb.encode_lun(5).hex() == "0005000000000000"
    assert cdb.encode_lun(300).hex() == "412c000000000000"
    with pytest.raises(ValueError, match="16384"):
        cdb.encode_lun(16384)
    answer = struct.pack(">I4x", 24) + b"".join(map(cdb.encode_lun, (0, 7, 300)))
    assert replies.decode_luns(answer + bytes(100)) == [0, 7, 300]
    with pytest.raises(Malformed, match="single level"):
        replies.decode_luns(struct.pack(">I4xQ", 8, 1))


def test_capacities_count_blocks() -> None:
    assert replies.decode_capacity_10(struct.pack(">II", 131071, 512)) == (131072, 512)
    assert replies.decode_capacity_16(struct.pack(">QI20x", 1 << 40, 4096)) == (2**40 + 1, 4096)


def test_reservations_are_decoded() -> None:
    assert replies.decode_keys(struct.pack(">IIQQ", 4, 16, 0xa, 0xb)) == (4, (0xa, 0xb))
    assert replies.decode_reservation(struct.pack(">II", 4, 0)) == (4, 0, 0)
    held = struct.pack(">IIQ4xBBxx", 4, 16, 0xa, 0, 5)
    assert replies.decode_reservation(held) == (4, 0xa, 5)
    capabilities = replies.decode_capabilities(bytes.fromhex("00081d81ea010000"))
    assert capabilities == (True, True, True, (1, 3, 5, 6, 7, 8))


def test_full_status_names_every_initiator() -> None:
    def line(key: int, flags: int, kind: int, rtpi: int, identity: bytes) -> bytes:
        return struct.pack(">Q4xBB4xHI", key, flags, kind, rtpi, len(identity)) + identity

    body = (line(0xa, 1, 5, 1, cdb.naa_transport_id(NEXUS))
            + line(0xb, 2, 5, 9, cdb.iscsi_transport_id("iqn.b", "00023d000001")))
    status = replies.decode_full_status(struct.pack(">II", 3, len(body)) + body)
    assert status.generation == 3
    assert status.registrations[0] == (NEXUS, "", 0xa, 1, True, 5)
    assert status.registrations[1] == ("iqn.b", "00023d000001", 0xb, None, False, 0)


def test_port_groups_and_opcodes_are_decoded() -> None:
    groups = struct.pack(">IBBHBBBBHHHH", 16, 0x80, 0x0f, 16, 0, 2, 0, 2, 0, 1, 0, 2)
    assert replies.decode_target_port_groups(groups) == [(16, 0, True, 2, (1, 2))]
    opcodes = struct.pack(">I", 16) + bytes.fromhex("0000000000000006" "5e0000030001000a")
    assert replies.decode_opcodes(opcodes) == [(0, None), (0x5e, 3)]


def test_inquiry_is_decoded() -> None:
    data = bytes(8) + b"LIO-ORG\0" + b"disk".ljust(16) + b"4.0 "
    assert replies.decode_inquiry(data) == (0, "LIO-ORG", "disk", "4.0")


@pytest.mark.parametrize("decode, whole", [
    (replies.decode_inquiry, bytes(36)),
    (replies.decode_vpd_pages, bytes.fromhex("0000000200b0")),
    (replies.decode_capacity_10, bytes(8)),
    (replies.decode_capacity_16, bytes(12)),
    (replies.decode_luns, struct.pack(">I4xQ", 8, 0)),
    (replies.decode_keys, struct.pack(">IIQ", 1, 8, 1)),
    (replies.decode_reservation, struct.pack(">IIQ8x", 1, 16, 1)),
    (replies.decode_capabilities, bytes(8)),
    (replies.decode_full_status,
     struct.pack(">IIQ4xBB4xHI", 1, 48, 1, 1, 5, 1, 24) + cdb.naa_transport_id(NEXUS)),
    (replies.decode_target_port_groups, struct.pack(">IB6xBHH", 12, 0, 1, 0, 1)),
    (replies.decode_opcodes, struct.pack(">IQ", 8, 0)),
])
def test_a_truncated_answer_is_refused(decode: Callable[[bytes], object], whole: bytes) -> None:
    decode(whole)
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            decode(whole[:length])


class Unit:
    """A logical unit with unit attentions, two VPD pages, and nothing else."""

    def __init__(self, attentions: list[bytes], interlocked: bool = False) -> None:
        self.attentions = attentions
        self.interlocked = interlocked
        self.asked: list[int] = []

    def execute(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0,
                timeout: float = 10.0) -> Result:
        self.asked.append(cdb[0])
        if cdb[0] == 0x03 and self.attentions:
            return Result(0, data=self.attentions.pop(0))
        if cdb[0] == 0x12:
            pages = bytes.fromhex("000000020080") if cdb[2] == 0 else b"serial"
            return Result(0, data=pages if cdb[1] else b"standard")
        if self.attentions:
            sense = self.attentions[0] if self.interlocked else self.attentions.pop(0)
            return Result(CHECK_CONDITION, sense)
        if cdb[0] == 0x5e:
            return Result(RESERVATION_CONFLICT)
        return Result(0)


def test_drain_takes_every_unit_attention_in_order() -> None:
    unit = Unit([FIXED, DESCRIPTOR])
    assert drain(unit.execute) == [(6, 0x3f, 0x0e), (6, 0x29, 3)]
    assert unit.asked == [0, 0, 0]


def test_drain_fetches_one_that_stays() -> None:
    unit = Unit([FIXED], interlocked=True)
    assert len(drain(unit.execute)) == 2
    assert unit.attentions == [] and 0x03 in unit.asked


def test_drain_gives_up() -> None:
    assert len(drain(Unit([FIXED] * 50).execute, most=4)) == 4


def test_a_fingerprint_begins_with_the_first_test_unit_ready() -> None:
    unit = Unit([FIXED, DESCRIPTOR])
    answers = fingerprint(unit.execute)
    assert unit.asked[0] == 0
    assert answers["test unit ready"] == (
        b"status 0x02 sense 6/3f/0e REPORTED LUNS DATA HAS CHANGED [" + FIXED.hex().encode() + b"]")
    assert answers["further unit attentions"].startswith(b"6/29/03 BUS DEVICE RESET")
    assert answers["inquiry"] == b"standard"
    assert answers["pr in read keys"] == b"status 0x18"
    assert answers["vpd 00"].hex() == "000000020080"
    assert answers["vpd 80"] == b"serial"
    assert list(answers) == list(fingerprint(Unit([]).execute))


@pytest.mark.parametrize("host, driver, status, code", [
    (0x01, 0, 0, errno.ENODEV), (0x0e, 0, 0, errno.ECONNRESET), (0x77, 0, 0, errno.EIO),
    (0, 0x01, 0, errno.EIO), (0x11, 0, 0, errno.EIO),
])
def test_a_transport_failure_is_an_os_error(host: int, driver: int, status: int, code: int) -> None:
    with pytest.raises(TransportError) as caught:
        sg.check_transport(host, driver, status, "/dev/sg7")
    assert caught.value.errno == code and caught.value.filename == "/dev/sg7"


@pytest.mark.parametrize("host, driver", [(0x03, 0), (0, 0x06)])
def test_no_answer_in_time_is_a_timeout(host: int, driver: int) -> None:
    with pytest.raises(TimeoutError) as caught:
        sg.check_transport(host, driver, 0, "/dev/sg7")
    assert isinstance(caught.value, CommandTimeout) and caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("error", [
    TransportError(errno.ENODEV, "gone", "naa.5001"), CommandTimeout("no answer", "/dev/sg7")])
def test_a_transport_failure_survives_the_way_between_processes(error: TransportError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and copy.errno == error.errno


@pytest.mark.parametrize("host, driver, status", [(0, 0, 0), (0, 8, 2), (0x11, 0, 0x18)])
def test_a_scsi_status_is_no_transport_failure(host: int, driver: int, status: int) -> None:
    sg.check_transport(host, driver, status, "/dev/sg7")


def test_a_node_that_is_no_scsi_device_says_so() -> None:
    with sg.Device("/dev/null") as null, pytest.raises(TransportError) as caught:
        null.execute(*cdb.inquiry())
    assert caught.value.errno == errno.ENOTTY
    assert "/dev/null" in str(caught.value) and "SG_IO" in str(caught.value)


def test_impossible_commands_are_refused_before_the_kernel() -> None:
    with sg.Device("/dev/null") as null:
        with pytest.raises(ValueError, match="6 to 32"):
            null.execute(b"\0")
        with pytest.raises(ValueError, match="one direction"):
            null.execute(bytes(6), b"out", 3)

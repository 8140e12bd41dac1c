"""The initiators against real targets, on the oldest and the newest kernel with vhost-scsi."""
from __future__ import annotations

import errno

import pytest

from lio_handover.model.objects import ALL_REGISTRANTS, PrType
from lio_handover.scsi import RESERVATION_CONFLICT, cdb, replies
from tests.conftest import HostsOf
from tests.lab import Host, inside
from tests.lab.qemu import ROLES
from tests.support import invhost
from tests.support.invhost import NEXUS, OTHER, OTHER_NEXUS, WWPN

LOOPBACK = "naa.5001405000000003"
CHANGED = (0x06, 0x3f, 0x0e)


@pytest.fixture(params=ROLES)
def host(request: pytest.FixtureRequest, hosts: HostsOf) -> Host:
    return hosts(str(request.param))[0]


def test_everything_an_initiator_can_ask_is_read(host: Host) -> None:
    host.call(invhost.target, luns=3)
    luns, first = host.call(invhost.fingerprints, 3)
    assert luns == [0, 1, 2]
    # The nexus was made after all the LUNs: each but the first was told that there are more.
    assert [one.pop("test unit ready")[:31] for one in first] == [
        b"", b"status 0x02 sense 6/3f/0e REPOR", b"status 0x02 sense 6/3f/0e REPOR"]
    _, second = host.call(invhost.fingerprints, 3)
    assert [one.pop("test unit ready") for one in second] == [b"", b"", b""]
    assert first == second
    for number, one in enumerate(first):
        assert replies.decode_inquiry(one["inquiry"]).vendor == "LIO-ORG"
        assert one["vpd 80"][4:].rstrip(b"\0") == b"0000-%d" % number
        assert set(replies.decode_vpd_pages(one["vpd 00"])) >= {0x80, 0x83}
        assert replies.decode_capacity_10(one["read capacity 10"]) == (512, 512)
        assert replies.decode_capacity_16(one["read capacity 16"]) == (512, 512)
        assert replies.decode_keys(one["pr in read keys"]) == (0, ())
        capabilities = replies.decode_capabilities(one["pr in report capabilities"])
        assert capabilities.types == tuple(PrType)
        assert [group.id for group in replies.decode_target_port_groups(
            one["report target port groups"])] == [0]
        if host.release.startswith("6.1."):
            assert b"5/20/00" in one["report supported opcodes"]
        else:
            assert (0x5e, 3) in replies.decode_opcodes(one["report supported opcodes"])


@pytest.mark.parametrize("kind", [*map(int, PrType)])
def test_a_reservation_holds_against_a_foreign_initiator(host: Host, kind: int) -> None:
    host.call(invhost.target)
    host.call(invhost.target, tpgt=2, nexus=OTHER_NEXUS)
    write = cdb.write_10(0, bytes(512))
    answers = host.call(
        invhost.ask, (1, cdb.register(0, 0xabc)), (1, cdb.reserve(0xabc, kind)),
        (1, cdb.read_reservation()), (1, cdb.read_full_status()), (1, write),
        (2, write), (2, cdb.register(0, 0xdef)), (1, cdb.read_keys()),
        (2, cdb.preempt(0xdef, 0xabc, kind)), (1, cdb.test_unit_ready()),
        (2, cdb.read_reservation()), (1, write), (2, cdb.clear(0xdef)),
        (2, cdb.read_keys()), (1, write))
    status = [answer[0] for answer in answers]
    assert status[:5] == [0, 0, 0, 0, 0]
    everyone = kind in ALL_REGISTRANTS
    assert replies.decode_reservation(answers[2][2]) == (1, 0 if everyone else 0xabc, kind)
    registration, = replies.decode_full_status(answers[3][2]).registrations
    assert registration[:3] == (NEXUS, "", 0xabc) and registration[4:] == (True, kind)
    assert status[5] == RESERVATION_CONFLICT
    assert replies.decode_keys(answers[7][2]) == (2, (0xabc, 0xdef))
    assert status[8] == 0 and answers[9][1] == (0x06, 0x2a, 0x05)
    assert replies.decode_reservation(answers[10][2])[1:] == (0 if everyone else 0xdef, kind)
    assert status[11] == RESERVATION_CONFLICT
    assert replies.decode_keys(answers[13][2])[1] == () and status[14] == 0


def test_a_reservation_is_released_and_aptpl_is_told(host: Host) -> None:
    host.call(invhost.target)
    host.call(invhost.target, tpgt=2, nexus=OTHER_NEXUS)
    answers = host.call(
        invhost.ask, (1, cdb.register_and_ignore(1, aptpl=True)), (1, cdb.reserve(1, 3)),
        (1, cdb.report_capabilities()), (1, cdb.release(1, 3)),
        (1, cdb.read_reservation()), (1, cdb.reserve(2, 3)), (1, cdb.reserve(1, 3)),
        (2, cdb.read_full_status()))
    assert [answer[0] for answer in answers] == [0, 0, 0, 0, 0, RESERVATION_CONFLICT, 0, 0]
    assert replies.decode_capabilities(answers[2][2]).ptpl_active
    assert replies.decode_reservation(answers[4][2]) == (1, 0, 0)
    holder, = replies.decode_full_status(answers[7][2]).registrations
    assert holder.holder and holder.initiator == NEXUS


def test_several_commands_are_on_their_way_at_once(host: Host) -> None:
    host.call(invhost.target)
    right, lengths = host.call(invhost.outstanding, 32)
    assert right and lengths == [4096] * 32


def test_unit_attentions_are_drained_once(host: Host) -> None:
    host.call(invhost.target, luns=3)
    first, second = host.call(invhost.drained)
    assert first == {(1, 0): [], (1, 1): [CHANGED], (1, 2): [CHANGED]}
    assert second == {(1, 0): [], (1, 1): [], (1, 2): []}


def test_a_reset_leaves_its_unit_attention_for_the_next_command(host: Host) -> None:
    host.call(invhost.target)
    assert host.call(invhost.reset) == [{(1, 0): []}, {(1, 0): [(0x06, 0x29, 0x03)]}]


def test_one_holder_keeps_all_others_out(host: Host) -> None:
    host.call(invhost.target)
    seen = host.call(invhost.held)
    assert seen["attach"][:2] == ("TransportError", errno.ENODEV) and WWPN in seen["attach"][2]
    assert seen["rmdir"][1] == errno.EBUSY
    assert seen["rmdir when free"][1] == errno.ENOTEMPTY
    assert seen["attach when free"] == ("", 0, "")
    assert seen["attach when forgotten"] == ("", 0, "")
    assert seen["command when closed"][:2] == ("TransportError", errno.ENOTCONN)
    assert seen["nobody"][:2] == ("TransportError", errno.ENODEV) and OTHER in seen["nobody"][2]
    assert seen["descriptors after 20 more"] == seen["descriptors"]


def test_a_killed_holder_frees_the_endpoint(host: Host) -> None:
    host.call(invhost.target)
    before, after = host.call(invhost.killed_holder)
    assert before[1] == errno.ENODEV and after == ("", 0, "")


def test_dirty_logging_is_probed_by_function_and_leaves_no_trace(host: Host) -> None:
    host.call(invhost.target)
    before = host.call(invhost.tree)
    assert host.call(invhost.probe) == (not host.release.startswith("6.1."))
    assert host.call(invhost.tree) == before
    assert host.call(invhost.drained)[0] == {(1, 0): []}
    host.call(inside.clear_targets)
    assert host.call(inside.leftovers) == []


def test_what_is_not_there_is_named(host: Host) -> None:
    host.call(invhost.target)
    seen = host.call(invhost.failures)
    assert seen["no such TPG"][:2] == ("TransportError", errno.ENXIO)
    assert "TPG 9" in seen["no such TPG"][2]
    assert seen["no device"][:2] == ("FileNotFoundError", errno.ENOENT)
    assert seen["not the device"][1] == errno.ENOTTY
    assert seen["still works"] == ("", 0, "")


def test_a_backstore_that_does_not_answer_holds_nobody_for_ever(host: Host) -> None:
    host.call(invhost.stuck_target, 2)
    seen, seconds = host.call(invhost.stuck)
    assert seen["command"][0] == "CommandTimeout" and "0x28" in seen["command"][2]
    assert seen["too many"][1] == errno.EBUSY
    assert seen["reset"][0] == "CommandTimeout"
    assert seconds["limits"] < 2
    assert seen["reset first"][1] == errno.ECANCELED
    assert seen["detach"][0] == "CommandTimeout"
    assert seen["close"] == ("", 0, "")
    assert seconds["end"] < 2
    assert host.call(invhost.eventually_free)


def test_the_hosts_own_device_gives_the_same_answers(host: Host) -> None:
    host.call(invhost.target)
    host.call(invhost.target, wwpn=LOOPBACK, fabric="loopback", nexus=OTHER_NEXUS)
    # Asked when both ports are there: INQUIRY tells whether there is more than one (MULTIP).
    _, (guest,) = host.call(invhost.fingerprints, 1)
    own = host.call(invhost.sg_fingerprint, "sg")
    assert host.call(invhost.sg_fingerprint, "sd") == own
    # VPD 83 names the port by which one came, B0 has the fabric's own limit.
    assert {key for key in guest if guest[key] != own[key]} == {"vpd 83", "vpd b0"}
    write, read = cdb.write_10(1, b"own" + bytes(509)), cdb.read_10(1)
    answers = host.call(invhost.through_sg, write, read, cdb.read_10(512),
                        cdb.register(0, 5), cdb.reserve(5, 3))
    assert [answer[0] for answer in answers] == [0, 0, 2, 0, 0]
    assert answers[1][2] == write.data_out
    assert answers[2][1] == (0x05, 0x21, 0x00)
    foreign = host.call(invhost.ask, (1, read), (1, cdb.register(0, 6)))
    assert [answer[0] for answer in foreign] == [RESERVATION_CONFLICT, 0]
    assert host.call(invhost.through_sg, cdb.preempt(6, 5, 3))[0][0] == RESERVATION_CONFLICT

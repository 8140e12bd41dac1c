"""The fingerprint of a logical unit: every question an initiator can ask it, with its reply.

The unit attentions that wait in front of the questions are taken away first, by ``drain``.
"""

from __future__ import annotations

from collections.abc import Callable

from . import BUSY, Execute, Result, cdb
from .cdb import Command
from .replies import Sense, decode_sense, decode_vpd_pages, sense_of


def drain(execute: Execute, most: int = 16) -> list[Sense]:
    """Take the pending unit attentions of a logical unit away, as its initiator's driver would.

    TEST UNIT READY until the answer is no unit attention; one that stays (UA_INTLCK_CTRL) is
    fetched with REQUEST SENSE, which is also what ends LIO's BUSY for it (target_core_ua.c:
    core_scsi3_ua_for_check_condition). Returns what was taken; after ``most`` it gives up.
    """
    taken: list[Sense] = []
    while len(taken) < most:
        result = execute(*cdb.test_unit_ready())
        busy = result.status == BUSY
        sense = decode_sense(execute(*cdb.request_sense()).data) if busy else sense_of(result)
        if sense is None or not sense.unit_attention:
            break
        if not busy and taken and taken[-1] == sense:
            execute(*cdb.request_sense())
        taken.append(sense)
    return taken


def describe(result: Result) -> bytes:
    """A fingerprint's entry for one question: the data, or status and sense as text."""
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
    ("inquiry", cdb.inquiry),
    ("mode sense 6", cdb.mode_sense_6),
    ("mode sense 10", cdb.mode_sense_10),
    ("mode sense 10 changeable", lambda: cdb.mode_sense_10(control=1)),
    ("mode sense 10 default", lambda: cdb.mode_sense_10(control=2)),
    ("read capacity 10", cdb.read_capacity_10),
    ("read capacity 16", cdb.read_capacity_16),
    ("report luns", cdb.report_luns),
    ("report target port groups", cdb.report_target_port_groups),
    ("report target port groups extended", lambda: cdb.report_target_port_groups(extended=True)),
    ("report supported opcodes", cdb.report_supported_opcodes),
    ("report supported opcodes timeouts", lambda: cdb.report_supported_opcodes(timeouts=True)),
    ("pr in read keys", cdb.read_keys),
    ("pr in read reservation", cdb.read_reservation),
    ("pr in report capabilities", cdb.report_capabilities),
    ("pr in read full status", cdb.read_full_status),
)

# Without a unit serial LIO answers these and lists none (target_core_spc.c:spc_emulate_evpd_00).
_VPD_PAGES = (0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2)


def fingerprint(execute: Execute) -> dict[str, bytes]:
    """Everything an initiator can ask one logical unit, in a stable order.

    Values are the data, or ``status 0x… sense …`` in ASCII. The first TEST UNIT READY is part of it
    (empty when GOOD), so the second fingerprint of a unit with a pending unit attention differs.
    """
    answers = {"test unit ready": describe(execute(*cdb.test_unit_ready()))}
    answers["further unit attentions"] = ", ".join(map(str, drain(execute))).encode()
    for name, question in _QUESTIONS:
        answers[name] = describe(execute(*question()))
    pages = execute(*cdb.vpd(0))
    answers["vpd 00"] = describe(pages)
    listed = decode_vpd_pages(pages.data) if pages.good else []
    for page in sorted({*listed, *_VPD_PAGES} - {0}):
        answers[f"vpd {page:02x}"] = describe(execute(*cdb.vpd(page)))
    return answers

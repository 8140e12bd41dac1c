"""Reservations of all types, as real initiators make them, after a move: who asks is told the same,
and who may do what before may do it after."""
from __future__ import annotations

from pathlib import Path

import pytest

from lio_handover.document import document as documents
from lio_handover.model.objects import PrType
from lio_handover.scsi import RESERVATION_CONFLICT, cdb, replies, sg
from lio_handover.scsi.cdb import Command
from lio_handover.scsi.fingerprint import describe, drain
from tests import lab
from tests.conftest import HostsOf
from tests.lab import barehands, inside
from tests.support import inhost

TARGET = "iqn.2003-01.org.example:reserved"
SERVICE = "198.18.0.100"
SIZE = 4 * lab.MiB
HOLDER, OTHER, STRANGER = (f"iqn.2003-01.org.example:{who}" for who in
                           ("holder", "other", "stranger"))
#: LUN → type of its reservation; the last one is a LUN of two TPGs, by ALL_TG_PT.
LUNS = dict(enumerate((*map(int, PrType), 5)))
SHARED = len(LUNS) - 1
ASKED = {"keys": cdb.read_keys, "reservation": cdb.read_reservation,
         "full status": cdb.read_full_status,
         "capabilities": cdb.report_capabilities}


# ── inside the hosts ─────────────────────────────────────────────────────────────────────────

def serve(folder: str) -> None:
    """Two TPGs, with a portal each; TPG 2 has the last LUN only, as its LUN 0."""
    stores = {number: barehands.fileio(f"disk{number}", f"{folder}/{number}.img", SIZE, number)
              for number in LUNS}
    names = (HOLDER, OTHER, STRANGER)
    barehands.iscsi(TARGET, SERVICE, stores, names)
    tpg = inside.TARGET / "iscsi" / TARGET / "tpgt_2"
    tpg.mkdir()
    (tpg / "attrib" / "authentication").write_text("0")
    (tpg / "np" / f"{SERVICE}:3261").mkdir()
    (tpg / "lun/lun_0").mkdir()
    (tpg / "lun/lun_0/link").symlink_to(stores[SHARED])
    for name in names:
        (tpg / "acls" / name / "lun_0").mkdir(parents=True)
        (tpg / "acls" / name / "lun_0" / "link").symlink_to(tpg / "lun/lun_0")
    (tpg / "enable").write_text("1")


def do(wanted: dict[str, tuple[Command, ...]]) -> None:
    """Commands that must succeed, by device."""
    for node, asked in wanted.items():
        with sg.Device(node) as device:
            drain(device.execute)
            for command in asked:
                result = device.execute(*command)
                assert result.good, describe(result)


def answers(nodes: dict[int, str]) -> dict[tuple[int, str], bytes]:
    """What a nexus is told of each LUN's reservations, and whether it may read and write."""
    found = {}
    for lun, node in nodes.items():
        with sg.Device(node) as device:
            drain(device.execute)
            for name, question in ASKED.items():
                found[lun, name] = describe(device.execute(*question()))
            for name, command in (("read", cdb.read_10(0)),
                                  ("write", cdb.write_10(0, bytes(512)))):
                done = device.execute(*command)
                assert done.good or done.status == RESERVATION_CONFLICT, describe(done)
                found[lun, name] = b"may" if done.good else b"may not"
    return found


# ── the story ────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("roles", [
    ("oldest", "newest"),
    pytest.param(("newest", "oldest"), marks=pytest.mark.full),
    pytest.param(("newest", "newest"), marks=pytest.mark.full),
    pytest.param(("oldest", "oldest"), marks=pytest.mark.full)])
def test_every_type_holds_for_everyone_as_before(
        roles: tuple[str, str], bed: lab.Lab, hosts: HostsOf, client: lab.OpenIscsi) -> None:
    here, there = hosts(*roles)
    for number in LUNS:
        (bed.shared / f"{number}.img").write_bytes(b"\0" * SIZE)
    here.call(serve, str(bed.shared))
    if roles == ("newest", "oldest"):   # the destination can't list its commands
        for number in LUNS:
            here.call(Path.write_text, inside.TARGET / "core" / f"fileio_{number}"
                      / f"disk{number}" / "attrib/emulate_rsoc", "0")
    here.call(inside.add_address, SERVICE)
    sessions = {(who, port): client.login(TARGET, SERVICE, name=who, port=port) for who, port in (
        (HOLDER, 3260), (HOLDER, 3261), (OTHER, 3260), (STRANGER, 3260))}
    nodes = {nexus: session.generic() for nexus, session in sessions.items()}

    # A second key brings PRgeneration to what a kernel can restore with an APTPL bit of 0.
    client.host.call(do, {nodes[OTHER, 3260][lun]: (
        cdb.register(0, 0xb0 + lun, lun % 2 == 0),
        cdb.register(0xb0 + lun, 0xbb00 + lun, lun % 2 == 0)) for lun in LUNS})
    client.host.call(do, {nodes[HOLDER, 3260][lun]: (
        cdb.register(0, 0xa0 + lun, lun % 2 == 0, all_tg_pt=lun == SHARED),
        cdb.reserve(0xa0 + lun, kind)) for lun, kind in LUNS.items()})

    def seen() -> dict[tuple[str, int], dict[tuple[int, str], bytes]]:
        return {nexus: client.host.call(answers, its) for nexus, its in nodes.items()}

    before = seen()
    there_before = {lun: replies.decode_reservation(before[OTHER, 3260][lun, "reservation"])
                    for lun in LUNS}
    assert {lun: found.type for lun, found in there_before.items()} == LUNS
    here.call(inhost.freeze)
    document = here.call(inhost.export)
    there.call(inhost.import_, document)
    bed.move_address(SERVICE, here, there)
    here.call(inhost.remove, ("reserved",))
    for session in sessions.values():
        session.wait_for("LOGGED_IN", 60)
    after = seen()
    assert after == before
    held = {store.name: store.reservations
            for store in documents.loads(document).state.backstores}
    assert {held[f"disk{lun}"].type for lun in LUNS} == set(PrType)
    shared = held[f"disk{SHARED}"]
    assert [one.all_tg_pt for one in shared.registrations].count(True) == 2     # one in each TPG
    # A stranger, who is not registered, tells the exclusive types from the others.
    assert {kind for lun, kind in LUNS.items()
            if after[STRANGER, 3260][lun, "read"] == b"may not"} == {3, 6, 8}
    assert {kind for lun, kind in LUNS.items()
            if after[OTHER, 3260][lun, "write"] == b"may not"} == {1, 3}

"""Every answer of a moved iSCSI target, between all kernels: several LUNs of fileio and iblock, all
types of reservations, sessions whose registrations interleave, more of them than configfs shows,
and a destination that serves others already."""
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from lio_handover.document import document as documents
from lio_handover.scsi import cdb
from lio_handover.scsi.cdb import Command
from lio_handover.scsi.fingerprint import drain, fingerprint
from tests import lab
from tests.conftest import HostsOf
from tests.lab import differences
from tests.lab.differences import Difference
from tests.lab.inside import TARGET
from tests.lab.isid import Session
from tests.support import inhost

pytestmark = pytest.mark.timeout(900)
IQN = "iqn.2026-11.org.example:moved"
OTHER = "iqn.2026-11.org.example:other"
ALICE = "iqn.2026-11.org.example:alice"
BOB = "iqn.2026-11.org.example:bob"
CAROL = "iqn.2026-11.org.example:carol"
DAVE = "iqn.2026-11.org.example:dave"
#: In the order in which they register: alice's second session comes after bob's.
SESSIONS = ((ALICE, "00023d000001"), (BOB, "00023d0000b0"), (ALICE, "00023d000002"))
SIZE = 4 * lab.MiB
#: LUN → type of reservation, whether it survives power loss, and its holder's place in SESSIONS.
LUNS: dict[int, tuple[int, bool, int]] = {
    0: (5, True, 0), 1: (1, False, 1), 2: (3, True, 2), 7: (6, False, 0), 100: (7, True, 1),
    200: (8, False, 2), 201: (0, True, 0), 202: (0, True, 0)}
DISK, LARGE_BLOCKS, ALL_PORTS, MANY = 200, 100, 201, 202
#: So many more sessions register with MANY: configfs shows 54 registrations, and no more.
CROWD = 70
Answers = dict[tuple[str, str, int], dict[str, bytes]]


# ── inside a host ────────────────────────────────────────────────────────────────────────────

def serve(folder: str, iqn: str, luns: Sequence[int], port: int, opcodes: bool = True) -> None:
    """A target whose LUNs are files, but for the one on the disk; by bare hands."""
    tpg = TARGET / "iscsi" / iqn / "tpgt_1"
    tpg.mkdir(parents=True)
    (tpg / "attrib/authentication").write_text("0")
    if (tpg / "rtpi").exists() and iqn == OTHER:
        (tpg / "rtpi").write_text("500")
    (tpg / "np" / f"0.0.0.0:{port}").mkdir()
    for number in luns:
        _lun(tpg, folder, iqn, number, opcodes)
    for name in (ALICE, BOB, CAROL, DAVE):
        for number in luns:
            mapped = tpg / "acls" / name / f"lun_{number}"
            mapped.mkdir(parents=True)
            (mapped / "link").symlink_to(tpg / "lun" / f"lun_{number}")
    (tpg / "enable").write_text("1")


def _lun(tpg: Path, folder: str, iqn: str, number: int, opcodes: bool) -> None:
    name = f"{iqn.rpartition(':')[2]}{number}"
    hbas = (f"{'iblock' if number == DISK else 'fileio'}_{free}" for free in itertools.count())
    hba = next(TARGET / "core" / one for one in hbas if not (TARGET / "core" / one).exists())
    store = hba / name
    store.mkdir(parents=True)
    if number == DISK:
        (store / "control").write_text("udev_path=/dev/ubda")
    else:
        path = Path(folder, f"{name}.img")
        path.write_bytes(b"\0" * SIZE)
        (store / "control").write_text(f"fd_dev_name={path},fd_dev_size={SIZE}")
    (store / "enable").write_text("1")
    (store / "wwn/vpd_unit_serial").write_text(f"5e41a1-{name}")
    if number == LARGE_BLOCKS:
        (store / "attrib/block_size").write_text("4096")
    if not opcodes and (store / "attrib/emulate_rsoc").exists():
        (store / "attrib/emulate_rsoc").write_text("0")
    lun = tpg / "lun" / f"lun_{number}"
    lun.mkdir()
    (lun / "link").symlink_to(store)


def _key(place: int, number: int) -> int:
    return 0x1000 * (place + 1) + number


def reserve() -> None:
    """All register with every LUN, in the order of SESSIONS, and one each reserves it.

    Everybody registers again, so that PRgeneration runs ahead of the registrations.
    """
    for place, (name, isid) in enumerate(SESSIONS):
        with Session("127.0.0.1", 3260, IQN, name, isid) as session:
            for number, (kind, aptpl, holder) in LUNS.items():
                key = _key(place, number)
                for old, new in ((0, 1), (1, key)):
                    _do(session, number, cdb.register(old, new, aptpl, number == ALL_PORTS))
                if kind and holder == place:
                    _do(session, number, cdb.reserve(key, kind))
    for number in range(CROWD):
        with Session("127.0.0.1", 3260, IQN, DAVE, f"00023d0d{number:04x}") as session:
            _do(session, MANY, cdb.register(0, 0xda00 + number, True))


def _do(session: Session, lun: int, command: Command) -> None:
    drain(session.unit(lun).execute)
    result = session.unit(lun).execute(*command)
    assert result.good, (lun, command, result)


def ask(iqn: str, luns: Sequence[int], port: int) -> Answers:
    """Every answer to every session, and to one who never registered."""
    found: Answers = {}
    for name, isid in (*SESSIONS, (CAROL, "00023d0000ca")):
        with Session("127.0.0.1", port, iqn, name, isid) as session:
            for lun in luns:
                found[name, isid, lun] = fingerprint(session.unit(lun).execute)
    return found


def only_mine() -> None:
    """Take the moved target away, and what it had with it."""
    inhost.core().remove([f"iscsi/{IQN}"], allow=("reserved",))


def freeze_and_export() -> bytes:
    one = inhost.core()
    names = one.names([f"iscsi/{IQN}"])
    one.freeze(names)
    document = one.export(names, ("all-tg-pt",))
    return documents.dumps(document)


# ── the moves ────────────────────────────────────────────────────────────────────────────────

def compared(before: Answers, after: Answers) -> list[Difference]:
    """Every answer that is not the same."""
    def fenced(name: str, lun: int) -> bool:
        """Whether a reservation keeps this one from reading."""
        kind, _aptpl, holder = LUNS[lun]
        return kind == 3 and name != SESSIONS[holder][0] or kind in (6, 8) and name == CAROL

    return [Difference(name, lun, question, one.get(question), other.get(question),
                       fenced(name, lun), interleaved=True)
            for (name, isid, lun), one in before.items()
            for other in (after[name, isid, lun],)
            for question in {**one, **other} if one.get(question) != other.get(question)]


def move_between(roles: Sequence[str], pairs: Sequence[tuple[str, str]], shared: Path,
                 hosts: Sequence[lab.Host]) -> tuple[list[str], Counter[str]]:
    """(what differs and no row explains, how often each row was needed)."""
    used: Counter[str] = Counter()
    by_role = dict(zip(roles, hosts))
    others: dict[str, Answers] = {}
    for role, host in by_role.items():
        (shared / role).mkdir(exist_ok=True)
        host.call(serve, str(shared / role), OTHER, (0, 1), 3261)
        host.call(ask, OTHER, (0, 1), 3261)     # the first login is told of its LUNs
        others[role] = host.call(ask, OTHER, (0, 1), 3261)
    wrong: list[str] = []
    exported: dict[tuple[str, bool], tuple[bytes, Answers]] = {}
    for source, there in pairs:
        opcodes = there != "oldest"
        if (source, opcodes) not in exported:
            host = by_role[source]
            host.call(serve, str(shared), IQN, tuple(LUNS), 3260, opcodes)
            host.call(reserve)
            before = host.call(ask, IQN, tuple(LUNS), 3260, timeout=120)
            exported[source, opcodes] = host.call(freeze_and_export), before
            host.call(only_mine)
        document, before = exported[source, opcodes]
        by_role[there].call(inhost.import_, document, timeout=120)
        after = by_role[there].call(ask, IQN, tuple(LUNS), 3260, timeout=120)
        assert by_role[there].call(ask, OTHER, (0, 1), 3261) == others[there]
        by_role[there].call(only_mine)
        found = compared(before, after)
        rows = Counter(row.what for one in found if (row := differences.reason(one)))
        print(f"{source} to {there}: {sum(map(len, before.values()))} answers, {len(found)} "
              "differ: " + "; ".join(f"{count} {what}" for what, count in sorted(rows.items())))
        used += rows
        wrong += [f"{source} to {there}: {one}" for one in found if not differences.reason(one)]
    return wrong, used


def test_no_answer_differs(bed: lab.Lab, hosts: HostsOf) -> None:
    roles = ("oldest", "newest")
    wrong, _used = move_between(roles, [roles], bed.shared, hosts(*roles))
    assert not wrong, "\n".join(wrong)


@pytest.mark.full
def test_no_answer_differs_between_any_kernels(bed: lab.Lab, hosts: HostsOf) -> None:
    pairs = [(a, b) for a in lab.ROLES for b in lab.ROLES]
    wrong, used = move_between(lab.ROLES, pairs, bed.shared, hosts(*lab.ROLES))
    assert not wrong, "\n".join(wrong)
    assert {row.what for row in differences.ANSWERS} == set(used)

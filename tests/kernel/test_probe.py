"""What configfs does not show of registrations is asked of the device: on real kernels."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.model.keys import (acl_key, backstore_key, lun_key, mapped_lun_key, portal_key,
                                     target_key, tpg_key)
from lio_handover.model.objects import (Acl, Backstore, Lun, MappedLun, Portal, Registration,
                                        Reservations, State, Target, Tpg)
from tests import lab
from tests.support import inhost

IQN = "iqn.2003-01.org.example:probe"
NAMES = [("iscsi", IQN)]


def initiator(number: int) -> str:
    return f"iqn.2003-01.org.example:initiator-with-a-rather-long-name-{number:04d}"


def state(shared: Path, initiators: int, tpgs: int, held: Reservations) -> State:
    """One disk, exported by all TPGs, mapped for all initiators."""
    path = shared / "disk.img"
    path.write_bytes(b"\0" * lab.MiB)
    store = Backstore(backstore_key("fileio", "disk"),
                      {"fd_dev_name": str(path), "fd_dev_size": str(lab.MiB)},
                      {"wwn/vpd_unit_serial": "probe"}, reservations=held)
    key = target_key("iscsi", IQN)
    groups = []
    for tag in range(1, tpgs + 1):
        tpg = tpg_key(key, tag)
        acls = []
        for number in range(initiators):
            acl = acl_key(tpg, initiator(number))
            acls.append(Acl(acl, {}, (MappedLun(mapped_lun_key(acl, 0), 0, "mapped"),)))
        portal = Portal(portal_key(tpg, f"0.0.0.0:{3259 + tag}"))
        groups.append(Tpg(tpg, {"rtpi": str(tag)}, (portal,),
                          (Lun(lun_key(tpg, 0), store.key, "link"),), tuple(acls)))
    return State((), (store,), (Target(key, {}, tuple(groups)),))


def registered(initiators: int, tpgs: int, all_tg_pt: bool = False) -> Reservations:
    """Every initiator registered through every TPG: with ALL_TG_PT by one key, else each by its
    own."""
    def key(number: int, tag: int) -> int:
        return (1 if all_tg_pt else tag) * 0x100 + number
    each = tuple(Registration(initiator(number), f"00023d{number:06x}", key(number, tag),
                              "iSCSI", IQN, tag, 0, 0, all_tg_pt)
                 for number in range(initiators) for tag in range(1, tpgs + 1))
    return Reservations(len(each) + 7, False, 5, 1, each)


def export(probe: bool) -> bytes:
    return documents.dumps(inhost.core().export(NAMES, probe=probe))


def held_by(data: bytes) -> Reservations:
    return documents.loads(data).state.backstores[0].reservations


@pytest.fixture(params=["oldest", "newest"])
def host(request: pytest.FixtureRequest, hosts: object) -> lab.Host:
    return hosts(request.param)[0]  # type: ignore[operator, no-any-return]


def test_which_port_a_registration_came_through(bed: lab.Lab, host: lab.Host) -> None:
    wanted = registered(2, 2)
    host.call(inhost.build, state(bed.shared, 2, 2, wanted))
    with pytest.raises(errors.CannotRepresent, match="--probe"):
        host.call(export, False)
    before = host.call(inhost.tree)
    assert held_by(host.call(export, True)) == wanted
    assert host.call(inhost.tree) == before


def test_all_target_ports_and_more_than_one_page(bed: lab.Lab, host: lab.Host) -> None:
    wanted = registered(70, 1, all_tg_pt=True)
    host.call(inhost.build, state(bed.shared, 70, 1, wanted))
    with pytest.raises(errors.CannotRepresent, match="only the first"):
        host.call(export, False)
    assert held_by(host.call(export, True)) == wanted
    # The APTPL file says the same where the device keeps one, and needs no probe.
    with pytest.raises(errors.InUse, match="can't be told"):
        host.call(inhost.remove, ("reserved",))
    host.call(inhost.remove, ("unclear",))
    kept = replace(wanted, aptpl=True)
    host.call(inhost.build, state(bed.shared, 70, 1, kept))
    assert held_by(host.call(export, False)) == kept


def test_what_was_restored_is_known_at_the_next_move(bed: lab.Lab, host: lab.Host) -> None:
    """Else a second move would need a probe, or lose ALL_TG_PT."""
    wanted = registered(3, 2, all_tg_pt=True)
    host.call(inhost.build, state(bed.shared, 3, 2, wanted))
    host.call(inhost.freeze)
    # Which of them hold on all ports is shown for the reservation's holder alone.
    with pytest.raises(errors.CannotRepresent, match="ALL_TG_PT of 5 registrations") as refused:
        host.call(export, False)
    assert "--probe" in str(refused.value) and "--allow all-tg-pt" in str(refused.value)
    document = host.call(export, True)
    host.call(inhost.remove, ("reserved",))
    host.call(inhost.import_, document)
    assert held_by(host.call(export, False)) == wanted

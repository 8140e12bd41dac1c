"""States which a property-based test has found, and shrunk, to break the product once."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from lio_handover.model.keys import (acl_key, alua_group_key, backstore_key, lu_group_key, lun_key,
                                     mapped_lun_key, target_key, tpg_key)
from lio_handover.model.objects import (DEFAULT_GROUP, Acl, AluaGroup, Backstore, LuGroup, Lun,
                                        MappedLun, Registration, Reservations, State, Target, Tpg)
from tests.properties import laws
from tests.support.states import SIZE, World, with_attribute

INITIATOR = "iqn.2026-11.org.example:i0"
WWN = "iqn.2026-11.org.example:a0"
NEXUS = "naa.5001405000000002"
WWPN = "naa.5001405000000001"
TPG = tpg_key(target_key("iscsi", WWN), 1)
STORE = backstore_key("fileio", "a0")
DEFAULT = alua_group_key(STORE, DEFAULT_GROUP)


def store(world: World, name: str = "a0", held: Reservations = Reservations()) -> Backstore:
    """A backstore as it is when it is fresh."""
    key = backstore_key("fileio", name)
    return Backstore(
        key, {"fd_dev_name": world.path(name), "fd_dev_size": str(SIZE)},
        {**world.fresh["backstore"], "wwn/vpd_unit_serial": f"serial-{name}"},
        (AluaGroup(alua_group_key(key, DEFAULT_GROUP), dict(world.fresh["alua_group"])),), held)


def served(world: World, *stores: Backstore) -> State:
    """One target that serves these backstores, its gate shut; one ACL maps the first."""
    luns = tuple(Lun(lun_key(TPG, number), one.key, "link", dict(world.fresh["lun"]))
                 for number, one in enumerate(stores))
    acl = acl_key(TPG, INITIATOR)
    return State((), stores, (Target(TPG[:3], dict(world.fresh["target"]), (Tpg(
        TPG, {**world.fresh["tpg:iscsi"], "rtpi": "1"}, (), luns,
        (Acl(acl, dict(world.fresh["acl"]), (MappedLun(
            mapped_lun_key(acl, 0), 0, "link", dict(world.fresh["mapped_lun"])),)),)),)),))


def registered(fabric: str = "iSCSI", initiator: str = INITIATOR, target: str = WWN
               ) -> Reservations:
    """One registration, made by one REGISTER without APTPL."""
    isid = "00023d000000" if fabric == "iSCSI" else ""
    return Reservations(1, registrations=(
        Registration(initiator, isid, 1, fabric, target, 1, 0, 0),))


def a_registration_without_aptpl(world: World) -> State:
    """PRgeneration becomes 2, and was then not known for what had been restored."""
    return served(world, store(world, held=registered()))


def authentication_and_none(world: World) -> State:
    """enable takes None out of AuthMethod."""
    state = served(world, store(world))
    for name, value in (("enable", "1"), ("param/AuthMethod", "CHAP,None")):
        state = with_attribute(state, TPG, name, value)
    return state


def a_state_of_an_explicit_group(world: World) -> State:
    """The kernel takes a state from the host only where ALUA is implicit, too."""
    state = with_attribute(served(world, store(world)), DEFAULT, "alua_access_state", "2")
    return with_attribute(state, DEFAULT, "alua_access_type", "2")


def limits_of_nothing(world: World) -> State:
    """emulate_tpu, written after a max_unmap_block_desc_count of 0, makes it 1."""
    state = served(world, store(world))
    for name, value in (("emulate_tpu", "1"), ("max_unmap_block_desc_count", "0")):
        state = with_attribute(state, STORE, f"attrib/{name}", value)
    return state


def unavailable_and_registered(world: World) -> State:
    """The APTPL bit was to be cleared by a REGISTER, which an unavailable port does not take."""
    return with_attribute(a_registration_without_aptpl(world), DEFAULT, "alua_access_state", "3")


def unavailable_with_interlock(world: World) -> State:
    """With UA_INTLCK_CTRL a unit attention is answered BUSY until REQUEST SENSE fetches it."""
    return with_attribute(unavailable_and_registered(world), STORE, "attrib/emulate_ua_intlck_ctrl",
                          "2")


def two_states_in_one_lu_group(world: World) -> State:
    """A state that is written to one member of an LU group is that of all."""
    one, other = (replace(each, attributes={**each.attributes, "alua_lu_gp": "lug"})
                  for each in (store(world, "a0"), store(world, "a1")))
    state = with_attribute(served(world, one, other), DEFAULT, "alua_access_state", "1")
    return replace(state, lu_groups=(LuGroup(lu_group_key("lug"), {"lu_gp_id": "7"}),))


def a_slow_transition(world: World) -> State:
    """Each change of the state takes trans_delay_msecs."""
    state = with_attribute(served(world, store(world)), DEFAULT, "alua_access_state", "1")
    return with_attribute(state, DEFAULT, "trans_delay_msecs", "30000")


def a_nexus_at_a_late_port(world: World) -> State:
    """Up to 6.1 ports are used up by links, and an unlink ends what the nexus has registered."""
    held = registered("loopback", NEXUS, WWPN)
    tpg = tpg_key(target_key("loopback", WWPN), 1)
    return State((), (store(world, held=held),), (Target(tpg[:3], dict(world.fresh["target"]), (
        Tpg(tpg, {**world.fresh["tpg:loopback"], "nexus": NEXUS, "rtpi": "5"}, (),
            (Lun(lun_key(tpg, 0), STORE, "link", dict(world.fresh["lun"])),)),)),))


def nexuses_in_another_order(world: World) -> State:
    """READ KEYS answers in the order of the links; a loopback's nexus can't come after those."""
    target = target_key("loopback", WWPN)
    tpgs, held = [], []
    for tag in (1, 0):
        tpg, nexus = tpg_key(target, tag), f"{NEXUS[:-1]}{tag + 2}"
        port = {} if world.has_rtpi else {"rtpi": str(tag + 1)}
        tpgs.append(Tpg(tpg, {**world.fresh["tpg:loopback"], "nexus": nexus, **port}, (),
                        (Lun(lun_key(tpg, 0), STORE, "link", dict(world.fresh["lun"])),)))
        held.append(replace(registered("loopback", nexus, WWPN).registrations[0], tpgt=tag))
    store_ = store(world, held=Reservations(2, True, 1, 1, tuple(held)))
    return State((), (store_,), (Target(target, dict(world.fresh["target"]), tuple(tpgs[::-1])),))


CASES: dict[str, Callable[[World], State]] = {one.__name__: one for one in (
    a_registration_without_aptpl, authentication_and_none, a_state_of_an_explicit_group,
    limits_of_nothing, unavailable_and_registered, unavailable_with_interlock,
    two_states_in_one_lu_group, a_slow_transition,
    a_nexus_at_a_late_port, nexuses_in_another_order)}


def hold() -> dict[str, tuple[str, float]]:
    """Import and remove each; its name → (what went wrong, seconds)."""
    bench = laws.Bench()
    found = {}
    for name, case in CASES.items():
        state = case(bench.world)
        began = time.monotonic()
        wrong = ""
        try:
            with bench.example():
                laws.import_and_remove(bench, lambda _strategy: state)
        except Exception as error:  # noqa: B902 - each case is tried
            wrong = f"{type(error).__name__}: {error}"
        found[name] = wrong, time.monotonic() - began
    return found

"""In which order a plan maps LUNs: READ KEYS answers in it, and REPORT LUNS in the reverse."""
from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Tuple

import pytest

from lio_handover.kernel.facts import Facts
from lio_handover.model.objects import Registration, Reservations, State
from lio_handover.plan.planner import plan
from lio_handover.plan.pr_order import nearest_reachable
from tests.support import samples

FACTS = Facts("6.12", "x", "/etc/target", (), ("iscsi", "vhost"))


def held_by(lun: int, *initiators: int) -> Reservations:
    """Registrations on one LUN in this order."""
    each = samples.registrations(max(initiators) + 1, lun).registrations
    return Reservations(len(initiators), registrations=tuple(each[one] for one in initiators))


def mapped(state: State) -> List[Tuple[int, int]]:
    """(initiator, LUN) in the order in which the plan maps them."""
    numbers: Dict[str, int] = {samples.initiator(number): number for number in range(9)}
    steps = [step.path.split("/") for step in plan(State(), state, FACTS).steps
             if step.slot == "link mapped LUN"]
    return [(numbers[words[4]], int(words[5][4:])) for words in steps]


def with_reservations(state: State, *held: Reservations) -> State:
    return replace(state, backstores=tuple(
        replace(store, reservations=one) for store, one in zip(state.backstores, held)))


def test_without_registrations_each_acl_maps_its_luns_by_number() -> None:
    assert mapped(samples.iscsi(luns=12, acls=2)) == [
        (who, lun) for who in (0, 1) for lun in range(12)]


def test_registrations_come_in_their_order_and_the_luns_of_each_acl_stay_in_theirs() -> None:
    # REPORT LUNS would answer in another order if 1's LUN 1 were simply mapped first.
    state = with_reservations(samples.iscsi(luns=3, acls=2), held_by(0, 0), held_by(1, 1, 0),
                              held_by(2, 0))
    found = mapped(state)
    assert found.index((1, 1)) < found.index((0, 1))
    for who in (0, 1):
        assert [lun for one, lun in found if one == who] == [0, 1, 2]


def test_where_both_cannot_be_kept_the_registrations_go_first() -> None:
    state = with_reservations(samples.iscsi(luns=2, acls=2), held_by(0, 0, 1), held_by(1, 1, 0))
    found = mapped(state)
    assert found.index((0, 0)) < found.index((1, 0)) and found.index((1, 1)) < found.index((0, 1))
    # This goes with ascending numbers …
    assert [lun for one, lun in found if one == 0] == [0, 1] == [
        lun for one, lun in found if one == 1]
    # … and this cannot: each waits for the other's second LUN.
    state = with_reservations(samples.iscsi(luns=2, acls=2), held_by(0, 1, 0), held_by(1, 0, 1))
    found = mapped(state)
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found.index((1, 0)) < found.index((0, 0)) and found.index((0, 1)) < found.index((1, 1))


# ── guests beside iSCSI initiators ───────────────────────────────────────────────────────────


def shared(*held: str) -> State:
    """A guest a and a guest b, each with a nexus of its own, and two iSCSI initiators 0 and 1 share
    two backstores; who is registered on each, in that order."""
    iscsi = samples.iscsi(luns=2, acls=2)
    guests = [samples.vhost(2, f"naa.500140500000000{name}", f"naa.500140500000001{name}")
              for name in "ab"]
    targets = [replace(guest.targets[0], tpgs=tuple(replace(tpg, luns=tuple(
        replace(lun, backstore=store.key) for lun, store in zip(tpg.luns, iscsi.backstores)))
        for tpg in guest.targets[0].tpgs)) for guest in guests]

    def registration(name: str, lun: int) -> Registration:
        if name.isdigit():
            return samples.registrations(2, lun).registrations[int(name)]
        return Registration(f"naa.500140500000001{name}", "", 1, "vhost",
                            f"naa.500140500000000{name}", 1, lun, lun)

    stores = tuple(replace(store, reservations=Reservations(
        len(who), aptpl=True, registrations=tuple(registration(name, lun) for name in who)))
        for lun, (store, who) in enumerate(zip(iscsi.backstores, held)))
    return replace(iscsi, backstores=stores, targets=(*iscsi.targets, *targets))


def restored(state: State) -> List[str]:
    """Who comes back on each backstore, in the order in which the plan makes nexuses and links."""
    there: Dict[str, List[str]] = {"0": [], "1": []}
    linked: Dict[str, List[str]] = {"a": [], "b": []}
    nexuses: List[str] = []
    for step in plan(State(), state, FACTS).steps:
        words = step.path.split("/")
        if step.slot == "link mapped LUN":
            there[words[5][-1]].append(words[4][-1])
        elif step.slot == "link LUN" and words[0] == "vhost":
            linked[words[1][-1]].append(words[4][-1])
            if words[1][-1] in nexuses:
                there[words[4][-1]].append(words[1][-1])
        elif words[0] == "vhost" and words[3:] == ["nexus"] and step.value.startswith(b"naa"):
            nexuses.append(words[1][-1])
            for lun in reversed(linked[words[1][-1]]):
                there[lun].append(words[1][-1])
    return ["".join(who for who in there[str(lun)] if any(
        who == registration.initiator[-1] for registration in store.reservations.registrations))
        for lun, store in enumerate(state.backstores)]


@pytest.mark.parametrize("held", [
    ("a0", "0a"), ("ab0", "0b"), ("0a1b", ""), ("0a", "b1a"), ("b0a1", "1b"), ("a", "0"),
    ("ba", "a0b"), ("01ab", "ba10"), ("10", "01")])
def test_guests_come_among_iscsi_initiators(held: Tuple[str, str]) -> None:
    state = shared(*held)
    nearest, notes = nearest_reachable(state)
    assert restored(state) == ["".join(registration.initiator[-1]
                                       for registration in store.reservations.registrations)
                               for store in nearest.backstores], "not what was promised"
    contradict = held in (("ba", "a0b"), ("01ab", "ba10"))
    assert (restored(state) != list(held)) == bool(notes) == contradict


def test_an_acl_that_maps_nothing_is_no_obstacle() -> None:
    """... where the order of guests and initiators contradicts itself."""
    state = shared("ba", "a0b")
    target = state.targets[0]
    acls = (*target.tpgs[0].acls, replace(target.tpgs[0].acls[0], mapped_luns=(), key=(
        *target.tpgs[0].acls[0].key[:-1], samples.initiator(7))))
    state = replace(state, targets=(replace(target, tpgs=(replace(
        target.tpgs[0], acls=acls),)), *state.targets[1:]))
    assert restored(state) == restored(shared("ba", "a0b"))

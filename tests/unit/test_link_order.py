"""In which order a plan maps LUNs: READ KEYS answers in it, and REPORT LUNS in the reverse."""
from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Tuple

from lio_handover.kernel.facts import Facts
from lio_handover.model.objects import Reservations, State
from lio_handover.plan.planner import plan
from tests.support import samples

FACTS = Facts("6.12", "x", "/etc/target", (), ("iscsi",))


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

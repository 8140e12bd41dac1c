"""In which order a plan says what an ALUA group is: a state is taken only while it may be."""
from __future__ import annotations

from dataclasses import replace

import pytest

from lio_handover.kernel.facts import Facts
from lio_handover.model.objects import LuGroup, State
from lio_handover.plan.planner import plan
from tests.support import samples

STORE = samples.backstore(groups=("near",))
FACTS = Facts("6.12", "x", "/etc/target", ("fileio_0",), (), placed={STORE.key: "fileio_0"})
HERE = State((), (STORE,))


def near(**values: str) -> State:
    """The backstore, with this said of its group."""
    group, = STORE.alua_groups
    return State((), (replace(STORE, alua_groups=(
        replace(group, attributes={**group.attributes, **values}),)),))


def written(have: State, want: State) -> list[str]:
    """``name=value`` of what is written of groups, in order; what is ensured twice, once."""
    return list(dict.fromkeys(
        f"{step.path.rpartition('/')[2]}={step.value.decode().strip()}"
        for step in plan(have, want, FACTS).steps
        if "/alua/" in step.path and step.value or step.path.endswith("alua_lu_gp")))


@pytest.mark.parametrize("have", [HERE, State()], ids=["changed", "new"])
def test_a_state_goes_before_what_forbids_it(have: State) -> None:
    found = written(have, near(alua_access_state="2", alua_access_status="1",
                               alua_access_type="2", alua_support_standby="0"))
    order = ["alua_access_state=2", "alua_access_status=1", "alua_access_type=2",
             "alua_support_standby=0"]
    assert [one for one in found if one in order] == order


@pytest.mark.parametrize("have", [HERE, State()], ids=["changed", "new"])
def test_the_state_that_goes_by_a_map_needs_another_type_first(have: State) -> None:
    found = written(have, near(alua_access_state="4"))
    assert [one for one in found if one.startswith(("alua_access_state", "alua_access_type"))] == [
        "alua_access_type=1", "alua_access_state=4", "alua_access_type=3"]


def test_a_backstore_joins_its_lu_group_with_its_states() -> None:
    group = LuGroup(("lu_group", "shelf"), {"lu_gp_id": "7"})
    store, = near(alua_access_state="1").backstores
    store = replace(store, attributes={**store.attributes, "alua_lu_gp": "shelf"})
    found = written(State(), State((group,), (store,)))
    assert found.index("alua_access_state=1") < found.index("alua_lu_gp=shelf")

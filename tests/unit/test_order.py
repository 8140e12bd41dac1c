"""The one order: what waits for the window says why, and nothing else is in it."""
from __future__ import annotations

from dataclasses import replace

from lio_handover.kernel.facts import Facts
from lio_handover.model.objects import State
from lio_handover.plan.order import ACTIVATE, ORDER, PLACE
from lio_handover.plan.planner import plan
from tests.support import samples

FACTS = Facts("6.12", "x", "/etc/target", (), ("iscsi", "vhost", "loopback"), True, {})


def test_what_has_to_wait_says_why() -> None:
    waiting = [slot for slot in ORDER if slot.phase == ACTIVATE]
    assert len(waiting) > 10
    assert [slot.name for slot in waiting if not slot.why] == []
    # Once the source has let go, nothing is left of what could have been done before.
    assert [slot.phase for slot in ORDER[PLACE[waiting[0].name]:]] == [ACTIVATE] * len(waiting)


def test_what_can_be_done_before_does_not_wait() -> None:
    """With a LUN more and nothing reserved, the window has its link, its mappings and its cache
    more, and no other step."""
    def window(luns: int) -> list[str]:
        state = samples.iscsi(luns=luns, acls=2)
        return [step.slot for step in plan(State(), state, FACTS).activate]

    more = window(4)
    for slot in window(3):
        more.remove(slot)
    assert sorted(more) == ["drop cache", "link LUN", "link mapped LUN", "link mapped LUN"]


def test_a_new_object_is_told_only_what_it_does_not_have() -> None:
    state = samples.iscsi(luns=1, acls=1)
    store, = state.backstores
    usual = replace(store, attributes={
        **store.attributes, "attrib/emulate_tpu": "0", "attrib/emulate_rsoc": "1"})
    odd = replace(usual, attributes={**usual.attributes, "attrib/emulate_caw": "0",
                                     "attrib/emulate_model_alias": "1"})

    def writes(one: State) -> set[str]:
        return {step.path.partition("/disk0/")[2] for step in plan(State(), one, FACTS).steps
                if step.op == "write" and "/disk0/" in step.path}

    assert writes(replace(state, backstores=(usual,))) == {
        "control", "enable", "wwn/vpd_unit_serial"}
    # The alias writes the product, so that nobody knows it any more.
    assert writes(replace(state, backstores=(odd,))) == {
        "control", "enable", "wwn/vpd_unit_serial", "attrib/emulate_caw",
        "attrib/emulate_model_alias", "wwn/product_id"}

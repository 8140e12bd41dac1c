"""The state of a host after the stage of a plan: the wanted state without the later steps' part."""
from __future__ import annotations

from dataclasses import replace
from typing import Sequence, Set

from ..model.objects import NO_RESERVATIONS, Acl, Key, Lun, MappedLun, State, Tpg
from .plan import ACQUIRE, FLUSH, LINK, Plan, Step

_LINKS = ("link LUN", "link mapped LUN")
_NEXUSES = ("nexus", "late nexus", "last nexus")


def early(the_plan: Plan) -> Plan:
    """A plan that ends with its stage, without the steps that are useless there: the cache is
    dropped only after the source has let go, and without links there is nothing more to verify."""
    steps = [step for step in the_plan.steps if step.op != FLUSH]
    if [step.slot for step in steps[-2:]] == ["verify stage", "verify"]:
        steps.pop()
    return replace(the_plan, steps=tuple(steps))


def to_link(steps: Sequence[Step]) -> Set[Key]:
    """The LUNs and mapped LUNs that these steps link."""
    return {step.about for step in steps if step.op == LINK and step.slot in _LINKS}


def staged(want: State, steps: Sequence[Step], has_rtpi: bool) -> State:
    """``want`` without the results of ``steps`` in the window: late storage, links and the
    attributes that need them, nexuses, reservations.  Gates are as wanted.  ``has_rtpi``: whether
    the kernel has tpgt_N/rtpi; up to 6.1 the links number the ports instead."""
    later = {step.about for step in steps if step.op == ACQUIRE}
    links = to_link(steps)
    nexuses = {step.about for step in steps if step.slot in _NEXUSES}

    def staged_lun(lun: Lun) -> Lun:
        return Lun(lun.key) if lun.key in links else lun

    def staged_mapped(mapped_lun: MappedLun) -> MappedLun:
        return MappedLun(mapped_lun.key) if mapped_lun.key in links else mapped_lun

    def staged_acl(acl: Acl) -> Acl:
        return replace(acl, mapped_luns=tuple(map(staged_mapped, acl.mapped_luns)))

    def staged_tpg(tpg: Tpg) -> Tpg:
        attributes = dict(tpg.attributes)
        if tpg.key in nexuses:
            attributes.pop("nexus", None)
        if not has_rtpi and any(lun.key in links for lun in tpg.luns):
            attributes.pop("rtpi", None)
        return replace(tpg, attributes=attributes, luns=tuple(map(staged_lun, tpg.luns)),
                       acls=tuple(map(staged_acl, tpg.acls)))

    return replace(
        want, backstores=tuple(replace(backstore, reservations=NO_RESERVATIONS)
                               for backstore in want.backstores if backstore.key not in later),
        targets=tuple(replace(target, tpgs=tuple(map(staged_tpg, target.tpgs)))
                      for target in want.targets))

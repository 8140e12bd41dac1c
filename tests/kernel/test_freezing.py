"""A freeze is a plan: what it does, and in which order."""
from __future__ import annotations

import os
from dataclasses import replace

import pytest

from lio_handover import errors
from lio_handover.execute import step_runner
from lio_handover.kernel.facts import Facts
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import State
from lio_handover.plan.planner import freezing
from tests import lab
from tests.kernel.test_preflight import small
from tests.support import inhost, samples


def test_data_is_flushed_when_nothing_writes_any_more() -> None:
    have = samples.iscsi(luns=2)
    target, = have.targets
    tpg, = target.tpgs
    shut = replace(have, targets=(replace(target, tpgs=(replace(
        tpg, attributes={**tpg.attributes, "enable": "0"}),)),))
    steps = freezing(have, shut, Facts(fabrics=("iscsi",), placed={
        one.key: one.hba for one in have.backstores})).steps
    disks = ["/srv/disk0.img", "/srv/disk1.img"]
    assert [(step.op, step.path) for step in steps] == [
        *(("open", path) for path in disks),
        ("write", f"iscsi/{samples.IQN}/tpgt_1/enable"), ("idle", ""),
        *(("sync", path) for path in disks)]
    nothing = State(backstores=(replace(have.backstores[0], key=backstore_key("rd_mcp", "ram"),
                                        parameters={"rd_pages": "1", "rd_nullio": "1"}),))
    assert [step.op for step in freezing(nothing, nothing, Facts()).steps] == ["idle"]


def busy_freeze() -> tuple[str, list[str], int]:
    """A freeze of a target whose counter of commands never stands still: what it says, what it
    changed, how many descriptors it left open."""
    class Busy(inhost.Stopping):
        looks = 0

        def read(self, path: str) -> str:
            if path.endswith("num_cmds"):
                self.looks += 1
                return f"{self.looks}\n"
            return super().read(path)

    step_runner.IDLE_SECONDS = 0.001
    before, files = inhost.tree(), len(os.listdir("/proc/self/fd"))
    try:
        inhost.core(Busy(0, "before")).freeze([("iscsi", "iqn.2003-01.org.example:small")])
    except errors.StillRunning as error:
        return (str(error), inhost.differences(before, inhost.tree()),
                len(os.listdir("/proc/self/fd")) - files)
    return "", [], 0


def test_a_target_that_is_never_idle_is_not_frozen(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, small(bed.shared, {}))
    said, left, files = stable.call(busy_freeze)
    assert said.startswith("commands are still being executed although the gates are shut; ")
    assert "the gates are as they were" in said and left == [] and files == 0


@pytest.mark.parametrize("fails, time, told", [
    ("flush", 1, "nothing was changed"), ("flush", 2, "the gates are as they were"),
    pytest.param("opened", 1, "nothing was changed", marks=pytest.mark.full)])
def test_data_that_is_not_on_the_storage_keeps_the_gates_open(
        fails: str, time: int, told: str, bed: lab.Lab, stable: lab.Host) -> None:
    """Data is flushed while it is served, and once more behind the gates."""
    stable.call(inhost.build, small(bed.shared, {}))
    said, left = stable.call(failing_freeze, fails, time)
    assert "the disk is gone" in said and told in said and left == []


def failing_freeze(name: str, time: int) -> tuple[str, list[str]]:
    inhost.fail_flush(name, time)
    return inhost.refused_freeze()

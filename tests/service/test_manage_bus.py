"""Targets created, changed and deleted by the service as it is shipped, on a host's system bus."""
from __future__ import annotations

import pytest

from lio_handover import errors
from tests import lab
from tests.conftest import Pool
from tests.support import inmanagebus
from tests.support.inbus import Service
from tests.support.inmanage import IQN, ME


@pytest.fixture
def service(bed: lab.Lab, _pool: Pool) -> Service:
    """A host of its own: what is installed there stays."""
    service = Service(_pool.take("stable", name="bus")[0])
    service.start()
    return service


def test_each_method_of_each_object(service: Service, bed: lab.Lab) -> None:
    assert service.call(inmanagebus.cells, str(bed.shared), timeout=120) == []
    told = service.call(inmanagebus.quickly, str(bed.shared), timeout=120)
    assert [code for code, _said in told] == [
        0, errors.TargetDiffers.code, 0, 0, 0, None, errors.InUse.code], told
    assert all(said.count("\n") == 1 for code, said in told if code is not None), told
    assert "created /backstores/fileio/disk0: " in told[0][1]
    assert "is there already; nothing was changed" in told[1][1]
    assert "secretsecret12" not in str(told)


def test_who_listens_hears_what_others_make(service: Service, bed: lab.Lab) -> None:
    objects = sorted(["fileio/disk0", f"iscsi/{IQN}", f"iscsi/{IQN}/tpg1/{ME}"])
    came, went = service.call(inmanagebus.heard, str(bed.shared), timeout=60)
    assert [name for name in came if "/" in name] == objects
    assert [name for name in went if "/" in name] == objects


def test_the_example_does_what_it_says(service: Service, bed: lab.Lab) -> None:
    told = service.call(inmanagebus.example, str(bed.shared), timeout=60).splitlines()
    assert [line.split()[0] for line in told] == ["made", "lets", "grew", "InUse", "deleted"], told


def test_a_file_by_descriptor(service: Service, bed: lab.Lab) -> None:
    told = service.call(inmanagebus.apply, str(bed.shared), timeout=60)
    assert told["error"] == "" and told["first"]["changes"] == 1 and not told["first"]["same"], told
    assert told["again"]["same"] and told["again"]["changes"] == 0

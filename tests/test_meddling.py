"""What somebody else does to targets beside the service: found when it happens, and put right."""
from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from lio_handover.transitions import DESTINATION, SOURCE
from tests import byfile, inhandover, inhost, inmeddling, inours, lab
from tests.conftest import HostsOf, Pool
from tests.inbus import Service
from tests.inhandover import TARGET
from tests.test_engine import Two
from tests.test_ours import OPEN, One, odd

ROLES = ["newest", *(pytest.param(role, marks=pytest.mark.full) for role in ("oldest", "stable"))]


@pytest.mark.parametrize("role", ROLES)
def test_what_the_kernel_tells_of_its_objects(bed: lab.Lab, hosts: HostsOf, role: str) -> None:
    host, = hosts(role)
    assert host.call(inmeddling.facts, str(bed.shared / f"{uuid.uuid4()}.img")) == {
        "stays": True, "another": True, "made after": True,
        "target": ["create iqn.2026-11.org.example:told"], "lun": ["create lun_0"],
        "link": ["create told"], "enable": ["write enable"], "read": [],
        "unlink": ["delete lun_0", "delete told", "gone"],
        "rmdir": ["delete iqn.2026-11.org.example:told", "delete tpgt_1", "gone"]}


@pytest.fixture
def ours(bed: lab.Lab, _pool: Pool) -> Iterator[One]:
    """A host that runs the service, and whose target lio-handover restores."""
    service = Service(_pool.take("newest", name="bus2")[0])
    made = One(bed, service.host, odd(bed.shared))
    service.start(program=inmeddling.LOGGED)  # which has the host's disk as it is now
    made.verb("adopt")
    made.host.call(inmeddling.wait_known)
    yield made
    print(made.host.call(inmeddling.said))
    made.host.kill()


def test_what_is_cleared_and_restored_under_us_is_whole_again(ours: One) -> None:
    """targetcli saved it, and its unit's two commands are run by hand."""
    before, host = ours.state(), ours.host
    host.call(inhandover.save)
    host.call(inmeddling.restart_targetcli)
    took = host.call(inmeddling.wait, "whole", before)
    print(f"whole again {took:.2f} s after targetctl")
    assert took < 10


def test_what_targetcli_adds_is_in_the_copy(ours: One) -> None:
    host = ours.host
    host.call(inours.add_lun, str(ours.bed.shared / "added.img"))
    took = host.call(inmeddling.wait, "adopted_with", 3)
    print(f"kept {took:.2f} s after it was added")
    assert ours.who()[2] == ()


def test_what_was_given_away_is_shut_and_stays_out_of_the_file(bed: lab.Lab, _pool: Pool) -> None:
    """Opened by hand; saved by targetctl, then restored; an older file is put back and restored."""
    service = Service(_pool.take("newest", name="bus2")[0])
    a = service.host
    a.call(inhost.build, inhandover.state(bed.shared))
    old = a.call(inmeddling.save_file_of_open)
    service.start(program=inmeddling.LOGGED)
    for verbs, here in ((("freeze", "export"), True), (("remove",), False)):
        for verb in verbs:
            a.call(byfile.verb, verb)
        if here:
            a.call(inmeddling.open_gate)
            print("shut again after", a.call(inmeddling.wait, "shut"))
            a.call(inhandover.save)
            print("out of the file after", a.call(inmeddling.wait, "unsaved"))
        opened, said = a.call(inmeddling.never_open, 1.0, "restore")
        assert opened == 0, said
        a.call(inhandover.save_file, old)
        print("out of the file after", a.call(inmeddling.wait, "unsaved"))
        opened, said = a.call(inmeddling.never_open, 1.0, "restore")
        assert opened == 0, said
    print(a.call(inmeddling.said))


def test_what_is_removed_under_us_is_told_and_left_so(ours: One) -> None:
    host, state = ours.host, ours.state()
    host.call(inmeddling.targetctl, "clear")
    host.call(inmeddling.wait, "meddled")
    text = host.call(inmeddling.meddled)
    assert text.startswith(f"{TARGET} is not here any more: somebody else removed or cleared it")
    assert text in host.call(inmeddling.status) and text == host.call(inmeddling.bus_error)
    assert text in host.call(inmeddling.said) and ours.gates() == {}
    assert host.call(inours.restore, TARGET)[0] == 0
    host.call(inmeddling.wait, "whole", state)
    assert host.call(inmeddling.meddled) == host.call(inmeddling.bus_error) == ""

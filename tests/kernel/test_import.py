"""Import and remove, on real kernels: all of it or nothing, and again and again the same."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.model.objects import LuGroup, Reservations, State
from tests import lab
from tests.conftest import HostsOf
from tests.support import inhost, samples

SIZE = 8 * lab.MiB


def rich(shared: Path) -> State:
    """Three LUNs, two of them reserved, ACLs with CHAP, ALUA groups, an LU group."""
    paths = [str(shared / "zero.img"), str(shared / "one.img"), "/dev/ubda"]
    for path in paths[:2]:
        Path(path).write_bytes(b"\0" * SIZE)
    state = samples.iscsi(luns=3, acls=3, chap=True, registrants=2, groups=("g1", "g2"),
                          paths=paths, portals=("0.0.0.0:3260",))
    zero, one, two = (replace(store, hba="") for store in state.backstores)
    zero = replace(zero, parameters={**zero.parameters, "fd_dev_size": str(SIZE)},
                   attributes={**plain(zero.attributes), "alua_lu_gp": "lug"})
    kept = samples.registrations(2, 1, kind=8, aptpl=True)
    one = replace(one, parameters={**one.parameters, "fd_dev_size": str(SIZE)},
                  attributes=plain(one.attributes), reservations=replace(kept, generation=2))
    two = replace(two, key=("backstore", "iblock", "disk2"), parameters={"udev_path": "/dev/ubda"},
                  attributes={"wwn/vpd_unit_serial": "disk2"}, alua_groups=())
    target, = state.targets
    tpg, = target.tpgs
    luns = (*tpg.luns[:2], replace(tpg.luns[2], backstore=two.key, attributes={}))
    return State((LuGroup(("lu_group", "lug"), {"lu_gp_id": "7"}),), (zero, one, two),
                 (replace(target, tpgs=(replace(tpg, luns=luns),)),))


def plain(attributes: object) -> dict[str, str]:
    """What every file can do: no discard, limits as the host gives them."""
    assert isinstance(attributes, dict)
    return {name: value for name, value in attributes.items()
            if name.startswith("wwn/") or name == "attrib/is_nonrot"}


@pytest.fixture
def document(bed: lab.Lab, hosts: HostsOf, request: pytest.FixtureRequest) -> bytes:
    """A frozen document of ``rich``, from a source of the destination's kernel."""
    source = hosts(request.param, request.param)[0]
    source.call(inhost.build, rich(bed.shared))
    source.call(inhost.freeze)
    return source.call(inhost.export)


ROLES = pytest.mark.parametrize("document", lab.ROLES, indirect=True)
NEWEST = pytest.mark.parametrize("document", [
    pytest.param(role, marks=[] if role == "newest" else [pytest.mark.full])
    for role in lab.ROLES], indirect=True)


@NEWEST
@pytest.mark.parametrize("how", ["before", *(pytest.param(how, marks=pytest.mark.full)
                                             for how in ("after", "stop"))])
def test_an_import_stopped_anywhere_leaves_nothing(
        document: bytes, hosts: HostsOf, how: str, request: pytest.FixtureRequest) -> None:
    role = request.node.callspec.params["document"]
    destination = hosts(role, role)[1]
    points, wrong = destination.call(inhost.stopped_everywhere, "import", document, how,
                                     timeout=280)
    print(f"{points} points")
    assert not wrong
    assert points > 80
    destination.call(inhost.verify, document)


@pytest.mark.parametrize("document", ["newest"], indirect=True)
def test_a_command_interrupted_anywhere_leaves_nothing(document: bytes, hosts: HostsOf) -> None:
    destination = hosts("newest", "newest")[1]
    points, wrong = destination.call(inhost.interrupted_everywhere, document, timeout=280)
    print(f"{points} points")
    assert not wrong
    assert points > 80
    destination.call(inhost.verify, document)


@NEWEST
def test_a_removal_stopped_anywhere_leaves_all(
        document: bytes, hosts: HostsOf, request: pytest.FixtureRequest) -> None:
    role = request.node.callspec.params["document"]
    destination = hosts(role, role)[1]
    destination.call(inhost.import_, document)
    points, wrong = destination.call(inhost.stopped_everywhere, "remove", document, "before",
                                     timeout=280)
    print(f"{points} points")
    assert not wrong
    assert points > 20


@ROLES
def test_moves_there_and_back_change_nothing(document: bytes, hosts: HostsOf,
                                             request: pytest.FixtureRequest) -> None:
    role = request.node.callspec.params["document"]
    here, there = hosts(role, role)
    first = documents.state_bytes(documents.loads(document))
    moving = document
    for _ in range(4):
        there.call(inhost.import_, moving)
        here.call(inhost.remove, ("reserved",))
        there.call(inhost.freeze)
        moving = there.call(inhost.export)
        assert documents.state_bytes(documents.loads(moving)) == first
        here, there = there, here
    assert documents.loads(moving).state.backstores[0].reservations != Reservations()


def test_a_thaw_after_an_export_has_to_be_meant(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, rich(bed.shared))
    stable.call(inhost.freeze)
    stable.call(inhost.thaw, ())
    stable.call(inhost.freeze)
    stable.call(inhost.export)
    with pytest.raises(errors.InUse, match="another host may serve it"):
        stable.call(inhost.thaw, ())
    stable.call(inhost.thaw, ("exported",))


def test_what_is_there_already_is_not_touched(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, rich(bed.shared))
    stable.call(inhost.freeze)
    document = stable.call(inhost.export)
    stable.call(inhost.thaw)
    before = stable.call(inhost.tree)
    assert stable.call(inhost.import_, document).writes == 0
    assert stable.call(inhost.tree) == before

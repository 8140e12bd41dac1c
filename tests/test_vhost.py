"""A vhost target moves between kernels that have the fabric, with all that a guest can ask."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import document as documents
from lio_handover.document import lun_key, tpg_key
from lio_handover.initiator import Result, commands, vhost
from lio_handover.model import Backstore, Lun, State, Target, Tpg, backstore_key, target_key
from tests import inhost, lab
from tests.conftest import HostsOf
from tests.lab.inside import TARGET

WWPN = "naa.5001405abcdef012"
NEXUSES = ("naa.5001405000000001", "naa.5001405000000002")
TYPES = (1, 3, 5, 6, 7, 8)
SIZE = 4 * lab.MiB
KINDS = ("vhost-oldest", "vhost-newest")

pytestmark = pytest.mark.timeout(600)


def state(shared: Path, luns: int, tpgs: int = 2) -> State:
    """A WWPN whose TPGs, with a nexus each, all export the same disks."""
    stores = []
    for number in range(luns):
        path = shared / f"disk{number}.img"
        path.write_bytes(b"\0" * SIZE)
        stores.append(Backstore(backstore_key("fileio", f"disk{number}"),
                                {"fd_dev_name": str(path), "fd_dev_size": str(SIZE)},
                                {"wwn/vpd_unit_serial": f"0000-{number}"}))
    key = target_key("vhost", WWPN)
    groups = []
    for number in range(tpgs):
        tpg = tpg_key(key, number + 1)
        # Kernels with an rtpi file give a vhost port none unless told.
        groups.append(Tpg(tpg, {"nexus": NEXUSES[number], "rtpi": str(number + 1)}, luns=tuple(
            Lun(lun_key(tpg, at), store.key, "link") for at, store in enumerate(stores))))
    return State((), tuple(stores), (Target(key, {}, tuple(groups)),))


def reserve(luns: int) -> None:
    """The first nexus reserves LUN n with the n-th type; the other is registered on every third,
    and the first registers again, so that PRgeneration runs ahead."""
    with vhost.Endpoint(WWPN) as endpoint:
        def do(lun: int, tpgt: int, command: commands.Command) -> None:
            execute = endpoint.unit(lun, tpgt).execute
            commands.drain(execute)
            result = execute(*command)
            assert result.good, (lun, tpgt, result)
        for lun in range(luns):
            key, aptpl = 0x100 + lun, lun % 2 == 1
            if lun % 3 == 0:
                do(lun, 2, commands.register(0, 0x200 + lun, aptpl))
            do(lun, 1, commands.register(0, 1, aptpl))
            do(lun, 1, commands.register(1, key, aptpl))
            do(lun, 1, commands.reserve(key, TYPES[lun % 6]))
            for tpgt in (1, 2):
                commands.drain(endpoint.unit(lun, tpgt).execute)


def fingerprints(luns: int) -> dict[tuple[int, int], dict[str, bytes]]:
    with vhost.Endpoint(WWPN) as endpoint:
        return {(tpgt, lun): commands.fingerprint(endpoint.unit(lun, tpgt).execute)
                for tpgt in (1, 2) for lun in range(luns)}


def foreign_write(luns: int) -> list[int]:
    """The status that the second nexus gets for a write, LUN by LUN."""
    def write(lun: int) -> Result:
        return endpoint.unit(lun, 2).execute(*commands.write_10(8, b"x" * 512))
    with vhost.Endpoint(WWPN) as endpoint:
        return [write(lun).status for lun in range(luns)]


def foreign_nexus() -> None:
    """As rtslib does when it lists a TPG without a nexus."""
    (TARGET / "vhost" / WWPN / "tpgt_1/nexus").write_text("naa.5001405ffffffffe")


@pytest.mark.parametrize("luns", [1, 3, 8])
@pytest.mark.parametrize("roles", [(a, b) for a in KINDS for b in KINDS], ids="-to-".join)
def test_a_guest_can_not_tell(roles: tuple[str, str], luns: int, bed: lab.Lab,
                              hosts: HostsOf) -> None:
    source, destination = hosts(*roles)
    source.call(inhost.build, state(bed.shared, luns))
    source.call(reserve, luns)
    before = source.call(fingerprints, luns, timeout=120)
    refused = source.call(foreign_write, luns)
    assert refused.count(0x18) >= luns * 2 // 3
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    assert documents.loads(document).frozen
    destination.call(inhost.import_, document, timeout=120)
    destination.call(inhost.verify, document)
    after = destination.call(fingerprints, luns, timeout=120)
    assert {where: explained(one, roles) for where, one in after.items()} == {
        where: explained(one, roles) for where, one in before.items()}
    assert destination.call(foreign_write, luns) == refused
    source.call(inhost.remove, ("reserved",))


def explained(one: dict[str, bytes], roles: tuple[str, str]) -> dict[str, bytes]:
    """Without what differs between these kernels by the kernels' own doing."""
    return one


@pytest.mark.parametrize("role", KINDS)
def test_an_import_stopped_anywhere_leaves_nothing(role: str, bed: lab.Lab,
                                                   hosts: HostsOf) -> None:
    source, destination = hosts(role, role)
    source.call(inhost.build, state(bed.shared, 2))
    source.call(reserve, 2)
    document = source.call(inhost.export)
    points, wrong = destination.call(inhost.stopped_everywhere, "import", document, "before",
                                     timeout=400)
    print(f"{points} points")
    assert not wrong
    assert points > 40


@pytest.fixture
def served(bed: lab.Lab, hosts: HostsOf) -> Iterator[lab.Host]:
    host, = hosts("vhost-newest")
    host.call(inhost.build, state(bed.shared, 1))
    yield host


def attached_export() -> tuple[bool, str]:
    """(whether an export says frozen, why a freeze is refused) while a guest is attached."""
    with vhost.occupy(WWPN):
        frozen = documents.loads(inhost.export()).frozen
        try:
            inhost.freeze()
        except Exception as error:
            return frozen, f"{type(error).__name__}: {error}"
    return frozen, ""


def test_a_target_with_a_guest_is_not_frozen(served: lab.Host) -> None:
    frozen, why = served.call(attached_export)
    assert not frozen
    assert why.startswith("InUse") and "guest is attached" in why
    served.call(inhost.freeze)
    assert documents.loads(served.call(inhost.export)).frozen
    assert replace(documents.loads(served.call(inhost.export))).state.targets

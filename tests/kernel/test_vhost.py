"""A vhost target moves between kernels that have the fabric, with all that a guest can ask."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.kernel.configfs import Configfs
from lio_handover.model.keys import backstore_key, lun_key, target_key, tpg_key
from lio_handover.model.objects import Backstore, Lun, PrType, State, Target, Tpg
from lio_handover.scsi import Result, cdb, vhost
from lio_handover.scsi.fingerprint import drain, fingerprint
from tests import lab
from tests.conftest import HostsOf
from tests.lab import qemu
from tests.lab.differences import Difference, reason
from tests.lab.inside import TARGET
from tests.support import inhost

WWPN = "naa.5001405abcdef012"
OTHER = "naa.5001405abcdef0aa"      # which the destination serves already
NEXUSES = ("naa.5001405000000001", "naa.5001405000000002")
TYPES = tuple(map(int, PrType))
SIZE = 4 * lab.MiB
KINDS = ("vhost-oldest", "vhost-newest")

pytestmark = pytest.mark.timeout(600)


def state(shared: Path, luns: int, more: Mapping[str, str] = {}, wwpn: str = WWPN,
          nexuses: Sequence[str] = NEXUSES, name: str = "disk") -> State:
    """A WWPN whose TPGs, with a nexus each, all export the same disks: files, and where there are
    several, the shared disk as the last."""
    stores = []
    for number in range(luns):
        attributes = {"wwn/vpd_unit_serial": f"0000-{name}-{number}", **more}
        if number and number == luns - 1:
            stores.append(Backstore(backstore_key("iblock", name), {"udev_path": qemu.DISK},
                                    attributes))
            continue
        path = shared / f"{name}{number}.img"
        path.write_bytes(b"\0" * SIZE)
        stores.append(Backstore(backstore_key("fileio", f"{name}{number}"),
                                {"fd_dev_name": str(path), "fd_dev_size": str(SIZE)}, attributes))
    key = target_key("vhost", wwpn)
    groups = []
    for number, nexus in enumerate(nexuses, 1):
        tpg = tpg_key(key, number)
        # Kernels with an rtpi file give a vhost port none unless told.
        groups.append(Tpg(tpg, {"nexus": nexus, "rtpi": str(number)}, luns=tuple(
            Lun(lun_key(tpg, at), store.key, "link") for at, store in enumerate(stores))))
    return State((), tuple(stores), (Target(key, {}, tuple(groups)),))


def reserve(luns: int) -> None:
    """The first nexus reserves LUN n with the n-th type; the other is registered on every third,
    and the first registers again, so that PRgeneration runs ahead."""
    with vhost.Endpoint(WWPN) as endpoint:
        def do(lun: int, tpgt: int, command: cdb.Command) -> None:
            execute = endpoint.unit(lun, tpgt).execute
            drain(execute)
            result = execute(*command)
            assert result.good, (lun, tpgt, result)
        for lun in range(luns):
            key, aptpl = 0x100 + lun, lun % 2 == 1
            if lun % 3 == 0:
                do(lun, 2, cdb.register(0, 0x200 + lun, aptpl))
            do(lun, 1, cdb.register(0, 1, aptpl))
            do(lun, 1, cdb.register(1, key, aptpl))
            do(lun, 1, cdb.reserve(key, TYPES[lun % 6]))
            for tpgt in (1, 2):
                drain(endpoint.unit(lun, tpgt).execute)


def fingerprints(luns: int, wwpn: str = WWPN, tpgs: Sequence[int] = (1, 2)
                 ) -> dict[tuple[int, int], dict[str, bytes]]:
    with vhost.Endpoint(wwpn) as endpoint:
        return {(tpgt, lun): fingerprint(endpoint.unit(lun, tpgt).execute)
                for tpgt in tpgs for lun in range(luns)}


def foreign_write(luns: int) -> list[int]:
    """The status that the second nexus gets for a write, LUN by LUN."""
    def write(lun: int) -> Result:
        return endpoint.unit(lun, 2).execute(*cdb.write_10(8, b"x" * 512))
    with vhost.Endpoint(WWPN) as endpoint:
        return [write(lun).status for lun in range(luns)]


def import_with_a_foreign_nexus(data: bytes) -> None:
    """As rtslib does when it lists a TPG without a nexus: it makes one, at the worst moment."""
    class Meddled(Configfs):
        times = 3

        def write(self, path: str, data: bytes) -> None:
            if path.endswith("/nexus") and "vhost" in path and self.times:
                self.times -= 1
                try:
                    (TARGET / path).write_text("naa.5001405ffffffffe")
                except FileExistsError:
                    pass
            super().write(path, data)
    one = inhost.core(Meddled())
    one.import_(one.ready(documents.loads(data)))


#: Every type of reservation where the kernels differ, and three of them where they are the same;
#: the other numbers of LUNs are of --full.
PAIRS = [pytest.param((a, b), luns, id=f"{a}-to-{b}-{luns}",
                      marks=[] if luns == (3 if a == b else 8) else pytest.mark.full)
         for a in KINDS for b in KINDS for luns in (8, 3, 1)]


@pytest.mark.parametrize("roles, luns", PAIRS)
def test_a_guest_can_not_tell(roles: tuple[str, str], luns: int, bed: lab.Lab,
                              hosts: HostsOf) -> None:
    source, destination = hosts(*roles)
    # The oldest kernel has no REPORT SUPPORTED OPCODES: what says more can't go there.
    more = {"attrib/emulate_rsoc": "0"} if "vhost-oldest" in roles[1:] else {}
    source.call(inhost.build, state(bed.shared, luns, more if roles[0] != roles[1] else {}))
    source.call(reserve, luns)
    before = source.call(fingerprints, luns, timeout=120)
    refused = source.call(foreign_write, luns)
    assert refused.count(0x18) >= luns * 2 // 3
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    assert documents.loads(document).frozen
    destination.call(inhost.build, state(bed.shared, 1, {}, OTHER, ["naa.5001405000000009"],
                                         "other"))
    destination.call(fingerprints, 1, OTHER, [1])       # it is told once of its LUN
    others = destination.call(fingerprints, 1, OTHER, [1])
    destination.call(inhost.import_, document, timeout=120)
    destination.call(inhost.verify, document)
    after = destination.call(fingerprints, luns, timeout=120)
    found = [Difference(NEXUSES[tpgt - 1], lun, page, before[tpgt, lun].get(page), one.get(page),
                        tpgt == 2 and refused[lun] == 0x18)
             for (tpgt, lun), one in after.items() for page in {**before[tpgt, lun], **one}
             if before[tpgt, lun].get(page) != one.get(page)]
    assert [one for one in found if not reason(one)] == []
    assert not found or roles[0] != roles[1]
    assert destination.call(fingerprints, 1, OTHER, [1]) == others
    assert destination.call(foreign_write, luns) == refused
    source.call(inhost.remove, ("reserved",))


@pytest.mark.parametrize("role", [pytest.param(KINDS[0], marks=pytest.mark.full), KINDS[1]])
def test_an_import_stopped_anywhere_leaves_nothing(role: str, bed: lab.Lab,
                                                   hosts: HostsOf) -> None:
    source, destination = hosts(role, role)
    source.call(inhost.build, state(bed.shared, 1))
    source.call(reserve, 1)
    document = source.call(inhost.export)
    points, wrong = destination.call(inhost.stopped_everywhere, "import", document, "before",
                                     timeout=400)
    print(f"{points} points")
    assert not wrong
    assert points > 25


@pytest.fixture
def served(bed: lab.Lab, hosts: HostsOf) -> Iterator[lab.Host]:
    host, = hosts("vhost-newest")
    host.call(inhost.build, state(bed.shared, 1))
    yield host


def attached_export() -> tuple[bool, str]:
    """(whether an export says frozen, why a freeze is refused) while a guest is attached."""
    guest = vhost.occupy(WWPN)
    try:
        frozen = documents.loads(inhost.export()).frozen
        inhost.freeze()
    except errors.HandoverError as error:
        return frozen, f"{type(error).__name__}: {error}"
    finally:
        guest.close()
    return frozen, ""


def test_a_target_with_a_guest_is_not_frozen(served: lab.Host) -> None:
    frozen, why = served.call(attached_export)
    assert not frozen
    assert why.startswith("InUse") and "guest is attached" in why
    served.call(inhost.freeze)
    assert documents.loads(served.call(inhost.export)).frozen


def test_a_nexus_that_somebody_else_made_is_dropped(served: lab.Host) -> None:
    served.call(inhost.freeze)
    document = served.call(inhost.export)
    served.call(inhost.remove)
    served.call(import_with_a_foreign_nexus, document)
    served.call(inhost.verify, document)


@pytest.mark.parametrize("wwpn, nexus", [
    ("fc.5001405abcdef014", "fc.5001405000000004"),
    ("iqn.2003-01.org.example:disk", "iqn.2003-01.org.example:guest"),
    ("naa.5001405abcdef014", "naa.5001405000000004")])
def test_every_form_of_name_moves(wwpn: str, nexus: str, bed: lab.Lab, hosts: HostsOf) -> None:
    here, there = hosts("vhost-newest", "vhost-newest")
    here.call(inhost.build, state(bed.shared, 1, wwpn=wwpn, nexuses=[nexus]))
    here.call(register, wwpn.removeprefix("fc."))
    here.call(inhost.freeze)
    document = here.call(inhost.export)
    there.call(inhost.import_, document)
    moved = documents.loads(there.call(inhost.export))
    assert documents.state_bytes(moved) == documents.state_bytes(documents.loads(document))
    registration, = moved.state.backstores[0].reservations.registrations
    assert registration.initiator == nexus.removeprefix("fc.")


def register(wwpn: str) -> None:
    with vhost.Endpoint(wwpn) as endpoint:
        # Twice: no kernel can be brought to a PRgeneration of 1 and no APTPL.
        for old, new in ((0, 1), (1, 2)):
            assert endpoint.unit().execute(*cdb.register(old, new)).good


LISTING = """
import itertools, rtslib_fb
for count in itertools.count():
    try:
        rtslib_fb.RTSRoot().dump()
    except Exception:
        pass  # what it looks at comes and goes
    print(count, flush=True)
"""


TARGETCLI = "count=0; while :; do targetcli ls >/dev/null 2>&1; echo $((count += 1)); done"


@pytest.mark.full
@pytest.mark.parametrize("role", KINDS)
def test_listing_all_the_time_changes_nothing(role: str, bed: lab.Lab, hosts: HostsOf) -> None:
    here, there = hosts(role, role)
    here.call(inhost.build, state(bed.shared, 2))
    here.call(reserve, 2)
    first = here.call(inhost.export)
    listings = [host.popen(words) for host in (here, there) for words in (
        ["/usr/bin/python3", "-c", LISTING], ["sh", "-c", TARGETCLI])]
    for _ in range(2):
        here.call(inhost.freeze)
        moving = here.call(inhost.export)
        there.call(inhost.import_, moving, timeout=120)
        here.call(inhost.remove, ("reserved",), timeout=120)
        here, there = there, here
    for listing in listings:
        assert listing.poll() is None and listing.stdout_so_far().split()
        listing.kill()
    last = here.call(inhost.export)
    assert documents.state_bytes(documents.loads(last)) == documents.state_bytes(
        documents.loads(first))


def prepared() -> tuple[dict[str, str], dict[str, str], list[str]]:
    """(tree before, tree after, what speaks against a handover)."""
    before = inhost.tree()
    _document, findings = inhost.core().prepare([("vhost", WWPN)])
    return before, inhost.tree(), [one.override for one in findings]


@pytest.mark.parametrize("role, expected", list(zip(KINDS, (["stopped-guest"], []))))
def test_prepare_finds_out_whether_live_migration_is_safe(
        role: str, expected: list[str], bed: lab.Lab, hosts: HostsOf) -> None:
    host, = hosts(role)
    host.call(inhost.build, state(bed.shared, 1))
    before, after, found = host.call(prepared, timeout=120)
    assert found == expected
    assert after == before


def removed_with_an_acl() -> list[str]:
    """A TPG with a nexus and an ACL of that name is taken away; what is left of it."""
    tpg = TARGET / "vhost" / WWPN / "tpgt_1"
    (tpg / "acls" / NEXUSES[0] / "lun_0").mkdir(parents=True)
    (tpg / "acls" / NEXUSES[0] / "lun_0" / "link").symlink_to(tpg / "lun" / "lun_0")
    inhost.remove()
    return [path.name for path in (TARGET / "vhost").iterdir() if path.is_dir()]


def test_an_acl_of_a_nexus_goes_after_it(bed: lab.Lab, hosts: HostsOf) -> None:
    host, = hosts("vhost-newest")
    host.call(inhost.build, state(bed.shared, 1))
    assert host.call(removed_with_an_acl) == ["discovery_auth"]

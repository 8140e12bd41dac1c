"""What somebody else does to targets beside the service: found when it happens, and put right."""
from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from lio_handover.document import document as documents
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.conftest import HostsOf, Pool
from tests.handover.test_engine import Two
from tests.handover.test_ours import OPEN, One, odd
from tests.support import byfile, inhandover, inhost, inmeddling, inours
from tests.support.inbus import Service
from tests.support.inhandover import TARGET

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


class Served(One):
    """A host that runs the service, and whose target lio-handover restores."""

    def __init__(self, bed: lab.Lab, pool: Pool, role: str = "newest") -> None:
        service = Service(pool.take(role, name="bus2" if role == "newest" else f"bus-{role}")[0])
        self.host, self.folder, self.bed = service.host, "", bed
        self.host.call(inhost.build, odd(bed.shared))
        self.host.call(inhandover.save)
        self.before = self.state()
        service.start(program=inmeddling.LOGGED)
        self.verb("adopt")
        self.host.call(inmeddling.wait_known)


@pytest.fixture
def ours(bed: lab.Lab, _pool: Pool) -> Iterator[Served]:
    made = Served(bed, _pool)
    yield made
    print(made.host.call(inmeddling.said))


def test_what_is_cleared_and_restored_under_us_is_whole_again(ours: Served) -> None:
    """targetcli saved it, and its unit's two commands are run by hand."""
    before, host = ours.state(), ours.host
    host.call(inhandover.save)
    host.call(inmeddling.restart_targetcli)
    took = host.call(inmeddling.wait, "whole", before)
    print(f"whole again {took:.2f} s after targetctl")
    assert took < 10


def test_what_targetcli_adds_is_in_the_copy(ours: Served) -> None:
    host = ours.host
    host.call(inours.add_lun, str(ours.bed.shared / "added.img"))
    took = host.call(inmeddling.wait, "adopted_with", 4)
    print(f"kept {took:.2f} s after it was added")
    assert ours.who()[2] == ()


TAKEN_OUT = "which would bring it back at a boot, and was taken out"


@pytest.mark.parametrize("verbs", [
    ("freeze", "export"),
    pytest.param(("freeze", "export", "remove"), marks=pytest.mark.full)])
def test_what_was_given_away_is_shut_and_stays_out_of_the_file(
        bed: lab.Lab, _pool: Pool, verbs: tuple[str, ...]) -> None:
    """Opened by hand; saved by targetctl, and by targetcli as it is left; then restored; an older
    file is put back and restored."""
    service = Service(_pool.take("newest", name="bus2")[0])
    a = service.host
    a.call(inhost.build, inhandover.state(bed.shared))
    old = a.call(inmeddling.save_file_of_open)
    service.start(program=inmeddling.LOGGED)
    for verb in verbs:
        a.call(byfile.verb, verb)
    if "remove" not in verbs:
        a.call(inmeddling.open_gate)
        a.call(inmeddling.wait, "shut")
        a.call(inmeddling.targetcli)
        assert TAKEN_OUT in a.call(inmeddling.said, TAKEN_OUT)
        a.call(inmeddling.wait, "unsaved")
        a.call(inhandover.save)
        a.call(inmeddling.wait, "unsaved")
        opened, said = a.call(inmeddling.never_open, 0.3, "restore")
        assert opened == 0, said
    a.call(inhandover.save_file, old)
    a.call(inmeddling.wait, "unsaved")
    opened, said = a.call(inmeddling.never_open, 0.3, "restore")
    assert opened == 0, said
    assert TAKEN_OUT in a.call(inmeddling.said, TAKEN_OUT)


@pytest.mark.full
def test_what_is_removed_under_us_is_told_and_left_so(ours: Served) -> None:
    host, state = ours.host, ours.state()
    host.call(inmeddling.targetctl, "clear")
    host.call(inmeddling.wait, "meddled")
    text = host.call(inmeddling.meddled)
    assert text.startswith(f"{TARGET} is not here any more: somebody else removed or cleared it")
    assert text in host.call(inmeddling.status) and text == host.call(inmeddling.bus_error)
    assert text in host.call(inmeddling.said, text) and ours.gates() == {}
    assert host.call(inours.restore, TARGET)[0] == 0
    host.call(inmeddling.wait, "whole", state)
    assert host.call(inmeddling.meddled) == host.call(inmeddling.bus_error) == ""


@pytest.mark.full
def test_where_nothing_tells_its_registrations_it_stays_shut(ours: Served) -> None:
    """Its APTPL file is lost with the target; a human decides."""
    host, state = ours.host, ours.state()
    host.call(inhandover.save)
    host.call(inmeddling.clear_and_lose)
    host.call(inmeddling.targetctl, "restore")
    host.call(inmeddling.wait, "undecided")
    assert ours.gates() in ({}, {inmeddling.TPG: "0"})
    said = host.call(inmeddling.said)
    assert "it stays shut: fileio/disk0: its APTPL file " in said, said
    assert "--allow kept-registrations" in said and "no-registrations" in said
    assert "Undecided: " in host.call(inmeddling.bus_error)
    assert any("Undecided" in note for note in host.call(inmeddling.status))
    host.call(inmeddling.open_gate)
    host.call(inmeddling.wait, "shut")
    host.call(inmeddling.recover, ["kept-registrations"])
    host.call(inmeddling.wait, "whole", state)
    assert host.call(inmeddling.bus_error) == ""


@pytest.mark.full
def test_without_the_service_recover_finds_the_same(bed: lab.Lab, hosts: HostsOf) -> None:
    """And so does status, and the unit's stop: which keeps no copy of what lacks something."""
    host, = hosts("newest")
    one = One(bed, host, odd(bed.shared))
    one.verb("adopt")
    for how in ("recover", "restart of the unit"):
        host.call(inhandover.save)
        host.call(inmeddling.restart_targetcli)
        assert one.gates() == OPEN and one.state() != one.before
        assert any("was removed by somebody else and made again, and is not as it was" in note
                   for note in host.call(inmeddling.status))
        if how == "recover":
            host.call(byfile.recover)
        else:
            said = host.call(inours.clear, TARGET)
            assert said[0] == 0, said
            assert host.call(inours.restore, TARGET)[0] == 0
        assert one.gates() == OPEN and one.state() == one.before, how
        assert host.call(inmeddling.status) == []


@pytest.mark.full
def test_who_opens_it_again_and_again_is_not_told_of_each_time(
        bed: lab.Lab, _pool: Pool) -> None:
    service = Service(_pool.take("newest", name="bus2")[0])
    a = service.host
    a.call(inhost.build, inhandover.state(bed.shared))
    service.start(program=inmeddling.LOGGED)
    a.call(byfile.verb, "freeze")
    a.call(byfile.verb, "export")
    opened = a.call(inmeddling.opens_again_and_again, 10.0)
    a.call(inmeddling.wait, "shut")
    assert opened > 20 and a.call(inmeddling.said).count("was open although") == 1


@pytest.mark.full
def test_who_restores_it_again_and_again_finds_it_shut_for_longer(ours: Served) -> None:
    host, state = ours.host, ours.state()
    took = []
    for number in range(1, 6):
        host.call(inhandover.save)  # recover took it out
        host.call(inmeddling.restart_targetcli)
        took.append(host.call(inmeddling.wait, "rebuilt", number))
        host.call(inmeddling.wait, "whole", state)
    print(took)
    said = host.call(inmeddling.said)
    assert said.count("is not here any more") == 1 and took[-1] > 8 > took[0]


#: Another generation of rtslib (2.2) than the hosts': its folder, else that is left out.
NEWER = os.environ.get("LIO_HANDOVER_TEST_RTSLIB", "")
#: After each verb of a handover: who may be open then.
STATES: tuple[tuple[str, list[str]], ...] = (
    ("prepare", [SOURCE]), ("stage*", [SOURCE]), ("freeze", []), ("export", []),
    ("activate*", []), ("release", []), ("activate*", [DESTINATION]),
    ("verify*", [DESTINATION]), ("retire", [DESTINATION]), ("confirm*", [DESTINATION]))


@pytest.mark.full
@pytest.mark.parametrize("newer", ["", pytest.param(NEWER, marks=pytest.mark.skipif(
    not NEWER, reason="LIO_HANDOVER_TEST_RTSLIB names no other rtslib"))])
def test_targetctl_saves_and_restores_in_every_state(bed: lab.Lab, _pool: Pool, newer: str) -> None:
    """On both hosts, beside the service: who may not serve is never open, who serves is whole."""
    services = [Service(_pool.take(role, name=name)[0])
                for role, name in (("stable", "bus"), ("newest", "bus2"))]
    services[0].call(inhost.build, inhandover.state(bed.shared))
    for service in services:
        service.start(program=inmeddling.LOGGED)
    pair = Two(services[0].host, services[1].host)
    before = pair.host[SOURCE].call(inhost.export_state)
    done: list[str] = []
    for verb, serving in STATES:
        pair.go(verb)
        done.append(verb)
        for role in (SOURCE, DESTINATION):
            host, state = pair.host[role], pair.state(role)
            said, opened = host.call(inmeddling.saved_and_restored, newer)
            if role in serving:
                host.call(inmeddling.wait, "open_again")
            else:
                assert opened == 0, (verb, role, said)
            if role == SOURCE and state in ("prepared", "frozen"):
                # Nothing was given away: it is as before, and is offered anew.
                pair.recover(SOURCE)
                if pair.state(DESTINATION) != "none":
                    pair.recover(DESTINATION)
                assert pair.states() == ("idle", "none") and pair.serving() == [SOURCE]
                pair.id, pair.messages = "", []
                pair.go(" ".join(done))
            assert pair.serving() == serving, (verb, role)
    assert pair.states() == ("retired", "confirmed")
    assert documents.state_bytes(documents.loads(pair.host[DESTINATION].call(
        inhost.export_state))) == documents.state_bytes(documents.loads(before))

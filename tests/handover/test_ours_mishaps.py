"""What lio-handover restores, where something went another way than it should."""
from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from lio_handover import errors
from lio_handover.local.ours import LIO_HANDOVER
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import Two
from tests.handover.test_ours import OPEN, TPG, One
from tests.support import byfile, inhandover, inhost, inours
from tests.support.inhandover import OTHER, TARGET

NEW = "iscsi/iqn.2026-11.org.example:renamed"
BOTH = [TARGET, OTHER]
BOTH_OPEN = {**OPEN, f"{OTHER}/tpgt_1": "1"}


@pytest.fixture
def one(bed: lab.Lab, hosts: HostsOf) -> Iterator[One]:
    made = One(bed, hosts("newest")[0], inhandover.state(bed.shared))
    yield made
    made.host.kill()


@pytest.fixture
def pair(bed: lab.Lab, hosts: HostsOf) -> Iterator[tuple[lab.Host, str]]:
    """(a host with two targets that were imported by one document, its disk)."""
    a, b = hosts("newest", "newest")
    a.call(inhost.build, inhandover.state(bed.shared))
    a.call(inours.second, str(bed.shared / "second.img"))
    a.call(inours.many, "freeze", BOTH)
    document = a.call(inours.many, "export", BOTH)
    folder = str(bed.shared / f"disk-{uuid.uuid4()}")
    b.call(inhandover.disk, folder)
    b.call(inhandover.save)
    b.call(inours.many, "import", BOTH, document)
    assert b.call(inhandover.gates) == BOTH_OPEN
    yield b, folder
    b.kill()


def boots(host: lab.Host, folder: str) -> list[str]:
    host.kill()
    host.boot()
    return host.call(inours.boot, folder)


def test_a_handover_that_is_given_up_leaves_the_copy(one: One) -> None:
    one.verb("adopt")
    mine = one.who()
    answer = one.host.call(inhandover.do, "prepare", SOURCE, "", (), targets=(TARGET,),
                           mode="iscsi")
    one.host.call(inhandover.do, "thaw", SOURCE, answer.handover.id)
    assert one.who() == mine
    one.boots()
    assert one.gates() == OPEN and one.state() == one.before


def test_one_of_two_is_removed_and_the_other_comes_back(pair: tuple[lab.Host, str]) -> None:
    b, folder = pair
    b.call(inours.many, "remove", [OTHER])
    assert b.call(inhandover.gates) == OPEN
    assert b.call(inours.restorers)[TARGET].notes == ()
    boots(b, folder)
    assert b.call(inhandover.gates) == OPEN and list(b.call(inours.restorers)) == [TARGET]
    b.call(inours.many, "adopt", [TARGET])
    boots(b, folder)
    assert b.call(inhandover.gates) == OPEN


def test_one_of_two_is_frozen_and_the_other_is_cleared(pair: tuple[lab.Host, str]) -> None:
    b, folder = pair
    b.call(inours.many, "freeze", [OTHER])
    assert b.call(inours.clear, TARGET)[0] == 0
    assert b.call(inhandover.gates) == {f"{OTHER}/tpgt_1": "0"}
    assert b.call(inours.restore, TARGET)[0] == 0
    assert b.call(inhandover.gates) == {**OPEN, f"{OTHER}/tpgt_1": "0"}
    b.call(inours.many, "thaw", [OTHER])
    boots(b, folder)
    assert b.call(inhandover.gates) == BOTH_OPEN


def test_one_of_two_that_were_given_away_is_back_and_the_other_stays_shut(
        bed: lab.Lab, hosts: HostsOf) -> None:
    a, = hosts("newest")
    folder = str(bed.shared / f"disk-{uuid.uuid4()}")
    a.call(inhandover.disk, folder)
    a.call(inhandover.save)
    a.call(inhost.build, inhandover.state(bed.shared))
    a.call(inours.second, str(bed.shared / "second.img"))
    a.call(inhandover.save)
    old = a.call(inhandover.save_file)
    a.call(inours.many, "freeze", BOTH)
    a.call(inours.many, "export", BOTH)
    a.call(inours.many, "remove", BOTH)
    a.call(inhost.build, inhandover.state(bed.shared))
    a.call(inours.many, "adopt", [TARGET], b"", ("exported",))
    a.call(inhandover.save_file, old)  # from a backup of targetcli's
    boots(a, folder)
    assert a.call(inhandover.gates) == OPEN
    a.kill()


def test_a_renamed_target_that_was_removed_stays_away(bed: lab.Lab, hosts: HostsOf) -> None:
    pair = Two(*hosts("newest", "newest"))
    a, b = pair.host.values()
    a.call(inhost.build, inhandover.state(bed.shared))
    pair.do("prepare", SOURCE, targets=(TARGET,), mode="iscsi")
    pair.do("stage", DESTINATION, maps=(f"target:{TARGET[6:]}={NEW[6:]}",))
    pair.go("freeze export activate* release activate* verify* retire confirm*")
    assert b.call(inhandover.gates) == {f"{NEW}/tpgt_1": "1"}
    assert b.call(inours.clear, NEW)[0] == 0
    b.call(inours.many, "remove", [NEW])
    b.call(byfile.recover)
    assert b.call(inhandover.gates) == {}


def test_what_comes_under_another_name_makes_nobody_forget_the_one_that_has_its_own(
        bed: lab.Lab, hosts: HostsOf) -> None:
    """The destination serves a target of its own, called as the other is on its source."""
    pair = Two(*hosts("newest", "newest"))
    a, b = pair.host.values()
    a.call(inhost.build, inhandover.state(bed.shared))
    folder = str(bed.shared / f"disk-{uuid.uuid4()}")
    b.call(inhandover.disk, folder)
    b.call(inours.second, str(bed.shared / "own.img"), TARGET)
    b.call(inours.many, "adopt", [TARGET])
    own = b.call(inours.restorers)[TARGET]
    assert own.who == LIO_HANDOVER
    pair.do("prepare", SOURCE, targets=(TARGET,), mode="iscsi")
    pair.do("stage", DESTINATION, maps=(f"target:{TARGET[6:]}={NEW[6:]}", "rtpi:1=fresh"))
    assert b.call(inours.restorers)[TARGET] == own
    pair.go("freeze export activate* release activate* verify* retire confirm*")
    assert b.call(inours.restorers)[TARGET] == own
    assert boots(b, folder) and b.call(inhandover.gates) == {**OPEN, f"{NEW}/tpgt_1": "1"}
    b.call(inours.many, "remove", [NEW])
    assert [*b.call(inours.restorers)] == [TARGET] and "removed" in " ".join(
        b.call(inhandover.status, pair.id)[0].notes)
    b.kill()


def test_a_handover_that_is_only_prepared_costs_no_registration_when_its_unit_is_stopped(
        bed: lab.Lab, hosts: HostsOf) -> None:
    """Of what was registered since the copy was kept, without APTPL."""
    one = One(bed, hosts("newest")[0], inhandover.state(bed.shared, aptpl=False))
    one.verb("adopt")
    one.host.call(inhandover.register, 1, 1, 0x77)
    before = one.state()
    assert before != one.before
    answer = one.host.call(inhandover.do, "prepare", SOURCE, "", (), targets=(TARGET,),
                           mode="iscsi", allow=("all-tg-pt",))
    code, said = one.host.call(inours.clear, TARGET)
    assert code == 0 and one.gates() == {}
    assert f"handover {answer.handover.id} was only prepared, and ended with this" in said
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == before
    one.host.kill()


def test_no_copy_is_made_of_what_is_not_all_there(one: One) -> None:
    one.verb("adopt")
    dead, _ = one.host.call(byfile.crash, 45, "clear")
    assert dead
    line, _ = one.host.call(inours.refused, "adopt")
    assert line.startswith("StructureChanged: ") and "lio-handover recover" in line
    one.host.call(byfile.recover)
    assert one.gates() == OPEN and one.state() == one.before


def test_a_clear_that_failed_and_is_repeated_knows_which_gates_were_open(one: One) -> None:
    one.verb("adopt")
    path = one.bed.shared / "one.img"
    path.rename(path.with_suffix(".away"))
    assert one.host.call(inours.clear, TARGET)[0] == errors.StorageMissing.code
    path.with_suffix(".away").rename(path)
    assert one.host.call(inours.clear, TARGET)[0] == 0 and one.gates() == {}
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == one.before


@pytest.mark.parametrize("verb, first", [("freeze", 14), ("thaw", 17)])
def test_somebody_restores_it_wherever_a_verb_is_killed(one: One, verb: str, first: int) -> None:
    """Around its records of who counts."""
    one.verb("adopt")
    for point in range(first, first + 7):
        if verb == "thaw":
            one.verb("freeze")
        one.host.call(byfile.crash, point, verb)
        one.host.call(byfile.recover)
        assert one.who()[0] == LIO_HANDOVER, point
        assert one.gates() == OPEN, point
    assert TPG in one.gates()


@pytest.mark.parametrize("content", [bytes(300), b'{"/etc/a": ["{}", 7]}'])
@pytest.mark.parametrize("away, back", [("freeze", ("thaw", TARGET)), (
    "adopt", ("giveback", TARGET, "--allow", "not-saved"))])
def test_what_was_taken_out_of_targetclis_file_is_lost(
        bed: lab.Lab, hosts: HostsOf, away: str, back: tuple[str, ...], content: bytes) -> None:
    """The target is in the file again, as it is now, and that is said."""
    host, = hosts("newest")
    host.call(inhost.build, inhandover.state(bed.shared))
    host.call(inhandover.save)
    host.call(byfile.verb, away)
    assert host.call(inours.spoil_saved, content) == 1
    assert host.call(inhandover.saved) == {}
    code, said = host.call(inours.run_, *back)
    assert code == 0 and host.call(inhandover.saved) == {TARGET: True}
    assert "savefile.json, which kept the entry that targetcli had of it, can't be read" in said
    assert "written anew" in said and "backup/" in said

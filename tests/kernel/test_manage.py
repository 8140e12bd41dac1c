"""Targets that are created, changed and deleted on real kernels: a table object × verb × way."""
from __future__ import annotations

import pytest

from lio_handover import errors
from tests import lab
from tests.conftest import HostsOf
from tests.support import inmanage

#: Kinds of changes that stand for all others in the tests that are not long.
SOME = ("backstore/fileio", "LUN", "mapped LUN", "CHAP of an ACL")


@pytest.mark.parametrize("way", inmanage.WAYS)
def test_each_object_is_made_changed_and_deleted(way: str, bed: lab.Lab, newest: lab.Host) -> None:
    cells = newest.call(inmanage.cells, way, str(bed.shared), timeout=200)
    assert len(cells) > 35
    assert {cell: faults for cell, faults in cells.items() if faults} == {}


@pytest.mark.parametrize("way", [
    "library", *(pytest.param(way, marks=pytest.mark.full) for way in inmanage.WAYS[1:])])
def test_scsi_devices_and_programs_back_stores(way: str, bed: lab.Lab, newest: lab.Host) -> None:
    """Takes five seconds each."""
    cells = newest.call(inmanage.others, way, str(bed.shared), timeout=100)
    assert len(cells) == 5
    assert {cell: faults for cell, faults in cells.items() if faults} == {}


@pytest.mark.full
@pytest.mark.parametrize("role", [role for role in lab.ROLES if role != "newest"])
@pytest.mark.parametrize("way", inmanage.WAYS)
def test_each_object_on_older_kernels(way: str, role: str, bed: lab.Lab, hosts: HostsOf) -> None:
    """Takes half a minute each."""
    cells = hosts(role)[0].call(inmanage.cells, way, str(bed.shared), timeout=280)
    assert {cell: faults for cell, faults in cells.items() if faults} == {}


@pytest.mark.parametrize("how, only", [
    ("before", SOME), ("after", (SOME[1], "LU group")),
    *(pytest.param(how, (), marks=pytest.mark.full) for how in ("before", "after", "stop",
                                                                "interrupt"))])
def test_a_change_that_is_stopped_anywhere_leaves_all_as_it_was(
        how: str, only: tuple[str, ...], bed: lab.Lab, newest: lab.Host) -> None:
    points, wrong = newest.call(inmanage.stopped, str(bed.shared), how, only, timeout=280)
    print(f"{points} points")
    assert not wrong
    assert points > (3 if only else 100)


@pytest.mark.full
@pytest.mark.parametrize("how", ["before", "after"])
def test_the_same_on_the_oldest_kernel(how: str, bed: lab.Lab, oldest: lab.Host) -> None:
    """Takes a minute each."""
    points, wrong = oldest.call(inmanage.stopped, str(bed.shared), how, (), timeout=280)
    assert not wrong and points > 80


def test_the_file_of_a_host_changes_nothing_there(bed: lab.Lab, newest: lab.Host) -> None:
    """Also where it leaves out what stays as it is: a relative port."""
    text, once, pruned = newest.call(inmanage.as_it_is, str(bed.shared), timeout=60)
    assert "rtpi" not in text and "optimal_sectors: 128" in text
    assert once == [] and pruned == []


def test_a_change_that_is_cut_off_before_its_copy_is_kept_by_the_next(
        bed: lab.Lab, newest: lab.Host) -> None:
    found = newest.call(inmanage.cut_off, str(bed.shared), timeout=60)
    assert found["kernel"] == ["lun_0"]
    assert [who for who, _ in found["before"]] == ["lio-handover"], found["before"]
    assert "was cut off before it was kept" in found["said"][0] and found["again"] == ()
    assert [who for who, _ in found["after"]] == ["lio-handover"], found["after"]
    assert "was cut off before it was kept" in found["same"][0] and found["luns"] == [0, 7]


def test_two_managers_wait_for_each_other(bed: lab.Lab, newest: lab.Host) -> None:
    assert len(newest.call(inmanage.two_at_once, str(bed.shared))) >= 4


def test_what_another_program_makes_meanwhile_is_left_to_it(bed: lab.Lab, newest: lab.Host) -> None:
    said, luns, acls = newest.call(inmanage.targetcli_in_between, str(bed.shared))
    assert "nothing was changed" in said
    assert luns == ["lun_0", "lun_77"] and acls == [inmanage.YOU]


def test_a_boot_brings_back_what_was_made(bed: lab.Lab, newest: lab.Host) -> None:
    told = newest.call(inmanage.boots, str(bed.shared))
    assert told["new"] == [("lio-handover", ())]
    assert "/etc/target/saveconfig.json has it as it is now" in told["notes"][0]
    assert told["luns"] == [0, 1] and told["left"] == []


def test_a_wrong_command_is_one_line_and_changes_nothing(bed: lab.Lab, newest: lab.Host) -> None:
    assert newest.call(inmanage.hostile, str(bed.shared), timeout=120) == []


def test_a_live_target_gets_luns_grows_and_changes_chap(bed: lab.Lab, newest: lab.Host,
                                                        client: lab.OpenIscsi) -> None:
    """Nobody is thrown out, and what would take something from an initiator is refused."""
    shared, name = str(bed.shared), client.name
    newest.call(inmanage.serve, shared, newest.address, name)
    session = client.login(inmanage.IQN, newest.address)
    disk = session.disk(0)
    disk.write(0, b"kept" * 128)
    newest.call(inmanage.does, "create", "/backstores/fileio", "disk1", f"{shared}/live1.img", "4M")
    newest.call(inmanage.does, "create", f"{inmanage.T}/tpg1/luns", "fileio/disk1")
    session.rescan()
    assert sorted(session.disks()) == [0, 1] and session.disk(1).size() == 4 << 20
    newest.call(inmanage.does, "set", "/backstores/fileio/disk0", "size=16M")
    newest.call(inmanage.does, "set", f"{inmanage.T}/tpg1/acls/{name}", "userid=me",
                f"password=@{inmanage.SECRET}")
    session.rescan()
    assert session.state == "LOGGED_IN" and disk.read(0, 512) == b"kept" * 128
    said = newest.call(inmanage.wrongs, shared, name)
    assert all("logged in" in line and "--allow in-use" in line for line in said.values()), said
    session.logout()


def test_a_registration_is_not_taken_from_anybody(bed: lab.Lab, newest: lab.Host,
                                                  client: lab.OpenIscsi) -> None:
    newest.call(inmanage.serve, str(bed.shared), newest.address, client.name)
    session = client.login(inmanage.IQN, newest.address)
    session.disk(0).register(0x1234, aptpl=True)
    session.logout()
    with pytest.raises(errors.InUse, match="registered"):
        newest.call(inmanage.change, "delete", f"{inmanage.T}/tpg1/luns", "0", allow=("in-use",))
    with pytest.raises(errors.InUse, match="registered"):
        newest.call(inmanage.does, "delete", f"{inmanage.T}/tpg1/acls", client.name)


@pytest.mark.parametrize("kind, code, said", [
    ("nothing", 0, "LIO OK: all is as it should be"), ("well", 0, "LIO OK"),
    ("portal", 1, "203.0.113.77:3261 is not on this host"), ("boot", 1, "no boot brings"),
    ("hole", 2, "maps nothing")])
def test_a_monitoring_system_is_told_in_one_line(kind: str, code: int, said: str, bed: lab.Lab,
                                                 newest: lab.Host) -> None:
    told, line = newest.call(inmanage.health, kind, str(bed.shared))
    assert told == code and said in line and line.count("\n") == 1, line

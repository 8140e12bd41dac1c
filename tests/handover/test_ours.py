"""Who restores a target at a boot: adopted, given back, handed over, changed meanwhile."""
from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.local.ours import LIO_HANDOVER, NOBODY, TARGETCLI
from lio_handover.model.keys import alua_group_key, backstore_key
from lio_handover.model.objects import (DEFAULT_GROUP, AluaGroup, Backstore, DiscoveryAuth, Secret,
                                        State)
from lio_handover.protocol.table import DESTINATION
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import Two
from tests.support import byfile, inhandover, inhost, inours
from tests.support.inhandover import TARGET

TPG = f"{TARGET}/tpgt_1"
OPEN, SHUT = {TPG: "1"}, {TPG: "0"}


def odd(shared: Path) -> State:
    """A target with what targetcli's file can't hold."""
    state = inhandover.state(shared)
    first, *rest = state.backstores
    group = AluaGroup(alua_group_key(first.key, DEFAULT_GROUP), {
        "preferred": "1", "nonop_delay_msecs": "250"})
    first = replace(first, alua_groups=(group,), attributes={
        **first.attributes, "wwn/vendor_id": "ACME", "wwn/product_id": "Flux Array",
        "wwn/company_id": "0x00a098", "wwn/pd_text_id_info": "shelf 7"})
    memory = Backstore(backstore_key("rd_mcp", "null"), {"rd_pages": "256", "rd_nullio": "1"},
                       {"wwn/vpd_unit_serial": "null"})
    target, = state.targets
    tpg, = target.tpgs
    lun = replace(tpg.luns[0], key=(*tpg.key, "lun", "5"), backstore=memory.key)
    acls = tuple(replace(acl, attributes={**acl.attributes, "cmdsn_depth": "32"})
                 for acl in tpg.acls)
    tpg = replace(tpg, attributes={**tpg.attributes, "rtpi": "77"}, acls=acls,
                  luns=(*tpg.luns, lun))
    return replace(state, backstores=(first, *rest, memory),
                   targets=(replace(target, tpgs=(tpg,)),),
                   discovery_auth=DiscoveryAuth(attributes={
                       "userid": "all", "password": Secret("secret of all"),
                       "enforce_discovery_auth": "1"}))


class One:
    """A host with a disk, and a target that targetcli has saved."""

    def __init__(self, bed: lab.Lab, host: lab.Host, state: State) -> None:
        self.host, self.folder = host, str(bed.shared / f"disk-{uuid.uuid4()}")
        self.bed = bed
        host.call(inhandover.disk, self.folder)
        host.call(inhandover.save)
        host.call(inhost.build, state)
        host.call(inhandover.save)
        self.before = self.state()
        self.saved = host.call(inhandover.save_file)

    def state(self) -> bytes:
        return documents.state_bytes(documents.loads(self.host.call(inhost.export_state)))

    def verb(self, name: str, *allow: str) -> None:
        self.host.call(byfile.verb, name, b"", tuple(allow))

    def boots(self) -> list[str]:
        self.host.kill()
        self.host.boot()
        return self.host.call(inours.boot, self.folder)

    def restarts_targetcli(self) -> None:
        """As its unit does, and ours with it."""
        self.host.call(inours.clear, TARGET)
        self.host.call(inhandover.restart_targetcli)
        assert self.host.call(inours.restore, TARGET)[0] == 0

    def gates(self) -> dict[str, str]:
        return self.host.call(inhandover.gates)

    def who(self) -> tuple[str, str, tuple[str, ...]]:
        one = self.host.call(inours.restorers)[TARGET]
        return one.who, one.where, one.notes


@pytest.fixture
def one(bed: lab.Lab, hosts: HostsOf) -> Iterator[One]:
    made = One(bed, hosts("newest")[0], odd(bed.shared))
    yield made
    made.host.kill()


def test_what_is_adopted_comes_back_whole(one: One) -> None:
    """Vendor, relative port, depth, registrations; and targetcli's restore leaves it alone."""
    assert one.who()[:2] == (TARGETCLI, inhandover.SAVED)
    one.verb("adopt")
    assert one.gates() == OPEN and one.state() == one.before
    who, where, notes = one.who()
    assert (who, notes) == (LIO_HANDOVER, ()) and len(where) == 36
    assert one.host.call(inhandover.saved) == {}
    one.host.call(inhandover.register, 1, 1, 0x77)
    held = one.state()
    one.boots()
    assert one.gates() == OPEN and one.state() == held
    one.host.call(inhandover.save)  # targetcli is left
    assert one.boots()[0].endswith("is served\n")
    assert one.gates() == OPEN and one.state() == held
    assert one.who()[0] == LIO_HANDOVER


def test_what_was_handed_over_comes_back_whole(bed: lab.Lab, hosts: HostsOf) -> None:
    """By file; a LUN without data of its own, names, numbers, ALUA, discovery."""
    a, b = hosts("newest", "newest")
    a.call(inhost.build, odd(bed.shared))
    a.call(byfile.verb, "freeze")
    document = a.call(byfile.verb, "export")
    folder = str(bed.shared / f"disk-{uuid.uuid4()}")
    b.call(inhandover.disk, folder)
    b.call(inhandover.save)
    b.call(byfile.verb, "import", document)
    b.call(inhandover.register, 1, 1, 0x99)
    before = documents.state_bytes(documents.loads(b.call(inhost.export_state)))
    b.call(inhandover.save)
    b.kill()
    b.boot()
    assert b.call(inours.boot, folder)[-1].endswith("is served\n")
    assert documents.state_bytes(documents.loads(b.call(inhost.export_state))) == before
    assert b.call(byfile.states) == [("destination", "confirmed")]
    b.kill()


def test_what_is_given_back_is_in_targetclis_file_as_it_was(one: One) -> None:
    one.verb("adopt")
    line, findings = one.host.call(inours.refused, "giveback")
    assert line.startswith("CannotRepresent: ") and "--allow not-saved" in line
    assert any("wwn/vendor_id ACME, wwn/product_id Flux Array" in said and "company_id" in said
               and "pd_text_id_info shelf 7" in said for said in findings)
    assert any("default_tg_pt_gp: " in said and "preferred 1" in said for said in findings)
    assert f"{TARGET}/tpg1: rtpi 77" in findings and not any("rd_mcp" in said for said in findings)
    code, told = one.host.call(inours.run_, "giveback", TARGET)
    assert code == errors.CannotRepresent.code and all(said in told for said in findings), told
    assert sum("cmdsn_depth 32" in said for said in findings) == 2
    assert one.host.call(inhandover.saved) == {} and one.who()[0] == LIO_HANDOVER
    one.verb("giveback", "not-saved")
    assert one.host.call(inhandover.save_file) == one.saved
    assert one.who()[:2] == (TARGETCLI, inhandover.SAVED)
    assert one.gates() == OPEN and one.state() == one.before
    one.boots()
    assert one.gates() == OPEN and one.state() != one.before
    assert one.host.call(byfile.states) == [("destination", "given")]
    one.verb("adopt")  # and ours again
    assert one.who()[0] == LIO_HANDOVER


def test_a_restart_of_targetclis_unit_brings_all_of_it_back(one: One) -> None:
    """Also registrations that no file of the kernel's has."""
    one.verb("adopt")
    one.restarts_targetcli()
    assert one.gates() == OPEN and one.state() == one.before
    one.host.call(inours.clear, TARGET)
    assert one.gates() == {} and one.who()[2][0].startswith("it is not here")
    assert one.host.call(inours.clear, TARGET) == (0, "")
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == one.before
    assert one.host.call(inours.restore, TARGET)[0] == 0


def test_what_is_being_handed_over_outlives_a_restart_of_targetclis_unit(
        bed: lab.Lab, hosts: HostsOf) -> None:
    """With what was registered at the destination since; and the handover goes on."""
    pair = Two(*hosts("stable", "newest"))
    a, b = pair.host.values()
    b.call(inhandover.save)
    a.call(inhost.build, inhandover.state(bed.shared))
    pair.go("prepare stage* freeze export activate* release activate* verify*")
    b.call(inhandover.register, 1, 1, 0x77)
    held = documents.state_bytes(documents.loads(b.call(inhost.export_state)))
    assert b.call(inours.clear, TARGET)[0] == 0 and b.call(inhandover.gates) == {}
    b.call(inhandover.restart_targetcli)
    assert b.call(inours.restore, TARGET)[0] == 0
    assert pair.serving() == [DESTINATION] and pair.states() == ("released", "serving")
    assert documents.state_bytes(documents.loads(b.call(inhost.export_state))) == held
    pair.go("retire confirm*")
    assert b.call(inours.restorers)[TARGET].who == LIO_HANDOVER


def test_what_targetcli_adds_is_named_and_kept(one: One) -> None:
    one.verb("adopt")
    one.host.call(inours.add_lun, str(one.bed.shared / "added.img"))
    note, = one.who()[2]
    assert note.startswith("changed since its copy was kept: ") and f"adopt {TARGET}" in note
    one.verb("adopt")
    assert one.who()[2] == ()
    with_it = one.state()
    one.restarts_targetcli()
    assert one.state() == with_it
    one.boots()
    assert one.gates() == OPEN and one.state() == with_it


def test_a_gate_that_an_administrator_shut_is_named_and_kept(one: One) -> None:
    one.verb("adopt")
    one.host.call(inours.set_value, f"{TPG}/enable", "0")
    assert one.who()[2] == (f"{TPG} is disabled now, and a boot would have it enabled; next: "
                            f"lio-handover adopt {TARGET}",)
    one.host.call(inhandover.save)
    assert "had tpg1 (disabled) instead of enabled" in one.boots()[0] and one.gates() == OPEN
    one.host.call(inours.set_value, f"{TPG}/enable", "0")
    one.verb("adopt")
    assert one.who()[2] == ()
    one.restarts_targetcli()
    assert one.gates() == SHUT
    one.boots()
    assert one.gates() == SHUT and one.who()[2] == ()


def test_a_clean_stop_keeps_what_targetcli_added(one: One) -> None:
    one.verb("adopt")
    one.host.call(inours.add_lun, str(one.bed.shared / "added.img"))
    with_it = one.state()
    one.restarts_targetcli()
    assert one.state() == with_it and one.who()[2] == ()


def test_a_boot_that_brings_back_an_older_structure_says_so(one: One) -> None:
    """targetcli added a LUN and saved; power was cut before anybody kept it."""
    one.verb("adopt")
    one.host.call(inours.add_lun, str(one.bed.shared / "added.img"))
    one.host.call(inhandover.save)
    said = one.boots()[0]
    assert f"{TARGET}: it is restored as it was when its copy was kept" in said
    assert "tpg1/luns/lun7 (/backstores/fileio/added)" in said and "mapped_lun7 (lun7)" in said
    assert one.gates() == OPEN and one.host.call(inours.luns) == ["lun_0", "lun_1", "lun_5"]
    assert any("lun7" in note for note in one.who()[2])
    one.verb("adopt")
    one.boots()
    assert one.who()[2] == ()


def test_a_handover_that_ends_where_it_began_leaves_it_as_it_was(one: One) -> None:
    """In targetcli's file byte for byte; in none; or ours."""
    one.verb("freeze")
    assert one.who()[0] == LIO_HANDOVER and one.host.call(inhandover.saved) == {}
    one.verb("thaw")
    assert one.host.call(inhandover.save_file) == one.saved and one.who()[0] == TARGETCLI
    empty = b'{"fabric_modules": [], "storage_objects": [], "targets": []}'
    one.host.call(inhandover.save_file, empty)
    assert one.who() == (NOBODY, "", ("it is in no save file",))
    one.verb("freeze")
    one.verb("thaw")
    assert one.host.call(inhandover.save_file) == empty and one.who()[0] == NOBODY
    one.verb("adopt")
    mine = one.who()
    one.verb("freeze")
    one.verb("export")
    one.verb("thaw", "exported")
    assert one.who() == mine and one.host.call(inhandover.save_file) == empty
    one.boots()
    assert one.gates() == OPEN and one.state() == one.before


def test_what_was_removed_comes_back_by_nobody(one: One) -> None:
    one.verb("adopt")
    one.verb("remove")
    assert TARGET not in one.host.call(inours.restorers)
    one.boots()
    assert one.gates() == {}


def test_what_was_handed_over_is_not_adopted_unasked(bed: lab.Lab, hosts: HostsOf) -> None:
    a, = hosts("stable")
    a.call(inhost.build, inhandover.state(bed.shared))
    for verb in ("freeze", "export", "remove"):
        a.call(byfile.verb, verb)
    a.call(inhost.build, inhandover.state(bed.shared))
    line, _ = a.call(inours.refused, "adopt")
    assert "this host has handed it over, so another host may serve it" in line
    assert a.call(byfile.recover)  # which shuts it
    a.call(byfile.verb, "adopt", b"", ("exported",))
    assert a.call(inours.restorers)[TARGET].who == LIO_HANDOVER


def test_a_target_whose_names_rtslib_refuses_comes_back(bed: lab.Lab, hosts: HostsOf) -> None:
    host, = hosts("newest")
    one = One(bed, host, inhandover.state(bed.shared))
    acl = "iqn.2026-11.org.example:esx_01"
    host.call(inours.add_acl, acl)
    before = one.state()
    one.verb("adopt")
    one.boots()
    assert one.state() == before and acl in before.decode()
    line, findings = host.call(inours.refused, "giveback")
    assert any("rtslib takes no such name" in said for said in findings), line
    with pytest.raises(errors.SavefileBroken, match="can't have the name"):
        one.verb("giveback", "not-saved")
    assert one.who()[0] == LIO_HANDOVER


def test_one_of_two_files_is_missing_at_a_boot(one: One) -> None:
    """Nothing of it is served, and it is named; when it is back, so is all of it."""
    one.verb("adopt")
    path = one.bed.shared / "one.img"
    path.rename(path.with_suffix(".away"))
    said = one.boots()[-1]
    assert "StorageMissing" not in said and str(path) in said and "is served" not in said
    assert one.gates() in ({}, SHUT) and one.host.call(inhandover.stores) == []
    assert str(path) in " ".join(one.who()[2])
    assert one.host.call(inours.restore, TARGET)[0] == errors.StorageMissing.code
    path.with_suffix(".away").rename(path)
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == one.before and one.who()[2] == ()


def test_a_module_is_missing_at_a_boot(one: One) -> None:
    one.verb("adopt")
    one.host.kill()
    one.host.boot().call(inhandover.disk, one.folder)
    index = f"/lib/modules/{one.host.run(['uname', '-r']).stdout.strip()}/modules.dep"
    one.host.run(["sh", "-c", f": >/run/empty; mount --bind /run/empty {index}"])
    one.host.run(["sh", "-c", "modprobe -r target_core_file 2>/dev/null; true"])
    code, said = one.host.call(inours.restore, TARGET)
    assert code == errors.ModuleMissing.code and "no module target_core_file" in said, said
    assert one.gates() == {} and one.host.call(inhandover.stores) == []
    one.host.run(["umount", index])
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == one.before


def test_there_is_a_way_out_where_storage_never_comes_back(one: One) -> None:
    """Of a target that is ours, and of one that was frozen."""
    for verb, allow in (("adopt", ()), ("freeze", ("handover",))):
        one.verb(verb)
        path = one.bed.shared / "one.img"
        path.rename(path.with_suffix(".away"))
        one.boots()
        assert one.gates() in ({}, SHUT) and one.who()[0] == LIO_HANDOVER
        if allow:
            line, _ = one.host.call(inours.refused, "remove")
            assert "is under way: this host is its source" in line and "--allow handover" in line
        one.verb("remove", *allow)
        assert TARGET not in one.host.call(inours.restorers)
        one.boots()
        assert one.gates() == {}
        path.with_suffix(".away").rename(path)
        one.host.call(inhost.forget_all)
        one.host.call(inhost.build, odd(one.bed.shared))
        one.host.call(inhandover.save)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", ["adopt", "giveback", "clear"])
def test_a_verb_is_killed_anywhere(bed: lab.Lab, hosts: HostsOf, verb: str) -> None:
    """recover finishes it or takes it back: it is served, whole, and somebody restores it.

    A clear that has ended is what somebody wanted: recover leaves that, and restore serves it.
    """
    host, = hosts("newest")
    one = One(bed, host, inhandover.state(bed.shared))
    point = ended = 0
    while True:
        point += 1
        if verb != "adopt":
            one.verb("adopt")
        dead, _ = host.call(byfile.crash, point, verb)
        answers = host.call(byfile.recover)
        if any("was stopped on purpose" in note for answer in answers for note in answer.notes):
            ended += 1
            assert one.gates() == {}, point
            assert host.call(inours.restore, TARGET)[0] == 0
        assert one.gates() == OPEN, point
        who = one.who()[0]
        assert who in (LIO_HANDOVER, TARGETCLI), point
        assert who == LIO_HANDOVER or TARGET in host.call(inhandover.saved), point
        if not dead:
            break
        assert one.state() == one.before, point
        if who == LIO_HANDOVER:
            one.verb("giveback")
        assert host.call(inhandover.save_file) == one.saved, point
        host.call(inhost.forget_all)
    assert ended == (2 if verb == "clear" else 0)  # killed after its last record, and not killed
    print(f"{verb}: killed at {point - 1} points")

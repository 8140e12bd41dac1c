"""targetcli's save file, and what leads on, with the real targetcli on real kernels."""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from lio_handover import errors
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import Backstore, State
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.handover.test_engine import Two, two
from tests.kernel.test_probe import registered, state as probed
from tests.support import byfile, inhandover, inhost, insavefile, samples
from tests.support.inhandover import TARGET

__all__ = ["two"]

SPELLED = " iqn.2026-11.ORG.example:Target "
OTHER = {"fabric": "iscsi", "wwn": "iqn.2026-11.org.example:other",
         "tpgs": [{"tag": 1, "luns": ["lun0"]}]}


def test_ours_is_found_however_it_is_spelled_and_others_stay(
        two: Callable[[str, str], Two]) -> None:
    """rtslib takes it so; a boot of the source must not bring it back."""
    pair = two("stable", "newest")
    a = pair.host[SOURCE]
    before = a.call(insavefile.spelled, SPELLED, OTHER)
    pair.go("prepare stage* freeze")
    left = json.loads(a.call(inhandover.save_file))
    assert left["targets"] == [OTHER]
    a.call(inhandover.do, "thaw", SOURCE, pair.id)
    assert a.call(inhandover.save_file) == before
    pair.recover(DESTINATION)
    pair.id, pair.messages = "", []
    pair.go("prepare stage* freeze export activate* release")
    a.call(inhandover.save_file, before)        # as who restores a backup does
    notes, said = a.call(insavefile.booted)
    assert TARGET in notes[0] and a.call(inhandover.gates).get(f"{TARGET}/tpgt_1") is None, said


def test_who_writes_it_back_keeps_a_freeze_from_saying_that_all_is_well(
        two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    a = pair.host[SOURCE]
    a.call(inhandover.save)
    pair.go("prepare")
    a.call(insavefile.loop)
    try:
        with pytest.raises(errors.SavefileBroken, match="again and again by somebody else"):
            pair.go("freeze")
        assert pair.serving() == [SOURCE] and pair.state(SOURCE) == "freezing"
    finally:
        a.call(insavefile.end_loop)
    pair.go("freeze")
    assert a.call(inhandover.saved) == {} and pair.serving() == []
    pair.go("thaw")
    assert a.call(inhandover.saved) == {TARGET: True} and pair.state(SOURCE) == "idle"


def test_a_file_that_cannot_be_written_keeps_nobody_from_serving(
        two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    a = pair.host[SOURCE]
    a.call(inhandover.save)
    before = a.call(inhandover.save_file)
    pair.go("prepare")
    a.call(insavefile.read_only, True)
    try:
        with pytest.raises(errors.SavefileBroken, match="can't be written: Read-only"):
            pair.go("freeze")
        assert pair.serving() == [SOURCE]
        answer = pair.do("thaw", SOURCE)        # nothing was taken out, so nothing is missing
        assert (answer.handover.state, answer.notes) == ("idle", ())
        refused = a.call(insavefile.remove_refused)
        assert "Read-only" in refused and "--allow savefile" in refused
    finally:
        a.call(insavefile.read_only, False)
    assert a.call(inhandover.save_file) == before

    pair.id, pair.messages = "", []
    pair.go("prepare freeze")
    a.call(insavefile.read_only, True)
    try:
        answer = pair.do("thaw", SOURCE)
        assert answer.handover.state == "idle" and pair.serving() == [SOURCE]
        note, = answer.notes
        assert "Read-only" in note and "recover brings it back, not targetcli" in note
        status, = a.call(inhandover.status, pair.id)
        assert note in status.notes
    finally:
        a.call(insavefile.read_only, False)


@pytest.mark.full
def test_a_malformed_entry_of_others_costs_no_removal(
        bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    a = pair.host[SOURCE]
    a.call(insavefile.spelled, SPELLED, OTHER)
    a.call(inhost.remove, ("reserved",))
    left = json.loads(a.call(inhandover.save_file))
    assert left["targets"] == [OTHER] and left["storage_objects"] == []


def test_what_we_put_in_targetcli_reads(bed: lab.Lab, stable: lab.Host) -> None:
    """Each plugin in its own shape."""
    state = inhandover.state(bed.shared, 0)
    target, = state.targets
    tpg, = target.tpgs
    first, second = tpg.luns
    disk = Backstore(backstore_key("iblock", "disk"), {"udev_path": "/dev/ubda"},
                     {"wwn/vpd_unit_serial": "d15c0000-0000-4000-8000-000000000003"})
    ram = Backstore(backstore_key("rd_mcp", "ram"), {"rd_pages": "16", "rd_nullio": "1"},
                    {"wwn/vpd_unit_serial": "5a000000-0000-4000-8000-000000000001"})
    luns = (replace(first, backstore=disk.key), replace(second, backstore=ram.key))
    wanted = State((), (*state.backstores, disk, ram),
                   (replace(target, tpgs=(replace(tpg, luns=luns),)),))
    said, found = stable.call(insavefile.put_and_restored, wanted)
    assert insavefile.stores(found) == insavefile.stores(wanted), said
    made = {one.key: one for one in found.backstores}
    assert made[ram.key].parameters == ram.parameters
    assert made[disk.key].path == disk.path and made[disk.key].serial == disk.serial
    got, = found.targets
    assert [lun.backstore for lun in got.tpgs[0].luns] == [disk.key, ram.key]
    assert stable.call(inhandover.gates) == {f"{TARGET}/tpgt_1": "1"}


def test_what_targetcli_restored_is_what_the_document_says(
        bed: lab.Lab, stable: lab.Host) -> None:
    """It writes the path of a disk where lio-handover does not, which is no difference."""
    state = inhandover.state(bed.shared, 0)
    disk = Backstore(backstore_key("iblock", "disk"), {"udev_path": "/dev/ubda"}, {
        "udev_path": "/dev/ubda", "wwn/vpd_unit_serial": "d15c0000-0000-4000-8000-000000000003"})
    target, = state.targets
    tpg, = target.tpgs
    luns = (replace(tpg.luns[0], backstore=disk.key), tpg.luns[1])
    state = replace(state, backstores=(disk, state.backstores[1]),
                    targets=(replace(target, tpgs=(replace(tpg, luns=luns),)),))
    stable.call(inhost.build, state)
    data = stable.call(inhost.export_state)
    stable.call(inhandover.save)
    stable.call(inhandover.restart_targetcli)
    assert stable.call(inhandover.gates) == {f"{TARGET}/tpgt_1": "1"}
    stable.call(inhost.verify, data)


# ── what a refusal says leads on ─────────────────────────────────────────────────────────────

def many(bed: lab.Lab) -> State:
    """More registrations than a page holds."""
    made = probed(bed.shared, 70, 1, registered(70, 1, all_tg_pt=True))
    target, = made.targets
    tpg, = target.tpgs
    tpg = replace(tpg, attributes={**tpg.attributes, "enable": "1"})
    return replace(made, targets=(replace(target, tpgs=(tpg,)),))


def test_what_a_probe_tells_leads_from_prepare_through_freeze(
        bed: lab.Lab, stable: lab.Host) -> None:
    """No circle of prepare and freeze."""
    stable.call(inhost.build, many(bed))
    assert stable.call(insavefile.prepared, True) == []
    refused = stable.call(insavefile.freeze, False)
    assert "only the first" in refused and "next: lio-handover freeze --probe iscsi/" in refused
    assert stable.call(insavefile.freeze, True) == ""


@pytest.mark.full
def test_a_handover_with_more_registrations_than_a_page(
        bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    a.call(inhost.remove, ("reserved",))
    a.call(inhost.build, many(bed))
    name = "iscsi/iqn.2003-01.org.example:probe"
    with pytest.raises(errors.CannotRepresent, match="only the first") as error:
        pair.do("prepare", SOURCE, targets=(name,))
    assert "--probe" in error.value.do
    pair.do("prepare", SOURCE, targets=(name,), probe=True)
    pair.go("stage* freeze export activate* release activate* verify* retire confirm*")
    assert pair.states() == ("retired", "confirmed")
    read = b.call(insavefile.prepared, True)
    assert read == []


def test_what_no_document_carries_is_said_of_the_kernels_file_before_the_gate_shuts(
        bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    """Exporting again would not help."""
    pair = two("stable", "newest")
    a = pair.host[SOURCE]
    odd = "iqn.2026-11.org.example:a,b"
    a.call(insavefile.acl, odd)
    said, = a.call(insavefile.prepared, False)
    assert said.startswith(f"{TARGET}/tpgt_1/acls/{odd}: no document can carry it: ")
    assert "make it anew under another name" in said and "export" not in said
    refused = a.call(insavefile.freeze, False)
    assert f"{TARGET}/tpgt_1/acls/{odd}" in refused
    with pytest.raises(errors.CannotRepresent, match="no document can carry it"):
        pair.go("prepare")
    refused = a.call(insavefile.remove_refused)
    assert "--allow unclear" in refused
    a.call(insavefile.acl, odd, False)
    pair.id, pair.messages = "", []
    pair.go("prepare freeze")
    assert samples.IQN in TARGET and pair.state(SOURCE) == "frozen"


def test_a_file_in_another_place_does_not_bring_back_what_was_exported(
        bed: lab.Lab, stable: lab.Host) -> None:
    """openSUSE's unit has another name, and the owner gave it another file."""
    stable.call(inhost.build, inhandover.state(bed.shared, 0))
    try:
        stable.call(insavefile.elsewhere, True)
        before = stable.call(insavefile.saved_elsewhere)
        stable.call(byfile.verb, "freeze")
        stable.call(byfile.verb, "export")
        assert TARGET.encode().split(b"/")[1] in before
        assert stable.call(insavefile.saved_elsewhere) != before
        _notes, said = stable.call(insavefile.booted, insavefile.ELSEWHERE)
        assert stable.call(inhandover.gates) == {}, said
        stable.call(byfile.verb, "thaw", b"", ("exported",))
        assert stable.call(inhandover.gates) == {f"{TARGET}/tpgt_1": "1"}
        assert TARGET.encode().split(b"/")[1] in stable.call(insavefile.saved_elsewhere)
    finally:
        stable.call(insavefile.elsewhere, False)

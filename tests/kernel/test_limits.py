"""What this host's devices, modules and kernel can't have is found before the blackout."""
from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.cli.main import main
from lio_handover.document import document as documents, rename
from lio_handover.kernel.configfs import Configfs
from lio_handover.model.objects import Backstore, State
from lio_handover.storage import device_limits
from lio_handover.storage.exclusive import Proof
from tests import lab
from tests.conftest import HostsOf
from tests.kernel.test_portals import ANY, at_portals, found
from tests.kernel.test_ports import ONE, try_import
from tests.kernel.test_preflight import on_device, small
from tests.lab.inside import TARGET
from tests.support import inhost, samples

# ── inside the host ──────────────────────────────────────────────────────────────────────────


def document(state: State, more: dict[str, str]) -> bytes:
    """What would be exported here, of a source whose device could have ``more``."""
    inhost.build(state)
    inhost.freeze()
    made = documents.loads(inhost.export())
    inhost.remove()
    store, = made.state.backstores
    store = replace(store, attributes={**store.attributes, **more})
    return documents.dumps(replace(made, state=replace(made.state, backstores=(store,))))


def discards(path: str) -> tuple[dict[str, str], list[str]]:
    """(what the kernel takes of what an iblock on this device may be told, what limits say)."""
    names = ("emulate_tpu", "emulate_tpws", "unmap_zeroes_data")
    store = Backstore(("backstore", "iblock", "x"), {"udev_path": path},
                      {f"attrib/{name}": "1" for name in names})
    inhost.build(State((), (replace(store, attributes={}),)))
    taken = {}
    for name in names:
        place, = (TARGET / "core").glob(f"iblock_*/x/attrib/{name}")
        try:
            place.write_text("1")
        except OSError:
            pass
        taken[name] = place.read_text().strip()
    inhost.core().remove(["iblock/x"])
    return taken, [one.sentence for one in device_limits.findings(
        State((), (store,)), State(), set())]


def mounted_read_only(folder: str) -> list[str]:
    """What is said of a file below a read-only mount, with the source's word for it and without,
    and once it is writable."""
    place = Path("/run/shown-read-only")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)], check=True)
    store = Backstore(("backstore", "fileio", "x"), {"fd_dev_name": f"{place}/x.img"}, {})
    told: list[str] = []
    known: Proof = {"kind": "file"}
    for proofs in ({"fileio/x": known}, {}, {"fileio/x": known}):
        if len(told) == 1:
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
            (place / "x.img").touch()
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        elif told:
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        said = device_limits.findings(State((), (store,)), State(), set(), proofs)
        told.append(" ".join(one.sentence.partition(" is ")[2] for one in said))
    subprocess.run(["umount", str(place)], check=True)
    place.rmdir()
    return told


def read_only() -> tuple[bool, list[str]]:
    """(whether the kernel opens a read-only disk for writing, what is said of it)."""
    store = Backstore(("backstore", "iblock", "x"), {"udev_path": "/dev/ram0"}, {})
    subprocess.run(["blockdev", "--setro", "/dev/ram0"], check=True)
    try:
        inhost.build(State((), (store,)))
        opened = True
    except errors.HandoverError:
        opened = False
    said = device_limits.findings(State((), (store,)), State(), set())
    subprocess.run(["blockdev", "--setrw", "/dev/ram0"], check=True)
    return opened, [f"{one.subject}: {one.sentence}" for one in said]


def bare_disk() -> None:
    """A disk that discards nothing, on kernels that have such a one."""
    subprocess.run(["modprobe", "brd", "rd_nr=1", "rd_size=8192"], check=True)


def said(name: str) -> str:
    place, = (TARGET / "core").glob(f"*_*/*/attrib/{name}")
    return place.read_text().strip()


def bare(more: list[tuple[str, str]], state: State) -> bytes:
    """Served, changed by bare hands in this order, frozen, exported, and gone."""
    target, = state.targets
    tpg, = target.tpgs
    inhost.build(replace(state, targets=(replace(target, tpgs=(replace(tpg, luns=()),)),)))
    for name, value in more:
        place, = (TARGET / "core").glob(f"fileio_*/*/attrib/{name}")
        place.write_text(value)
    lun = TARGET / "iscsi" / target.wwn / "tpgt_1/lun/lun_0"
    lun.mkdir()
    store, = (TARGET / "core").glob("fileio_*/*/attrib")
    (lun / "link").symlink_to(store.parent)
    inhost.freeze()
    data = inhost.export()
    inhost.remove()
    return data


def folder_there(made: bool) -> str:
    """Of the kernel's registrations; first taken away."""
    folder = Configfs().read("dbroot").strip() + "/pr"
    if not made:
        shutil.rmtree(folder, ignore_errors=True)
    return folder if Path(folder).is_dir() else ""


def prepared() -> tuple[int, str]:
    """The exit code and what the command says."""
    import contextlib
    import io
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["prepare", "--all"])
    return code, out.getvalue()


# ── devices ──────────────────────────────────────────────────────────────────────────────────

MORE = {"attrib/queue_depth": "1024", "attrib/optimal_sectors": "1000",
        "attrib/emulate_write_cache": "1", "attrib/pi_prot_type": "1"}


def test_what_this_hosts_device_cannot_have_is_found_and_mapped(
        bed: lab.Lab, newest: lab.Host) -> None:
    data = newest.call(document, on_device("iblock", ONE), MORE)
    told = newest.call(found, data)
    wanted = {"queue_depth": ("1024", "128"), "optimal_sectors": ("1000", "248"),
              "emulate_write_cache": ("1", "0"), "pi_prot_type": ("1", "0")}
    assert len(told) == len(wanted)
    for name, (value, most) in wanted.items():
        assert [one for one in told if f"iblock/disk: its {name} is {value}, and this host's "
                in one and f" has at most {most}; --map limit:{name}={most}" in one], told
    refused, left, _ = newest.call(try_import, data)
    assert "and 3 more" in refused and "nothing was changed" in refused and left == []
    maps = [f"limit:{name}={most}" for name, (_, most) in wanted.items()]
    refused, _, notes = newest.call(try_import, data, *maps)
    assert refused == ""
    assert "queue_depth 1024 becomes 128: initiators do not see it" in notes
    assert "optimal_sectors 1000 becomes 248: initiators see it in VPD page B0" in notes
    assert {name: newest.call(said, name) for name in wanted} == {
        name: most for name, (_, most) in wanted.items()}


def test_a_device_that_discards_nothing(bed: lab.Lab, oldest: lab.Host) -> None:
    oldest.call(bare_disk)
    names = ("emulate_tpu", "emulate_tpws", "unmap_zeroes_data")
    assert oldest.call(discards, "/dev/ubda") == (dict.fromkeys(names, "1"), [])
    assert oldest.call(discards, "/dev/ram0") == (dict.fromkeys(names, "0"), [
        f"its {name} is 1, and this host's device has at most 0" for name in names])
    assert oldest.call(read_only) == (False, ["iblock/x: /dev/ram0 is read-only on this host"])


def test_what_a_file_has_is_the_kernels_own(bed: lab.Lab, stable: lab.Host) -> None:
    data = stable.call(document, small(bed.shared, {}), {
        "attrib/queue_depth": "129", "attrib/optimal_sectors": "16385"})
    assert [one.partition(";")[0] for one in stable.call(found, data)] == [
        "fileio/small: its queue_depth is 129, and this host's device has at most 128",
        "fileio/small: its optimal_sectors is 16385, and this host's device has at most 16384"]
    assert stable.call(mounted_read_only, str(bed.shared)) == [
        "read-only on this host", "read-only on this host", ""]


BEFORE = [("optimal_sectors", "10000"), ("block_size", "4096")]


def test_an_optimum_from_before_the_block_size_is_carried(bed: lab.Lab, hosts: HostsOf) -> None:
    """Up to 6.1 it survives a block_size of 4096, and can't be written after it."""
    old, new = hosts("oldest", "newest")
    data = old.call(bare, BEFORE, small(bed.shared, {}))
    for host in (old, new):
        assert host.call(try_import, data)[0] == ""
        assert (host.call(said, "optimal_sectors"), host.call(said, "block_size")) == (
            "10000", "4096")


def iser(data: bytes) -> bytes:
    made = documents.loads(data)
    target, = made.state.targets
    tpg, = target.tpgs
    return documents.dumps(replace(made, state=replace(made.state, targets=(replace(
        target, tpgs=(replace(tpg, portals=tuple(
            replace(one, attributes={**one.attributes, "iser": "1", "cxgbit": "1"})
            for one in tpg.portals)),)),))))


def test_a_transport_without_its_module(bed: lab.Lab, stable: lab.Host) -> None:
    data = iser(stable.call(document, at_portals(small(bed.shared, {}), ANY), {}))
    told = stable.call(found, data)
    assert len(told) == 2 and "its iser is on, and this kernel has no module ib_isert" in told[0]
    assert "no module cxgbit" in told[1] and "--map limit:cxgbit=0" in told[1]
    assert stable.call(try_import, data)[1] == []
    assert stable.call(try_import, data, "limit:iser=0", "limit:cxgbit=0")[0] == ""


def test_a_module_is_found_where_modprobe_finds_it(tmp_path: Path) -> None:
    import os
    folder = tmp_path / os.uname().release
    folder.mkdir()
    assert not device_limits.available("ib_isert", str(tmp_path))
    (folder / "modules.dep").write_text(
        "kernel/drivers/a.ko.xz: kernel/b.ko\nkernel/drivers/ib_isert.ko.xz: kernel/c.ko\n")
    assert device_limits.available("ib_isert", str(tmp_path))
    assert not device_limits.available("isert", str(tmp_path))
    assert not device_limits.available("c", str(tmp_path))
    (folder / "modules.builtin").write_text("kernel/drivers/cxg-bit.ko\n")
    assert device_limits.available("cxg_bit", str(tmp_path))


# ── folders, kernels ─────────────────────────────────────────────────────────────────────────

def test_registrations_find_their_folder(bed: lab.Lab, oldest: lab.Host) -> None:
    """Without it REGISTER answers NOT READY, and is done all the same."""
    state = small(bed.shared, {})
    oldest.call(inhost.build, state)
    assert oldest.call(folder_there, False) == ""
    code, told = oldest.call(prepared)
    assert code == 0 and "note: there is no folder " in told and "NOT READY" in told
    assert told.count("lacks the fixes of CVE-2026-72084: ") == 1     # of 6.1.176
    oldest.call(inhost.freeze)
    data = oldest.call(inhost.export)
    oldest.call(inhost.remove)
    assert oldest.call(folder_there, False) == ""
    oldest.call(inhost.import_, data)
    assert oldest.call(folder_there, True)


# ── maps ─────────────────────────────────────────────────────────────────────────────────────

def test_a_limit_lowers_what_is_more_and_nothing_else() -> None:
    state = samples.iscsi(luns=2)
    one, two = state.backstores
    one = replace(one, attributes={**one.attributes, "attrib/queue_depth": "64"})
    made, applied = rename.parse(["limit:queue_depth=100"]).apply(
        samples.document(replace(state, backstores=(one, two))), None)
    assert [store.attributes["attrib/queue_depth"] for store in made.state.backstores] == [
        "64", "100"]
    assert rename.notes(applied) == ("queue_depth 128 becomes 100: initiators do not see it",)


@pytest.mark.parametrize("option", ["limit:block_size=512", "limit:queue_depth=-1",
                                    "limit:queue_depth=many", "limit:alua_support=1"])
def test_what_is_no_limit(option: str) -> None:
    with pytest.raises(errors.BadMap):
        rename.parse([option])


def test_a_limit_that_nothing_exceeds_is_a_mistake() -> None:
    with pytest.raises(errors.BadMap, match="no object that has more of queue_depth"):
        rename.parse(["limit:queue_depth=4096"]).apply(samples.document(samples.iscsi()), None)


def test_pass_through_is_not_had_by_a_file() -> None:
    store = Backstore(("backstore", "rd_mcp", "x"), {}, {"attrib/pgr_support": "0",
                                                         "attrib/pi_prot_verify": "1"})
    told = [one.sentence for one in device_limits.findings(State((), (store,)), State(), set())]
    assert told[0] == "its pgr_support is 0, and this host's kernel has 1"
    assert "pi_prot_verify is 1" in told[1]

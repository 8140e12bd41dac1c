"""What the kernel has open is not what its path says: on real kernels."""
from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.reader import Reader
from lio_handover.local.by_file import ByFile
from lio_handover.model import keys, objects
from lio_handover.model.keys import backstore_key
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.settings import Settings
from lio_handover.storage import opened
from lio_handover.views.terminal import Terminal
from lio_handover.views.tree import tree as drawn
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import Two
from tests.lab import barehands
from tests.lab.inside import TARGET, clear_targets, run
from tests.support import inhandover, inhost, samples
from tests.support.inhandover import register

IQN = "iqn.2026-11.org.example:opened"
SIZE = lab.MiB


# ── inside the host ──────────────────────────────────────────────────────────────────────────

def image(path: str, word: str, size: int = SIZE) -> str:
    with open(path, "wb") as file:
        file.write(word.encode())
        file.truncate(size)
    return path


def fresh(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)


def said(work: Callable[[], object]) -> str:
    """What it is refused with: the error's name and its line."""
    try:
        work()
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def prepared(probe: bool = False, iqn: str = "") -> str:
    """What speaks against a handover of all that is here, or of one target, else the notes."""
    core = inhost.core()
    names = core.names([f"iscsi/{iqn}"] if iqn else [], not iqn)

    def prepare() -> None:
        document, found = core.prepare(names, probe)
        errors.refuse(found)
        notes.extend(document.notes)
    notes: list[str] = []
    return said(prepare) or "\n".join(notes)


def every_verb() -> dict[str, str]:
    """What the source's verbs say, and whether the tree was changed by them."""
    before = inhost.tree()
    found = {"prepare": prepared(), "freeze": said(inhost.freeze), "export": said(inhost.export)}
    found["changed"] = "\n".join(inhost.differences(before, inhost.tree()))
    return found


@contextmanager
def served(folder: str, name: str = "one") -> Iterator[str]:
    """A target with one file, until the end."""
    path = image(f"{folder}/{name}.img", name)
    barehands.iscsi(IQN, "0.0.0.0", {0: barehands.fileio(name, path, SIZE)})
    try:
        yield path
    finally:
        clear_targets()


def ways(folder: str) -> dict[str, Callable[[str], Callable[[], object] | None]]:
    """What can happen to a path, by name; each answers with what takes it back."""
    def moved_over(path: str) -> None:
        os.rename(image(f"{folder}/new.img", "new"), path)

    def removed(path: str) -> None:
        os.unlink(path)

    def other_folder(path: str) -> None:
        os.rename(folder, f"{folder}.old")
        os.mkdir(folder)
        image(path, "new")

    def mounted(path: str) -> Callable[[], object]:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "none", folder)
        image(path, "new")
        return lambda: run("umount", folder)

    def bound(path: str) -> Callable[[], object]:
        run("mount", "--bind", image(f"{folder}/new.img", "new"), path)
        return lambda: run("umount", path)

    def info(path: str) -> None:
        device = TARGET / "core/fileio_0/one/control"
        device.write_text(f"fd_dev_name={image(f'{folder}/never.img', 'never')}")

    def shrunk(path: str) -> None:
        os.truncate(path, SIZE // 2)
    return {one.__name__: one for one in (
        moved_over, removed, other_folder, mounted, bound, info, shrunk)}


def stores() -> tuple[objects.Backstore, ...]:
    return Reader(Configfs(), reservations=False).state([("iscsi", IQN)]).backstores


def after_each_way(folder: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name in ways(folder):
        shutil.rmtree(f"{folder}.old", ignore_errors=True)
        fresh(folder)
        with served(folder) as path:
            if not found:
                assert prepared() == "", prepared()
            looks = opened.Looks()
            for _ in range(2):
                assert said(lambda: opened.check(stores(), looks.again())) == ""
            undo = ways(folder)[name](path)
            try:
                found[name] = every_verb() if name in ("removed", "mounted") else \
                    {"prepare": prepared()}
                found[name]["another look"] = said(lambda: opened.check(stores(), looks.again()))
            finally:
                if undo:
                    undo()
    return found


def link_pointed_elsewhere(folder: str) -> dict[str, str]:
    fresh(folder)
    image(f"{folder}/a", "a")
    image(f"{folder}/b", "b")
    os.symlink("a", f"{folder}/link")
    barehands.iscsi(IQN, "0.0.0.0", {0: barehands.fileio("one", f"{folder}/link", SIZE)})
    assert prepared() == ""
    os.unlink(f"{folder}/link")
    os.symlink("b", f"{folder}/link")
    return every_verb()


def somebody_else_writes(folder: str) -> tuple[str, str, str]:
    """(note while a process writes to the replacement, with a probe, probe of the right file)."""
    fresh(folder)
    with served(folder) as path:
        os.rename(image(f"{folder}/new.img", "new"), path)
        with open(path, "r+b") as file:
            writer = subprocess.Popen(["sleep", "60"], stdin=file)
        found = prepared(), prepared(True)
        writer.kill()
        writer.wait()
    with served(folder):
        return (*found, prepared(True))


def swapped(folder: str) -> tuple[str, str]:
    """Two files change places: (without, with a probe)."""
    fresh(folder)
    stores = {number: barehands.fileio(name, image(f"{folder}/{name}", name), SIZE, number)
              for number, name in enumerate("ab")}
    barehands.iscsi(IQN, "0.0.0.0", stores)
    assert prepared(True) == ""
    os.rename(f"{folder}/a", f"{folder}/c")
    os.rename(f"{folder}/b", f"{folder}/a")
    os.rename(f"{folder}/c", f"{folder}/b")
    return prepared(), prepared(True)


def moved_over(folder: str) -> tuple[str, str]:
    """The file of one backstore is moved to the path of another: what is said of that one alone,
    (without, with a probe)."""
    fresh(folder)
    stores = {number: barehands.fileio(name, image(f"{folder}/{name}", name), SIZE, number)
              for number, name in enumerate("ab")}
    barehands.iscsi(IQN, "127.0.0.2", {0: stores[0]})
    barehands.iscsi(f"{IQN}.b", "127.0.0.3", {0: stores[1]})
    assert prepared(False, IQN) == ""
    os.rename(f"{folder}/b", f"{folder}/a")
    return prepared(False, IQN), prepared(True, IQN)


def mapped(name: str, start: int) -> str:
    run("modprobe", "dm-mod")
    os.environ["DM_DISABLE_UDEV"] = "1"
    run("dmsetup", "create", name, "--table", f"0 8192 linear /dev/ubda {start}")
    return f"/dev/mapper/{name}"


def renamed_device(plugin: str) -> tuple[dict[str, str], str]:
    """(what the verbs say once d0 is another device, what a probe says)."""
    path = mapped("d0", 0)
    one = barehands.iblock("one", path) if plugin == "iblock" else \
        barehands.fileio("one", path, 4 * SIZE)
    barehands.iscsi(IQN, "0.0.0.0", {0: one})
    probed = prepared(True)
    assert not probed, probed
    run("dmsetup", "rename", "d0", "old")
    mapped("d0", 8192)
    return every_verb() if plugin == "iblock" else {"prepare": prepared()}, prepared(True)


def node_replaced() -> dict[str, str]:
    """A node of its own, then another device's by that name; then none."""
    path = "/dev/lio-test"
    os.mknod(path, 0o60600, os.stat(mapped("d0", 0)).st_rdev)
    barehands.iscsi(IQN, "0.0.0.0", {0: barehands.iblock("one", path)})
    assert prepared() == ""
    os.unlink(path)
    missing = prepared()
    os.mknod(path, 0o60600, os.stat(mapped("d1", 8192)).st_rdev)
    found = every_verb()
    os.unlink(path)
    return {**found, "missing": missing}


class Removing(Configfs):
    """Somebody removes the companion just before the kernel opens it."""

    def write(self, path: str, data: bytes) -> None:
        if path.endswith("/pi_prot_type"):
            os.unlink("/run/opened/disk.img.protection")
        super().write(path, data)


class Racing(Configfs):
    """Somebody replaces the file just before the kernel opens it."""

    def __init__(self, image_: str) -> None:
        super().__init__()
        self.image = image_

    def write(self, path: str, data: bytes) -> None:
        if path.startswith("core/") and path.endswith("/enable"):
            os.rename(image(self.image + ".new", "new"), self.image)
        super().write(path, data)


def raced_import(data: bytes, path: str) -> tuple[str, list[str]]:
    before = inhost.tree()
    core = ByFile(inhost.SETTINGS, Racing(path))
    ready = core.ready(documents.loads(data))
    return said(lambda: core.import_(ready)), inhost.differences(before, inhost.tree())


def replaced_and_verified(data: bytes, path: str) -> str:
    os.rename(image(path + ".new", "new"), path)
    return said(lambda: inhost.verify(data))


def exchange(path: str, other: str) -> None:
    """Two files change names."""
    os.rename(path, path + ".third")
    os.rename(other, path)
    os.rename(path + ".third", other)


# twins
def twins(folder: str) -> dict[str, str]:
    stores = {number: barehands.fileio("disk", image(f"{folder}/{number}", str(number)), SIZE,
                                       number, f"serial-{number}") for number in (0, 1)}
    barehands.iscsi(IQN, "0.0.0.0", stores)
    found = every_verb()
    found["remove"] = said(inhost.remove)
    found["show"] = "\n".join(drawn(inhost.core().view(), Terminal(0, False)))
    return found


def remove_one_twin() -> list[str]:
    """Those that are left, once the second is no LUN any more and is removed by its name."""
    lun = TARGET / f"iscsi/{IQN}/tpgt_1/lun/lun_1"
    (lun / "lio-lab").unlink()
    lun.rmdir()
    inhost.core().remove(["fileio/fileio_1/disk"])
    return [store.hba for store in inhost.read_all().backstores]


def import_beside_twins(data: bytes, folder: str) -> tuple[str, list[str]]:
    for number in (3, 4):
        barehands.fileio("disk0", image(f"{folder}/{number}", "x"), SIZE, number)
    before = inhost.tree()
    return said(lambda: inhost.import_(data)), inhost.differences(before, inhost.tree())


# unit serials
def removed_pair() -> tuple[dict[str, str], str, list[str]]:
    """(what the source says, what remove says, the APTPL files that are left) once each backstore
    has a registration."""
    register(0, 0, 0xa0)
    register(1, 1, 0xb0)
    assert os.listdir("/etc/target/pr") == ["aptpl_one"]
    return (every_verb(), said(lambda: inhost.remove(("reserved", "unclear"))),
            os.listdir("/etc/target/pr"))


def removed_one_of_two_targets() -> tuple[str, list[str]]:
    refused = said(lambda: inhost.core().remove([f"iscsi/{samples.IQN}"], allow=("reserved",)))
    return refused, os.listdir("/etc/target/pr")


# protection information
def protected(path: str) -> bytes:
    """The document of a target whose file has protection information."""
    fresh(os.path.dirname(path))
    device = Path(barehands.fileio("disk", image(path, "data"), SIZE))
    (device / "attrib/pi_prot_type").write_text("1")
    (device / "attrib/pi_prot_format").write_text("1")
    barehands.iscsi(IQN, "0.0.0.0", {0: str(device)})
    inhost.freeze()
    data = inhost.export()
    inhost.thaw()
    return data


def protection_replaced(path: str) -> dict[str, str]:
    kept = Path(path + ".protection").read_bytes()
    os.rename(image(path + ".new", "new", len(kept)), path + ".protection")
    found = every_verb()
    os.unlink(path + ".protection")
    found["missing"] = prepared()
    inhost.remove()
    Path(path + ".protection").write_bytes(kept)
    return found


def imports_of_protected(data: bytes, path: str) -> dict[str, str]:
    """What an import says where the companion is missing, empty, another one, a link, right."""
    beside = Path(path + ".protection")
    kept, before, found = beside.read_bytes(), inhost.tree(), {}
    core = ByFile(Settings(roots=(os.path.dirname(path),)))

    def attempt(name: str) -> None:
        there = os.path.lexists(beside)
        found[name] = said(lambda: core.import_(core.ready(documents.loads(data))))
        left = inhost.differences(before, inhost.tree())
        if found[name] and (left or os.path.lexists(beside) is not there):
            found[name] += f" CHANGED {left}"

    beside.unlink()
    attempt("missing")
    beside.write_bytes(b"")
    attempt("empty")
    beside.write_bytes(b"\1" * len(kept))
    attempt("other")
    beside.unlink()
    beside.symlink_to("/etc/hostname")
    attempt("link")
    beside.unlink()
    beside.write_bytes(kept)
    right, core = core, ByFile(core.settings, Removing())
    found["removed"] = said(lambda: core.import_(core.ready(documents.loads(data))))
    found["removed"] += str(inhost.differences(before, inhost.tree())) + str(beside.exists())
    core = right
    beside.write_bytes(kept)
    attempt("right")
    found["type"] = (TARGET / "core/fileio_0/disk/attrib/pi_prot_type").read_text().strip()
    found["same"] = str(beside.read_bytes() == kept)
    return found


# ── tests: what is open ──────────────────────────────────────────────────────────────────────

ANOTHER = "leads to another file now than the one which the kernel has open and serves"


def refused(found: dict[str, str], *words: str) -> None:
    """Every verb refuses with these words and has changed nothing."""
    assert not found.pop("changed", "")
    for verb, line in found.items():
        for word in words:
            assert word in line, f"{verb} says {line!r}"


@pytest.mark.parametrize("role", [
    "stable", pytest.param("oldest", marks=pytest.mark.full),
    pytest.param("newest", marks=pytest.mark.full)])
def test_a_path_that_leads_to_another_file_is_refused(role: str, hosts: HostsOf) -> None:
    host, = hosts(role)
    found = host.call(after_each_way, "/run/ways")
    refused(found.pop("removed"), "StorageMissing", "fileio/one", "/run/ways/one.img leads nowhere",
            "copy the LUN's data through an initiator to a new file")
    refused(found.pop("shrunk"), "StorageDiffers", f"has {SIZE // 2} bytes, and {SIZE} are served",
            f"truncate -s {SIZE} /run/ways/one.img")
    assert set(found) == {"moved_over", "other_folder", "mounted", "bound", "info"}
    for way in found.values():
        refused(way, "StorageDiffers", "fileio/one", ANOTHER, "put what it has open back")
    refused(host.call(link_pointed_elsewhere, "/run/ways"), "StorageDiffers", ANOTHER)


def test_where_somebody_else_writes_only_a_probe_tells(bed: lab.Lab, stable: lab.Host) -> None:
    unsure, probed, right = stable.call(somebody_else_writes, "/run/opened")
    assert unsure.startswith("fileio/one: whether the path leads to what the source has open is "
                             "not known: process ") and "--probe asks the device" in unsure
    assert probed.startswith("StorageDiffers") and ANOTHER in probed
    assert right == ""


def test_two_files_that_changed_places_are_told_apart_by_a_probe(bed: lab.Lab,
                                                                 stable: lab.Host) -> None:
    _unseen, probed = stable.call(swapped, "/run/opened")
    assert probed.startswith("StorageDiffers: fileio/a: /run/opened/a leads to another file")


def test_a_file_of_another_backstore_is_not_taken_for_ones_own(bed: lab.Lab,
                                                               stable: lab.Host) -> None:
    unsure, probed = stable.call(moved_over, "/run/opened")
    assert unsure.startswith("fileio/a: whether the path leads to what the source has open is not "
                             "known: fileio_1/b has another file open than its own path leads to")
    assert probed.startswith("StorageDiffers: fileio/a: /run/opened/a leads to another file")


def test_a_file_system_without_leases_is_told(bed: lab.Lab, newest: lab.Host) -> None:
    """hostfs gives some on 6.12, and none on 7.2."""
    newest.call(inhost.build, one_file(bed))
    note = newest.call(prepared)
    assert note.startswith("fileio/disk0: whether the path leads to what the source has open is "
                           "not known: this kernel's hostfs gives no leases")
    assert newest.call(prepared, True) == ""


@pytest.mark.parametrize("role", [
    "stable", pytest.param("oldest", marks=pytest.mark.full),
    pytest.param("newest", marks=pytest.mark.full)])
def test_a_device_that_has_another_name_now(role: str, hosts: HostsOf) -> None:
    host, = hosts(role)
    found, _probed = host.call(renamed_device, "iblock")
    refused(found, "StorageDiffers", "iblock/one: /dev/mapper/d0 leads to block device ",
            "(dm-1, d0) now, and the kernel has ", "(dm-0, old) open and serves it",
            "make the path lead to that device again")


def test_what_device_fileio_has_open_is_known_by_a_probe(bed: lab.Lab, stable: lab.Host) -> None:
    found, probed = stable.call(renamed_device, "fileio")
    assert "not known: the kernel does not show which device a fileio" in found["prepare"]
    assert probed.startswith("StorageDiffers") and ANOTHER in probed


def test_a_device_node_that_was_replaced(bed: lab.Lab, stable: lab.Host) -> None:
    found = stable.call(node_replaced)
    missing = found.pop("missing")
    assert missing.startswith("StorageMissing: iblock/one: /dev/lio-test leads nowhere, and the "
                              "kernel has block device 25") and "(dm-0, d0) open" in missing
    refused(found, "StorageDiffers", "(dm-1, d1) now, and the kernel has ", "(dm-0, d0) open")


def one_file(bed: lab.Lab, serial: str = "") -> objects.State:
    path = bed.shared / "disk0.img"
    path.write_bytes(b"one".ljust(SIZE, b"\0"))
    state = samples.iscsi(paths=[str(path)], wwn=IQN, portals=["0.0.0.0:3260"])
    return replace(state, backstores=tuple(replace(store, hba="", attributes={}, alua_groups=(),
                                                   parameters={**store.parameters,
                                                               "fd_dev_size": str(SIZE)})
                                           for store in state.backstores))


def handed_over() -> bytes:
    inhost.freeze()
    data = inhost.export()
    inhost.remove()
    return data


def test_a_file_that_is_replaced_while_the_kernel_opens_it(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, one_file(bed))
    data, path = stable.call(handed_over), str(bed.shared / "disk0.img")
    line, left = stable.call(raced_import, data, path)
    assert not left and line.startswith("StorageDiffers")
    assert f"{path} leads to something else than when it was looked at" in line
    assert "nothing was changed" in line


@pytest.mark.full
def test_a_handover_stops_while_the_source_can_go_on(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "stable")
    state = inhandover.state(bed.shared)
    a.call(inhost.build, state)
    path = state.backstores[0].path
    other = str(bed.shared / "other.img")
    a.call(image, other, "other", os.path.getsize(path))
    two = Two(a, b)
    two.go("prepare stage*")
    a.call(exchange, path, other)
    with pytest.raises(errors.StorageDiffers, match=ANOTHER):
        two.do("freeze", SOURCE)
    assert two.serving() == [SOURCE]
    a.call(exchange, path, other)
    two.go("freeze")
    a.call(exchange, path, other)
    with pytest.raises(errors.StorageDiffers, match=ANOTHER):
        two.do("export", SOURCE)
    a.call(exchange, path, other)
    two.go("export activate* release activate* verify*")
    assert two.serving() == [DESTINATION]


def test_verify_is_not_content_with_another_file(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, one_file(bed))
    data, path = stable.call(handed_over), str(bed.shared / "disk0.img")
    stable.call(inhost.import_, data)
    stable.call(inhost.verify, data)
    line = stable.call(replaced_and_verified, data, path)
    assert line.startswith("StorageDiffers") and ANOTHER in line


def test_a_lease_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    store = samples.backstore(path=str(path), size=100)
    for _ in range(3):
        look, = opened.Looks().at([store])
        assert look.same in (False, None)
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # else EWOULDBLOCK


# ── tests: names, serials, protection ────────────────────────────────────────────────────────

def test_two_hbas_with_one_name(bed: lab.Lab, stable: lab.Host) -> None:
    found = stable.call(twins, str(bed.shared))
    shown = found.pop("show")
    for number in (0, 1):
        assert f"fileio/fileio_{number}/disk" in shown and f"serial-{number}" in shown
        assert f"lun{number} .. [fileio/fileio_{number}/disk, {bed.shared}/{number}, 1 MiB]" \
            in shown
    refused(found, "CannotRepresent", "core/fileio_0/disk and core/fileio_1/disk",
            "make it again under another name")
    assert stable.call(remove_one_twin) == ["fileio_0"]
    assert stable.call(prepared) == ""  # which is alone now


def test_a_destination_with_two_of_the_wanted_name(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, one_file(bed))
    data = stable.call(handed_over)
    line, left = stable.call(import_beside_twins, data, str(bed.shared))
    assert not left and line.startswith("CannotRepresent: fileio/disk0: core/fileio_3/disk0 and "
                                        "core/fileio_4/disk0 of this host have one name")


def one_serial(bed: lab.Lab) -> objects.State:
    """Two backstores with one unit serial, open for two initiators."""
    paths = [str(bed.shared / f"{number}.img") for number in (0, 1)]
    for number, path in enumerate(paths):
        image(path, str(number))
    state = samples.iscsi(2, 2, ["0.0.0.0:3260"], paths=paths)
    return replace(state, backstores=tuple(replace(
        store, hba="", alua_groups=(), parameters={**store.parameters, "fd_dev_size": str(SIZE)},
        attributes={"wwn/vpd_unit_serial": "one"}) for store in state.backstores))


def test_two_backstores_with_one_serial(bed: lab.Lab, stable: lab.Host) -> None:
    state = one_serial(bed)
    stable.call(inhost.build, state)
    found, removed, left = stable.call(removed_pair)
    refused(found, "CannotRepresent", "fileio/disk0: its unit serial one is that of fileio/disk1",
            "in one file, aptpl_one", "a serial of its own")
    assert removed == "" and left == []
    held = samples.registrations(2, aptpl=True)
    state = replace(state, backstores=(replace(state.backstores[0], reservations=held),
                                       *state.backstores[1:]))
    before = stable.call(inhost.tree)
    with pytest.raises(errors.HandoverError) as caught:
        stable.call(inhost.import_, documents.dumps(samples.document(state, True)))
    assert any("in one file, aptpl_one" in one.sentence for one in caught.value.findings)
    assert stable.call(inhost.tree) == before


def test_a_removed_backstore_leaves_the_file_of_another(bed: lab.Lab, stable: lab.Host) -> None:
    state = one_serial(bed)
    held = samples.registrations(2, aptpl=True)
    stable.call(inhost.build, replace(state, backstores=(
        replace(state.backstores[0], reservations=held),), targets=tuple(
        replace(target, tpgs=tuple(replace(tpg, luns=tpg.luns[:1], acls=tuple(
            replace(acl, mapped_luns=acl.mapped_luns[:1]) for acl in tpg.acls))
            for tpg in target.tpgs)) for target in state.targets)))
    stable.call(barehands.fileio, "other", image(str(bed.shared / "o"), "o"), SIZE, 7, "one")
    line, left = stable.call(removed_one_of_two_targets)
    assert line == "" and left == ["aptpl_one"]


@pytest.mark.parametrize("role", [
    "stable", pytest.param("oldest", marks=pytest.mark.full),
    pytest.param("newest", marks=pytest.mark.full)])
def test_protection_information_is_part_of_the_storage(role: str, bed: lab.Lab,
                                                       hosts: HostsOf) -> None:
    host, = hosts(role)
    path = "/run/opened/disk.img"
    data = host.call(protected, path)
    proof = documents.loads(data).storage["fileio/disk"]
    assert proof["protection_size"] == SIZE // 512 * 8 and proof["protection_sample"]
    found = host.call(protection_replaced, path)
    missing = found.pop("missing")
    assert missing.startswith(f"StorageMissing: fileio/disk: {path}.protection leads nowhere")
    refused(found, "StorageDiffers", f"fileio/disk: {path}.protection {ANOTHER}")
    imports = host.call(imports_of_protected, data, path)
    assert imports == {**imports, "right": "", "type": "1", "same": "True"}
    assert not any("CHANGED" in line for line in imports.values())
    assert f"{path}.protection does not exist" in imports["missing"]
    assert "StorageMissing" in imports["removed"] and imports["removed"].endswith("[]False")
    assert imports["empty"].startswith("StorageDiffers") and "has 0 bytes" in imports["empty"]
    assert "holds other data than on the frozen source" in imports["other"]
    assert imports["link"].startswith("StorageNotAllowed") and "symbolic link" in imports["link"]


def test_keys_of_twins_have_the_kernel_s_name() -> None:
    store = replace(samples.backstore(), key=backstore_key("fileio", "fileio_1/disk"))
    assert store.name == "disk" and keys.display(store.key) == "fileio/fileio_1/disk"

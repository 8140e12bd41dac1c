"""Bad input: one clear line, a code of its own, and a kernel that was not touched."""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from tests import lab
from tests.conftest import HostsOf
from tests.support import inhost, samples
from tests.support.spoiling import (LAUNCHER, NEW, SERVED, SIZE, Bench, Change, Tree, acl,
                                    attribute, command, held, iblock, make_bench, one_line,
                                    parameter, proof, put, store, tpg, twice)


@pytest.fixture
def bench(bed: lab.Lab, hosts: HostsOf) -> Bench:
    host, = hosts("newest")
    return make_bench(bed, host)


def raw_cases(good: bytes) -> Iterator[tuple[str, bytes, type[errors.HandoverError]]]:
    """Bytes that are no document."""
    yield "XML", b"<?xml version='1.0'?><target/>", errors.NotJson
    yield "no text", bytes(range(128, 256)) * 40, errors.NotJson
    yield "Python", good.replace(b'"', b"'"), errors.NotJson
    yield "a LUN that is a fraction", good.replace(b'"number": 1', b'"number": 1.0', 1), \
        errors.BadDigest
    yield "a hexadecimal LUN", good.replace(b'"number": 1', b'"number": 0x1', 1), errors.NotJson
    yield "an octal LUN", good.replace(b'"number": 1', b'"number": 01', 1), errors.NotJson
    yield "not a number", good.replace(b'"number": 1', b'"number": NaN', 1), errors.NotJson
    yield "empty", b"", errors.Truncated
    yield "half", good[:len(good) // 2], errors.Truncated
    yield "one byte less", good[:-1], errors.Truncated
    yield "two bytes less", good[:-2], errors.Truncated
    yield "a bit", good.replace(b'"frozen": true', b'"frozen": tru\xe5', 1), errors.NotJson
    yield "another word", good.replace(b'"frozen": true', b'"frozen": false', 1), errors.BadDigest
    yield "another size", good.replace(str(SIZE).encode(), str(SIZE + 512).encode(), 1), \
        errors.BadDigest
    yield "another digest", good[:20] + bytes([good[20] ^ 1]) + good[21:], errors.BadDigest
    yield "more behind", good + b"\n", errors.BadDigest
    yield "deep", b"[" * 200_000 + b"]" * 200_000, errors.TooDeep
    yield "deep and cut off", b'{"a":' * 100_000, errors.TooDeep
    yield "a list", b"[]\n", errors.BadStructure
    yield "a member twice", good.replace(b'"frozen": true', b'"frozen": true, "frozen": true', 1), \
        errors.Duplicate


def changes() -> Iterator[tuple[str, Change, type[errors.HandoverError]]]:
    """Documents that are sealed well and say what can't be."""
    def lun(tree: Tree) -> Tree:
        return tpg(tree)["luns"][0]  # type: ignore[no-any-return]

    def group(tree: Tree) -> Tree:
        return store(tree)["alua_groups"][-1]  # type: ignore[no-any-return]

    yield "version 2", put(lambda tree: tree, "version", 2), errors.WrongVersion
    yield "version 0", put(lambda tree: tree, "version", 0), errors.WrongVersion
    yield "version one", put(lambda tree: tree, "version", "1"), errors.BadStructure
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    yield "deep inside", put(lambda tree: tree["storage"]["fileio/new0"], "size", deep), \
        errors.TooDeep
    names: dict[str, tuple[Callable[[Tree], Tree], str, str]] = {
        "target": (lambda tree: tree["state"]["targets"][0], "wwn", "iqn.x"),
        "backstore": (store, "name", "new0"), "initiator": (acl, "initiator", "iqn.y"),
        "ALUA group": (group, "name", "fast"),
        "portal": (lambda tree: tpg(tree)["portals"][0], "address", "127.0.0.1:1"),
        "registrant": (lambda tree: held(tree)[0], "initiator", "iqn.z")}
    for what, (where, member, plain) in names.items():
        for wrong in (f"{plain}/{plain}", f"../{plain}", "..", ".", "", "/", f"{plain}\0",
                      f"{plain}\n", f"{plain}\n{plain}", "x" * 256):
            yield f"{what} {wrong[:30]!r}", put(where, member, wrong), errors.BadName
    yield "LU group", put(lambda tree: tree["state"], "lu_groups", [
        {"name": "a/../b", "attributes": {"lu_gp_id": "3"}}]), errors.BadName
    yield "attribute's name", attribute(store, "../../x", "1"), errors.BadName
    yield "path with ..", parameter("fd_dev_name", "/srv/../etc/shadow"), errors.BadName
    numbers: list[Any] = ["0x10", "16", "+16", " 16", True, None, -1, 1 << 64]
    for number in numbers:
        kind = errors.BadValue if number in (-1, 1 << 64) else errors.BadStructure
        yield f"LUN {number!r}", put(lun, "number", number), kind
        yield f"mapped LUN {number!r}", put(
            lambda tree: acl(tree)["mapped_luns"][0], "number", number), kind
    yield "LUN 0x10 beside 16", lambda tree: tpg(tree)["luns"].extend(
        {**lun(tree), "number": number} for number in (16, "0x10")), errors.BadStructure
    yield "TPG 0x1", put(tpg, "tag", "0x1"), errors.BadStructure
    long = "x" * 4096
    for where, name in ((tpg, "param/TargetAlias"), (acl, "auth/userid"), (acl, "auth/password"),
                        (store, "wwn/vpd_unit_serial"), (store, "alias"), (store, "invented")):
        yield f"a long {name}", attribute(where, name, long), errors.BadValue
    yield "a long path", parameter("fd_dev_name", "/" + long), errors.BadValue
    yield "a path with a comma", parameter("fd_dev_name", "/srv/a,fd_dev_size=1"), errors.BadValue
    yield "LUN twice", twice(lambda tree: tpg(tree)["luns"]), errors.Duplicate
    yield "mapped LUN twice", twice(lambda tree: acl(tree)["mapped_luns"]), errors.Duplicate
    yield "ACL twice", twice(lambda tree: tpg(tree)["acls"]), errors.Duplicate
    yield "portal twice", twice(lambda tree: tpg(tree)["portals"]), errors.Duplicate
    yield "TPG twice", twice(lambda tree: tree["state"]["targets"][0]["tpgs"]), errors.Duplicate
    yield "target twice", twice(lambda tree: tree["state"]["targets"]), errors.Duplicate
    yield "backstore twice", twice(lambda tree: tree["state"]["backstores"]), errors.Duplicate
    yield "ALUA group twice", twice(lambda tree: store(tree)["alua_groups"]), errors.Duplicate
    yield "registrant twice", twice(held), errors.Duplicate
    yield "a member unknown", put(tpg, "colour", "red"), errors.BadStructure
    yield "a LUN of nothing", put(lun, "backstore", "fileio/other"), errors.BadStructure
    yield "not frozen", put(lambda tree: tree, "frozen", False), errors.NotFrozen


def storage_cases(shared: Path) -> Iterator[tuple[str, Change, type[errors.HandoverError]]]:
    """Documents whose storage is not, or not so, on this host."""
    yield "a file that is missing", parameter("fd_dev_name", f"{shared}/none.img"), \
        errors.StorageMissing
    yield "a device that is missing", iblock("/dev/ubdz", size=1), errors.StorageMissing
    yield "no device but a file", iblock(f"{shared}/new0.img", size=SIZE), errors.StorageNotAllowed
    yield "another size", proof("size", SIZE - 4096), errors.StorageDiffers
    yield "more than there is", parameter("fd_dev_size", str(SIZE + 4096)), errors.StorageDiffers
    yield "other data", proof("sample", "0" * 64), errors.StorageDiffers
    yield "a device on the source", proof("kind", "block"), errors.StorageDiffers
    yield "another block size", iblock("/dev/ubda", size=64 << 20, logical_block_size=4096), \
        errors.StorageDiffers
    yield "a device of another size", iblock("/dev/ubda", size=32 << 20, logical_block_size=512), \
        errors.StorageDiffers
    yield "another device", iblock("/dev/ubda", size=64 << 20, logical_block_size=512,
                                   wwid="naa.5000c500a1b2c3d4"), errors.StorageDiffers
    yield "a file outside", parameter("fd_dev_name", "/etc/passwd"), errors.StorageNotAllowed
    yield "a link that leads out", parameter("fd_dev_name", f"{shared}/out.img"), \
        errors.StorageNotAllowed
    yield "a folder that leads out", parameter("fd_dev_name", f"{shared}/out/passwd"), \
        errors.StorageNotAllowed
    yield "a fifo", parameter("fd_dev_name", f"{shared}/fifo"), errors.StorageNotAllowed
    yield "a folder", parameter("fd_dev_name", f"{shared}/folder"), errors.StorageNotAllowed
    yield "a device that is not listed", parameter("fd_dev_name", "/dev/mem"), \
        errors.StorageNotAllowed
    yield "a file of the kernel", parameter(
        "fd_dev_name", "/sys/kernel/config/target/dbroot"), errors.StorageNotAllowed
    yield "no evidence", put(lambda tree: tree, "storage", {}), errors.StorageDiffers
    yield "a file that is served", parameter("fd_dev_name", f"{shared}/served0.img"), \
        errors.StorageInUse
    yield "a link to a file that is served", parameter("fd_dev_name", f"{shared}/served.link"), \
        errors.StorageInUse


def make_traps(shared: Path) -> None:
    (shared / "out.img").symlink_to("/etc/passwd")
    (shared / "out").symlink_to("/etc")
    (shared / "served.link").symlink_to(shared / "served0.img")
    os.mkfifo(shared / "fifo")
    (shared / "folder").mkdir()


def test_bad_documents_leave_the_kernel_alone(bench: Bench) -> None:
    good = documents.dumps(bench.good)
    fine = bench.host.call(command, ["import", "--dry-run"], good)
    assert fine.code == 0, fine.err  # what follows is refused for what is changed in it
    make_traps(bench.shared)
    cases = [*raw_cases(good), *((what, bench.spoilt(change), kind) for what, change, kind in (
        *changes(), *storage_cases(bench.shared)))]
    bench.all_refused(cases)
    print(f"{len(cases)} bad documents")
    assert bench.host.call(command, ["import"], good).code == 0


def test_what_is_too_large_is_not_read(bench: Bench) -> None:
    path = bench.shared / "large"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert "more than 67108864 bytes" in bench.refused(None, errors.TooLarge, str(path))
    config = bench.shared / "small.conf"
    config.write_text("[limits]\ndocument = 1K\n")
    bench.refused(documents.dumps(bench.good), errors.TooLarge, "--config", str(config))
    os.mkfifo(bench.shared / "waiting")
    for other in ("waiting", ".", "none"):
        bench.refused(None, errors.BadFile, str(bench.shared / other))


def test_what_is_there_and_different_is_refused(bench: Bench) -> None:
    same = bench.host.call(command, ["import"], documents.dumps(bench.served))
    for change in (
            attribute(tpg, "attrib/login_timeout", "20"), attribute(acl, "auth/userid", "other"),
            attribute(store, "attrib/emulate_tas", "0"),
            put(lambda tree: held(tree)[0], "key", "0x00000000000000ff"),
            lambda tree: tpg(tree)["acls"].pop(), lambda tree: tpg(tree)["luns"][1].update(
                backstore="fileio/served0"),
            parameter("fd_dev_size", str(SIZE - 512))):
        said = bench.refused(bench.spoilt(change, bench.served), errors.TargetDiffers)
        assert "next: lio-handover diff" in said
    taken = bench.spoilt(attribute(store, "wwn/vpd_unit_serial", "served-0"))
    bench.refused(taken, errors.TargetDiffers)
    assert same.changes == 0 and same.differences == []


def test_maps_that_mean_nothing_are_refused(bench: Bench) -> None:
    good = documents.dumps(bench.good)
    for option in ("nonsense", "device:/a", "device:/dev/none=/dev/sda", "root:/srv=relative",
                   f"target:{NEW}=iqn.x/y", "portal:127.0.0.1:3261=everywhere"):
        bench.refused(good, errors.BadMap, "--map", option)
    bench.refused(good, errors.Duplicate, "--map",
                  f"device:{bench.shared}/new0.img={bench.shared}/new1.img")


def test_allow_reaches_no_further_than_it_says(bench: Bench) -> None:
    words = [word for name in ("not-frozen", "other-file", "unproven-storage", "nexus", "", "all",
                               "StorageMissing") for word in ("--allow", name)]
    missing = bench.spoilt(parameter("fd_dev_name", f"{bench.shared}/none.img"))
    bench.refused(missing, errors.StorageMissing, *words)
    unfrozen = bench.spoilt(put(lambda tree: tree, "frozen", False))
    assert "--allow not-frozen" in bench.refused(unfrozen, errors.NotFrozen, "--allow", "nexus")


def test_only_root_may(bench: Bench) -> None:
    good = documents.dumps(bench.good)
    bench.refused(good, errors.NotRoot, user=65534)
    for verb in ("freeze", "thaw", "remove"):
        bench.refused(None, errors.NotRoot, f"iscsi/{SERVED}", user=65534, verb=verb)


def test_the_installed_command_says_the_same(bench: Bench) -> None:
    """The same through a shell, as a program of its own."""
    path = bench.shared / "doc"
    before = bench.host.call(inhost.tree)
    for data, kind in ((b"x", errors.NotJson), (documents.dumps(bench.good)[:-1],
                                                errors.Truncated),
                       (bench.spoilt(twice(lambda tree: tpg(tree)["luns"])), errors.Duplicate)):
        path.write_bytes(data)
        for words, given in ((["import", str(path)], b""), (["import", "-"], data)):
            done = bench.host.run([sys.executable, LAUNCHER, *words], input=given, check=False)
            assert (done.returncode, done.stdout) == (kind.code, "")
            one_line(done.stderr)
    assert inhost.differences(before, bench.host.call(inhost.tree)) == []


MODULES = ("tcm_loop", "iscsi_target_mod", "target_core_iblock", "target_core_file",
           "target_core_pscsi", "target_core_user", "target_core_mod")


def without_modules(data: bytes) -> tuple[int, str, list[str], bool]:
    """Import on a host without the target modules: exit code, words, modules, target's tree."""
    loaded = [name for name in MODULES if os.path.isdir(f"/sys/module/{name}")]
    for fabric in ("iscsi", "loopback"):
        if os.path.isdir(f"/sys/kernel/config/target/{fabric}"):
            os.rmdir(f"/sys/kernel/config/target/{fabric}")
    for name in loaded:
        subprocess.run(["modprobe", "-r", name], check=True)
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            done = subprocess.run([sys.executable, str(LAUNCHER), "import", file.name],
                                  capture_output=True, text=True)
        now = [name for name in MODULES if os.path.isdir(f"/sys/module/{name}")]
        return done.returncode, done.stderr, now, os.path.isdir("/sys/kernel/config/target")
    finally:
        subprocess.run(["modprobe", "-a", *reversed(loaded)], check=True)


def test_without_the_modules_none_is_loaded(stable: lab.Host) -> None:
    data = documents.dumps(samples.document(samples.iscsi(), frozen=True))
    code, said, modules, tree = stable.call(without_modules, data)
    assert code == errors.NoTargetModules.code
    one_line(said)
    assert (modules, tree) == ([], False)

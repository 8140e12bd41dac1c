"""Bad input: one clear line, a code of its own, and a kernel that was not touched.

A host serves a target; every bad document is given to the real ``import`` there.  The target tree
is compared byte for byte, and the changes asked of the kernel are counted.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import cli, errors, model, settings, storage
from lio_handover import document as documents
from lio_handover.attributes import TABLE
from lio_handover.configfs import ROOT, Configfs
from lio_handover.document import Document
from lio_handover.reader import Reader
from tests import inhost, lab, samples
from tests.conftest import HostsOf

CHECKOUT = Path(__file__).resolve().parents[1]
LAUNCHER = CHECKOUT / "scripts" / "lio-handover"
SERVED = "iqn.2026-11.org.example:served"
NEW = "iqn.2026-11.org.example:new"
SIZE = 1 << 20
CORE = "core/fileio_0/served0"

Tree = dict[str, Any]
Change = Callable[[Tree], None]


# ── in the host ──────────────────────────────────────────────────────────────────────────────

@dataclass(frozen=True)
class Answer:
    """What a command did: its exit code, its output, and what it did to the kernel."""

    code: int
    out: str
    err: str
    changes: int
    differences: list[str]


def furnish(shared: str) -> None:
    """The host's configuration: what lies in the shared folder may be served."""
    os.makedirs("/etc/lio-handover", exist_ok=True)
    Path(settings.PATH).write_text(
        f"[storage]\nroots =\n    {shared}\ndevices =\n    /dev/ubd*\n")


def command(words: Sequence[str], data: bytes | None = None, user: int = 0) -> Answer:
    """Run the command as it runs from a shell; ``data`` is the document that it gets."""
    return commands([(words, data)], user)[0]


def commands(asked: Sequence[tuple[Sequence[str], bytes | None]], user: int = 0) -> list[Answer]:
    """Run commands one after the other, watching the kernel's tree and counting changes to it."""
    trees: list[Configfs] = []
    begin = Configfs.__init__

    def noted(self: Configfs, root: str = ROOT) -> None:
        begin(self, root)
        trees.append(self)

    Configfs.__init__ = noted  # type: ignore[method-assign]
    before = inhost.tree()
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        for words, data in asked:
            if data is not None:
                Path(folder, "document").write_bytes(data)
                words = [*words, f"{folder}/document"]
            trees.clear()
            code, out, err = run(words, user)
            changes = sum(one.changes for one in trees)
            answers.append(Answer(code, out, err, changes,
                                  inhost.differences(before, inhost.tree())))
    return answers


def run(words: Sequence[str], user: int) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command line, in this process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        if user:
            os.seteuid(user)
        try:
            code = cli.main(words)
            sys.stderr.flush()
        finally:
            os.seteuid(0)
            for number, fd in enumerate(kept, 1):
                os.dup2(fd, number)
                os.close(fd)
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return code, said[0], said[1]


def served_as(state: model.State) -> Document:
    """What the host says of this target once it serves it."""
    inhost.build(state)
    one = state.targets[0]
    full = Reader(Configfs()).state([(one.fabric, one.wwn)])
    proofs = {model.say(store.key): storage.evidence(store, sample=True)
              for store in full.backstores}
    return replace(samples.document(full, frozen=True), storage=proofs)


def taken_away(name: str) -> None:
    core = inhost.core()
    core.remove([name], allow=("reserved",))


def try_writes(writes: Sequence[tuple[str, str, bytes]]) -> tuple[list[str], int, list[str]]:
    """(those writes that were not refused, how often the kernel was asked, what changed)."""
    before = inhost.tree()
    fs = Configfs()
    passed = []
    for op, path, data in writes:
        try:
            getattr(fs, op)(path, *([data] if op == "write" else []))
        except errors.HazardRefused as error:
            assert "\n" not in str(error)
        except OSError as error:
            passed.append(f"{op} {path} {data!r}: the kernel was asked, and answered {error}")
        else:
            passed.append(f"{op} {path} {data!r}")
    return passed, fs.changes, inhost.differences(before, inhost.tree())


def read(path: str) -> str:
    return Configfs().read(path)


def write_past_the_guard(path: str, data: str) -> str:
    """What an attribute says after a write that nothing guarded."""
    fs = Configfs()
    Path(fs.path(path)).write_text(data)
    return fs.read(path).strip()


# ── a document, and ways to spoil it ─────────────────────────────────────────────────────────

@dataclass
class Bench:
    """A host that serves SERVED, and a good document of NEW."""

    host: lab.Host
    shared: Path
    good: Document
    served: Document

    def spoilt(self, change: Change, base: Document | None = None) -> bytes:
        """The good document with a change, sealed as an export would seal it."""
        tree = json.loads(documents.dumps(base or self.good))
        change(tree)
        return documents.seal(tree)

    def refused(self, data: bytes | None, kind: type[errors.HandoverError], *words: str,
                user: int = 0, verb: str = "import") -> str:
        """A command is refused with its own code, one line, and nothing done; the line."""
        answer = self.host.call(command, [verb, *words], data, user)
        judge(answer, kind)
        return answer.err

    def all_refused(self, cases: Sequence[tuple[str, bytes, type[errors.HandoverError]]]) -> None:
        """Every one of these documents is."""
        answers = self.host.call(commands, [(["import"], data) for _, data, _ in cases],
                                 timeout=240)
        wrong = []
        for (what, _, kind), answer in zip(cases, answers, strict=True):
            try:
                judge(answer, kind)
            except AssertionError as error:
                wrong.append(f"{what}: {answer}: {error}")
        assert not wrong, "\n".join(wrong)


def judge(answer: Answer, kind: type[errors.HandoverError]) -> None:
    assert answer.code == kind.code, (kind.__name__, answer.err)
    assert answer.out == ""
    one_line(answer.err)
    assert answer.changes == 0
    assert answer.differences == []


def one_line(text: str) -> None:
    """What failed; what was changed; what to run next."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    assert text[:-1].isprintable()
    assert text.startswith("lio-handover: ")
    parts = text[:-1].split("; ")
    assert len(parts) >= 3, text
    assert errors.NOTHING_CHANGED in parts
    assert "; next: " in text


def files(shared: Path, *names: str) -> list[str]:
    paths = []
    for name in names:
        path = shared / f"{name}.img"
        path.write_bytes(name.encode() * (SIZE // len(name)) + b"." * (SIZE % len(name)))
        paths.append(str(path))
    return paths


@pytest.fixture
def bench(bed: lab.Lab, hosts: HostsOf, request: pytest.FixtureRequest) -> Bench:
    host, = hosts(getattr(request, "param", "newest"))
    return make_bench(bed, host)


def make_bench(bed: lab.Lab, host: lab.Host) -> Bench:
    host.call(furnish, str(bed.shared))
    served = renamed(samples.iscsi(
        luns=2, acls=2, portals=("127.0.0.1:3260",), wwn=SERVED, chap=True, registrants=2,
        paths=files(bed.shared, "served0", "served1"), groups=("fast",)), "served", "1")
    new = renamed(samples.iscsi(
        luns=2, acls=2, portals=("127.0.0.1:3261",), wwn=NEW, chap=True, registrants=2,
        paths=files(bed.shared, "new0", "new1"), groups=("fast",)), "new", "2")
    there = host.call(served_as, served)
    good = host.call(served_as, new)
    host.call(taken_away, f"iscsi/{NEW}")
    return Bench(host, bed.shared, good, there)


def renamed(state: model.State, name: str, port: str) -> model.State:
    """The sample's disks under other names, of SIZE, with serials and a port of their own."""
    def key(old: model.Key | None) -> Any:
        return old and (*old[:2], old[2].replace("disk", name), *old[3:])

    stores = tuple(replace(
        store, key=key(store.key), alua_groups=tuple(
            replace(group, key=key(group.key)) for group in store.alua_groups),
        parameters={**store.parameters, "fd_dev_size": str(SIZE)},
        attributes={**store.attributes, "wwn/vpd_unit_serial": f"{name}-{number}"})
        for number, store in enumerate(state.backstores))
    one = state.targets[0]
    tpg = one.tpgs[0]
    return replace(state, backstores=stores, targets=(replace(one, tpgs=(replace(
        tpg, attributes={**tpg.attributes, "rtpi": port},
        luns=tuple(replace(lun, backstore=key(lun.backstore)) for lun in tpg.luns)),)),))


# Where things stand in a document's tree.
def store(tree: Tree, number: int = 0) -> Tree:
    return tree["state"]["backstores"][number]  # type: ignore[no-any-return]


def tpg(tree: Tree) -> Tree:
    return tree["state"]["targets"][0]["tpgs"][0]  # type: ignore[no-any-return]


def acl(tree: Tree, number: int = 0) -> Tree:
    return tpg(tree)["acls"][number]  # type: ignore[no-any-return]


def held(tree: Tree) -> list[Tree]:
    return store(tree)["reservations"]["registrations"]  # type: ignore[no-any-return]


def put(where: Callable[[Tree], Any], name: Any, value: Any) -> Change:
    """The change that gives one member of an object another value."""
    def change(tree: Tree) -> None:
        where(tree)[name] = value
    return change


def twice(where: Callable[[Tree], list[Any]], number: int = 0) -> Change:
    """The change that repeats an entry of a list."""
    def change(tree: Tree) -> None:
        where(tree).append(json.loads(json.dumps(where(tree)[number])))
    return change


def attribute(where: Callable[[Tree], Tree], name: str, value: str) -> Change:
    return put(lambda tree: where(tree)["attributes"], name, value)


def parameter(name: str, value: str, number: int = 0) -> Change:
    return put(lambda tree: store(tree, number)["parameters"], name, value)


def proof(name: str, value: Any) -> Change:
    return put(lambda tree: tree["storage"]["fileio/new0"], name, value)


def iblock(path: str, **evidence: Any) -> Change:
    """The change that makes the first backstore one on a block device."""
    def change(tree: Tree) -> None:
        one = store(tree)
        tree["storage"].pop("fileio/new0")
        tree["host"].pop("fileio/new0", None)
        tree["storage"]["iblock/new0"] = {"kind": "block", **evidence}
        one.update(plugin="iblock", parameters={"udev_path": path})
        tpg(tree)["luns"][0]["backstore"] = "iblock/new0"
    return change


# ── the list ─────────────────────────────────────────────────────────────────────────────────

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
    yield "a list", b"[]\n", errors.BadShape
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
    yield "version one", put(lambda tree: tree, "version", "1"), errors.BadShape
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
        kind = errors.BadValue if number in (-1, 1 << 64) else errors.BadShape
        yield f"LUN {number!r}", put(lun, "number", number), kind
        yield f"mapped LUN {number!r}", put(
            lambda tree: acl(tree)["mapped_luns"][0], "number", number), kind
    yield "LUN 0x10 beside 16", lambda tree: tpg(tree)["luns"].extend(
        {**lun(tree), "number": number} for number in (16, "0x10")), errors.BadShape
    yield "TPG 0x1", put(tpg, "tag", "0x1"), errors.BadShape
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
    yield "a member unknown", put(tpg, "colour", "red"), errors.BadShape
    yield "a LUN of nothing", put(lun, "backstore", "fileio/other"), errors.BadShape
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


# ── writes that harm a kernel ────────────────────────────────────────────────────────────────

#: Ways to write 14 that the kernel's kstrtoul(…, 0, …) takes, or that look like it.
FOURTEENS = ("14", "0xe", "0XE", "0x0e", "016", "0016", "+14", "+0xe", "14\n", " 14", "14 ",
             "0b1110", "0o16", "1_4")


def hazards() -> Iterator[tuple[str, Change, type[errors.HandoverError]]]:
    """Documents that ask for what panics a kernel or destroys data (kernel-lio.md §4.6)."""
    def group(tree: Tree) -> Tree:
        return store(tree)["alua_groups"][-1]  # type: ignore[no-any-return]

    def groups(tree: Tree) -> list[Any]:
        return tree["state"]["lu_groups"]  # type: ignore[no-any-return]

    def reserved(value: Any) -> Change:
        return put(lambda tree: store(tree)["reservations"], "type", value)

    bad = errors.BadValue
    for value in ("NULL", "NULL\n", " NULL", "NULL ", "NULL\0"):
        yield f"alua_lu_gp {value!r}", attribute(store, "alua_lu_gp", value), bad
    yield "an LU group NULL", lambda tree: groups(tree).append(
        {"name": "NULL", "attributes": {"lu_gp_id": "7"}}), errors.BadName
    yield "an ALUA group NULL", put(group, "name", "NULL"), errors.BadName
    for value in FOURTEENS:
        yield f"alua_access_state {value!r}", attribute(group, "alua_access_state", value), bad
    for value in ("1", "0", "0x1"):
        yield f"pi_prot_format {value}", attribute(store, "attrib/pi_prot_format", value), bad
    for value in ("0", "00", "0x1", "", "2", "1\n"):
        yield f"fd_buffered_io {value!r}", parameter("fd_buffered_io", value), bad
        yield f"fd_async_io {value!r}", parameter("fd_async_io", value), bad
    yield "control", attribute(store, "control", "fd_dev_name=/etc/shadow"), bad
    yield "enable", attribute(store, "enable", "1"), bad
    yield "registrations as text", attribute(store, "pr/res_aptpl_metadata", "x=y"), bad
    for number in (9, 2, 4, -1):
        yield f"res_type {number}", reserved(number), bad
    for text in ("05", "0x5", "5"):
        yield f"res_type {text!r}", reserved(text), errors.BadShape
    yield "lun_0x10", lambda tree: tpg(tree)["luns"].extend(
        {**tpg(tree)["luns"][0], "number": number} for number in (16, "0x10")), errors.BadShape
    yield "a registration twice", twice(held), errors.Duplicate
    yield "a registrant that ends the line", put(
        lambda tree: held(tree)[0], "initiator", "iqn.x,res_type=14"), errors.BadName
    yield "emulate_tpu by another name", attribute(store, "attrib/./emulate_tpu", "1"), \
        errors.BadName


def forbidden_writes() -> Iterator[tuple[str, str, bytes]]:
    """The same, asked of the guard itself: (op, path, bytes)."""
    for word in (b"NULL", b"NULL\n", b" NULL\n", b"NULL\0", b"NULL\0\n", b"\tNULL"):
        yield "write", f"{CORE}/alua_lu_gp", word
    for text in FOURTEENS:
        for end in ("", "\n", "\0"):
            yield "write", f"{CORE}/alua/fast/alua_access_state", (text + end).encode()
    for row in TABLE:
        for value in row.forbidden or {}:
            if row.kind_of_object == "backstore":
                yield "write", f"{CORE}/{row.path}", value.encode() + b"\n"
    for word in (b"1\n", b"0\n", b"0x1\n"):
        yield "write", f"{CORE}/attrib/pi_prot_format", word
    for option in (b"fd_buffered_io", b"fd_async_io"):
        for word in (b"0", b"00", b"", b"2", b"0x1", b"0\n"):
            yield "write", f"{CORE}/control", b"fd_dev_name=/x," + option + b"=" + word
    good = (b"initiator_fabric=iSCSI,initiator_node=iqn.x,initiator_sid=00023d000001,"
            b"sa_res_key=0x1,res_holder=1,res_type=5,res_scope=0,res_all_tg_pt=0,mapped_lun=0,"
            b"target_fabric=iSCSI,target_node=iqn.y,tpgt=1,port_rtpi=1,target_lun=0\n")
    for old, new in ((b"res_type=5", b"res_type=05"), (b"res_type=5", b"res_type=0x5"),
                     (b"res_type=5", b"res_type=2"), (b"sa_res_key=0x1", b"sa_res_key=1"),
                     (b"sa_res_key", b"res_key"), (b"\n", b"\n\n"), (b"\n", b""),
                     (b"mapped_lun=0", b"mapped_lun=0x0")):
        yield "write", f"{CORE}/pr/res_aptpl_metadata", good.replace(old, new)
    base = f"iscsi/{SERVED}/tpgt_1"
    for name in ("lun_0x10", "lun_016", "lun_+16", "lun_00", "lun_-1", "lun_", "lun_ 16"):
        yield "mkdir", f"{base}/lun/{name}", b""
        yield "mkdir", f"{base}/acls/{samples.initiator(0)}/{name}", b""
        yield "rmdir", f"{base}/lun/{name}", b""
    yield "mkdir", f"iscsi/{SERVED}/tpgt_0x1", b""
    for path in ("../../kernel", "iscsi/../../x", "/iscsi", "iscsi/a\nb", "iscsi/a\0b", ""):
        yield "mkdir", path, b""
        yield "write", path, b"1\n"
    for name in ("dbroot", "statistics/scsi_dev/inst", "action", "pr/res_holder"):
        yield "write", f"{CORE}/{name}", b"1\n"
    yield "write", f"{CORE}/attrib/queue_depth", b""
    yield "write", f"{CORE}/attrib/queue_depth", b"1" * 4096


def half_made() -> list[str]:
    """A backstore that is configured and not yet enabled: what may not be written to it."""
    fs = Configfs()
    fs.mkdir("core/fileio_77")
    fs.mkdir("core/fileio_77/half")
    try:
        before = inhost.tree()
        asked = fs.changes
        wrong = []
        for name in ("emulate_tpu", "emulate_tpws", "unmap_zeroes_data"):
            for value in (b"1\n", b"0x1\n", b"1", b"y\n"):
                try:
                    fs.write(f"core/fileio_77/half/attrib/{name}", value)
                    wrong.append(f"{name} {value!r}")
                except errors.HazardRefused:
                    pass
        return wrong + inhost.differences(before, inhost.tree()) + ["asked"] * (fs.changes - asked)
    finally:
        fs.rmdir("core/fileio_77/half")
        fs.rmdir("core/fileio_77")


@pytest.mark.parametrize("bench", ["oldest", "newest"], indirect=True)
def test_no_document_reaches_what_harms_a_kernel(bench: Bench) -> None:
    bench.all_refused([(what, bench.spoilt(change), kind) for what, change, kind in hazards()])
    passed, asked, differences = bench.host.call(try_writes, list(forbidden_writes()))
    assert passed == [] and asked == 0 and differences == []
    assert bench.host.call(half_made) == []
    # What is refused is what harms, in every way in which the kernel reads a number.
    state = f"{CORE}/alua/fast/alua_access_state"
    for text in ("016", "0xe", "+14"):
        assert bench.host.call(write_past_the_guard, state, text + "\n") == "14"
        assert bench.host.call(write_past_the_guard, state, "0\n") == "0"
    # And what is allowed comes to the kernel only when it can't harm any more.
    wanted = bench.spoilt(lambda tree: store(tree)["attributes"].update({
        "attrib/emulate_tpu": "1", "attrib/emulate_tpws": "1"}))
    assert bench.host.call(command, ["import"], wanted).code == 0
    assert bench.host.call(read, "core/fileio_1/new0/attrib/emulate_tpws") in ("1\n", "0\n")

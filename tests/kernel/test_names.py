"""Names that the kernel takes and few people give: shown, carried or refused early, and removed."""
from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents, representable, values
from lio_handover.kernel.configfs import Configfs
from lio_handover.model import directories
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import Acl, Backstore, MappedLun, State
from lio_handover.views import tree
from lio_handover.views.terminal import Terminal
from tests import lab
from tests.conftest import HostsOf
from tests.kernel.test_preflight import small
from tests.support import inhandover, inhost, samples

ROOT = "/sys/kernel/config/target"
NAME = "iscsi/iqn.2003-01.org.example:small"


# ── numbers ──────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("directory, number", [
    ("lun_8", 8), ("lun_010", 8), ("lun_0x10", 16), ("lun_0X1f", 31), ("lun_+5", 5), ("lun_00", 0),
    ("lun_3\n", 3), ("lun_0", 0), ("lun_08", -1), ("lun_-1", -1), ("lun_", -1), ("lun_ 1", -1),
    ("lun_1 ", -1), ("xlun_1", -1), ("lun_0x", -1), ("lun_²", -1)])
def test_the_number_of_a_lun(directory: str, number: int) -> None:
    assert directories.lun_number(directory) == number


@pytest.mark.parametrize("fabric, directory, number", [
    ("iscsi", "tpgt_010", 8), ("vhost", "tpgt_010", 10), ("iscsi", "xtpgt_3", 3),
    ("vhost", "xtpgt_3", -1), ("iscsi", "tpgt_0x10", 16), ("loopback", "tpgt_0x10", -1),
    ("iscsi", "tpgt_tpgt_9", -1), ("iscsi", "tpgt_1", 1)])
def test_the_tag_of_a_tpg(fabric: str, directory: str, number: int) -> None:
    assert directories.tag(fabric, directory) == number


def test_two_directories_of_one_number_are_told_apart() -> None:
    assert directories.numbered_luns(["lun_0x10", "lun_16", "lun_x", "lun_2", "lun_020"]) == [
        ("lun_x", "lun_x"), ("2", "lun_2"), ("16", "lun_16"), ("lun_020", "lun_020"),
        ("lun_0x10", "lun_0x10")]
    assert directories.numbered_luns(["lun_0x10", "lun_020"]) == [
        ("16", "lun_020"), ("lun_0x10", "lun_0x10")]


# ── on real kernels ──────────────────────────────────────────────────────────────────────────

def make(*paths: str) -> None:
    """Directories of the target tree, past the guard; ``path>other`` is a link."""
    for path in paths:
        path, _, to = path.partition(">")
        if to:
            os.symlink(f"{ROOT}/{to}", f"{ROOT}/{path}")
        else:
            os.mkdir(f"{ROOT}/{path}")


def put(path: str, value: bytes) -> None:
    fd = os.open(f"{ROOT}/{path}", os.O_WRONLY)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def odd(fold: str, store: str = "small") -> None:
    """A target whose numbers are spelled in C's ways: TPG 8 with LUN 16, mapped as LUN 9, and TPG 3
    with nothing."""
    Path(fold, "odd.img").write_bytes(b"\0" * lab.MiB)
    make("core/fileio_0", f"core/fileio_0/{store}")
    put(f"core/fileio_0/{store}/control",
        f"fd_dev_name={fold}/odd.img,fd_dev_size={lab.MiB}".encode())
    put(f"core/fileio_0/{store}/enable", b"1")
    tpg = f"{NAME}/tpgt_010"
    make("iscsi", NAME, tpg, f"{NAME}/xtpgt_3", f"{tpg}/lun/lun_0x10",
         f"{tpg}/lun/lun_0x10/a b>core/fileio_0/{store}", f"{tpg}/acls/iqn.2003-01.org.example:i",
         f"{tpg}/acls/iqn.2003-01.org.example:i/lun_011",
         f"{tpg}/acls/iqn.2003-01.org.example:i/lun_011/l>{tpg}/lun/lun_0x10")
    put(f"{tpg}/enable", b"1")


def shown() -> list[str]:
    return list(tree.tree(inhost.core().view(), Terminal(100)))


def findings(allow: tuple[str, ...] = ()) -> tuple[list[str], tuple[str, ...]]:
    """(what prepare finds that is not allowed, its notes)."""
    one = inhost.core()
    document, found = one.prepare(one.names([], True))
    return [f"{each.subject}: {each.sentence}" for each in errors.stopping(found, allow)], \
        document.notes


def removed() -> tuple[dict[str, str], tuple[str, ...]]:
    """What is left of targets and backstores after a remove, and its notes."""
    outcome, _kept = inhost.core().remove([], True, ("reserved", "unclear"))
    return {path: text for path, text in inhost.tree().items()
            if path.startswith(("iscsi/iqn", "core/fileio"))}, outcome.notes


@pytest.mark.parametrize("roles", [
    ("stable", "newest"), pytest.param(("oldest", "stable"), marks=pytest.mark.full),
    pytest.param(("oldest", "newest"), marks=pytest.mark.full)])
def test_numbers_in_c_are_carried_as_the_kernel_reads_them(
        roles: tuple[str, str], bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts(*roles)
    source.call(odd, str(bed.shared))
    text = "\n".join(source.call(shown))
    for words in ("o- tpg8 .", "[called tpgt_010, enabled", "o- tpg3 .",
                  "[called xtpgt_3, disabled", "o- lun16", "[called lun_0x10, fileio/small",
                  "o- mapped_lun9 .", "[called lun_011, lun16, fileio/small"):
        assert words in text, words
    assert source.call(findings)[0] == []
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    state = documents.loads(document).state
    assert [(tpg.tag, [lun.number for lun in tpg.luns]) for tpg in state.targets[0].tpgs] == [
        (3, []), (8, [16])]
    destination.call(inhost.import_, document)
    destination.call(inhost.verify, document)
    there = destination.call(inhost.tree)
    assert f"{NAME}/tpgt_8/acls/iqn.2003-01.org.example:i/lun_9/" in there
    assert f"{NAME}/tpgt_8/lun/lun_16/" in there
    # Back to serving, and gone, by the names that they have.
    source.call(inhost.thaw)
    assert source.call(inhost.tree)[f"{NAME}/tpgt_010/enable"] == "1\n"
    left, _notes = source.call(removed)
    assert left == {}


def whole_handover(fold: str) -> list[str]:
    """By the protocol: what each verb leads to, and whether the gate is open."""
    odd(fold)
    said = []
    one = inhandover.handovers()
    answer = one.do("prepare", "source", targets=[NAME], mode="iscsi")
    for verb in ("freeze", "export", "thaw"):
        answer = one.do(verb, "source", answer.handover.id)
        gate = Configfs().read(f"{NAME}/tpgt_010/enable").strip()
        said.append(f"{answer.handover.state} {gate}")
    return said


def test_a_handover_of_odd_numbers_shuts_and_opens_their_gates(
        bed: lab.Lab, stable: lab.Host) -> None:
    assert stable.call(whole_handover, str(bed.shared)) == ["frozen 0", "frozen 0", "idle 1"]


def twice(fold: str) -> None:
    odd(fold)
    make(f"{NAME}/tpgt_010/lun/lun_16", f"{NAME}/tpgt_010/lun/lun_16/z>core/fileio_0/small",
         f"{NAME}/tpgt_8")


def test_two_directories_of_one_number_are_shown_refused_and_removed(
        bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(twice, str(bed.shared))
    text = "\n".join(stable.call(shown))
    assert text.count("o- lun16") == 2 and text.count("o- tpg8 ") == 2
    found, _ = stable.call(findings)
    assert found == [f"{NAME}/tpgt_010/lun/lun_0x10: no document can carry it: is a second LUN 16"]
    said, changed = stable.call(inhost.refused_freeze)
    assert "no document can carry it" in said and "nothing was changed" in said
    assert changed == []
    with pytest.raises(errors.InUse, match="could not be imported again"):
        stable.call(inhost.remove)
    left, _notes = stable.call(removed)
    assert left == {}


def twins(fold: str) -> list[str]:
    """Two backstores of one name in two HBAs; which LUN shows which file."""
    odd(fold)
    Path(fold, "twin.img").write_bytes(b"\0" * lab.MiB)
    make("core/fileio_1", "core/fileio_1/small")
    put("core/fileio_1/small/control",
        f"fd_dev_name={fold}/twin.img,fd_dev_size={lab.MiB}".encode())
    put("core/fileio_1/small/enable", b"1")
    make(f"{NAME}/tpgt_010/lun/lun_1", f"{NAME}/tpgt_010/lun/lun_1/z>core/fileio_1/small")
    state = inhost.core().show()
    return [f"{lun.number} {os.path.basename(store.path)}" for _, _, lun in state.all_luns()
            for store in [state.backstore(lun.backstore or ())] if store]


def test_two_backstores_of_one_name_are_not_taken_for_each_other(
        bed: lab.Lab, stable: lab.Host) -> None:
    assert stable.call(twins, str(bed.shared)) == ["1 twin.img", "16 odd.img"]
    found, _ = stable.call(findings)
    assert [one for one in found if "fileio/fileio_1/small: core/fileio_0/small and" in one]
    assert "nothing was changed" in stable.call(inhost.refused_freeze)[0]
    with pytest.raises(errors.CannotRepresent, match="remove one of them"):
        stable.call(inhost.remove)


#: Names of backstores, and whether a document has them.
NAMES = {"a..b": True, "-x": True, "%41": True, "a\\b": True, "a,b": True, "lun_x": True,
         "tpgt_y": True, "ä": True, "a\tb": False, " a ": False, "a\nb": False,
         "\udcff\udcfe": False}


def one_named(fold: str, store: str) -> tuple[list[str], str, list[str], bytes]:
    """(what prepare finds, what freeze says, what it changed, the document if there is one)."""
    odd(fold, store)
    found, _ = findings()
    said, changed = inhost.refused_freeze()
    return found, said, changed, b"" if said else inhost.export()


@pytest.mark.parametrize("name", [
    name if name == "a..b" else pytest.param(name, marks=pytest.mark.full)
    for name in NAMES])
def test_a_backstores_name_is_carried_or_refused_before_the_gate_is_shut(
        name: str, bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts("stable", "newest")
    found, said, changed, document = source.call(one_named, str(bed.shared), name)
    if NAMES[name]:
        assert found == [] and said == ""
        destination.call(inhost.import_, document)
        destination.call(inhost.verify, document)
        assert f"core/fileio_0/{name}/" in destination.call(inhost.tree)
    else:
        one, = found
        assert one.startswith("core/fileio_0/") and "no document can carry it" in one
        assert "no document can carry it" in said and "nothing was changed" in said
        assert changed == []
        assert all(line.isprintable() for line in source.call(shown))
    for host in (source, destination) if NAMES[name] else (source,):
        left, _notes = host.call(removed)
        assert left == {}


def texts(serial: bytes, text: bytes) -> dict[str, str]:
    """What the kernel has then."""
    put(f"{NAME}/tpgt_1/enable", b"0")
    os.unlink(f"{ROOT}/{NAME}/tpgt_1/lun/lun_0/link")
    store = "core/fileio_0/small/wwn"
    put(f"{store}/vpd_unit_serial", serial)
    if Configfs().exists(f"{store}/pd_text_id_info"):
        put(f"{store}/pd_text_id_info", text)
    make(f"{NAME}/tpgt_1/lun/lun_0/link>core/fileio_0/small")
    put(f"{NAME}/tpgt_1/enable", b"1")
    return {path: value for path, value in inhost.tree().items() if "/wwn/" in path}


LONGEST = "ü" * 124 + "x"       # 249 bytes: aptpl_<serial> is a file


@pytest.mark.parametrize("role", ["newest", pytest.param("oldest", marks=pytest.mark.full),
                                  pytest.param("stable", marks=pytest.mark.full)])
def test_texts_in_utf_8_are_carried_byte_for_byte(
        role: str, bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts(role, "newest")
    source.call(inhost.build, small(bed.shared, {}))
    before = source.call(texts, LONGEST.encode(), "Gerät\t№ 1".encode())
    assert before["core/fileio_0/small/wwn/vpd_unit_serial"].endswith(f": {LONGEST}\n")
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    destination.call(inhost.import_, document)
    after = {path: value for path, value in destination.call(inhost.tree).items()
             if "/wwn/" in path}
    assert {path: after[path] for path in before} == before
    source.call(inhost.remove)
    # What is no UTF-8 is said while it still serves.
    destination.call(inhost.remove)
    source.call(inhost.build, small(bed.shared, {}))
    source.call(texts, b"\xff", b"\xff")
    one, = source.call(findings)[0]
    assert one.startswith("core/fileio_0/small/wwn/")
    assert one.endswith(": no document can carry it: is not valid UTF-8")
    assert one in source.call(inhost.refused_freeze)[0]
    source.call(texts, b"x" * 250, b"y")
    assert ["has more than 249 bytes" in one for one in source.call(findings)[0]] == [True]
    assert source.call(removed)[0] == {}


def dead(name: str) -> None:
    """The LUN of a mapped LUN is unlinked and linked again."""
    acl = f"{NAME}/tpgt_1/acls/{name}"
    lun = f"{NAME}/tpgt_1/lun/lun_0"
    make(acl, f"{acl}/lun_0", f"{acl}/lun_0/l>{lun}")
    os.unlink(f"{ROOT}/{lun}/link")
    make(f"{lun}/link>core/fileio_0/small")


def test_a_dead_mapping_is_told_and_goes_no_further_by_itself(
        bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts("stable", "newest")
    source.call(inhost.build, small(bed.shared, {}))
    source.call(dead, "iqn.2003-01.org.example:Capital")
    text = "\n".join(source.call(shown))
    assert "DEAD: its LUN was linked again since" in text and "read-only" not in text
    assert "[ADMITS NOBODY: make it anew in small letters]" in text
    found, notes = source.call(findings)
    one, = found
    assert "its LUN was unlinked and linked again since it was mapped" in one
    assert [note for note in notes if ":Capital admits nobody: " in note]
    assert source.call(findings, ("dead-mapping",))[0] == []
    source.call(inhost.freeze, True, ("dead-mapping",))
    document = source.call(export_dead)
    destination.call(inhost.import_, document)
    there = destination.call(inhost.tree)
    acl = f"{NAME}/tpgt_1/acls/iqn.2003-01.org.example:Capital"
    assert f"{acl}/lun_0/" in there and not [
        path for path in there if path.startswith(f"{acl}/lun_0/l")]
    assert source.call(removed)[0] == {}


def export_dead() -> bytes:
    one = inhost.core()
    return documents.dumps(one.export(one.names([], True), ("dead-mapping",)))


# ── words ────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("name, nobody", [
    ("iqn.2003-01.org.example:db", False), ("iqn.2003-01.org.example:DB", True),
    ("iqn.2003-01.org.example:é", True), ("iqn.2003-01.org.example:×", True),
    ("iqn.x:中", False)])
def test_whom_an_acl_admits(name: str, nobody: bool) -> None:
    assert values.admits_nobody(name) is nobody


def wrong() -> Iterator[tuple[str, State, str, str]]:
    """(what, a state, the subject, the sentence) of what no document can carry."""
    good = samples.iscsi(luns=2, acls=2)
    store = good.backstores[0]
    target, = good.targets
    tpg, = target.tpgs
    yield "backstore", replace(good, backstores=(
        *good.backstores, Backstore(backstore_key("fileio", "a\tb"), store.parameters))), \
        "core/fileio/a\\tb", "'a\\tb', has a control character"
    yield "ACL", replace(good, targets=(replace(target, tpgs=(replace(tpg, acls=(
        *tpg.acls, Acl((*tpg.key, "acl", "iqn.a b")),)),)),)), \
        f"iscsi/{samples.IQN}/tpgt_1/acls/iqn.a b", "'iqn.a b', has a space"
    acl = tpg.acls[0]
    yield "mapped LUN", replace(good, targets=(replace(target, tpgs=(replace(tpg, acls=(
        replace(acl, mapped_luns=(*acl.mapped_luns, MappedLun(
            (*acl.key, "lun", "lun_0x0"), directory="lun_0x0"))),)),)),)), \
        f"iscsi/{samples.IQN}/tpgt_1/acls/{acl.initiator}/lun_0x0", "is a second mapped LUN 0"


@pytest.mark.parametrize("what, state, subject, sentence", [
    pytest.param(*one, id=one[0]) for one in wrong()])
def test_what_no_document_can_carry_is_named(
        what: str, state: State, subject: str, sentence: str) -> None:
    found = representable.of_state(state)
    assert [(one.subject, one.sentence) for one in found] == [
        (subject, f"no document can carry it: {sentence}")]
    assert representable.of_state(samples.iscsi(luns=2, acls=2)) == []

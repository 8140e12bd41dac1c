"""What may be written into the target tree: the guard lets that through and refuses the rest,
and no document leads to more.  What is tried here is harmless, should it get through."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.kernel.configfs import Configfs
from lio_handover.model.attributes import COMPANY, HOST, NONE, TABLE, Attribute
from lio_handover.model.plugins import PLUGINS
from tests import lab
from tests.conftest import HostsOf
from tests.support import inhost, samples
from tests.support.spoiling import (SERVED, Change, Tree, attribute, command, held, make_bench,
                                    parameter, put, read, store, tpg, twice)

CORE = "core/fileio_0/served0"

#: Ways to write 1 that the kernel's kstrtoul(…, 0, …) takes, or that look like it.
ONES = ("0x1", "0X1", "0x01", "01", "001", "+1", "+0x1", " 1", "1 ", "0b1", "0o1", "1_", "\t1",
        "1\0", "one")
#: Numbers that are no state in which a group can be left.
NO_STATES = tuple(map(str, (-1, *range(5, 15), 16, 255)))
NO_GROUPS = ("nowhere", " nowhere", "nowhere ", "\tnowhere", "served0", "../lu_gps/fast", ".")


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


def write_past_the_guard(path: str, data: str) -> str:
    """What an attribute says after a write that nothing guarded."""
    fs = Configfs()
    Path(fs.path(path)).write_text(data)
    return fs.read(path).strip()


def refused() -> Iterator[tuple[str, Change, type[errors.HandoverError]]]:
    """Documents that ask for what is not written."""
    def group(tree: Tree) -> Tree:
        return store(tree)["alua_groups"][-1]  # type: ignore[no-any-return]

    def groups(tree: Tree) -> list[Any]:
        return tree["state"]["lu_groups"]  # type: ignore[no-any-return]

    def reserved(value: Any) -> Change:
        return put(lambda tree: store(tree)["reservations"], "type", value)

    bad = errors.BadValue
    for value in (*NO_GROUPS, "nowhere\n", "nowhere\0"):
        yield f"alua_lu_gp {value!r}", attribute(store, "alua_lu_gp", value), bad
    yield "an LU group of the kernel's word for none", lambda tree: groups(tree).append(
        {"name": NONE, "attributes": {"lu_gp_id": "7"}}), errors.BadName
    yield "an ALUA group of that word", put(group, "name", NONE), errors.BadName
    for value in (*ONES, *NO_STATES):
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
        yield f"res_type {text!r}", reserved(text), errors.BadStructure
    yield "lun_0x10", lambda tree: tpg(tree)["luns"].extend(
        {**tpg(tree)["luns"][0], "number": number} for number in (16, "0x10")), errors.BadStructure
    yield "a registration twice", twice(held), errors.Duplicate
    yield "a registrant that ends the line", put(
        lambda tree: held(tree)[0], "initiator", "iqn.x,res_type=14"), errors.BadName
    yield "emulate_tas by another name", attribute(store, "attrib/./emulate_tas", "1"), \
        errors.BadName


def refused_writes() -> Iterator[tuple[str, str, bytes]]:
    """The same, asked of the guard itself: (op, path, bytes)."""
    for text in NO_GROUPS:
        for end in ("", "\n", "\0", "\0\n", "\n\n"):
            yield "write", f"{CORE}/alua_lu_gp", (text + end).encode()
    for text in (*ONES, *NO_STATES):
        for end in ("", "\n", "\0"):
            yield "write", f"{CORE}/alua/fast/alua_access_state", (text + end).encode()
    for row in TABLE:
        if row.kind_of_object == "backstore" and row.kind != HOST:
            for text in bad_texts(row):
                yield "write", f"{CORE}/{row.path}", text.encode()
    for word in (b"1\n", b"0\n", b"0x1\n"):
        yield "write", f"{CORE}/attrib/pi_prot_format", word
    for option in (b"fd_buffered_io", b"fd_async_io"):
        for word in (b"0", b"00", b"", b"2", b"0x1", b"0\n"):
            yield "write", f"{CORE}/control", b"fd_dev_name=/x," + option + b"=" + word
    for wrong in (b"fd_colour=1", b"fd_dev_size=0x10", b"fd_dev_size=-1", b"rd_pages=1",
                  b"fd_dev_name=/x\nfd_dev_size=1", b"fd_dev_name=/x,", b"fd_dev_name=/x\0"):
        yield "write", f"{CORE}/control", wrong
    good = (b"initiator_fabric=iSCSI,initiator_node=iqn.x,initiator_sid=00023d000001,"
            b"sa_res_key=0x1,res_holder=1,res_type=5,res_scope=0,res_all_tg_pt=0,mapped_lun=0,"
            b"target_fabric=iSCSI,target_node=iqn.y,tpgt=1,port_rtpi=1,target_lun=0\n")
    for old, new in ((b"res_type=5", b"res_type=05"), (b"res_type=5", b"res_type=0x5"),
                     (b"res_type=5", b"res_type=2"), (b"sa_res_key=0x1", b"sa_res_key=1"),
                     (b"sa_res_key", b"res_key"), (b"\n", b"\n\n"), (b"\n", b""),
                     (b"mapped_lun=0", b"mapped_lun=0x0"), (b"tpgt=1", b"tpgt=01"),
                     (b"node=iqn.x", b"node=iqn.x\0")):
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
    for name in ("dbroot", "statistics/scsi_dev/inst", "action", "pr/res_holder", "attrib/colour"):
        yield "write", f"{CORE}/{name}", b"1\n"
    yield "write", f"{CORE}/attrib/queue_depth", b""
    yield "write", f"{CORE}/attrib/queue_depth", b"1" * 4096


def good_texts(row: Attribute) -> tuple[str, ...]:
    """Values of an attribute that may be written."""
    if row.allowed:
        return row.allowed
    return ("0", "1", "4294967295", "-1") if row.numeric else \
        ("0x001405",) if row.format is COMPANY else ("word", "two words", NONE)


def bad_texts(row: Attribute) -> tuple[str, ...]:
    """Values that may not be written, and would do nothing worse than fail."""
    if row.path == "alua_lu_gp":
        return NO_GROUPS
    if row.allowed or row.numeric:
        return (*ONES, "", "1,1", "1\n\n", "word", *(("7",) if row.allowed else ()))
    return ("001405", "0x1405", "0X001405", "word\n\n") if row.format is COMPANY else ("a\0", "")


@pytest.mark.parametrize("row", [row for row in TABLE if row.kind != HOST],
                         ids=lambda row: f"{row.at}/{row.path}")
def test_each_attribute_has_what_may_be_written(row: Attribute) -> None:
    fs = Configfs("/nonexistent")   # nothing is read of it, and no LU group is there
    fs.enabled.add("core/rd_mcp_0/disk")
    path = f"core/rd_mcp_0/disk/{row.path}"
    for text in () if row.path == "alua_lu_gp" else good_texts(row):
        for end in (b"", b"\n"):
            if row.path != "enable" or text in ("0", "1"):
                assert fs.refusal(path, text.encode() + end) is None, text
    for text in bad_texts(row):
        assert fs.refusal(path, text.encode()), text
    assert fs.refusal(path, b"1" * 4096)
    assert fs.changes == 0


def test_what_is_no_text_is_a_number_or_one_of_a_few_words() -> None:
    assert {row.path for row in TABLE if row.kind != HOST and not row.allowed
            and not row.numeric and row.format is not COMPANY} == {
        *"udev_path alias lba_map alua_lu_gp alua_tg_pt_gp nexus tag".split(),
        *(f"wwn/{name}" for name in
          "vendor_id product_id revision vpd_unit_serial pd_text_id_info".split()),
        *(f"{folder}{name}{end}" for folder in ("auth/", "") for name in ("userid", "password")
          for end in ("", "_mutual")),
        *(row.path for row in TABLE if row.path.startswith("param/") and row.kind != HOST)}


def test_attributes_of_one_name_are_spelled_in_one_way() -> None:
    """The guard goes by the last word of a path."""
    spelled: dict[str, set[object]] = {}
    for row in TABLE:
        if row.kind != HOST:
            spelled.setdefault(row.path.rsplit("/", 1)[-1], set()).add(
                (row.allowed, row.numeric, row.format is COMPANY, row.guards))
    assert [name for name, ways in spelled.items() if len(ways) > 1] == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_each_parameter_has_what_may_be_written(plugin: str) -> None:
    fs, path = Configfs("/nonexistent"), f"core/{plugin}_0/disk/control"
    assert len(PLUGINS[plugin].parameters) > 2
    for name, row in PLUGINS[plugin].parameters.items():
        good = row.choices or (("/a b",) if row.most is None else ("0", "1", str(row.most)))
        bad = ("word", "0x1", "01", "") if row.choices else ("a\nb", "a\0", "a,b") \
            if row.most is None else ("word", "0x1", "01", "-1", "", str(row.most + 1))
        for value in good:
            assert fs.refusal(path, f"{name}={value}\n".encode()) is None, (name, value)
        for value in bad:
            assert fs.refusal(path, f"{name}={value}\n".encode()), (name, value)
        assert fs.refusal("core/other_0/disk/control", f"{name}=1\n".encode())
    assert fs.refusal(path, b"colour=1\n") and fs.refusal(path, b"\n")


def half_made() -> list[str]:
    """A disk in memory that is not yet enabled: what is refused there, even a 0, and taken once it
    is enabled."""
    fs = Configfs()
    store, wrong = "core/rd_mcp_77/half", []
    fs.mkdir("core/rd_mcp_77")
    fs.mkdir(store)
    try:
        before = inhost.tree()
        asked = fs.changes
        names = ("emulate_tpu", "emulate_tpws", "unmap_zeroes_data")
        for name in names:
            for value in (b"0\n", b"0", b"0x0\n", b"n\n"):
                try:
                    fs.write(f"{store}/attrib/{name}", value)
                    wrong.append(f"{name} {value!r}")
                except errors.HazardRefused:
                    pass
        wrong += inhost.differences(before, inhost.tree()) + ["asked"] * (fs.changes - asked)
        fs.write(f"{store}/control", b"rd_pages=16\n")
        fs.write(f"{store}/enable", b"1\n")
        for other in (fs, Configfs()):
            wrong += [name for name in names if other.refusal(f"{store}/attrib/{name}", b"0\n")]
        return wrong
    finally:
        fs.rmdir(store)
        fs.rmdir("core/rd_mcp_77")


def grouped() -> list[str]:
    """What is written of a disk's LU group: the name of one that is there, and nothing else."""
    fs = Configfs()
    store, groups, wrong = "core/rd_mcp_78/disk", "core/alua/lu_gps", []
    fs.mkdir("core/rd_mcp_78")
    fs.mkdir(store)
    fs.write(f"{store}/control", b"rd_pages=16\n")
    fs.write(f"{store}/enable", b"1\n")
    try:
        if not fs.refusal(f"{store}/alua_lu_gp", b"shelf\n"):
            wrong.append("a group that is not there yet")
        for name in ("shelf", NONE):
            fs.mkdir(f"{groups}/{name}")
        fs.write(f"{groups}/shelf/lu_gp_id", b"77\n")
        wrong += [f"{word!r}" for word in (
            *NO_GROUPS, " shelf", "shelf ", "shelf\n\n", "shelf\0", "shel", "shelf/", "shelf/.",
            "../lu_gps/shelf", "default_lu_gp", NONE) for end in ("", "\n")
            if not fs.refusal(f"{store}/alua_lu_gp", (word + end).encode())]
        fs.write(f"{store}/alua_lu_gp", b"shelf\n")
        if "LU Group Alias: shelf\n" not in fs.read(f"{store}/alua_lu_gp"):
            wrong.append("not in its group")
        return wrong
    finally:
        fs.rmdir(store)
        fs.rmdir("core/rd_mcp_78")
        for name in ("shelf", NONE):
            fs.rmdir(f"{groups}/{name}")


@pytest.mark.parametrize("role", ["oldest", "newest"])
def test_no_document_leads_to_more_than_may_be_written(bed: lab.Lab, hosts: HostsOf,
                                                       role: str) -> None:
    bench = make_bench(bed, *hosts(role))
    bench.all_refused([(what, bench.spoilt(change), kind) for what, change, kind in refused()])
    passed, asked, differences = bench.host.call(try_writes, list(refused_writes()))
    assert passed == [] and asked == 0 and differences == []
    assert bench.host.call(half_made) == [] and bench.host.call(grouped) == []
    # Only plain decimals, as the kernel takes every way in which C spells a number.
    state = f"{CORE}/alua/fast/alua_access_state"
    for text in ("01", "0x1", "+1"):
        assert bench.host.call(write_past_the_guard, state, text + "\n") == "1"
        assert bench.host.call(write_past_the_guard, state, "0\n") == "0"
    # And what is allowed on an enabled backstore only comes to the kernel when it is enabled.
    wanted = bench.spoilt(lambda tree: store(tree)["attributes"].update({
        "attrib/emulate_tpu": "1", "attrib/emulate_tpws": "1"}))
    assert bench.host.call(command, ["import"], wanted).code == 0
    assert bench.host.call(read, "core/fileio_1/new0/attrib/emulate_tpws") in ("1\n", "0\n")

"""Writes that harm a kernel: no document leads to one, and the guard lets none through."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.attributes import TABLE
from lio_handover.configfs import Configfs
from tests import inhost, lab, samples
from tests.conftest import HostsOf
from tests.spoiling import (SERVED, Change, Tree, attribute, command, held, make_bench, parameter,
                            put, read, store, tpg, twice)

CORE = "core/fileio_0/served0"

#: Ways to write 14 that the kernel's kstrtoul(…, 0, …) takes, or that look like it.
FOURTEENS = ("14", "0xe", "0XE", "0x0e", "016", "0016", "+14", "+0xe", "14\n", " 14", "14 ",
             "0b1110", "0o16", "1_4")


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


@pytest.mark.parametrize("role", ["oldest", "newest"])
def test_no_document_reaches_what_harms_a_kernel(bed: lab.Lab, hosts: HostsOf, role: str) -> None:
    bench = make_bench(bed, *hosts(role))
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

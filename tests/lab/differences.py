"""THE table: every difference that a handover may make, as an initiator or as configfs shows it.

The tests fail on any difference that no row covers; docs/reference/differences.md is this
table, written by
``python3 -m tests.lab.differences`` and held to it by a test.

A file of the target tree is asked by its path, ``core/fileio/NAME/attrib/block_size``: an HBA's
number and a link's name are taken out of the paths and stand in pseudo-files, ``…@hba`` and
``…@link``.  Files of the kernel's below dbroot begin with ``dbroot:``.
"""
from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lio_handover.scsi import replies

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "differences.md"


class Difference(NamedTuple):
    """One question that A and B answered differently; None where it is not there to be asked.

    ``fenced``: who asks is kept out of the LUN by somebody else's reservation.  ``interleaved``:
    one initiator has registered there, then another, then the first from another session.
    """

    who: str
    lun: int
    question: str
    a: bytes | None
    b: bytes | None
    fenced: bool = False
    interleaved: bool = False


class Row(NamedTuple):
    """Why answers to the questions that ``asked`` matches may differ, where ``covers`` says that
    this is how they do.  ``what`` is how the documentation calls them."""

    what: str
    asked: str
    covers: Callable[[Difference], bool]
    why: str


def reason(one: Difference) -> Row | None:
    """What explains a difference, None where nothing does."""
    return next((row for row in TABLE if re.fullmatch(row.asked, one.question) and
                 row.covers(one)), None)


def of_trees(a: Mapping[str, str], b: Mapping[str, str]) -> list[Difference]:
    """Every file that is not byte for byte the same."""
    def said(tree: Mapping[str, str], path: str) -> bytes | None:
        return tree[path].encode(errors="surrogateescape") if path in tree else None
    return [Difference("", 0, path, said(a, path), said(b, path))
            for path in sorted({*a, *b}) if a.get(path) != b.get(path)]


# ── how they differ ──────────────────────────────────────────────────────────────────────────

def _any(_one: Difference) -> bool:
    return True


def _there(one: Difference) -> bool:
    return one.a is not None and one.b is not None


def _one_side(*saying: bytes) -> Callable[[Difference], bool]:
    """Only one host's kernel has it, and there it says this (nothing given: anything)."""
    def covers(one: Difference) -> bool:
        if _there(one):
            return False
        text = one.b if one.a is None else one.a
        return not saying or text in saying
    return covers


def _told_at_first_login(one: Difference) -> bool:
    return not one.a and (one.b or b"").startswith(b"status 0x02 sense 6/3f/0e ")


def _one_opcode_more(one: Difference) -> bool:
    """The same list but for A3/05, which stands last where it is there."""
    a, b = one.a or b"status", one.b or b"status"
    if a.startswith(b"status") or b.startswith(b"status"):
        return False
    less, more = sorted((a[4:], b[4:]), key=len)
    rest = more[len(less):]
    return more.startswith(less) and len(rest) in (8, 20) and rest.startswith(b"\xa3\0\0\x05")


def _zero_at_the_end(one: Difference) -> bool:
    """The same but for its length (bytes 2 and 3), the longer one ending in the zeroes."""
    less, more = sorted((one.a or b"", one.b or b""), key=len)
    return len(less) > 4 and less[:2] + less[4:] == more[:2] + more[4:len(less)] \
        and not any(more[len(less):])


def _fenced_on_one(one: Difference) -> bool:
    """Who is kept out is told so by one kernel only."""
    return one.fenced and b"status 0x18" in (one.a, one.b)


def _in_another_order(one: Difference) -> bool:
    """The same generation and the same registrations, of interleaved sessions."""
    if not (one.interleaved and one.a and one.b):
        return False
    if one.question == "pr in read keys":
        keys = [replies.decode_keys(text) for text in (one.a, one.b)]
        return keys[0].generation == keys[1].generation and \
            sorted(keys[0].keys) == sorted(keys[1].keys)
    full = [replies.decode_full_status(text) for text in (one.a, one.b)]
    return full[0].generation == full[1].generation and \
        sorted(full[0].registrations, key=repr) == sorted(full[1].registrations, key=repr)


def _info(one: Difference) -> bool:
    """The same but for the words that one kernel adds, and numbers that are not the device's."""
    def rest(text: bytes | None) -> bytes:
        return re.sub(rb"(HwMaxSectors|Max Queue Depth): \d+|  exclusive: 1\n", b"",
                      text or b"").replace(b" ", b"")
    return _there(one) and rest(one.a) == rest(one.b)


def _but_for_prgen(one: Difference) -> bool:
    def rest(text: bytes | None) -> bytes:
        return re.sub(rb"PRgen: 0x[0-9a-f]{8}", b"", text or b"")
    return _there(one) and rest(one.a) == rest(one.b)


def _but_for_newline(one: Difference) -> bool:
    return _there(one) and (one.a or b"").rstrip(b"\n") == (one.b or b"").rstrip(b"\n")


_HOSTS_OWN = "It is how this host executes commands, and no initiator can see it: not carried."
_OPCODES = "report supported opcodes( timeouts)?"

#: What an initiator sees.
ANSWERS = (
    Row("TEST UNIT READY, once", "test unit ready", _told_at_first_login,
        "The first login under an ACL is told once that LUNs were added to it. On the destination "
        "it is the first; REPORT LUNS then says what it said on the source."),
    Row("REPORT SUPPORTED OPERATION CODES", _OPCODES, _one_opcode_more,
        "7.2 knows one command more, REPORT IDENTIFYING INFORMATION (A3/05), and lists it."),
    Row("VPD page B0", "vpd b0", _zero_at_the_end,
        "7.2 ends this page one field earlier; up to 6.12 that field is there, and zero."),
    Row("READ CAPACITY (10) by who is fenced off", "read capacity 10", _fenced_on_one,
        "Up to 6.1 READ CAPACITY (10) conflicts with somebody else's reservation that keeps one "
        "from reading."),
    Row("REPORT SUPPORTED OPERATION CODES by who is fenced off", _OPCODES, _fenced_on_one,
        "6.1 does not know this command, and says so even to who is fenced off; later kernels "
        "know it, are told not to answer it (emulate_rsoc=0), and look at reservations first."),
    Row("READ KEYS and READ FULL STATUS, their order", "pr in read (keys|full status)",
        _in_another_order,
        "Where one initiator's sessions (ISIDs) have registered before and after another's: they "
        "come back at one moment, when their ACL maps the LUN. `plan` and `import` say so."),
)

#: What only the host sees: files of the target tree.
FILES = (
    Row("`statistics/scsi_tgt_dev/status`", ".*/statistics/scsi_tgt_dev/status", _but_for_newline,
        "7.2 ends the line."),
    Row("`pr/res_pr_registered_i_pts`", "core/.*/pr/res_pr_registered_i_pts", _but_for_prgen,
        "The PRgeneration at which each registration was made begins anew; nothing but this file "
        "has it. PRgeneration itself is the same."),
    Row("`DBROOT/saveconfig.json`", "dbroot:saveconfig.json", _one_side(),
        "targetcli's save file: what is imported is put into it, and what is frozen taken out."),
    Row("`DBROOT/alua`", "dbroot:alua/.*", _one_side(),
        "The kernel writes such a file when a state changes, if there is a folder for it, and "
        "never reads one."),
    Row("`core/PLUGIN_N`", "core/[^/]+/[^/]+@hba", _there,
        "An HBA's number is where a backstore happens to live on a host, not who it is."),
    Row("the names of the links in `lun_N`", ".*/lun_[0-9]+@link", _there,
        "Any name works and none says anything (targetcli makes random ones)."),
    Row("`version`", "(vhost/)?version", _there, "It is the host's kernel."),
    Row("`attrib/submit_type` `attrib/complete_type`",
        "core/.*/attrib/(submit|complete)_type", _any, _HOSTS_OWN),
    Row("`param/cmd_completion_affinity`", ".*/param/cmd_completion_affinity", _there, _HOSTS_OWN),
    Row("`param/default_submit_type` `param/default_complete_type` "
        "`param/direct_submit_supported` `param/direct_complete_supported`",
        ".*/param/(default_(submit|complete)_type|direct_(submit|complete)_supported)",
        _one_side(), "What the kernel's fabric can do, and read-only."),
    Row("`attrib/emulate_rsoc`", "core/.*/attrib/emulate_rsoc", _one_side(b"0\n"),
        "6.1 does not have it, and does what later kernels do with 0. Where it is 1, an import "
        "there is refused."),
    Row("`wwn/pd_text_id_info`", "core/.*/wwn/pd_text_id_info", _one_side(b"\n"),
        "Before 7.2 kernels do not have it, and do what 7.2 does where it is empty. Where it is "
        "not, an import there is refused."),
    Row("`attrib/atomic_*`", "core/.*/attrib/atomic_[a-z_]+", _one_side(b"0\n"),
        "Read-only, since 7.2, and 0: older kernels have no atomic writes either."),
    Row("`attrib/hw_max_sectors`", "core/fileio/.*/attrib/hw_max_sectors", _there,
        "Of fileio, 6.1 counts it in blocks as they are served, later kernels in blocks of 512 "
        "bytes; VPD page B0 says the same on both."),
    Row("`info`", "core/.*/info", _info,
        "The same limit; the queue depth that was written, 0 if none was (what counts is "
        "`attrib/queue_depth`); and 7.2 says of iblock that it has its device alone."),
    Row("`attrib/netif_timeout`", "iscsi/.*/attrib/netif_timeout", _any,
        "The kernel keeps it and never looks at it; later kernels have dropped it. Not carried."),
    Row("`rtpi`", "[a-z]+/.*/tpgt_[0-9]+/rtpi", _one_side(),
        "6.1 has no such file; the number itself is the same (`statistics/scsi_port/indx`)."),
    Row("`statistics`", ".*/(fabric_)?statistics/.*/(inst|indx|dev|device|port|port_auth_indx|"
        "role|accepts|normal_logouts|num_cmds|in_cmds|hs_num_cmds|hs_in_cmds|read_mbytes|"
        "write_mbytes|creation_time|resets|aborts_complete|aborts_no_task|att_count|row_status|"
        "map_indx|intr_name)(?<!scsi_port/indx)", _any,
        "Counters begin anew, and numbers of objects are the host's own."),
)

TABLE = (*ANSWERS, *FILES)

#: What can be written and says, on every object of the round trip, what it says by itself: why.
UNSET = (
    ("dbroot", "Where the kernel keeps its files on this host. APTPL files go to the "
               "destination's."),
    ("*/control", "Write-only; what was written there is read from `info`."),
    ("*/pr/res_aptpl_metadata", "Write-only: registrations are read from `res_pr_*`."),
    ("*_*/hba_mode", "Of pscsi only."),
    ("iscsi/cpus_allowed_list", "Where the host's threads run: not carried."),
    ("lu_gps/default_lu_gp/lu_gp_id", "Always 0."),
    ("*/alua/default_tg_pt_gp/tg_pt_gp_id", "Always 0."),
    ("*/attrib/emulate_dpo", "The kernel takes a write and does nothing."),
    ("*/attrib/emulate_fua_read", "The kernel takes a write and does nothing."),
    ("*/attrib/emulate_rest_reord", "The kernel takes nothing but 0."),
    ("*/attrib/alua_support", "Of tcmu only."),
    ("*/attrib/pgr_support", "Of iblock only, and since 6.12."),
    ("*/attrib/pi_prot_format", "It formats the disk's protection information: data, not state."),
    ("iblock/attrib/emulate_write_cache", "iblock says what its device has, and takes nothing."),
    ("iblock/attrib/pi_prot_type", "iblock says what its device has, and takes nothing else."),
    ("iblock/attrib/pi_prot_verify", "Only with protection information, as above."),
    ("iscsi/*/tpgt/np/*/iser", "Needs RDMA hardware."),
    ("iscsi/*/tpgt/np/*/cxgbit", "Needs such an adapter."),
)


def excused(pattern: str) -> bool:
    """Whether UNSET has a reason for it; its ``*`` at the beginning is any plugin."""
    return any(pattern == one or one.startswith("*") and re.fullmatch(
        "[a-z_]+" + re.escape(one[1:]), pattern) for one, _why in UNSET)


# ── the document ─────────────────────────────────────────────────────────────────────────────

def document() -> str:
    """docs/reference/differences.md."""
    lines = [
        "# What differs after a move",
        "",
        "Targets are moved between all pairs of the kernels 6.1, 6.12 and 7.2 (vhost: 6.1 and "
        "7.2), with",
        "every writable file of the target tree off its default. Each file and each answer that "
        "an initiator",
        "can ask for is compared byte for byte. What differs stands here, with its reason; a test "
        "fails on",
        "anything else. (Written by `python3 -m tests.lab.differences`.)",
        "",
        *_table("what", "why", ((row.what, row.why) for row in TABLE)),
        "",
        "## What is not off its default there",
        "",
        "The test walks the tree, and fails on a writable file that says on every object what it "
        "says by",
        "itself, but for these (`*` at the beginning is any plugin):",
        "",
        *_table("file", "why", ((f"`{name}`", why) for name, why in UNSET)),
    ]
    return "\n".join(lines) + "\n"


def _table(left: str, right: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|",
            *(f"| {one} | {other} |" for one, other in rows)]


if __name__ == "__main__":
    DOCUMENT.write_text(document())
    sys.exit(0)

"""The table of differences: it explains only what it names, and the documentation is the table."""
from __future__ import annotations

import pytest

from tests.lab import differences
from tests.lab.differences import TABLE, Difference, reason


def explained(path: str, a: str | None, b: str | None) -> bool:
    found = differences.of_trees({path: a} if a is not None else {},
                                 {path: b} if b is not None else {})
    assert len(found) == 1
    return reason(found[0]) is not None


@pytest.mark.parametrize("path, a, b", [
    ("core/fileio/disk@hba", "fileio_0", "fileio_3"),
    ("iscsi/iqn.x/tpgt_1/lun/lun_0@link", "3f5a", "link"),
    ("core/fileio/disk/attrib/emulate_rsoc", None, "0\n"),
    ("core/iblock/disk/wwn/pd_text_id_info", "\n", None),
    ("core/fileio/disk/statistics/scsi_lu/num_cmds", "7\n", "0\n"),
    ("iscsi/iqn.x/tpgt_1/rtpi", "0x2\n", None),
    ("core/fileio/disk/pr/res_pr_registered_i_pts", "SPC-3\nx Key: 0x01 PRgen: 0x00000001\n",
     "SPC-3\nx Key: 0x01 PRgen: 0x00000000\n"),
    ("core/iblock/disk/info", "HwMaxSectors: 8\n  readonly: 0\n  exclusive: 1\n Major: 1\n",
     "HwMaxSectors: 9\n  readonly: 0\n Major: 1\n")])
def test_what_the_table_names_is_explained(path: str, a: str | None, b: str | None) -> None:
    assert explained(path, a, b)
    assert explained(path, b, a)


@pytest.mark.parametrize("path, a, b", [
    ("core/fileio/disk/attrib/block_size", "512\n", "4096\n"),
    ("core/fileio/disk@hba", "fileio_0", None),
    ("iscsi/iqn.x/tpgt_1/lun/lun_0/link", "core/fileio/disk", "core/fileio/other"),
    ("core/fileio/disk/attrib/emulate_rsoc", None, "1\n"),
    ("core/fileio/disk/attrib/emulate_rsoc", "0\n", "1\n"),
    ("core/iblock/disk/wwn/pd_text_id_info", "shelf\n", None),
    ("core/iblock/disk/wwn/pd_text_id_info", "shelf\n", "\n"),
    ("core/iblock/disk/attrib/atomic_max_len", None, "8\n"),
    ("iscsi/iqn.x/tpgt_1/lun/lun_0/statistics/scsi_port/indx", "1\n", "2\n"),
    ("core/fileio/disk/statistics/scsi_lu/vend", "LIO-ORG\n", "ACME\n"),
    ("core/fileio/disk/statistics/scsi_tgt_dev/status", "activated\n", "deactivated\n"),
    ("iscsi/iqn.x/tpgt_1/rtpi", "0x2\n", "0x3\n"),
    ("core/fileio/disk/pr/res_pr_registered_i_pts", "SPC-3\nx Key: 0x01 PRgen: 0x00000001\n",
     "SPC-3\nx Key: 0x02 PRgen: 0x00000001\n"),
    ("core/fileio/disk/pr/res_pr_generation", "0x00000001\n", "0x00000002\n"),
    ("core/iblock/disk/info", "readonly: 0\n", "readonly: 1\n"),
    ("iscsi/discovery_auth/userid", "me\n", "\n"),
    ("iscsi/iqn.x/tpgt_1/new/", "", None),
    ("dbroot:pr/aptpl_1", "PR_REG_START: 0\n", None),
    ("dbroot:alua/tpgs_1/g", "alua_access_state=0x00\n", "alua_access_state=0x01\n")])
def test_what_it_does_not_name_is_not(path: str, a: str | None, b: str | None) -> None:
    assert not explained(path, a, b)
    assert not explained(path, b, a)


def test_only_interleaved_sessions_may_be_listed_in_another_order() -> None:
    def keys(generation: int, *keys: int) -> bytes:
        return generation.to_bytes(4, "big") + (8 * len(keys)).to_bytes(4, "big") + b"".join(
            key.to_bytes(8, "big") for key in keys)

    def listed(a: bytes, b: bytes, interleaved: bool = True) -> bool:
        return reason(Difference("x", 0, "pr in read keys", a, b,
                                 interleaved=interleaved)) is not None
    assert listed(keys(7, 1, 2, 3), keys(7, 1, 3, 2))
    assert not listed(keys(7, 1, 2, 3), keys(7, 1, 3, 2), interleaved=False)
    assert not listed(keys(7, 1, 2, 3), keys(8, 1, 3, 2))
    assert not listed(keys(7, 1, 2, 3), keys(7, 1, 2))
    assert not listed(keys(7, 1, 2), keys(7, 1, 4))


def test_the_documentation_is_the_table() -> None:
    assert differences.DOCUMENT.read_text() == differences.document(), (
        "python3 -m tests.lab.differences")
    assert len({row.what for row in TABLE}) == len(TABLE)

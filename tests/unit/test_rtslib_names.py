"""Names in a save file are what rtslib makes of them; entries of others are nobody's business."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import Backstore, State
from lio_handover.savefile import rtslib_entries, rtslib_names
from tests.support import samples

RTSLIB = Path("/usr/lib/python3/dist-packages/rtslib_fb")

IQN, WWPN = samples.IQN, samples.WWPN


@pytest.mark.parametrize("fabric, spelling, becomes", [
    ("iscsi", f" {IQN.upper()}\t", IQN), ("iscsi", "0x5001405abcdef012", WWPN),
    ("iscsi", "EUI.02:00-00:00:00:00:00:01", "eui.0200000000000001"),
    ("vhost", " NAA.5001405ABCDEF012 ", WWPN), ("vhost", "50:01:40:5a:bc:de:f0:12", WWPN),
    ("vhost", "0x5001405ABCDEF012", WWPN), ("loopback", "naa.5001-405A-BCDE-F012", WWPN),
    ("vhost", "naa.6001405abcdef012", WWPN),    # of versions that made a wrong prefix
    ("loopback", "c001405abcdef012", "naa.c001405abcdef012"),   # which 2.2 alone takes
    ("qla2xxx", "naa.21000024FF000001", "21:00:00:24:ff:00:00:01"),
    ("srpt", "ib.fe80-0000000000000002c90300000001", "0xfe800000000000000002c90300000001"),
    ("sbp", "eui.0200000000000001", "0200000000000001"),
])
def test_a_name_is_what_rtslib_makes_of_it(fabric: str, spelling: str, becomes: str) -> None:
    assert f"{fabric}/{becomes}" in rtslib_names.targets({"fabric": fabric, "wwn": spelling})


@pytest.mark.parametrize("fabric, spelling", [
    ("iscsi", "iqn.2026-11.org.example:target2"), ("vhost", IQN), ("iSCSI", IQN),
    ("loopback", f"x{WWPN}"), ("iscsi", None), ("iscsi", ["x"]), (None, IQN), ({}, IQN)])
def test_another_name_is_another_target(fabric: Any, spelling: Any) -> None:
    assert not rtslib_names.targets({"fabric": fabric, "wwn": spelling}) & {
        f"iscsi/{IQN}", f"vhost/{WWPN}", f"loopback/{WWPN}"}


def test_what_rtslib_would_rename_or_refuse_is_known() -> None:
    """It would come up as something else at the next boot, or not at all."""
    plain = samples.iscsi(acls=1)
    assert rtslib_names.refused(plain) == ""
    for wwn in ("iqn.2026-11.ORG.example:target", "iqn.2026-11.org.example:my_target"):
        assert wwn in rtslib_names.refused(samples.iscsi(wwn=wwn))
    for wwn, name in (("naa.6001405abcdef012", "vhost"), ("fc.5001405abcdef012", "vhost")):
        target, = samples.iscsi().targets
        odd = replace(target, key=("target", name, wwn), tpgs=())
        assert wwn in rtslib_names.refused(State((), (), (odd,)))
    target, = plain.targets
    tpg, = target.tpgs
    acl = replace(tpg.acls[0], key=(*tpg.acls[0].key[:-1], "iqn.2026-11.org.example:Client"))
    odd = replace(target, tpgs=(replace(tpg, acls=(acl,)),))
    assert "Client" in rtslib_names.refused(replace(plain, targets=(odd,)))
    spaced = replace(plain.backstores[0], key=backstore_key("fileio", "a disk"))
    assert rtslib_names.refused(replace(plain, backstores=(spaced,))) == "fileio/a disk"
    for config, taken in (("rbd/pool/image", True), ("rbd/a:b", False), ("rbd", False)):
        one = Backstore(backstore_key("user", "x"), {"dev_config": config})
        assert bool(rtslib_names.refused(State((), (one,)))) is not taken


#: Plugin → what the constructor of each rtslib takes besides the name (2.1.75, 2.2.4).
TAKES = {
    "fileio": "dev size wwn write_back aio index", "iblock": "dev wwn readonly write_back index",
    "rd_mcp": "size wwn nullio index", "pscsi": "dev index",
    "user": "config size wwn hw_max_sectors control index"}
BACKSTORES = {
    "fileio": Backstore(backstore_key("fileio", "x"), {
        "fd_dev_name": "/srv/x", "fd_dev_size": "1048576", "fd_buffered_io": "1"}),
    "iblock": Backstore(backstore_key("iblock", "x"), {"udev_path": "/dev/x", "readonly": "1"}),
    "rd_mcp": Backstore(backstore_key("rd_mcp", "x"), {"rd_pages": "3", "rd_nullio": "1"}),
    "pscsi": Backstore(backstore_key("pscsi", "x"), {
        "scsi_host_id": "1", "scsi_channel_id": "0", "scsi_target_id": "2", "scsi_lun_id": "3"},
        {"udev_path": "/dev/disk/by-id/x", "wwn/vpd_unit_serial": "its own"}),
    "user": Backstore(backstore_key("user", "x"), {
        "dev_config": "rbd/pool/x", "dev_size": "4096", "hw_block_size": "4096",
        "hw_max_sectors": "128", "max_data_area_mb": "8"}),
}
#: What restore takes out before it calls the constructor (rtslib/root.py).
_NOT_GIVEN = {"exists", "attributes", "plugin", "buffered_mode", "alua_tpgs", "name"}


@pytest.mark.parametrize("plugin", TAKES)
def test_each_plugin_is_written_as_rtslib_reads_it(plugin: str) -> None:
    made = rtslib_entries.storage_object(BACKSTORES[plugin])
    assert made["plugin"] == {"iblock": "block", "rd_mcp": "ramdisk"}.get(plugin, plugin)
    assert set(made) - _NOT_GIVEN <= set(TAKES[plugin].split())
    assert rtslib_names.store(made) == (plugin, "x")
    wanted: dict[str, dict[str, Any]] = {
        "rd_mcp": {"size": 3 * 4096, "nullio": True}, "pscsi": {"dev": "/dev/disk/by-id/x"},
        "user": {"config": "rbd/pool/x", "size": 4096, "hw_max_sectors": 128,
                 "control": "max_data_area_mb=8,hw_block_size=4096"},
        "iblock": {"dev": "/dev/x", "readonly": True},
        "fileio": {"dev": "/srv/x", "size": 1048576, "write_back": True, "aio": False}}
    assert wanted[plugin].items() <= made.items()


def test_the_constructors_are_those_of_the_installed_rtslib() -> None:
    if not RTSLIB.exists():
        pytest.skip("rtslib is not installed")
    classes = dict(zip(TAKES, ("FileIO", "Block", "RDMCP", "PSCSI", "UserBacked")))
    found = {name: [one.arg for one in function.args.args[2:]]
             for name, function in _constructors()}
    for plugin, name in classes.items():
        assert set(TAKES[plugin].split()) <= set(found[f"{name}StorageObject"]), plugin


def _constructors() -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.parse((RTSLIB / "tcm.py").read_text()).body:
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                    yield node.name, one


@pytest.mark.parametrize("tpgs, serves", [
    ([{"tag": 1}], True), ([{"enable": True}], True), ([{"enable": False}], False),
    ([{"enable": 0}], False), ([{"enable": "0"}], False), ([{"enable": "1"}], True),
    ([{"enable": 1.5}], True), ([], False), ([{"enable": False}, {"tag": 2}], True),
    # rtslib may stumble over these: nobody knows what then is open
    ([{"enable": None}], True), ([{"enable": "yes"}], True), ([{"enable": {}}], True),
    ([None], True), ("tpgs", True), (None, True), ({}, True), (7, True)])
def test_when_a_target_comes_up_serving(tpgs: Any, serves: bool) -> None:
    assert rtslib_entries.enabled({"fabric": "iscsi", "wwn": IQN, "tpgs": tpgs}) is serves


def test_without_portal_groups_nothing_is_served_and_without_a_gate_all_is() -> None:
    assert not rtslib_entries.enabled({"fabric": "iscsi", "wwn": IQN})
    assert rtslib_entries.enabled({"fabric": "vhost", "wwn": WWPN, "tpgs": [{"enable": False}]})


@pytest.mark.parametrize("entry, uses", [
    ({"tpgs": [{"luns": [{"storage_object": "/backstores/block/x"}]}]}, {("iblock", "x")}),
    ({"tpgs": [{"luns": ["lun0"]}]}, set()), ({"tpgs": "/backstores/fileio/x"}, {("fileio", "x")}),
    ({"odd": {"/backstores/ramdisk/x": 1}}, {("rd_mcp", "x")}), ({"tpgs": None}, set())])
def test_what_an_entry_of_others_uses_is_seen_whatever_its_shape(entry: Any, uses: set[Any]) \
        -> None:
    assert rtslib_names.stores_named(entry) == uses

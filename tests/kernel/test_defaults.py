"""New objects have the table's defaults on each kernel; where not, an import is right."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from lio_handover.document import document as documents
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.reader import Reader
from lio_handover.model import defaults
from lio_handover.model.attributes import row
from lio_handover.model.keys import backstore_key
from lio_handover.model.objects import Backstore, Tpg
from lio_handover.plan.planner import plan
from tests import lab
from tests.conftest import HostsOf
from tests.lab.inside import TARGET
from tests.support import inhost, samples

SIZE = 4 * lab.MiB
FILE = {"fd_dev_name": "file", "fd_dev_size": str(SIZE)}


def make(shared: str, device: str, fabric: str, wwn: str, initiator: str) -> dict[str, str]:
    """One new object of each kind, with bare calls: {label: path below the tree}."""
    file = f"{shared}/fresh.img"
    Path(file).write_bytes(b"\0" * SIZE)
    control = f"fd_dev_name={file},fd_dev_size={SIZE}"
    stores = {"fileio": ("fileio_0/plain", control),
              "buffered": ("fileio_1/buffered", control + ",fd_buffered_io=1"),
              "async": ("fileio_2/async", control + ",fd_async_io=1"),
              "iblock": ("iblock_0/disk", f"udev_path={device}")}
    made = {}
    for name, (place, words) in stores.items():
        store = TARGET / "core" / place
        store.mkdir(parents=True)
        (store / "control").write_text(words)
        (store / "enable").write_text("1")
        made[name] = f"core/{place}"
    tpg = TARGET / fabric / wwn / "tpgt_1"
    tpg.mkdir(parents=True)
    lun, acl = tpg / "lun/lun_0", tpg / "acls" / initiator
    for folder in (lun, acl, acl / "lun_0"):
        folder.mkdir()
    (lun / "link").symlink_to(TARGET / made["fileio"])
    (acl / "lun_0/link").symlink_to(lun)
    group = TARGET / made["fileio"] / "alua/group"
    group.mkdir()
    (group / "tg_pt_gp_id").write_text("5")
    portal = tpg / "np/198.18.0.77:3260"
    if fabric == "iscsi":
        portal.mkdir()
    return {**made, **{name: str(path.relative_to(TARGET)) for name, path in (
        ("tpg", tpg), ("lun", lun), ("acl", acl), ("mapped_lun", acl / "lun_0"),
        ("alua_group", group), ("portal", portal)) if path.exists()}}


def wrong(shared: str, device: str, fabric: str, wwn: str, initiator: str) -> list[str]:
    """What the table has wrong of this kernel."""
    paths = make(shared, device, fabric, wwn, initiator)
    tpg = Tpg(("target", fabric, wwn, "1"))
    fs, found, seen = Configfs(), [], 0
    for name, path in paths.items():
        if name == "alua_group":
            kind, owner, known = name, "", dict(defaults.DEFAULTS[name, ""], tg_pt_gp_id="5")
        elif name in ("tpg", "lun", "acl", "mapped_lun", "portal"):
            kind, owner, known = name, fabric, dict(defaults.values(tpg.key, name, tpg))
        else:
            plugin = "iblock" if name == "iblock" else "fileio"
            more = {"fd_buffered_io": "1"} if name == "buffered" else {}
            kind, owner = "backstore", plugin
            known = dict(defaults.store_values(Backstore(
                backstore_key(plugin, name), {**FILE, **more} if plugin == "fileio" else {})))
        for attribute, value in known.items():
            described = row(kind, owner, attribute)
            assert described is not None, (kind, owner, attribute)
            if not os.path.exists(f"{fs.root}/{path}/{attribute}"):
                if described.if_absent is None:
                    found.append(f"{path}/{attribute} is not there")
                continue
            seen += 1
            shown = described.value(fs.read(f"{path}/{attribute}"))
            if shown.encode() != value.encode():
                found.append(f"{path}/{attribute} is {shown}, not {value}")
    return found if seen > 100 else [*found, f"only {seen} attributes were looked at"]


def test_new_objects_have_what_the_table_says(bed: lab.Lab, each_host: lab.Host) -> None:
    assert each_host.call(wrong, str(bed.shared), "/dev/ubda", "iscsi", samples.IQN,
                          samples.initiator(0)) == []


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ["vhost-oldest", "vhost-newest"])
def test_new_objects_of_vhost_have_it_too(bed: lab.Lab, hosts: HostsOf, role: str) -> None:
    host, = hosts(role)
    host.run(["modprobe", "-a", "vhost_scsi", "target_core_iblock"])
    assert host.call(wrong, str(bed.shared), "/dev/vda", "vhost", samples.WWPN,
                     "naa.5001405000000001") == []


def import_with_wrong_table(data: bytes) -> tuple[list[str], int]:
    """What differs after an import by a table that is wrong of backstores, TPGs and ACLs, and how
    many writes it took."""
    for place, name, value in ((("backstore", "fileio"), "attrib/emulate_caw", "0"),
                               (("tpg", "iscsi"), "attrib/login_timeout", "20"),
                               (("acl", "iscsi"), "attrib/nopin_timeout", "20")):
        setattr(defaults, "DEFAULTS", {
            **defaults.DEFAULTS, place: {**defaults.DEFAULTS[place], name: value}})
    document = documents.loads(data)
    one = inhost.core()
    ready = one.ready(document)
    assert not any(step.path.endswith("emulate_caw") for step in ready.plan.steps)
    writes = one.import_(ready).writes
    inhost.verify(data)
    return [str(step) for step in plan(Reader(Configfs()).state(), document.state,
                                       ready.facts).steps], writes


def test_where_the_table_is_wrong_the_import_is_right(bed: lab.Lab, stable: lab.Host) -> None:
    path = bed.shared / "disk.img"
    path.write_bytes(b"\0" * SIZE)
    want = samples.iscsi(luns=1, acls=1, paths=[str(path)], portals=("0.0.0.0:3260",))
    store, = want.backstores
    store = Backstore(store.key, {"fd_dev_name": str(path), "fd_dev_size": str(SIZE)},
                      {"attrib/emulate_caw": "0", "wwn/vpd_unit_serial": "one"})
    stable.call(inhost.build, type(want)((), (store,), want.targets))
    stable.call(inhost.freeze)
    document = stable.call(inhost.export)
    stable.call(inhost.remove)
    left, writes = stable.call(import_with_wrong_table, document)
    assert left == [] and writes > 10

"""What a destination refuses before its kernel is touched, on real kernels."""
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.model.keys import backstore_key, lun_key, target_key, tpg_key
from lio_handover.model.objects import Backstore, Lun, State, Target, Tpg
from tests import lab
from tests.conftest import HostsOf
from tests.support import inhost, samples


def test_an_attribute_that_the_kernel_lacks_is_refused_unless_it_says_the_same(
        bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts("stable", "oldest")
    source.call(inhost.build, small(bed.shared, {"attrib/emulate_rsoc": "1"}))
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    before = destination.call(inhost.tree)
    with pytest.raises(errors.CannotRepresent, match="no attrib/emulate_rsoc") as refused:
        destination.call(inhost.import_, document)
    assert str(refused.value).count("nothing was changed") == 1
    assert destination.call(inhost.tree) == before
    source.call(inhost.remove)
    source.call(inhost.build, small(bed.shared, {"attrib/emulate_rsoc": "0"}))
    source.call(inhost.freeze)
    destination.call(inhost.import_, source.call(inhost.export))


def small(shared: Path, more: dict[str, str]) -> State:
    """An iSCSI target of one LUN, without ACLs."""
    path = shared / "small.img"
    path.write_bytes(b"\0" * lab.MiB)
    store = Backstore(backstore_key("fileio", "small"),
                      {"fd_dev_name": str(path), "fd_dev_size": str(lab.MiB)},
                      {"wwn/vpd_unit_serial": "small", **more})
    key = target_key("iscsi", "iqn.2003-01.org.example:small")
    tpg = tpg_key(key, 1)
    return State((), (store,), (Target(key, {}, (Tpg(
        tpg, {"enable": "1"}, luns=(Lun(lun_key(tpg, 0), store.key, "link"),)),)),))


def test_a_serial_that_can_be_no_file_name_is_refused_by_the_source(
        bed: lab.Lab, stable: lab.Host) -> None:
    """The kernel takes it, but can keep no registrations of it."""
    stable.call(inhost.build, small(bed.shared, {"wwn/vpd_unit_serial": "sma/ll"}))
    with pytest.raises(errors.CannotRepresent, match="serial sma/ll has a /"):
        stable.call(inhost.export)


def drivers_attach() -> str:
    return Path("/sys/bus/scsi/drivers_autoprobe").read_text().strip()


def attached(host: lab.Host) -> list[str]:
    """The kernel's words on SCSI devices which got a driver."""
    return [line for line in host.run(["dmesg"]).stdout.splitlines() if "Attached " in line]


def test_restoring_reservations_shows_the_host_no_disk(bed: lab.Lab, hosts: HostsOf) -> None:
    """The nexus by which the APTPL bit is cleared must not bring udev, LVM or mdadm the disk."""
    source, destination = hosts("stable", "stable")
    path = bed.shared / "disk0.img"
    path.write_bytes(b"\0" * (1 << 26))
    state = samples.iscsi(registrants=2, paths=[str(path)])
    source.call(inhost.build, State((), tuple(
        replace(one, attributes={"wwn/vpd_unit_serial": one.serial}) for one in state.backstores),
        state.targets))
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    assert not documents.loads(document).state.backstores[0].reservations.aptpl
    before = attached(destination)
    destination.call(inhost.import_, document)
    new = attached(destination)[len(before):]
    assert [line for line in new if "scsi generic" in line]  # it was there, after all
    assert not [line for line in new if "SCSI disk" in line]
    assert destination.call(drivers_attach) == "1"


def on_device(plugin: str, wwn: str) -> State:
    """The same disk of the host as a backstore of this plugin."""
    words = {"fileio": {"fd_dev_name": "/dev/ubda"}, "iblock": {"udev_path": "/dev/ubda"}}[plugin]
    store = Backstore(backstore_key(plugin, "disk"), words, {"wwn/vpd_unit_serial": plugin})
    key = target_key("iscsi", wwn)
    tpg = tpg_key(key, 1)
    return State((), (store,), (Target(key, {}, (Tpg(
        tpg, {"enable": "1"}, luns=(Lun(lun_key(tpg, 0), store.key, "link"),)),)),))


def freeze_one(wwn: str) -> str:
    try:
        inhost.core().freeze([("iscsi", wwn)])
    except errors.HandoverError as error:
        return str(error)
    return ""


def test_storage_that_another_target_has_too_does_not_move_alone(
        bed: lab.Lab, hosts: HostsOf) -> None:
    """fileio takes no claim, so that the kernel lets both have the disk."""
    source, destination = hosts("stable", "newest")
    one, two = "iqn.2003-01.org.example:one", "iqn.2003-01.org.example:two"
    source.call(inhost.build, on_device("iblock", one))
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    source.call(inhost.thaw)
    source.call(inhost.build, on_device("fileio", two))
    for wwn, other in ((one, "fileio/disk"), (two, "iblock/disk")):
        said = source.call(freeze_one, wwn)
        assert f"its storage is that of {other}, too" in said and "nothing was changed" in said
    with pytest.raises(errors.InUse, match="does not know of its reservations"):
        source.call(inhost.freeze)      # both together: wanted so, or not

    destination.call(inhost.build, on_device("fileio", two))
    with pytest.raises(errors.StorageInUse, match="is served by fileio/disk of this host already"):
        destination.call(inhost.import_, document)


def import_without(data: bytes, path: str) -> tuple[str, list[str]]:
    """What an import says whose file goes away after it was looked at, and what it changed."""
    one, before = inhost.core(), inhost.tree()
    ready = one.ready(documents.loads(data))
    os.rename(path, path + ".away")
    try:
        one.import_(ready)
    except errors.HandoverError as error:
        return str(error), inhost.differences(before, inhost.tree())
    return "", []


def test_a_file_that_goes_away_is_not_made_anew(bed: lab.Lab, hosts: HostsOf) -> None:
    source, destination = hosts("stable", "newest")
    state = small(bed.shared, {})
    source.call(inhost.build, state)
    source.call(inhost.freeze)
    document = source.call(inhost.export)
    path = state.backstores[0].path
    said, left = destination.call(import_without, document, path)
    assert f"{path} is not there any more" in said and "nothing was changed" in said
    assert left == [] and not os.path.exists(path)

"""--map: this host's names for what another host called otherwise."""
from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Dict, List

import pytest

from lio_handover import errors
from lio_handover.document.document import Document, canonical, dumps, loads
from lio_handover.document.rename import Applied, Mapping, parse
from lio_handover.model import objects
from lio_handover.storage import block_devices
from lio_handover.storage.block_devices import Host
from tests.support import samples
from tests.unit.test_storage import Machine

FULL = samples.document(canonical(samples.both(
    samples.iscsi(luns=2, acls=2, portals=samples.PORTALS, registrants=2),
    samples.vhost(wwn="fc.5001405abcdef012", registered=False))), frozen=True)
NEXUS = "naa.5001405000000001"


def apply(*options: str, document: Document = FULL) -> Document:
    made, applied = parse(options).apply(document, None)
    assert applied and loads(dumps(made)) == made
    assert made.storage == document.storage and made.origin == document.origin
    return made


def test_nothing_to_map() -> None:
    assert parse([]) == Mapping()
    made, applied = parse([]).apply(FULL, None)
    assert made is FULL and applied == []


def test_a_target_with_all_that_is_in_it() -> None:
    new = "iqn.2026-11.org.example:other"
    made = apply(f"target:{samples.IQN}={new}")
    assert made.state.target("iscsi/" + new) and not made.state.target("iscsi/" + samples.IQN)
    assert all(samples.IQN not in key for key in made.state.index())
    # Nothing but the name has changed: the other way round it is what it was.
    assert apply(f"target:{new}={samples.IQN}", document=made) == FULL
    held = made.state.backstores[0].reservations
    assert {one.target for one in held.registrations} == {new} and held.holder == 0


def test_the_registrations_of_an_fc_target_have_its_bare_name() -> None:
    state = samples.vhost(wwn="fc.50014050000000aa", registered=True)
    store = state.backstores[0]
    held = store.reservations
    bare = replace(held.registrations[0], target="50014050000000aa")
    state = replace(state, backstores=(replace(store, reservations=replace(
        held, registrations=(bare,))),))
    made = apply("target:fc.50014050000000aa=fc.50014050000000bb",
                 document=samples.document(state))
    assert made.state.backstores[0].reservations.registrations[0].target == "50014050000000bb"


def test_two_names_can_be_exchanged() -> None:
    one, other = samples.initiator(0), samples.initiator(1)
    made = apply(f"initiator:{one}={other}", f"initiator:{other}={one}")
    held = made.state.backstores[0].reservations
    assert [each.initiator for each in held.registrations] == [other, one]
    assert held.registrations[0].key == FULL.state.backstores[0].reservations.registrations[0].key


def test_a_nexus_with_its_registrations() -> None:
    document = samples.document(samples.vhost(registered=True))
    made = apply(f"initiator:{NEXUS}=naa.5001405000000002", document=document)
    assert made.state.targets[0].tpgs[0].attributes["nexus"] == "naa.5001405000000002"
    held = made.state.backstores[0].reservations
    assert held.registrations[0].initiator == "naa.5001405000000002"


@pytest.mark.parametrize("option, wanted", [
    ("192.0.2.1:3260=192.0.2.9:860", ["192.0.2.9:860", "[2001:db8::1]:3260"]),
    ("[2001:db8::1]:3260=192.0.2.9:3260", ["192.0.2.1:3260", "192.0.2.9:3260"]),
    ("192.0.2.1=192.0.2.9", ["192.0.2.9:3260", "[2001:db8::1]:3260"]),
    ("2001:db8::1=2001:db8::2", ["192.0.2.1:3260", "[2001:db8::2]:3260"]),
    ("[2001:db8::1]=192.0.2.9", ["192.0.2.1:3260", "192.0.2.9:3260"]),
])
def test_portals(option: str, wanted: List[str]) -> None:
    made = apply("portal:" + option)
    assert [one.address for one in made.state.targets[0].tpgs[0].portals] == wanted


def test_paths() -> None:
    store = samples.backstore("disk0", "fileio", "/srv/a/x=1", more={"udev_path": "/srv/a/x=1"})
    other = samples.backstore("disk1", "fileio", "/srv/ab/y")
    document = samples.document(objects.State(backstores=(store, other)))
    made = apply("root:/srv/a=/data=1", document=document)
    assert [one.path for one in made.state.backstores] == ["/data=1/x=1", "/srv/ab/y"]
    assert made.state.backstores[0].attributes["udev_path"] == "/data=1/x=1"
    made = apply("root:/srv=/b", "root:/srv/a/=/c/", document=document)
    assert [one.path for one in made.state.backstores] == ["/c/x=1", "/b/ab/y"]
    made = apply("device:/srv/a/x=1=/dev/sdb", "root:/=/all", document=document)
    assert [one.path for one in made.state.backstores] == ["/dev/sdb", "/all/srv/ab/y"]


def test_what_was_mapped_is_told() -> None:
    _made, applied = parse(["root:/srv=/data", "portal:192.0.2.1=192.0.2.9"]).apply(FULL, None)
    assert set(applied) == {
        Applied("portal", "192.0.2.1:3260", "192.0.2.9:3260"),
        Applied("root", "/srv/disk0.img", "/data/disk0.img"),
        Applied("root", "/srv/disk1.img", "/data/disk1.img")}


@pytest.mark.parametrize("option", [
    "device", "disk:/a=/b", "device:/a", "device:/a=b", "device:a=/b", "root:/a/../b=/c",
    "root:/a=/b/../c", "device:/a=/b,c", "device:/a=/b\nc", "target:iqn.x", "target:=iqn.y",
    "target:iqn.x=", "portal:1.2.3.4=1.2.3.4:3260", "rtpi:1=0", "rtpi:1=65536", "rtpi:1=new",
    "rtpi:1=", "rtpi:1=0x7",
])
def test_options_that_say_nothing(option: str) -> None:
    with pytest.raises(errors.BadMap) as caught:
        parse([option])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option, word", [
    ("device:/srv/none=/dev/sdb", "/srv/none"), ("root:/sr=/data", "/sr"),
    ("portal:192.0.2.7:3260=192.0.2.8:3260", "192.0.2.7"), ("target:iqn.x=iqn.y", "iqn.x"),
    ("initiator:iqn.x=iqn.y", "iqn.x"), ("rtpi:7=8", "no TPG with the relative port 7"),
    ("rtpi:iscsi/iqn.x/tpg1=8", "tpg1"),
    (f"target:{samples.IQN}=naa", "can't be"), (f"target:{samples.IQN}=iqn.a/b", "can't be"),
    ("portal:192.0.2.1:3260=nowhere:3260", "can't be"),
    (f"initiator:{NEXUS}=bad", "can't be"),
])
def test_maps_that_do_not_fit(option: str, word: str) -> None:
    with pytest.raises(errors.BadMap, match=word.replace(".", r"\.")) as caught:
        parse([option]).apply(FULL, None)
    assert "\n" not in str(caught.value)


def test_one_name_mapped_twice() -> None:
    with pytest.raises(errors.BadMap, match="twice"):
        parse(["root:/a=/b", "root:/a/=/c"])


@pytest.mark.parametrize("option", [
    "device:/srv/disk0.img=/srv/disk1.img",
    f"initiator:{samples.initiator(0)}={samples.initiator(1)}",
    "portal:192.0.2.1:3260=[2001:db8::1]:3260",
    "portal:192.0.2.1:3260=[2001:0db8::1]:3260",
    "target:iqn.2026-11.org.example:two=" + samples.IQN,
])
def test_two_objects_cannot_get_one_name(option: str) -> None:
    two = samples.iscsi(1, wwn="iqn.2026-11.org.example:two", plugin="iblock", portals=())
    document = samples.document(samples.both(FULL.state, two))
    with pytest.raises(errors.Duplicate) as caught:
        parse([option]).apply(document, None)
    assert "\n" not in str(caught.value)


# --- by WWID -------------------------------------------------------------------------------------
@pytest.fixture
def document(tmp_path: Any) -> Document:
    """One iblock backstore on /dev/sdb of the source, with a WWID."""
    store = samples.backstore("disk0", "iblock", f"{tmp_path}/dev/sdb")
    proof: Dict[str, Any] = {"kind": "block", "size": 1 << 20, "wwid": "naa.7"}
    return replace(samples.document(objects.State(backstores=(store,))),
                   storage={"iblock/disk0": proof})


def here(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, **disks: str) -> Host:
    """A host with these disks: name="wwid"."""
    machine = Machine(tmp_path)
    numbers = {name: f"8:{16 * number}" for number, name in enumerate(disks)}
    for name, wwid in disks.items():
        machine.disk(name, numbers[name], device__wwid=wwid)
    real = block_devices.look

    def look(path: str) -> block_devices.PathStat:
        return real(path)._replace(block=True, device=numbers[os.path.basename(path)])

    monkeypatch.setattr(block_devices, "look", look)
    return machine.host


def test_a_device_is_found_by_its_wwid(tmp_path: Any, monkeypatch: pytest.MonkeyPatch,
                                       document: Document) -> None:
    host = here(tmp_path, monkeypatch, sda="naa.6", sdb="naa.8", sdc="naa.7")
    made, applied = parse([]).apply(document, host)
    assert applied == [Applied("wwid", f"{host.dev}/sdb", f"{host.dev}/sdc")]
    assert made.state.backstores[0].path == f"{host.dev}/sdc"
    assert made.storage == document.storage


def test_a_missing_path_is_found_by_its_wwid(tmp_path: Any, monkeypatch: pytest.MonkeyPatch,
                                             document: Document) -> None:
    host = here(tmp_path, monkeypatch, sdd="naa.7")
    made, applied = parse([]).apply(document, host)
    assert [one.new for one in applied] == [f"{host.dev}/sdd"]


def test_a_device_at_its_place_stays(tmp_path: Any, monkeypatch: pytest.MonkeyPatch,
                                     document: Document) -> None:
    host = here(tmp_path, monkeypatch, sda="naa.7", sdb="naa.7")
    assert parse([]).apply(document, host) == (document, [])


def test_a_device_that_is_nowhere_stays_to_be_refused(
        tmp_path: Any, monkeypatch: pytest.MonkeyPatch, document: Document) -> None:
    host = here(tmp_path, monkeypatch, sda="naa.6")
    assert parse([]).apply(document, host) == (document, [])


def test_an_explicit_map_goes_first(tmp_path: Any, monkeypatch: pytest.MonkeyPatch,
                                    document: Document) -> None:
    host = here(tmp_path, monkeypatch, sda="naa.6", sdc="naa.7")
    made, _applied = parse([f"device:{host.dev}/sdb={host.dev}/sda"]).apply(document, host)
    assert made.state.backstores[0].path == f"{host.dev}/sda"

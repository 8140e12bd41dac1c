"""Relative ports between generations of kernels: collisions found in time, and a way round them."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents, rename
from lio_handover.document.document import Document
from lio_handover.kernel.configfs import Configfs
from lio_handover.model import keys, objects
from lio_handover.model.keys import backstore_key
from tests import lab
from tests.conftest import HostsOf
from tests.kernel.test_preflight import small
from tests.support import inhost, samples

ONE, TWO = (f"iqn.2003-01.org.example:{name}" for name in ("one", "two"))


def called(state: objects.State, wwn: str) -> objects.State:
    """The small target under another name."""
    name = wwn.rpartition(":")[2]
    store, = state.backstores
    target, = state.targets
    tpg, = target.tpgs
    lun, = tpg.luns
    key = backstore_key("fileio", name)
    tpg_key = ("target", "iscsi", wwn, "1")
    path = Path(store.path).with_name(f"{name}.img")
    path.write_bytes(name.encode() * (lab.MiB // len(name)) + b"." * (lab.MiB % len(name)))
    return objects.State((), (replace(
        store, key=key, parameters={**store.parameters, "fd_dev_name": str(path)},
        attributes={"wwn/vpd_unit_serial": name}),), (replace(
            target, key=tpg_key[:3], tpgs=(replace(
                tpg, key=tpg_key, luns=(replace(lun, key=(*tpg_key, "lun", "0"),
                                                backstore=key),)),)),))


def try_import(data: bytes, *maps: str) -> tuple[str, list[str], tuple[str, ...]]:
    """(what it says, what it changed where it is refused, its notes)."""
    one, before = inhost.core(), inhost.tree()
    try:
        notes = one.import_(one.ready(documents.loads(data), maps)).notes
    except errors.HandoverError as error:
        return str(error), inhost.differences(before, inhost.tree()), ()
    one.verify(documents.loads(data), maps)
    return "", [], notes


def ports() -> dict[str, str]:
    """IQN → the relative port of its TPG, where it is enabled."""
    fs = Configfs()
    return {name: str(int(fs.read(f"iscsi/{name}/tpgt_1/rtpi"), 0)) for name in (ONE, TWO)
            if fs.exists(f"iscsi/{name}") and fs.read(f"iscsi/{name}/tpgt_1/enable") == "1\n"}


def thaw_two() -> None:
    inhost.core().thaw([("iscsi", TWO)], ("exported",))


def test_two_targets_of_an_old_kernel_are_told_apart_on_a_new_one(
        bed: lab.Lab, hosts: HostsOf) -> None:
    old, new = hosts("oldest", "newest")
    for name in (ONE, TWO):
        old.call(inhost.build, called(small(bed.shared, {}), name))
    old.call(inhost.freeze)
    both = old.call(inhost.export)
    said, left, _ = new.call(try_import, both)
    assert "its relative port 1 is taken by iscsi/" in said and "of the same document" in said
    assert "--map rtpi:1=fresh" in said and "nothing was changed" in said and left == []

    said, _, notes = new.call(try_import, both, "rtpi:1=fresh")
    fresh = {name: rename.fresh_port(("target", "iscsi", name, "1")) for name in (ONE, TWO)}
    assert said == "" and new.call(ports) == fresh and len(set(fresh.values())) == 2
    assert [note for note in notes if f"relative port 1 becomes {fresh[ONE]}: initiators" in note]

    # Back again: that kernel numbers the links, and does not get so far.
    new.call(inhost.freeze)
    back = new.call(inhost.export)
    old.call(inhost.remove)
    said, left, _ = old.call(try_import, back)
    assert "this kernel gives them by the order of links" in said and left == []
    assert f"--map rtpi:iscsi/{ONE}/tpg1=NUMBER" in said
    assert old.call(try_import, back, *(f"rtpi:{port}=1" for port in fresh.values()))[0] == ""
    assert documents.state_bytes(documents.loads(both)) == documents.state_bytes(
        documents.loads(old.call(frozen_export)))


def frozen_export() -> bytes:
    inhost.freeze()
    return inhost.export()


def test_the_number_of_a_target_that_would_be_thawed_is_taken(
        bed: lab.Lab, hosts: HostsOf) -> None:
    old, new = hosts("oldest", "newest")
    old.call(inhost.build, called(small(bed.shared, {}), ONE))
    old.call(inhost.freeze)
    document = old.call(inhost.export)
    new.call(inhost.build, called(small(bed.shared, {}), TWO))
    assert new.call(ports) == {TWO: "1"}
    for _ in range(2):      # enabled, then frozen
        said, left, _ = new.call(try_import, document)
        assert f"taken by iscsi/{TWO}/tpgt_1 on this host" in said and left == []
        new.call(inhost.freeze)
    assert new.call(try_import, document, f"rtpi:iscsi/{ONE}/tpg1=2")[0] == ""
    new.call(thaw_two)
    assert new.call(ports) == {ONE: "2", TWO: "1"}


# ── names and numbers ────────────────────────────────────────────────────────────────────────

def apply(document: Document, *options: str) -> dict[str, str | None]:
    made, _applied = rename.parse(options).apply(document, None)
    return {keys.display(tpg.key): tpg.attributes.get("rtpi") for target in made.state.targets
            for tpg in target.tpgs}


def test_which_number_becomes_which() -> None:
    one, two = samples.iscsi(wwn=ONE), samples.iscsi(wwn=TWO, portals=())
    document = samples.document(samples.both(one, replace(two, backstores=())))
    names = [f"iscsi/{name}/tpg1" for name in (ONE, TWO)]
    assert apply(document, "rtpi:1=7") == dict.fromkeys(names, "7")
    assert apply(document, f"rtpi:{names[0]}=7", "rtpi:1=8") == dict(zip(names, "78"))
    fresh = apply(document, "rtpi:1=fresh")
    assert len(set(fresh.values())) == 2
    assert all(4096 <= int(one or 0) <= 65535 for one in fresh.values())
    # What counts is the name that the target has here.
    renamed = apply(document, "rtpi:1=fresh", f"target:{ONE}=iqn.x:other")
    assert renamed[names[1]] == fresh[names[1]]
    assert renamed["iscsi/iqn.x:other/tpg1"] == rename.fresh_port(
        ("target", "iscsi", "iqn.x:other", "1"))


def test_ports_of_their_own_become_one() -> None:
    """Up to 6.1 each LUN of a TPG may have another; a newer kernel has one for them all."""
    state = samples.iscsi(luns=2)
    target, = state.targets
    tpg, = target.tpgs
    several = replace(tpg, attributes={name: value for name, value in tpg.attributes.items()
                                       if name != "rtpi"},
                      luns=tuple(replace(lun, attributes={"rtpi": str(number)})
                                 for number, lun in enumerate(tpg.luns, 1)))
    document = samples.document(replace(state, targets=(replace(target, tpgs=(several,)),)))
    made, applied = rename.parse([f"rtpi:iscsi/{samples.IQN}/tpg1=5"]).apply(document, None)
    changed = made.state.targets[0].tpgs[0]
    assert changed.attributes["rtpi"] == "5"
    assert [dict(lun.attributes) for lun in changed.luns] == [{}, {}]
    note, = rename.notes(applied)
    assert "relative port of each LUN becomes 5" in note


@pytest.mark.parametrize("tag", ["1", "2", "65535"])
def test_a_fresh_number_never_changes(tag: str) -> None:
    known = {"1": "16125", "2": "31638", "65535": "13642"}
    assert rename.fresh_port(("target", "iscsi", ONE, tag)) == known[tag]

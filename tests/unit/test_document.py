"""Documents: what is written is read back, and nothing else gets in."""
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Callable, Dict, List, Tuple, Type

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lio_handover import errors
from lio_handover.document import document
from lio_handover.document.document import Document, canonical, dumps, encode, loads, state_bytes
from lio_handover.model import keys, objects
from lio_handover.model.attributes import NONE
from lio_handover.model.keys import (acl_key, lu_group_key, lun_key, mapped_lun_key, target_key,
                                     tpg_key)
from tests.support import samples

FULL = samples.both(
    samples.iscsi(luns=2, acls=2, portals=samples.PORTALS, chap=True, registrants=2,
                  groups=("ao", "ano")),
    replace(samples.vhost(registered=True), lu_groups=(
        objects.LuGroup(lu_group_key("g1"), {"lu_gp_id": "7"}),)))

Tree = Dict[str, Any]


def tree(state: objects.State = FULL, **more: Any) -> Tree:
    made: Tree = json.loads(dumps(samples.document(state, **more)))
    return made


# --- what is written -----------------------------------------------------------------------------
def test_is_read_back() -> None:
    made = samples.document(FULL, frozen=True)
    back = loads(dumps(made))
    assert back == replace(made, state=canonical(made.state))
    assert dumps(back) == dumps(made)
    assert back.host == made.host != {}
    assert back.digest == made.digest == json.loads(dumps(made))["digest"]


def test_has_a_line_for_each_object_that_a_person_would_compare() -> None:
    made = samples.document(samples.iscsi(luns=3, acls=2))
    lines = dumps(made).decode().splitlines()
    assert lines[:2] == ["{", f' "digest": "{made.digest}",']
    for start, count in (('{"alua_groups"', 3), ('{"attributes": {}, "backstore": "fileio/disk', 3),
                         ('{"attributes": {}, "initiator": "iqn', 2)):
        assert sum(line.strip().startswith(start) for line in lines) == count, start


def test_what_all_of_a_kind_have_stands_once_and_is_had_by_each() -> None:
    state = samples.iscsi(luns=3, acls=2, chap=True)
    odd = replace(state.backstores[1], attributes={
        **state.backstores[1].attributes, "attrib/emulate_tas": "0", "attrib/is_nonrot": "1"})
    state = replace(state, backstores=(state.backstores[0], odd, state.backstores[2]))
    data = dumps(samples.document(state))
    assert loads(data).state == state
    tree = json.loads(data)["state"]
    common = tree["common"]["backstore/fileio"]
    assert "attrib/queue_depth" in common and not {"attrib/is_nonrot", "attrib/emulate_tas"} & \
        common.keys()
    assert tree["backstores"][1]["attributes"] == {
        "attrib/emulate_tas": "0", "attrib/is_nonrot": "1",
        "wwn/vpd_unit_serial": odd.serial}
    assert data.count(samples.SECRET.encode()) == 1
    # There is one TPG only: it says all of its own.
    assert "tpg/iscsi" not in tree["common"]


def test_what_is_common_is_judged_like_what_an_object_says() -> None:
    tree = json.loads(dumps(samples.document(samples.iscsi(luns=2))))
    for kind, path, value, error in (
            ("backstore/fileio", "attrib/emulate_rest_reord", "1", errors.BadValue),
            ("backstore/fileio", "control", "x", errors.BadValue),
            ("lun/iscsi", "../enable", "1", errors.BadName),
            ("backstore/floppy", "attrib/x", "1", errors.BadStructure)):
        spoilt = json.loads(json.dumps(tree))
        spoilt["state"]["common"].setdefault(kind, {})[path] = value
        with pytest.raises(error, match="common"):
            loads(encode(spoilt))


def test_state_is_the_same_on_every_host() -> None:
    here = samples.iscsi(luns=12, acls=2, groups=("ao",))
    tpg = here.targets[0].tpgs[0]
    moved = replace(
        here, backstores=tuple(replace(one, hba="fileio_77", host={}) for one in
                               reversed(here.backstores)),
        targets=(replace(here.targets[0], tpgs=(replace(
            tpg, luns=tuple(replace(one, alias="other") for one in reversed(tpg.luns)),
            acls=tpg.acls[::-1], sessions=("x",)),)),))
    one, other = samples.document(here), samples.document(moved, frozen=True, host="b.example")
    assert state_bytes(one) == state_bytes(other)
    assert one.digest != other.digest
    luns = json.loads(state_bytes(one))["targets"][0]["tpgs"][0]["luns"]
    assert [lun["number"] for lun in luns] == list(range(12))


def test_registrations_keep_their_order() -> None:
    held = samples.registrations(3)
    held = replace(held, registrations=held.registrations[::-1])
    state = samples.iscsi(acls=3)
    state = replace(state, backstores=(replace(state.backstores[0], reservations=held),))
    assert loads(dumps(samples.document(state))).state.backstores[0].reservations == held


def test_secrets_come_back_as_secrets() -> None:
    state = loads(dumps(samples.document(FULL))).state
    target = state.target("iscsi/" + samples.IQN)
    assert target
    password = target.tpgs[0].acls[0].attributes["auth/password"]
    assert isinstance(password, objects.Secret) and password == samples.SECRET
    assert samples.SECRET not in repr(state)


def test_what_cannot_be_read_is_not_written() -> None:
    state = samples.iscsi()
    bad = replace(state, backstores=(samples.backstore(more={"attrib/block_size": "513"}),))
    with pytest.raises(errors.BadValue):
        dumps(samples.document(bad))


def test_unknown_attributes_are_kept() -> None:
    state = samples.iscsi()
    new = replace(state, backstores=(samples.backstore(more={"attrib/of_the_future": "a\nb"}),))
    assert loads(dumps(samples.document(new))).state == new


def test_a_large_one_is_read_fast_enough() -> None:
    state = samples.iscsi(luns=1000, acls=2)
    made = samples.document(state)
    assert loads(dumps(made)).state == canonical(state)


# --- whatever the bytes --------------------------------------------------------------------------
SMALL = dumps(samples.document(samples.iscsi(chap=True, registrants=1), frozen=True))


def test_any_truncation_is_told_as_such() -> None:
    for end in range(len(SMALL)):
        with pytest.raises(errors.Truncated):
            loads(SMALL[:end])


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, flip: int) -> None:
    data = bytearray(SMALL)
    data[at] ^= flip
    with pytest.raises(errors.DocumentError) as caught:
        loads(bytes(data))
    assert "\n" not in str(caught.value) and samples.SECRET not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(errors.DocumentError):
        loads(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**65) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["..", "a/b", "a\0", "\ud800", "x" * 5000, NONE, "7", "0x10"]),
    lambda one: st.lists(one, max_size=2) | st.dictionaries(st.text(max_size=5), one, max_size=2),
    max_leaves=5)


def _places(one: Any, path: Tuple[Any, ...] = ()) -> List[Tuple[Any, ...]]:
    found = [path]
    if isinstance(one, dict):
        for name, value in one.items():
            found += _places(value, path + (name,))
    elif isinstance(one, list):
        for number, value in enumerate(one):
            found += _places(value, path + (number,))
    return found


PLACES = _places(json.loads(SMALL))[1:]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), JSON)
def test_any_sealed_document_is_read_or_refused(place: Tuple[Any, ...], value: Any) -> None:
    """Whatever stands anywhere: a document that is equal to what it says, or a DocumentError."""
    made = json.loads(SMALL)
    parent = made
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    try:
        data = encode(made)
    except errors.DocumentError:
        return  # a fraction
    try:
        read = loads(data)
    except errors.DocumentError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    assert loads(dumps(read)) == read


# --- states made by chance -----------------------------------------------------------------------
NAME = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp"),
                             blacklist_characters="/,"), min_size=1, max_size=20).filter(
    lambda one: one not in (".", "..", NONE) and one == one.strip())
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30)


@st.composite
def documents(draw: Callable[..., Any]) -> Document:
    names = draw(st.lists(NAME, min_size=1, max_size=4, unique=True))
    stores = tuple(samples.backstore(
        name, draw(st.sampled_from(["fileio", "iblock"])), "/srv/" + draw(NAME),
        size=draw(st.integers(0, 2**62)), groups=draw(st.lists(NAME, max_size=2, unique=True)),
        reservations=samples.registrations(draw(st.integers(0, 4)),
                                           kind=draw(st.sampled_from([1, 3, 5, 6, 7, 8])),
                                           aptpl=draw(st.booleans())),
        more={"alias": draw(TEXT), "attrib/new": draw(TEXT)}) for name in names)
    target = target_key("iscsi", "iqn." + draw(NAME))
    tpg = tpg_key(target, draw(st.integers(0, 65535)))
    luns = {number: draw(st.sampled_from(stores)) for number in
            draw(st.lists(st.integers(0, 2**64 - 1), max_size=4))}
    acls = []
    for name in draw(st.lists(NAME, max_size=3, unique=True)):
        acl = acl_key(tpg, name)
        mapped = draw(st.dictionaries(st.integers(0, 300), st.sampled_from(sorted(luns)))) \
            if luns else {}
        acls.append(objects.Acl(acl, {"auth/password": objects.Secret(draw(TEXT))}, tuple(
            objects.MappedLun(mapped_lun_key(acl, number), lun)
            for number, lun in mapped.items())))
    state = objects.State((), stores, (objects.Target(target, {}, (objects.Tpg(
        tpg, {"param/TargetAlias": draw(TEXT)}, (),
        tuple(objects.Lun(lun_key(tpg, number), one.key) for number, one in luns.items()),
        tuple(acls)),)),))
    return Document(canonical(state), draw(st.booleans()),
                    document.Origin(*(draw(TEXT) for _ in range(3))),
                    {keys.display(stores[0].key): {"size": draw(st.integers(0, 2**64 - 1)),
                                                   "wwid": draw(TEXT), "zero": True}})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_every_document_is_read_back(made: Document) -> None:
    assert loads(dumps(made)) == made


# --- bad input, one row each ---------------------------------------------------------------------
Change = Callable[[Tree], object]


def at(*path: Any) -> Callable[[Tree], Any]:
    def walk(one: Any) -> Any:
        for step in path:
            one = one[step]
        return one
    return walk


STORE = at("state", "backstores", 0)
TARGET = at("state", "targets", 0)
TPG = at("state", "targets", 0, "tpgs", 0)
ACL = at("state", "targets", 0, "tpgs", 0, "acls", 0)
HELD = at("state", "backstores", 0, "reservations")
VHOST = at("state", "targets", 1)


def put(where: Callable[[Tree], Any], name: Any, value: Any) -> Change:
    def change(tree: Tree) -> None:
        where(tree)[name] = value
    return change


def attribute(where: Callable[[Tree], Any], name: str, value: Any) -> Change:
    return lambda tree: where(tree)["attributes"].__setitem__(name, value)


def parameter(name: str, value: Any) -> Change:
    return lambda tree: STORE(tree)["parameters"].__setitem__(name, value)


def twice(*path: Any) -> Change:
    def change(tree: Tree) -> None:
        one = at(*path)(tree)
        one.append(json.loads(json.dumps(one[0])))
    return change


def registration(name: str, value: Any) -> Change:
    return lambda tree: HELD(tree)["registrations"][0].__setitem__(name, value)


def second_address(tree: Tree) -> None:
    TPG(tree)["portals"].append({"address": "[2001:DB8:0::1]:3260", "attributes": {}})


def second_tpg(tree: Tree) -> None:
    more = json.loads(json.dumps(TPG(tree)))
    more["tag"] = 2
    TARGET(tree)["tpgs"].append(more)


ROWS: List[Tuple[str, Change, Type[errors.DocumentError], str]] = [
    # what, the change, the error and a word of its message
    ("version", put(at(), "version", 2), errors.WrongVersion, "version 2"),
    ("version text", put(at(), "version", "1"), errors.BadStructure, "$.version is a string"),
    ("missing", lambda tree: tree.pop("frozen"), errors.BadStructure, "$.frozen is missing"),
    ("unknown", put(at(), "extra", 1), errors.BadStructure, "extra"),
    ("mistyped", put(at(), "frozen", 1), errors.BadStructure, "$.frozen is a number"),
    ("missing below", lambda tree: TPG(tree).pop("luns"), errors.BadStructure, "tpgs[0].luns"),
    ("unknown below", put(ACL, "chap", {}), errors.BadStructure, "acls[0]"),
    ("list", put(TARGET, "tpgs", {}), errors.BadStructure, "tpgs is an object"),
    ("attribute number", attribute(STORE, "attrib/block_size", 512), errors.BadStructure,
     "a number"),
    ("secret", attribute(ACL, "auth/password", ["hush"]), errors.BadStructure, "auth/password"),
    ("origin", put(at("origin"), "host", "a\nb"), errors.BadValue, "$.origin.host"),
    ("name /", put(STORE, "name", "a/b"), errors.BadName, "/"),
    ("name ..", put(STORE, "name", ".."), errors.BadName, ".."),
    ("name .", put(STORE, "name", "."), errors.BadName, "name"),
    ("name empty", put(STORE, "name", ""), errors.BadName, "empty"),
    ("name NUL", put(STORE, "name", "a\0"), errors.BadName, "NUL"),
    ("name newline", put(STORE, "name", "a\n"), errors.BadName, "newline"),
    ("name space", put(STORE, "name", "a "), errors.BadName, "space"),
    ("name surrogate", put(STORE, "name", "a\udcff"), errors.BadName, "UTF-8"),
    ("name long", put(STORE, "name", "a" * 256), errors.BadName, "256"),
    ("group name", put(at("state", "lu_groups", 0), "name", ".."), errors.BadName, "lu_groups"),
    ("group none", put(at("state", "lu_groups", 0), "name", NONE), errors.BadName, "none"),
    ("alua name", put(at("state", "backstores", 0, "alua_groups", 0), "name", "a/b"),
     errors.BadName, "alua_groups[0]"),
    ("plugin", put(STORE, "plugin", "zfs"), errors.BadValue, "zfs"),
    ("fabric", put(TARGET, "fabric", "srpt"), errors.BadValue, "srpt"),
    ("iqn", put(TARGET, "wwn", "disk"), errors.BadName, "iqn."),
    ("iqn /", put(TARGET, "wwn", "iqn.x/../y"), errors.BadName, "/"),
    ("iqn comma", put(TARGET, "wwn", "iqn.x,i,0x1"), errors.BadName, "comma"),
    ("iqn long", put(TARGET, "wwn", "iqn." + "x" * 220), errors.BadName, "224"),
    ("vhost wwn", put(VHOST, "wwn", "eui.0123"), errors.BadName, "naa."),
    ("nexus", attribute(at("state", "targets", 1, "tpgs", 0), "nexus", NONE), errors.BadName,
     "nexus"),
    ("initiator long", put(ACL, "initiator", "iqn." + "x" * 220), errors.BadName, "224"),
    ("initiator ..", put(ACL, "initiator", ".."), errors.BadName, "initiator"),
    ("portal", put(at("state", "targets", 0, "tpgs", 0, "portals", 0), "address", "host:3260"),
     errors.BadName, "host:3260"),
    ("portal port", put(at("state", "targets", 0, "tpgs", 0, "portals", 0), "address",
                        "1.2.3.4:99999"), errors.BadName, "99999"),
    ("portal of vhost", put(at("state", "targets", 1, "tpgs", 0), "portals",
                            [{"address": "1.2.3.4:3260", "attributes": {}}]), errors.BadValue,
     "only iSCSI"),
    ("tag iscsi", put(TPG, "tag", 65536), errors.BadValue, "65535"),
    ("tag vhost", put(at("state", "targets", 1, "tpgs", 0), "tag", 256), errors.BadValue, "255"),
    ("tag negative", put(TPG, "tag", -1), errors.BadValue, "-1"),
    ("LUN text", put(at("state", "targets", 0, "tpgs", 0, "luns", 0), "number", "0x10"),
     errors.BadStructure, "a string"),
    ("LUN fraction", put(at("state", "targets", 0, "tpgs", 0, "luns", 0), "number", True),
     errors.BadStructure, "true or false"),
    ("LUN range", put(at("state", "targets", 0, "tpgs", 0, "luns", 0), "number", 2**64),
     errors.BadValue, "luns[0]"),
    ("LUN nowhere", put(at("state", "targets", 0, "tpgs", 0, "luns", 0), "backstore", "fileio/x"),
     errors.BadStructure, "fileio/x"),
    ("mapped nowhere", put(at("state", "targets", 0, "tpgs", 0, "acls", 0, "mapped_luns", 0),
                           "lun", 9), errors.BadStructure, "is 9"),
    ("mapped unlinked", put(at("state", "targets", 0, "tpgs", 0, "luns"), 0,
                            {"number": 0, "backstore": None, "attributes": {}}),
     errors.BadValue, "no backstore"),
    ("two LUNs", twice("state", "targets", 0, "tpgs", 0, "luns"), errors.Duplicate, "LUN 0"),
    ("two ACLs", twice("state", "targets", 0, "tpgs", 0, "acls"), errors.Duplicate, "ACL"),
    ("two mapped", twice("state", "targets", 0, "tpgs", 0, "acls", 0, "mapped_luns"),
     errors.Duplicate, "mapped LUN 0"),
    ("two portals", twice("state", "targets", 0, "tpgs", 0, "portals"), errors.Duplicate,
     "portal"),
    ("one address", second_address, errors.Duplicate, "portal"),
    ("one address in two TPGs", second_tpg, errors.Duplicate, "portal"),
    ("two TPGs", twice("state", "targets", 1, "tpgs"), errors.Duplicate, "TPG 1"),
    ("two targets", twice("state", "targets"), errors.Duplicate, "target"),
    ("two backstores", twice("state", "backstores"), errors.Duplicate, "backstore"),
    ("two alua groups", twice("state", "backstores", 0, "alua_groups"), errors.Duplicate,
     "alua_groups[2]"),
    ("one alua id", attribute(at("state", "backstores", 0, "alua_groups", 1), "tg_pt_gp_id", "2"),
     errors.Duplicate, "id 2"),
    ("two lu groups", twice("state", "lu_groups"), errors.Duplicate, "g1"),
    ("two registrations", twice("state", "backstores", 0, "reservations", "registrations"),
     errors.Duplicate, "nexus"),
    ("lu group blank", attribute(STORE, "alua_lu_gp", " g1 "), errors.BadValue, "no LU group"),
    ("lu group none", attribute(STORE, "alua_lu_gp", "none"), errors.BadValue, "no LU group"),
    ("lu group nowhere", attribute(STORE, "alua_lu_gp", "g9"), errors.BadValue, "g9"),
    ("alua group nowhere", attribute(at("state", "targets", 0, "tpgs", 0, "luns", 0),
                                     "alua_tg_pt_gp", "g9"), errors.BadValue, "g9"),
    *((f"state {value}", attribute(at("state", "backstores", 0, "alua_groups", 0),
                                   "alua_access_state", value), errors.BadValue,
       "not 0, 1, 2, 3, 4, 15") for value in ("-1", *map(str, range(5, 15)), "16", "0x1", "01")),
    ("rest_reord", attribute(STORE, "attrib/emulate_rest_reord", "1"), errors.BadValue, "not 0"),
    ("pi_prot_format", attribute(STORE, "attrib/pi_prot_format", "1"), errors.BadValue,
     "never carried"),
    ("host attribute", attribute(STORE, "attrib/hw_block_size", "512"), errors.BadValue,
     "never carried"),
    ("deed", attribute(STORE, "pr/res_aptpl_metadata", "x"), errors.BadValue, "carry"),
    ("deed control", attribute(STORE, "control", "fd_dev_name=/etc/shadow"), errors.BadValue,
     "carry"),
    ("attribute ..", attribute(STORE, "attrib/../control", "x"), errors.BadName, "path"),
    ("attribute up", attribute(STORE, "../x", "x"), errors.BadName, ".."),
    ("attribute deep", attribute(STORE, "a/b/c", "x"), errors.BadName, "path"),
    ("attribute newline", attribute(STORE, "attrib/a\nb", "x"), errors.BadName, "newline"),
    ("attribute root", attribute(STORE, "/etc/x", "x"), errors.BadName, "path"),
    ("value long", attribute(TPG, "param/TargetAlias", "x" * 4095), errors.BadValue, "4095"),
    ("value long, bare", attribute(ACL, "auth/userid", "x" * 256), errors.BadValue, "256"),
    ("value long, unknown", attribute(STORE, "attrib/new", "x" * 4095), errors.BadValue, "4095"),
    ("value newline", attribute(TPG, "param/TargetAlias", "a\nb"), errors.BadValue, "newline"),
    ("value NUL", attribute(TPG, "param/TargetAlias", "a\0b"), errors.BadValue, "NUL"),
    ("value surrogate", attribute(TPG, "param/TargetAlias", "\ud800"), errors.BadValue, "UTF-8"),
    ("value NUL, unknown", attribute(STORE, "attrib/new", "\0"), errors.BadValue, "NUL"),
    ("secret NUL", attribute(ACL, "auth/password", "hush\0"), errors.BadValue, "auth/password"),
    ("hex value", attribute(STORE, "attrib/queue_depth", "0x10"), errors.BadValue, "0x10"),
    ("range", attribute(STORE, "attrib/queue_depth", "0"), errors.BadValue, "1 to"),
    ("range 2", attribute(STORE, "attrib/emulate_tpu", "2"), errors.BadValue, "0 to 1"),
    ("choice", attribute(STORE, "attrib/block_size", "513"), errors.BadValue, "4096"),
    ("rtpi", attribute(TPG, "rtpi", "65536"), errors.BadValue, "65535"),
    ("vendor long", attribute(STORE, "wwn/vendor_id", "LIO-ORG.."), errors.BadValue, "8"),
    ("vendor", attribute(STORE, "wwn/vendor_id", "\u00e9"), errors.BadValue, "ASCII"),
    ("company", attribute(STORE, "wwn/company_id", "0x1001405"), errors.BadValue, "six"),
    ("parameter unknown", parameter("fd_dev_id", "1"), errors.BadStructure, "fd_dev_id"),
    ("parameter missing", lambda tree: STORE(tree)["parameters"].pop("fd_dev_name"),
     errors.BadStructure, "fd_dev_name is missing"),
    ("control comma", parameter("fd_dev_name", "/srv/a,fd_dev_size=1"), errors.BadValue, "comma"),
    ("control newline", parameter("fd_dev_name", "/srv/a\nb"), errors.BadValue, "control char"),
    ("file relative", parameter("fd_dev_name", "srv/a"), errors.BadValue, "full path"),
    ("file ..", parameter("fd_dev_name", "/srv/../etc/shadow"), errors.BadName, ".."),
    ("file long", parameter("fd_dev_name", "/" + "x" * 255), errors.BadValue, "255"),
    ("buffered", parameter("fd_buffered_io", "0"), errors.BadValue, "not 1"),
    ("async", parameter("fd_async_io", "0"), errors.BadValue, "not 1"),
    ("size", parameter("fd_dev_size", "1M"), errors.BadValue, "bytes"),
    ("size hex", parameter("fd_dev_size", "0x1000"), errors.BadValue, "bytes"),
    ("size negative", parameter("fd_dev_size", "-1"), errors.BadValue, "bytes"),
    ("key 0", registration("key", "0x" + "0" * 16), errors.BadValue, "key"),
    ("key number", registration("key", 5), errors.BadStructure, "key"),
    ("key long", registration("key", "0x" + "1" * 17), errors.BadValue, "key"),
    ("isid", registration("isid", "00023D000000"), errors.BadValue, "isid"),
    ("isid 0x", registration("isid", "0x00023d0000"), errors.BadValue, "isid"),
    ("registrant", registration("initiator", "iqn.x,sa_res_key=1"), errors.BadName, "comma"),
    ("pr target", registration("target", "iqn.x\n"), errors.BadName, "newline"),
    ("pr fabric", registration("fabric", "iscsi"), errors.BadValue, "iSCSI"),
    ("pr tpgt", registration("tpgt", 65536), errors.BadValue, "tpgt"),
    ("pr lun", registration("lun", -1), errors.BadValue, "lun"),
    ("pr all", registration("all_tg_pt", 1), errors.BadStructure, "all_tg_pt"),
    ("type 2", put(HELD, "type", 2), errors.BadValue, "type"),
    ("type 9", put(HELD, "type", 9), errors.BadValue, "type"),
    ("holder", put(HELD, "holder", 2), errors.BadValue, "holder"),
    ("no holder", put(HELD, "holder", None), errors.BadValue, "no holder"),
    ("holder of nothing", put(HELD, "type", 0), errors.BadValue, "no reservation"),
    ("generation", put(HELD, "generation", 2**32), errors.BadValue, "generation"),
    ("evidence of nothing", put(at("storage"), "fileio/x", {}), errors.BadStructure, "fileio/x"),
    ("evidence", put(at("storage", "fileio/disk0"), "size", None), errors.BadStructure, "size"),
    ("host of nothing", put(at("host"), "fileio/x", {}), errors.BadStructure, "fileio/x"),
]


@pytest.mark.parametrize("what, change, error, word", ROWS, ids=[row[0] for row in ROWS])
def test_bad_input(what: str, change: Change, error: Type[errors.DocumentError],
                   word: str) -> None:
    made = tree()
    change(made)
    with pytest.raises(error) as caught:
        loads(encode(made))
    assert type(caught.value) is error
    assert word in str(caught.value)
    line = str(caught.value)
    assert "\n" not in line and "hush" not in line and samples.SECRET not in line
    assert errors.NOTHING_CHANGED in line and "next: " in line


@pytest.mark.parametrize("data, error, word", [
    (b"", errors.Truncated, "empty"),
    (b"\n", errors.Truncated, "empty"),
    (b"hello", errors.NotJson, "not JSON"),
    (b"\x7fELF\0\0", errors.NotJson, "not JSON"),
    (b"\xff\xfe{", errors.NotJson, "UTF-8"),
    (b"{} {}", errors.NotJson, "Extra data"),
    (b"[]", errors.BadStructure, "a list"),
    (b"{}", errors.BadStructure, "$.version is missing"),
    (b'{"version": 1}', errors.BadStructure, "$.digest is missing"),
    (b'{"version": 1, "digest": "00"}', errors.BadDigest, "digest"),
    (b'{"version": 99}', errors.WrongVersion, "99"),
    (b'{"a": {"b": 1, "b": 2}}', errors.Duplicate, "'b'"),
    (b'{"lun": 0x10, "number": 16, "more": []}', errors.NotJson, "decimal"),
    (b'{"lun": 010, "number": 16, "more": []}', errors.NotJson, "decimal"),
    (b'{"lun": NaN}', errors.NotJson, "NaN"),
    (b'{"version": ' + b"1" * 5000 + b"}", errors.BadValue, "5000 digits"),
    (b'{"version": 1.0}', errors.BadStructure, "fraction"),
    (b"[" * 100000, errors.TooDeep, "deep"),
    (b'{"a":' * 100000, errors.TooDeep, "deep"),
    (b'{"\\\\\\"": ' + b"[" * 100 + b"]" * 100 + b"}", errors.TooDeep, "deep"),
    (b'{"' + b"[" * 100 + b'": 1}', errors.BadStructure, "version"),
], ids=repr)
def test_what_is_no_document(data: bytes, error: Type[errors.DocumentError], word: str) -> None:
    with pytest.raises(error) as caught:
        loads(data)
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_too_large() -> None:
    with pytest.raises(errors.TooLarge, match="more than 10"):
        loads(SMALL, limit=10)
    with pytest.raises(errors.TooLarge):
        loads(b" " * (document.MAX_BYTES + 1))


def test_a_reformatted_document_is_refused() -> None:
    with pytest.raises(errors.BadDigest):
        loads(json.dumps(json.loads(SMALL)).encode() + b"\n")

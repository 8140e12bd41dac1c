"""Changes of what a host serves, without a kernel: State → State, the file, bad input."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.kernel.facts import Facts
from lio_handover.manage import as_file, changes, nouns, schema, tree_file, wishes
from lio_handover.manage.changes import Request
from lio_handover.model.diff import diff
from lio_handover.model.objects import Backstore, Secret, State, Tpg
from lio_handover.plan.planner import plan
from tests.support.commandline import CHECKOUT

IQN, ME = "iqn.2026-11.org.example:made", "iqn.1994-05.org.example:me"
T = f"/iscsi/{IQN}"


class Nowhere:
    """A host of which nothing is known but what a test says."""

    def __init__(self, there: Mapping[str, tuple[str, int]] = {}) -> None:  # noqa: B006
        self.there, self.number = there, 0

    def storage(self, path: str) -> tuple[str, int] | None:
        return self.there.get(path)

    def is_readonly(self, path: str) -> bool:
        return path.endswith("-ro")

    def scsi_address(self, path: str) -> Mapping[str, str]:
        return {"scsi_host_id": "1", "scsi_channel_id": "0", "scsi_target_id": "2",
                "scsi_lun_id": "3"} if path == "/dev/sda" else {}

    def default_portal(self) -> str:
        return nouns.PORTAL

    def new_serial(self) -> str:
        self.number += 1
        return f"serial-{self.number}"

    def new_wwn(self, fabric: str) -> str:
        self.number += 1
        return f"iqn.2026-11.org.example:new{self.number}" if fabric == "iscsi" \
            else f"naa.500140500000{self.number:04}"


HERE = Nowhere({"/srv/there.img": ("file", 1 << 20), "/dev/sda": ("block", 1 << 30)})


def do(state: State, verb: str, path: str, *words: str, **values: str) -> State:
    return changes.apply(state, Request(verb, path, words, values), HERE).state


def built() -> State:
    """A backstore, a target with a LUN and an ACL."""
    state = do(State(), "create", "/backstores/fileio", "disk0", "/srv/there.img")
    state = do(state, "create", "/iscsi", IQN)
    state = do(state, "create", f"{T}/tpg1/luns", "fileio/disk0")
    state = do(state, "create", f"{T}/tpg1/acls", ME)
    return do(state, "create", "/vhost", "naa.5001405000000001")


def tpg(state: State) -> Tpg:
    return state.targets[0].tpgs[0]


# ---- what is made --------------------------------------------------------------------------------
def test_a_new_target_is_as_targetcli_makes_it() -> None:
    state = built()
    iscsi, vhost = state.targets
    assert tpg(state).attributes == {"attrib/authentication": "0", "enable": "1"}
    assert [portal.address for portal in tpg(state).portals] == ["[::0]:3260"]
    assert vhost.tpgs[0].attributes["nexus"].startswith("naa.")
    assert tpg(state).acls[0].mapped_luns[0].lun == 0


@pytest.mark.parametrize("path, words, said", [
    ("/backstores/fileio", ("n", "/srv/there.img"), {
        "fd_dev_name": "/srv/there.img", "fd_dev_size": "1048576", "fd_buffered_io": "1"}),
    ("/backstores/block", ("n", "/dev/sda"), {"udev_path": "/dev/sda"}),
    ("/backstores/block", ("n", "/dev/sda-ro"), {"udev_path": "/dev/sda-ro", "readonly": "1"}),
    ("/backstores/iblock", ("n", "/dev/sda"), {"udev_path": "/dev/sda"}),
    ("/backstores/pscsi", ("n", "/dev/sda"), {
        "scsi_host_id": "1", "scsi_channel_id": "0", "scsi_target_id": "2", "scsi_lun_id": "3"}),
    ("/backstores/ramdisk", ("n", "1M"), {"rd_pages": "256"}),
    ("/backstores/user:rbd", ("n", "1M", "pool/image"), {
        "dev_config": "rbd/pool/image", "dev_size": "1048576"})])
def test_a_backstore_of_each_plugin(path: str, words: tuple[str, ...],
                                    said: dict[str, str]) -> None:
    store, = do(State(), "create", path, *words).backstores
    assert store.parameters == said
    assert bool(store.serial) == (store.plugin != "pscsi")


def test_a_vhost_target_is_planned_whole() -> None:
    """No host of the quick tests has vhost-scsi: the nexus is there before a LUN is linked, and
    goes when none is any more."""
    state = do(State(), "create", "/backstores/block", "d", "/dev/sda")
    state = do(state, "create", "/vhost", "naa.5001405000000001")
    state = do(state, "create", "/vhost/naa.5001405000000001/tpg1/luns", "block/d")
    facts = Facts(placed={})
    steps = [str(step) for step in plan(State(), state, facts, partial=True, live=True).steps]
    tpg = "vhost/naa.5001405000000001/tpgt_1"
    nexus = state.targets[0].tpgs[0].attributes["nexus"]
    order = [steps.index(step) for step in (
        f"mkdir {tpg}", f"write {tpg}/nexus = {nexus}", f"mkdir {tpg}/lun/lun_0",
        f"link {tpg}/lun/lun_0/link → core/iblock_0/d")]
    assert order[0] < min(order[1:]) and order[2] < order[3]
    gone = do(do(state, "delete", "/vhost", "naa.5001405000000001"), "delete", "/backstores/block",
              "d")
    there = Facts(hbas=("iblock_0",), fabrics=("vhost",),
                  placed={("backstore", "iblock", "d"): "iblock_0"})
    steps = [str(step) for step in plan(state, gone, there, partial=True, live=True).steps]
    assert steps.index(f"unlink {tpg}/lun/lun_0/") < steps.index(f"write {tpg}/nexus = NULL") \
        < steps.index(f"rmdir {tpg}") < steps.index("rmdir core/iblock_0/d")


def test_a_file_that_is_not_there_is_to_be_made() -> None:
    changed = changes.apply(State(), Request("create", "/backstores/fileio", (
        "d", "/srv/new.img", "10G"), {"sparse": "false"}), HERE)
    assert changed.allocate == {("backstore", "fileio", "d"): False}
    assert changed.state.backstores[0].parameters["fd_dev_size"] == str(10 << 30)


def test_luns_and_mapped_luns_take_the_lowest_free_numbers() -> None:
    state = do(built(), "create", f"{T}/tpg1/luns", "fileio/disk0", "7")
    state = do(state, "create", f"{T}/tpg1/luns", "fileio/disk0")
    assert [lun.number for lun in tpg(state).luns] == [0, 1, 7]
    assert [mapped.number for mapped in tpg(state).acls[0].mapped_luns] == [0, 1, 7]
    state = do(state, "create", f"{T}/tpg1/luns", "fileio/disk0", add_mapped_luns="false")
    assert len(tpg(state).acls[0].mapped_luns) == 3


def test_a_lun_takes_its_mapped_luns_with_it() -> None:
    state = do(built(), "delete", f"{T}/tpg1/luns", "0")
    assert not tpg(state).luns and not tpg(state).acls[0].mapped_luns


def test_authentication_leaves_no_way_around_it() -> None:
    """The kernel takes None out of AuthMethod: the old value is not written again."""
    state = do(built(), "set", f"{T}/tpg1", "parameter", AuthMethod="CHAP,None")
    state = do(state, "set", f"{T}/tpg1", "attribute", authentication="1")
    assert "param/AuthMethod" not in tpg(state).attributes


# ---- documented, shipped -------------------------------------------------------------------------
PAGE = (CHECKOUT / "docs" / "usage" / "managing.md").read_text()


def _told(row: nouns.Parameter) -> str:
    return f"{row.name} ({row.default})" if row.default else row.name


def test_the_page_has_each_noun_and_default() -> None:
    for noun in nouns.NOUNS.values():
        line, = re.findall(rf"(?m)^\| {re.escape(noun.name)} \| {re.escape(noun.path)} \|.*$", PAGE)
        told = ", ".join(map(_told, noun.create)) or (
            "see below" if noun.kind == "backstore" else "")
        assert [cell.strip() for cell in line.split("|")[3:5]] == [told, ", ".join(noun.delete)]
    for plugin, rows in nouns.BACKSTORES.items():
        assert f"| {nouns.targetcli_name(plugin)} | {', '.join(map(_told, rows))} |" in PAGE
    assert nouns.PORTAL in PAGE


def test_the_schema_is_written_for_editors(tmp_path: Path) -> None:
    assert schema.main([str(tmp_path)]) == 0
    assert json.loads((tmp_path / "targets.schema.json").read_text()) == schema.schema()


def test_the_schema_is_one() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema.schema())


def test_the_page_has_a_file_that_is_taken() -> None:
    example, = re.findall(r"(?s)```yaml\n(.*?)```", PAGE)
    tree = tree_file.load(example.encode())
    schema.check(tree)
    state = wishes.wish(State(), tree, HERE, False, lambda path: "secretsecret12").state
    assert {store.name for store in state.backstores} == {"disk0", "sdb"}
    me, you = tpg(state).acls
    assert len(me.mapped_luns) == 2 and you.mapped_luns[0].attributes == {"write_protect": "1"}
    assert isinstance(me.attributes["auth/password"], Secret)
    assert me.attributes["auth/password"].encode() == b"secretsecret12"


# ---- the file ------------------------------------------------------------------------------------
def test_what_is_written_as_a_file_wishes_for_the_same() -> None:
    state = do(built(), "set", f"{T}/tpg1", "parameter", InitialR2T="No", MaxBurstLength="131072")
    state = do(state, "set", f"{T}/tpg1/acls/{ME}", "auth", userid="me",
               password=Secret("secretsecret12"))
    text = as_file.text(as_file.tree(state))
    assert "secretsecret12" not in text
    tree = tree_file.load(text.encode())
    schema.check(tree)
    assert tree == json.loads(json.dumps(as_file.tree(state)))
    once = wishes.wish(state, tree, HERE, True, str).state
    assert once.index().keys() == state.index().keys()
    assert diff(once, wishes.wish(once, tree, HERE, True, str).state, partial=True) == ()


def test_prune_takes_what_the_file_does_not_have() -> None:
    tree: dict[str, Any] = {"targets": {f"iscsi/{IQN}": {"tpg1": {"acls": {}}}}}
    state = wishes.wish(built(), tree, HERE, True, str).state
    assert not state.backstores and len(state.targets) == 1
    assert not tpg(state).luns and not tpg(state).acls
    kept = wishes.wish(built(), tree, HERE, False, str).state
    assert len(kept.targets) == 2 and tpg(kept).luns


def test_a_disk_does_not_shrink() -> None:
    state = built()
    with pytest.raises(errors.CannotChange, match="less"):
        do(state, "set", "/backstores/fileio/disk0", size="1k")
    with pytest.raises(errors.CannotChange, match="less"):
        wishes.wish(state, {"backstores": {"fileio/disk0": {
            "file_or_dev": "/srv/there.img", "size": "1k"}}}, HERE, False, str)


@pytest.mark.parametrize("text", [
    "a: &x 1\nb: *x", "a: !!python/none x", "a: 1\na: 2", "--- \na: 1\n---\nb: 2", "{[: 1}",
    "a: " + "[" * 30 + "]" * 30, '{"a": 1, "a": 2}', '{"a": 1.5}', '{"a": NaN}', "\0", "[" * 5000,
    '{"a": ' + "9" * 5000 + "}", "? [a]\n: b", "a: 'x"])
def test_a_hostile_file_is_refused_in_one_line(text: str) -> None:
    with pytest.raises((errors.DocumentError, errors.BadStructure)) as raised:
        tree_file.load(text.encode())
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 2000


@pytest.mark.parametrize("tree, said", [
    ({"targets": {"iscsi/x": {}}}, "not known"), ({"backstores": {"fileio/d": {}}}, "missing"),
    ({"targets": {f"iscsi/{IQN}": {"tpg1": {"attributes": {"login_timeout": 1}}}}}, "minimum"),
    ({"targets": {f"iscsi/{IQN}": {"tpg1": {"auth": {"password": "tops3cret"}}}}}, "file: PATH"),
    ({"version": 2}, "is not one of 1"), ([], "not of type object"), ({"x": 1}, "not known")])
def test_a_file_that_does_not_fit_says_where(tree: object, said: str) -> None:
    with pytest.raises(errors.BadStructure, match=re.escape(said)) as raised:
        schema.check(tree)
    assert "tops3cret" not in str(raised.value)


# ---- bad input -----------------------------------------------------------------------------------
HOSTILE = ("", "../x", "a/b", "a\0b", "a\nb", "x" * 4096, " a", ".", "\udcff", "-1", "NULL", "é")
#: A complete call of each verb and object: path, words by name.
CALLS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("create", "/backstores/fileio", {"name": "n", "file_or_dev": "/srv/x.img", "size": "1M"}),
    ("create", "/backstores/block", {"name": "n", "dev": "/dev/sda"}),
    ("create", "/backstores/pscsi", {"name": "n", "dev": "/dev/sda"}),
    ("create", "/backstores/ramdisk", {"name": "n", "size": "1M"}),
    ("create", "/backstores/user", {"name": "n", "size": "1M", "cfgstring": "rbd/x"}),
    ("create", "/backstores/fileio/disk0/alua", {"name": "g", "tag": "5"}),
    ("create", "/backstores/lu_groups", {"name": "g"}),
    ("create", f"{T}/tpg1/luns", {"storage_object": "fileio/disk0"}),
    ("create", f"{T}/tpg1/acls", {"wwn": "iqn.1994-05.org.example:you"}),
    ("create", f"{T}/tpg1/acls/{ME}", {"mapped_lun": "3", "tpg_lun_or_backstore": "0"}),
    ("delete", "/backstores/fileio", {"name": "disk0"}), ("delete", "/iscsi", {"wwn": IQN}),
    ("delete", T, {"tag": "1"}), ("delete", f"{T}/tpg1/luns", {"lun": "0"}),
    ("delete", f"{T}/tpg1/portals", {"ip_address": "::0", "ip_port": "3260"}),
    ("delete", f"{T}/tpg1/acls", {"wwn": ME}), ("delete", f"{T}/tpg1/acls/{ME}", {
        "mapped_lun": "0"}))


def refused(verb: str, path: str, *words: str, **values: str) -> str:
    with pytest.raises(errors.HandoverError) as raised:
        do(built(), verb, path, *words, **values)
    line = str(raised.value)
    assert "\n" not in line and "\0" not in line and len(line) <= 2000
    assert raised.value.changed == errors.NOTHING_CHANGED and raised.value.next
    return line


@pytest.mark.parametrize("verb, path, values", CALLS, ids=lambda value: str(value)[:40])
def test_each_argument_missing_doubled_unknown_or_hostile(
        verb: str, path: str, values: dict[str, str]) -> None:
    do(built(), verb, path, **values)
    for name in values:
        rest = {other: value for other, value in values.items() if other != name}
        refused(verb, path, **rest)
        refused(verb, path, *values.values(), **{name: values[name]})
        for word in HOSTILE:
            if name == "cfgstring" and word in ("../x", "a/b", " a", ".", "-1", "NULL", "é") \
                    or word in ("é", "NULL", "-1") and name in ("name", "wwn"):
                continue  # which the kernel, or a policy, judges
            refused(verb, path, **{**rest, name: word})
    assert "no parameter" in refused(verb, path, **values, unheard="1")
    refused(verb, path, *values.values(), *["x"] * 9)


@pytest.mark.parametrize("path", [
    "", "/", "/nothing", "/backstores", "/backstores/nothing", "/iscsi/naa.5001405000000001",
    "/iscsi/iqn.x/tpgx", f"{T}/tpg1/things", f"{T}/tpg70000", f"{T}/tpg1/luns/lun0/x",
    f"{T}/tpg1/nexus", "/vhost/naa.5001405000000001/tpg1/portals", "x" * 5000, "/iscsi/iqn.\n/tpg1",
    "/iscsi/../iscsi", f"{T}/tpg1/luns/lun-1", f"{T}/tpg1/acls/a b"])
def test_a_path_that_is_no_node(path: str) -> None:
    for verb in ("create", "set", "delete"):
        refused(verb, path, "x", **({"a": "1"} if verb == "set" else {}))


@pytest.mark.parametrize("path, values", [
    (f"{T}/tpg1", {"login_timeout": "999"}), (f"{T}/tpg1", {"login_timeout": "x"}),
    (f"{T}/tpg1", {"unheard": "1"}), (f"{T}/tpg1", {"rtpi": "70000"}),
    (f"{T}/tpg1", {"enable": "2"}),
    (f"{T}/tpg1", {"userid": "a\nb"}), (f"{T}/tpg1", {"userid": "x" * 4096}), (f"{T}/tpg1", {}),
    (f"{T}/tpg1/acls/{ME}", {"cmdsn_depth": "9999"}), ("/backstores/fileio/disk0", {"size": "0"}),
    ("/backstores/fileio/disk0", {"size": "10X"}), ("/backstores/fileio/disk0", {"lu_group": "no"}),
    ("/backstores/fileio/disk0", {"vendor_id": "longer than eight"}),
    (f"{T}/tpg1/luns/lun0", {"alua_tg_pt_gp_name": "no"}), (f"{T}/tpg1/luns/lun9", {"a": "1"}),
    (T, {"a": "1"}), ("/iscsi", {"enable": "maybe"})])
def test_a_value_out_of_range_is_refused(path: str, values: dict[str, str]) -> None:
    refused("set", path, **values)


def test_a_secret_is_in_no_refusal() -> None:
    line = refused("set", f"{T}/tpg1", "auth", password=Secret("tops3cret" * 100))
    assert "tops3cret" not in line
    state = do(built(), "set", f"{T}/tpg1", "auth", password=Secret("tops3cret"))
    assert "tops3cret" not in repr(tpg(state))
    assert tpg(state).attributes["auth/password"].encode() == b"tops3cret"
    assert isinstance(state.backstores[0], Backstore)

"""A fact stands in one row: who needs it derives it, so a new attribute, fabric or plugin is a row.

The rows are added to a copy of the program, one line in one file each, as somebody would.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lio_handover.model.attributes import TABLE, kinds, rows
from lio_handover.model.fabrics import FABRICS
from lio_handover.model.plugins import PLUGINS
from lio_handover.plan.order import PLACE
from lio_handover.savefile import rtslib_entries, rtslib_names
from tests.support.layers import CHECKOUT, PACKAGE

#: Module → (what stands there, what is put before it).
ROWS = {
    "model/attributes.py": ("    # ---- LU and target port groups", '''\
    yield from attrib(CONFIG, "made_up=5", UNEXPORTED, rank=4, range=(1, 9), guards=(ENABLED_ONLY,),
                      overwrites=("attrib/emulate_caw",), slot="LU group member")
    yield Attribute(f"acl:{fabrics.named(logins=True)}", "attrib/made_up_erl", SECRET, GATE_SHUT,
                    BARE, default="0", max_bytes=3, inherits="attrib/default_erl")
'''),
    "model/fabrics.py": ("    Fabric(\"loopback\"", '''\
    Fabric("made", "MADE", "made_up_mod", ("wwn.",), 7, Gate.ENABLE, portals=True, logins=True),
'''),
    "model/plugins.py": ("    Plugin(\"rd_mcp\"", '''\
    Plugin("made", "made_up_core", "made", Opens.FILE, ("parameters", "made_path"),
           parameters=_parameters(Parameter("made_path", path=20), _number("made_count", True)),
           info=re.compile(r"MADE: (?P<made_path>\\S+) (?P<made_count>\\d+)"), product="MADE",
           listed=True),
'''),
}

_BEGIN = '''
from dataclasses import replace
from lio_handover.errors import HandoverError
from lio_handover.document import document as documents
from lio_handover.document.values import attributes_of, parameters_of
from lio_handover.kernel.configfs import Configfs
from lio_handover.kernel.facts import Facts
from lio_handover.model import attributes, defaults, diff, fabrics, keys, objects, plugins
from lio_handover.plan.order import PLACE
from lio_handover.plan.planner import plan
from lio_handover.storage import protection
from tests.support import samples

NOTHING = objects.State()
FACTS = Facts("6.12", "x", "/etc/target", (), ("iscsi",), True, {})

def refused(judge, *given):
    try:
        return f"takes {judge(*given)}"
    except HandoverError as error:
        return error.what

def steps(have, want):
    made = plan(have, want, FACTS)
    assert not made.refused, made.refused
    return [(step.slot, str(step)) for step in made.steps]

fs = Configfs("/nonexistent")
'''

ATTRIBUTE = '''
# The reader looks for it, and a document may carry it.
assert "attrib/made_up" in attributes.rows("backstore", "fileio")
assert attributes_of({"attrib/made_up": "9"}, "here", "backstore", "fileio")
assert refused(attributes_of, {"attrib/made_up": "10"}, "here", "backstore", "fileio") \\
    == "here['attrib/made_up'] is '10', not 1 to 9"
assert refused(attributes_of, {"attrib/made_up_erl": "long"}, "here", "acl", "iscsi") \\
    == "here['attrib/made_up_erl'] has 4 bytes, more than 3"
# The writer takes its values, and looks at its guards.
fs.enabled.add("core/fileio_0/disk")
assert fs.refusal("core/fileio_0/disk/attrib/made_up", b"5\\n") is None
assert fs.refusal("core/fileio_0/disk/attrib/made_up", b"word\\n")
fs.enabled.clear()
fs.read = lambda path: "0"
assert fs.refusal("core/fileio_0/disk/attrib/made_up", b"5\\n") \\
    == "it is written on an enabled backstore only"
assert fs.refusal("x/attrib/made_up_erl", b"0") is None
# A new object has its default, and the planner writes what differs in its slot.
assert defaults.store_values(samples.backstore())["attrib/made_up"] == "5"
state = samples.iscsi()
tpg = state.targets[0].tpgs[0]
assert "attrib/made_up_erl" in defaults.values(tpg.key, "acl", tpg)
other = replace(tpg, attributes={**tpg.attributes, "attrib/default_erl": "2"})
assert "attrib/made_up_erl" not in defaults.values(tpg.key, "acl", other)

def with_it(value, caw="1"):
    store = state.backstores[0]
    return replace(state, backstores=(replace(store, attributes={
        **store.attributes, "attrib/made_up": value, "attrib/emulate_caw": caw}),))

plain = steps(NOTHING, state)
assert steps(NOTHING, with_it("5")) == plain
more = [step for step in steps(NOTHING, with_it("6")) if step not in plain]
assert more == [
    ("backstore attribute", "write core/fileio_0/disk0/attrib/emulate_caw = 1"),
    ("LU group member", "write core/fileio_0/disk0/attrib/made_up = 6")], more
# A difference is known, and is not made while a LUN exports the backstore.
change, = diff.diff(with_it("5"), with_it("6"))
assert (change.name, change.known) == ("attrib/made_up", True)
assert plan(with_it("5"), with_it("6"), FACTS).refused
'''

FABRIC = '''
def target(wwn, tag=1):
    key = keys.target_key("made", wwn)
    tpg = keys.tpg_key(key, tag)
    return objects.State(targets=(objects.Target(key, {}, (objects.Tpg(
        tpg, {"enable": "1", "attrib/login_timeout": "20"},
        portals=(objects.Portal(keys.portal_key(tpg, "192.0.2.1:3260"), {}),)),)),))

def document(state):
    return documents.loads(documents.dumps(samples.document(state))).state

assert document(target("wwn.1")) == target("wwn.1")
assert "does not begin with wwn." in refused(document, target("iqn.1"))
assert refused(document, target("wwn.1", 8)) \\
    == "$.state.targets[0].tpgs[0].tag is 8, not 0 to 7"
made = steps(NOTHING, target("wwn.1"))
assert made[0] == ("module", "load made_up_mod"), made
assert ("fabric", "mkdir made") in made
assert made[-1] == ("gate", "write made/wwn.1/tpgt_1/enable = 1"), made
assert ("TPG attribute", "write made/wwn.1/tpgt_1/attrib/login_timeout = 20") in made
from lio_handover.document.runtime_state import with_gates_closed
assert ("shut gate", "write made/wwn.1/tpgt_1/enable = 0") in steps(
    target("wwn.1"), with_gates_closed(target("wwn.1")))
from lio_handover.host import preflight
assert [*preflight._unsupported_backstores(target("wwn.1"))] == []
assert fabrics.of_pr_name("MADE").name == "made"
from lio_handover.local import tree_watches
assert "/x/made" in tree_watches.roots("/x")
'''

PLUGIN = '''
good = {"made_path": "/srv/a", "made_count": "3"}
assert parameters_of(good, "here", "made") == good
assert refused(parameters_of, {"made_path": "/srv/a"}, "here", "made") \\
    == "here.made_count is missing"
assert "is longer than 20 bytes" in refused(
    parameters_of, {**good, "made_path": "/" + "a" * 20}, "here", "made")
assert plugins.parse("made", "MADE: /srv/a 3") == good
assert fs.refusal("core/made_0/disk/control", b"made_path=/srv/a,made_count=3\\n") is None
assert fs.refusal("core/made_0/disk/control", b"fd_dev_name=/srv/a\\n")
assert fs.refusal("core/made_0/disk/control", b"made_count=x\\n")
store = objects.Backstore(keys.backstore_key("made", "disk0"), good, {
    "wwn/product_id": "MADE", "attrib/emulate_caw": "1", "attrib/emulate_rsoc": "1",
    "attrib/emulate_tpu": "1"})
assert store.path == "/srv/a" and protection.files(store) == ("/srv/a",)
state = objects.State(backstores=(store,))
assert documents.loads(documents.dumps(samples.document(state))).state.backstores == (store,)
made = steps(NOTHING, state)
assert made[0] == ("module", "load made_up_core"), made
writes = [text for _slot, text in made if text.startswith("write")]
assert writes == ["write core/made_0/disk0/control = made_path=/srv/a,made_count=3",
                  "write core/made_0/disk0/enable = 1",
                  "write core/made_0/disk0/attrib/emulate_tpu = 1"], writes
'''


@pytest.mark.parametrize("module, asks", [
    ("model/attributes.py", ATTRIBUTE), ("model/fabrics.py", FABRIC),
    ("model/plugins.py", PLUGIN)], ids=["attribute", "fabric", "plugin"])
def test_a_row_is_all_that_a_new_one_needs(tmp_path: Path, module: str, asks: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "lio_handover",
                    ignore=shutil.ignore_patterns("__pycache__"))
    path, (mark, lines) = tmp_path / "lio_handover" / module, ROWS[module]
    before, found, after = path.read_text().partition(mark)
    assert found
    path.write_text(before + lines + found + after)
    done = subprocess.run([sys.executable, "-c", _BEGIN + asks], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH":
                                             f"{tmp_path}{os.pathsep}{CHECKOUT}"})
    assert done.returncode == 0, done.stderr


def test_targetclis_save_file_has_words_for_each_plugin_and_fabric() -> None:
    assert set(rtslib_entries.BACKING) == {*PLUGINS}
    assert {row.folder for row in rtslib_names.FABRICS.values()} >= {*FABRICS}


def test_attributes_are_written_in_slots_of_the_order() -> None:
    assert {row.slot for row in TABLE} <= {*PLACE}
    assert {row.path for row in TABLE if row.slot == "ALUA state"} > {"alua_access_state"}


def test_what_a_row_says_of_others_is_there() -> None:
    """What it overwrites, and inherits, are rows of the same object and of its TPG."""
    for kind, owner in kinds():
        table = rows(kind, owner)
        for row in table.values():
            assert {*row.overwrites, *(path for path, _value in (row.first or {}).values())} \
                <= {*table}, row
            default = row.default_of(owner)
            if default and row.numeric:
                assert row.range[0] <= int(default) <= row.range[1], row
            assert not row.allowed or default in (None, *row.allowed), row
    assert {row.inherits for row in rows("acl", "iscsi").values()} - {""} <= {*rows("tpg", "iscsi")}

"""What people are shown of a host, a difference and a plan."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.model import diff, objects
from lio_handover.model.objects import State
from lio_handover.views import diff_columns, json_view, phrases, plan_steps, tree
from lio_handover.views.terminal import Terminal
from tests.support import samples
from tests.support.commandline import (FINDINGS, NAME, STATE, ready, terminal, view, with_acl,
                                       with_tpg)


def test_the_tree_tells_what_an_engineer_asks() -> None:
    sessions = with_tpg(sessions=(samples.initiator(0), "iqn.dynamic:x"))
    lines = list(tree.tree(view(sessions, off=frozenset({STATE.backstores[1].key})),
                           Terminal()))
    text = "\n".join(lines)
    for words in (
            "o- a.example .", "[kernel 6.1.0]", "[/srv/disk0.img, 64 MiB, write-thru, 1 LUN]",
            "[Write Exclusive, Registrants Only (type 5), generation 5, no APTPL]",
            "[key 0x000000000000abc0, isid 00023d000000, tpg1 lun0, HOLDER]",
            "[/srv/disk1.img, 64 MiB, write-thru, NOT ENABLED, 1 LUN]",
            "[enabled, relative port 1, no authentication]", "o- [2001:db8::1]:3260",
            f"o- {samples.initiator(0)} ................... [logged in, CHAP]",
            f"o- {samples.initiator(1)} ............... [not logged in, CHAP]",
            "[logged in, by a dynamic ACL]", "o- mapped_lun0…5 .", "ALUA group fast",
            "[nexus naa.5001405000000001]", "serial 000001db-0000-4000-8000-000000000000"):
        assert words in text, words
    assert text.count("HOLDER") == 1
    assert "\x1b" not in text
    frozen = "\n".join(tree.tree(view(frozen=(NAME,)), Terminal()))
    assert f"o- {NAME} ............. [FROZEN by lio-handover]" in frozen
    missing = "\n".join(tree.tree(replace(view(), sizes={}), Terminal()))
    assert "[/srv/disk0.img IS NOT THERE, write-thru, 1 LUN]" in missing
    unclear = "\n".join(tree.tree(view(unclear="two could be meant"), Terminal()))
    assert "reservations" in unclear and "[can't be told]" in unclear
    assert "HOLDER" not in unclear


@pytest.mark.parametrize("kind, holders", [(0, 0), (5, 1), (7, 2), (8, 2)])
def test_who_holds_is_marked(kind: int, holders: int) -> None:
    held = samples.registrations(2, kind=kind, holder=0 if kind in (5, 7, 8) else None)
    state = replace(STATE, backstores=(
        replace(STATE.backstores[0], reservations=held), *STATE.backstores[1:]))
    text = "\n".join(tree.tree(view(state), Terminal()))
    assert text.count("HOLDER") == holders
    assert ("registered, not reserved" in text) is (kind == 0)


LONG = "/srv/" + "very-long-name/" * 12 + "disk.img"


def everything(terminal: Terminal) -> Iterator[str]:
    """All that is shown of a host, a difference and a plan with long names."""
    store = STATE.backstores[0]
    state = replace(STATE, backstores=(replace(store, parameters={
        **store.parameters, "fd_dev_name": LONG}), *STATE.backstores[1:]))
    yield from tree.tree(view(state), terminal)
    for old in (STATE, State()):
        yield from diff_columns.columns(diff_columns.rows(old, state, diff.diff(old, state)),
                                        "here: a", "document: b", terminal)
    yield from plan_steps.plan(ready(state, FINDINGS), terminal)


@pytest.mark.parametrize("width", [40, 80, 119, 160, 400])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = list(everything(Terminal(width)))
    assert max(map(len, lines)) <= width
    together = "".join("".join(lines).split())
    assert "very-long-name/disk.img"[-8:] in together
    # Colours add nothing that is seen.
    coloured = list(everything(Terminal(width, True)))
    assert [re.sub("\x1b\\[[0-9;]*m", "", line) for line in coloured] == lines
    assert coloured != lines


def test_without_a_terminal_nothing_is_wrapped() -> None:
    lines = list(everything(Terminal()))
    assert any(LONG in line and len(line) > 200 for line in lines)


def test_no_control_character_reaches_the_terminal() -> None:
    bad = "a\x1b[31m\nb\x07\u202e\x9b"
    key = ("backstore", "fileio", bad)
    store = replace(STATE.backstores[0], key=key, parameters={"fd_dev_name": f"/srv/{bad}"},
                    attributes={"wwn/vpd_unit_serial": bad})
    tpg = replace(STATE.targets[0].tpgs[0], sessions=(bad,), luns=(), acls=(
        objects.Acl(("target", "iscsi", samples.IQN, "1", "acl", bad)),))
    state = State((), (store,), (replace(STATE.targets[0], tpgs=(tpg,)),))
    changes = diff.diff(STATE, state)
    shown = [
        *tree.tree(view(state), Terminal(80)),
        *diff_columns.columns(diff_columns.rows(STATE, state, changes), bad, bad, Terminal(80)),
        *diff_columns.columns(diff_columns.rows(STATE, state, changes), bad, bad, Terminal()),
        *plan_steps.plan(replace(ready(), mapped=(("device", bad, bad),), findings=(
            errors.Finding(errors.InUse, bad, bad, bad, bad),)), Terminal(80))]
    assert all(line.isprintable() for line in shown)
    assert sum("\\x1b" in line for line in shown) > 5
    assert errors.one_line(bad) == "a\\x1b[31m\\nb\\x07\\u202e\\x9b"


def rows_of(have: State, want: State) -> list[tuple[str, str, str, str]]:
    return [(row.mark, row.label, row.here, row.there)
            for row in diff_columns.rows(have, want, diff.diff(have, want)) if row.mark]


def test_every_kind_of_difference_is_a_row() -> None:
    first = STATE.backstores[0]
    held = first.reservations
    other = replace(held, type=8, generation=9, aptpl=True, registrations=(
        replace(held.registrations[1], key=0xff), held.registrations[0]))

    def store(**changed: Any) -> State:
        return replace(STATE, backstores=(replace(first, **changed), *STATE.backstores[1:]))

    assert rows_of(STATE, STATE) == []
    assert rows_of(STATE, store(parameters={**first.parameters, "fd_dev_size": "1"})) == [
        ("!", "control/fd_dev_size", "67108864", "1")]
    assert rows_of(STATE, with_acl(auth_userid="")) == [("!", "auth/userid", "user", '""')]
    assert rows_of(STATE, with_acl(auth_password=objects.Secret("x"))) == [
        ("!", "auth/password", "(secret)", "(another secret)")]
    assert rows_of(STATE, with_tpg(luns=STATE.targets[0].tpgs[0].luns[:5])) == [
        ("-", "lun5", "fileio/disk5", "(not there)")]
    lun = STATE.targets[0].tpgs[0].luns[0]
    assert rows_of(with_tpg(luns=(replace(lun, backstore=None),
                                  *STATE.targets[0].tpgs[0].luns[1:])), STATE) == [
        ("!", "backstore", "nothing", "fileio/disk0")]
    marks = {label: (mark, here, there) for mark, label, here, there in rows_of(
        STATE, store(reservations=other))}
    name = samples.initiator(1) + " isid 00023d000001"
    assert marks["generation"] == ("!", "5", "9") and marks["APTPL"] == ("!", "no", "yes")
    assert marks["type"][2] == "Exclusive Access, All Registrants (type 8)"
    assert marks[name] == ("!", "0x000000000000abc1", "0x00000000000000ff HOLDER")
    assert "order of the registrants" in marks
    gone = rows_of(STATE, store(reservations=objects.NO_RESERVATIONS))
    assert ("-", name, "0x000000000000abc1", "(not there)") in [
        (mark, label, here.split()[0], there) for mark, label, here, there in gone]
    created = rows_of(State(), STATE)
    assert {mark for mark, *_ in created} == {"+"} and len(created) > 30


def test_columns_stand_beside_each_other() -> None:
    want = with_tpg(attributes={**STATE.targets[0].tpgs[0].attributes,
                                "attrib/login_timeout": "30"})
    found = diff_columns.rows(STATE, want, diff.diff(STATE, want))
    assert list(diff_columns.columns(found, "here: a", "document: b", Terminal(80))) == [
        "                            here: a | document: b",
        "------------------------------------+------------",
        f"  {NAME}",
        "    tpg1",
        "!     attrib/login_timeout  15      | 30"]


def test_a_plan_is_numbered_through_and_says_why() -> None:
    one = ready()
    lines = list(plan_steps.plan(one, Terminal()))
    text = "\n".join(lines)
    numbers = [int(line.split()[0]) for line in lines if line.split()[0].isdigit()]
    assert numbers == list(range(1, len(one.plan.steps) + 1))
    stage = lines.index(f"stage: while the source still serves ({len(one.plan.stage)} steps)")
    activate = lines.index(f"activate: when the source has let go ({len(one.plan.activate)} steps)")
    assert stage < activate
    assert "  gate: initiators are let in" in lines[activate:]
    assert "device: /dev/sdb -> /dev/sdc" in text
    # The contents of files are not shown: they are long, and nobody checks them by eye.
    step = next(step for step in one.plan.steps if step.op == "file")
    assert step.value.decode()[:20] not in text
    assert f"auth/password = {objects.Secret('x')}" in text
    for note in one.plan.notes:
        assert note in text
    told = json_view.plan_tree(one)
    assert [each["number"] for each in told["steps"]] == numbers
    assert all(each["value"] is None for each in told["steps"]
               if each["secret"] or each["op"] == "file")
    assert json.dumps(told)


def test_sizes_and_counts_are_said_as_people_say_them() -> None:
    assert [phrases.size(one) for one in (0, 512, 1 << 26, 1536 << 20, 5 << 50)] == [
        "0 bytes", "512 bytes", "64 MiB", "1.5 GiB", "5 PiB"]
    assert phrases.count(1, "LUN") + phrases.count(0, "LUN") == "1 LUN0 LUNs"


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with terminal(123) as (_, its), open(its, "w", closefd=False) as console, \
            (tmp_path / "out").open("w") as file:
        assert Terminal.of(file) == Terminal(0, False)
        assert Terminal.of(console) == Terminal(123, True)
        monkeypatch.setenv("NO_COLOR", "1")
        assert Terminal.of(console) == Terminal(123, False)
        monkeypatch.setenv("COLUMNS", "70")
        assert Terminal.of(console).width == 70

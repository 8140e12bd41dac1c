"""The transition table, explored: nothing goes wrong as it stands, a story for each mutant."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import List

import pytest

from lio_handover.protocol import table as transitions
from lio_handover.protocol.table import (DESTINATION, SOURCE, STATES, TRANSITIONS, Action,
                                         Condition, MessageType, Mode, Transition)
from lio_handover.verb_table import HANDOVER_VERBS, READ
from tests.model.matrix import MATRICES, SAME_AS_ISCSI, matrix, steps_table
from tests.model.mutants import MUTANTS
from tests.model.runs import RUNS, SLOW_MUTANTS, run
from tests.model.search import explore
from tests.model.world import OFF, OPEN, Model, Scope

DOCUMENT = Path(__file__).parents[2] / "docs" / "internals" / "handover-protocol.md"
GOALS = {"moved", "stayed", "untouched"}


def _marked(names: List[str], slow: frozenset[str]) -> List[object]:
    return [pytest.param(name, marks=pytest.mark.full) if name in slow else name for name in names]


# ---- the table itself ------------------------------------------------------------------------


def test_rows_speak_the_tables_words() -> None:
    for row in TRANSITIONS:
        assert row.state in STATES[row.role] and row.to in STATES[row.role], row
        assert HANDOVER_VERBS[row.verb].role in (row.role, "both"), row
        assert row.steps and row.deadline > 0 and row.modes, row
        for step in row.steps:
            assert (step.action is Action.RECORD) == bool(step.state), row
            assert (step.action is Action.SAY) == (step.message is not None), row
            assert not step.state or step.state in STATES[row.role], row


def test_a_row_ends_where_it_says() -> None:
    for row in TRANSITIONS:
        recorded = [step.state for step in row.steps if step.action is Action.RECORD]
        assert (recorded[-1] if recorded else row.state) == row.to, row


def test_every_verb_state_and_message_is_used() -> None:
    assert {row.verb for row in TRANSITIONS} == set(HANDOVER_VERBS)
    for role in (SOURCE, DESTINATION):
        recorded = {step.state for row in TRANSITIONS if row.role == role for step in row.steps}
        assert recorded - {""} == set(STATES[role])
    assert {step.message for row in TRANSITIONS for step in row.steps} - {None} == set(MessageType)
    assert {message for row in TRANSITIONS for message in row.messages} == set(MessageType)


def test_no_two_rows_are_one() -> None:
    for mode in Mode:
        keys = [(row.role, row.state, row.verb, row.messages, row.conditions)
                for row in TRANSITIONS if mode in row.modes]
        assert len(keys) == len(set(keys)), mode


def test_reading_verbs_touch_no_kernel() -> None:
    for row in TRANSITIONS:
        if HANDOVER_VERBS[row.verb].action == READ:
            assert {step.action
                    for step in row.steps} <= {Action.READ, Action.SAY, Action.KEEP_COPY}, row


def test_every_state_has_a_recover_row_in_every_mode() -> None:
    for mode in Mode:
        for role in (SOURCE, DESTINATION):
            to = {step.state for row in TRANSITIONS if row.role == role and mode in row.modes
                  for step in row.steps}
            # By file nobody is asked: what was exported waits for a human's word.
            alone = {"released"} if mode is Mode.FILE else set()
            for state in (set(STATES[role]) & to) - {"retired"} - alone:
                assert transitions.rows_for(role, state, "recover", mode), (mode, role, state)


def test_the_table_is_pure() -> None:
    tree = ast.parse(Path(str(transitions.__file__)).read_text())
    imported = {(node.module if isinstance(node, ast.ImportFrom) else alias.name)
                for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names}
    assert imported == {"__future__", "dataclasses", "enum", "typing", "verb_table"}


# ---- the exploration ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", _marked(list(RUNS), frozenset(
    name for name, one in RUNS.items() if one.full)))
def test_nothing_goes_wrong(name: str) -> None:
    result = run(name)
    assert result.problem is None, str(result)
    assert result.complete and result.goals >= GOALS
    if RUNS[name].scope.forces == 1:
        assert result.dead_ends_checked > 0 and result.needs_word == 0


# Rows that the small scope cannot reach: two hosts forced in turn; registrations changed in-band.
ONLY_FULL = {
    (SOURCE, "forced", "retired", Condition.PEER_SERVES_BY_FORCE),
    (SOURCE, "forced", "forced", Condition.PEER_IS_FENCED),
    (DESTINATION, "forced", "none", Condition.PEER_SERVES_BY_FORCE),
    (DESTINATION, "forced", "forced", Condition.PEER_IS_FENCED),
    (SOURCE, "frozen", "idle", Condition.RAN_SINCE_EXPORT),
    (SOURCE, "frozen", "idle", Condition.PEER_ARMED_WITH_OTHER),
}


def _unreached(mode: Mode, full: bool) -> List[Transition]:
    used = set().union(*(run(name).rows for name, one in RUNS.items()
                         if one.mode is mode and (full or not one.full)))
    silent = {Action.READ, Action.CHECK}  # rows that change nothing
    return [row for number, row in enumerate(TRANSITIONS)
            if mode in row.modes and number not in used
            and not {step.action for step in row.steps} <= silent]


#: What is adopted was never another host's, so no world of two hosts has it.
ALONE = ("adopt", "none")


def test_every_row_is_reached() -> None:
    """A row that no world ever runs would be proven by nothing."""
    for mode in Mode:
        unreached = [row for row in _unreached(mode, full=False)
                     if (row.verb, row.state) != ALONE and not any(
            (row.role, row.state, row.to, condition) in ONLY_FULL for condition in row.conditions)]
        assert not unreached, (mode, unreached)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", [Mode.ISCSI, Mode.ISCSI_LATE, Mode.VHOST_QMP, Mode.VHOST_INBAND])
def test_every_row_is_reached_in_full(mode: Mode) -> None:
    assert not [row for row in _unreached(mode, full=True) if (row.verb, row.state) != ALONE]


@pytest.mark.parametrize("name", _marked(list(MUTANTS), SLOW_MUTANTS))
def test_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    assert mutant.changes_something(), "the mutant is the table as it is"
    result = mutant.run()
    assert result.problem is not None and mutant.expects in result.problem, str(result)
    assert result.story and result.story[-1].startswith("so: ")


def test_the_checker_sees_each_kind_of_wrong() -> None:
    iscsi = Model(Mode.ISCSI)
    good = iscsi.initial()
    assert iscsi.violation(good) is None
    twice = good._replace(d=good.d._replace(gate=OPEN, pr=0))
    assert "two hosts serve" in str(iscsi.violation(twice))
    assert "without registrations" in str(iscsi.violation(good._replace(latest=1)))
    late = Model(Mode.ISCSI_LATE)
    both = late.initial()._replace(d=late.initial().d._replace(storage=True))
    assert "storage open" in str(late.violation(both))
    vhost = Model(Mode.VHOST_QMP)
    assert "guest lost" in str(vhost.violation(vhost.initial()._replace(qs="lost")))
    run_twice = vhost.initial()._replace(qd="run")
    assert "two hosts serve" in str(vhost.violation(run_twice))
    dark = good._replace(s=good.s._replace(up=OFF))
    assert iscsi.violation(dark) is None and not iscsi.settled(dark) and iscsi.settled(good)


def test_a_table_that_does_nothing_is_not_praised() -> None:
    """Safety alone would call it perfect."""
    idle = tuple(row for row in TRANSITIONS if row.verb != "release")
    result = explore(Model(Mode.ISCSI, Scope(forces=0), table=idle))
    assert result.problem == "no handover can ever complete"


def test_a_way_out_that_is_missing_is_missed() -> None:
    table = tuple(row for row in TRANSITIONS
                  if not (row.role == SOURCE and row.state == "retiring"))
    result = explore(Model(Mode.ISCSI, Scope(forces=0), table=table))
    assert result.problem is not None and "no way out" in result.problem
    assert "service crashes" in str(result) or "loses power" in str(result)


def test_without_force_a_lost_host_is_noticed() -> None:
    table = tuple(row for row in TRANSITIONS if not row.forced)
    result = explore(Model(Mode.ISCSI, table=table))
    assert result.problem is not None and "gone for good" in result.problem


# ---- the document ------------------------------------------------------------------------------


def _block(name: str) -> List[str]:
    text = DOCUMENT.read_text()
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    assert text.count(begin) == 1, name
    return text.split(begin)[1].split(end)[0].strip().splitlines()


@pytest.mark.parametrize("mode", list(MATRICES))
def test_the_documents_matrix_is_the_tables(mode: Mode) -> None:
    assert _block(f"matrix {mode.value}") == matrix(mode), (
        f"put the output of: python3 -m tests.model --matrix {mode.value}")


def test_the_documents_steps_are_the_tables() -> None:
    for mode in Mode:
        assert _block(f"steps {mode.value}") == steps_table(mode), (
            f"put the output of: python3 -m tests.model --steps {mode.value}")


def test_one_matrix_serves_four_modes() -> None:
    for mode, name in SAME_AS_ISCSI.items():
        ours, first = run(name).pairs, run("iscsi").pairs
        assert set(ours) == set(first), mode
        # with vhost a frozen source may serve: its QEMU may resume by itself until `released`
        differing = {pair[0] for pair in ours if ours[pair] != first[pair]}
        assert differing <= {"freezing", "frozen"}, (mode, differing)


def test_the_document_names_every_word() -> None:
    text = DOCUMENT.read_text()
    for role in (SOURCE, DESTINATION):
        for word in STATES[role]:
            assert f"| `{word}` |" in text, word
    for word in [*HANDOVER_VERBS, *(message.name.lower() for message in MessageType),
                 *(mode.value for mode in Mode)]:
        assert f"`{word}`" in text, word
    for name in MUTANTS:
        assert f"`{name}`" in text, name


def test_models_worlds_are_small_and_hashable() -> None:
    for mode in Mode:
        world = Model(mode).initial()
        assert hash(world) == hash(Model(mode).initial())
    assert dataclasses.is_dataclass(Scope())

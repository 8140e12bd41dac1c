"""The rows of the verbs and options: what is made of them agrees."""
from __future__ import annotations

import pytest

from lio_handover import verb_table
from lio_handover.protocol.table import TRANSITIONS
from lio_handover.verb_table import (BOTH, DESTINATION, HANDOVER_VERBS, MESSAGES, OPTIONS, SOURCE,
                                     VERBS)


def test_an_option_is_one_row() -> None:
    assert len(OPTIONS) == len(verb_table._OPTIONS)
    on_bus = [option.bus for option in OPTIONS.values() if option.bus]
    assert len(on_bus) == len(set(on_bus))
    for option in OPTIONS.values():
        assert option.type in ("b", "s", "u", "as") and option.help, option.name
        assert option.flags or option.bus, option.name
    used = {name for verb in [*VERBS.values(), *HANDOVER_VERBS.values()] for name in verb.options}
    assert {*used, *verb_table.COMMON} == set(OPTIONS)
    assert set(verb_table.FORCING) < set(verb_table.ASSERTIONS)


def test_a_verb_is_one_row() -> None:
    assert len(VERBS) == len(verb_table._VERBS)
    assert len(HANDOVER_VERBS) == len(verb_table._HANDOVER_VERBS)
    for verb in [*VERBS.values(), *HANDOVER_VERBS.values()]:
        assert verb.action in (verb_table.READ, verb_table.WRITE)
        assert len(set(verb.options)) == len(verb.options), verb.name
        assert verb.begins <= verb.bus, verb.name
    assert all(verb.deadline > 0 for verb in verb_table.HOST_VERBS.values())


@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
def test_what_a_step_takes_can_be_typed(role: str) -> None:
    """`source` and `destination` know every option that one of their verbs has."""
    typed = set(VERBS[role].options)
    for verb in HANDOVER_VERBS.values():
        if verb.role == role and verb.bus:
            missing = {option.name for option in verb.typed if option.flags[0].startswith("-")}
            assert missing <= typed, (verb.name, missing - typed)


def test_what_takes_messages_is_what_a_row_waits_for() -> None:
    waiting = {row.verb for row in TRANSITIONS if row.messages} | {"abort"}  # which an offer tells
    assert {verb.name for verb in HANDOVER_VERBS.values() if verb.takes == MESSAGES} == waiting
    assert all(verb.role in (row.role, BOTH) for row in TRANSITIONS
               for verb in [HANDOVER_VERBS[row.verb]])

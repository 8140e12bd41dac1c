"""The rows of the verbs and options: what is made of them agrees."""
from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lio_handover import dbus_names, errors, verb_table
from lio_handover.cli import handover_commands, main
from lio_handover.protocol.messages import Message, to_json
from lio_handover.protocol.table import TRANSITIONS, MessageType
from lio_handover.service.bus import interfaces
from lio_handover.verb_table import (BOTH, DESTINATION, HANDOVER_VERBS, MESSAGES, OPTIONS, SOURCE,
                                     VERBS, Option, Verb)


def test_an_option_is_one_row() -> None:
    assert len(OPTIONS) == len(verb_table._OPTIONS)
    on_bus = [option.bus for option in OPTIONS.values() if option.bus]
    assert len(on_bus) == len(set(on_bus))
    for option in OPTIONS.values():
        assert option.type in ("b", "s", "u", "as", "ah") and option.help, option.name
        assert option.flags or option.bus, option.name
        assert option.type != "ah" or not option.flags, "who types has no descriptors"
    used = {name for verb in [*VERBS.values(), *HANDOVER_VERBS.values()] for name in verb.options}
    assert {*used, *verb_table.COMMON} == set(OPTIONS)
    assert {option.action for option in OPTIONS.values()} <= {
        "", verb_table.ROOT, *verb_table.ACTIONS}
    assert {OPTIONS[name].type for name in verb_table.OF_ROOT.values()} == {"ah"}
    assert all(OPTIONS[name].bus and OPTIONS[name].action == verb_table.ROOT
               for name in verb_table.OF_ROOT)


def test_a_verb_is_one_row() -> None:
    assert len(VERBS) == len(verb_table._VERBS)
    assert len(HANDOVER_VERBS) == len(verb_table._HANDOVER_VERBS)
    for verb in [*VERBS.values(), *HANDOVER_VERBS.values()]:
        assert verb.action in (verb_table.READ, verb_table.WRITE, verb_table.MANAGE)
        assert len(set(verb.options)) == len(verb.options), verb.name
        assert verb.begins <= verb.bus, verb.name
    assert all(verb.deadline > 0 for verb in verb_table.HOST_VERBS.values())
    assert all(verb.deadline > 0 for verb in verb_table.PAIR_VERBS.values())


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


TARGET, ID = "iscsi/iqn.2026-11.org.example:target", "00000000-0000-4000-8000-000000000000"
STEPS = [verb for verb in HANDOVER_VERBS.values() if verb.bus and verb.role != BOTH]


class Reached(Exception):
    """The step would have been run."""


class Engine:
    """An engine, or a service, that a step is not to come to unless it takes all its options."""

    def do(self, *_args: Any, **_more: Any) -> None:
        raise Reached

    run_handover = do


@pytest.fixture
def reaches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(handover_commands, "_open_handovers", lambda args: Engine())
    monkeypatch.setattr(handover_commands, "_log_assertions", lambda *_: None)
    monkeypatch.setattr(handover_commands, "find_service",
                        lambda args: None if args.alone else Engine())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    handlers = {number: signal.getsignal(number)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def calls(verb: Verb, path: str) -> Iterator[tuple[bool, list[str]]]:
    """(whether a handover is begun, words) of each way in which a step can be called."""
    if verb.takes == verb_table.NEW_TARGETS:
        yield True, [TARGET]
    elif verb.begins:
        yield True, ["--messages", path]
    yield False, [ID]


def given(option: Option, path: str) -> list[str]:
    value = {"messages": path, "mode": "vhost-qmp"}.get(option.name, "x")
    return [option.flags[-1]] if option.type == "b" else [option.flags[-1], value]


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "service"])
@pytest.mark.parametrize("verb", STEPS, ids=lambda verb: f"{verb.role}-{verb.name}")
def test_a_step_refuses_what_it_does_not_take(
        verb: Verb, alone: bool, reaches: None, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    """Here as by the service: no option is read and then left out of account."""
    path = str(tmp_path / "messages.json")
    Path(path).write_bytes(to_json([Message(MessageType.OFFER, ID, 1, targets=(TARGET,),
                                            mode="iscsi")]))
    methods = interfaces.verb_methods()
    for begins, words in calls(verb, path):
        method = methods[(dbus_names.MANAGER, f"{verb.name.capitalize()}Handover") if begins else
                         (dbus_names.HANDOVER, verb.name.capitalize())]
        for option in VERBS[verb.role].typed:
            if not option.flags[-1].startswith("-") or option.name in ("messages-out", "whole") \
                    or option.flags[-1] in words:
                continue
            takes = option.bus in method.options if option.bus else verb.takes == MESSAGES
            if option.name == "messages" and takes and verb.begins:
                continue  # so the step begins a handover
            code = main.main([verb.role, verb.name, *words, *given(option, path),
                              *(["--alone"] if alone else [])])
            line = capsys.readouterr().err
            if takes:
                assert code == errors.HandoverError.code and "Reached" in line, (option.name, line)
            else:
                assert code == errors.USAGE, (option.name, line)
                assert line.startswith(f"lio-handover: {verb.role} {verb.name} takes no "
                                       f"{option.flags[-1]}"), line
                assert "; nothing was changed; next: " in line

"""The handover engine on real kernels: two hosts, every verb, papers carried by the test."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lio_handover import document as documents
from lio_handover.handover import Answer
from lio_handover.papers import Message, from_json, to_json
from lio_handover.transitions import DESTINATION, SOURCE, Paper
from tests import inhandover, inhost, lab
from tests.conftest import HostsOf
from tests.inhandover import TARGET


class Two:
    """Two hosts and all the papers said so far, carried as their JSON."""

    def __init__(self, a: lab.Host, b: lab.Host) -> None:
        self.host = {SOURCE: a, DESTINATION: b}
        self.id = ""
        self.papers: list[Message] = []

    def do(self, verb: str, role: str, **more: Any) -> Answer:
        given = () if verb == "prepare" else from_json(to_json(self.papers[-12:]))
        answer = self.host[role].call(inhandover.do, verb, role, self.id, given, **more)
        self.id = answer.handover.id
        self.papers += [one for one in answer.papers if one not in self.papers]
        return answer

    def state(self, role: str) -> str:
        return self.host[role].call(inhandover.status, self.id)[0].handover.state

    def serving(self) -> list[str]:
        """Who has an open gate."""
        return [role for role in (SOURCE, DESTINATION)
                if "1" in self.host[role].call(inhandover.gates).values()]


@pytest.fixture
def two(bed: lab.Lab, hosts: HostsOf) -> Callable[[str, str], Two]:
    """`two("stable", "newest")`: a source that serves, and a destination."""
    def make(source: str, destination: str) -> Two:
        a, b = hosts(source, destination)
        a.call(inhost.build, inhandover.state(bed.shared))
        return Two(a, b)
    return make


#: Each verb of a handover that goes well: (verb, role, state after it, papers said, who serves).
FORWARD: tuple[tuple[str, str, str, set[Paper], list[str]], ...] = (
    ("prepare", SOURCE, "prepared", {Paper.OFFER}, [SOURCE]),
    ("stage", DESTINATION, "staged", set(), [SOURCE]),
    ("freeze", SOURCE, "frozen", set(), []),
    ("export", SOURCE, "frozen", {Paper.DOCUMENT}, []),
    ("activate", DESTINATION, "armed", {Paper.ARMED}, []),
    ("release", SOURCE, "released", {Paper.RELEASED}, []),
    ("activate", DESTINATION, "opening", set(), [DESTINATION]),
    ("verify", DESTINATION, "serving", {Paper.SERVING}, [DESTINATION]),
    ("retire", SOURCE, "retired", {Paper.RETIRED}, [DESTINATION]),
    ("confirm", DESTINATION, "confirmed", set(), [DESTINATION]),
)


@pytest.mark.parametrize("source, destination", [
    ("stable", "newest"), pytest.param("oldest", "oldest", marks=pytest.mark.full),
    pytest.param("newest", "stable", marks=pytest.mark.full)])
def test_a_handover_goes_through(two: Callable[[str, str], Two], source: str,
                                 destination: str) -> None:
    pair = two(source, destination)
    before = pair.host[SOURCE].call(inhost.export_state)
    for verb, role, state, papers, serving in FORWARD:
        more = {"targets": (TARGET,)} if verb == "prepare" else {}
        answer = pair.do(verb, role, **more)
        assert (answer.handover.state, {one.paper for one in answer.papers}) == (state, papers)
        assert pair.serving() == serving, verb
    after = pair.host[DESTINATION].call(inhost.export_state)
    assert documents.state_bytes(documents.loads(before)) == documents.state_bytes(
        documents.loads(after))
    assert not pair.host[SOURCE].call(inhost.read_all).targets

"""A session: the process that stays between two verbs of a handover does what one does that begins
anew, whatever others did to the target meanwhile."""
from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.protocol.messages import Message, from_json, members, to_json
from lio_handover.protocol.table import DESTINATION, SOURCE, MessageType
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import WAY
from tests.support import inhandover, inhost, insession
from tests.support.inhandover import TARGET

#: What is another one each time.
_ANOTHER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Run = Callable[..., Any]


class Way:
    """A handover, by sessions (``warm``), or by a process for each verb."""

    def __init__(self, a: lab.Host, b: lab.Host, warm: bool) -> None:
        self.host = {SOURCE: a, DESTINATION: b}
        self.warm, self.id = warm, ""
        self.said: list[dict[str, Any]] = []
        self.newest: dict[MessageType, Message] = {}
        for host in self.host.values():
            if warm:
                host.call(insession.start)

    def do(self, word: str) -> None:
        verb, role = word.strip("*"), DESTINATION if "*" in word else SOURCE
        more: dict[str, Any] = {"targets": (TARGET,)} if verb == "prepare" else {}
        given = from_json(to_json([*self.newest.values()]))
        host = self.host[role]
        answer = host.call(insession.do, verb, role, self.id, given, **more).answer if self.warm \
            else host.call(inhandover.do, verb, role, self.id, given, **more)
        self.id = answer.handover.id
        self.newest.update((message.type, message) for message in answer.messages)
        self.said += [members(message) for message in answer.messages]

    def outcome(self, words: str) -> str:
        """Where it comes to: the verb that fails, and how."""
        for word in words.split():
            try:
                self.do(word)
            except errors.HandoverError as error:
                return f"{word}: {type(error).__name__}: {error.what}"
        return "through"

    def seen(self) -> list[str]:
        """The records of both journals, the messages, and what both kernels have, in lines."""
        text = json.dumps([
            [self.host[role].call(insession.records, self.id) for role in self.host], self.said,
            [documents.state_bytes(documents.loads(self.host[role].call(
                inhost.export_state))).decode() for role in self.host],
            [self.host[role].call(inhandover.gates) for role in self.host]], indent=1)
        return _ANOTHER.sub("ID", text).replace("\\n", "\n").splitlines()

    def end(self) -> None:
        for host in self.host.values():
            if self.warm:
                host.call(insession.end)
            host.call(inhost.forget_all)
            host.wipe()


@pytest.fixture
def ways(bed: lab.Lab, hosts: HostsOf) -> Callable[[bool], Way]:
    a, b = hosts("stable", "newest")

    def make(warm: bool) -> Way:
        a.call(inhost.build, inhandover.state(bed.shared))
        return Way(a, b, warm)
    return make


def test_every_verb_does_the_same_cold_and_warm(ways: Callable[[bool], Way]) -> None:
    seen = []
    for warm in (False, True):
        way = ways(warm)
        assert way.outcome(WAY) == "through"
        seen.append(way.seen())
        way.end()
    assert not [*difflib.unified_diff(seen[0], seen[1])]


#: When somebody changes something: what was done before, who changes what, and what follows.
STORE, LUN = "core/fileio_0/disk0", f"{TARGET}/tpgt_1/lun/lun_0"
ACL = f"{TARGET}/tpgt_1/acls/iqn.2026-11.org.example:client0"
FOREIGN: tuple[tuple[str, str, tuple[Any, ...], str], ...] = (
    ("prepare stage*", SOURCE, (insession.echo, f"{ACL}/attrib/nopin_timeout", "33"), "freeze"),
    ("prepare stage*", SOURCE, (inhandover.more_luns, True), "freeze"),
    ("prepare stage* freeze", SOURCE, (insession.echo, f"{TARGET}/tpgt_1/enable", "1"),
     "export activate* release activate* verify*"),
    ("prepare stage* freeze export activate*", SOURCE,
     (insession.echo, f"{ACL}/attrib/nopin_timeout", "33"), "release"),
    ("prepare stage* freeze export activate*", SOURCE, (insession.relink, LUN), "release"),
    ("prepare stage*", DESTINATION, (insession.echo, f"{STORE}/attrib/emulate_tpu", "1"),
     "freeze export activate* release activate* verify*"),
    ("prepare stage*", DESTINATION, (insession.make, f"{TARGET}/tpgt_1/lun/lun_7"),
     "freeze export activate* release activate*"),
    ("prepare stage* freeze export activate* release", DESTINATION,
     (insession.echo, f"{ACL}/attrib/nopin_timeout", "33"), "activate*"),
    ("prepare stage* freeze export activate* release", DESTINATION, (insession.relink, LUN),
     "activate*"),
)


@pytest.mark.parametrize("before, role, change, after", [
    pytest.param(*one, id=f"{one[0].split()[-1]}-{number}",
                 marks=[] if number == 5 else [pytest.mark.full])
    for number, one in enumerate(FOREIGN)])
def test_what_others_do_meanwhile_is_never_missed(
        ways: Callable[[bool], Way], before: str, role: str, change: tuple[Any, ...], after: str
) -> None:
    """A shell's echo, mkdir and ln between two verbs: the session does what one does that reads
    all of it again."""
    seen = []
    for warm in (False, True):
        way = ways(warm)
        assert way.outcome(before) == "through"
        way.host[role].call(*change)
        outcome = way.outcome(after)
        print(outcome)
        seen.append([outcome, *way.seen()])
        way.end()
    assert not [*difflib.unified_diff(seen[0], seen[1])]

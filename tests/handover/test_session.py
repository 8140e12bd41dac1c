"""A session: the process that stays between two verbs of a handover does what one does that begins
anew, whatever others did to the target meanwhile."""
from __future__ import annotations

import difflib
import json
import re
import subprocess
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
from tests.support import inhandover, inhost, insession, samples
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
    ("prepare stage* freeze export activate*", SOURCE, (insession.relink, LUN, STORE), "release"),
    ("prepare stage*", DESTINATION, (insession.echo, f"{STORE}/attrib/emulate_tpu", "1"),
     "freeze export activate* release activate* verify*"),
    ("prepare stage*", DESTINATION, (insession.make, f"{TARGET}/tpgt_1/lun/lun_7"),
     "freeze export activate* release activate*"),
    ("prepare stage* freeze export activate* release", DESTINATION,
     (insession.echo, f"{ACL}/attrib/nopin_timeout", "33"), "activate*"),
    ("prepare stage* freeze export activate* release", DESTINATION, (insession.relink, LUN, STORE),
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


#: Who else writes: what it is to both hosts alike.
WRITERS: dict[str, tuple[Any, ...]] = {
    "echo": (insession.echo, f"{ACL}/attrib/nopin_timeout", "33"),
    "mkdir": (insession.make, f"{TARGET}/tpgt_1/lun/lun_7"),
    "ln": (insession.relink, LUN, STORE),
    "rtslib": (insession.by_rtslib, ACL.rpartition("/")[2]),
    "targetcli": (insession.by_targetcli, samples.IQN),
}
#: Every moment between two verbs from prepare to the open gate, and the hosts that have something.
MOMENTS = [(number, role) for number in range(1, 7) for role in (SOURCE, DESTINATION)
           if number > 1 or role == SOURCE]


@pytest.mark.full
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("number, role", MOMENTS, ids=[
    f"{WAY.split()[number - 1].strip('*')}-{role}" for number, role in MOMENTS])
def test_a_writer_at_any_moment_is_never_missed(ways: Callable[[bool], Way], number: int, role: str,
                                                writer: str) -> None:
    """15 s each: what comes of it is what a process for each verb comes to, which reads all of it
    again: carried, or refused."""
    words, seen = WAY.split(), []
    for warm in (False, True):
        way = ways(warm)
        assert way.outcome(" ".join(words[:number])) == "through"
        try:
            way.host[role].call(*WRITERS[writer])
            done = "done"
        except subprocess.CalledProcessError:
            done = "refused"  # there is no link yet, or the kernel has it so
        outcome = way.outcome(" ".join(words[number:]))
        print(done, outcome)
        seen.append([done, outcome, *way.seen()])
        way.end()
    assert not [*difflib.unified_diff(seen[0], seen[1])]


def test_who_cannot_hear_of_changes_says_so(ways: Callable[[bool], Way]) -> None:
    """Beyond the host's limit of watches all of it is read again, and the answer says why."""
    way = ways(True)
    before = way.host[SOURCE].call(insession.limit_watches, 4)
    try:
        answer = way.host[SOURCE].call(insession.do, "prepare", SOURCE, "", [],
                                       targets=(TARGET,)).answer
    finally:
        way.host[SOURCE].call(insession.limit_watches, before)
    assert [note for note in answer.notes if "can't be heard" in note
            and "fs.inotify.max_user_watches" in note], answer.notes
    way.id = answer.handover.id
    way.newest.update((message.type, message) for message in answer.messages)
    assert way.outcome(" ".join(WAY.split()[1:7])) == "through"
    way.end()

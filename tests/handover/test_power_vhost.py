"""Hosts lose power in every state of a handover of vhost, and boot with targetcli's own restore,
which makes up a nexus, before ours.

An emulated host takes long to boot: so one has a target in each state of a mode when it goes.
"""
from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lio_handover import errors
from lio_handover.handover.engine import Reply
from lio_handover.model.keys import backstore_key, display
from lio_handover.model.objects import State
from lio_handover.protocol.messages import Message, to_json
from lio_handover.protocol.table import DESTINATION, MODES, SOURCE, STATES, Mode
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import FIRST, PEER
from tests.kernel import test_vhost
from tests.support import inhandover, inhost, inpower
from tests.support.inpower import Asked

pytestmark = pytest.mark.timeout(3600)

LEFT, FENCED = frozenset({"guest-left"}), frozenset({"peer-is-fenced"})
#: The verbs up to where the destination is armed; then those up to `released`, to `opening` and to
#: `serving`.  `left` is a recover to which the driver says that the guest has left.
ARMED = "prepare stage* freeze export activate*"
HELD = ("release", "release activate*", "release activate* verify*")
ON = {Mode.VHOST_QMP: HELD, Mode.VHOST_STOPPED: HELD,
      Mode.VHOST_INBAND: ("left", "left recover*", "verify* release")}

#: (role, state that it is in when its host loses power) → (the way there, who serves in the end).
#: VERB>STATE is a verb that is killed when it has recorded that state.
WAYS = {
    (SOURCE, "idle"): ("prepare thaw", SOURCE),
    (SOURCE, "prepared"): ("prepare stage*", SOURCE),
    (SOURCE, "freezing"): ("prepare stage* freeze>freezing", SOURCE),
    (SOURCE, "frozen"): (ARMED, SOURCE),
    (SOURCE, "released"): (f"{ARMED} RELEASED", SOURCE),
    (SOURCE, "thawing"): ("prepare stage* freeze>freezing thaw>thawing", SOURCE),
    (SOURCE, "forced"): (f"{ARMED} RELEASED", SOURCE),
    (SOURCE, "retiring"): (f"{ARMED} SERVING retire>retiring", DESTINATION),
    (SOURCE, "retired"): (f"{ARMED} SERVING retire", DESTINATION),
    (DESTINATION, "none"): ("prepare stage* abort*", SOURCE),
    (DESTINATION, "staged"): ("prepare stage* freeze export", SOURCE),
    (DESTINATION, "armed"): (ARMED, SOURCE),
    (DESTINATION, "opening"): (f"{ARMED} OPENING", DESTINATION),
    (DESTINATION, "serving"): (f"{ARMED} SERVING", DESTINATION),
    (DESTINATION, "confirmed"): (f"{ARMED} SERVING retire confirm*", DESTINATION),
    (DESTINATION, "given"): (f"{ARMED} SERVING retire confirm* giveback*", DESTINATION),
    (DESTINATION, "returned"): (f"{ARMED} OPENING abort*", SOURCE),
    (DESTINATION, "aborting"): (f"{ARMED} abort*>aborting", SOURCE),
    (DESTINATION, "forced"): (f"{ARMED} OPENING", DESTINATION),
}
VHOST = [mode for mode in MODES if mode.value.startswith("vhost")]
#: The generation of rtslib after the distribution's (scripts/lib/rtslib.txt).
NEWER = str(Path(sys.prefix, "rtslib"))
RTSLIB = pytest.mark.parametrize("rtslib", [pytest.param("", id="rtslib"),
                                            pytest.param(NEWER, id="newer-rtslib")])


@dataclass(eq=False)
class Story:
    """One target and its handover."""

    number: int
    mode: Mode
    role: str
    cut_in: str     # the state in which power is lost
    id: str = ""
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wwpn = f"naa.5001405abcde{self.number:04x}"
        self.target = f"vhost/{self.wwpn}"
        self.store = display(backstore_key("fileio", f"disk{self.number}-0"))

    def __str__(self) -> str:
        return f"{self.mode.value}, {self.role} {self.cut_in}"

    @property
    def way(self) -> list[str]:
        way = WAYS[self.role, self.cut_in][0]
        for name, verbs in zip(("RELEASED", "OPENING", "SERVING"), ON[self.mode]):
            way = way.replace(name, verbs)
        return way.split()

    @property
    def owner(self) -> str:
        return WAYS[self.role, self.cut_in][1]

    def take(self, answer: Reply) -> None:
        self.id = answer.handover.id
        self.messages += [message for message in answer.messages if message not in self.messages]

    def asks(self, verb: str, role: str, cut_off: str = "") -> Asked:
        newest = list({message.type: message for message in self.messages}.values())
        more: dict[str, Any] = {}
        if verb == "prepare":
            more, newest = {"targets": (self.target,), "mode": self.mode.value}, []
        elif verb == "giveback":
            more = {"allow": ("not-saved",)}
        return Asked(verb, role, self.id, to_json(newest),
                     LEFT if verb == "release" and self.mode is not Mode.VHOST_INBAND
                     else frozenset(), self.wwpn if verb == "verify" else "", cut_off, more)


def stories(role: str, states: Sequence[str], modes: Sequence[Mode] = VHOST) -> list[Story]:
    return [Story(0, mode, role, state) for mode in modes for state in states]


class Powered:
    """Hosts with disks; the source serves a target for each story.  There may be no other host."""

    def __init__(self, bed: lab.Lab, hosts: Sequence[lab.Host], told: Sequence[Story],
                 rtslib: str) -> None:
        self.host = dict(zip((SOURCE, DESTINATION), hosts))
        self.told = [replace(story, number=number) for number, story in enumerate(told, 1)]
        self.wwpns = [story.wwpn for story in self.told]
        self.targets = [story.target for story in self.told]
        self.rtslib = rtslib
        self.wrong: list[str] = []
        self.folder = {role: str(bed.shared / f"disk-{uuid.uuid4()}") for role in self.host}
        for role, host in self.host.items():
            host.call(inhandover.use_rtslib, rtslib, timeout=180)
            host.call(inhandover.disk, self.folder[role])
            host.call(inhandover.save, timeout=180)  # which moves dbroot, once for all
        source = self.host[SOURCE]
        source.call(inhost.build, self.state(bed), timeout=300)
        source.call(inpower.reserve, self.wwpns, timeout=300)
        source.call(inhandover.save, timeout=300)
        self.before = source.call(inpower.registered, timeout=300)
        assert all(len(registrations) == 2 for _kind, registrations in self.before.values())
        assert self.serving()[SOURCE] == self.targets

    def state(self, bed: lab.Lab) -> State:
        parts = [test_vhost.state(bed.shared, 1, {}, story.wwpn, [
            f"naa.5001405fedc{port}{story.number:04x}" for port in (1, 2)], f"disk{story.number}-")
            for story in self.told]
        targets = [replace(part.targets[0], tpgs=tuple(
            replace(tpg, attributes={**tpg.attributes, "rtpi": str(2 * number + port)})
            for port, tpg in enumerate(part.targets[0].tpgs, 1)))
            for number, part in enumerate(parts)]
        return State((), tuple(part.backstores[0] for part in parts), tuple(targets))

    # ── verbs ────────────────────────────────────────────────────────────────────────────────

    def call(self, role: str, asked: Sequence[Asked]) -> list[Any]:
        """Nothing where there is nobody to ask."""
        if not asked or role not in self.host:
            return [None] * len(asked)
        return self.host[role].call(inpower.each, asked, timeout=900)

    def walk(self) -> None:
        """All go their way side by side; of a verb for a host that is not there, nothing."""
        for step in range(max(len(story.way) for story in self.told)):
            here = {story: story.way[step] for story in self.told if step < len(story.way)}
            for role in self.host:
                going = {story: verb.replace("*", "") for story, verb in here.items()
                         if ("*" in verb) == (role == DESTINATION)}
                self.recover(role, [story for story, verb in going.items()
                                    if verb in ("left", "recover")], words=LEFT)
                asked = {story: story.asks(verb.partition(">")[0], role, verb.partition(">")[2])
                         for story, verb in going.items() if verb not in ("left", "recover")}
                self.take(asked, self.call(role, list(asked.values())))

    def take(self, asked: dict[Story, Asked], answers: Sequence[Any]) -> None:
        for (story, verb), answer in zip(asked.items(), answers):
            if isinstance(answer, Reply):
                story.take(answer)
            elif answer is not None or not verb.cut_off:
                self.wrong.append(f"{story}: {verb.verb} of the {verb.role}: {answer!r}")

    def recover(self, role: str, told: Sequence[Story], silent: bool = False,
                words: frozenset[str] = frozenset(), guest: bool = False, verb: str = "recover"
                ) -> dict[Story, Any]:
        """recover on one host, the other answering, or silent; what each answered at last."""
        answers: dict[Story, inhandover.Answers] = {
            story: {"status": None} if silent else {} for story in told}
        final: dict[Story, Any] = {}
        while answers.keys() - final.keys():
            pending = [story for story in answers if story not in final]
            replies = self.call(role, [Asked(
                verb, role, story.id, words=words, guest=story.wwpn if guest else "",
                answers=answers[story]) for story in pending])
            final.update((story, reply) for story, reply in zip(pending, replies)
                         if not isinstance(reply, str))
            asking = {story: reply for story, reply in zip(pending, replies)
                      if isinstance(reply, str)}
            told_back = self.call(PEER[role], [story.asks(reply, PEER[role])
                                               for story, reply in asking.items()])
            for (story, reply), answer in zip(asking.items(), told_back):
                there = isinstance(answer, Reply)
                answers[story][reply] = answer if there else None
                if there:
                    story.take(answer)
        for story, answer in final.items():
            if isinstance(answer, Reply):
                story.take(answer)
            elif isinstance(answer, errors.HandoverError):
                self.wrong.append(f"{story}: {verb} of the {role}: {answer!r}")
        return final

    # ── power ────────────────────────────────────────────────────────────────────────────────

    def boot(self, role: str) -> None:
        host = self.host[role].boot()
        host.call(inhandover.use_rtslib, self.rtslib, timeout=180)
        host.call(inhandover.boots, self.folder[role], timeout=600)

    def lose_power(self, role: str) -> None:
        """The other host notices that one is gone; then it boots."""
        self.host[role].kill()
        if PEER[role] in self.host:
            self.recover(PEER[role], self.told, silent=True)
        self.boot(role)
        self.one_serves()

    def force(self, role: str, told: Sequence[Story]) -> None:
        """By an operator's word, as the other host is off."""
        assert not self.host[PEER[role]].alive
        self.recover(role, told, silent=True, words=FENCED)
        states = self.states(role)
        assert all(states[story] == "forced" for story in told), [*map(str, self.wrong)]

    def serving(self) -> dict[str, list[str]]:
        """Role → the targets that let a guest attach there."""
        return {role: [f"vhost/{wwpn}" for wwpn in host.call(
            inpower.open_to_guests, self.wwpns, timeout=300)]
            for role, host in self.host.items() if host.alive}

    def one_serves(self) -> None:
        """Of each target."""
        served = [target for targets in self.serving().values() for target in targets]
        self.wrong += [f"{story}: two hosts serve it" for story in self.told
                       if served.count(story.target) > 1]

    def states(self, role: str) -> dict[Story, str]:
        answers = self.host[role].call(inpower.statuses, timeout=180) if role in self.host else []
        state = {answer.handover.id: answer.handover.state for answer in answers}
        return {story: state.get(story.id, FIRST[role]) for story in self.told}

    def settle(self) -> None:
        """recover on both, then on as a driver would."""
        open_still, over = self.told, (("idle", "none"), ("retired", "confirmed"))
        for _ in range(2):
            for role in self.host:
                self.recover(role, open_still)
                self.one_serves()
            source, destination = self.states(SOURCE), self.states(DESTINATION)
            open_still = [story for story in self.told
                          if (source[story], destination[story]) not in over]
        # In-band, QEMU resumes the guest where it was, as it never ran there.
        resumed = [story for story in self.told
                   if (source[story], destination[story]) == ("frozen", "armed")]
        self.recover(SOURCE, resumed, guest=True)
        self.recover(DESTINATION, resumed)
        self.one_serves()
        for role in self.host:
            for story, answer in self.recover(role, self.told, verb="again").items():
                if isinstance(answer, tuple) and (answer[0] or answer[1] != answer[2]):
                    self.wrong.append(f"{story}: a second recover of the {role} does something")
        onward = [story for story in self.told if destination[story] in ("opening", "serving")]
        for verb, role in (("verify", DESTINATION), ("retire", SOURCE), ("confirm", DESTINATION)):
            asked = {story: story.asks(verb, role) for story in onward}
            self.take(asked, self.call(role, list(asked.values())))

    def check(self) -> None:
        """One host serves each target with all registrations, and says so; the other has nothing
        of it."""
        states = {role: self.states(role) for role in (SOURCE, DESTINATION)}
        serving = self.serving()
        held = {role: host.call(inpower.registered, timeout=300)
                for role, host in self.host.items()}
        saved = {role: host.call(inhandover.saved, self.targets)
                 for role, host in self.host.items()}
        writes = {role: host.call(inpower.foreign_writes, self.wwpns, timeout=300)
                  for role, host in self.host.items()}
        for story in self.told:
            given = story.cut_in == "given"
            ended = ("idle", "none") if story.owner == SOURCE else (
                "retired", "given" if given else "confirmed")
            expected: dict[str, object] = {
                "states": ended, "serving": [story.owner], "held by": [story.owner],
                "saved": {story.owner: True} if story.owner == SOURCE or given else {}}
            seen: dict[str, object] = {
                "states": tuple(state[story] for state in states.values()),
                "serving": [role for role, targets in serving.items() if story.target in targets],
                "held by": [role for role, stores in held.items() if story.store in stores],
                "saved": {role: targets[story.target] for role, targets in saved.items()
                          if story.target in targets}}
            if not given:  # else with the nexus that targetcli made up, as was allowed
                expected["registrations"] = self.before[story.store]
                seen["registrations"] = held[story.owner].get(story.store)
                expected["foreign write"] = 0x18
                seen["foreign write"] = writes[story.owner].get(story.wwpn)
            self.wrong += [f"{story}: {what}: {seen[what]}, not {value}"
                           for what, value in expected.items() if seen[what] != value]
        for role, host in self.host.items():
            for answer in host.call(inpower.statuses, timeout=180):
                notes = [note for note in answer.notes if note != "this host was rebooted since"]
                if answer.handover.busy or answer.handover.error or notes:
                    self.wrong.append(f"status of the {role}: {answer}")
        assert not self.wrong, "\n".join(self.wrong)


def test_the_ways_lead_to_each_state() -> None:
    assert set(WAYS) == {(role, state) for role, states in STATES.items() for state in states}


@pytest.mark.full
def test_a_frozen_source_goes_on_after_a_power_cut(bed: lab.Lab, hosts: HostsOf) -> None:
    """A sample of what follows: nobody has to be asked, so there is one host only."""
    host, = hosts("vhost-newest")
    try:
        alone = Powered(bed, [host], [Story(0, Mode.VHOST_QMP, SOURCE, "frozen")], "")
        alone.walk()
        assert list(alone.states(SOURCE).values()) == ["frozen"]
        alone.lose_power(SOURCE)
        alone.settle()
        alone.check()
    finally:
        host.kill()  # its disk is about to go


@pytest.mark.full
@RTSLIB
@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
@pytest.mark.parametrize("mode", VHOST, ids=lambda mode: mode.value)
def test_a_host_that_lost_power_comes_back_to_one_owner(
        rtslib: str, mode: Mode, role: str) -> None:
    told = stories(role, [state for side, state in WAYS if side == role and state != "forced"],
                   [mode])
    with lab.Lab() as bed:
        pair = Powered(bed, bed.hosts("vhost-newest", "vhost-newest"), told, rtslib)
        pair.walk()
        states = pair.states(role)
        assert not pair.wrong and all(states[story] == story.cut_in for story in pair.told), \
            "\n".join([*pair.wrong, *(f"{story}: is {states[story]}" for story in pair.told)])
        pair.lose_power(role)
        pair.settle()
        pair.check()
        print(f"{len(told)} handovers")


@pytest.mark.full
@RTSLIB
def test_who_was_forced_asks_after_a_power_cut(rtslib: str) -> None:
    told = [*stories(SOURCE, ["forced"]), *stories(DESTINATION, ["forced"])]
    with lab.Lab() as bed:
        pair = Powered(bed, bed.hosts("vhost-newest", "vhost-newest"), told, rtslib)
        pair.walk()
        forced = {role: [story for story in pair.told if story.role == role]
                  for role in (SOURCE, DESTINATION)}
        for host in pair.host.values():
            host.kill()  # else a destination that serves asks nobody
        pair.boot(DESTINATION)
        pair.force(DESTINATION, forced[DESTINATION])
        pair.boot(SOURCE)
        pair.host[DESTINATION].kill()
        pair.force(SOURCE, forced[SOURCE])
        pair.boot(DESTINATION)
        pair.one_serves()
        pair.recover(DESTINATION, forced[DESTINATION])
        pair.lose_power(SOURCE)
        pair.settle()
        pair.check()
        print(f"{len(told)} handovers")

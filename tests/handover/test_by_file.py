"""freeze, export, import, remove: one host serves or none, whatever boots or dies, and when."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.protocol.table import DESTINATION, SOURCE, TRANSITIONS, Mode
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import PEER, Two, held
from tests.handover.test_power import NEWER, Powered, registered
from tests.support import byfile, inhandover, inhost
from tests.support.inhandover import TARGET

#: The README's flow: verb, on which host, who serves after it.
FLOW: tuple[tuple[str, str, list[str]], ...] = (
    ("freeze", SOURCE, []), ("export", SOURCE, []), ("import", DESTINATION, [DESTINATION]),
    ("remove", SOURCE, [DESTINATION]))


class Carried(Powered):
    """Two hosts with disks, and somebody who carries the document."""

    data = b""

    def step(self, verb: str, role: str, killed: str = "") -> None:
        """``killed``: the state whose record is the verb's last work."""
        data = self.data if verb == "import" else b""
        if killed:
            assert self.host[role].call(byfile.crash, killed, verb, data)[0]
            return
        allow = ("not-saved",) if verb == "giveback" else ()
        said = self.host[role].call(byfile.verb, verb, data, allow)
        self.data = said or self.data

    def boots(self, role: str) -> list[str]:
        """A host loses power and boots, with targetcli's restore and then our recover."""
        self.cut(role)
        self.boot(role)
        self.host[role].call(byfile.recover)
        self.one_serves()
        return self.serving()


class NewerCarried(Carried):
    """Hosts that have the newer rtslib."""

    rtslib = NEWER


@pytest.fixture
def carried(bed: lab.Lab, hosts: HostsOf) -> Iterator[Callable[..., Carried]]:
    made: list[Carried] = []

    def make(kind: type[Carried] = Carried) -> Carried:
        for host in [host for pair in made for host in pair.host.values()]:
            host.kill()
        made.append(kind(bed, *hosts("stable", "newest")))
        return made[-1]
    yield make
    for host in [host for pair in made for host in pair.host.values()]:
        host.kill()


def test_the_source_boots_after_each_step(carried: Callable[[], Carried]) -> None:
    """It serves again only where nothing was given away."""
    pair = carried()
    pair.step("freeze", SOURCE)
    assert pair.boots(SOURCE) == [SOURCE]
    assert registered(pair, SOURCE) == pair.before
    pair.step("freeze", SOURCE)
    pair.step("export", SOURCE)
    assert pair.boots(SOURCE) == []
    assert pair.host[SOURCE].call(byfile.states) == [("source", "released")]
    answer, = pair.host[SOURCE].call(byfile.recover)
    assert answer.undecided and "another host may serve it" in answer.notes[0]
    assert f"lio-handover thaw {TARGET} --allow exported" in answer.next
    pair.step("import", DESTINATION)
    assert pair.boots(SOURCE) == [DESTINATION]
    pair.step("remove", SOURCE)
    assert pair.boots(SOURCE) == [DESTINATION]
    assert registered(pair, DESTINATION) == pair.before
    assert pair.host[SOURCE].call(inhandover.stores) == []


@pytest.mark.full
@pytest.mark.parametrize("count", range(1, len(FLOW) + 1))
@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
def test_a_host_boots_after_a_step(carried: Callable[[], Carried], count: int, role: str) -> None:
    pair = carried()
    for verb, whose, _serving in FLOW[:count]:
        pair.step(verb, whose)
    serving = pair.boots(role)
    assert serving == ([SOURCE] if count == 1 and role == SOURCE else FLOW[count - 1][2])
    for verb, whose, _serving in FLOW[count:] if serving != [SOURCE] else FLOW:
        pair.step(verb, whose)
        pair.one_serves()
    assert pair.serving() == [DESTINATION]
    assert registered(pair, DESTINATION) == pair.before


#: (role, state that it is in when its host loses power) → (verbs before, * for the destination's,
#: the last killed when it has recorded the state after >; who serves after the boot).
STATES = {
    (SOURCE, "idle"): ("freeze thaw", [SOURCE]),
    (SOURCE, "freezing"): ("freeze>freezing", [SOURCE]),
    (SOURCE, "frozen"): ("freeze", [SOURCE]),
    (SOURCE, "thawing"): ("freeze thaw>thawing", [SOURCE]),
    (SOURCE, "released"): ("freeze export", []),
    (SOURCE, "retiring"): ("freeze export import* remove>retiring", [DESTINATION]),
    (SOURCE, "retired"): ("freeze export import* remove", [DESTINATION]),
    (DESTINATION, "none"): ("freeze export", []),
    (DESTINATION, "armed"): ("freeze export import*>armed", []),
    (DESTINATION, "aborting"): ("freeze export import*>armed recover*>aborting", []),
    (DESTINATION, "confirmed"): ("freeze export import*", [DESTINATION]),
    (DESTINATION, "given"): ("freeze export import* giveback*", [DESTINATION]),
}


def test_each_state_of_this_mode_is_booted_in() -> None:
    assert set(STATES) == {(row.role, state) for row in TRANSITIONS if Mode.FILE in row.modes
                           for state in (row.state, row.to)}


@pytest.mark.full
@pytest.mark.parametrize("kind", [pytest.param(Carried, id="rtslib"),
                                  pytest.param(NewerCarried, id="newer-rtslib")])
@pytest.mark.parametrize("role, state", STATES, ids=["-".join(place) for place in STATES])
def test_a_host_that_lost_power_in_a_state_comes_back_to_one_owner(
        carried: Callable[[type[Carried]], Carried], role: str, state: str, kind: type[Carried]
) -> None:
    """Nothing is lost, a second recover does nothing, and then it goes on to the other host."""
    pair = carried(kind)
    verbs, serving = STATES[role, state]
    for verb in verbs.split():
        name, _, killed = verb.replace("*", "").partition(">")
        pair.step(name, DESTINATION if "*" in verb else SOURCE, killed)
    there = pair.host[role].call(byfile.states)
    assert there == ([] if state in ("idle", "none") else [(role, state)])
    assert pair.boots(role) == serving
    for host in pair.host.values():
        assert host.call(byfile.recover_again)[0] == 0
    if serving == [SOURCE]:
        assert registered(pair, SOURCE) == pair.before
        assert pair.host[SOURCE].call(inhandover.saved) == {TARGET: True}
    done = [] if serving == [SOURCE] else ["freeze", "export"] + (serving and ["import"])
    for verb, whose, _serving in FLOW:
        if verb not in done and not (verb == "remove" and state in ("retiring", "retired")):
            pair.step(verb, whose)
            pair.one_serves()
    assert pair.serving() == [DESTINATION] and registered(pair, DESTINATION) == pair.before
    assert pair.host[SOURCE].call(inhandover.saved) == {}
    assert pair.host[DESTINATION].call(inhandover.saved) == (
        {TARGET: True} if state == "given" else {})


@pytest.mark.full
def test_targetclis_unit_is_restarted_while_the_target_is_away(
        carried: Callable[[], Carried]) -> None:
    pair = carried()
    for verb, role, serving in FLOW:
        pair.step(verb, role)
        for host in pair.host.values():
            host.call(inhandover.restart_targetcli)
        pair.one_serves()
        assert pair.serving() in (serving, [])


def test_only_a_word_brings_an_exported_target_back(bed: lab.Lab, hosts: HostsOf) -> None:
    a, = hosts("stable")
    a.call(inhost.build, inhandover.state(bed.shared))
    before = a.call(inhost.export_state)
    a.call(byfile.verb, "freeze")
    data = a.call(byfile.verb, "export")
    assert a.call(byfile.verb, "export") == data
    with pytest.raises(errors.InUse, match="another host may serve it.*--allow exported"):
        a.call(byfile.verb, "thaw")
    a.call(byfile.verb, "thaw", b"", ("exported",))
    assert a.call(inhandover.gates) == {f"{TARGET}/tpgt_1": "1"}
    assert a.call(inhost.export_state) == before and a.call(byfile.states) == []
    a.call(byfile.verb, "freeze")
    later = documents.loads(a.call(byfile.verb, "export"))
    assert [one.epoch for one in later.carried] == [2]


def test_a_document_is_imported_once(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "newest")
    a.call(inhost.build, inhandover.state(bed.shared))
    a.call(byfile.verb, "freeze")
    first = a.call(byfile.verb, "export")
    b.call(byfile.verb, "import", first)
    b.call(byfile.verb, "import", first)  # it serves just that
    b.call(byfile.verb, "freeze")
    with pytest.raises(errors.InUse, match="under way"):
        b.call(byfile.verb, "import", first)
    b.call(byfile.verb, "export")
    b.call(byfile.verb, "remove")
    with pytest.raises(errors.StaleEpoch, match="this document was imported here before"):
        b.call(byfile.verb, "import", first)
    with pytest.raises(errors.InUse, match="under way"):
        a.call(byfile.verb, "import", first)
    a.call(byfile.verb, "remove")
    with pytest.raises(errors.StaleEpoch, match="this host has exported it itself"):
        a.call(byfile.verb, "import", first)
    assert a.call(inhandover.gates) == b.call(inhandover.gates) == {}
    a.call(byfile.verb, "import", first, ("exported",))
    assert a.call(inhandover.gates) == {f"{TARGET}/tpgt_1": "1"}


def test_an_import_that_was_taken_back_may_be_tried_again(bed: lab.Lab, hosts: HostsOf) -> None:
    a, b = hosts("stable", "newest")
    a.call(inhost.build, inhandover.state(bed.shared))
    a.call(byfile.verb, "freeze")
    data = a.call(byfile.verb, "export")
    before = b.call(inhost.tree)
    with pytest.raises(errors.KernelRefused, match="nothing was changed"):
        b.call(import_without_gate, data)
    assert b.call(inhost.tree) == before and b.call(byfile.states) == []
    b.call(byfile.verb, "import", data)
    assert b.call(byfile.states) == [("destination", "confirmed")]


def import_without_gate(data: bytes) -> None:
    from tests.kernel.test_destination_conflicts import NoGate
    one = inhost.core(NoGate())
    one.import_(one.ready(documents.loads(data)))


# ---- killed anywhere ----------------------------------------------------------------------------

#: What is killed: the verbs before it, the verb, whose.
KILLED = {name: (FLOW[:number], name, role) for number, (name, role, _) in enumerate(FLOW)}
KILLED["thaw"] = (FLOW[:1], "thaw", SOURCE)


class Killed:
    """A pair of hosts that is brought to the same place again and again."""

    def __init__(self, bed: lab.Lab, a: lab.Host, b: lab.Host) -> None:
        self.pair, self.state = Two(a, b), inhandover.state(bed.shared)
        b.call(inhandover.save)
        a.call(inhost.build, self.state)
        a.call(inhandover.save)
        self.before, self.saved = held(self.pair, SOURCE), a.call(inhandover.save_file)

    def at(self, name: str, point: int) -> bool:
        before, verb, role = KILLED[name]
        hosts, data = self.pair.host, b""
        for earlier, whose, _serving in before:
            data = hosts[whose].call(byfile.verb, earlier, data) or data
        killed, said = hosts[role].call(byfile.crash, point, verb, data)
        assert len(self.pair.serving()) < 2
        for host in hosts.values():
            host.call(byfile.recover)
            assert len(self.pair.serving()) < 2
            changes, _states = host.call(byfile.recover_again)
            assert changes == 0
        self.finish(said or data)
        return bool(killed)

    def finish(self, data: bytes) -> None:
        """On as a human would who looks at both hosts."""
        a, b = self.pair.host.values()
        serving = self.pair.serving()
        there = {host: host.call(byfile.states) for host in (a, b)}
        if not serving:
            assert there[a] == [("source", "released")]
            data = data or a.call(byfile.verb, "export")
            b.call(byfile.verb, "import", data)
            serving = self.pair.serving()
        assert len(serving) == 1
        assert held(self.pair, serving[0]) == self.before
        assert self.pair.host[serving[0]].call(inhandover.saved) == (
            {TARGET: True} if serving == [SOURCE] else {})
        assert self.pair.host[PEER[serving[0]]].call(inhandover.saved) == {}
        if serving == [DESTINATION]:
            if a.call(byfile.states)[-1][1] != "retired":
                a.call(byfile.verb, "remove")
            b.call(inhost.remove, ("reserved",))
            b.call(inhandover.save_file, b"")
            a.call(inhost.build, self.state)
            a.call(inhandover.save_file, self.saved)
        for host in (a, b):
            host.call(inhost.forget_all)


@pytest.fixture
def killed(bed: lab.Lab, hosts: HostsOf) -> Killed:
    return Killed(bed, *hosts("stable", "newest"))


@pytest.mark.parametrize("name, point", [("freeze", 6), ("import", 40), ("remove", 9)])
def test_a_verb_that_is_killed_leaves_a_way_on(killed: Killed, name: str, point: int) -> None:
    assert killed.at(name, point)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KILLED)
def test_a_verb_killed_anywhere_leaves_a_way_on(killed: Killed, name: str) -> None:
    point = 0
    while killed.at(name, point := point + 1):
        pass
    print(f"{name}: {point - 1} points")
    assert point > 8

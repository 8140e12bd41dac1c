"""Which portals a host can have side by side; a gate that nobody can reach is no success."""
from __future__ import annotations

import itertools
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.kernel import portals
from lio_handover.model.keys import portal_key
from lio_handover.model.objects import Portal, State
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.conftest import HostsOf
from tests.kernel.test_ports import ONE, TWO, called
from tests.kernel.test_preflight import small
from tests.lab.inside import TARGET
from tests.support import inhandover, inhost

ANY, HERE, LOOP = "0.0.0.0:3260", "198.18.0.100:3260", "127.0.0.1:3260"
ANY6, LOOP6, SIX, MAPPED = ("[::]:3260", "[::1]:3260", "[fd00::5]:3260",
                            "[::ffff:198.18.0.100]:3260")
FORMS = (ANY, HERE, LOOP, ANY6, LOOP6, SIX, MAPPED)
SYSCTL = Path("/proc/sys/net/ipv6/bindv6only")


# ── rules ────────────────────────────────────────────────────────────────────────────────────

def at(name: str) -> portals.Address:
    found = portals.address(name)
    assert found is not None
    return found


@pytest.mark.parametrize("name, meant", [
    ("127.000.000.001:03264", "127.0.0.1:1716"), ("0.0.0.0:0xcbc", ANY), ("[0:0::1]:3260", LOOP6),
    ("[fe80::1%vec0]:3260", "[fe80::1%vec0]:3260"), (MAPPED, MAPPED)])
def test_a_name_means_what_the_kernel_makes_of_it(name: str, meant: str) -> None:
    assert str(at(name)) == meant


@pytest.mark.parametrize("name", ["", "3260", "10.0.0.1", "10.0.0:3260", "[::g]:1", "1.2.3.400:1"])
def test_what_is_no_address_is_none(name: str) -> None:
    assert portals.address(name) is None


@pytest.mark.parametrize("v6_only", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_in_their_order_all_listen_that_could_in_any(same: bool, v6_only: bool) -> None:
    """Of every pair: if some order lets both listen, the one of the plan does."""
    for pair in itertools.combinations(FORMS, 2):
        both = {two: portals.beside(at(two[1]), at(two[0]), same, v6_only) == portals.FINE
                for two in itertools.permutations(pair)
                if not (v6_only and at(two[0]).mapped)}
        chosen = tuple(sorted(pair, key=portals.order))
        if any(both.values()):
            ordered = [two for two in both if tuple(map(portals.order, two)) == tuple(
                map(portals.order, chosen))]
            assert all(both[two] for two in ordered), pair


@pytest.mark.parametrize("one, other", [*itertools.permutations(FORMS, 2)])
def test_other_ports_are_no_matter(one: str, other: str) -> None:
    assert portals.beside(at(one), at(other)._replace(port=1), True) == portals.FINE
    assert portals.beside(at(one), at(one), False) == portals.SHARED
    assert portals.beside(at(one), at(one), True) == portals.REFUSED


def test_a_link_local_address_is_one_on_each_network_device() -> None:
    one, other = at("[fe80::1%a]:3260"), at("[fe80::1%b]:3260")
    assert portals.beside(one, other, False) == portals.NOWHERE


# ── real kernels ─────────────────────────────────────────────────────────────────────────────

def make(wwn: str, name: str) -> bool:
    """Make a portal by bare hands; whether the kernel takes it."""
    try:
        (TARGET / "iscsi" / wwn / "tpgt_1" / "np" / name).mkdir(parents=True)
    except OSError:
        return False
    return True


def drop() -> None:
    for path in (TARGET / "iscsi").glob("iqn.*/tpgt_1/np/*"):
        path.rmdir()


def outcomes(forms: tuple[str, ...], both: tuple[bool, ...], v6_only: bool) -> list[str]:
    """Every pair of which the rules say something else than the kernel does."""
    subprocess.run(["modprobe", "iscsi_target_mod"], check=True)
    subprocess.run(["modprobe", "ipv6"])
    SYSCTL.write_text(str(int(v6_only)))
    wrong = []
    for same in both:
        for first, second in itertools.permutations(forms, 2):
            if not make(ONE, first):
                assert v6_only and at(first).mapped
                continue
            before = set(portals.listening().sockets)
            made = make(ONE if same else TWO, second)
            new = set(portals.listening().sockets) - before
            real = portals.REFUSED if not made else portals.FINE if new else portals.NOWHERE
            said = portals.beside(at(second), at(first), same, v6_only)
            if said != real:
                wrong.append(f"{second} after {first} ({same=}): {real}, not {said}")
            drop()
    SYSCTL.write_text("0")
    for wwn in (ONE, TWO):
        for path in (TARGET / "iscsi" / wwn / "tpgt_1", TARGET / "iscsi" / wwn):
            if path.exists():
                path.rmdir()
    return wrong


def test_the_rules_are_the_kernels(bed: lab.Lab, stable: lab.Host) -> None:
    assert stable.call(outcomes, (ANY, HERE, ANY6, LOOP6), (False,), False) == []


@pytest.mark.full
@pytest.mark.parametrize("v6_only", [False, True])
def test_the_rules_are_every_kernels(v6_only: bool, bed: lab.Lab, each_host: lab.Host) -> None:
    assert each_host.call(outcomes, FORMS, (False, True), v6_only) == []


def at_portals(state: State, *names: str) -> State:
    target, = state.targets
    tpg, = target.tpgs
    port = {"rtpi": "1" if target.wwn == ONE else "2"}
    return replace(state, targets=(replace(target, tpgs=(replace(
        tpg, attributes={**tpg.attributes, **port}, portals=tuple(
            Portal(portal_key(tpg.key, name), {"iser": "0", "cxgbit": "0"})
            for name in names)),)),))


def served(shared: Path, wwn: str, *names: str) -> State:
    return at_portals(called(small(shared, {}), wwn), *names)


def frozen(state: State) -> bytes:
    """The document of a frozen target that is nowhere any more."""
    inhost.build(state)
    inhost.freeze()
    data = inhost.export()
    inhost.remove()
    return data


def found(data: bytes, *maps: str) -> list[str]:
    """What a plan says against it."""
    return [f"{one.subject}: {one.sentence}; {one.do}" for one in
            inhost.core().ready(documents.loads(data), maps).findings]


def plans_and_imports(data: bytes, *maps: str) -> tuple[str, list[str], list[str]]:
    """(what an import says, what a plan did, what the import left behind)."""
    before = inhost.tree()
    said = found(data, *maps)
    one = inhost.core()
    try:
        one.import_(one.ready(documents.loads(data), maps))
    except errors.HandoverError as error:
        return str(error), said, inhost.differences(before, inhost.tree())
    one.verify(documents.loads(data), maps)
    portals.check(inhost.read_all())
    one.freeze([("iscsi", ONE)])
    one.remove([f"iscsi/{ONE}"])
    inhost.forget_all()
    return "", said, []


def test_a_portal_that_another_target_has_is_found_by_the_plan(
        bed: lab.Lab, newest: lab.Host) -> None:
    documents_of = {name: newest.call(frozen, served(bed.shared, ONE, name))
                    for name in (ANY, HERE, ANY6)}
    newest.call(inhost.build, served(bed.shared, TWO, ANY))
    said, plan, left = newest.call(plans_and_imports, documents_of[HERE])
    assert f"{HERE}: {ANY} of iscsi/{TWO} has the port" in said and left == []
    assert plan and f"--map portal:{HERE}={ANY}" in plan[0] and "nothing was changed" in said
    assert newest.call(plans_and_imports, documents_of[HERE], f"portal:{HERE}={ANY}")[0] == ""
    assert newest.call(plans_and_imports, documents_of[ANY])[0] == ""     # one socket for both
    said, plan, left = newest.call(plans_and_imports, documents_of[ANY6])
    assert "nobody could reach it: this kernel would take it for " + ANY in said and plan
    assert left == []


@pytest.mark.parametrize("there, wanted, said", [
    pytest.param(HERE, ANY, f"{HERE} of iscsi/{TWO} has the port", id="any after one"),
    pytest.param(LOOP6, ANY, f"take it for {LOOP6} of iscsi/{TWO}", id="IPv4 any after IPv6"),
    pytest.param(LOOP6, ANY6, f"{LOOP6} of iscsi/{TWO} has the port", id="IPv6 any after one",
                 marks=pytest.mark.full),
    pytest.param(ANY6, HERE, f"{ANY6} of iscsi/{TWO} has the port", id="IPv4 after IPv6 any",
                 marks=pytest.mark.full),
    pytest.param(MAPPED, HERE, f"{MAPPED} of iscsi/{TWO} has the port", id="the same, mapped",
                 marks=pytest.mark.full)])
def test_what_listens_nowhere_is_no_success(there: str, wanted: str, said: str, bed: lab.Lab,
                                            stable: lab.Host) -> None:
    data = stable.call(frozen, served(bed.shared, ONE, wanted))
    stable.call(inhost.build, served(bed.shared, TWO, there))
    told, plan, left = stable.call(plans_and_imports, data)
    assert said in told and said in plan[0] and left == []


def without_looking(data: bytes) -> tuple[str, list[str]]:
    """An import where somebody else was faster than the plan."""
    before, kept = inhost.tree(), portals.findings
    setattr(portals, "findings", lambda *_: [])
    try:
        inhost.import_(data)
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}", inhost.differences(before, inhost.tree())
    finally:
        setattr(portals, "findings", kept)
    return "", []


def dead(wwn: str, data: bytes) -> str:
    """Take its portal away, and make it anew behind another target's: it listens nowhere."""
    np = TARGET / "iscsi" / wwn / "tpgt_1" / "np"
    (np / ANY).rmdir()
    assert make(TWO, LOOP6) and make(wwn, ANY)
    try:
        inhost.core().verify(documents.loads(data))
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def shown_notes() -> tuple[str, ...]:
    return inhost.core().view().notes


def test_the_gate_is_not_opened_where_nobody_listens(bed: lab.Lab, newest: lab.Host) -> None:
    data = newest.call(frozen, served(bed.shared, ONE, ANY))
    newest.call(inhost.import_, data)
    said = newest.call(dead, ONE, data)       # and verify is not content with it
    assert said.startswith("VerifyFailed") and f"tpg1/{ANY}: no socket listens there" in said
    assert newest.call(shown_notes) == (
        f"iscsi/{ONE}/tpg1/{ANY}: no socket listens there, so nobody can log in by it",)
    newest.call(inhost.freeze)
    newest.call(inhost.remove)
    newest.call(inhost.build, served(bed.shared, TWO, LOOP6))
    said, left = newest.call(without_looking, data)
    assert said.startswith("VerifyFailed") and "no socket listens there" in said and left == []


def with_program(data: bytes, family: int, host: str) -> tuple[str, list[str], list[str]]:
    with socket.socket(family) as program:
        program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        program.bind((host, 3260))
        program.listen()
        return plans_and_imports(data)


def test_a_program_that_has_the_port_is_named(bed: lab.Lab, stable: lab.Host) -> None:
    data = stable.call(frozen, served(bed.shared, ONE, HERE))
    said, plan, left = stable.call(with_program, data, socket.AF_INET, "0.0.0.0")
    assert "has the port" in said and "(pid " in said and left == [] and plan
    assert "stop that, or --map portal:" in said
    assert stable.call(plans_and_imports, data)[0] == ""
    # It need not have the port of all addresses.
    assert stable.call(with_program, data, socket.AF_INET, "127.0.0.1")[0] == ""


@pytest.mark.parametrize("names", [
    (LOOP6, ANY), pytest.param((SIX, LOOP6, ANY), marks=pytest.mark.full)])
def test_all_portals_of_a_document_listen_in_any_order(names: tuple[str, ...], bed: lab.Lab,
                                                       oldest: lab.Host) -> None:
    data = oldest.call(frozen, served(bed.shared, ONE, *names))
    assert oldest.call(plans_and_imports, data) == ("", [], [])


def test_a_document_at_odds_with_itself_or_this_host_is_refused(
        bed: lab.Lab, stable: lab.Host) -> None:
    data = stable.call(frozen, served(bed.shared, ONE, LOOP, "127.0.0.2:3260"))
    said = stable.call(found, data, "portal:127.0.0.1=0.0.0.0")
    assert len(said) == 1
    assert "127.0.0.2:3260: 0.0.0.0:3260 of iscsi/" in said[0] and "of the same document" in said[0]
    said = stable.call(found, data, f"portal:{LOOP}=[fe80::1%nowhere]:3260")
    assert len(said) == 1 and "this host has no network device nowhere" in said[0]


def test_who_holds_a_socket_is_known() -> None:
    with socket.socket() as mine:
        inode = os.fstat(mine.fileno()).st_ino
        assert portals.holder(inode).endswith(f"(pid {os.getpid()})")
    assert portals.holder(inode) == ""


def test_stage_refuses_what_the_plan_does(bed: lab.Lab, hosts: HostsOf) -> None:
    """While the source serves; its kernel, of 6.1.176, is warned of where handovers stand."""
    old, new = hosts("oldest", "newest")
    old.call(inhost.build, served(bed.shared, ONE, HERE))
    offer = old.call(inhandover.do, "prepare", SOURCE, targets=(f"iscsi/{ONE}",))
    for notes in (offer.notes, old.call(inhandover.status)[-1].notes):
        assert len([one for one in notes if "lacks the fixes of CVE-2026-72084" in one]) == 1
    new.call(inhost.build, served(bed.shared, TWO, ANY))
    before = new.call(inhost.tree)
    with pytest.raises(errors.InUse, match=f"{ANY} of iscsi/{TWO} has the port.*--map portal:"):
        new.call(inhandover.do, "stage", DESTINATION, messages=offer.messages)
    assert new.call(inhost.tree) == before
    staged = new.call(inhandover.do, "stage", DESTINATION, messages=offer.messages,
                      maps=(f"portal:{HERE}={ANY}",))
    assert staged.handover.state == "staged" and not staged.notes

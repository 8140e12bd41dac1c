"""Initiators without ACLs of their own keep what they hold: on real kernels, with real ones."""
from __future__ import annotations

from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.kernel.configfs import Configfs
from lio_handover.model import dynamic_acls, pr_texts, reservations
from lio_handover.model.keys import backstore_key, lun_key, portal_key, target_key, tpg_key
from lio_handover.model.objects import (Backstore, Lun, Portal, Registration, Reservations, Secret,
                                        State, Target, Tpg)
from lio_handover.model.reservations import ANY_INITIATOR, NexusPath
from lio_handover.scsi import cdb
from tests import lab
from tests.conftest import HostsOf
from tests.lab import scenario
from tests.lab.scenario import ADDRESS, ALICE, BOB, CONFLICT, WRONG
from tests.support import inhost, samples

CAROL = "iqn.2026-11.org.example:carol"
IQN = "iqn.2026-11.org.example:demo"
CHAP = lab.Chap("alice", "correct horse")
PATH = f"iscsi/{IQN}/tpgt_1"


def served(shared: Path) -> State:
    """Two disks; whoever knows the secret may use them."""
    stores = []
    for number in range(2):
        path = shared / f"demo{number}.img"
        path.write_bytes(b"\0" * lab.MiB)
        stores.append(Backstore(
            backstore_key("fileio", f"demo{number}"),
            {"fd_dev_name": str(path), "fd_dev_size": str(lab.MiB)},
            {"wwn/vpd_unit_serial": f"demo-{number}"}))
    key = target_key("iscsi", IQN)
    tpg = tpg_key(key, 1)
    return State((), tuple(stores), (Target(key, {}, (Tpg(
        tpg, {"attrib/authentication": "1", "attrib/generate_node_acls": "1",
              "attrib/demo_mode_write_protect": "0", "attrib/default_cmdsn_depth": "32",
              "auth/userid": CHAP.user, "auth/password": Secret(CHAP.password), "rtpi": "1",
              "enable": "1"},
        (Portal(portal_key(tpg, "0.0.0.0:3260")),),
        tuple(Lun(lun_key(tpg, number), store.key, "link")
              for number, store in enumerate(stores))),)),))


def explicit(names: tuple[str, ...]) -> dict[str, tuple[str, str, list[str]]]:
    """ACL → (its user, its depth, write protection of its LUNs)."""
    fs = Configfs()
    assert set(fs.names(f"{PATH}/acls")) == set(names)
    return {name: (fs.read(f"{PATH}/acls/{name}/auth/userid").strip(),
                   fs.read(f"{PATH}/acls/{name}/cmdsn_depth").strip(),
                   [fs.read(f"{PATH}/acls/{name}/lun_{lun}/write_protect").strip()
                    for lun in range(2)]) for name in names}


@pytest.mark.parametrize("source, destination", [
    ("oldest", "newest"), pytest.param("newest", "stable", marks=pytest.mark.full)])
def test_a_reservation_of_who_has_no_acl_holds_before_he_is_back(
        bed: lab.Lab, hosts: HostsOf, client: lab.OpenIscsi, source: str,
        destination: str) -> None:
    a, b = hosts(source, destination)
    for host in (a, b):
        host.call(scenario.configure, str(bed.shared))
    a.call(inhost.build, served(bed.shared))
    bed.move_address(ADDRESS, None, a)
    sessions = {name: client.login(IQN, ADDRESS, name, CHAP) for name in (ALICE, BOB)}

    def write(session: lab.Session, lun: int = 0) -> str:
        return client.host.call(scenario.ask, session.generic()[lun],
                                cdb.write_10(8, bytes(512)))

    alice = sessions[ALICE].disk(0)
    alice.register(0xA1)
    alice.reserve(0xA1, 5)
    right = {ALICE: "done", BOB: CONFLICT}
    assert {name: write(one) for name, one in sessions.items()} == right

    a.run([scenario.PROGRAM, "freeze", f"iscsi/{IQN}"])
    exported = a.run([scenario.PROGRAM, "export", f"iscsi/{IQN}"])
    for name in (ALICE, BOB):
        assert f"{name}, there by a dynamic ACL, gets one of its own" in exported.stderr
    planned = b.run([scenario.PROGRAM, "plan", "-"], input=exported.stdout.encode())
    assert f"{ALICE}, there by a dynamic ACL" in " ".join(planned.stdout.split())
    imported = b.run([scenario.PROGRAM, "import", "-"], input=exported.stdout.encode())
    assert CHAP.password not in planned.stdout + imported.stderr + exported.stderr
    assert b.call(explicit, (ALICE, BOB)) == {
        name: (CHAP.user, "32", ["0", "0"]) for name in (ALICE, BOB)}

    # Alice is not back yet: a stranger is let in, as on A, and kept off her disk.
    stranger = client.login(IQN, b.address, CAROL, CHAP)
    assert [write(stranger, lun) for lun in (0, 1)] == [CONFLICT, "done"]
    bed.move_address(ADDRESS, a, b)
    for one in sessions.values():
        one.wait_for("LOGGED_IN", 60)
    assert {name: write(one) for name, one in sessions.items()} == right
    assert sessions[ALICE].disk(0).keys() == [0xA1]
    with pytest.raises(Exception, match="authorization|login"):
        client.login(IQN, ADDRESS, "iqn.2026-11.org.example:mallory", WRONG)


@pytest.mark.full
def test_an_acl_made_explicit_is_one_of_the_kernel_s(each_host: lab.Host, bed: lab.Lab) -> None:
    """An ACL that was made explicit differs in nothing from one which the kernel makes."""
    each_host.call(inhost.build, served(bed.shared))
    state = each_host.call(inhost.read_all)
    wanted, _notes = dynamic_acls.with_explicit_acls(state, {state.targets[0].tpgs[0].key: [ALICE]})
    each_host.call(fresh_acl)
    acl, = each_host.call(inhost.read_all).targets[0].tpgs[0].acls
    mine = dict(wanted.targets[0].tpgs[0].acls[0].attributes)
    assert {mine.pop("auth/userid"), mine.pop("auth/password").encode()} == {
        CHAP.user, CHAP.password.encode()}
    assert mine == dict(acl.attributes)


def fresh_acl() -> None:
    Configfs().mkdir(f"{PATH}/acls/{ALICE}")


def demo(*held: Registration, sessions: tuple[str, ...] = (), makes: str = "1") -> State:
    """The sample target; its first ACL is explicit, all others dynamic."""
    state = samples.iscsi(luns=2)
    target, = state.targets
    tpg, = target.tpgs
    store, other = state.backstores
    return State((), (Backstore(store.key, store.parameters, store.attributes, reservations=(
        Reservations(1, False, 0, None, held))), other), (Target(target.key, {}, (Tpg(
            tpg.key, {**tpg.attributes, "attrib/generate_node_acls": makes,
                      "attrib/demo_mode_write_protect": "1", "auth/userid": "NULL"},
            tpg.portals, tpg.luns, tpg.acls, sessions),)),))


def registration(initiator: str, tpgt: int = 1) -> Registration:
    return Registration(initiator, "00023d000001", 1, "iSCSI", samples.IQN, tpgt, 0, 0)


def test_who_gets_an_acl() -> None:
    own = samples.initiator(0)
    state = demo(registration(ALICE), registration(own), registration(CAROL, 2),
                 sessions=(own, BOB, BOB))
    key = state.targets[0].tpgs[0].key
    made, notes = dynamic_acls.with_explicit_acls(state, {key: [own, "iqn.x:noted"]})
    acls = made.targets[0].tpgs[0].acls
    assert [acl.initiator for acl in acls] == [own, ALICE, BOB, "iqn.x:noted"]
    assert acls[0] == state.targets[0].tpgs[0].acls[0] and len(notes) == 3
    assert [(one.number, one.lun, one.attributes) for one in acls[1].mapped_luns] == [
        (number, number, {"write_protect": "1"}) for number in range(2)]
    assert acls[1].attributes["cmdsn_depth"] == "64" and "auth/userid" not in acls[1].attributes
    document = samples.document(made)
    assert documents.loads(documents.dumps(document)).state == documents.canonical(made)
    off = demo(registration(ALICE), sessions=(BOB,), makes="0")
    assert dynamic_acls.with_explicit_acls(off, {key: [CAROL]}) == (off, ())


@pytest.mark.full
def test_whose_dynamic_acl_would_end_is_refused(bed: lab.Lab, stable: lab.Host,
                                                client: lab.OpenIscsi) -> None:
    """generate_node_acls was switched off under a session: it could not come back."""
    stable.call(inhost.build, served(bed.shared))
    client.login(IQN, stable.address, ALICE, CHAP)
    stable.call(no_more)
    with pytest.raises(errors.CannotRepresent, match=f"{ALICE} is there by a dynamic ACL"):
        stable.call(inhost.freeze)
    assert stable.call(inhost.read_all).targets[0].tpgs[0].attributes["enable"] == "1"


@pytest.mark.full
def test_a_removal_that_fails_keeps_what_was_held_without_an_acl(
        bed: lab.Lab, stable: lab.Host, client: lab.OpenIscsi) -> None:
    stable.call(inhost.build, served(bed.shared))
    disk = client.login(IQN, stable.address, ALICE, CHAP).disk(0)
    disk.register(0xA2)
    disk.register(0xA1, 0xA2)
    disk.reserve(0xA1, 5)
    stable.call(inhost.freeze)
    before = stable.call(inhost.read_all).backstores[0].reservations
    last = stable.call(removal_that_fails)
    assert len(last) > 1 and "nothing was changed" in last[0]
    assert f"all is as it was, but: {IQN}" in last[-1].replace("iscsi/", "")
    assert stable.call(inhost.read_all).backstores[0].reservations == before
    assert list(stable.call(explicit, (ALICE,))) == [ALICE]


def removal_that_fails() -> list[str]:
    """What is said where a removal fails at each of its changes, until it can't be as before."""
    said: list[str] = []
    while not said or "nothing was changed" in said[-1]:
        try:
            inhost.core(inhost.Stopping(len(said) + 1, "before")).remove([], True, ("reserved",))
        except errors.HandoverError as error:
            said.append(str(error))
    return said


def no_more() -> None:
    Configfs().write(f"{PATH}/attrib/generate_node_acls", b"0\n")


def test_the_way_of_a_registration_without_an_acl_is_found_or_refused() -> None:
    def read(*places: tuple[str, NexusPath]) -> list[Registration]:
        ways: dict[str, list[NexusPath]] = {}
        for name, place in places:
            ways.setdefault(name, []).append(place)
        return list(reservations.read(pr_texts.PrFiles(
            "SPC3_PERSISTENT_RESERVATIONS", "No SPC-3 Reservation holder", "",
            "SPC-3 PR Registrations:\n"
            f"iSCSI Node: {ALICE},i,0x00023d000001 Key: 0x{1:016x} PRgen: 0x00000001\n",
            "0x00000001", "APTPL Bit Status: Disabled", "", ""), ways).registrations)

    anyone = NexusPath("iSCSI", samples.IQN, 2, 3, 3)
    own = NexusPath("iSCSI", samples.IQN, 1, 0, 7)
    found, = read((ANY_INITIATOR, anyone))
    assert (found.tpgt, found.lun, found.mapped_lun) == (2, 3, 3)
    found, = read((ANY_INITIATOR, anyone._replace(but=frozenset((ALICE,)))), (ALICE, own))
    assert (found.tpgt, found.lun, found.mapped_lun) == (1, 0, 7)
    with pytest.raises(pr_texts.Ambiguous, match="2 TPGs"):
        read((ANY_INITIATOR, anyone), (ALICE, own))
    with pytest.raises(pr_texts.Ambiguous, match="makes no dynamic ones"):
        read((ANY_INITIATOR, anyone._replace(but=frozenset((ALICE,)))))

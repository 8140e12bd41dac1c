"""Where recover can't know it says what a human may order; and what else goes wrong has a name."""
from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.protocol.table import DESTINATION, SOURCE
from lio_handover.system.locks import Locks
from tests import lab
from tests.handover.test_engine import FIRST, WAY, Two, held, two
from tests.handover.test_power import Powered, powered
from tests.lab.scenario import PROGRAM
from tests.support import inhandover, inhost, samples
from tests.support.inhandover import OTHER, TARGET

__all__ = ["powered", "two"]


def printed(host: lab.Host, words: str) -> tuple[int, list[str]]:
    """(exit code, commands that it prints) of a command as a person would run it."""
    host.call(inhandover.configure)
    done = host.run([PROGRAM, *shlex.split(words)[1:]], check=False, timeout=60)
    return done.returncode, re.findall(r"lio-handover recover \S+(?: --[a-z-]+)*$",
                                       done.stderr, re.M)


@pytest.mark.parametrize("count, off, then", [
    pytest.param(6, DESTINATION, ["forced", ""], id="released"),
    pytest.param(6, SOURCE, ["", "confirmed"], id="armed", marks=pytest.mark.full)])
def test_the_printed_commands_lead_out(two: Callable[[str, str], Two], count: int, off: str,
                                       then: list[str]) -> None:
    """One host is off and the other stays closed, until a human says what it can't see."""
    pair = two("stable", "newest")
    pair.go(" ".join(WAY.split()[:count]))
    role = DESTINATION if off == SOURCE else SOURCE
    pair.host[off].kill()
    pair.host[role].call(inhandover.open_gates)     # as a restore by targetcli does
    code, commands = printed(pair.host[role], f"lio-handover recover {pair.id}")
    assert (code, "1" in pair.host[role].call(inhandover.gates).values()) == (
        errors.Undecided.code, False)
    code, _ = printed(pair.host[role], commands[-1])
    assert code == 0
    assert pair.state(role) == max(then)
    assert set(pair.host[role].call(inhandover.gates).values()) == {"1"}
    assert '"by": "' in pair.host[role].call(inhandover.told, pair.id)


@pytest.mark.full
def test_forced_on_one_side_the_other_steps_down_when_it_boots(
        powered: Callable[[], Powered]) -> None:
    pair = powered()
    pair.go(WAY.partition(" verify*")[0])
    pair.cut(DESTINATION)
    stays = pair.recover(SOURCE, silent=True)
    assert stays.undecided and pair.serving() == []
    beside = pair.host[SOURCE].call(inhandover.recover_beside, pair.id,
                                    frozenset({"peer-is-fenced"}))
    assert beside.undecided and "--peer-is-fenced" not in beside.next and pair.serving() == []
    pair.recover(SOURCE, silent=True, words=["peer-is-fenced"])
    assert pair.state(SOURCE) == "forced" and pair.serving() == [SOURCE]
    pair.boot(DESTINATION)
    assert pair.recover(DESTINATION, silent=True).next.endswith(" --peer-is-fenced")
    assert pair.serving() == [SOURCE]
    pair.recover(DESTINATION)
    pair.recover(SOURCE)
    assert pair.states() == ("idle", "none") and pair.serving() == [SOURCE]


@pytest.mark.full
def test_a_destination_that_was_rebooted_asks_or_is_told(powered: Callable[[], Powered]) -> None:
    pair = powered()
    pair.go(WAY.partition(" retire")[0])
    pair.cut(DESTINATION)
    pair.cut(SOURCE)
    pair.boot(DESTINATION)
    code, commands = printed(pair.host[DESTINATION], f"lio-handover recover {pair.id}")
    assert code == errors.Undecided.code and pair.serving() == []
    assert printed(pair.host[DESTINATION], commands[-1])[0] == 0
    assert pair.state(DESTINATION) == "forced" and pair.serving() == [DESTINATION]
    pair.boot(SOURCE)
    pair.recovered()


@pytest.mark.full
@pytest.mark.parametrize("verb, role, point", [("retire", SOURCE, 12), ("verify", DESTINATION, 6)])
def test_what_is_recorded_and_was_not_said_is_told(
        two: Callable[[str, str], Two], verb: str, role: str, point: int) -> None:
    """Killed between the record and the message: the other side hears of it all the same."""
    pair = two("stable", "newest")
    pair.go(WAY.partition(f" {verb}")[0])
    to = {"retire": "retired", "verify": "serving"}[verb]
    killed, _answer = pair.host[role].call(
        inhandover.crash, point, verb, role, pair.id, tuple(pair.messages), True)
    assert killed and pair.state(role) == to
    for side in (role, SOURCE, DESTINATION):
        pair.recover(side)
    assert pair.states() == ("retired", "confirmed")


@pytest.mark.full
def test_a_handover_by_the_commands_alone(bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    """As docs/internals/handover-protocol.md has it.

    Each side's messages are files, the ids are left out.
    """
    pair = two("stable", "newest")
    folder = bed.shared / "messages"
    folder.mkdir()
    said: list[str] = []
    for host in pair.host.values():
        host.call(inhandover.configure)
    for verb in WAY.split():
        role = DESTINATION if "*" in verb else SOURCE
        words = [role, verb.strip("*"), "--peer", "the other", "-o", f"{folder}/{len(said)}.json"]
        if verb == "prepare":
            words.append(TARGET)
        elif said:
            words += ["--messages", said[-1]]
        pair.host[role].run([PROGRAM, *words], timeout=120)
        if len(json.loads((folder / f"{len(said)}.json").read_text())):
            said.append(f"{folder}/{len(said)}.json")
        assert (folder / "0.json").stat().st_mode & 0o777 == 0o600
    pair.id = json.loads((folder / "0.json").read_text())[0]["handover"]
    assert pair.states() == ("retired", "confirmed") and pair.serving() == [DESTINATION]
    shown = pair.host[DESTINATION].run([PROGRAM, "status", "--json"], timeout=60).stdout
    assert json.loads(shown)["handovers"][0]["state"] == "confirmed" and "password" not in shown
    done = pair.host[SOURCE].run([PROGRAM, "source", "freeze", pair.id], check=False, timeout=60)
    assert done.returncode == errors.WrongState.code
    assert "the source is retired: freeze is not possible" in done.stderr


#: HOW HOST: what switches a host off, in the ways in which that goes wrong; and really.
FENCE = """#!/bin/sh
case $1 in
refuses) echo "no answer from the controller" >&2; exit 3 ;;
hangs) sleep 61321 & wait ;;
works) echo "$2" >{folder}/wanted; until [ -e {folder}/off ]; do sleep 0.1; done ;;
esac
"""


@pytest.mark.full
def test_the_other_host_is_believed_off_once_it_is(
        bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    """It serves and does not answer.  Whoever says that it is fenced is not believed, unless the
    configured program ends with 0: here the one that pulls its plug."""
    pair = two("stable", "newest")
    pair.go(WAY.partition(" verify*")[0])
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    program = bed.shared / "fence"
    program.write_text(FENCE.format(folder=bed.shared))
    program.chmod(0o755)
    bed.cut(b)

    def forced(how: str, peer: str = b.address, path: str = str(program)) -> tuple[int, str]:
        a.call(inhandover.configure, f"[fence]\nprogram =\n  {path}\n  {how}\ntimeout = 2\n")
        done = a.run([PROGRAM, "recover", pair.id, f"--peer={peer}", "--peer-is-fenced"],
                     check=False, timeout=60)
        return done.returncode, done.stderr

    for how, words, why in (
            ("refuses", {}, f"{program} {b.address} ended with 3: no answer from the controller"),
            ("hangs", {}, "did not end within 2 s and was killed"),
            ("works", {"path": "/nonexistent"}, "can't be run: No such file"),
            ("works", {"peer": "$(touch /run/ran)"}, "no name of a host"),
            ("works", {"peer": "--help"}, "no name of a host")):
        code, said = forced(how, **words)
        assert (code, pair.states(), pair.serving()) == (
            errors.FenceFailed.code, ("released", "opening"), [DESTINATION]), said
        assert why in said
    assert not a.call(samples.running, "61321") and not a.call(os.path.exists, "/run/ran")
    assert not (bed.shared / "wanted").exists()

    def switch() -> None:
        until = time.monotonic() + 60
        while not (bed.shared / "wanted").exists() and time.monotonic() < until:
            time.sleep(0.05)
        b.kill()
        (bed.shared / "off").touch()

    with ThreadPoolExecutor(1) as other:
        other.submit(switch)
        code, said = forced("works", f"root@{b.address}")
    assert (code, pair.state(SOURCE)) == (0, "forced") and not b.alive, said
    assert (bed.shared / "wanted").read_text() == f"{b.address}\n"
    assert set(a.call(inhandover.gates).values()) == {"1"}
    shown = a.run([PROGRAM, "status", pair.id], timeout=60).stderr
    confirmed = f"{program} confirms that {b.address} is off"
    assert f"{confirmed} (the word of " in shown, shown
    assert confirmed in a.call(inhandover.told, pair.id)


# ── what else goes wrong ─────────────────────────────────────────────────────────────────────

#: What can't be recorded: (verbs that go before, the verb, whose, who may be serving meanwhile; for
#: how many bytes the journal has room: where the handover then stands).
UNWRITTEN: dict[str, tuple[str, str, str, list[str], dict[int, str]]] = {
    "freeze": ("prepare", "freeze", SOURCE, [SOURCE], {
        0: "prepared", 150: "prepared", 600: "freezing"}),
    "arm": ("prepare stage* freeze export", "activate", DESTINATION, [], {
        0: "staged", 150: "staged"}),
    "release": ("prepare stage* freeze export activate*", "release", SOURCE, [], {
        0: "frozen", 300: "frozen", 450: "released"}),
    "open": (WAY.partition(" verify*")[0].rpartition(" ")[0], "activate", DESTINATION,
             [DESTINATION], {0: "armed", 150: "armed", 300: "opening"}),
}


@pytest.mark.full
@pytest.mark.parametrize("name", UNWRITTEN)
def test_a_journal_that_cannot_be_written_stops_the_verb(
        bed: lab.Lab, two: Callable[[str, str], Two], name: str) -> None:
    """Its folder is full, at once or in the middle of the verb, or read-only: status says where it
    stands, one host serves or none, and with room again what status prints leads on."""
    way, verb, role, may_serve, rooms = UNWRITTEN[name]
    pair = two("stable", "newest")
    before = held(pair, SOURCE)
    for host in pair.host.values():
        host.call(inhandover.small_disk)
    for how, room in [*(("full", room) for room in rooms), ("read-only", 0)]:
        pair.id, pair.messages = "", []
        pair.go(way)
        pair.host[role].call(inhandover.spoil, how, pair.id, room)
        with pytest.raises(errors.JournalBroken, match="No space|Read-only") as error:
            pair.do(verb, role)
        status, = pair.host[role].call(inhandover.status, pair.id)
        assert status.handover.state == rooms[room]
        assert pair.serving() in ([], may_serve)
        if room:    # it was begun
            assert f"the handover is {rooms[room]}" in str(error.value)
            assert f"{verb} was begun and has not ended: it was at " in "".join(status.notes)
        pair.host[role].call(inhandover.mend)
        words = status.next.split()
        assert pair.id in words
        if words[1] == "recover":
            pair.recover(role)
        else:
            assert pair.do(words[2], words[1]).handover.id == pair.id
        assert len(pair.serving()) < 2
        for one in (SOURCE, DESTINATION):
            if pair.state(one) != FIRST[one]:
                pair.recover(one)
        assert pair.states() in (("idle", "none"), ("released", "opening"))
        if pair.states() != ("idle", "none"):
            pair.go("verify* retire confirm*")
        owner, = pair.serving()
        assert held(pair, owner) == before
        if owner == DESTINATION:
            pair.host[DESTINATION].call(inhost.remove, ("reserved",))
            pair.host[SOURCE].call(inhost.build, inhandover.state(bed.shared))
    for host in pair.host.values():
        host.call(inhandover.small_disk, False)


@pytest.mark.full
def test_half_a_record_is_ignored_and_no_other_is(two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    source = pair.host[SOURCE]
    pair.go("prepare")
    source.call(inhandover.half_a_record, pair.id)
    assert pair.state(SOURCE) == "prepared"
    pair.go("stage* freeze")
    assert pair.state(SOURCE) == "frozen"
    source.call(inhandover.garble, pair.id)
    with pytest.raises(errors.JournalBroken, match="line 3 can't be read"):
        pair.state(SOURCE)
    with pytest.raises(errors.JournalBroken, match="line 3 can't be read"):
        pair.recover(SOURCE)
    assert pair.serving() == []


@pytest.mark.full
def test_a_journal_that_cannot_be_read_has_a_way_out(
        bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    """Its target is shut and stays so; all others go on; the printed words lead out."""
    pair = two("stable", "newest")
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    a.call(inhost.build, inhandover.other_state(bed.shared))
    pair.go("prepare stage* freeze")
    a.call(inhandover.save)     # as targetcli's user may: both are in its file
    a.call(inhandover.garble, pair.id)
    notes = a.call(inhandover.before_targetcli_restore)
    assert a.call(inhandover.saved) == {OTHER: True} and "line 3 can't be read" in notes[0]

    a.call(inhandover.open_gates)
    for host in (a, b):
        host.call(inhandover.configure)
    done = a.run([PROGRAM, "recover"], check=False, timeout=60)
    assert done.returncode == errors.JournalBroken.code
    assert f"{TARGET}: was open although nobody knows" in done.stderr
    shown = a.run([PROGRAM, "status"], check=False, timeout=60).stderr
    assert f"source of {TARGET}: in no state that is known" in shown
    assert a.call(inhandover.gates) == {f"{TARGET}/tpgt_1": "0", f"{OTHER}/tpgt_1": "1"}
    with pytest.raises(errors.JournalBroken, match="line 3 can't be read"):
        a.call(inhandover.do, "prepare", SOURCE, targets=(TARGET,))
    with pytest.raises(errors.InUse, match="may be under way"):
        a.call(inhost.remove, ("reserved",))
    another = a.call(inhandover.do, "prepare", SOURCE, targets=(OTHER,)).handover.id
    assert a.call(inhandover.do, "freeze", SOURCE, another).handover.state == "frozen"
    assert a.call(inhandover.do, "thaw", SOURCE, another).handover.state == "idle"

    found = re.search(r"next: (lio-handover status (\S+)) on the other host.*move (\S+) aside",
                      done.stderr)
    assert found
    there = b.run([PROGRAM, *found[1].split()[1:]], timeout=60).stderr
    assert f"destination of {TARGET}: staged" in there     # so it never served
    a.run(["mv", found[3], f"{found[3]}.aside"], timeout=60)
    a.call(inhandover.open_gates)
    assert b.run([PROGRAM, "recover", found[2]], timeout=60).returncode == 0
    assert not b.call(inhost.read_all).backstores and pair.serving() == [SOURCE]
    pair.id, pair.messages = "", []
    pair.go("prepare stage* freeze")

    # owners.json, and what the documentation says of it
    a.call(inhandover.owners_file, b"{")
    with pytest.raises(errors.JournalBroken, match="owners.json can't be read"):
        pair.go("export")
    told = {one.handover.targets: one.handover for one in a.call(inhandover.status)}
    a.call(inhandover.owners_file, json.dumps({"version": 1, "targets": {name: {
        "epoch": one.epoch, "aborted": 0, "handover": one.id}
        for (name,), one in told.items()}}).encode())
    pair.go("export activate* release activate* verify* retire confirm*")
    assert pair.states() == ("retired", "confirmed")


def test_what_others_change_is_seen_in_time(two: Callable[[str, str], Two]) -> None:
    """By targetcli between the verbs; and the clock, and the id, and no target tree at all."""
    pair = two("stable", "newest")
    source = pair.host[SOURCE]
    pair.go("prepare")
    source.call(inhandover.more_luns, True)
    with pytest.raises(errors.StructureChanged, match="changed since it was prepared: .*added"):
        pair.go("freeze")
    assert pair.serving() == [SOURCE]
    source.call(inhandover.more_luns, False)
    with pytest.raises(errors.WrongState, match="is under way"):
        source.call(inhandover.do, "prepare", SOURCE, "", (), targets=(TARGET,))
    pair.go("stage* freeze export activate*")
    source.call(inhandover.open_gates)     # as a restore does
    pair.go("release")
    assert pair.serving() == []
    source.call(inhandover.clock, 946684800)
    pair.go("activate* verify*")
    source.call(inhandover.more_luns, True)
    with pytest.raises(errors.StructureChanged, match="was added to the target"):
        pair.go("retire")
    assert pair.state(SOURCE) == "retiring" and pair.serving() == [DESTINATION]
    source.call(inhandover.more_luns, False)
    pair.recover(SOURCE)
    pair.go("confirm*")
    with pytest.raises(errors.StaleEpoch, match="is over"):
        source.call(inhandover.do, "prepare", SOURCE, pair.id, (), targets=(TARGET,))
    with pytest.raises(errors.StaleEpoch, match="is over"):
        pair.go("stage*")
    source.call(inhandover.without_configfs, pair.id)


@pytest.mark.full
def test_what_changes_between_the_verbs_is_carried_or_refused(
        two: Callable[[str, str], Two]) -> None:
    """Registrations are carried; a LUN that was added, state that the destination is not armed
    with, and somebody who saves while we release, are refused, and what is printed leads on."""
    pair = two("stable", "newest")
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    for host in (a, b):
        host.call(inhandover.configure)
        host.call(inhandover.save)

    def refused(kind: type[errors.HandoverError], why: str, again: Callable[[], object]) -> str:
        """What the refusal says is to be run; what status says of it."""
        with pytest.raises(kind, match=why) as error:
            again()
        assert pair.states() == ("frozen", "armed") and pair.serving() == []
        shown = a.run([PROGRAM, "status", pair.id], timeout=60).stderr
        assert f"the last verb failed: {kind.__name__}: " in shown and re.search(why, shown)
        assert f"next: lio-handover recover {pair.id}" in shown
        return error.value.do

    pair.go("prepare stage*")
    a.call(inhandover.register, 1, 0, 0xaa00, 5)
    pair.go("freeze export activate*")
    a.call(inhandover.more_luns, True)
    a.call(inhandover.save)
    do = refused(errors.StructureChanged, "changed since it was prepared: .*added",
                 lambda: pair.go("release"))
    assert do == f"lio-handover source thaw {pair.id}, then prepare again"
    a.run([PROGRAM, *do.partition(",")[0].split()[1:]], timeout=60)
    assert pair.serving() == [SOURCE] and a.call(inhandover.saved) == {TARGET: True}
    pair.recover(DESTINATION)
    assert pair.states() == ("idle", "none")
    a.call(inhandover.more_luns, False)

    pair.id, pair.messages = "", []
    pair.go("prepare stage* freeze export activate*")
    a.call(inhandover.open_gates)
    a.call(inhandover.register, 1, 1, 0xaa01)
    do = refused(errors.StructureChanged, "is not what the destination is armed with",
                 lambda: pair.go("release"))
    assert do == f"lio-handover source export {pair.id}, and activate again"
    pair.go("export activate*")
    do = refused(errors.StillRunning, "holds .* enabled again: somebody saves it", lambda: a.call(
        inhandover.release_while_somebody_saves, pair.id, pair.newest()))
    assert do == f"lio-handover status {pair.id}"
    pair.go("release")
    assert a.call(inhandover.saved) == {}
    pair.go("activate* verify* retire confirm*")
    assert pair.serving() == [DESTINATION] and b.call(inhandover.saved) == {}
    there = documents.loads(b.call(inhost.export_state)).state.backstores[1].reservations
    assert [(one.initiator, one.key) for one in there.registrations] == [
        (samples.initiator(0), 0xaa00), (samples.initiator(1), 0xaa01)]
    assert (there.holder, there.type) == (0, 5)


def test_targets_that_share_a_backstore_move_together(
        bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    a = pair.host[SOURCE]
    a.call(inhandover.share)
    before = held(pair, SOURCE)
    for name in (TARGET, OTHER):
        with pytest.raises(errors.InUse, match="fileio/disk0"):
            pair.do("prepare", SOURCE, targets=(name,))
    pair.do("prepare", SOURCE, targets=(TARGET, OTHER))
    pair.go(WAY.partition(" ")[2])
    assert pair.states() == ("retired", "confirmed") and pair.serving() == [DESTINATION]
    assert set(pair.host[DESTINATION].call(inhandover.gates)) == {
        f"{TARGET}/tpgt_1", f"{OTHER}/tpgt_1"}
    assert held(pair, DESTINATION) == before
    left = a.call(inhost.read_all)
    assert not left.targets and not left.backstores


# ── side by side ─────────────────────────────────────────────────────────────────────────────

def test_a_lock_is_for_what_it_names(bed: lab.Lab) -> None:
    folder = str(bed.shared / "state")
    one, other = Locks(folder), Locks(folder)
    with one.alone(["fileio/disk0", "iscsi/x"]):
        with other.alone(["fileio/disk1"]):
            pass
        with pytest.raises(errors.StillRunning, match="changing iscsi/x; "):
            with other.alone(["iscsi/x"]):
                raise AssertionError("both hold it")
        with pytest.raises(errors.StillRunning, match="changing this host"):
            with other.alone():
                raise AssertionError("both hold it")
    with other.alone():
        with pytest.raises(errors.StillRunning):
            with one.alone(["fileio/disk7"]):
                raise AssertionError("the host was held")


@pytest.mark.full
def test_two_handovers_build_side_by_side(bed: lab.Lab, two: Callable[[str, str], Two]) -> None:
    pair = two("stable", "newest")
    a, b = pair.host[SOURCE], pair.host[DESTINATION]
    a.call(inhost.build, inhandover.other_state(bed.shared))
    offers = [a.call(inhandover.do, "prepare", SOURCE, targets=(name,)).messages
              for name in (TARGET, OTHER)]
    for _ in range(3):
        assert b.call(inhandover.stage_at_once, offers) == ["staged", "staged"]
        for offer in offers:
            b.call(inhandover.do, "abort", DESTINATION, offer[0].handover)
        assert not b.call(inhost.read_all).backstores
        for offer in offers:
            a.call(inhandover.do, "thaw", SOURCE, offer[0].handover)
        offers = [a.call(inhandover.do, "prepare", SOURCE, targets=(name,)).messages
                  for name in (TARGET, OTHER)]
    with pytest.raises(errors.StillRunning, match="changing fileio/disk0"):
        a.call(inhandover.while_held, "fileio/disk0", offers[0][0].handover)
    assert a.call(inhandover.while_held, "fileio/disk0",
                  offers[1][0].handover).handover.state == "frozen"

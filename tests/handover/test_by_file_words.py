"""By file, what is said: before anything is shut, of what was not touched, and what leads on."""
from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.actions import savefile_actions
from lio_handover.cli import main
from lio_handover.kernel.configfs import Configfs
from lio_handover.model.objects import Portal, State
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.support import byfile, inhandover, inhost
from tests.support.inhandover import OTHER, SAVED, TARGET

GATE, OTHER_GATE = f"{TARGET}/tpgt_1", f"{OTHER}/tpgt_1"


# ── inside the host ──────────────────────────────────────────────────────────────────────────

def ran(*words: str) -> tuple[int, str]:
    """The exit code of the command, and its lines."""
    inhandover.configure()
    with contextlib.redirect_stderr(io.StringIO()) as told, \
            contextlib.redirect_stdout(told):
        code = main.main(list(words))
    return code, told.getvalue()


def spoiled(how: str) -> str:
    """dbroot's pr is a file, a link that leads nowhere, or can't be written to; there is a
    document besides.  The folder."""
    ran("export", TARGET, "-o", "/tmp/array.json")
    folder = Path(Configfs().read("dbroot").strip(), "pr")
    if folder.is_dir():
        shutil.rmtree(folder)
    if how == "file":
        folder.write_bytes(b"")
    elif how == "dangling":
        folder.symlink_to("/nonexistent/folder")
    else:
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], check=True)
    return str(folder)


def refused_before_the_gates() -> tuple[int, str, dict[str, str]]:
    """A freeze whose save file can't be written any more when it comes to that; the gates then."""
    def drop(_one: object) -> list[str]:
        raise errors.SavefileBroken(f"{SAVED} can't be written: No space left on device")
    plain = savefile_actions.drop
    setattr(savefile_actions, "drop", drop)
    try:
        return (*ran("freeze", TARGET), inhandover.gates())
    finally:
        setattr(savefile_actions, "drop", plain)


def frozen_apart() -> None:
    """Two targets, one after the other; then somebody gives the second an ACL."""
    for name in (TARGET, OTHER):
        assert ran("freeze", name)[0] == 0
    Configfs().mkdir(f"{OTHER_GATE}/acls/iqn.2026-11.org.example:added")


def exported_together() -> tuple[str, list[tuple[str, str]]]:
    """And the second is taken for what it was: what is said first, and of which state both are."""
    said = ran("export", OTHER, TARGET, "-o", "/tmp/both.json", "--allow", "all-tg-pt")[1]
    return said, byfile.states()


def kernel_lost() -> None:
    """What targetcli's clear, or a boot, does to the kernel's targets."""
    subprocess.run(["targetctl", "clear"], check=True, capture_output=True)


def device(name: str, becomes: str) -> None:
    for words in (("down",), ("name", becomes)):
        subprocess.run(["ip", "link", "set", name, *words], check=True)
    subprocess.run(["ip", "link", "set", becomes, "up"], check=True)


def portals() -> set[str]:
    return set(Configfs().names(f"{GATE}/np"))


def thawed_beside_a_program(address: str) -> tuple[int, str]:
    with socket.create_server((address, 3260)):
        return ran("thaw", TARGET)


# ── tests ────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def host(bed: lab.Lab, stable: lab.Host) -> lab.Host:
    stable.call(inhost.build, inhandover.state(bed.shared))
    return stable


def test_a_save_file_that_cannot_be_read_is_told_before_a_freeze(host: lab.Host) -> None:
    host.call(inhandover.save_file, b'{"targets": [')
    for words in (("prepare", TARGET), ("source", "prepare", TARGET), ("freeze", TARGET)):
        code, line = host.call(ran, *words)
        assert code == 66 and f"{SAVED} can't be read: " in line, (words, line)
        assert "nothing was changed" in line, line
    assert host.call(inhandover.gates) == {GATE: "1"} and host.call(byfile.states) == []


def test_a_freeze_that_did_not_come_to_the_gates_says_so(host: lab.Host) -> None:
    code, line, gates = host.call(refused_before_the_gates)
    assert code == 66 and "; the gates were not touched; next: " in line and "out" not in line
    assert gates == {GATE: "1"}
    assert host.call(byfile.states) == []


@pytest.mark.parametrize("how, why", [
    ("dangling", "is a link that leads nowhere"),
    pytest.param("file", "is no folder", marks=pytest.mark.full),
    pytest.param("read-only", "can't be written to", marks=pytest.mark.full)])
def test_where_no_registration_could_be_kept_it_is_told_before(
        bed: lab.Lab, stable: lab.Host, how: str, why: str) -> None:
    stable.call(inhost.build, inhandover.state(bed.shared, registrants=0))
    folder = stable.call(spoiled, how)
    for words in (("prepare", TARGET), ("source", "prepare", TARGET), ("freeze", TARGET),
                  ("plan", "/tmp/array.json")):
        code, line = stable.call(ran, *words)
        assert code and f"{folder}: {why}, and registrations are kept in it" in " ".join(
            line.split()), (words, line)
    assert stable.call(inhandover.gates) == {GATE: "1"} and stable.call(byfile.states) == []
    if how == "read-only":
        stable.run(["umount", folder])


def test_what_cannot_all_be_exported_is_not_recorded_in_part(
        host: lab.Host, bed: lab.Lab) -> None:
    host.call(inhost.build, inhandover.other_state(bed.shared))
    host.call(frozen_apart)
    line, states = host.call(exported_together)
    assert "added is too much; nothing was given away" in line
    assert states == [(SOURCE, "frozen"), (SOURCE, "frozen")]
    assert not host.call(os.path.exists, "/tmp/both.json")


def test_a_host_without_targets_has_nothing_to_freeze(stable: lab.Host) -> None:
    for words in (("freeze", "--all"), ("export", "--all", "-o", "/tmp/x"), ("prepare", "--all"),
                  ("remove", "--all"), ("adopt", "--all"), ("giveback", "--all")):
        assert stable.call(ran, *words) == (5, "lio-handover: this host has no target; nothing was "
                                            "changed; next: targetcli, or import one\n")


def test_what_leads_on_from_a_target_that_was_exported(host: lab.Host) -> None:
    assert f"; next: lio-handover export {TARGET} -o FILE (or thaw)" in host.call(
        ran, "freeze", TARGET)[1]
    host.call(ran, "export", TARGET, "-o", "/tmp/array.json", "--allow", "all-tg-pt")
    line = host.call(ran, "freeze", TARGET)[1]
    assert f"only if none has imported it or will: lio-handover thaw {TARGET} --allow exported" \
        in line and "(or thaw)" not in line


def test_by_file_there_is_no_offer(host: lab.Host) -> None:
    code, line = host.call(ran, "source", "prepare", "--mode", "file", TARGET)
    assert code and line.endswith("by file there is no other host to offer a target to; nothing "
                                  f"was changed; next: lio-handover freeze {TARGET}\n")
    assert host.call(byfile.states) == []


def test_what_was_removed_is_not_said_to_be_served(
        host: lab.Host, newest: lab.Host) -> None:
    host.call(byfile.verb, "freeze")
    newest.call(byfile.verb, "import", host.call(byfile.verb, "export"))
    assert "removed" not in newest.call(ran, "status")[1]
    newest.call(byfile.verb, "remove")
    for verb in ("status", "recover"):
        line = newest.call(ran, verb)[1]
        assert f"{TARGET}: removed from this host since, and not served: no boot brings it back" \
            in line
    assert newest.call(byfile.states) == [(DESTINATION, "confirmed")]


def test_a_portal_that_cannot_be_had_is_left_out_and_comes_back(
        bed: lab.Lab, stable: lab.Host) -> None:
    absent = "[fe80::5%vec0]:3260"
    stable.call(inhost.build, with_portals(bed, "127.0.0.1:3260", absent))
    stable.call(byfile.verb, "freeze")
    stable.call(kernel_lost)
    stable.call(device, "vec0", "later0")
    try:
        code, line = stable.call(ran, "recover")
        assert code == 0 and f"{TARGET}/tpg1/{absent}: this host has no network device vec0" \
            ": left out, and served without it until lio-handover recover" in line, line
        assert stable.call(inhandover.gates) == {GATE: "1"}
        assert stable.call(portals) == {"127.0.0.1:3260"}
        assert f"tpg1/{absent}: this host could not have it: left out" in stable.call(
            ran, "status")[1]
        assert "left out" in stable.call(ran, "recover")[1]
    finally:
        stable.call(device, "later0", "vec0")
    assert "left out" not in stable.call(ran, "recover")[1]
    assert stable.call(portals) == {"127.0.0.1:3260", absent}
    assert stable.call(inhandover.gates) == {GATE: "1"} and stable.call(byfile.states) == []


def test_where_no_portal_can_be_had_one_line_says_why(bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, with_portals(bed, "127.0.0.1:3260"))
    stable.call(byfile.verb, "freeze")
    stable.call(kernel_lost)
    code, line = stable.call(thawed_beside_a_program, "127.0.0.1")
    assert code and "tpg1/127.0.0.1:3260: python" in line and ") has the port; " in line, line
    assert "next: mend that, then lio-handover recover " in line and "dmesg" not in line
    assert stable.call(ran, "thaw", TARGET)[0] == 0
    assert stable.call(inhandover.gates) == {GATE: "1"}


def test_an_address_that_is_not_there_is_told_and_waited_for_by_nobody(
        bed: lab.Lab, stable: lab.Host) -> None:
    stable.call(inhost.build, with_portals(bed, "127.0.0.1:3260", "203.0.113.9:3260"))
    stable.call(byfile.verb, "freeze")
    stable.call(kernel_lost)
    code, line = stable.call(ran, "thaw", TARGET)
    assert code == 0 and f"{TARGET}: the address of portal 203.0.113.9:3260 is not on this host, " \
        "so nobody can log in by it until it is" in line and "portal 127" not in line, line
    assert stable.call(portals) == {"127.0.0.1:3260", "203.0.113.9:3260"}
    assert stable.call(inhandover.gates) == {GATE: "1"} and stable.call(byfile.states) == []


def with_portals(bed: lab.Lab, *names: str) -> State:
    state = inhandover.state(bed.shared)
    target, = state.targets
    tpg, = target.tpgs
    made = tuple(Portal((*tpg.key, "portal", name), {"iser": "0", "cxgbit": "0"}) for name in names)
    return replace(state, targets=(replace(target, tpgs=(replace(tpg, portals=made),)),))

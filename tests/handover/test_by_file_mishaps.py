"""By file, when somebody does something else in between: nothing is open, gone or lost unsaid."""
from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.cli import main
from lio_handover.document import document as documents
from lio_handover.kernel.configfs import Configfs
from lio_handover.protocol.table import SOURCE
from tests import lab
from tests.support import byfile, inhandover, inhost
from tests.support.inhandover import OTHER, TARGET

GATE = f"{TARGET}/tpgt_1"
ACL = f"{GATE}/acls/iqn.2026-11.org.example:added"


# ── inside the host ──────────────────────────────────────────────────────────────────────────

def said(name: str) -> str:
    try:
        byfile.verb(name)
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def opened_and_changed() -> None:
    Configfs().mkdir(ACL)
    inhandover.open_gates()


def back_in_place() -> None:
    Configfs().rmdir(ACL)


def shut_by_hand() -> None:
    Configfs().write(f"{GATE}/enable", b"0\n")


def thawed() -> list[str]:
    core = byfile.core()
    core.thaw(core.names([TARGET], False), ("exported",))
    return list(core.notes)


def imported(data: bytes) -> list[str]:
    core = byfile.core()
    return list(core.import_(core.ready(documents.loads(data))).notes)


def removed(*names: str) -> tuple[str, dict[str, str]]:
    """What remove says of these, and the gates then."""
    try:
        _outcome, kept = byfile.core().remove(list(names), False, ("reserved",))
    except errors.HandoverError as error:
        return f"{type(error).__name__}: {error}", inhandover.gates()
    return kept, inhandover.gates()


def kept(paths: str) -> set[str]:
    """The targets in what remove has kept."""
    return {one.name for path in paths.split(" and ")
            for one in documents.loads(Path(path).read_bytes()).state.targets}


def exported_by_other() -> None:
    """A LUN of another target leads to the first one's backstore."""
    fs = Configfs()
    hba = next(one for one in fs.entries("core")[1] if fs.exists(f"core/{one}/disk0"))
    fs.mkdir(f"{OTHER}/tpgt_1/lun/lun_7")
    fs.link(f"{OTHER}/tpgt_1/lun/lun_7/link", f"core/{hba}/disk0")


def exported_to(path: str) -> tuple[int, str]:
    """The exit code of the command, and its line."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main.main(["export", TARGET, "-o", path, "--allow", "all-tg-pt"])
    return code, told.getvalue()


# ── tests ────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def host(bed: lab.Lab, stable: lab.Host) -> lab.Host:
    stable.call(inhost.build, inhandover.state(bed.shared))
    return stable


def test_what_somebody_opened_again_is_shut_by_the_next_verb(host: lab.Host) -> None:
    host.call(byfile.verb, "freeze")
    host.call(opened_and_changed)
    line = host.call(said, "freeze")
    assert host.call(inhandover.gates) == {GATE: "0"}
    assert line.startswith("StructureChanged: changed since it was prepared: ")
    assert "added is too much; nothing was given away; next: " \
        f"lio-handover thaw {TARGET}, then freeze again" in line
    host.call(back_in_place)
    host.call(byfile.verb, "freeze")
    first = host.call(byfile.verb, "export")
    for verb in ("freeze", "export"):
        host.call(opened_and_changed)
        host.call(byfile.verb, verb)
        assert host.call(inhandover.gates) == {GATE: "0"}, verb
        host.call(back_in_place)
    assert host.call(byfile.verb, "export") == first
    assert host.call(byfile.states) == [(SOURCE, "released")]


def test_a_registration_made_behind_our_back_is_not_lost(host: lab.Host) -> None:
    host.call(byfile.verb, "freeze")
    host.call(inhandover.open_gates)
    host.call(inhandover.register, 1, 0, 0x77)
    host.call(inhandover.restart_targetcli)
    host.call(byfile.verb, "thaw")
    store = next(one for one in host.call(inhost.read_all).backstores if one.name == "disk1")
    assert store.reservations is not None
    assert 0x77 in {one.key for one in store.reservations.registrations}


def test_what_another_handover_froze_is_not_exported_by_file(host: lab.Host) -> None:
    host.call(inhandover.do, "prepare", SOURCE, "", (), targets=(TARGET,), mode="iscsi")
    host.call(inhandover.do, "freeze", SOURCE, host.call(inhandover.status)[0].handover.id)
    line = host.call(said, "export")
    assert line.startswith("InUse: ") and "is under way: this host is its source, frozen" in line


def test_who_lets_nobody_in_says_so(host: lab.Host, newest: lab.Host) -> None:
    host.call(shut_by_hand)
    host.call(byfile.verb, "freeze")
    data = host.call(byfile.verb, "export")
    for notes in (newest.call(imported, data), host.call(thawed)):
        assert any("every TPG of it is disabled" in note for note in notes), notes
    assert newest.call(inhandover.gates) == host.call(inhandover.gates) == {GATE: "0"}


@pytest.mark.parametrize("rest", ["iscsi/iqn.2026-11.org.example:nope", "fileio/disk0"])
def test_what_is_refused_of_a_removal_is_refused_before_anything_is_gone(
        host: lab.Host, rest: str) -> None:
    host.call(byfile.verb, "freeze")
    host.call(byfile.verb, "export")
    line, gates = host.call(removed, TARGET, rest)
    assert "nothing was changed" in line and gates == {GATE: "0"}
    assert host.call(byfile.states) == [(SOURCE, "released")]


def test_what_another_target_serves_by_now_is_not_exported(host: lab.Host, bed: lab.Lab) -> None:
    host.call(inhost.build, inhandover.other_state(bed.shared))
    host.call(byfile.verb, "freeze")
    host.call(exported_by_other)
    line = host.call(said, "export")
    assert line.startswith(f"InUse: fileio/disk0: is exported by {OTHER}/tpgt_1/lun_7 too")
    assert host.call(byfile.states) == [(SOURCE, "frozen")]


def test_all_that_is_removed_is_kept(host: lab.Host, bed: lab.Lab) -> None:
    host.call(inhost.build, inhandover.other_state(bed.shared))
    host.call(byfile.verb, "freeze")
    host.call(byfile.verb, "export")
    paths, gates = host.call(removed, TARGET, OTHER)
    assert gates == {} and host.call(kept, paths) == {TARGET, OTHER}


def test_what_is_written_nowhere_is_not_recorded(host: lab.Host) -> None:
    host.call(byfile.verb, "freeze")
    code, line = host.call(exported_to, "/nonexistent/x")
    assert code and "/nonexistent is no folder; nothing was changed" in line
    assert host.call(byfile.states) == [(SOURCE, "frozen")]

"""What was stopped on purpose stays so: while it is restored, and when somebody recovers."""
from __future__ import annotations

import pytest

from lio_handover.document import document as documents
from lio_handover.protocol.table import DESTINATION, SOURCE
from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_engine import Two
from tests.handover.test_ours import OPEN, SHUT, One
from tests.support import byfile, inhandover, inhost, inmeddling, inours
from tests.support.inhandover import TARGET


class Adopted(One):
    """A host whose target lio-handover restores; it does not boot."""

    def __init__(self, bed: lab.Lab, host: lab.Host) -> None:
        self.host, self.folder, self.bed = host, "", bed
        host.call(inhost.build, inhandover.state(bed.shared))
        host.call(inhandover.save)
        self.before, self.saved = self.state(), host.call(inhandover.save_file)
        self.verb("adopt")


@pytest.fixture
def one(bed: lab.Lab, hosts: HostsOf) -> Adopted:
    return Adopted(bed, *hosts("newest"))


@pytest.mark.parametrize("reached", list(inours.REACHED))
def test_a_restore_that_is_stopped_leaves_nothing(one: Adopted, reached: str) -> None:
    """And the next one opens all that was open, with its registrations."""
    assert one.host.call(inours.clear, TARGET)[0] == 0
    said = one.host.call(inours.stopped_restore, reached)
    assert said.startswith("Interrupted: ") and "it was taken down again" in said, said
    assert one.gates() == {} and one.host.call(inhandover.stores) == []
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == one.before


def test_a_clear_of_what_was_not_opened_yet_keeps_the_copy(one: Adopted) -> None:
    """Killed between its load and its gate: that it is shut is no administrator's wish."""
    assert one.host.call(inours.clear, TARGET)[0] == 0
    assert one.host.call(inours.killed_restore, "loaded") and one.gates() == {inours.TPG: "0"}
    assert one.host.call(inours.clear, TARGET)[0] == 0 and one.gates() == {}
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == one.before


def test_recover_leaves_shut_what_was_stopped_on_purpose(one: Adopted) -> None:
    """Until somebody restores it, or a boot."""
    assert one.host.call(inours.clear, TARGET)[0] == 0
    answer, = one.host.call(byfile.recover)
    assert one.gates() == {} and not answer.undecided
    assert answer.notes == (f"{TARGET} was stopped on purpose, and stays so until the next boot",)
    assert answer.next == f"lio-handover restore {TARGET}"
    assert one.who()[2] == ("it is not here, as it was stopped on purpose; next: lio-handover "
                            f"restore {TARGET}",)
    code, said = one.host.call(inours.run_, "recover")
    assert code == 0 and answer.notes[0] in said and one.gates() == {}
    assert one.host.call(inours.restore, TARGET)[0] == 0
    assert one.gates() == OPEN and one.state() == one.before


def test_what_was_stopped_is_back_after_a_boot(bed: lab.Lab, hosts: HostsOf) -> None:
    one = One(bed, hosts("newest")[0], inhandover.state(bed.shared))
    one.verb("adopt")
    assert one.host.call(inours.clear, TARGET)[0] == 0
    one.boots()
    assert one.gates() == OPEN and one.state() == one.before
    one.host.kill()


def test_what_somebody_brings_back_after_a_stop_is_not_stopped_any_more(one: Adopted) -> None:
    one.host.call(inhandover.save_file, one.saved)
    assert one.host.call(inours.clear, TARGET)[0] == 0
    one.host.call(inmeddling.restart_targetcli)
    answer, = one.host.call(byfile.recover)
    assert one.gates() == OPEN and not any("stopped" in note for note in answer.notes)


def test_a_source_that_was_forced_to_serve_keeps_what_was_registered_since(
        bed: lab.Lab, hosts: HostsOf) -> None:
    """Without APTPL, so that nothing but a copy has it."""
    pair = Two(*hosts("newest", "newest"))
    a, b = pair.host.values()
    a.call(inhost.build, inhandover.state(bed.shared, aptpl=False))
    pair.do("prepare", SOURCE, targets=(TARGET,), mode="iscsi", allow=("all-tg-pt",))
    pair.do("stage", DESTINATION)
    pair.go("freeze export activate* release")
    b.kill()
    pair.recover(SOURCE, silent=True, words=["peer-is-fenced"])
    assert pair.state(SOURCE) == "forced" and a.call(inhandover.gates) == OPEN
    a.call(inhandover.register, 1, 1, 0x77)
    before = state_of(a.call(inhost.export_state))
    assert a.call(inours.clear, TARGET)[0] == 0
    assert a.call(inhandover.gates) == {} and a.call(inhandover.stores) == []
    assert pair.recover(SOURCE, silent=True).next == f"lio-handover restore {TARGET}"
    assert a.call(inhandover.gates) == {} and pair.state(SOURCE) == "forced"
    assert a.call(inours.restore, TARGET)[0] == 0
    assert a.call(inhandover.gates) == OPEN and pair.state(SOURCE) == "forced"
    assert state_of(a.call(inhost.export_state)) == before


def test_a_source_that_was_forced_keeps_what_came_back_to_it(
        bed: lab.Lab, hosts: HostsOf) -> None:
    """It was killed before it loaded that: its kernel has what was registered before."""
    pair = Two(*hosts("newest", "newest"))
    a, b = pair.host.values()
    a.call(inhost.build, inhandover.state(bed.shared))
    pair.go("prepare stage* freeze export activate* release activate* verify*")
    b.call(inhandover.register, 1, 1, 0x77)
    before = state_of(b.call(inhost.export_state))
    pair.go("abort*")
    for point in range(1, 30):
        assert a.call(inhandover.crash, point, "thaw", SOURCE, pair.id, pair.newest())[0]
        if a.call(inhandover.kernel_is_stale, pair.id):
            break
    assert pair.state(SOURCE) == "released"
    b.kill()
    assert a.call(inhandover.killed_recover, pair.id, "forced")
    assert pair.state(SOURCE) == "forced" and a.call(inhandover.gates) == SHUT
    assert a.call(inours.clear, TARGET)[0] == 0 and a.call(inhandover.gates) == {}
    assert a.call(inours.restore, TARGET)[0] == 0
    assert a.call(inhandover.gates) == OPEN
    assert state_of(a.call(inhost.export_state)) == before


def state_of(data: bytes) -> bytes:
    """Of a document: what it has of the targets."""
    return documents.state_bytes(documents.loads(data))

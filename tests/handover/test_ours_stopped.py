"""What was stopped on purpose stays so: while it is restored, and when somebody recovers."""
from __future__ import annotations

import pytest

from tests import lab
from tests.conftest import HostsOf
from tests.handover.test_ours import OPEN, One
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

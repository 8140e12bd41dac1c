"""The process of the service that stays between two verbs of a handover: a cache, and no more."""
from __future__ import annotations

import time

import pytest

from lio_handover import dbus_names as names
from tests import lab
from tests.conftest import Pool
from tests.support import inbus, inhandover, inhost, insession
from tests.support.inbus import Service
from tests.support.inhandover import TARGET


@pytest.fixture
def service(bed: lab.Lab, _pool: Pool) -> Service:
    made = Service(_pool.take("stable", name="bus")[0])
    made.start()
    made.call(inhost.build, inhandover.state(bed.shared))
    return made


def test_one_process_runs_the_verbs_of_a_handover(service: Service) -> None:
    """Killed between two, or after the service was told to end, another one goes on."""
    prepared = service.call(inbus.prepare, TARGET, {"allow": ["all-tg-pt"]})
    first, id = prepared["Process"], prepared["Handover"]  # noqa: A001
    frozen = service.call(inbus.handover_verb, id, "Freeze")
    assert (frozen["State"], frozen["Process"]) == ("done", first)
    assert service.call(inbus.get, names.path(names.HANDOVERS, id),
                        names.HANDOVER)["State"] == "frozen"
    service.call(insession.kill, first)
    exported = service.call(inbus.handover_verb, id, "Export")
    second = exported["Process"]
    assert exported["State"] == "done" and second != first
    assert service.call(inbus.handover_verb, id, "Export")["Process"] == second
    # A verb that fails ends it, and so does one that ends the handover.
    assert service.call(inbus.handover_verb, id, "Release")["State"] == "failed"
    service.call(insession.wait_until_gone, second)
    thawed = service.call(inbus.handover_verb, id, "Thaw")
    assert thawed["State"] == "done"
    service.call(insession.wait_until_gone, thawed["Process"])
    assert service.call(inhandover.gates)[f"{TARGET}/tpgt_1"] == "1"


@pytest.mark.full
def test_it_holds_no_lock_and_ends_with_the_service(service: Service) -> None:
    prepared = service.call(inbus.prepare, TARGET, {"allow": ["all-tg-pt"]})
    pid = prepared["Process"]
    # Another program has the same handover meanwhile.
    assert service.call(inhandover.do, "freeze", "source",
                        prepared["Handover"]).handover.state == "frozen"
    thawed = service.call(inbus.handover_verb, prepared["Handover"], "Thaw")
    assert (thawed["State"], thawed["Process"]) == ("done", pid)
    again = service.call(inbus.prepare, TARGET, {"allow": ["all-tg-pt"]})["Process"]
    service.call(insession.stop_service)
    service.call(insession.wait_until_gone, again)


@pytest.mark.full
def test_it_ends_when_it_was_idle_for_a_while(service: Service) -> None:
    service.call(insession.configure, "[service]\nsession = 1\n")
    prepared = service.call(inbus.prepare, TARGET, {"allow": ["all-tg-pt"]})
    service.call(insession.wait_until_gone, prepared["Process"])
    time.sleep(0.1)
    frozen = service.call(inbus.handover_verb, prepared["Handover"], "Freeze")
    assert frozen["State"] == "done" and frozen["Process"] != prepared["Process"]

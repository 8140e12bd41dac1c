"""The service as it is shipped, on the system bus of hosts with real kernels."""
from __future__ import annotations

import re

import pytest

from lio_handover import document as documents
from lio_handover import names
from tests import inbus, inhandover, inhost, lab, samples
from tests.conftest import Pool
from tests.test_import import rich


class Service:
    """A host with its bus and the daemon running."""

    def __init__(self, host: lab.Host) -> None:
        self.host = host
        self.call = host.call

    def start(self, settings: str = inhost.CONFIG) -> None:
        self.call(inbus.install, settings)
        self.call(inbus.start_bus)
        self.restart()

    def restart(self) -> None:
        self.daemon = self.host.popen(["/usr/bin/python3", "/usr/sbin/lio-handoverd"])
        self.call(inbus.wait_for_name)


@pytest.fixture
def service(bed: lab.Lab, _pool: Pool) -> Service:
    """Of the stable kernel's host of its own: what is installed there stays."""
    made = Service(_pool.take("stable", name="bus")[0])
    made.start()
    return made


NAME = f"iscsi/{samples.IQN}"


@pytest.fixture
def two(bed: lab.Lab, _pool: Pool) -> tuple[Service, Service]:
    """Two hosts with the service; the first serves a target without secrets."""
    a, b = (Service(_pool.take(role, name=name)[0])
            for role, name in (("stable", "bus"), ("newest", "bus2")))
    for one in (a, b):
        one.start()
    a.call(inhost.build, inhandover.state(bed.shared))
    return a, b


@pytest.fixture
def served(service: Service, bed: lab.Lab) -> Service:
    """It serves a target with three LUNs, CHAP secrets and reservations."""
    service.call(inhost.build, rich(bed.shared))
    return service


def test_a_target_goes_and_comes_back_by_the_service(served: Service) -> None:
    path = f"{names.ROOT}/targets/{names.encode(NAME)}"
    assert served.call(inbus.targets) == [(NAME, path)]
    frozen = served.call(inbus.run, "Freeze", NAME)
    assert frozen["State"] == "done" and frozen["Result"]["writes"] == 1, frozen
    assert served.call(inbus.get, path, names.TARGET)["Frozen"]
    exported, document = served.call(inbus.export, NAME)
    assert exported["State"] == "done" and exported["Secret"], exported
    assert exported["Result"]["digest"] == documents.loads(document).digest
    removed = served.call(inbus.run, "Remove", NAME, {"allow": ["reserved"]})
    assert removed["State"] == "done", removed
    assert served.call(inbus.targets) == []
    imported = served.call(inbus.run_document, "Import", document)
    assert imported["State"] == "done" and imported["Progress"] == 1.0, imported
    assert served.call(inbus.run_document, "Verify", document)["State"] == "done"
    assert served.call(inbus.get, path, names.TARGET)["Enabled"]


def test_nobody_may_do_anything(served: Service) -> None:
    """Every method of every object, as an unprivileged user: what is not open is refused."""
    served.call(inbus.run, "Show", NAME)  # a job to try
    before = served.call(inhost.tree)
    asked = served.call(inbus.call_everything, inbus.NOBODY)
    assert len(asked) > 30 and {"ImportHandover", "Retire"} & {one[2] for one in asked} == set()
    for path, interface, member, answer in asked:
        free = interface in (names.INTROSPECTABLE, names.PEER)
        assert answer == ("" if free else "NotAuthorized"), (path, interface, member, answer)
    assert served.call(inhost.tree) == before


def test_a_handover_by_busctl_alone(two: tuple[Service, Service]) -> None:
    """As docs/d-bus.md has it, word by word; b's bus is reached without descriptors."""
    a, b = two
    text = (inbus.CHECKOUT / "docs" / "d-bus.md").read_text()
    script, = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    b.host.popen(["/usr/bin/python3", "-m", "tests.inbus", "--forward", "5555"])
    before = a.call(inhost.export_state)
    a.call(inbus.wait_for_port, b.host.address, 5555)
    done = a.host.run(["bash", "-c", script], timeout=120, env={
        "TARGET": NAME, "B": "busctl --timeout=600 --address=tcp:host="
                             f"{b.host.address},port=5555"})
    assert done.stdout.splitlines()[-1] == 's "confirmed"', done.stderr
    assert not a.call(inhost.read_all).targets
    after = b.call(inhost.export_state)
    assert documents.state_bytes(documents.loads(before)) == documents.state_bytes(
        documents.loads(after))

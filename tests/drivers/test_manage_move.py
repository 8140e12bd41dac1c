"""An orchestrator's session over D-Bus, from a target's making to its end on another host."""
from __future__ import annotations

import pytest

from tests import lab
from tests.support import inbus, inhost, inmanagebus, inmove
from tests.support.inmanage import IQN

from .test_move_lab import Pair, pair  # noqa: F401 - a fixture


@pytest.mark.full
@pytest.mark.timeout(600)
def test_an_orchestrator_makes_lends_grows_hands_over_and_deletes(
        bed: lab.Lab, pair: Pair, client: lab.OpenIscsi) -> None:  # noqa: F811
    """Takes a minute.  A real initiator uses the target on both hosts, and finds its data there."""
    a, b = pair
    target = f"iscsi/{IQN}"
    for host in pair:
        host.call(inbus.install, inhost.CONFIG + "[service]\npeers =\n    a\n    b\n")
    assert a.call(inmanagebus.makes, f"{bed.shared}/lent.img", client.name) == f"/{target}"
    session = client.login(IQN, a.address)
    disk = session.disk(0)
    assert disk.size() == 8 << 20
    disk.write(0, b"lent" * 128)
    a.call(inmanagebus.grows, 16 << 20)
    session.rescan()
    assert disk.size() == 16 << 20 and disk.read(0, 512) == b"lent" * 128
    assert a.call(inmanagebus.deletes) == ["!InUse", "!InUse"]
    session.logout()
    job = a.call(inmove.move_by_service, target, {"to": "b", "here": "a"}, timeout=120)
    assert job["State"] == "done", job["Error"]
    session = client.login(IQN, b.address)
    disk = session.disk(0)
    assert disk.size() == 16 << 20 and disk.read(0, 512) == b"lent" * 128
    b.call(inmanagebus.grows, 24 << 20)
    session.rescan()
    assert disk.size() == 24 << 20
    session.logout()
    assert b.call(inmanagebus.deletes) == [f"/{target}", "/backstores/fileio/lent"]
    assert a.call(inmanagebus.served) == b.call(inmanagebus.served) == []

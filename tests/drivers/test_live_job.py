"""A guest moves by a job of the service, for somebody who is not root and hands the monitors in."""
from __future__ import annotations

from typing import Any

import pytest

from lio_handover import dbus_names, errors
from tests.migration.bench import Bench
from tests.migration.product import LIMITS, SOCKET, TARGET, Pair
from tests.support import inbus, inhost, inmove

#: The members of a group are obeyed where there is no polkit, and the service moves to a and b.
SETTINGS = inhost.CONFIG + f"[service]\ngroup = {inbus.GROUP}\npeers =\n    a\n    b\n"
#: Where ssh has brought the other monitor.
THERE = "/run/there.qmp"
#: Emulated hosts that share two processors with others take their time.
OPTIONS = {"to": "b", "here": "a", "deadline": [f"{step}=200" for step in (
    "freeze", "export", "arm", "sent", "came")]}


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_member_of_the_group_has_a_guest_moved_by_descriptors(bench: Bench) -> None:
    """Seven minutes: paths are root's alone; a move is taken back, the next one runs to its end."""
    pair = Pair(bench, SETTINGS)
    a, b = bench.hosts
    source, destination = pair.running(), pair.waiting(b)
    a.popen(["ssh", "-N", "-L", f"{THERE}:{SOCKET}", "b"])
    a.call(inmove.lend, SOCKET, THERE, timeout=90)

    def as_member(work: Any, *args: Any) -> Any:
        return a.call(inbus.as_member, work, *args, timeout=450)

    assert as_member(inmove.refusal, TARGET, {**OPTIONS, "guest": [SOCKET], "guest-there": [
        SOCKET]}) == errors.NotAuthorized.__name__

    source.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
    cancelled = as_member(inmove.move_with_monitors, TARGET, OPTIONS, SOCKET, THERE, "copy")
    assert cancelled["State"] == "cancelled", cancelled
    assert "serves on as before, and nothing is left on b; its guest runs" in cancelled["Error"][1]
    assert source.status() == "running" and bench.writes(source, 5)
    assert pair.states() == ["idle", "none"]

    source.qmp("migrate-set-parameters", **LIMITS)
    destination = pair.waiting(b)
    moved = as_member(inmove.move_with_monitors, TARGET, OPTIONS, SOCKET, THERE)
    assert moved["State"] == "done", moved
    result = moved["Result"]
    print(result)
    assert 0 < result["downtime"] and 0 < result["window"] < sum(result["seconds"].values())
    assert pair.states() == ["retired", "confirmed"]
    assert result["path"] == dbus_names.path(dbus_names.HANDOVERS, moved["Handover"])
    copied = [details for _step, details in moved["heard"] if details.get("phase") == "copy"]
    assert any(details.get("total", 0) >= 128 << 20 and "expected_downtime" in details
               and 0 < details["remaining"] <= details["total"] for details in copied), copied
    pair.arrived(destination)
    assert bench.judge().good

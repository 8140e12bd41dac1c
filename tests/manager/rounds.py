"""A guest goes there and back again and again: its registrations stay byte for byte, and no record
is lost or said twice."""
from __future__ import annotations

import time
from typing import Any

from tests.manager.pair import Pair
from tests.support import inhost, inlibvirt


def registrations(pair: Pair, number: int) -> str:
    """The registrations and the reservation of the target, as the kernel has them."""
    return "\n".join(repr(store.reservations) for store in
                     pair.hosts[number].call(inhost.read_all).backstores)


class Rounds:
    """A guest that was started on the first host."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.here = pair, 0
        code, said = pair.virsh(0, "create", data=inlibvirt.xml())
        assert code == 0, (said, pair.told())
        self.first = registrations(pair, 0)
        assert "Registration(" in self.first

    def round(self) -> dict[str, Any]:
        """One migration, to its end; what was seen.  Raises AssertionError."""
        pair, began = self.pair, time.monotonic()
        code, said = pair.migrate(self.here)
        assert code == 0, (said, pair.told())
        took = time.monotonic() - began
        there = 1 - self.here
        wanted = ["confirmed", "retired"] if there == 0 else ["retired", "confirmed"]
        pair.until(inlibvirt.state, *wanted)
        assert pair.each(inlibvirt.target_is_here) == [there == 0, there == 1]
        now = registrations(pair, there)
        assert now == self.first, (now, self.first)
        self.here = there
        return {"virsh": round(took, 2), "all": round(time.monotonic() - began, 2)}

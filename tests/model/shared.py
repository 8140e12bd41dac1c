"""The model of targets that share a backstore and move in one handover: beside the first guest's
target another guest's, or an iSCSI target.

Each has a gate of its own. A step that works at the gates works at one after the other, so a crash
may come between the two. Host.gate is the first gate, and says for both what the kernel has;
World.beside has whether the second one is open, and the second guest's QEMUs. Serving is serving by
any gate: never may two hosts do so, whichever gates they are.

Left out: that targetcli's restore lets iSCSI initiators in before a guest's registrations are there
(targetcli cannot save a nexus), as it does so whether or not there ever was a handover.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Iterator, Optional, Tuple

from lio_handover.protocol.table import Action, Condition, Step, Transition
from tests.model.beside import Beside
from tests.model.world import BUILT, NOTHING, ON, OPEN, SHUT, D, Event, Host, Model, S, World, put

#: Of events that a driver does not cause.
_LOUD = ("killed", "started")
_GATES = frozenset({Action.GATE_OPEN, Action.GATE_CLOSE})


def _is_open(w: World, me: str) -> bool:
    return w.beside.open[me == D]


def _gate(w: World, me: str, open_now: bool) -> World:
    """The world with the second gate of that host open, or shut."""
    s, d = w.beside.open
    return w._replace(beside=w.beside._replace(
        open=(open_now, d) if me == S else (s, open_now)))


def _swapped(w: World) -> World:
    """The world with the second guest as the first: an own inverse."""
    def swap(host: Host, open_now: bool) -> Host:
        if host.gate in (NOTHING, BUILT):
            return host
        return host._replace(gate=OPEN if open_now else SHUT)
    return w._replace(
        s=swap(w.s, w.beside.open[0]), d=swap(w.d, w.beside.open[1]), qs=w.beside.qs,
        qd=w.beside.qd, beside=Beside((w.s.gate == OPEN, w.d.gate == OPEN), w.qs, w.qd))


class Wrong(Enum):
    """What a mutant does at one of two gates."""

    CLOSES_ONE = "a step that closes the gates leaves the second one open"
    OPENS_ONE = "a step that opens the gates leaves the second one shut"
    ARMS_OPEN = "the second gate is open once all is loaded"
    ONE_LEFT = "of two guests one is asked whether it may still resume"


@dataclass
class SharedModel(Model):
    """``guests``: whether the second target is another guest's; else it is an iSCSI one.
    ``calm``: no power is lost, and the second guest's QEMUs end with nobody's help but its own."""

    guests: bool = True
    calm: bool = False
    wrong: Optional[Wrong] = None

    def initial(self) -> World:
        w = super().initial()
        return w._replace(beside=Beside((True, False), *((w.qs, w.qd) if self.guests else ())))

    def normal(self, w: World) -> World:
        if w.beside.qd == "crashed":
            w = w._replace(beside=w.beside._replace(qd="gone"))
        return super().normal(w)

    # ---- what can be seen -------------------------------------------------------------------

    def _attached_each(self, w: World, me: str) -> Tuple[bool, ...]:
        if not self.guests:
            return ((w.qs if me == S else w.qd) == "run",)
        first, second = (w.qs, w.beside.qs) if me == S else (w.qd, w.beside.qd)
        return first == "run", second == "run"

    def attached(self, w: World, me: str) -> bool:
        return any(self._attached_each(w, me))

    def _lets_in(self, w: World, me: str) -> bool:
        """Whether the iSCSI gate does."""
        host: Host = getattr(w, me)
        return not self.guests and host.up == ON and _is_open(w, me)

    def serving(self, w: World, me: str) -> bool:
        return self.attached(w, me) or self._lets_in(w, me)

    def here(self, w: World, me: str) -> bool:
        return all(self._attached_each(w, me)) and (self.guests or self._lets_in(w, me))

    def left(self, w: World) -> bool:
        return super().left(w) and (not self.guests or self.wrong is Wrong.ONE_LEFT
                                    or w.beside.qs in ("post", "gone"))

    def violation(self, w: World) -> Optional[str]:
        return super().violation(w) or (super().violation(w._replace(qs="lost"))
                                        if w.beside.qs == "lost" else None)

    # ---- steps ------------------------------------------------------------------------------

    def _half_done(self, w: World, me: str, row: Transition, step: Step) -> bool:
        if step.action not in _GATES:
            return False
        more = self._step(w, me, row, step, 0)
        return more is not None and more != w

    def _step(self, w: World, me: str, row: Transition, step: Step, arg: int) -> Optional[World]:
        host: Host = getattr(w, me)
        do, second = step.action, _is_open(w, me)
        if do is Action.TPG_DISABLE:
            return _gate(w, me, False) if second and not self.guests else w
        if do in (Action.CHECK, Action.SAVEFILE_GIVE, Action.ADOPT) and not second:
            return None
        if do is Action.PROVE_SHUT and not self.guests and (second or host.file == 1):
            return None
        if do is Action.GATE_CLOSE and Condition.GUEST_LEFT in row.conditions and not self.left(w):
            return None  # whoever says that all have left lets none come back meanwhile
        after = super()._step(w, me, row, step, arg)
        if after is None:
            return None
        now: Host = getattr(after, me)
        if self.wrong is Wrong.ARMS_OPEN and do is Action.VERIFY and row.to == "armed":
            return _gate(after, me, True)
        wrong = {Action.GATE_OPEN: Wrong.OPENS_ONE, Action.GATE_CLOSE: Wrong.CLOSES_ONE}
        # the first is as it shall be
        if do in _GATES and after == w and self.wrong is not wrong[do]:
            return after if second is (do is Action.GATE_OPEN) or now.gate in (NOTHING, BUILT) \
                else _gate(after, me, not second)
        if do in (Action.LOAD, Action.TEARDOWN) and after is not w and second:
            return _gate(after, me, False)
        return after

    # ---- everything else that happens -------------------------------------------------------

    def _host(self, w: World, me: str) -> Iterator[Event]:
        for label, kind, after in super()._host(w, me):
            host: Host = getattr(after, me)
            if label[1] == "loses power" and self.calm:
                continue
            if label[1] == "loses power":
                after = _gate(after, me, False)
                if self.guests:
                    after = after._replace(beside=after.beside._replace(qs="gone") if me == S
                                           else after.beside._replace(qd="gone"))
            elif label[1] == "boots, targetcli restores":
                after = _gate(after, me, host.gate == OPEN)
                if not self.guests:
                    after = put(after, me, host._replace(pr=host.disk))
            elif label[1] == "service crashes" and self.guests and host.gate == OPEN \
                    and not self.around.holder_survives:
                after = _gate(after, me, True)
            yield label, kind, after

    def _qemu(self, w: World) -> Iterator[Event]:
        yield from super()._qemu(w)
        if self.guests:
            for label, kind, after in super()._qemu(_swapped(w)):
                if not (self.calm and any(word in label[1] for word in _LOUD)):
                    yield (*label, "second"), kind, _swapped(after)

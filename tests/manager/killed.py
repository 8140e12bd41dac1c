"""Each party of a migration under libvirt is killed, or the network cut, at each point of it.

A case is a point and a party.  Afterwards all that systemd restarts is up again, and the network is
whole.  Then at most one host runs the guest, just one serves the target, the guest runs nowhere
else, and no record was said twice; the handover is over, by itself or by `lio-handover recover`.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.lab import LabError
from tests.manager.pair import Pair
from tests.support import inlibvirt
from tests.support.inlibvirt import GUEST

#: Where a migration stands still, in its order → whose journal then has which text ("" for none).
POINTS: dict[str, tuple[str, str]] = {
    "staging": ("", ""),            # our hook on the destination waits for the unit
    "started": ("", ""),            # the destination's QEMU was started, libvirt's last hook runs
    "copying": ("", ""),            # memory is copied
    "frozen": ("source", '"state": "frozen"'),             # Save()
    "loading": ("destination", '"record": "loading"'),     # Load()
    "armed": ("destination", '"state": "armed"'),
    "serving": ("destination", '"state": "serving"'),      # the guest runs there
    "released": ("source", '"state": "released"'),
    "retiring": ("source", '"state": "retiring"')}
#: Who is killed → (the side it is of, what does it).
_SIDES = ("source", "destination")
PARTIES = (*(f"{what}-{side}" for what in ("libvirtd", "qemu", "service", "helper", "host")
             for side in _SIDES), "hook", "unit", "virsh", "network")
#: Seconds that all may take to settle by itself.
SETTLES = 150


def cases(hosts: bool = True) -> list[tuple[str, str]]:
    """(point, party), those of a host's power last: they boot."""
    found = [(point, party) for party in PARTIES for point in POINTS
             if party != "hook" or point == "staging"]
    return [case for case in found if hosts or not case[1].startswith("host")]


@dataclass
class Outcome:
    """What became of a case.  ``runs``: hosts that run the guest; ``serves``: hosts that have the
    target and may serve it; ``led``: "" where it came to an end by itself, or the command that led
    on, and ``before`` how it stood then; ``steps``: the seconds until the point was reached, virsh
    had ended, and all was settled; ``wrong``: what should not be."""

    point: str
    party: str
    virsh: str = ""
    states: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    serves: list[str] = field(default_factory=list)
    led: str = ""
    before: str = ""
    steps: list[float] = field(default_factory=list)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        return asdict(self)


class Case:
    """One of them, on a pair of hosts."""

    def __init__(self, pair: Pair, point: str, party: str) -> None:
        self.pair, self.outcome = pair, Outcome(point, party)
        self.point, self.party = point, party
        self.source = self.baseline()
        self.destination = 1 - self.source

    def baseline(self) -> int:
        """The number of the host that runs the guest; it is started anew where none does."""
        pair = self.pair
        here = pair.each(inlibvirt.target_is_here)
        assert here in ([True, False], [False, True]), (here, pair.told())
        number = here.index(True)
        for systemd in pair.systemd:
            systemd.call(inlibvirt.forget_said)
        if pair.systemd[number].call(inlibvirt.domain_state) != "running":
            for other in (0, 1):
                pair.systemd[other].call(inlibvirt.virsh, ["destroy", GUEST])
            code, said = pair.virsh(number, "create", data=inlibvirt.xml())
            assert code == 0, (said, pair.told())
        return number

    def side(self, name: str) -> int:
        return self.source if name == "source" else self.destination

    def run(self) -> Outcome:
        """Raises AssertionError where the point is never reached."""
        began, pair, outcome = time.monotonic(), self.pair, self.outcome
        known = pair.each(inlibvirt.journals)
        there = pair.systemd[self.destination]
        there.call(inlibvirt.remove_hold)
        if self.point == "started":
            there.call(inlibvirt.add_hold, "started")
        more = ("--bandwidth", "1") if self.point == "copying" else ()
        with ThreadPoolExecutor(2) as pool:
            migrating = pool.submit(pair.migrate, self.source, *more)
            try:
                self.reach(known)
                outcome.steps.append(round(time.monotonic() - began, 1))
                self.kill()
                time.sleep(1)
            finally:
                self.let_go()
            self.mend(migrating.done)
            try:
                code, said = migrating.result(200)
                outcome.virsh = f"{code} {said[-160:]}".strip()
            except Exception as error:  # noqa: B902 - its host may be gone
                outcome.virsh = f"? {type(error).__name__}"
        there.call(inlibvirt.remove_hold)
        outcome.steps.append(round(time.monotonic() - began, 1))
        self.settle()
        outcome.seconds = round(time.monotonic() - began, 1)
        return outcome

    # ── to the point, and what happens there ────────────────────────────────────────────────────
    def reach(self, known: list[list[str]]) -> None:
        whose, text = POINTS[self.point]
        number = self.side(whose) if whose else self.destination
        if text:
            assert self.pair.call(number, inlibvirt.hold_helper, text, known[number]), \
                f"no {text}"
        elif self.point == "copying":
            assert self.pair.call(self.source, inlibvirt.copies), "no memory is copied"
        else:
            assert self.pair.call(number, inlibvirt.wait_for, self.point), f"no {self.point}"

    def let_go(self) -> None:
        for host, systemd in zip(self.pair.hosts, self.pair.systemd):
            if host.alive:
                systemd.call(inlibvirt.go_on)

    def kill(self) -> None:
        what, _, side = self.party.partition("-")
        number = self.side(side) if side else self.destination
        if what == "network":
            self.pair.bed.cut(self.pair.hosts[self.destination])
        elif what == "host":
            self.pair.hosts[number].kill()
        elif what == "virsh":
            self.pair.systemd[self.source].call(inlibvirt.kill, "virsh")
        else:
            self.pair.systemd[number].call(inlibvirt.kill, what)

    def mend(self, ended: Callable[[], bool]) -> None:
        """The cable is plugged in again after half a minute, or once virsh has given up; a host is
        booted; systemd restarts what it restarts."""
        if self.party == "network":
            until = time.monotonic() + 40
            while time.monotonic() < until and not ended():
                time.sleep(0.5)
            self.pair.bed.heal(self.pair.hosts[self.destination])
        for number, host in enumerate(self.pair.hosts):
            if not host.alive:
                host.boot()
                self.pair.ready(number)

    # ── the judgement ───────────────────────────────────────────────────────────────────────────
    def settle(self) -> None:
        pair, outcome = self.pair, self.outcome
        if not self.ends(SETTLES if self.over_is_likely() else 20):
            outcome.led = "recover"
            outcome.before = "; ".join(
                f"{state}, guest {guest or 'is not there'}, {told.splitlines()[-1]}"
                for state, guest, told in zip(
                    outcome.states, *(self.both(function, *words) for function, words in (
                        (inlibvirt.domain_state, ()), (inlibvirt.told, (inlibvirt.HELPER,))))))
            for number in (0, 1):
                pair.call(number, inlibvirt.recover)
            if not self.ends(60):
                outcome.wrong.append(f"not over: {outcome.states}")
        names = ("source", "destination")
        states = self.both(inlibvirt.domain_state)
        outcome.runs = [name for name, state in zip(names, states) if state == "running"]
        serving = self.both(inlibvirt.serves)
        outcome.serves = [name for name, does in zip(names, serving) if does]
        count, twice, _ = pair.records()
        if len(outcome.runs) > 1 or twice:
            outcome.wrong.append(f"two have run: {outcome.runs}, records {twice[:5]} of {count}")
        if len(outcome.serves) != 1:
            outcome.wrong.append(f"served by {outcome.serves or 'nobody'}")
        elif outcome.runs and outcome.runs != outcome.serves:
            outcome.wrong.append(f"runs on {outcome.runs}, served by {outcome.serves}")
        for name, state in zip(names, states):
            if state not in ("", "running", "shut off") and not outcome.runs:
                outcome.led = f"{outcome.led} resume".strip()
                outcome.states.append(f"{name}: {state}")

    def over_is_likely(self) -> bool:
        return not self.party.startswith("host")

    def both(self, function: Any, *words: Any) -> list[Any]:
        """What a function says on the source and on the destination."""
        return [self.pair.systemd[number].call(function, *words)
                for number in (self.source, self.destination)]

    def ends(self, seconds: float) -> bool:
        """Wait until no handover is under way on either host."""
        until = time.monotonic() + seconds
        while True:
            self.outcome.states = self.both(inlibvirt.state)
            pair = tuple(self.outcome.states)
            if pair[0] in ("", "idle", "retired", "none", "confirmed") \
                    and pair[1] in ("", "none", "confirmed", "idle", "retired") \
                    and pair not in (("retired", "none"), ("idle", "confirmed")) \
                    and self.stands_still():
                return True
            if time.monotonic() > until:
                return False
            time.sleep(1)

    def stands_still(self) -> bool:
        return not any(systemd.call(inlibvirt.incoming) for systemd in self.pair.systemd)


def run(pair: Pair, point: str, party: str) -> Outcome:
    """One case; what goes wrong on the way to its point is part of the outcome."""
    outcome = Outcome(point, party)
    try:
        case = Case(pair, point, party)
        outcome = case.outcome
        case.run()
    except (AssertionError, LabError) as error:
        outcome.wrong.append(f"not reached: {str(error)[:300]}")
    return outcome

"""Rows of docs/reference/qemu-behaviour.md, gone through by the product's `move`.

Each breaks something while the command runs, and holds the command to what it says of that: who
serves, whether the guest runs, what is left on the other host.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.migration import inproduct
from tests.migration.bench import Vm, Wrong
from tests.migration.net import Cable, Json
from tests.migration.product import MOVE_SECONDS, Pair
from tests.migration.rows import expect

ROWS: dict[str, Callable[[Pair], None]] = {}
Action = Callable[[], object]
SLOW = 1 << 20      # bytes of RAM a second: there is time to break something


def row(function: Callable[[Pair], None]) -> Callable[[Pair], None]:
    """Name it as the table does."""
    ROWS[function.__name__.replace("_", "-")] = function
    return function


class Trial:
    """A move that something happens to."""

    def __init__(self, pair: Pair, fast: bool = True) -> None:
        self.pair, self.bench = pair, pair.bench
        self.source = pair.guest()
        if not fast:
            self.source.qmp("migrate-set-parameters", **{"max-bandwidth": SLOW})
        self.here, self.there = self.source.host, self.bench.other(self.source.host)
        self.destination = pair.waiting(self.there)
        self.registered = self.here.call(inproduct.registrations)

    def move(self, who: Vm, event: str, action: Action, *more: str) -> str:
        """Run `move`, and the action as soon as this QEMU tells the event; what the command says.

        :raises Wrong: it succeeds.
        """
        acted: list[threading.Thread] = []

        def heard(vm: Vm, name: str, data: Json) -> None:
            if vm is who and event in (name, data.get("status")) and not acted:
                acted.append(threading.Thread(target=action))
                acted[0].start()

        self.bench.heard = heard
        try:
            program = self.pair.move(self.there, *more)
            code = program.wait(MOVE_SECONDS)
        finally:
            self.bench.heard = lambda vm, name, data: None
        said = program.stderr_so_far().decode()
        self.bench.note("move", f"exit {code}: {said.strip()}")
        if not acted:
            raise Wrong(f"{who.name} never told {event}: {said}")
        acted[0].join(30)
        expect("move failed", code != 0, True)
        return said

    def undone(self, said: str, *words: str) -> None:
        """That the source serves as before, that it was said so, and nothing is left elsewhere."""
        for word in (f"{self.here.name} serves on as before", *words):
            if word not in said:
                raise Wrong(f"move does not say {word!r}: {said}")
        expect("handovers here and there",
               sorted(self.pair.states()), ["idle", "none"])
        expect("left there", self.there.call(inproduct.registrations), {})
        expect("registrations", self.here.call(inproduct.registrations), self.registered)

    def stayed(self, said: str) -> None:
        """That the guest runs where it was, with its reservation, and nothing was lost."""
        self.undone(said, "its guest runs")
        expect("source", self.source.status(), "running")
        if not self.bench.writes(self.source, 5):
            raise Wrong(f"{self.source.name}: the guest does not write")
        self.bench.judge()
        expect("destination", self.destination.status().partition(" ")[0], "exit")
        self.destination.kill()
        self.source.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 30})

    def lost(self, said: str) -> None:
        """That the source's target is whole, so that the guest can be booted there again."""
        self.undone(said)
        self.bench.judge()
        expect("destination", self.destination.wait("gone"), "gone")
        self.pair.again()


@row
def cancel_pre_switchover(pair: Pair) -> None:
    """Somebody else cancels the migration in pre-switchover."""
    trial = Trial(pair)
    trial.stayed(trial.move(trial.source, "pre-switchover",
                            lambda: trial.source.ask("migrate_cancel")))


@row
def cut_active(pair: Pair) -> None:
    """The connection is reset while RAM is copied."""
    trial = Trial(pair, fast=False)
    cable = Cable(pair.bench.sockets, trial.there.address)
    pair.cable()

    def cut() -> None:
        time.sleep(1)
        cable.cut()

    said = trial.move(trial.source, "active", cut, "--guest-uri", f"tcp:cable:{cable.port}")
    trial.stayed(said)
    expect("never stopped", "STOP" in trial.source.story(), False)


@row
def kill_destination_active(pair: Pair) -> None:
    """The destination's QEMU is killed while RAM is copied."""
    trial = Trial(pair, fast=False)
    trial.stayed(trial.move(trial.source, "active", trial.destination.kill))
    expect("never stopped", "STOP" in trial.source.story(), False)


@row
def kill_destination_pre_switchover(pair: Pair) -> None:
    """The destination's QEMU is killed in pre-switchover."""
    trial = Trial(pair)
    trial.stayed(trial.move(trial.source, "pre-switchover", trial.destination.kill))


@row
def kill_destination_completed(pair: Pair) -> None:
    """The destination's QEMU is killed when it has the guest, before it may run it."""
    trial = Trial(pair)
    trial.stayed(trial.move(trial.destination, "completed", trial.destination.kill))


@row
def kill_source_pre_switchover(pair: Pair) -> None:
    """The source's QEMU is killed in pre-switchover: the guest is lost, its disk is not."""
    trial = Trial(pair)
    trial.lost(trial.move(trial.source, "pre-switchover", trial.source.kill))

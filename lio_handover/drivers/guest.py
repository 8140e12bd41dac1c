"""A guest that moves: its QEMU on the source, the one that waits for it, and what they are asked.

``ASKS`` has a function for each thing that a step asks QEMUs (``Step.qmp`` of drivers/live.py); it
gets all guests of the move, as they move together.  docs/reference/qemu-behaviour.md has what QEMU
does by itself.
"""
from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from .. import errors
from ..client import forward
from ..document.json_types import fits
from ..protocol.table import DESTINATION, SOURCE
from .qmp import Address, Monitor

#: Seconds until QEMU is asked again where no event comes, and that it has to end a migration that
#: is cancelled, or to run a guest.
OFTEN, ENDS = 0.2, 60.0
#: Looks for the times of a migration that is completed, or whether one that is ended runs its guest
#: again, and seconds after each.
SETTLES, SETTLE = 20, 0.05
#: `query-migrate`: what a migration ends with; and none.
ENDED = ("completed", "failed", "cancelled")
NONE = "none"
#: `query-status` of a guest that only `cont` runs again, and of one that was never run.
PAUSED = ("postmigrate", "paused")
#: `query-status` of a guest whose migration has ended, and that QEMU is about to run again
#: (migration/migration.c:migration_iteration_finish).
LEAVING = "finish-migrate"
NEVER_RUN = ("inmigrate", "paused", "postmigrate")
PAUSE = "pause-before-switchover"
#: The members that are read of what QEMU answers.
_TOLD: Mapping[str, Any] = {
    "status": str, "downtime": float, "expected-downtime": float, "downtime-limit": int,
    "total-time": float, "error-desc": str, "ram": Dict[str, float],
    "socket-address": List[Dict[str, Any]]}
#: The capabilities that are switched before RAM is copied.
CAPABILITIES: Mapping[str, bool] = {"events": True, "return-path": True, "postcopy-ram": False}


class Monitors(NamedTuple):
    """A guest's monitors, each a path on its host, or a connected socket, and where its RAM goes,
    as QEMU has it ("": by TCP to where ssh goes, any port)."""

    here: Address
    there: Address
    uri: str = ""


@dataclass
class Guest:
    """``names``: role → the QEMU's name in messages; ``where``: the destination, as ssh has it;
    ``pauses``: QEMU stops it and waits, else it is stopped before; ``others`` move with it.

    ``left``: the source's QEMU is gone; ``told``: the destination's was told to run the guest, and
    ``ran``: it has.  ``sent``: `query-migrate` of the source at the end; ``stood``: seconds from
    the source's STOP to the destination's RESUME, as they were heard.
    """

    monitors: Monitors
    names: Mapping[str, str]
    where: str
    pauses: bool = True
    others: bool = False
    uri: str = ""
    left: bool = False
    told: bool = False
    ran: bool = False
    sent: Mapping[str, Any] = field(default_factory=dict)
    stood: float = 0.0
    _limit: Optional[int] = None
    _open: Dict[str, Monitor] = field(default_factory=dict)
    _forwarded: Optional[forward.Forwarded] = None

    def __post_init__(self) -> None:
        self.uri = self.monitors.uri
        if isinstance(self.monitors.there, str):
            forward.Forwarded(self.where, self.monitors.there)  # refuses what can be none

    def monitor(self, role: str) -> Monitor:
        """The monitor, connected.  Raises GuestFailed, PeerUnreachable."""
        if role not in self._open:
            address = self.monitors.here if role == SOURCE else self.monitors.there
            if role == DESTINATION and isinstance(address, str):
                self._forwarded = forward.Forwarded(self.where, address)
                self._forwarded.open()
                address = self._forwarded.here
            monitor = Monitor(address, self.names[role])
            monitor.connect()
            self._open[role] = monitor
        return self._open[role]

    def close(self) -> None:
        """Hang up at both monitors."""
        for monitor in self._open.values():
            monitor.close()
        self._open.clear()
        if self._forwarded is not None:
            self._forwarded.close()
            self._forwarded = None

    def heard(self, role: str, event: str) -> float:
        """When an event came last, by time.monotonic(); 0 where none was heard."""
        return self._open[role].heard.get(event, 0.0) if role in self._open else 0.0

    def status(self, role: str) -> str:
        """`query-status`, as "running"."""
        return str(self._told(role, "query-status")["status"])

    def migration(self, role: str) -> Mapping[str, Any]:
        """`query-migrate`; its ``status`` is there."""
        return self._told(role, "query-migrate")

    def settle(self) -> None:
        """Ask the source again what it sent: QEMU 7.2 says completed before it works its times
        out, until when they are 0 (migration/migration.c:migration_calculate_complete).  One that
        is gone, or never tells, is left at what it said."""
        for _ in range(SETTLES):
            if not self.sent or self.sent.get("total-time"):
                return
            try:
                self.sent = self.migration(SOURCE)
            except (errors.GuestFailed, errors.PeerUnreachable):
                return
            time.sleep(SETTLE)

    def _told(self, role: str, command: str) -> Mapping[str, Any]:
        """The answer of a QEMU, whose members are of their types: the monitor may be anybody's.
        Raises GuestFailed."""
        tree = self.monitor(role).execute(command)
        if isinstance(tree, dict) and all(
                fits(tree[name], kind) for name, kind in _TOLD.items() if name in tree) and all(
                0 <= number < 1 << 63 for number in (
                    tree.get("downtime", 0), tree.get("expected-downtime", 0),
                    tree.get("downtime-limit", 0), *tree.get("ram", {}).values())):
            return {**tree, "status": errors.shown(tree.get("status", NONE), 40)}
        raise errors.GuestFailed(f"{self.names[role]} answers {command} with something unknown")

    def switch(self, role: str, **changed: bool) -> None:
        """Switch capabilities: those of a live move, without ``changed``."""
        wanted = changed or {**CAPABILITIES,
                             **({PAUSE: self.pauses} if role == SOURCE else {})}
        self.monitor(role).execute("migrate-set-capabilities", {"capabilities": [
            {"capability": name, "state": state} for name, state in wanted.items()]})

    def hold(self) -> None:
        """Have QEMU not stop the guest, however little RAM is left (unless none is)."""
        limit = self._told(SOURCE, "query-migrate-parameters").get("downtime-limit")
        if limit:
            self._allow_downtime(0)
            self._limit = limit

    def let_go(self) -> None:
        """Undo `hold`: QEMU stops the guest once the rest takes no longer than it may."""
        if self._limit is not None:
            self._allow_downtime(self._limit)
            self._limit = None

    def _allow_downtime(self, milliseconds: int) -> None:
        self.monitor(SOURCE).execute("migrate-set-parameters", {"downtime-limit": milliseconds})

    # ---- back -----------------------------------------------------------------------------------
    def cancel(self) -> str:
        """End the migration: then QEMU runs the guest again by itself, or keeps it for `cont`.
        Returns what went wrong with that."""
        until = time.monotonic() + ENDS
        monitor = self.monitor(SOURCE)
        monitor.execute("migrate_cancel")
        self.let_go()
        while self.migration(SOURCE)["status"] not in (*ENDED, NONE):
            if time.monotonic() > until:
                return f"{monitor.name} has not cancelled the migration in {ENDS:g} s"
            monitor.wait_for_event(OFTEN)
        return ""

    def run_again(self) -> str:
        """Run the guest on the source, whose target serves again; its state, as "running"."""
        state = self.status(SOURCE)
        for _ in range(SETTLES):
            if state != LEAVING:
                break
            time.sleep(SETTLE)
            state = self.status(SOURCE)
        self.switch(SOURCE, **{PAUSE: False})
        if state in PAUSED:
            self.monitor(SOURCE).execute("cont", seconds=ENDS)
            state = self.status(SOURCE)
        return state

    def quit(self) -> None:
        """End the destination's QEMU, which has no guest to run any more."""
        try:
            self.monitor(DESTINATION).execute("quit")
        except errors.HandoverError:
            pass  # it ends by itself where the migration fails before it has all

    def left_its_monitor(self, role: str) -> bool:
        """Whether nobody greets any more at a monitor that hung up: the QEMU has ended.

        Raises GuestFailed where the connection was handed in, which proves nothing: whoever made it
        may have cut it, and nobody here can make another.
        """
        if not isinstance(self.monitors.here if role == SOURCE else self.monitors.there, str):
            raise errors.GuestFailed(f"the connection to {self.names[role]} was cut",
                                     do=f"see whether {self.names[role]} still runs")
        self._open.pop(role).close()
        try:
            self.monitor(role)
        except errors.HandoverError:
            return True
        return False

    def may_have_run(self) -> bool:
        """Whether the destination's QEMU may have executed the guest: it is told to once."""
        try:
            return self.ran or self.status(DESTINATION) not in NEVER_RUN
        except errors.GuestFailed as failed:
            return not failed.gone
        except errors.HandoverError:
            return True


# ---- the steps ---------------------------------------------------------------------------------
class Wait(NamedTuple):
    """How a step waits: ``stop`` is true when it has to end, ``tell`` gets what all guests said
    last of their migrations (see together); ``seconds`` that a command may take."""

    stop: Callable[[], bool]
    tell: Callable[[Mapping[str, Any]], None]
    seconds: float


Ask = Callable[[Sequence[Guest], str, Wait], None]


def _for_all(ask: Callable[[Guest, str, Wait], None]) -> Ask:
    def of_all(guests: Sequence[Guest], role: str, wait: Wait) -> None:
        for guest in guests:
            ask(guest, role, wait)
    return of_all


def _awaited(guests: Sequence[Guest], role: str, wanted: str, wait: Wait
             ) -> Iterator[List[Mapping[str, Any]]]:
    """Ask all guests again and again until `query-migrate` of each says what is wanted, yielding
    the answers of a round.  Raises GuestFailed where one ends otherwise, Interrupted."""
    while True:
        trees = [guest.migration(role) for guest in guests]
        waiting = [guest for guest, tree in zip(guests, trees) if tree["status"] != wanted]
        for guest in waiting:
            tree = trees[guests.index(guest)]
            if tree["status"] in ENDED:
                raise _ended(guest, role, tree)
        if not waiting:
            return
        yield trees
        if wait.stop():
            raise errors.Interrupted("interrupted")
        wait.tell(together(trees))
        waiting[0].monitor(role).wait_for_event(OFTEN)


def _ended(guest: Guest, role: str, tree: Mapping[str, Any]) -> errors.GuestFailed:
    why = errors.shown(str(tree.get("error-desc", "QEMU does not say why")))
    return errors.GuestFailed(f"{guest.names[role]}: the migration is {tree['status']} ({why})")


def together(trees: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """`query-migrate` of all guests as if they were one: the RAM is summed up, a downtime is the
    longest."""
    told = dict(trees[0]) if trees else {}
    rams = [tree["ram"] for tree in trees if tree.get("ram")]
    if len(rams) > 1:
        told["ram"] = {name: sum(ram.get(name, 0) for ram in rams) for name in rams[0]}
    for name in ("downtime", "expected-downtime"):
        times = [tree[name] for tree in trees if name in tree]
        if times:
            told[name] = max(times)
    return told


def progress(tree: Mapping[str, Any]) -> str:
    """The RAM that is left to be copied, of `query-migrate`; "" where it does not say."""
    ram = tree.get("ram")
    if not ram:
        return ""
    rest, total = (ram.get(name, 0) / 2**20 for name in ("remaining", "total"))
    left = f" ({rest:.0f} of {total:.0f} MiB of RAM left"
    expected = tree.get("expected-downtime")
    return left + (f", {expected} ms of downtime expected)" if expected is not None else ")")


def _listen(guest: Guest, role: str, wait: Wait) -> None:
    monitor = guest.monitor(DESTINATION)
    monitor.execute("stop")  # while it waits for a guest, as -S: it does not run it by itself
    guest.switch(DESTINATION)
    if guest.uri:
        monitor.execute("migrate-incoming", {"uri": guest.uri})
        return
    name = forward.address_of(guest.where)
    everywhere, name = ("[::]", f"[{name}]") if ":" in name else ("0.0.0.0", name)
    monitor.execute("migrate-incoming", {"uri": f"tcp:{everywhere}:0"})
    addresses = guest.migration(DESTINATION).get("socket-address")
    if not addresses or not re.fullmatch("[1-9][0-9]{0,4}", str(addresses[0].get("port"))):
        raise errors.GuestFailed(
            f"{monitor.name} answers migrate-incoming with something unknown")
    guest.uri = f"tcp:{name}:{addresses[0]['port']}"


def _migrate(guest: Guest, role: str, wait: Wait) -> None:
    guest.switch(SOURCE)
    if guest.others and guest.pauses:
        guest.hold()
    guest.monitor(SOURCE).execute("migrate", {"uri": guest.uri})


def _copy(guests: Sequence[Guest], role: str, wait: Wait) -> None:
    """Guests that move together stand still together: none before the RAM of each has been copied
    once, or the small one would wait for the large one."""
    for trees in _awaited(guests, SOURCE, "pre-switchover", wait):
        if all(tree["status"] == "pre-switchover"
               or tree.get("ram", {}).get("dirty-sync-count", 0) > 1 for tree in trees):
            for guest in guests:
                guest.let_go()
    for guest in guests:  # one without any RAM left does not wait
        guest.let_go()


def _stop(guest: Guest, role: str, wait: Wait) -> None:
    guest.monitor(SOURCE).execute("stop", seconds=wait.seconds)


def _continue(guest: Guest, role: str, wait: Wait) -> None:
    guest.monitor(SOURCE).execute("migrate-continue", {"state": "pre-switchover"})


def _sent(guest: Guest, wait: Wait) -> None:
    """A QEMU that has gone can't run the guest again, which is as good as `completed`; whether the
    other one has all of the guest is the next step's."""
    while True:
        try:
            for _ in _awaited([guest], SOURCE, "completed", wait):
                pass
            guest.sent = guest.migration(SOURCE)
            return
        except errors.GuestFailed as failed:
            if failed.gone and guest.left_its_monitor(SOURCE):
                guest.left = True
                return
            if failed.gone:
                continue
            if not guest.pauses and guest.migration(DESTINATION)["status"] == "completed":
                return  # its word was lost: a guest that was stopped before is run by nobody
            raise


def _came(guest: Guest, wait: Wait) -> None:
    try:
        for _ in _awaited([guest], DESTINATION, "completed", wait):
            pass
    except errors.GuestFailed as failed:
        if guest.left:
            failed.what += f"; {guest.names[SOURCE]} is gone, so the guest is lost"
            failed.do = "boot the guest on the source, which keeps its target"
        raise


def _completed(guest: Guest, role: str, wait: Wait) -> None:
    (_sent if role == SOURCE else _came)(guest, wait)


def _cont(guest: Guest, role: str, wait: Wait) -> None:
    """RESUME proves nothing, nor does an answer to `cont`."""
    name, state = guest.names[DESTINATION], guest.status(DESTINATION)
    if state != "running":
        if guest.migration(DESTINATION)["status"] != "completed":
            raise errors.GuestFailed(f"{name} has no guest to run: it is {state}")
        guest.told = True
        guest.monitor(DESTINATION).execute("cont", seconds=wait.seconds)
        guest.ran = True
        state = guest.status(DESTINATION)
        stop, run = guest.heard(SOURCE, "STOP"), guest.heard(DESTINATION, "RESUME")
        guest.stood = run - stop if stop and run else 0.0
    guest.ran = True
    if state != "running":
        raise errors.GuestFailed(f"{name} does not run the guest: it is {state}")


#: The thing that a step asks (`Step.qmp`) → how.  All guests are waited for at once where they go
#: on together.
ASKS: Mapping[str, Ask] = {
    "migrate-incoming": _for_all(_listen), "stop": _for_all(_stop), "migrate": _for_all(_migrate),
    "pre-switchover": _copy, "migrate-continue": _for_all(_continue),
    "completed": _for_all(_completed), "cont": _for_all(_cont)}


def all_of(guests: Sequence[Guest], ask: Callable[[Guest], str]) -> List[str]:
    """The words about each guest; the reason for one that cannot be asked; "" is left out."""
    said = []
    for guest in guests:
        try:
            said.append(ask(guest))
        except errors.HandoverError as failed:
            said.append(failed.what)
    return [words for words in said if words]

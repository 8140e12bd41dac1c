"""``lio-handover move --guest``: a guest and its vhost-scsi disk move together, mode vhost-qmp.

    source                                        destination
    ------                                        -----------
    prepare   --- offer --------------------->    stage
                                                  migrate-incoming
    migrate   === RAM, while the guest runs ==>     .
    pre-switchover: the guest is stopped            .
    freeze, export --- document ------------->    activate    kept, loaded, endpoint ours
    migrate-continue === device state =======>      .
    completed                                     completed, paused (-S)
    release   <-- armed ----------------------      .         our initiator has the endpoint
              --- released ------------------>    activate    its own now; the endpoint is free
                                                  cont        the guest runs
                                                  verify
    retire    <-- serving --------------------
              --- retired ------------------->    confirm

docs/reference/qemu-behaviour.md says what QEMU does by itself.  Hence the source's endpoint stays
free until QEMU has said `completed`: it runs the guest again by itself where the migration fails,
and exits where it can't.  The destination needs -S: without it, it exits at the switch, as its
endpoint is taken.  In pre-switchover QEMU waits for ever, so the deadlines are this driver's.

Before `release` all is taken back: the migration is cancelled, the source thaws, the destination
aborts, and a guest that QEMU does not run again by itself is told to (`cont`).  After it a move is
gone on with (--resume).
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..client import forward
from ..handover.reply import Reply
from ..model import fabrics
from ..model.fabrics import Gate
from ..protocol.table import DESTINATION, SOURCE, Mode
from .move import RESUME_AT, Move, Step
from .qmp import Address, Monitor

#: Seconds that RAM may be copied for, and that each step may take while the guest stands still.
COPIES, STANDS = 3600.0, 60.0
#: Seconds until QEMU is asked again where no event comes.
OFTEN = 0.2


def _verb(role: str, verb: str, name: str, takes: str, does: str, deadline: float = 0.0) -> Step:
    return Step(role, verb, name, takes, does, deadline=deadline)


def _qmp(role: str, qmp: str, name: str, does: str, deadline: float, back: str = "") -> Step:
    return Step(role, "", name, "", does, qmp, deadline, back)


STEPS = (
    _qmp(SOURCE, "query-status", "look", "see that the guest runs and may be migrated", 10),
    _qmp(DESTINATION, "query-status", "waits", "see that this QEMU waits for a guest", 10),
    _verb(SOURCE, "prepare", "prepare", "", "look whether anything speaks against it, and offer"),
    _verb(DESTINATION, "stage", "stage", "prepare", "build all but the registrations"),
    _qmp(DESTINATION, "migrate-incoming", "listen", "wait for the guest", 10, "quit"),
    _qmp(SOURCE, "migrate", "migrate", "begin to copy the guest's RAM", 10, "cancel"),
    _qmp(SOURCE, "pre-switchover", "copy", "copy RAM while the guest runs", COPIES, "cancel"),
    _verb(SOURCE, "freeze", "freeze", "", "wait for commands, flush", STANDS),
    _verb(SOURCE, "export", "export", "", "read the registrations", STANDS),
    _verb(DESTINATION, "activate", "arm", "export", "keep them, and load them", STANDS),
    _qmp(SOURCE, "migrate-continue", "continue", "send the guest's devices", 10),
    _qmp(SOURCE, "completed", "sent", "see that QEMU has sent the guest", STANDS),
    _qmp(DESTINATION, "completed", "came", "see that QEMU has all of the guest", STANDS),
    _verb(SOURCE, "release", "release", "arm", "occupy the endpoint, and promise not to serve any "
          "more"),
    _verb(DESTINATION, "activate", "open", "release", "own the target, and free the endpoint"),
    _qmp(DESTINATION, "cont", "cont", "run the guest", STANDS),
    _verb(DESTINATION, "verify", "verify", "", "read it back, and see the guest attached"),
    _verb(SOURCE, "retire", "retire", "verify", "take the target down"),
    _verb(DESTINATION, "confirm", "confirm", "retire", "note that the source is gone"),
)

#: Host → the capabilities that are switched on and off before RAM is copied.
CAPABILITIES: Mapping[str, Mapping[str, bool]] = {
    DESTINATION: {"events": True, "return-path": True, "postcopy-ram": False},
    SOURCE: {"events": True, "return-path": True, "postcopy-ram": False,
             "pause-before-switchover": True}}
#: `query-migrate`: what a migration ends with; and begun, so that it can be cancelled.
ENDED = ("completed", "failed", "cancelled")
NONE = "none"
#: `query-status` of a guest that only `cont` runs again.
PAUSED = ("postmigrate", "paused")


@dataclass
class LiveMove(Move):
    """A move of a guest.  ``guest``, ``guest_there``: the QEMUs' monitors, each a path on its host,
    or a connected socket; ``uri``: where the RAM goes, as QEMU has it ("": tcp, to where ssh goes,
    any port)."""

    steps: ClassVar[Tuple[Step, ...]] = STEPS
    shut: ClassVar[Tuple[str, str]] = ("freeze", "cont")
    onward: ClassVar[Mapping[Tuple[str, str], str]] = {
        **RESUME_AT, ("released", "opening"): "cont"}

    guest: Address = ""
    guest_there: Address = ""
    uri: str = ""
    _monitors: Dict[str, Monitor] = field(default_factory=dict)
    _forwarded: Optional[forward.Forwarded] = None
    _until: float = float("inf")

    def __post_init__(self) -> None:
        told = self.stop
        self.stop = lambda: told() or time.monotonic() > self._until

    def run(self, targets: Sequence[str], mode: str = Mode.VHOST_QMP.value, here: str = "",
            maps: Sequence[str] = (), allow: Sequence[str] = (), probe: bool = False) -> None:
        """As Move.run."""
        if mode != Mode.VHOST_QMP.value or any(
                fabrics.gate_of(name.partition("/")[0]) is not Gate.ENDPOINT for name in targets):
            raise errors.WrongState("with a guest only vhost targets move, in mode vhost-qmp",
                                    do="leave --mode out, and move other targets without --guest")
        if isinstance(self.guest_there, str):
            # refuses what can be none
            forward.Forwarded(self.destination.where, self.guest_there)
        self._go(0, {
            "prepare": {"targets": targets, "mode": mode, "peer": self.destination.where,
                        **({"probe": True} if probe else {})},
            "stage": {"peer": here or self.source.name, "maps": list(maps)},
            "release": {"guest-left": True}}, allow)
        self.notes.append(f"{self.source.name}: its QEMU waits in postmigrate and can't run the "
                          "guest again; it may be ended")

    def cost(self) -> str:
        return f"the guest stood still for {self.window:.2f} s" if self.window else ""

    def close(self) -> None:
        """Hang up, at both monitors and at both services."""
        super().close()
        for monitor in self._monitors.values():
            monitor.close()
        self._monitors.clear()
        if self._forwarded is not None:
            self._forwarded.close()
            self._forwarded = None

    def _again(self) -> str:
        here, there = (address if isinstance(address, str) else "SOCKET"
                       for address in (self.guest, self.guest_there))
        return f"{super()._again()} --guest {here} --guest-there {there}"

    # ---- steps ---------------------------------------------------------------------------------
    def _do(self, number: int, step: Step, options: Mapping[str, Any]) -> Optional[Reply]:
        began = time.monotonic()
        if number < self.commit and step.deadline:
            self._until = began + step.deadline
        try:
            if not step.qmp:
                return super()._do(number, step, options)
            self.tell(self._label(step))
            self.ASKS[step.name](self, step)
            return None
        except (KeyError, IndexError, TypeError, ValueError) as error:  # of QEMU's answer
            raise errors.GuestFailed(f"{self._monitor(step.role).name} answers {step.qmp} with "
                                     f"something unknown ({type(error).__name__})") from error
        except errors.Interrupted as error:
            if time.monotonic() > self._until:
                error.what = (f"{step.qmp or step.verb} on {self._side(step.role).name} took "
                              f"longer than its {step.deadline:g} s")
            raise
        finally:
            self._until = float("inf")

    def _monitor(self, role: str) -> Monitor:
        if role not in self._monitors:
            address, side = self.guest, self._side(role)
            if role == DESTINATION:
                address = self.guest_there
                if isinstance(address, str):
                    self._forwarded = forward.Forwarded(self.destination.where, address)
                    self._forwarded.open()
                    address = self._forwarded.here
            monitor = Monitor(address, f"the QEMU of {side.name}")
            monitor.connect()
            self._monitors[role] = monitor
        return self._monitors[role]

    def _look(self, step: Step) -> None:
        monitor = self._monitor(SOURCE)
        state = monitor.execute("query-status")["status"]
        if state != "running":
            raise errors.GuestFailed(f"{monitor.name} does not run a guest: it is {state}",
                                     do="move the target without --guest, or `cont` it first")
        blocked = monitor.execute("query-migrate").get("blocked-reasons")
        if blocked:
            raise errors.GuestFailed(f"{monitor.name} can't be migrated: "
                                     f"{errors.one_line('; '.join(blocked))}",
                                     do="start it with what QEMU asks for (vhost-scsi-pci: "
                                        "migratable=on)")

    def _waits(self, step: Step) -> None:
        monitor = self._monitor(DESTINATION)
        state = monitor.execute("query-status")["status"]
        if state != "inmigrate" or monitor.execute("query-migrate").get("status", NONE) != NONE:
            raise errors.GuestFailed(f"{monitor.name} does not wait for a guest: it is {state}",
                                     do="start it with -incoming defer -S")

    def _capabilities(self, role: str, **changed: bool) -> None:
        self._monitor(role).execute("migrate-set-capabilities", {"capabilities": [
            {"capability": name, "state": state}
            for name, state in (changed or CAPABILITIES[role]).items()]})

    def _listen(self, step: Step) -> None:
        monitor = self._monitor(DESTINATION)
        self._capabilities(DESTINATION)
        if self.uri:
            monitor.execute("migrate-incoming", {"uri": self.uri})
            return
        name = forward.address_of(self.destination.where)
        everywhere, name = ("[::]", f"[{name}]") if ":" in name else ("0.0.0.0", name)
        monitor.execute("migrate-incoming", {"uri": f"tcp:{everywhere}:0"})
        address = monitor.execute("query-migrate")["socket-address"][0]
        self.uri = f"tcp:{name}:{address['port']}"

    def _migrate(self, step: Step) -> None:
        self._capabilities(SOURCE)
        self._monitor(SOURCE).execute("migrate", {"uri": self.uri})

    def _copy(self, step: Step) -> None:
        self._await(step, "pre-switchover")

    def _continue(self, step: Step) -> None:
        self._monitor(SOURCE).execute("migrate-continue", {"state": "pre-switchover"})

    def _completed(self, step: Step) -> None:
        self._await(step, "completed")

    def _cont(self, step: Step) -> None:
        monitor = self._monitor(DESTINATION)
        state = monitor.execute("query-status")["status"]
        if state != "running":
            if monitor.execute("query-migrate").get("status") != "completed":
                raise errors.GuestFailed(f"{monitor.name} has no guest to run: it is {state}")
            monitor.execute("cont", seconds=step.deadline)
            state = monitor.execute("query-status")["status"]
        if state != "running":  # RESUME proves nothing, nor does an answer to cont
            raise errors.GuestFailed(f"{monitor.name} does not run the guest: it is {state}")

    ASKS: ClassVar[Mapping[str, Callable[[LiveMove, Step], None]]] = {
        "look": _look, "waits": _waits, "listen": _listen, "migrate": _migrate, "copy": _copy,
        "continue": _continue, "sent": _completed, "came": _completed, "cont": _cont}

    def _await(self, step: Step, wanted: str) -> None:
        """Wait until `query-migrate` says so.  Raises GuestFailed where it ends otherwise."""
        monitor = self._monitor(step.role)
        while True:
            tree = self.migration = monitor.execute("query-migrate")
            state = tree.get("status", NONE)
            if state == wanted:
                return
            if state in ENDED:
                why = tree.get("error-desc", "QEMU does not say why")
                raise errors.GuestFailed(f"{monitor.name}: the migration is {state} "
                                         f"({errors.one_line(str(why))})")
            if self.stop():
                raise errors.Interrupted("interrupted")
            self.tell(f"{self._label(step)}{_progress(tree)}")
            monitor.wait_for_event(OFTEN)

    # ---- where something fails -----------------------------------------------------------------
    def _failed(self, number: int, step: Step, error: errors.HandoverError
                ) -> errors.HandoverError:
        said: List[str] = []
        if number < self.commit:
            said += self._cancel(number)
        error = super()._failed(number, step, error)
        if said:
            error.changed += f"; {'; '.join(said)}"
        return error

    def _go_back(self, number: int, here: str, error: errors.HandoverError) -> None:
        super()._go_back(number, here, error)
        backs = self._backs(number)
        if "cancel" in backs:  # thaw has let go of the endpoint, so that the guest can have it
            error.changed += f"; {self._run_again()}"
        if "quit" in backs:
            try:
                self._monitor(DESTINATION).execute("quit")
            except errors.HandoverError:
                pass  # it ends by itself where the migration fails before it has all

    def _backs(self, number: int) -> List[str]:
        return [step.back for step in self.steps[:number + 1]]

    def _cancel(self, number: int) -> List[str]:
        """End the migration: then QEMU runs the guest again by itself, or keeps it for `cont`.
        Returns what went wrong with that."""
        if "cancel" not in self._backs(number):
            return []
        self.tell("cancelling the migration")
        until = time.monotonic() + STANDS
        try:
            monitor = self._monitor(SOURCE)
            monitor.execute("migrate_cancel")
            while monitor.execute("query-migrate").get("status", NONE) not in (*ENDED, NONE):
                if time.monotonic() > until:
                    return [f"{monitor.name} has not cancelled the migration in {STANDS:g} s"]
                monitor.wait_for_event(OFTEN)
        except errors.HandoverError as failed:
            return [failed.what]
        return []

    def _run_again(self) -> str:
        """See that the guest runs on the source, whose target serves again; what to say of it."""
        if self._state(self.source) != "idle":
            return "its guest stands still: `cont` it once its target serves"
        try:
            monitor = self._monitor(SOURCE)
            state = monitor.execute("query-status")["status"]
            self._capabilities(SOURCE, **{"pause-before-switchover": False})
            if state in PAUSED:
                monitor.execute("cont", seconds=STANDS)
                state = monitor.execute("query-status")["status"]
        except errors.HandoverError as failed:
            return failed.what
        return "its guest runs" if state == "running" else f"its guest is {state}"


def _progress(tree: Mapping[str, Any]) -> str:
    """The RAM that is left to be copied, of `query-migrate`; "" where it does not say."""
    ram = tree.get("ram")
    if not ram:
        return ""
    left = f" ({ram['remaining'] / 2**20:.0f} of {ram['total'] / 2**20:.0f} MiB of RAM left"
    expected = tree.get("expected-downtime")
    return left + (f", {expected} ms of downtime expected)" if expected is not None else ")")

"""``lio-handover move --guest``: guests and their vhost-scsi disks move together.

Mode vhost-qmp:

    source                                        destination
    ------                                        -----------
    look: both QEMUs are asked whatever could speak against it
    prepare   --- offer --------------------->    stage
                                                  migrate-incoming
    migrate   === RAM, while the guest runs ==>     .
    pre-switchover: the guest is stopped            .
    freeze, export --- document ------------->    activate    kept, loaded, endpoint ours
    migrate-continue === device state =======>      .
    completed                                     completed, paused
    release   <-- armed ----------------------      .         our initiator has the endpoint
              --- released ------------------>    activate    its own now; the endpoint is free
                                                  cont        the guest runs
                                                  verify      once it is seen attached
    retire    <-- serving --------------------
              --- retired ------------------->    confirm

Mode vhost-stopped, where the source's kernel does not log what vhost-scsi writes into a guest's
memory: `stop` before freeze, and `migrate` after the destination is armed; the guest stands still
while all of its RAM is copied.

docs/reference/qemu-behaviour.md says what QEMU does by itself.  Hence the source's endpoint stays
free until QEMU has said `completed`: it runs the guest again by itself where the migration fails,
and exits where it can't.  The destination must not run it by itself at the switch: -S sees to that,
and so does `stop` while it waits for a guest.  In pre-switchover QEMU waits for ever, so the
deadlines are this driver's.

Several guests move in one handover, which is what a disk needs that they share: all of them stand
still before the freeze.

Before `release` all is taken back: the migrations are cancelled, the source thaws, the destination
aborts, and a guest that QEMU does not run again by itself is told to (`cont`).  After it the target
is given back as long as no guest has run on the destination; else a move is gone on with
(--resume).
"""
from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..document import rename
from ..handover.reply import Reply
from ..model import fabrics
from ..model.fabrics import Gate
from ..protocol.messages import NEVER_RAN, to_json
from ..protocol.table import DESTINATION, HELD, SOURCE, Mode
from ..records.journal import Handover
from . import guest_checks
from .guest import ASKS, PAUSED, Guest, Monitors, Wait, all_of, progress, together
from .live_steps import OURS, ROWS, STILL, deadlines
from .move import RESUME_AT, Move, Step
from .qmp import Address

#: Seconds between two looks whether the guest is attached.
AGAIN = 0.5


@dataclass
class LiveMove(Move):
    """A move of guests.  ``guests``: the monitors of each; ``limits``: STEP=SECONDS, as --deadline
    has them."""

    onward: ClassVar[Mapping[Tuple[str, str], str]] = {
        **RESUME_AT, ("released", "opening"): "cont"}

    guests: Sequence[Monitors] = ()
    limits: Sequence[str] = ()
    mode: Mode = Mode.VHOST_QMP
    _guests: List[Guest] = field(default_factory=list)
    _limits: Mapping[str, float] = field(default_factory=dict)
    _moved: Dict[str, str] = field(default_factory=dict)
    _typed: str = ""
    _copying: float = 0.0
    _resumed: bool = False
    _until: float = float("inf")

    def __post_init__(self) -> None:
        told = self.stop
        self.stop = lambda: told() or time.monotonic() > self._until

    @property
    def steps(self) -> Tuple[Step, ...]:
        return ROWS[self.mode]

    @property
    def shut(self) -> Tuple[str, str]:
        return STILL[self.mode], "cont"

    def run(self, targets: Sequence[str], mode: str = Mode.VHOST_QMP.value, here: str = "",
            maps: Sequence[str] = (), allow: Sequence[str] = (), probe: bool = False) -> None:
        """As Move.run."""
        gates = [fabrics.gate_of(name.partition("/")[0]) for name in targets]
        if mode not in {known.value for known in ROWS} or Gate.ENDPOINT not in gates \
                or Gate.LOCAL in gates:
            raise errors.WrongState(
                "with a guest its vhost targets move, and iSCSI targets beside them, in mode "
                f"{' or '.join(known.value for known in ROWS)}",
                do="leave --mode out, and move other targets without --guest")
        renamed = rename.parse(maps).targets
        self._moved = {wwn: renamed.get(wwn, wwn) for wwn in (
            name.partition("/")[2] for name, gate in zip(targets, gates)
            if gate is Gate.ENDPOINT)}
        self._typed = " ".join(map(shlex.quote, (*targets, *(
            word for value in maps for word in ("--map", value)))))
        self._begin(Mode(mode))
        self._go(0, {
            "prepare": {"targets": targets, "mode": mode, "peer": self.destination.where,
                        **({"probe": True} if probe else {})},
            "stage": {"peer": here or self.source.name, "maps": list(maps)},
            "release": {"guest-left": True}}, allow)
        self.notes.append(f"{self.source.name}: its QEMU waits in postmigrate and can't run the "
                          "guest again; it may be ended")

    def cost(self) -> str:
        if not self.window:
            return ""
        words = [f"the guest stood still for {self.window:.2f} s"]
        ours = [f"{what} {sum(self.seconds.get(name, 0.0) for name in names):.2f} s"
                for what, names in OURS]
        words.append(f"of which {', '.join(ours)}")
        for guest in self._guests:
            if guest.sent:
                whose = f"{guest.names[SOURCE]}: " if len(self._guests) > 1 else ""
                words.append(f"{whose}QEMU's downtime {guest.sent.get('downtime', 0)} ms, "
                             f"{_ram(guest) / 2**20:.0f} MiB of RAM copied")
        return "; ".join(words)

    def told_of_guests(self) -> List[Dict[str, Any]]:
        """The cost of each guest, for --json: ``stood_still`` and QEMU's ``downtime`` in seconds,
        ``ram`` in bytes that were sent."""
        return [{"monitor": _path(guest.monitors.here), "stood_still": round(guest.stood, 6),
                 "downtime": guest.sent.get("downtime", 0) / 1000, "ram": _ram(guest)}
                for guest in self._guests]

    def close(self) -> None:
        """Hang up, at all monitors and at both services."""
        super().close()
        for guest in self._guests:
            guest.close()

    # ---- before the first step -----------------------------------------------------------------
    def _begin(self, mode: Mode) -> None:
        """Raises BadCall for monitors or deadlines that can be none."""
        self.mode = mode
        self._limits = deadlines(self.limits, self.steps)
        for role, paths in ((SOURCE, [guest.here for guest in self.guests]),
                            (DESTINATION, [guest.there for guest in self.guests])):
            named = [path for path in paths if isinstance(path, str)]
            if not paths or len(set(named)) < len(named):
                raise errors.BadCall(f"each guest has a monitor of its own on "
                                     f"{self._side(role).name}",
                                     do="give --guest and --guest-there once for each guest, in "
                                        "the same order")
        several = len(self.guests) > 1
        self._guests = [Guest(guest, {
            role: f"the QEMU of {self._side(role).name}" + (f" at {_path(path)}" if several else "")
            for role, path in ((SOURCE, guest.here), (DESTINATION, guest.there))},
            self.destination.where, mode is Mode.VHOST_QMP, several) for guest in self.guests]

    def _resuming(self, handover: Handover, step: str) -> None:
        mode = Mode(handover.mode)
        if mode not in HELD:
            raise errors.WrongState(f"{handover.id} moves no guest: its mode is {mode.value}",
                                    do="leave --guest out")
        self._begin(mode)
        self._resumed = True

    def _again(self) -> str:
        return f"{super()._again()} {self._monitors()}"

    def _monitors(self) -> str:
        words = []
        for guest in self.guests:
            words += ["--guest", _path(guest.here), "--guest-there", _path(guest.there)]
            words += ["--guest-uri", guest.uri] if guest.uri else []
        return " ".join(map(shlex.quote, words))

    # ---- steps ---------------------------------------------------------------------------------
    def _do(self, number: int, step: Step, options: Mapping[str, Any]) -> Optional[Reply]:
        seconds = self._limits.get(step.name, step.deadline)
        if number < self.commit and seconds:
            self._until = time.monotonic() + seconds
        try:
            if step.name == "look":
                self.tell(self._label(step))
                self._look(options["allow"])
                return None
            if step.name == "verify":
                self._settle()
                return self._attached(number, step, options, time.monotonic() + seconds)
            if not step.qmp:
                return super()._do(number, step, options)
            self.tell(self._label(step))
            ASKS[step.qmp](self._guests, step.role, Wait(
                self.stop, lambda tree: self._progress(step, tree), seconds))
            self._sum_up()
            return None
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # of QEMU's answer
            raise errors.GuestFailed(f"the QEMU of {self._side(step.role).name} answers {step.qmp} "
                                     f"with something unknown ({type(error).__name__})") from error
        except errors.Interrupted as error:
            if time.monotonic() > self._until:
                error.what = (f"{step.qmp or step.verb} on {self._side(step.role).name} took "
                              f"longer than its {seconds:g} s")
                error.do = f"see why, and move again, with --deadline {step.name}=SECONDS if it " \
                    "needs longer"
            raise
        finally:
            self._until = float("inf")

    def _sum_up(self) -> None:
        if any(guest.sent for guest in self._guests):
            self.migration = together([guest.sent for guest in self._guests])

    def _settle(self) -> None:
        """Ask for the figures of the summary once the guests run."""
        for guest in self._guests:
            guest.settle()
        self._sum_up()

    def _progress(self, step: Step, tree: Mapping[str, Any]) -> None:
        if step.role == SOURCE:
            self.migration = tree
        self.tell(self._label(step) + progress(tree))

    def _look(self, allow: Sequence[str]) -> None:
        """Ask both QEMUs of each guest; raises the first of all findings."""
        pairs, against = [], []
        for guest in self._guests:
            asked = []
            for role in (SOURCE, DESTINATION):
                if self.stop():
                    raise errors.Interrupted("interrupted")
                try:
                    asked.append(guest_checks.ask(guest.monitor(role)))
                except (errors.GuestFailed, errors.PeerUnreachable) as failed:
                    against.append(errors.Finding(type(failed), guest.names[role],
                                                  _removed(failed.what, guest.names[role]),
                                                  do=failed.next))
            if len(asked) == 2:
                pairs.append((guest.names, guest_checks.Pair(asked[0], asked[1], self._moved)))
        if len(pairs) == len(self._guests):
            against += guest_checks.findings(pairs, self._moved)
        errors.refuse(against, allow)
        for names, pair in pairs:
            asks = guest_checks.asks_helpers(pair.source)
            if asks:
                self.notes.append(f"{names[SOURCE]}: its dbus-vmstate object {asks} has "
                                  "lio-handover-vmstate asked, too, which leaves the handover to "
                                  "this driver")
        self._copying = sum(pair.source.memory / (pair.source.bandwidth or math.inf)
                            for _, pair in pairs)

    def _window(self, shut: float) -> float:
        """As it was seen: from a source's STOP to its guest's RESUME."""
        return max((guest.stood for guest in self._guests), default=0.0) \
            or super()._window(shut)

    def _attached(self, number: int, step: Step, options: Mapping[str, Any], until: float
                  ) -> Optional[Reply]:
        """Verify once the guest is attached, which its driver decides: not while it is in its
        firmware."""
        while True:
            try:
                return super()._do(number, step, options)
            except errors.WrongState as error:
                for guest in self._guests:
                    state = guest.status(DESTINATION)
                    if state != "running":
                        raise errors.GuestFailed(f"{guest.names[DESTINATION]} does not run the "
                                                 f"guest: it is {state}") from None
                if time.monotonic() > until:
                    raise errors.GuestFailed(
                        f"the guest runs on {self.destination.name}, and is not attached to its "
                        f"disk there: {error.what}") from None
            self.tell(f"{self._label(step)}: not yet")
            time.sleep(AGAIN)

    # ---- where something fails -----------------------------------------------------------------
    def _failed(self, number: int, step: Step, error: errors.HandoverError
                ) -> errors.HandoverError:
        said: List[str] = []
        if step.name == "prepare" and "stopped-guest" in error.do:
            error.do = self._offer_stopped()
        if number < self.commit and "cancel" in self._backs(number):
            self.tell("cancelling the migration")
            said = all_of(self._guests, Guest.cancel)
        if step.name in ("open", "cont") and self._given_back(error):
            self._name_host(step, error)
            return error
        error = super()._failed(number, step, error)
        if said:
            error.changed += f"; {'; '.join(said)}"
        if number > self.number("open") and step.name in ("cont", "verify"):
            error.do = (f"once its guest runs on {self.destination.name}: {error.do}; if it never "
                        f"ran there: on {self.destination.name} lio-handover destination abort "
                        f"{self.id}, then lio-handover recover {self.id}, and `cont`")
        return error

    def _offer_stopped(self) -> str:
        """The command that moves a guest whose source's kernel does not log, and what it costs."""
        takes = f"{math.ceil(self._copying)} s, by its RAM size and max-bandwidth" \
            if self._copying else "as long as all of its RAM is copied, max-bandwidth is unlimited"
        return (f"lio-handover move {self._typed} --to {self.destination.where} "
                f"{self._monitors()} --mode {Mode.VHOST_STOPPED.value}, in which the guest stands "
                f"still for about {takes}; or boot a kernel from 6.16 on")

    def _go_back(self, number: int, here: str, error: errors.HandoverError) -> None:
        super()._go_back(number, here, error)
        backs = self._backs(number)
        if "cancel" in backs or "cont" in backs:  # thaw has let go of the endpoint: the guest's
            error.changed += f"; {self._run_again()}"
        if "quit" in backs:
            for guest in self._guests:
                guest.quit()

    def _backs(self, number: int) -> List[str]:
        return [step.back for step in self.steps[:number + 1]]

    def _run_again(self) -> str:
        """See that the guests run on the source, whose target serves again; what to say of it."""
        if self._state(self.source) != "idle":
            return "its guest stands still: `cont` it once its target serves"
        states = all_of(self._guests, Guest.run_again)
        if set(states) == {"running"}:
            return "its guest runs" if len(states) == 1 else f"its {len(states)} guests run"
        return "; ".join(state if " " in state else f"its guest is {state}" for state in states)

    def _given_back(self, error: errors.HandoverError) -> bool:
        """Have the destination give the target back, where no guest has run there and the source's
        QEMUs can run them again; whether that was done."""
        if self._resumed or isinstance(error, errors.PeerUnreachable) \
                or any(guest.left or guest.may_have_run() for guest in self._guests) \
                or not set(all_of(self._guests, lambda guest: guest.status(SOURCE))) <= set(PAUSED):
            return False
        self.tell(f"abort on {self.destination.name}: give the target back")
        try:
            answer = self.destination.verb("abort", self.id, self._any_message())
        except errors.HandoverError:
            return False
        for guest in self._guests:
            guest.quit()
        self.tell(f"thaw on {self.source.name}: go back to serving")
        try:
            kept = self.source.verb("thaw", self.id, to_json(answer.messages))
        except errors.HandoverError as failed:
            error.changed = (f"{self.destination.name} has given the target back, and "
                             f"{self.source.name} does not serve it ({failed.what})")
            error.do = f"lio-handover recover {self.id}"
            return True
        error.changed = (f"{self.destination.name} has given the target back, and "
                         f"{self.source.name} serves on as before")
        if any(guest.told for guest in self._guests) and NEVER_RAN not in answer.notes:
            error.changed += "; its guest may have run for a moment over there"
            error.do = f"end its QEMU on {self.source.name}, and boot the guest there"
        else:
            error.changed += f"; {self._run_again()}"
            error.do = error.do or "lio-handover move again, once that is cured"
        if answer.handover.state == "returned":
            self._clean(to_json(kept.messages), error)
        return True

    def _clean(self, kept: bytes, error: errors.HandoverError) -> None:
        """Have the destination take down what it has given back."""
        try:
            state = self.destination.verb("recover", self.id, kept).handover.state
        except errors.HandoverError:
            state = ""
        if state != "none":
            error.do = f"on {self.destination.name}: lio-handover recover {self.id}; {error.do}"


def _path(address: Address) -> str:
    """A monitor as a command names it."""
    return address if isinstance(address, str) else "SOCKET"


def _ram(guest: Guest) -> int:
    return int(guest.sent.get("ram", {}).get("transferred", 0))


def _removed(text: str, name: str) -> str:
    """The text about a QEMU without its name."""
    return text[len(name):].lstrip(": ") if text.startswith(name) else text

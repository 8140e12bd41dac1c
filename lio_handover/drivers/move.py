"""``lio-handover move``: a handover between two hosts, from start to end.

    source                                  destination
    ------                                  -----------
    prepare   --- offer --------------->    stage       all but the registrations; gate shut
    freeze      .
    export    --- document ------------>    activate    kept, loaded, gate shut
    release   <-- armed ----------------      .         nobody serves: the blackout
              --- released ------------>    activate    its own now; gate open
                                            verify      seen to serve
    retire    <-- serving --------------
              --- retired ------------->    confirm     into the save file; it is over

Each host's service runs its verbs (docs/internals/handover-protocol.md: the promise of each verb,
and the reasons for their order).  This program only carries messages between the hosts, and no
host trusts it: it may be killed at any time, and ``lio-handover recover`` on both hosts finds out
which host serves.

``release`` is the point of no return.  A failure before it is rolled back: the source serves on.
After a failure behind it this program guesses nothing: where both hosts answer, --resume goes on
with the move; where one is lost, recover on the other says what a human may order.
"""
from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field, replace
from typing import (Any, Callable, ClassVar, Dict, List, Mapping, NamedTuple, Optional, Sequence,
                    Tuple)

from .. import errors
from ..client import ssh
from ..client.ssh import RemoteService, ServiceInfo
from ..dbus_names import EXPORTS
from ..document import document as documents
from ..handover.reply import Reply
from ..model import fabrics
from ..model.fabrics import Gate
from ..protocol.authentication import KEY
from ..protocol.messages import to_json
from ..protocol.table import DESTINATION, HELD, MODES, SOURCE, VHOST, Mode
from ..records.journal import Handover
from ..views import phrases


class Step(NamedTuple):
    """A verb on a host."""

    role: str
    verb: str
    name: str  # in the summary
    takes: str  # the step whose messages the verb gets
    does: str
    # The rest is for a move of a guest (drivers/live.py).
    qmp: str = ""  # what is asked of a QEMU, in place of a verb of the service
    deadline: float = 0.0  # seconds after which this driver gives it up
    back: str = ""  # what takes it back, besides thaw and abort


STEPS = (
    Step(SOURCE, "prepare", "prepare", "", "look whether anything speaks against it, and offer"),
    Step(DESTINATION, "stage", "stage", "prepare", "build all but the registrations"),
    Step(SOURCE, "freeze", "freeze", "", "shut the gate, wait for commands, flush"),
    Step(SOURCE, "export", "export", "", "read the registrations"),
    Step(DESTINATION, "activate", "arm", "export", "keep them, and load them"),
    Step(SOURCE, "release", "release", "arm", "promise not to serve any more"),
    Step(DESTINATION, "activate", "open", "release", "own the target, and open the gate"),
    Step(DESTINATION, "verify", "verify", "", "read it back, and see it serve"),
    Step(SOURCE, "retire", "retire", "verify", "take the target down"),
    Step(DESTINATION, "confirm", "confirm", "retire", "note that the source is gone"),
)
STEP_NAMES = [step.name for step in STEPS]
#: No host serves from the beginning of the first of these steps until the end of the last.
BLACKOUT = STEP_NAMES[STEP_NAMES.index("freeze"):STEP_NAMES.index("open") + 1]
#: The steps before this one can be rolled back.
COMMIT_STEP = STEP_NAMES.index("release")
#: The states in which the source can roll back by itself, whatever the destination did.
SOURCE_CAN_ROLL_BACK = ("idle", "prepared", "freezing", "frozen", "thawing")

#: (state of the source, state of the destination) → the step to go on with after release.
RESUME_AT: Mapping[Tuple[str, str], str] = {
    ("released", "armed"): "open", ("released", "opening"): "verify",
    **{(here, there): "retire" for here in ("released", "retiring")
       for there in ("serving", "confirmed")},
    ("retiring", "opening"): "retire",
    **{("retired", there): "confirm" for there in ("opening", "serving", "confirmed")}}

#: Retries of a verb, and seconds between two, where the connection is lost after the commit.
RETRIES, RETRY_SECONDS = 5, 2.0


# ---- before the first step -----------------------------------------------------------------------
def agree(source: ServiceInfo, destination: ServiceInfo) -> int:
    """The document version that both hosts read and write.

    Within a bus name the API only grows, so neighbours use what the older host knows; and each
    version reads and writes the documents of the version before.  Raises VersionsDiffer, BadCall
    where both are the same host, NotAuthentic where one of them alone has a key.
    """
    for what, here, there in (("API", source.api, destination.api),
                              ("documents", source.document, destination.document)):
        if abs(here - there) > 1:
            raise errors.VersionsDiffer(
                f"{source.host} has version {here} of the {what} (lio-handover {source.version}), "
                f"{destination.host} version {there} (lio-handover {destination.version})")
    if "uploads" not in destination.features:
        raise errors.VersionsDiffer(f"{destination.host} takes no messages by ssh "
                                    f"(lio-handover {destination.version})")
    if source.boot_id == destination.boot_id:
        raise errors.BadCall("both are one host", do="name the other host with --to")
    if (KEY in source.features) != (KEY in destination.features):
        having, lacking = (source, destination) if KEY in source.features else (destination, source)
        raise errors.NotAuthentic(
            f"{having.host} has a key, by which it knows messages to be the other host's, and "
            f"{lacking.host} has none that it can use",
            do=f"carry the key of {having.host} to {lacking.host}, by a way that nobody else can "
               "read ([host] key of the configuration says where it is: "
               "/etc/lio-handover/handover.key)")
    return min(source.document, destination.document)


def movable(targets: Sequence[str], mode: str) -> None:
    """Raises WrongState for targets or a mode that need another driver."""
    if mode in {vhost_mode.value for vhost_mode in VHOST} or any(
            fabrics.gate_of(name.partition("/")[0]) is not Gate.ENABLE for name in targets):
        raise errors.WrongState(
            "a vhost target moves with its guest, whose QEMU has to be asked when to freeze and "
            "when to open",
            do="name both QEMUs' monitors with --guest and --guest-there; another program that "
               f"migrates the guest drives the verbs itself: see {errors.PROTOCOL_PAGE}, Modes")
    if mode not in {mode.value for mode in MODES}:
        raise errors.WrongState(f"there is no mode {errors.quoted(mode)}", do="--mode iscsi")


# ---- the move ------------------------------------------------------------------------------------
@dataclass
class Move:
    """A move.  ``tell`` is called with a line for each step; ``stop`` is called before each step
    that can still be rolled back.  ``seconds``: step → duration; ``window``: seconds in which no
    host served; ``place``: (number, of how many, name) of the step that is being done;
    ``migration``: what QEMU said last of a guest's migration (query-migrate)."""

    onward: ClassVar[Mapping[Tuple[str, str], str]] = RESUME_AT

    source: RemoteService
    destination: RemoteService
    tell: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    seconds: Dict[str, float] = field(default_factory=dict)
    window: float = 0.0
    notes: List[str] = field(default_factory=list)
    contents: str = ""
    targets: Tuple[str, ...] = ()
    epoch: int = 0
    place: Tuple[int, int, str] = (0, 0, "")
    migration: Mapping[str, Any] = field(default_factory=dict)
    _answers: Dict[str, Reply] = field(default_factory=dict)
    #: what a freeze has answered that has exported, too
    _exported: Optional[Reply] = None

    @property
    def steps(self) -> Tuple[Step, ...]:
        return STEPS

    @property
    def shut(self) -> Tuple[str, str]:
        """The first and the last step of the window."""
        return BLACKOUT[0], BLACKOUT[-1]

    def run(self, targets: Sequence[str], mode: str = Mode.ISCSI.value, here: str = "",
            maps: Sequence[str] = (), allow: Sequence[str] = (), probe: bool = False) -> None:
        """Run all steps.  ``here``: how the destination reaches the source, to be recorded there;
        ``probe``: see library.Host.check.

        Raises the error that a step failed with; its ``changed`` and ``do`` have the states of both
        hosts and the next command.
        """
        movable(targets, mode)
        self._go(0, {
            "prepare": {"targets": targets, "mode": mode, "peer": self.destination.where,
                        **({"probe": True} if probe else {})},
            "stage": {"peer": here or self.source.name, "maps": list(maps)}}, allow)

    def stage(self, targets: Sequence[str], mode: str = Mode.VHOST_INBAND.value, here: str = "",
              maps: Sequence[str] = (), allow: Sequence[str] = (), probe: bool = False,
              there: str = "") -> None:
        """Run the steps before the first that the initiators notice; another program goes on, as
        QEMU does in its own stream (lio-handover-vmstate).  ``there``: how the source reaches the
        destination, where this program does not run on the source.  Otherwise as `run`."""
        self._go(0, {
            "prepare": {"targets": targets, "mode": mode, "peer": there or self.destination.where,
                        **({"probe": True} if probe else {})},
            "stage": {"peer": here or self.source.name, "maps": list(maps)}}, allow,
            self.number("stage") + 1)

    def resume(self, allow: Sequence[str] = ()) -> None:
        """Go on with a move that was cut off after the source had released.

        Raises WrongState where no step follows from both hosts' states; only recover is left then.
        """
        here, there = (side.verb("status", self.id) for side in (self.source, self.destination))
        states = here.handover.state, there.handover.state
        if states not in self.onward or here.handover.role != SOURCE:
            raise errors.WrongState(
                f"{self.source.name} {_stands(states[0])}, {self.destination.name} "
                f"{_stands(states[1])}: there is nothing to go on with",
                do=f"lio-handover recover {self.id}, on both hosts")
        self._resuming(here.handover, self.onward[states])
        self._answers = {"release": here, "verify": there, "retire": here}
        self._go(self.number(self.onward[states]), {}, allow)

    def _resuming(self, handover: Handover, step: str) -> None:
        """Look at a handover that is to be gone on with at a step.  Raises WrongState."""
        if Mode(handover.mode) in HELD and step in ("open", "verify"):
            raise errors.WrongState(
                f"the guest of {', '.join(handover.targets)} is not seen to run yet",
                do="name its monitors with --guest and --guest-there, too")

    def close(self) -> None:
        """Hang up at both services."""
        self.source.close()
        self.destination.close()

    def number(self, name: str) -> int:
        """The place of a step."""
        return [step.name for step in self.steps].index(name)

    @property
    def commit(self) -> int:
        """The number of the step before which all can be taken back."""
        return self.number("release")

    def cost(self) -> str:
        """The cost of the window in words; "" where there was none."""
        return f"nobody served for {self.window:.2f} s" if self.window else ""

    def told_of_guests(self) -> List[Dict[str, Any]]:
        """The cost of each guest, for --json; none moved here."""
        return []

    def _again(self) -> str:
        return f"lio-handover move --resume {self.id} --to {self.destination.where}"

    def _go(self, first: int, options: Mapping[str, Mapping[str, Any]], allow: Sequence[str],
            end: Optional[int] = None) -> None:
        about = {SOURCE: self.source.about(), DESTINATION: self.destination.about()}
        version = agree(about[SOURCE], about[DESTINATION])
        shut = time.monotonic()
        for number, step in enumerate(self.steps[first:end], first):
            began = time.monotonic()
            self.place = number + 1, len(self.steps), step.name
            if step.name == self.shut[0]:
                shut = began
            more = {**options.get(step.name, {}), "allow": list(allow)}
            if about[step.role].document > version:
                more["document-version"] = version
            if step.name == "freeze" and EXPORTS in about[step.role].features \
                    and self.steps[number + 1].name == "export":
                more["export"] = True
            try:
                if number <= self.commit and self.stop():
                    raise errors.Interrupted("interrupted")
                answer = self._do(number, step, more)
            except errors.HandoverError as error:
                raise self._failed(number, step, error)
            self.seconds[step.name] = time.monotonic() - began
            if step.name == self.shut[1] and not first:
                self.window = self._window(shut)
            if answer is None:
                continue
            self.notes += [f"{self._side(step.role).name}: {note}" for note in answer.notes]
            self._answers[step.name] = answer
            self.targets, self.epoch = answer.handover.targets, answer.handover.epoch
            if "export" in more:
                self._exported = answer
        self.contents = _contents(self._answers.get("export"))

    def _window(self, shut: float) -> float:
        """The seconds of the window, whose first step began at ``shut`` and whose last has ended.
        """
        return time.monotonic() - shut

    def _side(self, role: str) -> RemoteService:
        return self.source if role == SOURCE else self.destination

    def _label(self, step: Step) -> str:
        return (f"{self.number(step.name) + 1}/{len(self.steps)} {step.qmp or step.verb} on "
                f"{self._side(step.role).name}: {step.does}")

    def _do(self, number: int, step: Step, options: Mapping[str, Any]) -> Optional[Reply]:
        """Run a step: a verb's answer, or None where the step asks no service."""
        side, label = self._side(step.role), self._label(step)
        if step.name == "export" and self._exported is not None:
            self.tell(label)
            exported, self._exported = self._exported, None
            return replace(exported, notes=())  # which were those of the freeze, too

        def progress(done: int, total: int, what: str) -> None:
            self.tell(f"{label} ({done}/{total} {what})" if total else label)

        self.tell(label)
        messages = to_json(self._answers[step.takes].messages) if step.takes else b""
        stop = self.stop if number < self.commit else lambda: False

        def verb() -> Reply:
            try:
                return side.verb(step.verb, self.id, messages, progress=progress, stop=stop,
                                 **options)
            except errors.Interrupted as error:
                if stop():
                    raise
                raise _ended_there(side.name, step.verb, error) from error
        # A verb that is said twice is done once.
        for _ in range(RETRIES if number >= self.commit else 0):
            try:
                return verb()
            except errors.PeerUnreachable as error:
                if error.hangs:
                    raise
                self.tell(f"{label}: {error.what}, once more")
                time.sleep(RETRY_SECONDS)
        return verb()

    # ---- failures --------------------------------------------------------------------------------
    def _failed(self, number: int, step: Step, error: errors.HandoverError
                ) -> errors.HandoverError:
        """The error with the states of both hosts and the next command."""
        self._name_host(step, error)
        self.tell("finding out where both hosts are")
        here = self._state(self.source)
        if here == "":
            return error  # the source has refused to begin
        if number <= self.commit and here in SOURCE_CAN_ROLL_BACK:
            self._go_back(number, here, error)
            return error
        there = self._state(self.destination)
        error.changed = (f"the source, {self.source.name}, {_stands(here)}; the destination, "
                         f"{self.destination.name}, {_stands(there)}")
        recover = f"lio-handover recover {self.id}"
        resume = self._again()
        if here is None:
            error.do = f"make lio-handoverd answer here, then {recover}"
        elif there is None:
            error.do = f"when {self.destination.name} answers: {resume}; if it is lost: {recover}"
        else:
            error.do = f"{recover}, then on {self.destination.name}: {recover}"
            if (here, there) in self.onward:
                error.do = f"{resume}; if that fails, too: {error.do}"
        return error

    def _name_host(self, step: Step, error: errors.HandoverError) -> None:
        """Begin an error of a verb on the destination with its name; others have theirs."""
        says = f"{self.destination.name} says: "
        if step.role == DESTINATION and not step.qmp \
                and not isinstance(error, errors.PeerUnreachable) \
                and not error.what.startswith(says):
            error.what = says + error.what

    def _state(self, side: RemoteService) -> Optional[str]:
        """The handover's state on a host; "" where the host does not know it, None where the host
        does not answer."""
        try:
            return side.verb("status", self.id).handover.state
        except errors.NoSuchHandover:
            return ""
        except errors.HandoverError:
            return None

    def _go_back(self, number: int, here: str, error: errors.HandoverError) -> None:
        """Roll back; the source first, as its initiators wait."""
        on: List[str] = []
        if here != "idle":
            self.tell(f"thaw on {self.source.name}: go back to serving")
            try:
                self.source.verb("thaw", self.id)
            except errors.HandoverError as failed:
                error.changed = (f"{self.source.name} does not serve: going back failed, too "
                                 f"({failed.what})")
                error.do = f"lio-handover recover {self.id}"
                return
        if number >= self.number("stage"):
            self.tell(f"abort on {self.destination.name}: take down what was built")
            try:
                self.destination.verb("abort", self.id, self._any_message())
            except errors.HandoverError:
                on = [f"on {self.destination.name}: lio-handover recover {self.id}"]
        error.changed = f"{self.source.name} serves on as before"
        if on:
            error.changed += f"; {self.destination.name} may hold what was built there"
            error.do = f"{on[0]}, and move again"
        else:
            error.changed += f", and nothing is left on {self.destination.name}"
            error.do = error.do or "lio-handover move again, once that is cured"

    def _any_message(self) -> bytes:
        """The source's offer: it tells a destination without the handover which epoch it must
        refuse."""
        return to_json(self._answers["prepare"].messages)


def _stands(state: Optional[str]) -> str:
    if state is None:
        return "does not answer"
    return f"is {state}" if state else "never heard of it"


def _ended_there(host: str, verb: str, error: errors.Interrupted) -> errors.PeerUnreachable:
    """The error for a verb that its host ended, which this driver did not ask for: so nobody has
    cancelled the move, and a service that starts again can be asked again."""
    ended = ssh.host_answers(f"{verb} was ended on {host}: its lio-handoverd stops, or somebody "
                             "cancelled that job")
    ended.changed, ended.do = error.changed, f"journalctl -u lio-handoverd, on {host}"
    return ended


def _contents(answer: Optional[Reply]) -> str:
    """The parts of the moved state, counted; "" without a document."""
    documents_sent: Tuple[bytes, ...] = tuple(
        message.document for message in answer.messages if message.document) if answer else ()
    return phrases.contents(documents.loads(documents_sent[0]).state) if documents_sent else ""

"""``lio-handover move``: a handover between two hosts, from start to end.

    source                                  destination
    ------                                  -----------
    prepare   --- offer --------------->    stage       all but the registrations; gate shut
    freeze      .
    export    --- document ------------>    activate    kept, loaded, gate shut
    release   <-- armed ----------------      .         nobody serves: the window
              --- released ------------>    activate    its own now; gate open
                                            verify      seen to serve
    retire    <-- serving --------------
              --- retired ------------->    confirm     into the save file; it is over

Each host's service carries out its verbs (docs/internals/handover-protocol.md: what each of them
promises, and why they come in this order).  This program only carries messages from one to the
other, and is trusted with nothing: it may be killed anywhere, and ``lio-handover recover`` on both
hosts finds out who serves.

``release`` is the point of no return.  What fails before it is taken back: the source goes on.
After it nothing is guessed here: where both answer, the move can be gone on with (--resume), and
where one is lost, recover on the other says what a human may order.
"""
from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import errors
from ..client.ssh import About, Side
from ..document import document as documents
from ..handover.reply import Reply
from ..model import fabrics
from ..model.fabrics import Gate
from ..protocol.messages import Message, to_json
from ..protocol.table import DESTINATION, MODES, SOURCE, VHOST, MessageType, Mode
from ..views import phrases


class Step(NamedTuple):
    """One verb on one host."""

    role: str
    verb: str
    name: str  # as the summary has it
    takes: str  # the step whose messages it is given
    does: str


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
NAMES = [step.name for step in STEPS]
#: From the beginning of the first until the end of the last, nobody serves.
WINDOW = NAMES[NAMES.index("freeze"):NAMES.index("open") + 1]
#: What comes before it can be taken back.
COMMIT = NAMES.index("release")
#: In these the source goes back on its own word, whatever the destination did.
ITS_OWN = ("idle", "prepared", "freezing", "frozen", "thawing")

#: Where the source has released, and both answer: (source, destination) → the step to go on with.
ONWARD: Mapping[Tuple[str, str], str] = {
    ("released", "armed"): "open", ("released", "opening"): "verify",
    **{(here, there): "retire" for here in ("released", "retiring")
       for there in ("serving", "confirmed")},
    ("retiring", "opening"): "retire",
    **{("retired", there): "confirm" for there in ("opening", "serving", "confirmed")}}

#: How often a verb is said again, and seconds between, where the line is lost after the commit.
AGAIN, PAUSE = 5, 2.0


# ---- before anything is done ---------------------------------------------------------------------
def agree(source: About, destination: About) -> int:
    """The document version that both hosts read and write, as each has said of itself.

    The API only ever grows within one bus name, so neighbours understand each other by what the
    older one knows; and each version reads and writes the documents of the one before it.
    Raises VersionsDiffer, or BadCall for one and the same host.
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
    return min(source.document, destination.document)


def movable(targets: Sequence[str], mode: str) -> None:
    """Refuse what needs another driver than this one.  Raises WrongState."""
    if mode in {one.value for one in VHOST} or any(
            fabrics.gate_of(name.partition("/")[0]) is not Gate.ENABLE for name in targets):
        raise errors.WrongState(
            "a vhost target moves with its guest, whose QEMU has to be asked when to freeze and "
            "when to open",
            do=f"whoever migrates the guest drives the verbs: see {errors.PROTOCOL_PAGE}, Modes")
    if mode not in {mode.value for mode in MODES}:
        raise errors.WrongState(f"there is no mode {errors.one_line(mode)!r}", do="--mode iscsi")


# ---- the move ------------------------------------------------------------------------------------
@dataclass
class Move:
    """One move.  ``tell`` is called with what is being done; ``stop`` asked before each step that
    can still be taken back."""

    source: Side
    destination: Side
    tell: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    seconds: Dict[str, float] = field(default_factory=dict)
    window: float = 0.0
    notes: List[str] = field(default_factory=list)
    contents: str = ""
    targets: Tuple[str, ...] = ()
    _answers: Dict[str, Reply] = field(default_factory=dict)

    def run(self, targets: Sequence[str], mode: str = Mode.ISCSI.value, here: str = "",
            maps: Sequence[str] = (), allow: Sequence[str] = (), probe: bool = False) -> None:
        """All of it.  ``here``: how the destination reaches the source, to be recorded there;
        ``probe``: see Core.ask.

        Raises what a step failed with; its ``changed`` and ``do`` then say where both hosts are
        and the way on.
        """
        movable(targets, mode)
        self._go(0, {
            "prepare": {"targets": targets, "mode": mode, "peer": self.destination.where,
                        **({"probe": True} if probe else {})},
            "stage": {"peer": here or self.source.name, "maps": list(maps)}}, allow)

    def resume(self, allow: Sequence[str] = ()) -> None:
        """Go on with a move that was cut off after the source had released.

        Raises WrongState where that leads nowhere, and recover is what is left.
        """
        here, there = (side.verb("status", self.id) for side in (self.source, self.destination))
        states = here.handover.state, there.handover.state
        if states not in ONWARD or here.handover.role != SOURCE:
            raise errors.WrongState(
                f"{self.source.name} {_stands(states[0])}, {self.destination.name} "
                f"{_stands(states[1])}: there is nothing to go on with",
                do=f"lio-handover recover {self.id}, on both hosts")
        self._answers = {"release": here, "verify": there, "retire": here}
        self._go(NAMES.index(ONWARD[states]), {}, allow)

    def _go(self, first: int, options: Mapping[str, Mapping[str, Any]], allow: Sequence[str]
            ) -> None:
        about = {SOURCE: self.source.about(), DESTINATION: self.destination.about()}
        version = agree(about[SOURCE], about[DESTINATION])
        shut = time.monotonic()
        for number, step in enumerate(STEPS[first:], first):
            began = time.monotonic()
            if step.name == WINDOW[0]:
                shut = began
            more = {**options.get(step.name, {}), "allow": list(allow)}
            if about[step.role].document > version:
                more["document-version"] = version
            try:
                if number <= COMMIT and self.stop():
                    raise errors.Interrupted("interrupted")
                answer = self._do(number, step, more)
            except errors.HandoverError as error:
                raise self._failed(number, step, error)
            self.seconds[step.name] = time.monotonic() - began
            if step.name == WINDOW[-1] and not first:
                self.window = time.monotonic() - shut
            self.notes += [f"{self._side(step.role).name}: {note}" for note in answer.notes]
            self._answers[step.name] = answer
            self.targets = answer.handover.targets
            if step.name == "export":
                self.contents = _contents(answer)

    def _side(self, role: str) -> Side:
        return self.source if role == SOURCE else self.destination

    def _do(self, number: int, step: Step, options: Mapping[str, Any]) -> Reply:
        side = self._side(step.role)
        label = f"{number + 1}/{len(STEPS)} {step.verb} on {side.name}: {step.does}"

        def progress(done: int, total: int, what: str) -> None:
            self.tell(f"{label} ({done}/{total} {what})" if total else label)

        self.tell(label)
        messages = to_json(self._answers[step.takes].messages) if step.takes else b""
        stop = self.stop if number < COMMIT else lambda: False
        for _ in range(AGAIN if number >= COMMIT else 0):  # a verb that is said twice is done once
            try:
                return side.verb(step.verb, self.id, messages, progress=progress, stop=stop,
                                 **options)
            except errors.PeerUnreachable as error:
                self.tell(f"{label}: {error.what}, once more")
                time.sleep(PAUSE)
        return side.verb(step.verb, self.id, messages, progress=progress, stop=stop, **options)

    # ---- where something fails -------------------------------------------------------------------
    def _failed(self, number: int, step: Step, error: errors.HandoverError
                ) -> errors.HandoverError:
        """The error as it is told: where both hosts are now, and the command that leads on."""
        if step.role == DESTINATION and not isinstance(error, errors.PeerUnreachable):
            error.what = f"{self.destination.name}: {error.what}"
        self.tell("finding out where both hosts are")
        here = self._state(self.source)
        if here == "":
            return error  # refused before it was begun
        if number <= COMMIT and here in ITS_OWN:
            self._go_back(number, here, error)
            return error
        there = self._state(self.destination)
        error.changed = (f"the source, {self.source.name}, {_stands(here)}; the destination, "
                         f"{self.destination.name}, {_stands(there)}")
        recover = f"lio-handover recover {self.id}"
        resume = f"lio-handover move --resume {self.id} --to {self.destination.where}"
        if here is None:
            error.do = f"make lio-handoverd answer here, then {recover}"
        elif there is None:
            error.do = f"when {self.destination.name} answers: {resume}; if it is lost: {recover}"
        else:
            error.do = f"{recover}, then on {self.destination.name}: {recover}"
            if (here, there) in ONWARD:
                error.do = f"{resume}; if that fails, too: {error.do}"
        return error

    def _state(self, side: Side) -> Optional[str]:
        """Where the handover stands on a host; "" where it never heard of it, None: no answer."""
        try:
            return side.verb("status", self.id).handover.state
        except errors.NoSuchHandover:
            return ""
        except errors.HandoverError:
            return None

    def _go_back(self, number: int, here: str, error: errors.HandoverError) -> None:
        """The source first: its initiators wait."""
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
        if number >= NAMES.index("stage"):
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
        """What tells a destination that never heard of the handover which epoch is over."""
        offer = self._answers["prepare"].messages[0]
        return to_json([Message(MessageType.OFFER, offer.handover, offer.epoch,
                                targets=offer.targets, mode=offer.mode)])


def _stands(state: Optional[str]) -> str:
    if state is None:
        return "does not answer"
    return f"is {state}" if state else "never heard of it"


def _contents(answer: Reply) -> str:
    """What moves, in a few words."""
    found: Tuple[bytes, ...] = tuple(
        message.document for message in answer.messages if message.document)
    return phrases.contents(documents.loads(found[0]).state) if found else ""

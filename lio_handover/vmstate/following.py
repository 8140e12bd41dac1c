"""After Save() or Load(): the guest runs on one of both hosts, and the handover follows it.

QEMU tells no helper how a migration ended.  The kernel does: a vhost endpoint is attached where
the guest runs.  Nothing here decides anything: each verb refuses where its row of the protocol's
table does not fit.  Whatever is not finished in time stays as it is, and the command that leads on
is told.
"""
from __future__ import annotations

import time
from typing import Callable, Sequence

from .. import errors
from ..host.guests import Guest
from ..protocol.messages import Message
from ..protocol.table import SOURCE, MessageType
from ..records.journal import Handover
from .verbs import BEGIN, Handovers

#: Seconds between two looks at this host; until the other host is asked, at first (it may be busy
#: with Load()) and at most.
OFTEN, FIRST, RARELY = 0.5, 10.0, 60.0

Say = Callable[[str], None]


class Follower:
    """One handover, on this host, until it is over.

    ``given``: whether QEMU may have got the answer to Save() (source), or was told that Load() went
    well (destination).
    """

    def __init__(self, host: Handovers, guest: Guest, name: str, given: bool, say: Say) -> None:
        self.host, self.guest, self.name, self.given, self.say = host, guest, name, given, say
        self._ask_at = 0.0
        self._wait = FIRST
        self._told = ""

    @property
    def handover(self) -> Handover:
        return self.host.journal(self.name).handover

    def run(self) -> bool:
        """Whether it came to an end.  Raises Interrupted where it is told to stop."""
        until = time.monotonic() + self.guest.patience
        self._ask_at = time.monotonic() + (FIRST if self.given else 0.0)
        while True:
            try:
                if self._step(self.handover):
                    return True
            except errors.NoSuchHandover:
                return True  # it came to nothing, and is forgotten
            except errors.HandoverError as error:
                self._trouble(error)
            if time.monotonic() > until:
                handover = self.handover
                self.say(f"the {handover.role} is still {handover.state}, and {self.guest.name} "
                         f"was not seen to go on in {self.guest.patience} s; next: lio-handover "
                         f"recover {self.name}")
                return False
            self._pause()

    def _pause(self) -> None:
        until = time.monotonic() + OFTEN
        while time.monotonic() < until:
            if self.host.stop():
                raise errors.Interrupted("interrupted", changed="the recorded state stands")
            time.sleep(0.05)

    def _trouble(self, error: errors.HandoverError) -> None:
        """Each trouble is told once; it is tried again, later and later."""
        if isinstance(error, errors.Interrupted):
            raise error
        if error.what != self._told:
            self._told = error.what
            self.say(f"{error.what}; it is tried again")
        self._later()

    def _later(self) -> None:
        self._ask_at = time.monotonic() + self._wait
        self._wait = min(self._wait * 1.5, RARELY)

    def _step(self, handover: Handover) -> bool:
        """Go on from where it stands; whether it is over."""
        if handover.over or not handover.state:
            return True
        if self.host.rebooted(handover):
            raise errors.WrongState("this host was rebooted since",
                                    do=f"lio-handover recover {self.name}")
        step = self._source if handover.role == SOURCE else self._destination
        return step(handover)

    def _due(self) -> bool:
        return time.monotonic() >= self._ask_at

    # ---- the source ----------------------------------------------------------------------------
    def _source(self, handover: Handover) -> bool:
        if handover.state == "prepared":
            return True  # nothing was begun, and the next migration may take it
        if handover.state in ("freezing", "thawing"):
            return self._thaw(handover, (), "nothing was given away")
        if handover.state == "frozen" and self.host.attached(self.name):
            return self._thaw(handover, (), f"{self.guest.name} runs here again: the migration "
                              "failed or was cancelled")
        if not self._due():
            return False
        self._later()
        if handover.state == "frozen" and not self.given:
            reply = self.host.ask(handover, "abort")
            if reply.handover.state == "none":
                return self._thaw(handover, reply.messages, "QEMU was given nothing")
            return False
        reply = self.host.ask(handover)
        serving = [message for message in reply.messages if message.type is MessageType.SERVING]
        if serving:
            for verb in ("release", "retire"):
                if self.handover.state not in ("retiring", "retired"):
                    self.host.do(verb, self.handover, serving)
            self.say(f"{self.guest.name} runs on the other host: the target is taken down here")
            return self.handover.over
        if reply.handover.state == "none" and handover.state == "frozen":
            reply = self.host.ask(handover, "abort")
            return self._thaw(handover, reply.messages, "the other host has given it up")
        return False

    def _thaw(self, handover: Handover, messages: Sequence[Message], why: str) -> bool:
        self.host.do("thaw", handover, [message for message in messages
                                        if message.type is MessageType.ABORTED])
        self.say(f"{why}: this host serves on, and nothing is handed over; next time begin with "
                 f"{BEGIN}")
        try:  # what was built there is of no use any more; it proves itself that nothing ran
            self.host.ask(handover, "abort")
        except errors.HandoverError as error:
            self.say(f"{error.what}; next: there lio-handover recover {self.name}")
        return True

    # ---- the destination -----------------------------------------------------------------------
    def _destination(self, handover: Handover) -> bool:
        if handover.state == "staged":
            return self.given or self._abort(handover)
        if handover.state == "armed":
            return self._armed(handover)
        if handover.state == "opening" and self.host.attached(self.name):
            self.host.do("verify", handover)
        if self.handover.state in ("serving", "forced") and self._due():
            return self._serving(self.handover)
        return False

    def _armed(self, handover: Handover) -> bool:
        if self.host.has_run(self.name):
            self.host.do("verify", handover)
            return self._serving(self.handover)
        if not self.given:
            return self._abort(handover)
        if not self._due():
            return False
        self._later()
        if self.host.ask(handover).handover.state in ("idle", "forced"):
            self.host.do("recover", handover)
            if self.handover.over:
                self.say("the source serves on: what was built here is taken down")
        return self.handover.over

    def _abort(self, handover: Handover) -> bool:
        self.host.do("abort", handover)
        self.say("Load() failed: what was built here is taken down")
        return True

    def _serving(self, handover: Handover) -> bool:
        """The other host lets go of it, and this one keeps it."""
        self._later()
        serving = [message for message in self.host.status(self.name).messages
                   if message.type is MessageType.SERVING]
        if self.host.ask(handover).handover.state in ("frozen", "released"):
            self.host.tell(handover, "release", serving)
        retired = self.host.tell(handover, "retire", serving)
        self.host.do("confirm", handover, retired.messages)
        self.say(f"{self.guest.name} runs here, with its registrations: the handover is over")
        return True

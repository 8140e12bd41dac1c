"""The verbs of handovers on this host, and the questions that Save(), Load() and what follows ask.

The guest stands still while a verb runs, so it runs in this process, which has all loaded already;
lio-handoverd, where it runs, learns of it from the journal, as of ``lio-handover --alone``.
"""
from __future__ import annotations

import os
from typing import Callable, List, Optional, Sequence, Tuple

from .. import errors, settings
from ..actions.context import HandoverContext
from ..client import asking, ssh
from ..execute.step_runner import never
from ..handover.engine import Handover, HandoverEngine, Reply
from ..handover.meddling import must_stay_shut
from ..host.memory import Memory
from ..kernel.facts import boot_id
from ..local.ours import Ours
from ..protocol.messages import Message, to_json
from ..protocol.table import DESTINATION
from ..records.journal import PREPARED, Journal
from ..records.ownership import OwnershipFile, TargetEpochs
from . import answers

MACHINE = "/etc/machine-id"
#: The command that begins a handover in QEMU's stream.
BEGIN = "lio-handover move --mode vhost-inband"


class Handovers:
    """This host.  ``config``: instead of the host's configuration file; ``stop`` is asked between
    two steps; ``memory``: what this process has read ahead."""

    def __init__(self, config: str = "", stop: Callable[[], bool] = never,
                 memory: Optional[Memory] = None) -> None:
        self.settings = settings.load(config) if config else settings.load()
        self.stop = stop
        self.host = Ours(self.settings, memory.fs if memory is not None else None)
        self.host.memory = memory
        self.engine = HandoverEngine(self.host, asking.asker(self.settings))

    # ---- looking -------------------------------------------------------------------------------
    def of_targets(self, targets: Sequence[str]) -> List[Handover]:
        """The handovers under way of any of these, as they are called here; the newest last."""
        return [handover for handover in self.engine.list()
                if handover.state and not handover.over and self.local(handover) & {*targets}]

    def local(self, handover: Handover) -> frozenset[str]:
        """A handover's targets, as they are called here."""
        facts = self.journal(handover.id).facts
        return frozenset(facts.local or handover.targets)

    def journal(self, name: str) -> Journal:
        """Raises NoSuchHandover, JournalBroken."""
        return Journal(self.settings.state_directory, name)

    def status(self, name: str) -> Reply:
        """Where a handover stands here, and the messages that still hold."""
        return self.engine.status(name)[0]

    def staged(self, name: str) -> bytes:
        """The document that was offered.  Raises JournalBroken where it is not kept."""
        data = self.journal(name).kept(PREPARED)
        if data is None:
            raise errors.JournalBroken(f"handover {name} has no offer any more",
                                       do=f"lio-handover status {name}")
        return data

    def has_run(self, name: str) -> bool:
        """Whether the guest is attached here, or has had a command executed since it was loaded."""
        context = self._context(name)
        return context.guest() or context.ran()

    def attached(self, name: str) -> bool:
        """Whether a guest is attached here."""
        return self._context(name).guest()

    def _context(self, name: str) -> HandoverContext:
        journal = self.journal(name)
        return HandoverContext(self.host, journal, journal.handover.epoch)

    def epochs(self, targets: Sequence[str]) -> Tuple[Tuple[str, int], ...]:
        """(target, its highest epoch here)."""
        owners = OwnershipFile(self.settings.state_directory).load()
        return tuple((name, owners.get(name, TargetEpochs()).epoch) for name in targets)

    def not_served(self, targets: Sequence[str]) -> str:
        """Why this host does not serve one of these targets; "" where it serves all."""
        self.host.reader()  # raises NoTargetModules
        for name in targets:
            if not self.host.fs.exists(name):
                return f"this host has no {name}"
            handover = self.host.counts_for(name)
            if handover is not None and must_stay_shut(handover):
                return (f"handover {handover.id} of {name} is {handover.state} on this host, which "
                        "may not serve it")
        return ""

    @property
    def identity(self) -> str:
        """See answers.identity."""
        try:
            with open(MACHINE) as file:
                machine = file.read()
        except OSError:
            machine = ""
        return answers.identity(self.name, machine)

    @property
    def name(self) -> str:
        return os.uname().nodename

    def rebooted(self, handover: Handover) -> bool:
        return handover.boot_id != boot_id()

    # ---- doing ---------------------------------------------------------------------------------
    def do(self, verb: str, handover: Handover, messages: Sequence[Message] = (),
           export: bool = False) -> Reply:
        """Run a verb; ``export``: a freeze, and the export with it.  Raises what it fails with.

        An activate, also one that is repeated, asks the other host nothing: QEMU waits for Load(),
        and the source cannot have released by then."""
        if self.host.memory is not None:
            self.host.memory.begin(verb)
        engine = HandoverEngine(self.host) if verb == "activate" else self.engine
        return engine.do(verb, handover.role, handover.id, messages=messages, stop=self.stop,
                         export=export)

    # ---- the other host ------------------------------------------------------------------------
    def ask(self, handover: Handover, verb: str = "status") -> Reply:
        """The other side's answer to status or abort.  Raises PeerUnreachable; a side that does not
        know the handover has nothing of it."""
        try:
            return asking.ask(handover, verb, self.settings)
        except errors.NoSuchHandover:
            role, state = (DESTINATION, "none") if handover.role != DESTINATION else ("source", "")
            return Reply(Handover(handover.id, role, state, handover.epoch, handover.mode,
                                  handover.targets))

    def tell(self, handover: Handover, verb: str, messages: Sequence[Message]) -> Reply:
        """Have the other side run a verb.  Raises PeerUnreachable, and what the verb fails with."""
        if not handover.peer:
            raise errors.PeerUnreachable("how the other host is reached is not recorded")
        side = ssh.RemoteService(handover.peer)
        try:
            return side.verb(verb, handover.id, to_json(messages), stop=self.stop)
        finally:
            side.close()

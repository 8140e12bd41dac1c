"""A guest comes to this host: its targets are staged before, and taken back where it does not come.

The driver of `lio-handover move --mode vhost-inband`, run on the destination: hooks of managers
are called here before a migration begins, and nothing of the source is.
"""
from __future__ import annotations

import os
import time
from typing import Callable, List, Optional, Sequence

from .. import errors
from ..client.ssh import RemoteService
from ..drivers.move import Move
from ..handover.meddling import must_stay_shut
from ..host.guests import Guest
from ..kernel.facts import boot_id
from ..local.ours import Ours
from ..protocol.table import DESTINATION, SOURCE, Mode
from ..records.journal import Journal, ids
from ..settings import Settings
from . import peers

#: The part of the hook's time in which all peers have to answer.
ASKING = 1 / 3

Say = Callable[[str], None]


def of_guest(guest: Guest, settings: Settings) -> List[Journal]:
    """The handovers of the guest's targets on this host, the newest last.  Raises JournalBroken."""
    journals = [Journal(settings.state_directory, name, tolerate_damage=True)
                for name in ids(settings.state_directory)]
    return sorted((journal for journal in journals if journal.handover.state
                   and {*local(journal)} & {*guest.targets}),
                  key=lambda journal: journal.handover.since)


def local(journal: Journal) -> Sequence[str]:
    """A handover's targets, as they are called here."""
    return journal.facts.local or journal.handover.targets


def not_served(guest: Guest, settings: Settings) -> str:
    """Why this host does not serve one of the guest's targets; "" where it serves all.  Raises
    NoTargetModules."""
    host = Ours(settings)
    host.reader()
    for name in guest.targets:
        if not host.fs.exists(name):
            return f"this host has no {name}"
        handover = host.counts_for(name)
        if handover is not None and must_stay_shut(handover):
            return f"handover {handover.id} of {name} is {handover.state} on this host"
    return ""


class Staging:
    """The handover that brings a guest's targets here, up to where QEMU carries the rest.

    ``source``: the only peer that is asked, where the caller knows it; ``stop`` is asked between
    two steps; ``say`` gets a line for each thing that was done.
    """

    def __init__(self, guest: Guest, settings: Settings, say: Say,
                 stop: Callable[[], bool] = lambda: False, source: str = "") -> None:
        self.guest, self.settings, self.say, self.stop = guest, settings, say, stop
        self.peers = (source,) if source else tuple(
            peer for peer in settings.peers if peer not in (self.here, self.name))

    @property
    def name(self) -> str:
        return os.uname().nodename

    @property
    def here(self) -> str:
        """How the peers reach this host."""
        return self.settings.hook_here or self.name

    @property
    def journal(self) -> Optional[Journal]:
        """The handover that brings the guest here, under way; the newest."""
        journals = [journal for journal in of_guest(self.guest, self.settings)
                    if journal.handover.role == DESTINATION and not journal.handover.over]
        return journals[-1] if journals else None

    def staged(self) -> bool:
        """Whether the guest's targets are staged here, and QEMU has brought nothing yet."""
        journal = self.journal
        return journal is not None and journal.handover.state == "staged"

    # ---- doing ---------------------------------------------------------------------------------
    def begin(self) -> None:
        """Stage the guest's targets.  A handover that was staged before, as by `lio-handover move`,
        is left as it is where both hosts still have it.

        Raises WrongState where one is under way that has come further, what peers.serving raises,
        and the error that a step fails with; then all is taken back.
        """
        until = time.monotonic() + self.settings.hook_seconds

        def stop() -> bool:
            return self.stop() or time.monotonic() > until

        journal = self.journal
        if journal is not None and self._still(journal):
            self.say(f"{self.guest.name}: handover {journal.id} is staged already")
            return
        try:
            self._stage(stop)
        except errors.Interrupted as error:
            if self.stop():
                raise
            raise errors.StillRunning(
                f"{self.guest.name} is not ready after {self.settings.hook_seconds} s",
                error.changed, "migrate again, with a longer [hooks] deadline if that is too short"
            ) from None

    def _still(self, journal: Journal) -> bool:
        """Whether a handover that is under way is staged, and the source's is prepared; one that is
        staged here alone is taken back."""
        handover = journal.handover
        if handover.state != "staged":
            raise errors.WrongState(
                f"handover {handover.id} of {self.guest.name} is {handover.state} here: an earlier "
                "migration is not over", do=f"lio-handover recover {handover.id}")
        if {*local(journal)} == {*self.guest.targets} and handover.boot_id == boot_id() \
                and handover.mode == Mode.VHOST_INBAND.value and handover.peer in self.peers:
            source = RemoteService(handover.peer)
            try:
                if source.verb("status", handover.id).handover.state == "prepared":
                    return True
            except errors.HandoverError:
                pass  # it is as good as not prepared: begin anew
            finally:
                source.close()
        self.take_back()
        return False

    def _stage(self, stop: Callable[[], bool]) -> None:
        guest = self.guest
        answer = peers.serving(guest.targets, self.peers, self.settings.hook_seconds * ASKING, stop)
        source = RemoteService(answer.peer)
        self._free(source, answer)
        move = Move(source, RemoteService(), lambda line: None, stop)
        try:
            move.stage(guest.targets, here=answer.peer, there=self.here, maps=guest.maps,
                       allow=guest.allow, probe=guest.probe)
        finally:
            move.close()
        for note in move.notes:
            self.say(note)
        self.say(f"{guest.name}: {', '.join(move.targets)} of {answer.peer} is staged here, "
                 f"handover {move.id}")

    def _free(self, source: RemoteService, answer: peers.Answer) -> None:
        """End what an earlier migration, to this host or another, has prepared and not begun."""
        for handover in answer.handovers:
            if (handover["Role"], handover["State"], handover["Mode"]) == (
                    SOURCE, "prepared", Mode.VHOST_INBAND.value):
                source.verb("thaw", handover["Id"])
                self.say(f"{self.guest.name}: handover {handover['Id']}, which was prepared and "
                         f"not begun, is taken back on {answer.peer}")

    def take_back(self) -> bool:
        """Take back what is only staged, here and on the source; whether something was.

        The source has frozen nothing, so either side may be first; one that QEMU has begun is
        refused by its host's table.  Raises what abort fails with here.
        """
        journal = self.journal
        if journal is None or journal.handover.state != "staged":
            return False
        handover = journal.handover
        failed = self._end(handover.peer, handover.id, "thaw", "prepared")
        side = RemoteService()
        try:
            side.verb("abort", handover.id)
        finally:
            side.close()
        self.say(f"{self.guest.name}: handover {handover.id} is taken back" + (
            f"; on {handover.peer} it is still prepared ({failed}); next: there lio-handover "
            f"source thaw {handover.id}" if failed else ""))
        return True

    @staticmethod
    def _end(peer: str, name: str, verb: str, state: str) -> str:
        """Run a verb for a handover on the other host where it is in this state; why that failed,
        or ""."""
        if not peer:
            return "how it is reached is not recorded"
        side = RemoteService(peer)
        try:
            if side.verb("status", name).handover.state == state:
                side.verb(verb, name)
            return ""
        except errors.NoSuchHandover:
            return ""
        except errors.HandoverError as error:
            return error.what
        finally:
            side.close()

    def give_up(self) -> bool:
        """On the source: take back what is only prepared here, and what is staged of it on the
        destination; whether something was.  Raises what thaw fails with here."""
        journals = [journal for journal in of_guest(self.guest, self.settings)
                    if (journal.handover.role, journal.handover.state, journal.handover.mode)
                    == (SOURCE, "prepared", Mode.VHOST_INBAND.value)]
        for journal in journals:
            side = RemoteService()
            try:
                side.verb("thaw", journal.id)
            finally:
                side.close()
            failed = self._end(journal.handover.peer, journal.id, "abort", "staged")
            self.say(f"{self.guest.name}: handover {journal.id} is taken back" + (
                f"; on {journal.handover.peer} it is still staged ({failed}); next: there "
                f"lio-handover recover {journal.id}" if failed else ""))
        return bool(journals)

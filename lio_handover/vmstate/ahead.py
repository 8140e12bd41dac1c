"""What Save() or Load() will want, read while the guest runs.

The worker that waits for QEMU's call hears when a handover of its guest is prepared or staged on
this host, reads its target then, and hears what others change of it since (host/memory.py), as a
session of the service does that has prepared or staged it itself.
"""
from __future__ import annotations

import os
import select
import socket
from typing import Dict, List, Optional, Tuple

from .. import errors
from ..actions.context import HandoverContext
from ..document import runtime_state
from ..execute.verify import Scope
from ..handover.engine import Handover
from ..host.guests import Guest
from ..host.memory import Memory
from ..protocol.messages import is_id
from ..protocol.table import INBAND, SOURCE, Mode
from ..records.journal import PREPARED
from ..system import inotify
from ..system.inotify import Inotify
from .verbs import Handovers

#: What records of handovers do to the file system.
_MASK = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_CLOSE_WRITE | inotify.IN_ONLYDIR
#: Seconds without a record until a handover is looked at: a verb that runs has ended.
QUIET = 0.3
#: States of a handover that QEMU has not come to.
WAITING = ("prepared", "staged")


class Ahead:
    """The memory of one worker.  Nothing is told: what could not be read ahead, Save() or Load()
    reads, and tells."""

    def __init__(self, guest: Guest, config: str = "") -> None:
        self.guest, self.config = guest, config
        self.memory: Optional[Memory] = None
        self._has: Tuple[str, str] = ("", "")
        self._watches: Dict[str, int] = {}  # folder → watch
        try:
            self._inotify: Optional[Inotify] = Inotify()
        except OSError:
            self._inotify = None

    def wait(self, line: socket.socket) -> None:
        """Look at handovers, until there is something to be read from a socket."""
        poll = select.poll()
        poll.register(line, select.POLLIN)
        if self._inotify is not None:
            poll.register(self._inotify, select.POLLIN)
        while True:
            if self._asked(poll, line, 0):
                return
            self._look()
            if self._asked(poll, line, None):
                return
            while self._told():
                if self._asked(poll, line, QUIET):
                    return

    def _asked(self, poll: select.poll, line: socket.socket, seconds: Optional[float]) -> bool:
        ready = poll.poll(None if seconds is None else seconds * 1000)
        return line.fileno() in {fd for fd, _event in ready}

    def _told(self) -> bool:
        return self._inotify is not None and bool([*self._inotify.events()])

    # ---- a look --------------------------------------------------------------------------------
    def _look(self) -> None:
        try:
            host = Handovers(self.config)
            waiting = [handover for handover in self._heard(host)
                       if handover.state in WAITING and Mode(handover.mode) in INBAND]
            now = (waiting[-1].id, waiting[-1].digest) if waiting else ("", "")
            if now != self._has:
                self.memory, self._has = Memory() if waiting else None, now
                for handover in waiting[-1:]:
                    self._read(handover)
        except (errors.HandoverError, OSError):
            pass

    def _heard(self, host: Handovers) -> List[Handover]:
        """The handovers under way of the guest's targets, the newest last.  From now on their
        records are heard, and handovers that begin."""
        folder = host.settings.state_directory
        self._listen(folder)
        self._listen(os.path.join(folder, "handovers"))
        handovers = []
        for name in self._names(os.path.join(folder, "handovers")):
            self._listen(os.path.join(folder, "handovers", name))
            try:
                handover = host.journal(name).handover
                if not handover.over and host.local(handover) & {*self.guest.targets}:
                    handovers.append(handover)
                    continue
            except errors.NoSuchHandover:
                continue  # it is being begun
            except errors.JournalBroken:
                pass
            self._listen(os.path.join(folder, "handovers", name), False)
        return sorted(handovers, key=lambda handover: handover.since)

    @staticmethod
    def _names(folder: str) -> List[str]:
        """The handovers that are there, also where nothing of them is recorded yet."""
        try:
            return [name for name in os.listdir(folder) if is_id(name)]
        except FileNotFoundError:
            return []

    def _listen(self, folder: str, listens: bool = True) -> None:
        if self._inotify is None or listens == (folder in self._watches):
            return
        if not listens:
            self._inotify.drop(self._watches.pop(folder))
            return
        try:
            self._watches[folder] = self._inotify.add(folder, _MASK)
        except OSError:
            pass  # it is not there, or a limit of this host's is reached

    def _read(self, handover: Handover) -> None:
        """Raises HandoverError, OSError."""
        memory = self.memory
        assert memory is not None
        host = Handovers(self.config, memory=memory)
        journal = host.journal(handover.id)
        context = HandoverContext(host.host, journal, handover.epoch)
        if handover.role == SOURCE:
            context.here()
        else:
            memory.listen(context.names(), context.stores())
            memory.keep(Scope.of(runtime_state.staged_state(
                context.prepared().state, host.host.reader().facts().has_rtpi)).read(memory.fs))
        context.local(PREPARED)

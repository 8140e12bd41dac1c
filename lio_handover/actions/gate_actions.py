"""The actions at gates and at targetcli's save file: initiators are kept out, or let in again."""
from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from .. import errors
from ..execute.step_runner import Nexuses
from ..kernel.facts import boot_id
from ..model import directories, fabrics
from ..model.fabrics import Gate
from ..model.objects import State
from ..protocol.messages import NEVER_RAN
from ..protocol.table import HELD, Mode
from ..records import relative_ports
from ..savefile import save_file
from ..scsi.endpoint_holder import Holder, Holders
from ..storage import protection
from . import savefile_actions
from .adoption_actions import Adoption

#: Two looks at a LUN's command counter, so many seconds apart, prove that it is idle.
IDLE_SECONDS = 0.05
IDLE_TRIES = 100


@dataclass
class Occupying(Nexuses):
    """Has our initiator sit on the endpoint of each nexus that a run makes, until it drops it.  Its
    process is there before the nexus, and outlives this one: wherever this one is killed, an
    endpoint that has a LUN is occupied."""

    holders: Holders
    started: Dict[str, Holder] = field(default_factory=dict)

    def start(self, wwpns: Iterable[str]) -> None:
        """Start holders, which takes a while, and do not wait for them.  An endpoint that is
        occupied stays so."""
        for wwpn in wwpns:
            if self.holders.pid_of(wwpn) is None:
                self.started[wwpn] = self.holders.start(wwpn)

    def before_nexus(self, tpg: str) -> None:
        for wwpn, _tag in _endpoint(tpg):
            if wwpn in self.started:
                try:
                    self.started[wwpn].expect()
                    continue
                except errors.InUse:  # a teardown of parts that were there has ended it, too
                    self.started.pop(wwpn).close()
            self.started[wwpn] = self.holders.start(wwpn)
            self.started[wwpn].expect()

    def after_nexus(self, tpg: str) -> None:
        for wwpn, tag in _endpoint(tpg):
            self.started[wwpn].hold(tag)

    def before_drop(self, tpg: str) -> None:
        for wwpn, _tag in _endpoint(tpg):
            self.holders.release(wwpn)
            if wwpn in self.started:
                self.started.pop(wwpn).close()

    def drain(self, wwpn: str, tpgts: Sequence[int]) -> None:
        if wwpn in self.started:
            self.started[wwpn].drain(tpgts)
        else:
            super().drain(wwpn, tpgts)

    def close(self) -> None:
        """Leave the holders alone."""
        while self.started:
            self.started.popitem()[1].close()


def _endpoint(tpg: str) -> List[Tuple[str, int]]:
    """(WWPN, tag) of a TPG's path, if its fabric has endpoints."""
    fabric, wwn, name = tpg.split("/")
    return [(wwn, directories.tag(fabric, name))] \
        if fabrics.gate_of(fabric) is Gate.ENDPOINT else []


@dataclass
class Gates(Adoption):
    """One verb's work at the gates."""

    #: the commands that had been executed by the time it was proven to be idle
    executed: Dict[str, int] = field(default_factory=dict, init=False)
    #: whether the kernel was found to have just what was kept last, when that had been flushed
    flushed_since: bool = field(default=False, init=False)

    def _tpg_disable(self) -> None:
        for path in self.open_tpgs():
            self.fs.write(f"{path}/enable", b"0\n")

    def _gate_close(self) -> None:
        if self.mode is Mode.FILE:  # the driver's QEMU may have to resume by itself
            self._tpg_disable()
            return self._no_guest()
        self._occupy()  # first what may refuse: then nothing is shut
        self._tpg_disable()
        if self.vhost and self.row.verb == "abort" and self.counted() and not self.ran():
            self.notes.append(NEVER_RAN)

    def _occupy(self) -> None:
        """Take the endpoints of all vhost targets, or of none.  Raises InUse."""
        free = [wwpn for wwpn in self.endpoints() if self.holders.pid_of(wwpn) is None]
        taken: List[str] = []
        try:
            for wwpn in free:
                self.holders.occupy(wwpn)
                taken.append(wwpn)
        except errors.HandoverError:
            for wwpn in taken:
                self.holders.release(wwpn)
            raise

    @contextmanager
    def _nexuses(self, soon: Iterable[str] = ()) -> Iterator[Nexuses]:
        """To be given to a run that makes or drops nexuses; ``soon``: WWPNs that will get one."""
        if self.mode is Mode.FILE and not any(map(self.holders.pid_of, self.endpoints())):
            yield Nexuses()  # the driver's QEMU may have to resume by itself
            return
        occupying = Occupying(self.holders)
        try:
            occupying.start(soon)
            yield occupying
        finally:
            occupying.close()

    def _let_go(self) -> None:
        """Free the endpoints which we occupy ourselves."""
        for name in self.local_targets():
            fabric, _, wwpn = name.partition("/")
            if fabrics.gate_of(fabric) is Gate.ENDPOINT:
                self.holders.release(wwpn)

    def keep_holders_ready(self) -> None:
        """Start the holders ahead that the verbs of this process which follow will ask, where it
        stays for them: on the destination activate, on the source release.  A guest stands still
        then, and runs now."""
        if self.core.memory is None or self.mode not in HELD \
                or self.handover.state not in ("prepared", "staged"):
            return
        targets = [name.partition("/") for name in self.local_targets()]
        try:
            self.holders.keep_ready(wwpn for fabric, _, wwpn in targets
                                    if fabrics.gate_of(fabric) is Gate.ENDPOINT)
        except (OSError, errors.HandoverError):
            pass  # those verbs start them, and tell

    def _gate_open(self) -> None:
        if self.vhost:
            occupied = any(self.holders.pid_of(wwpn) for wwpn in self.endpoints())
            self._may_still_open(occupied)
            if occupied or not self.journal.facts.opened:
                self.journal.note("opened", durable=True, boot=boot_id())
        wanted = self.wanted_open()
        shut = [path for path in self.tpgs()
                if path in wanted and self.fs.read(f"{path}/enable").strip() != "1"]
        self._may_still_open(bool(shut))
        known = self.remembered() is not None
        notes = relative_ports.give(self.fs, self.reader(False), self.ports(), shut,
                                    self.port_override(), self.allow)
        self.notes += notes
        if known and not notes and self.core.memory is not None:
            self.core.memory.stays()  # each has the number that it had
        if shut:
            self.journal.note("opened", durable=True, boot=boot_id())
        self._let_go()  # once nothing speaks against opening the others
        for path in shut:
            self.fs.write(f"{path}/enable", b"1\n")

    def _may_still_open(self, shut: bool) -> None:
        """Raises Interrupted where the caller of a recover was told to stop: the last look before
        initiators are let in."""
        if shut and self.row.verb == "recover" and self.stop():
            raise errors.Interrupted("interrupted before its gate was opened",
                                     changed="it is built, and shut")

    def _savefile_drop(self) -> None:
        savefile_actions.drop(self)

    def _savefile_put(self) -> None:
        anew = savefile_actions.unreadable(self)
        paths, why = savefile_actions.put(self)
        self.notes += filter(None, (why, anew if paths else ""))
        self.journal.note("saved", paths=paths, why=why)

    def _prove_shut(self) -> None:
        still = self.open_tpgs()
        saved = [entry for entry in self.saved() if entry.enabled]
        if not still and saved:
            raise errors.StillRunning(
                f"{saved[0].path} holds {saved[0].target} enabled again: somebody saves it",
                changed="the target is shut, and ours",
                do=f"lio-handover status {self.journal.id}")
        if still:
            raise errors.StillRunning(f"{still[0]} was enabled again by somebody else",
                                      changed="the target is shut again, and ours",
                                      do=f"lio-handover status {self.journal.id}")

    def _drain(self) -> None:
        before: Optional[Dict[str, int]] = None
        for _ in range(IDLE_TRIES):
            if self.stop():
                raise errors.Interrupted("interrupted before it was done",
                                         changed="the gates are shut")
            began = time.monotonic()
            now = self.commands()
            if now == before:
                self.executed = now
                return
            before = now
            # Each LUN is looked at as long after the last look as the first one is.
            time.sleep(max(0.0, began + IDLE_SECONDS - time.monotonic()))
        raise errors.StillRunning("commands are still being executed although the gates are shut",
                                  changed="the gates are shut",
                                  do=f"lio-handover source thaw {self.journal.id}")

    def _flush(self) -> None:
        self.flushed_since = self.row.verb == "release" and self.as_kept()
        if self.flushed_since:
            return  # nothing was written since the freeze had it flushed
        self.flush_data(self.durable().state)
        if self.row.verb != "freeze":
            self.flushing.close()

    def flush_data(self, state: State) -> None:
        """Bring all data to the storage.  Raises KernelRefused."""
        self.flushing.flush([path for store in state.backstores
                             for path in protection.files(store)])

    def close_if_reopened(self, why: str =
                          "this host may not serve it, and is shut again: somebody brought it "
                          "back") -> None:
        """Shut targets that this host may not serve and that another program opened, and take them
        out of targetcli's save file; ``notes`` tells of both."""
        names = ", ".join(self.local_targets())
        if self.open_tpgs() or self.mode is not Mode.FILE and any(
                self.holders.pid_of(wwpn) is None for wwpn in self.endpoints()):
            self._tpg_disable()  # also where a guest can't be put out
            self._gate_close()
            self.notes.append(f"{names}: was open although {why}")
        self.notes += self.remove_from_savefile()

    def leaving_at_boot(self) -> save_file.Leaving:
        """The targets' entries of targetcli's save file, which a boot shall not find there.  For
        targets that are this host's to restore, ``notes`` gets a line for each difference between
        the file and the copy."""
        if self.journal.damage is not None:
            return save_file.Leaving({*self.local_targets()}, {*self.journal.facts.stores})
        if self.handover.state == "confirmed":
            self.notes += self.differences()
        return savefile_actions.leaving_at_boot(self)

    def tell_of_boot(self, paths: List[str]) -> None:
        """Tell of the files that had these entries."""
        if self.journal.damage is not None or self.handover.state != "confirmed":
            self.notes += self._taken_out(paths)

    def _taken_out(self, paths: List[str]) -> List[str]:
        names = ", ".join(self.local_targets())
        return [f"{names}: was in {path}, which would bring it back at a boot, and was taken out "
                "of it" for path in paths]

    def remove_from_savefile(self) -> List[str]:
        """Take the targets out of targetcli's save file.  Returns a line for each file."""
        return self._taken_out(save_file.drop(
            self.local_targets(), self.journal.facts.stores, self.directory,
            more=self.core.settings.savefiles))

    def _no_guest(self) -> None:
        """Raises InUse where a guest is attached."""
        if self.vhost and self.guest():
            errors.refuse([errors.Finding(
                errors.InUse, ", ".join(self.local_targets()), "a guest is attached to it",
                do="stop the guest, or let QEMU finish the migration")])

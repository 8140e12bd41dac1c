"""The targets that lio-handover restores at a boot, on one host: adopt, giveback, clear, restore;
and which program restores which target.

A target is ours where a handover that brought it here is over (another host handed it over, or a
document was imported), or where it was adopted: a boot goes by its handover's journal, in state
``confirmed``.  A target of a handover that is under way is restored by ``recover``.  All other
targets are targetcli's, if they are in its save file, else nobody's.
"""
from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from .. import errors
from ..actions.context import HandoverContext
from ..document import runtime_state
from ..execute.executor import Outcome
from ..execute.step_runner import Progress, never
from ..execute.verify import describe
from ..handover import next_steps
from ..handover.reply import Reply
from ..host.looked_at import View
from ..kernel import placement
from ..model.objects import Key, State
from ..protocol.table import DESTINATION, SOURCE, Mode, rows_for
from ..records.journal import Handover, Journal, begun, ids
from ..records.ownership import REMOVED, OwnershipFile, TargetEpochs
from ..savefile import save_file
from ..storage import policy as storage
from .by_file import ByFile, Names, name_of

#: Seconds that a unit waits for another lio-handover, less than its stop may take; between two
#: looks.
PATIENCE, OFTEN = 120.0, 0.2
LIO_HANDOVER, TARGETCLI, NOBODY = "lio-handover", "targetcli", "nobody"
#: (role, state) of a handover whose targets lio-handover brings back, wherever it stands.
BROUGHT_BACK = {
    SOURCE: ("prepared", "freezing", "frozen", "thawing", "forced"),
    DESTINATION: ("armed", "opening", "serving", "confirmed", "forced"),
}


@dataclass(frozen=True)
class Restorer:
    """The program that brings a target back at a boot: ``who``, and ``where`` it has the target (a
    handover's id, or files); ``notes`` tell how the target would come back otherwise than it is
    now."""

    target: str
    who: str
    where: str = ""
    notes: Tuple[str, ...] = ()


def counting_in(directory: str, journals: Iterable[Journal]) -> Dict[str, Handover]:
    """target, as it is called here → the handover among these that counts for it.  Raises
    JournalBroken."""
    owners = OwnershipFile(directory).load()
    counting: Dict[str, Handover] = {}
    for journal in journals:
        handover = journal.handover
        for here in journal.facts.local or handover.targets:
            if owners.get(here, TargetEpochs()).handover in ("", handover.id) and (
                    here not in counting or counting[here].since < handover.since):
                counting[here] = handover
    return counting


class Ours(ByFile):
    """The verbs of one host, with those of what it restores itself."""

    def counting(self) -> Dict[str, Handover]:
        """target, as it is called here → the handover that counts for it."""
        folder = self.settings.state_directory
        return counting_in(folder, [Journal(folder, name, tolerate_damage=True)
                                    for name in ids(folder)])

    def counts_for(self, name: str) -> Optional[Handover]:
        """The same for one target: where owners.json says which, no other journal is read, as each
        of a host's units asks that."""
        folder = self.settings.state_directory
        owner = OwnershipFile(folder).load().get(name, TargetEpochs()).handover
        if not owner:
            return self.counting().get(name)
        if not begun(folder, owner):
            return None
        journal = Journal(folder, owner, tolerate_damage=True)
        return journal.handover if name in (journal.facts.local or journal.handover.targets) \
            else None

    def ours(self, names: Iterable[str]) -> List[Handover]:
        """The handovers of these targets that make them ours."""
        counting, handovers = self.counting(), {}
        for name in names:
            handover = counting.get(name)
            if handover and (handover.role, handover.state) == (DESTINATION, "confirmed"):
                handovers[handover.id] = handover
        return list(handovers.values())

    # ---- the verbs ---
    def adopt(self, names: Names, allow: Sequence[str] = (),
              progress: Optional[Progress] = None, stop: Callable[[], bool] = never) -> State:
        """Have these targets restored by lio-handover, whole, from now on; of those that are so
        already keep the copy anew.  They are served all the time.  Returns what is here."""
        wanted = [name_of(pair) for pair in names]
        with self.alone(names), placement.once(self.fs):
            mine = self.ours(wanted)
            there = {name for handover in mine for name in self.local_names(handover)}
            rest = [name for name in wanted if name not in there]
            under_way = self._under_way(rest)
            errors.refuse([*under_way, *self._handed_over(rest)], allow)
            self.notes = []
            for handover in mine:
                self.notes += self._do("adopt", handover, DESTINATION, allow=allow,
                                       progress=progress, stop=stop).notes
            for group in self._groups(rest):
                handovers = self.handovers()
                handovers.free = frozenset(() if under_way else rest)
                self.notes += handovers.do(
                    "adopt", DESTINATION, str(uuid.uuid4()), targets=group, mode=Mode.FILE.value,
                    allow=allow, progress=progress, stop=stop).notes
            return self._here(names)

    def local_names(self, handover: Handover) -> Tuple[str, ...]:
        journal = Journal(self.settings.state_directory, handover.id, tolerate_damage=True)
        return journal.facts.local or handover.targets

    def _handed_over(self, names: Iterable[str]) -> List[errors.Finding]:
        counting = self.counting()
        return [errors.Finding(
            errors.InUse, name, "this host has handed it over, so another host may serve it",
            "exported", "make sure that none does, and never will")
            for name in names for handover in [counting.get(name)]
            if handover is not None and (handover.role, handover.state) == (SOURCE, "retired")]

    def _groups(self, names: Sequence[str]) -> List[List[str]]:
        """Targets that share a backstore stay together."""
        reader, groups = self._plain_reader(), []  # type: ignore[var-annotated]
        for name in names:
            fabric, wwn = name.split("/", 1)
            stores: Set[Optional[Key]] = {store for _t, _l, store in reader.links(fabric, wwn)
                                          if store is not None}
            together = [group for group in groups if group[0] & stores]
            groups = [group for group in groups if group not in together]
            groups.append((stores.union(*(group[0] for group in together)),
                           [*(member for group in together for member in group[1]), name]))
        return [members for _stores, members in groups]

    def giveback(self, names: Names, allow: Sequence[str] = ()) -> State:
        """Have these targets restored by targetcli from now on: they go into its save file.
        Attributes that the file cannot hold are refused, unless ``allow`` lets a boot lose them.
        Returns the state that is here."""
        wanted = [name_of(pair) for pair in names]
        with self.alone(names), placement.once(self.fs):
            local = {handover: self.local_names(handover) for handover in self.ours(wanted)}
            there = {name for names in local.values() for name in names}
            for name in wanted:
                if name not in there:
                    raise errors.WrongState(f"{name} is not restored by lio-handover",
                                            do="lio-handover status")
            for together in local.values():
                rest = sorted(set(together) - set(wanted))
                if rest:
                    some = sorted(set(together) & set(wanted))
                    raise errors.WrongState(
                        f"{', '.join(some)} is kept together with {', '.join(rest)}",
                        do="lio-handover giveback " + " ".join(together))
            self.notes = [note for handover in local
                          for note in self._do("giveback", handover, DESTINATION,
                                               allow=allow).notes]
            return self._here(names)

    def remove(self, targets: Sequence[str], everything: bool = False, allow: Sequence[str] = (),
               progress: Optional[Progress] = None,
               stop: Callable[[], bool] = never) -> Tuple[Outcome, str]:
        """The same; of those that are not in the kernel, and that a handover would bring back, only
        the record ends: no boot does.  One that is under way is ended so if that is allowed."""
        counting = self.counting()
        gone = [name for name in targets if name in counting and not self.fs.exists(name)
                and counting[name].state in BROUGHT_BACK[counting[name].role]]
        errors.refuse(self._under_way(gone), allow)
        rest = [name for name in targets if name not in gone]
        outcome, kept = super().remove(rest, everything, allow, progress, stop) \
            if rest or everything or not gone else (Outcome(), "")
        if gone:
            with self.alone(more=gone):
                OwnershipFile(self.settings.state_directory).note(gone, handover=REMOVED)
            outcome.notes += tuple(f"{name}: it was not here; no boot brings it back"
                                   for name in gone)
        return outcome, kept

    def clear(self, name: str) -> Tuple[str, ...]:
        """Take a target down that a handover brings back, keeping all of it for ``restore``; what
        there is to tell.  Nothing to do for others.

        A handover of it that is only prepared ends first, as it would at the next recover: the
        copy is kept by the one before."""
        notes: Tuple[str, ...] = ()
        handover = self.counts_for(name)
        if handover is not None and (handover.role, handover.state) == (SOURCE, "prepared") \
                and self._restored_before(handover):
            thaw = partial(self.handovers().do, "thaw", SOURCE, handover.id)
            notes = (*patiently(thaw).notes, f"{name}: handover {handover.id} was only prepared, "
                     "and ended with this; next: lio-handover source prepare, once it is back")
            handover = self.counts_for(name)
        if handover is None or not rows_for(handover.role, handover.state, "clear",
                                            Mode(handover.mode)):
            return (*notes, f"{name}: nothing of it is lio-handover's to clear")
        clear = partial(self.handovers().do, "clear", handover.role, handover.id)
        return (*notes, *patiently(clear).notes)

    def _restored_before(self, handover: Handover) -> bool:
        """Whether lio-handover restored each of its targets before it was prepared."""
        folder = self.settings.state_directory
        owners = OwnershipFile(folder).load()
        before = {owners.get(name, TargetEpochs()).before for name in handover.targets}
        return before <= set(ids(folder)) and all(
            Journal(folder, id, tolerate_damage=True).handover.state == "confirmed"
            for id in before)

    def restored_by(self, name: str) -> Optional[Handover]:
        """The handover by which lio-handover brings a target back at a boot, if it does."""
        handover = self.counts_for(name)
        return handover if handover and handover.state in BROUGHT_BACK[handover.role] else None

    def to_restore(self) -> List[str]:
        """Every target that lio-handover brings back at a boot."""
        return sorted(name for name, handover in self.counting().items()
                      if handover.state in BROUGHT_BACK[handover.role])

    # ---- looking ---
    def view(self, targets: Sequence[str] = ()) -> View:
        """The same, and what of ours is not here."""
        view = super().view(targets)
        try:
            notes = [f"{name}: {_not_here(HandoverContext(self, journal), name)}"
                     for name, handover in sorted(self.counting().items())
                     if (handover.role, handover.state) == (DESTINATION, "confirmed")
                     and not self.fs.exists(name) and (not targets or name in targets)
                     for journal in [Journal(self.settings.state_directory, handover.id,
                                             tolerate_damage=True)]]
        except errors.JournalBroken as error:
            notes = [error.what]
        return replace(view, notes=tuple(dict.fromkeys((*view.notes, *notes))))

    def restorers(self, names: Sequence[str] = ()) -> List[Restorer]:
        """The restorer of each target of this kernel, of lio-handover's records and of targetcli's
        files."""
        with placement.once(self.fs):
            return self._restorers(names)

    def _restorers(self, names: Sequence[str]) -> List[Restorer]:
        counting = self.counting()
        try:
            here = [name_of(pair) for pair in self.names((), True)]
        except errors.HandoverError:
            here = []
        saved: Dict[str, List[str]] = {}
        trouble: Tuple[str, ...] = ()
        try:
            for entry in save_file.entries({*here, *counting}, self.settings.savefiles):
                saved.setdefault(entry.target, []).append(entry.path)
        except errors.SavefileBroken as error:
            trouble = (error.what,)
        ours = {name for name, handover in counting.items()
                if handover.state in BROUGHT_BACK[handover.role]}
        return [self._restorer(name, counting.get(name), saved.get(name, ()), name in here, trouble)
                for name in sorted({*here, *ours, *saved} & set(names) if names
                                   else {*here, *ours, *saved})]

    def _restorer(self, name: str, handover: Optional[Handover], saved: Sequence[str], here: bool,
                  trouble: Tuple[str, ...]) -> Restorer:
        if handover is not None and handover.state in BROUGHT_BACK[handover.role]:
            return Restorer(name, LIO_HANDOVER, handover.id, self._otherwise(name, handover, here))
        if handover is not None and (handover.role, handover.state) not in (
                (SOURCE, "idle"), (DESTINATION, "none"), (DESTINATION, "given")):
            return Restorer(name, NOBODY, handover.id, (
                f"this host is its {handover.role}, {handover.state}",))
        if handover is not None and handover.role == SOURCE and not saved and Journal(
                self.settings.state_directory, handover.id, tolerate_damage=True).facts.unsaved:
            return Restorer(name, LIO_HANDOVER, handover.id, ())
        if saved:
            return Restorer(name, TARGETCLI, ", ".join(saved))
        return Restorer(name, NOBODY, "", trouble or ("it is in no save file",))

    def _otherwise(self, name: str, handover: Handover, here: bool) -> Tuple[str, ...]:
        """The differences between a target and the copy that a boot goes by, as sentences."""
        if handover.state != "confirmed":
            return ()
        journal = Journal(self.settings.state_directory, handover.id, tolerate_damage=True)
        context = HandoverContext(self, journal)
        if not here:
            return (*journal.facts.differs, _not_here(context, name))
        try:
            changed = runtime_state.structural_changes(context.durable().state, context.here(False))
        except (errors.HandoverError, OSError) as error:
            return (str(getattr(error, "what", error)),)
        mine = [change for change in changed if name in describe(change)] or changed
        gates = _gates(context, name)
        if gates:
            return (*journal.facts.differs, *gates)
        return (*journal.facts.differs, *(
            [f"changed since its copy was kept: {describe(mine[0])}"
             + (f" (and {len(mine) - 1} more)" if len(mine) > 1 else "")
             + f"; next: lio-handover adopt {name}"] if mine else ()))


def patiently(work: Callable[[], Reply], stop: Callable[[], bool] = never) -> Reply:
    """The answer, once another lio-handover lets go of the target.  Raises StillRunning where it
    does not, or where it is told to stop."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except errors.StillRunning:
            if time.monotonic() > until or stop():
                raise
        time.sleep(OFTEN)


def _gates(context: HandoverContext, name: str) -> Tuple[str, ...]:
    """A line for each TPG that somebody enabled or disabled since the copy was kept."""
    wanted, now = set(context.wanted_open()), set(context.open_tpgs())
    return tuple(
        f"{path} is {'enabled' if path in now else 'disabled'} now, and a boot would have it "
        f"{'disabled' if path in now else 'enabled'}; next: lio-handover adopt {name}"
        for path in sorted(wanted ^ now) if path.startswith(f"{name}/"))


def _not_here(context: HandoverContext, name: str) -> str:
    """Why a target of ours is not in the kernel, and what to do."""
    try:
        missing = [f"{finding.subject}: {finding.sentence}"
                   for store in context.durable().state.backstores
                   for finding in storage.absent(store)]
    except errors.JournalBroken as error:
        return f"it is not here: {error.what}"
    if context.stopped():
        return ("it is not here, as it was stopped on purpose; next: "
                f"{next_steps.restore([name])}")
    if missing:
        return (f"it is shut, as storage is missing: {', '.join(missing)}; next: "
                f"make it reachable, then lio-handover restore {name}, unless its unit waits")
    return ("it is not here: somebody else removed or cleared it; next: lio-handover restore "
            f"{name}; if nobody shall serve it, lio-handover remove {name}")

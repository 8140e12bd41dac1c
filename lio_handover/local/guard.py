"""Acts, while the service runs, on changes that other programs make to the targets of handovers:
handover/meddling.py has the kinds.

A target that this host may not serve is shut at once, and taken out of targetcli's save file.  A
target of this host's that was made again without its registrations is shut at once and rebuilt by
``recover``.  The copy of a target that was changed in place is made anew by ``adopt``.  A target
that is gone is told of, and left so.  All of it happens under the handover's lock, so not while a
verb is at work.  A program that does the same again and again is told of once a minute, and a
rebuilt target is left shut for longer each time.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Set, Tuple

from .. import errors
from ..actions import aptpl_copies, identity, surviving_registrations
from ..actions.context import HandoverContext
from ..handover import meddling
from ..handover.engine import HandoverEngine
from ..handover.meddling import Incident, Kind
from ..handover.reply import Peer
from ..kernel import placement
from ..kernel.facts import boot_id
from ..records.journal import Journal, ids
from ..records.ownership import NAME as OWNERS, OwnershipFile, TargetEpochs
from ..savefile import places
from . import targetctl
from .ours import Ours
from .tree_watches import EVERYBODY, TreeWatches, folders, gates, roots

#: Seconds between two looks in any case; and until another where somebody is at work.
ALWAYS, SOON = 5.0, 0.3
#: Seconds without a change after which a target is rebuilt; its copy is made anew; the same where
#: something was taken away, as whoever clears all of it begins with a part.
CALM, QUIET, SHRUNK = 0.5, 1.0, 10.0
#: Seconds for which who restores or clears is waited for.
PATIENCE = 60.0
#: Seconds between two comparisons of all of it with its copy, also where nothing was told.
COMPARED = 600.0
#: Seconds for which the same is told once; longest time that what was rebuilt is left shut.
ONCE, LONGEST = 60.0, 300.0

#: States in which a target that is lacking something is rebuilt, whoever shut it.
SERVED = ("prepared", "opening", "serving", "confirmed")

#: Is told what was found and done: the text, the handover, its targets.
Tell = Callable[[str, str, str], None]
_Stamp = Tuple[int, int, int]


@dataclass
class _Known:
    """A handover as it was when it was looked at last.  Times are those of time.monotonic."""

    stamp: Tuple[Optional[_Stamp], ...]
    context: HandoverContext
    superseded: bool
    touched: float = 0.0  # when something was last told of it
    compared: float = 0.0
    changed: bool = True  # since it was compared
    saved: Tuple[Optional[_Stamp], ...] = ()  # the save files when they were looked into
    shut: bool = False  # by this, as it was replaced
    tries: int = 0
    tried: float = 0.0
    not_before: float = 0.0

    @property
    def names(self) -> str:
        return ", ".join(self.context.local_targets())

    @property
    def watched(self) -> bool:
        """Whether anything that somebody does to it matters."""
        journal = self.context.journal
        return not self.superseded and (
            journal.damage is not None or meddling.must_stay_shut(journal.handover)
            or meddling.kept(journal.handover))


class Guard:
    """Looks at every handover of this host when something was told.  ``core`` makes the verbs."""

    def __init__(self, core: Callable[[], Ours], peer: Optional[Peer], tell: Tell) -> None:
        self._core, self._peer, self._tell = core, peer, tell
        self._watches = TreeWatches()
        self._known: Dict[str, _Known] = {}
        self._said: Dict[str, Tuple[float, int]] = {}
        self._next, self._new = ALWAYS, True
        self._owners: Optional[Dict[str, TargetEpochs]] = None  # as they were at this look

    def fileno(self) -> int:
        """Readable when something was told."""
        return self._watches.fileno()

    def look(self) -> float:
        """Act on what is found; in how many seconds to look again.  Raises OSError."""
        core = self._core()
        core.guard = True
        with placement.once(core.fs):
            return self._look(core)

    def _look(self, core: Ours) -> float:
        told, self._next, self._owners = self._watches.told(), ALWAYS, None
        directory = core.settings.state_directory
        there = [*ids(directory)]
        for name in {*self._known} - {*there}:
            del self._known[name]
        for name in there:
            try:
                self._look_at(core, name, told)
            except (FileNotFoundError, errors.StillRunning):
                self._soon(SOON)  # a program is at work, which may take down what is looked at
            except (OSError, errors.HandoverError) as error:
                self._once(name, f"{getattr(error, 'what', '') or error}", name)
        if told or self._new:
            self._new = False
            if self._arm(core):
                self._soon(0.0)
        return self._next

    # ---- small things ---
    def _soon(self, seconds: float) -> None:
        self._next = max(0.0, min(self._next, seconds))

    def _once(self, who: str, text: str, name: str) -> None:
        """Tell it, unless the same was told a moment ago."""
        key, now = f"{who}: {text}", time.monotonic()
        since, times = self._said.get(key, (-ONCE, 0))
        if now - since < ONCE:
            self._said[key] = since, times + 1
            return
        self._said = {key: since_times for key, since_times in self._said.items()
                      if now - since_times[0] < 2 * ONCE}
        self._said[key] = now, 0
        self._tell(text + (f" ({times} more times)" if times else ""), name, who)

    def _arm(self, core: Ours) -> bool:
        wanted: Dict[str, List[str]] = {}
        for name, known in self._known.items():
            if known.watched:
                context = known.context
                try:
                    wanted[name] = folders(context) if context.handover.state == "confirmed" \
                        else [*gates(context)]
                except OSError:  # it goes while it is looked at
                    self._new = True
                    self._soon(SOON)
        if wanted:
            wanted[EVERYBODY] = [*roots(core.fs.root), *{
                os.path.dirname(path) for path in _save_files(core)}]
        return self._watches.arm(wanted)

    def _of(self, core: Ours, name: str) -> _Known:
        """As its journal has it now."""
        directory = core.settings.state_directory
        stamp = (_stamp(os.path.join(directory, "handovers", name, "journal")),
                 _stamp(os.path.join(directory, OWNERS)))
        known = self._known.get(name)
        if known is None or known.stamp != stamp:
            context = HandoverContext(core, Journal(directory, name, tolerate_damage=True))
            if self._owners is None:
                self._owners = OwnershipFile(directory).load()
            superseded = HandoverEngine(core).superseded(context.handover, self._owners)
            if known is None:
                known = _Known(stamp, context, superseded)
            known.stamp, known.context, known.superseded = stamp, context, superseded
            self._known[name], self._new = known, True
        known.context.core = core  # which lists the tree once for all of this look
        return known

    def _locked(self, core: Ours, known: _Known) -> List[str]:
        journal = known.context.journal
        return [f"handover/{journal.id}", *journal.handover.targets, *journal.facts.local,
                *journal.facts.stores]

    # ---- one handover ---
    def _look_at(self, core: Ours, name: str, told: Set[str]) -> None:
        known, now = self._of(core, name), time.monotonic()
        if told & {name, EVERYBODY}:
            known.touched, known.changed = now, True
        if not known.watched or not core.fs.exists("core"):
            return
        journal = known.context.journal
        if journal.damage is not None or meddling.must_stay_shut(journal.handover):
            return self._shut(core, name, known)
        compare = known.changed and now - known.touched >= QUIET \
            or now - known.compared >= COMPARED
        incidents = meddling.incidents_of(known.context, compare)
        if compare:
            known.compared, known.changed = now, False
        elif known.changed and journal.handover.state == "confirmed":
            self._soon(QUIET - (now - known.touched))
        kinds = {incident.kind: incident for incident in incidents}
        if kinds:
            placement.again(core.fs)
        if Kind.REPLACED in kinds:
            return self._rebuild(core, name, known, kinds[Kind.REPLACED])
        if Kind.GONE in kinds:
            return self._gone(core, name, known, kinds[Kind.GONE])
        if Kind.CHANGED in kinds:
            return self._adopt(core, name, known, kinds[Kind.CHANGED])
        self._well(core, name, known)

    def _shut(self, core: Ours, name: str, known: _Known) -> None:
        """Shut a target that this host may not serve, and take it out of targetcli's save file."""
        context = known.context
        saved = tuple(_stamp(path) for path in _save_files(core))
        looked = known.saved == saved
        if not meddling.incidents_of(context) and (looked or not meddling.save_files(context)):
            known.saved = saved
            return
        if context.journal.damage is not None:
            try:
                HandoverEngine(core).recover(name)
            except errors.JournalBroken as error:
                self._once(name, f"{known.names}: {error}", known.names)
                known.saved = tuple(_stamp(path) for path in _save_files(core))
            return
        with core.alone(more=self._locked(core, known)):
            handovers = HandoverEngine(core)
            journal = Journal(core.settings.state_directory, name, tolerate_damage=True)
            for note in handovers.close_if_reopened(journal):
                self._once(name, note + f"; this host is its {journal.handover.role}, "
                           f"{journal.handover.state}", known.names)
        self._soon(SOON)  # who opens it may have more to do

    def _rebuild(self, core: Ours, name: str, known: _Known, incident: Incident) -> None:
        context, now = known.context, time.monotonic()
        if not (context.handover.state in SERVED or known.shut or meddling.unguarded(context)):
            return  # nobody is served: the verb that opens it puts it right
        if context.open_tpgs():
            with core.alone(more=self._locked(core, known)):
                for path in context.open_tpgs():
                    core.fs.write(f"{path}/enable", b"0\n")
            known.touched, known.shut = now, True
        wait = max(CALM - (now - known.touched), known.not_before - now)
        if wait <= 0 and now - known.touched < PATIENCE and targetctl.at_work():
            wait = SOON  # it would go on with what is rebuilt
        if wait > 0:
            if known.not_before - now > CALM:
                self._note(core, known, f"{incident}; it stays shut for a while, as somebody does "
                           "that again and again")
            return self._soon(wait)
        self._once(name, f"{', '.join(incident.targets)} {incident.kind.value}: {incident.what}; "
                   "it is shut, and is rebuilt from its copy", known.names)
        if now - known.tried > 2 * LONGEST:
            known.tries = 0
        known.tries, known.tried = known.tries + 1, now
        known.not_before = now + (min(LONGEST, 2.0 ** known.tries) if known.tries > 1 else 0)
        known.shut = False
        try:
            answer, = HandoverEngine(core, self._peer).recover(name)
        except errors.StillRunning:
            known.tries, known.shut = known.tries - 1, True
            raise
        except (OSError, errors.HandoverError) as error:
            known.not_before = now + min(LONGEST, 2.0 ** (known.tries + 3))
            self._once(name, f"{known.names}: it stays shut: {error}", known.names)
            return
        told = "".join(f"; {note}" for note in answer.notes)
        self._tell(f"{known.names} was rebuilt: this host is its {answer.handover.role}, "
                   f"{answer.handover.state}{told}", known.names, name)

    def _gone(self, core: Ours, name: str, known: _Known, incident: Incident) -> None:
        if known.context.journal.facts.meddled != str(incident):
            self._note(core, known, str(incident))
            self._once(name, str(incident), known.names)

    def _adopt(self, core: Ours, name: str, known: _Known, incident: Incident) -> None:
        context = known.context
        quiet = SHRUNK if incident.shrunk else QUIET
        waited = time.monotonic() - known.touched
        if waited < PATIENCE and targetctl.at_work():
            quiet = waited + SOON
        reader = context.reader(False)
        if waited < quiet:
            known.changed = True
            return self._soon(quiet - waited)
        if not any(True for fabric, wwn in context.names() for _ in reader.links(fabric, wwn)):
            return self._once(name, f"{incident}; its copy stays as it was, as no LUN is left of "
                              "it", known.names)
        try:
            core.adopt([(target.split("/", 1)[0], target.split("/", 1)[1])
                        for target in context.local_targets()])
        except errors.StillRunning:
            known.changed = True
            raise
        except (OSError, errors.HandoverError) as error:
            return self._once(name, f"{incident}; its copy can't be made anew: {error}",
                              known.names)
        self._tell(f"{known.names}: its copy was made anew, as it was changed: {incident.what}",
                   known.names, name)

    def _well(self, core: Ours, name: str, known: _Known) -> None:
        """Note whose it is where that is not known yet, and that nothing is wrong any more."""
        context = known.context
        journal = context.journal
        others = surviving_registrations.looked_for(context) and context.whole()
        unknown = not identity.known(context) and aptpl_copies.wanted(journal, boot_id()) \
            and bool(context.names()) and context.whole()
        if not (others or unknown or journal.facts.meddled) or journal.handover.busy:
            return
        with core.alone(more=self._locked(core, known)):
            fresh = HandoverContext(core, Journal(core.settings.state_directory, name,
                                                  tolerate_damage=True))
            if others:
                surviving_registrations.lacking(fresh)
            elif unknown:
                identity.note(fresh)
            if fresh.journal.facts.meddled and not meddling.incidents_of(fresh):
                fresh.journal.note("meddled", said="")
                self._tell(f"{known.names} is here again, as it was", known.names, name)

    def _note(self, core: Ours, known: _Known, said: str) -> None:
        """Where status and the bus find it."""
        journal = known.context.journal
        if journal.facts.meddled == said:
            return
        with core.alone(more=self._locked(core, known)):
            Journal(core.settings.state_directory, journal.id, tolerate_damage=True).note(
                "meddled", said=said)


def _save_files(core: Ours) -> List[str]:
    """Where targetcli saves, there or not."""
    try:
        paths = places.everywhere(core.settings.savefiles)
    except errors.SavefileBroken:
        paths = list(core.settings.savefiles)
    return [*dict.fromkeys([*paths, *places.KNOWN])]


def _stamp(path: str) -> Optional[_Stamp]:
    try:
        file_stat = os.stat(path)
    except OSError:
        return None
    return file_stat.st_ino, file_stat.st_mtime_ns, file_stat.st_size

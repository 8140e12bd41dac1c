"""One host: looked at, locked, and changed by one plan at a time."""
from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..document.document import Document
from ..execute import executor
from ..execute.executor import Outcome
from ..execute.step_runner import Nexuses, Progress, never, nothing
from ..execute.verify import Scope
from ..kernel import placement
from ..kernel.configfs import Configfs
from ..kernel.facts import Facts, boot_id, no_modules
from ..kernel.reader import Reader
from ..model import diff as differ
from ..model.keys import display
from ..model.objects import Key, State
from ..model.reservations import FullStatusDescriptor
from ..plan.plan import Plan
from ..records import pr_record, state_folder
from ..settings import Settings, load
from ..system.locks import PATIENCE, SCRATCH, Locks, room_for
from .memory import Memory

#: Makes a plan from a host's facts; the flag: whether it may trust the table of new objects.
Maker = Callable[[Facts, bool], Plan]


class Host:
    """One host.  ``fs`` and ``settings`` are those of the host unless given.

    Raises JournalBroken where others than root can change what this host goes by (state_folder.py).
    """

    def __init__(self, settings: Optional[Settings] = None, fs: Optional[Configfs] = None) -> None:
        self.settings = settings if settings is not None else load()
        state_folder.check(self.settings.state_directory, self.settings.key)
        self.fs = fs if fs is not None else Configfs()
        self._mine = False  # whether this holds its locks
        #: Whether this host may only be looked at: nothing is locked, recorded or made.
        self.read_only = False
        #: Whether nobody asked for what is done here: then nobody is refused for its sake.
        self.guard = False
        #: Whether secrets are taken for the same wherever there is one: not even that they differ
        #: is told.
        self.blind = False
        self.notes: List[str] = []  # what the last verb has to tell
        self.begun: List[str] = []  # targets of which a handover was begun
        #: what this process has in memory of the targets of a handover, where it stays for it
        self.memory: Optional[Memory] = None
        #: what backstores said of what they have open, see probes.reads
        self.asked: Dict[Key, Optional[bool]] = {}

    def names(self, targets: Sequence[str], everything: bool = False) -> List[Tuple[str, str]]:
        """(fabric, WWN) of the targets named ``iscsi/iqn.…``.  Raises NoSuchTarget."""
        there = self._plain_reader().target_names()
        if everything:
            return there
        names = []
        for name in targets:
            fabric, _, wwn = name.partition("/")
            if (fabric, wwn) not in there:
                raise errors.NoSuchTarget(f"{name}: this host has no such target",
                                          do="lio-handover show")
            if (fabric, wwn) not in names:
                names.append((fabric, wwn))
        return names

    def _plain_reader(self) -> Reader:
        """A reader that skips reservations.  Raises NoTargetModules."""
        if not self.fs.exists("core"):
            raise no_modules()
        return Reader(self.fs, reservations=False)

    def reader(self, full_status: Optional[Mapping[Key, Sequence[FullStatusDescriptor]]] = None
               ) -> Reader:
        if not self.fs.exists("core"):
            raise no_modules()
        reader = Reader(self.fs, full_status=full_status,
                        known={key: (restored,) for key, restored in pr_record.load(
                            self.settings.state_directory, boot_id()).items()})
        reader.asked = self.asked
        return reader

    def read(self, reader: Reader, names: Sequence[Tuple[str, str]]) -> State:
        """The state of these targets, read, and remembered by a process that stays."""
        return reader.state(names) if self.memory is None else self.memory.read(reader, names)

    def outline(self, names: Sequence[Tuple[str, str]]) -> State:
        """The backstores of these targets, with their parameters and serials alone: nothing of it
        is refused."""
        return self._plain_reader().stores_of(names)

    # ---- secrets ---
    def seen(self, document: Document) -> Document:
        """The document as this caller may have it compared."""
        return replace(document, state=self.blinded(document.state)) if self.blind else document

    def blinded(self, state: State) -> State:
        return differ.blind(state) if self.blind else state

    def may_compare(self, document: Document, maps: Sequence[str] = ()) -> None:
        """Let a blind caller import a document: secrets are then no more hidden from the work.

        Raises NotAuthorized where both have secrets, as an import tells whether they are the same.
        """
        if not self.blind:
            return
        from ..document import rename
        self.blind = False
        want = rename.parse(maps).apply(document)[0].state
        have = Scope.of(want).read(self.fs, reservations=False) if any(differ.secrets_of(want)) \
            else State()
        if any(differ.secrets_of(have)):
            raise errors.NotAuthorized(
                "there are secrets in the document, and in what this host has of it: an import "
                "compares them", do="give option secrets, which takes polkit's action document")

    # ---- one at a time ---
    @contextmanager
    def alone(self, names: Sequence[Tuple[str, str]] = (), more: Sequence[str] = (),
              patience: float = 0.0) -> Iterator[None]:
        """No other lio-handover changes these targets and their backstores meanwhile; ``more``
        are further names to lock.  Without any, none changes this host.  ``patience``: seconds to
        wait for another one.

        Raises NotRoot, StillRunning, NotAuthorized.
        """
        if self._mine:
            yield
            return
        if self.read_only:
            raise errors.NotAuthorized("who may only look locks nothing")
        if os.geteuid() != 0:
            raise errors.NotRoot("only root may change what this host serves", do="sudo")
        with self.locks.alone([*self.lock_names(names), *more], self.guard, patience), \
                placement.listed_once(self.fs):
            self._mine = True
            try:
                yield
            finally:
                self._mine = False

    @property
    def locks(self) -> Locks:
        return Locks(self.settings.state_directory)

    def lock_names(self, names: Sequence[Tuple[str, str]]) -> List[str]:
        """The targets and the backstores they export; those that share one wait for each other."""
        reader = Reader(self.fs)
        locked = [f"{fabric}/{wwn}" for fabric, wwn in names]
        for fabric, wwn in names:
            if self.fs.exists(f"{fabric}/{wwn}"):
                locked += [display(store) for _, _, store in reader.links(fabric, wwn)]
        return locked

    def run(self, make: Maker, before: State, facts: Facts, progress: Optional[Progress] = None,
            stop: Callable[[], bool] = never, reservations: bool = True,
            before_gate: Callable[[], None] = nothing,
            nexuses: Optional[Nexuses] = None) -> Tuple[Plan, Outcome]:
        """Run what ``make`` plans, see executor.apply, beside others who build on this host: no
        two take the same HBA, nor the scratch target at one time.

        ``make`` is given the facts, and whether to trust the table of what new objects are like;
        where that was wrong, which is taken back and rare, once more without.
        """
        try:
            return self._run(make, True, before, facts, progress, stop, reservations, before_gate,
                             nexuses)
        except errors.VerifyFailed:
            if make(facts, True) == make(facts, False):
                raise
            return self._run(make, False, before, facts, progress, stop, reservations, before_gate,
                             nexuses)

    def _run(self, make: Maker, trusting: bool, before: State, facts: Facts,
             progress: Optional[Progress], stop: Callable[[], bool], reservations: bool,
             before_gate: Callable[[], None],
             nexuses: Optional[Nexuses]) -> Tuple[Plan, Outcome]:
        taken: Tuple[str, ...] = ()
        while True:
            the_plan = make(replace(facts, hbas=facts.hbas + taken), trusting)
            if the_plan.refused:
                errors.refuse(the_plan.refused)
            with ExitStack() as reserved:
                busy = self._reserve(the_plan, reserved)
                if busy:
                    taken += busy
                    continue
                return the_plan, executor.apply(self.fs, the_plan, before, facts, progress, stop,
                                                reservations, before_gate,
                                                self.settings.fuse, nexuses)

    def _reserve(self, the_plan: Plan, reserved: ExitStack) -> Tuple[str, ...]:
        """Lock the HBAs that the plan makes; those that somebody else was faster to take."""
        busy = []
        hbas = {step.path[len("core/"):] for step in the_plan.steps if step.slot == "HBA"}
        room_for(len(hbas))
        for hba in sorted(hbas):
            try:
                reserved.enter_context(self.locks.hold(f"hba/{hba}"))
            except errors.StillRunning:
                busy.append(hba)
            else:
                if self.fs.exists(f"core/{hba}"):
                    busy.append(hba)
        if not busy and any(step.slot == "clear APTPL" for step in the_plan.steps):
            reserved.enter_context(self.locks.hold(SCRATCH, patience=PATIENCE))
        return tuple(busy)

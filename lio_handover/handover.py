"""The engine: runs the rows of the protocol's table (transitions.py) on this host.

A verb looks up the rows for where the journal says the handover stands, takes the first whose
papers and needs hold, and runs its steps in order.  Everything it may do stands in that table,
which tests/model explores; what each step does stands in deeds.py.
"""
from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import (Callable, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence,
                    Tuple)

from . import away, errors, followed, kernel_fixes, mapping, meddling, onward, preflight
from .answer import Answer, Peer, answer_from_json, answer_to_json
from .core import Core, Ready, lock_names
from .deeds import Deeds, not_late
from .executor import Outcome
from .document import Document
from .evidence import ASSERTS, FIRST_STATE, WORDS, Evidence
from .facts import boot_id
from .readback import Scope
from .running import Progress, never, reason
from .journal import PREPARED, Handover, Journal, ids
from .model import State, say
from .owners import Owner, Owners
from .papers import Message, document_in, is_id
from .standing import Standing
from .transitions import (DESTINATION, SOURCE, VERBS, Mode, Paper, Row, rows_for, state_of)

__all__ = ["Answer", "Handover", "Handovers", "Peer", "answer_from_json", "answer_to_json"]

#: Papers that say no more than the state does: true once it is recorded, said or not.
_TRUE_AT_ONCE = {("retired", Paper.RETIRED), ("serving", Paper.SERVING)}


#: States in which a boot leaves the target to targetcli.
TARGETCLIS = {SOURCE: ("", "idle"), DESTINATION: ("", "none", "given")}


class Handovers:
    """The handovers of one host.

    ``peer`` asks the other side; None: there is no way to ask.  ``alarm`` is called with the
    handover and the verb when a verb takes longer than its row allows; nothing is cut short.
    """

    def __init__(self, core: Core, peer: Optional[Peer] = None,
                 alarm: Optional[Callable[[Handover, str], None]] = None) -> None:
        self.core, self.peer, self.alarm = core, peer, alarm
        self.outcome = Outcome()  # of an import by file

    # ---- looking --------------------------------------------------------------------------------
    @property
    def _directory(self) -> str:
        return self.core.settings.state_directory

    def list(self) -> List[Handover]:
        """Every handover this host knows, the newest last; in no state where its journal can't be
        read.  Raises JournalBroken where not even its targets are known."""
        return [one.handover for one in self._journals()]

    def _journals(self) -> List[Journal]:
        found = [Journal(self._directory, one, partly=True) for one in ids(self._directory)]
        return sorted(found, key=lambda one: one.handover.since)

    def get(self, id: str) -> Handover:  # noqa: A002 - the D-Bus API's word
        """Raises NoSuchHandover, JournalBroken."""
        return Journal(self._directory, id).handover

    def known(self, id: str) -> Handover:  # noqa: A002
        """The same; of one whose journal can't be read what it is about, and no state."""
        return Journal(self._directory, id, partly=True).handover

    def status(self, id: str = "") -> List[Answer]:  # noqa: A002
        """Where one handover, or each, stands.  Changes nothing.

        Of all, one whose journal can't be read has the error in its notes.
        """
        found = [self._status(Journal(self._directory, id))] if id else \
            self._each(lambda one: self._status(Journal(self._directory, one)))
        return [*found[:-1], *(replace(one, notes=one.notes + kernel_fixes.notes())
                               for one in found[-1:])]

    def _each(self, work: Callable[[str], Answer],
              names: Optional[Sequence[str]] = None) -> List[Answer]:
        """For every handover, the oldest first; what fails for one stands in its notes."""
        found = []
        for one in ids(self._directory) if names is None else names:
            try:
                found.append(work(one))
            except errors.HandoverError as error:
                try:
                    where = self.known(one)
                except errors.HandoverError:
                    where = Handover(one, "", "", 0, "", ())
                found.append(Answer(where, (), (f"{type(error).__name__}: {error}",), error.do,
                                    failed=error.code))
        return sorted(found, key=lambda one: one.handover.since)

    def _status(self, journal: Journal) -> Answer:
        handover = journal.handover
        state = handover.state or FIRST_STATE[handover.role]
        may = state_of(handover.role, state, Mode(handover.mode)).gives
        rows = rows_for(handover.role, state, "status", Mode(handover.mode))
        may |= {step.paper for row in rows for step in row.steps if step.paper is not None}
        if state in ("staged", "armed"):
            may -= {Paper.ABORTED}  # which it gives by aborting
        standing = Standing(self.core, journal, handover.epoch)
        papers = [standing.message(paper) for paper in Paper if paper in may and (
            paper.name.lower() in journal.notes.said or (state, paper) in _TRUE_AT_ONCE)]
        notes = [*filter(None, (journal.notes.forced, journal.notes.unsaved)), *away.told(journal)]
        if handover.busy:
            step = journal.notes.step
            notes.append(f"{handover.busy} was begun and has not ended"
                         + (f": it was at {step}" if step else ""))
        if handover.error:
            notes.append(f"the last verb failed: {handover.error}")
        if handover.boot_id and handover.boot_id != boot_id():
            notes.append("this host was rebooted since")
        notes += onward.removed(handover, Owners(self._directory))
        notes += meddling.notes(standing, self.superseded)
        return Answer(handover, tuple(papers), tuple(notes), onward.command(journal))

    # ---- doing ----------------------------------------------------------------------------------
    def do(self, verb: str, role: str, id: str = "", *,  # noqa: A002
           targets: Sequence[str] = (), mode: str = "iscsi", papers: Sequence[Message] = (),
           words: FrozenSet[str] = frozenset(), by: str = "", allow: Sequence[str] = (),
           maps: Sequence[str] = (), peer: str = "", probe: bool = False,
           progress: Optional[Progress] = None,
           stop: Callable[[], bool] = never, ready: Optional[Ready] = None) -> Answer:
        """Run a verb.

        ``targets``, ``mode`` and ``probe`` (see Core.ask; it holds for all that follows) are for
        prepare (and a freeze by file), ``maps`` for stage, ``ready`` for import.  ``words`` are
        an operator's
        (``by`` says whose) or, of QEMU, the driver's: see WORDS.  Raises WrongState where no row
        of the table fits, StaleEpoch for an epoch that is over, and what the steps raise; then
        the recorded state stands.
        """
        if verb not in VERBS or VERBS[verb][0] not in (role, "both"):
            raise errors.WrongState(f"a {role} has no verb {errors.one_line(verb)!r}",
                                    do="lio-handover --help")
        unknown = set(words) - set(WORDS)
        if unknown:
            raise errors.WrongState(f"{errors.one_line(min(unknown))!r} is no word that can be "
                                    "given", do=f"one of {', '.join(sorted(WORDS))}")
        if verb == "status":
            return self._status(self._journal(id, role))
        if verb == "prepare" and not id:
            id = str(uuid.uuid4())
        elif verb in ("stage", "abort") and not id:
            id = next((one.handover for one in papers), "")
        try:
            self.core.reader()
            with self.core.alone(more=self._lock_names(verb, id, targets, papers, maps, ready)):
                if verb == "recover":
                    self._shut_where_broken(id)
                journal, epoch = self._begin(verb, role, id, targets, mode, papers, maps, peer,
                                             allow, ready)
                if probe and not journal.notes.probe:
                    journal.note("probe")
                followed.catch_up(self.core, verb, journal)
                new = not journal.handover.state
                run = Evidence(self.core, self.peer, journal, verb, epoch, papers, words,
                               self.superseded(journal.handover), peer)
                answer = self._recover(run, by, allow, progress, stop) if verb == "recover" else \
                    self._go(run, run.row(), (), by, allow, progress, stop, ready)
                if new and verb != "recover":
                    self.core.begun += journal.notes.local or journal.handover.targets
                return answer
        except OSError as error:
            raise errors.KernelRefused(
                f"{verb}: {error.filename or ''}: {reason(error)}",
                changed="the recorded state stands", do=f"lio-handover status {id}") from error

    def _go(self, run: Evidence, row: Optional[Row], notes: Tuple[str, ...], by: str,
            allow: Sequence[str], progress: Optional[Progress], stop: Callable[[], bool],
            ready: Optional[Ready] = None) -> Answer:
        """Run a row, and for activate those that lead on from where it leads; where there is
        none, nothing is left to do."""
        journal = run.journal
        if row is None:
            self._ended(journal)
            return self._status(journal)
        answer, done = Answer(journal.handover, notes=notes), []
        while row is not None:
            deeds = Deeds(self.core, journal, run.epoch, row, run.by_paper, allow, by, run.words,
                          progress, stop, ready=ready)
            latest = self._run(deeds, run.verb)
            self.outcome = deeds.outcome
            answer = replace(latest, papers=answer.papers + latest.papers,
                             notes=answer.notes + latest.notes)
            done.append(row)
            row = run.further(done)
        return answer

    def _recover(self, run: Evidence, by: str, allow: Sequence[str],
                 progress: Optional[Progress], stop: Callable[[], bool]) -> Answer:
        journal = run.journal
        if not journal.handover.state:
            journal.remove()
            return Answer(journal.handover, (), ("it was cut off before it was begun, and is "
                                                 "forgotten",))
        if journal.handover.over:
            self._tidy(journal)
        notes = self.scrub(journal)
        row = run.recovery()
        notes += tuple(run.notes)
        return self._stays(run, notes) if row is None else \
            self._go(run, row, notes, by, allow, progress, stop)

    def _lock_names(self, verb: str, id: str, targets: Sequence[str],  # noqa: A002
                    papers: Sequence[Message], maps: Sequence[str],
                    ready: Optional[Ready]) -> List[str]:
        """The handover, and whatever of this host it is about."""
        if id in ids(self._directory):
            journal = Journal(self._directory, id, partly=True)
            return [f"handover/{id}", *journal.handover.targets, *journal.notes.local,
                    *journal.notes.stores]
        found = lock_names(ready.document.state) if ready is not None else []
        if verb in ("prepare", "freeze", "adopt"):
            found = self.core.lock_names(self.core.names(targets))
        for one in papers:
            if verb == "stage" and one.paper is Paper.OFFER:
                state = mapping.parse(maps).apply(document_in(
                    one, self.core.settings.document_bytes))[0].state
                found += [*(target.name for target in state.targets),
                          *(say(store.key) for store in state.backstores)]
        return [f"handover/{id}", *found]

    # ---- recovering -----------------------------------------------------------------------------
    def recover(self, id: str = "", words: FrozenSet[str] = frozenset(),  # noqa: A002
                by: str = "", allow: Sequence[str] = (), peer: str = "") -> List[Answer]:
        """Finish what was cut off, or say why not and what a human may order: one handover, or
        each.  Harmless in every state, as often as you like.  ``peer``: how the other host is
        reached, where that was not recorded.

        What fails for one handover stands in its notes where all are recovered.
        """
        def one(name: str) -> Answer:
            return self.do("recover", self.known(name).role, name, words=words, by=by,
                           allow=allow, peer=peer)
        return [one(id)] if id else self._each(one)

    def recover_each(self, ids: Sequence[str]) -> List[Answer]:
        """The same for these."""
        return self._each(lambda name: self.do("recover", self.known(name).role, name), ids)

    def _shut_where_broken(self, id: str) -> None:  # noqa: A002
        """Of a handover whose journal can't be read nobody knows whether this host may serve: its
        targets are shut, and stay shut at a boot.  Raises JournalBroken, for such a one."""
        journal = Journal(self._directory, id, partly=True)
        if journal.broken is None:
            return
        deeds = Deeds(self.core, journal)
        if not self.superseded(journal.handover):
            try:
                deeds.scrub("nobody knows whether this host may serve it, and is shut")
            except errors.HandoverError as error:
                deeds.notes.append(f"it could not be shut: {error.what}")
        raise errors.JournalBroken(journal.broken.what, do=journal.broken.do,
                                   changed="; ".join(deeds.notes) or errors.NOTHING_CHANGED)

    def scrub(self, journal: Journal) -> Tuple[str, ...]:
        """Shut what this host may not serve, and take it out of targetcli's save file; what was
        done.  Its lock is held."""
        if not meddling.must_stay_shut(journal.handover) or self.superseded(journal.handover):
            return ()
        deeds = Deeds(self.core, journal)
        deeds.scrub()
        return tuple(deeds.notes)

    def before_restore(self) -> Tuple[str, ...]:
        """At boot, before targetcli's restore, which asks nobody: take out of its save file what
        is this host's to restore, what may not open alone, and of which nobody knows.  Needs no
        kernel.  Returns what was done.
        Raises SavefileBroken, and JournalBroken where it is not known what targets that are."""
        notes: List[str] = []
        try:
            owners = Owners(self._directory).load()
        except errors.JournalBroken as error:
            owners = {}  # so what any handover speaks against stays shut
            notes.append(str(error))
        for journal in self._journals():
            one = journal.handover
            if journal.broken is None and one.state in TARGETCLIS[one.role] \
                    or self.superseded(one, owners):
                continue
            if journal.broken is not None:
                notes.append(str(journal.broken))
            notes += Deeds(self.core, journal).before_restore()
        return tuple(notes)

    def superseded(self, handover: Handover,
                   owners: Optional[Mapping[str, Owner]] = None) -> bool:
        """Whether a later handover of the same targets counts now."""
        if owners is None:
            owners = Owners(self._directory).load()
        return any(owners.get(name, Owner()).handover not in ("", handover.id)
                   for name in handover.targets)

    def _stays(self, run: Evidence, notes: Tuple[str, ...]) -> Answer:
        """Where only the other side, or a human, can know; or where all is over."""
        if run.journal.handover.over:
            self._ended(run.journal)
        status = self._status(run.journal)
        handover = status.handover
        if handover.over:
            gone = onward.removed(handover, Owners(self._directory))
            return replace(status, notes=(*notes, *gone), next="")
        if handover.mode == Mode.FILE.value:
            return replace(status, notes=(onward.exported(handover), *notes), stays=True)
        command = f"lio-handover recover {handover.id}"
        if run.answered:
            return replace(status, notes=(run.why(), *notes), stays=True,
                           next=f"on the other host {command}, then here again")
        words = run.words_that_lead()
        if words:
            command += "".join(f" --{word}" for word in words)
            notes += (f"only if {ASSERTS[words]}: {command}",)
        return replace(status, notes=(run.why(), *notes), next=command, stays=True)

    def _journal(self, id: str, role: str) -> Journal:  # noqa: A002
        journal = Journal(self._directory, id)
        if journal.handover.role != role:
            raise errors.WrongState(f"this host is the {journal.handover.role} of {id}",
                                    do=f"lio-handover status {id}")
        return journal

    def _run(self, deeds: Deeds, verb: str) -> Answer:
        journal, row = deeds.journal, deeds.row
        self._before(deeds, verb)
        journal.note("begin", verb=verb, to=row.to)
        try:
            with self._watched(journal, verb, row.deadline):
                for number, step in enumerate(row.steps):
                    journal.note("step", do=str(step))
                    if deeds.progress:
                        deeds.progress(number, len(row.steps), step)
                    deeds.do(step)
            journal.note("end")
        except errors.HandoverError as error:
            if not journal.handover.state or self._taken_back(deeds, error):
                journal.remove()
                raise
            try:
                journal.note("end", error=f"{type(error).__name__}: {error.what}")
            except errors.JournalBroken:
                pass  # it has not ended, which status says; how it failed says more
            if error.changed == errors.NOTHING_CHANGED:
                error.changed = f"the handover is {journal.handover.state}"
            raise
        except BaseException as error:
            if self._taken_back(deeds, error):
                journal.remove()
            raise
        self._tidy(journal)
        if deeds.mode is Mode.FILE and journal.handover.state == "idle" and not deeds.notes:
            # It is as it was before the freeze: there is nothing to remember.
            Owners(self._directory).note(journal.handover.targets, over=journal.id)
            journal.remove()
        return Answer(journal.handover, tuple(deeds.said), (
            *deeds.notes, *away.absent(deeds, verb)), onward.command(journal))

    def _taken_back(self, deeds: Deeds, error: BaseException) -> bool:
        """Whether a verb that failed has left this host as it was, and nothing to remember."""
        row, handover = deeds.row, deeds.journal.handover
        if not row.taken_back or deeds.ended or isinstance(error, errors.UndoFailed) \
                or handover.state == row.state:
            return False
        Owners(self._directory).note({*handover.targets}, over=handover.id)
        return True

    @staticmethod
    def _ended(journal: Journal) -> None:
        """Where nothing is left to do, what was cut off had only its end still to note."""
        if journal.handover.busy or journal.handover.over and journal.handover.error:
            journal.note("end")

    def _tidy(self, journal: Journal) -> None:
        """Documents hold secrets: they go when nothing can need them any more."""
        handover = journal.handover
        if handover.state in ("none", "retired", "given"):
            journal.drop()
        elif handover.state in ("prepared", "staged"):
            for other in self._journals():
                one = other.handover
                if one.id != handover.id and one.over and set(one.targets) & set(handover.targets):
                    other.drop()

    @staticmethod
    def _before(deeds: Deeds, verb: str) -> None:
        """What would stop a freeze is found while the source still serves."""
        deeds.may_open(deeds.row, deeds.allow)
        if verb == "freeze" and deeds.handover.state not in ("", "frozen", "released"):
            deeds.ready_to_freeze()
        if verb == "clear":
            deeds.before_clear()

    @contextmanager
    def _watched(self, journal: Journal, verb: str, seconds: float) -> Iterator[None]:
        def late() -> None:
            if self.alarm is not None:
                self.alarm(journal.handover, verb)
        timer = threading.Timer(seconds, late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    # ---- beginning ------------------------------------------------------------------------------
    def _begin(self, verb: str, role: str, id: str,  # noqa: A002
               targets: Sequence[str], mode: str, papers: Sequence[Message],
               maps: Sequence[str], peer: str, allow: Sequence[str],
               ready: Optional[Ready]) -> Tuple[Journal, int]:
        """(the journal, the epoch the verb runs under); a new handover where there is none."""
        known = set(ids(self._directory))
        if id in known and verb in ("prepare", "stage", "abort") and not self.get(id).state:
            Journal(self._directory, id).remove()  # it was cut off before its first state
            known.discard(id)
        if verb == onward.first(verb, mode, targets) and id not in known:
            return self._new(id, SOURCE, targets, mode, peer)
        if verb == "import" and ready is not None:
            return self._imports(id, papers[0], ready)
        if verb == "adopt" and id not in known:
            return self._new(id, DESTINATION, targets, mode, peer)
        if verb in ("stage", "abort") and role == DESTINATION and id not in known:
            return self._arrives(verb, id, papers, maps, peer, allow)
        journal = self._journal(id, role)
        handover = journal.handover
        if handover.over and verb in ("prepare", "stage"):
            raise errors.StaleEpoch(f"handover {id} is over: it is {handover.state}",
                                    do="lio-handover source prepare, which begins another")
        if targets and set(targets) != set(handover.targets):
            raise errors.WrongState(f"handover {id} is of {', '.join(handover.targets)}",
                                    do=f"lio-handover status {id}")
        return journal, handover.epoch

    def _new(self, id: str, role: str, targets: Sequence[str],  # noqa: A002
             mode: str, peer: str) -> Tuple[Journal, int]:
        """Of targets that this host has."""
        if not is_id(id):
            raise errors.NoSuchHandover(f"{errors.one_line(id)!r} is no UUID in small letters",
                                        do="leave the id out: one is made")
        if mode not in {one.value for one in Mode}:
            raise errors.WrongState(f"there is no mode {errors.one_line(mode)!r}",
                                    do=f"one of {', '.join(one.value for one in Mode)}")
        if not targets:
            raise errors.NoSuchTarget("no target is named", do="lio-handover show")
        names = tuple(f"{fabric}/{wwn}" for fabric, wwn in self.core.names(targets))
        self._nothing_else(names)
        state = self.core.outline([(fabric, wwn) for fabric, wwn in self.core.names(targets)])
        owners = Owners(self._directory).load()
        epoch = 1 + max(owners.get(name, Owner()).epoch for name in names)
        first = Handover(id, role, "", epoch, mode, names, peer=peer)
        return Journal.create(self._directory, first, {
            say(one.key): one.serial for one in state.backstores}), epoch

    def _imports(self, id: str, paper: Message, ready: Ready) -> Tuple[Journal, int]:  # noqa: A002
        """A document that somebody brings."""
        state = ready.document.state
        self._nothing_else(paper.targets)
        first = Handover(id, DESTINATION, "", paper.epoch, paper.mode, paper.targets)
        journal = Journal.create(self._directory, first, {
            say(one.key): one.serial for one in state.backstores})
        journal.keep(PREPARED, paper.document)
        return journal, paper.epoch

    def _nothing_else(self, names: Sequence[str]) -> None:
        """No other handover of these targets is under way on this host."""
        for journal in self._journals():
            one = journal.handover
            if not {*one.targets, *journal.notes.local} & set(names):
                continue
            if journal.broken is not None and not self.superseded(one):
                raise journal.broken
            if one.state and not one.over:
                raise errors.WrongState(
                    f"handover {one.id} of {', '.join(one.targets)} is under way: this host is "
                    f"its {one.role}, {one.state}", do=f"lio-handover status {one.id}")

    def _arrives(self, verb: str, id: str,  # noqa: A002
                 papers: Sequence[Message], maps: Sequence[str], peer: str,
                 allow: Sequence[str]) -> Tuple[Journal, int]:
        """A handover this host hears of for the first time: its offer, or that it is over."""
        mine = [one for one in papers if one.handover == id]
        if verb == "stage":
            mine = [one for one in mine if one.paper is Paper.OFFER]
        if not mine or not mine[0].targets or not mine[0].mode:
            raise errors.WrongState(
                f"this host has no handover {errors.one_line(id) or 'of that id'}, and no paper "
                "of the source about it was given",
                do="give the offer" if verb == "stage" else "give any paper of the source")
        paper = mine[0]
        if paper.epoch < 1:
            raise errors.StaleEpoch(f"epoch {paper.epoch} is none", do="prepare on the source")
        stores: Dict[str, str] = {}
        document: Optional[Document] = None
        local: Tuple[str, ...] = ()
        if verb == "stage":
            document = document_in(paper, self.core.settings.document_bytes)
            here, applied = mapping.parse(maps).apply(document)
            maps = [*maps, *mapping.found(applied)]
            state = self._can_stage(paper, document, here, allow)
            stores = {say(one.key): one.serial for one in state.backstores}
            local = tuple(one.name for one in state.targets)
        first = Handover(id, DESTINATION, "", paper.epoch, paper.mode, paper.targets, peer=peer)
        journal = Journal.create(self._directory, first, stores, tuple(maps), local)
        if document is not None:
            journal.keep(PREPARED, paper.document)
            journal.documents[PREPARED] = document
        return journal, paper.epoch

    def _can_stage(self, paper: Message, document: Document, local: Document,
                   allow: Sequence[str]) -> State:
        """Refuse an offer that can't be taken; what is offered, ``local`` in this host's names."""
        owners = Owners(self._directory).load()
        for name in paper.targets:
            one = owners.get(name, Owner())
            if paper.epoch <= one.aborted or (
                    paper.epoch <= one.epoch and one.handover != paper.handover):
                raise errors.StaleEpoch(
                    f"{name}: epoch {paper.epoch} is over here; the last one was "
                    f"{max(one.aborted, one.epoch)}",
                    do="lio-handover source thaw, then prepare again")
        if {one.name for one in document.state.targets} != set(paper.targets):
            raise errors.BadShape("the offer is not about the targets in its document",
                                  do="give what prepare answered")
        self._nothing_else([one.name for one in local.state.targets])
        reader = self.core.reader()
        facts = reader.facts()
        have = Scope.of(local.state).read(self.core.fs, known=local.state)
        found = preflight.destination(local, have, reader, facts, self.core.settings,
                                      self.core.wanted_again())
        if Mode(paper.mode) is not Mode.ISCSI_LATE:
            found += not_late(local.state, self.core.settings)
        errors.refuse([one for one in found if one.error is not errors.NotFrozen], allow)
        if have.targets or have.backstores:
            raise errors.TargetDiffers("the target is on this host already",
                                       do="lio-handover show")
        return local.state

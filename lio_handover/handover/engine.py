"""The engine: runs the rows of the protocol's table (protocol/table.py) on this host.

A verb looks up the rows for where the journal says the handover stands, takes the first whose
messages and needs hold, and runs its steps in order.  Everything it may do stands in that table,
which tests/model explores; what each step does stands in actions/actions.py.
"""
from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Callable, FrozenSet, List, Optional, Sequence, Tuple

from .. import errors
from ..actions import absent_portals, aptpl_copies
from ..actions.actions import ActionRunner
from ..actions.context import HandoverContext
from ..document import rename
from ..execute.step_runner import Progress, never, reason
from ..host.looked_at import Ready
from ..host.memory import LISTENING
from ..host.verbs import lock_names
from ..kernel import fixes
from ..kernel.facts import boot_id
from ..model.keys import display
from ..protocol.messages import Message, document_in
from ..protocol.table import DESTINATION, SOURCE, MessageType, Mode, Transition, rows_for, state_of
from ..records.journal import Handover, Journal, begun, ids
from ..records.ownership import OwnershipFile
from ..savefile import parsed, places, save_file
from ..verb_table import BOTH, HANDOVER_VERBS
from . import meddling, next_steps
from .admission import Admission
from .alarms import ALARMS
from .conditions import ASSERTED, ASSERTS, FIRST_STATE, TransitionChooser
from .reply import Peer, Reply, reply_from_json, reply_to_json

__all__ = ["Handover", "HandoverEngine", "Peer", "Reply", "reply_from_json", "reply_to_json"]

#: Messages that say no more than the state does: true once it is recorded, said or not.
_TRUE_AT_ONCE = {("retired", MessageType.RETIRED), ("serving", MessageType.SERVING)}


#: States in which a boot leaves the target to targetcli.
TARGETCLIS = {SOURCE: ("", "idle"), DESTINATION: ("", "none", "given")}


class HandoverEngine(Admission):
    """The handovers of one host.

    ``peer`` asks the other side; None: there is no way to ask.  ``alarm`` is called with the
    handover and the verb when a verb takes longer than its row allows; nothing is cut short.
    """

    # ---- looking --------------------------------------------------------------------------------
    def status(self, id: str = "") -> List[Reply]:  # noqa: A002
        """The state of one handover, or of each.  Changes nothing.

        Where all are asked for, a handover whose journal cannot be read has the error in its notes.
        Raises NoSuchHandover, JournalBroken for one.
        """
        replies = [self._status(Journal(self._directory, id))] if id else \
            self._for_each(lambda name: self._status(Journal(self._directory, name)))
        return [*replies[:-1], *(replace(reply, notes=reply.notes + fixes.notes())
                                 for reply in replies[-1:])]

    def _for_each(self, work: Callable[[str], Reply],
                  names: Optional[Sequence[str]] = None) -> List[Reply]:
        """For every handover, the oldest first; what fails for one stands in its notes."""
        replies = []
        for name in ids(self._directory) if names is None else names:
            try:
                replies.append(work(name))
            except errors.HandoverError as error:
                try:
                    where = self.known(name)
                except errors.HandoverError:
                    where = Handover(name, "", "", 0, "", ())
                replies.append(Reply(where, (), (f"{type(error).__name__}: {error}",), error.do,
                                     error_code=error.code))
        return sorted(replies, key=lambda reply: reply.handover.since)

    def _status(self, journal: Journal) -> Reply:
        handover = journal.handover
        state = handover.state or FIRST_STATE[handover.role]
        may = state_of(handover.role, state, Mode(handover.mode)).messages
        rows = rows_for(handover.role, state, "status", Mode(handover.mode))
        may |= {step.message for row in rows for step in row.steps if step.message is not None}
        if state in ("staged", "armed"):
            may -= {MessageType.ABORTED}  # which it gives by aborting
        context = HandoverContext(self.core, journal, handover.epoch)
        messages = [context.message(message) for message in MessageType if message in may and (
            message.name.lower() in journal.facts.sent_messages or (state,
                                                                    message) in _TRUE_AT_ONCE)]
        notes = [*filter(None, (journal.facts.forced, journal.facts.unsaved)),
                 *absent_portals.told(journal)]
        if handover.busy:
            step = journal.facts.step
            notes.append(f"{handover.busy} was begun and has not ended"
                         + (f": it was at {step}" if step else ""))
        if handover.error:
            notes.append(f"the last verb failed: {handover.error}")
        if handover.boot_id and handover.boot_id != boot_id():
            notes.append("this host was rebooted since")
        notes += next_steps.removed(journal, OwnershipFile(self._directory))
        notes += meddling.notes(context, self.superseded)
        return Reply(handover, tuple(messages), tuple(notes), next_steps.command(journal))

    # ---- doing ----------------------------------------------------------------------------------
    def do(self, verb: str, role: str, id: str = "", *,  # noqa: A002
           targets: Sequence[str] = (), mode: str = "iscsi", messages: Sequence[Message] = (),
           assertions: FrozenSet[str] = frozenset(), asserted_by: str = "",
           allow: Sequence[str] = (), maps: Sequence[str] = (), peer: str = "", probe: bool = False,
           progress: Optional[Progress] = None,
           stop: Callable[[], bool] = never, ready: Optional[Ready] = None,
           restart: bool = False, export: bool = False) -> Reply:
        """Run a verb.

        ``targets``, ``mode`` and ``probe`` (see HostVerbs.ask; it holds for all that follows) are
        for prepare (and a freeze by file), ``maps`` for stage, ``ready`` for import, ``restart``
        for recover: also what was stopped on purpose; ``export`` for freeze: export at once,
        as the answer then is of both.  ``assertions`` are an operator's
        (``asserted_by``) or, of QEMU, the driver's: see ASSERTED.  Raises WrongState where no row
        of the table fits, StaleEpoch for an epoch that is over, and what the steps raise; then the
        recorded state stands.
        """
        if verb not in HANDOVER_VERBS or HANDOVER_VERBS[verb].role not in (role, BOTH):
            raise errors.WrongState(f"a {role} has no verb {errors.quoted(verb)}",
                                    do="lio-handover --help")
        unknown = set(assertions) - set(ASSERTED)
        if unknown:
            raise errors.WrongState(f"{errors.quoted(min(unknown))} is no word that can be "
                                    "given", do=f"one of {', '.join(sorted(ASSERTED))}")
        if verb == "status":
            return self._status(self._journal(id, role))
        if verb == "prepare" and not id:
            id = str(uuid.uuid4())
        elif verb in ("stage", "abort") and not id:
            id = next((message.handover for message in messages), "")
        try:
            self.core.reader()
            names = self._lock_names(verb, id, targets, messages, maps, ready)
            with self.core.alone(more=names), places.named_once():
                if verb == "recover":
                    self._shut_where_broken(id)
                key, known = self.authenticate(verb, role, id, messages if ready is None else ())
                journal, epoch = self._admit(verb, role, id, targets, mode, messages, maps, peer,
                                             allow, ready, known)
                if probe and not journal.facts.probe:
                    journal.note("probe")
                aptpl_copies.catch_up(self.core, verb, journal)
                new = not journal.handover.state
                run = TransitionChooser(self.core, self.peer, journal, verb, epoch, messages,
                                        assertions, self.superseded(
                                            journal.handover, local=journal.facts.local), peer, key)
                if verb == "recover":
                    answer = self._recover(run, asserted_by, allow, progress, stop, restart)
                else:
                    answer = self._go(run, run.row(), (), asserted_by, allow, progress, stop, ready)
                if export and verb == "freeze":
                    run = TransitionChooser(self.core, self.peer, journal, "export", epoch, (),
                                            assertions, run.superseded, peer, key)
                    more = self._go(run, run.row(), (), asserted_by, allow, progress, stop)
                    answer = replace(more, messages=answer.messages + more.messages,
                                     notes=answer.notes + more.notes)
                if new and verb != "recover":
                    self.core.begun += journal.facts.local or journal.handover.targets
                return answer
        except OSError as error:
            raise errors.KernelRefused(
                f"{verb}: {error.filename or ''}: {reason(error)}",
                changed="the recorded state stands", do=f"lio-handover status {id}") from error

    def _go(self, run: TransitionChooser, row: Optional[Transition], notes: Tuple[str, ...],
            asserted_by: str, allow: Sequence[str], progress: Optional[Progress],
            stop: Callable[[], bool], ready: Optional[Ready] = None) -> Reply:
        """Run a row, and for activate those that lead on from where it leads; where there is
        none, nothing is left to do."""
        journal = run.journal
        if row is None:
            self._mark_ended(journal)
            return self._status(journal)
        answer, done = Reply(journal.handover, notes=notes), []
        while row is not None:
            runner = ActionRunner(self.core, journal, run.epoch, row, run.by_type, allow,
                                  asserted_by, run.assertions, progress, stop, ready=ready)
            try:
                latest = self._run(runner, run.verb)
            finally:
                runner.flushing.close()  # a verb that failed leaves no file open either
            self.outcome = runner.outcome
            answer = replace(latest, messages=answer.messages + latest.messages,
                             notes=answer.notes + latest.notes)
            done.append(row)
            row = run.next_transition(done)
        runner.keep_holders_ready()
        return answer

    def _recover(self, run: TransitionChooser, asserted_by: str, allow: Sequence[str],
                 progress: Optional[Progress], stop: Callable[[], bool], restart: bool) -> Reply:
        journal = run.journal
        if not journal.handover.state:
            self.forget(journal)
            return Reply(journal.handover, (), ("it was cut off before it was begun, and is "
                                                "forgotten",))
        if journal.handover.over:
            self._drop_secrets(journal)
            if journal.handover.state == "idle":
                ActionRunner(self.core, journal).counts_again()
        notes = self.close_if_reopened(journal)
        if not restart and not run.assertions and not run.superseded and run.context.stopped():
            names = run.context.local_targets()
            return Reply(journal.handover, (), (*notes, next_steps.stopped(names)),
                         next_steps.restore(names))
        row = run.recovery()
        notes += tuple(run.notes)
        return self._left_undecided(run, notes) if row is None else \
            self._go(run, row, notes, asserted_by, allow, progress, stop)

    def _lock_names(self, verb: str, id: str, targets: Sequence[str],  # noqa: A002
                    messages: Sequence[Message], maps: Sequence[str],
                    ready: Optional[Ready]) -> List[str]:
        """The handover, and whatever of this host it is about."""
        if begun(self._directory, id):
            journal = Journal(self._directory, id, tolerate_damage=True)
            return [f"handover/{id}", *journal.handover.targets, *journal.facts.local,
                    *journal.facts.stores]
        names = lock_names(ready.document.state) if ready is not None else []
        if verb in ("prepare", "freeze", "adopt"):
            names = self.core.lock_names(self.core.names(targets))
        for message in messages:
            if verb == "stage" and message.type is MessageType.OFFER:
                state = rename.parse(maps).apply(document_in(
                    message, self.core.settings.document_bytes))[0].state
                names += [*(target.name for target in state.targets),
                          *(display(store.key) for store in state.backstores)]
        return [f"handover/{id}", *names]

    # ---- recovering -----------------------------------------------------------------------------
    def recover(self, id: str = "", assertions: FrozenSet[str] = frozenset(),  # noqa: A002
                asserted_by: str = "", allow: Sequence[str] = (), peer: str = "",
                restart: bool = False, stop: Callable[[], bool] = never) -> List[Reply]:
        """Finish a handover that was cut off, or say why not and which order of an operator would:
        one handover, or each.

        It is harmless in every state, as often as it is called.  ``peer``: how the other host is
        reached, where that was not recorded.  ``restart``: bring back also targets that were
        stopped on purpose; otherwise they wait for the next boot.  ``stop`` is asked between two
        steps, and last before the gate is opened.

        Where all are recovered, an error of one handover stands in its notes.
        """
        def recover_one(name: str) -> Reply:
            return self.do("recover", self.known(name).role, name, assertions=assertions,
                           asserted_by=asserted_by,
                           allow=allow, peer=peer, restart=restart, stop=stop)
        return [recover_one(id)] if id else self._for_each(recover_one)

    def recover_each(self, ids: Sequence[str]) -> List[Reply]:
        """The same for these."""
        return self._for_each(lambda name: self.do("recover", self.known(name).role, name), ids)

    def _shut_where_broken(self, id: str) -> None:  # noqa: A002
        """Shut the targets of a handover whose journal cannot be read, as no record says whether
        this host may serve them; they stay shut at a boot.  Raises JournalBroken for such a
        handover."""
        journal = Journal(self._directory, id, tolerate_damage=True)
        if journal.damage is None:
            return
        runner = ActionRunner(self.core, journal)
        if not self.superseded(journal.handover):
            try:
                runner.close_if_reopened("nobody knows whether this host may serve it, and is shut")
            except errors.HandoverError as error:
                runner.notes.append(f"it could not be shut: {error.what}")
        raise errors.JournalBroken(journal.damage.what, do=journal.damage.do,
                                   changed="; ".join(runner.notes) or errors.NOTHING_CHANGED)

    def close_if_reopened(self, journal: Journal) -> Tuple[str, ...]:
        """Shut what this host may not serve, and take it out of targetcli's save file; what was
        done.  Its lock is held."""
        if not meddling.must_stay_shut(journal.handover) or self.superseded(journal.handover):
            return ()
        runner = ActionRunner(self.core, journal)
        runner.close_if_reopened()
        return tuple(runner.notes)

    def before_targetcli_restore(self) -> Tuple[str, ...]:
        """At boot, before targetcli's restore, which asks nobody: take out of its save file what
        is this host's to restore, what may not open alone, and of which nobody knows.  Needs no
        kernel.  Returns what was done.
        Raises SavefileBroken, and JournalBroken where it is not known what targets that are."""
        notes: List[str] = []
        try:
            owners = OwnershipFile(self._directory).load()
        except errors.JournalBroken as error:
            owners = {}  # so what any handover speaks against stays shut
            notes.append(str(error))
        runners = [ActionRunner(self.core, journal) for journal in self._journals()
                   if (journal.damage is not None
                       or journal.handover.state not in TARGETCLIS[journal.handover.role])
                   and not self.superseded(journal.handover, owners)]
        with parsed.parsed_once():  # however many targets it has
            leaving = [runner.leaving_at_boot() for runner in runners]
            files = save_file.drop_each(leaving, self._directory, self.core.settings.savefiles)
        for runner, paths in zip(runners, files):
            runner.tell_of_boot(paths)
            notes += filter(None, (str(runner.journal.damage or ""), *runner.notes))
        return tuple(notes)

    def _left_undecided(self, run: TransitionChooser, notes: Tuple[str, ...]) -> Reply:
        """Where only the other side, or a human, can know; or where all is over."""
        if run.journal.handover.over:
            self._mark_ended(run.journal)
        status = self._status(run.journal)
        handover = status.handover
        if handover.over:
            gone = next_steps.removed(run.journal, OwnershipFile(self._directory))
            return replace(status, notes=(*notes, *gone), next="")
        if handover.mode == Mode.FILE.value:
            return replace(status, notes=(next_steps.exported(handover), *notes), undecided=True)
        command = f"lio-handover recover {handover.id}"
        if run.answered:
            return replace(status, notes=(run.why(), *notes), undecided=True,
                           next=f"on the other host {command}, then here again")
        assertions = run.assertions_that_unblock()
        if assertions:
            command += "".join(f" --{assertion}" for assertion in assertions)
            notes += (f"only if {ASSERTS[assertions]}: {command}",)
        return replace(status, notes=(run.why(), *notes), next=command, undecided=True)

    def _run(self, runner: ActionRunner, verb: str) -> Reply:
        journal, row = runner.journal, runner.row
        self._before(runner, verb)
        hosts = [message.host for message in runner.messages.values() if message.host]
        if hosts and not journal.facts.other:
            journal.note("heard", host=hosts[0])
        journal.note("begin", verb=verb, to=row.to)
        try:
            with ALARMS.after(row.deadline, lambda: self.alarm and self.alarm(
                    journal.handover, verb)):
                for number, step in enumerate(row.steps):
                    journal.note("step", do=str(step))
                    if runner.progress:
                        runner.progress(number, len(row.steps), step)
                    runner.do(step)
            journal.note("end")
        except errors.HandoverError as error:
            if not journal.handover.state or self._taken_back(runner, error):
                self.forget(journal)
                raise
            try:
                journal.note("end", error=f"{type(error).__name__}: {error.what}")
            except errors.JournalBroken:
                pass  # it has not ended, which status says; how it failed says more
            if error.changed == errors.NOTHING_CHANGED:
                error.changed = f"the handover is {journal.handover.state}"
            raise
        except BaseException as error:
            if self._taken_back(runner, error):
                self.forget(journal)
            raise
        self._drop_secrets(journal)
        if runner.mode is Mode.FILE and journal.handover.state == "idle" and not runner.notes:
            # It is as it was before the freeze: there is nothing to remember.
            self.forget(journal)
        memory = self.core.memory
        unheard = [memory.why] if memory is not None and memory.why and verb in LISTENING else ()
        return Reply(journal.handover, tuple(runner.sent_messages), (
            *runner.notes, *absent_portals.absent(runner, verb), *unheard),
            next_steps.command(journal))

    def _taken_back(self, runner: ActionRunner, error: BaseException) -> bool:
        """Whether a verb that failed has left this host as it was, and nothing to remember."""
        row, handover = runner.row, runner.journal.handover
        if not row.taken_back or runner.ended or isinstance(error, errors.UndoFailed) \
                or handover.state == row.state:
            return False
        OwnershipFile(self._directory).note({*handover.targets}, ended=handover.id)
        return True

    @staticmethod
    def _mark_ended(journal: Journal) -> None:
        """Where nothing is left to do, what was cut off had only its end still to note."""
        if journal.handover.busy or journal.handover.over and journal.handover.error:
            journal.note("end")

    def _drop_secrets(self, journal: Journal) -> None:
        """Documents hold secrets: they go when nothing can need them any more."""
        handover = journal.handover
        if handover.state in ("none", "retired", "given"):
            journal.drop()
        if handover.state in ("retired", "prepared", "staged"):
            mine = {*(journal.facts.local or handover.targets)}
            for other in self._journals():
                older = other.handover
                # An older handover counts again if this one comes to nothing, so it keeps its copy
                # until this one has ended.
                if older.id != handover.id and older.over and mine & {
                        *(other.facts.local or older.targets)} and self.superseded(older) \
                        and (older.state != "confirmed" or handover.state == "retired"):
                    other.drop()

    @staticmethod
    def _before(runner: ActionRunner, verb: str) -> None:
        """Refuse, while the source still serves, all that would stop a freeze."""
        runner.may_open(runner.row, runner.allow)
        if verb == "freeze" and runner.handover.state not in ("", "frozen", "released"):
            runner.ready_to_freeze()
        if verb == "clear":
            runner.before_clear()
        elif verb == "adopt":
            runner.before_adopt()

"""A handover by file, on one host: freeze, export, thaw, import, remove.

The document is carried by whoever likes, and no host hears of another; so each verb is a row of the
protocol's table in its mode ``file``, and what only a human can know has to be said (--allow).  A
freeze begins a handover of the targets named; export, thaw and remove find it again by them.
"""
from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from .. import errors
from ..actions.actions import ActionRunner
from ..document import document as documents, runtime_state
from ..document.document import Carried, Document
from ..execute.executor import Outcome
from ..execute.step_runner import Progress, never
from ..handover.conditions import TransitionChooser
from ..handover.engine import HandoverEngine
from ..handover.reply import Reply
from ..host import in_use
from ..host.looked_at import Ready
from ..host.verbs import AWAY, HostVerbs
from ..model import diff as differ, fabrics
from ..model.fabrics import Gate
from ..model.objects import State
from ..plan.pr_order import nearest_reachable
from ..protocol.messages import Message, carrying, document_in
from ..protocol.table import DESTINATION, SOURCE, Action, MessageType, Mode, Step, rows_for
from ..records import relative_ports, removed
from ..records.journal import Handover, Journal, ids
from ..records.ownership import REMOVED, OwnershipFile, TargetEpochs

#: Names that --allow takes → what a human says by it, to the table.
SAYS = {"exported": "not-imported"}
Names = Sequence[Tuple[str, str]]


def name_of(pair: Tuple[str, str]) -> str:
    return "/".join(pair)


class ByFile(HostVerbs):
    """The verbs of one host, each recorded: what a crash leaves is found by ``recover``."""

    # ---- which handover ---
    def handovers(self) -> HandoverEngine:
        return HandoverEngine(self)

    def names(self, targets: Sequence[str], everything: bool = False) -> List[Tuple[str, str]]:
        """The same, of this kernel or of what was frozen here before it was booted."""
        if everything:
            return super().names(targets, True)
        there = super().names((), True)
        away = {name for target in self.source_handovers(targets) for name in target.targets} \
            if any(tuple(name.split("/", 1)) not in there for name in targets) else set()
        here = [name for name in targets if name not in away]
        present = super().names(here)
        return [*present, *(tuple(name.split("/", 1)) for name in dict.fromkeys(targets)
                            if name in away)]  # type: ignore[list-item]

    def some(self, targets: Sequence[str], everything: bool = False) -> List[Tuple[str, str]]:
        """The same, and at least one.  Raises NoSuchTarget."""
        names = self.names(targets, everything)
        if not names:
            raise errors.NoSuchTarget("this host has no target", do="targetcli, or import one")
        return names

    def source_handovers(self, names: Optional[Iterable[str]] = None) -> List[Handover]:
        """The handovers by file of these targets (None: of any) that this host is the source of
        and that are not over."""
        wanted = None if names is None else set(names)
        return [handover for handover in self.handovers().list() if handover.role == SOURCE
                and handover.mode == Mode.FILE.value and handover.state in AWAY
                and (wanted is None or wanted & set(handover.targets))]

    def _whole(self, handovers: Sequence[Handover], names: Iterable[str], verb: str) -> None:
        """Targets that were frozen together stay so.  Raises WrongState."""
        wanted = set(names)
        for handover in handovers:
            rest = sorted(set(handover.targets) - wanted)
            if rest:
                raise errors.WrongState(
                    f"{', '.join(sorted(wanted & set(handover.targets)))} was frozen together with "
                    f"{', '.join(rest)}", do=f"lio-handover {verb} {' '.join(handover.targets)}")

    def _do(self, verb: str, handover: Handover, role: str = SOURCE, said: Sequence[str] = (),
            allow: Sequence[str] = (), **more: object) -> Reply:
        return self.handovers().do(verb, role, handover.id, assertions=frozenset(said),
                                   asserted_by="--allow",
                                   allow=allow, **more)  # type: ignore[arg-type]

    # ---- the source's verbs ---
    def freeze(self, names: Names, allow: Sequence[str] = (),
               stop: Callable[[], bool] = never, progress: Optional[Progress] = None,
               probe: bool = False) -> State:
        """Shut the gates, wait until no command executes, put all data on the storage.

        A freeze that cannot be finished opens the gates again.  Returns the frozen state.
        """
        wanted = [name_of(pair) for pair in names]
        with self.alone(names):
            frozen = self.source_handovers(wanted)
            rest = [name for name in wanted
                    if all(name not in handover.targets for handover in frozen)]
            for handover in frozen:
                self._do("freeze", handover, allow=allow, stop=stop, progress=progress, probe=probe)
            if rest:
                self._freeze(rest, allow, stop, progress, probe)
            return self._here(names)

    def _here(self, names: Names) -> State:
        """The targets as this kernel has them, without registrations."""
        return self._plain_reader().state([name for name in names if self.fs.exists(name_of(name))])

    def _freeze(self, names: Sequence[str], allow: Sequence[str], stop: Callable[[], bool],
                progress: Optional[Progress], probe: bool) -> None:
        new = str(uuid.uuid4())
        try:
            self.handovers().do("freeze", SOURCE, new, targets=names, mode=Mode.FILE.value,
                                allow=allow, stop=stop, progress=progress, probe=probe)
        except BaseException as error:
            if new in ids(self.settings.state_directory):
                self._back(new, error)
            raise

    def _back(self, new: str, error: BaseException) -> None:
        """A freeze that was not finished is taken back."""
        journal = Journal(self.settings.state_directory, new, tolerate_damage=True)
        handover, step = journal.handover, journal.facts.step
        if not handover.state:
            return journal.remove()
        try:
            self._thaw(handover)
        except errors.HandoverError as second:
            if isinstance(error, errors.HandoverError):
                error.changed = f"and opening the gates again failed: {second.what}"
                error.do = f"lio-handover thaw {' '.join(handover.targets)}"
            return
        if isinstance(error, errors.HandoverError):
            error.changed = "the gates were not touched"
            if not _before_gate(step):
                error.changed, error.do = "the gates are as they were; initiators may have been " \
                    "out", ""

    def export(self, names: Names, allow: Sequence[str] = (), probe: bool = False) -> Document:
        """A document of what this host serves, to be imported elsewhere.

        For targets that were frozen here the journal records, before the document is handed out,
        that another host may serve them: from then on only an operator's word brings them back.
        For other targets nothing is changed, but for the traces of ``probe``, see
        probes.full_status.  Raises WrongState where only some of the targets are frozen.
        """
        wanted = [name_of(pair) for pair in names]
        with self.alone(names):
            frozen = self.source_handovers(wanted)
            if not frozen:
                errors.refuse(self._under_way(wanted), allow)
                return super().export(names, allow, probe)
            self._whole(frozen, wanted, "export")
            left = sorted(set(wanted) - {name for handover in frozen for name in handover.targets})
            if left:
                raise errors.WrongState(f"{left[0]} is not frozen, and {frozen[0].targets[0]} is",
                                        do=f"lio-handover freeze {' '.join(left)}, or export them "
                                        "apart")
            if len(frozen) > 1:
                for handover in frozen:
                    self._can_export(handover, allow, probe)
            exported: List[Document] = []
            for handover in frozen:
                try:
                    reply = self._do("export", handover, allow=allow, probe=probe)
                except errors.HandoverError as error:
                    done = [name for document in exported for kept in document.carried
                            for name in kept.targets]
                    if done:
                        error.changed += f", and {', '.join(done)} is recorded as exported, " \
                            "though nothing was handed out"
                    raise
                exported.append(_exported(reply))
            return merged(exported)

    def _can_export(self, handover: Handover, allow: Sequence[str], probe: bool) -> None:
        """Raises what the export would, before it, or another of the same command, is recorded."""
        journal = Journal(self.settings.state_directory, handover.id)
        if probe and not journal.facts.probe:
            journal.note("probe")
        row = TransitionChooser(self, None, journal, "export", handover.epoch, (), frozenset(),
                                False).row()
        if row is not None and row.state == "frozen":
            runner = ActionRunner(self, journal, handover.epoch, row, allow=allow)
            runner.do(Step(Action.GATE_CLOSE))
            if journal.facts.probe:
                runner.full_status = self.ask(runner.names())
            here = runner.here()
            runner.unchanged(here)
            runner.may_export(here)

    def thaw(self, names: Names, allow: Sequence[str] = ()) -> State:
        """Open the gates which a freeze has shut.  Only where no other host serves the target."""
        wanted = [name_of(pair) for pair in names]
        with self.alone(names):
            frozen = self.source_handovers(wanted)
            findings = self._under_way([name for name in wanted if all(
                name not in handover.targets for handover in frozen)])
            errors.refuse(findings, allow)
            for name in wanted:
                if all(name not in handover.targets for handover in frozen):
                    raise errors.NoSuchTarget(f"{name} was not frozen by lio-handover",
                                              do="lio-handover show")
            self._whole(frozen, wanted, "thaw")
            errors.refuse([errors.Finding(
                errors.InUse, name,
                f"document {handover.digest[:12]}… of it was exported since the "
                "freeze, so another host may serve it", "exported",
                "make sure that none does, and never will")
                for handover in frozen if handover.state == "released"
                for name in handover.targets], allow)
            if len(frozen) > 1:
                self._can_thaw(frozen, allow)
            self.notes = [note for handover in frozen for note in self._thaw(handover, allow)]
            here = self._here(names)
            self.notes += _closed(here)
            return here

    def _can_thaw(self, handovers: Sequence[Handover], allow: Sequence[str]) -> None:
        """Raises what the thaw of one of several would, before the gate of any is opened: also
        where two of them had one relative port."""
        wanted: Dict[str, str] = {}
        for handover in handovers:
            journal = Journal(self.settings.state_directory, handover.id)
            row = TransitionChooser(self, None, journal, "thaw", handover.epoch, (),
                                    frozenset(_said(allow)), False).row()
            if row is not None:
                wanted.update(ActionRunner(self, journal, handover.epoch, row,
                                           allow=allow).ports_of_shut())
        errors.refuse(relative_ports.taken(self._plain_reader(), wanted), allow)

    def _thaw(self, handover: Handover, allow: Sequence[str] = ()) -> Tuple[str, ...]:
        """Thaw one handover.  Returns its notes."""
        return self._do("thaw", handover, said=_said(allow), allow=allow).notes

    # ---- the destination's verbs ---
    def ready(self, document: Document, maps: Sequence[str] = ()) -> Ready:
        """The same, and what this host remembers of the document and its targets."""
        ready = super().ready(document, maps)
        names = [target.name for target in ready.document.state.targets]
        return replace(ready, findings=(
            *self._under_way(names, self._cut_off(ready.document)),
            *self._known(ready.document), *ready.findings))

    def import_(self, ready: Ready, allow: Sequence[str] = (),
                progress: Optional[Progress] = None,
                stop: Callable[[], bool] = never) -> Outcome:
        """Make this host serve the document, or leave it as it was.

        Nothing to do where it serves just that already.
        """
        ready = self._with_overrides(ready, allow)
        wanted, _notes = nearest_reachable(ready.document.state, ready.have)
        if not differ.diff(ready.have, wanted):
            return Outcome()
        names = [target.name for target in ready.document.state.targets]
        self._take_back(ready.document)
        errors.refuse(ready.findings, allow)
        arriving = self._arriving(ready.document)
        digest = runtime_state.digest(ready.document.state)
        message = carrying(
            Message(MessageType.DOCUMENT, arriving.id, arriving.epoch, digest, tuple(names),
                    arriving.mode, documents.dumps(ready.document)), ready.document)
        handovers = self.handovers()
        answer = handovers.do("import", DESTINATION, arriving.id, messages=[message], allow=allow,
                              progress=progress, stop=stop, ready=ready)
        handovers.outcome.notes = tuple(dict.fromkeys((
            *handovers.outcome.notes, *answer.notes, *_closed(ready.document.state))))
        return handovers.outcome

    def _cut_off(self, document: Document) -> List[str]:
        """The imports of it here that were cut off."""
        folder, cut_off = self.settings.state_directory, []
        for carried in document.carried:
            if carried.id in ids(folder):
                handover = Journal(folder, carried.id, tolerate_damage=True).handover
                if handover.role == DESTINATION \
                        and handover.state in ("", "armed", "aborting", "none"):
                    cut_off.append(carried.id)
        return cut_off

    def _take_back(self, document: Document) -> None:
        """An import of it that was cut off goes first."""
        for name in self._cut_off(document):
            journal = Journal(self.settings.state_directory, name, tolerate_damage=True)
            if journal.handover.state in ("armed", "aborting"):
                self.handovers().recover(name)
            self.handovers().forget(journal)

    def _known(self, document: Document) -> List[errors.Finding]:
        """Findings from this host's records: the document, or a later one of its targets, was here
        before."""
        folder, findings = self.settings.state_directory, []
        owners = OwnershipFile(folder).load()
        journals = {name: Journal(folder, name, tolerate_damage=True).handover
                    for name in ids(folder)}
        local = [target.name for target in document.state.targets]
        cut_off = self._cut_off(document)
        for carried in document.carried:
            if carried.id in cut_off:
                continue
            known = journals.get(carried.id)
            targets = [name for name in carried.targets if name in local] or local
            name = targets[0]
            if known is not None and known.role == SOURCE:
                findings.append(errors.Finding(
                    errors.StaleEpoch, name, "this host has exported it itself, and removed it as "
                    "another host serves it", "exported", "make sure that none does, and never "
                    "will"))
                continue
            last = max((owners.get(target, TargetEpochs()) for target in targets),
                       key=lambda owner: owner.epoch)
            again = known is not None or last.epoch == carried.epoch and (
                last.handover == REMOVED or any(
                    other.epoch == carried.epoch and set(other.targets) & set(targets)
                    for other in journals.values()))
            if again or carried.epoch < last.epoch:
                findings.append(errors.Finding(
                    errors.StaleEpoch, name,
                    "this document was imported here before" if again else
                    f"the document is of attempt {carried.epoch}, and this host has had "
                    f"{last.epoch}", "imported",
                    "freeze it where it is served, export it again, and import that"))
        return findings

    def _arriving(self, document: Document) -> Handover:
        """The handover that an import is recorded as: the document's, where that is new here."""
        folder = self.settings.state_directory
        names = tuple(target.name for target in document.state.targets)
        owners, known = OwnershipFile(folder).load(), set(ids(folder))
        last = max((owners.get(name, TargetEpochs()).epoch for name in names), default=0)
        if len(document.carried) == 1 and document.carried[0].id not in known \
                and document.carried[0].epoch > last:
            return Handover(document.carried[0].id, DESTINATION, "", document.carried[0].epoch,
                            Mode.FILE.value, names)
        epoch = max([last + 1, *(carried.epoch for carried in document.carried)])
        return Handover(str(uuid.uuid4()), DESTINATION, "", epoch, Mode.FILE.value, names)

    # ---- removing ---
    def remove(self, targets: Sequence[str], everything: bool = False, allow: Sequence[str] = (),
               progress: Optional[Progress] = None,
               stop: Callable[[], bool] = never) -> Tuple[Outcome, str]:
        """Take targets away, with the backstores that nothing else exports.

        For targets that were frozen here this ends the handover: another host serves them.  Returns
        the steps, writes and seconds that it took, and the path of the document that keeps the
        removed targets.
        """
        names = [name_of(pair) for pair in self.some((), True)] if everything else list(targets)
        handovers = self.source_handovers(names)
        if not handovers:
            return super().remove(targets, everything, allow, progress, stop)
        with self.alone(more=self._removing(targets, everything)):
            self._whole(handovers, names, "remove")
            frozen: Set[str] = {name for handover in handovers for name in handover.targets}
            kept = self._judged({name for name in frozen if self.fs.exists(name)}, allow)
            rest = [name for name in names if name not in frozen]
            more, kept_too = super().remove(rest, False, allow, progress, stop) if rest \
                else (Outcome(), "")  # first: what is refused is refused before anything is gone
            outcome, began, started = Outcome(), self.fs.changes, time.monotonic()
            for handover in handovers:
                outcome.notes += self._do("retire", handover, said=["imported"], allow=allow,
                                          progress=progress, stop=stop).notes
            outcome.writes = outcome.steps = self.fs.changes - began
            outcome.seconds = {"remove": time.monotonic() - started}
            if rest:
                outcome = Outcome(outcome.steps + more.steps, outcome.writes + more.writes,
                                  {**more.seconds, **outcome.seconds},
                                  outcome.notes + more.notes)
                kept = " and ".join(filter(None, (kept, kept_too)))
            return outcome, kept

    def _judged(self, frozen: Set[str], allow: Sequence[str]) -> str:
        """Refuse while somebody still needs what is to be removed; where it was kept."""
        reader = self.reader()
        findings: List[errors.Finding] = []
        try:
            have, _want = self.state_without(reader, sorted(frozen))
        except errors.CannotRepresent as error:
            findings.append(errors.Finding(
                errors.InUse, "what would be lost with it can't be told", error.what, "unclear"))
            have, _want = self.state_without(self._plain_reader(), sorted(frozen))
        document = self._leaving(have, reader.facts())
        errors.refuse([*findings, *in_use.removal(have, reader), *removed.unkept(document)],
                      allow)
        return removed.keep(document, self.settings.state_directory)


def _said(allow: Sequence[str]) -> List[str]:
    """The assertions that a human makes by --allow."""
    return [SAYS[name] for name in allow if name in SAYS]


def _exported(reply: Reply) -> Document:
    """The document that an export answered, with the handover that it is of."""
    message, = (message for message in reply.messages if message.type is MessageType.DOCUMENT)
    handover = reply.handover
    return document_in(message, documents.MAX_BYTES).carried_by(
        Carried(handover.id, handover.epoch, handover.targets))


def merged(parts: Sequence[Document]) -> Document:
    """Documents of one host, of targets that have nothing in common, as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    state, storage, groups = first.state, dict(first.storage), {}
    for part in parts:
        groups.update({group.key: group for group in part.state.lu_groups})
        storage.update(part.storage)
    state = State(tuple(groups.values()),
                  tuple(store for part in parts for store in part.state.backstores),
                  tuple(target for part in parts for target in part.state.targets),
                  state.discovery_auth)
    return replace(first, state=state, storage=storage,
                   notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
                   carried=tuple(carried for part in parts for carried in part.carried))


def _before_gate(step: str) -> bool:
    """Whether a freeze that ended in this step had not come to the gates."""
    steps = list(map(str, rows_for(SOURCE, "idle", "freeze", Mode.FILE)[0].steps))
    return step in steps[:steps.index(str(Step(Action.GATE_CLOSE)))]


def _closed(state: State) -> List[str]:
    """A line for each target whose TPGs are all disabled, as they were when it was frozen."""
    return [f"{target.name}: every TPG of it is disabled, as it was when it was frozen: nobody is "
            f"let in; next: targetcli /{target.name}/{target.tpgs[0].key[-1]} enable"
            for target in state.targets
            if fabrics.gate_of(target.fabric) is Gate.ENABLE and target.tpgs
            and all(tpg.attributes.get("enable", "0") == "0" for tpg in target.tpgs)]

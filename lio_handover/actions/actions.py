"""One method for each action of the protocol (table.Action): its work on this host.

Every method looks first and does only the missing part, so it may run again after a crash anywhere
in it.  A method that cannot do its work raises, and the verb ends there: the recorded state stands.
The order of the actions is said by the table alone.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Sequence, Tuple

from .. import errors
from ..document import document as documents, representable, runtime_state
from ..document.document import Document
from ..execute.executor import Outcome
from ..execute.step_runner import reason
from ..execute.verify import describe
from ..host import guests, in_use, preflight
from ..host.looked_at import Ready
from ..kernel import cautions
from ..kernel.facts import boot_id
from ..model import dynamic_acls, fabrics
from ..model.fabrics import Gate
from ..model.keys import display
from ..model.objects import State
from ..protocol.messages import Message, document_in
from ..protocol.table import HELD, INBAND, SOURCE, VHOST, Action, MessageType, Mode, Step
from ..records.journal import DOCUMENT, PREPARED, RETURNED
from ..records.ownership import OwnershipFile
from ..storage import opened, trusted
from . import identity, surviving_registrations
from .build_actions import Building, not_late
from .copy_actions import sampled


@dataclass
class ActionRunner(Building):
    """The work of one verb: the handover's context, and the arguments of the verb."""

    #: of an import by file: what is to be done, what it took, whether its gate may be open
    ready: Optional[Ready] = None
    outcome: Outcome = field(default_factory=Outcome)
    ended: bool = False

    # ---- small things ---------------------------------------------------------------------------
    def do(self, step: Step) -> None:
        """Run one step.  Raises a HandoverError where it cannot be done."""
        try:
            if step.action is Action.RECORD:
                self._record(step.state)
            elif step.message is not None:
                self._say(step.message)
            else:
                getattr(self, f"_{step.action.name.lower()}")()
        except OSError as error:
            raise errors.KernelRefused(
                f"{step}: {reason(error)}",
                changed=f"the handover is {self.handover.state or 'not begun'} as before",
                do=f"lio-handover status {self.journal.id}") from error

    # ---- records and messages -------------------------------------------------------------------
    def _record(self, state: str) -> None:
        owners, targets = OwnershipFile(self.directory), set(self.local_targets())
        gates: Optional[Dict[str, Dict[str, str]]] = None
        if self.mode is Mode.FILE and state == self.handover.state and state == "confirmed":
            return  # the plan recorded it before its gate
        first = self.mode is Mode.FILE and (state == "confirmed" or not self.handover.state
                                            and state == "freezing")
        if first or state in ("prepared", "staged"):
            owners.note(targets, epoch=self.epoch, handover=self.journal.id)
        elif state == "none":
            # By file it may be tried again.
            owners.note(targets, aborted=0 if self.mode is Mode.FILE else self.epoch,
                        ended=self.journal.id, elsewhere=self.handover.targets)
        if state == "freezing" and self.handover.state in ("", "prepared"):
            gates = self.open_gates()
        more: Dict[str, object] = {}
        if self.assertions:
            more.update(by=self.asserted_by, words=sorted(self.assertions))
        if gates is not None:
            more["dynamic"] = self.dynamic
        self.journal.state(state, self.epoch, boot_id(), gates, **more)
        if state == "idle":
            self.counts_again()
        if state in ("prepared", "staged") and self.mode in INBAND:
            self.notes += guests.unready(self.local_targets())

    def _say(self, kind: MessageType) -> None:
        message = self.message(kind)
        self.journal.note("said", message=kind.name.lower(), digest=message.digest)
        self.sent_messages.append(message)

    # ---- looking --------------------------------------------------------------------------------
    def _check(self) -> None:
        names = self.core.names(self.handover.targets)
        document, findings = self._offered(names)
        state = document.state
        by_file = self.mode is Mode.FILE
        if by_file:
            findings += in_use.cannot_freeze(state, self.reader(False))
        findings = self._misfits(state) + findings
        for target in () if by_file else state.targets:
            gate = fabrics.gate_of(target.fabric)
            if gate is Gate.ENABLE and not any(
                    tpg.attributes.get("enable") == "1" for tpg in target.tpgs):
                findings.append(errors.Finding(
                    errors.InUse, target.name, "serves nobody: no TPG of it is enabled",
                    do="enable it, or remove it"))
        findings += preflight.spc2(state, self.reader())
        # By file a guest is stopped before, and ALL_TG_PT is looked at by the export.
        passed = {Mode.FILE: ("stopped-guest", "all-tg-pt"),
                  Mode.VHOST_STOPPED: ("stopped-guest",)}.get(self.mode, ())
        findings = [finding for finding in findings if finding.override not in passed]
        if self.mode not in (Mode.ISCSI_LATE, Mode.FILE):
            findings += not_late(state, self.core.settings)
        self.notes += cautions.before_handover(self.fs, state)
        errors.refuse(findings, self.allow)
        data = documents.dumps(document)
        self.journal.keep(PREPARED, data, document)
        if self.core.memory is not None:
            self.core.memory.keep_document(data, document)
        surviving_registrations.seen(self, document)
        identity.note(self)
        if by_file:
            self.ready_to_freeze()

    def _misfits(self, state: State) -> List[errors.Finding]:
        mine = [target.name for target in state.targets]
        others = self.reader(False).exporters([store.key for store in state.backstores], mine)
        names = ["/".join(path.split("/")[:2]) for paths in others.values() for path in paths]
        owners = guests.of_targets([*mine, *names]) if self.mode in INBAND else []
        return misfits(self.mode, mine, names, [guest.targets for guest in owners])

    def _offered(self, names: Sequence[Tuple[str, str]]) \
            -> Tuple[Document, List[errors.Finding]]:
        """The targets as a document, and the findings against handing them over.  By file,
        registrations may be untold until the export, where ``allow`` says so."""
        try:
            return self.core.prepare(names, self.journal.facts.probe)
        except errors.CannotRepresent:
            if self.mode is not Mode.FILE:
                raise
            self._untold(self.reader(False).state(names))
            return self.core.prepare(names, reserved=False)

    def _untold(self, state: State) -> None:
        """Refuse registrations that cannot be told, unless ``allow`` has them."""
        ask = "" if self.mode is Mode.FILE else \
            f"lio-handover source freeze --probe {self.journal.id}"
        errors.refuse(preflight.untold(state, self.reader(), ask), self.allow)

    def _read(self) -> None:
        self.reader(False).target_names()

    def ready_to_freeze(self) -> None:
        """Refuse, while the gate is still open, what would stop a freeze."""
        self._ask(self.names())
        known = self.remembered()
        try:
            state = self.looked_at = self.here() if known is None else \
                self.reader().reserved(known)
        except errors.CannotRepresent:
            state = self.here(False)
            self._untold(state)
        self.unchanged(state)
        errors.refuse([*trusted.findings(state.backstores, self.core.settings.fuse),
                       *representable.of_state(state)])
        if surviving_registrations.lacking(self):
            raise errors.StructureChanged(
                "somebody else removed it and made it again, without what it had: "
                + surviving_registrations.lacks(self), changed="nothing was given away",
                do=f"lio-handover recover {self.journal.id}, then again")
        self.dynamic = {target.name: {
            str(tpg.tag): dynamic_acls.sessions(tpg) for tpg in target.tpgs
            if dynamic_acls.generates_acls(tpg)} for target in state.targets}
        if any(tpg.attributes.get("enable") == "1" for target in state.targets
               for tpg in target.tpgs):
            self.flush_data(state)  # while it is still served: the less is left for the window

    def unchanged(self, here: State) -> None:
        """Raises StructureChanged where the target is not what was offered, but for its
        registrations and gates."""
        errors.refuse(opened.findings(here.backstores, looks=self.looks(here)), self.allow)
        changed = runtime_state.structural_changes(here, self.prepared().state)
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            away = self.handover.state == "released"
            by_file = f"thaw{' --allow exported' if away else ''} " + " ".join(self.local_targets())
            raise errors.StructureChanged(
                "changed since it was prepared: " + describe(changed[0]) + more,
                changed="it was exported before" if away else "nothing was given away",
                do=f"lio-handover {by_file}, then freeze again" if self.mode is Mode.FILE else
                f"lio-handover source thaw {self.journal.id}, then prepare again")

    # ---- copies ---------------------------------------------------------------------------------
    def _ask(self, names: Sequence[Tuple[str, str]]) -> None:
        """Ask the source's devices, where the handover was begun with --probe, for the facts that
        configfs does not show."""
        if self.journal.facts.probe and self.handover.role == SOURCE:
            self.full_status = self.core.ask(names)

    def may_export(self, state: State) -> None:
        """Refuse the export by file (which may come long after the freeze) for ports and shared
        storage."""
        errors.refuse(trusted.findings(state.backstores, self.core.settings.fuse))
        errors.refuse(preflight.all_ports(state), self.allow)
        errors.refuse(preflight.shared(state, self.reader(False)), self.allow)

    def _keep_copy(self) -> None:
        self._ask(self.names())
        if self.row.verb == "clear":
            return self.keep_before_clear()
        if self.mode is not Mode.FILE and self.row.verb == "export" and self.as_kept():
            return self.kept_already()
        counted = self.fs.gates, self.executed or (self.commands() if self.core.memory else {})
        try:
            state = self.here_now()
        except errors.CannotRepresent:
            if self.mode is not Mode.FILE or self.row.verb != "freeze":
                raise
            return self._untold(self.here(False))
        if self.mode is Mode.FILE and self.row.verb == "export":
            self.may_export(state)
        if not self.links_are_whole({lun.key: lun.backstore for _, _, lun in state.all_luns()}):
            if self.handover.role != SOURCE and self.handover.state != "returned":
                # The copy is of a kernel that is gone.
                left = surviving_registrations.since(self, self.allow, self.notes)
                left = replace(left, storage=sampled(left.storage, {}))  # it has served
                self.keep(RETURNED, self.in_source_names(left), False)
            return
        if self.handover.role == SOURCE:
            self.unchanged(state)
        document = self.document_of(state)
        if self.handover.role == SOURCE:
            self.keep(DOCUMENT, document, False)
            if self.remembered() is not None and self.core.memory is not None:
                self.core.memory.kept = self.handover.digest, *counted
                self.core.memory.just_kept = True
        else:
            self.keep(RETURNED, self.in_source_names(document), False)

    def _keep_message(self) -> None:
        if self.handover.role == SOURCE:
            self._keep_returned(self.messages[MessageType.RETURNED])
            return
        message = self.messages[MessageType.DOCUMENT]
        document = document_in(message, self.core.settings.document_bytes)
        changed = runtime_state.structural_changes(document.state, self.kept(PREPARED).state)
        if changed:
            raise errors.StructureChanged(
                "the document is not of what was offered: " + describe(changed[0]),
                do="prepare again on the source")
        digest = self._named(message, document)
        if self.mode is Mode.FILE:  # the plan writes what the kernel shall find beside it
            self.journal.keep(DOCUMENT, message.document, document)
            self.journal.note("kept", digest=digest, stale=False)
            return
        notes = self.journal.facts
        stale = notes.loaded[0] == boot_id() and notes.loaded[1] != digest
        self.keep(DOCUMENT, document, stale, message.document)

    @staticmethod
    def _named(message: Message, document: Document) -> str:
        """The digest of the run-time state.  Raises BadDigest where the message names another."""
        digest = runtime_state.digest(document.state)
        if digest != message.digest:
            raise errors.BadDigest(
                f"the {message.type.name.lower()} message does not name the document in it",
                do="give what the other side's verb answered")
        return digest

    def _keep_returned(self, message: Message) -> None:
        """The run-time state that comes back goes into what this host knows of the rest."""
        theirs = document_in(message, self.core.settings.document_bytes)
        self._named(message, theirs)
        mine = self.kept(DOCUMENT)
        stores = []
        for store in mine.state.backstores:
            other = theirs.state.backstore(store.key)
            if other is None:
                raise errors.CannotRepresent(
                    f"{display(store.key)} is not in what comes back: it has another name there",
                    do="lio-handover status")
            stores.append(replace(store, reservations=other.reservations))
        document = replace(mine, state=replace(mine.state, backstores=tuple(stores)),
                           storage=sampled(mine.storage, theirs.storage))
        stale = self.whole() and self.current() != runtime_state.digest(document.state)
        self.keep(RETURNED, document, stale)

    def _compare(self) -> None:
        if self.flushed_since:
            now = self.handover.digest
        elif self.whole():
            state = self.here()
            self.unchanged(state)
            now = runtime_state.digest(state)
        else:
            now = runtime_state.digest(self.durable().state)
        if now != self.messages[MessageType.ARMED].digest:
            raise errors.StructureChanged(
                "the run-time state is not what the destination is armed with",
                changed="nothing was given away",
                do=f"lio-handover source export {self.journal.id}, and activate again")

    def _prove_never_ran(self) -> None:
        if self.ran():
            raise errors.InUse("a command was executed here since the document was loaded",
                               changed="nothing was taken down",
                               do=f"lio-handover destination verify {self.journal.id}")

    # ---- an import by file ----------------------------------------------------------------------
    def _import(self) -> None:
        assert self.ready is not None
        self.outcome = self.core.carry_out(self.ready, self.allow, self.progress, self.stop,
                                           self._owned)
        self.ended = True
        self.notes += self.outcome.notes
        self.journal.note("loaded", boot=boot_id(), digest=self.handover.digest,
                          commands=self.commands())
        identity.note(self)

    def _owned(self) -> None:
        """All but the gate is done: what opens it from here on is this host's.  APTPL files of
        another time, which a boot could take for newer ones, are no more."""
        surviving_registrations.remove_elsewhere(self, self.durable().state.backstores)
        self._record("confirmed")
        self.journal.note("opened", boot=boot_id())


def misfits(mode: Mode, names: Sequence[str], others: Sequence[str],
            owners: Sequence[Sequence[str]] = ()) -> List[errors.Finding]:
    """Findings on targets whose gates ``mode`` does not work.  ``others``: the targets that export
    backstores of these, and are not of the handover; ``owners``: the vhost targets of each guest
    that has any of all these, as far as this host is told.

    Guests that share a backstore, and iSCSI targets that share it with a guest, move together only
    where whoever moves the guests waits for lio-handover.
    """
    if mode is Mode.FILE:
        return []
    gates = {name: fabrics.gate_of(name.partition("/")[0]) for name in {*names, *others}}
    endpoints = {name for name in gates if gates[name] is Gate.ENDPOINT}
    apart = len(owners) != 1 or bool(gates.keys() - {*owners[0]})
    if mode in INBAND and len(gates) > 1 and endpoints and apart:
        return [errors.Finding(
            errors.CannotRepresent, ", ".join(sorted(gates)),
            "in QEMU's stream (vhost-inband) one guest moves with targets that nobody else shares, "
            "as no QEMU waits for another one", do=" ".join([
                "by QMP: lio-handover move", *sorted(gates), "--to HOST",
                *["--guest SOCKET --guest-there SOCKET"] * (len(owners) or len(endpoints))]))]
    shared = mode in HELD and any(gates[name] is Gate.ENDPOINT for name in names)
    works: Dict[Optional[Gate], bool] = {
        Gate.ENDPOINT: mode in VHOST, Gate.ENABLE: shared or mode not in VHOST}
    return [errors.Finding(errors.CannotRepresent, name,
                           f"can't be handed over in mode {mode.value}")
            for name in names if not works.get(gates[name], False)]

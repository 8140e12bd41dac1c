"""What each step of the protocol does on this host: one method for each transitions.Do.

Every one of them looks first and does what is missing, so it may be run again after a crash
anywhere in it.  One that can't do its work raises, and the verb ends there: the recorded state
stands.  Which come in what order is said by the table alone.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Sequence, Tuple

from . import document as documents
from . import (away, cautions, dynamic, errors, executor, identity, kernel_fixes, late, opened,
               portals, ports, preflight, protection, representable, restored, runtime, savefile,
               savefile_steps, survivors)
from . import storage_policy as storage
from .devices import Glance
from .diff import diff
from .adoption import Adoption
from .copies import sampled
from .core import Ready
from .document import Document
from .executor import Outcome
from .facts import Facts, boot_id
from .host import Maker
from .journal import DOCUMENT, PREPARED, RETURNED
from .model import State, backstore_key, say
from .owners import Owners
from .papers import Message, document_in
from .plan import Plan
from .planner import plan
from .readback import Scope, check, describe, loaded
from .running import reason
from .settings import Settings
from .staged import early
from .transitions import SOURCE, Do, Mode, Paper, Step

#: Two looks at a LUN's command counter, so many seconds apart, prove that it is idle.
IDLE_SECONDS = 0.05
IDLE_TRIES = 100


@dataclass
class Deeds(Adoption):
    """One verb's work: the handover where it stands, and what came with the verb."""

    #: of an import by file: what is to be done, what it took, whether its gate may be open
    ready: Optional[Ready] = None
    outcome: Outcome = field(default_factory=Outcome)
    ended: bool = False

    # ---- small things ---------------------------------------------------------------------------
    def do(self, step: Step) -> None:
        """Run one step.  Raises a HandoverError where it can't be done."""
        try:
            if step.do is Do.RECORD:
                self._record(step.state)
            elif step.paper is not None:
                self._say(step.paper)
            else:
                getattr(self, f"_{step.do.name.lower()}")()
        except OSError as error:
            raise errors.KernelRefused(
                f"{step}: {reason(error)}",
                changed=f"the handover is {self.handover.state or 'not begun'} as before",
                do=f"lio-handover status {self.journal.id}") from error

    # ---- records and papers ---------------------------------------------------------------------
    def _record(self, state: str) -> None:
        owners, targets = Owners(self.directory), {*self.handover.targets, *self.local_targets()}
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
                        over=self.journal.id)
        if state == "freezing" and self.handover.state in ("", "prepared"):
            gates = self.open_gates()
        more: Dict[str, object] = {}
        if self.words:
            more.update(by=self.by, words=sorted(self.words))
        if gates is not None:
            more["dynamic"] = self.dynamic
        self.journal.state(state, self.epoch, boot_id(), gates, **more)
        if state == "idle":
            self.counts_again()

    def _say(self, paper: Paper) -> None:
        message = self.message(paper)
        self.journal.note("said", paper=paper.name.lower(), digest=message.digest)
        self.said.append(message)

    # ---- looking --------------------------------------------------------------------------------
    def _check(self) -> None:
        names = self.core.names(self.handover.targets)
        document, findings = self._offered(names)
        state = document.state
        by_file = self.mode is Mode.FILE
        if by_file:
            findings += preflight.cannot_freeze(state, self.reader(False))
        for target in () if by_file else state.targets:
            if (target.fabric == "vhost") is not self.vhost or target.fabric == "loopback":
                findings.append(errors.Finding(
                    errors.CannotRepresent, target.name,
                    f"can't be handed over in mode {self.mode.value}"))
            if target.fabric == "iscsi" and not any(
                    tpg.attributes.get("enable") == "1" for tpg in target.tpgs):
                findings.append(errors.Finding(
                    errors.InUse, target.name, "serves nobody: no TPG of it is enabled",
                    do="enable it, or remove it"))
        findings += preflight.spc2(state, self.reader())
        # By file a guest is stopped before, and ALL_TG_PT is looked at by the export.
        passed = {Mode.FILE: ("stopped-guest", "all-tg-pt"),
                  Mode.VHOST_STOPPED: ("stopped-guest",)}.get(self.mode, ())
        findings = [one for one in findings if one.override not in passed]
        if self.mode not in (Mode.ISCSI_LATE, Mode.FILE):
            findings += not_late(state, self.core.settings)
        self.notes += cautions.before_handover(self.fs, state)
        errors.refuse(findings, self.allow)
        self.journal.keep(PREPARED, documents.dumps(document))
        survivors.seen(self, document)
        identity.note(self)
        if by_file:
            self.ready_to_freeze()

    def _offered(self, names: Sequence[Tuple[str, str]]) \
            -> Tuple[Document, List[errors.Finding]]:
        """What is there, and what speaks against it; by file its registrations may be untold, if
        that is allowed, until the export."""
        try:
            return self.core.prepare(names, self.journal.notes.probe)
        except errors.CannotRepresent:
            if self.mode is not Mode.FILE:
                raise
            self._untold(self.reader(False).state(names))
            return self.core.prepare(names, reserved=False)

    def _untold(self, state: State) -> None:
        """Refuse registrations that can't be told, unless that is allowed."""
        ask = "" if self.mode is Mode.FILE else \
            f"lio-handover source freeze --probe {self.journal.id}"
        errors.refuse(preflight.held(state, self.reader(), ask), self.allow)

    def _read(self) -> None:
        self.reader(False).target_names()

    def ready_to_freeze(self) -> None:
        """Refuse, while the gate is still open, what would stop a freeze."""
        self._ask(self.names())
        try:
            state = self.here()
        except errors.CannotRepresent:
            state = self.here(False)
            self._untold(state)
        self.unchanged(state)
        errors.refuse(representable.of_state(state))
        if survivors.lacking(self):
            raise errors.StructureChanged(
                "somebody else removed it and made it again, without what it had: "
                + survivors.lacks(self), changed="nothing was given away",
                do=f"lio-handover recover {self.journal.id}, then again")
        self.dynamic = {target.name: {str(tpg.tag): dynamic.sessions(tpg) for tpg in target.tpgs
                                      if dynamic.made(tpg)} for target in state.targets}

    def unchanged(self, here: State) -> None:
        """Raises StructureChanged where the target is not what was offered, but for its
        registrations and gates."""
        errors.refuse(opened.findings(here.backstores, self.core.asked), self.allow)
        changed = runtime.changes(here, self.prepared().state)
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            away = self.handover.state == "released"
            by_file = f"thaw{' --allow exported' if away else ''} " + " ".join(self.local_targets())
            raise errors.StructureChanged(
                "changed since it was prepared: " + describe(changed[0]) + more,
                changed="it was exported before" if away else "nothing was given away",
                do=f"lio-handover {by_file}, then freeze again" if self.mode is Mode.FILE else
                f"lio-handover source thaw {self.journal.id}, then prepare again")

    # ---- gates ----------------------------------------------------------------------------------
    def _close_tpgs(self) -> None:
        for path in self.open_tpgs():
            self.fs.write(f"{path}/enable", b"0\n")

    def _gate_close(self) -> None:
        self._close_tpgs()
        if self.mode is Mode.FILE:  # the driver's QEMU may have to resume by itself
            return self._no_guest()
        for wwpn in self.endpoints():
            self.holders.occupy(wwpn)

    def _let_go(self) -> None:
        """Free the endpoints which we occupy ourselves."""
        for name in self.local_targets():
            fabric, _, wwpn = name.partition("/")
            if fabric == "vhost":
                self.holders.let_go(wwpn)

    def _gate_open(self) -> None:
        if self.vhost:
            if any(self.holders.held(wwpn) for wwpn in self.endpoints()) \
                    or not self.journal.notes.opened:
                self.journal.note("opened", durable=True, boot=boot_id())
            self._let_go()
        wanted = self.wanted_open()
        shut = [path for path in self.tpgs()
                if path in wanted and self.fs.read(f"{path}/enable").strip() != "1"]
        self.notes += ports.give(self.fs, self.reader(False), self.ports(), shut,
                                 self.port_override(), self.allow)
        if shut:
            self.journal.note("opened", durable=True, boot=boot_id())
        for path in shut:
            self.fs.write(f"{path}/enable", b"1\n")

    def _savefile_drop(self) -> None:
        savefile_steps.drop(self)

    def _savefile_put(self) -> None:
        paths, why = savefile_steps.put(self)
        self.notes += [why] if why else []
        self.journal.note("saved", paths=paths, why=why)

    def _prove_shut(self) -> None:
        still = self.open_tpgs()
        saved = [one for one in self.saved() if one.enabled]
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
            now = self.commands()
            if now == before:
                return
            before = now
            time.sleep(IDLE_SECONDS)
        raise errors.StillRunning("commands are still being executed although the gates are shut",
                                  changed="the gates are shut",
                                  do=f"lio-handover source thaw {self.journal.id}")

    def _flush(self) -> None:
        from . import storage_evidence as storage
        for store in self.durable().state.backstores:
            for path in protection.files(store):
                storage.flush(path)

    def scrub(self, why: str = "this host may not serve it, and is shut again: somebody brought it "
              "back") -> None:
        """Where this host may not serve, what somebody else brought back is shut again, and
        taken out of targetcli's save file; both are reported."""
        names = ", ".join(self.local_targets())
        if self.open_tpgs() or self.mode is not Mode.FILE and any(
                self.holders.held(wwpn) is None for wwpn in self.endpoints()):
            self._gate_close()
            self.notes.append(f"{names}: was open although {why}")
        self.notes += self.unsave()

    def before_restore(self) -> List[str]:
        """Take the targets out of targetcli's save file at a boot; what was done, or, of what is
        this host's to restore, what of it the file had otherwise."""
        if self.journal.broken is not None:
            return self.unsave()
        if self.handover.state != "confirmed":
            names = ", ".join(self.local_targets())
            return [f"{names}: was in {path}, which would bring it back at a boot, and was taken "
                    "out of it" for path in savefile_steps.before_restore(self)]
        told = self.differences()
        savefile_steps.before_restore(self)
        return told

    def unsave(self) -> List[str]:
        """Take the targets out of targetcli's save file; what was done."""
        names = ", ".join(self.local_targets())
        return [f"{names}: was in {path}, which would bring it back at a boot, and was taken out "
                "of it" for path in savefile.drop(self.local_targets(), self.journal.notes.stores,
                                                  self.directory,
                                                  more=self.core.settings.savefiles)]

    # ---- copies ---------------------------------------------------------------------------------
    def _ask(self, names: Sequence[Tuple[str, str]]) -> None:
        """The source's devices, where that was wanted, for what configfs does not show."""
        if self.journal.notes.probe and self.handover.role == SOURCE:
            self.seen = self.core.ask(names)

    def may_export(self, state: State) -> None:
        """Refuse what an export by file, long after the freeze maybe, is refused for."""
        errors.refuse(preflight.all_ports(state), self.allow)
        errors.refuse(preflight.shared(state, self.reader(False)), self.allow)

    def _keep_copy(self) -> None:
        self._ask(self.names())
        if self.row.verb == "clear":
            return self.keep_before_clear()
        try:
            state = self.here()
        except errors.CannotRepresent:
            if self.mode is not Mode.FILE or self.row.verb != "freeze":
                raise
            return self._untold(self.here(False))
        if self.mode is Mode.FILE and self.row.verb == "export":
            self.may_export(state)
        if not self.links_are_whole({lun.key: lun.backstore for _, _, lun in state.luns()}):
            if self.handover.role != SOURCE and not self.journal.has(RETURNED):
                left = survivors.since(self, self.allow, self.notes)  # of a kernel that is gone
                left = replace(left, storage=sampled(left.storage, {}))  # it has served
                self.keep(RETURNED, self.in_source_names(left), False)
            return
        if self.handover.role == SOURCE:
            self.unchanged(state)
        document = self.document_of(state)
        if self.handover.role == SOURCE:
            self.keep(DOCUMENT, document, False)
        else:
            self.keep(RETURNED, self.in_source_names(document), False)

    def _keep_paper(self) -> None:
        if self.handover.role == SOURCE:
            self._keep_returned(self.papers[Paper.RETURNED])
            return
        message = self.papers[Paper.DOCUMENT]
        document = document_in(message, self.core.settings.document_bytes)
        changed = runtime.changes(document.state, self.kept(PREPARED).state)
        if changed:
            raise errors.StructureChanged(
                "the document is not of what was offered: " + describe(changed[0]),
                do="prepare again on the source")
        digest = self._named(message, document)
        if self.mode is Mode.FILE:  # the plan writes what the kernel shall find beside it
            self.journal.keep(DOCUMENT, message.document)
            self.journal.note("kept", digest=digest, stale=False)
            return
        notes = self.journal.notes
        stale = notes.loaded[0] == boot_id() and notes.loaded[1] != digest
        self.keep(DOCUMENT, document, stale)

    @staticmethod
    def _named(message: Message, document: Document) -> str:
        """The digest of the run-time state.  Raises BadDigest where the paper names another."""
        digest = runtime.digest(document.state)
        if digest != message.digest:
            raise errors.BadDigest(
                f"the {message.paper.name.lower()} paper does not name the document in it",
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
                    f"{say(store.key)} is not in what comes back: it has another name there",
                    do="lio-handover status")
            stores.append(replace(store, reservations=other.reservations))
        document = replace(mine, state=replace(mine.state, backstores=tuple(stores)),
                           storage=sampled(mine.storage, theirs.storage))
        stale = self.whole() and self.current() != runtime.digest(document.state)
        self.keep(RETURNED, document, stale)

    def _compare(self) -> None:
        if self.whole():
            state = self.here()
            self.unchanged(state)
            now = runtime.digest(state)
        else:
            now = runtime.digest(self.durable().state)
        if now != self.papers[Paper.ARMED].digest:
            raise errors.StructureChanged(
                "the run-time state is not what the destination is armed with",
                changed="nothing was given away",
                do=f"lio-handover source export {self.journal.id}, and activate again")

    def _prove_never_ran(self) -> None:
        if self.ran():
            raise errors.InUse("a command was executed here since the document was loaded",
                               changed="nothing was taken down",
                               do=f"lio-handover destination verify {self.journal.id}")

    # ---- building up and taking down ------------------------------------------------------------
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
        """All but the gate is done: what opens it from here on is this host's."""
        self._record("confirmed")
        self.journal.note("opened", boot=boot_id())

    def _build(self) -> None:
        self.notes += kernel_fixes.notes()
        self._build_to(self.prepared().state)
        survivors.placeholders(self, self.prepared().state.backstores)

    def _build_to(self, state: State) -> State:
        """As much of ``state`` as needs no registrations; what is then here."""
        facts = self.reader().facts()
        want = runtime.staged(state, facts.has_rtpi)
        have = Scope.of(want).read(self.fs)
        if not diff(have, want):
            return have
        half_made = self.reader().off(have.backstores)  # by a verb that was killed
        if half_made or have.targets and plan(have, want, facts).refused:
            self._afresh(want)
            have, facts = Scope.of(want).read(self.fs), self.reader().facts()
        now = self._run(lambda facts, trusting: early(plan(
            have, want, facts, trusting=trusting)), have, facts)[1].now
        return Scope.of(want).read(self.fs) if now is None else now

    def _run(self, make: Maker, before: State, facts: Facts) -> Tuple[Plan, Outcome]:
        the_plan, outcome = self.core.run(make, before, facts, self.progress, self.stop)
        self.notes += outcome.notes
        return the_plan, outcome

    def _load(self) -> None:
        notes, boot = self.journal.notes, boot_id()
        whole = self.whole()
        lacking = survivors.lacking(self)  # then it must not be served while it is put right
        if whole and not lacking and not notes.stale and notes.loading != boot:
            return away.come_back(self, self.notes)
        if lacking and not self.vhost:
            self._gate_close()
        errors.refuse([finding for store in self.durable().state.backstores
                       for finding in storage.absent(store)])
        document = survivors.since(self, self.allow, self.notes)
        digest = runtime.digest(document.state)
        want = away.leave_out(self, runtime.shut(document.state), self.row.verb, self.notes)
        if whole or notes.loading == boot or identity.replaced(self):
            self._afresh(want)
        self._same_storage(document)
        self.journal.note("loading", boot=boot)
        have = self._build_to(want)
        facts = self.reader().facts()
        the_plan, _ = self._run(lambda facts, _trusting: _waiting(want, facts, have), have, facts)
        now = loaded(self.fs, the_plan.want, built=have)
        self.built = replace(now, backstores=have.backstores)
        if document is not self.durable():
            survivors.leave(self, document)
        try:
            restored.note(self.directory, boot, the_plan.want)
        except OSError as error:
            self.notes.append(f"{self.directory}: {error.strerror}: an export may need --probe")
        if self.vhost:
            self._gate_close()
        self.journal.note("loaded", boot=boot, digest=digest, commands=self.commands())
        identity.note(self)

    def _same_storage(self, document: Document) -> None:
        """The source has flushed: from here on both must see the same data, until it is served."""
        found, here = [], Glance()
        proofs = sampled(document.storage, {}) if self.journal.notes.opened else document.storage
        nothing = storage.Served(State(), here)
        for store in document.state.backstores:
            found += [one for one in storage.findings(
                store, proofs.get(say(store.key), {}), self.core.settings, nothing, here)
                if one.error is errors.StorageDiffers]
        errors.refuse(found, self.allow)

    def _afresh(self, want: State) -> None:
        """Take down what is here of it: pending registrations go only with the backstore."""
        self._no_guest()
        self._let_go()
        facts = self.reader().facts()
        have = Scope.of(want).read(self.fs, reservations=False)
        executor.apply(self.fs, plan(have, State(have.lu_groups), facts, verify=False), have,
                       facts, reservations=False)

    def _verify(self) -> None:
        """Registrations are compared while no initiator can have changed them.  What this verb
        loaded was read back there."""
        from .revival import reachable
        want, have = away.without(self, self.durable().state), self.built
        if have is None:
            want, _notes = reachable(want)
            never_open = not self.journal.notes.opened
            have = Scope.of(want).read(self.fs, reservations=never_open, known=want,
                                       untouched=never_open)
            if not never_open:
                have, want = runtime.structure(have), runtime.structure(want)
            check(have, want, gates=False)
        portals.check(want)
        opened.check(have.backstores)

    def _late_paths(self) -> List[str]:
        """Of the backstores whose storage one host alone may have open."""
        found = []
        for store in self.durable().state.backstores:
            if store.path and late.rule(self.core.settings, store.path) is not None:
                found.append(store.path)
        return found

    def _storage_acquire(self) -> None:
        for path in self._late_paths():
            late.acquire(self.core.settings, path)

    def _storage_release(self) -> None:
        if self.handover.state == "retiring" and not any(
                self.journal.has(name) for name in (RETURNED, DOCUMENT, PREPARED)):
            return  # it was done, and then the documents were dropped, and the verb was killed
        for path in self._late_paths():
            late.release(self.core.settings, path)

    def _no_guest(self) -> None:
        """Raises InUse where a guest is attached."""
        if self.vhost and self.guest():
            errors.refuse([errors.Finding(
                errors.InUse, ", ".join(self.local_targets()), "a guest is attached to it",
                do="stop the guest, or let QEMU finish the migration")])

    def _teardown(self) -> None:
        self._close_tpgs()
        reader = self.reader(False)
        targets = [f"{fabric}/{wwn}" for fabric, wwn in self.names()]
        placed = reader.placed()
        stores = [say(key) for key in self.stores() if key in placed]
        if not targets and not stores:
            self.journal.note("gone")
            if self.row.to == "none":
                self._forget_aptpl()
            return
        have, want = self.core.without(reader, [*targets, *stores])
        extra = {say(store.key) for store in have.backstores} - set(self.journal.notes.stores)
        if extra:
            errors.refuse([errors.Finding(
                errors.StructureChanged, sorted(extra)[0], "was added to the target since it was "
                "prepared, and is no part of the handover", "changed",
                "take it out of the target")], self.allow)
        self._no_guest()
        self._let_go()
        facts = reader.facts()
        the_plan = plan(have, want, facts, verify=False)
        # With the first link of a mapped LUN go registrations, long before a LUN does.
        self.journal.note("loading", boot=facts.boot_id)
        executor.apply(self.fs, the_plan, have, facts, self.progress, self.stop,
                       reservations=False)
        staying = {store.key for store in want.backstores}
        gone = [store.key for store in have.backstores if store.key not in staying]
        restored.forget(self.directory, facts.boot_id, gone)
        self.journal.note("gone")
        if self.row.to == "none":
            self._forget_aptpl()

    def _aptpl_drop(self) -> None:
        self._forget_aptpl()
        self.journal.drop()

    def _forget_aptpl(self) -> None:
        placed = self.reader(False).placed()
        for name, serial in self.journal.notes.stores.items():
            if serial and backstore_key(*name.split("/", 1)) not in placed:
                survivors.remove(self, serial)


def not_late(state: State, settings: Settings) -> List[errors.Finding]:
    """Storage that one host alone may have open can't be staged while the other has it."""
    return [errors.Finding(errors.StorageInUse, say(key), "only one host may have its storage "
                           "open at a time", do="prepare with --mode iscsi-late")
            for key in late.openings(state, settings, {})]


def _waiting(want: State, facts: Facts, have: State) -> Plan:
    """What had to wait, of a host that has the staged part of ``want``: planned as for one that
    has nothing of it."""
    placed = facts.placed or {}
    want = replace(want, backstores=tuple(
        replace(one, hba=placed.get(one.key, "")) for one in want.backstores))
    made = plan(State(), want, _without(facts, want), verify=False, there=have)
    return replace(made, steps=tuple(step for step in made.steps if step.slot == "folder"
                                     or step.phase == "activate" and step.slot != "gate"))


def _without(facts: Facts, want: State) -> Facts:
    """The facts of a host that has nothing of ``want`` yet."""
    mine = {one.key for one in want.backstores}
    placed = {key: hba for key, hba in (facts.placed or {}).items() if key not in mine}
    hbas = {one.hba for one in want.backstores} - set(placed.values())
    return replace(facts, placed=placed,
                   hbas=tuple(hba for hba in facts.hbas if hba not in hbas))

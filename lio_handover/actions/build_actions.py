"""The actions that build targets, load them, read them back and take them down."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, List, Optional, Tuple

from .. import errors
from ..document import runtime_state
from ..document.document import Document
from ..execute import executor
from ..execute.executor import Outcome
from ..execute.step_runner import Describable, Nexuses, never
from ..execute.verify import Scope, check, loaded
from ..host.host import Maker
from ..kernel import fixes, portals
from ..kernel.facts import Facts, boot_id
from ..kernel.rereader import Rereader
from ..model import fabrics
from ..model.diff import diff
from ..model.fabrics import Gate
from ..model.keys import backstore_key, display
from ..model.objects import State
from ..plan.plan import FILE, LINK, SCSI, WRITE, Plan
from ..plan.planner import plan
from ..plan.staged import early
from ..records import pr_record
from ..records.journal import DOCUMENT, PREPARED, RETURNED
from ..settings import Settings
from ..storage import exclusive, memory, opened, policy as storage, trusted
from ..storage.block_devices import HostSnapshot
from ..storage.evidence import OPEN
from ..system.locks import room_for
from . import absent_portals, identity, surviving_registrations
from .copy_actions import sampled
from .gate_actions import Gates


@dataclass
class Building(Gates):
    """One verb's work on targets and backstores."""

    def _build(self) -> None:
        self.notes += fixes.notes()
        self._build_to(self.prepared().state)
        surviving_registrations.placeholders(self, self.prepared().state.backstores)

    def _build_to(self, state: State) -> State:
        """Build as much of ``state`` as needs no registrations; the state that is then here."""
        facts = self.reader().facts()
        want = runtime_state.staged_state(state, facts.has_rtpi)
        have = self._there(want)
        if not diff(have, want):
            return have
        half_made = self.reader().off(have.backstores)  # by a verb that was killed
        if half_made or have.targets and plan(have, want, facts).refused:
            self._afresh(want)
            have, facts = Scope.of(want).read(self.fs), self.reader().facts()
        errors.refuse(memory.findings(
            [store for store in want.backstores if have.backstore(store.key) is None],
            self.core.settings.memory_reserve))
        now = self._run(lambda facts, trusting: early(plan(
            have, want, facts, trusting=trusting)), have, facts)[1].now
        if now is None:
            return Scope.of(want).read(self.fs)
        if self.core.memory is not None:
            self.core.memory.keep(now)
        return now

    def _there(self, want: State) -> State:
        """The part of ``want`` that is here."""
        known = self.remembered()
        return known if known is not None and Scope.of(known) == Scope.of(want) \
            else Scope.of(want).read(self.fs)

    def _begins(self, number: int, total: int, step: Describable) -> None:
        if step.slot == "verify stage" and self.core.memory is not None:
            self.core.memory.listen(self.names(), self.stores())
        if self.progress:
            self.progress(number, total, step)

    def _run(self, make: Maker, before: State, facts: Facts,
             nexuses: Optional[Nexuses] = None) -> Tuple[Plan, Outcome]:
        the_plan, outcome = self.core.run(make, before, facts, self._begins, self.stop,
                                          nexuses=nexuses)
        self.notes += outcome.notes
        return the_plan, outcome

    def _load(self) -> None:
        notes, boot = self.journal.facts, boot_id()
        whole = self.whole()
        # Then it must not be served while it is put right.
        lacking = surviving_registrations.lacking(self)
        if whole and not lacking and not notes.stale and notes.loading != boot:
            return absent_portals.come_back(self, self.notes)
        if lacking:
            self._tpg_disable()
        errors.refuse([finding for store in self.durable().state.backstores
                       for finding in storage.absent(store)])
        document = surviving_registrations.since(self, self.allow, self.notes)
        digest = runtime_state.digest(document.state)
        want = absent_portals.leave_out(self, runtime_state.with_gates_closed(document.state),
                                        self.row.verb,
                                        self.notes)
        if whole or notes.loading == boot or identity.replaced(self):
            self._afresh(want)
        with self._nexuses([target.wwn for target in want.targets
                            if fabrics.gate_of(target.fabric) is Gate.ENDPOINT]) as nexuses:
            self._same_storage(document)
            self.journal.note("loading", boot=boot)
            have = self._build_to(want)
            facts = self.reader().facts()
            the_plan, _ = self._run(lambda facts, _trusting: self._unwritten(
                _waiting(want, facts, have)), have, facts, nexuses)
        now = self._read_back(the_plan, have)
        self.built = replace(now, backstores=have.backstores)
        if document is not self.durable():
            surviving_registrations.leave(self, document)
        try:
            pr_record.note(self.directory, boot, the_plan.want)
        except OSError as error:
            self.notes.append(f"{self.directory}: {error.strerror}: an export may need --probe")
        if self.vhost:
            self._gate_close()
        self.journal.note("loaded", boot=boot, digest=digest, commands=self.commands())
        identity.note(self)

    def _read_back(self, the_plan: Plan, have: State) -> State:
        """Read back and compare what was loaded since ``have`` was read: where nobody else has
        changed anything meanwhile, just what this process has written."""
        memory = self.core.memory
        alone = memory is not None and memory.alone()
        if not alone or not self.reader(False).has_rtpi() or any(
                getattr(obj, "directory", "") for obj in have.objects()):
            now = loaded(self.fs, the_plan.want, built=have)
        else:
            reader = Rereader(self.fs, untouched=True, known={
                store.key: (store.reservations,) for store in the_plan.want.backstores})
            now = reader.loaded(
                the_plan.want,
                {step.about: step.path for step in the_plan.steps if step.op == LINK},
                {step.about for step in the_plan.steps if step.op == WRITE})
            check(now, the_plan.want, False)
        if alone and memory is not None:
            reserved = {store.key: store.reservations for store in now.backstores}
            memory.keep(replace(now, backstores=tuple(
                replace(store, reservations=reserved[store.key]) for store in have.backstores)))
        return now

    def _unwritten(self, the_plan: Plan) -> Plan:
        """``the_plan`` without the APTPL files which this verb has written already, and which no
        step lets the kernel write."""
        cleared = {step.about for step in the_plan.steps if step.op == SCSI}
        return replace(the_plan, steps=tuple(
            step for step in the_plan.steps if step.op != FILE or step.about in cleared
            or not surviving_registrations.has_left(self, step.path, step.value)))

    def _same_storage(self, document: Document) -> None:
        """Compare the storage: the source has flushed, so until the gate opens both hosts must see
        the same data.  Raises StorageNotAllowed where others than root could exchange it."""
        here = HostSnapshot()
        findings = trusted.findings(document.state.backstores, self.core.settings.fuse, here)
        proofs = sampled(document.storage, {}) if self.journal.facts.opened else document.storage
        nothing = storage.Served(State(), here)
        room_for(min(len(document.state.backstores), OPEN))
        for store in document.state.backstores:
            findings += [finding for finding in storage.findings(
                store, proofs.get(display(store.key), {}), self.core.settings, nothing, here,
                self.flushing) if finding.error is errors.StorageDiffers]
        errors.refuse(findings, self.allow)

    def _afresh(self, want: State) -> None:
        """Take down the parts of ``want`` that are here: pending registrations go only with the
        backstore."""
        self._no_guest()
        facts = self.reader().facts()
        have = Scope.of(want).read(self.fs, reservations=False)
        self._take_down(plan(have, State(have.lu_groups), facts, verify=False), have, facts)

    def _verify(self) -> None:
        """Read the targets back and compare.  Registrations are compared only while no initiator
        can have changed them; a load by this same verb was read back there."""
        from ..plan.pr_order import nearest_reachable
        want, have = absent_portals.without(self, self.durable().state), self.built
        known, never_open = self.remembered(), not self.journal.facts.opened
        if have is None:
            want, _notes = nearest_reachable(want)
            have = known if known is not None else Scope.of(want).read(
                self.fs, reservations=never_open, known=want, untouched=never_open)
            if not never_open:
                have, want = runtime_state.structure(have), runtime_state.structure(want)
            check(have, want, gates=False)
        portals.check(want)
        # A backstore that this verb has enabled was looked at then.
        opened.check([store for store in have.backstores
                      if f"core/{store.hba}/{store.name}" not in self.fs.enabled],
                     self.looks(have))

    def _late_paths(self) -> List[str]:
        """The paths of backstores whose storage only one host may have open."""
        paths = []
        for store in self.durable().state.backstores:
            if store.path and exclusive.rule_for(self.core.settings, store.path) is not None:
                paths.append(store.path)
        return paths

    def _storage_acquire(self) -> None:
        for path in self._late_paths():
            exclusive.acquire(self.core.settings, path)

    def _storage_release(self) -> None:
        if self.handover.state == "retiring" and not any(
                self.journal.has(name) for name in (RETURNED, DOCUMENT, PREPARED)):
            return  # it was done, and then the documents were dropped, and the verb was killed
        for path in self._late_paths():
            exclusive.release(self.core.settings, path)

    def _teardown(self) -> None:
        self._tpg_disable()
        reader = self.reader(False)
        targets = [f"{fabric}/{wwn}" for fabric, wwn in self.names()]
        placed = reader.placed()
        stores = [display(key) for key in self.stores() if key in placed]
        if not targets and not stores:
            self.journal.note("gone", boot=boot_id())
            if self.row.to == "none":
                self._forget_aptpl()
            return
        known = self.remembered()
        have, want = self.core.state_without(reader, [*targets, *stores], known=known and
                                             runtime_state.without_reservations(known))
        extra = {display(store.key) for store in have.backstores} - set(self.journal.facts.stores)
        if extra:
            errors.refuse([errors.Finding(
                errors.StructureChanged, sorted(extra)[0], "was added to the target since it was "
                "prepared, and is no part of the handover", "changed",
                "take it out of the target")], self.allow)
        self._no_guest()
        facts = reader.facts()
        the_plan = plan(have, want, facts, verify=False)
        # With the first link of a mapped LUN go registrations, long before a LUN does.
        self.journal.note("loading", boot=facts.boot_id)
        self._take_down(the_plan, have, facts, self.stop)
        staying = {store.key for store in want.backstores}
        gone = [store.key for store in have.backstores if store.key not in staying]
        pr_record.forget(self.directory, facts.boot_id, gone)
        self.journal.note("gone", boot=facts.boot_id)
        if self.row.to == "none":
            self._forget_aptpl()

    def _take_down(self, the_plan: Plan, have: State, facts: Facts,
                   stop: Callable[[], bool] = never) -> None:
        """Run a plan that removes targets.  Our initiator keeps each endpoint until no LUN is
        linked: a guest that attaches then has no disk here, while another host may serve it."""
        occupied = [wwpn for wwpn in self.endpoints() if self.holders.pid_of(wwpn) is not None]
        try:
            with self._nexuses() as nexuses:
                executor.apply(self.fs, the_plan, have, facts, self.progress, stop,
                               reservations=False, nexuses=nexuses)
        except errors.HandoverError:
            for wwpn in {*occupied} & {*self.endpoints()}:  # the LUNs may be linked again
                self.holders.occupy(wwpn)
            raise

    def _aptpl_drop(self) -> None:
        self._forget_aptpl()
        self.journal.drop()

    def _forget_aptpl(self) -> None:
        placed = self.reader(False).placed()
        surviving_registrations.remove(self, [
            serial for name, serial in self.journal.facts.stores.items()
            if serial and backstore_key(*name.split("/", 1)) not in placed])


def not_late(state: State, settings: Settings) -> List[errors.Finding]:
    """Findings on storage that only one host may have open: it cannot be staged while the other
    host has it."""
    return [errors.Finding(errors.StorageInUse, display(key), "only one host may have its storage "
                           "open at a time", do="prepare with --mode iscsi-late")
            for key in exclusive.deferred_opens(state, settings, {})]


def _waiting(want: State, facts: Facts, have: State) -> Plan:
    """The second part of a plan for ``want``, on a host that has the staged part (``have``):
    planned as for a host that has nothing of it."""
    placed = facts.placed or {}
    want = replace(want, backstores=tuple(
        replace(backstore, hba=placed.get(backstore.key, "")) for backstore in want.backstores))
    full_plan = plan(State(), want, _without(facts, want), verify=False, there=have)
    return replace(full_plan, steps=tuple(step for step in full_plan.steps if step.slot == "folder"
                                          or step.phase == "activate" and step.slot != "gate"))


def _without(facts: Facts, want: State) -> Facts:
    """The facts of a host that has nothing of ``want`` yet."""
    mine = {backstore.key for backstore in want.backstores}
    placed = {key: hba for key, hba in (facts.placed or {}).items() if key not in mine}
    hbas = {backstore.hba for backstore in want.backstores} - set(placed.values())
    return replace(facts, placed=placed,
                   hbas=tuple(hba for hba in facts.hbas if hba not in hbas))

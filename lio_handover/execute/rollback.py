"""The way back: a host that a run has changed becomes what it was before."""
from __future__ import annotations

import os
from dataclasses import replace
from typing import List, Tuple

from .. import errors
from ..kernel.reader import Reader
from ..kernel.scsi_bus import AUTOPROBE
from ..model import dynamic_acls
from ..model.diff import Register, diff
from ..model.keys import display, lu_group_key
from ..model.objects import State
from ..plan import edits
from ..plan.plan import SCRATCH_TARGET, Plan
from ..plan.planner import plan
from ..plan.pr_order import nearest_reachable
from ..storage import exclusive
from ..system.atomic_file import write_file
from .step_runner import StepFailed, StepRunner, reason
from .verify import Scope, describe

#: Steps which end registrations, or what else comes back only into a backstore made afresh.
LOSES_REGISTRATIONS = ("unlink mapped LUN", "remove mapped LUN", "remove ACL", "unlink LUN",
                       "drop nexus",
                       "remove LUN", "remove backstore")


class Rollback:
    """From where a run was left to the state before it, planned from what the kernel shows."""

    def __init__(self, run: StepRunner, reservations: bool) -> None:
        self.run, self.fs, self.plan, self.before, self.facts = (
            run, run.fs, run.plan, run.before, run.facts)
        self.reservations = reservations
        self.take_back = self._take_back_live if run.plan.live else self._take_back

    def undo(self, error: Exception) -> errors.HandoverError:
        """Bring the host back to ``before``; the error to raise, which says how it went."""
        self.run.pending_files.clear()
        what = str(error) if isinstance(error, StepFailed) else reason(error)
        kind, do = type(error), getattr(error, "do", "")
        if isinstance(error, StepFailed):
            inner = error.error
            kind = type(inner) if isinstance(inner, errors.HandoverError) else \
                errors.KernelRefused
            do = do or getattr(inner, "do", "") or "dmesg | tail"
        assert issubclass(kind, errors.HandoverError)
        try:
            changed = self.take_back()
        except (StepFailed, OSError, ValueError, errors.HandoverError) as second:
            return errors.UndoFailed(
                f"{what}; and taking it back failed: {reason(second)}", changed=self._in_between(),
                do="lio-handover show, then lio-handover remove")
        return kind(what, changed=changed, do=do)

    def _in_between(self) -> str:
        open_gates = []
        for fabric, wwn in self.run.scope.targets:
            for tpg in (self.fs.entries(f"{fabric}/{wwn}")[1]
                        if self.fs.exists(f"{fabric}/{wwn}") else ()):
                path = f"{fabric}/{wwn}/{tpg}"
                if self.fs.exists(f"{path}/enable") and self.fs.read(f"{path}/enable") == "1\n":
                    open_gates.append(path)
        drivers = "" if self.run.drivers.are_on() else \
            "; drivers are not attached to new SCSI devices (write 1 to " + AUTOPROBE + ")"
        unreleased = [path for key, path in self.run.acquired.items()
                      if self.before.backstore(key) is None]
        return ("the host is left in between, with " + (
            f"{', '.join(open_gates)} enabled" if open_gates else "its gates shut") + drivers
            + (f"; {', '.join(unreleased)} not released" if unreleased else ""))

    def _take_back(self) -> str:
        """Bring back what this run has touched, and nothing else; what is changed all the same."""
        if self.run.gate_opened:
            self._shut_gates()
        scope = self._touched_scope()
        before = scope.part_of(self.before)
        scope = replace(scope, targets=scope.targets | {(SCRATCH_TARGET[1], SCRATCH_TARGET[2])})
        ways = self._rollback_states(scope, before)
        notes: Tuple[str, ...] = ()
        if len(ways) > 1:  # nothing is taken down that could not be built up again
            # An initiator that had a dynamic ACL needs an explicit one for its registration.
            before, notes = dynamic_acls.with_explicit_acls(before, {})
            ways = [*ways[:-1], before]
            self._refuse(plan(State(before.lu_groups), before, Reader(self.fs).facts(),
                              verify=False))
        for want in ways:
            # A target in scope may link to objects out of scope.
            now = scope.part_of(scope.read(self.fs, reservations=False))
            now = _with_reservations_of(now, before)
            back = plan(now, want, Reader(self.fs).facts(), self.facts.fabrics, verify=False,
                        late=self.plan.late)
            self._refuse(back)
            self._run(back)
        self._remove_empty_hbas()
        for key, path in [*self.run.acquired.items()][::-1]:
            if before.backstore(key) is None:
                exclusive.run("release", self.plan.late[key].rule, path)
                del self.run.acquired[key]
        self.run.drivers.on()
        self._files_back()
        return self._compare(scope, before, notes)

    def _files_back(self) -> None:
        for path, content in self.run.files.items():
            if content is not None:
                write_file(path, content)
            elif os.path.exists(path):
                os.unlink(path)
        self.run.storage_files.take_back()

    def _take_back_live(self) -> str:
        """Bring back what the steps were about, and leave all else to those who made it."""
        scope, touched = self.run.scope, {step.about for step in self.plan.steps[:self.run.started]}
        # Where an LU group is removed, the kernel moves its members to its default group.
        touched |= {store.key for store in self.before.backstores
                    if lu_group_key(store.attributes.get("alua_lu_gp", "")) in touched}

        def read() -> State:
            state = scope.part_of(scope.read(self.fs, reservations=False))
            state = _with_reservations_of(state, self.before)
            return state if self.facts.has_rtpi else edits.without_ports(state)

        now = read()
        want = edits.as_before(now, self.before, touched - {()})
        back = plan(now, want, Reader(self.fs).facts(), self.facts.fabrics, verify=False,
                    back=True)
        self._refuse(back)
        self._run(back)
        self._remove_empty_hbas()
        self._files_back()
        left = diff(read(), want)
        if left:
            raise errors.VerifyFailed("; ".join(describe(change) for change in left[:3]))
        return errors.NOTHING_CHANGED

    def _touched_scope(self) -> Scope:
        """The part of the host that the run has touched, with all that shares backstores with it.
        """
        targets = [target for state in (self.before, self.plan.want) for target in state.targets]
        links = {target.key: {lun.backstore for tpg in target.tpgs for lun in tpg.luns
                              if lun.backstore} for target in targets}
        touched = {step.about[:2] if step.about[:1] == ("lu_group",) else step.about[:3]
                   for step in self.plan.steps[:self.run.started]}
        stores = {key for key in touched if key[:1] == ("backstore",)}
        for key in links:
            if key in touched:
                stores |= links[key] & self.run.scope.backstores
        touched |= {key for key, linked in links.items() if linked & stores}
        return Scope(frozenset((target.fabric, target.wwn) for target in targets
                               if target.key in touched),
                     frozenset(stores & self.run.scope.backstores),
                     frozenset(key[1] for key in touched if key[:1] == ("lu_group",)),
                     any(key[:1] == ("discovery_auth",) for key in touched), self.run.scope.linked)

    def _compare(self, scope: Scope, before: State, notes: Tuple[str, ...]) -> str:
        """Raises VerifyFailed where the host is not as it was, as far as a kernel can be."""
        if not self.reservations:
            now = scope.part_of(scope.read(self.fs, reservations=False))
            now = _with_reservations_of(now, before)
        else:
            now = scope.part_of(scope.read(self.fs, known=before, untouched=True))
        left = diff(now, before)
        if left and self.reservations:
            nearest, more = nearest_reachable(before)
            notes += more
            left = diff(scope.part_of(scope.read(self.fs, known=nearest, untouched=True)), nearest)
        if left:
            raise errors.VerifyFailed("; ".join(describe(change) for change in left[:3]))
        return ("all is as it was, but: " + "; ".join(notes)) if notes else errors.NOTHING_CHANGED

    def _rollback_states(self, scope: Scope, before: State) -> List[State]:
        """Straight to ``before``, unless a backstore that is still there has lost what it gets
        only when it is made afresh: registrations and, up to 6.1, relative port numbers."""
        lost = any(step.slot in LOSES_REGISTRATIONS for step in self.plan.steps[:self.run.started])
        if not lost or not before.targets:
            return [before]
        if not self.reservations:
            raise errors.CannotChange("its registrations could not be told, and are lost")
        wanted = {backstore.key: backstore.reservations for backstore in before.backstores
                  if backstore.reservations}
        afresh = [State(before.lu_groups), before]
        try:
            now = scope.read(self.fs, known=before, untouched=True)
        except errors.CannotRepresent:
            return afresh
        there = {backstore.key: backstore.reservations for backstore in now.backstores}
        linked = {lun.key for _, _, lun in now.all_luns() if lun.backstore}
        lost = any(there.get(key, reservations) != reservations
                   for key, reservations in wanted.items()) or (
            not self.facts.has_rtpi and any(
                lun.key not in linked and lun.backstore in there
                for _, _, lun in before.all_luns()))
        return afresh if lost else [before]

    @staticmethod
    def _refuse(back: Plan) -> None:
        if back.refused:
            finding = back.refused[0]
            raise errors.CannotChange(f"{finding.subject}: {finding.sentence}")

    def _run(self, back: Plan) -> None:
        for step in back.steps:
            try:
                self.run.handlers[step.op](step)
            except OSError as error:
                raise StepFailed(step, error) from error
        self.run.write_pending()

    def _shut_gates(self) -> None:
        """An initiator may have come in: what it did to its reservations must not be lost."""
        for step in self.plan.steps:
            if step.slot == "gate" and step.path.endswith("/enable"):
                if self.fs.read(step.path).strip() == "1":
                    self.fs.write(step.path, b"0\n")
        if not self.reservations:
            return
        now = self.run.scope.read(self.fs, known=self.plan.want)
        changed = [change for change in diff(now, self.plan.want, gates=False)
                   if isinstance(change, Register)]
        if changed:
            raise errors.CannotChange(
                f"{display(changed[0].key)}: an initiator changed its reservations meanwhile; this "
                "host has the only copy and keeps it")

    def _remove_empty_hbas(self) -> None:
        """An HBA made for a backstore that was not made any more."""
        mine = {step.path for step in self.plan.steps if step.slot == "HBA"}
        for hba in Reader(self.fs).hbas():
            path = f"core/{hba}"
            if path in mine and hba not in self.facts.hbas and not self.fs.entries(path)[1]:
                self.fs.rmdir(path)


def _with_reservations_of(state: State, other: State) -> State:
    """``state``, its backstores' reservations taken to be those of ``other``."""
    theirs = {backstore.key: backstore.reservations for backstore in other.backstores}
    return replace(state, backstores=tuple(
        replace(backstore, reservations=theirs.get(backstore.key, backstore.reservations))
        for backstore in state.backstores))

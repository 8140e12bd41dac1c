"""The façade's base: the verbs of one host without records of handovers.

A verb checks first, raises with the reason, and changes the host only after all checks.
"""
from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from .. import errors
from ..document import document as documents, representable
from ..document.document import Document, Origin
from ..execute import executor
from ..execute.executor import Outcome
from ..execute.step_runner import Progress, never, nothing
from ..execute.verify import Scope, check
from ..kernel import cautions, fixes, portals
from ..kernel.configfs import Configfs
from ..kernel.facts import Facts, boot_id
from ..kernel.reader import Reader
from ..model import diff as differ, dynamic_acls, fabrics, reservations
from ..model.fabrics import Gate
from ..model.keys import backstore_key, display
from ..model.objects import Backstore, Key, State
from ..model.reservations import FullStatusDescriptor
from ..plan import unit_serials
from ..plan.plan import Plan
from ..plan.planner import plan
from ..plan.pr_order import nearest_reachable
from ..protocol.table import SOURCE
from ..records import pr_record, relative_ports, removed
from ..records.journal import Journal, ids
from ..records.ownership import REMOVED, OwnershipFile
from ..savefile import save_file
from ..storage import evidence as storage, exclusive, opened, protection
from ..storage.block_devices import HostSnapshot
from ..system.locks import PATIENCE, SCRATCH
from . import in_use, preflight, probes
from .host import Host
from .looked_at import Ready, View

#: States of a source whose gates are shut, or about to be.
AWAY = ("freezing", "frozen", "released", "thawing", "retiring")
#: How often an import is begun again because rtslib was faster.
MEDDLED_TRIES = 10


def frozen_in(journals: Iterable[Journal]) -> Set[str]:
    """The targets that are frozen, or on the way there or back, by these journals."""
    return {target for journal in journals for target in journal.handover.targets
            if journal.handover.role == SOURCE and journal.handover.state in AWAY}


class HostVerbs(Host):
    """The verbs of one host."""

    # ---- looking ---
    def frozen_names(self) -> List[str]:
        """The targets of this kernel that are frozen, or on the way there or back.  Raises
        JournalBroken."""
        folder = self.settings.state_directory
        frozen = frozen_in(Journal(folder, name, tolerate_damage=True) for name in ids(folder))
        return sorted(name for name in frozen if self.fs.exists(name))

    def show(self, targets: Sequence[str] = ()) -> State:
        """The state that the host serves: these targets, or all of it.  Raises NoSuchTarget,
        CannotRepresent."""
        return self.reader().state(self.names(targets) if targets else None)

    def view(self, targets: Sequence[str] = ()) -> View:
        """The same for people: it is shown even where it could not be handed over."""
        reader = self.reader()
        names = self.names(targets) if targets else None
        unclear = ""
        try:
            state = reader.state(names)
        except (errors.CannotRepresent, errors.StillRunning) as error:
            unclear = error.what
            state = Reader(self.fs, reservations=False).state(names)
        sizes = {}
        for store in state.backstores:
            try:
                proof = storage.evidence(store, sample=False)
            except errors.HandoverError:
                continue
            if "size" in proof:
                served = store.parameters.get("fd_dev_size") if proof["kind"] == "file" else None
                sizes[store.key] = int(served or proof["size"])
        off = reader.off(state.backstores)
        view = View(state, os.uname().nodename, os.uname().release, (), sizes, off, unclear,
                    cautions.shown(self.fs, state),
                    elsewhere=opened.elsewhere(state.backstores) - off)
        try:
            return replace(view, frozen=tuple(self.frozen_names()))
        except errors.JournalBroken as error:
            return replace(view, notes=view.notes + (
                f"whether targets are frozen is not shown: {error.what}",))

    # ---- the source's verbs ---
    def prepare(self, names: Sequence[Tuple[str, str]], probe: bool = False,
                reserved: bool = True) -> Tuple[Document, List[errors.Finding]]:
        """The document as it would be now, and why these targets could not be handed over.

        ``probe``: see probes.full_status; what it told is known to what follows.  ``reserved``:
        whether registrations are read.
        """
        reader = self._prober(names, probe) if reserved else self._plain_reader()
        state = self.read(reader, names)
        findings = preflight.source(state, reader, self.settings)
        try:
            document = self._document(state, reader)
        except errors.HandoverError:
            errors.refuse(findings)  # which say more
            raise
        findings += representable.findings(document)
        findings += save_file.findings([target.name for target in state.targets],
                                       self.settings.savefiles)
        if probe:
            self._remember(state)
        if any(fabrics.gate_of(target.fabric) is Gate.ENDPOINT for target in state.targets) \
                and not self.read_only:
            with self.alone(names), self.locks.hold(SCRATCH, patience=PATIENCE):
                findings += preflight.live_migration(probes.logs_guest_writes(self.fs))
        return document, findings

    def _prober(self, names: Sequence[Tuple[str, str]], probe: bool) -> Reader:
        if not probe:
            return self.reader()
        with self.alone(names), self.locks.hold(SCRATCH, patience=PATIENCE):
            self.reader()
            self.asked = probes.reads(self.fs, names)
            return self.reader(probes.full_status(self.fs, names))

    def ask(self, names: Sequence[Tuple[str, str]]) -> Mapping[Key, Sequence[FullStatusDescriptor]]:
        """Ask the devices for what configfs does not show of registrations, see
        probes.full_status; what they say is believed as long as what can be seen is the same, or
        all of it now.

        Raises CannotRepresent, BadFile.
        """
        reader = self._prober(names, True)
        self._remember(reader.state(names))
        return reader.full_status

    def _remember(self, state: State) -> None:
        try:
            pr_record.note(self.settings.state_directory, boot_id(), state)
        except OSError as error:
            raise errors.BadFile(f"{self.settings.state_directory}: {error.strerror}") from None

    def export(self, names: Sequence[Tuple[str, str]], allow: Sequence[str] = (),
               probe: bool = False) -> Document:
        """A document of what this host serves, to be imported elsewhere.  Changes nothing, but for
        the traces of ``probe``, see probes.full_status.

        The document is ``frozen`` where every gate is shut and all data is on the storage.
        """
        with self.alone(names):
            reader = self._prober(names, probe)
            state = reader.state(names)
            errors.refuse(preflight.source(state, reader, self.settings), allow)
            document = self._document(state, reader)
            errors.refuse(representable.findings(document))
            return document

    def _document(self, state: State, reader: Reader) -> Document:
        facts, state = reader.facts(), _settled(state)
        is_frozen = bool(state.targets) and all(
            in_use.shut(target, reader) for target in state.targets)
        state, notes = dynamic_acls.with_explicit_acls(state, {})
        if is_frozen:
            self._flush(state)
        here = HostSnapshot()
        evidence = {display(store.key): storage.evidence(store, is_frozen, here)
                    for store in state.backstores}
        return Document(state, is_frozen,
                        Origin(os.uname().nodename, facts.release, facts.boot_id), evidence,
                        (*notes, *reader.unsure, *preflight.nobody(state)))

    def _flush(self, state: State) -> None:
        storage.flush_all([path for store in state.backstores for path in protection.files(store)])

    def wanted_again(self) -> List[str]:
        """Targets whose gates are shut and may be opened again here: their relative ports are
        wanted."""
        return relative_ports.claimed(self.settings.state_directory)

    # ---- the destination's verbs ---
    def ready(self, document: Document, maps: Sequence[str] = ()) -> Ready:
        """Look at a document from this host.  Changes nothing."""
        from ..document import rename
        document, applied = rename.parse(maps).apply(self.seen(document))
        reader = self.reader()
        facts, here = reader.facts(), HostSnapshot()
        have = self.blinded(Scope.of(document.state).read(self.fs, known=document.state))
        openings = exclusive.deferred_opens(document.state, self.settings, document.storage)
        the_plan = plan(have, document.state, facts, late=openings)
        findings = preflight.destination(document, have, reader, facts, self.settings,
                                         self.wanted_again(), here)
        the_plan = replace(the_plan, looked=here.looked, notes=(
            *document.notes, *rename.notes(applied), *the_plan.notes, *fixes.notes(),
            *(f"{display(key)}: {opening.rule.name} storage: only once the source has released it, "
              "it is acquired here and compared" for key, opening in openings.items()
              if have.backstore(key) is None)))
        differing = {finding.subject for finding in findings
                     if finding.error is errors.TargetDiffers}
        findings += [finding for finding in preflight.planned(the_plan)
                     if "/".join(finding.subject.split("/")[:2]) not in differing]
        return Ready(document, have, the_plan, tuple(findings), facts,
                     tuple((renaming.what, renaming.old, renaming.new) for renaming in applied))

    def carry_out(self, ready: Ready, allow: Sequence[str] = (),
                  progress: Optional[Progress] = None, stop: Callable[[], bool] = never,
                  before_gate: Callable[[], None] = nothing) -> Outcome:
        """Make this host serve what was looked at, or leave it as it was; ``before_gate`` is called
        when nothing but the gates is left to be done."""
        assert not self.blind
        ready = replace(ready, plan=replace(ready.plan, late={
            key: replace(opening, allowed=tuple(allow))
            for key, opening in ready.plan.late.items()}))
        with self.alone(more=lock_names(ready.document.state)):
            self._ensure_unchanged(ready)
            outcome = self._apply_with_retries(ready, progress, stop, before_gate)
            try:
                pr_record.note(self.settings.state_directory, ready.facts.boot_id, ready.plan.want)
            except OSError as error:
                outcome.notes += (f"{self.settings.state_directory}: {error.strerror}: an export "
                                  "may need --probe",)
            return outcome

    def _with_overrides(self, ready: Ready, allow: Sequence[str]) -> Ready:
        """``ready`` without the requirements that ``allow`` lifts: unknown attributes, discovery
        authentication."""
        ready = replace(ready, plan=replace(ready.plan, unknown="unknown-attribute" in allow))
        if "discovery-auth" not in allow or all(finding.override != "discovery-auth"
                                                for finding in ready.findings):
            return ready
        state = replace(ready.document.state, discovery_auth=ready.have.discovery_auth)
        return replace(ready, document=replace(ready.document, state=state),
                       plan=replace(plan(ready.have, state, ready.facts, late=ready.plan.late),
                                    notes=ready.plan.notes, unknown=ready.plan.unknown,
                                    looked=ready.plan.looked))

    def _ensure_unchanged(self, ready: Ready) -> None:
        """The plan is for the host as it was looked at; an undo brings it back to that."""
        want = ready.document.state
        if Scope.of(want).read(self.fs, known=want) != ready.have \
                or self.reader().placed() != ready.facts.placed:
            raise errors.StillRunning("this host was changed since it was looked at",
                                      do="run it again")

    def _apply_with_retries(self, ready: Ready, progress: Optional[Progress],
                            stop: Callable[[], bool],
                            before_gate: Callable[[], None]) -> Outcome:
        """Run the plan; once more where another program got in between: that was taken back, and is
        rare.

        The plan that was looked at is the one that is run, see _ensure_unchanged.  Another is made
        where an HBA of it was taken meanwhile, or new objects are not what the table says of them.
        """
        def make(facts: Facts, trusting: bool) -> Plan:
            if trusting and facts == ready.facts:
                return ready.plan
            return replace(plan(ready.have, ready.document.state, facts, trusting=trusting,
                                late=ready.plan.late), notes=ready.plan.notes,
                           looked=ready.plan.looked, unknown=ready.plan.unknown)

        for _attempt in range(MEDDLED_TRIES):
            try:
                return self.run(make, ready.have, ready.facts, progress, stop,
                                before_gate=before_gate)[1]
            except errors.Meddled as error:
                last = error
        raise last

    def compare(self, document: Document, maps: Sequence[str] = ()) \
            -> Tuple[State, State, Tuple[differ.Change, ...]]:
        """(here, wanted as far as a kernel can be brought to it, the changes between them)."""
        from ..document import rename
        document, _applied = rename.parse(maps).apply(self.seen(document))
        self.reader()
        have = self.blinded(Scope.of(document.state).read(self.fs, known=document.state))
        want, _notes = nearest_reachable(document.state, have)
        return have, want, differ.diff(have, want)

    def verify(self, document: Document, maps: Sequence[str] = ()) -> None:
        """Raises VerifyFailed where this host does not serve just what the document says."""
        have, want, _changes = self.compare(document, maps)
        check(have, want)
        portals.check(want)
        opened.check(have.backstores)

    # ---- removing ---
    def remove(self, targets: Sequence[str], everything: bool = False, allow: Sequence[str] = (),
               progress: Optional[Progress] = None,
               stop: Callable[[], bool] = never) -> Tuple[Outcome, str]:
        """Take targets away, with the backstores that nothing else exports.

        Returns what it took, and the document kept of what was removed.  ``plugin/name`` names
        a backstore that no target exports.  Neither a handover that is over nor targetcli's
        restore brings them back.
        """
        with self.alone(more=self._removing(targets, everything)):
            reader = self.reader()
            findings: List[errors.Finding] = []
            try:
                have, want = self.state_without(reader, targets, everything)
            except errors.CannotRepresent as error:
                findings.append(errors.Finding(
                    errors.InUse, "what would be lost with it can't be told", error.what,
                    "unclear"))
                reader = Reader(self.fs, reservations=False)
                have, want = self.state_without(reader, targets, everything)
            findings += [errors.Finding(errors.InUse, display(store.key), "is exported, and stays")
                         for store in want.backstores if display(store.key) in targets]
            facts = reader.facts()
            findings += self._under_way([target.name for target in have.targets])
            document = self._leaving(have, facts)
            findings += [*in_use.removal(have, reader), *removed.unkept(document)]
            errors.refuse(findings, allow)
            openings = exclusive.deferred_opens(have, self.settings, document.storage)
            the_plan = plan(have, want, facts, verify=False, late=openings)
            the_plan = unit_serials.without_files(the_plan, have, want, facts, reader)
            staying = {store.key for store in want.backstores}
            gone = [store.key for store in have.backstores if store.key not in staying]
            mine = [target.name for target in have.targets]
            with self._no_handovers(mine), save_file.removing(
                    mine, map(display, gone), self.settings.state_directory, allow,
                    self.settings.savefiles) as notes:
                kept = removed.keep(document, self.settings.state_directory)
                outcome = executor.apply(self.fs, the_plan, have, facts, progress, stop,
                                         reservations=reader.with_reservations)
            pr_record.forget(self.settings.state_directory, facts.boot_id, gone)
            outcome.notes += tuple(notes)
            return outcome, kept

    @contextmanager
    def _no_handovers(self, names: Sequence[str]) -> Iterator[None]:
        """A handover of them that is over brings none of them back at a boot: another host may
        serve what was removed here."""
        owners = OwnershipFile(self.settings.state_directory)
        known = set(names) & set(owners.load())
        owners.note(known, handover=REMOVED)
        try:
            yield
        except BaseException:
            owners.note(known, ended=REMOVED)
            raise

    def _removing(self, targets: Sequence[str], everything: bool) -> List[str]:
        """The names to lock for a removal; none, and so the host, where everything goes."""
        if everything:
            return []
        fabrics = self.reader().fabrics()
        pairs = [tuple(name.split("/", 1)) for name in targets if "/" in name]
        return [*targets, *self.lock_names([(first, rest) for first, rest in pairs
                                            if first in fabrics])]

    def state_without(self, reader: Reader, targets: Sequence[str], everything: bool = False,
                      known: Optional[State] = None) -> Tuple[State, State]:
        """(what is there of these targets and what they use, what of it stays).  ``known``: a
        reading of these targets that is still true."""
        stores: List[Key] = []
        names: List[str] = []
        fabrics, placed = reader.fabrics(), reader.placed()
        for name in targets:
            first, _, rest = name.partition("/")
            if first not in fabrics and backstore_key(first, rest) in placed:
                stores.append(backstore_key(first, rest))
            else:
                names.append(name)
        leaving = known if known is not None and {*stores} <= {
            store.key for store in known.backstores} else \
            reader.state(self.names(names, everything), stores)
        mine = [target.name for target in leaving.targets]
        others = reader.exporters([store.key for store in leaving.backstores], mine)
        kept = tuple(store for store in leaving.backstores if store.key in others)
        groups = tuple(group for group in leaving.lu_groups
                       if _members_outside(self.fs, group.name, leaving, others))
        return leaving, State(groups, kept, discovery_auth=leaving.discovery_auth)

    def _leaving(self, state: State, facts: Facts) -> Document:
        """The document of what is about to be removed."""
        state, notes = dynamic_acls.with_explicit_acls(_settled(state), {})
        here = HostSnapshot()
        return Document(state, False,
                        Origin(os.uname().nodename, facts.release, facts.boot_id),
                        {display(store.key): _evidence(store, here)
                         for store in state.backstores}, notes)

    def _under_way(self, names: Sequence[str], but: Sequence[str] = ()) -> List[errors.Finding]:
        """Findings on handovers of these targets on this host that are under way, or may be;
        ``but``: ids of handovers that count no more."""
        findings = []
        for name in ids(self.settings.state_directory):
            if name in but:
                continue
            journal = Journal(self.settings.state_directory, name, tolerate_damage=True)
            handover = journal.handover
            mine = {*handover.targets, *journal.facts.local} & set(names)
            if journal.damage is not None and mine:
                findings.append(errors.Finding(
                    errors.InUse, min(mine), f"handover {name} of it may be under way: "
                    + journal.damage.what, "handover", journal.damage.do))
            if handover.state and not handover.over and mine:
                findings.append(errors.Finding(
                    errors.InUse, min(mine), f"handover {name} of it is under way: this host is "
                    f"its {handover.role}, {handover.state}", "handover",
                    f"lio-handover status {name}"))
        return findings


def lock_names(state: State) -> List[str]:
    """The names of targets and backstores in a state, to be locked."""
    return [*(target.name for target in state.targets),
            *(display(backstore.key) for backstore in state.backstores)]


def _settled(state: State) -> State:
    return replace(state, backstores=tuple(
        replace(backstore, reservations=reservations.with_known_all_tg_pt(backstore.reservations))
        for backstore in state.backstores))


def _members_outside(fs: Configfs, group: str, state: State,
                     kept: Dict[Key, List[str]]) -> bool:
    """Whether backstores that stay are in this LU group."""
    leaving = {f"{store.hba}/{store.name}" for store in state.backstores
               if store.key not in kept}
    members = {line.strip("\0\n ") for line in
               fs.read(f"core/alua/lu_gps/{group}/members").splitlines()}
    return bool({member for member in members if member} - leaving)


def _evidence(store: Backstore, here: HostSnapshot) -> documents.Evidence:
    try:
        return storage.evidence(store, False, here)
    except errors.HandoverError:
        return {}

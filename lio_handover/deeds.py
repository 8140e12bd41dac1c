"""What each step of the protocol does on this host: one method for each transitions.Do.

Every one of them looks first and does what is missing, so it may be run again after a crash
anywhere in it.  One that can't do its work raises, and the verb ends there: the recorded state
stands.  Which come in what order is said by the table alone.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import document as documents
from . import (errors, executor, mapping, preflight, reservations, restored, runtime, savefile,
               storage)
from .configfs import Configfs
from .core import Core, Maker
from .diff import diff
from .document import Document, Origin
from .executor import Progress, Scope
from .holder import Holders
from .journal import DOCUMENT, PREPARED, RETURNED, Handover, Journal
from .model import Key, State, Target, backstore_key, say
from .owners import Owners
from .papers import Message
from .plan import Plan, plan
from .reader import Facts, Reader, boot_id
from .transitions import SOURCE, VHOST, Do, Mode, Paper, Row, Step
from .wholefile import write_file

#: Where kernels and rtslib keep APTPL files (target_core_configfs.c, rtslib/root.py).
DBROOTS = ("/var/target", "/etc/target", "/etc/rtslib-fb-target")
#: Two looks at a LUN's command counter, so many seconds apart, prove that it is idle.
IDLE_SECONDS = 0.05
IDLE_TRIES = 100


@dataclass
class Deeds:
    """One verb's work: the host, the handover's journal, and what came with the verb."""

    core: Core
    journal: Journal
    row: Row
    papers: Mapping[Paper, Message] = field(default_factory=dict)
    allow: Sequence[str] = ()
    by: str = ""
    words: FrozenSet[str] = frozenset()
    progress: Optional[Progress] = None
    stop: Callable[[], bool] = executor.never
    epoch: int = 0  # under which the verb runs
    said: List[Message] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    # ---- small things ---------------------------------------------------------------------------
    @property
    def fs(self) -> Configfs:
        return self.core.fs

    @property
    def handover(self) -> Handover:
        return self.journal.handover

    @property
    def directory(self) -> str:
        return self.core.settings.state_directory

    @property
    def mode(self) -> Mode:
        return Mode(self.handover.mode)

    @property
    def vhost(self) -> bool:
        return self.mode in VHOST

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
                f"{step}: {executor.reason(error)}",
                changed=f"the handover is {self.handover.state or 'not begun'} as before",
                do=f"lio-handover status {self.journal.id}") from error

    def reader(self, reserved: bool = True) -> Reader:
        return Reader(self.fs, reservations=reserved,
                      known=restored.load(self.directory, boot_id()))

    def names(self) -> List[Tuple[str, str]]:
        """(fabric, WWN) of the handover's targets that this kernel has."""
        reader = self.reader()
        wanted = {tuple(name.split("/", 1)) for name in self.local_targets()}
        return [one for one in reader.target_names() if one in wanted]

    def stores(self) -> List[Key]:
        """The handover's backstores, as they are called on this host."""
        return [backstore_key(*name.split("/", 1)) for name in self.journal.notes.stores]

    def local_targets(self) -> Tuple[str, ...]:
        """The targets as they are called on this host."""
        if not self.journal.notes.maps:
            return self.handover.targets
        return tuple(one.name for one in self.prepared().state.targets)

    def kept(self, name: str) -> Document:
        """A document that was kept, in the source's names."""
        if name not in self.journal.documents:
            data = self.journal.kept(name)
            if data is None:
                raise errors.JournalBroken(f"{self.journal.folder} has no {name}",
                                           do=f"lio-handover status {self.journal.id}")
            self.journal.documents[name] = documents.loads(data)
        return self.journal.documents[name]

    def local(self, name: str) -> Document:
        """A document that was kept, in this host's names."""
        if self.handover.role == SOURCE:
            return self.kept(name)
        here = f"{name} here"
        if here not in self.journal.documents:
            self.journal.documents[here] = mapping.parse(self.journal.notes.maps).apply(
                self.kept(name))[0]
        return self.journal.documents[here]

    def prepared(self) -> Document:
        """The document that was offered, in this host's names."""
        return self.local(PREPARED)

    def durable(self) -> Document:
        """The copy that counts when the kernel has none, in this host's names."""
        for name in (RETURNED, DOCUMENT):
            if name in self.journal.documents or self.journal.has(name):
                return self.local(name)
        return self.local(PREPARED)

    def as_it_came(self) -> str:
        """The digest of the document the destination is armed with, as the source named it."""
        return runtime.digest(self.kept(DOCUMENT).state)

    def _in_source_names(self, document: Document) -> Document:
        """A document of this host as the source would have written it: its own, with the
        registrations of this one."""
        maps = mapping.parse(self.journal.notes.maps)
        targets = {new: old for old, new in maps.targets.items()}
        initiators = {new: old for old, new in maps.initiators.items()}
        base = self.kept(DOCUMENT)
        stores = []
        for store in base.state.backstores:
            here = document.state.backstore(store.key)
            held = here.reservations if here is not None else store.reservations
            stores.append(replace(store, reservations=replace(held, registrations=tuple(
                replace(one, initiator=initiators.get(one.initiator, one.initiator),
                        target=targets.get(one.target, one.target))
                for one in held.registrations))))
        return replace(base, state=replace(base.state, backstores=tuple(stores)))

    def here(self, reserved: bool = True) -> State:
        """What this kernel has of the targets."""
        return self.reader(reserved).state(self.names())

    def current(self) -> str:
        """The digest of the source's present run-time state: the kernel's, else the kept one."""
        if self.whole():
            return runtime.digest(self.here())
        return runtime.digest(self.durable().state)

    def whole(self) -> bool:
        """Whether the kernel holds all targets, with every LUN linked: so the registrations."""
        reader = self.reader(False)
        found = {("target", *name.split("/", 1), tpgt[5:], "lun", lun[4:]): store
                 for name in self.local_targets() if self.fs.exists(name)
                 for tpgt, lun, store in reader.links(*name.split("/", 1))}
        return self._whole(found) and all(
            self._nexus(f"{target.name}/tpgt_{tpg.tag}") == tpg.attributes["nexus"]
            for target in self.durable().state.targets for tpg in target.tpgs
            if "nexus" in tpg.attributes)

    def _nexus(self, tpg: str) -> str:
        """What nexus a TPG has: targetcli can't carry it, and rtslib makes one up."""
        try:
            return self.fs.read(f"{tpg}/nexus").strip()
        except OSError:
            return ""

    def _whole(self, links: Mapping[Key, Optional[Key]]) -> bool:
        wanted = {lun.key: lun.backstore for _, _, lun in self.durable().state.luns()}
        return all(links.get(key) == store for key, store in wanted.items())

    def _document(self, state: State) -> Document:
        """A document of what the kernel has, the gates as the journal has them."""
        state = replace(state, backstores=tuple(
            replace(one, reservations=reservations.settled(one.reservations))
            for one in state.backstores))
        gates = self.journal.notes.gates
        state = replace(state, targets=tuple(_with_gates(one, gates.get(one.name, {}))
                                             for one in state.targets))
        evidence = {say(store.key): storage.evidence(store, sample=True)
                    for store in state.backstores}
        return Document(documents.canonical(state), True,
                        Origin(os.uname().nodename, os.uname().release, boot_id()), evidence)

    # ---- records and papers ---------------------------------------------------------------------
    def _record(self, state: str) -> None:
        owners, targets = Owners(self.directory), self.handover.targets
        gates: Optional[Dict[str, Dict[str, str]]] = None
        if state in ("prepared", "staged"):
            owners.note(targets, epoch=self.epoch, handover=self.journal.id)
        elif state == "none":
            owners.note(targets, aborted=self.epoch)
        elif state == "freezing" and self.handover.state == "prepared":
            gates = self._open_gates()
        more = {"by": self.by, "words": sorted(self.words)} if self.words else {}
        self.journal.state(state, self.epoch, boot_id(), gates, **more)

    def _open_gates(self) -> Dict[str, Dict[str, str]]:
        """Every gate as it is: what a thaw, or the destination, opens again."""
        found: Dict[str, Dict[str, str]] = {}
        for path in self._tpgs():
            name, _, tpgt = path.rpartition("/")
            found.setdefault(name, {})[tpgt[5:]] = self.fs.read(f"{path}/enable").strip()
        return found

    def _say(self, paper: Paper) -> None:
        message = self.message(paper)
        self.journal.note("said", paper=paper.name.lower(), digest=message.digest)
        self.said.append(message)

    def message(self, paper: Paper) -> Message:
        """The paper as this side may say it now."""
        digest, data = "", b""
        if paper is Paper.OFFER:
            data = self.journal.kept(PREPARED) or b""
        elif paper is Paper.RETURNED:
            data = self.journal.kept(RETURNED) or b""
            digest = runtime.digest(self.kept(RETURNED).state)
        elif paper in (Paper.DOCUMENT, Paper.ARMED, Paper.RELEASED):
            digest = self.as_it_came()
            if paper is Paper.DOCUMENT:
                data = self.journal.kept(DOCUMENT) or b""
        return Message(paper, self.journal.id, self.epoch, digest, self.handover.targets,
                       self.handover.mode, data)

    # ---- looking --------------------------------------------------------------------------------
    def _check(self) -> None:
        names = self.core.names(self.handover.targets)
        document, findings = self.core.prepare(names)
        state = document.state
        for target in state.targets:
            if (target.fabric == "vhost") is not self.vhost or target.fabric == "loopback":
                findings.append(errors.Finding(
                    errors.CannotRepresent, target.name,
                    f"can't be handed over in mode {self.mode.value}"))
            if target.fabric == "iscsi" and not any(
                    tpg.attributes.get("enable") == "1" for tpg in target.tpgs):
                findings.append(errors.Finding(
                    errors.InUse, target.name, "serves nobody: no TPG of it is enabled",
                    do="enable it, or remove it"))
        findings += preflight.held(state, self.reader())
        if self.mode is Mode.VHOST_STOPPED:
            findings = [one for one in findings if one.override != "stopped-guest"]
        errors.refuse(findings, self.allow)
        self.journal.keep(PREPARED, documents.dumps(document))

    def _read(self) -> None:
        self.reader(False).target_names()

    def ready(self) -> None:
        """Refuse, while the gate is still open, what would stop a freeze."""
        try:
            state = self.here()
        except errors.CannotRepresent:
            state = self.here(False)
            errors.refuse(preflight.held(state, self.reader()), self.allow)
        self.unchanged(state)

    def unchanged(self, here: State) -> None:
        """Raises StructureChanged where the target is not what was offered, but for its
        registrations and gates."""
        changed = runtime.changes(self.prepared().state, here)
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise errors.StructureChanged(
                "changed since it was prepared: " + executor.describe(changed[0]) + more,
                changed="nothing was given away",
                do=f"lio-handover source thaw {self.journal.id}, then prepare again")

    # ---- gates ----------------------------------------------------------------------------------
    def _tpgs(self) -> Iterator[str]:
        """The path of every iSCSI TPG of the handover's targets that is here."""
        for fabric, wwn in self.names():
            if fabric == "iscsi":
                for name in self.fs.entries(f"{fabric}/{wwn}")[1]:
                    if name.startswith("tpgt_"):
                        yield f"{fabric}/{wwn}/{name}"

    def open_tpgs(self) -> List[str]:
        return [path for path in self._tpgs() if self.fs.read(f"{path}/enable").strip() == "1"]

    def _endpoints(self) -> Iterator[str]:
        """The WWPN of every vhost target of the handover that a guest could attach to: one that
        is here and has a nexus."""
        for fabric, wwn in self.names():
            if fabric == "vhost" and any(
                    self._nexus(f"{fabric}/{wwn}/{name}")
                    for name in self.fs.entries(f"{fabric}/{wwn}")[1] if name[:5] == "tpgt_"):
                yield wwn

    @property
    def holders(self) -> Holders:
        return Holders(self.directory)

    def _gate_close(self) -> None:
        for path in self.open_tpgs():
            self.fs.write(f"{path}/enable", b"0\n")
        for wwpn in self._endpoints():
            self.holders.occupy(wwpn)

    def _let_go(self) -> None:
        """Free the endpoints which we occupy ourselves."""
        for name in self.local_targets():
            fabric, _, wwpn = name.partition("/")
            if fabric == "vhost":
                self.holders.let_go(wwpn)

    def _gate_open(self) -> None:
        if self.vhost:
            if any(self.holders.held(wwpn) for wwpn in self._endpoints()) \
                    or not self.journal.notes.opened:
                self.journal.note("opened", boot=boot_id())
            self._let_go()
            return
        wanted = [f"{target.name}/tpgt_{tpg.tag}" for target in self.durable().state.targets
                  for tpg in target.tpgs if tpg.attributes.get("enable") == "1"]
        shut = [path for path in self._tpgs()
                if path in wanted and self.fs.read(f"{path}/enable").strip() != "1"]
        if shut:
            self.journal.note("opened", boot=boot_id())
        for path in shut:
            self.fs.write(f"{path}/enable", b"1\n")

    def serves(self) -> bool:
        """Whether every gate that was open on the source reads back open here."""
        wanted = {f"{target.name}/tpgt_{tpg.tag}" for target in self.durable().state.targets
                  for tpg in target.tpgs if tpg.attributes.get("enable") == "1"}
        return bool(wanted) and wanted <= set(self.open_tpgs())

    def guest(self) -> bool:
        """Whether a guest is attached to a vhost target here: somebody, and not our holder."""
        reader = self.reader(False)
        return any(reader.attached(target) and self.holders.held(target.wwn) is None
                   for target in reader.state(self.names()).targets if target.fabric == "vhost")

    def ran(self) -> bool:
        """Whether a command was executed here since the load."""
        counted = self.journal.notes.commands
        return any(count != counted.get(name, count) for name, count in self.commands().items())

    def _savefile_drop(self) -> None:
        savefile.drop(self.local_targets(), self.journal.notes.stores)

    def _savefile_put(self) -> None:
        reader = self.reader(False)
        paths = savefile.put(reader.state(self.names()), reader.dbroot())
        self.journal.note("saved", paths=paths)

    def _prove_shut(self) -> None:
        still = self.open_tpgs()
        saved = [one for one in savefile.entries(self.local_targets()) if one.enabled]
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
        for store in self.durable().state.backstores:
            if store.path:
                storage.flush(store.path)

    def settled(self) -> bool:
        """Of a handover that is over: whether nothing is left for recover to bring back at a
        boot, as targetcli did, or as they were taken out of the save file that had them."""
        if self.vhost:
            return False
        return bool(self.names()) or bool(self.journal.notes.saved) and not savefile.entries(
            self.local_targets())

    def scrub(self) -> None:
        """Where this host may not serve, what somebody else brought back is shut again, and
        taken out of targetcli's save file; both are reported."""
        names = ", ".join(self.local_targets())
        if not self.vhost and self.open_tpgs():
            self._gate_close()
            self.notes.append(f"{names}: was open although this host may not serve it, and is "
                              "shut again: somebody brought it back")
        self.notes += self.unsave()

    def unsave(self) -> List[str]:
        """Take the targets out of targetcli's save file; what was done."""
        names = ", ".join(self.local_targets())
        return [f"{names}: was in {path}, which would bring it back at a boot, and was taken out "
                "of it" for path in savefile.drop(self.local_targets(), self.journal.notes.stores)]

    # ---- copies ---------------------------------------------------------------------------------
    def _keep_copy(self) -> None:
        state = self.here()
        if not self._whole({lun.key: lun.backstore for _, _, lun in state.luns()}):
            return
        if self.handover.role == SOURCE:
            self.unchanged(state)
        document = self._document(state)
        if self.handover.role == SOURCE:
            self._keep(DOCUMENT, document, False)
        else:
            self._keep(RETURNED, self._in_source_names(document), False)

    def _keep(self, name: str, document: Document, stale: bool) -> None:
        self.journal.keep(name, documents.dumps(document))
        self.journal.documents[name] = document
        self.journal.note("kept", digest=runtime.digest(document.state), stale=stale)
        self._aptpl_files(self.local(name))

    def _aptpl_files(self, document: Document) -> None:
        folder = os.path.join(self.fs.read("dbroot").strip(), "pr")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        ports = {(target.wwn, tpg.tag): int(tpg.attributes.get("rtpi", "0"))
                 for target in document.state.targets for tpg in target.tpgs}
        for store in document.state.backstores:
            if store.serial and store.reservations:
                content = reservations.file(store.reservations, ports)
                path = os.path.join(folder, f"aptpl_{store.serial}")
                try:
                    with open(path, "rb") as file:
                        if file.read() == content:
                            continue
                except FileNotFoundError:
                    pass
                write_file(path, content)

    def _keep_paper(self) -> None:
        if self.handover.role == SOURCE:
            self._keep_returned(self.papers[Paper.RETURNED])
            return
        message = self.papers[Paper.DOCUMENT]
        document = documents.loads(message.document, self.core.settings.document_bytes)
        changed = runtime.changes(self.kept(PREPARED).state, document.state)
        if changed:
            raise errors.StructureChanged(
                "the document is not of what was offered: " + executor.describe(changed[0]),
                do="prepare again on the source")
        digest = runtime.digest(document.state)
        notes = self.journal.notes
        stale = notes.loaded[0] == boot_id() and notes.loaded[1] != digest
        self._keep(DOCUMENT, document, stale)

    def _keep_returned(self, message: Message) -> None:
        """The run-time state that comes back goes into what this host knows of the rest."""
        theirs = documents.loads(message.document, self.core.settings.document_bytes)
        mine = self.kept(DOCUMENT)
        stores = []
        for store in mine.state.backstores:
            other = theirs.state.backstore(store.key)
            if other is None:
                raise errors.CannotRepresent(
                    f"{say(store.key)} is not in what comes back: it has another name there",
                    do="lio-handover status")
            stores.append(replace(store, reservations=other.reservations))
        document = replace(mine, state=replace(mine.state, backstores=tuple(stores)))
        stale = self.whole() and self.current() != runtime.digest(document.state)
        self._keep(RETURNED, document, stale)

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

    def commands(self) -> Dict[str, int]:
        """num_cmds of each of the handover's backstores that is here."""
        found = {}
        placed = self.reader(False).placed()
        for key in self.stores():
            path = f"core/{placed[key]}/{key[2]}/statistics/scsi_lu/num_cmds" \
                if key in placed else ""
            if path and self.fs.exists(path):
                found[say(key)] = int(self.fs.read(path))
        return found

    # ---- building up and taking down ------------------------------------------------------------
    def _build(self) -> None:
        self._build_to(self.prepared().state)

    def _build_to(self, state: State) -> State:
        """As much of ``state`` as needs no registrations; what is then here."""
        facts = self.reader().facts()
        want = runtime.staged(state, facts.has_rtpi)
        have = Scope.of(want).read(self.fs)
        if not diff(have, want):
            return have
        if have.targets and plan(have, want, facts).refused:
            self._afresh(want)
            have, facts = Scope.of(want).read(self.fs), self.reader().facts()
        self._run(lambda facts, trusting: plan(have, want, facts, trusting=trusting), have, facts)
        return Scope.of(want).read(self.fs)

    def _run(self, make: Maker, before: State, facts: Facts) -> Plan:
        the_plan, outcome = self.core.run(make, before, facts, self.progress, self.stop)
        self.notes += outcome.notes
        return the_plan

    def _load(self) -> None:
        notes, boot = self.journal.notes, boot_id()
        whole = self.whole()
        if whole and not notes.stale and notes.loading != boot:
            return
        document = self._since(self.durable(), boot)
        digest = runtime.digest(document.state)
        want = runtime.shut(document.state)
        if whole or notes.loading == boot:
            self._afresh(want)
        self._same_storage(document)
        self.journal.note("loading", boot=boot)
        have = self._build_to(want)
        facts = self.reader().facts()
        the_plan = self._run(lambda facts, _trusting: _waiting(want, facts), have, facts)
        if document is not self.durable():
            executor.check(Scope.of(want).read(self.fs, known=the_plan.want, untouched=True),
                           the_plan.want, False)
        try:
            restored.note(self.directory, boot, the_plan.want)
        except OSError as error:
            self.notes.append(f"{self.directory}: {error.strerror}: an export may need --probe")
        if self.vhost:
            self._gate_close()
        self.journal.note("loaded", boot=boot, digest=digest, commands=self.commands())

    def _since(self, document: Document, boot: str) -> Document:
        """The durable copy with what is known of registrations made after it: where the power
        was cut those that survive it are in the APTPL files (SPC-4 5.13.4.2)."""
        served = self.journal.notes.opened
        if not served and self.journal.kept(DOCUMENT) is None:
            served = self.handover.boot_id  # a source that has kept nothing yet
        if not served:
            return document
        if served == boot:
            if not self.names():
                return document
            raise errors.StructureChanged(
                "parts of the target are missing, and what is there may have registrations that "
                "nothing else has", changed="nothing was taken down",
                do="lio-handover show, and put back what is missing")
        stores = []
        for store in document.state.backstores:
            try:
                blocks = reservations.parse_file(self._aptpl_file(store.serial))
            except reservations.Unclear as error:
                raise errors.CannotRepresent(f"{say(store.key)}: {error}") from None
            stores.append(replace(store, reservations=reservations.of_file(
                blocks, store.reservations.generation)))
        return replace(document, state=replace(document.state, backstores=tuple(stores)))

    def _aptpl_file(self, serial: str) -> bytes:
        """The newest APTPL file of a backstore: rtslib moves dbroot (rtslib/root.py)."""
        found = []
        for folder in {self.fs.read("dbroot").strip(), *DBROOTS}:
            path = os.path.join(folder, "pr", f"aptpl_{serial}")
            try:
                with open(path, "rb") as file:
                    found.append((os.fstat(file.fileno()).st_mtime_ns, file.read()))
            except FileNotFoundError:
                continue
        return max(found)[1] if found else b""

    def _same_storage(self, document: Document) -> None:
        """The source has flushed: from here on both must see the same data."""
        found = []
        for store in document.state.backstores:
            found += [one for one in storage.findings(
                store, document.storage.get(say(store.key), {}), self.core.settings)
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
        """Registrations are compared while no initiator can have changed them."""
        from .revival import reachable
        document = self.durable()
        asked = document.state
        want, _notes = reachable(asked)
        never_open = not self.journal.notes.opened
        have = Scope.of(want).read(self.fs, reservations=never_open, known=want,
                                   untouched=never_open)
        if not never_open:
            have, want = runtime.structure(have), runtime.structure(want)
        left = diff(have, want, gates=False)
        if left:
            executor.check(have, want, gates=False)

    def _no_guest(self) -> None:
        """Raises InUse where a guest is attached."""
        if self.vhost and self.guest():
            errors.refuse([errors.Finding(
                errors.InUse, ", ".join(self.local_targets()), "a guest is attached to it",
                do="stop the guest, or let QEMU finish the migration")])

    def _teardown(self) -> None:
        if not self.vhost:
            self._gate_close()
        reader = self.reader(False)
        targets = [f"{fabric}/{wwn}" for fabric, wwn in self.names()]
        placed = reader.placed()
        stores = [say(key) for key in self.stores() if key in placed]
        if not targets and not stores:
            self.journal.note("gone")
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
        executor.apply(self.fs, the_plan, have, facts, self.progress, self.stop,
                       reservations=False)
        staying = {store.key for store in want.backstores}
        gone = [store.key for store in have.backstores if store.key not in staying]
        restored.forget(self.directory, facts.boot_id, gone)
        self.journal.note("gone")
        if self.row.to == "none":
            self._remove_aptpl_files()

    def _aptpl_drop(self) -> None:
        self._remove_aptpl_files()
        self.journal.drop()

    def _remove_aptpl_files(self) -> None:
        """One that stayed would bring its reservations back one day."""
        placed = self.reader(False).placed()
        for name, serial in self.journal.notes.stores.items():
            if not serial or backstore_key(*name.split("/", 1)) in placed:
                continue
            for folder in {self.fs.read("dbroot").strip(), *DBROOTS}:
                try:
                    os.unlink(os.path.join(folder, "pr", f"aptpl_{serial}"))
                except FileNotFoundError:
                    continue


def _waiting(want: State, facts: Facts) -> Plan:
    """What had to wait, of a host that has the staged part of ``want``: planned as for one that
    has nothing of it."""
    placed = facts.placed or {}
    want = replace(want, backstores=tuple(
        replace(one, hba=placed.get(one.key, "")) for one in want.backstores))
    made = plan(State(), want, _without(facts, want), verify=False)
    return replace(made, steps=tuple(step for step in made.steps if step.slot == "folder"
                                     or step.phase == "activate" and step.slot != "gate"))


def _without(facts: Facts, want: State) -> Facts:
    """The facts of a host that has nothing of ``want`` yet."""
    mine = {one.key for one in want.backstores}
    placed = {key: hba for key, hba in (facts.placed or {}).items() if key not in mine}
    hbas = {one.hba for one in want.backstores} - set(placed.values())
    return replace(facts, placed=placed,
                   hbas=tuple(hba for hba in facts.hbas if hba not in hbas))


def _with_gates(target: Target, values: Mapping[str, str]) -> Target:
    return replace(target, tpgs=tuple(
        replace(one, attributes={**one.attributes, "enable": values[str(one.tag)]})
        if str(one.tag) in values else one for one in target.tpgs))

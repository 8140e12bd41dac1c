"""The copies of a handover's targets: documents of what this kernel has, beside the journal."""
from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence

from ..document import document as documents, rename, runtime_state
from ..document.document import Document, Origin
from ..execute.step_runner import Progress, never
from ..kernel.facts import boot_id
from ..model import directories, dynamic_acls as dynamic, reservations
from ..model.keys import display
from ..model.objects import State, Target, kernel_name
from ..protocol.messages import Message
from ..protocol.table import MessageType, Transition
from ..records.journal import DOCUMENT
from ..storage import evidence as storage_evidence, opened
from ..storage.block_devices import HostSnapshot
from ..system.locks import room_for
from . import surviving_registrations
from .context import HandoverContext

#: Where only is looked, there is no row.
NOTHING = Transition("", "", "", "", "", ())


@dataclass
class Copies(HandoverContext):
    """One verb's work on the copies; what came with the verb, and what it has to tell."""

    row: Transition = NOTHING
    messages: Mapping[MessageType, Message] = field(default_factory=dict)
    allow: Sequence[str] = ()
    asserted_by: str = ""
    assertions: FrozenSet[str] = frozenset()
    progress: Optional[Progress] = None
    stop: Callable[[], bool] = never
    sent_messages: List[Message] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    #: target → tag → who is there by a dynamic ACL as a freeze begins
    dynamic: Dict[str, Dict[str, List[str]]] = field(default_factory=dict)
    #: the files that are flushed while they are served, and once more: open meanwhile
    flushing: storage_evidence.Flushing = field(default_factory=storage_evidence.Flushing,
                                                init=False)
    _looks: Optional[opened.Looks] = field(default=None, init=False)

    def looks(self, state: State) -> opened.Looks:
        """A look at the files that backstores have open; all else that is open is found out once a
        verb.  ``state``: a reading of the targets.  A freeze keeps them open for what follows."""
        memory, freezes = self.core.memory, self.row.verb == "freeze"
        if self._looks is None and memory is not None and not freezes \
                and self.remembered() is not None:
            self._looks = memory.looks
        if self._looks is None:
            used = {lun.backstore for _, _, lun in state.all_luns()}
            room_for(min(len(used), storage_evidence.OPEN) if freezes else 0)
            self._looks = opened.Looks(
                asked=self.core.asked,
                served=[store for store in state.backstores if store.key in used],
                there=[f"{hba}/{kernel_name(key)}"
                       for key, hba in self.reader(False).placed().items()])
            if memory is not None and not freezes:
                memory.looks = self._looks
        return self._looks.again(self.flushing, freezes)

    def in_source_names(self, document: Document) -> Document:
        """A document of this host as the source would have written it: the source's own document
        with the registrations of ``document``."""
        maps = rename.parse(self.journal.facts.maps)
        targets = {new: old for old, new in maps.targets.items()}
        initiators = {new: old for old, new in maps.initiators.items()}
        base = self.kept(DOCUMENT)
        stores = []
        for store in base.state.backstores:
            here = document.state.backstore(store.key)
            current = here.reservations if here is not None else store.reservations
            stores.append(replace(store, reservations=replace(current, registrations=tuple(
                replace(registration,
                        initiator=initiators.get(registration.initiator, registration.initiator),
                        target=targets.get(registration.target, registration.target))
                for registration in current.registrations))))
        return replace(base, state=replace(base.state, backstores=tuple(stores)),
                       storage=sampled(base.storage, document.storage))

    def document_of(self, state: State) -> Document:
        """A document of the kernel's ``state``; gates, and initiators that were there by a dynamic
        ACL, are those of the journal."""
        state = replace(state, backstores=tuple(
            replace(backstore,
                    reservations=reservations.with_known_all_tg_pt(backstore.reservations))
            for backstore in state.backstores))
        noted = self.journal.facts
        there = {(*target.key, tag): who for target in state.targets
                 for tag, who in noted.dynamic.get(target.name, {}).items()}
        state, notes = dynamic.with_explicit_acls(state, there)
        gates = noted.shut if self.row.verb == "clear" else noted.gates
        state = replace(state, targets=tuple(with_gates(target, gates.get(target.name, {}))
                                             for target in state.targets))
        here = HostSnapshot()
        evidence = {display(store.key): storage_evidence.evidence(store, True, here, self.flushing)
                    for store in state.backstores}
        self.flushing.close()
        return Document(state, True,
                        Origin(os.uname().nodename, os.uname().release, boot_id()), evidence,
                        notes)

    def open_gates(self) -> Dict[str, Dict[str, str]]:
        """Every gate as it is: what a thaw, or the destination, opens again."""
        gates: Dict[str, Dict[str, str]] = {}
        for path in self.tpgs():
            name, _, tpgt = path.rpartition("/")
            tag = str(directories.tag(name.partition("/")[0], tpgt))
            gates.setdefault(name, {})[tag] = self.fs.read(f"{path}/enable").strip()
        return gates

    def keep(self, name: str, document: Document, stale: bool, data: bytes = b"") -> None:
        """Keep a copy; ``data``: its bytes, where they are at hand; ``stale``: the kernel holds
        something else, which is told before the copy is there, too: else a verb that is killed in
        between leaves a kernel that seems to have it."""
        if stale:
            facts = self.journal.facts
            self.journal.note("kept", digest=self.handover.digest, stale=True, opened=facts.opened)
        data = data or documents.dumps(document)
        self.journal.keep(name, data, document)
        if self.core.memory is not None:
            self.core.memory.keep_document(data, document)
        self.journal.note("kept", digest=runtime_state.digest(document.state), stale=stale)
        surviving_registrations.leave(self, self.local(name))

    def as_kept(self) -> bool:
        """Whether the kernel has just what was kept last, for this process has kept it, and since
        then no gate was open, nobody else has changed any of it, and no command was executed."""
        memory = self.core.memory
        if memory is None or memory.kept is None or self.remembered() is None or self.open_tpgs():
            return False
        now = memory.kept[-1] if memory.just_kept and not self.vhost else self.commands()
        return len(now) == len(self.stores()) \
            and memory.kept == (self.handover.digest, self.fs.gates, now)

    def kept_already(self) -> None:
        """Record that the copy that was kept last is of what is here now."""
        self.journal.note("kept", digest=self.handover.digest, stale=False)
        self.journal.note("left", boot=boot_id(), serials=list(self.journal.facts.left))


def sampled(proofs: Mapping[str, documents.Evidence],
            later: Mapping[str, documents.Evidence]) -> Dict[str, documents.Evidence]:
    """The proofs that storage is the same, with the samples of data taken from ``later`` where it
    has them."""
    data = ("sample", "sample_zero")  # of a companion file, too: protection_sample
    return {name: {**{key: value for key, value in proof.items() if not key.endswith(data)},
                   **{key: value for key, value in later.get(name, {}).items()
                      if key.endswith(data)}} for name, proof in proofs.items()}


def with_gates(target: Target, values: Mapping[str, str]) -> Target:
    return replace(target, tpgs=tuple(
        replace(tpg, attributes={**tpg.attributes, "enable": values[str(tpg.tag)]})
        if str(tpg.tag) in values else tpg for tpg in target.tpgs))

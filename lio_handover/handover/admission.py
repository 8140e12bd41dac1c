"""Which handover a verb is about: known, new, or refused."""
from __future__ import annotations

from typing import Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..actions.build_actions import not_late
from ..document import rename
from ..document.document import Document
from ..execute.executor import Outcome
from ..execute.verify import Scope
from ..host import preflight
from ..host.looked_at import Ready
from ..host.verbs import HostVerbs
from ..model.keys import display
from ..model.objects import State
from ..protocol.authentication import Authentication
from ..protocol.messages import Message, document_in, is_id
from ..protocol.table import DESTINATION, SOURCE, MessageType, Mode
from ..records.journal import PREPARED, Handover, Journal, begun, ids
from ..records.ownership import OwnershipFile, TargetEpochs
from . import next_steps
from .reply import Peer


class Admission:
    """The handovers of one host, and how others begin."""

    def __init__(self, core: HostVerbs, peer: Optional[Peer] = None,
                 alarm: Optional[Callable[[Handover, str], None]] = None) -> None:
        self.core, self.peer, self.alarm = core, peer, alarm
        self.outcome = Outcome()  # of an import by file
        #: targets that are locked, and of which no handover is under way: that was looked at once
        self.free: FrozenSet[str] = frozenset()

    @property
    def _directory(self) -> str:
        return self.core.settings.state_directory

    def list(self) -> List[Handover]:
        """Every handover this host knows, the newest last; in no state where its journal cannot be
        read.  Raises JournalBroken where not even its targets are known."""
        return [journal.handover for journal in self._journals()]

    def _journals(self) -> List[Journal]:
        journals = [Journal(self._directory, name, tolerate_damage=True)
                    for name in ids(self._directory)]
        return sorted(journals, key=lambda journal: journal.handover.since)

    def get(self, id: str) -> Handover:  # noqa: A002 - the D-Bus API's word
        """Raises NoSuchHandover, JournalBroken."""
        return Journal(self._directory, id).handover

    def known(self, id: str) -> Handover:  # noqa: A002
        """The same; of one whose journal cannot be read what it is about, and no state."""
        return Journal(self._directory, id, tolerate_damage=True).handover

    def superseded(self, handover: Handover,
                   owners: Optional[Mapping[str, TargetEpochs]] = None,
                   local: Optional[Sequence[str]] = None) -> bool:
        """Whether for all of its targets, as they are called here, something later counts now.
        ``owners``, ``local``: what the records say, where they were read."""
        if owners is None:
            owners = OwnershipFile(self._directory).load()
        if local is None:
            try:
                local = Journal(self._directory, handover.id, tolerate_damage=True).facts.local
            except errors.HandoverError:
                local = ()
        return all(owners.get(name, TargetEpochs()).handover not in ("", handover.id)
                   for name in local or handover.targets)

    def forget(self, journal: Journal) -> None:
        """A handover that came to nothing goes; what counted before it counts again."""
        OwnershipFile(self._directory).note(journal.facts.local or journal.handover.targets,
                                            ended=journal.id)
        journal.remove()

    def _journal(self, id: str, role: str) -> Journal:  # noqa: A002
        return self._of_role(Journal(self._directory, id), role)

    @staticmethod
    def _of_role(journal: Journal, role: str) -> Journal:
        if journal.handover.role != role:
            raise errors.WrongState(f"this host is the {journal.handover.role} of {journal.id}",
                                    do=f"lio-handover status {journal.id}")
        return journal

    # ---- messages ---
    def authenticate(self, verb: str, role: str, id: str,  # noqa: A002
                     messages: Sequence[Message]) -> Tuple[Authentication, Optional[Journal]]:
        """This host's key, or that it has none, and the journal, where there is one; the messages
        are the other side's and, where there is a key, of this handover and epoch.

        Raises NotAuthentic, StaleEpoch, BadSettings for a key that can't be used.
        """
        key = Authentication.to_say(self.core.settings)
        if verb in ("prepare", "stage"):
            key.usable()
        journal = Journal(self._directory, id) if begun(self._directory, id) else None
        for message in messages:
            key.check(message, role, journal.facts.other if journal else "")
            epoch = journal.handover.epoch if journal and journal.handover.epoch else message.epoch
            if key and (message.handover, message.epoch) != (id, epoch):
                raise errors.StaleEpoch(
                    f"the message {message.type.name.lower()} is of handover {message.handover}, "
                    f"epoch {message.epoch}, not of {id}, epoch {epoch}",
                    do=f"lio-handover status {id}")
        return key, journal

    # ---- beginning ------------------------------------------------------------------------------
    def _admit(self, verb: str, role: str, id: str,  # noqa: A002
               targets: Sequence[str], mode: str, messages: Sequence[Message],
               maps: Sequence[str], peer: str, allow: Sequence[str],
               ready: Optional[Ready], there: Optional[Journal]) -> Tuple[Journal, int]:
        """(the journal, the epoch the verb runs under); a new handover where there is none.
        ``there``: the journal, where there is one."""
        known = there is not None
        if there is not None and verb in ("prepare", "stage", "abort") and not there.handover.state:
            self.forget(there)  # it was cut off before its first state
            known = False
        if verb == next_steps.first(verb, mode, targets) and not known:
            return self._create(id, SOURCE, targets, mode, peer)
        if verb == "import" and ready is not None:
            return self._admit_import(id, messages[0], ready)
        if verb == "adopt" and not known:
            return self._create(id, DESTINATION, targets, mode, peer)
        if verb in ("stage", "abort") and role == DESTINATION and not known:
            return self._admit_offer(verb, id, messages, maps, peer, allow)
        journal = self._of_role(there or Journal(self._directory, id), role)
        handover = journal.handover
        if handover.over and verb in ("prepare", "stage"):
            raise errors.StaleEpoch(f"handover {id} is over: it is {handover.state}",
                                    do="lio-handover source prepare, which begins another")
        if targets and set(targets) != set(handover.targets):
            raise errors.WrongState(f"handover {id} is of {', '.join(handover.targets)}",
                                    do=f"lio-handover status {id}")
        return journal, handover.epoch

    def _create(self, id: str, role: str, targets: Sequence[str],  # noqa: A002
                mode: str, peer: str) -> Tuple[Journal, int]:
        """Begin a handover of targets that this host has."""
        if not is_id(id):
            raise errors.NoSuchHandover(f"{errors.quoted(id)} is no UUID in small letters",
                                        do="leave the id out: one is made")
        if mode not in {choice.value for choice in Mode}:
            raise errors.WrongState(f"there is no mode {errors.quoted(mode)}",
                                    do=f"one of {', '.join(choice.value for choice in Mode)}")
        if not targets:
            raise errors.NoSuchTarget("no target is named", do="lio-handover show")
        names = tuple(f"{fabric}/{wwn}" for fabric, wwn in self.core.names(targets))
        self._ensure_no_other(names)
        state = self.core.outline([(fabric, wwn) for fabric, wwn in self.core.names(targets)])
        owners = OwnershipFile(self._directory).load()
        epoch = 1 + max(owners.get(name, TargetEpochs()).epoch for name in names)
        first = Handover(id, role, "", epoch, mode, names, peer=peer)
        return Journal.create(self._directory, first, {
            display(backstore.key): backstore.serial for backstore in state.backstores}), epoch

    def _admit_import(self, id: str, message: Message,  # noqa: A002
                      ready: Ready) -> Tuple[Journal, int]:
        """A document that somebody brings."""
        state = ready.document.state
        self._ensure_no_other(message.targets)
        first = Handover(id, DESTINATION, "", message.epoch, message.mode, message.targets)
        journal = Journal.create(self._directory, first, {
            display(backstore.key): backstore.serial for backstore in state.backstores})
        journal.keep(PREPARED, message.document, ready.document)
        return journal, message.epoch

    def _ensure_no_other(self, names: Sequence[str]) -> None:
        """No other handover of these targets is under way on this host."""
        if self.free.issuperset(names):
            return
        for journal in self._journals():
            handover = journal.handover
            if not {*handover.targets, *journal.facts.local} & set(names):
                continue
            if journal.damage is not None and not self.superseded(handover):
                raise journal.damage
            if handover.state and not handover.over:
                raise errors.WrongState(
                    f"handover {handover.id} of {', '.join(handover.targets)} is under way: this "
                    f"host is its {handover.role}, {handover.state}",
                    do=f"lio-handover status {handover.id}")

    def _admit_offer(self, verb: str, id: str,  # noqa: A002
                     messages: Sequence[Message], maps: Sequence[str], peer: str,
                     allow: Sequence[str]) -> Tuple[Journal, int]:
        """A handover this host hears of for the first time: its offer, or that it is over."""
        mine = [message for message in messages if message.handover == id]
        if verb == "stage":
            mine = [message for message in mine if message.type is MessageType.OFFER]
        if not mine or not mine[0].targets or not mine[0].mode:
            raise errors.WrongState(
                f"this host has no handover {errors.shown(id) or 'of that id'}, and no message "
                "of the source about it was given",
                do="give the offer" if verb == "stage" else "give any message of the source")
        message = mine[0]
        if message.epoch < 1:
            raise errors.StaleEpoch(f"epoch {message.epoch} is none", do="prepare on the source")
        stores: Dict[str, str] = {}
        document: Optional[Document] = None
        local: Tuple[str, ...] = ()
        if verb == "stage":
            document = document_in(message, self.core.settings.document_bytes)
            here, applied = rename.parse(maps).apply(document)
            maps = [*maps, *rename.device_maps(applied)]
            state = self._can_stage(message, document, here, allow)
            stores = {display(backstore.key): backstore.serial for backstore in state.backstores}
            local = tuple(target.name for target in state.targets)
        first = Handover(id, DESTINATION, "", message.epoch, message.mode, message.targets,
                         peer=peer)
        journal = Journal.create(self._directory, first, stores, tuple(maps), local)
        if document is not None:
            journal.keep(PREPARED, message.document, document)
        return journal, message.epoch

    def _can_stage(self, message: Message, document: Document, local: Document,
                   allow: Sequence[str]) -> State:
        """Refuse an offer that cannot be taken; what is offered, ``local`` in this host's names."""
        owners = OwnershipFile(self._directory).load()
        last = {name: owners.get(name, TargetEpochs()).aborted for name in message.targets}
        last.update((target.name, owners.get(target.name, TargetEpochs()).epoch)
                    for target in local.state.targets)
        for name, epoch in last.items():
            if message.epoch <= epoch:
                raise errors.StaleEpoch(
                    f"{name}: epoch {message.epoch} is over here; the last one was {epoch}",
                    do="lio-handover source thaw, then prepare again")
        if {target.name for target in document.state.targets} != set(message.targets):
            raise errors.BadStructure("the offer is not about the targets in its document",
                                      do="give what prepare answered")
        self._ensure_no_other([target.name for target in local.state.targets])
        reader = self.core.reader()
        facts = reader.facts()
        have = Scope.of(local.state).read(self.core.fs, known=local.state)
        findings = preflight.destination(local, have, reader, facts, self.core.settings,
                                         self.core.wanted_again())
        if Mode(message.mode) is not Mode.ISCSI_LATE:
            findings += not_late(local.state, self.core.settings)
        errors.refuse([finding for finding in findings if finding.error is not errors.NotFrozen],
                      allow)
        if have.targets or have.backstores:
            raise errors.TargetDiffers("the target is on this host already",
                                       do="lio-handover show")
        return local.state

"""Where a handover stands on this host: its journal, its kept documents and the kernel, read.

Nothing here changes anything.  The documents beside the journal are in the source's names; this
host's may differ (``--map``).
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..document import document as documents, rename, runtime_state
from ..document.document import Document
from ..host.verbs import HostVerbs
from ..kernel.configfs import Configfs
from ..kernel.facts import boot_id
from ..kernel.rereader import Rereader
from ..model import directories, fabrics
from ..model.fabrics import Gate
from ..model.keys import backstore_key, display, lun_key, target_key, tpg_key
from ..model.objects import Key, State, kernel_name
from ..model.reservations import FullStatusDescriptor
from ..protocol.authentication import Authentication
from ..protocol.messages import Message, carrying
from ..protocol.table import DESTINATION, SOURCE, VHOST, Action, MessageType, Mode, Transition
from ..records import copy_changes, pr_record, relative_ports as ports
from ..records.journal import (CHANGED, DOCUMENT, PREPARED, RETURNED, SERVED, Handover, Journal,
                               way_out)
from ..records.ownership import OwnershipFile, TargetEpochs
from ..savefile import save_file
from ..scsi.endpoint_holder import Holders

#: Message → the file beside the journal whose bytes it carries.
_CARRIED = {MessageType.OFFER: PREPARED, MessageType.DOCUMENT: DOCUMENT,
            MessageType.RETURNED: RETURNED}


@dataclass
class HandoverContext:
    """One handover on one host; ``epoch`` is the one a verb runs under."""

    core: HostVerbs
    journal: Journal
    epoch: int = 0
    #: what the devices said of registrations, where they were asked by this verb
    full_status: Mapping[Key, Sequence[FullStatusDescriptor]] = field(default_factory=dict,
                                                                      init=False)
    #: what this verb has built, as it was read back, but for registrations; its gates were shut
    built: Optional[State] = field(default=None, init=False)
    #: the targets as this verb has read them, while they were served
    looked_at: Optional[State] = field(default=None, init=False)
    #: the APTPL files that this verb has written: path → content
    left: Dict[str, bytes] = field(default_factory=dict, init=False)
    #: whether this verb has looked at each of them, and all are as the copy that counts has it
    files_left: bool = field(default=False, init=False)
    #: targets for which something later counts, once that was looked at
    _later: Optional[FrozenSet[str]] = field(default=None, init=False)

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
        """Whether any of its targets is a guest's."""
        return self.mode in VHOST or self.mode is Mode.FILE and any(
            fabrics.gate_of(name.partition("/")[0]) is Gate.ENDPOINT
            for name in self.local_targets())

    def reader(self, reserved: bool = True) -> Rereader:
        return Rereader(self.fs, reservations=reserved, full_status=self.full_status, known={
            key: (restored,) for key, restored in pr_record.load(self.directory, boot_id()).items()}
            if reserved else {})

    def names(self) -> List[Tuple[str, str]]:
        """(fabric, WWN) of the handover's targets that this kernel has."""
        return [(fabric, wwn) for name in sorted(self.local_targets()) if self.fs.exists(name)
                for fabric, _, wwn in [name.partition("/")]]

    def stores(self) -> List[Key]:
        """The handover's backstores, as they are called on this host."""
        return [backstore_key(*name.split("/", 1)) for name in self.journal.facts.stores
                if name not in self._others_stores()]

    def local_targets(self) -> Tuple[str, ...]:
        """The targets as they are called on this host; for a handover that is over, only those of
        which no later handover counts."""
        return tuple(name for name in self.journal.facts.local or self.handover.targets
                     if name not in self._others())

    def _others(self) -> FrozenSet[str]:
        """Targets of which a later handover counts, or which were removed."""
        if self._later is None:
            names = self.journal.facts.local or self.handover.targets
            others: FrozenSet[str] = frozenset()
            if len(names) > 1 and self.handover.over:
                owners = OwnershipFile(self.directory).load()
                others = frozenset(name for name in names if owners.get(
                    name, TargetEpochs()).handover not in ("", self.journal.id))
            self._later = others if len(others) < len(names) else frozenset()
        return self._later

    def _others_stores(self) -> FrozenSet[str]:
        """Backstores that only targets of later handovers have."""
        if not self._others():
            return frozenset()
        try:
            mine = {display(store.key) for store in self.durable().state.backstores}
        except errors.JournalBroken:
            return frozenset()  # it has none any more
        return frozenset(name for name in self.journal.facts.stores if name not in mine)

    def _part(self, document: Document) -> Document:
        """A document without the targets of later handovers."""
        if not self._others():
            return document
        state = document.state
        targets = tuple(target for target in state.targets if target.name not in self._others())
        used = {lun.backstore for target in targets for tpg in target.tpgs for lun in tpg.luns}
        return replace(document, state=replace(state, targets=targets, backstores=tuple(
            store for store in state.backstores if store.key in used)))

    def kept(self, name: str) -> Document:
        """A document that was kept, in the source's names."""
        if name not in self.journal.documents:
            data = self.journal.kept(name)
            if data is None:
                raise errors.JournalBroken(f"{self.journal.folder} has no {name}",
                                           do=way_out(self.journal.folder, self.handover.mode))
            try:
                read = self.core.memory.document if self.core.memory else documents.loads
                self.journal.documents[name] = read(data)
            except errors.DocumentError as error:
                raise errors.JournalBroken(
                    f"{self.journal.folder}/{name} can't be read: {error.what}",
                    do=way_out(self.journal.folder, self.handover.mode)) from None
        return self.journal.documents[name]

    def local(self, name: str) -> Document:
        """A document that was kept, in this host's names."""
        if self.handover.role == SOURCE or name == SERVED:
            return self.kept(name)
        here = f"{name} here"
        if here not in self.journal.documents:
            self.journal.documents[here] = rename.parse(self.journal.facts.maps).apply(
                self.kept(name), again=True)[0]
        return self.journal.documents[here]

    def prepared(self) -> Document:
        """The document that was offered, in this host's names."""
        return self.local(PREPARED)

    def durable(self) -> Document:
        """The copy that counts when the kernel has none, in this host's names."""
        return self._part(self._newest())

    def _newest(self) -> Document:
        """The copy that counts, with the targets of later handovers, and what was changed since."""
        known, name = self.journal.documents, self.journal.copy
        if CHANGED not in known:
            known[CHANGED] = copy_changes.applied(self.journal, name, self.local(name))
        return known[CHANGED]

    def with_others(self, document: Document) -> Document:
        """``document``, with the targets of later handovers added from the copy before: a later
        handover may come to nothing, and then these count here again."""
        if not self._others():
            return document
        before = self._newest()
        targets = tuple(target for target in before.state.targets
                        if target.name in self._others())
        used = {lun.backstore for target in targets for tpg in target.tpgs for lun in tpg.luns}
        stores = tuple(store for store in before.state.backstores
                       if store.key in used and document.state.backstore(store.key) is None)
        state = replace(document.state, targets=(*document.state.targets, *targets),
                        backstores=(*document.state.backstores, *stores))
        return replace(document, state=state, storage={
            **document.storage, **{display(store.key): before.storage.get(display(store.key), {})
                                   for store in stores}})

    def as_it_came(self) -> str:
        """The digest of the document the destination is armed with, as the source named it."""
        return runtime_state.digest(self.kept(DOCUMENT).state)

    def remembered(self) -> Optional[State]:
        """The targets as this process has read them in an earlier verb, where nothing has changed
        since but what initiators can change, and gates."""
        return None if self.core.memory is None else self.core.memory.known(self.names())

    def here(self, reserved: bool = True) -> State:
        """The targets as this kernel has them.  The devices are asked where --probe was given and
        configfs does not tell.  Raises CannotRepresent."""
        known = self.remembered()
        try:
            if known is not None:
                return self.reader(reserved).served(known)
            return self.core.read(self.reader(reserved), self.names())
        except errors.CannotRepresent as error:
            if not error.do or self.full_status or not self.journal.facts.probe:
                raise
        self.full_status = self.core.ask(self.names())
        return self.reader(reserved).state(self.names())

    def here_now(self) -> State:
        """As `here`; what nobody changes by being served is as this verb has read it before.  (What
        another program changed since is for the next verb to find, which reads all of it.)"""
        if self.looked_at is None or not self.looked_at.targets or self.remembered() is not None:
            return self.here()
        try:
            return self.reader().served(self.looked_at)
        except (OSError, errors.CannotRepresent):
            return self.here()  # which says what it is

    def as_served(self) -> State:
        """The targets as this kernel has them, without registrations."""
        if self.built is None:
            return self.reader(False).state(self.names())
        gates = {path: self.fs.read(f"{path}/enable").strip() for path in self.tpgs()}
        return replace(self.built, targets=tuple(replace(target, tpgs=tuple(
            replace(tpg, attributes={**tpg.attributes, "enable": gates[path]})
            if path in gates else tpg for tpg in target.tpgs
            for path in [self.tpg(target.fabric, target.wwn, tpg.tag)]))
            for target in self.built.targets))

    def current(self) -> str:
        """The digest of the source's present run-time state: the kernel's, else the kept one."""
        if self.whole():
            return runtime_state.digest(self.here())
        return runtime_state.digest(self.durable().state)

    def whole(self) -> bool:
        """Whether the kernel holds all targets, with every LUN linked, and thereby the
        registrations, unless a load or a removal of them was cut off."""
        if self.journal.facts.loading == boot_id() \
                or not all(self.fs.exists(name) for name in self.local_targets()):
            return False
        known, reader = self.remembered(), self.reader(False)
        links: Dict[Key, Optional[Key]] = {
            lun.key: lun.backstore for _, _, lun in known.all_luns()} if known is not None else {
            lun_key(tpg_key(target_key(fabric, wwn), directories.tag(fabric, tpgt)),
                    directories.lun_number(lun)): store
            for fabric, wwn in [name.split("/", 1) for name in self.local_targets()
                                if self.fs.exists(name)]
            for tpgt, lun, store in reader.links(fabric, wwn)}
        return self.links_are_whole(links) and all(
            self.nexus(self.tpg(target.fabric, target.wwn, tpg.tag)) == tpg.attributes["nexus"]
            for target in self.durable().state.targets for tpg in target.tpgs
            if "nexus" in tpg.attributes)

    def nexus(self, tpg: str) -> str:
        """The nexus of a TPG, "" for none: targetcli cannot save a nexus, and rtslib invents one.
        """
        try:
            return self.fs.read(f"{tpg}/nexus").strip()
        except OSError:
            return ""

    def links_are_whole(self, links: Mapping[Key, Optional[Key]]) -> bool:
        wanted = {lun.key: lun.backstore for _, _, lun in self.durable().state.all_luns()}
        return all(links.get(key) == store for key, store in wanted.items())

    def message(self, message: MessageType) -> Message:
        """The message as this side may say it now, under the present key."""
        digest = ""
        name = _CARRIED.get(message, "")
        if message is MessageType.RETURNED:
            digest = runtime_state.digest(self.kept(RETURNED).state)
        elif message in (MessageType.DOCUMENT, MessageType.ARMED, MessageType.RELEASED):
            digest = self.as_it_came()
        data = self.journal.kept(name) or b"" if name else b""
        told = Message(message, self.journal.id, self.epoch, digest, self.handover.targets,
                       self.handover.mode, data)
        if self.mode is not Mode.FILE:
            told = Authentication.to_say(self.core.settings).signed(told)
        document = self.journal.documents.get(name)
        return told if document is None else carrying(told, document)

    def tpgs(self) -> Iterator[str]:
        """The path of every iSCSI TPG of the handover's targets that is here."""
        for fabric, wwn in self.names():
            for name in self.reader(False).tpgs(fabric, wwn) \
                    if fabrics.gate_of(fabric) is Gate.ENABLE else ():
                yield f"{fabric}/{wwn}/{name}"

    def tpg(self, fabric: str, wwn: str, tag: int) -> str:
        """The path of a TPG, whatever it is called here."""
        target = f"{fabric}/{wwn}"
        names = self.reader(False).tpgs(fabric, wwn) if self.fs.exists(target) else ()
        return f"{target}/" + next((name for name in names if directories.tag(fabric, name) == tag),
                                   f"tpgt_{tag}")

    def open_tpgs(self) -> List[str]:
        return [path for path in self.tpgs() if self.fs.read(f"{path}/enable").strip() == "1"]

    def endpoints(self) -> Iterator[str]:
        """The WWPN of every vhost target of the handover that a guest could attach to: one that
        is here and has a nexus."""
        for fabric, wwn in self.names():
            if fabrics.gate_of(fabric) is Gate.ENDPOINT and any(
                    self.nexus(f"{fabric}/{wwn}/{name}")
                    for name in self.reader(False).tpgs(fabric, wwn)):
                yield wwn

    @property
    def holders(self) -> Holders:
        memory = self.core.memory
        return Holders(self.directory, memory.ready if memory is not None else None)

    def wanted_open(self) -> List[str]:
        """The iSCSI TPGs whose gates were open before the freeze."""
        noted = self.journal.facts.gates
        return [self.tpg(target.fabric, target.wwn, tpg.tag)
                for target in self.durable().state.targets
                if fabrics.gate_of(target.fabric) is Gate.ENABLE
                for tpg in target.tpgs if noted.get(
                    target.name, {}).get(str(tpg.tag), tpg.attributes.get("enable")) == "1"]

    def ports(self) -> ports.Numbers:
        """Path of a TPG → its relative port, of the TPGs that are to be open, where the kernel
        gives each number once."""
        if not self.reader(False).has_rtpi():
            return {}
        numbers = {self.tpg(target.fabric, target.wwn, tpg.tag): tpg.attributes.get("rtpi", "0")
                   for target in self.durable().state.targets for tpg in target.tpgs}
        return {path: numbers[path] for path in self.wanted_open() if numbers[path] != "0"}

    def port_override(self) -> str:
        """A source may go back to serving under another number; a destination has promised one."""
        return ports.OVERRIDE if self.handover.role == SOURCE else ""

    def may_open(self, row: Transition, allow: Sequence[str]) -> None:
        """Raises InUse where a gate that this row opens, or arms, cannot have its relative port:
        before anything is recorded and, on a destination, before the source has released."""
        opens = any(step.action is Action.GATE_OPEN for step in row.steps) or row.verb == "activate"
        if opens:
            errors.refuse(ports.taken(self.reader(False), self.ports_of_shut(),
                                      self.port_override()), allow)

    def ports_of_shut(self) -> Dict[str, str]:
        """`ports`, of the TPGs that are shut now; {} where this host's kernel has no target tree.
        """
        if not self.fs.exists("core"):
            return {}
        still = set(self.open_tpgs())
        return {path: number for path, number in self.ports().items() if path not in still}

    def not_served(self) -> List[str]:
        """The gates that do not serve: the iSCSI TPGs that were open on the source and are
        shut here, and the vhost targets without a guest."""
        wanted, guests = self.wanted_open(), [
            name for name in self.local_targets()
            if fabrics.gate_of(name.partition("/")[0]) is Gate.ENDPOINT]
        if not wanted and not guests:
            return list(self.local_targets())
        return [*sorted({*wanted} - {*self.open_tpgs()}), *sorted({*guests} - {*self.guests()})]

    def guests(self) -> List[str]:
        """The vhost targets to which a guest is attached; our own endpoint holder is none."""
        reader = self.reader(False)
        names = [name for name in self.names() if fabrics.gate_of(name[0]) is Gate.ENDPOINT]
        return [target.name for name in names for target in [reader.target(*name)]
                if reader.attached(target) and self.holders.pid_of(target.wwn) is None]

    def guest(self) -> bool:
        """Whether a guest is attached to any vhost target here."""
        return bool(self.guests())

    def counted(self) -> bool:
        """Whether the commands that were executed in this boot are known from the load on."""
        facts, now = self.journal.facts, self.commands()
        return bool(now) and facts.loaded[0] == boot_id() and set(now) <= set(facts.commands)

    def ran(self) -> bool:
        """Whether a command was executed here since the load."""
        counted = self.journal.facts.commands
        return any(count != counted.get(name, count) for name, count in self.commands().items())

    def stopped(self) -> bool:
        """Whether a clear, as by a stop of its unit, took the targets down in this boot, and no
        program brought them back since."""
        notes, handover = self.journal.facts, self.handover
        return notes.verb == "clear" and notes.gone == boot_id() \
            and not handover.busy and not handover.error \
            and not any(self.fs.exists(name) for name in self.local_targets())

    def unopened(self) -> bool:
        """Whether the targets were loaded in this boot, and no gate of them was opened since."""
        notes = self.journal.facts
        return notes.loaded[0] == boot_id() and not notes.opened \
            and bool(self.wanted_open()) and not self.open_tpgs()

    def in_place(self) -> bool:
        """Whether all targets that are this host's to restore are in the kernel and open.  A gate
        that was seen open in this boot may have been shut since."""
        if not self.whole():
            return False
        return self.journal.facts.opened == boot_id() or (
            set(self.wanted_open()) <= set(self.open_tpgs()) and not any(
                self.holders.pid_of(wwpn) for wwpn in self.endpoints()))

    def settled(self, cut_off: bool) -> bool:
        """Whether recover has nothing to bring back at a boot, for a handover that is over:
        targetcli restored the targets, or they were never in its save file.

        ``cut_off``: the last verb may not have come to put them there.
        """
        if self.handover.role == DESTINATION:
            return self.in_place()
        there, saved = bool(self.names()), bool(self.saved())
        nobodys = not saved and not self.journal.facts.unsaved
        if self.vhost:
            return nobodys and not there and not cut_off
        return there and saved if cut_off else there or nobodys

    def saved(self) -> List[save_file.Entry]:
        """Where targetcli has the targets.  Raises SavefileBroken."""
        return save_file.entries(self.local_targets(), self.core.settings.savefiles)

    def commands(self) -> Dict[str, int]:
        """num_cmds of each of the handover's backstores that is here."""
        counts, known = {}, self.remembered()
        placed = self.reader(False).placed() if known is None else {
            store.key: store.hba for store in known.backstores}
        for key in self.stores():
            if key not in placed:
                continue
            try:
                counts[display(key)] = int(self.fs.read(
                    f"core/{placed[key]}/{kernel_name(key)}/statistics/scsi_lu/num_cmds"))
            except FileNotFoundError:
                continue
        return counts

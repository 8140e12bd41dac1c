"""The steps of a target that is this host's to restore at a boot: how its copy is kept, and how
targetcli gets it back.

The copy is a document in this host's names: ``prepared.json`` of an adoption, else ``served.json``,
which counts before all that came of a handover.
"""
from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import AbstractSet, List, Sequence

from .. import errors
from ..document import document as documents, representable, runtime_state
from ..document.document import Document
from ..host import preflight
from ..kernel.facts import boot_id
from ..kernel.rereader import Keys, PartialReader
from ..model import plugins, pr_texts
from ..model.keys import display, lun_key
from ..model.objects import Backstore, Key, MappedLun, State
from ..model.plugins import Opens
from ..plan import edits
from ..protocol.table import SOURCE
from ..records import copy_changes
from ..records.copy_changes import CopyChange
from ..records.journal import DOCUMENT, PREPARED, RETURNED, SERVED, Journal, ids
from ..records.ownership import OwnershipFile
from ..savefile import outline
from ..savefile.not_saved import lost
from ..storage import opened, protection, trusted
from . import identity, savefile_actions, surviving_registrations
from .copy_actions import Copies

#: Overrides of findings that speak against another host's serving the target, not this one's.
_OF_ANOTHER_HOST = ("stopped-guest", "unseen-data", "pgr-passthrough", "all-tg-pt")


@dataclass
class Adoption(Copies):
    """One verb's work on what is this host's to restore."""

    def _adopt(self) -> None:
        """Keep the served targets as the copy that counts.  Gates stay as they are.  Raises the
        errors of an export."""
        state = self.known()
        against = preflight.source(state, self.reader(False), self.core.settings)
        findings = [finding for finding in against
                    if finding.override not in _OF_ANOTHER_HOST]
        document = self.document_of(state)
        findings += [*representable.findings(document),
                     *opened.findings(state.backstores, self.core.asked,
                                      preflight.looks(self.reader(False)))]
        errors.refuse(findings, self.allow)
        first = not self.handover.state
        if not first and surviving_registrations.lacking(self):
            self.notes.append("somebody else had removed it and made it again; from now on the "
                              f"copy is as it is now: {surviving_registrations.lacks(self)}")
        self.keep_served(document, PREPARED if first else SERVED)

    def known(self) -> State:
        """The targets as the kernel has them.  Where their registrations cannot be told, the state
        has those of the last copy."""
        try:
            return self.here()
        except errors.CannotRepresent:
            if not self.handover.state:
                raise
        state, before = self.here(False), self.durable().state
        self.notes.append("what configfs shows of its registrations is not enough to tell them: "
                          "those of the last copy stay in the new one")
        return replace(state, backstores=tuple(
            replace(store, reservations=old.reservations) if old is not None else store
            for store in state.backstores for old in [before.backstore(store.key)]))

    def keep_served(self, document: Document, name: str = SERVED) -> None:
        """Keep a copy of what is served here: durable when this returns."""
        open_now, part = bool(self.open_tpgs()) or self.vhost, document
        document = self.with_others(part)
        self.journal.keep(name, documents.dumps(document), document)
        self.journal.note(
            "kept", digest=runtime_state.digest(document.state), stale=False,
            # An open gate lets registrations be made after this copy.
            opened=boot_id() if open_now else "",
            stores={display(store.key): store.serial for store in document.state.backstores})
        if self.journal.facts.differs:
            self.journal.note("differs", said=[])  # of the copy before
        if open_now:
            surviving_registrations.seen(self, part)
        else:
            surviving_registrations.leave(self, part)
        identity.note(self)

    def keep_changes(self, changed: AbstractSet[Key], want: State) -> bool:
        """Add to the copy what was changed of its targets, and of their backstores, as the kernel
        has it now: durable when this returns.  ``want``: these objects as they were wished for,
        and what they refer to.  False where the copy has to be kept anew, with all that is looked
        at then.  Raises JournalBroken, DocumentError, StorageMissing."""
        facts, mine, wanted = self.journal.facts, {*self.local_targets()}, want.index()
        keys = {key for key in changed if key[0] == "target" and f"{key[1]}/{key[2]}" in mine}
        if self.handover.state != "confirmed" or facts.stale or facts.differs \
                or facts.loading == boot_id() or any(len(key) == 3 for key in keys) \
                or self._others() or identity.replaced(self) or self._makes_acls():
            return False
        there = keys & wanted.keys()
        objects = {*there, *(lun_key(key[:4], mapped.lun) for key in there
                             for mapped in [wanted[key]] if isinstance(mapped, MappedLun))}
        reader = PartialReader(self.fs, Keys(frozenset(objects)))
        targets = edits.only(reader.state([name for name in self.names() if any(
            key[1:3] == name for key in keys)], (), False, False), objects)
        used = {lun.backstore for _, _, lun in targets.all_luns() if lun.backstore is not None}
        news = {key for key in used if display(key) not in facts.stores}
        stores = {key[:3] for key in changed if key[0] == "backstore"
                  and display(key[:3]) in facts.stores} | news
        state = replace(reader.state((), stores | used, False, False), targets=targets.targets)
        if not self._plain(state.backstores) or reader.exporters(news, mine):
            return False
        gone: List[str] = []
        if any(key[4:5] == ("lun",) and len(key) == 6 for key in keys - there):
            exported = {display(key) for name in self.names()
                        for _tpg, _lun, key in reader.links(*name)}
            gone = [name for name in facts.stores if name not in exported]
        if not copy_changes.append(self.journal, self.journal.copy, CopyChange(
                self.document_of(state), tuple(sorted(there | stores)),
                tuple(sorted(keys - there)))):
            return False
        folders = surviving_registrations.aptpl_folders(self) if news else {}
        new = {display(store.key): store.serial for store in state.backstores if store.key in news}
        if new or gone:
            self.journal.note("changed", stores=new, gone=gone, left=[
                serial for serial in new.values() if serial and any(map(
                    os.path.lexists, surviving_registrations.aptpl_paths(folders, serial)))])
        if facts.opened != boot_id() and self.open_tpgs():
            self.journal.note("opened", boot=boot_id())
        return True

    def _makes_acls(self) -> bool:
        """Whether initiators may have ACLs that a copy makes explicit ones of."""
        return any(self.fs.exists(path) and self.fs.read(path).strip() == "1" for path in (
            f"{tpg}/attrib/generate_node_acls" for tpg in self.tpgs()))

    def _plain(self, stores: Sequence[Backstore]) -> bool:
        """Whether nothing speaks against keeping these backstores in a copy."""
        looks = opened.Looks()
        return not any(plugins.of(store.plugin).opens not in (Opens.FILE, Opens.BLOCK)
                       or protection.companion(store) or looks.plainly_elsewhere(store)
                       or not pr_texts.has_file(store.serial) for store in stores) \
            and not trusted.findings(stores, self.core.settings.fuse)

    def keep_before_clear(self) -> None:
        """Keep a copy of targets that are about to be taken down: their gate is shut.

        Nothing is kept where the targets are gone already, were not all there, were not opened
        since they were loaded from the copy, or are older than it: then the copy before counts.
        Raises StructureChanged where the kernel may have registrations that no copy has.
        """
        there, noted = self.names(), self.journal.facts
        if not there or noted.stale or noted.loading == boot_id() or self.unopened():
            return
        if surviving_registrations.lacking(self):
            self.notes.append("somebody else had removed it and made it again, and "
                              f"{surviving_registrations.lacks(self)}: the copy that was kept "
                              "before counts")
            return
        alone = self.handover.state == "confirmed"  # so anybody may have changed it
        if len(there) < len(self.local_targets()) or not alone and not self.whole():
            raise errors.StructureChanged(
                "parts of the target are missing, and what is there may have registrations that "
                "nothing else has", changed="it is shut, and nothing was taken down",
                do="lio-handover show, and put back what is missing")
        document = self.document_of(self.known())
        if alone:
            self.keep_served(document)
        elif self.handover.role == SOURCE:
            self.keep(RETURNED if self.journal.has(RETURNED) else DOCUMENT, document, False)
        else:
            self.keep(RETURNED, self.in_source_names(document), False)

    def before_clear(self) -> None:
        """Record which gates are open, before the first of them is shut: restore opens those."""
        if not self._clear_is_unfinished():
            self.journal.note("shutting", durable=True, gates=self.open_gates())

    def before_adopt(self) -> None:
        """Refuse to keep a copy of targets that are not all there.  Raises StructureChanged."""
        missing = [name for name in self.local_targets() if not self.fs.exists(name)]
        if missing or self.handover.state and (
                self.journal.facts.loading == boot_id() or self._clear_is_unfinished()):
            raise errors.StructureChanged(
                f"{', '.join(missing) or ', '.join(self.local_targets())} is not all here, so a "
                "copy of it would be worth less than the one that is kept",
                do=f"lio-handover recover {self.journal.id}; or, of what nobody shall serve, "
                   "lio-handover remove")

    def _clear_is_unfinished(self) -> bool:
        return self.journal.facts.verb == "clear" and bool(
            self.handover.busy or self.handover.error)

    def _savefile_give(self) -> None:
        """Put the target into targetcli's save file.  Attributes that the file cannot hold are
        told, and refused unless ``allow`` has not-saved.  Raises InUse, SavefileBroken."""
        if not self.in_place() or not self.names():
            raise errors.InUse(
                f"{', '.join(self.local_targets())}: is not served here as it should be, so it "
                "can't be given back", do=f"lio-handover recover {self.journal.id}, then again")
        state = self.known()
        findings = [errors.Finding(errors.CannotRepresent, subject, what, "not-saved",
                                   "leave it with lio-handover")
                    for subject, what in lost(state)]
        errors.refuse(findings, self.allow)
        self.notes += [f"{finding.subject}: {finding.sentence}" for finding in findings]
        anew = savefile_actions.unreadable(self)
        paths = savefile_actions.give(self, state)
        if not paths:
            raise errors.SavefileBroken(
                "this host has no targetcli save file that it could be given back to",
                do="install targetcli, or leave it with lio-handover")
        self.notes += filter(None, [anew])
        self.journal.note("saved", paths=paths, why="")
        self.notes.append(f"{', '.join(self.local_targets())}: in {', '.join(paths)}: targetcli "
                          "restores it from now on")

    def differences(self) -> List[str]:
        """A line for each target that targetcli's save file has otherwise than the copy: one of the
        two was changed later.  The lines are for people, at a boot, which no error here may stop.
        """
        try:
            targets = self.durable().state.targets
        except errors.JournalBroken as error:
            return [error.what]
        told = [f"{name}: it is restored as it was when its copy was kept; {path} {what}; that "
                "file as it was is in backup/ beside it; next: compare, then lio-handover adopt "
                f"{name}"
                for path, name, what in outline.differences(
                    targets, self.core.settings.savefiles)]
        if told or self.journal.facts.differs:
            try:
                self.journal.note("differs", said=told)
            except errors.JournalBroken:
                pass  # it is told now
        return told

    def counts_again(self) -> None:
        """Where a handover ended where it began, its targets are this host's to restore again, if
        they were so before it."""
        owners = OwnershipFile(self.directory)
        known = set(ids(self.directory))
        for name, owner in owners.load().items():
            if owner.handover == self.journal.id and owner.before in known and Journal(
                    self.directory, owner.before,
                    tolerate_damage=True).handover.state == "confirmed":
                owners.note([name], ended=self.journal.id)

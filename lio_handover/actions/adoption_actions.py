"""The steps of a target that is this host's to restore at a boot: how its copy is kept, and how
targetcli gets it back.

The copy is a document in this host's names: ``prepared.json`` of an adoption, else ``served.json``,
which counts before all that came of a handover.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List

from .. import errors
from ..document import document as documents, representable, runtime_state
from ..document.document import Document
from ..host import preflight
from ..kernel.facts import boot_id
from ..model.objects import State, say
from ..records.journal import PREPARED, RETURNED, SERVED, Journal, ids
from ..records.ownership import Owners
from ..savefile import outline
from ..savefile.not_saved import lost
from ..storage import opened
from . import identity, savefile_actions, surviving_registrations
from .copy_actions import Copies

#: What speaks against another host's serving it, and not against this one's.
_OF_ANOTHER_HOST = ("stopped-guest", "unseen-data", "pgr-passthrough", "all-tg-pt")


@dataclass
class Adoption(Copies):
    """One verb's work on what is this host's to restore."""

    def _adopt(self) -> None:
        """Keep what is here as the copy that counts.  Its gates stay as they are.  Raises what an
        export raises."""
        state = self.known()
        findings = [one for one in preflight.source(state, self.reader(False))
                    if one.override not in _OF_ANOTHER_HOST]
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
        """What is here; where its registrations can't be told, with those of the copy."""
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
        self.journal.keep(name, documents.dumps(document))
        self.journal.documents[name] = document
        self.journal.note(
            "kept", digest=runtime_state.digest(document.state), stale=False,
            # An open gate lets registrations be made after this copy.
            opened=boot_id() if open_now else "",
            stores={say(store.key): store.serial for store in document.state.backstores})
        if self.journal.facts.differs:
            self.journal.note("differs", said=[])  # of the copy before
        if open_now:
            surviving_registrations.seen(self, part)
        else:
            surviving_registrations.leave(self, part)
        identity.note(self)

    def keep_before_clear(self) -> None:
        """Keep a copy of what is about to be taken down: its gate is shut.  Nothing to do where it
        is gone already, was not all there, or was not opened since it was loaded from the copy:
        then the copy that counts is the one before.  Raises StructureChanged where what is there
        may have registrations that nothing else has."""
        there = self.names()
        if not there or self.journal.facts.loading == boot_id() or self.unopened():
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
        else:
            self.keep(RETURNED, self.in_source_names(document), False)

    def before_clear(self) -> None:
        """Note which gates are open, before the first of them is shut: restore opens those."""
        if not self._clear_is_unfinished():
            self.journal.note("shutting", durable=True, gates=self.open_gates())

    def before_adopt(self) -> None:
        """Refuse to keep a copy of what is not all there.  Raises StructureChanged."""
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
        """Put the target into targetcli's save file.  What the file can't hold is told, and refused
        unless that is allowed.  Raises InUse, SavefileBroken."""
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
        """What targetcli's save file has of these targets other than the copy: one of the two was
        changed later.  For people, at a boot, which it must not stop."""
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
        """Of a handover that ended where it began: targets that were this host's to restore before
        it are so again."""
        owners = Owners(self.directory)
        known = set(ids(self.directory))
        for name, one in owners.load().items():
            if one.handover == self.journal.id and one.before in known and Journal(
                    self.directory, one.before, partly=True).handover.state == "confirmed":
                owners.note([name], over=self.journal.id)

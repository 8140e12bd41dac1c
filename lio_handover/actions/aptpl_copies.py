"""A copy of the APTPL files that follows them while a target of a handover may be served here.

``followed.json`` in the handover's folder, beside the documents: ``{"version", "boot", "at",
"kept", "ended", "files": {serial: {"at", "mtime", "data"}}}``.  It has what the kernel wrote since
the document with the digest ``kept`` was; a document that is kept later ends it.  A file is synced
before the copy follows it: one that is whole after a power cut is never older than the copy.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, List, Optional, Tuple

from .. import errors
from ..document.document import Document
from ..host.verbs import HostVerbs
from ..kernel.facts import boot_id
from ..model import dynamic_acls, fabrics, pr_texts
from ..model.objects import Backstore
from ..model.pr_texts import AptplFile
from ..protocol.pr_survival import FOLLOWED
from ..records.journal import DOCUMENT, FOLLOWED as NAME, PREPARED, RETURNED, Journal, ids
from ..records.record_kinds import VERSION
from ..system.atomic_file import fsync_folder
from . import identity
from .context import HandoverContext

#: The verbs that bring the copy up to date; others keep a document, or are in a hurry.
CATCH_UP = ("verify", "confirm", "recover")


@dataclass(frozen=True)
class FollowedFile:
    """One backstore's APTPL file: when it was seen (seconds), when it was written (nanoseconds),
    and its bytes."""

    at: float
    mtime_ns: int
    data: bytes


@dataclass(frozen=True)
class Followed:
    """All copies of a handover.  ``boot``: the boot id of the kernel that is followed; ``ended``:
    whether the service stopped following; ``kept``: the digest of the document before the copies;
    ``files``: unit serial → copy."""

    boot: str
    at: float
    kept: str
    ended: bool = False
    files: Dict[str, FollowedFile] = field(default_factory=dict)


def load(journal: Journal) -> Optional[Followed]:
    """The copies since the last document; None where the service followed nothing since."""
    followed = _read(journal)
    return followed if followed is not None and followed.kept == journal.handover.digest else None


def unread(journal: Journal) -> str:
    """A sentence on copies that cannot be read, or "" where they can, or none are there.  The file
    is written whole, so a disk has lost it."""
    return f"{os.path.join(journal.folder, NAME)} can't be read: what the kernel wrote of " \
        "registrations since the last copy was kept is known of its APTPL files alone" \
        if journal.has(NAME) and _read(journal) is None else ""


def _read(journal: Journal) -> Optional[Followed]:
    import json
    data = journal.kept(NAME)
    try:
        tree = json.loads(data or b"")
        if tree["version"] != VERSION:
            return None
        return Followed(tree["boot"], float(tree["at"]), tree["kept"], bool(tree["ended"]), {
            serial: FollowedFile(float(entry["at"]), int(entry["mtime"]), entry["data"].encode())
            for serial, entry in tree["files"].items()})
    except errors.MISSHAPEN:
        return None


def _save(journal: Journal, followed: Followed) -> None:
    import json
    tree: Dict[str, Any] = {
        "version": VERSION, "boot": followed.boot, "at": followed.at, "kept": followed.kept,
        "ended": followed.ended,
        "files": {serial: {"at": file.at, "mtime": file.mtime_ns, "data": file.data.decode()}
                  for serial, file in followed.files.items()}}
    journal.keep_beside(NAME, json.dumps(tree, sort_keys=True).encode() + b"\n")


def wanted(journal: Journal, boot: str) -> bool:
    """Whether a handover's target may be served here by a kernel that has what it should."""
    handover, notes = journal.handover, journal.facts
    return journal.damage is None and handover.state in FOLLOWED.get(handover.role, ()) \
        and boot in (notes.kept_in, notes.opened, notes.loaded[0], notes.survived) \
        and any(journal.has(name) for name in (RETURNED, DOCUMENT, PREPARED))


def expected(document: Document) -> Dict[str, AptplFile]:
    """Unit serial → the APTPL file that the kernel would write for the document."""
    return {store.serial: pr_texts.parse_aptpl(pr_texts.aptpl_text(store.reservations, {}))
            for store in document.state.backstores if store.serial}


def same(file: AptplFile, other: AptplFile) -> bool:
    """Whether two files that say something say the same, in whatever order."""
    return file.kind is other.kind and set(file.blocks) == set(other.blocks)


class Reach:
    """A document's paths: which initiators reach which backstore through which LUN."""

    def __init__(self, document: Document) -> None:
        self.ports = {(pr_texts.compared_wwn(target.wwn), tpg.tag, lun.number):
                      (tpg, lun.backstore) for target, tpg, lun in document.state.all_luns()}
        self.mapped = {(*tpg.key, acl.initiator, lun.number, lun.lun)
                       for target in document.state.targets for tpg in target.tpgs
                       for acl in tpg.acls for lun in acl.mapped_luns}

    def ours(self, file: AptplFile, store: Backstore) -> bool:
        """Whether all registrations of the file are possible: they are of this backstore's LUNs,
        and of initiators that reach these."""
        for registration, _holds, _type in file.blocks:
            tpg, key = self.ports.get(
                (registration.target, registration.tpgt, registration.lun), (None, None))
            if tpg is None or key != store.key:
                return False
            if fabrics.of(tpg.fabric).logins and not dynamic_acls.generates_acls(tpg) and (
                    *tpg.key, registration.initiator, registration.mapped_lun,
                    registration.lun) not in self.mapped:
                return False
        return True


@dataclass
class _Known:
    """A handover as it was at the last look."""

    journal: Tuple[int, int]
    since: Tuple[str, str]  # the digest of the copy, the boot of the gate
    wanted: bool
    serials: Tuple[str, ...]
    #: serial → what tells whether its file is still the same
    seen: Dict[str, Tuple[int, int, int]] = field(default_factory=dict)


class Follower:
    """Looks at the APTPL files of all handovers of this host, and updates their copies."""

    def __init__(self, core: HostVerbs) -> None:
        self.core, self.directory = core, core.settings.state_directory
        self._known: Dict[str, _Known] = {}
        self.folder = ""  # where the kernel writes

    def look(self) -> None:
        """Bring every copy up to date."""
        self.find_folder()
        there = set(ids(self.directory)) if self.folder else set()
        for name in {*self._known} - there:
            del self._known[name]
        for name in sorted(there):
            try:
                self.follow(name)
            except (OSError, errors.HandoverError):
                continue  # it goes, or its disk is full: another look may tell

    def find_folder(self) -> None:
        try:
            self.folder = os.path.join(self.core.fs.read("dbroot").strip(), "pr")
        except (OSError, errors.HandoverError):
            self.folder = ""  # the kernel has no targets

    def follow(self, name: str, passing: bool = False) -> None:
        """Bring the copy of one handover up to date.  ``passing``: a verb calls, which does not
        stay to follow.  Raises OSError, HandoverError."""
        path = os.path.join(self.directory, "handovers", name, "journal")
        journal_stat = os.stat(path)
        key = (journal_stat.st_mtime_ns, journal_stat.st_size)
        known = self._known.get(name)
        if known is None or known.journal != key:
            journal = Journal(self.directory, name, tolerate_damage=True)
            since = journal.handover.digest, journal.facts.opened
            known = _Known(
                key, since, wanted(journal, boot_id()),
                tuple(sorted({serial for serial in journal.facts.stores.values() if serial})),
                known.seen if known is not None and known.since == since else {})
            self._known[name] = known
        if not known.wanted:
            return
        changed = {}
        for serial in known.serials:
            stamp = _stamp(os.path.join(self.folder, f"aptpl_{serial}"))
            if stamp is not None and stamp != known.seen.get(serial):
                changed[serial] = stamp
        if changed or not known.seen:
            self._keep(name, changed, passing)
            known.seen.update(changed)

    def _keep(self, name: str, changed: Iterable[str], passing: bool) -> None:
        """Have these files in the copy."""
        files = {serial: file for serial in changed for file in [self._file(serial, False)]
                 if file is not None}
        with Journal(self.directory, name, tolerate_damage=True).following():
            self._write(name, files, passing)

    def _file(self, serial: str, synced: bool) -> Optional[Tuple[AptplFile, bytes]]:
        """(a backstore's file as it is read, its bytes), where it says something; ``synced``: once
        that is on the disk."""
        data = _read_file(os.path.join(self.folder, f"aptpl_{serial}"), synced)
        if data is None:
            return None
        file = pr_texts.parse_aptpl(data[1])._replace(mtime_ns=data[0])
        return (file, data[1]) if file.says else None

    def _write(self, name: str, files: Dict[str, Tuple[AptplFile, bytes]], passing: bool) -> None:
        """Write the copy, once what is new in it is on the disk as the kernel wrote it.  The
        journal is read again: a document that was kept or dropped meanwhile ends the copies before
        it."""
        journal = Journal(self.directory, name, tolerate_damage=True)
        if not wanted(journal, boot_id()):
            return
        before, now = load(journal), time.time()
        followed = before if before is not None and before.boot == boot_id() else Followed(
            boot_id(), now, journal.handover.digest, passing,
            before.files if before is not None else {})
        if not passing:
            followed = replace(followed, ended=False)
        context = HandoverContext(self.core, journal)
        if identity.replaced(context):
            return  # the file may be of what somebody else made
        document = context.durable()
        kept, reach = expected(document), Reach(document)
        stores = {store.serial: store for store in document.state.backstores}

        def newer(serial: str, file: AptplFile, data: bytes) -> bool:
            previous = followed.files.get(serial)
            if serial not in stores or not reach.ours(file, stores[serial]) \
                    or previous is not None and file.mtime_ns < previous.mtime_ns:
                return False  # the kernel did not write that
            if previous is None and serial in kept and same(file, kept[serial]):
                return False  # as the document has it
            return previous is None or previous.data != data

        synced = {serial: self._file(serial, True) for serial, (file, data) in files.items()
                  if newer(serial, file, data)}
        if synced:
            fsync_folder(self.folder)
        more = {serial: FollowedFile(now, content[0].mtime_ns, content[1])
                for serial, content in synced.items()
                if content is not None and newer(serial, *content)}
        if more:
            followed = replace(followed, at=now, files={**followed.files, **more})
        if followed != before:
            _save(journal, followed)

    def end(self) -> None:
        """Stop following: the copies have all that was followed until now."""
        self.look()
        for name in [name for name, known in self._known.items() if known.wanted]:
            try:
                journal = Journal(self.directory, name, tolerate_damage=True)
                with journal.following():
                    followed = load(journal)
                    if followed is not None and not followed.ended:
                        _save(journal, replace(followed, ended=True))
            except (OSError, errors.HandoverError):
                continue  # then it seems to have been followed, which decides nothing

    @property
    def folders(self) -> List[str]:
        """The folder of the APTPL files, where any handover is followed."""
        return [self.folder] if any(known.wanted for known in self._known.values()) else []


def catch_up(core: HostVerbs, verb: str, journal: Journal) -> None:
    """Update the copy of one handover, by a verb that has its lock: the service may not run."""
    if verb not in CATCH_UP or not wanted(journal, boot_id()) \
            or not HandoverContext(core, journal).whole():
        return
    follower = Follower(core)
    try:
        follower.find_folder()
        if follower.folder:
            follower.follow(journal.id, passing=True)
    except (OSError, errors.HandoverError):
        pass  # the verb itself says what is wrong


def _stamp(path: str) -> Optional[Tuple[int, int, int]]:
    try:
        file_stat = os.stat(path)
    except OSError:
        return None
    return file_stat.st_ino, file_stat.st_mtime_ns, file_stat.st_size


def _read_file(path: str, synced: bool) -> Optional[Tuple[int, bytes]]:
    """(when it was written, its bytes) of a file; ``synced``: once that is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        seen = os.fstat(fd)
        data = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
        if synced:
            os.fsync(fd)
        return seen.st_mtime_ns, data
    except OSError:
        return None
    finally:
        os.close(fd)

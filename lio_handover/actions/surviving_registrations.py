"""Which registrations survive a kernel that had them: the facts for pr_survival.TABLE.

The facts are the APTPL file of each backstore, the kept document, and the copy that followed the
file.  The table says which of them counts; where none does, an operator is asked.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence

from .. import errors
from ..document import runtime_state
from ..document.document import Document
from ..execute.verify import describe
from ..kernel.facts import boot_id
from ..model import pr_texts, reservations
from ..model.keys import display
from ..model.objects import NO_RESERVATIONS, Backstore, Reservations
from ..model.pr_texts import AptplFile, Kind
from ..protocol.pr_survival import (FOLLOWED, KEPT_OVERRIDE, NONE_OVERRIDE, Copy, File, Keeps,
                                    Kernel, Survival, Takes, decide)
from ..protocol.table import DESTINATION, SOURCE
from ..records.journal import DOCUMENT, PREPARED, RETURNED, SERVED
from ..system.atomic_file import fsync_folder, read_file, write_files
from . import aptpl_copies, identity
from .context import HandoverContext

#: Where kernels and rtslib keep APTPL files (target_core_configfs.c, rtslib/root.py).
DBROOTS = ("/var/target", "/etc/target", "/etc/rtslib-fb-target")
#: Folder → the names in it; None where it can't be listed.
Folders = Mapping[str, Optional[FrozenSet[str]]]


@dataclass(frozen=True)
class Verdict:
    """The table's answer for one backstore.  ``reservations`` are those to open with; where the
    answer is ASK, those of the newest copy.  ``what`` says how file and copy are."""

    store: Backstore
    answer: Survival
    takes: Takes
    reservations: Reservations
    what: str
    in_the_way: str = ""  # where the kernel could not write its file


def since(context: HandoverContext, allow: Sequence[str], notes: List[str]) -> Document:
    """The durable copy, with what is known of registrations made after it (SPC-4 5.13.4.2).

    Raises StructureChanged where what is left in the kernel may have the only ones, and Undecided
    where nothing says which there were and ``allow`` does not; adds to ``notes`` what was not as
    a file that is whole says it.
    """
    document, opened, boot = context.durable(), _opened(context), boot_id()
    if not opened and context.journal.facts.kept_in == boot and (
            context.files_left or _untouched(context, document)):
        return document  # nothing came in between
    notes += filter(None, [aptpl_copies.unread(context.journal)])
    # Targets that another program removed and made again have none of their registrations left.
    parts = opened == boot and len(identity.replaced(context)) < len(context.names())
    verdicts = _verdicts(context, document, Kernel.PARTS if parts else Kernel.REBOOTED)
    if any(verdict.answer is Survival.STAY for verdict in verdicts):
        raise errors.StructureChanged(
            "parts of the target are missing, and what is there may have registrations that "
            "nothing else has", changed="nothing was taken down",
            do="lio-handover show, and put back what is missing")
    stores, asked = [], []
    for verdict in verdicts:
        surviving, name = verdict.reservations, display(verdict.store.key)
        if verdict.answer is Survival.ASK:
            if verdict.in_the_way:
                asked.append(errors.Finding(
                    errors.Undecided, name, f"{verdict.what}: nor could the kernel write it",
                    do=f"move {verdict.in_the_way} away, then again"))
            elif KEPT_OVERRIDE in allow:
                notes.append(f"{name}: {verdict.what}; on the word that was given the copy's "
                             "registrations are taken")
            elif NONE_OVERRIDE in allow:
                surviving = NO_RESERVATIONS
                notes.append(f"{name}: {verdict.what}; on the word that was given there are no "
                             "registrations any more")
            else:
                asked.append(errors.Finding(
                    errors.Undecided, name,
                    f"{verdict.what}: so what registrations there were last "
                    "is not known, and one of the copy may have been preempted since",
                    KEPT_OVERRIDE, f"lio-handover recover {context.journal.id} --allow "
                    f"{NONE_OVERRIDE} to begin with none"))
        elif verdict.what and (surviving != verdict.store.reservations
                               or verdict.takes is Takes.COPY):
            notes.append(f"{name}: {verdict.what}: it is served with {_count(surviving)}")
        stores.append(replace(verdict.store, reservations=surviving))
    try:
        errors.refuse(asked)
    except errors.Undecided as error:
        error.changed = "it is shut, and nothing was loaded"
        raise
    if tuple(stores) == document.state.backstores:
        return document
    return replace(document, state=replace(document.state, backstores=tuple(stores)))


def lacking(context: HandoverContext) -> bool:
    """Whether targets that another program brought back in this boot, as targetcli's restore does
    from the APTPL files, have fewer registrations than the table says, or differ otherwise from the
    copy.  Where nothing is lacking, the journal records that."""
    if not looked_for(context):
        return False
    if lacks(context):
        return True
    if context.whole():
        context.journal.note("survived", boot=boot_id())
        identity.note(context)
    return False


def looked_for(context: HandoverContext) -> bool:
    """Whether the targets that are here may be another program's."""
    journal, boot = context.journal, boot_id()
    handover, notes = journal.handover, journal.facts
    if handover.state not in FOLLOWED[handover.role] or notes.loading == boot \
            or not any(journal.has(name) for name in (SERVED, RETURNED, DOCUMENT, PREPARED)):
        return False
    if handover.state != "idle" and identity.replaced(context):
        return True
    return boot not in (notes.kept_in, notes.opened, notes.loaded[0], notes.survived)


def lacks(context: HandoverContext) -> str:
    """How targets that may be another program's differ from the copy, or ""."""
    replaced = context.handover.state != "idle" and bool(identity.replaced(context))
    if not context.whole():
        return "parts of it are missing" if replaced else ""
    document, placed = context.durable(), context.reader(False).placed()
    for verdict in _verdicts(context, document, Kernel.REBOOTED):
        store = verdict.store
        path = f"core/{placed.get(store.key, '')}/{store.name}/pr/res_pr_registered_i_pts"
        registrations, cut = pr_texts.parse_registered(context.fs.read(path)) \
            if context.fs.exists(path) else ([], False)
        have = {(shown.initiator, shown.isid, shown.key) for shown in registrations}
        want = {(registration.initiator, registration.isid, registration.key)
                for registration in verdict.reservations.registrations}
        if not cut and not want <= have:
            return f"{display(store.key)} has {len(want & have)} of {len(want)} registrations"
    changed = runtime_state.structural_changes(
        document.state, context.here(False)) if replaced else ()
    return f"it is not as it was: {describe(changed[0])}" if changed else ""


def _untouched(context: HandoverContext, document: Document) -> bool:
    """Whether no APTPL file says anything else than the document: else somebody opened the gate."""
    folders = aptpl_folders(context)
    return all(not file.says or aptpl_copies.same(file, kept)
               for serial, kept in aptpl_copies.expected(document).items()
               for file in [pr_texts.newest(aptpl_paths(folders, serial))])


def _opened(context: HandoverContext) -> str:
    """The boot in which the gate was open since the copy was kept, or ""."""
    journal = context.journal
    if not journal.facts.opened and journal.handover.role == SOURCE \
            and not journal.has(DOCUMENT):  # it served all the time
        return journal.facts.kept_in or journal.handover.boot_id
    return journal.facts.opened


def _verdicts(context: HandoverContext, document: Document, kernel: Kernel) -> List[Verdict]:
    opened, copies = _opened(context), aptpl_copies.load(context.journal)
    left, reach = aptpl_copies.expected(document), aptpl_copies.Reach(document)
    made_at = identity.made_at(context)
    kept_at, folders = _written(context), aptpl_folders(context)
    verdicts = []
    for store in document.state.backstores:
        follows = copies.files.get(store.serial) if copies is not None else None
        file = pr_texts.newest(aptpl_paths(folders, store.serial)) if store.serial \
            else AptplFile(Kind.MISSING)
        surviving, keeps, at = store.reservations, store.reservations.aptpl, kept_at
        if follows is not None:
            copy = pr_texts.parse_aptpl(follows.data)
            surviving, keeps, at = _of(copy, document, store), copy.kind is Kind.WHOLE, follows.at
        age = Copy.OLDER
        if not opened and follows is None and (
                not file.says
                or store.serial in left and aptpl_copies.same(file, left[store.serial])):
            age = Copy.CURRENT  # else somebody else opened it
        elif copies is not None and copies.boot == opened and not copies.ended:
            age = Copy.FOLLOWED
        kind = _kind(file, follows, store, reach, context)
        if kind in (File.WHOLE, File.PLACEHOLDER) and made_at is not None \
                and file.mtime_ns > made_at and not _as_copied(file, follows, left, store):
            kind = File.FOREIGN
        row = decide(kernel, Keeps.ON if keeps else Keeps.OFF, kind, age)
        what = _what(file, kind, age, at, surviving, store, reach)
        if row.takes is Takes.FILE:
            what = ""
            if store.serial not in left or not aptpl_copies.same(file, left[store.serial]):
                surviving = _of(file, document, store)
            else:
                surviving = store.reservations
        elif row.takes is Takes.NONE:
            what = f"its APTPL file {_why(file)}" if store.reservations.registrations else ""
            surviving = NO_RESERVATIONS
        elif row.takes is Takes.COPY and (file.says or not surviving.registrations):
            what = ""
        verdicts.append(Verdict(store, row.answer, row.takes, surviving, what,
                                file.path if file.kind is Kind.UNREADABLE else ""))
    return verdicts


def _as_copied(file: AptplFile, follows: Optional[aptpl_copies.FollowedFile],
               left: Dict[str, AptplFile], store: Backstore) -> bool:
    """Whether the file says no other than the newest copy."""
    if follows is not None:
        return aptpl_copies.same(file, pr_texts.parse_aptpl(follows.data))
    return store.serial in left and aptpl_copies.same(file, left[store.serial])


def _kind(file: AptplFile, follows: Optional[aptpl_copies.FollowedFile], store: Backstore,
          reach: aptpl_copies.Reach, context: HandoverContext) -> File:
    if file.kind is Kind.MISSING:
        there = store.serial in context.journal.facts.left or follows is not None
        return File.GONE if there else File.NEVER
    if file.kind in (Kind.BROKEN, Kind.UNREADABLE):
        return File.BROKEN
    if follows is not None and file.mtime_ns < follows.mtime_ns \
            and not aptpl_copies.same(file, pr_texts.parse_aptpl(follows.data)):
        return File.OLDER
    if file.kind is Kind.PLACEHOLDER:
        return File.PLACEHOLDER
    return File.WHOLE if reach.ours(file, store) else File.FOREIGN


def _of(file: AptplFile, document: Document, store: Backstore) -> Reservations:
    parsed = reservations.from_aptpl(file.blocks, store.reservations.generation)
    return replace(parsed, registrations=reservations.named(
        parsed.registrations, (target.wwn for target in document.state.targets)))


def _what(file: AptplFile, kind: File, age: Copy, at: float, surviving: Reservations,
          store: Backstore, reach: aptpl_copies.Reach) -> str:
    """How the file and the copy are, in words."""
    said = _why(file)
    if kind is File.FOREIGN:
        said = f"{file.path} " + (
            "names a port or an initiator that this backstore does not have"
            if not reach.ours(file, store) else
            "was written after somebody else had made the target again")
    elif kind is File.OLDER:
        said = f"{file.path} was written before what the copy has of it"
    if not store.serial:
        said = "can't be told from others': the backstore has no unit serial"
    how = {Copy.CURRENT: "since which the gate was not open",
           Copy.FOLLOWED: "which followed the file", Copy.OLDER: "and did not follow the file"}[age]
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    return (f"its APTPL file {said}; the copy kept here is of {stamp}, {how}, and has "
            f"{_count(surviving)}")


def _why(file: AptplFile) -> str:
    """The rest of a sentence about the file."""
    said = file.why or file.kind.value
    return f"{file.path} {said}" if file.path else said


def _count(surviving: Reservations) -> str:
    number = len(surviving.registrations)
    return f"{number} registration{'s' * (number != 1)}" if number else "no registrations"


def _written(context: HandoverContext) -> float:
    """When the copy that counts was kept, by the clock of then."""
    for name in (SERVED, RETURNED, DOCUMENT, PREPARED):
        try:
            return os.stat(os.path.join(context.journal.folder, name)).st_mtime
        except OSError:
            continue
    return 0.0


# ---- the files ----------------------------------------------------------------------------------
def aptpl_folders(context: HandoverContext) -> Folders:
    """The folders where APTPL files may be, and what is in them: rtslib moves dbroot
    (rtslib/root.py).

    After a power cut the file may also be in another dbroot than the present one, as targetcli's
    restore may have moved dbroot since the kernel wrote.  An old file elsewhere could seem newer,
    by a clock that was set back: where a copy is kept, the other files are removed.
    """
    folders: Dict[str, Optional[FrozenSet[str]]] = {}
    for dbroot in sorted({context.fs.read("dbroot").strip(), *DBROOTS}):
        folder = os.path.join(dbroot, "pr")
        try:
            folders[folder] = frozenset(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            folders[folder] = frozenset()
        except OSError:
            folders[folder] = None  # who opens a file there is told why not
    return folders


def aptpl_paths(folders: Folders, serial: str) -> List[str]:
    """The paths at which a backstore's APTPL file is, or may be."""
    name = f"aptpl_{serial}"
    return [os.path.join(folder, name) for folder, names in folders.items()
            if names is None or name in names]


def leave(context: HandoverContext, document: Document) -> None:
    """The APTPL file of each backstore is in the kernel's dbroot, and nowhere else: as the
    document says, or the placeholder, so that one that is not there has been lost.

    A source on which the kernel never wrote one is left without.
    """
    folder = os.path.join(context.fs.read("dbroot").strip(), "pr")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    ports = {(target.wwn, tpg.tag): int(tpg.attributes.get("rtpi", "0"))
             for target in document.state.targets for tpg in target.tpgs}
    files: Dict[str, bytes] = {}
    left, folders = [], aptpl_folders(context)
    for store in document.state.backstores:
        if not store.serial:
            continue
        path = os.path.join(folder, f"aptpl_{store.serial}")
        if store.reservations or context.handover.role == DESTINATION \
                or any(map(os.path.lexists, aptpl_paths(folders, store.serial))):
            content = pr_texts.aptpl_text(store.reservations, ports)
            if _content(path) != content:
                files[path] = content
            left.append(store.serial)
    if files:
        write_files(files)
        context.left.update(files)
    remove_elsewhere(context, document.state.backstores)
    context.files_left = True
    context.journal.note("left", boot=boot_id(), serials=left)


def has_left(context: HandoverContext, path: str, content: bytes) -> bool:
    """Whether this verb has left the file with this content, and it is still so."""
    return context.left.get(path) == content == _content(path)


def placeholders(context: HandoverContext, stores: Iterable[Backstore]) -> None:
    """Where there is no APTPL file yet, one that says that there are no registrations: while
    nobody is served, and outside the time in which nobody is."""
    folder = os.path.join(context.fs.read("dbroot").strip(), "pr")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    folders = aptpl_folders(context)
    files = {os.path.join(folder, f"aptpl_{store.serial}"): pr_texts.EMPTY_FILE for store in stores
             if store.serial and not any(map(os.path.lexists,
                                             aptpl_paths(folders, store.serial)))}
    if files:
        write_files(files)


def seen(context: HandoverContext, document: Document) -> None:
    """Note which files are there while the kernel may write them."""
    folders = aptpl_folders(context)
    context.journal.note("left", boot=boot_id(), serials=[
        store.serial for store in document.state.backstores if store.serial
        and any(map(os.path.lexists, aptpl_paths(folders, store.serial)))])


def remove_elsewhere(context: HandoverContext, stores: Iterable[Backstore]) -> None:
    """Remove the APTPL files of these backstores that are not in the kernel's dbroot."""
    remove(context, [store.serial for store in stores if store.serial],
           os.path.join(context.fs.read("dbroot").strip(), "pr"))


def remove(context: HandoverContext, serials: Iterable[str], but: str = "") -> None:
    """Remove the APTPL files of these backstores that are not in the folder ``but``.  One that
    stayed would bring its reservations back one day."""
    folders, changed = aptpl_folders(context), set()
    for serial in serials:
        stays = os.path.join(but, f"aptpl_{serial}") if but else ""
        for path in aptpl_paths(folders, serial):
            if path == stays:
                continue
            if but and os.path.exists(path) and os.path.exists(stays) \
                    and os.path.samefile(path, stays):
                continue  # one of the folders may be a link to another
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            changed.add(os.path.dirname(path))
    for folder in sorted(changed):
        fsync_folder(folder)


def _content(path: str) -> Optional[bytes]:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None

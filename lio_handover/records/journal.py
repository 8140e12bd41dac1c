"""The journal of each handover on this host: one folder a handover, one line of JSON a record.

``<state directory>/handovers/<id>/journal`` is only ever appended to.  A record of a state is on
the disk, file and folder, when ``state`` returns; notes (which step was begun, what was loaded)
are plain appends: a crash of the program loses none of them, and a crash of the host makes them
worthless, as the kernel they are about is gone.  Beside it lie whole files: ``prepared.json``
(what was offered), ``document.json`` (the final document), ``returned.json``,
``served.json`` (what this host alone serves, in its own names); and ``savefile.json``, what was
taken out of targetcli's save file.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, ContextManager, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from .. import errors
from ..document.document import Document
from ..document.json_types import check_fields
from ..protocol.messages import is_id
from ..protocol.table import DESTINATION, SOURCE, STATES, Mode
from ..system.atomic_file import fsync_folder, read_file, write_file
from ..system.locks import PATIENCE, Locks
from .handover_facts import HandoverFacts, copied
from .record_kinds import KINDS, VERSION
from .state_folder import check_records
from .versions import check

JOURNAL = "journal"
PREPARED, DOCUMENT, RETURNED = "prepared.json", "document.json", "returned.json"
#: The copy of targets served here since the handover is over, in this host's names: it counts
#: first.
SERVED = "served.json"
SAVED = "savefile.json"
#: The copies of the kernel's APTPL files since the last document was kept, see
#: actions/aptpl_copies.py.
FOLLOWED = "followed.json"
#: The changes of the targets since the copy that counts was kept, see copy_changes.py.
CHANGED = "changed.jsonl"
FILES = (PREPARED, DOCUMENT, RETURNED, SERVED, SAVED, FOLLOWED, CHANGED)

OVER = {SOURCE: ("idle", "retired"), DESTINATION: ("none", "confirmed", "given")}

#: Bytes that the records of a verb that runs take at most, or nearly.
_TAIL = 1 << 16

Gates = Mapping[str, Mapping[str, str]]
#: Journal → the whole lines that this process has replayed, and what they came to.
_REPLAYED: "Dict[str, Tuple[bytes, Handover, HandoverFacts]]" = {}
MOST_REPLAYED = 64


@dataclass(frozen=True)
class Handover:
    """One handover on this host, as the journal has it.

    ``since`` is wall clock time, for people only; ``busy`` the verb that was begun and has not
    ended; ``error`` how the last one failed; ``digest`` that of the run-time state last kept.
    """

    id: str
    role: str
    state: str
    epoch: int
    mode: str
    targets: Tuple[str, ...]
    boot_id: str = ""
    digest: str = ""
    since: float = 0.0
    error: str = ""
    busy: str = ""
    peer: str = ""

    def check(self) -> None:
        """Raises ValueError, KeyError where a field can't be one of a handover's."""
        check_fields(self)
        Mode(self.mode)
        if self.state not in ("", *STATES[self.role]):
            raise ValueError("state")
        if not 0 <= self.epoch < 1 << 53 or not 0 <= self.since < 1e11:
            raise ValueError("epoch, since")

    @property
    def over(self) -> bool:
        """Whether it has come to its end; the next one of its targets is another."""
        return self.state in OVER[self.role]


class Journal:
    """One handover's folder.  Raises NoSuchHandover, JournalBroken.

    With ``tolerate_damage``, a journal that cannot be read still yields its first record: targets,
    backstores and role.  ``damage`` then says why.
    """

    def __init__(self, directory: str, handover: str, tolerate_damage: bool = False) -> None:
        if not is_id(handover):
            raise errors.NoSuchHandover(f"{errors.quoted(handover)} is no handover's id",
                                        do="lio-handover status")
        self.folder = os.path.join(directory, "handovers", handover)
        self.path = os.path.join(self.folder, JOURNAL)
        self.id = handover
        self.handover = Handover(handover, "", "", 0, "", ())
        self.facts = HandoverFacts()
        #: what was read of the whole files, by name
        self.documents: Dict[str, Document] = {}
        self.damage: Optional[errors.JournalBroken] = None
        self._load(tolerate_damage)
        # A verb that was killed, or failed, may have left names that are not on the disk.
        self._unsynced = bool(not self.handover.state or self.handover.busy
                              or self.handover.error)

    @classmethod
    def create(cls, directory: str, first: Handover, stores: Mapping[str, str],
               maps: Tuple[str, ...] = (), local: Tuple[str, ...] = ()) -> "Journal":
        """Begin a handover: not durable, and in no state, until ``state`` is called."""
        folder = os.path.join(directory, "handovers", first.id)
        if begun(directory, first.id):
            raise errors.WrongState(f"there is a handover {first.id} already",
                                    do=f"lio-handover status {first.id}")
        try:
            first_of_all = not os.path.isdir(os.path.dirname(folder))
            os.makedirs(folder, mode=0o700, exist_ok=True)
            for above in (directory, os.path.dirname(directory)) if first_of_all else ():
                fsync_folder(above)  # a record syncs the folders below
        except OSError as error:
            raise _broken(folder, error) from None
        journal = cls.__new__(cls)
        journal.folder, journal.id = folder, first.id
        journal.path = os.path.join(folder, JOURNAL)
        journal.handover, journal.facts = first, HandoverFacts()
        journal.documents, journal.damage = {}, None
        journal._unsynced = True
        journal.note("new", version=VERSION, role=first.role, mode=first.mode,
                     targets=list(first.targets), stores=dict(stores), maps=list(maps),
                     local=list(local), peer=first.peer, at=time.time())
        return journal

    # ---- reading ------------------------------------------------------------------------------
    def _load(self, tolerate_damage: bool) -> None:
        check_records(self.folder, (JOURNAL, *FILES))
        try:
            data = read_file(self.path)
        except FileNotFoundError:
            raise self._not_begun("is gone") from None
        except OSError as error:
            raise _broken(self.path, error, way_out(self.folder)) from None
        import json
        if self._load_whole(data):
            return
        lines = data.split(b"\n")
        for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is a half
            try:
                record = json.loads(line)
                if number == 1 and record["record"] == "new":
                    check(self.path, record.get("version"))
                self._replay(record)
            except errors.MISSHAPEN as error:
                self.damage = errors.JournalBroken(
                    f"{self.path}, line {number} can't be read: {type(error).__name__}",
                    do=way_out(self.folder, self.handover.mode))
                if not tolerate_damage or number == 1:
                    raise self.damage from None
                self._replay_first(json.loads(lines[0]))
                break
        if not self.handover.role:
            raise self.damage or self._not_begun("has not even its first record")

    def _load_whole(self, data: bytes) -> bool:
        """Replay a journal in which nothing is wrong, as nearly all are: those records that this
        process has not replayed before."""
        import json
        end = data.rfind(b"\n") + 1
        known, handover, facts = _REPLAYED.get(self.path, (b"", self.handover, self.facts))
        if not known or not data.startswith(known):
            known, handover, facts = b"", self.handover, self.facts
        self.handover, self.facts = handover, copied(facts)
        try:
            for number, line in enumerate(data[len(known):end].split(b"\n")[:-1]):
                record = json.loads(line)
                if not known and not number and record["record"] == "new":
                    check(self.path, record.get("version"))
                self._replay(record)
            if not self.handover.role:
                raise ValueError("role")
        except (*errors.MISSHAPEN, errors.JournalBroken):
            self.handover = Handover(self.id, "", "", 0, "", ())
            self.facts = HandoverFacts()
            return False
        if len(_REPLAYED) >= MOST_REPLAYED:
            _REPLAYED.clear()
        _REPLAYED[self.path] = data[:end], self.handover, copied(self.facts)
        return True

    def _not_begun(self, how: str) -> errors.HandoverError:
        """The error where no record is whole: a document is kept only after one is."""
        if not _documents(self.folder):
            return errors.NoSuchHandover(f"this host has no handover {self.id}",
                                         do="lio-handover status")
        return errors.JournalBroken(f"{self.path} {how}, and documents lie beside it",
                                    do=way_out(self.folder))

    def _replay_first(self, first: Dict[str, Any]) -> None:
        """Believe its first record, and nothing that came after."""
        from dataclasses import replace
        self.handover, self.facts = Handover(self.id, "", "", 0, "", ()), HandoverFacts()
        self._replay(first)
        self.handover = replace(self.handover,
                                error=f"JournalBroken: {self.damage.what}" if self.damage else "")

    def _replay(self, record: Dict[str, Any]) -> None:
        """Replay a record; one of a kind that is not known says nothing.  Raises one of
        errors.MISSHAPEN for what is not as KINDS has it."""
        from dataclasses import replace
        kind = KINDS.get(record["record"])
        if kind is None:
            return
        before = dict(vars(self.facts))
        changed = kind.apply(self.facts, record)
        if changed:
            self.handover = replace(self.handover, **changed)
            self.handover.check()
        check_fields(self.facts, [name for name, value in vars(self.facts).items()
                                  if value is not before[name] or name == "sent_messages"])

    # ---- writing ------------------------------------------------------------------------------
    def state(self, state: str, epoch: int, boot_id: str, gates: Optional[Gates] = None,
              **more: Any) -> None:
        """The record that makes a state true: on the disk when this returns."""
        record: Dict[str, Any] = {"record": "state", "state": state, "epoch": epoch,
                                  "boot": boot_id, "at": time.time(), **more}
        if gates is not None:
            record["gates"] = gates
        self._append(record, durable=True)

    def note(self, record: str, durable: bool = False, **more: Any) -> None:
        """A record; unless ``durable`` one that need not outlive the kernel it is about."""
        self._append({"record": record, **more}, durable=durable)

    def _append(self, record: Dict[str, Any], durable: bool) -> None:
        import json
        line = json.dumps(record, sort_keys=True).encode() + b"\n"
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                whole = _whole_lines(fd)
                if self._unsynced and (durable or self.handover.state):
                    self._sync_names()
                try:
                    if os.write(fd, line) != len(line):
                        raise OSError(28, "No space left on device")
                    if durable:
                        os.fsync(fd)
                except OSError:
                    os.ftruncate(fd, whole)
                    raise
            finally:
                os.close(fd)
        except OSError as error:
            raise _broken(self.path, error) from None
        self._replay(json.loads(line))  # as whoever reads it

    def _sync_names(self) -> None:
        """Bring to the disk what was made or removed, before a record is: that brings only itself
        there."""
        for folder in (self.folder, os.path.dirname(self.folder)):
            fsync_folder(folder)
        self._unsynced = False

    # ---- whole files --------------------------------------------------------------------------
    def keep(self, name: str, content: bytes, document: Optional[Document] = None) -> None:
        """Keep a document: whole and on the disk when this returns.  Copies that followed the
        document before it go first: they must not seem newer than this one.

        ``document``: what ``content`` says, where that is at hand: nobody decodes it again."""
        self.documents.clear()
        if self._unsynced or self.has(FOLLOWED) or self.kept(name) != content:
            self._unlink(FOLLOWED)
            self.keep_beside(name, content)  # else it is there, and on the disk
        if self.has(CHANGED):
            self._unlink(CHANGED)
            fsync_folder(self.folder)
        if document is not None:
            self.documents[name] = document

    def keep_beside(self, name: str, content: bytes) -> None:
        """Keep a file: whole and on the disk when this returns, and before it the first record,
        without which nobody knows whose it is."""
        try:
            if not self.handover.state:
                _sync(self.path)
            self._unsynced = True
            write_file(os.path.join(self.folder, name), content)
            self._unsynced = False
        except OSError as error:
            raise _broken(os.path.join(self.folder, name), error) from None

    def kept(self, name: str) -> Optional[bytes]:
        """A document that was kept, or None."""
        path = os.path.join(self.folder, name)
        try:
            return read_file(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _broken(path, error) from None

    @property
    def copy(self) -> str:
        """The name of the copy that counts."""
        return next((name for name in (SERVED, RETURNED, DOCUMENT)
                     if name in self.documents or self.has(name)), PREPARED)

    def has(self, name: str) -> bool:
        """Whether a document was kept."""
        return os.path.exists(os.path.join(self.folder, name))

    def drop(self, names: Sequence[str] = FILES) -> None:
        """Remove the documents, and with them the secrets in them."""
        self.documents.clear()
        for name in names:
            self._unlink(name)  # what follows goes last, see following()

    def following(self) -> ContextManager[None]:
        """Nobody else writes, or removes, what follows the APTPL files meanwhile."""
        return Locks(os.path.dirname(os.path.dirname(self.folder))).hold(
            f"followed/{self.id}", patience=PATIENCE)

    def _unlink(self, name: str) -> None:
        if name == FOLLOWED:
            with self.following():
                return self._unlinked(name)
        self._unlinked(name)

    def _unlinked(self, name: str) -> None:
        path = os.path.join(self.folder, name)
        try:
            os.unlink(path)
            self._unsynced = True
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _broken(path, error) from None

    def remove(self) -> None:
        """Forget a handover that came to nothing: the documents first, as the journal says whose
        they are."""
        import shutil
        try:
            self.drop([name for name in FILES if self.has(name)])
        except errors.HandoverError:
            return  # all of it stays
        shutil.rmtree(self.folder, ignore_errors=True)


def ids(directory: str) -> Iterator[str]:
    """The id of every handover that was begun here: its first record is whole, or was, as documents
    lie beside it.  (A verb that was killed before leaves half a record, and no document.)"""
    try:
        names = sorted(os.listdir(os.path.join(directory, "handovers")))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _broken(os.path.join(directory, "handovers"), error) from None
    for name in names:
        if begun(directory, name):
            yield name


def begun(directory: str, handover: str) -> bool:
    """Whether `ids` has this handover; no other folder is opened."""
    if not is_id(handover):
        return False
    folder = os.path.join(directory, "handovers", handover)
    try:
        if b"\n" in read_file(os.path.join(folder, JOURNAL)):
            return True
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _broken(folder, error, way_out(folder)) from None
    return _documents(folder)


def at_work(path: str) -> bool:
    """Whether a verb was begun and has not ended, as the last records of a journal have it: for who
    wants no more of it, as it comes at each record of a verb that runs."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            data = file.read(_TAIL)
    except OSError:
        return False
    return data.rfind(b'"record": "begin"') > data.rfind(b'"record": "end"')


def _documents(folder: str) -> bool:
    return any(os.path.lexists(os.path.join(folder, name)) for name in FILES)


def _sync(path: str) -> None:
    """The file and its name are on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    for folder in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
        fsync_folder(folder)


def _whole_lines(fd: int) -> int:
    """The length up to the last newline; half a record after it is cut off."""
    size = os.fstat(fd).st_size
    end = size
    while end:
        start = max(0, end - 65536)
        at = os.pread(fd, end - start, start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end != size:
        os.ftruncate(fd, end)
    return end


def way_out(folder: str, mode: str = "") -> str:
    """The next step where a journal cannot be read.  ``mode``: the handover's, where that is known.
    """
    aside = f"then move {folder} aside ({errors.RECOVERY_PAGE})"
    if mode == Mode.FILE.value:
        return f"make sure which host may serve it: by file, none can be asked; {aside}"
    status = f"lio-handover status {os.path.basename(folder)} on the other host"
    return f"{status}, which says who may serve; {aside}" if mode else \
        f"make sure which host may serve it ({status} says so, unless it was by file); {aside}"


def _broken(path: str, error: OSError, do: str = "") -> errors.JournalBroken:
    return errors.JournalBroken(f"{path}: {error.strerror or error}", do=do)

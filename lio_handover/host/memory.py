"""The memory of a session, a process that stays between two verbs of a handover.

It is a cache: whatever is asked of it is answered only while no other process has changed any of
it, and this one nothing but gates; else the tree is read again, as by a process that remembers
nothing.
"""
from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, Iterable, Optional, Sequence, Tuple

from ..document import document as documents
from ..document.document import Document
from ..execute.core_watch import CoreWatch
from ..execute.tree_watch import TreeWatch
from ..kernel import placement
from ..kernel.configfs import Configfs
from ..kernel.reader import Reader
from ..model.objects import Key, State
from ..storage.opened import Looks

if TYPE_CHECKING:
    from ..scsi.endpoint_holder import Holder

#: Documents that are remembered at most: of a handover there are four.
DOCUMENTS = 4
#: The verbs that begin to hear what others change: those while the source still serves.
LISTENING = ("prepare", "stage")
#: The verbs while nobody is served.
WAITED_FOR = ("freeze", "export", "activate", "release")

Names = Sequence[Tuple[str, str]]


@dataclass
class Memory:
    """The targets of one handover.  ``why``: why nothing can be remembered, "" where it can."""

    fs: Configfs = field(default_factory=Configfs)
    why: str = ""
    #: of the copy that was kept last: its digest, how often gates had been written to, and the
    #: commands that had been executed when it was read
    kept: Optional[Tuple[str, int, Dict[str, int]]] = None
    #: whether that was in this verb
    just_kept: bool = False
    #: the bytes of a document → what they say, that was used last at the end
    _documents: Dict[bytes, Document] = field(default_factory=dict)
    #: holders of endpoints that were started ahead, see Holders.keep_ready
    ready: Dict[str, Holder] = field(default_factory=dict)
    #: the last look at what the kernel has open of these backstores, while nobody else has changed
    #: any of them
    looks: Optional[Looks] = None
    _watch: Optional[TreeWatch] = None
    _state: Optional[State] = None
    _changes: int = 0

    def begin(self, verb: str) -> None:
        """Another verb begins: all that is true of one alone ends.  The HBAs of the backstores are
        looked for once for all verbs that initiators wait for, and Python's collector waits for the
        others."""
        (gc.disable if verb in WAITED_FOR else gc.enable)()
        self.fs.enabled.clear()
        self.fs.told.clear()
        self.just_kept = False
        if verb in LISTENING:
            self._hear_backstores(False)
        if verb not in WAITED_FOR or not self.alone():
            self.fs.remembers = False
            placement.again(self.fs)
        else:
            placement.keep(self.fs)

    def begin_change(self) -> None:
        """A change of an object begins, in a process that stays for others."""
        self.fs.enabled.clear()
        self.fs.told.clear()
        self._hear_backstores(True)

    def _hear_backstores(self, writes: bool) -> None:
        """Hear from now on which HBAs and backstores come and go: nobody lists them again."""
        if self.fs.known_backstores is None and self.fs.exists("core"):
            try:
                self.fs.known_backstores = CoreWatch(self.fs, writes)
            except OSError:
                pass  # then they are listed

    def document(self, data: bytes) -> Document:
        """The document in these bytes, decoded once.  Raises a DocumentError."""
        document = self._documents.pop(data, None) or documents.loads(data)
        self.keep_document(data, document)
        return document

    def keep_document(self, data: bytes, document: Document) -> None:
        """Remember the document in these bytes."""
        self._documents[data] = document
        while len(self._documents) > DOCUMENTS:
            del self._documents[next(iter(self._documents))]

    def read(self, reader: Reader, names: Names) -> State:
        """The state of these targets, read, and remembered.  Raises as Reader.state does."""
        self.listen(names)
        state = reader.state(names)
        self.keep(state)
        return state

    def listen(self, names: Names, stores: Iterable[Key] = ()) -> None:
        """Hear what others change of these from now on; what is read next may be kept."""
        self.forget()
        try:
            self._watch = self._watch or TreeWatch(self.fs)
            self._watch.listen(names, stores)
            self._hear_backstores(False)
            self.why = ""
        except OSError as error:
            self._close()
            self.why = (f"what other programs change can't be heard ({error.strerror}), so all of "
                        "it is read again while nobody is served")

    def keep(self, state: State) -> None:
        """Remember a state, which was read since it was found that nobody else had changed any of
        it, or since others are listened to."""
        self.forget()
        try:
            if self._watch is not None and self._watch.covers(state):
                self._state, self._changes = state, self.fs.others
        except OSError:
            self._close()

    def known(self, names: Names) -> Optional[State]:
        """The state of these targets as it was read, where nothing has changed it since but
        initiators and gates; else None."""
        if self.alone() and self._changes != self.fs.others:
            self.forget()
        state = self._state
        there = {(target.fabric, target.wwn) for target in state.targets} if state else set()
        return state if there == {*names} else None

    def alone(self) -> bool:
        """Whether nobody but this process has changed any of it since it was read; else it is
        forgotten."""
        try:
            if self._watch is not None and self._watch.others():
                self.forget()
        except OSError:
            self._close()
        return self._state is not None

    def stays(self) -> None:
        """The last changes by this process left the state as it is remembered."""
        self._changes = self.fs.others

    def forget(self) -> None:
        """Remember nothing, but hear on."""
        self._state = self.kept = self.looks = None

    def _close(self) -> None:
        self.forget()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

"""What tests of a handover by file run inside a lab host: its verbs, as the command runs them."""
from __future__ import annotations

from dataclasses import replace

from lio_handover import errors
from lio_handover.document import document as documents
from lio_handover.handover.engine import HandoverEngine, Reply
from lio_handover.local.ours import Ours
from tests.support import inhandover, inhost
from tests.support.inhandover import TARGET

NAMES = [tuple(TARGET.split("/", 1))]


def core() -> Ours:
    return Ours(replace(inhost.SETTINGS, late=inhandover.late_rules()))


def verb(name: str, data: bytes = b"", allow: tuple[str, ...] = ()) -> bytes:
    """A verb by its name, or recover; the document of an export."""
    one = core()
    if name == "import":
        one.import_(one.ready(documents.loads(data)), allow)
    elif name == "remove":
        one.remove([TARGET], False, ("reserved", *allow))
    elif name == "clear":
        one.clear(TARGET)
    elif name == "recover":
        recover()
    elif name == "export":
        return documents.dumps(one.export(NAMES, ("all-tg-pt",)))  # type: ignore[arg-type]
    else:
        getattr(one, name)(NAMES, allow)
    return b""


def crash(point: int | str, name: str, data: bytes = b"", records: bool = False
          ) -> tuple[bool, bytes]:
    """(whether the verb was killed at that point, what it handed out if it ended before)."""
    dead, found = inhandover.killed_at(lambda: verb(name, data),
                                       inhandover.Points(point, records))
    return dead, found or b""


def recover() -> list[Reply]:
    """Of every handover of this host; there is nobody to ask.  Raises what one failed with."""
    found = HandoverEngine(core()).recover()
    for one in found:
        if one.error_code:
            raise errors.HandoverError(one.notes[0])
    return found


def recover_again() -> tuple[int, list[str]]:
    """(changes that another recover asks of the kernel, the states after it)."""
    one = core()
    states = [answer.handover.state for answer in HandoverEngine(one).recover()]
    return one.fs.changes, states


def states() -> list[tuple[str, str]]:
    """(role, state) of each handover of this host."""
    return [(one.role, one.state) for one in core().handovers().list()]

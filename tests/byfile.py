"""What tests of a handover by file run inside a lab host: its verbs, as the command runs them."""
from __future__ import annotations

import os
import pickle
from dataclasses import replace
from typing import Any

from lio_handover import document as documents
from lio_handover import errors
from lio_handover.byfile import ByFile
from lio_handover.handover import Answer, Handovers
from tests import inhandover, inhost
from tests.inhandover import TARGET, Points

NAMES = [tuple(TARGET.split("/", 1))]


def core() -> ByFile:
    return ByFile(replace(inhost.SETTINGS, late=inhandover.late_rules()))


def verb(name: str, data: bytes = b"", allow: tuple[str, ...] = ()) -> bytes:
    """freeze, export, thaw, import or remove; the document of an export."""
    one = core()
    if name == "import":
        one.import_(one.ready(documents.loads(data)), allow)
    elif name == "remove":
        one.remove([TARGET], False, ("reserved", *allow))
    elif name == "export":
        return documents.dumps(one.export(NAMES, ("all-tg-pt",)))  # type: ignore[arg-type]
    else:
        getattr(one, name)(NAMES, allow)
    return b""


def crash(point: int, name: str, data: bytes = b"", records: bool = False) -> tuple[bool, bytes]:
    """(whether the verb was killed at that point, what it handed out if it ended before)."""
    ours, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            Points(point, records).install()
            result: Any = verb(name, data)
        except BaseException as error:  # noqa: B902 - raised again by the parent
            result = error
        with os.fdopen(its, "wb") as pipe:
            pipe.write(pickle.dumps(result))
        os._exit(0)
    os.close(its)
    with os.fdopen(ours, "rb") as pipe:
        found = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True, b""
    ended = pickle.loads(found)
    if isinstance(ended, BaseException):
        raise ended
    return False, ended


def recover() -> list[Answer]:
    """Of every handover of this host; there is nobody to ask.  Raises what one failed with."""
    found = Handovers(core()).recover()
    for one in found:
        if one.failed:
            raise errors.HandoverError(one.notes[0])
    return found


def recover_again() -> tuple[int, list[str]]:
    """(changes that another recover asks of the kernel, the states after it)."""
    one = core()
    states = [answer.handover.state for answer in Handovers(one).recover()]
    return one.fs.changes, states


def states() -> list[tuple[str, str]]:
    """(role, state) of each handover of this host."""
    return [(one.role, one.state) for one in core().handovers().list()]

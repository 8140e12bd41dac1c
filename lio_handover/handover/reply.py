"""The reply of a verb of a handover, and the function that asks the other side."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Tuple

from .. import errors
from ..protocol.messages import VERSION, Message, check_version, from_json, to_json
from ..protocol.table import STATES
from ..records.journal import Handover


@dataclass(frozen=True)
class Reply:
    """The reply of a verb: the handover as it now is, the messages sent (by status: those that
    still hold), notes, and the command to run next.  ``undecided``: recover could not know how to
    go on, and changed no state; ``error_code`` is the code of the error where one of several could
    not be recovered."""

    handover: Handover
    messages: Tuple[Message, ...] = ()
    notes: Tuple[str, ...] = ()
    next: str = ""
    undecided: bool = False
    error_code: int = 0


def reply_to_json(answer: Reply) -> bytes:
    """The whole of an answer, for a peer: documents, and with them secrets, included."""
    import json
    from dataclasses import asdict
    return json.dumps({
        "version": VERSION, "handover": asdict(answer.handover),
        "messages": json.loads(to_json(answer.messages)),
        "notes": list(answer.notes), "next": answer.next, "stays": answer.undecided},
        indent=1, sort_keys=True).encode() + b"\n"


def reply_from_json(data: bytes) -> Reply:
    """The reply in bytes that ``reply_to_json`` wrote.  Raises a DocumentError for any other bytes.
    """
    import json
    from dataclasses import fields
    try:
        tree = json.loads(data)
        if type(tree["version"]) is not int:
            raise ValueError(tree["version"])
        check_version(tree["version"], "the answer")
        members = {name: value for name, value in tree["handover"].items()
                   if name in {known.name for known in fields(Handover)}}  # later ones may add some
        handover = Handover(**{**members, "targets": tuple(members["targets"])})
        if handover.role not in STATES or handover.state not in STATES[handover.role]:
            raise ValueError(handover.state)
        return Reply(handover, from_json(json.dumps(tree["messages"]).encode()),
                     tuple(map(str, tree["notes"])), str(tree["next"]), bool(tree["stays"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.BadStructure(f"the answer can't be read: {type(error).__name__}",
                                  do="ask the other host with the same lio-handover") from None


#: (the handover, ``status`` or ``abort``) → what the other host answers to that verb now.
#: Raises PeerUnreachable.
Peer = Callable[[Handover, str], Reply]

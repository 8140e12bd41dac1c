"""The reply of a verb of a handover, and the function that asks the other side."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from .. import errors
from ..protocol.authentication import ANSWER, Authentication
from ..protocol.messages import (VERSION, WITHOUT_MAC, Message, check_version, members, of_entries,
                                 parsed)
from ..protocol.table import STATES, Mode
from ..records.journal import Handover

#: Member of a handover in JSON → its types, where it is no text.
_KINDS: Mapping[str, Tuple[type, ...]] = {
    "epoch": (int,), "since": (int, float), "targets": (list,)}
_MODES = {mode.value for mode in Mode}


@dataclass(frozen=True)
class Reply:
    """The reply of a verb: the handover as it now is, the messages sent (by status: those that
    still hold), notes, and the command to run next.  ``undecided``: recover could not know how to
    go on, and changed no state; ``error_code`` is the code of the error where one of several could
    not be recovered.  ``host``: the host whose answer it is, where this host's key has proven that.
    """

    handover: Handover
    messages: Tuple[Message, ...] = ()
    notes: Tuple[str, ...] = ()
    next: str = ""
    undecided: bool = False
    error_code: int = 0
    host: str = ""


def reply_to_json(answer: Reply, known: Authentication = Authentication(),
                  question: str = "") -> bytes:
    """The whole of an answer, for a peer: documents, and with them secrets, included.

    ``known``: this host's key, under which it is authenticated; ``question``: the asker's text,
    which the MAC is of, too, so that no older answer passes for this one."""
    tree = {"version": VERSION if known else WITHOUT_MAC, "handover": asdict(answer.handover),
            "messages": [members(message) for message in answer.messages],
            "notes": list(answer.notes), "next": answer.next, "stays": answer.undecided}
    if known:
        tree.update(host=known.host, question=question)
        tree["mac"] = known.mac(ANSWER, tree)
    return json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n"


def reply_from_json(data: bytes, known: Optional[Authentication] = None, question: str = ""
                    ) -> Reply:
    """The reply in bytes that ``reply_to_json`` wrote.  Raises a DocumentError for any other bytes.

    ``known``: this host's key, or that it has none, for a host that is about to believe the answer;
    then raises NotAuthentic for an answer that is not the other host's to this ``question``.
    """
    tree = parsed(data, "the answer")
    try:
        if type(tree["version"]) is not int:
            raise ValueError(tree["version"])
        check_version(tree["version"], "the answer")
        host = str(tree["host"]) if tree["version"] == VERSION else ""
        if known is not None:
            _check(tree, host, known, question)
        return Reply(_handover(tree["handover"]), of_entries(tree["messages"]),
                     tuple(map(str, tree["notes"])), str(tree["next"]), tree["stays"] is True,
                     host=host if known else "")
    except errors.MISSHAPEN as error:
        raise errors.BadStructure(f"the answer can't be read: {type(error).__name__}",
                                  do="ask the other host with the same lio-handover") from None


def _handover(tree: Mapping[str, Any]) -> Handover:
    """Raises ValueError, KeyError, TypeError of what is no handover."""
    values: Dict[str, Any] = {}
    for member in fields(Handover):  # a later lio-handover may add some
        value = values[member.name] = tree[member.name]
        kinds = _KINDS.get(member.name, (str,))
        if type(value) not in kinds:
            raise TypeError(member.name)
    values["targets"] = tuple(values["targets"])
    if values["state"] not in STATES[values["role"]] or values["mode"] not in _MODES \
            or not all(type(name) is str for name in values["targets"]):
        raise ValueError(values["state"])
    handover = Handover(**values)
    handover.check()
    return handover


def _check(tree: Mapping[str, Any], host: str, known: Authentication, question: str) -> None:
    """Raises NotAuthentic; KeyError, TypeError and ValueError of what is no whole answer."""
    host = errors.one_line(host)[:255]
    known.check_mac(ANSWER, "the answer", host, tree)
    if known and (host == known.host or tree["question"] != question):
        raise errors.NotAuthentic(
            "the answer is " + ("this host's own" if host == known.host else "to another question"),
            do="see by which way the other host is asked: --peer, --ask")


#: (the handover, ``status`` or ``abort``) → what the other host answers to that verb now.
#: Raises PeerUnreachable.
Peer = Callable[[Handover, str], Reply]

"""Calls → requests to a worker: what is wrong with a call is said before a job is made."""
from __future__ import annotations

import os
import uuid
from typing import Any, Callable, Collection, Dict, List, Mapping, Sequence

from .. import errors
from ..verb_table import A_DOCUMENT, FORCE, WRITE
from .bus.dispatch import LATER, Call, Standard
from .hostverbs import FORCING, HANDOVER_OPTIONS, HOST_VERBS, OPTIONS, WORDS
from .jobs import Jobs
from .uploads import Uploads


class Requests:
    """Makes jobs of calls.  The descriptors in a call are closed here, whatever comes of it."""

    def __init__(self, jobs: Jobs, uploads: Uploads, config: str) -> None:
        self.jobs, self.uploads, self.config = jobs, uploads, config

    def host_verb(self, call: Call, verb: str, what: Sequence[Any],
                  given: Mapping[str, Any]) -> Any:
        row = HOST_VERBS[verb]
        takes_document = row.takes == A_DOCUMENT
        documents: List[int] = list(what) if takes_document else []
        with _closing(documents):
            made = options(given, row.on_bus)
            request = {"verb": verb, "targets": [] if takes_document else _targets(what), **made}
            if takes_document:
                self._uploaded(call, documents, [made["upload"]] if made["upload"] else [])
                if len(documents) != 1:
                    raise Standard("InvalidArgs", f"{call.method.name} takes one document: a "
                                   "descriptor, or the option upload")
        # A probe makes something, if only for a moment.
        self._start(call, request, documents, [WRITE] if made["probe"] else [])
        return LATER

    def handover_verb(self, call: Call, verb: str, role: str, handover: str,
                      targets: Sequence[str], mode: str, messages: Sequence[int],
                      given: Mapping[str, Any]) -> Any:
        documents = list(messages)
        with _closing(documents):
            made = options(given, HANDOVER_OPTIONS)
            if verb == "prepare" and not handover:
                handover = str(uuid.uuid4())  # what comes of it is found by it, whatever that is
            request = {"verb": verb, "role": role, "handover": handover,
                       "targets": _targets(targets), "mode": mode or "iscsi",
                       "words": [word for word in WORDS if made[word]], **made}
            self._uploaded(call, documents, made["uploads"])
        self._start(call, request, documents,
                    [FORCE] if any(made[word] for word in FORCING) else [])
        return LATER

    def _uploaded(self, call: Call, documents: List[int], tokens: Sequence[str]) -> None:
        for token in tokens:
            documents.append(self.uploads.take(token, call.caller.uid))

    def _start(self, call: Call, request: Mapping[str, Any], documents: List[int],
               actions: Sequence[str]) -> None:
        """Start a job once the caller may do all of it."""
        def start() -> None:
            whole = {"role": "", "handover": "", "mode": "", "words": [], "config": self.config,
                     "limited": call.caller.limited,
                     "by": f"user {call.caller.uid} ({call.caller.sender})", **request}
            given, documents[:] = list(documents), []  # the job closes them
            call.reply(self.jobs.start(whole, given, call.caller.uid).path)

        def next_one(left: Sequence[str]) -> Callable[[], None]:
            return start if not left else lambda: call.allowed(left[0], next_one(left[1:]))

        call.last = lambda: _close(documents)
        next_one(actions)()


class _closing:
    """Descriptors that are closed where what is done with them fails."""

    def __init__(self, descriptors: List[int]) -> None:
        self.descriptors = descriptors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            _close(self.descriptors)


def _targets(words: Sequence[str]) -> List[str]:
    for word in words:
        if "/" not in word.strip("/"):
            raise errors.BadCall(f"{word[:80]!a} is no target: it is FABRIC/WWN", do="ListTargets")
    return [word.strip("/") for word in words]


def options(given: Mapping[str, Any], known: Collection[str]) -> Dict[str, Any]:
    """Every option there is, as given or as if not.  Raises BadCall for one that is unknown."""
    made: Dict[str, Any] = {
        name: () if kind is list else kind() for name, kind in OPTIONS.items()}
    for name, value in given.items():
        if name not in known:
            raise errors.BadCall(f"there is no option {name[:40]!a} here", do="see the interface")
        kind: Any = OPTIONS[name]
        if type(value) is not kind or kind is list and not all(
                isinstance(one, str) for one in value):
            raise errors.BadCall(f"option {name} is of another type", do="see the interface")
        made[name] = value
    return made


def _close(descriptors: List[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())

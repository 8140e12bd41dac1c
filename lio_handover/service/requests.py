"""Calls → requests to a worker; a wrong call is refused before a job is made."""
from __future__ import annotations

import os
import uuid
from typing import Any, Callable, List, Mapping, Sequence

from .. import errors
from ..verb_table import (A_DOCUMENT, ASSERTIONS, FORCE, FORCING, HOST, MESSAGES, NEW_TARGETS,
                          NOTHING, READ, WRITE)
from .bus.dispatcher import DEFERRED, Call, Standard
from .jobs import Jobs
from .uploads import Uploads


class Requests:
    """Makes jobs of calls.  The descriptors of a call are closed here in any case."""

    def __init__(self, jobs: Jobs, uploads: Uploads, config: str) -> None:
        self.jobs, self.uploads, self.config = jobs, uploads, config

    def verb(self, call: Call, handover: str, *args: Any) -> Any:
        """Start a job for a verb.  ``handover``: the id of the called object's handover, or ""."""
        assert call.method.verb
        verb, takes = call.method.verb.verb, call.method.verb.takes
        what: Sequence[Any] = args[0] if takes != NOTHING else ()
        descriptors: List[int] = list(what) if takes in (A_DOCUMENT, MESSAGES) else []
        with _closing(descriptors):
            options = call.options(args[-1])
            if takes == NEW_TARGETS:  # the new handover needs an id
                handover = options["handover"] or str(uuid.uuid4())
            request = {**options, "verb": verb.name, "role": verb.role if verb.role != HOST else "",
                       "handover": handover, "targets": [] if descriptors else _targets(what),
                       "mode": options["mode"] or "iscsi",
                       "words": [word for word in ASSERTIONS if options[word]]}
            for token in [*options["uploads"], *filter(None, [options["upload"]])]:
                descriptors.append(self.uploads.take(token, call.caller.uid))
            if takes == A_DOCUMENT and len(descriptors) != 1:
                raise Standard("InvalidArgs", f"{call.method.name} takes one document: a "
                               "descriptor, or the option upload")
        actions = [FORCE] if any(options[word] for word in FORCING) else []
        if options["probe"] and verb.action == READ:  # a probe makes a temporary nexus
            actions.append(WRITE)
        self._start(call, request, descriptors, actions)
        return DEFERRED

    def _start(self, call: Call, request: Mapping[str, Any], documents: List[int],
               actions: Sequence[str]) -> None:
        """Start a job once the caller is authorized for all ``actions``."""
        def start() -> None:
            whole = {**request, "config": self.config, "limited": call.caller.limited,
                     "by": f"user {call.caller.uid} ({call.caller.sender})"}
            given, documents[:] = list(documents), []  # the job closes them
            call.reply(self.jobs.start(whole, given, call.caller.uid).path)

        def next_one(left: Sequence[str]) -> Callable[[], None]:
            return start if not left else lambda: call.allowed(left[0], next_one(left[1:]))

        call.on_error = lambda: _close(documents)
        next_one(actions)()


class _closing:
    """Close descriptors where the block raises."""

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


def _close(descriptors: List[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())

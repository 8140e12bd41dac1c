"""Calls → requests to a worker; a wrong call is refused before a job is made."""
from __future__ import annotations

import os
import socket
import uuid
from typing import Any, Callable, List, Mapping, Sequence

from .. import errors
from ..model.fabrics import FABRICS
from ..verb_table import (A_DOCUMENT, A_FILE, A_LINE, A_NODE, ASSERTIONS, HOST, MANAGE, MESSAGES,
                          NEW_TARGETS, NOTHING, OF_ROOT, PAIR, ROOT, WRITE)
from .bus.dispatcher import DEFERRED, OPTIONS, Call, Named, Standard
from .bus.marshal import Descriptor
from .jobs import DONE, Job, Jobs
from .uploads import Uploads, file_of


class Requests:
    """Makes jobs of calls.  The descriptors of a call are closed here in any case.

    ``authenticated``: whether messages of the other host are known by a key, see Verb.actions.
    """

    def __init__(self, jobs: Jobs, uploads: Uploads, config: str, bus: str,
                 authenticated: Callable[[], bool]) -> None:
        self.jobs, self.uploads, self.config, self.bus = jobs, uploads, config, bus
        self.authenticated = authenticated

    def verb(self, call: Call, handover: str, *args: Any) -> Any:
        """Start a job for a verb.  ``handover``: the id of the called object's handover, or ""."""
        assert call.method.verb
        verb, takes = call.method.verb.verb, call.method.verb.takes
        what: Sequence[Any] = args[0] if takes != NOTHING else ()
        documents = takes in (A_DOCUMENT, A_FILE, MESSAGES)
        descriptors: List[int] = [*(what if documents else ()), *_handed_in(args[-1])]
        with _closing(descriptors):
            handed_in = len(descriptors)
            options = call.options(args[-1])
            _check(call, options)
            node, values = (args[0], args[1]) if takes == A_NODE else ("", {})
            line = [*args[0]] if takes == A_LINE else []
            if takes == A_LINE and call.caller.uid:
                raise errors.NotAuthorized("lines of the shell are root's alone",
                                           do="CreateObject, SetValues, DeleteObject")
            if takes == NEW_TARGETS:  # the new handover needs an id
                handover = options["handover"] or options["resume"] or str(uuid.uuid4())
            request = {**_counted(options), "said": "", "verb": verb.name,
                       "role": "" if verb.role in (HOST, PAIR) else verb.role,
                       "handover": handover, "node": node, "values": values, "line": line,
                       "targets": _targets_of(node or "".join(line[:1]).partition(" ")[0])
                       if takes in (A_NODE, A_LINE) else
                       [] if documents else _targets(what),
                       "mode": options["mode"] or ("" if verb.role == PAIR else "iscsi"),
                       "assertions": [name for name in ASSERTIONS if options[name]]}
            for token in [*options["uploads"], *filter(None, [options["upload"]])]:
                descriptors.append(self.uploads.take(token, call.caller.uid))
            if options["said"]:
                descriptors.append(file_of(options["said"].encode()))
            if takes in (A_DOCUMENT, A_FILE) and len(descriptors) != 1:
                raise Standard("InvalidArgs", f"{call.method.name} takes one document: a "
                               "descriptor, or the option upload")
            actions = verb.actions({**options, "messages": handed_in},
                                   call.caller.uid == 0 or self.authenticated())
        self._start(call, request, descriptors, actions)
        return DEFERRED

    def of_object(self, call: Call, about: str, *args: Any) -> Any:
        """Change an object whose node is ``about``, and answer once that is done."""
        assert call.method.verb and call.method.verb.of_object
        node, values = call.method.verb.of_object.wanted(about, args[:-1])
        return self.verb(call, "", node, values, args[-1])

    def _start(self, call: Call, request: Mapping[str, Any], documents: List[int],
               actions: Sequence[str]) -> None:
        """Start a job once the caller is authorized for all ``actions``, too."""
        assert call.method.verb
        writes = not {WRITE, MANAGE}.isdisjoint((call.method.verb.verb.action, *actions))

        def start() -> None:
            user = call.caller.uid
            whole = {**request, "config": self.config, "bus": self.bus,
                     "limited": call.caller.limited, "writes": writes,
                     "small": bool(user) and not writes,
                     "secrets": not user or request["secrets"], "root": not user,
                     "asserted_by": f"user {user} ({call.caller.sender})"}
            given, documents[:] = list(documents), []  # the job closes them
            job = self.jobs.start(whole, given, user)
            if call.method.verb and call.method.verb.of_object:
                _answer_once_done(call, job)
            elif request.get("wait"):
                job.when_ended(call, lambda: call.reply(job.path))
            else:
                call.reply(job.path)

        call.on_error = lambda: _close(documents)
        call.allowed([action for action in actions if action != ROOT], start)


def _answer_once_done(call: Call, job: Job) -> None:
    """Answer a call with what a job did, or its error, once it has ended."""
    def ended() -> None:
        if job.state == DONE:
            call.reply(str(job.result.get("about", "")))
        else:
            call.fail(Named(*job.error))
    job.when_ended(call, ended)


def _handed_in(options: Mapping[str, Any]) -> List[int]:
    """The descriptors that options have brought, by the options' names."""
    return [item for _name, value in sorted(options.items()) if isinstance(value, list)
            for item in value if isinstance(item, Descriptor)]


def _counted(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options with the number of descriptors in place of each list of them."""
    return {name: len(value) if OPTIONS[name] == "ah" else value
            for name, value in options.items()}


def _check(call: Call, options: Mapping[str, Any]) -> None:
    """Raises BadCall where an option is missing or has an unfit descriptor, NotAuthorized where it
    is root's alone."""
    assert call.method.verb
    for name, option in call.method.verb.options.items():
        if option.required and not options[name]:
            raise errors.BadCall(f"{call.method.name} needs option {name}: {option.help}",
                                 do="give it")
        if options[name] and option.action == ROOT and call.caller.uid:
            raise errors.NotAuthorized(
                f"user {call.caller.uid} may not have root open the path in option {name}",
                do=f"pass a descriptor: option {OF_ROOT[option.name]}")
        for fd in options[name] if option.type == "ah" and option.name != "secret-fds" else ():
            _check_socket(fd, name)


def _check_socket(fd: int, option: str) -> None:
    """Raises BadCall for anything but a connected UNIX stream socket.  Never waits."""
    copy = os.dup(fd)
    try:
        line = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
    else:
        with line:
            try:
                line.getpeername()
                if (line.family, line.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
                    return
            except OSError:
                pass  # it listens, or nobody is at its other end
    raise errors.BadCall(f"option {option} has a descriptor that is no connected UNIX stream "
                         "socket", do="connect to the monitor's socket, and hand that in")


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


def _targets_of(node: str) -> List[str]:
    """The target that a node is of, for the log and for polkit."""
    parts = node.strip("/").split("/")
    return ["/".join(parts[:2])] if parts[0] in FABRICS and len(parts) > 1 else []


def _close(descriptors: List[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())

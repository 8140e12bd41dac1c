"""The root object: the host's own verbs, and the beginnings of handovers."""
from __future__ import annotations

import os
from typing import Any, Callable, Collection, Dict, List, Mapping, Sequence

from .. import __version__, document, errors, names
from ..transitions import WRITE
from .dispatch import LATER, Call, Node, Standard, Tree
from .hostverbs import HOST_VERBS, OPTIONS
from .jobs import Jobs
from .survey import Survey, Target
from .uploads import Uploads


class Manager(Node):
    interfaces = (names.MANAGER, names.OBJECT_MANAGER)

    def __init__(self, tree: Tree, jobs: Jobs, survey: Survey, uploads: Uploads, config: str,
                 boot_id: str) -> None:
        super().__init__(names.ROOT)
        self.tree, self.jobs, self.survey, self.uploads = tree, jobs, survey, uploads
        self.config, self.boot_id = config, boot_id
        survey.stale_changed = lambda: tree.changed(self, names.MANAGER, ["Stale"])

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != names.MANAGER:
            return {}
        return {"Version": __version__, "ApiVersion": names.API_VERSION,
                "DocumentVersion": document.VERSION, "Features": ["descriptors", "uploads"],
                "Host": os.uname().nodename, "Kernel": os.uname().release,
                "BootId": self.boot_id, "Stale": self.survey.stale}

    def handler(self, interface: str, member: str) -> Callable[..., Any]:
        if member.lower() in HOST_VERBS:
            return lambda call, *args: self._host_verb(call, member.lower(), *args)
        return super().handler(interface, member)

    # ---- methods ---
    def list_targets(self, call: Call, options: Mapping[str, Any]) -> Any:
        _options(options, ())
        self.survey.refresh(lambda: call.reply([
            (node.name, path) for path, node in self.tree.below(names.TARGETS)
            if isinstance(node, Target)]))
        return LATER

    def upload(self, call: Call, token: str, chunk: bytes, options: Mapping[str, Any]) -> Any:
        _options(options, ())
        return self.uploads.put(token, chunk, call.caller.uid)

    def _host_verb(self, call: Call, verb: str, what: Sequence[Any],
                   options: Mapping[str, Any]) -> Any:
        row = HOST_VERBS[verb]
        documents: List[int] = list(what) if row.document else []
        try:
            given = _options(options, row.options)
            targets = [] if row.document else _targets(what)
            if row.document and given["upload"]:
                documents.append(self.uploads.take(given["upload"], call.caller.uid))
            if row.document and len(documents) != 1:
                raise Standard("InvalidArgs", f"{call.method.name} takes one document: a "
                               "descriptor, or the option upload")
        except BaseException:
            _close(documents)
            raise
        request = {"verb": verb, "targets": targets, **given}

        def start() -> None:
            call.reply(self._start(call, request, documents))

        if given["probe"]:  # it makes something, if only for a moment
            call.allowed(WRITE, start)
        else:
            start()
        return LATER

    def _start(self, call: Call, request: Mapping[str, Any], documents: Sequence[int]) -> str:
        whole = {"role": "", "handover": "", "mode": "", "config": self.config,
                 "limited": call.caller.limited, "by": f"user {call.caller.uid}", **request}
        return self.jobs.start(whole, documents, call.caller.uid).path


def _targets(words: Sequence[str]) -> List[str]:
    for one in words:
        if "/" not in one.strip("/"):
            raise errors.BadCall(f"{one[:80]!a} is no target: it is FABRIC/WWN",
                                 do="ListTargets")
    return [one.strip("/") for one in words]


def _options(given: Mapping[str, Any], known: Collection[str]) -> Dict[str, Any]:
    """Every option there is, as given or as if not.  Raises BadCall for one that is unknown."""
    made: Dict[str, Any] = {
        name: () if kind is list else kind() for name, kind in OPTIONS.items()}
    for name, value in given.items():
        if name not in known:
            raise errors.BadCall(f"there is no option {name[:40]!a} here", do="see the interface")
        kind: Any = OPTIONS[name]
        if not isinstance(value, kind) or kind is list and not all(
                isinstance(one, str) for one in value):
            raise errors.BadCall(f"option {name} is of another type", do="see the interface")
        made[name] = value
    return made


def _close(descriptors: Sequence[int]) -> None:
    for one in descriptors:
        os.close(one)

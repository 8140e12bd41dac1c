"""The root object: the host's own verbs, and the beginnings of handovers."""
from __future__ import annotations

import os
from typing import Any, Callable, Mapping, Sequence

from .. import __version__, dbus_names, errors
from ..document import document
from ..verb_table import HANDOVER_VERBS
from .bus.contract import verb_of
from .bus.dispatch import LATER, Call, Node, Tree
from .hostverbs import HOST_VERBS
from .requests import Requests, options
from .survey import Handover, Survey, Target


class Manager(Node):
    interfaces = (dbus_names.MANAGER, dbus_names.OBJECT_MANAGER)

    def __init__(self, tree: Tree, survey: Survey, requests: Requests, boot_id: str) -> None:
        super().__init__(dbus_names.ROOT)
        self.tree, self.survey, self.requests, self.boot_id = tree, survey, requests, boot_id
        survey.stale_changed = lambda: tree.changed(self, dbus_names.MANAGER, ["Stale"])

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != dbus_names.MANAGER:
            return {}
        return {"Version": __version__, "ApiVersion": dbus_names.API_VERSION,
                "DocumentVersion": document.VERSION, "Features": ["descriptors", "uploads"],
                "Host": os.uname().nodename, "Kernel": os.uname().release,
                "BootId": self.boot_id, "Stale": self.survey.stale}

    def handler(self, interface: str, member: str) -> Callable[..., Any]:
        verb = member.lower()
        if verb in HOST_VERBS:
            return lambda call, *args: self.requests.host_verb(call, verb, *args)
        verb = verb_of(interface, member)
        if verb:
            return lambda call, *args: self._handover_verb(call, verb, *args)
        return super().handler(interface, member)

    def _handover_verb(self, call: Call, verb: str, handover: str, targets: Sequence[str],
                       mode: str, messages: Sequence[int], given: Mapping[str, Any]) -> Any:
        return self.requests.handover_verb(call, verb, HANDOVER_VERBS[verb].role, handover,
                                           targets, mode, messages, given)

    # ---- methods ---
    def list_targets(self, call: Call, given: Mapping[str, Any]) -> Any:
        options(given, ())
        return self._list(call, lambda: [
            (node.name, path) for path, node in self.tree.below(dbus_names.TARGETS)
            if isinstance(node, Target)])

    def list_handovers(self, call: Call, given: Mapping[str, Any]) -> Any:
        options(given, ())
        return self._list(call, lambda: [
            (node.id, path) for path, node in self.tree.below(dbus_names.HANDOVERS)
            if isinstance(node, Handover)])

    def _list(self, call: Call, found: Callable[[], Sequence[Any]]) -> Any:
        """Answer with what the host has now, or not at all."""
        def looked() -> None:
            if self.survey.stale:
                call.fail(getattr(errors, self.survey.error)(self.survey.stale,
                                                             do="see the property Stale"))
            else:
                call.reply(found())
        self.survey.refresh(looked)
        return LATER

    def upload(self, call: Call, token: str, chunk: bytes, given: Mapping[str, Any]) -> Any:
        options(given, ())
        return self.requests.uploads.put(token, chunk, call.caller.uid)

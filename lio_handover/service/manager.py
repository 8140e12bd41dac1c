"""The root object: the host's own verbs, and the beginnings of handovers."""
from __future__ import annotations

import os
from typing import Any, Callable, Mapping, Sequence

from .. import __version__, dbus_names, errors
from ..document import document
from .bus.dispatch import LATER, Call, Node, Tree
from .requests import Requests
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

    def verb(self, call: Call, *args: Any) -> Any:
        return self.requests.verb(call, "", *args)

    # ---- methods ---
    def list_targets(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)
        return self._list(call, lambda: [
            (node.name, path) for path, node in self.tree.below(dbus_names.TARGETS)
            if isinstance(node, Target)])

    def list_handovers(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)
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

    def upload(self, call: Call, token: str, chunk: bytes, options: Mapping[str, Any]) -> Any:
        call.options(options)
        return self.requests.uploads.put(token, chunk, call.caller.uid)

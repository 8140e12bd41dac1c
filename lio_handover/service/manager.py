"""The root object: the host's own verbs, and verbs that begin a handover."""
from __future__ import annotations

import os
from typing import Any, Callable, List, Mapping, Sequence

from .. import __version__, dbus_names, errors, settings
from ..dbus_names import EXPORTS, FINISHES
from ..document import document
from ..protocol.authentication import KEY, has_key
from ..system.document_file import SMALL
from ..verb_table import WRITE
from .bus.dispatcher import DEFERRED, BusObject, Call, ObjectTree
from .inventory import HandoverObject, Inventory, TargetObject
from .requests import Requests


class Manager(BusObject):
    interfaces = (dbus_names.MANAGER, dbus_names.OBJECT_MANAGER)

    def __init__(self, tree: ObjectTree, inventory: Inventory, requests: Requests,
                 boot_id: str) -> None:
        super().__init__(dbus_names.ROOT)
        self.tree, self.inventory, self.requests, self.boot_id = tree, inventory, requests, boot_id
        inventory.stale_changed = lambda: tree.changed(self, dbus_names.MANAGER, ["Stale"])

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != dbus_names.MANAGER:
            return {}
        return {"Version": __version__, "ApiVersion": dbus_names.API_VERSION,
                "DocumentVersion": document.VERSION, "Features": self.features,
                "Host": os.uname().nodename, "Kernel": os.uname().release,
                "BootId": self.boot_id, "Stale": self.inventory.stale}

    @property
    def features(self) -> List[str]:
        """The things that a client can rely on, and whether this host has a key now."""
        config = self.requests.config
        try:
            key = has_key(settings.load(config) if config else settings.load())
        except errors.BadSettings:
            key = False
        return ["descriptors", "uploads", EXPORTS, FINISHES, *([KEY] if key else [])]

    def verb(self, call: Call, *args: Any) -> Any:
        if call.method.verb and call.method.verb.of_object:
            return self.requests.of_object(call, "", *args)
        return self.requests.verb(call, "", *args)

    # ---- methods ---
    def list_targets(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)
        return self._list(call, lambda: [
            (node.name, path) for path, node in self.tree.below(dbus_names.TARGETS)
            if isinstance(node, TargetObject)])

    def list_handovers(self, call: Call, options: Mapping[str, Any]) -> Any:
        call.options(options)
        return self._list(call, lambda: [
            (node.id, path) for path, node in self.tree.below(dbus_names.HANDOVERS)
            if isinstance(node, HandoverObject)])

    def _list(self, call: Call, objects: Callable[[], Sequence[Any]]) -> Any:
        """Answer with the host's objects now, or with an error where they may be stale."""
        def looked() -> None:
            if self.inventory.stale:
                call.fail(getattr(errors, self.inventory.error)(self.inventory.stale,
                                                                do="see the property Stale"))
            else:
                call.reply(objects())
        self.inventory.refresh(looked)
        return DEFERRED

    def upload(self, call: Call, token: str, chunk: bytes, options: Mapping[str, Any]) -> Any:
        call.options(options)
        uploads, user = self.requests.uploads, call.caller.uid
        large = user and uploads.size(token, user) + len(chunk) > SMALL
        call.allowed((WRITE,) if large else (),
                     lambda: call.reply(uploads.put(token, chunk, user)))
        return DEFERRED

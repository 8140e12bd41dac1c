"""What this host has, as the objects of the tree: looked at by a child that may get lost."""
from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Collection, Dict, List, Mapping, Optional, Sequence

from gi.repository import Gio, GLib

from .. import dbus_names
from ..system.journald import Log
from .bus.dispatch import Call, Node, Tree
from .children import Child

if TYPE_CHECKING:
    from .requests import Requests

#: Seconds after which who waits is answered with what is known; and while the child starts.
PATIENCE, STARTING = 3.0, 20.0
#: Milliseconds between two looks while a journal is written to.
OFTEN = 500

Then = Callable[[], None]


class Target(Node):
    interfaces = (dbus_names.TARGET,)

    def __init__(self, found: Mapping[str, Any], handover: str) -> None:
        super().__init__(dbus_names.path(dbus_names.TARGETS, found["name"]))
        self.name: str = found["name"]
        self.found, self.handover = found, handover

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != dbus_names.TARGET:
            return {}
        fabric, _, wwn = self.name.partition("/")
        return {"Name": self.name, "Fabric": fabric, "Wwn": wwn, "Enabled": self.found["enabled"],
                "Frozen": self.found["frozen"], "RestoredBy": self.found["restored_by"],
                "Handover": self.handover}


class Handover(Node):
    interfaces = (dbus_names.HANDOVER,)

    def __init__(self, survey: Survey, found: Mapping[str, Any]) -> None:
        super().__init__(dbus_names.path(dbus_names.HANDOVERS, found["id"]))
        self.survey, self.found = survey, found
        self.id: str = found["id"]

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != dbus_names.HANDOVER:
            return {}
        one = self.found
        return {"Id": self.id, "Role": one["role"], "State": one["state"], "Means": one["means"],
                "Epoch": one["epoch"], "Mode": one["mode"], "Targets": one["targets"],
                "Peer": one["peer"], "Digest": one["digest"], "Busy": one["busy"],
                "Since": int(one["since"] * 1000000), "Error": one["error"]}

    def verb(self, call: Call, *args: Any) -> Any:
        return self.survey.requests.verb(call, self.id, *args)


class Journals:
    """Calls ``changed`` when anybody's process writes to a handover's journal: the command line, or
    a job that is not at its end yet."""

    def __init__(self, folder: str, changed: Then) -> None:
        self._folder, self._changed = folder, changed
        self._monitors: Dict[str, Any] = {}
        self._monitor(folder)

    def follow(self, ids: Collection[str]) -> None:
        """These are there.  What happened to a new one before it was watched is asked for."""
        for one in {*self._monitors} - {self._folder, *map(self._of, ids)}:
            monitor = self._monitors.pop(one)
            if monitor:
                monitor.cancel()
        new = [one for one in ids if self._of(one) not in self._monitors]
        for one in new:
            self._monitor(self._of(one))
        if new:
            self._changed()

    def _of(self, handover: str) -> str:
        return os.path.join(self._folder, handover)

    def _monitor(self, path: str) -> None:
        self._monitors[path] = None
        try:
            made = Gio.File.new_for_path(path).monitor_directory(Gio.FileMonitorFlags.NONE, None)
        except GLib.Error:
            return  # nothing is told then until somebody asks
        made.set_rate_limit(OFTEN)
        made.connect("changed", self._came)
        self._monitors[path] = made

    def _came(self, monitor: Any, file: Any, *_: Any) -> None:
        path = file.get_path()
        if monitor is self._monitors.get(self._folder) and path not in self._monitors:
            self._monitor(path)  # before it is looked at: its first record comes later
        self._changed()


class Survey:
    """Keeps the tree's targets and handovers as they are.  ``stale`` says why it can't, ``error``
    is what that is called."""

    def __init__(self, tree: Tree, config: str, state_directory: str, log: Log) -> None:
        self.tree, self.config, self.log = tree, config, log
        self.journals = Journals(os.path.join(state_directory, "handovers"),
                                 lambda: self.refresh(lambda: None))
        self.stale, self.error = "", "StillRunning"
        self.stale_changed: Then = lambda: None
        self.looked: Then = lambda: None
        self.requests: Requests
        self._child: Optional[Child] = None
        self._patience = STARTING
        self._asked = 0.0  # since when an answer is awaited, 0: none is
        self._again = False
        self._now: List[Then] = []  # who waits for the answer that is awaited
        self._next: List[Then] = []  # who came after the question was put

    def refresh(self, then: Then) -> None:
        """Bring the tree up to date, then go on; also where the host does not answer."""
        if self._asked:
            self._next.append(then)
            if time.monotonic() - self._asked > self._patience:
                self._go_on()
            return
        self._now.append(then)
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        if self._child is None:
            self._patience = STARTING
            self._child = Child("--surveys", self.config)
            self._child.said, self._child.ended = self._said, self._ended
        self._child.ask()
        GLib.timeout_add(int(self._patience * 1000), self._impatient, self._asked)

    def _impatient(self, asked: float) -> bool:
        if self._asked == asked:
            self._say("the host has not answered for "
                      f"{time.monotonic() - asked:.0f} s: something hangs in the kernel")
            self._go_on()
        return False

    def _say(self, why: str, error: str = "StillRunning") -> None:
        self.error = error
        if self.stale != why:
            self.stale = why
            if why:
                self.log.warn(f"targets and handovers may not be as shown: {why}")
            self.stale_changed()

    def _go_on(self) -> None:
        waiting, self._now, self._next = self._now + self._next, [], []
        for one in waiting:
            one()

    def _said(self, words: Dict[str, Any]) -> None:
        self._asked, self._patience = 0.0, PATIENCE
        if "survey" in words:
            self._take(words["survey"])
            self._say("")
        else:
            self._say(str(words.get("failed", "the host can't be looked at")),
                      str(words.get("error", "HandoverError")))
        waiting, self._now, self._next = self._now, self._next, []
        for one in waiting:
            one()
        if self._now and not self._asked:
            self._ask()

    def _ended(self, code: int) -> None:
        self._child = None
        if self._asked:
            self._asked = 0.0
            self._say(f"the process that looks at the host ended (exit {code})")
            self._go_on()

    def stop(self) -> None:
        if self._child:
            self._child.dismiss()

    def _take(self, found: Mapping[str, Any]) -> None:
        """Make the tree what was found; tell what has changed."""
        part_of = {target: dbus_names.path(dbus_names.HANDOVERS, handover["id"])
                   for handover in found["handovers"] for target in handover["targets"]}
        self._update(dbus_names.HANDOVERS, dbus_names.HANDOVER, [
            Handover(self, handover) for handover in found["handovers"]])
        self._update(dbus_names.TARGETS, dbus_names.TARGET, [
            Target(target, part_of.get(target["name"], "/")) for target in found["targets"]])
        self.journals.follow([handover["id"] for handover in found["handovers"]])
        self.looked()

    def _update(self, folder: str, interface: str, nodes: Sequence[Node]) -> None:
        wanted = {node.path: node for node in nodes}
        for path, _node in self.tree.below(folder):
            if path not in wanted:
                self.tree.remove(path)
        for path, node in wanted.items():
            old = self.tree.nodes.get(path)
            if old is None:
                self.tree.add(node)
                continue
            self.tree.nodes[path] = node
            before, after = old.properties(interface), node.properties(interface)
            changed = [name for name in after if after[name] != before[name]]
            if changed:
                self.tree.changed(node, interface, changed)

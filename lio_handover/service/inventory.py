"""This host's targets and handovers as D-Bus objects.  A worker process reads them, as a read may
hang in the kernel."""
from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Collection, Dict, List, Mapping, Optional, Sequence

from gi.repository import Gio, GLib

from .. import dbus_names
from ..client.worker_process import WorkerProcess
from ..records.journal import JOURNAL, at_work
from ..system.journald import Log
from .bus.dispatcher import BusObject, Call, ObjectTree

if TYPE_CHECKING:
    from .requests import Requests

#: Seconds after which callers are answered from the last look; the same while the worker starts.
PATIENCE, STARTING = 3.0, 20.0
#: Milliseconds between two looks while a journal is written to.
OFTEN = 500
#: Seconds after a verb of a handover in which the next one may come, and nothing is looked at that
#: nobody asked for; most seconds for which that is put off.
HURRY, LONGEST = 1.0, 5.0

Then = Callable[[], None]


class ChangeableObject(BusObject):
    """An object that calls can change.  ``node``: it, in targetcli's words."""

    node = ""

    def __init__(self, inventory: Inventory, path: str) -> None:
        super().__init__(path)
        self.inventory = inventory

    def verb(self, call: Call, *args: Any) -> Any:
        return self.inventory.requests.of_object(call, self.node, *args)


class BackstoreObject(ChangeableObject):
    interfaces = (dbus_names.BACKSTORE,)

    def __init__(self, inventory: Inventory, name: str) -> None:
        super().__init__(inventory, dbus_names.path(dbus_names.BACKSTORES, name))
        self.name, self.node = name, f"/backstores/{name}"

    @property
    def about(self) -> str:
        return self.name

    def properties(self, interface: str) -> Mapping[str, Any]:
        return {"Name": self.name, "Plugin": self.name.partition("/")[0]} \
            if interface == dbus_names.BACKSTORE else {}


class AclObject(ChangeableObject):
    interfaces = (dbus_names.ACL,)

    def __init__(self, inventory: Inventory, target: str, tpg: int, initiator: str) -> None:
        super().__init__(inventory, dbus_names.path(
            dbus_names.ACLS, f"{target}/tpg{tpg}/{initiator}"))
        self.target, self.tpg, self.initiator = target, tpg, initiator
        self.node = f"/{target}/tpg{tpg}/acls/{initiator}"

    @property
    def about(self) -> str:
        return self.target

    def properties(self, interface: str) -> Mapping[str, Any]:
        return {"Initiator": self.initiator, "Tpg": self.tpg, "Target": dbus_names.path(
            dbus_names.TARGETS, self.target)} if interface == dbus_names.ACL else {}


class TargetObject(ChangeableObject):
    interfaces = (dbus_names.TARGET,)

    def __init__(self, inventory: Inventory, facts: Mapping[str, Any], handover: str) -> None:
        super().__init__(inventory, dbus_names.path(dbus_names.TARGETS, facts["name"]))
        self.node = "/" + facts["name"]
        self.name: str = facts["name"]
        self.facts, self.handover = facts, handover

    @property
    def about(self) -> str:
        return self.name

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != dbus_names.TARGET:
            return {}
        fabric, _, wwn = self.name.partition("/")
        return {"Name": self.name, "Fabric": fabric, "Wwn": wwn, "Enabled": self.facts["enabled"],
                "Frozen": self.facts["frozen"], "RestoredBy": self.facts["restored_by"],
                "Handover": self.handover}


class HandoverObject(BusObject):
    interfaces = (dbus_names.HANDOVER,)

    def __init__(self, inventory: Inventory, facts: Mapping[str, Any]) -> None:
        super().__init__(dbus_names.path(dbus_names.HANDOVERS, facts["id"]))
        self.inventory, self.facts = inventory, facts
        self.id: str = facts["id"]

    @property
    def about(self) -> str:
        return " ".join(self.facts["targets"]) or f"handover {self.id}"

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != dbus_names.HANDOVER:
            return {}
        facts = self.facts
        return {"Id": self.id, "Role": facts["role"], "State": facts["state"],
                "Means": facts["means"],
                "Epoch": facts["epoch"], "Mode": facts["mode"], "Targets": facts["targets"],
                "Peer": facts["peer"], "Digest": facts["digest"], "Busy": facts["busy"],
                "Since": int(facts["since"] * 1000000), "Error": facts["error"]}

    def verb(self, call: Call, *args: Any) -> Any:
        return self.inventory.requests.verb(call, self.id, *args)


class PutOff:
    """Calls ``then``, but not while the verbs of a handover follow each other: the next one would
    wait for the processor, and initiators with it."""

    def __init__(self, then: Then) -> None:
        self._then = then
        self._until = self._since = 0.0  # not before; put off since then, 0 where nothing is
        self._timer = 0

    def hurry(self, ended: bool) -> None:
        """A verb of a handover begins, or has ended."""
        now = time.monotonic()
        self._until = now + (HURRY if ended else LONGEST)
        if ended and self._since:
            GLib.source_remove(self._timer)
            self._later(now)

    def __call__(self) -> None:
        now = time.monotonic()
        if self._since:
            return
        if now >= self._until:
            return self._then()
        self._since = now
        self._later(now)

    def _later(self, now: float) -> None:
        wait = min(self._until, self._since + LONGEST) - now
        self._timer = GLib.timeout_add(int(max(wait, 0) * 1000) + 1, self._again)

    def _again(self) -> bool:
        now = time.monotonic()
        if now < min(self._until, self._since + LONGEST):
            self._later(now)
        else:
            self._since = 0.0
            self._then()
        return False


class JournalWatch:
    """Calls ``changed`` when any process writes to a handover's journal: the command line, a
    running job, or the helper that QEMU waits for; and before that ``hurried``, with whether that
    process's verb has ended."""

    def __init__(self, folder: str, changed: Then, hurried: Callable[[bool], None]) -> None:
        self._folder, self._changed, self._hurried = folder, changed, hurried
        self._monitors: Dict[str, Any] = {}
        self._monitor(folder)

    def follow(self, ids: Collection[str]) -> None:
        """Watch the journals of these handovers.  A new journal may have been written before its
        watch, so a new one counts as changed."""
        for path in {*self._monitors} - {self._folder, *map(self._of, ids)}:
            monitor = self._monitors.pop(path)
            if monitor:
                monitor.cancel()
        new = [path for path in map(self._of, ids) if path not in self._monitors]
        for path in new:
            self._monitor(path)
        if new:
            self._changed()

    def _of(self, handover: str) -> str:
        return os.path.join(self._folder, handover)

    def _monitor(self, path: str) -> None:
        self._monitors[path] = None
        try:
            monitor = Gio.File.new_for_path(path).monitor_directory(Gio.FileMonitorFlags.NONE, None)
        except GLib.Error:
            return  # the next call on an object finds the change
        monitor.set_rate_limit(OFTEN)
        monitor.connect("changed", self._came)
        self._monitors[path] = monitor

    def _came(self, monitor: Any, file: Any, *_: Any) -> None:
        path = file.get_path()
        if monitor is self._monitors.get(self._folder) and path not in self._monitors:
            self._monitor(path)  # the journal's first record comes after its folder
        elif os.path.basename(path) == JOURNAL:
            self._hurried(not at_work(path))
        self._changed()


class Inventory:
    """Keeps the tree's targets and handovers up to date.  ``stale``: why they may be out of date,
    or ""; ``error``: the name of its error class."""

    def __init__(self, tree: ObjectTree, config: str, state_directory: str, log: Log) -> None:
        self.tree, self.config, self.log = tree, config, log
        self.unasked = PutOff(lambda: self.refresh(lambda: None))
        #: Is told when a verb of a handover begins in any process, or (True) has ended.
        self.hurried: Callable[[bool], None] = lambda ended: None
        self.journals = JournalWatch(os.path.join(state_directory, "handovers"), self.unasked,
                                     lambda ended: self.hurried(ended))
        self.stale, self.error = "", "StillRunning"
        self.stale_changed: Then = lambda: None
        self.looked: Then = lambda: None
        self.requests: Requests
        self._child: Optional[WorkerProcess] = None
        self._patience = STARTING
        self._asked = 0.0  # when the worker was asked; 0 while no answer is due
        self._told: Dict[str, Mapping[str, Any]] = {}  # how handovers stand, while it is asked
        self._now: List[Then] = []  # callers that wait for this answer
        self._next: List[Then] = []  # callers that came after the worker was asked

    def refresh(self, then: Then) -> None:
        """Bring the tree up to date, then call ``then``; also where the worker does not answer."""
        if self._asked:
            self._next.append(then)
            if time.monotonic() - self._asked > self._patience:
                self._go_on()
            return
        self._now.append(then)
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        self._told.clear()
        if self._child is None:
            self._patience = STARTING
            self._child = WorkerProcess("--surveys", self.config)
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
        for resume in waiting:
            resume()

    def _said(self, words: Dict[str, Any]) -> None:
        if "changed" in words:  # somebody has made or removed an object
            return self.unasked()
        self._asked, self._patience = 0.0, PATIENCE
        if "survey" in words:
            self._take(words["survey"])
            self._say("")
            for facts in self._told.values():  # which may be newer
                self._update_one(facts)
        else:
            self._say(str(words.get("failed", "the host can't be looked at")),
                      str(words.get("error", "HandoverError")))
        waiting, self._now, self._next = self._now, self._next, []
        for resume in waiting:
            resume()
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

    def stands(self, facts: Mapping[str, Any]) -> None:
        """Update one handover and its targets, as a worker has told of them (survey.of_handover);
        look at the host once no other verb follows."""
        self._update_one(facts)
        if self._asked:
            self._told[facts["handover"]["id"]] = facts
        self.unasked()

    def _update_one(self, facts: Mapping[str, Any]) -> None:
        handover = HandoverObject(self, facts["handover"])
        self._put(handover, dbus_names.HANDOVER)
        for name, target in facts["targets"].items():
            path = dbus_names.path(dbus_names.TARGETS, name)
            old = self.tree.nodes.get(path)
            if target is not None:
                known = old.handover if isinstance(old, TargetObject) else "/"
                self._put(TargetObject(self, target, handover.path if known == "/" else known),
                          dbus_names.TARGET)
            elif old is not None:
                self.tree.remove(path)

    def _take(self, host: Mapping[str, Any]) -> None:
        """Update the tree to the host's state, and signal the changes."""
        part_of = {target: dbus_names.path(dbus_names.HANDOVERS, handover["id"])
                   for handover in host["handovers"] for target in handover["targets"]}
        self._update(dbus_names.HANDOVERS, dbus_names.HANDOVER, [
            HandoverObject(self, handover) for handover in host["handovers"]])
        self._update(dbus_names.TARGETS, dbus_names.TARGET, [
            TargetObject(self, target, part_of.get(target["name"], "/"))
            for target in host["targets"]])
        self._update(dbus_names.BACKSTORES, dbus_names.BACKSTORE, [
            BackstoreObject(self, name) for name in host["backstores"]])
        self._update(dbus_names.ACLS, dbus_names.ACL, [AclObject(self, *acl)
                                                       for acl in host["acls"]])
        self.journals.follow([handover["id"] for handover in host["handovers"]])
        self.looked()

    def _update(self, folder: str, interface: str, nodes: Sequence[BusObject]) -> None:
        wanted = {node.path: node for node in nodes}
        for path, _node in self.tree.below(folder):
            if path not in wanted:
                self.tree.remove(path)
        for node in wanted.values():
            self._put(node, interface)

    def _put(self, node: BusObject, interface: str) -> None:
        """Add an object, or what has changed of it."""
        old = self.tree.nodes.get(node.path)
        if old is None:
            return self.tree.add(node)
        self.tree.nodes[node.path] = node
        before, after = old.properties(interface), node.properties(interface)
        changed = [name for name in after if after[name] != before[name]]
        if changed:
            self.tree.changed(node, interface, changed)

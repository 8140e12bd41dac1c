"""What this host has, as the objects of the tree: looked at by a child that may get lost."""
from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Mapping, Optional

from gi.repository import GLib

from .. import names
from .children import Child
from .dispatch import Node, Tree
from .log import Log

#: Seconds after which who waits is answered with what is known.
PATIENCE = 3.0

Then = Callable[[], None]


class Target(Node):
    interfaces = (names.TARGET,)

    def __init__(self, name: str) -> None:
        super().__init__(names.path(names.TARGETS, name))
        self.name = name
        self.enabled = self.frozen = False
        self.handover = "/"

    def properties(self, interface: str) -> Mapping[str, Any]:
        if interface != names.TARGET:
            return {}
        fabric, _, wwn = self.name.partition("/")
        return {"Name": self.name, "Fabric": fabric, "Wwn": wwn, "Enabled": self.enabled,
                "Frozen": self.frozen, "Handover": self.handover}


class Survey:
    """Keeps the tree's targets and handovers as they are.  ``stale`` says why it can't."""

    def __init__(self, tree: Tree, config: str, log: Log) -> None:
        self.tree, self.config, self.log = tree, config, log
        self.stale = ""
        self.stale_changed: Then = lambda: None
        self._child: Optional[Child] = None
        self._to_child = -1
        self._asked = 0.0  # since when an answer is awaited, 0: none is
        self._again = False
        self._now: List[Then] = []  # who waits for the answer that is awaited
        self._next: List[Then] = []  # who came after the question was put

    def refresh(self, then: Then) -> None:
        """Bring the tree up to date, then go on; also where the host does not answer."""
        if self._asked:
            self._next.append(then)
            if time.monotonic() - self._asked > PATIENCE:
                self._go_on()
            return
        self._now.append(then)
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        GLib.timeout_add(int(PATIENCE * 1000), self._impatient, self._asked)
        if self._child is None:
            inner, self._to_child = os.pipe2(os.O_CLOEXEC)
            try:
                self._child = Child(["--surveys", self.config], inner, [], self._said, self._ended)
            finally:
                os.close(inner)
        os.write(self._to_child, b"\n")

    def _impatient(self, asked: float) -> bool:
        if self._asked == asked:
            self._say("the host has not answered for "
                      f"{time.monotonic() - asked:.0f} s: something hangs in the kernel")
            self._go_on()
        return False

    def _say(self, why: str) -> None:
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
        self._asked = 0.0
        if "survey" in words:
            self._take(words["survey"])
            self._say("")
        else:
            self._say(str(words.get("failed", "the host can't be looked at")))
        waiting, self._now, self._next = self._now, self._next, []
        for one in waiting:
            one()
        if self._now and not self._asked:
            self._ask()

    def _ended(self, code: int) -> None:
        os.close(self._to_child)
        self._child = None
        if self._asked:
            self._asked = 0.0
            self._say(f"the process that looks at the host ended (exit {code})")
            self._go_on()

    def stop(self) -> None:
        if self._child:
            os.close(os.dup(self._to_child))
            self._child.signal(15)

    def _take(self, found: Mapping[str, Any]) -> None:
        """Make the tree what was found; tell what has changed."""
        wanted = {names.path(names.TARGETS, one["name"]): one for one in found["targets"]}
        for path, _node in self.tree.below(names.TARGETS):
            if path not in wanted:
                self.tree.remove(path)
        for path, one in wanted.items():
            node = self.tree.nodes.get(path)
            new = not isinstance(node, Target)
            target = node if isinstance(node, Target) else Target(one["name"])
            before = dict(target.properties(names.TARGET))
            target.enabled, target.frozen = one["enabled"], one["frozen"]
            if new:
                self.tree.add(target)
                continue
            after = target.properties(names.TARGET)
            changed = [name for name in after if after[name] != before[name]]
            if changed:
                self.tree.changed(target, names.TARGET, changed)

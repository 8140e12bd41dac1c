"""A plan while the planners build it: its steps, the changes it refuses, and their input."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Set, Tuple

from .. import errors
from ..kernel.facts import Facts
from ..model.attributes import Attribute
from ..model.objects import Key, Object, State
from ..storage.exclusive import DeferredOpen
from .order import LATE, PLACE
from .plan import LOAD, Step
from .pr_order import RestoreOrder


@dataclass
class Draft:
    """A plan under construction.

    ``new``: the objects of ``want`` by key; ``created``: the keys of those that do not exist yet;
    ``path``: an object's directory below the target tree; ``late``: storage that is opened inside
    the window.
    """

    want: State
    new: Mapping[Key, Object]
    created: Set[Key]
    facts: Facts
    path: Callable[[Key], str]
    late: Mapping[Key, DeferredOpen]
    restore_order: RestoreOrder
    refused: List[errors.Finding] = field(default_factory=list)
    #: (rank of the slot, order within it) → the steps, as they were added
    _steps: Dict[Tuple[int, Tuple[int, ...]], List[Step]] = field(
        default_factory=lambda: defaultdict(list))
    _said: Set[Tuple[str, str]] = field(default_factory=set)

    def add(self, slot: str, op: str, path: str, value: bytes = b"", about: Key = (),
            order: Tuple[int, ...] = (), row: Optional[Attribute] = None,
            secret: bool = False, sure: bool = False) -> None:
        """Add a step to a slot; within the slot steps stand by ``order``, then as they were
        added."""
        if self.late and about[:3] in self.late:
            slot = LATE.get(slot, slot)
        self._steps[PLACE[slot], order].append(
            Step(op, path, value, slot, about, row, secret, sure))

    def once(self, slot: str, op: str, path: str, about: Key = ()) -> None:
        """Add a step, unless the same op was added for the same path."""
        if (op, path) not in self._said:
            self._said.add((op, path))
            self.add(slot, op, path, about=about)

    def load(self, module: str) -> None:
        self.once("module", LOAD, module)

    def steps(self) -> Tuple[Step, ...]:
        """The steps in their order."""
        return tuple(step for place in sorted(self._steps) for step in self._steps[place])

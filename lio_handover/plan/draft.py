"""A plan while it is made: its steps, what it refuses, and what each part of it is made of."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, List, Mapping, Optional, Set, Tuple

from .. import errors
from ..kernel.facts import Facts
from ..model.attributes import Attribute
from ..model.objects import Key, Object, State
from ..storage.exclusive import Opening
from .order import LATE, PLACE
from .plan import LOAD, Step
from .pr_order import RestoreOrder


@dataclass
class Draft:
    """``new``: what ``want`` is made of, by key; ``created``: what of it is not there yet;
    ``path``: a directory below the target tree; ``late``: storage opened inside the window."""

    want: State
    new: Mapping[Key, Object]
    created: Set[Key]
    facts: Facts
    path: Callable[[Key], str]
    late: Mapping[Key, Opening]
    restore_order: RestoreOrder
    refused: List[errors.Finding] = field(default_factory=list)
    _steps: List[Tuple[Tuple[int, Tuple[int, ...], int], Step]] = field(default_factory=list)
    _said: Set[Tuple[str, str]] = field(default_factory=set)

    def add(self, slot: str, op: str, path: str, value: bytes = b"", about: Key = (),
            order: Tuple[int, ...] = (), row: Optional[Attribute] = None,
            secret: bool = False, sure: bool = False) -> None:
        """A step in its slot; within the slot by ``order``, then as they were added."""
        if self.late and about[:3] in self.late:
            slot = LATE.get(slot, slot)
        self._steps.append(((PLACE[slot], order, len(self._steps)),
                            Step(op, path, value, slot, about, row, secret, sure)))

    def once(self, slot: str, op: str, path: str, about: Key = ()) -> None:
        """A step, but for one that asks the same of the same."""
        if (op, path) not in self._said:
            self._said.add((op, path))
            self.add(slot, op, path, about=about)

    def load(self, module: str) -> None:
        self.once("module", LOAD, module)

    def steps(self) -> Tuple[Step, ...]:
        """In their order."""
        return tuple(step for _place, step in sorted(self._steps, key=lambda pair: pair[0]))

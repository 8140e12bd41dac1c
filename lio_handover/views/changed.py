"""Changes of what a host serves, a line each: + made, - deleted, ! changed."""
from __future__ import annotations

from typing import Iterator, Sequence

from ..errors import one_line
from ..manage.places import path_of
from ..model.diff import Change, Create, Relink, Remove, Set
from .terminal import Terminal


def lines(changes: Sequence[Change], terminal: Terminal) -> Iterator[str]:
    """A line for each change; no secret."""
    for change in changes:
        path = path_of(change.key)
        if isinstance(change, Create):
            yield terminal.paint(one_line(f"+ {path}"), "good")
        elif isinstance(change, Remove):
            yield terminal.paint(one_line(f"- {path}"), "bad")
        elif isinstance(change, (Set, Relink)):
            old, new = (("nothing" if value in (None, "") else str(value))
                        for value in (change.old, change.new))
            yield one_line(f"! {path} {change.name}: {old} -> {new}")

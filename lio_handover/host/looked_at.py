"""A host as it was looked at: to be shown, or before something is imported."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import FrozenSet, Mapping, Tuple

from .. import errors
from ..document.document import Document
from ..kernel.facts import Facts
from ..model.objects import Key, State
from ..plan.plan import Plan


@dataclass(frozen=True)
class Ready:
    """A document looked at from this host: what is here, what would be done, what speaks
    against it.  ``mapped`` says which names were changed on the way in."""

    document: Document
    have: State
    plan: Plan
    findings: Tuple[errors.Finding, ...]
    facts: Facts
    mapped: Tuple[Tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class View:
    """A host for people to look at: what it serves, and what no document carries.

    ``sizes`` is in bytes, without an entry for storage that cannot be found; ``off`` are the
    backstores that were never enabled; ``unclear`` says why reservations cannot be told, where
    they cannot: then the state has none; ``notes`` what else is not shown.
    """

    state: State
    host: str = ""
    kernel: str = ""
    frozen: Tuple[str, ...] = ()
    sizes: Mapping[Key, int] = field(default_factory=dict)
    off: FrozenSet[Key] = frozenset()
    unclear: str = ""
    notes: Tuple[str, ...] = ()
    #: backstores whose path leads to something else than what the kernel has open
    elsewhere: FrozenSet[Key] = frozenset()

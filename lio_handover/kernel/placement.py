"""Where each backstore of the host lives: every HBA's folder has to be listed to know.

Whoever looks at many targets one after the other lists them once for all (`once`): otherwise what
that takes grows with the targets and the HBAs, so with the square of what the host serves.
"""
from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Dict, FrozenSet, Iterator, List, Mapping, TypeVar, cast

from ..model import keys
from ..model.objects import Key
from .configfs import Configfs

_T = TypeVar("_T")


@dataclass(frozen=True)
class Placement:
    """key → HBA; ``twins``: keys that several backstores would have, which are called by their
    HBA, too (``HBA/NAME``)."""

    placed: Mapping[Key, str]
    twins: FrozenSet[Key]


def hbas(fs: Configfs) -> List[str]:
    return [name for name in fs.names("core") if name != "alua"]


def find(fs: Configfs) -> Placement:
    """As it is now; within `once`, as it was when it was asked first.  Raises OSError."""
    return remembered(fs, "placement", lambda: _listed(fs))


def remembered(fs: Configfs, what: str, look: Callable[[], _T]) -> _T:
    """What ``look`` finds; within `once` it is called once for each ``what``."""
    if not fs.remembers:
        return look()
    if fs.remembered[0] != fs.changes:
        fs.remembered = fs.changes, {}
    known = fs.remembered[1]
    if what not in known:
        known[what] = look()
    return cast(_T, known[what])


@contextmanager
def once(fs: Configfs) -> Iterator[None]:
    """Meanwhile such things are looked at once, and again where this object has changed the tree.
    What somebody else makes meanwhile is found after it."""
    before, fs.remembers = fs.remembers, True
    try:
        yield
    finally:
        fs.remembers = before
        if not before:
            again(fs)


def again(fs: Configfs) -> None:
    """Within `once`: what is done next begins with a look of its own."""
    fs.remembered = -1, {}


def _listed(fs: Configfs) -> Placement:
    placed: Dict[Key, str] = {}
    twins: Dict[Key, List[str]] = {}
    for hba in hbas(fs):
        plugin = hba.rpartition("_")[0]
        for name in fs.entries(f"core/{hba}")[1]:
            key = keys.backstore_key(plugin, name)
            if key in placed:
                twins.setdefault(key, [placed[key]]).append(hba)
            placed.setdefault(key, hba)
    for key, others in twins.items():
        del placed[key]
        placed.update((keys.backstore_key(key[1], f"{hba}/{key[2]}"), hba) for hba in others)
    return Placement(placed, frozenset(twins))

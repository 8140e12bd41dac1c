"""The HBA of each backstore of the host: the kernel tells it only by listing every HBA's directory.

A caller that reads many targets one after the other lists the HBAs once for all of them (`once`):
otherwise the time grows with targets times HBAs, so with the square of the host's size.
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
    """``placed``: key → HBA; ``twins``: keys that several backstores would share, whose keys have
    ``HBA/NAME`` instead."""

    placed: Mapping[Key, str]
    twins: FrozenSet[Key]


#: The placement among the things that are remembered.
_PLACEMENT = "placement"


def hbas(fs: Configfs) -> List[str]:
    return [name for name in fs.names("core") if name != "alua"]


def find(fs: Configfs) -> Placement:
    """The placement now, or within `once` and `listed_once` the one that was read when ``fs`` last
    made or removed a backstore.  Raises OSError."""
    return _remembered(fs, _PLACEMENT, fs.moves, lambda: _listed(fs), fs.remembers_hbas)


def remembered(fs: Configfs, what: str, look: Callable[[], _T]) -> _T:
    """The result of ``look``; within `once` it is called once for each ``what``."""
    return _remembered(fs, what, fs.changes, look)


def _remembered(fs: Configfs, what: str, changes: int, look: Callable[[], _T],
                always: bool = False) -> _T:
    if not fs.remembers and not always:
        return look()
    if what not in fs.remembered or fs.remembered[what][0] != changes:
        fs.remembered[what] = changes, look()
    return cast(_T, fs.remembered[what][1])


@contextmanager
def once(fs: Configfs) -> Iterator[None]:
    """Within this context ``remembered`` reads each thing once, and again after ``fs`` has changed
    the tree.  Changes by other programs are seen after the context."""
    before, fs.remembers = fs.remembers, True
    try:
        yield
    finally:
        fs.remembers = before
        _forget(fs)


def keep(fs: Configfs) -> None:
    """Remember the placement alone, however long: until `again`, or a change through ``fs``."""
    placement_now = find(fs)
    fs.remembers, fs.remembered = True, {_PLACEMENT: (fs.moves, placement_now)}


@contextmanager
def listed_once(fs: Configfs) -> Iterator[None]:
    """Within this context the HBAs are listed once, and again after ``fs`` has made or removed a
    backstore: for one verb, which reads its own backstores several times.  One that another program
    moves to another HBA meanwhile is not found there."""
    before, fs.remembers_hbas = fs.remembers_hbas, True
    try:
        yield
    finally:
        fs.remembers_hbas = before
        _forget(fs)


def again(fs: Configfs) -> None:
    """Forget what was read within `once`, so that the next reading asks the kernel again."""
    fs.remembered.clear()


def _forget(fs: Configfs) -> None:
    """Forget what no context around this one remembers."""
    if not fs.remembers:
        fs.remembered = {what: reading for what, reading in fs.remembered.items()
                         if what == _PLACEMENT and fs.remembers_hbas}


def _by_hba(fs: Configfs) -> Mapping[str, List[str]]:
    """HBA → the names of its backstores."""
    if fs.known_backstores is not None:
        try:
            return fs.known_backstores.listed()
        except OSError:
            fs.known_backstores = None  # it hears no more, as a limit of this host's is reached
    return {hba: fs.entries(f"core/{hba}")[1] for hba in hbas(fs)}


def _listed(fs: Configfs) -> Placement:
    placed: Dict[Key, str] = {}
    twins: Dict[Key, List[str]] = {}
    for hba, names in sorted(_by_hba(fs).items()):
        plugin = hba.rpartition("_")[0]
        for name in names:
            key = keys.backstore_key(plugin, name)
            if key in placed:
                twins.setdefault(key, [placed[key]]).append(hba)
            placed.setdefault(key, hba)
    for key, others in twins.items():
        del placed[key]
        placed.update((keys.backstore_key(key[1], f"{hba}/{key[2]}"), hba) for hba in others)
    return Placement(placed, frozenset(twins))

"""How much of a target a change of one object has to know: the rest is known by name alone.

A call that adds a LUN to a thousand others must not read a thousand, so each kind of change has a
row; one without a row reads its target whole.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import AbstractSet, FrozenSet, Mapping, NamedTuple, Optional, Tuple

from ..model.keys import Key, lun_key
from ..model.objects import Acl, MappedLun, State, Tpg
from .changes import CREATE, DELETE, SET, Request, subject
from .places import Node


class Row(NamedTuple):
    """The knowledge that a kind of change needs.

    own       the attributes of the object itself
    tpg       those of its TPG, from which a new object inherits, and which say what serves it
    links     the kinds whose links are followed: ``lun``, ``mapped_lun``
    sessions  who is logged in, and would lose something
    """

    own: bool = False
    tpg: bool = False
    links: Tuple[str, ...] = ()
    sessions: bool = False


#: (verb, kind of object) → what it needs.  What a deletion takes is read whole once it is known,
#: so that it can be made again.
ROWS: Mapping[Tuple[str, str], Row] = {
    (CREATE, "portal"): Row(),
    (CREATE, "lun"): Row(),
    (CREATE, "mapped_lun"): Row(links=("lun",)),
    (CREATE, "acl"): Row(tpg=True, links=("lun",)),
    (SET, "tpg"): Row(own=True, sessions=True),
    (SET, "portal"): Row(own=True),
    (SET, "lun"): Row(own=True),
    (SET, "acl"): Row(own=True, sessions=True),
    (SET, "mapped_lun"): Row(own=True),
    (DELETE, "portal"): Row(sessions=True),
    (DELETE, "lun"): Row(tpg=True, links=("lun", "mapped_lun"), sessions=True),
    (DELETE, "mapped_lun"): Row(links=("lun", "mapped_lun"), sessions=True),
    (DELETE, "acl"): Row(links=("lun", "mapped_lun"), sessions=True),
}
#: Where a key of a LUN and of a mapped LUN has the word ``lun``.
_KINDS = {6: "lun", 8: "mapped_lun"}


@dataclass(frozen=True)
class Reach:
    """The part of a target that is read.  ``whole``: the objects whose attributes are."""

    row: Row
    whole: FrozenSet[Key]
    tpg: Key

    def reads(self, key: Key) -> bool:
        """Whether an object's attributes are read."""
        return key in self.whole or self.row.tpg and key == self.tpg

    def follows(self, key: Key) -> bool:
        """Whether the link of a LUN or mapped LUN is."""
        return key in self.whole or key[:4] == self.tpg and _KINDS.get(len(key)) in self.row.links

    @property
    def sessions(self) -> bool:
        return self.row.sessions

    def and_whole(self, keys: AbstractSet[Key]) -> "Reach":
        """The same, with all of these objects."""
        return replace(self, whole=self.whole | keys)


def of(place: Node, request: Request) -> Optional[Reach]:
    """The reach of a request, None where its target is read whole.  Raises BadCall, BadName."""
    kind, key = subject(place, request)
    row = ROWS.get((request.verb, kind))
    if row is None or key[:1] != ("target",):
        return None
    return Reach(row, frozenset([key] if row.own else []), key[:4])


def mapped_by(state: State, touched: AbstractSet[Key]) -> AbstractSet[Key]:
    """The LUNs that these mapped LUNs map."""
    there = state.index()
    return {lun_key(key[:4], obj.lun) for key in touched for obj in [there.get(key)]
            if isinstance(obj, MappedLun)}


def trimmed(state: State, touched: AbstractSet[Key]) -> State:
    """A state with no other LUNs, and mapped LUNs, than these.  ACLs and portals stay, as others
    are judged by them."""
    def acl_trimmed(acl: Acl) -> Acl:
        return replace(acl, mapped_luns=tuple(
            lun for lun in acl.mapped_luns if lun.key in touched))

    def tpg_trimmed(tpg: Tpg) -> Tpg:
        return replace(tpg, acls=tuple(map(acl_trimmed, tpg.acls)), luns=tuple(
            lun for lun in tpg.luns if lun.key in touched))

    return replace(state, targets=tuple(
        replace(target, tpgs=tuple(map(tpg_trimmed, target.tpgs))) for target in state.targets))

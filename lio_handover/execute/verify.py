"""Reading back: the part of the host that a plan is about, and its differences from the plan."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import AbstractSet, FrozenSet, Tuple

from .. import errors
from ..kernel.configfs import Configfs
from ..kernel.reader import Reader
from ..kernel.rereader import Keys, PartialReader, Rereader
from ..model import diff as differ
from ..model.diff import Change, Create, Relink, Remove, diff
from ..model.keys import display
from ..model.objects import Key, State
from ..plan.pr_order import nearest_reachable


@dataclass(frozen=True)
class Scope:
    """Which part of the host a plan may touch, and its undo looks at."""

    targets: FrozenSet[Tuple[str, str]]
    backstores: FrozenSet[Key]
    lu_groups: FrozenSet[str] = frozenset()
    discovery: bool = False
    #: whether backstores that the targets export are read, too
    linked: bool = True

    @staticmethod
    def of(*states: State) -> "Scope":
        return Scope(
            frozenset((target.fabric, target.wwn) for state in states for target in state.targets),
            frozenset(backstore.key for state in states for backstore in state.backstores),
            frozenset(group.name for state in states for group in state.lu_groups),
            any(state.discovery_auth for state in states),
            all(lun.backstore is None or state.backstore(lun.backstore) is not None
                for state in states for _, _, lun in state.all_luns()))

    def part_of(self, state: State) -> State:
        """The part of ``state`` that is in scope."""
        return State(tuple(group for group in state.lu_groups if group.name in self.lu_groups),
                     tuple(backstore for backstore in state.backstores
                           if backstore.key in self.backstores),
                     tuple(target for target in state.targets
                           if (target.fabric, target.wwn) in self.targets),
                     state.discovery_auth if self.discovery else None)

    def read(self, fs: Configfs, reservations: bool = True, known: State = State(),
             untouched: bool = False, unlinked: AbstractSet[Key] = frozenset()) -> State:
        """The part of the host that is in scope, whatever of it is there.

        ``known``: a state whose registrations, as they are or as they could be restored, are
        believed where the kernel, which does not show all of them, agrees as far as it goes (see
        reservations.read).  ``unlinked``: LUNs and mapped LUNs that have no links yet.
        """
        nearest = nearest_reachable(known)[0] if any(backstore.reservations
                                                     for backstore in known.backstores) \
            else known
        reader = Reader(fs, reservations, untouched=untouched, unlinked=unlinked, known={
            store.key: (store.reservations, near.reservations)
            for store, near in zip(known.backstores, nearest.backstores)})
        there = [name for name in reader.target_names() if name in self.targets]
        state = reader.state(there, self.backstores, self.discovery, self.linked)
        names = self.lu_groups | {group.name for group in state.lu_groups}
        return replace(state, lu_groups=reader.lu_groups(sorted(names)))

    def read_touched(self, fs: Configfs, touched: AbstractSet[Key]) -> State:
        """The part in scope, of which only what is ``touched`` is read; of targets all else is
        there by its name alone."""
        reader = PartialReader(fs, Keys(frozenset(touched)))
        there = [name for name in reader.target_names() if name in self.targets]
        stores = {key[:3] for key in touched} & self.backstores
        state = reader.state(there, stores, self.discovery, False)
        return replace(state, lu_groups=reader.lu_groups(sorted(self.lu_groups)))


def loaded(fs: Configfs, want: State, partial: bool = False, unknown: bool = False,
           built: State = State()) -> State:
    """Read back and compare all that was loaded since ``built`` was read: links and objects that
    need them, nexuses, registrations.  Returns the state that is there.  No initiator was let in
    since.  Raises as ``check`` does."""
    known = {backstore.key: (backstore.reservations,) for backstore in want.backstores}
    reader = Rereader(fs, untouched=True, known=known)
    if any(getattr(obj, "directory", "") for obj in built.objects()):
        now = Scope.of(want).read(fs, known=want, untouched=True)  # not called as usual
    else:
        now = reader.runtime(want)
    check(now, want, False, partial, unknown)
    return now


def check(now: State, want: State, gates: bool = True, partial: bool = False,
          unknown: bool = False) -> None:
    """Raises VerifyFailed where ``now`` is not ``want``, naming what differs.

    CannotRepresent where that is only what the table does not know, which nobody writes;
    ``unknown`` lets such be.
    """
    left = diff(now, want, gates, partial)
    strange = [change for change in left if isinstance(change, differ.Set) and not change.known]
    if unknown or len(strange) == len(left):
        left = tuple(change for change in left if change not in strange)
    if strange and not left and not unknown:
        raise errors.CannotRepresent(
            describe(strange[0]) + ", and this version does not know it, so it can't be written",
            do="make it the same on both hosts, or --allow unknown-attribute")
    if left:
        more = f" (and {len(left) - 3} more)" if len(left) > 3 else ""
        raise errors.VerifyFailed(
            "read back, the host is not what was asked for: "
            + "; ".join(describe(change) for change in left[:3]) + more)


def check_touched(now: State, want: State, touched: AbstractSet[Key]) -> None:
    """Raises VerifyFailed where an object that was made, changed or removed is not as wanted; all
    others are somebody else's."""
    left = [change for change in diff(now, want, False, True) if change.key in touched]
    if left:
        raise errors.VerifyFailed("read back, the host is not what was asked for: "
                                  + "; ".join(map(describe, left[:3])))


def describe(change: Change) -> str:
    """A change in a few words, secrets hidden."""
    if isinstance(change, Create):
        return f"{display(change.key)} is missing"
    if isinstance(change, Remove):
        return f"{display(change.key)} is too much"
    if isinstance(change, (differ.Set, Relink)):
        return f"{display(change.key)} {change.name} is {change.old} instead of {change.new}"
    old, new = change.old, change.new
    if len(old.registrations) != len(new.registrations):
        return (f"{display(change.key)} has {len(old.registrations)} registrations instead of "
                f"{len(new.registrations)}")
    for name in ("generation", "aptpl", "type", "holder"):
        if getattr(old, name) != getattr(new, name):
            return (f"{display(change.key)} PR {name} is {getattr(old, name)} instead of "
                    f"{getattr(new, name)}")
    return f"{display(change.key)} has other registrations"

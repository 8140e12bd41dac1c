"""Model × model → changes: what would have to happen for ``have`` to become ``want``.

One linear walk over the objects by key; no object has rules of its own here.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from . import plugins
from .attributes import HOST, owner_of, row, rows
from .keys import display
from .objects import (DEFAULT_GROUP, Attributes, Backstore, Key, Lun, MappedLun, Object,
                      Reservations, Secret, State)


@dataclass(frozen=True)
class Create:
    """An object that is wanted and not there; its children have their own Create."""

    object: Object

    @property
    def key(self) -> Key:
        return self.object.key


@dataclass(frozen=True)
class Remove:
    """An object that is there and not wanted; its children have their own Remove."""

    object: Object

    @property
    def key(self) -> Key:
        return self.object.key


@dataclass(frozen=True)
class Set:
    """An attribute that differs; None stands for "not there".  ``known``: the table has it."""

    key: Key
    name: str
    old: Optional[str]
    new: Optional[str]
    known: bool = True


@dataclass(frozen=True)
class Relink:
    """An object's reference differs: a LUN's backstore, a mapped LUN's LUN, a parameter."""

    key: Key
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Register:
    """The reservations of a backstore that is on both sides differ."""

    key: Key
    old: Reservations
    new: Reservations


Change = Union[Create, Remove, Set, Relink, Register]


def diff(have: State, want: State, gates: bool = True, partial: bool = False) \
        -> Tuple[Change, ...]:
    """The changes from ``have`` to ``want``, removals first, parents before children.

    ``gates=False`` leaves out the attributes that let initiators in (window GATE).  ``partial``
    says that ``want`` is incomplete: an attribute or default group that it does not have, or a
    parameter of which the kernel has a value of its own, may have any value.
    """
    old, new = have.index(), want.index()
    changes: List[Change] = [Remove(obj) for key, obj in old.items() if key not in new
                             and not (partial and key[-1] == DEFAULT_GROUP)]
    for key, obj in new.items():
        if key in old:
            changes.extend(_compare(old[key], obj, gates, partial))
        else:
            changes.append(Create(obj))
    return tuple(changes)


def _compare(old: Object, new: Object, gates: bool, partial: bool) -> Iterator[Change]:
    if isinstance(new, Lun) and isinstance(old, Lun) and old.backstore != new.backstore:
        yield Relink(new.key, "backstore", _say(old.backstore), _say(new.backstore))
    elif isinstance(new, MappedLun) and isinstance(old, MappedLun) and old.lun != new.lun:
        yield Relink(new.key, "lun", str(old.lun), str(new.lun))
    elif isinstance(new, Backstore) and isinstance(old, Backstore):
        known = plugins.of(new.plugin).parameters
        for name in sorted({*old.parameters, *new.parameters}):
            if partial and name not in new.parameters and name in known and known[name].own:
                continue
            if old.parameters.get(name) != new.parameters.get(name):
                yield Relink(new.key, f"control/{name}", old.parameters.get(name, ""),
                             new.parameters.get(name, ""))
        if old.reservations != new.reservations:
            yield Register(new.key, old.reservations, new.reservations)
    yield from _attributes(old, new, gates, partial)


def _say(key: Optional[Key]) -> str:
    return display(key) if key else "nothing"


def value(attributes: Mapping[str, str], kind: str, owner: str, name: str) -> Optional[str]:
    """An attribute's value; where the object does not have it, the value that a kernel without the
    attribute acts by, or None."""
    if name in attributes:
        return attributes[name]
    attribute = row(kind, owner, name)
    return attribute.if_absent if attribute else None


def _attributes(old: Object, new: Object, gates: bool, partial: bool) -> Iterator[Change]:
    if old.attributes == new.attributes:
        return
    owner = owner_of(new.key)
    for name in sorted(new.attributes if partial else {*old.attributes, *new.attributes}):
        was = value(old.attributes, new.kind, owner, name)
        wanted = value(new.attributes, new.kind, owner, name)
        if was == wanted:
            continue
        attribute = row(new.kind, owner, name)
        if attribute is not None and {was, wanted} <= {None, *attribute.unset}:
            continue  # neither was ever set
        if attribute is not None and attribute.of_path \
                and _path(old, was) == _path(new, wanted):
            continue
        if attribute is not None and (attribute.kind == HOST or not gates
                                      and attribute.window == "GATE"):
            continue
        yield Set(new.key, name, was, wanted, attribute is not None or name == "rtpi")


def _path(backstore: Object, told: Optional[str]) -> Optional[str]:
    """The path that a backstore was told, else the one that it opens."""
    return told or isinstance(backstore, Backstore) and backstore.path or None


def gates(state: State) -> Iterator[Tuple[Key, str, str]]:
    """(TPG's key, attribute, value) of every open gate of the state."""
    for target in state.targets:
        for tpg in target.tpgs:
            for name, attribute in rows("tpg", tpg.fabric).items():
                if attribute.window == "GATE" and tpg.attributes.get(name, "0") not in ("", "0"):
                    yield tpg.key, name, tpg.attributes[name]


def counts(changes: Tuple[Change, ...]) -> Dict[str, int]:
    """How many changes of each kind there are: ``{"Create": 3, …}``."""
    numbers: Dict[str, int] = {}
    for change in changes:
        numbers[type(change).__name__] = numbers.get(type(change).__name__, 0) + 1
    return numbers


# ---- secrets ---
def secrets_of(state: State) -> Iterator[Secret]:
    """Every secret of a state that is not empty."""
    secrets: List[Secret] = []

    def note(secret: Secret) -> str:
        secrets.append(secret)
        return secret

    with_secrets(state, note)
    return iter(secrets)


def blind(state: State) -> State:
    """The state with one secret in place of all of them: such states differ in no secret, but in
    whether there is one."""
    return with_secrets(state, lambda secret: Secret("(not compared)"))


def with_secrets(state: State, instead: Callable[[Secret], str]) -> State:
    """The state with other values in place of its secrets that are not empty."""
    def changed(attributes: Attributes) -> Attributes:
        return {name: instead(value) if isinstance(value, Secret) and value.encode() else value
                for name, value in attributes.items()}

    auth = state.discovery_auth
    return replace(state, targets=tuple(
        replace(target, tpgs=tuple(
            replace(tpg, attributes=changed(tpg.attributes), acls=tuple(
                replace(acl, attributes=changed(acl.attributes)) for acl in tpg.acls))
            for tpg in target.tpgs)) for target in state.targets),
        discovery_auth=replace(auth, attributes=changed(auth.attributes)) if auth else None)

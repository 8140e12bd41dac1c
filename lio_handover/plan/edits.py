"""State → State: objects put in, taken out, and looked up by their keys.  Pure functions."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Iterable, Mapping, Optional, Tuple

from ..model import directories
from ..model.attributes import NONE
from ..model.keys import Key
from ..model.objects import Backstore, DiscoveryAuth, LuGroup, Object, State, Target

#: Kind of object → the field of its parent that has it.
_FIELDS: Mapping[str, str] = {
    "lu_group": "lu_groups", "backstore": "backstores", "target": "targets",
    "alua_group": "alua_groups", "tpg": "tpgs", "portal": "portals", "lun": "luns",
    "acl": "acls", "mapped_lun": "mapped_luns"}


def parent_of(key: Key) -> Key:
    """The key of the object that has this one; () for an object that no other one has."""
    if key[0] in ("lu_group", "discovery_auth") or len(key) == 3:
        return ()
    return key[:3] if len(key) == 4 or key[0] == "backstore" else key[:-2]


def find(state: State, key: Key) -> Optional[Object]:
    """The object of a key, or None."""
    if key[0] == "discovery_auth":
        return state.discovery_auth
    if key[0] == "backstore" and len(key) == 3:
        return state.backstore(key)
    above = parent_of(key)
    owner: Any = find(state, above) if above else state
    if owner is None:
        return None
    among = owner.children() if above else state.roots()
    return next((obj for obj in among if obj.key == key), None)


def put(state: State, obj: Object) -> State:
    """The state with this object, in place of the one that has its key.  Raises KeyError where its
    parent is missing."""
    if isinstance(obj, DiscoveryAuth):
        return replace(state, discovery_auth=obj)

    def placed(objects: Tuple[Any, ...]) -> Tuple[Any, ...]:
        if any(other.key == obj.key for other in objects):
            return tuple(obj if other.key == obj.key else other for other in objects)
        return tuple(sorted((*objects, obj), key=_place))
    return _with(state, obj.key, _FIELDS[obj.kind], placed)


def put_alone(state: State, obj: Object) -> State:
    """The same, with the objects that it has there instead of its own.  A backstore has its own
    groups, and the registrations that it has there."""
    there: Any = find(state, obj.key)
    if isinstance(obj, Backstore):
        return put(state, obj if there is None else replace(
            obj, reservations=there.reservations))
    fields = [field for field in _FIELDS.values() if hasattr(obj, field)]
    return put(state, replace(obj, **{  # type: ignore[arg-type]
        field: getattr(there, field) if there is not None else () for field in fields}))


def only(state: State, keys: Iterable[Key]) -> State:
    """The state of these objects of targets, and those that have them; backstores stay."""
    wanted = {key[:length] for key in keys for length in range(3, len(key) + 1)}

    def among(objects: Tuple[Any, ...]) -> Tuple[Any, ...]:
        return tuple(obj for obj in objects if obj.key in wanted)

    return replace(state, targets=tuple(replace(target, tpgs=tuple(
        replace(tpg, portals=among(tpg.portals), luns=among(tpg.luns), acls=tuple(
            replace(acl, mapped_luns=among(acl.mapped_luns)) for acl in among(tpg.acls)))
        for tpg in among(target.tpgs))) for target in among(state.targets)))


def without(state: State, key: Key) -> State:
    """The state without an object and all that it has.  Raises KeyError where it is missing."""
    obj = find(state, key)
    if obj is None:
        raise KeyError(key)
    if isinstance(obj, DiscoveryAuth):
        return replace(state, discovery_auth=None)
    return _with(state, key, _FIELDS[obj.kind],
                 lambda objects: tuple(other for other in objects if other.key != key))


def _with(state: State, key: Key, field: str,
          change: Callable[[Tuple[Any, ...]], Tuple[Any, ...]]) -> State:
    above = parent_of(key)
    if not above:
        return replace(state, **{field: change(getattr(state, field))})  # type: ignore[arg-type]
    owner: Any = find(state, above)
    if owner is None:
        raise KeyError(above)
    return put(state, replace(owner, **{field: change(getattr(owner, field))}))


def _place(obj: Any) -> Tuple[Any, ...]:
    """The order in which a host is read: numbers as numbers, names as names."""
    if isinstance(obj, (Target, LuGroup)) or not hasattr(obj, "at"):
        return (0, *obj.key)
    word = obj.key[-1]
    number = int(word) if word.isdigit() else directories.NO_NUMBER
    return (number, word)


def as_before(now: State, before: State, touched: Iterable[Key]) -> State:
    """``now``, with the ``touched`` objects as they were ``before``: those that were not there are
    gone, those that are gone are there again, the others have their own attributes and links.

    All else of ``now``, whoever made it, stays.
    """
    keys = sorted(set(touched), key=len)
    for key in keys:
        old, new = find(before, key), find(now, key)
        if old is None:
            if new is not None:
                now = without(now, key)
        elif new is None:
            above = parent_of(key)
            if not above or find(now, above) is not None:
                now = put(now, old)
        else:
            children = {field: getattr(new, field) for field in _FIELDS.values()
                        if hasattr(new, field)}
            # CHAP that was never set can't be written: the kernel's word for none is as good.
            unset = {name: NONE for name in new.attributes
                     if name.startswith("auth/") and name not in old.attributes}
            now = put(now, replace(old, attributes={**old.attributes, **unset}, **children))
    return now


def without_ports(state: State) -> State:
    """The state without relative ports: up to 6.1 the links number them, and nobody can choose."""
    def bare(attributes: Mapping[str, str]) -> Mapping[str, str]:
        return {name: value for name, value in attributes.items() if name != "rtpi"} \
            if "rtpi" in attributes else attributes

    return replace(state, targets=tuple(replace(target, tpgs=tuple(
        replace(tpg, attributes=bare(tpg.attributes), luns=tuple(
            replace(lun, attributes=bare(lun.attributes)) for lun in tpg.luns))
        for tpg in target.tpgs)) for target in state.targets))

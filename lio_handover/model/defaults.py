"""Values of a new object: an attribute that is wanted with its default is neither read nor written.

The values stand in attributes.py.  Where the running kernel has another default, reading back shows
it, and the plan is made again without defaults (host/verbs.py).
"""
from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, Mapping, Set, Tuple

from . import plugins
from .attributes import defaults_of, kinds, rows
from .objects import Backstore, Key, Tpg

Values = Mapping[str, str]


def _known() -> Dict[Tuple[str, str], Values]:
    defaults = {(kind, owner): defaults_of(kind, owner) for kind, owner in kinds()
                if kind != "backstore" or plugins.of(owner).listed}
    return {place: values for place, values in defaults.items() if values}


#: (kind of object, plugin or fabric) → attribute → value of one that was just made
DEFAULTS: Mapping[Tuple[str, str], Values] = _known()
#: (kind, plugin or fabric) → its rows that stand for something where they are missing
_IMPLIED = {place: tuple(row for row in rows(*place).values()
                         if row.if_absent is not None and row.if_absent not in row.unset)
            for place in DEFAULTS}


def store_values(store: Backstore) -> Values:
    """{attribute: value} of a backstore that was just enabled.  The values of fileio's attributes
    are known only where ``fd_dev_size`` is given."""
    known = DEFAULTS.get((store.kind, store.plugin), {})
    if "fd_dev_size" not in store.parameters:
        table = rows(store.kind, store.plugin)
        return {name: value for name, value in known.items() if table[name].of_file is None}
    if store.parameters.get("fd_buffered_io") == "1":
        return {**known, "attrib/emulate_write_cache": "1"}
    return known


def values(key: Key, kind: str, tpg: Tpg, readonly: bool = False) -> Values:
    """{attribute: value} of a new object of ``tpg``; ``readonly``: the LUN that a mapped LUN maps
    cannot be written."""
    fabric = key[1]
    known, above = DEFAULTS.get((kind, fabric), {}), rows("tpg", fabric)
    unsure = {path for path, row in rows(kind, fabric).items() if row.inherits in above
              and tpg.attributes.get(row.inherits, above[row.inherits].default)
              != above[row.inherits].default}
    if readonly and kind == "mapped_lun":
        unsure.add("write_protect")
    return {name: value for name, value in known.items() if name not in unsure} if unsure else known


def overwritten_by(kind: str, owner: str, names: Iterable[str], known: Values) -> FrozenSet[str]:
    """The attributes whose values are unknown once ``names`` are written to an object with the
    ``known`` values."""
    table = rows(kind, owner)
    overwritten: Set[str] = set()
    for name in names:
        if name in table:
            overwritten.update(table[name].overwritten(known))
    return frozenset(overwritten)


def implied_values(kind: str, owner: str, attributes: Values,
                   known: Values) -> Iterable[Tuple[str, str]]:
    """(attribute, value) that an older source kernel implied by not having the attribute, where
    ``known``, the new object's values, differs."""
    for row in _IMPLIED.get((kind, owner), ()):
        assert row.if_absent is not None
        if row.path not in attributes and known.get(row.path) != row.if_absent:
            yield row.path, row.if_absent

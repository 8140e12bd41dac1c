"""Values of a new object: an attribute that is wanted just so needs neither a look nor a write.

The values stand in attributes.py.  Where a kernel at hand is different all the same, reading back
finds it, and the plan is made again without them (verbs.Core.import_).
"""
from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, Mapping, Set, Tuple

from . import plugins
from .attributes import defaults_of, kinds, rows
from .objects import Backstore, Key, Tpg

Values = Mapping[str, str]


def _known() -> Dict[Tuple[str, str], Values]:
    found = {(kind, owner): defaults_of(kind, owner) for kind, owner in kinds()
             if kind != "backstore" or plugins.of(owner).listed}
    return {place: values for place, values in found.items() if values}


#: (kind of object, plugin or fabric) → attribute → value of one that was just made
DEFAULTS: Mapping[Tuple[str, str], Values] = _known()
#: (kind, plugin or fabric) → its rows that stand for something where they are missing
_MEANT = {place: tuple(row for row in rows(*place).values()
                       if row.if_absent is not None and row.if_absent not in row.unset)
          for place in DEFAULTS}


def store_values(one: Backstore) -> Values:
    """Values of a backstore that was just enabled: those of a file only where it has a size."""
    known = DEFAULTS.get((one.kind, one.plugin), {})
    if "fd_dev_size" not in one.parameters:
        table = rows(one.kind, one.plugin)
        return {name: value for name, value in known.items() if table[name].of_file is None}
    if one.parameters.get("fd_buffered_io") == "1":
        return {**known, "attrib/emulate_write_cache": "1"}
    return known


def values(key: Key, kind: str, tpg: Tpg, readonly: bool = False) -> Values:
    """Values of a new object of ``tpg``; ``readonly``: what it maps can't be written."""
    fabric = key[1]
    known, above = DEFAULTS.get((kind, fabric), {}), rows("tpg", fabric)
    unsure = {path for path, row in rows(kind, fabric).items() if row.inherits in above
              and tpg.attributes.get(row.inherits, above[row.inherits].default)
              != above[row.inherits].default}
    if readonly and kind == "mapped_lun":
        unsure.add("write_protect")
    return {name: value for name, value in known.items() if name not in unsure} if unsure else known


def clobbered(kind: str, owner: str, names: Iterable[str], known: Values) -> FrozenSet[str]:
    """The attributes whose value nobody knows once these are written to what was ``known``."""
    table = rows(kind, owner)
    found: Set[str] = set()
    for name in names:
        if name in table:
            found.update(table[name].overwritten(known))
    return frozenset(found)


def meant(kind: str, owner: str, attributes: Values, known: Values) -> Iterable[Tuple[str, str]]:
    """(attribute, value) that a source without the attribute had, and a new object has not."""
    for row in _MEANT.get((kind, owner), ()):
        assert row.if_absent is not None
        if row.path not in attributes and known.get(row.path) != row.if_absent:
            yield row.path, row.if_absent

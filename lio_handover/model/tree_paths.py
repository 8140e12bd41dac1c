"""Where objects are, or will be, in the target tree."""
from __future__ import annotations

from typing import Dict, Mapping

from .objects import Key, Lun, MappedLun, Object, Tpg, kernel_name


class Paths:
    """Directories of objects by key.

    ``hba``: each backstore's HBA, by the backstore's key.  ``here``: the objects that exist; their
    directories keep their names, all others get the kernel's own spelling of their numbers.
    """

    def __init__(self, hba: Mapping[Key, str], *here: Mapping[Key, Object]) -> None:
        self.hba, self.here = hba, here
        self._known: Dict[Key, str] = {}

    def of(self, key: Key) -> str:
        """The path of an object's directory, below the target tree."""
        path = self._known.get(key)
        if path is None:
            path = self._known[key] = self._path(key)
        return path

    def _path(self, key: Key) -> str:
        kind, *rest = key
        if kind == "lu_group":
            return f"core/alua/lu_gps/{rest[0]}"
        if kind == "discovery_auth":
            return rest[0]
        if kind == "backstore":
            base = f"core/{self.hba[key[:3]]}/{kernel_name(key)}"
            return f"{base}/alua/{rest[3]}" if len(rest) > 2 else base
        words = [rest[0], rest[1]] + [self._at(key[:4]) for _tag in rest[2:3]]
        below = rest[3:]
        if below:
            what, name = below[0], below[1]
            words += {"lun": ["lun"], "portal": ["np", name], "acl": ["acls", name]}[what]
            words += [self._at(key)] if what == "lun" or below[2:] else []
        return "/".join(words)

    def _at(self, key: Key) -> str:
        """The name of a TPG's, LUN's or mapped LUN's directory, which exists or will be made."""
        for objects in self.here:
            obj = objects.get(key)
            if isinstance(obj, (Tpg, Lun, MappedLun)):
                return obj.at
        return f"{'lun' if len(key) > 4 else 'tpgt'}_{key[-1]}"

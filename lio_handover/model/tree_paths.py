"""Where objects are, or will be, in the target tree."""
from __future__ import annotations

from typing import Dict, Mapping

from .objects import Key, Lun, MappedLun, Object, Tpg, kernel_name


class Paths:
    """``hba``: that of each backstore, by key.  ``here``: what is there; its directories keep the
    names that they have, others get the kernel's own spelling of their numbers."""

    def __init__(self, hba: Mapping[Key, str], *here: Mapping[Key, Object]) -> None:
        self.hba, self.here = hba, here
        self._known: Dict[Key, str] = {}

    def of(self, key: Key) -> str:
        """The path of an object's directory, below the target tree."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._path(key)
        return found

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
        """What a TPG's, LUN's or mapped LUN's directory is, or will be, called."""
        for found in self.here:
            one = found.get(key)
            if isinstance(one, (Tpg, Lun, MappedLun)):
                return one.at
        return f"{'lun' if len(key) > 4 else 'tpgt'}_{key[-1]}"

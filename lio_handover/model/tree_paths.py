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
        kind, depth = key[0], len(key)
        if kind == "lu_group":
            return f"core/alua/lu_gps/{key[1]}"
        if kind == "discovery_auth":
            return key[1]
        if kind == "backstore":
            return f"core/{self.hba[key]}/{kernel_name(key)}" if depth == 3 \
                else f"{self.of(key[:3])}/alua/{key[4]}"
        if depth == 3:
            return f"{key[1]}/{key[2]}"
        if depth == 4:
            return f"{self.of(key[:3])}/{self._at(key)}"
        if depth == 6:
            what, tpg = key[4], self.of(key[:4])
            return f"{tpg}/lun/{self._at(key)}" if what == "lun" \
                else f"{tpg}/{_FOLDERS[what]}/{key[5]}"
        return f"{self.of(key[:6])}/{self._at(key)}"

    def _at(self, key: Key) -> str:
        """The name of a TPG's, LUN's or mapped LUN's directory, which exists or will be made."""
        for objects in self.here:
            obj = objects.get(key)
            if isinstance(obj, (Tpg, Lun, MappedLun)):
                return obj.at
        return f"{'lun' if len(key) > 4 else 'tpgt'}_{key[-1]}"


#: The folders of a TPG by the word of a key.
_FOLDERS = {"portal": "np", "acl": "acls"}

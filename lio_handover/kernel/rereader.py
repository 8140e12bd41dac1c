"""A state that was read before, read again as far as it can have changed since."""
from __future__ import annotations

from dataclasses import replace
from typing import Dict, Mapping

from ..model.attributes import GATE, NEXUS, rows, runtime_names
from ..model.objects import State, Tpg, kernel_name
from .pr_reader import paths_of
from .reader import Reader


class Rereader(Reader):
    """A reader that also reads again."""

    def runtime(self, base: State) -> State:
        """``base``, a state read before, with a new reading of links and the attributes that need
        them, nexuses, gates and reservations."""
        targets = tuple(replace(target, tpgs=tuple(
            self._runtime_tpg(tpg, f"{target.fabric}/{target.wwn}/{tpg.at}")
            for tpg in target.tpgs)) for target in base.targets)
        placed, paths = self.placed(), paths_of(targets)
        stores = tuple(replace(store, reservations=self._pr.read(
            f"core/{placed[store.key]}/{kernel_name(store.key)}", store.serial,
            paths.get(store.key, {}), store.key)) for store in base.backstores)
        return State(base.lu_groups, stores, targets, base.discovery_auth)

    def _runtime_tpg(self, base: Tpg, path: str) -> Tpg:
        table = rows("tpg", base.fabric)
        carried = {name: value for name, value in base.attributes.items()
                   if name not in table or table[name].window not in (GATE, NEXUS)}
        carried.update(self._attributes("tpg", base.fabric, path, (GATE, NEXUS))[0])
        if not self.fs.exists(f"{path}/rtpi"):
            carried.pop("rtpi", None)
        luns = tuple(self._lun(base.key, path, lun.key[-1], lun.at) for lun in base.luns)
        if "rtpi" not in carried:
            carried, luns = self._rtpi(path, carried, luns)
        return replace(base, attributes=self._whole_nexus(base.key, carried), luns=luns,
                       acls=tuple(replace(acl, mapped_luns=self._mapped(
                           base.fabric, acl.key, f"{path}/acls/{acl.initiator}"))
                           for acl in base.acls))

    def served(self, base: State) -> State:
        """``base``, a state read before, with a new reading of what changes while it is served and
        as its gate is shut: run-time attributes, sessions and reservations."""
        targets = tuple(replace(target, tpgs=tuple(
            self._served_tpg(tpg, f"{target.fabric}/{target.wwn}/{tpg.at}")
            for tpg in target.tpgs)) for target in base.targets)
        placed, paths = self.placed(), paths_of(targets)
        stores = []
        for store in base.backstores:
            path = f"core/{placed.get(store.key, store.hba)}/{kernel_name(store.key)}"
            stores.append(replace(
                store, alua_groups=tuple(replace(group, attributes=self._now(
                    group.attributes, "alua_group", "", f"{path}/alua/{group.name}"))
                    for group in store.alua_groups),
                reservations=self._pr.read(path, store.serial, paths.get(store.key, {}),
                                           store.key)))
        return replace(base, backstores=tuple(stores), targets=targets)

    def _served_tpg(self, base: Tpg, path: str) -> Tpg:
        return replace(
            base, attributes=self._now(base.attributes, "tpg", base.fabric, path),
            luns=tuple(replace(lun, attributes=self._now(
                lun.attributes, "lun", base.fabric, f"{path}/lun/{lun.at}"))
                if lun.backstore is not None else lun for lun in base.luns),
            sessions=self._sessions(path, base.acls))

    def _now(self, attributes: Mapping[str, str], kind: str, owner: str, path: str) \
            -> Dict[str, str]:
        """The attributes of an object, with a new reading of the run-time ones."""
        others = {name: value for name, value in attributes.items()
                  if name not in runtime_names(kind, owner)}
        return {**others, **self._attributes(kind, owner, path, runtime=True)[0]}

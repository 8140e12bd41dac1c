"""A state that was read before, read again as far as it can have changed since."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Collection, Dict, FrozenSet, Mapping, Optional, Protocol, Sequence, Tuple

from ..model import directories, pr_texts
from ..model.attributes import GATE, NEXUS, rows, runtime_names
from ..model.objects import Acl, Backstore, Key, Lun, MappedLun, State, Tpg, kernel_name
from .configfs import Configfs
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
        carried = self._gates(base, path)
        if not self.fs.exists(f"{path}/rtpi"):
            carried.pop("rtpi", None)
        luns = tuple(self._lun(base.key, path, lun.key[-1], lun.at) for lun in base.luns)
        if "rtpi" not in carried:
            carried, luns = self._rtpi(path, carried, luns)
        return replace(base, attributes=self._whole_nexus(base.key, carried), luns=luns,
                       acls=tuple(replace(acl, mapped_luns=self._mapped(
                           acl.key, f"{path}/acls/{acl.initiator}")) for acl in base.acls))

    def _gates(self, base: Tpg, path: str) -> Dict[str, str]:
        """The attributes of a TPG, with a new reading of its gate and its nexus."""
        table = rows("tpg", base.fabric)
        carried = {name: value for name, value in base.attributes.items()
                   if name not in table or table[name].window not in (GATE, NEXUS)}
        carried.update(self._attributes("tpg", base.fabric, path, (GATE, NEXUS))[0])
        return self._whole_nexus(base.key, carried)

    def served(self, base: State) -> State:
        """``base``, a state read before, with a new reading of what changes while it is served and
        as its gate is shut: run-time attributes, sessions and reservations."""
        targets = tuple(replace(target, tpgs=tuple(
            self._served_tpg(tpg, f"{target.fabric}/{target.wwn}/{tpg.at}")
            for tpg in target.tpgs)) for target in base.targets)
        base = self._reserved(replace(base, targets=targets))
        return replace(base, backstores=tuple(replace(
            store, alua_groups=tuple(replace(group, attributes=self._now(
                group.attributes, "alua_group", "",
                f"core/{store.hba}/{store.name}/alua/{group.name}"))
                for group in store.alua_groups)) for store in base.backstores))

    def reserved(self, base: State) -> State:
        """The same with a new reading of sessions, and of registrations where there was a REGISTER:
        what could not be told after the gate is shut, while it is open."""
        return self._reserved(replace(base, targets=tuple(replace(target, tpgs=tuple(
            replace(tpg, sessions=self._sessions(f"{target.fabric}/{target.wwn}/{tpg.at}",
                                                 tpg.acls)) for tpg in target.tpgs))
            for target in base.targets)), False)

    def _reserved(self, base: State, holders: bool = True) -> State:
        """``holders``: whether reservations are read, too, that changed without a REGISTER."""
        paths, stores = paths_of(base.targets), []
        for store in base.backstores:
            path = f"core/{store.hba}/{store.name}"
            stores.append(store if self.with_reservations and self._same(path, store, holders) else
                          replace(store, reservations=self._pr.read(
                              path, store.serial, paths.get(store.key, {}), store.key)))
        return replace(base, backstores=tuple(stores))

    def _same(self, path: str, store: Backstore, holders: bool) -> bool:
        """Whether registrations and reservation are as they were: each REGISTER raises PRgeneration
        (target_core_pr.c:core_scsi3_pr_generation), and only who is registered holds one of SPC-3.
        """
        was = store.reservations
        try:
            generation = int(self.fs.read(f"{path}/pr/res_pr_generation") or "0", 0)
        except (FileNotFoundError, ValueError):
            return False
        if generation != was.generation \
                or self.fs.read(f"{path}/pr/res_type").strip() != pr_texts.PRESENT:
            return False
        if not was.registrations or not holders:
            return True
        holder = pr_texts.parse_holder(self.fs.read(f"{path}/pr/res_holder"))
        if holder is None:
            return was.holder is None
        holding = [number for number, registration in enumerate(was.registrations)
                   if (registration.initiator, registration.isid) == holder[1:]]
        return holding == [was.holder] \
            and pr_texts.parse_type(self.fs.read(f"{path}/pr/res_pr_type")) == was.type

    def _served_tpg(self, base: Tpg, path: str) -> Tpg:
        return replace(
            base, attributes=self._now(base.attributes, "tpg", base.fabric, path),
            luns=tuple(replace(lun, attributes=self._now(
                lun.attributes, "lun", base.fabric, f"{path}/lun/{lun.at}"))
                if lun.backstore is not None else lun for lun in base.luns),
            sessions=self._sessions(path, base.acls))

    def _now(self, attributes: Mapping[str, str], kind: str, owner: str, path: str) \
            -> Dict[str, str]:
        """The attributes of an object, with a new reading of those that initiators change."""
        table, changing = rows(kind, owner), runtime_names(kind, owner)
        return {**{name: value for name, value in attributes.items()
                   if name not in changing or table[name].told},
                **self._attributes(kind, owner, path, runtime=True)[0]}

    def loaded(self, base: State, links: Mapping[Key, str], written: Collection[Key]) -> State:
        """``base``, a state that this process has loaded into what nobody else has touched: with a
        new reading of the links that it made (object → the link's path), of the objects it has
        written to, of nexuses, gates and all reservations but none."""
        placed, paths = self.placed(), paths_of(base.targets)
        stores = tuple(replace(store, reservations=self._pr.read(
            f"core/{placed[store.key]}/{store.name}", store.serial, paths.get(store.key, {}),
            store.key)) if store.reservations or store.key in written else store
            for store in base.backstores)

        return replace(base, backstores=stores, targets=tuple(replace(target, tpgs=tuple(
            self._loaded_tpg(tpg, f"{target.fabric}/{target.wwn}/{tpg.at}", links, written)
            for tpg in target.tpgs)) for target in base.targets))

    def _loaded_tpg(self, base: Tpg, path: str, links: Mapping[Key, str],
                    written: Collection[Key]) -> Tpg:
        alone = links.keys() - {*written}  # linked, and nothing more
        return replace(
            base, attributes=self._gates(base, path),
            luns=tuple(self._linked(lun, links[lun.key]) if lun.key in alone else
                       self._lun(base.key, path, lun.key[-1], lun.at) for lun in base.luns),
            acls=tuple(replace(acl, mapped_luns=tuple(
                self._mapping(mapped, links[mapped.key]) for mapped in acl.mapped_luns)
                if alone.issuperset(mapped.key for mapped in acl.mapped_luns)
                else self._mapped(acl.key, f"{path}/acls/{acl.initiator}"))
                for acl in base.acls))

    def _linked(self, lun: Lun, link: str) -> Lun:
        leads = self._leads(link)
        return replace(lun, backstore=self._key(leads) if leads else None,
                       alias=link.rpartition("/")[2])

    def _mapping(self, mapped: MappedLun, link: str) -> MappedLun:
        leads = self._leads(link)
        return replace(mapped, lun=directories.lun_number(leads.rpartition("/")[2])
                       if leads else None, alias=link.rpartition("/")[2])

    def _leads(self, link: str) -> str:
        """Where a link leads in the tree; "" where it is gone."""
        try:
            return self.fs.leads(link)
        except FileNotFoundError:
            return ""


class Reach(Protocol):
    """The part of targets that is read."""

    def reads(self, key: Key) -> bool:
        """Whether an object's attributes are read."""

    def follows(self, key: Key) -> bool:
        """Whether the link of a LUN or mapped LUN is."""

    @property
    def sessions(self) -> bool:
        """Whether initiators that are logged in are looked for."""


@dataclass(frozen=True)
class Keys:
    """The reach that is these objects, and no more."""

    keys: FrozenSet[Key]
    sessions: bool = False

    def reads(self, key: Key) -> bool:
        return key in self.keys

    follows = reads


class PartialReader(Reader):
    """A reader that knows of most objects of a target no more than their names."""

    def __init__(self, fs: Configfs, reach: Reach) -> None:
        super().__init__(fs, reservations=False)
        self.reach = reach

    def _own(self, key: Key, kind: str, path: str) -> Dict[str, str]:
        return super()._own(key, kind, path) if self.reach.reads(key) else {}

    def _link(self, key: Key, path: str) -> Optional[Tuple[str, str]]:
        return super()._link(key, path) if self.reach.follows(key) else None

    def _sessions(self, path: str, acls: Sequence[Acl]) -> Tuple[str, ...]:
        return super()._sessions(path, acls) if self.reach.sessions else ()

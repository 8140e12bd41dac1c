"""Persistent reservations of new backstores: registrations, PRgeneration, APTPL."""
from __future__ import annotations

from os import fsencode
from typing import Dict, Iterable, List, Sequence, Tuple

from ..kernel.scsi_bus import AUTOPROBE
from ..model import fabrics, pr_texts, reservations
from ..model.keys import lun_key
from ..model.objects import DEFAULT_GROUP, Backstore, Key, Registration, Reservations
from .draft import Draft
from .plan import (DRIVERS, FILE, LINK, MKDIR, RMDIR, SCRATCH_NEXUS, SCRATCH_TARGET, SCSI, UNLINK,
                   WRITE)
from .pr_order import padding_registrations

#: A target port group for the time of the scratch target, where the default one's state is in the
#: way.
SCRATCH_GROUP = "lio-handover-scratch"


class ReservationPlanner:
    """Adds its steps to ``draft``."""

    def __init__(self, draft: Draft) -> None:
        self.draft, self.want, self.facts = draft, draft.want, draft.facts
        self._add, self.path = draft.add, draft.path
        self.rtpi = {(target.wwn, tpg.tag): int(tpg.attributes.get("rtpi", "0"))
                     for target in self.want.targets for tpg in target.tpgs}

    def plan(self) -> None:
        clear: List[Backstore] = []
        paddings: Dict[Key, List[Tuple[Registration, int, Backstore]]] = {}
        for store in self.want.backstores:
            wanted = self.draft.restore_order.order(store)
            if store.key not in self.draft.created or not wanted:
                continue
            path = f"{self.path(store.key)}/pr/res_aptpl_metadata"
            place = self.draft.restore_order.padding_paths.get(store.key)
            padding = padding_registrations(wanted, place)
            if padding and place is not None:
                for line in pr_texts.padding_lines(padding, place[1]):
                    self._add("PR padding", WRITE, path, line, store.key)
                paddings.setdefault(place[0], []).append((place[1], padding, store))
            for line in pr_texts.metadata_lines(wanted):
                self._add("PR line", WRITE, path, line, store.key)
            if reservations.needs_clearing(wanted):
                clear.append(store)
            self._aptpl_file(store, wanted)
        for tpg, uses in paddings.items():
            self._pad(tpg, uses)
        if clear:
            self._clear_aptpl(clear)

    def _pad(self, tpg: Key, uses: Sequence[Tuple[Registration, int, Backstore]]) -> None:
        acl = f"{self.path(tpg)}/acls/{pr_texts.PADDING_INITIATOR}"
        self._add("padding", MKDIR, acl, about=tpg)
        for like, _count, store in uses:
            lun = f"{acl}/lun_{like.mapped_lun}"
            self._add("padding", MKDIR, lun, about=store.key)
            self._add("padding", LINK, f"{lun}/link",
                      fsencode(self.path(lun_key(tpg, like.lun))), store.key)
            self._add("padding", UNLINK, f"{lun}/link", about=store.key)
            self._add("padding", RMDIR, lun, about=store.key)
        self._add("padding", RMDIR, acl, about=tpg)

    def _clear_aptpl(self, stores: Iterable[Backstore]) -> None:
        """A loopback nexus of our own registers and unregisters with APTPL=0."""
        fabric, wwn = SCRATCH_TARGET[1:]
        tpg = f"{fabric}/{wwn}/tpgt_1"
        slot = "clear APTPL"
        self.draft.load(fabrics.of(fabric).module)
        new_fabric = fabric not in self.facts.fabrics and fabric not in {
            target.fabric for target in self.want.targets}
        # Else sd would read the disk's partitions, and udev, LVM and mdadm take it for the host's.
        self._add(slot, DRIVERS, AUTOPROBE, b"off")
        if new_fabric:
            self._add(slot, MKDIR, fabric)
        for path in (f"{fabric}/{wwn}", tpg):
            self._add(slot, MKDIR, path, about=SCRATCH_TARGET)
        self._add(slot, WRITE, f"{tpg}/nexus", SCRATCH_NEXUS.encode() + b"\n", SCRATCH_TARGET)
        for number, store in enumerate(stores):
            lun = f"{tpg}/lun/lun_{number}"
            self._add(slot, MKDIR, lun, about=store.key)
            self._add(slot, LINK, f"{lun}/link", fsencode(self.path(store.key)), store.key)
            group = f"{self.path(store.key)}/alua/{SCRATCH_GROUP}"
            if _refuses_registers(store):
                self._add(slot, MKDIR, group, about=store.key)
                self._add(slot, WRITE, f"{group}/tg_pt_gp_id", b"0\n", store.key)  # the next free
                self._add(slot, WRITE, f"{lun}/alua_tg_pt_gp", SCRATCH_GROUP.encode() + b"\n",
                          store.key)
            self._add(slot, SCSI, tpg, str(number).encode(), store.key)
            self._add(slot, UNLINK, f"{lun}/link", about=store.key)
            self._add(slot, RMDIR, lun, about=store.key)
            if _refuses_registers(store):
                self._add(slot, RMDIR, group, about=store.key)
        self._add(slot, WRITE, f"{tpg}/nexus", b"NULL\n", SCRATCH_TARGET)
        for path in (tpg, f"{fabric}/{wwn}"):
            self._add(slot, RMDIR, path, about=SCRATCH_TARGET)
        if new_fabric:
            self._add(slot, RMDIR, fabric)
        self._add(slot, DRIVERS, AUTOPROBE, b"on")

    def _aptpl_file(self, store: Backstore, wanted: Reservations) -> None:
        if not store.serial:
            return
        self._add("APTPL file", FILE, f"{self.facts.dbroot}/pr/aptpl_{store.serial}",
                  pr_texts.aptpl_text(wanted, self.rtpi), store.key)


def _refuses_registers(store: Backstore) -> bool:
    """Whether a LUN of the default group takes no REGISTER: in unavailable and transitioning
    (target_core_alua.c:core_alua_state_unavailable, core_alua_state_transition)."""
    return any(group.name == DEFAULT_GROUP and group.attributes.get("alua_access_state") in
               ("3", "15") for group in store.alua_groups)

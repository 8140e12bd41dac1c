"""Backstores that share a unit serial: the kernel keeps their registrations in one file.

``<dbroot>/pr/aptpl_SERIAL`` is named after the serial alone (target_core_pr.c:
__core_scsi3_write_aptpl_to_file): the last REGISTER with APTPL overwrites what the other backstore
had in it, and a boot gives each the registrations of both.
"""
from __future__ import annotations

import os
from dataclasses import replace
from typing import Dict, Iterable, Iterator, List, Optional, Sequence

from ..errors import CannotRepresent, Finding, shown
from ..kernel.facts import Facts
from ..kernel.reader import Reader
from ..model.keys import display
from ..model.objects import Backstore, State
from ..model.pr_texts import has_file
from .order import PLACE
from .plan import DELETE, Plan, Step


def findings(stores: Sequence[Backstore], others: Iterable[Backstore] = (),
             reader: Optional[Reader] = None) -> Iterator[Finding]:
    """Why ``stores`` cannot be handed over: a backstore with registrations shares its serial with
    another one of ``stores`` or ``others``, the rest of the host.  ``reader`` tells whether the
    others have registrations."""
    mine = {store.key for store in stores}
    by_serial: Dict[str, List[Backstore]] = {}
    for store in (*stores, *(other for other in others if other.key not in mine)):
        if store.serial:
            by_serial.setdefault(store.serial, []).append(store)
    for serial, same in by_serial.items():
        if len(same) > 1 and same[0].key in mine and any(
                store.reservations.registrations or reader is not None and _registered(
                    reader, store) for store in same):
            yield Finding(
                CannotRepresent, display(
                    same[0].key), f"its unit serial {shown(serial)} is that of "
                f"{', '.join(display(other.key) for other in same[1:])}, too, so the kernel keeps "
                f"the registrations of both in one file, aptpl_{shown(serial)}",
                do="give one of them a serial of its own (wwn/vpd_unit_serial, before it is "
                   "exported)")


def _registered(reader: Reader, store: Backstore) -> bool:
    path = f"core/{store.hba}/{store.name}/pr/res_pr_registered_i_pts"
    return bool(store.hba) and reader.fs.exists(path) \
        and any(" Node: " in line for line in reader.fs.read(path).splitlines())


def without_files(the_plan: Plan, have: State, want: State, facts: Facts, reader: Reader) -> Plan:
    """The plan of a removal that also deletes the APTPL file of each removed backstore, which would
    bring the reservations back one day.  A file that a remaining backstore shares stays."""
    kept = {store.key for store in want.backstores}
    gone = {store.serial: store.key for store in have.backstores
            if has_file(store.serial) and store.key not in kept}
    there = {serial: f"{facts.dbroot}/pr/aptpl_{serial}" for serial in gone
             if os.path.exists(f"{facts.dbroot}/pr/aptpl_{serial}")}
    removed = {store.key for store in have.backstores} - kept
    staying = {store.serial for store in reader.outline(have.backstores).backstores
               if store.key not in removed} if there else set()
    files = [Step(DELETE, path, slot="restore file", about=gone[serial])
             for serial, path in there.items() if serial not in staying]
    return replace(the_plan, steps=tuple(sorted([*the_plan.steps, *files],
                                                key=lambda step: PLACE[step.slot])))

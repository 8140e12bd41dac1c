"""Registrations that were restored into this kernel and cannot be read back from it.

configfs shows which initiators are registered, but not through which port, nor ALL_TG_PT; the
restoring process knows.  The record is kept until the host reboots, so that it need not be on the
disk, and believed only while all that can be seen is the same.
"""
from __future__ import annotations

import os
from dataclasses import replace
from typing import Dict, Iterable, Mapping

from ..document.json_types import check_fields
from ..errors import MISSHAPEN
from ..model.keys import backstore_key, display
from ..model.objects import Key, Reservations, State
from ..model.reservations import reservations_of_tree, reservations_tree
from ..system.atomic_file import read_file, write_file
from ..system.locks import PATIENCE, Locks
from .record_kinds import VERSION

NAME = "restored.json"


def load(directory: str, boot_id: str) -> Dict[Key, Reservations]:
    """{backstore: its reservations when they were restored}; empty where nothing is known."""
    import json
    try:
        record = json.loads(read_file(os.path.join(directory, NAME)))
        if record["version"] != VERSION or record["boot_id"] != boot_id:
            return {}
        restored = {backstore_key(*name.split("/", 1)): reservations_of_tree(entry)
                    for name, entry in record["backstores"].items()}
        for reservations in restored.values():
            _check(reservations)
        return restored
    except (OSError, *MISSHAPEN):
        return {}  # then the kernel alone is asked, and what it does not say is refused


def _check(reservations: Reservations) -> None:
    """Raises ValueError, IndexError."""
    for registration in reservations.registrations:
        check_fields(registration)
    check_fields(replace(reservations, registrations=()))
    if reservations.holder is not None and (
            reservations.holder < 0 or not reservations.registrations[reservations.holder]):
        raise ValueError("holder")


def note(directory: str, boot_id: str, state: State) -> None:
    """Add what ``state`` restored.  Raises OSError."""
    with Locks(directory).hold(NAME, patience=PATIENCE):
        restored = load(directory, boot_id)
        restored.update({backstore.key: backstore.reservations for backstore in state.backstores})
        _save(directory, boot_id, {key: reservations for key, reservations in restored.items()
                                   if reservations.registrations})


def forget(directory: str, boot_id: str, backstores: Iterable[Key]) -> None:
    """Drop what was noted of backstores that are gone."""
    with Locks(directory).hold(NAME, patience=PATIENCE):
        restored, gone = load(directory, boot_id), set(backstores)
        left = {key: reservations for key, reservations in restored.items() if key not in gone}
        if left != restored:
            _save(directory, boot_id, left)


def _save(directory: str, boot_id: str, restored: Mapping[Key, Reservations]) -> None:
    import json
    os.makedirs(directory, mode=0o700, exist_ok=True)
    text = json.dumps({"version": VERSION, "boot_id": boot_id, "backstores": {
        display(key): reservations_tree(reservations, key=int)
        for key, reservations in restored.items()}})
    write_file(os.path.join(directory, NAME), text.encode() + b"\n", durable=False)

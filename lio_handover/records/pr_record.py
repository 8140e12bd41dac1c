"""What was restored into this kernel and can't be read back from it.

configfs shows who is registered, but not through which port, nor ALL_TG_PT; whoever restored
it knows.  Kept until the host reboots, and believed only while what can be seen is the same.
"""
from __future__ import annotations

import os
from typing import Dict, Iterable, Mapping

from ..model.keys import backstore_key
from ..model.objects import Key, Registration, Reservations, State, say
from ..system.atomic_file import write_file
from ..system.locks import PATIENCE, Locks
from .record_kinds import VERSION

NAME = "restored.json"


def load(directory: str, boot_id: str) -> Dict[Key, Reservations]:
    """{backstore: its reservations when they were restored}; empty where nothing is known."""
    import json
    try:
        with open(os.path.join(directory, NAME), "rb") as file:
            found = json.load(file)
        if found["version"] != VERSION or found["boot_id"] != boot_id:
            return {}
        return {backstore_key(*name.split("/", 1)): Reservations(**{
            **held, "registrations": tuple(Registration(**one) for one in held["registrations"])})
            for name, held in found["backstores"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # then the kernel alone is asked, and what it does not say is refused


def note(directory: str, boot_id: str, state: State) -> None:
    """Add what ``state`` restored.  Raises OSError."""
    with Locks(directory).hold(NAME, patience=PATIENCE):
        held = load(directory, boot_id)
        held.update({backstore.key: backstore.reservations for backstore in state.backstores})
        _save(directory, boot_id, {key: one for key, one in held.items() if one.registrations})


def forget(directory: str, boot_id: str, backstores: Iterable[Key]) -> None:
    """Drop what was noted of backstores that are gone."""
    with Locks(directory).hold(NAME, patience=PATIENCE):
        held, gone = load(directory, boot_id), set(backstores)
        left = {key: one for key, one in held.items() if key not in gone}
        if left != held:
            _save(directory, boot_id, left)


def _save(directory: str, boot_id: str, held: Mapping[Key, Reservations]) -> None:
    import json
    os.makedirs(directory, mode=0o700, exist_ok=True)
    text = json.dumps({"version": VERSION, "boot_id": boot_id, "backstores": {
        say(key): {**vars(one),
                   "registrations": [vars(registration) for registration in one.registrations]}
        for key, one in held.items()}})
    write_file(os.path.join(directory, NAME), text.encode() + b"\n")

"""Names, numbers, gates and reservations in a few words."""
from __future__ import annotations

from typing import List, Sequence, Tuple

from ..model import fabrics, objects
from ..model.fabrics import Gate
from ..model.keys import display
from ..model.objects import ALL_REGISTRANTS, PrType, State

_TYPES = {int(kind): kind.text for kind in PrType}


def size(number: int) -> str:
    """Bytes as people say them: 64 MiB, 1.5 GiB."""
    value, unit = float(number), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def names(state: State, most: int = 3) -> str:
    return listed([target.name for target in state.targets]
                  or [display(backstore.key) for backstore in state.backstores], most)


def listed(texts: Sequence[str], most: int = 3) -> str:
    if len(texts) > most:
        return ", ".join(texts[:most]) + f" and {len(texts) - most} more"
    return ", ".join(texts) or "nothing"


def contents(state: State) -> str:
    """The parts of a state, counted: 1 target, 3 backstores, …"""
    tpgs = [tpg for target in state.targets for tpg in target.tpgs]
    registrations = sum(len(store.reservations.registrations) for store in state.backstores)
    return ", ".join([
        count(len(state.targets), "target"), count(len(state.backstores), "backstore"),
        count(sum(len(tpg.luns) for tpg in tpgs), "LUN"),
        count(sum(len(tpg.acls) for tpg in tpgs), "ACL"), count(registrations, "registration")])


def reservation(reservations: objects.Reservations) -> List[str]:
    """The reservations of a backstore in words, without the registrants."""
    return [f"{_TYPES.get(reservations.type, 'unknown')} (type {reservations.type})"
            if reservations.type else "registered, not reserved"
            if reservations.registrations else "none",
            f"generation {reservations.generation}", "APTPL" if reservations.aptpl else "no APTPL"]


def holds(reservations: objects.Reservations, number: int) -> str:
    return "HOLDER" if reservations.type and (reservations.type in ALL_REGISTRANTS
                                              or reservations.holder == number) else ""


def gate_of(tpg: objects.Tpg) -> Tuple[str, str]:
    """(whether initiators get in, the style of these words)."""
    if fabrics.gate_of(tpg.fabric) is not Gate.ENABLE:
        nexus = tpg.attributes.get("nexus")
        return (f"nexus {nexus}", "good") if nexus else ("no nexus", "")
    if tpg.attributes.get("enable", "0") != "0":
        return "enabled", "good"
    return "disabled", "warn"


def mode_of(mapped_lun: objects.MappedLun) -> str:
    if mapped_lun.dead:
        return "DEAD: its LUN was linked again since"
    return "read-only" if mapped_lun.attributes.get("write_protect", "0") != "0" else "rw"

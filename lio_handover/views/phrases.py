"""How names, numbers, gates and reservations are said in a few words."""
from __future__ import annotations

from typing import List, Sequence, Tuple

from ..model import fabrics, objects
from ..model.fabrics import Gate
from ..model.objects import ALL_REGISTRANTS, PrType, State, say

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
                  or [say(backstore.key) for backstore in state.backstores], most)


def listed(found: Sequence[str], most: int = 3) -> str:
    if len(found) > most:
        return ", ".join(found[:most]) + f" and {len(found) - most} more"
    return ", ".join(found) or "nothing"


def contents(state: State) -> str:
    """What a state is made of: 1 target, 3 backstores, …"""
    tpgs = [tpg for target in state.targets for tpg in target.tpgs]
    held = sum(len(store.reservations.registrations) for store in state.backstores)
    return ", ".join([
        count(len(state.targets), "target"), count(len(state.backstores), "backstore"),
        count(sum(len(tpg.luns) for tpg in tpgs), "LUN"),
        count(sum(len(tpg.acls) for tpg in tpgs), "ACL"), count(held, "registration")])


def reservation(held: objects.Reservations) -> List[str]:
    """The reservations of a backstore in words, without the registrants."""
    return [f"{_TYPES.get(held.type, 'unknown')} (type {held.type})"
            if held.type else "registered, not reserved" if held.registrations else "none",
            f"generation {held.generation}", "APTPL" if held.aptpl else "no APTPL"]


def holds(held: objects.Reservations, number: int) -> str:
    return "HOLDER" if held.type and (held.type in ALL_REGISTRANTS or held.holder == number) else ""


def gate_of(one: objects.Tpg) -> Tuple[str, str]:
    """(whether initiators get in, its mood)."""
    if fabrics.gate_of(one.fabric) is not Gate.ENABLE:
        nexus = one.attributes.get("nexus")
        return (f"nexus {nexus}", "good") if nexus else ("no nexus", "")
    if one.attributes.get("enable", "0") != "0":
        return "enabled", "good"
    return "disabled", "warn"


def mode_of(one: objects.MappedLun) -> str:
    if one.dead:
        return "DEAD: its LUN was linked again since"
    return "read-only" if one.attributes.get("write_protect", "0") != "0" else "rw"

"""What targetcli's save file can't hold of a target, so what its restore loses.

One row for each kind of object: the attributes that rtslib writes and sets again (rtslib/root.py:
RTSRoot.dump, rtslib/target.py, rtslib/tcm.py, rtslib/alua.py:ALUATargetPortGroup.setup).
"""
from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Iterator, List, Mapping, Sequence, Tuple

from ..model.attributes import CARRIED, SECRET, defaults_of, owner_of, rows
from ..model.objects import (DEFAULT_GROUP, AluaGroup, Backstore, DiscoveryAuth, Object, State, Tpg,
                             say)
from . import rtslib_names

#: Kind of object → patterns of what a save file holds of its attributes.
SAVED: Mapping[str, Tuple[str, ...]] = {
    "backstore": ("attrib/*", "wwn/vpd_unit_serial", "udev_path"),
    "alua_group": ("*",),
    "tpg": ("attrib/*", "param/*", "auth/*", "enable"),
    "acl": ("attrib/*", "auth/*", "tag"),
    "lun": ("alua_tg_pt_gp",),
    "mapped_lun": ("write_protect",),
    "portal": ("*",),
    # The host's; targetcli writes it with whatever is saved next.
    "discovery_auth": ("*",),
}
#: What rtslib skips of a group of this name.
_SKIPPED = (DEFAULT_GROUP,)
#: What a first target gets anyhow.
_FIRST = {("tpg", "rtpi"): "1"}


def lost(state: State) -> List[Tuple[str, str]]:
    """[(object, what of it is in no save file and is not as a new one has it)]."""
    refused = rtslib_names.refused(state)
    found = [(refused, "rtslib takes no such name, so all of it is lost")] if refused else []
    for obj in state.objects():
        what = [_said(obj, path) for path in _lost(obj)]
        if isinstance(obj, Backstore) and obj.reservations.registrations \
                and not obj.reservations.aptpl:
            what.append("registrations that were made without APTPL")
        if what:
            found.append((say(obj.key), ", ".join(what)))
    return found


def _lost(one: Object) -> Iterator[str]:
    if isinstance(one, DiscoveryAuth):
        return
    owner = owner_of(one.key)
    new = defaults_of(one.kind, owner)
    skipped = isinstance(one, AluaGroup) and one.name in _SKIPPED
    patterns: Sequence[str] = () if skipped else SAVED.get(one.kind, ())
    for path, row in rows(one.kind, owner).items():
        value = one.attributes.get(path)
        if value is None or row.kind not in CARRIED or value in row.unset \
                or any(fnmatchcase(path, pattern) for pattern in patterns) \
                or value in (new.get(path), row.if_absent, _FIRST.get((one.kind, path))):
            continue
        if path == "wwn/product_id" and isinstance(one, Backstore) \
                and value in (one.name, one.plugin.upper()):
            continue  # as emulate_model_alias makes it
        if skipped and path == "tg_pt_gp_id":
            continue
        yield path


def _said(one: Object, path: str) -> str:
    row = rows(one.kind, owner_of(one.key))[path]
    if row.kind == SECRET:
        return path
    what = "nexus" if isinstance(one, Tpg) and path == "nexus" else path
    return f"{what} {one.attributes[path]}"

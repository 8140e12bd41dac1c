"""The attributes that targetcli's save file cannot hold, so that its restore loses them.

One row for each kind of object: the attributes that rtslib writes and sets again
(rtslib/root.py:RTSRoot.dump, rtslib/target.py, rtslib/tcm.py,
rtslib/alua.py:ALUATargetPortGroup.setup).
"""
from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Iterator, List, Mapping, Sequence, Tuple

from ..model.attributes import CARRIED, SECRET, defaults_of, owner_of, rows
from ..model.keys import display
from ..model.objects import DEFAULT_GROUP, AluaGroup, Backstore, DiscoveryAuth, Object, State, Tpg
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
#: Names of groups that rtslib skips.
_SKIPPED = (DEFAULT_GROUP,)
#: Values that a first target gets anyhow.
_FIRST = {("tpg", "rtpi"): "1"}


def lost(state: State) -> List[Tuple[str, str]]:
    """[(object, the attributes of it that no save file has and that a new object has otherwise)].
    """
    refused = rtslib_names.refused(state)
    losses = [(refused, "rtslib takes no such name, so all of it is lost")] if refused else []
    for obj in state.objects():
        what = [_said(obj, path) for path in _lost(obj)]
        if isinstance(obj, Backstore) and obj.reservations.registrations \
                and not obj.reservations.aptpl:
            what.append("registrations that were made without APTPL")
        if what:
            losses.append((display(obj.key), ", ".join(what)))
    return losses


def _lost(obj: Object) -> Iterator[str]:
    if isinstance(obj, DiscoveryAuth):
        return
    owner = owner_of(obj.key)
    new = defaults_of(obj.kind, owner)
    skipped = isinstance(obj, AluaGroup) and obj.name in _SKIPPED
    patterns: Sequence[str] = () if skipped else SAVED.get(obj.kind, ())
    for path, row in rows(obj.kind, owner).items():
        value = obj.attributes.get(path)
        if value is None or row.kind not in CARRIED or value in row.unset \
                or any(fnmatchcase(path, pattern) for pattern in patterns) \
                or value in (new.get(path), row.if_absent, _FIRST.get((obj.kind, path))):
            continue
        if path == "wwn/product_id" and isinstance(obj, Backstore) \
                and value in (obj.name, obj.plugin.upper()):
            continue  # as emulate_model_alias makes it
        if skipped and path == "tg_pt_gp_id":
            continue
        yield path


def _said(obj: Object, path: str) -> str:
    row = rows(obj.kind, owner_of(obj.key))[path]
    if row.kind == SECRET:
        return path
    what = "nexus" if isinstance(obj, Tpg) and path == "nexus" else path
    return f"{what} {obj.attributes[path]}"

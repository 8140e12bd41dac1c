"""An outline of a target's LUNs, ACLs and portals in an entry of targetcli's save file, to be
compared with the copy that is restored instead."""
from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from ..model import fabrics
from ..model.fabrics import Gate
from ..model.objects import Target
from . import rtslib_entries, rtslib_names, save_file
from .json_splice import Splice

#: The object, in targetcli's words → what it leads to, "" where there is no more to say.
Outline = Dict[str, str]


def of_target(target: Target) -> Outline:
    """The outline of the entry that this target would have."""
    return of_entry(rtslib_entries.target(target))


def of_entry(entry: Mapping[str, Any]) -> Outline:
    """The outline of an entry, whatever its shape."""
    outline: Outline = {}
    gated = fabrics.gate_of(str(entry.get("fabric"))) is Gate.ENABLE
    for tpg in _objects(entry.get("tpgs")):
        at = f"tpg{tpg.get('tag')}"
        outline[at] = "" if not gated or tpg.get("enable", True) else "disabled"
        for lun in _objects(tpg.get("luns")):
            outline[f"{at}/luns/lun{lun.get('index')}"] = str(lun.get("storage_object"))
        for portal in _objects(tpg.get("portals")):
            outline[f"{at}/portals/{_address(portal)}"] = ""
        for acl in _objects(tpg.get("node_acls")):
            name = f"{at}/acls/{str(acl.get('node_wwn')).lower()}"
            outline[name] = ""
            for mapped in _objects(acl.get("mapped_luns")):
                outline[f"{name}/mapped_lun{mapped.get('index')}"] = f"lun{mapped.get('tpg_lun')}"
    return outline


def _objects(value: Any) -> Iterable[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _address(portal: Mapping[str, Any]) -> str:
    """One spelling of an address: rtslib and the kernel write ``::`` in two ways."""
    import ipaddress
    host = str(portal.get("ip_address")).strip("[]")
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError:
        pass
    return f"{host}:{portal.get('port')}"


def says(text: str, outlines: Mapping[str, Outline]) -> bool:
    """Whether a save file's text has just these targets, as their outlines are."""
    return all(of_entry(element.value) == outlines[name]
               for element in Splice(text, ("targets",)).elements("targets")
               for name in rtslib_names.targets(element.value) & set(outlines))


def differences(targets: Iterable[Target], more: Sequence[str] = ()) -> List[Tuple[str, str, str]]:
    """[(file, target, what of it is other in the file)].  Raises SavefileBroken."""
    wanted = {target.name: of_target(target) for target in targets}
    differing = []
    for path, entry in save_file.entries_of(wanted, more):
        for name in sorted(rtslib_names.targets(entry) & set(wanted)):
            what = _told(of_entry(entry), wanted[name])
            if what:
                differing.append((path, name, what))
    return differing


def _told(there: Outline, copy: Outline) -> str:
    """How the file differs from the copy, in words; "" where it does not."""
    more = [_at(name, there) for name in sorted(there) if name not in copy]
    less = [_at(name, copy) for name in sorted(copy) if name not in there]
    other = [f"{_at(name, there)} instead of {copy[name] or 'enabled'}" for name in sorted(there)
             if name in copy and there[name] != copy[name]]
    return " and ".join(filter(None, (
        "had " + ", ".join([*more, *other]) if more or other else "",
        "did not have " + ", ".join(less) if less else "")))


def _at(name: str, outline: Outline) -> str:
    return f"{name} ({outline[name]})" if outline[name] else name

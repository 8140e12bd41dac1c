"""The paths by which each initiator reaches each backstore: a registration came by one of them."""
from __future__ import annotations

from typing import Dict, Iterable, List, Optional

from ..model import dynamic_acls, fabrics, reservations
from ..model.objects import Key, Lun, Target, Tpg


def paths_of(targets: Iterable[Target]) -> Dict[Key, Dict[str, List[reservations.NexusPath]]]:
    """{backstore: {initiator: its paths}}, by explicit ACLs, nexuses and dynamic ACLs; the latter
    stand at ANY_INITIATOR."""
    paths: Dict[Key, Dict[str, List[reservations.NexusPath]]] = {}

    def add(store: Optional[Key], initiator: str, path: reservations.NexusPath) -> None:
        if store is not None:
            paths.setdefault(store, {}).setdefault(initiator, []).append(path)

    for target in targets:
        fabric = fabrics.of(target.fabric).pr_name
        for tpg in target.tpgs:
            luns = {lun.number: lun for lun in tpg.luns}
            explicit = {acl.initiator for acl in tpg.acls}
            for acl in tpg.acls:
                for mapped in acl.mapped_luns:
                    if mapped.lun is not None and mapped.lun in luns:
                        lun = luns[mapped.lun]
                        add(lun.backstore, acl.initiator, reservations.NexusPath(
                            fabric, target.wwn, tpg.tag, lun.number, mapped.number,
                            _port(tpg, lun)))
            nexus = tpg.attributes.get("nexus")
            if nexus and nexus not in explicit:
                name = nexus.removeprefix("fc.")  # which the kernel does not keep
                for lun in tpg.luns:
                    add(lun.backstore, name, reservations.NexusPath(
                        fabric, target.wwn, tpg.tag, lun.number, lun.number, _port(tpg, lun)))
            if dynamic_acls.generates_acls(tpg):
                for lun in tpg.luns:
                    add(lun.backstore, reservations.ANY_INITIATOR, reservations.NexusPath(
                        fabric, target.wwn, tpg.tag, lun.number, lun.number, _port(tpg, lun),
                        frozenset(explicit)))
    return paths


def _port(tpg: Tpg, lun: Lun) -> int:
    return int(lun.attributes.get("rtpi", tpg.attributes.get("rtpi", "0")))

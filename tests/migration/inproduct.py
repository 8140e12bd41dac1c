"""What runs inside a host on which the product moves guests: packages, and what the kernel says."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lio_handover.model.keys import (acl_key, lun_key, mapped_lun_key, portal_key, target_key,
                                     tpg_key)
from lio_handover.model.objects import Acl, Lun, MappedLun, Portal, State, Target, Tpg
from tests.lab import inside
from tests.migration import guest, inhost
from tests.support import inbus, inmove

SHARED = "iqn.2026-11.org.example:shared"
BOB = "iqn.2026-11.org.example:bob"
ADDRESS = "198.18.0.100"
#: Others than the guest write nothing but this block, which has no record.
LAST_BLOCK = guest.AREAS * guest.AREA // guest.SIZE - 1


def furnish(staged: str, keys: str, hosts: dict[str, str], settings: str) -> list[str]:
    """Install, let the other host in by ssh, start the bus; the command of the service."""
    inbus.install(settings, staged)
    inmove.serve_ssh(keys)
    inmove.reach(keys, hosts)
    inbus.start_bus()
    return inbus.sandboxed(inbus.UNIT.read_text())


def shared_state() -> State:
    """The guest's disk, which an iSCSI initiator has, too."""
    guests = inhost.state()
    tpg = tpg_key(target_key("iscsi", SHARED), 1)
    acl = acl_key(tpg, BOB)
    target = Target(target_key("iscsi", SHARED), {}, (Tpg(
        tpg, {"enable": "1", "attrib/authentication": "0", "attrib/generate_node_acls": "0",
              "rtpi": "2"},
        portals=(Portal(portal_key(tpg, f"{ADDRESS}:3260"), {}),),
        luns=(Lun(lun_key(tpg, 0), guests.backstores[0].key, "disk"),),
        acls=(Acl(acl, {}, (MappedLun(mapped_lun_key(acl, 0), 0, "disk", {}),)),)),))
    return replace(guests, targets=(*guests.targets, target))


def registrations() -> dict[str, str]:
    """What the kernel has registered, as its files say it: run-time ones, and the APTPL file."""
    found = {}
    for path in sorted((inside.TARGET / "core").glob("iblock_*/disk/pr/*")):
        if path.name != "res_aptpl_metadata":
            found[path.name] = path.read_text()
    for path in sorted((inside.DBROOT / "pr").iterdir()):
        found[path.name] = path.read_text()
    return found


def digest(files: Mapping[str, str]) -> str:
    """Of all files and their names."""
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def call_host(name: str, address: str) -> None:
    """From now on this host calls an address by this name."""
    path = Path("/etc/hosts")
    lines = [line for line in path.read_text().splitlines() if line.split()[1:] != [name]]
    path.write_text("\n".join([*lines, f"{address} {name}", ""]))

"""States and documents for tests: what a reader would make of a well configured host.

    state = iscsi(luns=3, acls=2, chap=True, registrations=2)
    document(state, frozen=True)
"""
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from lio_handover.document.document import Document, Evidence, Origin
from lio_handover.model import keys, objects
from lio_handover.model.keys import (acl_key, alua_group_key, backstore_key, lun_key,
                                     mapped_lun_key, portal_key, target_key, tpg_key)

IQN = "iqn.2026-11.org.example:target"
WWPN = "naa.5001405abcdef012"
INITIATOR = "iqn.2026-11.org.example:client{}"
PORTALS = ("192.0.2.1:3260", "[2001:db8::1]:3260")

BACKSTORE = {
    "attrib/emulate_model_alias": "0", "attrib/block_size": "512", "attrib/queue_depth": "128",
    "attrib/optimal_sectors": "16384", "attrib/max_unmap_lba_count": "8192",
    "attrib/emulate_tpu": "1", "attrib/emulate_pr": "1", "attrib/emulate_write_cache": "0",
    "attrib/is_nonrot": "0", "wwn/vendor_id": "LIO-ORG", "wwn/product_id": "FILEIO",
    "wwn/revision": "4.0", "wwn/company_id": "0x001405",
}
TPG = {
    "attrib/authentication": "0", "attrib/generate_node_acls": "0",
    "attrib/default_cmdsn_depth": "64", "attrib/login_timeout": "15",
    "param/AuthMethod": "CHAP,None", "param/HeaderDigest": "CRC32C,None",
    "param/MaxBurstLength": "262144", "param/TargetAlias": "LIO Target",
    "rtpi": "1", "enable": "1",
}
ALUA = {
    "tg_pt_gp_id": "1", "alua_access_type": "3", "alua_access_state": "0",
    "alua_access_status": "0", "alua_support_standby": "1", "nonop_delay_msecs": "100",
    "preferred": "0",
}
SECRET = "correct horse battery"
HOST = {"attrib/hw_block_size": "512"}


def initiator(number: int) -> str:
    return INITIATOR.format(number)


def backstore(name: str = "disk0", plugin: str = "fileio", path: str = "", size: int = 1 << 26,
              reservations: objects.Reservations = objects.NO_RESERVATIONS,
              groups: Sequence[str] = (), more: Optional[Mapping[str, str]] = None,
              ) -> objects.Backstore:
    """A backstore on ``path`` (by default /srv/NAME.img or /dev/disk/by-id/wwn-NAME).

    ``groups`` are ALUA groups, ``more`` further attributes.
    """
    key = backstore_key(plugin, name)
    parameters = ({"fd_dev_name": path or f"/srv/{name}.img", "fd_dev_size": str(size)}
                  if plugin == "fileio" else {"udev_path": path or f"/dev/disk/by-id/wwn-{name}"})
    serial = f"{sum(name.encode()):08x}-0000-4000-8000-000000000000"
    return objects.Backstore(
        key, parameters, {**BACKSTORE, "wwn/vpd_unit_serial": serial, **(more or {})},
        tuple(objects.AluaGroup(alua_group_key(key, group), {**ALUA, "tg_pt_gp_id": str(number)})
              for number, group in enumerate(groups, 1)),
        reservations, f"{plugin}_0", HOST)


def registrations(count: int, lun: int = 0, fabric: str = "iSCSI", target: str = IQN,
                  kind: int = 5, holder: Optional[int] = 0, aptpl: bool = False,
                  ) -> objects.Reservations:
    """``count`` registrants, the first holding a reservation of type ``kind``."""
    if not count:
        return objects.NO_RESERVATIONS
    return objects.Reservations(
        generation=count + 3, aptpl=aptpl, type=kind, holder=holder,
        registrations=tuple(objects.Registration(
            initiator(number), f"00023d{number:06x}" if fabric == "iSCSI" else "",
            0xabc0 + number, fabric, target, 1, lun, lun) for number in range(count)))


def iscsi(luns: int = 1, acls: int = 1, portals: Sequence[str] = PORTALS[:1], chap: bool = False,
          registrants: int = 0, wwn: str = IQN, plugin: str = "fileio", paths: Sequence[str] = (),
          groups: Sequence[str] = ()) -> objects.State:
    """One iSCSI target: TPG 1, ``luns`` LUNs (disk0, disk1, …), each mapped for every ACL.

    LUN 0 has ``registrants`` registrations.  ``paths`` are the files or devices of the LUNs.
    """
    stores = tuple(backstore(
        f"disk{number}", plugin, paths[number] if number < len(paths) else "", groups=groups,
        reservations=registrations(registrants if number == 0 else 0, number, target=wwn))
        for number in range(luns))
    key = target_key("iscsi", wwn)
    tpg = tpg_key(key, 1)
    auth: Dict[str, str] = {"auth/userid": "user", "auth/password": objects.Secret(SECRET)}
    lun_attributes = {"alua_tg_pt_gp": groups[0]} if groups else {}
    return objects.State((), stores, (objects.Target(key, {}, (objects.Tpg(
        tpg, TPG,
        portals=tuple(objects.Portal(portal_key(tpg, one), {"iser": "0"}) for one in portals),
        luns=tuple(objects.Lun(lun_key(tpg, number), store.key, f"alias{number}", lun_attributes)
                   for number, store in enumerate(stores)),
        acls=tuple(_acl(tpg, number, luns, auth if chap else {})
                   for number in range(max(acls, registrants)))),)),))


def _acl(tpg: objects.Key, number: int, luns: int, auth: Mapping[str, str]) -> objects.Acl:
    key = acl_key(tpg, initiator(number))
    return objects.Acl(
        key, {"attrib/nopin_timeout": "15", "cmdsn_depth": "64", **auth},
        tuple(objects.MappedLun(mapped_lun_key(key, lun), lun, f"mapped{lun}",
                                {"write_protect": "0"}) for lun in range(luns)))


def vhost(luns: int = 1, wwn: str = WWPN, nexus: str = "naa.5001405000000001",
          fabric: str = "vhost", registered: bool = False) -> objects.State:
    """One vhost (or loopback) target with a nexus and, if ``registered``, one registration."""
    held = objects.NO_RESERVATIONS
    if registered:
        held = objects.Reservations(1, False, 5, 0, (
            objects.Registration(nexus, "", 0x77, fabric, wwn, 1, 0, 0),))
    stores = tuple(backstore(f"disk{number}", "iblock", reservations=held if not number else
                             objects.NO_RESERVATIONS) for number in range(luns))
    key = target_key(fabric, wwn)
    tpg = tpg_key(key, 1)
    return objects.State((), stores, (objects.Target(key, {}, (objects.Tpg(
        tpg, {"nexus": nexus, "attrib/fabric_prot_type": "0"},
        luns=tuple(objects.Lun(lun_key(tpg, number), store.key)
                   for number, store in enumerate(stores))),)),))


def both(*states: objects.State) -> objects.State:
    """Several states as one host's."""
    groups: Tuple[objects.LuGroup, ...] = ()
    stores: Tuple[objects.Backstore, ...] = ()
    targets: Tuple[objects.Target, ...] = ()
    for one in states:
        groups, stores = groups + one.lu_groups, stores + one.backstores
        targets += one.targets
    return objects.State(groups, stores, targets)


def document(state: objects.State, frozen: bool = False, host: str = "a.example") -> Document:
    """A document of ``state`` with evidence for every backstore."""
    storage: Dict[str, Evidence] = {
        keys.display(one.key): {"kind": "file", "size": 1 << 26, "inode": 12, "filesystem": "ext4"}
        for one in state.backstores}
    return Document(state, frozen, Origin(host, "6.1.0-test", "0b5c1e0e-0000-4000-8000-0000"),
                    storage)


def running(word: str) -> List[str]:
    """Processes that were started with this word; what was killed has a moment to go."""
    until = time.monotonic() + 10
    while True:
        found = [pid for pid in os.listdir("/proc") if pid.isdigit() and word in _words(pid)]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.02)


def _words(pid: str) -> List[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []

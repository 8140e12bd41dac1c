"""Names that differ between hosts: ``--map KIND:OLD=NEW``.

    device:/dev/sdb=/dev/sdc            the path of one backstore
    root:/srv/a=/srv/b                  every path below a directory
    portal:192.0.2.1:3260=192.0.2.9:3260    (without ports: every port of the address)
    target:iqn.…:old=iqn.…:new          an IQN or WWPN, with the registrations made through it
    initiator:naa.…=naa.…               an ACL's name, a nexus, and their registrations
    rtpi:1=fresh                        a relative port, of every TPG that has it
    rtpi:iscsi/iqn.…/tpg1=7             that of one TPG, whatever it is
    limit:queue_depth=128               what is more than this host's devices can have, see limits

Every name is looked up as the document has it, so that two names can be exchanged.  Block devices
that are known by a WWID are found by it where the path leads elsewhere on this host.
"""
from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import Dict, List, NamedTuple, NoReturn, Optional, Sequence, Set, Tuple

from ..errors import BadMap, DocumentError, Duplicate, shown
from ..model import fabrics, objects, plugins
from ..model.keys import acl_key, display, portal_key, target_key
from ..model.objects import Attributes, Key
from ..model.plugins import HCTL, Opens
from ..storage import block_devices as devices, device_limits as limits
from ..storage.block_devices import HERE, Host
from .document import Document, check

KINDS = ("device", "root", "portal", "target", "initiator", "rtpi", "limit")
#: Instead of a relative port: one that only depends on the TPG's name.
FRESH = "fresh"
#: The kernel itself gives the lowest that is free (target_core_tpg.c:target_tpg_register_rtpi).
_LEFT_TO_THE_KERNEL, _HIGHEST_PORT = 4096, 65535


class Applied(NamedTuple):
    """One name that was changed: ``what`` is a kind, ``wwid`` for a device found by it, or
    ``address`` for the H:C:T:L of a pscsi device."""

    what: str
    old: str
    new: str


def _bad(option: str, what: str) -> NoReturn:
    raise BadMap(f"--map {shown(option)}: {what}",
                 do="--map " + "|".join(KINDS) + ":OLD=NEW, with OLD as `show` has it")


def parse(options: Sequence[str]) -> "Mapping":
    """The mapping that options ``KIND:OLD=NEW`` ask for.  Raises BadMap."""
    names: Dict[str, Dict[str, str]] = {kind: {} for kind in KINDS}
    for option in options:
        kind, colon, rest = option.partition(":")
        if not colon or kind not in names:
            _bad(option, f"begins with none of {', '.join(kind + ':' for kind in KINDS)}")
        # A path may hold =, and the new one begins with /.
        split = re.fullmatch(r"(.+?)=(/.*)" if kind in ("device", "root") else r"(.+?)=(.+)", rest)
        if not split:
            _bad(option, "is not OLD=NEW" + (" with a full path as NEW" if "=" in rest else ""))
        old, new = split[1], split[2]
        if kind in ("device", "root"):
            old, new = old.rstrip("/") or "/", new.rstrip("/") or "/"
            for path in (old, new):
                if not path.startswith("/") or {".", ".."} & set(path.split("/")) \
                        or "," in new or not path.isprintable():
                    _bad(option, f"{shown(path)} is not the full path of a file or device")
        elif kind == "portal" and _has_port(old) != _has_port(new):
            _bad(option, "has a port on one side only")
        elif kind == "rtpi" and not (_is_port(new) or new == FRESH):
            _bad(option, f"{shown(new)} is neither 1 to {_HIGHEST_PORT} nor {FRESH}")
        elif kind == "limit" and (old not in limits.MAPPED or not re.fullmatch("[0-9]{1,10}", new)):
            _bad(option, f"is not one of {', '.join(limits.MAPPED)} and a number")
        if old in names[kind]:
            _bad(option, f"{shown(old)} is mapped twice")
        names[kind][old] = new
    return Mapping(**{kind + "s": new_names for kind, new_names in names.items()})


def _has_port(address: str) -> bool:
    return bool(re.search(r"(?:^[^:]*|\]):[0-9]+$", address))


def _is_port(text: str) -> bool:
    return bool(re.fullmatch("[1-9][0-9]{0,4}", text)) and int(text) <= _HIGHEST_PORT


def fresh_port(tpg: Key) -> str:
    """A relative port that depends only on the TPG's name: the same on every host and at every
    time, so no host need remember it."""
    import hashlib
    digest = hashlib.sha256(display(tpg).encode()).digest()
    return str(_LEFT_TO_THE_KERNEL + int.from_bytes(digest[:8], "big")
               % (_HIGHEST_PORT + 1 - _LEFT_TO_THE_KERNEL))


def device_maps(applied: Sequence[Applied]) -> Tuple[str, ...]:
    """The options (``device:OLD=NEW``) that repeat where devices were found by WWID, for names that
    udev or the device mapper gives: such a name may appear later than its device."""
    return tuple(f"device:{change.old}={change.new}" for change in applied
                 if change.what == "wwid" and change.old.startswith(_FOLLOWING))


def notes(applied: Sequence[Applied]) -> Tuple[str, ...]:
    """Sentences for the user: changes by the maps that initiators will notice."""
    return (*(f"{old} becomes {new}: initiators see it in VPD page 83, REPORT TARGET PORT "
              "GROUPS and READ FULL STATUS, and may take it for another port"
              for what, old, new in applied if what == "rtpi"),
            *(f"{old} becomes {new}: {limits.MAPPED[old.split()[0]]}"
              for what, old, new in applied if what == "limit"))


@dataclass(frozen=True)
class Mapping:
    """Names as the document has them → names on this host, by kind."""

    devices: Dict[str, str] = field(default_factory=dict)
    roots: Dict[str, str] = field(default_factory=dict)
    portals: Dict[str, str] = field(default_factory=dict)
    targets: Dict[str, str] = field(default_factory=dict)
    initiators: Dict[str, str] = field(default_factory=dict)
    rtpis: Dict[str, str] = field(default_factory=dict)
    limits: Dict[str, str] = field(default_factory=dict)

    def apply(self, document: Document, host: Optional[Host] = HERE,
              again: bool = False) -> Tuple[Document, List[Applied]]:
        """The document in this host's names, and what was changed.

        ``host`` is where devices are looked up by their WWID, None not to look.  ``again``: this
        host applied the maps before, so a name that follows its device leads to it, or will.

        Raises BadMap for a map that matches nothing or gives an invalid name, Duplicate where two
        objects get one name.
        """
        return _Applying(self, document, host, again).result()


class _Applying:
    """One application: remembers what was changed and which maps were used."""

    def __init__(self, mapping: Mapping, document: Document, host: Optional[Host],
                 again: bool) -> None:
        self.mapping, self.document, self.host = mapping, document, host
        self.again = again
        self.applied: List[Applied] = []
        self.used: Set[Tuple[str, str]] = set()
        #: (fabric of a registration, its target's name) → the new name
        self.renamed: Dict[Tuple[str, str], str] = {}

    def result(self) -> Tuple[Document, List[Applied]]:
        state = self.document.state
        targets = tuple(map(self.target, state.targets))
        stores = tuple(map(self.backstore, state.backstores))
        for kind in KINDS:
            for old, new in getattr(self.mapping, kind + "s").items():
                if (kind, old) not in self.used:
                    _bad(f"{kind}:{old}={new}", f"the document has no {_NOUNS[kind]} {shown(old)}")
        if not self.applied:
            return self.document, []
        _once("target", [target.key for target in targets])
        changed = {change.new for change in self.applied
                   if change.what in ("device", "root", "wwid")}
        _once("backstores' file or device",
              [(store.path,) for store in stores if store.path in changed])
        renamed = replace(self.document, state=replace(
            state, targets=targets, backstores=stores))
        try:
            check(renamed)
        except Duplicate:
            raise
        except DocumentError as error:
            raise BadMap(f"--map gives a name that can't be: {error.what}") from None
        return renamed, list(dict.fromkeys(self.applied))

    def use(self, kind: str, old: str, shown: str, new: str, what: str = "") -> str:
        self.used.add((kind, old))
        if shown != new:
            self.applied.append(Applied(what or kind, shown, new))
        return new

    # ---- targets -------------------------------------------------------------------------------
    def target(self, target: objects.Target) -> objects.Target:
        new = self.mapping.targets.get(target.wwn)
        key = target.key
        if new is not None:
            self.use("target", target.wwn, target.wwn, new)
            key = target_key(target.fabric, new)
            # The kernel knows a vhost or loopback target fc.X by the name X.
            self.renamed[target.fabric, _bare(target.wwn)] = _bare(new)
        return replace(target, key=key, tpgs=tuple(self.tpg(tpg, key) for tpg in target.tpgs))

    def tpg(self, tpg: objects.Tpg, target: Key) -> objects.Tpg:
        key = (*target, tpg.key[-1])
        attributes = dict(tpg.attributes)
        if attributes.get("nexus"):
            attributes["nexus"] = self.initiator(attributes["nexus"])
        portals = tuple(self.portal(portal, key) for portal in tpg.portals)
        acls = tuple(self.acl(acl, key) for acl in tpg.acls)
        _once("portal", [portal.key for portal in portals])
        _once("ACL", [acl.key for acl in acls])
        luns = tuple(replace(lun, key=(*key, *lun.key[-2:])) for lun in tpg.luns)
        port = self.port(tpg, key)
        if port:
            attributes["rtpi"] = port
            luns = tuple(replace(lun, attributes={
                name: value for name, value in lun.attributes.items() if name != "rtpi"})
                for lun in luns)
        return replace(tpg, key=key, attributes=attributes, portals=portals, acls=acls, luns=luns)

    def port(self, tpg: objects.Tpg, key: Key) -> str:
        """The relative port which the TPG gets, "" where it keeps what it has."""
        has, ports = tpg.attributes.get("rtpi", ""), self.mapping.rtpis
        old = next((name for name in (display(tpg.key), has) if name and name in ports), "")
        if not old:
            return ""
        new = fresh_port(key) if ports[old] == FRESH else ports[old]
        if has == new:
            return self.use("rtpi", old, new, new)
        return self.use("rtpi", old, f"{display(key)}: relative port {has or 'of each LUN'}", new)

    def portal(self, portal: objects.Portal, tpg: Key) -> objects.Portal:
        return replace(portal, key=portal_key(tpg, self.address(portal.address)),
                       attributes=self.limited(portal.attributes))

    def limited(self, attributes: Attributes) -> Attributes:
        """The attributes, none higher than its ``limit:`` map."""
        highest = {limits.path_of(name): most for name, most in self.mapping.limits.items()}
        return {path: self.use("limit", path.rpartition("/")[2],
                               f"{path.rpartition('/')[2]} {value}", most)
                if most is not None and value.isdecimal() and int(value) > int(most) else value
                for path, value in attributes.items() for most in [highest.get(path)]} \
            if highest else attributes

    def address(self, name: str) -> str:
        if name in self.mapping.portals:
            return self.use("portal", name, name, self.mapping.portals[name])
        host, _colon, port = name.rpartition(":")
        for old in (host, host.strip("[]")):
            if old in self.mapping.portals:
                new = self.mapping.portals[old]
                if ":" in new and not new.startswith("["):
                    new = f"[{new}]"
                return self.use("portal", old, name, f"{new}:{port}")
        return name

    def acl(self, acl: objects.Acl, tpg: Key) -> objects.Acl:
        key = acl_key(tpg, self.initiator(acl.initiator))
        return replace(acl, key=key, mapped_luns=tuple(
            replace(lun, key=(*key, *lun.key[-2:])) for lun in acl.mapped_luns))

    def initiator(self, name: str) -> str:
        new = self.mapping.initiators.get(name)
        return name if new is None else self.use("initiator", name, name, new)

    # ---- backstores ----------------------------------------------------------------------------
    def backstore(self, backstore: objects.Backstore) -> objects.Backstore:
        reservations = replace(backstore.reservations, registrations=tuple(
            map(self.registration, backstore.reservations.registrations)))
        path = self.path(backstore)
        parameters = dict(backstore.parameters)
        attributes = dict(self.limited(backstore.attributes))
        plugin = plugins.of(backstore.plugin)
        if plugin.opens is Opens.SCSI:
            parameters.update(self.scsi_address(backstore, path))
        elif path != backstore.path:
            parameters[plugin.path_in[1]] = path
        if attributes.get("udev_path") == backstore.path:  # what targetcli notes there
            attributes["udev_path"] = path
        return replace(backstore, parameters=parameters, attributes=attributes,
                       reservations=reservations)

    def scsi_address(self, backstore: objects.Backstore, path: str) -> Dict[str, str]:
        """{parameter: number} of the SCSI device's address on this host, {} where it is not
        known."""
        if self.host is None or not path:
            return {}
        try:
            backing = devices.look(path)
        except OSError:
            return {}
        os.close(backing.fd)
        new = devices.hctl_of(backing.device, self.host) if backing.block else ""
        old = ":".join(backstore.parameters.get(name, "?") for name in HCTL)
        return dict(zip(HCTL, self.use("address", old, old, new).split(":"))) if new else {}

    def registration(self, registration: objects.Registration) -> objects.Registration:
        fabric = fabrics.of_pr_name(registration.fabric).name
        target = self.renamed.get((fabric, _bare(registration.target)), registration.target)
        return replace(registration, initiator=self.initiator(registration.initiator),
                       target=target)

    def path(self, backstore: objects.Backstore) -> str:
        path = backstore.path
        if not path:
            return path
        if path in self.mapping.devices:
            return self.use("device", path, path, self.mapping.devices[path])
        below = [root for root in self.mapping.roots if path.startswith(root.rstrip("/") + "/")]
        if below:
            root = max(below, key=len)
            return self.use("root", root, path, self.mapping.roots[root].rstrip("/")
                            + path[len(root.rstrip("/")):])
        device = self.by_wwid(backstore)
        return path if device is None else self.use("wwid", path, path, device)

    def by_wwid(self, backstore: objects.Backstore) -> Optional[str]:
        """The path by which this host has the backstore's device, None where it is the same
        path."""
        wwid = self.document.storage.get(display(backstore.key), {}).get("wwid")
        if self.host is None or not isinstance(wwid, str) or not wwid \
                or self.again and backstore.path.startswith(_FOLLOWING):
            return None
        try:
            backing = devices.look(backstore.path)
        except OSError:
            pass
        else:
            os.close(backing.fd)
            if backing.block and devices.wwid_of(backing.device, self.host) == wwid:
                return None
        return devices.find_by_wwid(wwid, self.host)


#: Names that udev and the device mapper give to a device wherever the kernel has it.
_FOLLOWING = ("/dev/disk/", "/dev/mapper/")

_NOUNS = {"device": "backstore on", "root": "backstore below", "portal": "portal",
          "target": "target", "initiator": "initiator", "rtpi": "TPG with the relative port",
          "limit": "object that has more of"}


def _bare(wwn: str) -> str:
    return wwn[3:] if wwn.startswith("fc.") else wwn


def _once(what: str, keys: Sequence[Key]) -> None:
    seen: Set[Key] = set()
    for key in keys:
        if key in seen:
            name = display(key) if len(key) > 1 else key[0]
            raise Duplicate(f"--map makes two objects one {what}: {shown(name)}",
                            do="map them to different names")
        seen.add(key)

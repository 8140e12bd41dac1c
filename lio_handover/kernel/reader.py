"""The kernel → the model.  Reads only; asks for each file once."""
from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from functools import partial
from typing import (AbstractSet, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional,
                    Sequence, Tuple)

from .. import errors
from ..model import directories, fabrics, keys, plugins
from ..model.attributes import HOST, RUNTIME, SECRET, Attribute, hides, rows
from ..model.objects import (Acl, AluaGroup, Backstore, DiscoveryAuth, Key, LuGroup, Lun, MappedLun,
                             Portal, Reservations, Secret, State, Target, Tpg, kernel_name)
from ..model.reservations import FullStatusDescriptor, NexusPath
from . import placement
from .configfs import Configfs
from .facts import Facts, boot_id, knows_rtpi, no_modules
from .pr_reader import PrReader, paths_of

#: Directories of the tree's top which are not fabrics.
_NOT_FABRICS = {"core"}
#: Directories of a wwn or a TPG which hold no attributes of their own that are carried over.
_ATTRIBUTE_FOLDERS = ("attrib", "auth", "param", "wwn")
#: The errnos of a file that has no value for now.
_NOTHING_THERE = (errno.ENODEV, errno.EINVAL, errno.EACCES, errno.EPERM)


class Reader:
    """Reads a host.  One instance reads one kernel: it lists an object's files once for each
    kind."""

    def __init__(self, fs: Configfs, reservations: bool = True,
                 full_status: Optional[Mapping[Key, Sequence[FullStatusDescriptor]]] = None,
                 known: Optional[Mapping[Key, Sequence[Reservations]]] = None,
                 untouched: bool = False, unlinked: AbstractSet[Key] = frozenset()) -> None:
        self.fs = fs
        #: LUNs and mapped LUNs that have no link yet: none is looked for
        self.unlinked = unlinked
        #: the descriptors of READ FULL STATUS for each backstore that was asked
        self.full_status = full_status or {}
        self.with_reservations = reservations
        #: ``known``: what this program restored; ``untouched``: nobody can have changed it since
        self._pr = PrReader(fs, self.full_status, known or {}, untouched, reservations)
        #: whether a backstore has its own path open, as the device itself said (probes.reads)
        self.asked: Mapping[Key, Optional[bool]] = {}
        #: sentences: which backstores' open storage cannot be known, see opened.judge
        self.unsure: Tuple[str, ...] = ()
        self._twins: Optional[FrozenSet[Key]] = None
        self._files: Dict[Tuple[str, str], List[Tuple[str, Optional[Attribute]]]] = {}

    # ---- attributes ---------------------------------------------------------------------------
    def _attribute_files(self, kind: str, owner: str, path: str) \
            -> List[Tuple[str, Optional[Attribute]]]:
        """The files of this kind of object: those of the table that this kernel has, and those
        it does not know but can be written."""
        known = self._files.get((kind, owner))
        if known is not None:
            return known
        table = rows(kind, owner)
        attribute_files: List[Tuple[str, Optional[Attribute]]] = []
        files, folders, _links = self.fs.entries(path)
        names = list(files)
        for folder in _ATTRIBUTE_FOLDERS:
            if folder in folders:
                names += [f"{folder}/{name}" for name in self.fs.entries(f"{path}/{folder}")[0]]
        skip = _NOT_ATTRIBUTES.get(kind, ())
        for name in sorted(names):
            row = table.get(name)
            if row is not None:
                if row.kind != HOST or row.compared:
                    attribute_files.append((name, row))
            elif name not in skip and self.fs.writable(f"{path}/{name}"):
                attribute_files.append((name, None))
        self._files[kind, owner] = attribute_files
        return attribute_files

    def _attributes(self, kind: str, owner: str, path: str, windows: Sequence[str] = (),
                    runtime: bool = False) -> Tuple[Dict[str, str], Dict[str, str]]:
        """(carried, host's own) attributes of one object; only those of ``windows`` if any, and
        with ``runtime`` only those that initiators change."""
        carried: Dict[str, str] = {}
        host: Dict[str, str] = {}
        read = self.fs.read
        for name, row in self._attribute_files(kind, owner, path):
            if windows and (row is None or row.window not in windows) \
                    or runtime and (row is None or row.kind != RUNTIME or row.told):
                continue
            try:
                text = read(f"{path}/{name}")
            except OSError as error:
                if error.errno in _NOTHING_THERE:
                    continue  # no nexus, no link yet, write-only: nothing to carry
                raise
            if row is None:
                text = text.rstrip("\n")
                carried[name] = Secret(text) if hides(kind, name) else text
                continue
            try:
                value = row.format.read(text)
            except ValueError as error:
                raise errors.CannotRepresent(
                    f"{path}/{name} can't be read: {error}") from None
            if row.kind == HOST:
                host[name] = value
            elif value not in row.unset and value != row.if_absent:
                # A value that equals the behaviour of older kernels is left out.
                carried[name] = value if row.kind != SECRET else Secret(value)
        return carried, host

    def _names(self, path: str) -> List[str]:
        """The names in a directory, none where it does not exist."""
        try:
            return self.fs.names(path)
        except FileNotFoundError:
            return []

    # ---- backstores ---------------------------------------------------------------------------
    def hbas(self) -> List[str]:
        return placement.hbas(self.fs)

    def placed(self) -> Dict[Key, str]:
        """{key: HBA} of each backstore of the host."""
        placement_now = placement.find(self.fs)
        self._twins = placement_now.twins
        return dict(placement_now.placed)

    def _key(self, path: str) -> Key:
        """The key of the backstore at ``core/fileio_0/d0``; backstores that share a plugin and a
        name have ``HBA/NAME`` in their keys."""
        _core, hba, name = path.split("/", 2)
        key = keys.backstore_key(hba.rpartition("_")[0], name)
        if self._twins is None:
            self.placed()
        return keys.backstore_key(key[1], f"{hba}/{name}") if key in (self._twins or ()) else key

    def backstore(self, hba: str, name: str,
                  paths: Mapping[str, Sequence[NexusPath]]) -> Backstore:
        """One backstore.  ``paths``: the paths by which each initiator reaches it, see
        reservations.read.

        Raises CannotRepresent where its reservations are ambiguous, OSError.
        """
        plugin = hba.rpartition("_")[0]
        path = f"core/{hba}/{name}"
        key, info = self._key(path), self.fs.read(f"{path}/info")
        attributes, host = self._attributes("backstore", plugin, path)
        groups = []
        for group in self._names(f"{path}/alua"):
            group_path = f"{path}/alua/{group}"
            carried, _ = self._attributes("alua_group", "", group_path)
            groups.append(AluaGroup(keys.alua_group_key(key, group), carried))
        return Backstore(key, plugins.parse(plugin, info), attributes, tuple(groups),
                         self._pr.read(path, attributes.get("wwn/vpd_unit_serial", ""), paths, key),
                         hba, host, plugins.device(info))

    def off(self, stores: Iterable[Backstore]) -> FrozenSet[Key]:
        """The keys of the backstores that were never enabled: no LUN can export them."""
        return frozenset(store.key for store in stores if self.fs.read(
            f"core/{store.hba}/{store.name}/enable").strip() == "0")

    def dbroot(self) -> str:
        return self.fs.read("dbroot").strip()

    # ---- targets ------------------------------------------------------------------------------
    def fabrics(self) -> List[str]:
        return [name for name in self.fs.entries("")[1] if name not in _NOT_FABRICS]

    def target_names(self) -> List[Tuple[str, str]]:
        """(fabric, WWN) of every target."""
        return placement.remembered(self.fs, "targets", lambda: [
            (fabric, wwn) for fabric in sorted(self.fabrics())
            for wwn in self.fs.entries(fabric)[1] if wwn not in _FABRIC_DEFAULTS])

    def target(self, fabric: str, wwn: str) -> Target:
        key, path = keys.target_key(fabric, wwn), f"{fabric}/{wwn}"
        carried = self._own(key, "target", path)
        tpgs = directories.numbered_tpgs(fabric, self.tpgs(fabric, wwn))
        return Target(key, carried, tuple(self._tpg(keys.tpg_key(key, word), path, at)
                                          for word, at in tpgs))

    def _own(self, key: Key, kind: str, path: str) -> Dict[str, str]:
        """The attributes of an object of a target."""
        return self._attributes(kind, key[1], path)[0]

    def _link(self, key: Key, path: str) -> Optional[Tuple[str, str]]:
        """(name, path where it leads) of the link of a LUN or mapped LUN, None for none."""
        return self.fs.link_in(path) if key not in self.unlinked else None

    def tpgs(self, fabric: str, wwn: str) -> List[str]:
        """The names of the directories of a target's TPGs."""
        return placement.remembered(self.fs, f"TPGs of {fabric}/{wwn}", lambda: [
            entry for entry in self.fs.entries(f"{fabric}/{wwn}")[1]
            if directories.is_tpg(entry)])

    def _tpg(self, key: Key, above: str, at: str) -> Tpg:
        path = f"{above}/{at}"
        carried = self._whole_nexus(key, self._own(key, "tpg", path))
        luns = tuple(self._lun(key, path, *lun) for lun in self._luns_in(f"{path}/lun"))
        if "rtpi" not in carried:
            carried, luns = self._rtpi(path, carried, luns)
        portals = tuple(
            Portal(portal, self._own(portal, "portal", f"{path}/np/{name}"))
            for name in self._names(f"{path}/np") for portal in [keys.portal_key(key, name)])
        acls = tuple(self._acl(key, path, name) for name in self.fs.names(f"{path}/acls"))
        return Tpg(key, carried, portals, luns, acls, self._sessions(path, acls),
                   "" if at == f"tpgt_{key[3]}" else at)

    @staticmethod
    def _whole_nexus(key: Key, carried: Dict[str, str]) -> Dict[str, str]:
        """The attributes with the nexus' prefix ``fc.``, which the kernel does not show but wants
        written (vhost_scsi_tpg_nexus_show)."""
        if carried.get("nexus") and key[2].startswith("fc."):
            carried["nexus"] = "fc." + carried["nexus"].removeprefix("fc.")
        return carried

    def _luns_in(self, path: str) -> List[Tuple[str, str]]:
        """(last word of its key, directory's name) of each LUN, or mapped LUN, by number."""
        return directories.numbered_luns(filter(directories.is_lun, self.fs.entries(path)[1]))

    def _lun(self, above: Key, path: str, word: str, at: str) -> Lun:
        here, spelled = f"{path}/lun/{at}", "" if at == f"lun_{word}" else at
        key = keys.lun_key(above, word)
        link = self._link(key, here)
        if link is None:
            return Lun(key, directory=spelled)
        return Lun(key, self._key(link[1]), link[0], self._own(key, "lun", here), spelled)

    def _rtpi(self, path: str, carried: Dict[str, str], luns: Tuple[Lun, ...]) \
            -> Tuple[Dict[str, str], Tuple[Lun, ...]]:
        """Kernels up to 6.1 number the port of each link: shown as the TPG's where all agree."""
        if self.fs.exists(f"{path}/rtpi"):
            return carried, luns
        numbers = {}
        for lun in luns:
            if lun.backstore is not None:
                numbers[lun.key] = self.fs.read(
                    f"{path}/lun/{lun.at}/statistics/scsi_port/indx").strip()
        different = set(numbers.values())
        if len(different) == 1:
            return {**carried, "rtpi": different.pop()}, luns
        return carried, tuple(
            replace(lun, attributes={**lun.attributes, "rtpi": numbers[lun.key]})
            if lun.key in numbers else lun for lun in luns)

    def _acl(self, above: Key, path: str, initiator: str) -> Acl:
        here = f"{path}/acls/{initiator}"
        key = keys.acl_key(above, initiator)
        return Acl(key, self._own(key, "acl", here), self._mapped(key, here))

    def _mapped(self, above: Key, here: str) -> Tuple[MappedLun, ...]:
        mapped = []
        for word, at in self._luns_in(here):
            key, spelled = keys.mapped_lun_key(above, word), "" if at == f"lun_{word}" else at
            link = self._link(key, f"{here}/{at}")
            if link is None:
                mapped.append(MappedLun(key, directory=spelled))
                continue
            attributes = self._own(key, "mapped_lun", f"{here}/{at}")
            # Empty, where the kernel has no such mapping (any more): target_core_fabric_configfs.c:
            # target_fabric_mappedlun_write_protect_show.
            dead = attributes.get("write_protect") == ""
            mapped.append(MappedLun(key, None, link[0], {}, spelled, True) if dead else MappedLun(
                key, directories.lun_number(link[1].rpartition("/")[2]), link[0], attributes,
                spelled))
        return tuple(mapped)

    def _sessions(self, path: str, acls: Sequence[Acl]) -> Tuple[str, ...]:
        initiators = []
        if self.fs.exists(f"{path}/dynamic_sessions"):
            initiators += [name for name in re.split(r"[\n\0]+", self.fs.read(
                f"{path}/dynamic_sessions")) if name]
            initiators += [acl.initiator for acl in acls if not self.fs.read(
                f"{path}/acls/{acl.initiator}/info").startswith("No active")]
        return tuple(initiators)

    def attached(self, target: Target) -> Optional[bool]:
        """Whether a guest can have a vhost target execute commands; None where it cannot be known.

        rmdir of a TPG says EBUSY where an endpoint is attached and, as there are LUNs in it,
        ENOTEMPTY where none is (fs/configfs/dir.c:configfs_rmdir looks at dependencies first).
        """
        answers = set()
        for tpg in target.tpgs:
            path = f"{target.fabric}/{target.wwn}/{tpg.at}"
            if self._luns_in(f"{path}/lun"):  # else rmdir would take it away; no LUN, no command
                answers.add(self.fs.try_rmdir(path))
        if errno.EBUSY in answers:
            return True
        return False if answers <= {errno.ENOTEMPTY} else None

    # ---- a whole host ---------------------------------------------------------------------------
    def links(self, fabric: str, wwn: str) -> Iterator[Tuple[str, str, Key]]:
        """(TPG's name, LUN's name, backstore) of every link of a target, without reading it."""
        for tpgt in self.tpgs(fabric, wwn):
            for lun in self.fs.entries(f"{fabric}/{wwn}/{tpgt}/lun")[1]:
                link = self.fs.link_in(f"{fabric}/{wwn}/{tpgt}/lun/{lun}")
                if link is not None:
                    yield tpgt, lun, self._key(link[1])

    def exporters(self, backstores: Iterable[Key], outside: Iterable[str] = ()) \
            -> Dict[Key, List[str]]:
        """{backstore: the LUNs that export it, ``iscsi/iqn.x/tpgt_1/lun_0``}, without those of the
        targets that ``outside`` names (FABRIC/WWN)."""
        wanted, skip = set(backstores), set(outside)
        exporters: Dict[Key, List[str]] = {}
        for fabric, wwn in self.target_names():
            if f"{fabric}/{wwn}" in skip:
                continue
            for tpgt, lun, key in placement.remembered(
                    self.fs, f"links of {fabric}/{wwn}", lambda: [*self.links(fabric, wwn)]):
                if key in wanted:
                    exporters.setdefault(key, []).append(f"{fabric}/{wwn}/{tpgt}/{lun}")
        return exporters

    def discovery_auth(self) -> Optional[DiscoveryAuth]:
        """The host's discovery credentials, None where there is no iSCSI fabric."""
        discovery = DiscoveryAuth()
        if not self.fs.exists(discovery.key[1]):
            return None
        return DiscoveryAuth(attributes=self._attributes(discovery.kind, "", discovery.key[1])[0])

    def state(self, targets: Optional[Sequence[Tuple[str, str]]] = None,
              backstores: Iterable[Key] = (),
              discovery: Optional[bool] = None, linked: bool = True) -> State:
        """The state of these ``targets`` [(fabric, WWN)], with the backstores and LU groups that
        they use; the whole host where ``targets`` is None.  ``backstores`` are read even where no
        target uses them, and unless ``linked`` no others.
        ``discovery``: whether to read discovery auth; None: only where there is an iSCSI target.

        Raises NoSuchTarget, CannotRepresent, OSError.
        """
        try:
            names = self.target_names() if targets is None else targets
            placed = self.placed()
        except FileNotFoundError:
            raise no_modules() from None
        read_targets = []
        for fabric, wwn in names:
            try:
                read_targets.append(self.target(fabric, wwn))
            except (FileNotFoundError, NotADirectoryError):
                raise errors.NoSuchTarget(f"{fabric}/{wwn}: this host has no such target",
                                          do="lio-handover show") from None
        wanted = set(backstores) & set(placed)
        for target in read_targets if linked else ():
            for tpg in target.tpgs:
                wanted.update(lun.backstore for lun in tpg.luns if lun.backstore)
        if targets is None:
            wanted.update(placed)
        paths = paths_of(read_targets)
        stores = tuple(self.backstore(placed[key], kernel_name(key), paths.get(key, {}))
                       for key in sorted(wanted))
        if discovery is None:
            discovery = any(fabrics.of(target.fabric).logins for target in read_targets)
        return State(self._lu_groups(stores, targets is None), stores, tuple(read_targets),
                     self.discovery_auth() if discovery else None)

    def outline(self, known: Iterable[Backstore] = ()) -> State:
        """Every backstore of the host with only its parameters and serial; ``known`` backstores
        are not read again."""
        placed, heard = sorted(self.placed().items()), self.fs.known_backstores
        read = {store.key: store for store in known}
        outlines = heard.outlines() if heard else {}
        for key, hba in placed:
            at = f"{hba}/{kernel_name(key)}"
            if key not in read and (at not in outlines or outlines[at].key != key):
                outlines[at] = placement.remembered(self.fs, f"outline of {hba}/{key[2]}",
                                                    partial(self._outline, key, hba))
        return State((), tuple(read.get(key) or outlines[f"{hba}/{kernel_name(key)}"]
                               for key, hba in placed))

    def stores_of(self, names: Iterable[Tuple[str, str]]) -> State:
        """The backstores of these targets [(fabric, WWN)] with only their parameters and serials.
        """
        placed, exported = self.placed(), {
            key for name in names for _tpg, _lun, key in self.links(*name)}
        return State((), tuple(self._outline(key, placed[key]) for key in sorted(exported)))

    def _outline(self, key: Key, hba: str) -> Backstore:
        path, serial = f"core/{hba}/{kernel_name(key)}", ""
        try:
            serial = self.fs.read(f"{path}/wwn/vpd_unit_serial").strip().rpartition(": ")[2]
        except FileNotFoundError:
            pass
        return Backstore(key, plugins.parse(key[1], self.fs.read(f"{path}/info")),
                         {"wwn/vpd_unit_serial": serial} if serial else {}, hba=hba)

    def lu_groups(self, names: Iterable[str]) -> Tuple[LuGroup, ...]:
        """The named LU groups that exist on this host."""
        path = "core/alua/lu_gps"
        return tuple(LuGroup(keys.lu_group_key(name),
                             self._attributes("lu_group", "", f"{path}/{name}")[0])
                     for name in names if self.fs.exists(f"{path}/{name}"))

    def relative_ports(self, frozen: Sequence[str] = ()) -> Dict[str, List[str]]:
        """{relative port: the TPGs that have it} for TPGs that are enabled, or of a ``frozen``
        target (FABRIC/WWN); {} on kernels without tpgt_N/rtpi.  vhost and loopback TPGs have no
        enable, and may have any number."""
        ports: Dict[str, List[str]] = {}
        gates: Dict[str, bool] = {}
        for fabric, wwn in self.target_names():
            for tpgt in self.tpgs(fabric, wwn) if gates.get(fabric, True) else ():
                path = f"{fabric}/{wwn}/{tpgt}"
                if fabric not in gates:
                    gates[fabric] = {"rtpi", "enable"} <= {*self.fs.entries(path)[0]}
                if gates[fabric] and (
                        f"{fabric}/{wwn}" in frozen
                        or self.fs.read(f"{path}/enable").strip() == "1"):
                    number = str(int(self.fs.read(f"{path}/rtpi"), 0))
                    ports.setdefault(number, []).append(path)
        return ports

    def _lu_groups(self, stores: Sequence[Backstore], all_of_them: bool) -> Tuple[LuGroup, ...]:
        named = {store.attributes["alua_lu_gp"] for store in stores
                 if "alua_lu_gp" in store.attributes}
        if all_of_them and self.fs.exists("core/alua/lu_gps"):
            named = set(self.fs.names("core/alua/lu_gps")) - {"default_lu_gp"}
        return self.lu_groups(sorted(named))

    def facts(self) -> Facts:
        """The facts of this host.  Raises NoTargetModules."""
        if not self.fs.exists("core"):
            raise no_modules()
        return Facts(os.uname().release, boot_id(), self.dbroot(), tuple(self.hbas()),
                     tuple(self.fabrics()), self.has_rtpi(), self.placed())

    def has_rtpi(self) -> bool:
        """Whether this kernel has tpgt_N/rtpi."""
        for fabric, wwn in self.target_names():
            for tpgt in self.tpgs(fabric, wwn):
                return self.fs.exists(f"{fabric}/{wwn}/{tpgt}/rtpi")
        return knows_rtpi()


#: Writable files of an object which are structure, an action or a constant, not an attribute.
_NOT_ATTRIBUTES: Dict[str, Tuple[str, ...]] = {
    "backstore": ("control", "enable", "info"),
    "tpg": ("dynamic_sessions",), "acl": ("info",), "target": (),
}
#: Directories which a fabric has before anybody makes a target.
_FABRIC_DEFAULTS = ("discovery_auth",)

"""The state of a host's targets, as plain data in the kernel's own words.

An object has its *structure* as fields (names, numbers, links, children) and everything
else in ``attributes``: ``{path below the object's directory: value as it would be written}``.
``key`` identifies an object on every host: the number of an HBA, which differs between hosts, is
not part of it.  ``children`` makes comparing two hosts one linear walk.

A TPG's, LUN's or mapped LUN's ``directory`` is its directory's name on this host where that name is
not the kernel's own spelling of its number, else "" (see directories); ``at`` is the name in both
cases.

Nothing here reads, writes or judges.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from . import directories, plugins
from .keys import Key as Key


class Secret(str):
    """A value that must not be shown: it prints and formats as ``(secret)``.

    Only ``encode()`` and ``json`` give its characters.  A secret of a secret is the same one.
    """

    def __new__(cls, value: str) -> "Secret":
        return value if isinstance(value, Secret) else super().__new__(cls, value)

    def __str__(self) -> str:
        return "(secret)"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


Attributes = Mapping[str, str]

#: The target port group which every backstore has from the start, and for ever.
DEFAULT_GROUP = "default_tg_pt_gp"


class PrType(IntEnum):
    """A type of persistent reservation (SPC-4 table 173), by code."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8

    @property
    def text(self) -> str:
        """As SPC words it: ``Write Exclusive, Registrants Only``."""
        words = self.name.title().split("_")
        return ", ".join(filter(None, (" ".join(words[:2]), " ".join(words[2:]))))

    @property
    def kernel_text(self) -> str:
        """As target_core_pr.c:core_scsi3_pr_dump_type words it."""
        return self.text.replace("Write Exclusive", "Write Exclusive Access")


#: The types that each registrant holds (SPC-4 5.12.10); the others have one holder.
ALL_REGISTRANTS = (PrType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, PrType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)


@dataclass(frozen=True)
class Registration:
    """One registered I_T nexus of one backstore.

    ``isid`` is 12 hex digits (iSCSI) or ``""``.  ``fabric`` is the kernel's name of it
    (``iSCSI``, ``vhost``, ``loopback``), ``target`` the WWN as the kernel compares it.
    The numbers say through which port the registration was made; ``all_tg_pt`` that it
    holds on every port of the target, None where the kernel does not show it.
    """

    initiator: str
    isid: str
    key: int
    fabric: str
    target: str
    tpgt: int
    lun: int
    mapped_lun: int
    all_tg_pt: Optional[bool] = False

    @property
    def nexus(self) -> Tuple[str, str, str, int]:
        """(initiator, ISID, target, tag): the kernel tells registrations apart by node ACL (name
        and TPG) and ISID (target_core_pr.c:__core_scsi3_locate_pr_reg)."""
        return (self.initiator, self.isid, self.target, self.tpgt)


@dataclass(frozen=True)
class Reservations:
    """The persistent reservations of one backstore.

    ``registrations`` stand in the order in which READ KEYS returns them.  ``type`` is 0
    without a reservation; ``holder`` indexes ``registrations`` (for types 7 and 8 it is
    the registrant which the kernel shows as holder) or is None.  ``generation`` is
    PRgeneration; ``aptpl`` whether the device says that reservations survive power loss.
    """

    generation: int = 0
    aptpl: bool = False
    type: int = 0
    holder: Optional[int] = None
    registrations: Tuple[Registration, ...] = ()

    def __bool__(self) -> bool:
        return self != NO_RESERVATIONS


NO_RESERVATIONS = Reservations()


@dataclass(frozen=True)
class AluaGroup:
    """A target port group of a backstore (ALUA)."""

    key: Key
    attributes: Attributes = field(default_factory=dict)

    kind = "alua_group"

    @property
    def name(self) -> str:
        return self.key[-1]

    def children(self) -> Tuple["Object", ...]:
        return ()


@dataclass(frozen=True)
class LuGroup:
    """A logical unit group, shared by every backstore of the host that names it."""

    key: Key
    attributes: Attributes = field(default_factory=dict)

    kind = "lu_group"

    @property
    def name(self) -> str:
        return self.key[-1]

    def children(self) -> Tuple["Object", ...]:
        return ()


@dataclass(frozen=True)
class Backstore:
    """A disk: ``plugin`` is fileio, iblock, …; ``parameters`` what goes into ``control``.

    ``hba`` is where the backstore lives on this host (``fileio_0``) and no part of its identity.
    Where several backstores have one name, the keys of all but the first have ``fileio_1/name``,
    which no document has.
    """

    key: Key
    parameters: Attributes = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)
    alua_groups: Tuple[AluaGroup, ...] = ()
    reservations: Reservations = NO_RESERVATIONS
    hba: str = field(default="", compare=False)
    #: attributes of class HOST which an initiator can see or which must match; never written
    host: Attributes = field(default_factory=dict, compare=False)
    #: the block device that the kernel has open, ``8:16``, where it shows that
    opened: str = field(default="", compare=False)

    kind = "backstore"

    @property
    def plugin(self) -> str:
        return self.key[1]

    @property
    def name(self) -> str:
        """The name as the kernel has it, without the HBA that a key may have before it."""
        return kernel_name(self.key)

    @property
    def path(self) -> str:
        """The file or device which it opens, "" for none."""
        where, name = plugins.of(self.plugin).path_in
        return (self.attributes if where == "attributes" else self.parameters).get(name, "")

    @property
    def serial(self) -> str:
        return self.attributes.get("wwn/vpd_unit_serial", "")

    def children(self) -> Tuple["Object", ...]:
        return self.alua_groups


@dataclass(frozen=True)
class Portal:
    """A network portal of an iSCSI TPG: ``ip:port`` or ``[ip6]:port``."""

    key: Key
    attributes: Attributes = field(default_factory=dict)

    kind = "portal"

    @property
    def address(self) -> str:
        return self.key[-1]

    def children(self) -> Tuple["Object", ...]:
        return ()


@dataclass(frozen=True)
class Lun:
    """A LUN of a TPG: the link by which a backstore is exported.

    ``backstore`` is a backstore's key, or None where nothing is linked.  ``alias`` is the
    name of the symbolic link: any name works, targetcli makes random ones.
    """

    key: Key
    backstore: Optional[Key] = None
    alias: str = field(default="", compare=False)
    attributes: Attributes = field(default_factory=dict)
    directory: str = field(default="", compare=False)

    kind = "lun"

    @property
    def number(self) -> int:
        word = self.key[-1]
        return int(word) if word.isdigit() else directories.lun_number(word)

    @property
    def at(self) -> str:
        return self.directory or f"lun_{self.key[-1]}"

    def children(self) -> Tuple["Object", ...]:
        return ()


@dataclass(frozen=True)
class MappedLun:
    """A LUN as one initiator sees it: ``lun`` is the number of the TPG's LUN, or None.

    ``alias`` is the link's name.  A mapped LUN whose link exists but does nothing, because its LUN
    was linked again since, has no ``lun`` and is ``dead``.
    """

    key: Key
    lun: Optional[int] = None
    alias: str = field(default="", compare=False)
    attributes: Attributes = field(default_factory=dict)
    directory: str = field(default="", compare=False)
    dead: bool = field(default=False, compare=False)

    kind = "mapped_lun"

    @property
    def number(self) -> int:
        word = self.key[-1]
        return int(word) if word.isdigit() else directories.lun_number(word)

    @property
    def at(self) -> str:
        return self.directory or f"lun_{self.key[-1]}"

    def children(self) -> Tuple["Object", ...]:
        return ()


@dataclass(frozen=True)
class Acl:
    """An initiator's own access list in a TPG."""

    key: Key
    attributes: Attributes = field(default_factory=dict)
    mapped_luns: Tuple[MappedLun, ...] = ()

    kind = "acl"

    @property
    def initiator(self) -> str:
        return self.key[-1]

    def children(self) -> Tuple["Object", ...]:
        return self.mapped_luns


@dataclass(frozen=True)
class Tpg:
    """A target portal group.  The nexus of a vhost or loopback TPG is its attribute ``nexus``."""

    key: Key
    attributes: Attributes = field(default_factory=dict)
    portals: Tuple[Portal, ...] = ()
    luns: Tuple[Lun, ...] = ()
    acls: Tuple[Acl, ...] = ()
    #: initiators logged in or dynamic; not part of what is handed over
    sessions: Tuple[str, ...] = field(default=(), compare=False)
    directory: str = field(default="", compare=False)

    kind = "tpg"

    @property
    def tag(self) -> int:
        word = self.key[-1]
        return int(word) if word.isdigit() else directories.tag(self.fabric, word)

    @property
    def at(self) -> str:
        return self.directory or f"tpgt_{self.key[-1]}"

    @property
    def fabric(self) -> str:
        return self.key[1]

    def children(self) -> Tuple["Object", ...]:
        return (*self.portals, *self.luns, *self.acls)


@dataclass(frozen=True)
class Target:
    """A target: an IQN, or a WWPN for vhost and loopback."""

    key: Key
    attributes: Attributes = field(default_factory=dict)
    tpgs: Tuple[Tpg, ...] = ()

    kind = "target"

    @property
    def fabric(self) -> str:
        return self.key[1]

    @property
    def wwn(self) -> str:
        return self.key[2]

    @property
    def name(self) -> str:
        """As people write it: ``iscsi/iqn.…``."""
        return f"{self.fabric}/{self.wwn}"

    def children(self) -> Tuple["Object", ...]:
        return self.tpgs


@dataclass(frozen=True)
class DiscoveryAuth:
    """The CHAP credentials of iSCSI discovery (RFC 7143 SendTargets): a host has one set for all
    its targets."""

    key: Key = ("discovery_auth", "iscsi/discovery_auth")
    attributes: Attributes = field(default_factory=dict)

    kind = "discovery_auth"

    def children(self) -> Tuple["Object", ...]:
        return ()


Object = Union[LuGroup, Backstore, AluaGroup, Target, Tpg, Portal, Lun, Acl, MappedLun,
               DiscoveryAuth]


class ExportedLun(NamedTuple):
    """A LUN as an initiator finds it."""

    number: int
    backstore: Backstore
    tag: int  # of its TPG
    target: str


@dataclass(frozen=True)
class State:
    """All that a host serves, or the part of it that concerns some targets.

    ``discovery_auth`` is None where there is no iSCSI target, or nothing is known of it.
    """

    lu_groups: Tuple[LuGroup, ...] = ()
    backstores: Tuple[Backstore, ...] = ()
    targets: Tuple[Target, ...] = ()
    discovery_auth: Optional[DiscoveryAuth] = None

    def roots(self) -> Tuple[Object, ...]:
        return (*self.lu_groups, *self.backstores, *self.targets,
                *([self.discovery_auth] if self.discovery_auth else []))

    def objects(self) -> Iterator[Object]:
        """Every object, parents before children."""
        stack: List[Object] = list(reversed(self.roots()))
        while stack:
            obj = stack.pop()
            yield obj
            stack.extend(reversed(obj.children()))

    def index(self) -> Mapping[Key, Object]:
        """Every object by its key, parents before children."""
        return self._index

    @cached_property
    def _index(self) -> Dict[Key, Object]:
        return {obj.key: obj for obj in self.objects()}

    @cached_property
    def _stores(self) -> Dict[Key, Backstore]:
        return {backstore.key: backstore for backstore in self.backstores}

    def backstore(self, key: Key) -> Optional[Backstore]:
        return self._stores.get(key)

    def target(self, name: str) -> Optional[Target]:
        """The target of this name (FABRIC/WWN), or None."""
        return next((target for target in self.targets if target.name == name), None)

    def luns(self, target: str = "") -> Tuple[ExportedLun, ...]:
        """The LUNs of a target (FABRIC/WWN), or all, with the backstores that they export."""
        return tuple(ExportedLun(lun.number, self._stores[lun.backstore], tpg.tag, exporter.name)
                     for exporter, tpg, lun in self.all_luns()
                     if lun.backstore in self._stores and target in ("", exporter.name))

    def all_luns(self) -> Iterator[Tuple[Target, Tpg, Lun]]:
        """Every LUN with its target and TPG, linked or not."""
        for target in self.targets:
            for tpg in target.tpgs:
                for lun in tpg.luns:
                    yield target, tpg, lun


def kernel_name(key: Key) -> str:
    """The name of a backstore's directory below its HBA.  It is unique below one HBA only: where
    two HBAs have backstores of one name, their keys have ``HBA/NAME``."""
    return key[2].rpartition("/")[2]

"""Persistent reservations of backstores, from their pr/ files and the APTPL file beside them, and
the paths by which each initiator reaches each backstore: a registration came by one of them."""
from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Optional, Sequence

from .. import errors
from ..model import dynamic_acls, fabrics, pr_texts, reservations
from ..model.objects import NO_RESERVATIONS, Key, Lun, Reservations, Target, Tpg
from ..model.reservations import FullStatusDescriptor
from .configfs import Configfs


class PrReader:
    """Reads the reservations of one host.

    ``full_status``: the descriptors of READ FULL STATUS for each backstore that was asked;
    ``known``: the reservations that this program restored, and ``untouched``: whether no initiator
    can have changed them since; ``wanted``: whether they are to be read at all.
    """

    def __init__(self, fs: Configfs, full_status: Mapping[Key, Sequence[FullStatusDescriptor]],
                 known: Mapping[Key, Sequence[Reservations]], untouched: bool,
                 wanted: bool = True) -> None:
        self.fs = fs
        self.full_status, self.known, self.untouched = full_status, known, untouched
        self.wanted = wanted
        self._dbroot = ""  # nobody can change it while there is a backstore

    def read(self, path: str, serial: str, paths: Mapping[str, Sequence[reservations.NexusPath]],
             key: Key) -> Reservations:
        """The reservations of the backstore at ``path``, whose unit serial is ``serial``.
        ``paths``: the paths by which each initiator reaches it, see reservations.read.

        Raises StillRunning while they change, CannotRepresent where they are ambiguous.
        """
        if not self.wanted:
            return NO_RESERVATIONS
        try:
            files = self._settled(f"{path}/pr")
        except FileNotFoundError:
            if self.fs.exists(f"{path}/pr"):
                raise
            return NO_RESERVATIONS
        if files.res_type.strip() not in (pr_texts.PRESENT, pr_texts.SPC2):
            return NO_RESERVATIONS
        aptpl_file = self._aptpl_file(serial) if pr_texts.shows_any(files.registered) else None
        try:
            return reservations.read(files, paths, aptpl_file, self.full_status.get(key, ()),
                                     self.known.get(key, ()), self.untouched)
        except pr_texts.Ambiguous as error:
            raise errors.CannotRepresent(
                f"{path.rpartition('/')[2]}: {error}",
                do="ask the device: the same with --probe" if error.ask else "") from None

    def _settled(self, path: str) -> pr_texts.PrFiles:
        """The files at one moment: PRgeneration is the same before and after.  While it is 0 nobody
        was ever registered, which is the state of the moment in which it was read."""
        for _attempt in range(3):
            files = self._files(path)
            if files.unused or self.fs.read(f"{path}/res_pr_generation") == files.generation:
                return files
        raise errors.StillRunning(f"{path}: its reservations change while they are read",
                                  do="run it again when they don't")

    def _files(self, path: str) -> pr_texts.PrFiles:
        """The files that say something: only who is registered holds a reservation
        (target_core_pr.c:core_scsi3_pro_reserve, core_scsi3_check_implicit_release)."""
        texts = {field: self.fs.read(f"{path}/{name}") for field, name in pr_texts.FILES}
        if pr_texts.shows_any(texts["registered"]) or texts["res_type"].strip() == pr_texts.SPC2:
            texts.update((field, self.fs.read(f"{path}/{name}"))
                         for field, name in pr_texts.REGISTERED_FILES)
        if pr_texts.parse_holder(texts.get("holder", "")):
            texts.update((field, self.fs.read(f"{path}/{name}"))
                         for field, name in pr_texts.HELD_FILES)
        return pr_texts.PrFiles(**texts)

    def _aptpl_file(self, serial: str) -> Optional[bytes]:
        if not serial:
            return None
        try:
            self._dbroot = self._dbroot or self.fs.read("dbroot").strip()
            with open(f"{self._dbroot}/pr/aptpl_{serial}", "rb", buffering=0) as file:
                return file.read()
        except (OSError, ValueError):
            return None  # or no path can have that serial in it


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

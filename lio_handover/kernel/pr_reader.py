"""Persistent reservations of backstores, from their pr/ files and the APTPL file beside them."""
from __future__ import annotations

from typing import Mapping, Optional, Sequence

from .. import errors
from ..model import pr_texts, reservations
from ..model.objects import NO_RESERVATIONS, Key, Reservations
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

    def read(self, path: str, serial: str, paths: Mapping[str, Sequence[reservations.NexusPath]],
             key: Key) -> Reservations:
        """The reservations of the backstore at ``path``, whose unit serial is ``serial``.
        ``paths``: the paths by which each initiator reaches it, see reservations.read.

        Raises StillRunning while they change, CannotRepresent where they are ambiguous.
        """
        if not self.wanted or not self.fs.exists(f"{path}/pr"):
            return NO_RESERVATIONS
        for _attempt in range(3):
            files = pr_texts.PrFiles(**{
                field: self.fs.read(f"{path}/pr/{name}") for field, name in pr_texts.FILES})
            if self.fs.read(f"{path}/pr/res_pr_generation") == files.generation:
                break
        else:
            raise errors.StillRunning(f"{path}: its reservations change while they are read",
                                      do="run it again when they don't")
        if files.res_type.strip() not in (pr_texts.PRESENT, pr_texts.SPC2):
            return NO_RESERVATIONS
        try:
            return reservations.read(files, paths, self._aptpl_file(serial),
                                     self.full_status.get(key, ()), self.known.get(key, ()),
                                     self.untouched)
        except pr_texts.Ambiguous as error:
            raise errors.CannotRepresent(
                f"{path.rpartition('/')[2]}: {error}",
                do="ask the device: the same with --probe" if error.ask else "") from None

    def _aptpl_file(self, serial: str) -> Optional[bytes]:
        if not serial:
            return None
        try:
            dbroot = self.fs.read("dbroot").strip()
            with open(f"{dbroot}/pr/aptpl_{serial}", "rb") as file:
                return file.read()
        except (OSError, ValueError):
            return None  # or no path can have that serial in it

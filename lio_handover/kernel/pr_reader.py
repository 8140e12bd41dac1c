"""Persistent reservations of backstores, from their pr/ files and the APTPL file beside them."""
from __future__ import annotations

from typing import Mapping, Optional, Sequence

from .. import errors
from ..model import reservations
from ..model.objects import NO_RESERVATIONS, Key, Reservations
from ..model.reservations import FullStatusDescriptor
from .configfs import Configfs


class PrReader:
    """Reads the reservations of one host.

    ``seen``: the descriptors of READ FULL STATUS for each backstore that was asked; ``known``: the
    reservations that this program restored, and ``untouched``: whether no initiator can have
    changed them since.
    """

    def __init__(self, fs: Configfs, seen: Mapping[Key, Sequence[FullStatusDescriptor]],
                 known: Mapping[Key, Sequence[Reservations]], untouched: bool) -> None:
        self.fs = fs
        self.seen, self.known, self.untouched = seen, known, untouched

    def read(self, path: str, serial: str, places: Mapping[str, Sequence[reservations.NexusPath]],
             key: Key) -> Reservations:
        """The reservations of the backstore at ``path``, whose unit serial is ``serial``.
        ``places``: the paths by which each initiator reaches it, see reservations.read.

        Raises StillRunning while they change, CannotRepresent where they are ambiguous.
        """
        if not self.fs.exists(f"{path}/pr"):
            return NO_RESERVATIONS
        for _attempt in range(3):
            texts = reservations.PrFiles(**{
                field: self.fs.read(f"{path}/pr/{name}") for field, name in reservations.FILES})
            if self.fs.read(f"{path}/pr/res_pr_generation") == texts.generation:
                break
        else:
            raise errors.StillRunning(f"{path}: its reservations change while they are read",
                                      do="run it again when they don't")
        if texts.res_type.strip() not in (reservations.PRESENT, reservations.SPC2):
            return NO_RESERVATIONS
        try:
            return reservations.read(texts, places, self._aptpl_file(serial),
                                     self.seen.get(key, ()), self.known.get(key, ()),
                                     self.untouched)
        except reservations.Ambiguous as error:
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
        except OSError:
            return None

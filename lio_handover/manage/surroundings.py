"""The host, as far as a change of targets has to know it besides its state."""
from __future__ import annotations

from typing import Mapping, Optional, Protocol, Tuple


class Surroundings(Protocol):
    """The questions that a change has about the host."""

    def storage(self, path: str) -> Optional[Tuple[str, int]]:
        """("file" or "block", bytes) of what is at a path, None where nothing is."""

    def is_readonly(self, path: str) -> bool:
        """Whether a block device takes no writes."""

    def scsi_address(self, path: str) -> Mapping[str, str]:
        """The parameters of pscsi that name the device at a path, {} for none."""

    def default_portal(self) -> str:
        """The portal of a new TPG that is not told otherwise."""

    def new_serial(self) -> str:
        """A unit serial that nothing has."""

    def new_wwn(self, fabric: str) -> str:
        """A WWN of this host's that nothing has."""

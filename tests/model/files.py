"""What is left of registrations on two disks, beside the version that a host's file has."""

from __future__ import annotations

from typing import NamedTuple, Tuple


class Files(NamedTuple):
    """For source and destination: the version that the kept copy has, and whether the APTPL file
    was cut off with power.  ``preempted``: the version from which on somebody is gone."""

    copy: Tuple[int, int] = (-1, -1)
    torn: Tuple[bool, bool] = (False, False)
    preempted: int = 0

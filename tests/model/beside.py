"""The second gate of a handover of targets that share a backstore, and its guest."""

from __future__ import annotations

from typing import NamedTuple, Tuple


class Beside(NamedTuple):
    """For source and destination: whether the second gate is open. ``qs``, ``qd``: the second
    guest's QEMUs, as World has the first's; "" where an iSCSI target is beside the guest's."""

    open: Tuple[bool, bool] = (False, False)
    qs: str = ""
    qd: str = ""

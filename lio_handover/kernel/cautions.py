"""What an administrator should know of a host that serves, and that stops nothing."""
from __future__ import annotations

from typing import Tuple

from ..model.objects import State
from . import dbroot, fixes, portals
from .configfs import Configfs


def shown(fs: Configfs, state: State) -> Tuple[str, ...]:
    """Of the targets in ``state``, read from this host, and of what the kernel needs for them."""
    return (*dbroot.notes(fs), *(f"{portal}: no socket listens there, so nobody can log in by it"
                                 for portal in portals.silent(state)))


def before_handover(fs: Configfs, state: State) -> Tuple[str, ...]:
    """The same, with what the source's kernel lacks."""
    return (*fixes.notes(), *shown(fs, state))

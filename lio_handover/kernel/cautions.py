"""Cautions about a serving host: an administrator should know them, and they stop nothing."""
from __future__ import annotations

from typing import Tuple

from ..model.objects import State
from . import dbroot, fixes, portals
from .configfs import Configfs


def shown(fs: Configfs, state: State) -> Tuple[str, ...]:
    """Cautions about the targets in ``state``, read from this host, and about the kernel's
    dbroot."""
    return (*dbroot.notes(fs), *(f"{portal}: no socket listens there, so nobody can log in by it"
                                 for portal in portals.silent(state)))


def before_handover(fs: Configfs, state: State) -> Tuple[str, ...]:
    """The cautions of ``shown``, and the fixes that the source's kernel lacks."""
    return (*fixes.notes(), *shown(fs, state))

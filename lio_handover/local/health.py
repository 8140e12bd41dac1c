"""One line for a monitoring system: whether what this host serves is as it should be.

The exit codes are those of monitoring plugins (Monitoring Plugins Development Guidelines, "Plugin
Return Codes").
"""
from __future__ import annotations

import errno
import socket
from typing import Iterator, List, NamedTuple, Sequence, Tuple

from .. import errors
from ..kernel import portals
from ..model import fabrics
from ..model.fabrics import Gate
from ..model.keys import display
from ..model.objects import State, Tpg
from .ours import LIO_HANDOVER, NOBODY, Ours, Restorer

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class Fault(NamedTuple):
    """One fault: how grave it is, and a sentence."""

    level: int
    said: str


class Health(NamedTuple):
    """The worst level, all faults (the gravest first), and how much there is."""

    level: int
    faults: Tuple[Fault, ...]
    counts: Tuple[Tuple[str, int], ...] = ()

    @property
    def line(self) -> str:
        """``LIO WARNING: ... | targets=3 luns=12``"""
        said = "; ".join(fault.said for fault in self.faults) or "all is as it should be"
        numbers = " ".join(f"{name}={number}" for name, number in self.counts)
        return errors.shown(f"LIO {WORDS[self.level]}: {said}") + (f" | {numbers}" if numbers
                                                                   else "")


def check(host: Ours) -> Health:
    """The health of this host.  Raises nothing: what can't be known is UNKNOWN."""
    try:
        state = host._plain_reader().state()
        faults = [*_portals(state), *_holes(state), *_elsewhere(host, state),
                  *_boots(host.restorers()), *_handovers(host)]
    except (errors.HandoverError, OSError) as error:
        return Health(UNKNOWN, (Fault(UNKNOWN, str(getattr(error, "what", error))),))
    faults.sort(key=lambda fault: -fault.level)
    counts = (("targets", len(state.targets)), ("luns", len(list(state.all_luns()))),
              ("sessions", sum(len(tpg.sessions) for target in state.targets
                               for tpg in target.tpgs)))
    return Health(max((fault.level for fault in faults), default=OK), tuple(faults), counts)


def _serving(state: State) -> Iterator[Tpg]:
    for target in state.targets:
        for tpg in target.tpgs:
            if fabrics.gate_of(target.fabric) is not Gate.ENABLE \
                    or tpg.attributes.get("enable", "0") != "0":
                yield tpg


def _portals(state: State) -> Iterator[Fault]:
    """Portals that nobody can reach (IP_FREEBIND lets the kernel bind any address)."""
    silent = set(portals.silent(state))
    for tpg in _serving(state):
        for portal in tpg.portals:
            if display(portal.key) in silent:
                yield Fault(CRITICAL, f"nothing listens on {display(portal.key)}")
            elif not _is_here(portal.address):
                yield Fault(WARNING, f"the address of {display(portal.key)} is not on this host")


def _is_here(name: str) -> bool:
    host = name.rpartition(":")[0].strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _holes(state: State) -> Iterator[Fault]:
    """Targets that serve with a hole: an initiator misses a LUN that it should have."""
    for tpg in _serving(state):
        for lun in tpg.luns:
            if lun.backstore is None:
                yield Fault(CRITICAL, f"{display(lun.key)} has no backstore")
        for acl in tpg.acls:
            for mapped in acl.mapped_luns:
                if mapped.lun is None:
                    yield Fault(CRITICAL, f"{display(mapped.key)} maps nothing")


def _elsewhere(host: Ours, state: State) -> Iterator[Fault]:
    for key in sorted(host.view().elsewhere):
        yield Fault(CRITICAL, f"the path of {display(key)} leads to something else than what is "
                    "served")


def _boots(restorers: Sequence[Restorer]) -> Iterator[Fault]:
    for restorer in restorers:
        if restorer.who == NOBODY and not restorer.where:
            yield Fault(WARNING, f"no boot brings {restorer.target} back")
        elif restorer.who == LIO_HANDOVER and restorer.notes:
            away = restorer.notes[0].startswith("it is not here")
            yield Fault(CRITICAL if away else WARNING,
                        f"{restorer.target}: {restorer.notes[0]}")


def _handovers(host: Ours) -> List[Fault]:
    return [Fault(CRITICAL, f"handover {handover.id} of {', '.join(handover.targets)}: "
                  f"{handover.error}") for handover in host.handovers().list() if handover.error]

"""The users of a target: guests, sessions, registrations, which a removal or a freeze ends."""
from __future__ import annotations

from typing import Iterator, List

from .. import errors
from ..errors import Finding
from ..kernel.reader import Reader
from ..model import fabrics
from ..model.fabrics import Gate
from ..model.keys import display
from ..model.objects import State, Target
from .preflight import hidden_reservations, twins


def guest_attached(target: Target) -> Finding:
    """A guest, or a vhost client, holds the endpoint."""
    return Finding(errors.InUse, target.name, "a guest is attached to it",
                   do="stop the guest, or let QEMU pause it for the migration")


def removal(state: State, reader: Reader) -> List[Finding]:
    """Findings on users of targets and backstores that are to be removed."""
    findings = list(hidden_reservations(state, errors.InUse))
    if state.targets:  # which are kept in a document
        findings += twins(state.backstores, reader.outline(state.backstores))
    for target in state.targets:
        gate = fabrics.gate_of(target.fabric)
        for tpg in target.tpgs:
            for name in tpg.sessions:
                findings.append(Finding(errors.InUse, display(tpg.key), f"{name} is logged in",
                                        do=f"lio-handover freeze {target.name}"))
            if tpg.attributes.get("nexus") and gate is Gate.LOCAL:
                findings.append(Finding(
                    errors.InUse, display(tpg.key), "its LUNs are disks of this very host",
                    "local"))
        if gate is Gate.ENDPOINT and reader.attached(target):
            findings.append(guest_attached(target))
    mine = [target.name for target in state.targets]
    others = reader.exporters([store.key for store in state.backstores], mine)
    for key, exporters in others.items():
        findings.append(Finding(errors.InUse, display(key), "is exported by " + ", ".join(exporters)
                                + " too, and stays", "shared"))
    for store in state.backstores:
        reservations = store.reservations
        if reservations.registrations and store.key not in others:
            who = sorted({registration.initiator for registration in reservations.registrations})
            what = "hold reservations" if reservations.type else "are registered"
            findings.append(Finding(
                errors.InUse, display(store.key),
                f"{', '.join(who[:4])}{' …' if len(who) > 4 else ''} {what}, which this host "
                "alone has unless the target was handed over", "reserved"))
    return findings


def shut(target: Target, reader: Reader) -> bool:
    """Whether it is certain that no initiator can get a command executed."""
    gate = fabrics.gate_of(target.fabric)
    if gate is Gate.ENABLE:
        return all(tpg.attributes.get("enable", "0") == "0" for tpg in target.tpgs)
    return gate is Gate.ENDPOINT and reader.attached(target) is False


def cannot_freeze(state: State, reader: Reader) -> Iterator[Finding]:
    """A vhost target is frozen by its guest being stopped: that can be seen, not done."""
    for target in state.targets:
        gate = fabrics.gate_of(target.fabric)
        if gate is Gate.LOCAL:
            yield Finding(errors.CannotRepresent, target.name,
                          "its initiator is this host, which can't be kept out")
        elif gate is Gate.ENDPOINT and not shut(target, reader):
            yield guest_attached(target)

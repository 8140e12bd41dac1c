"""Portals that this host cannot have now, of targets that are its own: it serves by the others.

After a boot a network device may not be there yet, or a program may have the port.  Such a portal
is left out and told, by the verb and by ``status``; a later ``recover`` makes it.  (An IPv4 or
global IPv6 address that is on no device yet is no such case: LIO binds with IP_FREEBIND,
iscsi_target_login.c:iscsit_setup_np.)
"""
from __future__ import annotations

from dataclasses import replace
from typing import Collection, Iterator, List, Sequence, Set, Tuple

from .. import errors
from ..kernel import portals
from ..model import fabrics
from ..model.keys import display, portal_key
from ..model.objects import Key, State, Tpg
from ..records.journal import Journal
from .context import HandoverContext

#: The verbs by which a host serves what is its own; with others all of it must be there.
OWN = ("thaw", "recover")
#: The verbs that tell of portals whose addresses are not there.
TELL = (*OWN, "verify")


def leave_out(context: HandoverContext, want: State, verb: str, notes: List[str]) -> State:
    """``want`` without the portals that this host cannot have; ``notes`` gets a sentence on each.
    Raises InUse where a TPG has no other portal, or the target is not this host's own."""
    findings = portals.lacking(want, _here(context, want), context.fs)
    left = _without(want, {finding.subject for finding in findings})
    shut = {display(tpg.key) for _path, tpg in _tpgs(context, want) if tpg.portals} - {
        display(tpg.key) for _path, tpg in _tpgs(context, left) if tpg.portals}
    stopping = [finding for finding in findings if verb not in OWN or any(
        finding.subject.startswith(f"{name}/") for name in shut)]
    errors.refuse([errors.Finding(finding.error, finding.subject, finding.sentence, "",
                                  f"mend that, then lio-handover recover {context.journal.id}")
                   for finding in stopping])
    _tell(context, findings, notes)
    return left


def come_back(context: HandoverContext, notes: List[str]) -> None:
    """Make the portals that were left out, as far as this host can have them now."""
    if not context.journal.facts.away:
        return
    want, here = context.durable().state, _here(context, context.durable().state)
    findings = portals.lacking(want, here, context.fs)
    still = {finding.subject for finding in findings}
    missing = [(path, portal) for path, tpg in _tpgs(context, want) for portal in tpg.portals
               if portal.key not in here and display(portal.key) not in still]
    for path, portal in sorted(missing, key=lambda entry: portals.order(entry[1].address)):
        context.fs.mkdir(f"{path}/np/{portal.address}")
        for name, value in portal.attributes.items():
            if value != "0":
                context.fs.write(f"{path}/np/{portal.address}/{name}", f"{value}\n".encode())
    _tell(context, findings, notes)


def without(context: HandoverContext, want: State) -> State:
    """``want`` without what was left out."""
    return _without(want, context.journal.facts.away)


def told(journal: Journal) -> Iterator[str]:
    """The lines by which status tells of portals that were left out."""
    for name in journal.facts.away:
        yield (f"{name}: this host could not have it: left out, and served without it until "
               f"lio-handover recover {journal.id}")


def absent(context: HandoverContext, verb: str) -> List[str]:
    """A line for each portal that the kernel has and whose address is on no device.  No verb waits
    for such an address."""
    mine = [f"{fabric}/{wwn}" for fabric, wwn in context.names()
            if fabrics.of(fabric).portals] if verb in TELL else []
    return [f"{target}: the address of portal {name} is not on this host, so nobody can log in by "
            "it until it is" for target, name in portals.of_targets(context.fs, mine)
            if portals.absent(name)]


def _tell(context: HandoverContext, findings: Sequence[errors.Finding], notes: List[str]) -> None:
    names = tuple(finding.subject for finding in findings)
    if names != context.journal.facts.away:
        context.journal.note("away", portals=list(names))
    notes += [f"{finding.subject}: {finding.sentence}: left out, and served without it until "
              f"lio-handover recover {context.journal.id}" for finding in findings]


def _here(context: HandoverContext, want: State) -> Set[Key]:
    """The portals of these targets that this kernel has."""
    return {portal_key(tpg.key, name) for path, tpg in _tpgs(context, want)
            if context.fs.exists(f"{path}/np") for name in context.fs.names(f"{path}/np")}


def _tpgs(context: HandoverContext, want: State) -> Iterator[Tuple[str, Tpg]]:
    for target in want.targets:
        for tpg in target.tpgs if fabrics.of(target.fabric).portals else ():
            yield context.tpg(target.fabric, target.wwn, tpg.tag), tpg


def _without(want: State, names: Collection[str]) -> State:
    return replace(want, targets=tuple(replace(target, tpgs=tuple(
        replace(tpg, portals=tuple(portal for portal in tpg.portals
                                   if display(portal.key) not in names))
        for tpg in target.tpgs)) for target in want.targets)) if names else want

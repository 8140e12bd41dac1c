"""Portals that this host can't have now, of targets that are its own: it serves by the others.

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
from ..model.keys import portal_key
from ..model.objects import Key, State, Tpg, say
from ..records.journal import Journal
from .context import HandoverContext

#: The verbs by which a host serves what is its own; with others all of it must be there.
OWN = ("thaw", "recover")
#: Those that tell of addresses that are not there.
TELL = (*OWN, "verify")


def leave_out(one: HandoverContext, want: State, verb: str, notes: List[str]) -> State:
    """``want`` without the portals that can't be had, which ``notes`` tells.  Raises InUse where a
    TPG has no other, or the target is not this host's own."""
    found = portals.lacking(want, _here(one, want), one.fs)
    left = _without(want, {finding.subject for finding in found})
    shut = {say(tpg.key) for _path, tpg in _tpgs(one, want) if tpg.portals} - {
        say(tpg.key) for _path, tpg in _tpgs(one, left) if tpg.portals}
    stopping = [finding for finding in found if verb not in OWN or any(
        finding.subject.startswith(f"{name}/") for name in shut)]
    errors.refuse([errors.Finding(finding.error, finding.subject, finding.sentence, "",
                                  f"mend that, then lio-handover recover {one.journal.id}")
                   for finding in stopping])
    _tell(one, found, notes)
    return left


def come_back(one: HandoverContext, notes: List[str]) -> None:
    """Make the portals that were left out, as far as they can be had now."""
    if not one.journal.facts.away:
        return
    want, here = one.durable().state, _here(one, one.durable().state)
    found = portals.lacking(want, here, one.fs)
    still = {finding.subject for finding in found}
    made = [(path, portal) for path, tpg in _tpgs(one, want) for portal in tpg.portals
            if portal.key not in here and say(portal.key) not in still]
    for path, portal in sorted(made, key=lambda each: portals.order(each[1].address)):
        one.fs.mkdir(f"{path}/np/{portal.address}")
        for name, value in portal.attributes.items():
            if value != "0":
                one.fs.write(f"{path}/np/{portal.address}/{name}", f"{value}\n".encode())
    _tell(one, found, notes)


def without(one: HandoverContext, want: State) -> State:
    """``want`` without what was left out."""
    return _without(want, one.journal.facts.away)


def told(journal: Journal) -> Iterator[str]:
    """What status says of them."""
    for name in journal.facts.away:
        yield (f"{name}: this host could not have it: left out, and served without it until "
               f"lio-handover recover {journal.id}")


def absent(one: HandoverContext, verb: str) -> List[str]:
    """What to tell of portals that are there, and their addresses are not: nothing waits for it."""
    mine = set(one.local_targets()) if verb in TELL else set()
    return [f"{target}: the address of portal {name} is not on this host, so nobody can log in by "
            "it until it is" for target, name in (portals.of_host(one.fs) if mine else ())
            if target in mine and portals.absent(name)]


def _tell(one: HandoverContext, found: Sequence[errors.Finding], notes: List[str]) -> None:
    names = tuple(finding.subject for finding in found)
    if names != one.journal.facts.away:
        one.journal.note("away", portals=list(names))
    notes += [f"{finding.subject}: {finding.sentence}: left out, and served without it until "
              f"lio-handover recover {one.journal.id}" for finding in found]


def _here(one: HandoverContext, want: State) -> Set[Key]:
    """The portals of these targets that this kernel has."""
    return {portal_key(tpg.key, name) for path, tpg in _tpgs(one, want)
            if one.fs.exists(f"{path}/np") for name in one.fs.names(f"{path}/np")}


def _tpgs(one: HandoverContext, want: State) -> Iterator[Tuple[str, Tpg]]:
    for target in want.targets:
        for tpg in target.tpgs if fabrics.of(target.fabric).portals else ():
            yield one.tpg(target.fabric, target.wwn, tpg.tag), tpg


def _without(want: State, names: Collection[str]) -> State:
    return replace(want, targets=tuple(replace(target, tpgs=tuple(
        replace(tpg, portals=tuple(portal for portal in tpg.portals
                                   if say(portal.key) not in names))
        for tpg in target.tpgs)) for target in want.targets)) if names else want

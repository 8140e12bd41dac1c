"""A change of what this host serves, from the wish to the kernel and to the next boot.

A wish is a function State → State (manage/).  All of it is done or nothing; it is refused with a
reason where it would take something from somebody.  No more of the host is read than the wish is
about: a target whole, and only those backstores that are changed.
"""
from __future__ import annotations

import os
import syslog
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import (AbstractSet, Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence,
                    Set, Tuple)

from .. import errors
from ..actions.adoption_actions import Adoption
from ..errors import Finding
from ..execute.executor import Outcome
from ..execute.step_runner import Progress, never, nothing
from ..host import managing_findings
from ..host.surroundings import HostSurroundings
from ..kernel.facts import Facts
from ..kernel.reader import Reader
from ..kernel.rereader import PartialReader
from ..manage import as_file as as_files, changes, reach as reaches, wishes
from ..manage.changes import Changed, Request
from ..manage.places import Node
from ..manage.reach import Reach
from ..model.diff import Change, Create, Remove, diff
from ..model.keys import Key, backstore_key, display
from ..model.objects import Backstore, State, Target
from ..plan import edits
from ..plan.plan import Plan
from ..plan.planner import plan
from ..protocol.table import DESTINATION
from ..records import copy_changes
from ..records.journal import Journal
from ..savefile import not_saved, save_file
from ..storage.block_devices import HostSnapshot
from ..system.journald import NOTICE, Log
from ..system.locks import PATIENCE
from .ours import BROUGHT_BACK, Ours

#: Seconds to wait for another lio-handover, as the service looks at targets by itself, too.
WAITS = 10.0
#: A wish: the state as it is → as it shall be.
Wish = Callable[[State, HostSurroundings], Changed]


@dataclass(frozen=True)
class Part:
    """The part of this host that a wish is about.  ``everything``: all of it; ``reach``: what is
    read of its target, None for all."""

    targets: Tuple[str, ...] = ()
    stores: Tuple[Key, ...] = ()
    lu_groups: bool = False
    discovery: bool = False
    everything: bool = False
    reach: Optional[Reach] = None
    #: targets that export the backstores
    exporters: Tuple[str, ...] = ()

    @property
    def locks(self) -> List[str]:
        """The names to lock; none, and so the host, where everything is meant, or what is of the
        whole host."""
        if self.everything or self.lu_groups or self.discovery:
            return []
        return [*self.targets, *self.exporters, *map(display, self.stores)]


@dataclass(frozen=True)
class Order:
    """How a wish is to be carried out.  ``who``: for the log; ``what``: the verb and its object;
    ``keep``: whether all that is changed is kept for the next boot, or, as targetcli's users have
    it, only what lio-handover keeps already: all else once it is saved."""

    who: str = ""
    what: str = ""
    allow: Sequence[str] = ()
    dry_run: bool = False
    progress: Optional[Progress] = None
    stop: Callable[[], bool] = never
    begin: Callable[[], None] = nothing
    #: raises where the caller may not touch these targets and backstores
    may: Callable[[State], None] = lambda state: None
    keep: bool = True


@dataclass(frozen=True)
class Done:
    """The changes that were made, or with ``dry_run`` would be."""

    targets: Tuple[str, ...] = ()
    about: str = ""
    changes: Tuple[Change, ...] = ()
    plan: Plan = field(default_factory=Plan)
    outcome: Outcome = field(default_factory=Outcome)
    findings: Tuple[Finding, ...] = ()
    notes: Tuple[str, ...] = ()


# ---- one object -------------------------------------------------------------------------------
def change(host: Ours, request: Request, order: Order) -> Done:
    """Create, set or delete one object.  Raises what changes.apply raises, and a Refusal."""
    place = changes.needs(request)
    part = part_of(host, place, request)
    if request.verb != changes.CREATE or place.has == "alua_group":
        part = with_exporters(host, part)
    return carry_out(host, part, lambda state, surroundings:
                     changes.apply(state, request, surroundings), order)


def with_exporters(host: Ours, part: Part) -> Part:
    """The part, with the targets that export its backstores, whose copies change, to be locked."""
    if part.reach is not None or not part.stores or not part.locks or not host.fs.exists("core"):
        return part
    return replace(part, exporters=tuple(sorted(exporting(host._plain_reader(),
                                                          {*part.stores}))))


def part_of(host: Ours, place: Node, request: Request) -> Part:
    """The part of the host that a request is about."""
    if place.has == "lu_group" or place.kind == "lu_group":
        name = {**dict(zip(("name",), request.words)), **request.values}.get("name", "")
        return Part(lu_groups=True, stores=_members(host, place.key[1] if place.key else name))
    if place.has == "backstore":
        name = {**dict(zip(("name",), request.words)), **request.values}.get("name", "")
        key = backstore_key(place.plugin.partition(":")[0], name)
        return Part(stores=(key,) if name and "/" not in name else ())
    if changes.about_discovery(place, request):
        return Part(discovery=True)
    key = place.key or place.above
    if key[:1] == ("backstore",):
        return Part(stores=(key[:3],), lu_groups="alua_lu_gp" in request.values
                    or "lu_group" in request.values)
    if key[:1] == ("target",):
        return Part((f"{key[1]}/{key[2]}",), _of_lun(host, place),
                    reach=None if host.settings.limited else reaches.of(place, request))
    wwn = {**dict(zip(("wwn",), request.words)), **request.values}.get("wwn", "")
    return Part((f"{place.plugin}/{wwn}",) if wwn and "/" not in wwn else ())


def _members(host: Ours, name: str) -> Tuple[Key, ...]:
    """The backstores of an LU group that is named."""
    path = f"core/alua/lu_gps/{name}/members"
    if not name or "/" in name or not host.fs.exists(path):
        return ()
    at = {(hba, key[2].rpartition("/")[2]): key for key, hba in
          Reader(host.fs).placed().items()}
    lines = (line.strip("\0\n ") for line in host.fs.read(path).splitlines())
    keys = (at.get(tuple(line.split("/", 1))) for line in lines if "/" in line)  # type: ignore
    return tuple(key for key in keys if key is not None)


def _of_lun(host: Ours, place: Node) -> Tuple[Key, ...]:
    """The backstore of the LUN whose group is set."""
    if place.kind != "lun":
        return ()
    path = f"{place.key[1]}/{place.key[2]}/tpgt_{place.key[3]}/lun/lun_{place.key[-1]}"
    link = host.fs.link_in(path) if host.fs.exists(path) else None
    return (Reader(host.fs)._key(link[1]),) if link else ()


# ---- a file -------------------------------------------------------------------------------------
def apply(host: Ours, tree: Mapping[str, Any], prune: bool, secret: wishes.ReadSecret,
          order: Order) -> Done:
    """Have the host serve what a file says; with ``prune`` nothing else.  Raises a DocumentError
    where the file is wrong, and a Refusal."""
    targets, stores = wishes.about(tree)
    grouped = any("lu_group" in (entry or {}) for entry in (tree.get("backstores") or {}).values())
    part = Part(targets, stores, grouped or "lu_groups" in tree, "discovery_auth" in tree, prune)
    return carry_out(host, with_exporters(host, part), lambda state, surroundings: wishes.wish(
        state, tree, surroundings, prune, secret), order)


def as_file(host: Ours, targets: Sequence[str] = ()) -> str:
    """The file that wishes for what the host serves, or for these targets."""
    reader = host._plain_reader()
    state = reader.state(host.names(targets) if targets else None,
                         discovery=not targets and host.fs.exists("iscsi/discovery_auth"))
    return as_files.text(as_files.tree(state))


# ---- any wish -----------------------------------------------------------------------------------
def carry_out(host: Ours, part: Part, wish: Wish, order: Order) -> Done:
    """Carry a wish out, or leave the host as it was."""
    with nullcontext() if order.dry_run else host.alone(more=part.locks, patience=WAITS):
        mended = [] if order.dry_run else _mend(host, part.targets)
        reader, snapshot = host._plain_reader(), HostSnapshot()
        facts = reader.facts()
        have = _read(host, reader, part, facts)
        order.may(have)
        changed = wish(have, HostSurroundings(host.settings, snapshot, host.fs))
        if not facts.has_rtpi and any("rtpi" in tpg.attributes for target in changed.state.targets
                                      for tpg in target.tpgs):
            raise errors.CannotRepresent("this kernel gives relative ports by the order of links, "
                                         "and nobody can choose them", do="leave rtpi out")
        want = changed.state
        differing = diff(have, want, partial=True)
        if not differing:
            return Done(_names(want), changed.about, notes=(*mended, *changed.told))
        if part.reach is not None:
            have, want, differing = _narrowed(host, reader, part, facts, have, want)
        order.may(want)
        affected = _affected(reader, differing)
        if not order.dry_run and part.locks and not affected <= {*part.locks}:
            raise errors.StillRunning("a target began to export it meanwhile", do="try it again")
        findings = [*_handed_over(host, affected, differing),
                    *managing_findings.against(have, want, differing, changed.allocate, reader,
                                               host.settings, snapshot)]

        def make(facts: Facts, trusting: bool) -> Plan:
            the_plan = plan(have, want, facts, partial=True, trusting=trusting, live=True,
                            allocate=changed.allocate)
            return replace(the_plan, looked=snapshot.looked)

        # A change that can't be done, as a backstore is missing, can't be planned either.
        first = Plan() if any(not finding.override for finding in findings) else make(facts, True)
        findings += first.refused
        done = Done(_names(want), changed.about, differing, first, findings=tuple(findings),
                    notes=changed.told)
        if order.dry_run:
            return done
        errors.refuse(findings, order.allow)
        order.begin()
        gone = [change.object for change in differing if isinstance(change, Remove)]
        copy_changes.begin(affected, order.keep)
        try:
            with _leaving(host, gone, order.allow, order.keep) as notes:
                the_plan, outcome = host.run(make, have, facts, order.progress, order.stop,
                                             reservations=False)
        except BaseException:
            copy_changes.end(affected)  # it was taken back, or the error says what was not
            raise
        _log(order, done)
        kept = _keep_for_boot(host, affected, differing, want, order.keep)
        copy_changes.end(affected)
    return replace(done, plan=the_plan, outcome=outcome, notes=(
        *mended, *changed.told, *notes, *outcome.notes, *kept))


def _names(state: State) -> Tuple[str, ...]:
    return tuple(target.name for target in state.targets)


def _narrowed(host: Ours, reader: Reader, part: Part, facts: Facts, have: State, want: State) \
        -> Tuple[State, State, Tuple[Change, ...]]:
    """(have, want, changes) of what is changed alone; what goes is read whole, so that it can be
    made again."""
    assert part.reach is not None
    changing = diff(have, want, partial=True)
    touched = {change.key for change in changing}
    gone = {change.key for change in changing if isinstance(change, Remove)}
    if gone:
        have = _read(host, reader, replace(part, reach=part.reach.and_whole(gone)), facts)
    touched |= reaches.mapped_by(have, touched) | reaches.mapped_by(want, touched)
    have, want = reaches.trimmed(have, touched), reaches.trimmed(want, touched)
    return have, want, diff(have, want, partial=True)


def _read(host: Ours, reader: Reader, part: Part, facts: Facts) -> State:
    """The part of the host as it is, without registrations."""
    if part.reach is not None:
        reader = PartialReader(host.fs, part.reach)
    if part.everything:
        state = reader.state(discovery=host.fs.exists("iscsi/discovery_auth"))
    else:
        there = [name for name in reader.target_names() if "/".join(name) in part.targets]
        state = reader.state(there, part.stores, part.discovery, linked=False)
        names = host.fs.names("core/alua/lu_gps") if part.lu_groups and host.fs.exists(
            "core/alua/lu_gps") else ()
        groups = {group.name for group in state.lu_groups} | {*names} - {"default_lu_gp"}
        state = replace(state, lu_groups=reader.lu_groups(sorted(groups)))
    return state if facts.has_rtpi else edits.without_ports(state)


def _handed_over(host: Ours, affected: Set[str], differing: Sequence[Change]) -> List[Finding]:
    """Findings on targets that are in a handover, or that this host has handed over."""
    under_way = [Finding(finding.error, finding.subject, finding.sentence + ": the handover alone "
                         "changes it", do=finding.do)
                 for finding in host._under_way(sorted(affected))]
    new = _new_targets(differing)
    return [*under_way, *(host._handed_over(new) if new else ())]


def _new_targets(differing: Sequence[Change]) -> List[str]:
    return [change.object.name for change in differing
            if isinstance(change, Create) and isinstance(change.object, Target)]


def _affected(reader: Reader, differing: Sequence[Change]) -> Set[str]:
    """The targets that are changed, or that export a backstore that is."""
    new = {change.key for change in differing if isinstance(change, Create)}
    keys = {change.key for change in differing}
    return {f"{key[1]}/{key[2]}" for key in keys if key[0] == "target"} | exporting(
        reader, {key[:3] for key in keys if key[0] == "backstore"} - new)


def exporting(reader: Reader, stores: AbstractSet[Key]) -> Set[str]:
    """The targets that export one of these backstores."""
    return {"/".join(path.split("/")[:2]) for paths in (
        reader.exporters(stores) if stores else {}).values() for path in paths}


@contextmanager
def _leaving(host: Ours, gone: Sequence[object], allow: Sequence[str],
             everywhere: bool) -> Iterator[List[str]]:
    """lio-handover brings back no targets and backstores that are removed, and ``everywhere``
    nobody does: they leave targetcli's save file."""
    targets = [obj.name for obj in gone if isinstance(obj, Target)]
    stores = [display(obj.key) for obj in gone if isinstance(obj, Backstore)]
    if not targets and not stores:
        yield []
        return
    with ExitStack() as stack:
        stack.enter_context(host._no_handovers(targets))
        yield stack.enter_context(save_file.removing(
            targets, stores, host.settings.state_directory, allow, host.settings.savefiles)) \
            if everywhere else []


def _log(order: Order, done: Done) -> None:
    """Tell the system's log who has changed what; no value, which may be a secret."""
    syslog.openlog("lio-handover")
    counts = ", ".join(f"{what} {display(change.key)}" for change in done.changes[:8]
                       for what in [type(change).__name__.lower()])
    more = f" and {len(done.changes) - 8} more" if len(done.changes) > 8 else ""
    Log(program="lio-handover", otherwise=syslog.syslog).say(
        f"{order.who or 'somebody'}: {order.what}: {counts}{more}", NOTICE,
        target=" ".join(done.targets))


# ---- the next boot ------------------------------------------------------------------------------
def _keep_for_boot(host: Ours, names: Set[str], differing: Sequence[Change], want: State,
                   everything: bool = True, whole: AbstractSet[str] = frozenset()) -> List[str]:
    """See that a boot brings the targets back as they are now, all of them or those that
    lio-handover keeps already; what there is to tell.  ``whole``: those whose copy is kept anew.

    A target of targetcli's save file is saved there; one of lio-handover's, and a new one, is kept
    by lio-handover.  Raises nothing: what was changed stays so.
    """
    here = sorted(name for name in names if host.fs.exists(name))
    new = {*_new_targets(differing), *whole}
    notes: List[str] = []
    try:
        counting = host.counting() if here else {}
        saved: Dict[str, str] = {entry.target: entry.path for entry in save_file.entries(
            here, host.settings.savefiles)} if here else {}
    except errors.HandoverError as error:
        return [f"whether a boot brings it back as it is now can't be told: {error.what}"]
    mine = [name for name in here if name in counting and (
        counting[name].role, counting[name].state) == (DESTINATION, "confirmed")]
    adopting = [*mine, *(name for name in here if everything and name in new and name not in saved
                         and name not in mine)]
    changed = {change.key for change in differing}
    added = {handover for handover in {counting[name].id for name in mine}
             if not whole and _added(host, handover, changed, want)}
    kept = {name for name in mine if counting[name].id in added}
    rest = [name for name in adopting if name not in kept]
    for group in host._groups(rest) if rest else ():
        notes += _adopt(host, group)
    for name in here if everything else ():
        if name in adopting:
            continue
        if name in saved:
            notes += _save(host, name, saved[name])
        elif name not in counting or counting[name].state not in BROUGHT_BACK[
                counting[name].role]:
            notes.append(f"{name}: no boot brings it back; next: lio-handover adopt {name}, or "
                         "targetcli saveconfig")
    return notes


def _mend(host: Ours, names: Sequence[str]) -> List[str]:
    """Keep for the next boot what a change made that ended before it did; what there is to tell."""
    notes: List[str] = []
    for name, new in copy_changes.cut_off(names).items():
        if host.fs.exists(name):
            notes += [f"{name}: a change of it was cut off before it was kept for the next boot: "
                      "it is kept now as it is",
                      *_keep_for_boot(host, {name}, (), State(), new, {name})]
        copy_changes.end([name])
    return notes


def _added(host: Ours, handover: str, changed: AbstractSet[Key], want: State) -> bool:
    """Whether a change could be added to the copy of targets; else that has to be kept anew."""
    try:
        with host.locks.hold(f"handover/{handover}", patience=PATIENCE):
            return Adoption(host, Journal(host.settings.state_directory, handover)).keep_changes(
                changed, want)
    except (errors.HandoverError, OSError):
        return False  # the other way says what is wrong


def _adopt(host: Ours, names: Sequence[str]) -> List[str]:
    pairs = [(fabric, wwn) for name in names for fabric, _, wwn in [name.partition("/")]]
    try:
        host.adopt(pairs)
        return [*host.notes]
    except errors.HandoverError as error:
        return [f"{', '.join(names)}: it serves, and no boot brings it back as it is now: "
                f"{error.what}; next: lio-handover adopt {' '.join(names)}"]


def _save(host: Ours, name: str, path: str) -> List[str]:
    """Save a target where targetcli has it."""
    fabric, _, wwn = name.partition("/")
    try:
        with host.alone(more=[name]):
            reader = host._plain_reader()
            state = reader.state([(fabric, wwn)], (), False)
            save_file.put(state, reader.dbroot(), host.settings.state_directory,
                          (path, *host.settings.savefiles))
    except (errors.HandoverError, OSError) as error:
        return [f"{name}: {path} does not have it as it is now: "
                f"{getattr(error, 'what', error)}; next: targetcli saveconfig"]
    lost = not_saved.lost(state)
    return [f"{name}: targetcli restores it at a boot, and {path} has it as it is now"
            + (f", but for {lost[0][0]}: {lost[0][1]}; next: lio-handover adopt {name}"
               if lost else "")]


def user() -> str:
    """The user who runs this process, for the log."""
    behind = os.environ.get("SUDO_USER", "")
    return f"user {os.getuid()}" + (f" (by sudo: {behind})" if behind.isprintable()
                                    and behind else "")

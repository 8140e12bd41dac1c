"""The state of this host in little time: names, gates and journals, and nothing that grows with
LUNs; the names of backstores and ACLs are listed apart, see `listing`.

Each journal is read once.
"""
from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, Dict, Iterator, List, Mapping, Optional

from .. import errors
from ..host.verbs import frozen_in
from ..kernel import placement
from ..model import directories, fabrics
from ..model.fabrics import Gate
from ..model.keys import display
from ..protocol.table import STATES
from ..records.journal import Handover, Journal, ids
from . import tree_watches
from .ours import BROUGHT_BACK, LIO_HANDOVER, TARGETCLI, Ours, counting_in

#: This folder exists while the kernel may have targets, whether or not they can be seen.
LOADED = "/sys/module/target_core_mod"


def survey(core: Ours, had: bool = False, listed: Optional[Mapping[str, Any]] = None) \
        -> Dict[str, Any]:
    """``{"targets": [{"name", "enabled", "frozen", "restored_by"}], "handovers": [{…}],
    "backstores": [name], "acls": [[target, tag, initiator]]}``.

    ``had``: there were targets before; ``listed``: the `listing`, where it is known.  Raises
    NoTargetModules where there may be some still, and JournalBroken where it is not known of a
    handover whether one of the targets is its.
    """
    there, mount = core.fs.exists("core"), os.path.dirname(core.fs.root)
    if not there and (had or os.path.isdir(LOADED)) \
            and os.path.isdir(mount) and not os.path.ismount(mount):
        raise errors.NoTargetModules("configfs is not mounted",
                                     do="mount -t configfs none /sys/kernel/config")
    names = [f"{fabric}/{wwn}" for fabric, wwn in core.names((), True)] if there else []
    journals: List[Journal] = []
    handovers: List[Dict[str, Any]] = []
    for handover in ids(core.settings.state_directory):
        try:
            journal: Optional[Journal] = Journal(core.settings.state_directory, handover,
                                                 tolerate_damage=True)
        except errors.HandoverError as error:
            if names:
                raise
            journal = None
            handovers.append(_shown(Handover(handover, "", "", 0, "", (),
                                             error=f"{type(error).__name__}: {error.what}")))
        if journal is not None:
            journals.append(journal)
            handovers.append(_shown(journal.handover, journal.facts.meddled))
    frozen = frozen_in(journals)
    counting = counting_in(core.settings.state_directory, journals) if journals and names else {}
    ours = {name for name, handover in counting.items()
            if handover.state in BROUGHT_BACK[handover.role]}
    return {"targets": [_target(core, name, name in frozen, name in ours) for name in names],
            "handovers": handovers, **(listing(core) if listed is None else listed)}


def listing(core: Ours) -> Dict[str, Any]:
    """``{"backstores": [name], "acls": [[target, tag, initiator]]}``: true for as long as nothing
    comes or goes in `folders`.  It reads each HBA, of which a fileio backstore may have its own."""
    there = core.fs.exists("core")
    names = [f"{fabric}/{wwn}" for fabric, wwn in core.names((), True)] if there else []
    return {"acls": [acl for name in names for acl in _acls(core, name)],
            "backstores": sorted(display(key) for key in placement.find(core.fs).placed)
            if there else []}


def _acls(core: Ours, name: str) -> Iterator[List[Any]]:
    fabric = name.partition("/")[0]
    for tpg in core.fs.entries(name)[1]:
        tag = directories.tag(fabric, tpg) if directories.is_tpg(tpg) else -1
        if tag >= 0 and core.fs.exists(f"{name}/{tpg}/acls"):
            for initiator in core.fs.names(f"{name}/{tpg}/acls"):
                yield [name, tag, initiator]


def folders(core: Ours) -> List[str]:
    """Where backstores, targets, TPGs and ACLs come and go: full paths.  There may be more than
    `tree_watches.MOST`."""
    paths = [*tree_watches.roots(core.fs.root), core.fs.path("core")]
    if not core.fs.exists("core"):
        return paths
    paths += [core.fs.path(f"core/{hba}") for hba in placement.hbas(core.fs)]
    for fabric, wwn in core.names((), True):
        paths.append(core.fs.path(f"{fabric}/{wwn}"))
        paths += [core.fs.path(f"{fabric}/{wwn}/{tpg}/acls")
                  for tpg in core.fs.entries(f"{fabric}/{wwn}")[1] if directories.is_tpg(tpg)]
    return paths


def of_handover(core: Ours, name: str) -> Dict[str, Any]:
    """How a handover and its targets stand: ``{"handover": {…}, "targets": {name: {…} or None}}``,
    as `survey` has them; None for a target that is not here.  Raises as `survey` does."""
    journal = Journal(core.settings.state_directory, name, tolerate_damage=True)
    frozen = frozen_in([journal])
    return {"handover": _shown(journal.handover, journal.facts.meddled), "targets": {
        target: _target(core, target, target in frozen, core.restored_by(target) is not None)
        if core.fs.exists(target) else None
        for target in {*journal.handover.targets, *journal.facts.local}}}


def _target(core: Ours, name: str, frozen: bool, ours: bool) -> Dict[str, Any]:
    return {"name": name, "enabled": _enabled(core, name), "frozen": frozen,
            "restored_by": LIO_HANDOVER if ours else TARGETCLI}


def _shown(handover: Handover, meddled: str = "") -> Dict[str, Any]:
    """A handover as its journal has it; what is wrong with it in ``error``."""
    state = STATES.get(handover.role, {}).get(handover.state)
    return {**asdict(handover), "means": state.description if state else "",
            "error": handover.error or meddled}


def _enabled(core: Ours, name: str) -> bool:
    if fabrics.gate_of(name.partition("/")[0]) is not Gate.ENABLE:
        return True
    return any(core.fs.read(f"{name}/{tpg}/enable").strip() == "1"
               for tpg in core.fs.entries(name)[1] if directories.is_tpg(tpg))

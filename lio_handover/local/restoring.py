"""Brings a target back that lio-handover restores, and waits for what of it is missing.

One target, as its unit does: whole, with its registrations, shut until all of it is there.  A
device, file or module that is missing is waited for by events (system/arrivals.py), and named.
"""
from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Callable, List, Optional, Sequence

from .. import errors
from ..actions.context import HandoverContext
from ..execute.step_runner import never
from ..handover import next_steps
from ..handover.engine import HandoverEngine
from ..handover.reply import Peer, Reply
from ..kernel import placement
from ..kernel.facts import boot_id
from ..model import fabrics, plugins
from ..records.journal import Journal
from ..savefile.places import FOLDERS
from ..storage import device_limits
from ..system import supervisor
from ..system.arrivals import Arrivals
from .ours import OFTEN, Ours, patiently

#: The unit of one target.
UNIT = "lio-handover-target@.service"

#: Seconds in which what comes soon after each other is looked at once.
_TOGETHER = 2.0

Tell = Callable[[str], None]


def unit_of(core: Ours, target: str) -> str:
    """The unit of a target: called after it, or, where systemd takes no name as long, after the
    handover that counts."""
    try:
        return supervisor.unit(UNIT, target)
    except ValueError:
        return supervisor.unit(UNIT, core.counting()[target].id)


def start_units(core: Ours, targets: Sequence[str]) -> str:
    """Have the units of these targets started, where they are installed; what failed, in one
    line, or ""."""
    if not targets or not supervisor.running() or not any(
            os.path.exists(f"{folder}/{UNIT}") for folder in FOLDERS):
        return ""
    return supervisor.start(sorted({unit_of(core, name) for name in targets}))


def restore(core: Ours, name: str, tell: Tell, peer: Optional[Peer] = None, wait: bool = False,
            stop: Callable[[], bool] = never) -> bool:
    """Bring a target back, or see that it is there; False where lio-handover does not restore it.

    ``wait``: for storage and modules that are missing, however long that takes; ``tell`` is told
    what is waited for.  ``stop``: told so, nothing of it is left here (under a unit, which is being
    stopped, also of what is open by then).  Raises StorageMissing, ModuleMissing otherwise,
    Undecided where it has to stay shut, Interrupted, and what recover raises.
    """
    try:
        served = _restored(core, name, tell, peer, wait, stop)
    except errors.HandoverError as error:
        if not stop() or not wait and not isinstance(error, errors.Interrupted):
            raise
    else:
        if not wait or not stop():
            return served
    for note in core.clear(name):
        tell(note)
    raise errors.Interrupted(
        f"{name}: told to stop while it was restored",
        changed="lio-handover show has what is left of it" if core.fs.exists(name)
        else "it was taken down again", do=next_steps.restore([name]))


def _restored(core: Ours, name: str, tell: Tell, peer: Optional[Peer], wait: bool,
              stop: Callable[[], bool]) -> bool:
    """The same, but for what a stop leaves."""
    handover = core.restored_by(name)
    if handover is None:
        return False
    said = ""

    def attempt() -> Reply:
        with placement.once(core.fs):
            return _once(core, name, peer, stop)

    with ExitStack() as opened:
        arrivals: Optional[Arrivals] = None
        while True:
            try:
                for note in patiently(attempt, stop).notes:
                    tell(note)
                supervisor.notify(READY=1, STATUS=f"{name} is served")
                return True
            except (errors.StorageMissing, errors.ModuleMissing) as error:
                if not wait:
                    raise
                if arrivals is None:  # what comes from now on is heard of: look once more
                    arrivals = opened.enter_context(Arrivals(_paths(core, handover.id)))
                    continue
                if error.what != said:
                    said = error.what
                    tell(f"{name} is shut, and waits: {said}")
                supervisor.notify(READY=1, STATUS=f"{name} is shut, and waits: {said}")
            if not stop():
                arrivals.wait()
            together = time.monotonic() + _TOGETHER
            while time.monotonic() < together and not stop() and arrivals.wait(OFTEN):
                pass  # one device is told of several times, and seldom comes alone
            if stop():
                raise errors.Interrupted(f"{name}: interrupted while it waited: {said}")


def _once(core: Ours, name: str, peer: Optional[Peer], stop: Callable[[], bool]) -> Reply:
    handover = core.restored_by(name)
    if handover is None:
        raise errors.WrongState(f"{name} is not lio-handover's to restore any more",
                                do="lio-handover status")
    context = HandoverContext(core, Journal(core.settings.state_directory, handover.id))
    if handover.state != "confirmed" and handover.boot_id == boot_id() and context.whole():
        return Reply(handover)  # its verbs go on
    _modules(context)
    answer, = HandoverEngine(core, peer).recover(handover.id, restart=True, stop=stop)
    if answer.undecided:
        why = answer.notes[0] if answer.notes else "nobody knows whether this host may serve it"
        raise errors.Undecided(f"{name} stays shut: {why}", do=answer.next)
    there = HandoverContext(core, Journal(core.settings.state_directory, handover.id))
    if name not in there.local_targets() or there.handover.state in ("opening", "serving",
                                                                     "confirmed", "forced") \
            and (not there.whole() or set(there.wanted_open()) - set(there.open_tpgs())):
        raise errors.VerifyFailed(f"{name} is not served as its copy has it",
                                  do=f"lio-handover status {handover.id}")
    return answer


def _modules(context: HandoverContext) -> None:
    """Raises ModuleMissing where this kernel has no module for a backstore or a fabric."""
    state = context.durable().state
    wanted = {*(plugins.of(store.plugin).module for store in state.backstores),
              *(fabrics.of(target.fabric).module for target in state.targets)} - {""}
    missing = [module for module in sorted(wanted) if not device_limits.available(module)]
    if missing:
        raise errors.ModuleMissing(f"this kernel has no module {', '.join(missing)}",
                                   do=f"install it, or boot a kernel that has it; then modprobe "
                                      f"{missing[0]}")


def _paths(core: Ours, handover: str) -> List[str]:
    """Where the storage of a handover's targets is."""
    context = HandoverContext(core, Journal(core.settings.state_directory, handover))
    return [store.path for store in context.durable().state.backstores if store.path]

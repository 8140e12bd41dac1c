"""Commands of the units of targets that lio-handover restores at a boot: clear, restore."""
from __future__ import annotations

import argparse
import os
import signal
from typing import Callable, List, Mapping

from .. import errors
from ..client import asking
from ..local import restoring
from ..local.ours import Ours
from ..protocol.messages import is_id
from ..system import supervisor
from .output import PROG, say
from .session import Signals, Usage, open_host, require_root


# --- commands of a target's unit -----------------------------------------------------------------
def clear(args: argparse.Namespace, signals: Signals) -> int:
    """Clear targets.  As a unit's ExecStop this first ends the unit's restore, which might open the
    gate again (systemd.service(5): $MAINPID gets its SIGTERM only after ExecStop)."""
    require_root("clear")
    host = open_host(args)
    restorer = os.environ.get("MAINPID", "")
    if restorer.isdigit():
        try:
            os.kill(int(restorer), signal.SIGTERM)
        except ProcessLookupError:
            pass
    signals.deferred = True
    notes: List[str] = []
    for name in _targets_of_units(args, host):
        notes += host.clear(name)
    for note in notes:
        say(note)
    return errors.SAME


def restore(args: argparse.Namespace, signals: Signals) -> int:
    """Restore targets; in a unit, wait for missing storage."""
    require_root("restore")
    host = open_host(args)
    signals.deferred = True
    for name in _targets_of_units(args, host):
        try:
            served = restoring.restore(host, name, say, asking.asker(host.settings),
                                       "NOTIFY_SOCKET" in os.environ, signals.stop)
        except errors.HandoverError as error:
            supervisor.notify(STATUS=error.what)
            raise
        said = f"{name} is served"
        if not served:  # exported, say, before its unit, which a freeze starts, came so far
            said = f"{name}: lio-handover does not restore it: see {PROG} status"
            supervisor.notify(READY=1, STATUS=said)
        say(said)
    return errors.SAME


def _targets_of_units(args: argparse.Namespace, host: Ours) -> List[str]:
    """The named targets; a handover's id stands for its targets, as a unit may have its name.

    Raises Usage.
    """
    names: List[str] = []
    for word in args.targets:
        name = word.strip("/")
        names += host.local_names(host.handovers().known(name)) if is_id(name) else [name]
    if not names or any("/" not in name for name in names):
        raise Usage("name targets: FABRIC/WWN")
    return names


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {
    "clear": clear, "restore": restore}

"""Commands of what lio-handover restores at a boot: adopt, giveback, clear, restore."""
from __future__ import annotations

import argparse
import os
import signal
from typing import Any, Callable, Dict, List, Mapping

from .. import errors
from ..client import ssh
from ..local import restoring
from ..local.ours import Ours, changed
from ..protocol.messages import is_id
from ..system import supervisor
from .output import PROG, credit, print_data, say, say_done, say_notes
from .session import (Signals, Usage, ask_service, chosen_targets, find_service, open_host,
                      require_root)


# --- who restores a target -----------------------------------------------------------------------
def adopt(args: argparse.Namespace, signals: Signals) -> int:
    return _change_restorer(args, signals, "Adopt", "adopted {}: lio-handover restores it at a "
                            "boot, whole, and targetcli does not; it was served all the time")


def giveback(args: argparse.Namespace, signals: Signals) -> int:
    return _change_restorer(args, signals, "Giveback",
                            "gave {} back: targetcli restores it at a boot")


def _change_restorer(args: argparse.Namespace, signals: Signals, member: str, text: str) -> int:
    service = find_service(args)
    try:
        answer: Mapping[str, Any] = ask_service(service, member, args, signals)[0] if service \
            else _change_here(args, signals, member.lower())
    except errors.HandoverError as error:  # whose line has the first of them
        say_notes(args, [f"{finding.subject}: {finding.sentence}" for finding in error.findings])
        raise
    if args.json:
        print_data(answer)
    say_notes(args, answer["notes"])
    say_done(args, text.format(", ".join(answer["targets"])) + credit(answer), f"{PROG} status")
    return errors.SAME


def _change_here(args: argparse.Namespace, signals: Signals, verb: str) -> Dict[str, Any]:
    require_root(verb)
    host = open_host(args)
    wanted = host.names(chosen_targets(args), args.all)
    signals.deferred = True
    return changed(host, verb, wanted, args.allow)


# --- what a target's unit does -------------------------------------------------------------------
def clear(args: argparse.Namespace, signals: Signals) -> int:
    """As a unit's ExecStop: what still restores there is told first, or it might open what was
    cleared (systemd.service(5): $MAINPID; the unit's processes get their SIGTERM afterwards)."""
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
    """Under a unit this waits for storage that is missing."""
    require_root("restore")
    host = open_host(args)
    signals.deferred = True
    for name in _targets_of_units(args, host):
        try:
            served = restoring.restore(host, name, say, ssh.ask, "NOTIFY_SOCKET" in os.environ,
                                       signals.stop)
        except errors.HandoverError as error:
            supervisor.notify(STATUS=error.what)
            raise
        say(f"{name}: " + ("is served" if served else
                           f"lio-handover does not restore it: see {PROG} status"))
    return errors.SAME


def _targets_of_units(args: argparse.Namespace, host: Ours) -> List[str]:
    """The targets named; a handover stands for its own, where a unit is called after it.

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
    "adopt": adopt, "giveback": giveback, "clear": clear, "restore": restore}

"""The command line's verbs of what lio-handover restores: adopt, giveback, clear, restore."""
from __future__ import annotations

import argparse
import os
from typing import Any, Callable, Dict, List, Mapping

from . import errors, remote, restoring, supervisor
from .cli import PROG, say
from .ours import Ours, changed
from .papers import is_id
from .verbs import (Signals, Usage, as_root, ask_service, by_whom, print_data, say_done,
                    say_notes, target_names, the_core, the_service)


def adopt(args: argparse.Namespace, signals: Signals) -> int:
    return _whose(args, signals, "Adopt", "adopted {}: lio-handover restores it at a boot, whole, "
                  "and targetcli does not; it was served all the time")


def giveback(args: argparse.Namespace, signals: Signals) -> int:
    return _whose(args, signals, "Giveback", "gave {} back: targetcli restores it at a boot")


def _whose(args: argparse.Namespace, signals: Signals, member: str, text: str) -> int:
    service = the_service(args)
    came: Mapping[str, Any] = ask_service(service, member, args, signals)[0] if service else \
        _alone(args, signals, member.lower())
    if args.json:
        print_data(came)
    say_notes(args, came["notes"])
    say_done(args, text.format(", ".join(came["targets"])) + by_whom(came), f"{PROG} status")
    return errors.SAME


def _alone(args: argparse.Namespace, signals: Signals, verb: str) -> Dict[str, Any]:
    as_root(verb)
    core = the_core(args)
    found = core.names(target_names(args), args.all)
    signals.deferred = True
    return changed(core, verb, found, args.allow)


def clear(args: argparse.Namespace, signals: Signals) -> int:
    as_root("clear")
    core = the_core(args)
    signals.deferred = True
    told: List[str] = []
    for name in _of_units(args, core):
        told += core.clear(name)
    for note in told:
        say(f"{PROG}: {note}")
    return errors.SAME


def restore(args: argparse.Namespace, signals: Signals) -> int:
    """Under a unit this waits for storage that is missing."""
    as_root("restore")
    core = the_core(args)
    signals.deferred = True
    for name in _of_units(args, core):
        try:
            there = restoring.restore(core, name, lambda text: say(f"{PROG}: {text}"), remote.ask,
                                      "NOTIFY_SOCKET" in os.environ, signals.stop)
        except errors.HandoverError as error:
            supervisor.notify(STATUS=error.what)
            raise
        say(f"{PROG}: {name}: " + ("is served" if there else
                                   f"lio-handover does not restore it: see {PROG} status"))
    return errors.SAME


def _of_units(args: argparse.Namespace, core: Ours) -> List[str]:
    """The targets named; a handover stands for its own, where a unit is called after it."""
    found: List[str] = []
    for word in args.targets:
        name = word.strip("/")
        found += core.local_names(core.handovers().known(name)) if is_id(name) else [name]
    if not found or any("/" not in name for name in found):
        raise Usage("name targets: FABRIC/WWN")
    return found


RUN: Mapping[str, Callable[[argparse.Namespace, Signals], int]] = {
    "adopt": adopt, "giveback": giveback, "clear": clear, "restore": restore}

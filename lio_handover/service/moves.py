"""The work of a job of ``Move``: the driver that `lio-handover move` runs, in a worker of root's.

Its verbs are jobs of this host's service and of the other host's, both of root; so whatever the
caller may not, the service and this module refuse before.
"""
from __future__ import annotations

import os
import socket
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

from .. import dbus_names, errors
from ..client import ssh
from ..configuration import PATH
from ..drivers import moves
from ..settings import Settings
from ..views import json_view

#: Called with a line for the service, see worker.py.
Say = Callable[[Mapping[str, Any]], None]
#: QEMU's answer to `query-migrate`: (member, a member of that or "") → name in Details.
_FACTS = {("ram", "remaining"): "remaining", ("ram", "total"): "total",
          ("expected-downtime", ""): "expected_downtime"}


def carry_out(asked: Mapping[str, Any], settings: Settings, descriptors: Sequence[int], say: Say,
              stop: Callable[[], bool]) -> Dict[str, Any]:
    """Move what a request asks for; what the job's Result has.

    ``descriptors``: of the options guest-fds, then of guest-there-fds.  Raises BadCall where a host
    is not in the configuration, and what moves.carry_out raises.
    """
    _check_hosts(asked, settings.peers)
    lines = [socket.socket(fileno=fd) for fd in descriptors]
    here = asked["guest-fds"]
    order = moves.Order(
        asked["to"], asked["targets"], asked["resume"], asked["here"], asked["mode"],
        [*asked["guest"], *lines[:here]], [*asked["guest-there"], *lines[here:]],
        asked["guest-uri"], asked["deadline"], asked["maps"], asked["allow"], asked["probe"])
    source = ssh.RemoteService()
    source.address = asked["bus"]
    moved = moves.carry_out(order, source, _Teller(say), stop, asked["handover"])
    return {**json_view.report(moved).summary,
            "path": dbus_names.path(dbus_names.HANDOVERS, moved.handover)}


def _check_hosts(asked: Mapping[str, Any], peers: Sequence[str]) -> None:
    """Root's ssh, here and on the other host, goes where the administrators say, and nowhere else.
    """
    for option, known in (("to", peers), ("here", ("", os.uname().nodename, *peers))):
        if asked[option] not in known:
            raise errors.BadCall(
                f"option {option}: {errors.quoted(asked[option])} is not among [service] peers",
                do=f"have root add it there ({PATH}), or run `lio-handover move` as root")


class _Teller:
    """Tells the service about a move's progress."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self._told: Tuple[Any, ...] = ()

    def __call__(self, progress: moves.Progress) -> None:
        number, total, name, text, migration = progress
        text = errors.one_line(text.removeprefix(f"{number}/{total} "))
        if (number, text) != self._told:
            self._told = number, text
            self.say({"progress": [number, total, text], "details": details(name, migration)})


def details(name: str, migration: Mapping[str, Any]) -> Dict[str, Any]:
    """The job's property Details: the step's name; and, of QEMU's migration, bytes of RAM that are
    left and those of all, and the downtime that it expects, in milliseconds."""
    facts: Dict[str, Any] = {"phase": name}
    for (member, inner), told in _FACTS.items():
        value = migration.get(member)
        if inner:
            value = value.get(inner) if isinstance(value, dict) else None
        if type(value) is int and 0 <= value < 1 << 63:  # else QEMU's answer is of no known form
            facts[told] = value
    return facts

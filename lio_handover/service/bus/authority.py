"""Who may: root; whom polkit lets; without polkit, the members of one group.

Never waits: a polkit agent that asks somebody for a password holds up that call alone.
"""
from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Set

from ... import dbus_names, errors
from ...verb_table import DOCUMENT, FORCE
from .contract import OPEN

_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_POLKIT = ("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
           "org.freedesktop.PolicyKit1.Authority")
_ABSENT = ("org.freedesktop.DBus.Error.ServiceUnknown",
           "org.freedesktop.DBus.Error.NameHasNoOwner")
_INTERACTIVE = 1  # AllowUserInteraction
#: Seconds that polkit may take, and those that somebody may take to type a password.
PATIENCE, PASSWORD = 10.0, 120.0
_REMEMBERED = 4096


class NeedsPassword(Exception):
    """It would be allowed to who answers polkit's question, which the call did not ask for."""


@dataclass(frozen=True)
class Caller:
    """Who called.  ``limited``: may act inside the configured storage alone."""

    sender: str
    uid: int
    groups: Optional[Set[int]] = None
    limited: bool = False


#: What a check ends with: who it is, and why not, if not.
Then = Callable[[Caller, Optional[Exception]], None]


def action_id(action: str) -> str:
    """polkit has no underscores in the names of actions."""
    return f"{dbus_names.BUS_NAME.replace('_', '-')}.{action}"


class Authority:
    """Asks the bus who called, and polkit what they may."""

    def __init__(self, connection: Any, group: str = "") -> None:
        self.connection = connection
        self.group = group
        self._known: Dict[str, Caller] = {}

    def check(self, sender: str, action: str, interactive: bool, then: Then) -> None:
        """Call ``then`` once it is known whether the sender may; at once where it can be."""
        known = self._known.get(sender)
        if known:
            self._may(known, action, interactive, then)
            return

        def came(found: Any) -> None:
            groups = found.get("UnixGroupIDs")
            caller = Caller(sender, int(found["UnixUserID"]),
                            None if groups is None else {int(group) for group in groups})
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[sender] = caller  # a unique name is never given twice
            self._may(caller, action, interactive, then)

        def failed(error: Exception) -> None:
            then(Caller(sender, -1), errors.NotAuthorized(
                f"the bus does not say who {sender} is: {error}"))

        self._ask(_BUS, "GetConnectionCredentials", "s", (sender,), came, failed, PATIENCE)

    def _may(self, caller: Caller, action: str, interactive: bool, then: Then) -> None:
        if action == OPEN or caller.uid == 0:
            then(caller, None)
            return

        def came(found: Any) -> None:
            allowed, challenge, _details = found
            if allowed:
                then(caller, None)
            elif challenge and not interactive:
                then(caller, NeedsPassword())
            else:
                then(caller, _refused(caller, action, f"polkit refuses {action_id(action)}"))

        def failed(error: Exception) -> None:
            name = getattr(error, "get_dbus_name", lambda: "")()
            if name in _ABSENT:
                self._without_polkit(caller, action, then)
            else:
                then(caller, _refused(caller, action, f"polkit does not answer ({name})"))

        self._ask(_POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us",
                  (("system-bus-name", {"name": caller.sender}), action_id(action),
                   {}, _INTERACTIVE if interactive else 0, ""),
                  came, failed, PASSWORD if interactive else PATIENCE)

    def _without_polkit(self, caller: Caller, action: str, then: Then) -> None:
        if action != FORCE and self.group and _member(caller, self.group):
            then(Caller(caller.sender, caller.uid, caller.groups, True), None)
        else:
            then(caller, _refused(caller, action, "there is no polkit, and without it only root "
                                  + (f"and group {self.group} may" if self.group else "may")))

    def _ask(self, where: Any, member: str, signature: str, args: Any, came: Callable[[Any], None],
             failed: Callable[[Exception], None], patience: float) -> None:
        def several(*values: Any) -> None:
            came(values[0] if len(values) == 1 else values)
        self.connection.call_async(*where, member, signature, args, several, failed,
                                   timeout=patience)


def _refused(caller: Caller, action: str, why: str) -> errors.NotAuthorized:
    description = "be handed a document" if action == DOCUMENT else action
    return errors.NotAuthorized(f"user {caller.uid} may not {description}: {why}")


def _member(caller: Caller, group: str) -> bool:
    try:
        gid = grp.getgrnam(group).gr_gid
        if caller.groups is not None:
            return gid in caller.groups
        user = pwd.getpwuid(caller.uid)
        return gid in os.getgrouplist(user.pw_name, user.pw_gid)
    except KeyError:
        return False

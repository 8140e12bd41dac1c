"""Authorization: root, callers that polkit allows, and, without polkit, the members of a group.

Nothing here blocks: while a polkit agent asks a user for a password, only that call waits.  A user
has `QUESTIONS` unanswered questions at most, on however many connections; a question is withdrawn
when its caller leaves the bus, or nobody waits for its answer any more.
"""
from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Set, Tuple

from ... import dbus_names, errors
from ...verb_table import DOCUMENT, FORCE, MANAGE, READ, WRITE
from .interfaces import OPEN

_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_POLKIT = ("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
           "org.freedesktop.PolicyKit1.Authority")
_ABSENT = ("org.freedesktop.DBus.Error.ServiceUnknown",
           "org.freedesktop.DBus.Error.NameHasNoOwner")
_INTERACTIVE = 1  # AllowUserInteraction
#: Seconds that polkit may take, and that a user may take to type a password.
PATIENCE, PASSWORD = 10.0, 120.0
#: Questions of one user that polkit has not answered yet.
QUESTIONS = 16
_REMEMBERED = 4096
#: action → the text that polkit's agent shows whomever it asks for a password: polkit puts the
#: details in place of $(verb) and $(target), and takes such a text from root alone.
_MESSAGES: Mapping[str, str] = {
    READ: "Authentication is required to look at $(target) ($(verb))",
    WRITE: "Authentication is required for $(verb) of $(target)",
    MANAGE: "Authentication is required for $(verb) of $(target)",
    DOCUMENT: "Authentication is required to be handed, or to compare, secrets of $(target) "
              "($(verb))",
    FORCE: "Authentication is required for $(verb) of $(target): two hosts may end up serving it, "
           "which destroys its data"}


class NeedsPassword(Exception):
    """polkit would allow the call after a question to the user, and the call forbids questions."""


@dataclass(frozen=True)
class Caller:
    """The caller.  ``limited``: the caller may act only inside the configured storage."""

    sender: str
    uid: int
    groups: Optional[Set[int]] = None
    limited: bool = False


#: Called at the end of a check with the caller, and the error where the caller may not.
Then = Callable[[Caller, Optional[Exception]], None]


@dataclass(frozen=True)
class Wanted:
    """An authorization that is wanted: polkit's action, the method, and what it is about, in words
    (a target's name, "this host").  ``interactive``: whether polkit may ask somebody."""

    action: str
    verb: str
    target: str
    interactive: bool = False


def action_id(action: str) -> str:
    """An action's name in polkit, which has no underscores in such names."""
    return f"{dbus_names.BUS_NAME.replace('_', '-')}.{action}"


class Authority:
    """Asks the bus for a caller's user, and polkit for the caller's authorization."""

    def __init__(self, connection: Any, group: str = "") -> None:
        self.connection = connection
        self.group = group
        self._known: Dict[str, Caller] = {}
        self._asked = 0
        #: polkit's unanswered questions, by their ids
        self._open: Dict[str, Tuple[Caller, Then]] = {}

    def check(self, sender: str, wanted: Wanted, then: Then) -> None:
        """Call ``then`` once it is known whether the sender may; at once where it is known."""
        known = self._known.get(sender)
        if known:
            self._may(known, wanted, then)
            return

        def identified(credentials: Any) -> None:
            groups = credentials.get("UnixGroupIDs")
            caller = Caller(sender, int(credentials["UnixUserID"]),
                            None if groups is None else {int(group) for group in groups})
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[sender] = caller  # the bus never reuses a unique name
            self._may(caller, wanted, then)

        def failed(error: Exception) -> None:
            then(Caller(sender, -1), errors.NotAuthorized(
                f"the bus does not say who {sender} is: {error}"))

        self._ask(_BUS, "GetConnectionCredentials", "s", (sender,), identified, failed, PATIENCE)

    def gone(self, sender: str) -> None:
        """The sender has left the bus: withdraw what polkit was asked for it."""
        self._known.pop(sender, None)
        for question in [question for question, (caller, _then) in self._open.items()
                         if caller.sender == sender]:
            caller, then = self._open.pop(question)
            self._withdraw(question)
            then(caller, errors.NotAuthorized(f"{sender} has left the bus"))

    def _withdraw(self, question: str) -> None:
        """Have polkit forget a question: else its agent would ask on."""
        self._ask(_POLKIT, "CancelCheckAuthorization", "s", (question,), lambda *_: None,
                  lambda _: None, PATIENCE)

    def _may(self, caller: Caller, wanted: Wanted, then: Then) -> None:
        action = wanted.action
        if action == OPEN or caller.uid == 0:
            then(caller, None)
            return
        if sum(caller.uid == other.uid for other, _then in self._open.values()) >= QUESTIONS:
            then(caller, errors.TooMany(
                f"polkit has not answered {QUESTIONS} questions of user {caller.uid} yet",
                do="answer them, or end who asks"))
            return
        self._asked += 1
        question = f"lio-handover-{self._asked}"
        self._open[question] = caller, then

        def decided(verdict: Any) -> None:
            if not self._open.pop(question, None):
                return
            allowed, challenge, _details = verdict
            if allowed:
                then(caller, None)
            elif challenge and not wanted.interactive:
                then(caller, NeedsPassword())
            else:
                then(caller, _refused(caller, action, f"polkit refuses {action_id(action)}"))

        def failed(error: Exception) -> None:
            if not self._open.pop(question, None):
                return
            name = getattr(error, "get_dbus_name", lambda: "")()
            if name in _ABSENT:
                self._without_polkit(caller, action, then)
            else:
                self._withdraw(question)
                then(caller, _refused(caller, action, f"polkit does not answer ({name})"))

        self._ask(_POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us",
                  (("system-bus-name", {"name": caller.sender}), action_id(action),
                   {"verb": wanted.verb, "target": wanted.target,
                    "polkit.message": _MESSAGES[action]},
                   _INTERACTIVE if wanted.interactive else 0, question),
                  decided, failed, PASSWORD if wanted.interactive else PATIENCE)

    def _without_polkit(self, caller: Caller, action: str, then: Then) -> None:
        if action != FORCE and self.group and _member(caller, self.group):
            then(Caller(caller.sender, caller.uid, caller.groups, True), None)
        else:
            then(caller, _refused(caller, action, "there is no polkit, and without it only root "
                                  + (f"and group {self.group} may" if self.group else "may")))

    def _ask(self, where: Any, member: str, signature: str, args: Any,
             answered: Callable[[Any], None],
             failed: Callable[[Exception], None], patience: float) -> None:
        def several(*values: Any) -> None:
            answered(values[0] if len(values) == 1 else values)
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

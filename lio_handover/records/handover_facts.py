"""The facts of a handover's journal besides its state."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, List, Tuple


@dataclass
class HandoverFacts:
    """Each is set by records, see record_kinds."""

    stores: Dict[str, str] = field(default_factory=dict)  # backstore → unit serial
    maps: Tuple[str, ...] = ()
    local: Tuple[str, ...] = ()  # the targets' names on this host, where they differ
    step: str = ""  # that was begun last, of the verb that has not ended
    gates: Dict[str, Dict[str, str]] = field(default_factory=dict)  # target → tag → value
    shut: Dict[str, Dict[str, str]] = field(default_factory=dict)  # the same, before a clear
    differs: Tuple[str, ...] = ()  # what a boot found in targetcli's file other than in the copy
    dynamic: Dict[str, Dict[str, List[str]]] = field(default_factory=dict)  # who was there so
    loading: str = ""  # boot id of a load, or of taking down, that was begun and not finished
    loaded: Tuple[str, str] = ("", "")  # boot id, digest
    stale: bool = False  # a document was kept which is not what was loaded
    opened: str = ""  # boot id of the kernel in which the gate was opened since the last copy
    gone: str = ""  # boot id of the kernel in which it was taken down, unless loaded since
    commands: Dict[str, int] = field(default_factory=dict)  # num_cmds after the load
    saved: Tuple[str, ...] = ()  # save files that hold the targets
    unsaved: str = ""  # why none does, where it should
    sent_messages: Dict[str, List[str]] = field(default_factory=dict)  # message → digests
    verb: str = ""  # that was begun last
    fenced: str = ""  # why the other host is believed to be off, until that is acted upon
    forced: str = ""  # the same, and whose word it was, of the present state
    survived: str = ""  # boot id of a kernel that was looked at and has all that outlived power
    left: Tuple[str, ...] = ()  # serials whose APTPL file was there when the copy was kept
    kept_in: str = ""  # boot id of the kernel that the copy was kept under
    away: Tuple[str, ...] = ()  # portals that this host could not have
    #: (boot id, target → inode), see actions/identity.py
    objects: Tuple[str, Dict[str, int]] = ("", {})
    meddled: str = ""  # what somebody else did to it beside the service, if that still stands
    other: str = ""  # the other side's host, as its messages call it, where they are authenticated
    probe: bool = False  # devices are asked for what configfs does not show of registrations


def copied(facts: HandoverFacts) -> HandoverFacts:
    """The same facts, which further records change alone."""
    return replace(facts, stores=dict(facts.stores), sent_messages={
        message: list(digests) for message, digests in facts.sent_messages.items()})

"""The matrix of the document: every pair of states that can be, from the table and the search."""

from __future__ import annotations

from typing import FrozenSet, List, Optional

from lio_handover.protocol.table import (DESTINATION, DESTINATION_STATES, SOURCE, SOURCE_STATES,
                                         TRANSITIONS, Condition, MessageType, Mode, Transition,
                                         rows_for, state_of)
from tests.model.runs import run

# by the name of the run whose reachable pairs are taken
MATRICES = {Mode.ISCSI: "iscsi", Mode.VHOST_INBAND: "vhost-inband, an operator",
            Mode.FILE: "file"}
SAME_AS_ISCSI = {Mode.ISCSI_LATE: "iscsi-late", Mode.VHOST_QMP: "vhost-qmp, an operator",
                 Mode.VHOST_STOPPED: "vhost-stopped, an operator"}
_GAVE_UP = ("released", "retiring", "retired")
_PEER = {SOURCE: DESTINATION, DESTINATION: SOURCE}
_ANSWERS = {
    Condition.PEER_SAYS_RELEASED: {"released", "retiring", "retired"},
    Condition.PEER_SAYS_KEPT: {"forced", "idle"},
    Condition.PEER_SERVES_BY_FORCE: {"forced"},
    Condition.PEER_ARMED_WITH_OTHER: {"armed"},
}
_CONDITION = {
    Condition.SAME_BOOT: "no reboot", Condition.NEW_BOOT: "rebooted",
    Condition.GUEST_HERE: "guest here",
    Condition.GUEST_LEFT: "guest left", Condition.GUEST_RAN: "guest ran here",
    Condition.RAN_SINCE_EXPORT: "ran here since",
    Condition.PEER_ARMED_WITH_OTHER: "armed with an older document",
    Condition.DOCUMENT_CURRENT: "", Condition.GUEST_STOPPED: "",
}


def owner(mode: Mode, source: str, destination: str) -> str:
    if mode is Mode.VHOST_INBAND and source == "frozen" and destination in (
            "armed", "opening", "serving", "forced", "confirmed", "returned"):
        return "QEMU decides" if destination == "armed" else "destination"
    if mode is Mode.FILE and source not in _GAVE_UP:
        return "source"
    if destination == "confirmed":
        return "destination"
    if mode is Mode.FILE and source == "released":
        return "whoever imports it; a human knows"
    if source in _GAVE_UP:
        if destination in ("opening", "serving", "forced"):
            return "destination"
        if source != "released":
            return "destination"
        return ("source's next record" if destination == "returned"
                else "destination's next record" if destination == "armed" else "source, on asking")
    return "source"


def _said(role: str, state: str, mode: Mode, epoch_over: bool) -> FrozenSet[MessageType]:
    gives = state_of(role, state, mode).messages
    return gives if epoch_over or state != "idle" else gives - {MessageType.KEPT}


def _applies(row: Transition, peer_state: Optional[str], said: FrozenSet[MessageType]) -> bool:
    asks = [condition for condition in row.conditions if condition in _ANSWERS]
    if peer_state is None:
        return not row.messages and not asks
    return row.messages <= said and all(peer_state in _ANSWERS[condition] for condition in asks)


def recover(mode: Mode, role: str, state: str, peer_state: Optional[str]) -> str:
    """Where `recover` leads in `state`; the peer is in `peer_state`, or (None) does not answer."""
    said = frozenset() if peer_state is None else _said(_PEER[role], peer_state, mode, True)
    rows = rows_for(role, state, "recover", mode, TRANSITIONS)
    out: List[str] = []
    for row in rows:
        if row.forced or not _applies(row, peer_state, said):
            continue
        conditions = sorted(filter(None, (_CONDITION.get(condition, "")
                                          for condition in row.conditions)))
        text = row.to + (f" ({', '.join(conditions)})" if conditions else "")
        if text not in out:
            out.append(text)
    certain = any(not text.endswith(")") for text in out)
    if not certain and peer_state is None:
        out = out or ["stays"]
        out += sorted({("never returns → " if Condition.PEER_NEVER_RETURNS in row.conditions
                        else "fenced → ") + row.to for row in rows if row.forced})
    return ", ".join(out) or "stays"


def matrix(mode: Mode) -> List[str]:
    pairs = run(MATRICES[mode]).pairs
    lines = ["| source | destination | may be serving | owner "
             "| `recover` on source: answered · silent "
             "| `recover` on destination: answered · silent |", "|---|---|---|---|---|---|"]
    for source in SOURCE_STATES:
        for destination in DESTINATION_STATES:
            if (source, destination) not in pairs:
                continue
            serving = " or ".join(sorted(pairs[source, destination])) or "nobody"
            cells = [source, destination, serving, owner(mode, source, destination)]
            for role, state, peer in ((SOURCE, source, destination),
                                      (DESTINATION, destination, source)):
                if destination == "confirmed" and role == SOURCE and source not in _GAVE_UP:
                    cells.append("**must never boot** (the word that was given)"
                                 if mode is not Mode.FILE else
                                 "the destination is gone for good (the word that was given)")
                    continue
                asked, silent = recover(mode, role, state, peer), recover(mode, role, state, None)
                cells.append(asked if asked == silent else f"{asked} · {silent}")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def steps_table(mode: Mode) -> List[str]:
    """The rows that go forwards and back, without status and recover."""
    lines = ["| where | from | verb | on | steps, in order | to | s |",
             "|---|---|---|---|---|---|---|"]
    for row in TRANSITIONS:
        if mode not in row.modes or row.verb in ("status", "recover"):
            continue
        on = sorted(message.name.lower() for message in row.messages)
        on += sorted(condition.name.lower().replace("_", " ") for condition in row.conditions)
        steps = " · ".join(f"**{step}**" if step.state or step.message else str(step)
                           for step in row.steps)
        lines.append(f"| {row.role} | {row.state} | {row.verb} | {', '.join(on) or '–'} | {steps} "
                     f"| {row.to} | {row.deadline:g} |")
    return lines

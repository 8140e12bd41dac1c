"""The protocol of a handover as one table: what each side may do, from where, on what evidence.

Pure data. The service executes these rows step by step, `tests/model` explores every interleaving
and every crash between two steps of the same rows, and docs/internals/handover-protocol.md is
tested against them. Nothing here talks to a kernel, a file or a peer.

How to read a row: in `state`, `verb` is accepted if every one of `messages` and `needs` is there
(else it is refused and nothing changes); then `steps` run in order; the place of the RECORD steps
among them is *the* statement of what is durable when. Every step must be harmless when it was
done before: after a crash the same row, or the `recover` row of the recorded state, runs again
from its first step. A step that cannot do its work refuses: the verb ends there and the recorded
state stands.

Messages are what the sides say to each other. They carry the handover's epoch (and, where
registrations are concerned, the digest of the run-time state), are said only after the record
that makes them true, may be said again at any time, and may be lost, late or repeated. So nothing
may be concluded from a message except what its issuer can never take back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import FrozenSet, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

from ..verb_table import BOTH, DESTINATION as DESTINATION, SOURCE as SOURCE


class Mode(str, Enum):
    """By what the initiator is kept from serving twice; chosen at `prepare`, part of the offer."""

    ISCSI = "iscsi"
    ISCSI_LATE = "iscsi-late"
    VHOST_QMP = "vhost-qmp"
    VHOST_INBAND = "vhost-inband"
    VHOST_STOPPED = "vhost-stopped"
    FILE = "file"


MODES: Mapping[Mode, str] = {
    Mode.ISCSI: "iSCSI: we close and open the gate (the TPG's enable) on both hosts",
    Mode.ISCSI_LATE: "iSCSI on storage that only one host may open at a time",
    Mode.VHOST_QMP: "vhost, the driver has both QMPs; destination -S, pause-before-switchover",
    Mode.VHOST_INBAND: "vhost under a manager that keeps QMP to itself (libvirt): dbus-vmstate, -S",
    Mode.VHOST_STOPPED: "vhost, the guest is paused before its RAM is copied: no dirty logging",
    Mode.FILE: "a document that somebody carries: freeze, export, import, remove; no peer to ask",
}
#: By file, no side ever hears of the other: what it cannot know, a human says.
FILE = frozenset({Mode.FILE})
ALL = frozenset(Mode)
PEERS = ALL - FILE
ISCSI = frozenset({Mode.ISCSI, Mode.ISCSI_LATE})
LATE = frozenset({Mode.ISCSI_LATE})
HELD = frozenset({Mode.VHOST_QMP, Mode.VHOST_STOPPED})
INBAND = frozenset({Mode.VHOST_INBAND})
VHOST = HELD | INBAND


class MessageType(str, Enum):
    """A message from one side to the other.  The value says what it promises for ever."""

    OFFER = "the source offers the target under this epoch"
    DOCUMENT = "the run-time state of the frozen target (with its digest)"
    ARMED = "the destination holds this document durably and will not forget this epoch"
    RELEASED = "the source will not serve unless the destination gives the epoch back or is fenced"
    SERVING = "the destination has been seen to serve"
    RETURNED = "the destination owned the target and gives it back, with its present run-time state"
    ABORTED = "the destination will never serve under this epoch, and did not"
    KEPT = "the source serves again; this epoch is over"
    RETIRED = "the source has taken its target down for good"


class Condition(str, Enum):
    """A condition, other than messages, that must hold before a row may run."""

    SAME_BOOT = "this host has not been rebooted since the state was recorded (boot id)"
    NEW_BOOT = "this host was rebooted since the state was recorded"
    DOCUMENT_CURRENT = "the armed message names the digest of the source's present run-time state"
    RELEASE_MATCHES = "the released message names the digest of what is loaded here"
    GUEST_STOPPED = ("no endpoint is attached here: QEMU has stopped the guest (of several: "
                     "every one), or is gone")
    GUEST_HERE = ("the guest is attached here (of several: every one), and (iSCSI) the gate reads "
                  "back open")
    GUEST_LEFT = ("migration has completed (of several guests: every one's), or the source's QEMU "
                  "is gone: it cannot resume by itself")
    RAN_SINCE_EXPORT = ("the run-time state kept here is not what was exported: the guest ran "
                        "here again")
    PEER_ARMED_WITH_OTHER = ("asked now, the destination is armed with a document that is not our "
                             "present state")
    GUEST_RAN = ("the guest (of several: any) is attached here or executed a command here since "
                 "this was armed")
    PEER_SAYS_RELEASED = "asked now, the source says released, retiring or retired"
    PEER_SAYS_KEPT = "asked now, the source says forced or idle, or names a later epoch"
    PEER_SERVES_BY_FORCE = "asked now, the peer serves on an operator's word"
    PEER_IS_FENCED = ("an operator or a fence program says: the peer's host is off; what "
                      "runs is lost")
    PEER_NEVER_RETURNS = "the operator adds: nor will it ever boot with its present records"
    NOT_IMPORTED = ("an operator says: no host has imported the document or will, or what has is "
                    "gone for good")
    IMPORTED = "an operator says: another host serves it, or nobody shall"


#: The other host is asked for these.
ASKED_NOW = frozenset({
    Condition.PEER_ARMED_WITH_OTHER, Condition.PEER_SAYS_RELEASED, Condition.PEER_SAYS_KEPT,
    Condition.PEER_SERVES_BY_FORCE, Condition.PEER_IS_FENCED})


class Action(str, Enum):
    """An action of a row.  The value is the sentence for `status`, dry runs and docs."""

    CHECK = "preflight: refuse with reasons; above all a target that is not whole and ours"
    RECORD = "write the new state, epoch and boot id to the journal, fsync file and folder"
    SAY = "answer with a message"
    READ = "read the kernel"
    SAVEFILE_DROP = ("take the target out of targetcli's save file, and see that it stays out "
                     "(nothing to do when it is not in it)")
    SAVEFILE_PUT = ("put back what was taken out of targetcli's save file, else the target as it "
                    "now is; where that can't be, say so: recover serves it at a boot")
    GATE_CLOSE = ("close every gate: iSCSI enable=0; vhost: our own initiator takes the endpoint "
                  "of every target, or of none and refuses")
    TPG_DISABLE = ("close the gates of iSCSI targets (enable=0); the endpoints of vhost targets "
                   "stay free for QEMU")
    GATE_OPEN = ("open every gate: vhost: our own initiator lets go of the endpoint; iSCSI "
                 "enable=1")
    DRAIN = "prove idle"
    FLUSH = "flush the backing storage"
    KEEP_COPY = "if the kernel holds it: export run-time state into journal and APTPL file, fsync"
    KEEP_MESSAGE = "put the document that came with the verb into journal and APTPL file, fsync"
    PROVE_SHUT = ("refuse unless the gate reads back shut and then the save file does "
                  "not hold it enabled")
    COMPARE = "read run-time state again; refuse unless it is what the peer is armed with"
    PROVE_NEVER_RAN = "refuse if any command was executed here since it was armed (num_cmds)"
    BUILD = "backstores, target, TPG, portals: all the kernel takes before a LUN is linked"
    ADOPT = ("refuse what could not be brought back; keep what is served here, in the journal, as "
             "the copy that counts")
    SAVEFILE_GIVE = ("put the target into targetcli's save file: what was taken out, else as it "
                     "now is; refuse where that can't be, or would lose what the file can't hold")
    LOAD = "whatever is missing, then registrations from the durable copy, LUN links, ACLs, nexus"
    VERIFY = "read back and compare; refuse on a difference"
    IMPORT = ("build, load and read back in one plan, gate shut; where that fails, take all of it "
              "back")
    STORAGE_RELEASE = "run the release command: the storage is closed here (refused while in use)"
    STORAGE_ACQUIRE = "run the acquire command: this host may open the storage"
    TEARDOWN = "unlink and remove the target and its backstores (refused while a guest is attached)"
    APTPL_DROP = "remove our APTPL file and kept copies"


@dataclass(frozen=True)
class Step:
    action: Action
    state: str = ""  # of RECORD
    message: Optional[MessageType] = None  # of SAY

    def __str__(self) -> str:
        if self.action is Action.RECORD:
            return f"record {self.state}"
        if self.message is not None:
            return f"say {self.message.name.lower()}"
        return self.action.name.lower().replace("_", " ")

    @property
    def slot(self) -> str:
        return str(self)

    @property
    def description(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Transition:
    role: str
    state: str
    verb: str
    to: str
    summary: str
    steps: Tuple[Step, ...]
    messages: FrozenSet[MessageType] = frozenset()
    conditions: FrozenSet[Condition] = frozenset()
    modes: FrozenSet[Mode] = ALL
    deadline: float = 30.0  # seconds until it alarms; it never closes a gate that was open
    taken_back: str = ""  # the state where a step fails and has taken back all that was done

    @property
    def forced(self) -> bool:
        return Condition.PEER_IS_FENCED in self.conditions

    @property
    def asks(self) -> bool:
        """Whether the other host is asked for it."""
        return bool(self.conditions & ASKED_NOW)

    @property
    def after(self) -> Tuple[Step, ...]:
        """The steps after the last record that do more than send a message."""
        last = max((number for number, step in enumerate(self.steps)
                    if step.action is Action.RECORD),
                   default=-1)
        return tuple(step for step in self.steps[last + 1:] if step.action is not Action.SAY) \
            if last >= 0 else ()


class AfterReboot(str, Enum):
    """Whether a host may open the gate after a reboot."""

    OPEN, ASK_PEER, STAY_CLOSED = "alone", "asks", "never"


@dataclass(frozen=True)
class StateInfo:
    description: str
    after_reboot: AfterReboot
    messages: FrozenSet[MessageType] = field(default_factory=frozenset)  # a peer gets by asking


def _messages(words: str) -> FrozenSet[MessageType]:
    return frozenset(MessageType[word.upper()] for word in words.split())


SOURCE_STATES: Mapping[str, StateInfo] = {
    "idle": StateInfo("serves; no handover, or the last one is over", AfterReboot.OPEN,
                      _messages("kept")),
    "prepared": StateInfo("serves; a destination may stage", AfterReboot.OPEN, _messages("offer")),
    "freezing": StateInfo("owns; on its way to be quiet", AfterReboot.OPEN),
    "frozen": StateInfo("owns; quiet and exported, may go back at any moment", AfterReboot.OPEN,
                        _messages("document")),
    "released": StateInfo("does not serve; the destination decides", AfterReboot.ASK_PEER,
                          _messages("released")),
    "thawing": StateInfo("owns; on its way back to serve", AfterReboot.OPEN),
    "forced": StateInfo("serves because an operator said the destination is fenced",
                        AfterReboot.ASK_PEER,
                        _messages("kept")),
    "retiring": StateInfo("never serves again; being taken down", AfterReboot.STAY_CLOSED),
    "retired": StateInfo("gone from here", AfterReboot.STAY_CLOSED, _messages("retired")),
}
DESTINATION_STATES: Mapping[str, StateInfo] = {
    "none": StateInfo("nothing here (epochs that were aborted are remembered)",
                      AfterReboot.STAY_CLOSED,
                      _messages("aborted")),
    "staged": StateInfo("built as far as the kernel allows; no registrations",
                        AfterReboot.STAY_CLOSED,
                        _messages("aborted")),
    "armed": StateInfo("holds the final document; complete but for the gate",
                       AfterReboot.STAY_CLOSED,
                       _messages("armed aborted")),
    "opening": StateInfo("owns; the gate is opened or being opened, not yet seen to serve",
                         AfterReboot.ASK_PEER,
                         _messages("armed")),
    "serving": StateInfo("owns and serves; the source still keeps everything", AfterReboot.ASK_PEER,
                         _messages("serving")),
    "confirmed": StateInfo("owns and serves; the source is gone", AfterReboot.OPEN,
                           _messages("serving")),
    "given": StateInfo("targetcli restores it; the handover is over", AfterReboot.OPEN,
                       _messages("serving")),
    "returned": StateInfo("owned, closed its gate, offers the target back", AfterReboot.ASK_PEER,
                          _messages("returned")),
    "aborting": StateInfo("being taken down; never serves under this epoch",
                          AfterReboot.STAY_CLOSED),
    "forced": StateInfo("serves because an operator said the source is fenced",
                        AfterReboot.ASK_PEER,
                        _messages("serving")),
}
# In-band, the nexus must be up before `released`: whether an armed side ran is QEMU's knowledge.
INBAND_STATES: Mapping[Tuple[str, str], StateInfo] = {
    (SOURCE, "frozen"): StateInfo("the guest is stopped for migration; QEMU decides",
                                  AfterReboot.ASK_PEER,
                                  _messages("document")),
    (DESTINATION, "armed"): StateInfo("holds the final document, gate open; QEMU decides",
                                      AfterReboot.ASK_PEER,
                                      _messages("armed aborted")),
}
# By file, nobody asks, so nothing is given by asking.
FILE_STATES: Mapping[Tuple[str, str], StateInfo] = {
    (SOURCE, "frozen"): StateInfo("owns; quiet, nothing of it was given away", AfterReboot.OPEN),
    (SOURCE, "released"): StateInfo("exported: another host may serve it", AfterReboot.STAY_CLOSED,
                                    _messages("document")),
    (DESTINATION, "armed"): StateInfo("being imported; complete but for the gate",
                                      AfterReboot.STAY_CLOSED),
    (DESTINATION, "confirmed"): StateInfo("imported or adopted: owns and serves", AfterReboot.OPEN),
    (DESTINATION, "given"): StateInfo("targetcli restores it", AfterReboot.OPEN),
}
STATES: Mapping[str, Mapping[str, StateInfo]] = {
    SOURCE: SOURCE_STATES, DESTINATION: DESTINATION_STATES}


def state_of(role: str, name: str, mode: Mode) -> StateInfo:
    for modes, states in ((INBAND, INBAND_STATES), (FILE, FILE_STATES)):
        if mode in modes and (role, name) in states:
            return states[role, name]
    return STATES[role][name]


# ---- the table ---------------------------------------------------------------------------------

_Item = Union[Action, str, MessageType]


def _steps(items: Iterable[_Item]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, Action):
            yield Step(item)
        elif isinstance(item, MessageType):
            yield Step(Action.SAY, message=item)
        else:
            yield Step(Action.RECORD, state=item)


def _rows(role: str, states: str, verb: str, to: str, summary: str, *items: _Item,
          messages: str = "", conditions: Tuple[Condition, ...] = (),
          modes: FrozenSet[Mode] = PEERS,
          deadline: float = 30.0, taken_back: str = "") -> List[Transition]:
    """One row for each of `states`. A plain string among `items` is a RECORD of that state.

    Rows that touch storage are split: a late mode opens and closes it at the places named here, and
    so does a handover by file, whose storage may be late, too."""
    rows = []
    late = (Action.STORAGE_ACQUIRE, Action.STORAGE_RELEASE)
    opening = modes & (LATE | FILE)
    variants = [(modes - opening, [item for item in items if item not in late]), (opening, items)]
    if not any(item in late for item in items):
        variants = [(modes, items)]
    for state in states.split():
        for variant_modes, variant in variants:
            if variant_modes:
                rows.append(Transition(role, state, verb, to
                                       or state, summary, tuple(_steps(variant)),
                                       _messages(messages), frozenset(conditions), variant_modes,
                                       deadline,
                                       taken_back))
    return rows


_BACK = (Action.STORAGE_ACQUIRE, Action.LOAD, Action.GATE_OPEN, Action.SAVEFILE_PUT,
         MessageType.KEPT, "idle")
_GONE = (Action.TEARDOWN, Action.SAVEFILE_DROP, Action.APTPL_DROP, "retired", MessageType.RETIRED)
# By file: the same, with nobody to tell.
_QUIET = ("freezing", Action.SAVEFILE_DROP, Action.GATE_CLOSE, Action.DRAIN, Action.FLUSH,
          Action.KEEP_COPY, "frozen")
_RESUMED = (Action.STORAGE_ACQUIRE, Action.LOAD, Action.GATE_OPEN, Action.SAVEFILE_PUT, "idle")
_REMOVED = (Action.TEARDOWN, Action.SAVEFILE_DROP, Action.STORAGE_RELEASE, Action.APTPL_DROP,
            "retired")
_WHOLE = (Action.STORAGE_ACQUIRE, Action.LOAD,
          Action.VERIFY)  # before the record: it may be relied on after it
_CLEARED = (Action.GATE_CLOSE, Action.DRAIN, Action.KEEP_COPY, Action.TEARDOWN,
            Action.STORAGE_RELEASE)
_UNBUILT = (Action.TEARDOWN, Action.SAVEFILE_DROP, Action.STORAGE_RELEASE, "none")
_DROP = (Action.TEARDOWN, Action.SAVEFILE_DROP, Action.STORAGE_RELEASE, "none", MessageType.ABORTED)


def _source() -> Iterator[List[Transition]]:
    def row(states: str, verb: str, to: str, summary: str, *items: _Item, messages: str = "",
            conditions: Tuple[Condition, ...] = (), modes: FrozenSet[Mode] = PEERS,
            deadline: float = 30.0) -> List[Transition]:
        return _rows(SOURCE, states, verb, to, summary, *items, messages=messages,
                     conditions=conditions,
                     modes=modes, deadline=deadline)

    # forwards
    yield row("idle", "prepare", "prepared", "check, and offer under the next epoch",
              Action.CHECK, "prepared", MessageType.OFFER, deadline=120)
    yield row("prepared", "prepare", "prepared", "check again; the same epoch",
              Action.CHECK, MessageType.OFFER, deadline=120)
    yield row("prepared freezing", "freeze", "frozen",
              "leave the save file, close the gate, drain, flush, keep a copy",
              "freezing", Action.SAVEFILE_DROP, Action.GATE_CLOSE, Action.DRAIN, Action.FLUSH,
              Action.KEEP_COPY,
              "frozen", conditions=(Condition.SAME_BOOT,), modes=ISCSI, deadline=10)
    yield row("idle", "freeze", "frozen", "check, then make it quiet, keeping all of it",
              Action.CHECK, *_QUIET, modes=FILE, deadline=30)
    yield row("freezing frozen", "freeze", "frozen", "make it quiet, whoever opened it since",
              *_QUIET, conditions=(Condition.SAME_BOOT,), modes=FILE, deadline=30)
    yield row("released", "freeze", "released", "shut it, whoever opened it since",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, modes=FILE, deadline=30)
    yield row("prepared freezing", "freeze", "frozen",
              "leave the save file, shut iSCSI out, drain, flush, keep a copy; endpoints stay free "
              "for QEMU",
              "freezing", Action.SAVEFILE_DROP, Action.TPG_DISABLE, Action.DRAIN, Action.FLUSH,
              Action.KEEP_COPY, "frozen",
              conditions=(Condition.SAME_BOOT, Condition.GUEST_STOPPED), modes=HELD,
              deadline=3)
    yield row("prepared freezing", "freeze", "frozen",
              "leave the save file, drain, flush, keep a copy; the endpoint stays free for QEMU",
              "freezing", Action.SAVEFILE_DROP, Action.DRAIN, Action.FLUSH, Action.KEEP_COPY,
              "frozen",
              conditions=(Condition.SAME_BOOT, Condition.GUEST_STOPPED), modes=INBAND,
              deadline=3)
    yield row("frozen", "export", "frozen", "the final document",
              Action.KEEP_COPY, MessageType.DOCUMENT, conditions=(Condition.SAME_BOOT,),
              modes=ISCSI, deadline=10)
    yield row("frozen", "export", "frozen", "the final document, read while the guest is stopped",
              Action.KEEP_COPY, MessageType.DOCUMENT,
              conditions=(Condition.SAME_BOOT, Condition.GUEST_STOPPED),
              modes=HELD, deadline=3)
    yield row("frozen", "export", "frozen",
              "the final document; flush what a guest that had resumed wrote",
              Action.FLUSH, Action.KEEP_COPY, MessageType.DOCUMENT,
              conditions=(Condition.SAME_BOOT, Condition.GUEST_STOPPED),
              modes=INBAND, deadline=3)
    yield row("frozen", "export", "released",
              "commit: another host may serve it from here on; recorded before the file is there",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, Action.FLUSH,
              Action.KEEP_COPY, "released",
              MessageType.DOCUMENT, conditions=(Condition.SAME_BOOT,), modes=FILE, deadline=30)
    yield row("released", "export", "released", "the same document again, and shut it once more",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, MessageType.DOCUMENT,
              modes=FILE,
              deadline=30)
    yield row("frozen", "release", "released",
              "commit; gate and save file are looked at once more, and what was written is flushed",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, Action.FLUSH,
              Action.COMPARE, "released",
              MessageType.RELEASED,
              messages="armed", conditions=(Condition.SAME_BOOT, Condition.DOCUMENT_CURRENT),
              modes=ISCSI - LATE,
              deadline=3)
    yield row("frozen", "release", "released", "commit, and close the storage before saying so",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, Action.FLUSH,
              Action.COMPARE, "released",
              Action.TEARDOWN, Action.SAVEFILE_DROP, Action.STORAGE_RELEASE, MessageType.RELEASED,
              messages="armed", conditions=(Condition.SAME_BOOT, Condition.DOCUMENT_CURRENT),
              modes=LATE,
              deadline=10)
    yield row("released", "release", "released", "say it again, the storage closed",
              Action.TEARDOWN, Action.SAVEFILE_DROP, Action.STORAGE_RELEASE, MessageType.RELEASED,
              modes=LATE,
              deadline=10)
    yield row("frozen", "release", "released",
              "commit: first occupy every endpoint, so that no resume of the source can succeed; "
              "flush what was written since",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, Action.FLUSH,
              Action.COMPARE, "released", MessageType.RELEASED,
              messages="armed",
              conditions=(Condition.SAME_BOOT, Condition.DOCUMENT_CURRENT, Condition.GUEST_LEFT),
              modes=HELD, deadline=3)
    yield row("frozen", "release", "released",
              "QEMU has committed: occupy the endpoint and note it",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, "released", MessageType.RELEASED,
              messages="serving", modes=INBAND)
    yield row("released", "release", "released", "say it again, the endpoint still occupied",
              Action.GATE_CLOSE, MessageType.RELEASED, modes=VHOST, deadline=3)
    yield row("released", "release", "released", "say it again", MessageType.RELEASED,
              modes=ISCSI - LATE)
    yield row("released", "retire", "retired", "take it down: the destination serves",
              "retiring", *_GONE, messages="serving", deadline=300)
    yield row("retiring", "retire", "retired", "go on taking it down", *_GONE, deadline=300)
    yield row("retired", "retire", "retired", "say it again", MessageType.RETIRED)
    yield row("frozen released", "retire", "retired", "remove: another host serves it",
              "retiring", *_REMOVED, conditions=(Condition.IMPORTED,), modes=FILE, deadline=300)
    yield row("retiring", "retire", "retired", "go on taking it down", *_REMOVED, modes=FILE,
              deadline=300)

    # backwards, on one's own word while nothing was released
    yield row("prepared freezing frozen", "thaw", "idle", "the source never gave anything away",
              "thawing", *_BACK, modes=PEERS - INBAND)
    yield row("prepared freezing", "thaw", "idle", "the guest never left",
              "thawing", *_BACK, modes=INBAND)
    yield row("frozen", "thaw", "idle", "QEMU resumed the guest here: migration failed",
              "thawing", *_BACK, conditions=(Condition.GUEST_HERE,), modes=INBAND)
    # backwards, on the destination's word
    yield row("frozen", "thaw", "idle", "the destination never ran and never will",
              "thawing", *_BACK, messages="aborted", modes=INBAND)
    yield row("released", "thaw", "idle", "the destination never served and never will",
              "thawing", *_BACK, messages="aborted")
    yield row("frozen", "thaw", "idle", "the guest ran there and is given back: first keep that",
              Action.KEEP_MESSAGE, "thawing", *_BACK, messages="returned", modes=INBAND)
    yield row("released", "thaw", "idle", "the destination gives it back: first keep what it says",
              Action.KEEP_MESSAGE, "thawing", *_BACK, messages="returned")
    yield row("thawing", "thaw", "idle", "go on going back", *_BACK)
    yield row("freezing frozen thawing", "thaw", "idle", "nothing was given away",
              "thawing", *_RESUMED, modes=FILE)
    yield row("released", "thaw", "idle", "no host has the document, by a human's word",
              "thawing", *_RESUMED, conditions=(Condition.NOT_IMPORTED,), modes=FILE)

    # recover: the same steps, found from kernel, journal and peer
    yield row("idle", "recover", "idle", "serve again after a reboot",
              Action.STORAGE_ACQUIRE, Action.LOAD, Action.GATE_OPEN, Action.SAVEFILE_PUT, modes=ALL)
    yield row("freezing frozen thawing", "recover", "idle", "nothing was given away: go back",
              "thawing", *_RESUMED, modes=FILE)
    yield row("retiring", "recover", "retired", "go on taking it down", *_REMOVED, modes=FILE,
              deadline=300)
    yield row("prepared freezing frozen", "recover", "idle", "nothing was given away: go back",
              "thawing", *_BACK, modes=PEERS - INBAND)
    yield row("prepared freezing", "recover", "idle", "nothing was given away: go back",
              "thawing", *_BACK, modes=INBAND)
    yield row("frozen", "recover", "idle", "QEMU resumed the guest here: go back",
              "thawing", *_BACK, conditions=(Condition.GUEST_HERE,), modes=INBAND)
    yield row("frozen", "recover", "idle",
              "QEMU resumed the guest here, before this host went down",
              "thawing", *_BACK, conditions=(Condition.RAN_SINCE_EXPORT,), modes=INBAND)
    yield row("frozen", "recover", "idle",
              "that document is older: the guest ran here after it, so not there",
              "thawing", *_BACK, conditions=(Condition.PEER_ARMED_WITH_OTHER,), modes=INBAND)
    yield row("frozen", "recover", "idle", "the destination never ran: go back",
              "thawing", *_BACK, messages="aborted", modes=INBAND)
    yield row("frozen", "recover", "released",
              "QEMU cannot resume here and the destination is armed: on",
              Action.GATE_CLOSE, Action.FLUSH, Action.COMPARE, Action.SAVEFILE_DROP, "released",
              MessageType.RELEASED,
              messages="armed", conditions=(Condition.DOCUMENT_CURRENT, Condition.GUEST_LEFT),
              modes=INBAND)
    yield row("frozen", "recover", "released",
              "the guest was seen to run there: QEMU has committed",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, "released", MessageType.RELEASED,
              messages="serving", modes=INBAND)
    yield row("released", "recover", "retired", "the destination serves: go on",
              "retiring", *_GONE, messages="serving", deadline=300)
    yield row("released", "recover", "idle", "the destination never served: go back",
              "thawing", *_BACK, messages="aborted")
    yield row("frozen", "recover", "idle", "the guest ran there and is given back: first keep that",
              Action.KEEP_MESSAGE, "thawing", *_BACK, messages="returned", modes=INBAND)
    yield row("released", "recover", "idle", "the destination gives it back: go back",
              Action.KEEP_MESSAGE, "thawing", *_BACK, messages="returned")
    yield row("thawing", "recover", "idle", "go on going back", *_BACK)
    yield row("retiring", "recover", "retired", "go on taking it down", *_GONE, deadline=300)
    yield row("forced", "recover", "idle", "the destination knows now: settled",
              "thawing", *_BACK, messages="aborted")
    yield row("forced", "recover", "idle", "the destination knows now: settled",
              "thawing", *_BACK, messages="returned")
    yield row("forced", "recover", "forced", "the same boot: go on serving",
              Action.STORAGE_ACQUIRE, Action.LOAD, Action.GATE_OPEN, MessageType.KEPT,
              conditions=(Condition.SAME_BOOT,))
    yield row("forced", "status", "forced",
              "tell the destination, however late it asks", MessageType.KEPT)
    yield row("forced", "recover", "retired", "the destination was forced later: step down",
              Action.GATE_CLOSE, "retiring", *_GONE,
              conditions=(Condition.NEW_BOOT, Condition.PEER_SERVES_BY_FORCE))

    yield row("forced", "clear", "", "shut it, keep a copy, take it down: it stays this host's",
              *_CLEARED, modes=ISCSI, deadline=300)
    yield row("forced", "clear", "", "the same, once no paused guest can come back to it",
              *_CLEARED, conditions=(Condition.GUEST_LEFT,), modes=VHOST, deadline=300)

    # on an operator's word
    force = ("forced", Action.STORAGE_ACQUIRE, Action.LOAD, Action.GATE_OPEN, MessageType.KEPT)
    yield row("released", "recover", "forced",
              "serve from our own copy; ask before serving at a boot",
              *force, conditions=(Condition.PEER_IS_FENCED,))
    yield row("forced", "recover", "forced", "serve again, on the word given again",
              *force, conditions=(Condition.PEER_IS_FENCED, Condition.NEW_BOOT))
    yield row("frozen", "recover", "forced", "whether the guest ran there is lost with that host",
              *force, conditions=(Condition.PEER_IS_FENCED, Condition.GUEST_STOPPED), modes=INBAND)


def _destination() -> Iterator[List[Transition]]:
    def row(states: str, verb: str, to: str, summary: str, *items: _Item, messages: str = "",
            conditions: Tuple[Condition, ...] = (), modes: FrozenSet[Mode] = PEERS,
            deadline: float = 30.0, taken_back: str = "") -> List[Transition]:
        return _rows(DESTINATION, states, verb, to, summary, *items, messages=messages,
                     conditions=conditions,
                     modes=modes, deadline=deadline, taken_back=taken_back)

    # forwards
    yield row("none", "stage", "staged", "build; an epoch that was aborted here is refused",
              "staged", Action.BUILD, messages="offer", modes=PEERS - LATE, deadline=300)
    yield row("none", "stage", "staged", "check what can be checked with the storage closed",
              "staged", messages="offer", modes=LATE, deadline=300)
    yield row("staged", "stage", "staged", "build what is missing",
              "staged", Action.BUILD, modes=PEERS - LATE, deadline=300)
    yield row("staged", "stage", "staged", "check again", "staged", modes=LATE, deadline=300)
    yield row("staged armed", "activate", "armed", "keep the document, load it, gate shut",
              Action.KEEP_MESSAGE, "armed", Action.LOAD, Action.VERIFY, MessageType.ARMED,
              messages="document", conditions=(Condition.SAME_BOOT,), modes=(ISCSI - LATE) | HELD,
              deadline=3)
    yield row("staged armed", "activate", "armed", "keep the document; the storage is not ours yet",
              Action.KEEP_MESSAGE, "armed", MessageType.ARMED,
              messages="document", conditions=(Condition.SAME_BOOT,), modes=LATE, deadline=3)
    yield row("staged armed", "activate", "armed", "Load(): keep the document, load it, gate open",
              Action.GATE_CLOSE, Action.PROVE_NEVER_RAN, Action.KEEP_MESSAGE, "armed", Action.LOAD,
              Action.VERIFY,
              Action.GATE_OPEN, MessageType.ARMED,
              messages="document", conditions=(Condition.SAME_BOOT,), modes=INBAND, deadline=3)
    yield row("armed", "activate", "opening", "own it, then open the gate",
              *_WHOLE, "opening", Action.GATE_OPEN, messages="released",
              conditions=(Condition.SAME_BOOT, Condition.RELEASE_MATCHES), modes=PEERS - INBAND,
              deadline=3)
    yield row("armed", "activate", "opening", "the source says now that it released: own it",
              *_WHOLE, "opening", Action.GATE_OPEN, conditions=(Condition.PEER_SAYS_RELEASED,),
              modes=INBAND)
    yield row("opening serving", "verify", "serving", "seen to serve",
              Action.VERIFY, "serving", MessageType.SERVING,
              conditions=(Condition.SAME_BOOT, Condition.GUEST_HERE))
    yield row("armed", "verify", "serving", "the guest runs here: QEMU has committed",
              "serving", MessageType.SERVING,
              conditions=(Condition.SAME_BOOT, Condition.GUEST_RAN), modes=INBAND)
    yield row("armed", "status", "armed", "say it again", MessageType.ARMED, modes=INBAND)
    yield row("serving forced", "status", "",
              "say it again: the source need not keep it", MessageType.SERVING)
    yield row("forced", "verify", "forced", "seen to serve",
              Action.VERIFY, MessageType.SERVING,
              conditions=(Condition.SAME_BOOT, Condition.GUEST_HERE))
    yield row("opening serving forced", "confirm", "confirmed",
              "the source is gone; ours to restore",
              *_WHOLE, "confirmed", Action.GATE_OPEN, Action.SAVEFILE_DROP, messages="retired")
    yield row("confirmed", "verify", "confirmed", "seen to serve",
              Action.VERIFY, MessageType.SERVING, conditions=(Condition.GUEST_HERE,))

    # by file
    yield row("none", "import", "confirmed", "serve it, or be as before",
              Action.KEEP_MESSAGE, "armed", Action.IMPORT, "confirmed", Action.GATE_OPEN,
              Action.SAVEFILE_DROP,
              messages="document", modes=FILE, deadline=60, taken_back="none")

    # who restores it at a boot
    yield row("none", "adopt", "confirmed", "ours to restore from now on, open all the time",
              Action.ADOPT, "confirmed", Action.SAVEFILE_DROP, modes=FILE, deadline=60)
    yield row("confirmed", "adopt", "confirmed", "keep it anew, as it is now",
              Action.ADOPT, Action.SAVEFILE_DROP, modes=ALL, deadline=60)
    yield row("confirmed", "giveback", "given", "targetcli's to restore from now on",
              Action.SAVEFILE_GIVE, "given", modes=ALL)
    for states, modes in (("opening serving forced", PEERS), ("confirmed", ALL)):
        yield row(states, "clear", "", "shut it, keep a copy, take it down: it stays this host's",
                  *_CLEARED, modes=modes, deadline=300)

    # backwards
    yield row("none", "abort", "none", "never heard of it: and never will",
              "none", MessageType.ABORTED)
    yield row("staged", "abort", "none", "nothing was given to us", "aborting", *_DROP)
    yield row("armed", "abort", "none", "never opened: nothing ran here",
              "aborting", *_DROP, modes=PEERS - INBAND)
    yield row("armed", "abort", "none", "occupy the endpoint, prove that nothing ran",
              Action.GATE_CLOSE, Action.PROVE_NEVER_RAN, "aborting", *_DROP,
              conditions=(Condition.SAME_BOOT,), modes=INBAND)
    yield row("opening serving", "abort", "returned",
              "give it back: close, flush, keep a copy, keep everything",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, Action.FLUSH,
              Action.KEEP_COPY, "returned",
              MessageType.RETURNED, modes=PEERS - LATE)
    yield row("opening serving returned", "abort", "returned",
              "give it back, and the storage with it",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, Action.PROVE_SHUT, Action.FLUSH,
              Action.KEEP_COPY, "returned",
              Action.TEARDOWN, Action.SAVEFILE_DROP, Action.STORAGE_RELEASE, MessageType.RETURNED,
              modes=LATE)
    yield row("returned", "abort", "returned", "say it again", MessageType.RETURNED,
              modes=PEERS - LATE)

    # recover
    yield row("none", "recover", "none", "nothing here", Action.READ, modes=ALL)
    yield row("armed", "recover", "none", "it was cut off before it was this host's",
              "aborting", *_UNBUILT, modes=FILE)
    yield row("aborting", "recover", "none", "go on taking it down", *_UNBUILT, modes=FILE)
    yield row("given", "recover", "given", "targetcli restores it", Action.READ, modes=ALL)
    yield row("staged", "recover", "none", "nothing was given to us", "aborting", *_DROP)
    yield row("armed", "recover", "none",
              "the source kept it; until that is heard this may be the last copy",
              "aborting", *_DROP, messages="kept", modes=PEERS - INBAND)
    yield row("armed", "recover", "none", "the source kept it", Action.GATE_CLOSE, "aborting",
              *_DROP,
              messages="kept", modes=INBAND)
    yield row("armed", "recover", "opening", "the source says now that it released: own it",
              *_WHOLE, "opening", Action.GATE_OPEN, conditions=(Condition.PEER_SAYS_RELEASED,),
              modes=INBAND)
    yield row("armed", "recover", "serving", "the guest runs here: QEMU has committed",
              "serving", MessageType.SERVING,
              conditions=(Condition.SAME_BOOT, Condition.GUEST_RAN), modes=INBAND)
    yield row("opening serving forced", "recover", "confirmed", "the source is gone",
              *_WHOLE, "confirmed", Action.GATE_OPEN, Action.SAVEFILE_DROP, messages="retired")
    yield row("opening serving", "recover", "", "the same boot: own it still",
              *_WHOLE, Action.GATE_OPEN, conditions=(Condition.SAME_BOOT,))
    yield row("opening serving forced", "recover", "opening",
              "after a reboot: the source says now that it has not taken it back",
              *_WHOLE, "opening", Action.GATE_OPEN,
              conditions=(Condition.NEW_BOOT, Condition.PEER_SAYS_RELEASED))
    yield row("opening serving", "recover", "none", "the source was forced while we were down",
              Action.GATE_CLOSE, Action.SAVEFILE_DROP, "aborting", *_DROP,
              conditions=(Condition.NEW_BOOT, Condition.PEER_SAYS_KEPT))
    yield row("confirmed", "recover", "confirmed", "serve again after a reboot",
              *_WHOLE, Action.GATE_OPEN, Action.SAVEFILE_DROP, modes=ALL)
    yield row("returned", "recover", "none", "the source serves again: take ours down",
              "aborting", *_DROP, conditions=(Condition.PEER_SAYS_KEPT,))
    yield row("returned", "recover", "confirmed", "the source was already gone: it stays ours",
              *_WHOLE, "confirmed", Action.GATE_OPEN, Action.SAVEFILE_DROP, messages="retired")
    yield row("aborting", "recover", "none", "go on taking it down", *_DROP)
    yield row("forced", "recover", "forced", "the same boot: go on serving",
              *_WHOLE, Action.GATE_OPEN, conditions=(Condition.SAME_BOOT,))
    yield row("forced", "recover", "none", "the source was forced later: step down",
              Action.GATE_CLOSE, "aborting", *_DROP,
              conditions=(Condition.NEW_BOOT, Condition.PEER_SERVES_BY_FORCE))

    # on an operator's word
    force = (*_WHOLE, "forced", Action.GATE_OPEN, MessageType.SERVING)
    yield row("opening serving forced", "recover", "forced",
              "serve from our own copy; ask before serving at a boot",
              *force, conditions=(Condition.PEER_IS_FENCED, Condition.NEW_BOOT))
    yield row("armed returned", "recover", "confirmed",
              "the source may still believe that it owns: it must never boot with its records",
              "confirmed", *_WHOLE, Action.GATE_OPEN, Action.SAVEFILE_DROP,
              conditions=(Condition.PEER_IS_FENCED, Condition.PEER_NEVER_RETURNS))


TRANSITIONS: Tuple[Transition, ...] = tuple(
    row for rows in (*_source(), *_destination()) for row in rows)
#: Message → the side that says it.
SAID_BY: Mapping[MessageType, str] = {
    step.message: row.role for row in TRANSITIONS for step in row.steps
    if step.message is not None}


def rows_for(role: str, state: str, verb: str, mode: Mode,
             table: Iterable[Transition] = TRANSITIONS) -> List[Transition]:
    """The rows to try, in the table's order; the first whose messages and needs hold is taken."""
    return [row for row in table
            if row.role == role and row.state == state and row.verb == verb and mode in row.modes]


def deadline(role: str, verb: str) -> float:
    """Seconds without a sign of life after which a verb of a handover alarms: the longest that a
    row of it may take; ``role`` BOTH: of either side."""
    return max((row.deadline for row in TRANSITIONS
                if row.verb == verb and role in (row.role, BOTH)),
               default=30.0)  # a verb that this side has not, and is refused

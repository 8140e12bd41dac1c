"""The world as the checker sees it, and everything that may happen next.

The two services run the rows of the transition table, one step at a time, called by a driver that
may call anything in any order with any message that was ever said: this is every driver, and it is
message loss, delay, repetition and reordering too. Around them: two QEMUs that resume and exit by
themselves, a service crash between any two steps, a host losing power at any moment and booting
with targetcli restoring its save file, an operator. Crashes and reboots are not counted: any
number of them.

What is left out: the contents of the disk (but for whether all that was written is flushed), and
clocks. Targets that share a backstore are in tests/model/shared.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from lio_handover.protocol.table import (DESTINATION, SOURCE, TRANSITIONS, VHOST, Action,
                                         AfterReboot, Condition, MessageType, Mode, Step,
                                         Transition, state_of)
from tests.model.beside import Beside
from tests.model.files import Files

S, D = "s", "d"
#: Of a destination that owns the target alone, whoever restores it there.
OWNERS = ("confirmed", "given")
ROLE = {S: SOURCE, D: DESTINATION}
PEER = {S: D, D: S}

# the gate, as the kernel has it: nothing, built without registrations, complete but shut, open.
NOTHING, BUILT, SHUT, OPEN = "nothing", "built", "shut", "open"
OFF, ON, NEVER_AGAIN = 0, 1, -1
NO_VERSION = -1  # of registrations
FILE_EPOCH = 1000  # by file a document names its epoch, too: epoch * this + version

# Needs that are evaluated together with their message.
_WITH_MESSAGE = frozenset({Condition.DOCUMENT_CURRENT, Condition.RELEASE_MATCHES})

TO_SOURCE = frozenset(message.name for message in (
    MessageType.ARMED, MessageType.SERVING, MessageType.RETURNED, MessageType.ABORTED))

MessageSaid = Tuple[str, int, int]  # name, epoch, version
#: Before the name of a message that nobody said: whoever carries messages made it up.
MADE_UP = "made-up "


class Host(NamedTuple):
    up: int = ON
    row: int = -1  # row in execution, or -1
    at: int = 0  # its next step
    arg: int = NO_VERSION  # what came with the verb: a document's version, or an epoch
    state: str = ""  # journal
    epoch: int = 0  # journal
    aborted: int = 0  # journal: no epoch up to this one will ever be served here
    same_boot: bool = True  # journal's boot id is the present one
    file: int = 0  # save file: 0 absent, 1 enabled, 2 disabled
    disk: int = NO_VERSION  # registrations kept durably (APTPL file, journal)
    armed_with: int = NO_VERSION  # journal, in-band: version of the document that came
    gate: str = NOTHING  # kernel
    pr: int = NO_VERSION  # registrations in the kernel
    stale: bool = False  # kernel: a document came since it was loaded
    ran: bool = False  # kernel: a command was executed since it was loaded
    storage: bool = True  # kernel: the backing storage is open (late mode)
    dirty: bool = False  # kernel: initiators wrote since the last flush; a host that serves is so


class World(NamedTuple):
    s: Host
    d: Host
    qs: str  # source QEMU: run pre sent post gone; lost: it resumed and we had taken its endpoint
    qd: str  # destination QEMU: wait loaded run gone (never ran) crashed (ran)
    latest: int  # version of the registrations that initiators believe in
    messages: FrozenSet[MessageSaid]
    forces: int
    made: int = 0  # versions made so far (power loss may take the latest back)
    files: Files = Files()  # of tests.model.torn alone
    beside: Beside = Beside()  # of tests.model.shared alone


@dataclass(frozen=True)
class Scope:
    """How far to look: the only things that are counted."""

    epochs: int = 1
    changes: int = 1  # to the registrations, by initiators
    forces: int = 1  # words of an operator
    volatile: bool = False  # also registrations without APTPL, which power loss may take
    data: bool = True  # also whether what was written is flushed


@dataclass(frozen=True)
class Surroundings:
    """What is assumed of the rest; mutants change these as well as rows."""

    targetcli_meddles: bool = False  # somebody saves or restores with targetcli in the middle
    boot_scrub: bool = False  # our unit cleans the save file before targetcli's restore
    destination_waits: bool = True  # QEMU there was started with -S
    holder_survives: bool = True  # our initiator keeps the endpoint when the service crashes
    epochs_checked: bool = True
    tombstones: bool = True
    copies_durable: bool = True
    compares: bool = True  # a release looks whether the kernel still has what was copied last
    word_is_true: bool = True  # "fenced" is said only of a host that is off
    never_means_never: bool = True
    manager_knows: bool = True  # in-band: it resumes the source only where the guest never ran
    made_up: Tuple[MessageType, ...] = ()  # whoever carries messages makes up these, too
    macs_checked: bool = True  # both hosts have one key


def put(w: World, me: str, host: Host) -> World:
    return w._replace(s=host) if me == S else w._replace(d=host)


Event = Tuple[Tuple[str, ...], str, World]  # label, kind, what comes out
PLAIN, FORCE, BOOT_S, BOOT_D = "", "force", "boot-s", "boot-d"


@dataclass
class Model:
    mode: Mode
    scope: Scope = Scope()
    around: Surroundings = Surroundings()
    table: Tuple[Transition, ...] = TRANSITIONS
    _by_state: Dict[Tuple[str, str], List[int]] = field(default_factory=dict)
    _said: Dict[Tuple[FrozenSet[MessageSaid], MessageSaid], FrozenSet[MessageSaid]] = field(
        default_factory=dict)
    _live: Dict[Tuple[FrozenSet[MessageSaid], str, int, str, int, int],
                FrozenSet[MessageSaid]] = field(default_factory=dict)
    _asks_boot: FrozenSet[Tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        self.vhost = self.mode in VHOST
        self.late = self.mode is Mode.ISCSI_LATE
        self.inband = self.mode is Mode.VHOST_INBAND
        self.stopped = self.mode is Mode.VHOST_STOPPED
        self.by_file = self.mode is Mode.FILE
        for number, row in enumerate(self.table):
            if self.mode in row.modes:
                self._by_state.setdefault((row.role, row.state), []).append(number)

        self._asks_boot = frozenset(
            (row.role, row.state) for row in self.table
            if self.mode in row.modes
            and row.conditions & {Condition.SAME_BOOT, Condition.NEW_BOOT})

    def normal(self, w: World) -> World:
        """Forget what nothing can ask about again, so that worlds that cannot differ are one."""
        s, d = w.s, w.d
        if not s.same_boot and (SOURCE, s.state) not in self._asks_boot:
            s = s._replace(same_boot=True)
        if not d.same_boot and (DESTINATION, d.state) not in self._asks_boot:
            d = d._replace(same_boot=True)
        if d.ran and not self.inband:
            d = d._replace(ran=False)
        if self.scope.data and not s.dirty and self.serving(w, S):
            s = s._replace(dirty=True)
        if self.scope.data and not d.dirty and self.serving(w, D):
            d = d._replace(dirty=True)
        qd = w.qd
        if qd == "crashed" and not self.inband:
            qd = "gone"
        messages = w.messages
        if messages and self.around.epochs_checked:
            key = (messages, s.state, s.epoch, d.state, d.epoch, d.aborted)
            live = self._live.get(key)
            if live is None:
                live = self._live[key] = frozenset(
                    message for message in messages if self._useful(message, s, d))
            messages = live
        if s is w.s and d is w.d and qd is w.qd and messages is w.messages:
            return w
        return w._replace(s=s, d=d, qd=qd, messages=messages)

    def _useful(self, message: MessageSaid, s: Host, d: Host) -> bool:
        """Could the one it is for still act on it?"""
        name, epoch = message[0].replace(MADE_UP, ""), message[1]
        if name in TO_SOURCE:
            over = s.state in ("idle", "thawing", "retiring", "retired")
            return not (epoch < s.epoch or over and epoch == s.epoch)
        if name == MessageType.OFFER.name:
            return epoch > d.aborted
        if d.state in OWNERS:
            return False
        return epoch > d.aborted and not (
            d.state == "aborting" and epoch == d.epoch and not self.by_file)

    def initial(self) -> World:
        return World(
            s=Host(state="idle", file=1, disk=0, gate=OPEN, pr=0, dirty=self.scope.data),
            d=Host(state="none", storage=not self.late),
            qs="run" if self.vhost else "gone", qd="wait" if self.vhost else "gone",
            latest=0, messages=frozenset(), forces=0)

    # ---- what can be seen -------------------------------------------------------------------

    def attached(self, w: World, me: str) -> bool:
        """Whether any guest is."""
        return (w.qs if me == S else w.qd) == "run"

    def here(self, w: World, me: str) -> bool:
        """Whether every gate lets in, and every guest is attached."""
        return self.serving(w, me)

    def left(self, w: World) -> bool:
        """Whether no QEMU of the source resumes by itself."""
        return w.qs in ("post", "gone")

    def serving(self, w: World, me: str) -> bool:
        if self.vhost:
            return self.attached(w, me)
        host: Host = getattr(w, me)
        return host.up == ON and host.gate == OPEN

    def violation(self, w: World) -> Optional[str]:
        s, d = self.serving(w, S), self.serving(w, D)
        if s and d:
            return "two hosts serve the same disk"
        if self.late and w.s.storage and w.d.storage:
            return "two hosts have the storage open"
        if s and w.s.pr != w.latest or d and w.d.pr != w.latest:
            return "a host serves without registrations that were made"
        if s and w.d.dirty or d and w.s.dirty:
            return "a host serves without data that was written"
        if self.by_file and w.s.state == "retired" and w.d.state not in OWNERS \
                and self._exported(w):
            return "the source is gone, and nobody was known to serve"
        if w.qs == "lost":
            return "the source's QEMU resumed alone, found its endpoint taken: guest lost"
        return None

    @staticmethod
    def _exported(w: World) -> bool:
        """Whether the source's document of its present epoch is in somebody's hands."""
        return any((name, epoch) == (MessageType.DOCUMENT.name, w.s.epoch)
                   for name, epoch, _ in w.messages)

    def settled(self, w: World) -> bool:
        """One owner serves, nothing is open any more."""
        if w.s.row >= 0 or w.d.row >= 0:
            return False
        if self.by_file and w.s.state == "retired" and (
                w.d.state == "none" or w.d.up == NEVER_AGAIN):
            return not self._exported(w)  # wanted so
        if w.s.state == "retired" and w.d.state in OWNERS:
            return self.here(w, D) or w.d.state == "given"  # so targetcli alone sees to that
        if w.s.state == "idle" and (w.d.state == "none" or self.by_file
                                    and w.d.up == NEVER_AGAIN):
            return self.here(w, S)
        return w.s.up == NEVER_AGAIN and w.d.state in OWNERS and (
            self.here(w, D) or w.d.state == "given")

    # ---- verbs: rows of the table -------------------------------------------------------------

    def _versions(self, w: World, host: Host, message: MessageType) -> List[int]:
        """Versions under which `message` was said for this host's epoch."""
        names = {message.name} if self.around.macs_checked else \
            {message.name, MADE_UP + message.name}
        return sorted({version for name, epoch, version in w.messages if name in names
                       and (epoch == host.epoch or not self.around.epochs_checked)})

    @staticmethod
    def _current(host: Host) -> int:
        return host.pr if host.gate in (SHUT, OPEN) else host.disk

    def _compared(self, host: Host) -> int:
        """The version that a release takes for the source's present one."""
        return self._current(host) if self.around.compares else host.disk

    def _need(self, w: World, me: str, condition: Condition) -> bool:
        host: Host = getattr(w, me)
        peer: Host = getattr(w, PEER[me])
        if condition is Condition.SAME_BOOT:
            return host.same_boot
        if condition is Condition.NEW_BOOT:
            return not host.same_boot
        if condition is Condition.GUEST_STOPPED:
            return not self.attached(w, me)
        if condition is Condition.GUEST_HERE:
            return self.here(w, me)
        if condition is Condition.GUEST_LEFT:
            return self.left(w)
        if condition is Condition.RAN_SINCE_EXPORT:
            exported = self._versions(w, host, MessageType.DOCUMENT)
            return bool(exported) and self._current(host) not in exported
        if condition is Condition.PEER_ARMED_WITH_OTHER:
            return (peer.up == ON and peer.epoch == host.epoch and peer.state == "armed"
                    and peer.row < 0 and peer.armed_with != self._current(host))
        if condition is Condition.GUEST_RAN:
            return self.attached(w, me) or host.ran
        if condition is Condition.PEER_SAYS_RELEASED:
            return (peer.up == ON and peer.epoch == host.epoch
                    and peer.state in ("released", "retiring", "retired"))
        if condition is Condition.PEER_SAYS_KEPT:
            return peer.up == ON and (peer.epoch > host.epoch or peer.epoch == host.epoch
                                      and peer.state in ("forced", "idle"))
        if condition is Condition.PEER_SERVES_BY_FORCE:
            return peer.up == ON and peer.state == "forced" and peer.gate == OPEN
        if condition is Condition.PEER_IS_FENCED:
            return w.forces < self.scope.forces and (
                peer.up != ON or not self.around.word_is_true)
        if condition is Condition.PEER_NEVER_RETURNS:
            return True
        if condition is Condition.IMPORTED:
            return not self.around.word_is_true or (
                peer.state in OWNERS and peer.epoch == host.epoch and peer.row < 0
                or host.state == "frozen" and not self._exported(w))  # nobody shall serve it
        if condition is Condition.NOT_IMPORTED:
            return not self.around.word_is_true or self._imported(host, peer) is False or (
                peer.up != ON and w.forces < self.scope.forces)
        raise AssertionError(condition)

    @staticmethod
    def _imported(host: Host, peer: Host) -> bool:
        """By file: whether the destination serves, or is about to, under the source's epoch."""
        return peer.epoch == host.epoch and (peer.state in OWNERS or peer.row >= 0)

    def _told(self, w: World, me: str, row: Transition) -> World:
        """What an operator's words make true, besides what they are believed of."""
        host: Host = getattr(w, me)
        peer: Host = getattr(w, PEER[me])
        if Condition.PEER_NEVER_RETURNS in row.conditions and self.around.never_means_never:
            return put(w, PEER[me], peer._replace(up=NEVER_AGAIN))
        if Condition.NOT_IMPORTED in row.conditions and self.around.word_is_true:
            if not self._imported(host, peer):
                return put(w, PEER[me], peer._replace(aborted=max(peer.aborted, host.epoch)))
            # It is off, and is believed to be gone for good, with what was registered there since.
            return put(w, PEER[me], peer._replace(up=NEVER_AGAIN))._replace(
                latest=host.disk, forces=w.forces + 1)
        return w

    def _arguments(self, w: World, me: str, row: Transition) -> List[int]:
        """With what the row may be called now; empty when it may not."""
        host: Host = getattr(w, me)
        for condition in row.conditions:
            if condition not in _WITH_MESSAGE and not self._need(w, me, condition):
                return []
        arguments = [NO_VERSION]
        for message in row.messages:
            if message is MessageType.OFFER:
                arguments = [epoch for name, epoch, _ in w.messages
                             if name == message.name and epoch > host.aborted]
                continue
            if row.verb == "import":
                arguments = [epoch * FILE_EPOCH + version for name, epoch, version in w.messages
                             if name == message.name and epoch > host.aborted]
                continue
            versions = self._versions(w, host, message)
            if message is MessageType.DOCUMENT and self.inband:  # only in QEMU's stream: Save, Load
                streaming = w.qs == "pre" and w.s.state == "frozen" and w.s.row < 0
                versions = [v for v in versions if streaming and v == w.s.pr]
            if Condition.DOCUMENT_CURRENT in row.conditions:
                versions = [version for version in versions if version == self._compared(host)]
            if Condition.RELEASE_MATCHES in row.conditions:
                versions = [version for version in versions if version == host.disk]
            if not versions:
                return []
            if message in (MessageType.DOCUMENT, MessageType.RETURNED):
                arguments = versions
        if row.verb == "abort" and row.state == "none":
            arguments = [w.s.epoch] if w.s.epoch else []  # the source asks, and names its epoch
        if row.verb in ("prepare", "freeze") and row.state == "idle" \
                and host.epoch >= self.scope.epochs:
            return []
        return arguments

    def _verbs(self, w: World, me: str) -> Iterator[Event]:
        host: Host = getattr(w, me)
        if host.up != ON:
            return
        if host.row >= 0:
            yield from self._advance(w, me, host.row, host.at, host.arg)
            return
        for number in self._by_state.get((ROLE[me], host.state), ()):
            row = self.table[number]
            for argument in self._arguments(w, me, row):
                yield from self._advance(self._told(w, me, row), me, number, 0, argument)

    def _advance(self, w: World, me: str, number: int, at: int, arg: int) -> Iterator[Event]:
        """Run the row from step `at` up to and including the first step that changes anything."""
        row = self.table[number]
        before: Host = getattr(w, me)
        free = put(w, me, before._replace(row=-1, at=0, arg=NO_VERSION))
        forced = row.forced or w.forces and Condition.NOT_IMPORTED in row.conditions
        kind = FORCE if forced else PLAIN
        if row.taken_back and at and all(step.action is not Action.GATE_OPEN
                                         for step in row.steps[:at]):
            yield (me, "took back", str(number), str(at)), kind, put(free, me, before._replace(
                row=-1, at=0, arg=NO_VERSION, state=row.taken_back, epoch=0, gate=NOTHING,
                pr=NO_VERSION))
        for index in range(at, len(row.steps)):
            step = row.steps[index]
            after = self._step(free, me, row, step, arg)
            if after is None:
                if before.row >= 0:
                    yield (me, "refused", str(number), str(index)), kind, free
                return
            if after is not free and after != free:
                next_ = index + (not self._half_done(after, me, row, step))
                if next_ < len(row.steps):
                    host: Host = getattr(after, me)
                    if not any(later.action is Action.KEEP_MESSAGE
                               for later in row.steps[next_:]):
                        arg = NO_VERSION
                    after = put(after, me, host._replace(row=number, at=next_, arg=arg))
                what = "began" if before.row < 0 else "went on"
                yield (me, what, str(number), str(index)), kind, after
                return
        if before.row >= 0:
            yield (me, "ended", str(number), str(at)), kind, free

    def _half_done(self, w: World, me: str, row: Transition, step: Step) -> bool:
        """Whether `step` has more than one gate to work at, and was at the first of them only."""
        return False

    def _say(self, w: World, message: MessageSaid) -> World:
        key = (w.messages, message)
        messages = self._said.get(key)
        if messages is None:
            messages = self._said[key] = w.messages | {message}
        return w._replace(messages=messages)

    def _record(self, w: World, me: str, row: Transition, state: str, arg: int) -> World:
        host: Host = getattr(w, me)
        epoch, aborted = host.epoch, host.aborted
        if state == "prepared" or self.by_file and (host.state, state) == ("idle", "freezing"):
            epoch += 1
        elif state == "staged" and host.state == "none":
            epoch = arg
        elif state == "none":
            if self.around.tombstones and not self.by_file:  # there it may be tried again
                aborted = max(aborted, arg if host.state == "none" else epoch)
            epoch = 0
            host = host._replace(armed_with=NO_VERSION)
        host = host._replace(state=state, epoch=epoch, aborted=aborted, same_boot=True)
        w = put(w, me, host)
        if row.forced:  # the operator accepts that what only the peer had is gone
            peer: Host = getattr(w, PEER[me])
            w = put(w, PEER[me], peer._replace(dirty=False))._replace(
                latest=host.disk, forces=w.forces + 1)
        return w

    def _step(self, w: World, me: str, row: Transition, step: Step, arg: int) -> Optional[World]:
        """The world after `step`, or None when it refuses."""
        host: Host = getattr(w, me)
        do = step.action
        if do is Action.RECORD:
            return self._record(w, me, row, step.state, arg)
        if do is Action.SAY:
            assert step.message is not None
            message, epoch, version = step.message, host.epoch, NO_VERSION
            if message is MessageType.ABORTED:
                epoch = max(host.aborted, arg if host.state == "none" else 0)
            if message is MessageType.DOCUMENT:
                version = self._current(host)
            elif message is MessageType.RELEASED:
                version = self._compared(host)
            elif message in (MessageType.ARMED, MessageType.RETURNED):
                armed_inband = message is MessageType.ARMED and self.inband
                version = host.armed_with if armed_inband else host.disk
            return self._say(w, (message.name, epoch, version))
        new = host
        if do is Action.SAVEFILE_DROP:
            new = host._replace(file=0)
        elif do is Action.SAVEFILE_GIVE and host.gate != OPEN:
            return None
        elif do in (Action.SAVEFILE_PUT, Action.SAVEFILE_GIVE):
            new = host._replace(file=1)
        elif do is Action.ADOPT:
            if host.gate != OPEN or host.pr == NO_VERSION:
                return None
            new = host._replace(disk=host.pr)
        elif do is Action.GATE_CLOSE:
            if self.vhost and self.attached(w, me):
                return None  # ENODEV: somebody else has the endpoint
            if host.gate == OPEN:
                new = host._replace(gate=SHUT)
        elif do is Action.GATE_OPEN:
            if host.gate not in (SHUT, OPEN):
                return None
            new = host._replace(gate=OPEN)
        elif do is Action.KEEP_COPY:
            if host.gate in (SHUT, OPEN) and host.pr != NO_VERSION and not (
                    host.stale and row.verb == "clear"):  # then the copy is newer
                new = host._replace(disk=host.pr)
        elif do is Action.KEEP_MESSAGE and row.verb == "import":
            new = host._replace(disk=arg % FILE_EPOCH, epoch=arg // FILE_EPOCH)
        elif do is Action.KEEP_MESSAGE:
            new = host._replace(disk=arg, armed_with=arg if self.inband and me == D else NO_VERSION,
                                stale=host.gate in (SHUT, OPEN) and host.pr != arg)
        elif do is Action.COMPARE:
            if self._compared(host) not in self._versions(w, host, MessageType.ARMED):
                return None
        elif do is Action.PROVE_SHUT:
            if not self.vhost and (host.gate == OPEN or host.file == 1):
                return None
        elif do is Action.PROVE_NEVER_RAN:
            if host.ran or self.attached(w, me):
                return None
        elif do is Action.FLUSH:
            new = host._replace(dirty=False)
        elif do is Action.IMPORT:
            new = host._replace(gate=SHUT, pr=host.disk, stale=False, ran=False)
        elif do is Action.BUILD:
            if host.gate == NOTHING:
                new = host._replace(gate=BUILT)
        elif do is Action.LOAD:
            if self.late and not host.storage:
                return None
            if host.gate in (NOTHING, BUILT) or host.stale or host.pr == NO_VERSION:
                if self.vhost and self.attached(w, me):
                    return None
                new = host._replace(gate=SHUT, pr=host.disk, stale=False, ran=False)
        elif do is Action.TEARDOWN:
            if self.vhost and self.attached(w, me):
                return None
            new = host._replace(gate=NOTHING, pr=NO_VERSION, stale=False, ran=False)
        elif do is Action.APTPL_DROP:
            new = host._replace(disk=NO_VERSION)
        elif do is Action.STORAGE_RELEASE:
            if host.gate != NOTHING:
                return None
            new = host._replace(storage=False)
        elif do is Action.STORAGE_ACQUIRE:
            new = host._replace(storage=True)
        elif do is Action.CHECK:
            if host.gate != OPEN or host.pr == NO_VERSION:
                return None
        else:  # READ DRAIN VERIFY TPG_DISABLE: nothing the model holds
            return w
        return w if new is host else put(w, me, new)

    # ---- everything else that happens -----------------------------------------------------------

    def events(self, w: World) -> List[Event]:
        out: List[Event] = []
        for me in (S, D):
            out.extend(self._verbs(w, me))
            out.extend(self._host(w, me))
        if self.vhost:
            out.extend(self._qemu(w))
        out.extend(self._made_up(w))
        for me in (S, D):
            if w.made < self.scope.changes and self.serving(w, me):
                host: Host = getattr(w, me)
                new = w.made + 1
                host = host._replace(pr=new, ran=host.ran or me == D)
                changed = w._replace(latest=new, made=new)
                out.append((("initiator", me), PLAIN, put(changed, me, host._replace(disk=new))))
                if self.scope.volatile:
                    out.append((("initiator", me, "volatile"), PLAIN, put(changed, me, host)))
        return out

    def _made_up(self, w: World) -> Iterator[Event]:
        for message in self.around.made_up:
            for epoch in {w.s.epoch, w.d.epoch} - {0}:
                for version in range(NO_VERSION, w.made + 1):
                    yield ("carrier", message.name.lower()), PLAIN, self._say(
                        w, (MADE_UP + message.name, epoch, version))

    def _restored(self, host: Host) -> Host:
        """What targetcli's restore makes of this kernel; for vhost, a nexus that is not ours."""
        if not host.file:
            return host._replace(gate=NOTHING, pr=NO_VERSION, stale=False, ran=False)
        return host._replace(gate=OPEN if host.file == 1 else SHUT,
                             pr=NO_VERSION if self.vhost else host.disk, storage=True,
                             stale=False, ran=False)

    def _host(self, w: World, me: str) -> Iterator[Event]:
        host: Host = getattr(w, me)
        if host.up == ON:
            if host.row >= 0:
                gate = host.gate
                if self.vhost and gate == SHUT and not self.around.holder_survives:
                    gate = OPEN
                yield (me, "service crashes"), PLAIN, put(w, me, host._replace(
                    row=-1, at=0, arg=NO_VERSION, gate=gate))
            dark = host._replace(up=OFF, row=-1, at=0, arg=NO_VERSION, same_boot=False,
                                 gate=NOTHING, pr=NO_VERSION, stale=False, ran=False,
                                 storage=not self.late, dirty=False)
            if me == D and not self.around.copies_durable:
                dark = dark._replace(disk=NO_VERSION)
            off = put(w, me, dark)
            if me == S:
                off = off._replace(qs="gone")
            else:
                off = off._replace(qd="crashed" if w.qd in ("run", "crashed") else "gone")
            latest = w.latest
            peer: Host = getattr(w, PEER[me])
            if self.scope.volatile and host.pr == latest and latest not in (
                    host.disk, peer.disk, peer.pr):
                latest = host.disk  # made without APTPL and not yet kept: gone with power, rightly
            yield (me, "loses power"), PLAIN, off._replace(latest=latest)
            if self.around.targetcli_meddles:
                file = {NOTHING: 0, BUILT: 2, SHUT: 2, OPEN: 1}[host.gate]
                if file != host.file:
                    yield (me, "targetcli saves"), PLAIN, put(w, me, host._replace(file=file))
                if not self.vhost and (host.file or host.gate != NOTHING):
                    yield (me, "targetcli restores"), PLAIN, put(w, me, self._restored(host))
        elif host.up == OFF:
            kind = BOOT_S if me == S else BOOT_D
            file = host.file
            if self.around.boot_scrub and state_of(ROLE[me], host.state,
                                                   self.mode).after_reboot != AfterReboot.OPEN:
                file = 0
            host = host._replace(up=ON, file=file)
            yield (me, "boots"), kind, put(w, me, host)
            if file:
                yield (me, "boots, targetcli restores"), kind, put(w, me, self._restored(host))

    def _attach(self, w: World, me: str) -> World:
        """QEMU starts its guest: SET_ENDPOINT, and exit(1) when that fails."""
        host: Host = getattr(w, me)
        if host.gate == OPEN:
            if me == S:
                return w._replace(qs="run")
            return w._replace(qd="run", d=host._replace(ran=True))
        return w._replace(qs="gone") if me == S else w._replace(qd="gone")

    def _resume_alone(self, w: World) -> World:
        """Migration failed as the source's QEMU sees it: vm_start, nobody asked."""
        if self.stopped:
            return w._replace(qs="pre")
        after = self._attach(w, S)
        if after.qs == "gone" and w.s.state not in ("released", "retiring", "retired"):
            return w._replace(qs="lost")
        return after

    def _qemu(self, w: World) -> Iterator[Event]:
        qs, qd = w.qs, w.qd
        if qs == "run" and (self.stopped or qd == "wait"):
            yield ("qemu", "stops the guest"), PLAIN, w._replace(qs="pre")
        if qs == "pre":
            if not self.stopped:
                yield ("qemu", "cancelled"), PLAIN, self._resume_alone(w)
            loaded_there = (w.s.state == "frozen" and w.s.row < 0  # Save() has answered
                            and w.d.state == "armed" and w.d.row < 0  # and Load() too
                            and w.d.epoch == w.s.epoch and w.d.gate == OPEN and w.d.pr == w.s.pr
                            and not w.s.dirty)  # else Save() was for an earlier attempt
            if qd == "wait" and (loaded_there or not self.inband):
                yield ("qemu", "sends the guest"), PLAIN, w._replace(qs="sent")
        if qs == "sent":
            yield ("qemu", "network cut"), PLAIN, self._resume_alone(w)
            if qd == "wait":
                loaded = w._replace(qd="loaded")
                if not self.around.destination_waits:
                    loaded = self._attach(loaded, D)
                yield ("qemu", "arrives"), PLAIN, loaded
            if qd in ("loaded", "run"):
                yield ("qemu", "completed"), PLAIN, w._replace(qs="post")
        if qd == "loaded" and (qs == "post" or not self.inband):
            yield ("qemu", "cont destination"), PLAIN, self._attach(w, D)
        if qs == "post" or (qs == "pre" and self.stopped):
            if not self.inband or (qd == "gone" and self.around.manager_knows) or (
                    qd in ("gone", "crashed") and not self.around.manager_knows):
                yield ("qemu", "cont source"), PLAIN, self._attach(w, S)
        if qs != "gone":
            yield ("qemu", "source QEMU killed"), PLAIN, w._replace(qs="gone")
        if qd not in ("gone", "crashed"):
            yield ("qemu", "destination QEMU killed"), PLAIN, w._replace(
                qd="crashed" if qd == "run" else "gone")
        if qd in ("gone", "crashed") and qs == "run" and w.d.up == ON:
            yield ("qemu", "destination QEMU started"), PLAIN, w._replace(qd="wait")
        # a guest that is gone is booted again, wherever the endpoint lets it; our unit ran before
        if qs == "gone" and w.s.gate == OPEN and self._may_cold_start(w, S):
            yield ("qemu", "guest booted on source"), PLAIN, self._attach(w, S)
        if qd in ("gone", "crashed") and w.d.gate == OPEN and self._may_cold_start(w, D):
            yield ("qemu", "guest booted on destination"), PLAIN, self._attach(w, D)

    def _may_cold_start(self, w: World, me: str) -> bool:
        host: Host = getattr(w, me)
        opens = state_of(ROLE[me], host.state, self.mode).after_reboot
        owner = opens == AfterReboot.OPEN or host.state in ("opening", "serving", "forced")
        if owner:
            return host.pr != NO_VERSION and not host.stale  # our boot unit ran before
        return not self.inband

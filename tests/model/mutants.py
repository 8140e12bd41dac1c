"""The protocol broken on purpose, one way at a time: the checker must tell a story for each.

A mutant changes rows of the table, or what is assumed of the surroundings. `expects` is a part of
the sentence of the invariant that must break, so that one caught for another reason is noticed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Optional, Tuple

from lio_handover.protocol import pr_survival
from lio_handover.protocol.pr_survival import File, Survival, Takes
from lio_handover.protocol.table import (ALL, DESTINATION, HELD, SOURCE, TRANSITIONS, Action,
                                         Condition, MessageType, Mode, Step, Transition)
from tests.model.search import Result, explore
from tests.model.shared import SharedModel, Wrong
from tests.model.torn import BACK, TornModel
from tests.model.world import Model, Scope, Surroundings

Table = Tuple[Transition, ...]

TWICE = "two hosts serve"
STALE = "without registrations"
STORAGE = "storage open"
GUEST = "guest lost"
NO_WAY = "no way out"
DEAD = "arrives alive"
GONE = "nobody was known to serve"
DATA = "without data"
NEVER = "can ever complete"


@dataclass(frozen=True)
class Mutant:
    what: str
    expects: str
    mode: Mode = Mode.ISCSI
    change: Optional[Callable[[Transition], Transition]] = None
    around: Dict[str, Any] = field(default_factory=dict)
    scope: Scope = Scope()
    survival: Optional[Tuple[pr_survival.Rule, ...]] = None
    beside: str = ""  # of targets that share a backstore: "guest", "iscsi"
    wrong: Optional[Wrong] = None

    def model(self) -> Model:
        table: Table = TRANSITIONS
        if self.change is not None:
            table = tuple(self.change(row) for row in TRANSITIONS)
        if self.survival is not None:
            return TornModel(self.mode, self.scope, Surroundings(**self.around), table,
                             survival=self.survival)
        if self.beside:
            return SharedModel(self.mode, self.scope, Surroundings(**self.around), table,
                               guests=self.beside == "guest", calm=True, wrong=self.wrong)
        return Model(self.mode, self.scope, Surroundings(**self.around), table)

    def changes_something(self) -> bool:
        model, plain = self.model(), Model(self.mode, self.scope)
        return [row for row in model.table if self.mode in row.modes] != [
            row for row in plain.table if self.mode in row.modes] or model.around != plain.around \
            or self.survival not in (None, pr_survival.TABLE) or self.wrong is not None

    def run(self) -> Result:
        return explore(self.model(), liveness=self.expects in (NO_WAY, DEAD, NEVER))


def _rows(role: str, verb: str, state: str = "", messages: str = "", to: str = "",
          modes: frozenset[Mode] = ALL) -> Callable[[Transition], bool]:
    def matches(row: Transition) -> bool:
        return (row.role == role and row.verb in verb.split() and bool(row.modes & modes)
                and (not state or row.state in state.split()) and (not to or row.to == to)
                and (not messages or MessageType[messages.upper()] in row.messages))
    return matches


def _without(where: Callable[[Transition], bool], *dos: Action) -> Callable[[Transition],
                                                                            Transition]:
    def change(row: Transition) -> Transition:
        if not where(row):
            return row
        return replace(row, steps=tuple(step for step in row.steps if step.action not in dos))
    return change


def _no_needs(where: Callable[[Transition], bool], *conditions: Condition,
              messages: str = "") -> Callable[[Transition], Transition]:
    gone = frozenset(MessageType[word.upper()] for word in messages.split())

    def change(row: Transition) -> Transition:
        if not where(row):
            return row
        return replace(row, conditions=row.conditions - frozenset(conditions),
                       messages=row.messages - gone)
    return change


def _first(where: Callable[[Transition], bool], moved: Callable[[Step], bool],
           before: Callable[[Step], bool]) -> Callable[[Transition], Transition]:
    """The step `moved` is done just before the first step `before`."""
    def change(row: Transition) -> Transition:
        if not where(row) or not any(moved(step) for step in row.steps):
            return row
        steps = [step for step in row.steps if not moved(step)]
        at = next((n for n, step in enumerate(steps) if before(step)), -1)
        if at < 0:
            return row
        return replace(row, steps=tuple(
            steps[:at] + [step for step in row.steps if moved(step)] + steps[at:]))
    return change


def _adding(where: Callable[[Transition], bool], before: Callable[[Step], bool],
            *added: Step) -> Callable[[Transition], Transition]:
    def change(row: Transition) -> Transition:
        if not where(row):
            return row
        at = next((n for n, step in enumerate(row.steps) if before(step)), -1)
        if at < 0:
            return row
        return replace(row, steps=row.steps[:at] + added + row.steps[at:])
    return change


def _both(*changes: Callable[[Transition], Transition]) -> Callable[[Transition], Transition]:
    def change(row: Transition) -> Transition:
        for one in changes:
            row = one(row)
        return row
    return change


def _both_rows(*wheres: Callable[[Transition], bool]) -> Callable[[Transition], bool]:
    return lambda row: any(where(row) for where in wheres)


def _as_state(where: Callable[[Transition], bool], state: str) -> Callable[[Transition],
                                                                           Transition]:
    """The row is one of another state, too late."""
    return lambda row: replace(row, state=state) if where(row) else row


def _opens(file: File, takes: Takes) -> Tuple[pr_survival.Rule, ...]:
    """The table of surviving registrations with a row that opens before it asks, or looks."""
    return tuple(made for row in pr_survival.TABLE for made in (
        *([replace(row, file=frozenset({file}), answer=Survival.OPEN, takes=takes)]
          if file in row.file and pr_survival.Copy.OLDER in row.copy
          and row.kernel == {pr_survival.Kernel.REBOOTED} else []), row))


def _does(*dos: Action) -> Callable[[Step], bool]:
    return lambda step: step.action in dos


def _says(message: MessageType) -> Callable[[Step], bool]:
    return lambda step: step.message is message


def _records(state: str = "") -> Callable[[Step], bool]:
    return lambda step: step.action is Action.RECORD and (not state or step.state == state)


_S, _D = SOURCE, DESTINATION
_SAYS_RELEASED = _rows(_S, "release", "frozen")
_ARM = _rows(_D, "activate", "staged armed", messages="document")
_OWN = _rows(_D, "activate", "armed", to="opening")
_BACK = _rows(_S, "thaw recover", "released", to="idle")
_GIVE_BACK = _rows(_D, "abort", "opening serving")
_EXPORT = _rows(_S, "export", "frozen", to="released")
_IMPORT = _rows(_D, "import")

MUTANTS: Dict[str, Mutant] = {
    # those that were asked for by name
    "no-freeze": Mutant(
        "freeze does not close the gate", TWICE,
        change=_without(_rows(_S, "freeze release"), Action.GATE_CLOSE, Action.PROVE_SHUT)),
    "savefile-at-retire": Mutant(
        "the save file is changed only when the source is taken down", TWICE,
        change=_without(_rows(_S, "freeze release"), Action.SAVEFILE_DROP, Action.PROVE_SHUT)),
    "no-S-inband": Mutant(
        "in-band, the destination's QEMU is started without -S", TWICE, Mode.VHOST_INBAND,
        around={"destination_waits": False}),
    "no-S-qmp": Mutant(
        "by QMP, the destination's QEMU is started without -S", DEAD, Mode.VHOST_QMP,
        around={"destination_waits": False}, scope=Scope(changes=0, forces=0)),
    "released-after-gate": Mutant(
        "`released` is written after it was said: the destination may already have opened", TWICE,
        change=_first(_SAYS_RELEASED, _says(MessageType.RELEASED), _records("released"))),
    "recover-guesses": Mutant(
        "recover takes a silent destination for one that never served", TWICE,
        change=_no_needs(_rows(_S, "recover", "released", "aborted"), messages="aborted")),
    "abort-unlinks-first": Mutant(
        "abort after the gate was open takes LUNs off before it exported", STALE,
        change=_adding(_GIVE_BACK, _does(Action.KEEP_COPY), Step(Action.TEARDOWN)),
        scope=Scope(forces=0, volatile=True)),
    # messages and epochs
    "epoch-ignored": Mutant(
        "messages of an older epoch are taken for this one's", TWICE,
        around={"epochs_checked": False}, scope=Scope(epochs=2, changes=0, forces=0)),
    "no-tombstone": Mutant(
        "an aborted epoch is not remembered", TWICE,
        around={"tombstones": False}, scope=Scope(changes=0, forces=0)),
    "thaw-after-released": Mutant(
        "thaw is allowed after released without the destination's word", TWICE,
        change=_no_needs(_rows(_S, "thaw", "released", "aborted"), messages="aborted")),
    "released-unarmed": Mutant(
        "released is said to a destination that is not armed", TWICE,
        change=_both(_no_needs(_SAYS_RELEASED, Condition.DOCUMENT_CURRENT, messages="armed"),
                     _without(_SAYS_RELEASED, Action.COMPARE))),
    "digest-ignored": Mutant(
        "the source releases whatever document the destination is armed with", STALE,
        Mode.VHOST_QMP,
        change=_both(_no_needs(_SAYS_RELEASED, Condition.DOCUMENT_CURRENT),
                     _without(_SAYS_RELEASED, Action.COMPARE),
                     _no_needs(_OWN, Condition.RELEASE_MATCHES)), scope=Scope(forces=0)),
    "old-release-after-reboot": Mutant(
        "a destination that was rebooted still acts on an old `released`", TWICE,
        change=_no_needs(_OWN, Condition.SAME_BOOT)),
    "serving-unseen": Mutant(
        "the destination says that it serves before it was seen to", NO_WAY,
        change=_adding(_ARM, _says(MessageType.ARMED),
                       Step(Action.SAY, message=MessageType.SERVING)),
        scope=Scope(forces=0)),
    "retire-early": Mutant(
        "the source is taken down as soon as it has released", NO_WAY,
        change=_no_needs(_rows(_S, "retire", "released"), messages="serving"),
        scope=Scope(forces=0)),
    "no-copy-before-gate": Mutant(
        "the destination opens its gate while its copy is not yet on its disk", STALE,
        around={"copies_durable": False}),
    "load-after-owning": Mutant(
        "the destination records that it owns before what it owns is loaded", STALE, Mode.VHOST_QMP,
        change=_first(_OWN, _records("opening"), _does(Action.LOAD)), scope=Scope(forces=0)),
    "kept-before-copy": Mutant(
        "the source says that it goes on before it kept what came back", STALE,
        change=_without(_BACK, Action.KEEP_MESSAGE)),
    "drops-before-kept": Mutant(
        "the destination gives the target back and forgets it at once", STALE,
        change=_adding(_GIVE_BACK, _says(MessageType.RETURNED), Step(Action.TEARDOWN),
                       Step(Action.RECORD, state="none"))),
    # boots and operators
    "boot-opens-unasked": Mutant(
        "a destination that is not confirmed serves after a reboot without asking", TWICE,
        change=_no_needs(_rows(_D, "recover", "opening serving", to="opening"),
                         Condition.PEER_SAYS_RELEASED)),
    "file-before-confirm": Mutant(
        "the destination enters its save file before the source is gone", TWICE,
        change=_adding(_OWN, _does(Action.GATE_OPEN), Step(Action.SAVEFILE_PUT))),
    "forced-into-file": Mutant(
        "a source that serves by force enters its save file", TWICE,
        change=_adding(_rows(_S, "recover", "released", to="forced"), _does(Action.GATE_OPEN),
                       Step(Action.SAVEFILE_PUT)), scope=Scope(changes=0, forces=2)),
    "no-second-look": Mutant(
        "release does not look at the save file again (somebody left targetcli in between)", TWICE,
        change=_without(_SAYS_RELEASED, Action.SAVEFILE_DROP, Action.PROVE_SHUT),
        scope=Scope(changes=0, forces=0),
        around={"targetcli_meddles": True, "boot_scrub": True}),
    "no-scrub": Mutant(
        "somebody saves with targetcli, and nothing cleans the file before its restore", TWICE,
        around={"targetcli_meddles": True}, scope=Scope(changes=0)),
    "operator-errs": Mutant(
        "the operator says `fenced` of a host that is on (an assumption, not a defect)", TWICE,
        around={"word_is_true": False}),
    "gone-returns": Mutant(
        "a host comes back that was said never to (an assumption, not a defect)", TWICE,
        around={"never_means_never": False}, scope=Scope(changes=0)),
    # APTPL files that a power cut tears
    "broken-means-none": Mutant(
        "an APTPL file that is broken is taken for one that says that there are none", STALE,
        survival=_opens(File.BROKEN, Takes.NONE), scope=Scope(forces=0)),
    "copy-believed": Mutant(
        "where the APTPL file is broken the kept copy is believed, however old", BACK,
        survival=_opens(File.BROKEN, Takes.COPY), scope=Scope(forces=0)),
    "copy-before-file": Mutant(
        "the kept copy is believed although the APTPL file is whole", BACK,
        survival=_opens(File.WHOLE, Takes.COPY), scope=Scope(forces=0)),
    # storage and QEMU
    "released-before-closing": Mutant(
        "late: released is said before the storage is closed", STORAGE, Mode.ISCSI_LATE,
        change=_first(_SAYS_RELEASED, _says(MessageType.RELEASED), _does(Action.STORAGE_RELEASE))),
    "returned-before-closing": Mutant(
        "late: the target is given back before the storage is closed", STORAGE, Mode.ISCSI_LATE,
        change=_first(_GIVE_BACK, _says(MessageType.RETURNED), _does(Action.STORAGE_RELEASE))),
    "occupy-omitted": Mutant(
        "the source's endpoint is not occupied at release", TWICE, Mode.VHOST_QMP,
        change=_without(_rows(_S, "release", modes=HELD), Action.GATE_CLOSE),
        scope=Scope(changes=0)),
    "occupy-omitted-stopped": Mutant(
        "the source's endpoint is not occupied at release", TWICE, Mode.VHOST_STOPPED,
        change=_without(_rows(_S, "release", modes=HELD), Action.GATE_CLOSE),
        scope=Scope(changes=0)),
    "holder-dies": Mutant(
        "whoever occupies the endpoint dies with the service", TWICE, Mode.VHOST_QMP,
        around={"holder_survives": False}, scope=Scope(changes=0, forces=0)),
    "armed-open": Mutant(
        "the destination's endpoint is not occupied while it is armed", TWICE, Mode.VHOST_QMP,
        change=_adding(_ARM, _says(MessageType.ARMED), Step(Action.GATE_OPEN)),
        scope=Scope(changes=0)),
    "occupy-too-early": Mutant(
        "the source's endpoint is occupied at freeze, while its QEMU may still resume", GUEST,
        Mode.VHOST_QMP, change=_adding(_rows(_S, "freeze"), _records("frozen"),
                                       Step(Action.GATE_CLOSE)), scope=Scope(changes=0)),
    "release-before-completed": Mutant(
        "the source's endpoint is occupied before the migration has completed", GUEST,
        Mode.VHOST_QMP, change=_no_needs(_SAYS_RELEASED, Condition.GUEST_LEFT),
        scope=Scope(changes=0)),
    "inband-thaws-alone": Mutant(
        "in-band, the source goes back without knowing where the guest is", TWICE,
        Mode.VHOST_INBAND,
        change=_no_needs(_rows(_S, "thaw", "frozen", "aborted"), messages="aborted")),
    "inband-aborts-after-run": Mutant(
        "in-band, the destination aborts though the guest ran there", STALE, Mode.VHOST_INBAND,
        change=_without(_rows(_D, "abort", "armed"), Action.PROVE_NEVER_RAN)),
    "manager-guesses": Mutant(
        "in-band, the manager resumes the source whenever the destination is gone (an assumption)",
        STALE, Mode.VHOST_INBAND, around={"manager_knows": False}),
    "clear-forgets": Mutant(
        "a target is cleared without a copy of what was registered since the last one", STALE,
        change=_without(_rows(_D, "clear"), Action.KEEP_COPY), scope=Scope(volatile=True)),
    "forced-clear-forgets": Mutant(
        "a source that was forced to serve is cleared without a copy", STALE,
        change=_without(_rows(_S, "clear"), Action.KEEP_COPY), scope=Scope(volatile=True)),
    # whoever carries messages makes one up
    "mac-unchecked": Mutant(
        "whoever carries messages makes up the source's promise, and no MAC is looked at", TWICE,
        around={"made_up": (MessageType.RELEASED,), "macs_checked": False},
        scope=Scope(changes=0, forces=0, data=False)),
    "mac-unchecked-returning": Mutant(
        "the same with the destination's word that it will never serve", TWICE,
        around={"made_up": (MessageType.ABORTED,), "macs_checked": False},
        scope=Scope(changes=0, forces=0, data=False)),
    # data that was written after the flush of a freeze
    "reopened-unflushed": Mutant(
        "release does not flush what was written by a gate that somebody had opened again", DATA,
        change=_without(_SAYS_RELEASED, Action.FLUSH), scope=Scope(changes=0, forces=0),
        around={"targetcli_meddles": True, "boot_scrub": True}),
    "resumed-unflushed": Mutant(
        "release does not flush what a guest wrote that had resumed by itself", DATA,
        Mode.VHOST_QMP, change=_without(_SAYS_RELEASED, Action.FLUSH),
        scope=Scope(changes=0, forces=0)),
    "inband-resumed-unflushed": Mutant(
        "in-band, recover commits without flushing what a guest wrote that had resumed by itself",
        DATA, Mode.VHOST_INBAND, change=_without(
            _rows(_S, "recover", "frozen", to="released"), Action.FLUSH),
        scope=Scope(changes=0, forces=0)),
    "returned-unflushed": Mutant(
        "the destination gives back without flushing what was written there", DATA,
        change=_without(_GIVE_BACK, Action.FLUSH), scope=Scope(changes=0, forces=0)),
    # targets that share a backstore
    "shared-no-freeze": Mutant(
        "neither freeze nor release closes the iSCSI gate beside the guest's", TWICE,
        Mode.VHOST_QMP, change=_without(_rows(_S, "freeze release"), Action.TPG_DISABLE,
                                        Action.PROVE_SHUT), beside="iscsi",
        wrong=Wrong.CLOSES_ONE, scope=Scope(changes=0, forces=0, data=False)),
    "shared-opened-at-arm": Mutant(
        "activate opens the iSCSI gate as soon as all is loaded", TWICE, Mode.VHOST_QMP,
        beside="iscsi", wrong=Wrong.ARMS_OPEN, scope=Scope(changes=0, forces=0, data=False)),
    "shared-returned-open": Mutant(
        "the destination gives back the guest's target and leaves the iSCSI gate open", TWICE,
        Mode.VHOST_QMP, change=_without(_GIVE_BACK, Action.PROVE_SHUT), beside="iscsi",
        wrong=Wrong.CLOSES_ONE, scope=Scope(changes=0, forces=0, data=False)),
    "shared-one-occupied": Mutant(
        "release occupies the endpoint of one of two guests", TWICE, Mode.VHOST_QMP,
        beside="guest", wrong=Wrong.CLOSES_ONE, scope=Scope(changes=0, forces=0, data=False)),
    "shared-one-opened": Mutant(
        "the destination opens one of two gates", NEVER, Mode.VHOST_QMP,
        beside="iscsi", wrong=Wrong.OPENS_ONE, scope=Scope(changes=0, forces=0, data=False)),
    "shared-one-to-resume": Mutant(
        "release while one of two guests may still resume by itself", GUEST, Mode.VHOST_QMP,
        beside="guest", wrong=Wrong.ONE_LEFT, scope=Scope(changes=0, forces=0, data=False)),
    # by file
    "file-before-record": Mutant(
        "by file, the document is there before it is recorded that it may be imported", TWICE,
        Mode.FILE, change=_first(_EXPORT, _says(MessageType.DOCUMENT), _records("released"))),
    "file-stays-saved": Mutant(
        "by file, a frozen target stays in targetcli's save file", TWICE, Mode.FILE,
        change=_without(_both_rows(_rows(_S, "freeze"), _EXPORT), Action.SAVEFILE_DROP,
                        Action.PROVE_SHUT)),
    "file-left-open": Mutant(
        "by file, export does not look whether somebody opened the gate again", TWICE, Mode.FILE,
        change=_without(_EXPORT, Action.GATE_CLOSE, Action.PROVE_SHUT),
        around={"targetcli_meddles": True, "boot_scrub": True}),
    "file-thaws-unasked": Mutant(
        "by file, an exported target is thawed without a word", TWICE, Mode.FILE,
        change=_no_needs(_rows(_S, "thaw", "released"), Condition.NOT_IMPORTED)),
    "file-boot-thaws": Mutant(
        "by file, recover takes an exported target for a frozen one", TWICE, Mode.FILE,
        change=_as_state(_rows(_S, "recover", "frozen"), "released")),
    "file-removed-unasked": Mutant(
        "by file, a target is removed that no other host serves", GONE, Mode.FILE,
        change=_no_needs(_rows(_S, "retire", "released"), Condition.IMPORTED)),
    "file-gate-before-record": Mutant(
        "by file, the gate opens before it is recorded that this host serves", TWICE, Mode.FILE,
        change=_first(_IMPORT, _does(Action.GATE_OPEN), _records("confirmed"))),
    "file-operator-errs": Mutant(
        "by file, the operator errs about who has imported (an assumption, not a defect)", GONE,
        Mode.FILE, around={"word_is_true": False}),
}

"""What is explored by default (a minute on one core, mutants included) and with --full."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Dict

from lio_handover.protocol.table import MessageType, Mode
from tests.model.mutants import MUTANTS
from tests.model.search import Result, explore
from tests.model.shared import SharedModel
from tests.model.torn import TornModel
from tests.model.world import Model, Scope, Surroundings

MEDDLED = Surroundings(targetcli_meddles=True, boot_scrub=True)
#: A session takes its copy for current where command counters say so.  In the protocol itself
#: nothing changes behind a gate that is shut: without any look all invariants hold, too.
COPY_TAKEN = Surroundings(compares=False)
FORGED = Surroundings(made_up=(MessageType.RELEASED,))
FORGED_MORE = Surroundings(made_up=(
    MessageType.RELEASED, MessageType.ABORTED, MessageType.SERVING))


@dataclass(frozen=True)
class Run:
    mode: Mode
    scope: Scope = Scope()
    around: Surroundings = Surroundings()
    full: bool = False
    torn: bool = False
    beside: str = ""  # of targets that share a backstore: "guest", "iscsi"
    calm: bool = False  # see tests/model/shared.py

    def model(self) -> Model:
        if self.beside:
            return SharedModel(self.mode, self.scope, self.around, guests=self.beside == "guest",
                               calm=self.calm)
        return (TornModel if self.torn else Model)(self.mode, self.scope, self.around)


RUNS: Dict[str, Run] = {
    "iscsi": Run(Mode.ISCSI),
    "iscsi-late": Run(Mode.ISCSI_LATE),
    "iscsi-late, targetcli meddles": Run(Mode.ISCSI_LATE, Scope(forces=0), MEDDLED),
    "iscsi, APTPL files torn": Run(Mode.ISCSI, Scope(forces=0), torn=True),
    "vhost-qmp, an operator": Run(Mode.VHOST_QMP, Scope(changes=0)),
    "vhost-qmp, registrations change": Run(Mode.VHOST_QMP, Scope(forces=0, data=False)),
    "vhost-inband, an operator": Run(Mode.VHOST_INBAND, Scope(changes=0)),
    "vhost-stopped, an operator": Run(Mode.VHOST_STOPPED, Scope(changes=0)),

    "two guests": Run(Mode.VHOST_QMP, Scope(changes=0, forces=0, data=False), beside="guest",
                      calm=True),
    "a guest and iSCSI": Run(Mode.VHOST_QMP, Scope(changes=0), beside="iscsi"),

    "iscsi, the copy is taken for current": Run(Mode.ISCSI, Scope(changes=2, forces=0), COPY_TAKEN),
    "vhost-qmp, the copy is taken for current": Run(Mode.VHOST_QMP, Scope(forces=0), COPY_TAKEN,
                                                    full=True),

    "iscsi, messages made up": Run(Mode.ISCSI, Scope(changes=0, forces=0, data=False), FORGED),
    "iscsi, more messages made up": Run(Mode.ISCSI, Scope(changes=0, forces=0, data=False),
                                        FORGED_MORE, full=True),
    "file": Run(Mode.FILE, Scope(changes=2)),
    "file, targetcli meddles": Run(Mode.FILE, Scope(), MEDDLED),

    "file, without APTPL": Run(Mode.FILE, Scope(changes=2, volatile=True), full=True),
    "file, two epochs": Run(Mode.FILE, Scope(epochs=2), full=True),
    "file, two words of operators": Run(Mode.FILE, Scope(forces=2), full=True),
    "iscsi, without APTPL": Run(Mode.ISCSI, Scope(changes=2, volatile=True), full=True),
    "iscsi, targetcli meddles": Run(Mode.ISCSI, Scope(), MEDDLED, full=True),
    "iscsi, two words of operators": Run(Mode.ISCSI, Scope(forces=2), full=True),
    "iscsi, two epochs": Run(Mode.ISCSI, Scope(epochs=2), full=True),
    "iscsi-late, without APTPL": Run(Mode.ISCSI_LATE, Scope(changes=2, volatile=True), full=True),
    "iscsi-late, two words of operators": Run(Mode.ISCSI_LATE, Scope(forces=2), full=True),
    "iscsi, APTPL files torn twice": Run(Mode.ISCSI, Scope(changes=2), full=True, torn=True),
    "vhost-qmp": Run(Mode.VHOST_QMP, full=True),
    "vhost-qmp, without APTPL": Run(Mode.VHOST_QMP, Scope(forces=0, volatile=True), full=True),
    "vhost-qmp, two words of operators": Run(Mode.VHOST_QMP, Scope(changes=0, forces=2), full=True),
    "vhost-inband": Run(Mode.VHOST_INBAND, full=True),
    "vhost-inband, two words of operators": Run(
        Mode.VHOST_INBAND, Scope(changes=0, forces=2), full=True),
    "vhost-stopped": Run(Mode.VHOST_STOPPED, full=True),
    "two guests, power lost": Run(Mode.VHOST_QMP, Scope(changes=0, forces=0), beside="guest",
                                  full=True),
    "two guests, vhost-stopped": Run(
        Mode.VHOST_STOPPED, Scope(changes=0, forces=0), beside="guest", full=True),
    "a guest and iSCSI, registrations change": Run(
        Mode.VHOST_QMP, Scope(forces=0), beside="iscsi", full=True),
    "a guest and iSCSI, two words of operators": Run(
        Mode.VHOST_QMP, Scope(changes=0, forces=2), beside="iscsi", full=True),
    "a guest and iSCSI, vhost-stopped": Run(
        Mode.VHOST_STOPPED, Scope(changes=0), beside="iscsi", full=True),
}
SLOW_MUTANTS = frozenset({"load-after-owning", "digest-ignored", "inband-thaws-alone",
                          "inband-aborts-after-run", "manager-guesses", "epoch-ignored",
                          "shared-one-occupied", "shared-one-to-resume"})
assert SLOW_MUTANTS <= set(MUTANTS)


@lru_cache(maxsize=None)
def run(name: str) -> Result:
    return explore(RUNS[name].model())

"""The one order in which a target is taken down and built up.

A step belongs to a slot; planning is one sort by the slot's place in this list.  The sources
are rules of the kernel: target_core_fabric_configfs.c, target_core_device.c, target_core_pr.c
(3.: which order loses reservations), drivers/vhost/scsi.c.
"""
from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

STAGE, ACTIVATE = "stage", "activate"


class Slot(NamedTuple):
    """A slot: its name, its phase (stage: while the source still serves; activate: after the source
    has let go), and why it stands at its place."""

    name: str
    phase: str
    why: str


#: How a backstore is made, but for the directory of its HBA, which others may share.
_MAKING: Tuple[Slot, ...] = (
    Slot("backstore", STAGE, ""),
    Slot("control", STAGE, "what to open, before it is opened"),
    Slot("before enable", STAGE, ""),
    Slot("enable", STAGE, "opens the storage, and overwrites the limits that come next"),
    Slot("backstore attribute", STAGE, "while no LUN exports it: most are refused later"),
    Slot("ALUA group", STAGE, ""),
    Slot("ALUA group attribute", STAGE, "the id first: without it the group takes nothing"),
    Slot("backstore group", STAGE, "needs the groups"),
    Slot("ALUA state", STAGE, "after what it depends on; the status after the state"),
    Slot("LU group member", STAGE, "from here on a state is that of all members"),
)
#: Slots of a backstore whose storage may be opened only inside the window → the later slot.
LATE: Dict[str, str] = {slot.name: f"late {slot.name}" for slot in _MAKING}

ORDER: Tuple[Slot, ...] = (
    # ---- taking down: nothing may be gone while an initiator could still ask for it ----------
    Slot("open storage", STAGE, "an error of writing back is told to those that have it open then"),
    Slot("shut gate", STAGE, "no initiator may see the target come apart"),
    Slot("idle", STAGE, "commands that were begun go on when the gate is shut"),
    Slot("flush", STAGE, "what was written last, too, is on the storage when another host reads"),
    Slot("clear discovery auth", STAGE, "it outlives the fabric's folder"),
    Slot("unlink mapped LUN", STAGE, "an ACL goes only when it maps nothing"),
    Slot("remove mapped LUN", STAGE, ""),
    Slot("unlink LUN", STAGE, "a backstore goes only when no LUN exports it"),
    Slot("drop nexus", STAGE, "a nexus goes only when no LUN is linked (vhost, loopback)"),
    Slot("remove ACL", STAGE, "an ACL goes only when no nexus uses it (vhost, loopback)"),
    Slot("remove LUN", STAGE, ""),
    Slot("remove portal", STAGE, ""),
    Slot("remove TPG", STAGE, ""),
    Slot("remove target", STAGE, ""),
    Slot("remove fabric", STAGE, "it was not there before"),
    Slot("remove ALUA group", STAGE, ""),
    Slot("remove backstore", STAGE, "the only way to drop registrations that wait for an ACL"),
    Slot("remove HBA", STAGE, ""),
    Slot("release", STAGE, "nothing has the storage open: another host may"),
    Slot("remove LU group", STAGE, "after the backstores that are in it"),
    Slot("restore file", STAGE, "the APTPL file goes with its backstore"),
    Slot("allocate", STAGE, "the kernel would make an empty file; this one is root's alone"),
    Slot("grow file", STAGE, "what is told of a disk's size is there before anybody reads it"),
    # ---- what the kernel takes while the source still serves ----------------------------------
    Slot("module", STAGE, "the kernel loads no backend or vhost module by itself"),
    Slot("LU group", STAGE, ""),
    Slot("LU group id", STAGE, "only groups with an id can be named"),
    Slot("HBA", STAGE, ""),
    *_MAKING[:1],
    Slot("folder", STAGE, "without <dbroot>/pr a REGISTER answers NOT READY, yet is done; nobody "
                          "can change dbroot once there is a backstore"),
    *_MAKING[1:],
    Slot("resize", STAGE, "the file is as long by now"),
    Slot("fabric", STAGE, ""),
    Slot("target", STAGE, ""),
    Slot("TPG", STAGE, ""),
    Slot("TPG attribute", STAGE, "the relative port is fixed at enable, and goes into each "
                                 "registration"),
    Slot("portal", STAGE, "the address need not be on this host yet (IP_FREEBIND); any address "
                          "comes first: after one of the other family nobody could reach it"),
    Slot("portal attribute", STAGE, ""),
    Slot("LUN", STAGE, "the place; its link is the export"),
    Slot("ACL", STAGE, ""),
    Slot("ACL attribute", STAGE, ""),
    Slot("mapped LUN", STAGE, "the place; its link revives registrations"),
    Slot("discovery auth", STAGE, "last: what it said before can't quite be brought back, empty "
                                  "becomes NULL"),
    Slot("verify stage", STAGE, "what has to wait is then all that can be wrong"),
    # ---- what has to wait until the source has let go -------------------------------------------
    Slot("acquire", ACTIVATE, "one host alone may have this storage open, and it was the source"),
    Slot("prove", ACTIVATE, "this storage could not be looked at before"),
    *(Slot(LATE[slot.name], ACTIVATE, "its storage was the source's until now"
           + (f"; {slot.why}" if slot.why else "")) for slot in _MAKING),
    Slot("drop cache", ACTIVATE, "the source wrote behind this host's page cache until now"),
    Slot("PR padding", ACTIVATE, "counts PRgeneration up, which is final when the source is "
                                 "frozen"),
    Slot("PR line", ACTIVATE, "registrations change until the source is frozen, and are taken "
                              "only before the first link"),
    Slot("nexus", ACTIVATE, "before the first LUN is linked, as only then a nexus that somebody "
                            "else has made there can be dropped"),
    Slot("link LUN", ACTIVATE, "from here on the kernel takes no registration"),
    Slot("late nexus", ACTIVATE, "where the links' order, which is that of the ports, is not that "
                                 "of READ KEYS"),
    Slot("LUN attribute", ACTIVATE, "before an ACL maps it, else each owes a unit attention"),
    Slot("padding", ACTIVATE,
         "an ACL nobody can use makes the padding registrations; PRgeneration stays raised"),
    Slot("link mapped LUN", ACTIVATE, "revives registrations, in the order in which READ KEYS "
                                      "shall answer"),
    Slot("last nexus", ACTIVATE, "where READ KEYS shall answer with an iSCSI initiator before it"),
    Slot("mapped LUN attribute", ACTIVATE, "before the link it would be lost"),
    Slot("clear APTPL", ACTIVATE, "what is restored says that it survives power loss; the "
                                  "source did not"),
    Slot("APTPL file", ACTIVATE, "the kernel does not write it for what it restored"),
    Slot("drain", ACTIVATE, "linking owes the initiator news of LUNs that it knows already"),
    Slot("verify", ACTIVATE, "nothing is let in before all is read back and the same"),
    Slot("gate", ACTIVATE, "initiators are let in"),
    Slot("after gate", ACTIVATE, "the gate takes None out of AuthMethod where authentication is 1"),
)

#: Slots whose steps stand among those of another slot, by an order that both have.
AMONG: Dict[str, str] = {"last nexus": "link mapped LUN"}
#: Slot's name → its place in the order.
PLACE: Dict[str, int] = {slot.name: number for number, slot in enumerate(ORDER)}
PLACE.update({slot: PLACE[other] for slot, other in AMONG.items()})
PHASE: Dict[str, str] = {slot.name: slot.phase for slot in ORDER}
WHY: Dict[str, str] = {slot.name: slot.why for slot in ORDER}

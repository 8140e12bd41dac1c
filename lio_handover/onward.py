"""What leads on from where a handover stands: the command, as a person types it."""
from __future__ import annotations

import shlex
from typing import Mapping, Tuple

from .journal import Handover
from .transitions import DESTINATION, SOURCE, Mode

#: (role, state) → the verb that leads on, in the order of a handover between two hosts.
VERBS: Mapping[Tuple[str, str], str] = {
    (SOURCE, "prepared"): "freeze", (SOURCE, "freezing"): "freeze", (SOURCE, "frozen"): "export",
    (SOURCE, "released"): "retire", (SOURCE, "thawing"): "thaw", (SOURCE, "retiring"): "retire",
    (DESTINATION, "staged"): "activate", (DESTINATION, "armed"): "activate",
    (DESTINATION, "opening"): "verify", (DESTINATION, "serving"): "confirm",
    (DESTINATION, "aborting"): "abort",
}
#: The same by file; {targets}, {id}.
BY_FILE: Mapping[Tuple[str, str], str] = {
    (SOURCE, "freezing"): "lio-handover freeze {targets} (or thaw)",
    (SOURCE, "frozen"): "lio-handover export {targets} -o FILE (or thaw)",
    (SOURCE, "released"):
        "once another host serves it: lio-handover remove {targets}; only if none has imported it "
        "or will: lio-handover thaw {targets} --allow exported",
    (SOURCE, "thawing"): "lio-handover thaw {targets}",
    (SOURCE, "retiring"): "lio-handover remove {targets}",
    (DESTINATION, "armed"): "lio-handover recover {id}",
    (DESTINATION, "aborting"): "lio-handover recover {id}",
}


def command(one: Handover) -> str:
    """The command that leads on; "" where nothing is left to be done."""
    by_file = one.mode == Mode.FILE.value
    if one.busy or one.error and not by_file:
        return f"lio-handover recover {one.id}"
    if by_file:
        return BY_FILE.get((one.role, one.state), "").format(
            id=one.id, targets=" ".join(map(shlex.quote, one.targets)))
    verb = VERBS.get((one.role, one.state), "")
    return f"lio-handover {one.role} {verb} {one.id}" if verb else ""


def exported(one: Handover) -> str:
    """Why a handover by file stays where it is."""
    return (f"{', '.join(one.targets)}: exported, so another host may serve it, and none can be "
            "asked: it stays shut")

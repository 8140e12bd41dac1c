"""What tests run inside a lab host: functions that a host's agent can call by name."""
from __future__ import annotations

from lio_handover.configfs import Configfs
from lio_handover.executor import Outcome, Scope, apply
from lio_handover.model import State
from lio_handover.plan import plan
from lio_handover.reader import Reader


def read_all() -> State:
    """All that the host serves."""
    return Reader(Configfs()).state()


def build(want: State) -> Outcome:
    """Make the host serve ``want`` besides what it serves; what it leaves open is as usual."""
    fs = Configfs()
    reader = Reader(fs)
    have = Scope.of(want).read(fs)
    facts = reader.facts()
    return apply(fs, plan(have, want, facts, partial=True), have, facts)


def tree() -> dict[str, str]:
    """Every path of the host's target tree and what it says, statistics left out."""
    import os
    fs = Configfs()
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(fs.root):
        folders[:] = sorted(one for one in folders if one != "statistics"
                            and one != "fabric_statistics")
        where = folder[len(fs.root) + 1:]
        found[where + "/"] = ""
        for name in list(folders):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[f"{where}/{name}"] = "-> " + os.readlink(path)
        for name in files:
            try:
                found[f"{where}/{name}"] = fs.read(f"{where}/{name}" if where else name)
            except OSError as error:
                found[f"{where}/{name}"] = f"errno {error.errno}"
    return found

"""Where the program begins.  `recover --boot` is answered here where there is nothing to be done.

Each boot of each host waits for that, and nearly none has anything to do; so it takes little more
than Python itself.  Only what can be seen with certainty is answered: all else, whatever it is,
goes to the command line, which begins from the start and says what is wrong.
"""
from __future__ import annotations

import os
import sys

from ..errors import SAME, HandoverError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

#: What the unit calls before targetcli's.
WORDS = ["recover", "--boot"]
#: What a journal may say, as protocol/table.py has it: its modes; role → state → whether a target
#: is left to targetcli in it, and has no unit of its own.
MODES = ("iscsi", "iscsi-late", "vhost-qmp", "vhost-inband", "vhost-stopped", "file")
STATES = {
    "source": {"idle": True, "prepared": False, "freezing": False, "frozen": False,
               "released": False, "thawing": False, "forced": False, "retiring": False,
               "retired": False},
    "destination": {"none": True, "staged": False, "armed": False, "opening": False,
                    "serving": False, "confirmed": False, "given": True, "returned": False,
                    "aborting": False, "forced": False},
}
#: What a record must have to be read here: kind → name → type.
_RECORDS: dict[str, dict[str, type]] = {
    "new": {"role": str, "mode": str, "targets": list, "stores": dict, "maps": list,
            "local": list, "peer": str, "at": float},
    "state": {"state": str, "epoch": int, "boot": str, "at": float},
    "begin": {"verb": str}, "step": {"do": str}, "end": {}, "gone": {}, "probe": {},
    "kept": {"digest": str, "stale": bool}, "loading": {"boot": str},
    "loaded": {"boot": str, "digest": str, "commands": dict}, "opened": {"boot": str},
    "saved": {"paths": list}, "survived": {"boot": str}, "left": {"serials": list, "boot": str},
    "fenced": {"said": str}, "said": {"message": str, "digest": str}, "shutting": {"gates": dict},
    "differs": {"said": list}, "away": {"portals": list},
    "objects": {"boot": str, "inodes": dict}, "meddled": {"said": str},
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a command; its exit code."""
    if (sys.argv[1:] if argv is None else list(argv)) == WORDS and nothing_to_do():
        return SAME
    from . import main as cli_main
    return cli_main.main(argv)


def nothing_to_do(config: str = "") -> bool:
    """Whether no handover of this host keeps a target from targetcli's restore, for certain."""
    if os.geteuid() != 0:
        return False
    try:
        directory = _state_directory(config)
        owners = _read(f"{directory}/owners.json")
        folder = f"{directory}/handovers"
        names = os.listdir(folder) if os.path.lexists(folder) else []
        return owners is None and not names or _all_left_alone(folder, names, owners)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HandoverError):
        return False


def _state_directory(config: str) -> str:
    from ..configuration import PATH, STATE_DIRECTORY, files
    found = STATE_DIRECTORY
    for file in files(config or PATH):
        if file.named:
            raise ValueError(file.path)  # whether such a section is whole takes all of settings.py
        found = str(file.values()[""].get("state_directory", found))
    return found


def _read(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _all_left_alone(folder: str, names: Sequence[str], owners: Optional[bytes]) -> bool:
    import json
    counts = {name: one["handover"] for name, one in json.loads(owners or b"{}").items()
              if type(one["epoch"]) is type(one["aborted"]) is int}
    for name in names:
        data = _read(f"{folder}/{name}/journal") or b""
        first, *records = [json.loads(line) for line in data.split(b"\n")[:-1]]
        states, known = [""], STATES[first["role"]]
        for record in records:
            if not _is_plain(record) or record["record"] == "new":
                return False
            if record["record"] == "state":
                states.append(record["state"])
        if first["record"] != "new" or not _is_plain(first) or first["mode"] not in MODES \
                or not {"", *known} >= set(states):
            return False
        superseded = all(counts.get(target, "") not in ("", name)
                         for target in first["local"] or first["targets"])
        if states[-1] and not known[states[-1]] and not superseded:
            return False
    return True


def _is_plain(record: dict[str, Any]) -> bool:
    wanted = _RECORDS[record["record"]]
    if record["record"] == "state" and "gates" in record:
        wanted = {**wanted, "gates": dict, "dynamic": dict}
    if record["record"] == "kept" and "stores" in record:
        wanted = {**wanted, "stores": dict}
    return all(type(record[name]) is kind for name, kind in wanted.items())


if __name__ == "__main__":
    sys.exit(main())

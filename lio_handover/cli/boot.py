"""The program's entry point.  It answers `recover --boot` itself where there is nothing to do.

Every boot waits for that command, and hardly any boot has anything to do, so this takes little more
time than Python itself.  It answers only where it is certain; otherwise the command line starts
over, and reports what is wrong.
"""
from __future__ import annotations

import os
import sys

from ..errors import MISSHAPEN, SAME, HandoverError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

#: The arguments of the unit that runs before targetcli's.
WORDS = ["recover", "--boot"]
#: The verbs that the service may do in one call, see quick.py.
CHANGES = ("create", "set", "delete", "shell")
#: The modes and states of journals, from protocol/table.py: role → state → whether lio-handover
#: leaves the target to targetcli in that state, without a unit of its own.
MODES = ("iscsi", "iscsi-late", "vhost-qmp", "vhost-inband", "vhost-stopped", "file")
STATES = {
    "source": {"idle": True, "prepared": False, "freezing": False, "frozen": False,
               "released": False, "thawing": False, "forced": False, "retiring": False,
               "retired": False},
    "destination": {"none": True, "staged": False, "armed": False, "opening": False,
                    "serving": False, "confirmed": False, "given": True, "returned": False,
                    "aborting": False, "forced": False},
}
#: The state in which a target must be in no save file, and a boot has nothing else to do.
AWAY = "retired"
#: targetcli's save files, and its units, from savefile/places.py.
SAVE_FILES = ("/etc/target/saveconfig.json", "/etc/rtslib-fb-target/saveconfig.json")
UNITS = ("target.service", "targetcli.service", "rtslib-fb-targetctl.service")
FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
           "/usr/lib/systemd/system", "/lib/systemd/system")
#: The number of last characters by which two spellings of a WWN are recognized.
_END = 12


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a command, and return its exit code."""
    os.umask(0o077)  # documents, messages and records have secrets
    words = sys.argv[1:] if argv is None else list(argv)
    if words == WORDS and nothing_to_do():
        return SAME
    if words[:1] and words[0] in CHANGES:
        from . import quick
        code = quick.run(words)
        if code is not None:
            return code
    _add_site_packages()
    from . import main as cli_main
    return cli_main.main(argv)


def _add_site_packages() -> None:
    """Python was started without them (-S), as to find them takes as long as all that comes before
    this.  The folder of this package, the last one, stays the last."""
    if sys.flags.no_site and "site" not in sys.modules:
        last = sys.path.pop()
        import site
        site.main()
        sys.path.append(last)


def nothing_to_do(config: str = "") -> bool:
    """Whether it is certain that no handover of this host keeps a target from targetcli."""
    if os.geteuid() != 0:
        return False
    try:
        from ..records import state_folder
        directory, save_files = _settings(config)
        state_folder.check(directory)
        owners = _read(f"{directory}/owners.json")
        folder = f"{directory}/handovers"
        names = os.listdir(folder) if os.path.lexists(folder) else []
        return owners is None and not names or _all_left_alone(folder, names, owners, save_files)
    except (OSError, *MISSHAPEN, HandoverError):
        return False


def _settings(config: str) -> tuple[str, list[str]]:
    """(the state directory, the save files)."""
    from ..configuration import PATH, STATE_DIRECTORY, files
    directory = STATE_DIRECTORY
    more: tuple[str, ...] = ()
    for file in files(config or PATH):
        if file.named:
            raise ValueError(file.path)  # whether such a section is whole takes all of settings.py
        values = file.values()[""]
        directory = str(values.get("state_directory", directory))
        more = values.get("savefiles", more)  # type: ignore[assignment]
    return directory, [*more, *SAVE_FILES]


def _read(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _all_left_alone(folder: str, names: Sequence[str], owners: Optional[bytes],
                    save_files: Sequence[str]) -> bool:
    import json

    from ..records.record_kinds import VERSION
    from ..records.state_folder import check_records
    known_owners: dict[str, Any] = json.loads(owners) if owners is not None else {
        "version": VERSION, "targets": {}}
    if known_owners["version"] != VERSION:
        return False
    counts = {name: owner["handover"] for name, owner in known_owners["targets"].items()}
    for owner in known_owners["targets"].values():
        if not type(owner["epoch"]) is type(owner["aborted"]) is int \
                or not type(owner["handover"]) is type(owner.get("before", "")) is str:
            return False
    away: list[str] = []
    stores: list[str] = []
    for name in names:
        check_records(f"{folder}/{name}", ("journal",))
        data = _read(f"{folder}/{name}/journal") or b""
        first, *records = [json.loads(line) for line in data.split(b"\n")[:-1]]
        states, known = [""], STATES[first["role"]]
        for record in records:
            if not _is_plain(record) or record["record"] == "new":
                return False
            if record["record"] == "state":
                states.append(record["state"])
        if first["record"] != "new" or not _is_plain(first) or first["version"] != VERSION \
                or first["mode"] not in MODES \
                or not {"", *known} >= set(states):
            return False
        superseded = all(counts.get(target, "") not in ("", name)
                         for target in first["local"] or first["targets"])
        if states[-1] == AWAY and not superseded:
            away += [*first["targets"], *first["local"]]
            stores += first["stores"]
        elif states[-1] and not known[states[-1]] and not superseded:
            return False
    return not away or _in_none(save_files, away, stores)


def _in_none(save_files: Sequence[str], targets: Sequence[str], stores: Sequence[str]) -> bool:
    """Whether these are all save files, and none has an entry like one of the targets or stores."""
    import json
    if not all(_usual(unit, save_files) for unit in UNITS):
        return False
    ends = {_end(name.partition("/")[2]) for name in targets}
    names = {name.partition("/")[2] for name in stores}
    for path in save_files:
        data = _read(path)
        if data is None or not data.strip():
            continue
        tree = json.loads(data.decode(), object_pairs_hook=_once)
        if any(_end(entry["wwn"]) in ends for entry in tree.get("targets", [])) \
                or any(str(entry["name"]) in names for entry in tree.get("storage_objects", [])):
            return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _end(wwn: str) -> str:
    """The end of a WWN, the same in all its spellings (savefile/rtslib_names.py)."""
    return "".join(letter for letter in wwn.lower() if letter.isalnum())[-_END:]


def _usual(unit: str, save_files: Sequence[str]) -> bool:
    """Whether it is certain that a unit restores no file but these."""
    paths = []
    for folder in FOLDERS:
        paths.append(f"{folder}/{unit}")
        if os.path.isdir(f"{folder}/{unit}.d"):
            paths += [f"{folder}/{unit}.d/{name}" for name in os.listdir(f"{folder}/{unit}.d")]
    for path in paths:
        text = (_read(path) or b"").decode()
        for line in text.splitlines():
            key, _, command = line.partition("=")
            words = command.split()
            if "\\" in line or key.strip() == "ExecStart" and "targetc" in command and not (
                    words[0].endswith("/targetctl") and words[1:2] == ["restore"]
                    and {*words[2:]} <= {*save_files}):
                return False
    return True


def _is_plain(record: dict[str, Any]) -> bool:
    from ..records.record_kinds import KINDS
    return KINDS[record["record"]].fits(record)


if __name__ == "__main__":
    sys.exit(main())

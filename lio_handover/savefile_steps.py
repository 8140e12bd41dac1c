"""A handover's steps at targetcli's save file: what is taken out is kept until it is put back."""
from __future__ import annotations

from typing import Dict, List, Tuple

from . import errors, runtime, savefile
from .journal import SAVED
from .model import State
from .standing import Standing
from .transitions import SOURCE


def drop(one: Standing) -> List[str]:
    """Take the targets out.  A source that still serves keeps what it takes, beside its journal,
    first of all: durable, for its owner alone, as it holds CHAP secrets.  (What is saved later, of
    a gate that is shut, is nothing to go back to.)  Returns the files that were changed.  Raises
    SavefileBroken, JournalBroken."""
    kept = _kept(one)

    def keep(path: str, was: str, now: str) -> None:
        if path not in kept and (one.vhost or one.open_tpgs()):
            import json
            kept[path] = (was, now)
            one.journal.keep_beside(SAVED, json.dumps(kept).encode())
    return savefile.drop(one.local_targets(), one.journal.notes.stores, one.directory,
                         keep if one.handover.state == "freezing" else None,
                         one.core.settings.savefiles)


def put(one: Standing) -> Tuple[List[str], str]:
    """(the files that hold the targets again, why not where they don't).

    What was taken out goes back as it was, unless the targets were changed since; where nothing
    was taken out, and they are there, nothing is done.  That it can't be done keeps nobody from
    serving: what is in no save file is brought back at a boot by recover.
    """
    try:
        return _put(one), ""
    except errors.SavefileBroken as error:
        return [], (f"{', '.join(one.local_targets())}: {error.what}; it is served, and after a "
                    "boot lio-handover recover brings it back, not targetcli")


def _put(one: Standing) -> List[str]:
    kept, state = _kept(one), one.as_served()
    if kept and not runtime.changes(one.prepared().state, state):
        paths = savefile.put_back(kept, one.local_targets(), one.journal.notes.stores,
                                  one.directory)
    else:
        paths = [] if kept or one.handover.role != SOURCE else _there(one, state)
        paths = paths or savefile.put(state, one.fs.read("dbroot").strip(), one.directory,
                                      one.core.settings.savefiles)
    if kept:
        one.journal.drop((SAVED,))
    return paths


def _there(one: Standing, state: State) -> List[str]:
    """The files that have all of these targets, serving if they serve; none where one has not."""
    wanted = {(target.name, target.fabric != "iscsi" or any(
        tpg.attributes.get("enable") == "1" for tpg in target.tpgs)) for target in state.targets}
    found = savefile.entries([name for name, _open in wanted], one.core.settings.savefiles)
    if {(entry.target, entry.enabled) for entry in found} != wanted:
        return []
    return sorted({entry.path for entry in found})


def _kept(one: Standing) -> Dict[str, Tuple[str, str]]:
    data = one.journal.kept(SAVED)
    if data is None:
        return {}
    import json
    try:
        return {path: (str(was), str(now)) for path, (was, now) in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # then they are put in as they are now

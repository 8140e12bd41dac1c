"""A handover's steps at targetcli's save file: what is taken out is kept until it is put back."""
from __future__ import annotations

from typing import Dict, List, Tuple

from .. import errors
from ..document import runtime_state
from ..model.objects import State
from ..protocol.table import SOURCE
from ..records.journal import SAVED
from ..records.record_kinds import VERSION
from ..savefile import outline, save_file
from .context import HandoverContext

#: States in which what is taken out is what targetcli shall have again one day.
KEEPING = ("prepared", "freezing", "confirmed")


def drop(one: HandoverContext) -> List[str]:
    """Take the targets out.  Who serves keeps what is taken first, beside the journal, before it
    is taken: durable, for its owner alone, as it holds CHAP secrets.  (What is saved later, of a
    gate that is shut, is nothing to go back to.)  Returns the files that were changed.  Raises
    SavefileBroken, JournalBroken."""
    return _drop(one, one.handover.state in KEEPING
                 and (one.vhost or bool(one.open_tpgs())))


def before_restore(one: HandoverContext) -> List[str]:
    """The same at a boot, where no kernel tells who served: what was saved before it was quiet, or
    what a thaw has put back already (or never taken out: a freeze was cut off first)."""
    return _drop(one, one.handover.state in KEEPING
                 or one.handover.state == "thawing" and _enabled(one))


def _enabled(one: HandoverContext) -> bool:
    """Whether targetcli would bring back all of it serving."""
    return all(entry.enabled for entry in save_file.entries(
        one.local_targets(), one.core.settings.savefiles))


def _drop(one: HandoverContext, keeping: bool) -> List[str]:
    kept = _kept(one)

    def keep(path: str, was: str, now: str) -> None:
        if path not in kept:
            import json
            kept[path] = (was, now)
            one.journal.keep_beside(
                SAVED, json.dumps({"version": VERSION, "files": kept}).encode())
    return save_file.drop(one.local_targets(), one.journal.facts.stores, one.directory,
                          keep if keeping else None, one.core.settings.savefiles)


def give(one: HandoverContext, state: State) -> List[str]:
    """Put the targets in: as they were taken out, unless they were changed since, or were not saved
    as they were then.  The files that hold them now; none where the host has no targetcli.  Raises
    SavefileBroken."""
    kept = _kept(one)
    outlines = {target.name: outline.of_target(target) for target in state.targets}
    if kept and not runtime_state.structural_changes(one.prepared().state, state) and (
            one.handover.role == SOURCE or all(outline.says(was, outlines)
                                               for was, _now in kept.values())):
        paths = save_file.put_back(kept, one.local_targets(), one.journal.facts.stores,
                                   one.directory)
    else:
        paths = save_file.put(state, one.reader(False).dbroot(), one.directory,
                              one.core.settings.savefiles)
    return paths


def put(one: HandoverContext) -> Tuple[List[str], str]:
    """(the files that hold the targets again, why not where they don't).

    What was taken out goes back as it was, unless the targets were changed since; where nothing
    was taken out, nothing is done: they were in no file before.  That it can't be done keeps nobody
    from serving: what is in no save file is brought back at a boot by recover.
    """
    try:
        return _put(one), ""
    except errors.SavefileBroken as error:
        return [], (f"{', '.join(one.local_targets())}: {error.what}; it is served, and after a "
                    "boot lio-handover recover brings it back, not targetcli")


def _put(one: HandoverContext) -> List[str]:
    if not one.journal.has(SAVED):
        return _there(one)
    paths = give(one, one.as_served())
    one.journal.drop((SAVED,))
    return paths


def unreadable(one: HandoverContext) -> str:
    """What to tell where what was taken out is kept and can't be read, so that `give` and `put`
    write the entry anew; "" otherwise."""
    if not one.journal.has(SAVED) or _kept(one):
        return ""
    return (f"{', '.join(one.local_targets())}: {one.journal.folder}/{SAVED}, which kept the entry "
            "that targetcli had of it, can't be read; the entry is written anew, as the target is "
            "now, and not byte for byte as it was: the save file of then is in backup/ beside it")


def _there(one: HandoverContext) -> List[str]:
    """The files that have these targets."""
    return sorted({entry.path for entry in save_file.entries(
        one.local_targets(), one.core.settings.savefiles)})


def _kept(one: HandoverContext) -> Dict[str, Tuple[str, str]]:
    data = one.journal.kept(SAVED)
    if data is None:
        return {}
    import json
    try:
        tree = json.loads(data)
        if tree["version"] != VERSION:
            return {}  # as below
        kept = {path: (was, now) for path, (was, now) in tree["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # then they are put in as they are now, see unreadable()
    texts = [text for pair in kept.values() for text in pair]
    return kept if all(isinstance(text, str) for text in texts) else {}

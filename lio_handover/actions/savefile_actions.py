"""A handover's actions at targetcli's save file: an entry that is taken out is kept until it is put
back."""
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

#: States in which targetcli shall have the entry again one day.
KEEPING = ("prepared", "freezing", "confirmed")


def drop(context: HandoverContext) -> List[str]:
    """Take the targets out.  A host that serves keeps the entries first, beside the journal, before
    they are taken out: durable, for root alone, as they hold CHAP secrets.  (An entry that was
    saved later, while the gate was shut, is nothing to go back to.) Returns the files that were
    changed.  Raises SavefileBroken, JournalBroken."""
    return _drop(context, context.handover.state in KEEPING
                 and (context.vhost or bool(context.open_tpgs())))


def leaving_at_boot(context: HandoverContext) -> save_file.Leaving:
    """The entries to take out at a boot, where no kernel tells which host served.  The entries that
    are kept were saved before the freeze, or by a thaw (or were never taken out, as the freeze was
    cut off)."""
    return _leaving(context, context.handover.state in KEEPING
                    or context.handover.state == "thawing" and _enabled(context))


def _enabled(context: HandoverContext) -> bool:
    """Whether targetcli would bring all targets back serving."""
    return all(entry.enabled for entry in save_file.entries(
        context.local_targets(), context.core.settings.savefiles))


def _drop(context: HandoverContext, keeping: bool) -> List[str]:
    return save_file.drop_each([_leaving(context, keeping)], context.directory,
                               context.core.settings.savefiles)[0]


def _leaving(context: HandoverContext, keeping: bool) -> save_file.Leaving:
    kept = _kept(context)

    def keep(path: str, was: str, now: str) -> None:
        if path not in kept:
            import json
            kept[path] = (was, now)
            context.journal.keep_beside(
                SAVED, json.dumps({"version": VERSION, "files": kept}).encode())
    return save_file.Leaving({*context.local_targets()}, {*context.journal.facts.stores},
                             keep if keeping else None)


def give(context: HandoverContext, state: State) -> List[str]:
    """Put the targets in.  The entries are those that were taken out, unless the targets were
    changed since, or differed from their entries then.  Returns the files that hold the targets
    now: none where the host has no targetcli.  Raises SavefileBroken."""
    kept = _kept(context)
    outlines = {target.name: outline.of_target(target) for target in state.targets}
    if kept and not runtime_state.structural_changes(context.prepared().state, state) and (
            context.handover.role == SOURCE or all(outline.says(was, outlines)
                                                   for was, _now in kept.values())):
        paths = save_file.put_back(kept, context.local_targets(), context.journal.facts.stores,
                                   context.directory)
    else:
        paths = save_file.put(state, context.reader(False).dbroot(), context.directory,
                              context.core.settings.savefiles)
    return paths


def put(context: HandoverContext) -> Tuple[List[str], str]:
    """(the files that hold the targets again, a sentence on why not, or "").

    Entries go back as they were taken out, unless the targets were changed since.  Where none was
    taken out, nothing is done: the targets were in no file before.  An error does not stop serving:
    recover brings back, at a boot, a target that is in no save file.
    """
    try:
        return _put(context), ""
    except errors.SavefileBroken as error:
        names = ", ".join(context.local_targets())
        return [], (f"{names}: {error.what}; it is served, and after a "
                    "boot lio-handover recover brings it back, not targetcli")


def _put(context: HandoverContext) -> List[str]:
    if not context.journal.has(SAVED):
        return _there(context)
    paths = give(context, context.as_served())
    context.journal.drop((SAVED,))
    return paths


def unreadable(context: HandoverContext) -> str:
    """A sentence on kept entries that cannot be read, so that `give` and `put` write the entry
    anew; "" otherwise."""
    if not context.journal.has(SAVED) or _kept(context):
        return ""
    names = ", ".join(context.local_targets())
    return (f"{names}: {context.journal.folder}/{SAVED}, which kept the entry that targetcli had "
            "of it, can't be read; the entry is written anew, as the target is now, and not byte "
            "for byte as it was: the save file of then is in backup/ beside it")


def _there(context: HandoverContext) -> List[str]:
    """The files that have these targets."""
    return sorted({entry.path for entry in save_file.entries(
        context.local_targets(), context.core.settings.savefiles)})


def _kept(context: HandoverContext) -> Dict[str, Tuple[str, str]]:
    data = context.journal.kept(SAVED)
    if data is None:
        return {}
    import json
    try:
        tree = json.loads(data)
        if tree["version"] != VERSION:
            return {}  # as below
        kept = {path: (was, now) for path, (was, now) in tree["files"].items()}
    except errors.MISSHAPEN:
        return {}  # then they are put in as they are now, see unreadable()
    texts = [text for pair in kept.values() for text in pair]
    return kept if all(isinstance(text, str) for text in texts) else {}

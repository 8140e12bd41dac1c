"""targetcli's save file: the targets that its restore brings back at boot, asking nobody.

``saveconfig.json`` as rtslib writes it (rtslib/root.py:RTSRoot.dump): ``storage_objects`` and
``targets``, both lists of objects.  Only entries of the handover's targets are touched, whatever
way their names are spelled; all else in the file, known or not, stays byte for byte.  A copy of the
file as it was goes beside it, into ``backup/``, where targetcli keeps its own.  Attributes that the
file cannot hold (a vhost nexus, relative ports, queue depths) are put right by ``recover`` after
targetcli's restore.
"""
from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import (AbstractSet, Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional,
                    Sequence, Tuple)

from .. import errors
from ..model.objects import State
from ..system.atomic_file import write_file
from ..system.locks import PATIENCE, Locks
from . import places, rtslib_entries, rtslib_names, writers
from .json_splice import Element, Part, Splice
from .parsed import LISTS, read
from .rtslib_names import Store

#: How many of our copies are kept.
BACKUPS = 10
#: Seconds in which somebody else who writes must come to an end.
BUSY = 4.0
_LOCK = "saveconfig.json"
_TRIES = 10
_OFTEN = 0.02
#: A copy's name: its number, and when it was made, for people.
_COPY = re.compile("lio-handover-([0-9]+)-")

#: The whole text of a file → what it shall be.
Change = Callable[[Splice], str]
#: Is told of a file, what it was and what it will be, before it is changed.
Keep = Callable[[str, str, str], None]
#: The same, with what is in the file.
_Before = Callable[[str, Splice, str], None]
#: File → what it was before our entries were taken out, and what it was then.
Kept = Mapping[str, Tuple[str, str]]


@dataclass(frozen=True)
class Entry:
    """A target in a save file: whether targetcli would bring it back serving."""

    path: str
    target: str
    enabled: bool


def entries(targets: Iterable[str], more: Sequence[str] = ()) -> List[Entry]:
    """Where these targets are saved; ``more``: the files that the owner names.  Raises
    SavefileBroken."""
    wanted = set(targets)
    return [Entry(path, name, rtslib_entries.enabled(value))
            for path, value in entries_of(wanted, more)
            for name in sorted(rtslib_names.targets(value) & wanted)]


def entries_of(targets: Iterable[str], more: Sequence[str] = ()) \
        -> Iterator[Tuple[str, Mapping[str, Any]]]:
    """(file, entry) wherever one of these targets is saved.  Raises SavefileBroken."""
    wanted = set(targets)
    for path in places.everywhere(more):
        for element in read(path)[0].elements("targets"):
            if rtslib_names.targets(element.value) & wanted:
                yield path, element.value


def findings(targets: Sequence[str], more: Sequence[str] = ()) -> List[errors.Finding]:
    """Why these targets could not be taken out of the save files, as a freeze does first."""
    end, what = time.monotonic() + writers.RECENT, ", ".join(targets)
    while True:
        try:
            paths = {entry.path for entry in entries(targets, more)}
            break
        except errors.SavefileBroken as error:
            if not error.half or time.monotonic() > end:
                return [errors.Finding(errors.SavefileBroken, what, error.what, "", error.do)]
            time.sleep(_OFTEN)  # somebody may be writing it
    return [errors.Finding(errors.SavefileBroken, what, f"{path} has it, and its folder can't be "
                           "written to", "", "make it writable") for path in sorted(paths)
            if not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)]


@dataclass(frozen=True)
class Leaving:
    """Targets that are to be in no save file, and their backstores (``fileio/disk0``), of which
    those go that no other target uses.  ``keep`` is told of each file before it is changed."""

    targets: AbstractSet[str]
    stores: AbstractSet[str]
    keep: Optional[Keep] = None


def drop(targets: Iterable[str], stores: Iterable[str], directory: str,
         keep: Optional[Keep] = None, more: Sequence[str] = ()) -> List[str]:
    """Take targets out of every save file, and see that they stay out.  Returns the files that
    were changed.  ``directory``: where the locks are.  Raises SavefileBroken, and what ``keep``
    raises."""
    return drop_each([Leaving(set(targets), set(stores), keep)], directory, more)[0]


def drop_each(leaving: Sequence[Leaving], directory: str, more: Sequence[str] = ()) \
        -> List[List[str]]:
    """The same for many at once: each file is changed once.  Returns the files for each.  Entries
    that ``keep`` cannot keep stay, and its error is raised once all others are out."""
    changed: List[List[str]] = [[] for _ in leaving]
    failed: Dict[int, errors.HandoverError] = {}

    def before(path: str, content: Splice, now: str) -> None:
        gone = _ours(content, *_all_of(leaving, failed))
        for number, entries in enumerate(leaving):
            mine = {} if number in failed else _part_of(gone, entries)
            if not any(mine.values()):
                continue
            try:
                if entries.keep:
                    entries.keep(path, _but_for(content, gone, mine), now)
            except errors.HandoverError as error:
                failed[number] = error
                raise
            changed[number] = [*dict.fromkeys((*changed[number], path))]

    for path in places.everywhere(more):
        while True:
            before_it = len(failed)
            try:
                settle(path, partial(_without, *_all_of(leaving, failed)), directory, before)
                break
            except errors.HandoverError:
                if len(failed) == before_it:
                    raise
    for error in failed.values():
        raise error
    return changed


@contextmanager
def removing(targets: Iterable[str], stores: Iterable[str], directory: str,
             allow: Sequence[str] = (), more: Sequence[str] = ()) -> Iterator[List[str]]:
    """Take the entries out before the targets are removed, and put them back where that fails.  The
    list tells of entries that are left, where ``allow`` has savefile.  Raises SavefileBroken."""
    kept: Dict[str, Tuple[str, str]] = {}
    left: List[str] = []
    targets, stores = list(targets), list(stores)
    try:
        drop(targets, stores, directory, lambda path, was, now: kept.__setitem__(path, (was, now)),
             more)
    except errors.SavefileBroken as error:
        errors.refuse([errors.Finding(
            errors.SavefileBroken, "targetcli may bring it back at a boot", error.what, "savefile",
            error.do)], allow)
        left.append(f"{error.what}: targetcli may bring it back at the next boot")
    try:
        yield left
    except BaseException as error:
        try:
            put_back(kept, targets, stores, directory)
        except errors.SavefileBroken as broken:
            if isinstance(error, errors.HandoverError):
                error.changed += f", but for the save file: {broken.what}"
        raise


def put(state: State, dbroot: str, directory: str, more: Sequence[str] = ()) -> List[str]:
    """Put targets and their backstores, as they are in ``state``, into the save file: the one
    that the owner or the restoring unit names, else the one that is there, of two the one in the
    kernel's ``dbroot``.  Returns the files that now hold
    them: none where the host has no targetcli.  Raises SavefileBroken."""
    named = places.named(more)
    there = places.existing(named)
    chosen = [path for path in named if os.path.isdir(os.path.dirname(path))][:1]
    chosen = chosen or [path for path in there if os.path.dirname(path) == dbroot] or there[:1]
    if not chosen:
        chosen = [path for path in places.KNOWN if os.path.dirname(path) == dbroot
                  and os.path.isdir(dbroot)]
    refused = rtslib_names.refused(state) if chosen else ""
    if refused:
        raise errors.SavefileBroken(f"targetcli can't have the name {refused}")
    new_entries = {"targets": [rtslib_entries.target(target) for target in state.targets],
                   "storage_objects": [rtslib_entries.storage_object(backstore)
                                       for backstore in state.backstores]}
    for path in chosen:
        settle(path, partial(_with, new_entries), directory)
    return chosen


def put_back(kept: Kept, targets: Iterable[str], stores: Iterable[str], directory: str) \
        -> List[str]:
    """Put back what ``drop`` has taken out, byte for byte.  Returns the files.  Raises
    SavefileBroken."""
    ours, leaving = set(targets), {_store(store) for store in stores}
    for path, (was, now) in kept.items():
        if not os.path.exists(path):
            raise errors.SavefileBroken(f"{path} is gone")
        settle(path, partial(_restored, was, now, ours, leaving), directory)
    return sorted(kept)


# ---- the file -----------------------------------------------------------------------------------
def settle(path: str, change: Change, directory: str, before: Optional[_Before] = None) -> bool:
    """Change the file; where somebody else wrote it just now, until it stays so.

    Where nobody did, which is nearly always, without waiting.
    """
    end = time.monotonic() + BUSY
    changed, who = False, ""
    while True:
        others = _others(path, directory)
        try:
            changed |= _change(path, change, directory, before)
            if not others or _stays(path, change):
                return changed
        except errors.SavefileBroken as error:
            if not error.half or not others or time.monotonic() > end:
                raise
            time.sleep(_OFTEN)
            continue
        who = writers.holding(path) or who
        if time.monotonic() > end:
            raise errors.SavefileBroken(
                f"{path} is written again and again by somebody else{who and f' ({who})'}, with "
                "what was taken out, or without what was put in",
                do=f"find who does (fuser -v {path}), stop it, and run it again")


def _others(path: str, directory: str) -> bool:
    """Whether somebody has just written it who is no lio-handover; of one the last word comes a
    moment after it has written."""
    if not writers.others_write(path, directory):
        return False
    try:
        with Locks(directory).hold(_LOCK, patience=PATIENCE):
            return writers.others_write(path, directory)
    except errors.HandoverError:
        return True


def _stays(path: str, change: Change) -> bool:
    began, seen = time.monotonic(), writers.identity(path)
    while time.monotonic() - began < writers.RECENT:
        time.sleep(_OFTEN)
        now = writers.identity(path)
        if now != seen:
            content = read(path)[0]
            if change(content) != content.text:
                return False
            seen = now
    return True


def _change(path: str, change: Change, directory: str, before: Optional[_Before]) -> bool:
    """Read, change and write; no other verb, nor targetcli, does so meanwhile, and once more where
    somebody else did.

    Where nothing is to be changed no lock is needed, so none has to be writable at a boot."""
    content = read(path)[0]
    if change(content) == content.text:
        return False
    with Locks(directory).hold(_LOCK, patience=PATIENCE), writers.alone():
        return _changed(path, change, directory, before)


def _changed(path: str, change: Change, directory: str, before: Optional[_Before]) -> bool:
    for _attempt in range(_TRIES):
        content, seen, data = read(path)
        text = change(content)
        if text == content.text:
            return False
        if before:
            before(path, content, text)
        try:
            if data:
                _back_up(path, data)
            if not write_file(os.path.realpath(path), text.encode(),  # a link to it stays one
                              lambda: writers.identity(path) == seen):
                continue
        except OSError as error:
            raise errors.SavefileBroken(f"{path} can't be written: {error.strerror}") from None
        writers.we_wrote(path, directory)
        return True
    raise errors.SavefileBroken(f"{path} is written again and again by somebody else")


def _back_up(path: str, data: bytes) -> None:
    """Keep what the file was, and of such copies the last ones: by number, as clocks go back."""
    folder = os.path.join(os.path.dirname(path), "backup")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    numbers = {name: int(match.group(1)) for name in os.listdir(folder)
               for match in [_COPY.match(name)] if match}
    oldest_first = sorted(numbers, key=lambda name: (numbers[name], name))
    if oldest_first and _holds(os.path.join(folder, oldest_first[-1]), data):
        return
    new = 1 + max(numbers.values(), default=0)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    write_file(os.path.join(folder, f"lio-handover-{new:06}-{stamp}.json"), data)
    for name in oldest_first[:-BACKUPS + 1]:
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            pass  # somebody tidies up


def _holds(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() == data
    except OSError:
        return False


# ---- changes ------------------------------------------------------------------------------------
def _store(name: str) -> Store:
    plugin, _, rest = name.partition("/")
    return plugin, rest


def _ours(content: Splice, targets: AbstractSet[str], stores: AbstractSet[Store]) \
        -> Dict[str, List[Element]]:
    """Entries of these targets, and of those of the backstores that no other entry names."""
    mine = [element for element in content.elements("targets")
            if rtslib_names.targets(element.value) & targets]
    leaving = [element for element in content.elements("storage_objects")
               if rtslib_names.store(element.value) in stores]
    if leaving:
        starts = {element.start for element in mine}
        used = rtslib_names.stores_named([element.value for element in content.elements("targets")
                                          if element.start not in starts])
        leaving = [element for element in leaving
                   if rtslib_names.store(element.value) not in used]
    return {"targets": mine, "storage_objects": leaving}


def _without(targets: AbstractSet[str], stores: AbstractSet[Store], content: Splice) -> str:
    return _but_for(content, _ours(content, targets, stores), {})


def _but_for(content: Splice, gone: Mapping[str, Sequence[Element]],
             staying: Mapping[str, Sequence[Element]]) -> str:
    """The text without the entries ``gone``, but for those of them that are ``staying``."""
    stay = {element.start for elements in staying.values() for element in elements}
    starts = {element.start for elements in gone.values() for element in elements} - stay
    if not starts:
        return content.text
    return content.with_parts({name: [
        [element for element in array.elements if element.start not in starts]
        for array in content.arrays if array.name == name]
        for name in LISTS if any(element.start in starts for element in gone[name])})


def _all_of(leaving: Sequence[Leaving], but: Mapping[int, object]) \
        -> Tuple[AbstractSet[str], AbstractSet[Store]]:
    """The targets and the backstores of all, but for those of these numbers."""
    rest = [entries for number, entries in enumerate(leaving) if number not in but]
    return {name for entries in rest for name in entries.targets}, {
        _store(name) for entries in rest for name in entries.stores}


def _part_of(gone: Mapping[str, Sequence[Element]], entries: Leaving) -> Dict[str, List[Element]]:
    """The entries of these among all that go."""
    stores = {_store(name) for name in entries.stores}
    return {"targets": [element for element in gone["targets"]
                        if rtslib_names.targets(element.value) & entries.targets],
            "storage_objects": [element for element in gone["storage_objects"]
                                if rtslib_names.store(element.value) in stores]}


def _become(name: str, entry: Mapping[str, Any]) -> AbstractSet[Any]:
    """The objects that an entry of a list may become."""
    return rtslib_names.targets(entry) if name == "targets" else {rtslib_names.store(entry)}


def _placed(content: Splice, name: str,
            new_values: Sequence[Tuple[Mapping[str, Any], Callable[[], str]]],
            replacing: bool) -> List[List[Part]]:
    """The parts of a list with these (value, its text): each in the place of the first entry that
    becomes the same object, and of no second one, else at the end.  Unless ``replacing`` what is
    there stays."""
    owner = {key: number for number, (value, _text) in enumerate(new_values)
             for key in _become(name, value)}
    left = dict(enumerate(new_values))
    lists: List[List[Part]] = []
    for array in content.arrays:
        if array.name != name:
            continue
        lists.append([])
        for element in array.elements:
            numbers = {owner[key] for key in _become(name, element.value) if key in owner}
            if not numbers or not replacing:
                lists[-1].append(element)
            for number in numbers & set(left):
                value, text = left.pop(number)
                if replacing:
                    lists[-1].append(element if element.value == value else text())
    lists = lists or [[]]
    lists[-1].extend(text() for _value, text in left.values())
    return lists


def _with(new_entries: Mapping[str, Sequence[Mapping[str, Any]]], content: Splice) -> str:
    parts = {name: _placed(content, name, [
        (entry, partial(content.written, entry)) for entry in entries], True)
        for name, entries in new_entries.items()}
    return content.with_parts({"fabric_modules": [[]], **parts} if content.empty else parts)


def _restored(was: str, now: str, targets: AbstractSet[str], stores: AbstractSet[Store],
              content: Splice) -> str:
    """Put back the entries that were taken out: the whole file as it was, where nothing else was
    changed since."""
    if content.text == now:
        return was
    old = Splice(was, LISTS)
    taken = _ours(old, targets, stores)
    return content.with_parts({name: _placed(content, name, [
        (element.value, partial(old.text_of, element)) for element in taken[name]],
        name == "targets")
        for name in LISTS})

"""Where targetcli's save file is on a host: what its restore at boot reads.

Three places are known: those of rtslib and the distributions, what the restoring unit names
(``targetctl restore FILE``, ``targetcli restoreconfig savefile=FILE``), and what the owner says
(``savefiles`` in ``[host]`` of the configuration file).  A unit is read as systemd does: the file
of the first folder that has it, then its drop-ins (systemd.unit(5)).
"""
from __future__ import annotations

import os
import shlex
from contextlib import contextmanager
from typing import Dict, Iterator, List, Sequence, Tuple

from ..errors import SavefileBroken, shown

#: rtslib's (and Red Hat's, SUSE's) place, and Debian's.
KNOWN = ("/etc/target/saveconfig.json", "/etc/rtslib-fb-target/saveconfig.json")
#: The units that restore: rtslib's, openSUSE's, Debian's.  Our boot unit is ordered before each.
UNITS = ("target.service", "targetcli.service", "rtslib-fb-targetctl.service")
#: Where units are, what counts more first.
FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
           "/usr/lib/systemd/system", "/lib/systemd/system")
#: A program that restores → its word for that.
_RESTORES = {"targetctl": "restore", "targetcli": "restoreconfig"}
_KEY = "savefile="

#: Files that the owner names → the result of `named`, of each `named_once` that goes on.
_known: List[Dict[Tuple[str, ...], List[str]]] = []


def named(more: Sequence[str] = ()) -> List[str]:
    """The files that the owner (``more``) or a unit names, there or not.

    Raises SavefileBroken where a unit's command cannot be followed and the owner names none.
    """
    if not _known:
        return _named(more)
    wanted = tuple(more)
    if wanted not in _known[-1]:
        _known[-1][wanted] = _named(more)
    return _known[-1][wanted]


@contextmanager
def named_once() -> Iterator[None]:
    """Within this context, which one thread uses, units are read once."""
    _known.append({})
    try:
        yield
    finally:
        _known.pop()


def _named(more: Sequence[str]) -> List[str]:
    paths = list(more)
    for unit in UNITS:
        for command in _commands(unit):
            paths += _file_of(unit, command, bool(more))
    return list(dict.fromkeys(paths))


def everywhere(more: Sequence[str] = ()) -> List[str]:
    """The save files that this host has, named ones first.  Raises SavefileBroken."""
    return existing(named(more))


def existing(first: Sequence[str]) -> List[str]:
    """The same, of which those that are named are known."""
    return [path for path in dict.fromkeys([*first, *KNOWN]) if os.path.exists(path)]


def _commands(unit: str) -> List[str]:
    """The values of a unit's ExecStart."""
    commands: List[str] = []
    for path in _files(unit):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except OSError:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            key, equals, value = line.partition("=")
            if key.strip() == "ExecStart" and equals:
                # An empty value takes back what came before.
                commands = [*commands, value.strip()] if value.strip() else []
    return commands


def _files(unit: str) -> Iterator[str]:
    there = [folder for folder in FOLDERS if os.path.exists(f"{folder}/{unit}")]
    yield from (f"{folder}/{unit}" for folder in there[:1])
    dropins: Dict[str, str] = {}
    for folder in FOLDERS:
        try:
            names = os.listdir(f"{folder}/{unit}.d")
        except OSError:
            continue
        for name in names:
            if name.endswith(".conf"):
                dropins.setdefault(name, f"{folder}/{unit}.d/{name}")
    yield from (dropins[name] for name in sorted(dropins))


def _file_of(unit: str, command: str, settled: bool) -> List[str]:
    """The file that a command restores; none where it names none, or restores nothing."""
    try:
        words = shlex.split(command.lstrip("-@:+!"))
    except ValueError:
        words = [command]
    name = os.path.basename(words[0]) if words else ""
    if name in _RESTORES:
        if _RESTORES[name] not in words:
            return []
        after = words[words.index(_RESTORES[name]) + 1:]
        paths = [word[len(_KEY):] if word.startswith(_KEY) else word for word in after
                 if word.startswith(_KEY) or "=" not in word]
        if not paths:
            return []
        if paths[0].startswith("/") and not set("$%") & set(paths[0]):
            return [paths[0]]
    elif not any(restore in command for restore in _RESTORES):
        return []
    if settled:
        return []
    raise SavefileBroken(
        f"which file {unit} restores can't be told: {shown(command)}",
        do="name it as savefiles in [host] of /etc/lio-handover/lio-handover.conf")

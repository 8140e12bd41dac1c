"""The guests whose targets travel in QEMU's own stream, as their files tell of them: their targets,
buses and deadlines (lio-handover-vmstate, lio-handover-hook).

``/etc/lio-handover/guests/NAME.conf``, the same on both hosts but for the targets' names::

    [guest]
    targets = vhost/naa.5001405000000001

and, where other values are wanted than these (``users`` may call Save() and Load() beside root: by
default whoever reaches the guest's own bus, and on the system's nobody else)::

    id = lio-handover/NAME
    bus = unix:path=/run/lio-handover-guests/NAME/bus
    users = root
    deadline = 10
    patience = 600

For lio-handover-hook, which begins the handover for a guest's manager, as ``lio-handover move`` has
it: ``allow`` (names of findings), ``map`` (KIND:OLD=NEW, on this host), ``probe`` (yes or no).
"""
from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from typing import List, NoReturn, Optional, Sequence, Set, Tuple

from .. import errors
from . import confinement

FOLDER = "/etc/lio-handover/guests"
#: The bus of a guest, where its file names none.
BUS = "unix:path=/run/lio-handover-guests/{name}/bus"
#: For `bus`: this host's own.
SYSTEM = "system"
#: The longest deadline: QEMU waits 25 s for an answer (GDBus's default, backends/dbus-vmstate.c).
LONGEST = 20

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TARGET = re.compile(r"vhost/naa\.[0-9a-f]{16}(?:[0-9a-f]{16})?")
#: QEMU's list of ids is separated by commas, and a blank in it counts.
_ID = re.compile(r"[A-Za-z0-9_./:-]{1,255}")
_ADDRESS = re.compile(r"unix:path=/[A-Za-z0-9._/-]+")
_KEYS = ("targets", "id", "bus", "users", "deadline", "patience", "allow", "map", "probe")
#: The name of a finding, for `allow`.
_FINDING = re.compile("[a-z0-9][a-z0-9-]{0,63}")
#: For `probe`.
_ANSWERS = {"yes": True, "no": False}
#: A user, as useradd(8) takes it.
_USER = re.compile("[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Guest:
    """A guest.  ``users``: who may call Save() and Load() beside root, None for whoever reaches its
    bus; ``deadline``: seconds for both; ``patience``: seconds that are waited for the guest to run
    on one of the hosts.  ``allow``, ``maps``, ``probe``: for the handover that a hook begins."""

    name: str
    targets: Tuple[str, ...]
    id: str
    bus: str
    deadline: int = 10
    patience: int = 600
    users: Optional[Tuple[str, ...]] = None
    allow: Tuple[str, ...] = ()
    maps: Tuple[str, ...] = ()
    probe: bool = False


def load(name: str, folder: str = FOLDER) -> Guest:
    """The guest of this name.  Raises BadSettings."""
    if not NAME.fullmatch(name):
        raise errors.BadSettings(f"{errors.quoted(name)} is no name of a guest",
                                 do="name it by letters, digits, - _ .")
    path = f"{folder}/{name}.conf"
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read(), name, path)
    except FileNotFoundError:
        raise errors.BadSettings(f"there is no {path}",
                                 do=f"write it: [guest], targets = vhost/naa... ({path})") from None
    except UnicodeDecodeError:
        raise errors.BadSettings(f"{path}: not UTF-8 text", do=f"correct {path}") from None
    except OSError as error:
        raise errors.BadSettings(f"{path}: {error.strerror}", do=f"look at {path}") from None


def parse(text: str, name: str, path: str) -> Guest:
    """The guest in a file's text.  Raises BadSettings naming path and key."""
    def fail(what: str) -> NoReturn:
        raise errors.BadSettings(f"{path}: {what}", do=f"correct {path}")

    def seconds(key: str, default: int, most: int) -> int:
        value = values.get(key, str(default)).strip()
        if not re.fullmatch("[1-9][0-9]{0,4}", value) or int(value) > most:
            fail(f"{key}: {errors.quoted(value)} is not a number of seconds, 1 to {most}")
        return int(value)

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text, path)
    except configparser.Error as error:
        fail(errors.shown(str(error)))
    if parser.sections() != ["guest"] or parser.defaults():
        fail("it has to have the section [guest], and no other")
    values = parser["guest"]
    unknown = [key for key in values if key not in _KEYS]
    if unknown:
        fail(f"[guest] has no key {errors.quoted(unknown[0])} (it has {', '.join(_KEYS)})")
    targets = tuple(values.get("targets", "").split())
    if not targets or len(set(targets)) != len(targets):
        fail("targets: names each vhost target of the guest once")
    for target in targets:
        if not _TARGET.fullmatch(target):
            fail(f"targets: {errors.quoted(target)} is none: vhost/naa. and 16 hex digits")
    known = values.get("id", f"lio-handover/{name}").strip()
    if not _ID.fullmatch(known):
        fail(f"id: {errors.quoted(known)}: QEMU takes 1 to 255 letters, digits, _ . / : -")
    bus = values.get("bus", BUS.format(name=name)).strip()
    if bus != SYSTEM and not _ADDRESS.fullmatch(bus):
        fail(f"bus: {errors.quoted(bus)} is neither {SYSTEM} nor unix:path=FILE")
    users: Optional[Tuple[str, ...]] = tuple(values.get("users", "").split())
    for user in users or ():
        if not _USER.fullmatch(user):
            fail(f"users: {errors.quoted(user)} is no name of a user")
    if not users and "users" not in values and bus != SYSTEM:
        users = None
    allow = tuple(values.get("allow", "").split())
    for finding in allow:
        if not _FINDING.fullmatch(finding):
            fail(f"allow: {errors.quoted(finding)} is no name of a finding")
    maps = tuple(line for line in map(str.strip, values.get("map", "").splitlines()) if line)
    probe = values.get("probe", "no").strip()
    if probe not in _ANSWERS:
        fail(f"probe: {errors.quoted(probe)} is neither yes nor no")
    return Guest(name, targets, known, bus, seconds("deadline", 10, LONGEST),
                 seconds("patience", 600, 99999), users, allow, maps, _ANSWERS[probe])


# ---- before a guest moves ------------------------------------------------------------------------
def of_targets(targets: Sequence[str], folder: str = FOLDER) -> List[Guest]:
    """The guests that have one of these targets, by name.  Raises BadSettings."""
    try:
        names = sorted(name[:-5] for name in os.listdir(folder) if name.endswith(".conf"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.BadSettings(f"{folder}: {error.strerror}", do=f"look at {folder}") from None
    return [guest for guest in (load(name, folder) for name in names if NAME.fullmatch(name))
            if {*guest.targets} & {*targets}]


def unready(targets: Sequence[str], folder: str = FOLDER) -> List[str]:
    """Why QEMU would find no helper for these targets on this host, or may not: it then migrates
    without what they need, unless its object dbus-vmstate has an id-list."""
    try:
        guests = of_targets(targets, folder)
    except errors.BadSettings as error:
        return [str(error)]
    named: Set[str] = {target for guest in guests for target in guest.targets}
    lines = [f"{target}: no file in {folder} names it, so QEMU finds no lio-handover-vmstate for it"
             for target in targets if target not in named]
    for guest in guests:
        path = guest.bus.partition("unix:path=")[2]
        if path and not os.path.exists(path):
            lines.append(f"{guest.name}: its bus is not there; next: systemctl start "
                         f"lio-handover-vmstate@{guest.name}")
        if path:
            lines += [f"{guest.name}: {line}" for line in confinement.unready(path)]
    return lines

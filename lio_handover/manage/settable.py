"""Names of attributes as people have them → attributes with values that the kernel takes."""
from __future__ import annotations

from typing import Dict, List, Mapping

from .. import errors
from ..document.values import attributes_of
from ..errors import quoted
from ..model.attributes import CARRIED, SECRET, TABLE, Attribute, rows
from .nouns import ALIASES, NOUNS, Noun

#: The names of secrets, in the kernel's words and in targetcli's.
SECRETS = frozenset(row.path.rpartition("/")[2] for row in TABLE if row.kind == SECRET) | {
    "mutual_password"}
_SWITCH = {"true": "1", "false": "0"}
#: Attributes that something else makes and takes away.
_NOT_SET = {"tpg": ("nexus",), "backstore": ("udev_path", "alias", "lba_map"),
            "lu_group": (), "alua_group": ("tg_pt_gp_id",)}


def settable(noun: Noun, owner: str) -> Dict[str, Attribute]:
    """{path: row} of the attributes of an object of this plugin or fabric that can be set."""
    return {path: row for path, row in rows(noun.kind, owner).items()
            if row.kind in CARRIED and path not in _NOT_SET.get(noun.kind, ())}


def names(noun: Noun, owner: str) -> Dict[str, List[str]]:
    """{group: the names that people have for its attributes}, for completion and documentation."""
    back = {path: name for name, path in ALIASES.get(noun.kind, {}).items()}
    groups: Dict[str, List[str]] = {}
    for path in settable(noun, owner):
        shown = back.get(path, path)
        for group, prefix in noun.groups.items():
            if shown.startswith(prefix) and "/" not in shown[len(prefix):]:
                groups.setdefault(group, []).append(shown[len(prefix):])
    return groups


def path_of(noun: Noun, owner: str, group: str, name: str, where: str) -> str:
    """The path of the attribute that is called ``name``, in a group or in any.  Raises BadCall."""
    if group and group not in noun.groups:
        raise errors.BadCall(f"{where} has no group {quoted(group)} (it has "
                             f"{', '.join(noun.groups)})", do="correct it")
    known, aliases = settable(noun, owner), ALIASES.get(noun.kind, {})
    for prefix in (noun.groups[group],) if group else noun.groups.values():
        path = aliases.get(prefix + name, prefix + name)
        if path in known and "/" not in name:
            return path
    raise errors.BadCall(f"{where} has no {quoted(name)} that could be set"
                         + (f" in its group {group}" if group else ""),
                         do=f"lio-handover set {where} GROUP NAME=VALUE, a GROUP of "
                         + ", ".join(noun.groups))


def knows(kind: str, owner: str, group: str, name: str) -> bool:
    """Whether `set` knows a name of a group, of an object of this plugin or fabric."""
    try:
        path_of(NOUNS[kind], owner, group, name, "")
    except errors.BadCall:
        return False
    return True


def attributes_to_set(noun: Noun, owner: str, group: str, values: Mapping[str, str],
                      where: str) -> Dict[str, str]:
    """{attribute: value} of what people wrote; "" for an attribute that is to be as it is in a new
    object.  Raises BadCall, BadValue."""
    changed: Dict[str, str] = {}
    for name, word in values.items():
        path = path_of(noun, owner, group, name, where)
        row = rows(noun.kind, owner)[path]
        if path in changed:
            raise errors.BadCall(f"{path} is given twice", do="give it once")
        if row.numeric and isinstance(word, str) and word.encode(errors="replace").lower() in (
                b"true", b"false"):
            word = _SWITCH[word.lower()]
        if "\n" in word:
            raise errors.BadValue(f"{where}: {name} has a newline")
        if word.encode(errors="surrogateescape"):
            changed.update(attributes_of({path: word}, where, noun.kind, owner))
        else:
            changed[path] = row.default_of(owner) or ""
    return changed

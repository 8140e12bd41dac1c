"""Keys: the identity of an object, the same on every host.

A key is a tuple of words, the kind of object first; an object's key begins with its parent's.  The
number of an HBA is not part of a key, because it differs between hosts.
"""
from __future__ import annotations

from typing import Tuple

Key = Tuple[str, ...]


def lu_group_key(name: str) -> Key:
    return ("lu_group", name)


def backstore_key(plugin: str, name: str) -> Key:
    return ("backstore", plugin, name)


def alua_group_key(backstore: Key, name: str) -> Key:
    return (*backstore, "alua", name)


def target_key(fabric: str, wwn: str) -> Key:
    return ("target", fabric, wwn)


def tpg_key(target: Key, tag: object) -> Key:
    """``tag``: a number, or the directory's name where the directory has no number or is a second
    one with the same number (directories.numbered_tpgs).  The same holds for LUNs and mapped
    LUNs."""
    return (*target, str(tag))


def portal_key(tpg: Key, address: str) -> Key:
    return (*tpg, "portal", address)


def lun_key(tpg: Key, number: object) -> Key:
    return (*tpg, "lun", str(number))


def acl_key(tpg: Key, initiator: str) -> Key:
    return (*tpg, "acl", initiator)


def mapped_lun_key(acl: Key, number: object) -> Key:
    return (*acl, "lun", str(number))


def display(key: Key) -> str:
    """A key as a person would write it: ``iscsi/iqn.x/tpg1/lun0``, ``fileio/disk0/group``."""
    kind, *rest = key
    if kind != "target":
        return "/".join(rest)
    words = rest[:2] + [f"tpg{tag}" if tag.isdigit() else tag for tag in rest[2:3]]
    below = rest[3:]
    while below:
        what, name, *below = below
        words.append(f"lun{name}" if what == "lun" and name.isdigit() else name)
    return "/".join(words)

"""The companion file in which fileio keeps T10 protection information.

A fileio backstore whose ``pi_prot_type`` is not 0 has two files open: its own and, beside it,
PATH.protection with 8 bytes for each block (drivers/target/target_core_file.c:fd_init_prot, which
makes an empty one where there is none).  An initiator's READ returns data of both, so both are the
storage of the backstore: proved, compared, flushed and dropped from the cache together.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Dict, Mapping, Optional, Tuple, Union

from ..model import plugins
from ..model.objects import Backstore
from ..model.plugins import Opens

SUFFIX = ".protection"
#: Before the names of the companion's evidence, which stands with that of the backstore.
PREFIX = "protection_"

Evidence = Mapping[str, Union[str, int, bool]]


def companion(store: Backstore) -> Optional[Backstore]:
    """The companion file as a backstore with that path, None where there is none."""
    if plugins.opened_by(store.plugin) is not Opens.FILE or not store.path \
            or store.attributes.get("attrib/pi_prot_type", "0") == "0":
        return None
    _parameters, name = plugins.of(store.plugin).path_in
    return replace(store, parameters={name: store.path + SUFFIX}, attributes={})


def files(store: Backstore) -> Tuple[str, ...]:
    """Every path that a backstore has open: none, its own, or its own and the companion's."""
    beside = companion(store)
    return (store.path, *([beside.path] if beside else [])) if store.path else ()


def named(evidence: Evidence) -> Dict[str, Union[str, int, bool]]:
    """Evidence of a companion as it stands with that of its backstore."""
    return {PREFIX + name: value for name, value in evidence.items()}


def part_of(evidence: Evidence) -> Dict[str, Union[str, int, bool]]:
    """The companion's part of what proves that a backstore's storage is the same."""
    return {name[len(PREFIX):]: value for name, value in evidence.items()
            if name.startswith(PREFIX)}

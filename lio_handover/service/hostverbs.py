"""What the service takes from the rows of verb_table.py."""
from __future__ import annotations

from typing import Mapping

from ..protocol import table
from ..verb_table import ASSERTIONS as WORDS, FORCING, HANDOVER_VERBS, HOST_VERBS, OPTIONS as _ROWS

__all__ = ["FORCING", "HANDOVER_OPTIONS", "HOST_VERBS", "OPTIONS", "WORDS", "deadline"]

#: What any verb of a handover takes.
HANDOVER_OPTIONS = frozenset(
    option for verb in HANDOVER_VERBS.values() for option in verb.on_bus)
_TYPES: Mapping[str, type] = {"b": bool, "s": str, "as": list, "u": int}
#: option → its type in Python
OPTIONS: Mapping[str, type] = {
    option.bus: _TYPES[option.type] for option in _ROWS.values() if option.bus}


def deadline(role: str, verb: str) -> float:
    """Seconds without a sign of life after which a verb alarms; ``role`` "" for one host's."""
    if not role:
        return HOST_VERBS[verb].deadline
    return table.deadline(role, verb)

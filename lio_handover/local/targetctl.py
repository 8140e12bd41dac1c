"""Whether targetcli is restoring or clearing: rtslib takes no lock that could be waited for."""
from __future__ import annotations

import os

#: A program → its words that change all targets; none: whatever it is told to do.
_PROGRAMS = {b"targetctl": (), b"targetcli": (b"restoreconfig", b"clearconfig")}


def at_work() -> bool:
    """Whether such a program runs.  (A command that is typed at targetcli's prompt cannot be seen.)
    """
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                words = file.read(4096).split(b"\0")
        except OSError:
            continue  # it has ended
        for word in words[:3]:  # a script's name follows its interpreter and that one's options
            wanted = _PROGRAMS.get(os.path.basename(word))
            if wanted is not None and (not wanted or {*wanted} & {*words}):
                return True
    return False

"""The modules that are imported, or started as a process, by name: all of them, in one table."""
from __future__ import annotations

_COMMANDS = "lio_handover.cli."
#: Verb of the command line → the module that has it; the others are not imported for it.
COMMANDS = {
    **dict.fromkeys(("show", "prepare", "freeze", "export", "thaw", "diff", "plan", "import",
                     "verify", "remove"), _COMMANDS + "host_commands"),
    **dict.fromkeys(("source", "destination", "status", "recover", "move"),
                    _COMMANDS + "handover_commands"),
    **dict.fromkeys(("adopt", "giveback", "restore", "clear"), _COMMANDS + "restore_commands"),
}
#: ``python3 -m``: who carries a job out, and who keeps a vhost endpoint occupied.
WORKER = "lio_handover.service.worker"
ENDPOINT_HOLDER = "lio_handover.scsi.endpoint_holder"

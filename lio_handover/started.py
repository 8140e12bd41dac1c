"""The modules that are imported, or started as a process, by name: all of them, in one table."""
from __future__ import annotations

from .verb_table import COMMANDS as _MODULES

#: Verb of the command line → the module that has it; the others are not imported for it.
COMMANDS = {verb: f"lio_handover.cli.{module}" for verb, module in _MODULES.items()}
#: ``python3 -m``: who carries a job out, and who keeps a vhost endpoint occupied.
WORKER = "lio_handover.service.worker"
ENDPOINT_HOLDER = "lio_handover.scsi.endpoint_holder"

"""All modules that are imported, or started as a process, by name."""
from __future__ import annotations

from .verb_table import COMMANDS as _MODULES

#: Verb of the command line → its module; the command line imports no other verb's module.
COMMANDS = {verb: f"lio_handover.cli.{module}" for verb, module in _MODULES.items()}
#: ``python3 -m``: the process that runs a job, the process that answers QEMU, the process that
#: occupies a vhost endpoint, and the process that asks the other host.
WORKER = "lio_handover.service.worker"
VMSTATE_WORKER = "lio_handover.vmstate.worker"
ENDPOINT_HOLDER = "lio_handover.scsi.endpoint_holder"
ASKER = "lio_handover.client.asking"
#: The module that has the package's names: imported when one of them is first asked for.
LIBRARY = "lio_handover.library"

"""All modules that are imported, or started as a process, by name."""
from __future__ import annotations

import os
import sys

from .verb_table import COMMANDS as _MODULES

#: Verb of the command line → its module; the command line imports no other verb's module.
COMMANDS = {verb: f"lio_handover.{module if '.' in module else f'cli.{module}'}"
            for verb, module in _MODULES.items()}
#: Started by `command`: the process that runs a job, the process that answers QEMU, the process
#: that occupies a vhost endpoint, the process that asks the other host, and the process that asks a
#: peer what it serves.
WORKER = "lio_handover.service.worker"
VMSTATE_WORKER = "lio_handover.vmstate.worker"
ENDPOINT_HOLDER = "lio_handover.scsi.holder_process"
ASKER = "lio_handover.client.asking"
PEER_ASKER = "lio_handover.hooks.peers"
#: Runs a line of the shell, for the service.
LINES = "lio_handover.shell.main"
#: The module that has the package's names: imported when one of them is first asked for.
LIBRARY = "lio_handover.library"

#: The interpreter, where the process that starts another does not know its own.
PYTHON = "/usr/bin/python3"
#: Runs ``main`` of a module.  The package comes from the folder that the starter has it from, an
#: installed one or a checkout; all else comes from there last (qemu.qmp may be beside the package).
_BEGIN = ("import sys; folder, module = sys.argv[1:3]; del sys.argv[1:3]; "
          "sys.path.insert(0, folder); import lio_handover; sys.path.append(sys.path.pop(0)); "
          "sys.exit(__import__(module, fromlist=['main']).main())")
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def command(module: str, *arguments: str) -> list[str]:
    """The command of a process that runs a module of this package.

    Python is isolated (-I): neither the environment, nor the working directory, nor a user's own
    site-packages has a say in what a process of root's imports.
    """
    options = ["-I"]
    if sys.dont_write_bytecode:
        options.append("-B")
    if sys.pycache_prefix:  # set by the environment; an isolated starter has none
        options += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [sys.executable or PYTHON, *options, "-c", _BEGIN, _FOLDER, module, *arguments]

#!/usr/bin/python3
"""A document of a frozen target, for another host to import.

    02_freeze_and_export.py TARGET FILE

The target is frozen meanwhile, and thawed if anything fails.  Once it is exported it stays frozen:
another host may serve it then.
"""
import sys

import lio_handover as lio

target, file = sys.argv[1:]
host = lio.Host()
with host.frozen(target):  # gates shut, no command executing, all data on the storage
    document = host.export(target)
document.save(file)        # mode 0600, whole or not at all: it holds CHAP secrets
print(f"{', '.join(document.targets)}: {file}, digest {document.digest[:12]}")

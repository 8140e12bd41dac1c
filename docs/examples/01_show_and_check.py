#!/usr/bin/python3
"""What this host serves, and what speaks against handing it over; changes nothing.

    01_show_and_check.py TARGET
"""
import sys

import lio_handover as lio

target = sys.argv[1]
host = lio.Host()  # raises errors.NotRoot, errors.NoTargetModules
for lun in host.show(target).luns(target):
    held = lun.backstore.reservations  # type: of SPC, 5 is Write Exclusive - Registrants Only
    print(f"LUN {lun.number}: {lun.backstore.path}, {len(held.registrations)} registrations, "
          f"reservation of type {held.type or 'none'}")
for finding in host.check(target):
    print(f"{finding.subject}: {finding.sentence} (--allow {finding.override or 'nothing'})")

#!/usr/bin/python3
"""Serve what a document says: the plan, what speaks against it, and then the import.

    03_plan_and_apply.py FILE [KIND:OLD=NEW]...

All of it or nothing: what fails is taken back.
"""
import sys

import lio_handover as lio

document = lio.load(sys.argv[1])
rename = dict(word.rsplit("=", 1) for word in sys.argv[2:])  # {"root:/srv/a": "/srv/b"}
host = lio.Host()
plan = host.plan(document, rename=rename)
print(*plan, sep="\n")
for finding in plan.findings:
    print(f"{finding.subject}: {finding.sentence} ({finding.do})")
try:
    result = host.apply(plan)
except lio.errors.HandoverError as error:
    sys.exit(f"{error.what}; {error.changed}; next: {error.next}")
print(f"{', '.join(result.targets)}: {result.writes} writes to the kernel")
host.verify(document, rename=rename)

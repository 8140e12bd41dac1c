"""The way back from a freeze: the gates that it has shut, opened as they were."""
from __future__ import annotations

from dataclasses import replace
from typing import List, Sequence, Tuple

from . import errors, executor, ports
from .frozen import as_frozen
from .host import Host
from .model import State
from .planner import plan
from .reader import Reader


def thaw(host: Host, names: Sequence[Tuple[str, str]], against: Sequence[errors.Finding],
         allow: Sequence[str]) -> Tuple[State, List[str]]:
    """Open the gates which a freeze of these targets has shut; (what is there then, what to tell).

    ``against``: what else speaks against it.  Raises NoSuchTarget, InUse, KernelRefused.
    """
    facts, record, findings = host.reader().facts(), host.frozen(), list(against)
    for fabric, wwn in names:
        one = record.record(f"{fabric}/{wwn}")
        if one is None:
            raise errors.NoSuchTarget(f"{fabric}/{wwn} was not frozen by lio-handover",
                                      do="lio-handover show")
        if one.document:
            findings.append(errors.Finding(
                errors.InUse, f"{fabric}/{wwn}",
                f"document {one.document[:12]}… of it was exported since the freeze, so "
                "another host may serve it", "exported",
                "make sure that none does, and never will"))
    reader = Reader(host.fs, reservations=False)
    have = reader.state(names)
    want = replace(have, targets=tuple(
        as_frozen(one, record.record(one.name)) for one in have.targets))
    notes: List[str] = []
    if facts.has_rtpi:
        opened = [new.key for target in have.targets for old in target.tpgs
                  for new in [want.index()[old.key]]
                  if old.attributes.get("enable") != "1" and new.attributes.get("enable") == "1"]
        want, taken, notes = ports.settled(reader, want, opened, allow)
        findings += taken
    errors.refuse(findings, allow)
    executor.apply(host.fs, plan(have, want, facts, verify=False), have, facts,
                   reservations=False)
    record.forget([f"{fabric}/{wwn}" for fabric, wwn in names])
    return reader.state(names), notes

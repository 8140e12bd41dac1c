"""Which gates a freeze has shut, and what they were: kept on the disk before the first is shut.

And who was there by a dynamic ACL: once the gates are shut, the kernel no longer shows it.

The kernel can't tell a TPG that was frozen from one that was never enabled.  This record can,
until the host reboots (configfs dies with the kernel: the boot id says so).
"""
from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import ContextManager, Dict, List, Mapping, Optional, Sequence

from . import dynamic, errors
from .locks import PATIENCE, Locks
from .wholefile import write_file
from .model import Key, State, Target, Tpg
from .diff import gates

NAME = "frozen.json"


@dataclass(frozen=True)
class Record:
    """One frozen target: {TPG's tag: the value its gate had}, and the document it went into."""

    gates: Mapping[str, str] = field(default_factory=dict)
    document: str = ""
    #: whether the freeze has shut them all: before that, a gate that is shut may be its work
    shut: bool = False
    #: {TPG's tag: initiators that were there by a dynamic ACL}
    dynamic: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: {TPG's tag: its relative port}, where the kernel gives it to another once the gate is shut
    ports: Mapping[str, str] = field(default_factory=dict)


def as_frozen(target: Target, record: Optional[Record]) -> Target:
    """The target with the gates that were open when it was frozen, and the ports it had then."""
    if record is None:
        return target

    def tpg(one: Tpg) -> Tpg:
        tag, attributes = one.key[3], dict(one.attributes)
        if tag in record.gates:
            attributes["enable"] = record.gates[tag]
        if tag in record.ports:
            attributes["rtpi"] = record.ports[tag]
        return replace(one, attributes=attributes)
    return replace(target, tpgs=tuple(map(tpg, target.tpgs)))


class Frozen:
    """The record of one host.  ``boot_id`` is that of the running kernel.

    Raises BadFile where it can't be read or written.
    """

    def __init__(self, directory: str, boot_id: str) -> None:
        self.path = os.path.join(directory, NAME)
        self.boot_id = boot_id

    def _load(self) -> Dict[str, Record]:
        import json
        try:
            with open(self.path, "rb") as file:
                found = json.load(file)
            if found["boot_id"] != self.boot_id:
                return {}
            return {name: Record(one["gates"], one["document"], one["shut"], one["dynamic"],
                                 one.get("ports", {}))
                    for name, one in found["targets"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.BadFile(f"{self.path} can't be read: {error}",
                                 do="look at the file; without it a thaw does not know which "
                                    "TPGs were enabled") from None

    def _save(self, records: Mapping[str, Record]) -> None:
        import json
        text = json.dumps({"boot_id": self.boot_id, "targets": {
            name: {"gates": dict(one.gates), "document": one.document, "shut": one.shut,
                   "dynamic": {tag: list(names) for tag, names in one.dynamic.items()},
                   "ports": dict(one.ports)}
            for name, one in records.items()}}, indent=1, sort_keys=True)
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            write_file(self.path, text.encode() + b"\n")
        except OSError as error:
            raise errors.BadFile(f"{self.path} can't be written: {error.strerror}") from None

    def _turn(self) -> ContextManager[None]:
        """Who freezes another target writes the same file."""
        return Locks(os.path.dirname(self.path)).hold(NAME, patience=PATIENCE)

    def record(self, name: str) -> Optional[Record]:
        """The record of a target, None where it is not frozen."""
        return self._load().get(name)

    def names(self) -> List[str]:
        return sorted(self._load())

    def freeze(self, state: State, numbers: Mapping[Key, str]) -> List[str]:
        """Note the gates that are open now, and their TPGs' relative ports, before they are shut;
        the names that are new.

        A freeze that was cut off keeps its note; one that was done, and gates opened since by
        other means, does not.
        """
        with self._turn():
            records, new = self._load(), []
            for target in state.targets:
                open_now = {key[3]: value for key, name, value in gates(State(targets=(target,)))
                            if name == "enable"}
                by_dynamic = {tpg.key[3]: dynamic.sessions(tpg) for tpg in target.tpgs
                              if dynamic.made(tpg) and dynamic.sessions(tpg)}
                noted = records.get(target.name)
                if noted is None or noted.shut and open_now:
                    records[target.name] = Record(open_now, dynamic=by_dynamic, ports={
                        tag: numbers[(*target.key, tag)] for tag in open_now
                        if (*target.key, tag) in numbers})
                    new.append(target.name)
            self._save(records)
            return new

    def done(self, names: List[str]) -> None:
        """All gates of these are shut now."""
        with self._turn():
            self._save({name: replace(one, shut=one.shut or name in names)
                        for name, one in self._load().items()})

    def exported(self, names: List[str], document: str) -> None:
        with self._turn():
            records = self._load()
            for name in names:
                if name in records:
                    records[name] = replace(records[name], document=document)
            self._save(records)

    def forget(self, names: List[str]) -> None:
        with self._turn():
            records = self._load()
            if [name for name in names if records.pop(name, None) is not None]:
                self._save(records)

"""The answers of --json and D-Bus: plain data with the facts of the text, without secrets."""
from __future__ import annotations

from dataclasses import fields
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ..errors import Finding
from ..host.looked_at import Ready, View
from ..local import results
from ..model import diff as differ, objects
from ..model.keys import display
from ..model.objects import State
from ..model.reservations import reservations_tree
from ..plan.plan import FILE, Step, writes


def finding_tree(finding: Finding, allowed: Sequence[str] = ()) -> Dict[str, Any]:
    return {"error": finding.error.__name__, "code": finding.error.code, "subject": finding.subject,
            "sentence": finding.sentence, "override": finding.override, "do": finding.do,
            "allowed": bool(finding.override) and finding.override in allowed}


def view_tree(view: View) -> Dict[str, Any]:
    import json

    from ..document.document import Document, state_bytes
    return {
        "host": view.host, "kernel": view.kernel, "frozen": list(view.frozen),
        "sizes": {display(key): number for key, number in view.sizes.items()},
        "notes": list(view.notes),
        "not_enabled": sorted(display(key) for key in view.off), "unclear": view.unclear,
        "sessions": {display(tpg.key): list(tpg.sessions) for target in view.state.targets
                     for tpg in target.tpgs},
        # Directories whose names are not the usual spelling of their numbers.
        "directories": {display(obj.key): obj.directory for obj in view.state.objects()
                        if isinstance(obj, (objects.Tpg, objects.Lun, objects.MappedLun))
                        and obj.directory},
        "state": json.loads(state_bytes(Document(without_secrets(view.state))))}


def without_secrets(state: State) -> State:
    """The state with the words "(secret)" for every secret."""
    return differ.with_secrets(state, str)


def change_tree(change: differ.Change) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"change": type(change).__name__.lower(), "object": display(change.key)}
    if isinstance(change, (differ.Set, differ.Relink)):
        entry.update(name=change.name, here=_plain(change.old), document=_plain(change.new))
    elif isinstance(change, differ.Register):
        entry.update(name="reservations", here=reservations_tree(change.old, without=("fabric",)),
                     document=reservations_tree(change.new, without=("fabric",)))
    return entry


def _plain(value: Optional[str]) -> Optional[str]:
    return None if value is None else str(value)


def maps_tree(ready: Ready) -> List[Dict[str, str]]:
    return [{"kind": what, "old": old, "new": new} for what, old, new in ready.mapped]


def plan_tree(ready: Ready, allowed: Sequence[str] = ()) -> Dict[str, Any]:
    return {
        "targets": [target.name for target in ready.document.state.targets],
        "maps": maps_tree(ready),
        "notes": list(ready.plan.notes),
        "findings": [finding_tree(finding, allowed) for finding in ready.findings],
        "counts": ready.plan.counts(), "writes": writes(ready.plan.steps),
        "steps": [_step_tree(number, step) for number, step in enumerate(ready.plan.steps, 1)]}


def _step_tree(number: int, step: Step) -> Dict[str, Any]:
    value: Optional[str] = None
    if not step.secret and step.op != FILE and step.value:
        value = step.value.decode(errors="replace").rstrip("\n")
    return {"number": number, "phase": step.phase, "slot": step.slot, "op": step.op,
            "path": step.path, "value": value, "secret": step.secret,
            "about": display(step.about) if step.about else "", "why": step.why}


# --- results of verbs ----------------------------------------------------------------------------
def tree(result: results.Result, allowed: Sequence[str] = ()) -> Dict[str, Any]:
    """A result as --json prints it."""
    as_tree: Callable[[Any, Sequence[str]], Dict[str, Any]] = _TREES.get(type(result), _plain_tree)
    return {**as_tree(result, allowed), **({"by": result.by} if result.by else {})}


def _plain_tree(result: results.Result, allowed: Sequence[str] = ()) -> Dict[str, Any]:
    """The fields of a result, but for those that only the text shows (repr=False)."""
    return {field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(result) if field.repr and field.name != "by"
            for value in [getattr(result, field.name)]}


def _prepared_tree(result: Any, allowed: Sequence[str]) -> Dict[str, Any]:
    return {"targets": list(result.targets), "frozen": result.document.frozen,
            "bytes": result.document.size, "notes": list(result.notes),
            "findings": _finding_trees(result, allowed)}


def _frozen_tree(result: Any, allowed: Sequence[str]) -> Dict[str, Any]:
    return {name: value for name, value in _plain_tree(result).items() if name != "notes"}


def _moved_tree(result: Any, allowed: Sequence[str]) -> Dict[str, Any]:
    names = {"source": "from", "destination": "to"}
    return {names.get(name, name): value for name, value in _plain_tree(result).items()}


def _compared_tree(result: Any, allowed: Sequence[str]) -> Dict[str, Any]:
    return {"same": not result.changes, "changes": list(map(change_tree, result.changes))}


def _verified_tree(result: Any, allowed: Sequence[str]) -> Dict[str, Any]:
    return {"same": result.same, "targets": list(result.targets)}


def _managed_tree(result: Any, allowed: Sequence[str]) -> Dict[str, Any]:
    changes = [{name if name != "document" else "new" if name != "here" else "old": value
                for name, value in change_tree(change).items()} for change in result.changes]
    for change in changes:
        if "here" in change:
            change["old"] = change.pop("here")
    return {**_plain_tree(result), "changes": changes, **({
        "findings": _finding_trees(result, allowed), "steps": [
            _step_tree(number, step) for number, step in enumerate(result.plan.steps, 1)]}
        if result.planned else {})}


def _finding_trees(result: results.Result, allowed: Sequence[str]) -> List[Dict[str, Any]]:
    return [finding_tree(finding, allowed) for finding in result.findings]


_TREES: Mapping[type, Callable[[Any, Sequence[str]], Dict[str, Any]]] = {
    results.Shown: lambda result, allowed: view_tree(result.view),
    results.Prepared: _prepared_tree, results.Frozen: _frozen_tree,
    results.Compared: _compared_tree, results.Moved: _moved_tree,
    results.Planned: lambda result, allowed: plan_tree(result.ready, allowed),
    results.Verified: _verified_tree, results.Managed: lambda result, allowed: _managed_tree(
        result, allowed)}


class Report(NamedTuple):
    """A result as a job of the service has it: what fits into a property, and its data."""

    summary: Dict[str, Any]
    data: bytes = b""
    secret: bool = False


def report(result: results.Result, allowed: Sequence[str] = ()) -> Report:
    """A result as D-Bus answers it: a summary that counts long lists, and the lists as data."""
    whole = tree(result, allowed)
    if isinstance(result, results.Exported):
        if result.secret:  # who may look could try secrets until their digest is this one
            del whole["digest"]
        return Report(whole, result.data, True)
    if isinstance(result, results.Shown):
        return Report({"targets": list(result.targets)}, _bytes(whole))
    if isinstance(result, results.Prepared):
        return Report({"targets": whole["targets"], "frozen": whole["frozen"],
                       "findings": len(result.findings)}, _bytes(whole["findings"]))
    if isinstance(result, results.Compared):
        return Report({"targets": list(result.targets), "same": whole["same"],
                       "changes": len(result.changes)}, _bytes(whole["changes"]))
    if isinstance(result, results.Planned):
        return Report({"targets": whole["targets"], "steps": len(whole["steps"]),
                       "writes": whole["writes"], "findings": len(result.findings)},
                      _bytes(whole))
    if isinstance(result, results.Managed):
        summary = {name: value for name, value in whole.items() if name not in (
            "changes", "findings", "steps")}
        return Report({**summary, "changes": len(result.changes), "steps": len(
            result.plan.steps) if result.planned else result.steps}, _bytes(whole))
    return Report(whole)


def _bytes(whole: Any) -> bytes:
    import json
    return json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"

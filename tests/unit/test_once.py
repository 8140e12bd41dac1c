"""What is done once: a document is sorted and hashed once, an import planned once."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lio_handover.document import document as documents, envelope
from lio_handover.host import verbs as host_verbs
from lio_handover.local import verbs
from lio_handover.model.objects import State
from tests import lab
from tests.support import inhandover, inhost, samples
from tests.support.inhandover import TARGET


class Counted:
    """Counts how often functions of modules are called, until ``end``."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self._before: list[tuple[Any, str, Any]] = []

    def count(self, module: Any, name: str, when: Callable[..., bool] = lambda *args: True) -> None:
        kept = getattr(module, name)

        def counting(*args: Any, **more: Any) -> Any:
            self.times[name] += when(*args)
            return kept(*args, **more)

        self._before.append((module, name, kept))
        setattr(module, name, counting)

    def end(self) -> None:
        for module, name, kept in reversed(self._before):
            setattr(module, name, kept)


def counted() -> Counted:
    made = Counted()
    made.count(documents, "canonical", lambda state: not vars(state).get(documents._SORTED))
    made.count(documents, "digest_of")
    made.count(envelope, "digest_of")
    made.count(host_verbs, "plan")
    return made


def test_a_document_is_sorted_and_hashed_once() -> None:
    state = samples.iscsi(luns=3, acls=2, registrants=2)
    state = State(state.lu_groups, state.backstores[::-1], state.targets[::-1])
    times = counted()
    try:
        document = documents.Document(state)
        data, size, digest = documents.dumps(document), document.size, document.digest
    finally:
        times.end()
    assert (len(data), digest) == (size, documents.loads(data).digest)
    # Once more of what was read back, which says that another host can read it.
    assert times.times == {"canonical": 2, "digest_of": 1}


def once(shared: str) -> dict[str, dict[str, int]]:
    """How often an export and an import sort, hash and plan."""
    found, data = {}, b""
    inhost.build(inhandover.state(Path(shared)))
    for verb in ("freeze", "export", "remove", "import"):
        if verb == "import":
            inhost.forget_all()
        times = counted()
        try:
            call = verbs.Call([TARGET], allow=("all-tg-pt", "reserved"), document=documents.loads(
                data) if verb == "import" else None)
            times.times.clear()
            result: Any = verbs.VERBS[verb](inhost.core(), call)
        finally:
            times.end()
        if verb == "export":
            data = result.data
        found[verb] = dict(times.times)
    inhost.remove(("reserved",))
    return found


@pytest.mark.lab
def test_an_import_is_planned_once(bed: lab.Lab, stable: lab.Host) -> None:
    found = stable.call(once, str(bed.shared))
    assert found["import"].get("plan") == 1
    assert found["export"].get("plan", 0) == 0

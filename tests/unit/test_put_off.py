"""What the service puts off while a verb of a handover runs, in whatever process: initiators wait
for that verb's processor."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("gi")

from gi.repository import GLib  # noqa: E402

from lio_handover.records.journal import Handover, Journal, at_work  # noqa: E402
from lio_handover.service import inventory  # noqa: E402
from lio_handover.service.inventory import JournalWatch, PutOff  # noqa: E402

ID = "11111111-0000-4000-8000-000000000000"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal.create(str(tmp_path), Handover(
        ID, "destination", "", 1, "vhost-inband", ("vhost/naa.5001405000000001",)), {})
    journal.state("staged", 1, "")
    return journal


def loops_until(condition: Callable[[], bool]) -> None:
    late: list[int] = []
    timer = GLib.timeout_add(10000, lambda: late.append(1))
    context = GLib.MainContext.default()
    while not condition():
        assert not late
        context.iteration(True)
    if not late:
        GLib.source_remove(timer)


def test_a_journal_tells_whether_a_verb_is_at_work(journal: Journal) -> None:
    assert not at_work(journal.path) and not at_work(journal.path + "no")
    journal.note("begin", verb="activate", to="armed")
    assert at_work(journal.path)
    for _ in range(200):
        journal.note("step", do="x" * 100)
    assert at_work(journal.path)
    journal.note("end", error='KernelRefused: "record": "begin"')
    assert not at_work(journal.path)
    journal.note("meddled", said="by somebody")
    assert not at_work(journal.path)


def test_nobody_looks_at_the_host_while_a_verb_of_another_process_runs(
        tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "HURRY", 0.1)
    monkeypatch.setattr(inventory, "OFTEN", 0)
    happened: list[str] = []
    look = PutOff(lambda: happened.append("look"))

    def hurried(ended: bool) -> None:
        look.hurry(ended)
        happened.append("ended" if ended else "begun")

    watch = JournalWatch(str(tmp_path / "handovers"), look, hurried)
    watch.follow([ID])
    assert happened == ["look"]     # it may have been written before it was watched
    journal.note("begin", verb="activate", to="armed")
    loops_until(lambda: "begun" in happened)
    journal.note("step", do="load")
    loops_until(lambda: happened.count("begun") >= 2)
    journal.note("end")
    loops_until(lambda: happened[-1] == "look")
    assert happened[0] == "look" and "look" not in happened[1:-1] and "ended" in happened

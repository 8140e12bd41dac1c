"""The pages: every link leads somewhere, and what they list is what the code has."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from lio_handover.hooks.rows import ROWS
from lio_handover.protocol.table import STATES
from lio_handover.records.journal import FILES
from lio_handover.records.record_kinds import KINDS, Kind
from tests.support.commandline import CHECKOUT

DOCS = CHECKOUT / "docs"
PAGES = sorted([*CHECKOUT.glob("*.md"), *DOCS.rglob("*.md")])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    pages = {str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents}
    assert {page for page in pages if page not in index} == {"index.md"}


def test_every_page_that_something_names_is_there() -> None:
    named = set(re.findall(r"\bdocs/[\w/-]+\.md", (CHECKOUT / "CHANGELOG").read_text()))
    for folder in ("lio_handover", "tests", "scripts", "etc"):
        for path in (CHECKOUT / folder).rglob("*"):
            if path.suffix in (".py", ".xml", ".service", ".conf", "") and path.is_file():
                named |= set(re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(errors="replace")))
    assert len(named) > 3
    assert not {page for page in named if not (CHECKOUT / page).is_file()}


def test_the_readme_is_short_and_begins_with_what_to_run() -> None:
    text = (CHECKOUT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert "$ scripts/demo " in text and "$ scripts/test " in text


def test_the_night_page_knows_what_to_do_in_every_state() -> None:
    text = (DOCS / "operations" / "recovery.md").read_text()
    rows = text.partition("## What you find")[2].partition("\n## ")[0]
    found: dict[str, set[str]] = {role: set() for role in STATES}
    for cell in re.findall(r"(?m)^\| ([^|]*`[^|]*) \|", rows):
        for part in cell.split(";"):
            for role in STATES:
                if role in part:
                    found[role] |= set(re.findall(r"`(\w+)`", part))
    for role, states in STATES.items():
        assert found[role] == set(states), role


def _members(kind: Kind) -> str:
    """The members of a record: those it has, then those it may have."""
    has, may = (" ".join(f"`{name}`" for name in names) for names in (kind.members, kind.may))
    return has + (", " if has and may else "") + (f"perhaps {may}" if may else "")


def test_the_page_about_the_journal_has_every_record_and_file() -> None:
    text = (DOCS / "internals" / "journal.md").read_text()
    records = text.partition("<!-- records -->")[2].partition("<!-- end -->")[0]
    assert [line for line in records.splitlines() if line.startswith("| `")] == [
        f"| `{name}` | {_members(kind)} | {kind.says} |" for name, kind in KINDS.items()]
    for name in FILES:
        assert f"| `{name}` |" in text


def test_the_page_about_libvirt_has_every_call_of_the_hook() -> None:
    text = (DOCS / "operations" / "live-migration.md").read_text()
    table = text.partition("<!-- hooks -->")[2].partition("<!-- end -->")[0]
    assert table.strip().splitlines()[2:] == [
        f"| `{row.operation} {row.sub_operation}` | {row.where} | {row.does.value} | {row.why} |"
        for row in ROWS.values()]

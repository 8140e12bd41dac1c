"""The names in the code are the field's: what docs/glossary.md avoids is in none of them."""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.commandline import CHECKOUT

GLOSSARY = CHECKOUT / "docs" / "glossary.md"
PACKAGE = CHECKOUT / "lio_handover"


def avoided() -> set[str]:
    """The column Avoid: words, and whole names, which keep their backticks."""
    rows = re.findall(r"(?m)^\| ([a-z, ]+|(?:`\w+`(?:, )?)+) \|", GLOSSARY.read_text())
    return {word for row in rows for word in row.split(", ")}


def defined(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every name that a module defines: classes, functions, arguments, variables
    and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def words(name: str) -> set[str]:
    """A name's words, and itself in backticks: ``RestoreOrder`` has restore and order."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    return {part.lower() for part in parts} | {f"`{name.strip('_')}`"}


def faults(path: Path) -> list[str]:
    """What of a module's names, its own among them, the glossary avoids."""
    names = [(0, path.stem), *defined(ast.parse(path.read_text()))]
    return [f"{path.relative_to(CHECKOUT)}:{line} {name}" for line, name in names
            if words(name) & avoided()]


def test_no_name_has_a_word_that_the_glossary_avoids() -> None:
    assert [fault for path in sorted(PACKAGE.rglob("*.py")) for fault in faults(path)] == []


def test_a_name_is_known_by_its_words() -> None:
    assert {"paper", "deed", "`one`", "`found`", "`Seen`"} <= avoided()
    assert not {"message", "Avoid", "`message`"} & avoided()
    assert words("PaperTrail") & avoided() == {"paper"} and not words("newspapers") & avoided()
    assert words("_one") & avoided() == {"`one`"} and not words("one_more") & avoided()
    tree = ast.parse("for one in x: self.found, Deed = 1, [y for each in z]\ndef f(made): pass")
    assert {name for _line, name in defined(tree) if words(name) & avoided()} == {
        "one", "found", "Deed", "each", "made"}

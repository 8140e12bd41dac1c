"""docs/style.md, rule 2, held against the prose of the code: comments and docstrings."""
from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import CHECKOUT

PACKAGE = CHECKOUT / "lio_handover"
#: The packages that follow the rule; "" stands for the modules at the top.
CLEAN = ("", "model", "document", "plan", "kernel", "storage", "views", "client", "system", "scsi",
         "cli", "drivers", "service", "actions", "local", "handover", "records", "savefile", "host",
         "execute", "protocol", "hooks", "shell")

#: A sentence begins with the prose, behind a blank line, or behind the end of another sentence.
_BAD_BEGINNING = re.compile(
    r"(?:\A|\n\s*\n|[.?!][)\"”`]*\s)\s*((?:Of|Who|Whose|What|That|Those)\b[^.]*)")


def prose(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring, and of every comment, whose lines belong together."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node.body[0].lineno, docstring
    start, end, lines = 0, (0, 0), list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start != (end[0] + 1, end[1]):
            if lines:
                yield start, "\n".join(lines)
            start, lines = token.start[0], []
        lines.append(token.string.lstrip("#: "))
        end = token.start
    if lines:
        yield start, "\n".join(lines)


def faults(source: str) -> list[tuple[int, str]]:
    """(line, sentence) of the sentences that begin with a word that docs/style.md forbids."""
    return [(line, " ".join(match[1].split())) for line, text in prose(source)
            for match in _BAD_BEGINNING.finditer(text)]


def modules(package: str) -> list[Path]:
    """The modules of a package, those of its packages among them; "" for those at the top."""
    return sorted((PACKAGE / package).rglob("*.py")) if package else sorted(PACKAGE.glob("*.py"))


@pytest.mark.parametrize("package", CLEAN)
def test_no_sentence_begins_with_of_who_or_what(package: str) -> None:
    assert modules(package)
    assert [f"{path.relative_to(CHECKOUT)}:{line} {sentence}" for path in modules(package)
            for line, sentence in faults(path.read_text())] == []


def test_a_sentence_is_known_by_its_beginning() -> None:
    source = '''\
"""What it is.  It is this."""
# Of the kernel's
# own. That is all.  What follows, too
x = 1  # Whose it is
#: It says what: that, of those who ask.
def f():
    """The thing.

    Those that come.
    """
    # What the
    # kernel says
    return "What a string says.  Of no matter."
'''
    assert faults(source) == [
        (1, "What it is"), (7, "Those that come"), (2, "Of the kernel's own"), (2, "That is all"),
        (2, "What follows, too"), (4, "Whose it is"), (11, "What the kernel says")]

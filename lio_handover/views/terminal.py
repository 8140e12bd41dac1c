"""Lines for a terminal: its width, its colours, and where a line is broken.

Callers pass text through errors.one_line first: no line contains a character that a terminal would
obey, but for the colours that `Terminal.paint` adds last.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import IO, Iterator, List

from ..errors import one_line

#: Style → SGR code.  No style says something that the words do not say.
_COLOURS = {"good": "32", "warn": "33", "bad": "31;1", "title": "1", "dim": "2"}


@dataclass(frozen=True)
class Terminal:
    """Width in columns (0: no terminal, so nothing is wrapped), and whether it has colours."""

    width: int = 0
    colour: bool = False

    @staticmethod
    def of(stream: IO[str]) -> "Terminal":
        try:
            if not stream.isatty():
                return Terminal()
            width = int(os.environ.get("COLUMNS") or 0) \
                or os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            width = 0
        return Terminal(max(40, width or 80), not os.environ.get("NO_COLOR")
                        and os.environ.get("TERM", "dumb") != "dumb")

    def paint(self, text: str, style: str) -> str:
        if not self.colour or style not in _COLOURS or not text:
            return text
        return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m"


def wrap(text: str, width: int) -> List[str]:
    """The text in lines of at most ``width``: broken at blanks, words that are too long behind
    their marks, or anywhere."""
    lines = []
    while 0 < width < len(text):
        at = text.rfind(" ", 1, width + 1)
        if at <= 0:
            at = 1 + max(text.rfind(mark, width // 3, width) for mark in "/:,")
        if at <= 0:
            at = width
        lines.append(text[:at])
        text = text[at:].lstrip(" ")
    return [*lines, text] if text or not lines else lines


def hanging_indent(before: str, text: str, terminal: Terminal, style: str = "") -> Iterator[str]:
    room = terminal.width - len(before) - 2 if terminal.width else 0
    for number, line in enumerate(wrap(one_line(text), room)):
        yield (before if not number else " " * (len(before) + 2)) + terminal.paint(line, style)

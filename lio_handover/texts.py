"""Text that others wrote, in lines of ours: escaped and cut.

Every message that holds such a text takes it by `shown` or `quoted`.
"""
from __future__ import annotations


def one_line(text: str) -> str:
    """The text as one line for a terminal; characters that do not print are written as \\xNN."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1]
                   for character in text)


def shown(text: str, most: int = 500) -> str:
    """A text that others wrote, as a message has it: ``one_line``, cut to ``most`` characters."""
    line = one_line(text if len(text) <= most else text[:most] + "...")
    return line if len(line) <= most else line[:most - 3] + "..."


def quoted(text: str, most: int = 80) -> str:
    """The same in quotes, in ASCII alone; most characters count before they are escaped."""
    return ascii(text if len(text) <= most else text[:most - 3] + "...")

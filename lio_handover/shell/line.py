"""A line that is typed → where, which command, what it is given.  Pure.

configshell's parser drops the rest of a line at the first character that it does not know, and an
empty ``name=`` takes the next word (configshell/shell.py:ConfigShell.__init__); this one quotes as
a shell does, and refuses what it cannot parse.
"""
from __future__ import annotations

import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import errors
from ..errors import quoted

#: A parameter that is given by its name.
NAMED = re.compile(r"([A-Za-z0-9_-]+)=(.*)", re.S)
_COMMAND = re.compile(r"[A-Za-z0-9_]+")
#: Characters of a line at most.
LONGEST = 64 * 1024
#: Characters that an unquoted backslash, or one in double quotes, takes their meaning from.
_ESCAPED_IN_QUOTES = '"\\$`'


class Line(NamedTuple):
    """``path``: "" where none is named; ``every``: whether the command is for each child of it;
    ``command``: "" where none is named; ``words`` by position, ``values`` by name."""

    path: str = ""
    every: bool = False
    command: str = ""
    words: Tuple[str, ...] = ()
    values: Mapping[str, str] = {}


class Word(NamedTuple):
    """A word as it was meant, where it begins in the line, and where quotes begin in it (-1:
    nowhere): a parameter's name is not quoted."""

    text: str
    start: int
    quoted: int = -1


def split(text: str) -> List[Word]:
    """The words of a line.  Raises BadCall."""
    if len(text) > LONGEST:
        raise errors.BadCall(f"the line has more than {LONGEST} characters", do="shorten it")
    words: List[Word] = []
    at, end = 0, len(text)
    while at < end:
        if text[at] in " \t":
            at += 1
            continue
        start, quotes = at, -1
        taken: List[str] = []
        while at < end and text[at] not in " \t":
            letter = text[at]
            if letter in "'\"\\":
                quotes = len(taken) if quotes < 0 else quotes
                at = _quoted(text, at, taken)
                continue
            if ord(letter) < 32 or ord(letter) == 127:
                raise errors.BadCall(f"character {at + 1} of the line is a control character",
                                     do="leave it out")
            taken.append(letter)
            at += 1
        words.append(Word("".join(taken), start, quotes))
    return words


def _quoted(text: str, at: int, taken: List[str]) -> int:
    """Take what is quoted; the place behind it.  Raises BadCall."""
    mark, end = text[at], len(text)
    at += 1
    if mark == "\\":
        if at == end:
            raise errors.BadCall("the line ends in a backslash", do="quote it: \\\\")
        taken.append(text[at])
        return at + 1
    while at < end and text[at] != mark:
        if mark == '"' and text[at] == "\\" and text[at + 1:at + 2] \
                and text[at + 1] in _ESCAPED_IN_QUOTES:
            at += 1
        if ord(text[at]) < 32 or ord(text[at]) == 127:
            raise errors.BadCall("there is a control character between the quotes",
                                 do="leave it out")
        taken.append(text[at])
        at += 1
    if at == end:
        raise errors.BadCall(f"a {mark} is not closed", do="close it, or quote it: \\" + mark)
    return at + 1


def parse(text: str) -> Optional[Line]:
    """A line; None where there is nothing in it, or only a comment.  Raises BadCall."""
    words = split(text.strip())
    if not words or words[0].quoted < 0 and words[0].text.startswith("#"):
        return None
    return _line(words)


def of_words(words: Sequence[str]) -> Optional[Line]:
    """The line of a command's arguments: one is a line; several are its words, as the shell that
    was typed to has taken them apart already.  Raises BadCall."""
    if len(words) == 1:
        return parse(words[0])
    for word in words:
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in word):
            raise errors.BadCall(f"{quoted(word)} has a control character", do="leave it out")
    return _line([Word(word, 0) for word in words]) if words else None


def is_path(word: str) -> bool:
    """Whether a first word names a node."""
    return "/" in word or word in (".", "..", "*") or word.startswith("@")


def _line(words: Sequence[Word]) -> Line:
    path, command, left = "", "", list(words)
    if is_path(left[0].text) and not (left[0].quoted < 0 and NAMED.fullmatch(left[0].text)):
        path = left.pop(0).text
    every = path.endswith("*")
    path = path[:-1] if every else path
    if left:
        command = left.pop(0).text
        if not _COMMAND.fullmatch(command):
            raise errors.BadCall(f"{quoted(command)} is no command, and no path", do="help")
    positional: List[str] = []
    values: Dict[str, str] = {}
    for word in left:
        named = NAMED.fullmatch(word.text)
        if not named or 0 <= word.quoted <= len(named[1]):
            positional.append(word.text)
            continue
        if named[1] in values:
            raise errors.BadCall(f"Duplicate parameter {named[1]}.", do="give it once")
        values[named[1]] = named[2]
    return Line(path, every, command, tuple(positional), values)

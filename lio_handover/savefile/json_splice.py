"""JSON that somebody else wrote: elements of its lists go in and out, all other bytes stay.

``json.loads`` and ``json.dumps`` would write numbers, escapes, spaces and double members anew.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Iterator, List, Mapping, Sequence, Tuple, Union

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Element:
    """An element of a list: ``text[start:end]``, and its value as Python's json has it."""

    number: int
    start: int
    end: int
    value: Any


@dataclass(frozen=True)
class Array:
    """A list that is a member of the top: from behind its ``[`` to its ``]``."""

    name: str
    start: int
    end: int
    elements: Tuple[Element, ...]


#: An element that stays where it is, or the text of one that is new.
Part = Union[Element, str]


class Splice:
    """A text whose top is an object.  Raises ValueError, RecursionError where it is none, or one of
    ``lists`` is no list of objects.  Space alone is the empty object."""

    def __init__(self, text: str, lists: Sequence[str]) -> None:
        self.text = text if text.strip() else "{}\n"
        self.arrays: List[Array] = []
        #: whether it has no member yet, and where a further one goes
        self.empty, self._end = True, 0
        self._scan(lists)

    def elements(self, name: str) -> Iterator[Element]:
        """The elements of the lists of that name: a text may have several."""
        for array in self.arrays:
            if array.name == name:
                yield from array.elements

    def text_of(self, element: Element) -> str:
        return self.text[element.start:element.end]

    def _scan(self, lists: Sequence[str]) -> None:
        from json import JSONDecoder
        text, decode = self.text, JSONDecoder().raw_decode

        def after(mark: str, at: int) -> int:
            at = self._skip(at)
            if text[at:at + 1] != mark:
                raise ValueError(f"no {mark} at character {at}")
            return self._skip(at + 1)

        at = after("{", 0)
        self._end = at
        while text[at:at + 1] != "}":
            if not self.empty:
                at = after(",", at)
            name, at = decode(text, at)
            if not isinstance(name, str):
                raise ValueError(f"{name!r} is no member's name")
            at = after(":", at)
            if name not in lists:
                _value, at = decode(text, at)
            else:
                after("[", at)
                array = self._array(name, at + 1, decode)
                self.arrays.append(array)
                at = array.end + 1
            self.empty, self._end = False, at
            at = self._skip(at)
        if self._skip(at + 1) != len(text):
            raise ValueError(f"something follows the end at character {at}")

    def _array(self, name: str, at: int, decode: Any) -> Array:
        text, start, at = self.text, at, self._skip(at)
        elements: List[Element] = []
        while text[at:at + 1] != "]":
            if elements:
                if text[at:at + 1] != ",":
                    raise ValueError(f"no , at character {at}")
                at = self._skip(at + 1)
            value, end = decode(text, at)
            if not isinstance(value, dict):
                raise ValueError(f"{name} is no list of objects")
            elements.append(Element(len(elements), at, end, value))
            at = self._skip(end)
        return Array(name, start, at, tuple(elements))

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self.text, at)
        return space.end() if space else at

    # ---- changing -------------------------------------------------------------------------------
    @property
    def lines(self) -> bool:
        """Whether it is written in lines, as rtslib does."""
        return "\n" in self.text.strip() or self.empty

    def written(self, value: Any) -> str:
        """A new element in the style of the rest."""
        from json import dumps
        if not self.lines:
            return dumps(value, sort_keys=True)
        return dumps(value, indent=2, sort_keys=True).replace("\n", "\n    ")

    def with_parts(self, parts: Mapping[str, Sequence[Sequence[Part]]]) -> str:
        """The text with these parts in each list of a name, in the order of ``arrays``; a list
        that was not there comes last."""
        text = self.text
        lead, tail = ("\n    ", "\n  ") if self.lines else ("", "")
        more, first = "", self.empty
        for name, lists in parts.items():
            if any(array.name == name for array in self.arrays):
                continue
            body = f"[{lead}{_joined(lists[0], lead)}{tail}]" if lists and lists[0] else "[]"
            more += ("" if first else ",") + ("\n  " if self.lines else " " * (not first)) \
                + f'"{name}": {body}'
            first = False
        if more:
            text = text[:self._end] + more + ("\n" if self.empty and self.lines else "") \
                + text[self._end:]
        left = {name: list(lists) for name, lists in parts.items()}
        wanted = [(array, left[array.name].pop(0)) for array in self.arrays
                  if left.get(array.name)]
        for array, new in reversed(wanted):
            text = text[:array.start] + self._rebuilt(array, new) + text[array.end:]
        return text

    def _rebuilt(self, array: Array, parts: Sequence[Part]) -> str:
        old, text = array.elements, self.text
        if not parts:
            return ""
        lead, tail = ("\n    ", "\n  ") if self.lines else ("", "")
        if old:
            lead, tail = text[array.start:old[0].start], text[old[-1].end:array.end]
        usual = text[old[0].end:old[1].start] if len(old) > 1 else "," + (lead or " ")
        body = lead
        for number, part in enumerate(parts):
            if isinstance(part, str):
                body += usual * (number > 0) + part
            else:
                before = text[old[part.number - 1].end:part.start] if part.number else usual
                body += before * (number > 0) + text[part.start:part.end]
        return body + tail


def _joined(parts: Sequence[Part], lead: str) -> str:
    return ("," + (lead or " ")).join(str(part) for part in parts)

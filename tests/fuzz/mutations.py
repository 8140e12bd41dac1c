"""Changes of an input: to the values of JSON, to lines, and to bytes.

Everything follows from the ``random.Random`` that is given, so an input is made again by its
number.
"""
from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

#: The longest input, bytes.
LONGEST = 1 << 18
#: The deepest list that is made: deeper than any reader takes, and less than Python's own limit.
DEEPEST = 40
#: Marks in strings of a tree: the name before it stands twice; the text between is no string.
_TWICE, _RAW, _WAR = "\ue000", "\ue001", "\ue002"

#: Text with a meaning to somebody: blanks, ends of lines and of strings, directions of writing,
#: digits that are none of ASCII, options, paths.
TEXTS = ("", " ", "0", "1", "-1", "00", "+1", "0x10", "1_0", "1e3", "\0", "a\0b", "\n", "a\nb",
         "a\r\nb", "\t", "\x1b[31m", "\x7f", "\u0663", "\u00b2", "\uff11", "\ud800", "\u202e",
         "\u2028", "\u0130", "\U0001f600", "é" * 300, "x" * 256, "x" * 5000, "x" * 70000, "%s%n",
         "{}", "{0}", "-", "--all", "..", ".", "/", "//", "../..", "/dev/null", "a/b", "a/b/c", ",",
         "=", ":", "[", "]", "naa.", "iqn.", "fc.naa.5", "None", "null", "true", "NaN", "inf",
         "removed", "0" * 64, "9" * 25)
NUMBERS = (0, 1, -1, 2, 255, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, -2**63,
           10**30, 0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan"))
#: Words where JSON has a value.
RAW = ("1e999", "-1e999", "-0", "01", "0x10", "1.", ".5", "+1", "NaN", "-Infinity", "nul", "True",
       "'a'", "1" * 21, "1" * 400, "1" * 5000, "", "]", "}", "{", "[", ",", ":", '"', "\\", "//",
       "\0")
_BYTES = (b"", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\n", b"\r", b" ", b"\t", b'"', b"\\",
          b",", b":", b"=", b"[", b"]", b"{", b"}", b"/", b"-", b"0", b"9", b"\xd9\xa3",
          b"\xc2\xb2",
          b"\x1b[", b"\xe2\x80\xae", b"\xef\xbb\xbf", b"null", b"1e999")

Path = list[Any]


class Changes:
    """Makes inputs of seeds by one ``random.Random``."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    # ---- trees ---------------------------------------------------------------------------------
    def tree(self, tree: Any) -> Any:
        """A tree of JSON with one to four changes; ``tree`` itself stays as it is."""
        top = [json.loads(json.dumps(tree))]
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 4))):
            self._change(top)
            top = top or [self._value()]
        return top[0]

    def dumped(self, tree: Any) -> bytes:
        """A changed tree as bytes of JSON, or of nearly that."""
        rng = self.rng
        text = json.dumps(tree, indent=rng.choice((None, None, 1, 2)),
                          ensure_ascii=rng.random() < 0.7, sort_keys=rng.random() < 0.5)
        for mark, plain in ((_TWICE, ""), ('"' + _RAW, ""), (_WAR + '"', "")):
            text = text.replace(mark, plain).replace(
                mark.encode("ascii", "backslashreplace").decode(), plain)
        return text.encode("utf-8", "surrogatepass")

    def _places(self, top: Any) -> list[tuple[Any, Any]]:
        """(list or object, index or name) of each value below the top."""
        places: list[tuple[Any, Any]] = []
        left = [top]
        while left:
            value = left.pop()
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            for name, part in inner:
                places.append((value, name))
                if isinstance(part, (dict, list)) and part:
                    left.append(part)
        return places

    def _change(self, top: list[Any]) -> None:
        rng = self.rng
        places = self._places(top)[1:] or [(top, 0)]  # the top itself seldom
        above, name = (top, 0) if rng.random() < 0.01 else rng.choice(places)
        change = rng.choice((self._other, self._other, self._other, self._edited, self._edited,
                             self._edited, self._gone, self._more, self._named, self._swapped,
                             self._wrapped, self._repeated))
        change(above, name, places)

    def _value(self) -> Any:
        rng = self.rng
        kind = rng.randrange(9)
        if kind < 3:
            return rng.choice(TEXTS)
        if kind < 5:
            return rng.choice(NUMBERS)
        if kind == 5:
            return _RAW + rng.choice(RAW) + _WAR
        if kind == 6:
            deep: Any = rng.choice(([], {}, 0, ""))
            for _ in range(rng.choice((1, 2, 8, 31, 33, DEEPEST))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            return deep
        return rng.choice((None, True, False, [], {}, [[]], {"": ""}, [None], [0], [""], [{}]))

    def _other(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        above[name] = self._value()

    def _edited(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        rng, value = self.rng, above[name]
        if isinstance(value, bool) or value is None:
            above[name] = self._value()
        elif isinstance(value, (int, float)):
            above[name] = rng.choice((value + 1, value - 1, -value, value * 2**32, float(value),
                                      str(value), bool(value), [value]))
        elif isinstance(value, str):
            above[name] = self.text(value)
        elif isinstance(value, list):
            rng.shuffle(value)
        elif value:
            member = rng.choice(list(value))
            value[member] = self._value()

    def _gone(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        del above[name]

    def _more(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        if isinstance(above, dict):
            above[self.rng.choice((str(name) + _TWICE, str(name).upper(), *TEXTS[:40]))] = \
                self.rng.choice((above[name], self._value()))
        else:
            above.insert(name, self.rng.choice((above[name], self._value())))

    def _named(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        if isinstance(above, dict):
            above[self.text(name)] = above.pop(name)
        else:
            above.pop(name)

    def _swapped(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        other, its = self.rng.choice(places)
        above[name] = json.loads(json.dumps(other[its]))

    def _wrapped(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        above[name] = self.rng.choice(([above[name]], {"a": above[name]}, [above[name]] * 2))

    def _repeated(self, above: Any, name: Any, places: list[tuple[Any, Any]]) -> None:
        if isinstance(above, list) and len(above) < 1000:
            above[name:name] = [above[name]] * self.rng.choice((1, 2, 20, 200))
        else:
            self._other(above, name, places)

    # ---- text ----------------------------------------------------------------------------------
    def text(self, text: str) -> str:
        """A string with one change."""
        rng = self.rng
        at = rng.randint(0, len(text))
        more = rng.choice(TEXTS)
        return rng.choice((text[:at] + more + text[at:], text[:at], text[at:], more, text.upper(),
                           text * 2, text + " ", text[:at] + text[at + 1:],
                           text[:at] + chr(rng.randrange(0x250)) + text[at + 1:]))

    def raw(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """Bytes with one to six changes; ``others``: seeds to take parts of."""
        rng = self.rng
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            at = rng.randint(0, len(out))
            to = min(len(out), at + rng.choice((1, 1, 2, 8, 40, 400)))
            change = rng.randrange(10)
            if change == 0 and at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            elif change == 1:
                del out[at:to]
            elif change == 2:
                del out[at:]
            elif change == 3:
                out[at:at] = out[at:to] * rng.choice((1, 2, 20))
            elif change == 4:
                other = rng.choice(others)
                start = rng.randint(0, len(other))
                out[at:to] = other[start:start + rng.choice((1, 8, 40, 400))]
            elif change == 5:
                out[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
            elif change == 6:
                out[at:at] = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
            elif change == 7:
                out[at:at] = rng.choice(_BYTES) * rng.choice((1, 1, 3, 50))
            else:
                out[at:at + 1] = rng.choice(_BYTES)
        return bytes(out[:LONGEST])

    def lines(self, data: bytes, one_line: Callable[[bytes], bytes]) -> bytes:
        """Text with some of its lines changed (by ``one_line``), left out, doubled, elsewhere."""
        rng = self.rng
        lines = data.split(b"\n")
        for _ in range(rng.choice((1, 1, 2, 3))):
            at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
            change = rng.randrange(6)
            if change < 3:
                lines[at] = one_line(lines[at])
            elif change == 3 and len(lines) > 1:
                del lines[at]
            elif change == 4:
                lines.insert(to, lines[at])
            else:
                lines[at], lines[to] = lines[to], lines[at]
        return b"\n".join(lines)[:LONGEST]


def json_line(changes: Changes) -> Callable[[bytes], bytes]:
    """The function that changes one line of JSON."""
    def change(line: bytes) -> bytes:
        try:
            return changes.dumped(changes.tree(json.loads(line)))
        except ValueError:
            return changes.raw(line, (line,))
    return change

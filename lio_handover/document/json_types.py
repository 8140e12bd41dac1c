"""The shapes of what a document's JSON is made of.

Every function takes a value and says where it stands (``$.state.targets[0].wwn``), and returns it
or raises a DocumentError.  No message holds more of a value than ``show`` lets through.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Iterable, Mapping, NoReturn, Tuple, Type

from ..errors import BadName, BadStructure, BadValue, DocumentError
from ..model.attributes import MAX_WRITE


def fail(error: Type[DocumentError], what: str,
         do: str = "export the document again") -> NoReturn:
    raise error(what, do=do)


def show(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def kind_of(value: Any) -> str:
    """What kind of JSON value it is; never the value."""
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "a string"),
                       (bool, "true or false"), (int, "a number"), (float, "a fraction")):
        if isinstance(value, kind):
            return name
    return "null"


def an_object(value: Any, where: str, *names: str) -> Dict[str, Any]:
    """An object with exactly these members."""
    if type(value) is not dict:
        fail(BadStructure, f"{where} is {kind_of(value)}, not an object")
    if value.keys() != set(names):
        missing = sorted(set(names) - value.keys())
        if missing:
            fail(BadStructure, f"{where}.{missing[0]} is missing")
        fail(BadStructure, f"{where} has a member that this version does not know: "
             + show(min(value.keys() - set(names))))
    return value


def any_object(value: Any, where: str) -> Dict[str, Any]:
    """An object with any members."""
    if type(value) is not dict and not isinstance(value, Mapping):
        fail(BadStructure, f"{where} is {kind_of(value)}, not an object")
    return value  # type: ignore[return-value]


def entries(value: Any, where: str) -> Iterable[Tuple[str, Any]]:
    if type(value) is not list:
        fail(BadStructure, f"{where} is {kind_of(value)}, not a list")
    return ((f"{where}[{number}]", one) for number, one in enumerate(value))


def whole(value: Any, where: str, low: int, high: int) -> int:
    if type(value) is not int:
        fail(BadStructure, f"{where} is {kind_of(value)}, not a whole decimal number")
    if not low <= value <= high:
        fail(BadValue, f"{where} is {value}, not {low} to {high}")
    return int(value)


def true_or_false(value: Any, where: str) -> bool:
    if type(value) is not bool:
        fail(BadStructure, f"{where} is {kind_of(value)}, not true or false")
    return bool(value)


def string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        fail(BadStructure, f"{where} is {kind_of(value)}, not a string")
    return value


def utf8(value: str, where: str, error: Type[DocumentError]) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        fail(error, f"{where} is not valid UTF-8")


_CONTROL = re.compile("[\x00-\x1f\x7f]")


def plain_name(value: Any, where: str, longest: int = 255) -> str:
    """The name of one directory or file."""
    name = string(value, where)
    size = len(utf8(name, where, BadName))
    wrong = ""
    if not name:
        wrong = "is empty"
    elif name in (".", ".."):
        wrong = "is a directory's own name or its parent's"
    elif "/" in name:
        wrong = "has a /"
    elif "\0" in name:
        wrong = "has a NUL"
    elif "\n" in name:
        wrong = "has a newline"
    elif _CONTROL.search(name):
        wrong = "has a control character"
    elif name != name.strip():
        wrong = "begins or ends with a space"
    elif size > longest:
        wrong = f"has {size} bytes, more than {longest}"
    if wrong:
        fail(BadName, f"{where}, {show(name)}, {wrong}")
    return name


def plain_text(value: Any, where: str, longest: int = MAX_WRITE) -> str:
    """Text for people, or for comparing, on one line."""
    text = string(value, where)
    if len(utf8(text, where, BadValue)) > longest:
        fail(BadValue, f"{where} is longer than {longest} bytes")
    if _CONTROL.search(text):
        fail(BadValue, f"{where} has a control character")
    return text

"""The JSON types of a document's parts.

Every function takes a value and its place (``$.state.targets[0].wwn``), and returns the value or
raises a DocumentError.  No message holds more of a value than ``quoted`` lets through.
"""
from __future__ import annotations

import re
from collections import abc
from typing import (Any, Collection, Dict, Iterable, Mapping, NoReturn, Optional, Tuple, Type,
                    Union, get_args, get_origin, get_type_hints)

from ..errors import BadName, BadStructure, BadValue, DocumentError, quoted
from ..model.attributes import MAX_WRITE


def reject(error: Type[DocumentError], what: str,
           do: str = "export the document again") -> NoReturn:
    raise error(what, do=do)


def kind_of(value: Any) -> str:
    """The name of a value's JSON type, for a message; never the value itself."""
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "a string"),
                       (bool, "true or false"), (int, "a number"), (float, "a fraction")):
        if isinstance(value, kind):
            return name
    return "null"


def expect_object(value: Any, where: str, *names: str) -> Dict[str, Any]:
    """An object with exactly these members."""
    if type(value) is not dict:
        reject(BadStructure, f"{where} is {kind_of(value)}, not an object")
    if value.keys() != set(names):
        missing = sorted(set(names) - value.keys())
        if missing:
            reject(BadStructure, f"{where}.{missing[0]} is missing")
        reject(BadStructure, f"{where} has a member that this version does not know: "
               + quoted(min(value.keys() - set(names))))
    return value


def expect_mapping(value: Any, where: str) -> Dict[str, Any]:
    """An object with any members."""
    if type(value) is not dict and not isinstance(value, Mapping):
        reject(BadStructure, f"{where} is {kind_of(value)}, not an object")
    return value  # type: ignore[return-value]


def expect_list(value: Any, where: str) -> Iterable[Tuple[str, Any]]:
    """(place, entry) of each entry of a list."""
    if type(value) is not list:
        reject(BadStructure, f"{where} is {kind_of(value)}, not a list")
    return ((f"{where}[{number}]", entry) for number, entry in enumerate(value))


def expect_int(value: Any, where: str, low: int, high: int) -> int:
    """A number from ``low`` to ``high``."""
    if type(value) is not int:
        reject(BadStructure, f"{where} is {kind_of(value)}, not a whole decimal number")
    if not low <= value <= high:
        reject(BadValue, f"{where} is {value}, not {low} to {high}")
    return int(value)


def expect_bool(value: Any, where: str) -> bool:
    if type(value) is not bool:
        reject(BadStructure, f"{where} is {kind_of(value)}, not true or false")
    return bool(value)


def expect_string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        reject(BadStructure, f"{where} is {kind_of(value)}, not a string")
    return value


def utf8(value: str, where: str, error: Type[DocumentError]) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        reject(error, f"{where} is not valid UTF-8")


#: Dataclass → its fields' types.
_TYPES: Dict[Any, Mapping[str, Any]] = {}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON, or what was made of one, is of a type as a dataclass's field has it:
    a class, Mapping, Tuple (also as a list), List, Optional, Any.  A float is finite, and may be
    whole."""
    whole, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if whole is None:
        if kind is float:
            return type(value) in (int, float) and abs(value) < 1e300
        return type(value) is kind
    if whole is Union:
        return any(fits(value, choice) for choice in inner)
    if whole in (dict, abc.Mapping):
        return type(value) is dict and all(
            fits(name, inner[0]) and fits(member, inner[1]) for name, member in value.items())
    if type(value) is not list and (whole is list or type(value) is not tuple):
        return False
    if whole is list or inner[1:] == (...,):
        return all(fits(member, inner[0]) for member in value)
    return len(value) == len(inner) and all(map(fits, value, inner))


def check_fields(record: Any, names: Optional[Collection[str]] = None) -> None:
    """Raises ValueError where a field of a dataclass, or one of these, is of another type than it
    has."""
    known = type(record)
    if known not in _TYPES:
        _TYPES[known] = get_type_hints(known)
    for name, kind in _TYPES[known].items():
        if (names is None or name in names) and not fits(getattr(record, name), kind):
            raise ValueError(name)


_CONTROL = re.compile("[\x00-\x1f\x7f]")
#: Nearly every name: ASCII, with neither a slash nor a control character, and no blank at an end.
_PLAIN_NAME = re.compile("[!-.0-~](?:[ -.0-~]*[!-.0-~])?")


def expect_name(value: Any, where: str, longest: int = 255) -> str:
    """The name of one directory or file."""
    name = expect_string(value, where)
    if _PLAIN_NAME.fullmatch(name) and len(name) <= longest and name not in (".", ".."):
        return name
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
        reject(BadName, f"{where}, {quoted(name)}, {wrong}")
    return name


def expect_text(value: Any, where: str, longest: int = MAX_WRITE) -> str:
    """Text for people, or for comparing, on one line."""
    text = expect_string(value, where)
    if len(text) <= longest and text.isascii() and text.isprintable():
        return text
    if len(utf8(text, where, BadValue)) > longest:
        reject(BadValue, f"{where} is longer than {longest} bytes")
    if _CONTROL.search(text):
        reject(BadValue, f"{where} has a control character")
    return text

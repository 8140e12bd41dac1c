"""The names and values that a document may carry: those that the kernel takes.

The rows of model/attributes.py and model/plugins.py say which values an attribute or parameter has.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Tuple

from ..errors import BadName, BadStructure, BadValue, quoted
from ..model import attributes, objects, plugins
from ..model.attributes import MAX_WRITE, U16
from .json_types import expect_mapping, expect_name, expect_string, expect_text, reject, utf8

U64 = 2**64 - 1


# --- names of the fabrics ------------------------------------------------------------------------
INITIATOR = 223  # bytes


def port_name(value: Any, where: str, prefixes: Tuple[str, ...]) -> str:
    """A WWN or nexus name that begins with one of ``prefixes``.  Raises BadName."""
    name = expect_name(value, where, INITIATOR)
    if not name.startswith(prefixes) or name in prefixes:
        reject(BadName, f"{where}, {quoted(name)}, does not begin with {' or '.join(prefixes)}")
    return without(name, where, ", \t")


def without(name: str, where: str, marks: str) -> str:
    """``name``, if it has none of the characters ``marks``.  Raises BadName."""
    mark = next((mark for mark in marks if mark in name), "")
    if mark:
        reject(BadName, f"{where}, {quoted(name)}, has a "
               + {",": "comma", " ": "space"}.get(mark, "mark that ends a name"))
    return name


def portal_address(value: Any, where: str) -> Tuple[str, Tuple[str, int]]:
    """(a portal's name, (address, port)): two names of one address are one portal.  Raises
    BadName."""
    import ipaddress
    name = expect_name(value, where)
    match = re.fullmatch(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+(?:%[^\[\]%]+)?)\]):([1-9][0-9]{0,4})",
                         name)
    try:
        if not match:
            raise ValueError
        host = str(ipaddress.IPv4Address(match[1]) if match[1] else
                   ipaddress.IPv6Address(match[2]))
        port = int(match[3])
        if port > U16:
            raise ValueError
    except ValueError:
        reject(BadName, f"{where}, {quoted(name)}, is not ADDRESS:PORT or [ADDRESS]:PORT")
    return name, (host, port)


def admits_nobody(name: str) -> bool:
    """Whether no initiator can match an iSCSI ACL's name: the name has a capital letter, of ASCII
    or Latin-1, and the kernel compares it with the initiator's name in small letters
    (iscsi_target_nego.c:iscsi_initiatorname_tolower, lib/ctype.c)."""
    return any(0x41 <= mark <= 0x5a or 0xc0 <= mark <= 0xde and mark != 0xd7
               for mark in name.encode(errors="surrogateescape"))


# --- attributes ----------------------------------------------------------------------------------
#: Files of a backstore that are actions or read-only, and never values in a document.
_WRITTEN_ONLY = re.compile(r"(?:control|enable|info|pr/.*|statistics/.*)")


#: A value that an error may quote.
_WORD = re.compile(r"[-+.\w]{0,32}", re.ASCII)


def attributes_of(value: Any, where: str, kind: str, owner: str = "",
                  unlinked: bool = False) -> Dict[str, str]:
    """Attributes of one object: {path: value}; attributes that the table does not know are kept.
    Raises a DocumentError."""
    rows = attributes.rows(kind, owner)
    values: Dict[str, str] = {}
    for path, text in expect_mapping(value, where).items():
        row = rows.get(path)
        if row is not None and row.kind != attributes.HOST and type(text) is str:
            # The common case: a small number in its range.
            if row.format is attributes.INT and text.isdigit() and text.isascii() \
                    and len(text) < 10 and (text[0] != "0" or text == "0") \
                    and not row.allowed:
                if row.range[0] <= int(text) <= row.range[1]:
                    values[path] = text
                    continue
        at = f"{where}[{quoted(path)}]"
        text = expect_string(text, at)
        if row is None:
            values[path] = _unknown(path, text, at, kind)
        elif row.kind == attributes.HOST:
            why = row.source if path.endswith("pi_prot_format") else "it is of the host alone"
            reject(BadValue, f"{at} is never carried from host to host: {why}")
        else:
            values[path] = _value(row, text, at, unlinked)
    return values


def _unknown(path: str, text: str, at: str, kind: str) -> str:
    attribute_path(path, at)
    if kind == "backstore" and _WRITTEN_ONLY.fullmatch(path):
        reject(BadValue, f"{at} is not an attribute that a document can carry")
    data = utf8(text, at, BadValue)
    if len(data) >= MAX_WRITE:
        reject(BadValue, f"{at} has {len(data)} bytes, more than one write takes")
    if b"\0" in data:
        reject(BadValue, f"{at} has a NUL")
    return objects.Secret(text) if attributes.hides(kind, path) else text


def attribute_path(path: str, at: str) -> None:
    """A path of one or two plain names below an object's directory."""
    words = path.split("/")
    if len(words) > 2:
        reject(BadName, f"{at} is not the path of an attribute")
    for word in words:
        expect_name(word, at)


def _value(row: attributes.Attribute, text: str, at: str, unlinked: bool) -> str:
    secret = row.kind == attributes.SECRET

    def shown() -> str:
        """A text of several words is no mistyped value, and may be somebody's secret."""
        if secret:
            return "(secret)"
        return quoted(text) if _WORD.fullmatch(text) else f"a text of {len(text)} characters"

    data = utf8(text, at, BadValue)
    if b"\0" in data:
        reject(BadValue, f"{at} has a NUL")
    if "\n" in text and not row.format.lines:
        reject(BadValue, f"{at} has a newline")
    if len(data) > row.longest:
        reject(BadValue, f"{at} has {len(data)} bytes, more than {row.longest}")
    if text in row.unset or (unlinked and not text):
        return text
    if row.allowed:
        if text not in row.allowed:
            reject(BadValue, f"{at} is {shown()}, not {', '.join(row.allowed)}")
    elif row.numeric:
        low, high = row.range
        if not attributes.DECIMAL.fullmatch(text):
            reject(BadValue, f"{at} is {shown()}, not a plain decimal number")
        if not low <= int(text) <= high:
            reject(BadValue, f"{at} is {shown()}, not {low} to {high}")
    elif row.format is attributes.COMPANY:
        if not attributes.COMPANY_ID.fullmatch(text):
            reject(BadValue, f"{at} is {shown()}, not 0x and six hex digits")
    elif row.text and row.text(data):
        reject(BadValue, f"{at} {row.text(data)}")
    return objects.Secret(text) if secret else text


# --- parameters of backstores --------------------------------------------------------------------
def parameters_of(value: Any, where: str, plugin: str) -> Dict[str, str]:
    """{name: value} of what goes into ``control``, a list of name=value: so no value may have a
    comma.  Raises a DocumentError."""
    rows = plugins.PLUGINS[plugin].parameters
    parameters: Dict[str, str] = {}
    for name, text in expect_mapping(value, where).items():
        at = f"{where}[{quoted(name)}]"
        if name not in rows:
            reject(BadStructure, f"{at} is no parameter of {plugin}")
        row, text = rows[name], expect_text(text, at)
        if "," in text:
            reject(BadValue, f"{at} has a comma, which would end it")
        if row.choices and text not in row.choices:
            reject(BadValue, f"{at} is {quoted(text)}, not {' or '.join(row.choices)}")
        if row.most is not None and not (attributes.DECIMAL.fullmatch(text)
                                         and 0 <= int(text) <= row.most):
            reject(BadValue, f"{at} is {quoted(text)}, not a {row.what} from 0 to {row.most}")
        parameters[name] = text
    for name, row in rows.items():
        if row.needed and not parameters.get(name) or row.path and name not in parameters:
            reject(BadStructure, f"{where}.{name} is missing")
        if row.path:
            _backing(parameters[name], f"{where}[{name!r}]", row.path)
    return parameters


def _backing(path: str, where: str, longest: int) -> None:
    if not path.startswith("/") or path.endswith("/"):
        reject(BadValue, f"{where}, {quoted(path)}, is not the full path of a file or device")
    if len(path.encode()) > longest:
        reject(BadValue, f"{where} is longer than {longest} bytes")
    if path != path.strip():
        reject(BadValue, f"{where}, {quoted(path)}, ends with a space")
    if {".", ".."} & set(path.split("/")):
        reject(BadName, f"{where}, {quoted(path)}, has a . or .. in it")

"""Which names and values the kernel takes, and which of them a document may carry.

What a value may be stands in its row: model/attributes.py, model/plugins.py.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Tuple

from ..errors import BadName, BadStructure, BadValue
from ..model import attributes, objects, plugins
from ..model.attributes import MAX_WRITE, U16
from .json_types import any_object, fail, plain_name, plain_text, show, string, utf8

U64 = 2**64 - 1


# --- names of the fabrics ------------------------------------------------------------------------
INITIATOR = 223  # bytes


def port_name(value: Any, where: str, prefixes: Tuple[str, ...]) -> str:
    name = plain_name(value, where, INITIATOR)
    if not name.startswith(prefixes) or name in prefixes:
        fail(BadName, f"{where}, {show(name)}, does not begin with {' or '.join(prefixes)}")
    return without(name, where, ", \t")


def without(name: str, where: str, marks: str) -> str:
    found = next((mark for mark in marks if mark in name), "")
    if found:
        fail(BadName, f"{where}, {show(name)}, has a "
             + {",": "comma", " ": "space"}.get(found, "mark that ends a name"))
    return name


def portal_address(value: Any, where: str) -> Tuple[str, Tuple[str, int]]:
    """A portal's name, and what it says: two names of one address are one portal."""
    import ipaddress
    name = plain_name(value, where)
    found = re.fullmatch(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+(?:%[^\[\]%]+)?)\]):([1-9][0-9]{0,4})",
                         name)
    try:
        if not found:
            raise ValueError
        host = str(ipaddress.IPv4Address(found[1]) if found[1] else
                   ipaddress.IPv6Address(found[2]))
        port = int(found[3])
        if port > U16:
            raise ValueError
    except ValueError:
        fail(BadName, f"{where}, {show(name)}, is not ADDRESS:PORT or [ADDRESS]:PORT")
    return name, (host, port)


def admits_nobody(name: str) -> bool:
    """Whether an iSCSI ACL's name has what no initiator's name has when the kernel compares them:
    it makes that small letters, those of Latin-1, too (iscsi_target_nego.c:
    iscsi_initiatorname_tolower, lib/ctype.c)."""
    return any(0x41 <= mark <= 0x5a or 0xc0 <= mark <= 0xde and mark != 0xd7
               for mark in name.encode(errors="surrogateescape"))


# --- attributes ----------------------------------------------------------------------------------
#: what the product itself does with a backstore; never a value to be carried
_WRITTEN_ONLY = re.compile(r"(?:control|enable|info|pr/.*|statistics/.*)")


def attributes_of(value: Any, where: str, kind: str, owner: str = "",
                  unlinked: bool = False) -> Dict[str, str]:
    """Attributes of one object: {path: value}.  Those that the table does not know are kept."""
    rows = attributes.rows(kind, owner)
    made: Dict[str, str] = {}
    for path, text in any_object(value, where).items():
        row = rows.get(path)
        if row is not None and row.kind != attributes.HOST and type(text) is str:
            # The common case: a small number in its range.
            if row.format is attributes.INT and text.isdigit() and text.isascii() \
                    and len(text) < 10 and (text[0] != "0" or text == "0") \
                    and not row.allowed:
                if row.range[0] <= int(text) <= row.range[1]:
                    made[path] = text
                    continue
        at = f"{where}[{show(path)}]"
        text = string(text, at)
        if row is None:
            made[path] = _unknown(path, text, at, kind)
        elif row.kind == attributes.HOST:
            why = row.source if path.endswith("pi_prot_format") else "it is of the host alone"
            fail(BadValue, f"{at} is never carried from host to host: {why}")
        else:
            made[path] = _value(row, text, at, unlinked)
    return made


def _unknown(path: str, text: str, at: str, kind: str) -> str:
    attribute_path(path, at)
    if kind == "backstore" and _WRITTEN_ONLY.fullmatch(path):
        fail(BadValue, f"{at} is not an attribute that a document can carry")
    data = utf8(text, at, BadValue)
    if len(data) >= MAX_WRITE:
        fail(BadValue, f"{at} has {len(data)} bytes, more than one write takes")
    if b"\0" in data:
        fail(BadValue, f"{at} has a NUL")
    return objects.Secret(text) if attributes.hides(kind, path) else text


def attribute_path(path: str, at: str) -> None:
    """A path of one or two plain names below an object's directory."""
    words = path.split("/")
    if len(words) > 2:
        fail(BadName, f"{at} is not the path of an attribute")
    for word in words:
        plain_name(word, at)


def _value(row: attributes.Attribute, text: str, at: str, unlinked: bool) -> str:
    secret = row.kind == attributes.SECRET

    def shown() -> str:
        return "(secret)" if secret else show(text)

    data = utf8(text, at, BadValue)
    if b"\0" in data:
        fail(BadValue, f"{at} has a NUL")
    if "\n" in text and not row.format.lines:
        fail(BadValue, f"{at} has a newline")
    if len(data) > row.longest:
        fail(BadValue, f"{at} has {len(data)} bytes, more than {row.longest}")
    if text in row.unset or (unlinked and not text):
        return text
    if row.allowed:
        if text not in row.allowed:
            fail(BadValue, f"{at} is {shown()}, not {', '.join(row.allowed)}")
    elif row.numeric:
        low, high = row.range
        if not attributes.DECIMAL.fullmatch(text):
            fail(BadValue, f"{at} is {shown()}, not a plain decimal number")
        if not low <= int(text) <= high:
            fail(BadValue, f"{at} is {shown()}, not {low} to {high}")
    elif row.format is attributes.COMPANY:
        if not attributes.COMPANY_ID.fullmatch(text):
            fail(BadValue, f"{at} is {shown()}, not 0x and six hex digits")
    elif row.text and row.text(data):
        fail(BadValue, f"{at} {row.text(data)}")
    return objects.Secret(text) if secret else text


# --- parameters of backstores --------------------------------------------------------------------
def parameters_of(value: Any, where: str, plugin: str) -> Dict[str, str]:
    """What goes into ``control``: a list of name=value, so that no value can have its marks."""
    rows = plugins.PLUGINS[plugin].parameters
    made: Dict[str, str] = {}
    for name, text in any_object(value, where).items():
        at = f"{where}[{show(name)}]"
        if name not in rows:
            fail(BadStructure, f"{at} is no parameter of {plugin}")
        row, text = rows[name], plain_text(text, at)
        if "," in text:
            fail(BadValue, f"{at} has a comma, which would end it")
        if row.choices and text not in row.choices:
            fail(BadValue, f"{at} is {show(text)}, not {' or '.join(row.choices)}")
        if row.most is not None and not (attributes.DECIMAL.fullmatch(text)
                                         and 0 <= int(text) <= row.most):
            fail(BadValue, f"{at} is {show(text)}, not a {row.what} from 0 to {row.most}")
        made[name] = text
    for name, row in rows.items():
        if row.needed and not made.get(name) or row.path and name not in made:
            fail(BadStructure, f"{where}.{name} is missing")
        if row.path:
            _backing(made[name], f"{where}[{name!r}]", row.path)
    return made


def _backing(path: str, where: str, longest: int) -> None:
    if not path.startswith("/") or path.endswith("/"):
        fail(BadValue, f"{where}, {show(path)}, is not the full path of a file or device")
    if len(path.encode()) > longest:
        fail(BadValue, f"{where} is longer than {longest} bytes")
    if path != path.strip():
        fail(BadValue, f"{where}, {show(path)}, ends with a space")
    if {".", ".."} & set(path.split("/")):
        fail(BadName, f"{where}, {show(path)}, has a . or .. in it")

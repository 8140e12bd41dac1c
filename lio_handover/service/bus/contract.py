"""The interfaces as their XML says: signatures, and which polkit action a call needs.

One file per interface in interfaces/ (D-Bus API Design Guidelines, "Interface files"), installed
below /usr/share/dbus-1/interfaces.  ``OPEN`` calls need no permission.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, Mapping, Sequence, Tuple
from xml.etree import ElementTree

from ... import dbus_names
from ...verb_table import HANDOVER_VERBS, WRITE

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: Of ours; the bus's own, which need not be installed, are beside it.
FOLDER, STANDARD = os.path.join(HERE, "interfaces"), os.path.join(HERE, "standard.xml")
OPEN = "open"
#: What every object has.
STANDARD_NAMES = (dbus_names.INTROSPECTABLE, dbus_names.PEER, dbus_names.PROPERTIES)

_ACTION = dbus_names.BUS_NAME + ".Action"
_EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"


@dataclass(frozen=True)
class Method:
    name: str
    takes: str  # signatures
    gives: str
    arguments: Tuple[str, ...]
    action: str


@dataclass(frozen=True)
class Property:
    name: str
    signature: str
    emits: str  # "true", "invalidates", "const" or "false"


@dataclass(frozen=True)
class Interface:
    name: str
    text: str
    methods: Mapping[str, Method]
    properties: Mapping[str, Property]
    signals: Mapping[str, str]  # name → signature


def load() -> Dict[str, Interface]:
    """Every interface by its name."""
    files = [STANDARD, *(os.path.join(FOLDER, file) for file in sorted(os.listdir(FOLDER))
                         if file.endswith(".xml"))]
    found = [_interface(element) for file in files
             for element in ElementTree.parse(file).getroot().iter("interface")]
    return {one.name: one for one in found}


def _interface(element: ElementTree.Element) -> Interface:
    name = element.get("name", "")
    methods = {}
    for one in element.iter("method"):
        method = _method(name, one)
        methods[method.name] = method
    properties = {one.get("name", ""): Property(one.get("name", ""), one.get("type", ""),
                                                _annotation(one, _EMITS, "true"))
                  for one in element.iter("property")}
    signals = {signal.get("name", ""): "".join(arg.get("type", "") for arg in signal.iter("arg"))
               for signal in element.iter("signal")}
    element.tail = "\n"
    return Interface(name, ElementTree.tostring(element, "unicode"), methods, properties, signals)


def _method(interface: str, element: ElementTree.Element) -> Method:
    name = element.get("name", "")
    takes = [one for one in element.iter("arg") if one.get("direction", "in") == "in"]
    gives = [one for one in element.iter("arg") if one.get("direction", "in") == "out"]
    verb = HANDOVER_VERBS.get(verb_of(interface, name))
    return Method(name, "".join(one.get("type", "") for one in takes),
                  "".join(one.get("type", "") for one in gives),
                  tuple(one.get("name", "") for one in takes),
                  verb.action if verb else _annotation(element, _ACTION, WRITE))


def _annotation(element: ElementTree.Element, name: str, default: str) -> str:
    for annotation in element.findall("annotation"):
        if annotation.get("name") == name:
            return annotation.get("value", default)
    return default


def verb_of(interface: str, member: str) -> str:
    """The verb of HANDOVER_VERBS that a method carries out, or ""."""
    if interface == dbus_names.HANDOVER:
        verb = member.lower()
    elif interface == dbus_names.MANAGER and member.endswith("Handover"):
        verb = member[:-len("Handover")].lower()
    else:
        return ""
    return verb if verb in HANDOVER_VERBS else ""


def node_xml(interfaces: Sequence[Interface], children: Sequence[str]) -> str:
    """What Introspect answers (D-Bus Specification, "Introspection Data Format")."""
    return "\n".join([
        '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"',
        ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">', "<node>",
        *(interface.text.rstrip("\n") for interface in interfaces),
        *(f'  <node name="{child}"/>' for child in children), "</node>", ""])

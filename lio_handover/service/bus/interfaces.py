"""The interfaces as XML: signatures, documentation, and which polkit action a call needs.

The files in interfaces/ are written by hand; the verbs' methods are made from the rows of
verb_table.py.  Introspect answers both together, calls are checked against both, and ``python3 -m
lio_handover.service.bus.interfaces INTERFACE`` prints both, a file for each interface (D-Bus API
Design Guidelines, "Interface files"), for /usr/share/dbus-1/interfaces.  ``OPEN`` calls need no
permission.
"""
from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ... import dbus_names, verb_table
from ...verb_table import (A_DOCUMENT, A_FILE, A_LINE, A_NODE, ANY_TARGETS, BOTH, HANDOVER_VERBS,
                           HOST, HOST_VERBS, MESSAGES, NEW_TARGETS, NOTHING, PAIR, PAIR_VERBS,
                           TARGETS, WRITE, Option, Verb)
from .object_methods import OBJECT_METHODS, ObjectMethod

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: Our interfaces without the verbs; the bus's own interfaces, which need not be installed.
FOLDER, STANDARD = os.path.join(HERE, "interfaces"), os.path.join(HERE, "standard.xml")
OPEN = "open"
#: Every object's interfaces.
STANDARD_NAMES = (dbus_names.INTROSPECTABLE, dbus_names.PEER, dbus_names.PROPERTIES)

#: Annotations: documentation, as gdbus and its code generator read it; the polkit action; an option
#: of an argument, as "NAME (TYPE): documentation".
_DOC = "org.gtk.GDBus.DocString"
_ACTION = dbus_names.BUS_NAME + ".Action"
_OPTION = dbus_names.BUS_NAME + ".Option"
_EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"

#: ``takes`` of a verb → its arguments on the bus: (name, type, documentation) each.
_TARGETS = ("targets", "as", "FABRIC/WWN each, as ListTargets has them")
_ARGUMENTS: Mapping[str, Sequence[Tuple[str, str, str]]] = {
    TARGETS: [(*_TARGETS[:2], _TARGETS[2] + "; none with option all.")],
    ANY_TARGETS: [(*_TARGETS[:2], _TARGETS[2] + "; all of them where none is named.")],
    NEW_TARGETS: [(*_TARGETS[:2], _TARGETS[2] + ".")],
    A_DOCUMENT: [("document", "ah", "One descriptor of a file or memfd; none with option upload.")],
    A_FILE: [("file", "ah", "One descriptor of a file or memfd; none with option upload.")],
    A_NODE: [("path", "s", "A node of targetcli's tree: /iscsi/iqn.../tpg1/luns."),
             ("values", "a{ss}", "What the command line has as NAME=VALUE. Of a secret @0, @1...: "
              "the content of a descriptor of option secret-fds; root may name a file: @/PATH.")],
    A_LINE: [("line", "as", "A line of `lio-handover shell` that makes, changes or deletes one "
              "object: one word is a line, several are its words.  Root alone; a secret is "
              "NAME=@/FILE.")],
    MESSAGES: [("messages", "ah", "What the other side said, as the data of its job have it: "
                "descriptors of files or memfds; none where it said nothing, or with option "
                "uploads.")]}


#: Options of changes that methods of the changed object do without.
_OF_ROOT_OBJECT = ("by-position", "wait")


# ---- the methods that are verbs ----
class VerbMethod(NamedTuple):
    """A method that runs a verb.  ``takes`` is a word of verb_table, with an argument in
    _ARGUMENTS, or NOTHING; ``known``: a method of a handover's own object."""

    verb: Verb
    takes: str
    options: Mapping[str, Option]
    known: bool
    #: of an object that is changed: it answers once that is done
    of_object: Optional[ObjectMethod] = None


def verb_methods() -> Dict[Tuple[str, str], VerbMethod]:
    """(interface, method) → the method's verb.

    A verb of a handover is a method of the handover's object.  A verb that begins a handover is
    also the Manager's method VERBHandover, and the object's method has no options that only a
    beginning needs; a verb that may be about every handover is also VERBHandovers.
    """
    methods: Dict[Tuple[str, str], VerbMethod] = {}
    for verb in (*HOST_VERBS.values(), *PAIR_VERBS.values()):
        member = verb_table.MEMBERS.get(verb.name, verb.name.capitalize())
        methods[dbus_names.MANAGER, member] = VerbMethod(
            verb, verb.takes, verb.on_bus, False)
    for place, row in OBJECT_METHODS.items():
        verb = HOST_VERBS[row.verb]
        secrets = any(argument.parameter == "*" for argument in row.arguments)
        methods[place] = VerbMethod(verb, A_NODE, {
            bus: option for bus, option in verb.on_bus.items()
            if option.name not in _OF_ROOT_OBJECT
            and (secrets or option.name != "secret-fds")}, False, row)
    for verb in HANDOVER_VERBS.values():
        if not verb.bus:
            continue
        name, takes, options = verb.name.capitalize(), verb.takes, verb.on_bus
        if verb.begins and verb.role == BOTH:
            methods[dbus_names.MANAGER, f"{name}Handovers"] = VerbMethod(
                verb, NOTHING, {bus: option for bus, option in options.items()
                                if option.name not in verb_table.OF_ONE_HANDOVER}, False)
        elif verb.begins:
            methods[dbus_names.MANAGER, f"{name}Handover"] = VerbMethod(
                verb, takes, options, False)
            takes, options = NOTHING, verb.of_call(begins=False)
        methods[dbus_names.HANDOVER, name] = VerbMethod(verb, takes, options, True)
    return methods


def _verb_element(member: str, method: VerbMethod) -> Element:
    """A verb's method as XML."""
    verb = method.verb
    element = Element("method", name=member)
    about = verb.help[0].upper() + verb.help[1:] + "."
    if method.of_object:
        about = method.of_object.help
    if verb.role not in (HOST, BOTH, PAIR):
        about = f"({verb.role}) {about}"
    if verb.begins and verb.role == BOTH and not method.known:
        about += " Of every handover of this host."
    _annotate(element, _DOC, about)
    _annotate(element, _ACTION, verb.action)
    if method.takes != NOTHING:
        for name, signature, text in [
                (argument.name, argument.type, argument.text)
                for argument in method.of_object.arguments] if method.of_object \
                else _ARGUMENTS[method.takes]:
            _annotate(_argument(element, name, signature, "in"), _DOC, text)
    options = _argument(element, "options", "a{sv}", "in")
    for name, option in method.options.items():
        _annotate(options, _OPTION, f"{name} ({option.type}): {option.help}")
    if not method.options:
        _annotate(options, _DOC, "None yet.")
    if method.of_object:
        _annotate(_argument(element, "node", "s", "out"), _DOC, "What was made or changed, as the "
                  "command line has it.")
    else:
        _argument(element, "job", "o", "out")
    return element


def _argument(method: Element, name: str, signature: str, direction: str) -> Element:
    return ElementTree.SubElement(method, "arg", name=name, type=signature, direction=direction)


def _annotate(element: Element, name: str, value: str) -> None:
    ElementTree.SubElement(element, "annotation", name=name, value=value)


# ---- interfaces ----
@dataclass(frozen=True)
class Method:
    name: str
    takes: str  # signatures
    gives: str
    arguments: Tuple[str, ...]
    action: str
    options: Mapping[str, str] = field(default_factory=dict)  # name → type
    verb: Optional[VerbMethod] = None


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
    interfaces = [_interface(element) for file in files
                  for element in ElementTree.parse(file).getroot().iter("interface")]
    return {interface.name: interface for interface in interfaces}


def _interface(element: Element) -> Interface:
    name = element.get("name", "")
    verbs = {member: method for (interface, member), method in verb_methods().items()
             if interface == name}
    signals = element.findall("signal")
    for signal in signals:  # signals stand behind the verbs
        element.remove(signal)
    element.extend(_verb_element(member, method) for member, method in verbs.items())
    element.extend(signals)
    ElementTree.indent(element, level=1)
    element.tail = "\n"
    methods = [_method(method, verbs) for method in element.iter("method")]
    properties = [Property(prop.get("name", ""), prop.get("type", ""),
                           _annotation(prop, _EMITS, "true")) for prop in element.iter("property")]
    return Interface(
        name, "  " + ElementTree.tostring(element, "unicode"),
        {method.name: method for method in methods}, {prop.name: prop for prop in properties},
        {signal.get("name", ""): "".join(arg.get("type", "") for arg in signal.iter("arg"))
         for signal in signals})


def _method(element: Element, verbs: Mapping[str, VerbMethod]) -> Method:
    takes = [arg for arg in element.iter("arg") if arg.get("direction", "in") == "in"]
    gives = [arg for arg in element.iter("arg") if arg.get("direction", "in") == "out"]
    options = dict(_named(value) for arg in takes for value in _annotations(arg, _OPTION))
    name = element.get("name", "")
    return Method(name, "".join(arg.get("type", "") for arg in takes),
                  "".join(arg.get("type", "") for arg in gives),
                  tuple(arg.get("name", "") for arg in takes),
                  _annotation(element, _ACTION, WRITE), options, verbs.get(name))


def _named(option: str) -> Tuple[str, str]:
    """(name, type) of an option's annotation."""
    match = re.match(r"([a-z-]+) \(([a-z]+)\): ", option)
    assert match, option
    return match[1], match[2]


def _annotations(element: Element, name: str) -> Iterator[str]:
    return (annotation.get("value", "") for annotation in element.findall("annotation")
            if annotation.get("name") == name)


def _annotation(element: Element, name: str, default: str) -> str:
    return next(_annotations(element, name), default)


def node_xml(interfaces: Sequence[Interface], children: Sequence[str] = ()) -> str:
    """The answer of Introspect (D-Bus Specification, "Introspection Data Format")."""
    return "\n".join([
        '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"',
        ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">', "<node>",
        *(interface.text.rstrip("\n") for interface in interfaces),
        *(f'  <node name="{child}"/>' for child in children), "</node>", ""])


def main(argv: Sequence[str]) -> int:
    """Print the names of our interfaces, or write a file of each into the folder that is named."""
    ours = {name: interface for name, interface in load().items()
            if name.startswith(dbus_names.BUS_NAME)}
    if not argv:
        print(*ours, sep="\n")
        return 0
    for name, interface in ours.items():
        with open(os.path.join(argv[0], f"{name}.xml"), "w") as file:
            file.write('<?xml version="1.0" encoding="UTF-8"?>\n' + node_xml([interface]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

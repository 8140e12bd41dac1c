"""Messages → objects.  Every call passes the same checks: known, well formed, authorized.

One handler serves the whole tree, so no call bypasses the authorization, and callers see no
exception but as a D-Bus error's name and sentence.
"""
from __future__ import annotations

import re
import traceback
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import dbus
import dbus.lowlevel

from ... import dbus_names, errors, verb_table
from ...system.journald import Log
from ...verb_table import READ
from . import marshal
from .interfaces import STANDARD_NAMES, Interface, Method, node_xml
from .polkit import Authority, Caller, NeedsPassword

_DBUS = "org.freedesktop.DBus.Error."
_METHOD_CALL = 1
#: Paths of objects that come and go with the host's targets and handovers.
_LOOKED_FOR = re.compile(f"{dbus_names.ROOT}/({dbus_names.TARGETS}|{dbus_names.HANDOVERS})/")
#: Methods of Properties that read such an object.
_SHOWING = ("Get", "GetAll")
#: The result of a handler that will answer later.
DEFERRED = object()
#: Option of any verb → its type; type → the value of an option that is not given.
OPTIONS = {option.bus: option.type for option in verb_table.OPTIONS.values() if option.bus}
_EMPTY: Mapping[str, Any] = {"b": False, "s": "", "u": 0, "as": [], "ah": []}
#: Type of a list → the class of its items.
_ITEMS: Mapping[str, type] = {"as": str, "ah": marshal.Descriptor}


class Standard(Exception):
    """An error of the D-Bus specification."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = _DBUS + name


def error_name(error: BaseException) -> Tuple[str, str]:
    """(name on the bus, sentence) of an error; an unforeseen error's text is not told."""
    if isinstance(error, Standard):
        return error.name, str(error)
    if isinstance(error, NeedsPassword):
        return (_DBUS + "InteractiveAuthorizationRequired",
                "polkit has a question: call again and allow interactive authorization")
    if isinstance(error, errors.HandoverError):
        return dbus_names.ERROR + type(error).__name__, str(error)
    return (dbus_names.ERROR + errors.HandoverError.__name__,
            str(errors.HandoverError(f"{type(error).__name__} in the service", "whether anything "
                                     "was changed is not known", "see the journal, and report it")))


class BusObject:
    """An object of the tree, with its own interfaces and their properties."""

    interfaces: Tuple[str, ...] = ()

    def __init__(self, path: str) -> None:
        self.path = path

    def properties(self, interface: str) -> Mapping[str, Any]:
        """Every property of an interface, as builtins."""
        return {}

    def handler(self, method: Method) -> Callable[..., Any]:
        """The function that runs a method; it takes the Call and the arguments."""
        return self.verb if method.verb else getattr(self, python_name(method.name))

    def verb(self, call: Call, *args: Any) -> Any:
        """Run a verb."""
        raise NotImplementedError


def python_name(member: str) -> str:
    """ListTargets → list_targets"""
    return "".join("_" + letter.lower() if letter.isupper() else letter
                   for letter in member).lstrip("_")


class Call:
    """A method call, and its answer."""

    def __init__(self, tree: ObjectTree, message: Any, method: Method, caller: Caller,
                 interactive: bool) -> None:
        self.tree, self.message, self.method, self.caller = tree, message, method, caller
        self.interactive = interactive
        self.answered = False
        #: Called once the call is answered with an error.
        self.on_error: Callable[[], None] = lambda: None

    def reply(self, *values: Any) -> None:
        if self.answered:
            return
        kinds = marshal.split(self.method.gives)
        if len(kinds) != len(values):
            raise marshal.Wrong(f"{self.method.name} answers {self.method.gives}")
        typed = [marshal.typed(kind, value) for kind, value in zip(kinds, values)]
        message = self._answer()
        if not message.get_no_reply():
            answer = dbus.lowlevel.MethodReturnMessage(message)
            answer.append(*typed, signature=self.method.gives)
            self.tree.connection.send_message(answer)

    def fail(self, error: BaseException) -> None:
        if not self.answered:
            self.tree.refuse(self._answer(), error)
            self.on_error()

    def _answer(self) -> Any:
        """Release the message, as it has descriptors; the message."""
        self.answered, message, self.message = True, self.message, None
        return message

    def options(self, given: Mapping[str, Any]) -> Dict[str, Any]:
        """The options of all verbs: the given values, and empty ones.  Raises BadCall for an option
        that this method does not take, or of another type."""
        options: Dict[str, Any] = {name: _EMPTY[kind] for name, kind in OPTIONS.items()}
        for name, value in given.items():
            if name not in self.method.options:
                raise errors.BadCall(f"{self.method.name} has no option {name[:40]!a}",
                                     do=f"one of {', '.join(self.method.options) or 'none'}")
            kind = self.method.options[name]
            if type(value) is not type(_EMPTY[kind]) or kind in _ITEMS and not all(
                    isinstance(item, _ITEMS[kind]) for item in value):
                raise errors.BadCall(f"option {name} is of type {kind}", do="give it as that")
            options[name] = value
        return options

    def allowed(self, action: str, then: Callable[[], None]) -> None:
        """Call ``then`` if the caller is authorized for this action, too."""
        def checked(caller: Caller, error: Optional[Exception]) -> None:
            self.caller = caller
            if error:
                self.fail(error)
            else:
                self.tree.answering_errors(self, then)
        self.tree.authority.check(self.caller.sender, action, self.interactive, checked)


def _misplaced(method: Method, options: Mapping[str, Any]) -> bool:
    """Whether a descriptor is elsewhere than in an option of descriptors.  The message still owns
    all descriptors."""
    return any(marshal.has_descriptor(value) and not (
        method.options.get(str(name)) == "ah" and isinstance(value, dbus.Array)
        and value.signature == "h") for name, value in options.items())


class ObjectTree:
    """The objects of the service on one connection."""

    def __init__(self, connection: Any, interfaces: Mapping[str, Interface],
                 authority: Authority, log: Log) -> None:
        self.connection, self.interfaces = connection, interfaces
        self.authority, self.log = authority, log
        self.nodes: Dict[str, BusObject] = {}
        #: Brings the objects up to date, then calls its argument.
        self.refresh: Callable[[Callable[[], None]], None] = lambda then: then()
        connection._register_object_path("/", self._came, None, fallback=True)

    # ---- objects ---
    def add(self, node: BusObject) -> None:
        self.nodes[node.path] = node
        if node.path != dbus_names.ROOT:
            self._signal(dbus_names.ROOT, dbus_names.OBJECT_MANAGER, "InterfacesAdded",
                         "oa{sa{sv}}", dbus.ObjectPath(node.path), self._described(node))

    def remove(self, path: str) -> None:
        node = self.nodes.pop(path, None)
        if node:
            self._signal(dbus_names.ROOT, dbus_names.OBJECT_MANAGER, "InterfacesRemoved", "oas",
                         dbus.ObjectPath(path), list(node.interfaces))

    def changed(self, node: BusObject, interface: str, which: Sequence[str]) -> None:
        """Signal changed properties of an object."""
        if self.nodes.get(node.path) is not node:
            return
        said, invalid = {}, []
        values = node.properties(interface)
        for name in which:
            declared = self.interfaces[interface].properties[name]
            if declared.emits == "true":
                said[name] = marshal.typed_variant(declared.signature, values[name])
            elif declared.emits == "invalidates":
                invalid.append(name)
        if said or invalid:
            self._signal(node.path, dbus_names.PROPERTIES, "PropertiesChanged", "sa{sv}as",
                         interface, dbus.Dictionary(said, signature="sv"),
                         dbus.Array(invalid, signature="s"))

    def signal(self, node: BusObject, interface: str, member: str, *values: Any) -> None:
        signature = self.interfaces[interface].signals[member]
        self._signal(node.path, interface, member, signature,
                     *map(marshal.typed, marshal.split(signature), values))

    def _signal(self, path: str, interface: str, member: str, signature: str,
                *values: Any) -> None:
        signal = dbus.lowlevel.SignalMessage(path, interface, member)
        signal.append(*values, signature=signature)
        self.connection.send_message(signal)

    def below(self, folder: str) -> Iterator[Tuple[str, BusObject]]:
        prefix = f"{dbus_names.ROOT}/{folder}/"
        yield from ((path, node) for path, node in list(self.nodes.items())
                    if path.startswith(prefix))

    # ---- calls ---
    def _came(self, _connection: Any, message: Any) -> int:
        if message.get_type() != _METHOD_CALL:
            return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED  # type: ignore[no-any-return]
        path, member = str(message.get_path()), str(message.get_member())
        if _LOOKED_FOR.match(path) and (path not in self.nodes or member in _SHOWING and str(
                message.get_interface() or dbus_names.PROPERTIES) == dbus_names.PROPERTIES):
            self._look(message)
        else:
            self._answer(message)
        return dbus.lowlevel.HANDLER_RESULT_HANDLED  # type: ignore[no-any-return]

    def _look(self, message: Any) -> None:
        """Answer after a new look at the host: the object may be newer than the last look, or this
        call may have started the service; and another process may have changed the object."""
        def checked(_caller: Caller, error: Optional[Exception]) -> None:
            if error:
                self._answer(message)
            else:
                self.refresh(lambda: self._answer(message))
        interactive = bool(message.get_allow_interactive_authorization())
        self.authority.check(str(message.get_sender()), READ, interactive, checked)

    def _answer(self, message: Any) -> None:
        try:
            self._route(message)
        except Exception as error:  # noqa: B902 - whatever it is, the caller gets a name
            self.refuse(message, error)

    def _route(self, message: Any) -> None:
        path, interface = str(message.get_path()), str(message.get_interface() or "")
        member = str(message.get_member())
        node = self.nodes.get(path)
        if member == "Introspect" and interface in ("", dbus_names.INTROSPECTABLE):
            self._introspect(message, path, node)
            return
        if node is None:
            raise Standard("UnknownObject", f"there is no {path}")
        method = self._method(node, interface, member)
        if str(message.get_signature()) != method.takes:
            raise Standard("InvalidArgs", f"{member} takes {method.takes or 'nothing'}, "
                           f"not {message.get_signature() or 'nothing'}")
        interactive = bool(message.get_allow_interactive_authorization())

        def checked(caller: Caller, error: Optional[Exception]) -> None:
            call = Call(self, message, method, caller, interactive)
            if error:
                call.fail(error)
            else:
                self.answering_errors(call, lambda: self._carry_out(node, call))
        self.authority.check(str(message.get_sender()), method.action, interactive, checked)

    def _method(self, node: BusObject, interface: str, member: str) -> Method:
        known = (*STANDARD_NAMES, *node.interfaces)
        if interface and interface not in known:
            raise Standard("UnknownInterface", f"{node.path} has no {interface}")
        for name in (interface,) if interface else known:
            if member in self.interfaces[name].methods:
                return self.interfaces[name].methods[member]
        raise Standard("UnknownMethod", f"{interface or node.path} has no {member}")

    def answering_errors(self, call: Call, work: Callable[[], None]) -> None:
        """Work for a call; an exception becomes the call's answer."""
        try:
            work()
        except Exception as error:  # noqa: B902
            call.fail(error)

    def _carry_out(self, node: BusObject, call: Call) -> None:
        try:
            given = call.message.get_args_list(byte_arrays=True)
            if any(isinstance(arg, dict) and _misplaced(call.method, arg) for arg in given):
                raise ValueError("an option has a descriptor, and is of another type")
            args = [marshal.plain(arg) for arg in given]
        except (ValueError, TypeError) as error:  # a descriptor that is missing from the message
            raise Standard("InvalidArgs", str(error)) from None
        interface = str(call.message.get_interface() or "") or next(
            name for name in (*STANDARD_NAMES, *node.interfaces)
            if call.method.name in self.interfaces[name].methods)
        if interface == dbus_names.PROPERTIES:
            self._properties(node, call, args)
        elif interface == dbus_names.OBJECT_MANAGER:
            self.refresh(lambda: call.reply(self._managed()))
        else:
            answer = node.handler(call.method)(call, *args)
            if answer is not DEFERRED:
                call.reply(*(() if answer is None else (answer,)))

    def refuse(self, message: Any, error: BaseException) -> None:
        name, text = error_name(error)
        if not isinstance(error, (errors.HandoverError, Standard, NeedsPassword)):
            self.log.warn(f"{message.get_member()} failed: {type(error).__name__}; "
                          + " ".join("".join(traceback.format_tb(error.__traceback__)).split()))
        if not message.get_no_reply():
            self.connection.send_message(dbus.lowlevel.ErrorMessage(
                message, name, marshal.text(text)))

    # ---- the standard interfaces ---
    def _introspect(self, message: Any, path: str, node: Optional[BusObject]) -> None:
        children = self._children(path)
        if node is None and not children:
            raise Standard("UnknownObject", f"there is no {path}")
        answer = dbus.lowlevel.MethodReturnMessage(message)
        answer.append(self.introspection(path), signature="s")
        self.connection.send_message(answer)

    def introspection(self, path: str) -> str:
        node = self.nodes.get(path)
        shown = (*STANDARD_NAMES, *node.interfaces) if node else (
            dbus_names.INTROSPECTABLE, dbus_names.PEER)
        return node_xml([self.interfaces[name] for name in shown], self._children(path))

    def _children(self, path: str) -> List[str]:
        prefix = path.rstrip("/") + "/"
        return sorted({node[len(prefix):].split("/")[0] for node in self.nodes
                       if node.startswith(prefix)})

    def _managed(self) -> Mapping[str, Any]:
        return {path: self._described(node) for path, node in self.nodes.items()
                if path != dbus_names.ROOT}

    def _described(self, node: BusObject) -> Mapping[str, Any]:
        return {name: self._values(node, name) for name in (*STANDARD_NAMES, *node.interfaces)}

    def _values(self, node: BusObject, interface: str) -> Any:
        values = node.properties(interface)
        return dbus.Dictionary(
            {declared.name: marshal.typed_variant(declared.signature, values[declared.name])
             for declared in self.interfaces[interface].properties.values()}, signature="sv")

    def _properties(self, node: BusObject, call: Call, args: Sequence[Any]) -> None:
        interface = args[0]
        if interface not in (*STANDARD_NAMES, *node.interfaces):
            raise Standard("UnknownInterface", f"{node.path} has no {interface}")
        known = self.interfaces[interface].properties
        if call.method.name == "GetAll":
            call.reply(self._values(node, interface))
            return
        if args[1] not in known:
            raise Standard("UnknownProperty", f"{interface} has no {args[1]}")
        if call.method.name == "Set":
            raise Standard("PropertyReadOnly", f"{args[1]} can't be set")
        call.reply(marshal.typed_variant(known[args[1]].signature,
                                         node.properties(interface)[args[1]]))

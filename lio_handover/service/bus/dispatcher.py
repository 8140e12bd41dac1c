"""Messages → objects.  Every call passes the same checks: known, well formed, authorized.

One handler serves the whole tree, so no call bypasses the authorization, and callers see no
exception but as a D-Bus error's name and sentence.  polkit may take minutes to answer: after each
of its answers the object is looked up anew.  Everybody on the bus hears signals, so they carry the
object's path and its State (`TOLD`), and no other value.
"""
from __future__ import annotations

import re
import traceback
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import dbus
import dbus.lowlevel

from ... import dbus_names, errors, verb_table
from ...system.journald import Log
from ...verb_table import READ
from . import marshal
from .interfaces import STANDARD_NAMES, Interface, Method, node_xml
from .polkit import Authority, Caller, NeedsPassword, Wanted

_DBUS = "org.freedesktop.DBus.Error."
_METHOD_CALL = 1
#: The one property whose value is signalled.
TOLD = "State"
#: Characters of a target's name, or of several, that polkit is told.
_WORDS = 200
#: Paths of objects that come and go: whether they are there is told to who may look.
_OBJECTS = (dbus_names.TARGETS, dbus_names.HANDOVERS, dbus_names.BACKSTORES, dbus_names.ACLS)
_COMING = re.compile(f"{dbus_names.ROOT}/({'|'.join(_OBJECTS)}|{dbus_names.JOBS})/")
_FOLDERS = tuple(f"{dbus_names.ROOT}/{folder}" for folder in (*_OBJECTS, dbus_names.JOBS))
#: Paths of objects that come and go with the host's targets and handovers.
_LOOKED_FOR = re.compile(f"{dbus_names.ROOT}/({'|'.join(_OBJECTS)})/")
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


class Named(Exception):
    """An error that a job has ended with: its name on the bus, its sentence."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def error_name(error: BaseException) -> Tuple[str, str]:
    """(name on the bus, sentence) of an error; an unforeseen error's text is not told."""
    if isinstance(error, (Standard, Named)):
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

    @property
    def about(self) -> str:
        """The names of the targets that it is about."""
        return ""

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
                 wanted: Wanted) -> None:
        self.tree, self.message, self.method, self.caller = tree, message, method, caller
        self.path, self.wanted = str(message.get_path()), wanted
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

    def allowed(self, actions: Sequence[str], then: Callable[[], None]) -> None:
        """Call ``then`` if the caller is authorized for these actions, too, and the object is still
        there."""
        if not actions:
            self.tree.answering_errors(self, then)
            return

        def checked(caller: Caller, error: Optional[Exception]) -> None:
            self.caller = replace(caller, limited=caller.limited or self.caller.limited)
            if error is None and self.path not in self.tree.nodes:
                error = unknown(self.path)
            if error:
                self.fail(error)
            else:
                self.allowed(actions[1:], then)
        self.tree.authority.check(self.caller.sender, replace(self.wanted, action=actions[0]),
                                  checked)


def unknown(path: str) -> Standard:
    return Standard("UnknownObject", f"there is no {path}")


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
        #: Called with the name of each connection that leaves the bus.
        self.left: List[Callable[[str], None]] = [authority.gone]
        connection.add_match_string_non_blocking(
            "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',"
            "member='NameOwnerChanged',arg2=''")
        connection.add_message_filter(self._heard)
        #: Brings the objects up to date, then calls its argument.
        self.refresh: Callable[[Callable[[], None]], None] = lambda then: then()
        connection._register_object_path("/", self._came, None, fallback=True)

    def _heard(self, _connection: Any, message: Any) -> int:
        """Somebody has left the bus.  (The bus alone may send as org.freedesktop.DBus.)"""
        if message.get_type() == dbus.lowlevel.MESSAGE_TYPE_SIGNAL \
                and message.get_member() == "NameOwnerChanged" \
                and message.get_sender() == "org.freedesktop.DBus":
            name, _old, new = map(str, message.get_args_list())
            if not new:
                for hear in self.left:
                    hear(name)
        return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED  # type: ignore[no-any-return]

    # ---- objects ---
    def add(self, node: BusObject) -> None:
        self.nodes[node.path] = node
        if node.path != dbus_names.ROOT:
            self._signal(dbus_names.ROOT, dbus_names.OBJECT_MANAGER, "InterfacesAdded",
                         "oa{sa{sv}}", dbus.ObjectPath(node.path), {
                             name: self._values(node, name, (TOLD,))
                             for name in (*STANDARD_NAMES, *node.interfaces)})

    def remove(self, path: str) -> None:
        node = self.nodes.pop(path, None)
        if node:
            self._signal(dbus_names.ROOT, dbus_names.OBJECT_MANAGER, "InterfacesRemoved", "oas",
                         dbus.ObjectPath(path), list(node.interfaces))

    def changed(self, node: BusObject, interface: str, which: Sequence[str]) -> None:
        """Signal changed properties of an object: that they have changed, and `TOLD` alone with its
        value."""
        if self.nodes.get(node.path) is not node:
            return
        declared = self.interfaces[interface].properties
        invalid = [name for name in which if declared[name].emits == "invalidates"]
        told = [name for name in which if declared[name].emits == "true" and name == TOLD]
        if told or invalid:
            self._signal(node.path, dbus_names.PROPERTIES, "PropertiesChanged", "sa{sv}as",
                         interface, self._values(node, interface, told),
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
        self._if_reads(message, lambda: self.refresh(lambda: self._answer(message)))

    def _if_reads(self, message: Any, then: Callable[[], None],
                  otherwise: Optional[Callable[[], None]] = None) -> None:
        """Go on where the caller may look; else refuse, or do otherwise."""
        def checked(_caller: Caller, error: Optional[Exception]) -> None:
            if error and otherwise is None:
                self.refuse(message, error)
            else:
                go_on = otherwise if error and otherwise else then
                try:
                    go_on()
                except Exception as failure:  # noqa: B902
                    self.refuse(message, failure)
        self.authority.check(str(message.get_sender()), self._wanted(message, READ), checked)

    def _wanted(self, message: Any, action: str) -> Wanted:
        """The question to polkit about a call."""
        node = self.nodes.get(str(message.get_path()))
        about = node.about if node else ""
        if str(message.get_signature()).startswith("as"):
            about = " ".join(map(str, message.get_args_list()[0][:8])) or about
        elif str(message.get_signature()).startswith("sa{ss}"):
            about = str(message.get_args_list()[0])[:_WORDS] or about
        about = errors.one_line(about or "this host")
        return Wanted(action, str(message.get_member()), about if len(about) <= _WORDS
                      else about[:_WORDS - 1] + "…",
                      bool(message.get_allow_interactive_authorization()))

    def _answer(self, message: Any) -> None:
        try:
            self._route(message)
        except Exception as error:  # noqa: B902 - whatever it is, the caller gets a name
            self.refuse(message, error)

    def _route(self, message: Any) -> None:
        path, interface = str(message.get_path()), str(message.get_interface() or "")
        member = str(message.get_member())
        if member == "Introspect" and interface in ("", dbus_names.INTROSPECTABLE):
            self._introspect(message, path)
            return
        node = self.nodes.get(path)
        if node is None and _COMING.match(path):
            self._if_reads(message, lambda: self.refuse(message, unknown(path)))
            return
        if node is None:
            raise unknown(path)
        method = self._method(node, interface, member)
        if str(message.get_signature()) != method.takes:
            raise Standard("InvalidArgs", f"{member} takes {method.takes or 'nothing'}, "
                           f"not {message.get_signature() or 'nothing'}")
        wanted = self._wanted(message, method.action)

        def checked(caller: Caller, error: Optional[Exception]) -> None:
            call = Call(self, message, method, caller, wanted)
            now = self.nodes.get(path)
            if error or now is None:
                call.fail(error or unknown(path))
            else:
                self.answering_errors(call, lambda: self._carry_out(now, call))
        self.authority.check(str(message.get_sender()), wanted, checked)

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
        if not isinstance(error, (errors.HandoverError, Standard, Named, NeedsPassword)):
            self.log.warn(f"{message.get_member()} failed: {type(error).__name__}; "
                          + " ".join("".join(traceback.format_tb(error.__traceback__)).split()))
        if not message.get_no_reply():
            self.connection.send_message(dbus.lowlevel.ErrorMessage(
                message, name, marshal.text(text)))

    # ---- the standard interfaces ---
    def _introspect(self, message: Any, path: str) -> None:
        """The interfaces of the Manager, and which folders there are, are no secret; what there is
        now is told to who may look."""
        def answer(children: bool) -> None:
            if path not in self.nodes and path not in _FOLDERS and not self._children(path):
                raise unknown(path)
            if not message.get_no_reply():
                reply = dbus.lowlevel.MethodReturnMessage(message)
                reply.append(self.introspection(path, children), signature="s")
                self.connection.send_message(reply)

        above = f"{dbus_names.ROOT}/".startswith(path.rstrip("/") + "/") \
            and path != dbus_names.ROOT
        if above:
            answer(True)
        else:
            self._if_reads(message, lambda: answer(True),
                           None if _COMING.match(path) else lambda: answer(False))

    def introspection(self, path: str, children: bool = True) -> str:
        node = self.nodes.get(path)
        shown = (*STANDARD_NAMES, *node.interfaces) if node else (
            dbus_names.INTROSPECTABLE, dbus_names.PEER)
        return node_xml([self.interfaces[name] for name in shown],
                        self._children(path) if children else ())

    def _children(self, path: str) -> List[str]:
        prefix = path.rstrip("/") + "/"
        return sorted({node[len(prefix):].split("/")[0] for node in self.nodes
                       if node.startswith(prefix)})

    def _managed(self) -> Mapping[str, Any]:
        return {path: self._described(node) for path, node in self.nodes.items()
                if path != dbus_names.ROOT}

    def _described(self, node: BusObject) -> Mapping[str, Any]:
        return {name: self._values(node, name) for name in (*STANDARD_NAMES, *node.interfaces)}

    def _values(self, node: BusObject, interface: str, which: Optional[Sequence[str]] = None
                ) -> Any:
        """Properties of an object, all or these."""
        values = node.properties(interface)
        return dbus.Dictionary(
            {declared.name: marshal.typed_variant(declared.signature, values[declared.name])
             for declared in self.interfaces[interface].properties.values()
             if which is None or declared.name in which}, signature="sv")

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

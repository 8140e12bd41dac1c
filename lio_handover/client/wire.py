"""A call of a method on the system's bus by the D-Bus protocol itself, for a command that is over
in milliseconds: libraries for it take longer to be loaded than the call.

It imports next to nothing, and knows just what such a call takes (D-Bus Specification,
"Authentication Protocol", "Message Protocol").  All that can be sent before an answer is needed is
sent at once, as sd-bus does.
"""
from __future__ import annotations

import os
# Without the module around it, which imports an event loop's.
from _socket import AF_UNIX, SOCK_STREAM, socket
from struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Where the bus is, unless DBUS_SYSTEM_BUS_ADDRESS says otherwise.
SYSTEM = "unix:path=/run/dbus/system_bus_socket"
_CALL, _RETURN, _ERROR = 1, 2, 3
#: Header fields: path, interface, member, error's name, reply's serial, destination, signature.
_PATH, _INTERFACE, _MEMBER, _NAME, _REPLY, _TO, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
#: Type → its alignment; all others have 4.
_ALIGNED = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d",
          "h": "I"}
#: Bytes of a message at most (D-Bus Specification, "Message Format").
_LARGEST = 1 << 27
_NO_REPLY = 1


class CallFailed(Exception):
    """The bus or the service has answered with an error: its name, its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name, self.text = name, text


class Unreachable(Exception):
    """Nothing was asked: there is no such bus, or it does not speak to this user."""


class Lost(Exception):
    """The connection ended before the answer came."""


class Bus:
    """A connection to the system's bus, on which one call is made after the other.

    Raises Unreachable.
    """

    def __init__(self) -> None:
        self._serial, self._rest = 0, b""
        self._line = _connected(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM)
        name = str(os.geteuid()).encode().hex().encode()
        # The answers to these are read with that to the first call.
        self._begun = b"\0AUTH EXTERNAL " + name + b"\r\nBEGIN\r\n" + self._message(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello",
            "", ())

    def call(self, to: str, path: str, interface: str, member: str, signature: str, *args: Any,
             reply: bool = True) -> list[Any]:
        """The values that a method answers; with ``reply`` False nothing is waited for.

        Raises CallFailed, Unreachable before anything was asked, Lost after that.
        """
        first, self._begun = self._begun, b""
        message = self._message(to, path, interface, member, signature, args,
                                0 if reply else _NO_REPLY)
        try:
            self._line.sendall(first + message)
            if first:
                self._authenticated()
            return self._answer(self._serial) if reply else []
        except OSError as error:
            raise Lost(error.strerror or str(error)) from None

    def close(self) -> None:
        self._line.close()

    # ---- what is sent ---
    def _message(self, to: str, path: str, interface: str, member: str, signature: str,
                 args: tuple[Any, ...], flags: int = 0) -> bytes:
        self._serial += 1
        body, header = bytearray(), bytearray()
        for kind, value in zip(_types(signature), args):
            _put(body, kind, value)
        fields = [(_PATH, ("o", path)), (_INTERFACE, ("s", interface)), (_MEMBER, ("s", member)),
                  (_TO, ("s", to)), *([(_SIGNATURE, ("g", signature))] if signature else [])]
        header += pack("<cBBBII", b"l", _CALL, flags, 1, len(body), self._serial)
        _put(header, "a(yv)", fields)
        _pad(header, 8)
        return bytes(header + body)

    # ---- what comes ---
    def _more(self) -> None:
        data = self._line.recv(65536)
        if not data:
            raise Lost("the bus has closed the connection")
        self._rest += data

    def _authenticated(self) -> None:
        while b"\r\n" not in self._rest:
            self._more()
        line, _, self._rest = self._rest.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise Unreachable(line.decode(errors="replace"))

    def _answer(self, serial: int) -> list[Any]:
        """The body of the answer to a call; all other messages are dropped."""
        while True:
            kind, fields, body, order = self._read()
            if fields.get(_REPLY) != serial or kind not in (_RETURN, _ERROR):
                if kind == _ERROR and fields.get(_REPLY) == 1:
                    raise Unreachable(str(fields.get(_NAME)))  # Hello
                continue
            at, values = 0, []
            for type in _types(str(fields.get(_SIGNATURE, ""))):  # noqa: A001
                value, at = _get(body, at, type, order)
                values.append(value)
            if kind == _ERROR:
                raise CallFailed(str(fields.get(_NAME)), str(values[0]) if values else "")
            return values

    def _read(self) -> tuple[int, dict[int, Any], bytes, str]:
        """(type, header fields, body, byte order) of the next message."""
        while len(self._rest) < 16:
            self._more()
        order = "<" if self._rest[:1] == b"l" else ">"
        length, _serial, more = unpack_from(f"{order}III", self._rest, 4)
        start = (16 + more + 7) // 8 * 8
        if start + length > _LARGEST:
            raise Lost("the bus sends a message that is too large")
        while len(self._rest) < start + length:
            self._more()
        message, self._rest = self._rest[:start + length], self._rest[start + length:]
        fields, _at = _get(message, 12, "a(yv)", order)
        return message[1], {code: value for code, value in fields}, message[start:], order


def _connected(addresses: str) -> socket:
    """A connection to the first address that has one (D-Bus Specification, "Server Addresses")."""
    for address in addresses.split(";"):
        transport, _, rest = address.partition(":")
        words = dict(word.partition("=")[::2] for word in rest.split(","))
        path = words.get("path") or "\0" * ("abstract" in words) + words.get("abstract", "")
        if transport != "unix" or not path or "%" in path:
            continue
        line = socket(AF_UNIX, SOCK_STREAM)
        try:
            line.connect(path)
            return line
        except OSError:
            line.close()
    raise Unreachable(addresses)


# ---- types ----
def _types(signature: str) -> list[str]:
    """The complete types of a signature: ``sa{sv}`` → ``s``, ``a{sv}``."""
    types, start = [], 0
    while start < len(signature):
        end = _end(signature, start)
        types.append(signature[start:end])
        start = end
    return types


def _end(signature: str, at: int) -> int:
    if signature[at] == "a":
        return _end(signature, at + 1)
    depth = 0
    while True:
        depth += (signature[at] in "({") - (signature[at] in ")}")
        at += 1
        if not depth:
            return at


def _pad(data: bytearray, alignment: int) -> None:
    data += bytes(-len(data) % alignment)


def _put(data: bytearray, kind: str, value: Any) -> None:
    """Append a value of a complete type."""
    _pad(data, _ALIGNED.get(kind[0], 4))
    if kind in ("s", "o"):
        text = value.encode()
        data += pack("<I", len(text)) + text + b"\0"
    elif kind == "g":
        data += pack("<B", len(value)) + value.encode() + b"\0"
    elif kind == "v":
        _put(data, "g", value[0])
        _put(data, *value)
    elif kind[0] == "a":
        place = len(data)
        data += bytes(4)
        _pad(data, _ALIGNED.get(kind[1], 4))
        start = len(data)
        for item in value.items() if isinstance(value, dict) else value:
            _put(data, kind[1:], item)
        data[place:place + 4] = pack("<I", len(data) - start)
    elif kind[0] in "({":
        for inner, item in zip(_types(kind[1:-1]), value):
            _put(data, inner, item)
    else:
        data += pack("<" + _FIXED[kind], value)


def _get(data: bytes, at: int, kind: str, order: str) -> tuple[Any, int]:
    """(the value of a complete type, where it ends)."""
    alignment = _ALIGNED.get(kind[0], 4)
    at = (at + alignment - 1) // alignment * alignment
    if kind in ("s", "o", "g"):
        if kind == "g":
            length, at = data[at], at + 1
        else:
            length, at = unpack_from(order + "I", data, at)[0], at + 4
        return data[at:at + length].decode(errors="replace"), at + length + 1
    if kind == "v":
        signature, at = _get(data, at, "g", order)
        return _get(data, at, signature, order)
    if kind[0] == "a":
        length, at = unpack_from(order + "I", data, at)[0], at + 4
        alignment = _ALIGNED.get(kind[1], 4)
        at = (at + alignment - 1) // alignment * alignment
        end, items = at + length, []
        while at < end:
            item, at = _get(data, at, kind[1:], order)
            items.append(item)
        return (dict(items) if kind[1] == "{" else items), at
    if kind[0] in "({":
        values = []
        for inner in _types(kind[1:-1]):
            value, at = _get(data, at, inner, order)
            values.append(value)
        return tuple(values), at
    value = unpack_from(order + _FIXED[kind], data, at)[0]
    size = {"y": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8}.get(kind, 4)
    return (bool(value) if kind == "b" else value), at + size

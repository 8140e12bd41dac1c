"""Values between Python and the bus; the rest of the service sees only builtins.

dbus-python guesses the type of a variant's value, and libdbus aborts the process on an invalid
object path: so every value that is sent gets its type here.
"""
from __future__ import annotations

from typing import Any, List, Mapping

import dbus

Value = Any


class Descriptor(int):
    """A descriptor that a message has brought, and no other number: who has it closes it."""


class Wrong(ValueError):
    """A value that the message cannot have."""


def plain(value: Value) -> Value:
    """A received value as str, int, bool, float, bytes, list or dict; the caller has to close
    descriptors.  Raises Wrong for any other type."""
    if isinstance(value, dbus.types.UnixFd):
        return Descriptor(value.take())
    if isinstance(value, (dbus.ByteArray, bytes)):
        return bytes(value)
    if isinstance(value, (dbus.Boolean, bool)):
        return bool(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, dbus.Array) and value.signature == "y":
        return bytes(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise Wrong(f"{type(value).__name__} is not understood")


def has_descriptor(value: Value) -> bool:
    """Whether a value has a descriptor, at any depth; the message still owns it."""
    if isinstance(value, (dict, list, tuple)):
        return any(map(has_descriptor, value.values() if isinstance(value, dict) else value))
    return isinstance(value, dbus.types.UnixFd)


def text(value: object) -> str:
    """Text as a message may have it: UTF-8 without NUL."""
    return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def typed(signature: str, value: Value) -> Value:
    """A value of a complete type.  Raises Wrong where the value does not fit the type."""
    try:
        return _typed(signature, value)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise Wrong(f"{signature}: {error}") from None


def _typed(signature: str, value: Value) -> Value:
    if signature in _SIMPLE:
        return _SIMPLE[signature](value)
    if signature == "v":
        return variant(value)
    if signature == "ay":
        return dbus.ByteArray(value)
    if signature.startswith("a{"):
        key, inner = split(signature[2:-1])
        return dbus.Dictionary({_typed(key, name): _typed(inner, item)
                                for name, item in value.items()}, signature=signature[2:-1])
    if signature[0] == "a":
        return dbus.Array([_typed(signature[1:], item) for item in value], signature=signature[1:])
    if signature[0] == "(":
        kinds = split(signature[1:-1])
        if len(kinds) != len(value):
            raise ValueError(f"{len(value)} values")
        return dbus.Struct([_typed(kind, item) for kind, item in zip(kinds, value)],
                           signature=signature[1:-1])
    raise ValueError("no such type")


_SIMPLE: Mapping[str, Any] = {
    "s": lambda value: dbus.String(text(value)), "o": dbus.ObjectPath, "b": dbus.Boolean,
    "u": dbus.UInt32, "t": dbus.UInt64, "x": dbus.Int64, "i": dbus.Int32, "d": dbus.Double,
    "h": dbus.types.UnixFd}


def variant(value: Value) -> Value:
    """A value in a variant of its own type; a variant stays as it is."""
    if getattr(value, "variant_level", 0):
        return value
    if isinstance(value, bool):
        return dbus.Boolean(value, variant_level=1)
    if isinstance(value, int):
        return dbus.Int64(value, variant_level=1)
    if isinstance(value, float):
        return dbus.Double(value, variant_level=1)
    if isinstance(value, str):
        return dbus.String(text(value), variant_level=1)
    if isinstance(value, Mapping):
        return dbus.Dictionary({text(key): variant(item) for key, item in value.items()},
                               signature="sv", variant_level=1)
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, str) for item in value):
            return dbus.Array([text(item) for item in value], signature="s", variant_level=1)
        return dbus.Array([variant(item) for item in value], signature="v", variant_level=1)
    raise ValueError(f"{type(value).__name__} has no type on the bus")


def typed_variant(signature: str, value: Value) -> Value:
    """A property: its declared type, in a variant."""
    typed_value = typed(signature, value)
    return type(typed_value)(typed_value,
                             variant_level=1) if signature[0] not in "a(" else _wrapped(typed_value)


def _wrapped(value: Value) -> Value:
    return type(value)(value, signature=value.signature, variant_level=1)


def split(signature: str) -> List[str]:
    """The complete types of a signature."""
    return [str(kind) for kind in dbus.Signature(signature)]

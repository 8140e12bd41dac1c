"""A host whose service is none of ours: it answers a handover's id with what its last digits say.

    python3 -m tests.support.badpeer ADDRESS
"""
from __future__ import annotations

import itertools
import sys
from typing import Any

import dbus
import dbus.bus
import dbus.lowlevel
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

from lio_handover import dbus_names

JOB = f"{dbus_names.ROOT}/jobs/"
#: Bytes of a piece, as the client asks for them.
PIECE = 1 << 20
ESCAPES = "\x1b[31m\nred\u202e " * 5000
#: Last digits of an id → what is wrong about the answer.
WRONG = dict(enumerate((
    "Size without end", "pieces without bytes", "small pieces", "large pieces", "no size",
    "a state that is none", "no properties", "no path", "no JSON", "deep JSON",
    "an error in colours", "an error of no name", "PeerUnreachable",
    "another handover's answer", "a page of findings",
    "nothing at all", "running for ever", "another step for ever")))
#: Of these, those that answer each question and never end.
ENDLESS = ("running for ever", "another step for ever")
STEPS = itertools.count(1)


def step() -> Any:
    """Another one each time."""
    return dbus.Struct((dbus.UInt32(next(STEPS)), dbus.UInt32(1 << 31), "on"), signature="uus")


def properties(wrong: str) -> Any:
    """Of a job that has ended."""
    if wrong in ENDLESS:
        now = step() if wrong == "another step for ever" else dbus.Struct((1, 2, "on"))
        return dbus.Dictionary({"State": "running", "Step": now}, signature="sv")
    size = {"Size without end": 1 << 40, "no JSON": 5, "deep JSON": 1 << 20,
            "another handover's answer": 2, "no size": -1}.get(wrong, PIECE)
    told = {"State": "done", "Size": dbus.UInt64(size) if size >= 0 else "x",
            "Result": dbus.Dictionary({}, signature="sv"), "Error": dbus.Struct(("", ""))}
    if wrong == "a state that is none":
        told["State"] = dbus.Array([], signature="s")
    elif wrong == "no properties":
        told = {}
    elif wrong == "an error in colours":
        told.update(State="failed", Error=dbus.Struct((dbus_names.ERROR + "WrongState", ESCAPES)))
    elif wrong == "a page of findings":
        finding = dict.fromkeys(("error", "subject", "sentence", "override"), ESCAPES[:500])
        told.update(State="failed", Error=dbus.Struct((dbus_names.ERROR + "InUse", ESCAPES)),
                    Result=dbus.Dictionary({"findings": dbus.Array(
                        [finding] * 2000, signature="a{sv}")}, signature="sv"))
    return dbus.Dictionary(told, signature="sv")


def piece(wrong: str, wanted: int) -> bytes:
    return {"pieces without bytes": b"", "small pieces": b"x", "large pieces": b"x" * (wanted + 1),
            "no JSON": b"[{]},", "deep JSON": b"[" * wanted,
            "another handover's answer": b"{}"}.get(wrong, b" " * wanted)


def finish(wrong: str) -> tuple[Any, ...]:
    """The answer of Finish, as the properties and the data have it."""
    told = properties(wrong)
    return (told.get("State", ""), told.get("Error", ""), told.get("Result", {}),
            told.get("Size", 0), dbus.ByteArray(piece(wrong, PIECE)))


def stepped(connection: Any, path: str) -> bool:
    """Say that a job has come to another step; called again and again."""
    signal = dbus.lowlevel.SignalMessage(path, dbus_names.PROPERTIES, "PropertiesChanged")
    signal.append(dbus_names.JOB, {}, ["Step"], signature="sa{sv}as")
    connection.send_message(signal)
    return True


def answer(connection: Any, message: Any) -> int:
    if message.get_type() != dbus.lowlevel.MESSAGE_TYPE_METHOD_CALL:
        return int(dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED)
    path, member = str(message.get_path()), message.get_member()
    digits = path[-2:]
    wrong = WRONG.get(int(digits) if digits.isdigit() else -1, "")
    reply = dbus.lowlevel.MethodReturnMessage(message)
    if wrong == "nothing at all":
        return int(dbus.lowlevel.HANDLER_RESULT_HANDLED)
    if member == "GetAll":
        reply.append(properties(wrong), signature="a{sv}")
    elif member == "Finish" and wrong in ENDLESS:
        return int(dbus.lowlevel.HANDLER_RESULT_HANDLED)
    elif member == "Finish" and path.startswith(JOB):
        try:
            reply.append(*finish(wrong), signature="s(ss)a{sv}tay")
        except (TypeError, ValueError):
            reply = dbus.lowlevel.MethodReturnMessage(message)
            reply.append("x", signature="s")
    elif member == "Get":
        reply.append(step(), signature="v")
    elif member == "Read":
        reply.append(dbus.ByteArray(piece(wrong, message.get_args_list()[1])), signature="ay")
    elif wrong == "no path":
        reply.append("no path", signature="s")
    elif wrong in ("an error of no name", "PeerUnreachable"):
        kind = dbus_names.ERROR + wrong if " " not in wrong else "org.example.None"
        reply = dbus.lowlevel.ErrorMessage(message, kind, ESCAPES)
    elif member != "Release":
        reply.append(dbus.ObjectPath(JOB + digits), signature="o")
    connection.send_message(reply)
    if member not in ("GetAll", "Get", "Read", "Release", "Finish"):
        for interface, name in ((dbus_names.PROPERTIES, "PropertiesChanged"),  # not as ours is
                                (dbus_names.JOB, "Completed")):
            signal = dbus.lowlevel.SignalMessage(JOB + digits, interface, name)
            signal.append(dbus_names.JOB, signature="s")
            if wrong not in ENDLESS:
                connection.send_message(signal)
        if wrong == "another step for ever":
            GLib.timeout_add(20, stepped, connection, JOB + digits)
    return int(dbus.lowlevel.HANDLER_RESULT_HANDLED)


def main() -> None:
    DBusGMainLoop(set_as_default=True)
    connection = dbus.bus.BusConnection(sys.argv[1])
    connection.add_message_filter(answer)
    connection.request_name(dbus_names.BUS_NAME)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()

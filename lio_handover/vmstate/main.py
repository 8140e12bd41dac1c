"""The helper from start to end: a guest's place on a bus, where QEMU asks it (dbus-vmstate).

QEMU finds helpers by a name that several may wait for, reads the property Id of each, and calls
Save() on the source and Load() on the destination while no guest runs (backends/dbus-vmstate.c,
docs/interop/dbus-vmstate.rst).  It waits 25 s for an answer; this helper answers before.
"""
from __future__ import annotations

import argparse
import base64
import json
import os
import pwd
import signal
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence

import dbus
import dbus.lowlevel
from gi.repository import GLib

from .. import __version__, dbus_names, errors
from ..client import connection
from ..client.worker_process import WorkerPool, WorkerProcess
from ..host import guests
from ..started import VMSTATE_WORKER
from ..system import supervisor
from ..system.journald import NOTICE, Log
from . import answers

PROG = "lio-handover-vmstate"
DESCRIPTION = """\
Carries a guest's vhost-scsi targets in QEMU's own stream, for its object dbus-vmstate.

While QEMU migrates a guest it asks this helper for the targets' run-time state, on the source, and
gives it to this helper on the destination before the guest starts there.  The handover was begun
with lio-handover move --mode vhost-inband.  Whether the guest then runs there, or here again, this
helper sees from the kernel, and finishes the handover, or takes it back.

A guest that is saved, or that migrates on one host, is left alone: nothing is handed over.

GUEST names the file /etc/lio-handover/guests/GUEST.conf:

  [guest]
  targets = vhost/naa.5001405000000001
  id = lio-handover/GUEST                             (the default)
  bus = unix:path=/run/lio-handover-guests/GUEST/bus  (the default; or system)
  users = libvirt-qemu   who may call it beside root (default: whoever reaches that bus; of system:
                         nobody)
  deadline = 10      seconds for QEMU to get an answer, at most 20
  patience = 600     seconds until the guest has to run on one of the hosts

QEMU needs, on both hosts:

  -object dbus-vmstate,id=lio,addr=BUS,id-list=lio-handover/GUEST

Without id-list a migration completes although no helper is there, and nothing is carried.
"""

BUS_NAME = "org.qemu.VMState1"
PATH = "/org/qemu/VMState1"
INTROSPECTION = f"""\
<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
  <interface name="{BUS_NAME}">
    <property name="Id" type="s" access="read"/>
    <method name="Load"><arg name="data" type="ay" direction="in"/></method>
    <method name="Save"><arg name="data" type="ay" direction="out"/></method>
  </interface>
</node>
"""
#: The kind of an answer to Save() (answers.py) → what the log says of it.
_SAID = {"nothing": ", no handover: the guest stays on this host",
         "beside": ", which leave the handover to the program that drives it"}
#: Milliseconds until a bus that is gone is looked for again.
AGAIN = 1000
#: Milliseconds after an answer until processes are started for what follows: QEMU, and who manages
#: it, have to come to run the guest first.
AFTERWARDS = 1000
_METHOD_CALL = 1
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_DBUS = "org.freedesktop.DBus.Error."


class Question:
    """QEMU's call, and the process that works for its answer."""

    def __init__(self, helper: Helper, message: Any, what: str, data: bytes = b"") -> None:
        self.helper, self.message, self.what = helper, message, what
        self.about, self.result, self.failure = "", None, ("", "")  # type: str, Optional[str], Any
        self.answered = False
        self._timer = GLib.timeout_add(helper.guest.deadline * 1000, self._late)
        # The guest stands still: the next process, which loads much, is started afterwards.
        self.child = helper.spare.take(another=False)
        self.child.said, self.child.ended = self._said, self._ended
        helper.send(self.child, {"do": what, "data": base64.b64encode(data).decode()})

    def _said(self, words: Mapping[str, Any]) -> None:
        self.about = words.get("about", self.about)
        if "say" in words:
            self.helper.say(words["say"], handover=self.about)
        if "data" in words:
            self.result = words["data"]
        if "error" in words:
            self.failure = words["error"], words["line"]

    def _late(self) -> bool:
        self._timer = 0
        self.child.signal(signal.SIGTERM)
        self._answer_error("NotEnded", f"{self.what} took longer than "
                           f"{self.helper.guest.deadline} s; it is taken back; next: "
                           f"{self.helper.more_time()}lio-handover status")
        return False

    def _ended(self, code: int) -> None:
        self.helper.question = None
        if self._timer:
            GLib.source_remove(self._timer)
        good = self.result is not None and not self.answered
        if good:
            self._answer(base64.b64decode(self.result or ""))
        elif not self.answered:
            self._answer_error(*(self.failure if self.failure[0] else (
                "WorkerDied", f"{self.what}: its process ended with {code}; whether anything was "
                "changed is not known; next: lio-handover status")))
        if good:  # on a host with one processor the guest would wait for both
            GLib.timeout_add(AFTERWARDS, self._afterwards, True)
        else:
            self._afterwards(False)

    def _afterwards(self, good: bool) -> bool:
        if self.about:
            self.helper.follow(self.about, good)
        if not self.helper.stopping:
            self.helper.spare.prepare_soon()
        return False

    def _answer(self, data: bytes) -> None:
        self.answered = True
        reply = dbus.lowlevel.MethodReturnMessage(self.message)
        if self.what == "save":
            reply.append(dbus.ByteArray(data), signature="ay")
            self.helper.say(f"Save(): {len(data)} bytes"
                            + _SAID.get(json.loads(data)["kind"], ""), handover=self.about)
        self.helper.reply(reply)

    def _answer_error(self, name: str, line: str) -> None:
        self.answered = True
        self.helper.log.warn(f"{self.helper.guest.name}: {self.what.capitalize()}() failed: {line}",
                             handover=self.about)
        self.helper.refuse(self.message, dbus_names.ERROR + name, line)


class Helper:
    """The helper of one guest."""

    def __init__(self, args: argparse.Namespace, guest: guests.Guest, log: Log) -> None:
        self.args, self.guest, self.log = args, guest, log
        self.loop = GLib.MainLoop()
        self.connection: Any = None
        self.question: Optional[Question] = None
        self.followers: Dict[str, WorkerProcess] = {}
        self.address = args.bus or ("" if args.system or guest.bus == guests.SYSTEM else guest.bus)
        self.words = [guest.name, "--guests", args.guests, "--config", args.config]
        self.spare = WorkerPool(*self.words, module=VMSTATE_WORKER)
        self._lost = False
        self.stopping = False

    # ---- from start to end ---------------------------------------------------------------------
    def run(self) -> int:
        """Serve until SIGTERM.  Raises dbus.DBusException where the bus cannot be used at first."""
        for number in (signal.SIGTERM, signal.SIGINT):
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, self._stop)
        self.spare.prepare()
        self._connect()
        self._look_for_unfinished()
        targets = ", ".join(self.guest.targets)
        self.log.say(f"{PROG} {__version__} is {self.guest.id}, for {targets}", NOTICE)
        supervisor.notify(READY=1, STATUS=f"{self.guest.id} waits for QEMU")
        self.loop.run()
        return 0

    def _connect(self) -> None:
        bus = connection.connect(self.address)
        bus.call_on_disconnection(self._disconnected)
        bus._register_object_path(PATH, self._came)
        bus.request_name(BUS_NAME)  # other helpers wait for it, too: QEMU asks them all
        self.connection = bus

    def _disconnected(self, _connection: Any) -> None:
        self.connection = None
        self.log.warn(f"{self.guest.name}: the bus is gone; a QEMU that used it fails its "
                      "migration, and needs its object dbus-vmstate anew")
        GLib.timeout_add(AGAIN, self._reconnect)

    def _reconnect(self) -> bool:
        if self.stopping:
            return False
        try:
            self._connect()
        except dbus.DBusException:
            return True
        self.say("the bus is there again")
        return False

    def _stop(self) -> bool:
        self.stopping = True
        self.spare.dismiss()
        for child in [*self.followers.values(), *([self.question.child] if self.question else [])]:
            child.signal(signal.SIGTERM)
        GLib.timeout_add(50, self._ended)
        return True

    def _ended(self) -> bool:
        if self.followers or self.question:
            return True
        self.loop.quit()
        return False

    # ---- handovers -----------------------------------------------------------------------------
    def send(self, child: WorkerProcess, request: Mapping[str, Any]) -> None:
        fd = os.memfd_create("lio-handover", os.MFD_CLOEXEC)
        try:
            with open(fd, "w", closefd=False) as file:
                json.dump(request, file)
            os.lseek(fd, 0, os.SEEK_SET)
            child.ask([fd])
        finally:
            os.close(fd)

    def follow(self, name: str, given: bool) -> None:
        """Have a process follow a handover to its end."""
        if name in self.followers or self.stopping:
            return
        child = WorkerProcess(*self.words, module=VMSTATE_WORKER)
        self.followers[name] = child

        def said(words: Mapping[str, Any]) -> None:
            if "say" in words:
                self.say(words["say"], handover=name)
            if "error" in words and not self.stopping:
                self.log.warn(f"{self.guest.name}: {words['line']}", handover=name)

        def ended(_code: int) -> None:
            self.followers.pop(name, None)

        child.said, child.ended = said, ended
        self.send(child, {"do": "follow", "handover": name, "given": given})

    def _look_for_unfinished(self) -> None:
        """An earlier helper may have begun what nobody follows now."""
        child = WorkerProcess(*self.words, "--unfinished", module=VMSTATE_WORKER)
        names: List[str] = []

        def said(words: Mapping[str, Any]) -> None:
            names.extend(words.get("unfinished", ()))
            if "error" in words:
                self.log.warn(f"{self.guest.name}: {words['line']}")

        def ended(_code: int) -> None:
            self.followers.pop("", None)
            for name in names:
                self.follow(name, True)

        child.said, child.ended = said, ended
        self.followers[""] = child

    def more_time(self) -> str:
        """How a host that is just busy gets more of it, where it may have more."""
        return "" if self.guest.deadline >= guests.LONGEST else (
            f"where this host was just busy, `deadline = {guests.LONGEST}` in "
            f"{os.path.join(self.args.guests, self.guest.name)}.conf; else ")

    def say(self, text: str, **fields: str) -> None:
        self.log.say(f"{self.guest.name}: {text}", NOTICE, **fields)

    # ---- calls ---------------------------------------------------------------------------------
    def _came(self, _connection: Any, message: Any) -> int:
        if message.get_type() != _METHOD_CALL:
            return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED  # type: ignore[no-any-return]
        interface, member = str(message.get_interface() or ""), str(message.get_member())
        answer = self.MEMBERS.get(member, ("", "", None))
        if answer[2] is None or interface not in ("", answer[0]):
            self.refuse(message, _DBUS + "UnknownMethod", f"{PATH} has no {interface}.{member}")
        elif str(message.get_signature()) != answer[1]:
            self.refuse(message, _DBUS + "InvalidArgs", f"{member} takes {answer[1] or 'nothing'}")
        else:
            answer[2](self, message, message.get_args_list(byte_arrays=True))
        return dbus.lowlevel.HANDLER_RESULT_HANDLED  # type: ignore[no-any-return]

    def _save(self, message: Any, _args: Sequence[Any]) -> None:
        self._ask(message, "save")

    def _load(self, message: Any, args: Sequence[Any]) -> None:
        self._ask(message, "load", bytes(args[0]))

    def _ask(self, message: Any, what: str, data: bytes = b"") -> None:
        """Work for an answer, if the caller may have it: the bus says who that is."""
        if len(data) > answers.LIMIT:
            self.refuse(message, dbus_names.ERROR + "TooLarge",
                        f"{len(data)} bytes are more than QEMU's stream takes; nothing was changed")
        elif self.guest.users is None:
            self._begin(message, what, data)
        else:
            self.connection.call_async(
                *_BUS, "GetConnectionUnixUser", "s", (message.get_sender(),),
                lambda uid: self._begin(message, what, data) if self._may(int(uid)) else
                self.refuse(message, dbus_names.ERROR + "NotAuthorized", (
                    f"user {int(uid)} may not {what} {self.guest.id}; nothing was changed; next: "
                    "name it in `users` of the guest's file, if it is QEMU's")),
                lambda _error: self.refuse(message, dbus_names.ERROR + "NotAuthorized",
                                           "the bus does not say who calls"))

    def _may(self, uid: int) -> bool:
        def uid_of(name: str) -> int:
            try:
                return pwd.getpwnam(name).pw_uid
            except KeyError:
                return -1
        return uid == 0 or uid in map(uid_of, self.guest.users or ())

    def _begin(self, message: Any, what: str, data: bytes) -> None:
        if self.question is not None or self.stopping:
            self.refuse(message, dbus_names.ERROR + "StillRunning",
                        f"{self.guest.id} is busy with another call; nothing was changed; next: "
                        "migrate again")
            return
        self.question = Question(self, message, what, data)

    def _get(self, message: Any, args: Sequence[Any]) -> None:
        if list(map(str, args)) != [BUS_NAME, "Id"]:
            self.refuse(message, _DBUS + "UnknownProperty", "there is no such property")
            return
        self._answer(message, "v", dbus.String(self.guest.id, variant_level=1))

    def _get_all(self, message: Any, args: Sequence[Any]) -> None:
        mine = {"Id": dbus.String(self.guest.id, variant_level=1)} \
            if str(args[0]) in ("", BUS_NAME) else {}
        self._answer(message, "a{sv}", dbus.Dictionary(mine, signature="sv"))

    def _introspect(self, message: Any, _args: Sequence[Any]) -> None:
        self._answer(message, "s", INTROSPECTION)

    #: member → (interface, the signature of what it takes, the function that answers)
    MEMBERS: Mapping[str, Any] = {
        "Save": (BUS_NAME, "", _save), "Load": (BUS_NAME, "ay", _load),
        "Get": (dbus_names.PROPERTIES, "ss", _get),
        "GetAll": (dbus_names.PROPERTIES, "s", _get_all),
        "Introspect": (dbus_names.INTROSPECTABLE, "", _introspect)}

    def _answer(self, message: Any, signature: str, value: Any) -> None:
        reply = dbus.lowlevel.MethodReturnMessage(message)
        reply.append(value, signature=signature)
        self.reply(reply)

    def refuse(self, message: Any, name: str, line: str) -> None:
        self.reply(dbus.lowlevel.ErrorMessage(message, name, errors.one_line(line)))

    def reply(self, message: Any) -> None:
        if self.connection is not None:  # else nobody waits for it any more
            self.connection.send_message(message)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; lio-handover-vmstate(8) is made from it."""
    commands = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands.add_argument("--version", action="version", version=f"{PROG} {__version__}",
                          help="show the version and end")
    commands.add_argument("guest", metavar="GUEST", help="the guest's name")
    commands.add_argument("--bus", default="", metavar="ADDRESS",
                          help="the address of its bus, instead of the file's")
    commands.add_argument("--system", action="store_true",
                          help="on this host's system bus, instead of the file's")
    commands.add_argument("--guests", default=guests.FOLDER, metavar="FOLDER",
                          help=f"where guests' files are (default {guests.FOLDER})")
    commands.add_argument("--config", default="", metavar="FILE",
                          help="instead of /etc/lio-handover/lio-handover.conf")
    return commands


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    args = parser().parse_args(argv)
    os.umask(0o077)
    try:
        return Helper(args, guests.load(args.guest, args.guests), Log(program=PROG)).run()
    except errors.HandoverError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return error.code
    except dbus.DBusException as error:
        no = errors.NoService(f"the guest's bus can't be used: {error.get_dbus_message()}",
                              do=f"systemctl start lio-handover-vmstate-bus@{args.guest}")
        print(f"{PROG}: {no}", file=sys.stderr)
        return no.code

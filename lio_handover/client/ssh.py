"""The service of a host, this one or another, as whoever drives a handover sees it.

The other host's bus is reached as ``busctl --host`` reaches it: ssh, and there
systemd-stdio-bridge(1); no port, no protocol of ours.  Descriptors do not pass there, so messages
go to that host, and come from it, in pieces.
"""
from __future__ import annotations

import os
import re
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Tuple

from .. import dbus_names, errors
from ..handover.reply import Reply, reply_from_json
from ..protocol.messages import Message, to_json
from ..protocol.table import MessageType
from ..records.journal import Handover
from . import connection as client

#: Bytes of one piece: small enough that others' messages get between.
PIECE = 1 << 20
#: Seconds for the other host to answer what recover asks: one that hangs does not hang this one.
ASK_SECONDS = 30.0
#: Seconds that connecting may take; seconds without a word, and how often, until ssh gives the
#: line up (ConnectTimeout, ServerAliveInterval, ServerAliveCountMax).  libdbus itself waits as long
#: as ssh lives for who is connected to say who they are.
CONNECT, ALIVE, MISSED = 10, 5, 2

#: Instead of a host's name: the bus itself, of this machine.
_BUS = re.compile(r"unix:path=[A-Za-z0-9._/-]+")
#: What is said where nobody answers (the other words of libdbus are about the caller).
_LOST = ("NoReply", "Disconnected", "NoServer", "Timeout", "IOError", "FileNotFound", "Failed",
         "AuthFailed", "Spawn.ExecFailed", "Spawn.ForkFailed")


def address(where: str) -> str:
    """The D-Bus address of a host's bus.  Raises BadCall for what can be no host.

    The words are systemd's own (sd-bus.c: bus_set_address_system_remote), with -a, so that no
    agent goes along, and a line that is noticed when it is dead.
    """
    if _BUS.fullmatch(where):
        return where
    if not dbus_names.HOST.fullmatch(where):
        raise errors.BadCall(f"{errors.one_line(where)!r} is no host for ssh",
                             do="name it as ssh does: HOST or USER@HOST")
    words = ["-axT", "-o", f"ConnectTimeout={CONNECT}", "-o", f"ServerAliveInterval={ALIVE}",
             "-o", f"ServerAliveCountMax={MISSED}", "--", where, "systemd-stdio-bridge"]
    return "unixexec:path=ssh" + "".join(
        f",argv{number}={_escaped(word)}" for number, word in enumerate(words, 1))


def _escaped(word: str) -> str:
    """D-Bus Specification, "Server Addresses": what else than these stands as %xx."""
    return re.sub(b"[^-0-9A-Za-z_/.]", lambda found: b"%%%02x" % found[0][0],
                  word.encode()).decode()


@dataclass(frozen=True)
class About:
    """What a service says of itself and its host."""

    version: str
    api: int
    document: int
    features: Tuple[str, ...]
    host: str
    boot_id: str


class Side(client.Service):
    """One host's service.  Connects when it is first called, and again after the line was lost."""

    def __init__(self, where: str = "") -> None:
        super().__init__(None)
        self.where = where
        self.address = address(where) if where else ""
        self.name = where or os.uname().nodename

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def call(self, path: str, interface: str, member: str, signature: str, *args: Any,
             patience: float = client.PATIENCE) -> Any:
        """Call a method.  Raises what the service answers, or PeerUnreachable where none comes."""
        try:
            import dbus
        except ImportError as error:
            raise self._lacks(error) from None
        try:
            if self.connection is None:
                self.connection = self._connect()
            return self.connection.call_blocking(dbus_names.BUS_NAME, path, interface, member,
                                                 signature, args, timeout=patience,
                                                 byte_arrays=True)
        except dbus.DBusException as error:
            raise self._known(str(error.get_dbus_name()),
                              str(error.get_dbus_message() or "")) from None
        except ImportError as error:
            raise self._lacks(error) from None

    def _lacks(self, error: ImportError) -> errors.HandoverError:
        return errors.PeerUnreachable(
            f"{self.name} can't be asked: the Python module {error.name} is not installed here",
            do="install python3-dbus and python3-gi")

    def _connect(self) -> Any:
        with _uninterrupted():
            connection = client.connect(self.address)
        self.listen(connection)
        return connection

    def job_lost(self) -> errors.HandoverError:
        error = alive(f"lio-handoverd on {self.name} ended while it worked")
        error.changed = "whether anything was changed there is not known"
        error.do = f"lio-handover status, on {self.name}"
        return error

    def _known(self, name: str, line: str) -> errors.HandoverError:
        plain = name.replace("org.freedesktop.DBus.Error.", "")
        if plain in _LOST:
            self.close()
            return errors.PeerUnreachable(
                f"{self.name} does not answer ({plain})",
                "whether anything was changed there is not known",
                f"see that `ssh {self.name} systemctl status lio-handoverd` works"
                if self.where else "systemctl status dbus lio-handoverd")
        known = client.known(name, line)
        if plain in ("ServiceUnknown", "NameHasNoOwner") or plain.startswith("Spawn."):
            known.what, known.do = (f"lio-handoverd does not run on {self.name}",
                                    f"systemctl start lio-handoverd, on {self.name}")
            known.changed = errors.NOTHING_CHANGED
        return known

    # ---- what is asked ---
    def about(self) -> About:
        """Raises PeerUnreachable, NoService."""
        found = client.plain(self.call(dbus_names.ROOT, dbus_names.PROPERTIES, "GetAll", "s",
                                       dbus_names.MANAGER))
        return About(found["Version"], found["ApiVersion"], found["DocumentVersion"],
                     tuple(found["Features"]), found["Host"], found["BootId"])

    def verb(self, verb: str, handover: str, messages: bytes = b"", targets: Sequence[str] = (),
             mode: str = "", progress: Optional[client.Progress] = None,
             stop: Callable[[], bool] = lambda: False, **options: Any) -> Reply:
        """Run a verb of a handover to its end.  ``messages``: of the other side, as
        messages.to_json has them.  Raises what it fails with."""
        _result, data = self.run_handover(verb, handover, targets, mode, messages, options,
                                          progress, stop)
        return reply_from_json(data)

    @contextmanager
    def passed(self, messages: bytes) -> Iterator[Tuple[Any, Mapping[str, Any]]]:
        import dbus
        if not self.where:
            with super().passed(messages) as found:
                yield found
            return
        token = ""
        for at in range(0, len(messages), PIECE):
            token = str(self.call(dbus_names.ROOT, dbus_names.MANAGER, "Upload", "saya{sv}", token,
                                  dbus.ByteArray(messages[at:at + PIECE]),
                                  dbus.Dictionary({}, signature="sv")))
        yield dbus.Array([], signature="h"), {"uploads": [token] if token else []}

    def data_of(self, job: str, size: int) -> bytes:
        import dbus
        if not self.where:
            return super().data_of(job, size)
        found = bytearray()
        while len(found) < size:
            piece = self.call(job, dbus_names.JOB, "Read", "tua{sv}", len(found), PIECE,
                              dbus.Dictionary({}, signature="sv"))
            if not piece:
                raise errors.WorkerDied(f"{job} has fewer than {size} bytes to read")
            found += bytes(piece)
        return bytes(found)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """An interrupt at the terminal is for us to act on: ssh, whose child it would be, inherits
    that it is ignored (its own questions for a password are still ended by it)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def alive(what: str) -> errors.PeerUnreachable:
    """No answer to what was asked, from a host that is there."""
    error = errors.PeerUnreachable(what)
    error.alive = True
    return error


def ask(handover: Handover, verb: str) -> Reply:
    """What the other host of a handover answers now to ``status`` or ``abort``: a Peer
    (handover/engine.py).  Raises PeerUnreachable, also where that takes too long, and
    NoSuchHandover where it never heard of it."""
    if not handover.peer:
        raise errors.PeerUnreachable("how it is reached is not recorded (--peer HOST says it)")
    try:
        side = Side(handover.peer)
    except errors.BadCall as error:
        raise errors.PeerUnreachable(error.what) from None
    until = time.monotonic() + ASK_SECONDS

    def patience() -> bool:
        if time.monotonic() > until:
            raise alive(f"{side.name} has not ended {verb} in {ASK_SECONDS:g} s")
        return False

    try:
        # One that never heard of it has to give up the epoch, so it is told.
        messages = b"" if verb == "status" else to_json([Message(
            MessageType.OFFER, handover.id, handover.epoch, targets=handover.targets,
            mode=handover.mode)])
        return side.verb(verb, handover.id, messages, stop=patience)
    except (errors.NoSuchHandover, errors.PeerUnreachable):
        raise
    except errors.HandoverError as error:
        raise alive(error.what) from None
    finally:
        side.close()

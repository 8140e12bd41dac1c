"""The service of this host or of another host, for a driver of handovers.

The client reaches another host's bus as ``busctl --host`` does: through ssh and
systemd-stdio-bridge(1), without a port or a protocol of our own.  The bridge passes no
descriptors, so messages go to that host, and come from it, in chunks.
"""
from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Set, Tuple

from .. import dbus_names, errors
from ..document.envelope import MAX_BYTES
from ..handover.reply import Reply, reply_from_json
from ..protocol.table import deadline
from ..system.external_program import ENVIRONMENT
from ..verb_table import BOTH
from . import connection as client

#: Bytes of a chunk: small enough that D-Bus messages of other callers get between two chunks.
CHUNK_BYTES = 1 << 20
#: ssh's ConnectTimeout (seconds), ServerAliveInterval (seconds) and ServerAliveCountMax.  libdbus
#: has no timeout of its own for the peer's authentication: it waits as long as ssh lives.
CONNECT_SECONDS, ALIVE_SECONDS, MISSED = 10, 5, 2
#: Seconds until the other host's bus has greeted; a human may have to type a password meanwhile.
CONNECTED_SECONDS = 120.0
#: Notes, and findings, of another host that are told.
MOST_NOTES = 1000
#: A verb of another host is given up after so many of its deadlines without another step (its
#: service alarms after one), any other job after SILENCE seconds, and all after LONGEST.
DEADLINES, SILENCE, LONGEST = 3.0, 900.0, 3600.0

#: OpenSSH's client, which is looked for nowhere else; env(1) gives it the environment.
PROGRAM, _ENV = "/usr/bin/ssh", "/usr/bin/env"
#: The part of this process's environment that ssh sees: how it asks a person, and an agent.
_PASSED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TERM", "DISPLAY", "WAYLAND_DISPLAY",
           "XAUTHORITY", "SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "KRB5CCNAME",
           "XDG_RUNTIME_DIR")

#: Instead of a host's name: the bus itself, of this machine.  In tests alone, as whoever serves it
#: is believed to be another host: where this is in the environment of the process, in which neither
#: a caller of the service nor a file has a say.
TEST_BUSES = "LIO_HANDOVER_TEST_BUSES"
_BUS = re.compile(r"unix:path=[A-Za-z0-9._/-]+")
#: D-Bus errors that mean that the host does not answer (libdbus's other errors are the caller's).
_LOST = ("NoReply", "Disconnected", "NoServer", "Timeout", "IOError", "FileNotFound", "Failed",
         "AuthFailed", "Spawn.ExecFailed", "Spawn.ForkFailed")


def environment() -> Dict[str, str]:
    """The environment of ssh, which starts the programs of its configuration (ProxyCommand) by this
    PATH, and by /bin/sh."""
    return {**{name: os.environ[name] for name in _PASSED if name in os.environ},
            "PATH": ENVIRONMENT["PATH"]}


def address(where: str) -> str:
    """The D-Bus address of a host's bus.  Raises BadCall for text that cannot name a host.

    ssh's arguments are systemd's own (sd-bus.c: bus_set_address_system_remote), with -a, which
    forwards no agent, and with the options that notice a dead connection.
    """
    if _BUS.fullmatch(where) and os.environ.get(TEST_BUSES):
        return where
    if not dbus_names.HOST.fullmatch(where):
        raise errors.BadCall(f"{errors.quoted(where)} is no host for ssh",
                             do="name it as ssh does: HOST or USER@HOST")
    words = ["-i", *(f"{name}={value}" for name, value in environment().items()), PROGRAM,
             "-axT", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o",
             f"ServerAliveInterval={ALIVE_SECONDS}",
             "-o", f"ServerAliveCountMax={MISSED}", "--", where, "systemd-stdio-bridge"]
    return f"unixexec:path={_ENV}" + "".join(
        f",argv{number}={_escaped(word)}" for number, word in enumerate(words, 1))


def _escaped(word: str) -> str:
    """An argument as D-Bus Specification, "Server Addresses", escapes it: other bytes as %xx."""
    return re.sub(b"[^-0-9A-Za-z_/.]", lambda match: b"%%%02x" % match[0][0],
                  os.fsencode(word)).decode()


@dataclass(frozen=True)
class ServiceInfo:
    """The Manager's properties: the service and its host."""

    version: str
    api: int
    document: int
    features: Tuple[str, ...]
    host: str
    boot_id: str


class RemoteService(client.Service):
    """One host's service.  The first call connects, as does a call after a lost connection.

    Another host's service may be anybody's: it answers at most so much (``limit``: bytes of a job's
    data), and what no lio-handoverd answers is PeerUnreachable.
    """

    def __init__(self, where: str = "", limit: int = 2 * MAX_BYTES) -> None:
        super().__init__(None)
        self.where, self.limit = where, limit
        self.address = address(where) if where else ""
        self.name = where or os.uname().nodename
        if where:
            self.silence, self.longest = SILENCE, LONGEST

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def call(self, path: str, interface: str, member: str, signature: str, *args: Any,
             patience: float = client.PATIENCE) -> Any:
        """Call a method; ``patience`` is in seconds.  Raises the service's error, or
        PeerUnreachable where no answer comes."""
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
            raise self._error_of(str(error.get_dbus_name()),
                                 str(error.get_dbus_message() or "")) from None
        except ImportError as error:
            raise self._lacks(error) from None

    def _lacks(self, error: ImportError) -> errors.HandoverError:
        return errors.PeerUnreachable(
            f"{self.name} can't be asked: the Python module {error.name} is not installed here",
            do="install python3-dbus and python3-gi")

    def _connect(self) -> Any:
        if self.where and not _BUS.fullmatch(self.where) and not os.access(PROGRAM, os.X_OK):
            raise errors.PeerUnreachable(f"{self.where} can't be asked: there is no {PROGRAM} here",
                                         do="install openssh-client")
        with _uninterrupted(), _ended_after(CONNECTED_SECONDS):
            connection = client.connect(self.address)
        self.listen(connection)
        return connection

    @contextmanager
    def _unbelieved(self) -> Iterator[None]:
        """Whatever another host answers in the block that can't be made sense of is
        PeerUnreachable."""
        try:
            yield
        except errors.HandoverError:
            raise
        except Exception as error:  # noqa: B902 - it depends on that host which
            if not self.where:
                raise
            self.close()
            raise host_answers(f"{self.name} answers what no lio-handoverd does "
                               f"({type(error).__name__})") from None

    def job_lost(self) -> errors.HandoverError:
        error = host_answers(f"lio-handoverd on {self.name} ended while it worked")
        error.changed = "whether anything was changed there is not known"
        error.do = f"lio-handover status, on {self.name}"
        return error

    def job_hangs(self, silent: float, lasts: float) -> errors.HandoverError:
        error = host_answers(f"{self.name} says that it works, and has not ended in {lasts:.0f} s; "
                             f"its last step came {silent:.0f} s ago")
        error.changed = "whether anything was changed there is not known"
        error.do = f"lio-handover status, and journalctl -u lio-handoverd, on {self.name}"
        error.hangs = True
        return error

    def _error_of(self, name: str, line: str) -> errors.HandoverError:
        short = name.replace("org.freedesktop.DBus.Error.", "")
        if short in _LOST:
            self.close()
            return errors.PeerUnreachable(
                f"{self.name} does not answer ({short})",
                "whether anything was changed there is not known",
                f"see that `ssh {self.name} systemctl status lio-handoverd` works"
                if self.where else "systemctl status dbus lio-handoverd")
        bus_error = self.failed(name, line)
        if short in ("ServiceUnknown", "NameHasNoOwner") or short.startswith("Spawn."):
            bus_error.what, bus_error.do = (f"lio-handoverd does not run on {self.name}",
                                            f"systemctl start lio-handoverd, on {self.name}")
            bus_error.changed = errors.NOTHING_CHANGED
        return bus_error

    # ---- questions and verbs ---
    def about(self) -> ServiceInfo:
        """The service's versions, features, host and boot.  Raises PeerUnreachable, NoService."""
        with self._unbelieved():
            properties = client.to_builtin(self.call(
                dbus_names.ROOT, dbus_names.PROPERTIES, "GetAll", "s", dbus_names.MANAGER))
            version, host, boot_id = (errors.shown(properties[name])
                                      for name in ("Version", "Host", "BootId"))
            self.finishes = dbus_names.FINISHES in properties["Features"]
            return ServiceInfo(version, int(properties["ApiVersion"]),
                               int(properties["DocumentVersion"]),
                               tuple(map(str, properties["Features"])), host, boot_id)

    def verb(self, verb: str, handover: str, messages: bytes = b"", targets: Sequence[str] = (),
             mode: str = "", progress: Optional[client.Progress] = None,
             stop: Callable[[], bool] = lambda: False, **options: Any) -> Reply:
        """Run a verb of a handover to its end.  ``messages`` is the other side's, as JSON
        (messages.to_json).  Raises the error that the verb fails with, and PeerUnreachable,
        `hangs`, where another host does not end it."""
        if self.where:
            self.silence = DEADLINES * deadline(BOTH, verb)
        _result, data = self.run_handover(verb, handover, targets, mode, messages, options,
                                          progress, stop)
        try:
            answer = reply_from_json(data)
        except errors.DocumentError as error:
            raise host_answers(f"{self.name} can't be believed: {error.what}") from None
        return answer if not self.where else replace(
            answer, notes=tuple(map(errors.shown, answer.notes[:MOST_NOTES])),
            next=errors.shown(answer.next))

    def failed(self, name: str, line: str, findings: Sequence[Mapping[str, Any]] = ()
               ) -> errors.HandoverError:
        """The error that the service has answered; another host's sentences are told as its own."""
        error = super().failed(name, line, findings[:MOST_NOTES])
        if self.where:
            if isinstance(error, errors.PeerUnreachable):
                error.alive = True
            error.what = f"{self.name} says: {errors.shown(error.what)}"
            error.changed = errors.shown(error.changed)
            error.do = error.do and f"{self.name} says: {errors.shown(error.do)}"
            for finding in error.findings:
                finding.subject = errors.shown(finding.subject)
                finding.sentence = errors.shown(finding.sentence)
                finding.override = errors.shown(finding.override)
                finding.do = finding.do and f"{self.name} says: {errors.shown(finding.do)}"
        return error

    def _finish(self, job: str, progress: Optional[client.Progress],
                stop: Callable[[], bool]) -> client.JobResult:
        with self._unbelieved():
            if not job.startswith(f"{dbus_names.ROOT}/{dbus_names.JOBS}/"):
                raise ValueError(job)
            return super()._finish(job, progress, stop)

    @contextmanager
    def bytes_argument(self, messages: bytes) -> Iterator[Tuple[Any, Mapping[str, Any]]]:
        import dbus
        if not self.where:
            with super().bytes_argument(messages) as argument:
                yield argument
            return
        if self.finishes and messages and len(messages) <= CHUNK_BYTES:
            yield dbus.Array([], signature="h"), {"said": messages.decode()}
            return
        token = ""
        for at in range(0, len(messages), CHUNK_BYTES):
            token = str(self.call(dbus_names.ROOT, dbus_names.MANAGER, "Upload", "saya{sv}", token,
                                  dbus.ByteArray(messages[at:at + CHUNK_BYTES]),
                                  dbus.Dictionary({}, signature="sv")))
        yield dbus.Array([], signature="h"), {"uploads": [token] if token else []}

    def data_of(self, job: str, size: int) -> bytes:
        import dbus
        if not self.where:
            return super().data_of(job, size)
        if size > self.limit:
            raise host_answers(f"{self.name} has {size} bytes to say, more than {self.limit}")
        data = bytearray()
        while len(data) < size:
            wanted = min(CHUNK_BYTES, size - len(data))
            chunk = self.call(job, dbus_names.JOB, "Read", "tua{sv}", len(data), wanted,
                              dbus.Dictionary({}, signature="sv"))
            if len(chunk) != wanted:  # a file is read there, of which no piece is smaller
                raise host_answers(f"{self.name} gives {len(chunk)} bytes where it has {wanted}")
            data += bytes(chunk)
        return bytes(data)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore SIGINT while ssh starts: ssh inherits that, so an interrupt at the terminal reaches
    this process alone (it still ends ssh's question for a password)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the ssh that this thread starts in the block, where the block takes longer: libdbus waits
    for a host's greeting as long as ssh lives."""
    def children() -> Set[int]:
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                return set(map(int, file.read().split()))
        except OSError:
            return set()

    def end() -> None:
        for pid in children() - before:
            os.kill(pid, signal.SIGTERM)

    thread = threading.get_native_id()
    before = children()
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def host_answers(what: str) -> errors.PeerUnreachable:
    """The error for a host that answers, but not to this question: the host is not off."""
    error = errors.PeerUnreachable(what)
    error.alive = True
    return error

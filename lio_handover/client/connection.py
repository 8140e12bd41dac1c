"""The service of this host as a D-Bus client sees it.

A client waits for a job's signals and does not poll: a connection receives the signals of every
job of the service, which say that something has changed and not what, and reads what it wants to
know: the step of a job that goes on, the properties of a job that has ended.  The service answers
the call that makes a job before it signals the job's end, so a client misses no end.
"""
from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .. import dbus_names, errors
from ..verb_table import BOTH, HANDOVER_VERBS, MESSAGES

#: Milliseconds between two questions whether to stop, and seconds that a call may take.
OFTEN, PATIENCE = 250, 30.0
#: Seconds without a signal of a job after which its state is asked for all the same.
SILENT = 30.0
#: For as long as it takes, in seconds; and the most that libdbus knows.
EVER, LONG = float("inf"), (1 << 31) / 1000 - 1

#: Bytes of data that Finish answers with at most.
PIECE = 1 << 20

#: Match rules: a job takes a step, a job ends, the service itself ends.
_RULES = (
    f"type='signal',sender='{dbus_names.BUS_NAME}',interface='{dbus_names.JOB}',"
    "member='Completed'",
    f"type='signal',sender='{dbus_names.BUS_NAME}',interface='{dbus_names.PROPERTIES}',"
    f"member='PropertiesChanged',arg0='{dbus_names.JOB}'",
    "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',"
    f"member='NameOwnerChanged',arg0='{dbus_names.BUS_NAME}'")
_NOT_KNOWN = "whether anything was changed is not known"

#: Called with (number of the step, number of steps, the step in words).
Progress = Callable[[int, int, str], None]
#: (the job's property Result as builtins, the job's data).
JobResult = Tuple[Dict[str, Any], bytes]


def connect_local() -> Optional[Service]:
    """This host's service; None where it does not run, or this process cannot speak to it."""
    if not os.path.exists(dbus_names.RUNNING):
        return None
    try:
        import dbus
    except ImportError:
        return None
    try:
        service = Service(connect())
        return service if service.connection.name_has_owner(dbus_names.BUS_NAME) else None
    except (dbus.DBusException, ImportError):
        return None


def connect(address: str = "") -> Any:
    """A private connection to the system's bus, or to ``address``, on GLib's main loop.

    Raises dbus.DBusException; ImportError where dbus-python or PyGObject is not installed.
    """
    from importlib.util import find_spec

    import dbus.bus
    from dbus.mainloop.glib import DBusGMainLoop
    if find_spec("gi") is None:  # it is imported once something is waited for, as that takes long
        raise ImportError("no GLib", name="gi")
    connection = dbus.bus.BusConnection(address or dbus.bus.BUS_SYSTEM, mainloop=DBusGMainLoop())
    connection.set_exit_on_disconnect(False)
    return connection


class Service:
    """lio-handoverd on a connection."""

    #: Seconds without another step, and in all, after which a job is given up, see `job_hangs`.
    silence, longest = EVER, EVER
    #: whether it has FINISHES among its features
    finishes = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._job = ""  # the job that is waited for
        self._step = False  # whether it may have come to another step
        self._ask = False  # whether the job may have ended
        if connection is not None:
            self.listen(connection)

    def listen(self, connection: Any) -> None:
        """Subscribe a connection to the signals of jobs."""
        for rule in _RULES:
            connection.add_match_string_non_blocking(rule)
        connection.add_message_filter(self._heard)
        connection.call_on_disconnection(self._lost)

    def _heard(self, _connection: Any, message: Any) -> int:
        import dbus.lowlevel
        member = message.get_member()
        if message.get_type() == dbus.lowlevel.MESSAGE_TYPE_SIGNAL:
            if member == "NameOwnerChanged" or \
                    member == "Completed" and message.get_path() == self._job:
                self._ask = True
            elif member == "PropertiesChanged" and message.get_path() == self._job:
                try:
                    _interface, told, changed = message.get_args_list()
                    self._step |= ("Step" in told or "Step" in changed) and "State" not in told
                except (ValueError, TypeError):
                    pass  # no signal of lio-handoverd
        return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED  # type: ignore[no-any-return]

    def _lost(self, _connection: Any) -> None:
        self._ask = True

    def call(self, path: str, interface: str, member: str, signature: str, *args: Any,
             patience: float = PATIENCE) -> Any:
        """Call a method; ``patience`` is in seconds.  Raises the error that the service answers
        with, as its class in errors.py."""
        import dbus
        try:
            return self.connection.call_blocking(dbus_names.BUS_NAME, path, interface, member,
                                                 signature, args, timeout=patience,
                                                 byte_arrays=True)
        except dbus.DBusException as error:
            raise self.failed(str(error.get_dbus_name()), str(error.get_dbus_message())) from None

    def failed(self, name: str, line: str, findings: Sequence[Mapping[str, Any]] = ()
               ) -> errors.HandoverError:
        """The error that the service has answered, or with which a job of it ended."""
        error = error_from_bus(name, line)
        error.findings = [_finding(tree) for tree in findings]
        return error

    def run(self, member: str, what: Sequence[str], options: Mapping[str, Any],
            progress: Optional[Progress] = None,
            stop: Callable[[], bool] = lambda: False) -> JobResult:
        """Run a verb of the Manager on targets, and return its result and data.

        ``stop`` is called every `OFTEN` milliseconds; once it returns True, the job is cancelled.
        Raises the error that the job fails with.
        """
        import dbus
        job = self.call(dbus_names.ROOT, dbus_names.MANAGER, member, "asa{sv}",
                        dbus.Array(what, signature="s"), _options(options))
        return self._finish(str(job), progress, stop)

    def run_document(self, member: str, document: bytes, options: Mapping[str, Any],
                     progress: Optional[Progress] = None,
                     stop: Callable[[], bool] = lambda: False) -> JobResult:
        """Run a verb of the Manager on a document; otherwise as `run`."""
        with self.bytes_argument(document) as (argument, more):
            tokens = more.get("uploads")
            given = {**options, "upload": tokens[0]} if tokens else options
            job = self.call(dbus_names.ROOT, dbus_names.MANAGER, member, "aha{sv}", argument,
                            _options(given))
        return self._finish(str(job), progress, stop)

    def run_change(self, member: str, node: str, values: Mapping[str, str],
                   options: Mapping[str, Any]) -> JobResult:
        """Run a verb of the Manager on a node of targetcli's tree; otherwise as `run`."""
        import dbus
        given = {name: value.encode().decode() for name, value in values.items()}
        job = self.call(dbus_names.ROOT, dbus_names.MANAGER, member, "sa{ss}a{sv}", node,
                        dbus.Dictionary(given, signature="ss"), _options(options))
        return self._finish(str(job), None, lambda: False)

    def run_handover(self, verb: str, name: str, targets: Sequence[str], mode: str,
                     messages: bytes, options: Mapping[str, Any],
                     progress: Optional[Progress] = None,
                     stop: Callable[[], bool] = lambda: False) -> JobResult:
        """Run a verb of a handover; otherwise as `run`.  ``messages`` is JSON, as messages.to_json
        has it; the data is the reply, as reply.reply_to_json has it.

        The Manager's method is called with targets, or with messages for a verb that begins a
        handover, as the host may not know the handover yet; otherwise the handover object's.
        """
        import dbus
        row = HANDOVER_VERBS[verb]
        begins = row.begins and row.role != BOTH
        if begins and targets:
            job = self.call(dbus_names.ROOT, dbus_names.MANAGER, f"{verb.capitalize()}Handover",
                            "asa{sv}", dbus.Array(targets, signature="s"),
                            _options({**options, "handover": name, "mode": mode}))
        elif row.takes == MESSAGES and (messages or not begins):
            where = (dbus_names.ROOT, dbus_names.MANAGER, f"{verb.capitalize()}Handover") \
                if begins else (dbus_names.path(dbus_names.HANDOVERS, name), dbus_names.HANDOVER,
                                verb.capitalize())
            with self.bytes_argument(messages) as (argument, more):
                job = self.call(*where, "aha{sv}", argument, _options({**options, **more}))
        elif messages:
            raise errors.BadCall(f"{verb} takes nothing of the other side", do="leave it out")
        else:
            job = self.call(dbus_names.path(dbus_names.HANDOVERS, name), dbus_names.HANDOVER,
                            verb.capitalize(), "a{sv}", _options(options))
        return self._finish(str(job), progress, stop)

    @contextmanager
    def bytes_argument(self, messages: bytes) -> Iterator[Tuple[Any, Mapping[str, Any]]]:
        """Messages as (an argument of a call, the options that go with the argument)."""
        with _descriptor_argument(messages) as argument:
            yield argument, {}

    def data_of(self, job: str, size: int) -> bytes:
        """The data of a job that has ended: ``size`` bytes."""
        fd = self.call(job, dbus_names.JOB, "Open", "a{sv}", _options({})).take()
        with os.fdopen(fd, "rb") as file:
            return file.read(size)

    def _finish(self, job: str, progress: Optional[Progress],
                stop: Callable[[], bool]) -> JobResult:
        properties = self._wait(job, progress, stop)
        result = to_builtin(properties["Result"])
        if not isinstance(result, dict):
            raise TypeError("Result")
        if properties["State"] != "done":
            name, line = map(str, properties["Error"])
            raise self.failed(name, line, result.get("findings", ()))
        data: Optional[bytes] = properties.get("Data")
        if data is None:
            data = self.data_of(job, int(properties["Size"])) if properties["Size"] else b""
            self.call(job, dbus_names.JOB, "Release", "a{sv}", _options({}))
        return result, data

    def _wait(self, job: str, progress: Optional[Progress], stop: Callable[[], bool]) -> Any:
        """The properties of a job that has ended.

        Raises `job_lost` where the service ended before the job did, `job_hangs` where that does
        not come to an end, and any error of ``stop``.
        """
        from gi.repository import GLib
        loop, cancelled, heard = GLib.MainContext.default(), False, time.monotonic()
        begun = lived = asked = heard
        last: Any = None
        self._await(job)
        answers, finishing = self._answers_of(job) if self.finishes else [], self.finishes
        # The timer also lets Python handle a signal that arrives just before the loop waits.
        timer = GLib.timeout_add(OFTEN, lambda: True)
        try:
            while True:
                loop.iteration(True)
                if answers and not isinstance(answers[0], Exception):
                    return _properties_of(*answers[0])
                if answers and finishing:
                    finishing, self._ask = False, True  # which says more
                try:
                    if stop() and not cancelled:
                        cancelled = True
                        self.call(job, dbus_names.JOB, "Cancel", "a{sv}", _options({}))
                    # A verb that is over sooner is not asked for its step: initiators may wait.
                    stepped = self._step and time.monotonic() - asked >= OFTEN / 1000
                    if stepped:
                        self._step, heard = False, time.monotonic()
                        asked = heard
                    self._ask &= not finishing  # the answer comes
                    self._ask |= time.monotonic() - heard > SILENT
                    step = last
                    if stepped and not self._ask and (progress or self.silence < EVER):
                        step = number, total, what = self._get(job, "Step")
                        if progress:
                            progress(int(number), int(total), errors.shown(str(what)))
                    if self._ask:
                        self._ask, heard = False, time.monotonic()
                        properties = self._properties(job)
                        if properties["State"] not in ("running", "cancelling") and not finishing:
                            return properties
                        step = properties["Step"]
                except errors.NoSuchHandover:
                    if not finishing:  # a service that was started since
                        raise self.job_lost() from None
                    continue  # the job is forgotten, as its answer is on the way
                now = time.monotonic()
                if step != last:
                    last, lived = step, now
                if now - lived > self.silence or now - begun > self.longest:
                    raise self.job_hangs(now - lived, now - begun)
        finally:
            GLib.source_remove(timer)
            self._await("")

    def _answers_of(self, job: str) -> List[Any]:
        """Ask for all that comes of a job: once it has ended, the list gets the answer, or an
        error."""
        answers: List[Any] = []
        self.connection.call_async(
            dbus_names.BUS_NAME, job, dbus_names.JOB, "Finish", "a{sv}", (_options({}),),
            lambda *values: answers.append(values), answers.append, timeout=LONG, byte_arrays=True)
        return answers

    def _await(self, job: str) -> None:
        self._job, self._step, self._ask = job, False, False

    def _properties(self, job: str) -> Any:
        return self._ask_job(job, "GetAll", "s", dbus_names.JOB)

    def _get(self, job: str, name: str) -> Any:
        return self._ask_job(job, "Get", "ss", dbus_names.JOB, name)

    def _ask_job(self, job: str, member: str, signature: str, *names: str) -> Any:
        try:
            return self.call(job, dbus_names.PROPERTIES, member, signature, *names)
        except errors.NoService:
            raise self.job_lost() from None

    def job_lost(self) -> errors.HandoverError:
        """The error to raise where the service ended before its job did."""
        return errors.NoService("lio-handoverd ended while it worked", _NOT_KNOWN,
                                "lio-handover status, and the same command again")

    def job_hangs(self, silent: float, lasts: float) -> errors.HandoverError:
        """The error to raise where a job has had no other step for ``silent`` seconds, or lasts for
        so many, and that is too long."""
        return errors.NoService(f"lio-handoverd has not ended in {lasts:.0f} s; its last step came "
                                f"{silent:.0f} s ago", _NOT_KNOWN, "lio-handover status")


def _properties_of(state: Any, error: Any, result: Any, size: Any, data: Any) -> Dict[str, Any]:
    """The answer of Finish; ``Data`` is there where it is whole."""
    whole = {"Data": bytes(data)} if len(data) == size <= PIECE else {}
    return {"State": state, "Error": error, "Result": result, "Size": size, **whole}


@contextmanager
def _descriptor_argument(data: bytes) -> Iterator[Any]:
    """Data as a D-Bus array of one descriptor; an empty array for no data."""
    import dbus
    fd = os.memfd_create("lio-handover", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield dbus.Array([dbus.types.UnixFd(fd)] if data else [], signature="h")
    finally:
        os.close(fd)


def _options(given: Mapping[str, Any]) -> Any:
    """Options without those that are empty; a list is of texts, or of sockets."""
    import dbus

    def typed(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if not isinstance(value[0], socket.socket):
            return dbus.Array(value, signature="s")
        return dbus.Array([dbus.types.UnixFd(line.fileno()) for line in value], signature="h")

    return dbus.Dictionary({name: typed(value) for name, value in given.items() if value},
                           signature="sv")


def error_from_bus(name: str, line: str) -> errors.HandoverError:
    """The error of errors.py for a D-Bus error's name and its one line."""
    kinds = {kind: error for error in errors.classes()
             for kind in [dbus_names.ERROR + error.__name__]}
    kinds["org.freedesktop.DBus.Error.UnknownObject"] = errors.NoSuchHandover
    if name not in kinds:
        return errors.NoService(f"the service answers {name}: {line}", _NOT_KNOWN,
                                "systemctl status lio-handoverd, or use --alone")
    what, _, do = line.partition("; next: ")
    what, _, changed = what.rpartition("; ") if "; " in what else (what, "", errors.NOTHING_CHANGED)
    return kinds[name](what, changed, do)


def _finding(tree: Mapping[str, Any]) -> errors.Finding:
    kinds = {error.__name__: error for error in errors.classes()}
    return errors.Finding(kinds.get(tree["error"], errors.Refusal), tree["subject"],
                          tree["sentence"], tree["override"], tree["do"])


def to_builtin(value: Any) -> Any:
    """A dbus-python value as a Python builtin."""
    if isinstance(value, dict):
        return {str(key): to_builtin(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_builtin(item) for item in value]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value)
    if type(value).__name__ == "Boolean":
        return bool(value)
    return int(value)

"""The service of this host, for programs that would rather have it do their work.

Nothing here needs a main loop: a job is waited for in slices, so that signals are heard.
"""
from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from .. import dbus_names, errors

#: Milliseconds of one slice of waiting, and seconds that any other call may take.
SLICE, PATIENCE = 250, 30.0

#: Verbs of handovers that are the Manager's: the host may not know the handover yet.
_BEGINNING = ("prepare", "stage", "abort", "status", "recover")

#: (number of the step, how many, which), as it goes on.
Progress = Callable[[int, int, str], None]
Came = Tuple[Dict[str, Any], bytes]


def find() -> Optional[Service]:
    """The service, where it runs; None where it does not, or can't be spoken to from here."""
    if not os.path.exists(dbus_names.RUNNING):
        return None
    try:
        import dbus.bus
    except ImportError:
        return None
    try:
        connection = dbus.bus.BusConnection(dbus.bus.BUS_SYSTEM)
        connection.set_exit_on_disconnect(False)
        return Service(connection) if connection.name_has_owner(dbus_names.BUS_NAME) else None
    except dbus.DBusException:
        return None


class Service:
    """lio-handoverd on a connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def call(self, path: str, interface: str, member: str, signature: str, *args: Any,
             patience: float = PATIENCE) -> Any:
        """Call a method.  Raises the error of errors.py that the service answers with."""
        import dbus
        try:
            return self.connection.call_blocking(dbus_names.BUS_NAME, path, interface, member,
                                                 signature, args, timeout=patience,
                                                 byte_arrays=True)
        except dbus.DBusException as error:
            raise known(str(error.get_dbus_name()), str(error.get_dbus_message())) from None

    def run(self, member: str, what: Sequence[str], options: Mapping[str, Any],
            progress: Optional[Progress] = None,
            stop: Callable[[], bool] = lambda: False) -> Came:
        """Run a verb of the Manager on targets; its result and data.

        ``stop`` is asked again and again, and then the job is cancelled.  Raises what it fails
        with.
        """
        import dbus
        job = self.call(dbus_names.ROOT, dbus_names.MANAGER, member, "asa{sv}",
                        dbus.Array(what, signature="s"), _options(options))
        return self._finish(str(job), progress, stop)

    def run_document(self, member: str, document: bytes, options: Mapping[str, Any],
                     progress: Optional[Progress] = None,
                     stop: Callable[[], bool] = lambda: False) -> Came:
        """The same for a verb that takes a document."""
        with _passed(document) as passed:
            job = self.call(dbus_names.ROOT, dbus_names.MANAGER, member, "aha{sv}", passed,
                            _options(options))
        return self._finish(str(job), progress, stop)

    def run_handover(self, verb: str, name: str, targets: Sequence[str], mode: str, papers: bytes,
                     options: Mapping[str, Any], progress: Optional[Progress] = None,
                     stop: Callable[[], bool] = lambda: False) -> Came:
        """The same for a verb of a handover; ``papers`` as papers.to_json has them.  The data are
        the whole answer, as handover.answer_to_json has it."""
        import dbus
        with self.passed(papers) as (passed, more):
            given = _options({**options, **more})
            if verb in _BEGINNING:
                job = self.call(dbus_names.ROOT, dbus_names.MANAGER, f"{verb.capitalize()}Handover",
                                "sassaha{sv}", name, dbus.Array(targets, signature="s"), mode,
                                passed, given)
            else:
                job = self.call(dbus_names.path(dbus_names.HANDOVERS, name), dbus_names.HANDOVER,
                                verb.capitalize(), "aha{sv}", passed, given)
        return self._finish(str(job), progress, stop)

    @contextmanager
    def passed(self, papers: bytes) -> Iterator[Tuple[Any, Mapping[str, Any]]]:
        """Papers as an argument of a call, and the options that go with it."""
        with _passed(papers) as passed:
            yield passed, {}

    def data_of(self, job: str, size: int) -> bytes:
        """What a job hands out."""
        fd = self.call(job, dbus_names.JOB, "Open", "a{sv}", _options({})).take()
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def _finish(self, job: str, progress: Optional[Progress], stop: Callable[[], bool]) -> Came:
        cancelled = False
        while self.call(job, dbus_names.JOB, "Wait", "ta{sv}", SLICE * 1000, _options({})) in (
                "running", "cancelling"):
            if stop() and not cancelled:
                cancelled = True
                self.call(job, dbus_names.JOB, "Cancel", "a{sv}", _options({}))
            if progress:
                progress(*self.call(job, dbus_names.PROPERTIES, "Get", "ss", dbus_names.JOB,
                                    "Step"))
        found = self.call(job, dbus_names.PROPERTIES, "GetAll", "s", dbus_names.JOB)
        result = plain(found["Result"])
        if found["State"] != "done":
            error = known(*map(str, found["Error"]))
            error.findings = [_finding(one) for one in result.get("findings", ())]
            raise error
        data = self.data_of(job, int(found["Size"])) if found["Size"] else b""
        self.call(job, dbus_names.JOB, "Release", "a{sv}", _options({}))
        return result, data


@contextmanager
def _passed(data: bytes) -> Iterator[Any]:
    """Data as a descriptor in an argument; none for nothing."""
    import dbus
    fd = os.memfd_create("lio-handover", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield dbus.Array([dbus.types.UnixFd(fd)] if data else [], signature="h")
    finally:
        os.close(fd)


def _options(given: Mapping[str, Any]) -> Any:
    """Options without those that are empty."""
    import dbus
    return dbus.Dictionary({name: dbus.Array(value, signature="s") if isinstance(value, list)
                            else value for name, value in given.items() if value},
                           signature="sv")


def known(name: str, line: str) -> errors.HandoverError:
    """The error that a name on the bus and its one line stand for."""
    kinds = {kind: one for one in errors.classes() for kind in [dbus_names.ERROR + one.__name__]}
    kinds["org.freedesktop.DBus.Error.UnknownObject"] = errors.NoSuchHandover
    if name not in kinds:
        return errors.NoService(f"the service answers {name}: {line}",
                                "whether anything was changed is not known",
                                "systemctl status lio-handoverd, or use --alone")
    what, _, do = line.partition("; next: ")
    what, _, changed = what.rpartition("; ") if "; " in what else (what, "", errors.NOTHING_CHANGED)
    return kinds[name](what, changed, do)


def _finding(tree: Mapping[str, Any]) -> errors.Finding:
    kinds = {one.__name__: one for one in errors.classes()}
    return errors.Finding(kinds.get(tree["error"], errors.Refusal), tree["subject"],
                          tree["sentence"], tree["override"], tree["do"])


def plain(value: Any) -> Any:
    """A value of the bus as a builtin."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value)
    if type(value).__name__ == "Boolean":
        return bool(value)
    return int(value)

"""Parts that commands share: signals, this host or its service, and the named targets."""
from __future__ import annotations

import argparse
import os
import signal
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, List, Optional

from .. import errors
from ..settings import Settings, load
from .output import BY_SERVICE, PROG, Progress, say_notes

if TYPE_CHECKING:  # some verbs need neither
    from ..client import connection
    from ..local.ours import Ours


class Usage(Exception):
    """The arguments can be parsed, but do not fit together."""


# --- signals -------------------------------------------------------------------------------------
class Stopped(BaseException):
    """A signal came while nothing was being changed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """SIGINT, SIGTERM and SIGHUP end a command: at once, or, while it changes the host
    (``deferred``), between two steps; then the changes are rolled back, whatever signals follow."""

    def __init__(self) -> None:
        self.number = 0
        self.deferred = False
        self.progress = Progress()

    def install(self) -> None:
        """Handle the signals from now on, but for those that are ignored."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        if not self.deferred:
            raise Stopped(number)
        if not self.number:
            self.number = number
            self.progress.say("stopping, and taking back what was done")

    def stop(self) -> bool:
        """Whether a signal has come: asked between two steps."""
        return self.number != 0

    @contextmanager
    def later(self) -> Iterator[None]:
        """Defer signals until the block ends.  Raises Stopped then, if a signal has come."""
        self.deferred = True
        yield
        self.deferred = False
        if self.number:
            raise Stopped(self.number)


# --- this host, or its service -------------------------------------------------------------------
#: Each host object that this command has opened.
_OPENED: List[Ours] = []


def require_root(verb: str) -> None:
    """Raises NotRoot unless root runs this."""
    if os.geteuid() != 0:
        raise errors.NotRoot(f"only root may {verb}", do=f"sudo {PROG} {verb}")


def open_host(args: argparse.Namespace) -> Ours:
    """This host, with the settings that --config names.  Raises BadSettings."""
    from ..local.ours import Ours
    host = Ours(load_settings(args.config))
    _OPENED.append(host)
    return host


def load_settings(path: str) -> Settings:
    """This host's settings; ``path``: of --config, or "".  Raises BadSettings."""
    if not path:
        return load()
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise errors.BadSettings(f"{path} can't be read: "
                                 f"{getattr(error, 'strerror', None) or error}",
                                 do="correct --config") from None
    if not stat.S_ISREG(mode) and os.path.realpath(path) != os.devnull:
        raise errors.BadSettings(f"{path} is not a file", do="correct --config")
    return load(path)


def start_units(args: argparse.Namespace) -> None:
    """Start the units of targets that this command began to serve: from now on targetcli's unit
    takes them with it."""
    for host in _OPENED:
        if host.begun:
            from ..local import restoring
            failure = restoring.start_units(host, host.begun)
            say_notes(args, [failure] if failure else [])


def find_service(args: argparse.Namespace) -> Optional[connection.Service]:
    """The service, where it runs; None with --alone, or with --config, as the service has a
    configuration of its own."""
    if args.alone or args.config:
        return None
    from ..client import connection
    return connection.connect_local()


def ask_service(service: connection.Service, member: str, args: argparse.Namespace,
                signals: Signals, document: Optional[bytes] = None) -> connection.JobResult:
    """Have the service run a method with these arguments: (the job's result, its data)."""
    options = {name: value for name, value in (
        ("all", getattr(args, "all", False)), ("allow", args.allow),
        ("maps", getattr(args, "map", [])), ("probe", getattr(args, "probe", False))) if value}

    def progress(number: int, total: int, what: str) -> None:
        if total:
            signals.progress.say(f"{number}/{total} {what}")

    signals.deferred = True
    if document is None:
        answer, data = service.run(member, chosen_targets(args), options, progress, signals.stop)
    else:
        answer, data = service.run_document(member, document, options, progress, signals.stop)
    signals.progress.clear()
    return {**answer, **BY_SERVICE}, data


# --- targets -------------------------------------------------------------------------------------
def chosen_targets(args: argparse.Namespace) -> List[str]:
    """The named targets, or none with --all.  Raises Usage for both, and for neither."""
    if bool(args.targets) == getattr(args, "all", False):
        raise Usage("name targets, or give --all" if not args.targets else
                    "either name targets or give --all")
    return target_names(args)


def target_names(args: argparse.Namespace) -> List[str]:
    """The named targets, as `show` prints them; a leading slash, as in targetcli, is dropped.

    Raises Usage.
    """
    names = [word.strip("/") for word in args.targets]
    for name in names:
        if "/" not in name:
            raise Usage(f"{name} is no TARGET: it is FABRIC/WWN, as `{PROG} show` has it")
    return names

"""The verb ``move``: one function for the command line, a job of the service and the library.

`carry_out` chooses the driver (move.py, or live.py where guests move, too), runs it to its end and
returns what came of it.
"""
from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple, Sequence

from .. import errors
from ..client.ssh import RemoteService
from ..local.results import Moved
from ..protocol.table import HELD, Mode
from .move import Move

if TYPE_CHECKING:
    from .qmp import Address


@dataclass(frozen=True)
class Order:
    """A move as it was asked for, with the options of its row in verb_table.py.

    ``guests``, ``guests_there``: the monitors of the QEMUs on this host, and of those on the
    destination which wait for the guests: each is a path on its host, or a connected socket.
    ``uris``: where the RAM of each goes, or none; ``deadlines``: STEP=SECONDS.
    """

    to: str
    targets: Sequence[str] = ()
    resume: str = ""
    here: str = ""
    mode: str = ""
    guests: Sequence[Address] = ()
    guests_there: Sequence[Address] = ()
    uris: Sequence[str] = ()
    deadlines: Sequence[str] = ()
    maps: Sequence[str] = ()
    allow: Sequence[str] = ()
    probe: bool = False

    def wrong(self) -> str:
        """Why these options do not fit together; "" where they do."""
        if bool(self.targets) == bool(self.resume):
            return "name targets, or the handover to --resume"
        if self.resume and (self.maps or self.mode or self.probe):
            return ("--map, --mode and --probe are of a move's beginning: --resume goes on as it "
                    "began")
        if len(self.guests) != len(self.guests_there) or \
                self.uris and len(self.uris) != len(self.guests):
            return ("a guest has two monitors, --guest and --guest-there on the destination, and "
                    "there are as many --guest-uri or none")
        if self.guests and self.mode == Mode.VHOST_INBAND.value:
            return "in mode vhost-inband QEMU's own stream moves the guest: name no monitor"
        if self.guests and self.mode and self.mode not in {mode.value for mode in HELD}:
            return (f"no guest moves in mode {errors.one_line(self.mode)!r}: leave --mode out, or "
                    "name no monitor")
        if self.deadlines and not self.guests:
            return "--deadline is of a move with a --guest"
        return ""


class Progress(NamedTuple):
    """The place that a move has come to: the step ``name``, ``number`` of ``total``, and a line
    about it.  ``migration`` is QEMU's last answer to `query-migrate`, while a guest moves."""

    number: int = 0
    total: int = 0
    name: str = ""
    text: str = ""
    migration: Mapping[str, Any] = {}


Tell = Callable[[Progress], None]


def carry_out(order: Order, source: RemoteService, tell: Tell = lambda progress: None,
              stop: Callable[[], bool] = lambda: False, id: str = "") -> Moved:  # noqa: A002
    """Move what is ordered from the host of ``source``, whose connection is closed at the end.

    ``tell`` is called at each step, and while one takes its time; ``stop`` is called until the
    commit, and True takes the move back.  ``id``: of the new handover (default: one is made).
    Raises BadCall, and the error that a step failed with.
    """
    wrong = order.wrong()
    if wrong:
        raise errors.BadCall(wrong, do="lio-handover move --help")

    def say(text: str) -> None:
        number, total, name = run.place
        tell(Progress(number, total, name, text, run.migration))

    with closing(_driver(order, source, say, stop)) as run:
        run.id = order.resume or id or run.id
        if order.resume:
            run.resume(order.allow)
        elif order.mode == Mode.VHOST_INBAND.value:
            run.stage(order.targets, order.mode, order.here, order.maps, order.allow, order.probe)
        else:
            default = Mode.VHOST_QMP if order.guests else Mode.ISCSI
            run.run(order.targets, order.mode or default.value, order.here, order.maps,
                    order.allow, order.probe)
        return Moved(run.targets, tuple(run.notes), handover=run.id, epoch=run.epoch,
                     source=run.source.name, destination=run.destination.name,
                     contents=run.contents, window=round(run.window, 6),
                     seconds={name: round(took, 6) for name, took in run.seconds.items()},
                     downtime=_downtime(run.migration), cost=run.cost(),
                     guests=tuple(run.told_of_guests()))


def _downtime(migration: Mapping[str, Any]) -> float:
    """Seconds, of QEMU's answer, which has milliseconds; 0 where it does not say."""
    said = migration.get("downtime")
    return said / 1000 if isinstance(said, int) else 0.0


def _driver(order: Order, source: RemoteService, say: Callable[[str], None],
            stop: Callable[[], bool]) -> Move:
    destination = RemoteService(order.to)
    if not order.guests:
        return Move(source, destination, say, stop)
    from .guest import Monitors  # with asyncio, which takes long to import
    from .live import LiveMove
    uris = order.uris or [""] * len(order.guests)
    return LiveMove(source, destination, say, stop, limits=order.deadlines,
                    guests=tuple(map(Monitors, order.guests, order.guests_there, uris)))

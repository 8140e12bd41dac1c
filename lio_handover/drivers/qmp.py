"""A QEMU's monitor, by the library of the QEMU project (``qemu.qmp``).

The library is asyncio's and this driver waits for one thing at a time, so each call runs a loop of
the monitor's own until it has its answer; events that come meanwhile are kept by the library.  It
is imported once a guest is moved.
"""
from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any, Awaitable, Dict, Mapping, TypeVar, Union

from .. import errors

T = TypeVar("T")
#: Where a monitor is: a path, or a socket that somebody has connected to it.
Address = Union[str, socket.socket]

#: Seconds that a monitor has to greet, and that a command may take unless told otherwise.
GREETS, PATIENCE = 10.0, 10.0


class Monitor:
    """One QEMU.  ``address``: the path of its socket on this host, or a connected socket, which
    is closed with the monitor; ``name`` as messages have it.  ``heard``: event → when it last came,
    in seconds of time.monotonic()."""

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.name = address, name
        self.heard: Dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._client: Any = None
        self._events: Any = None

    def connect(self) -> None:
        """Raises GuestFailed where nobody greets, or the library is not installed."""
        try:
            from qemu.qmp import EventListener, QMPClient, QMPError
        except ImportError:
            raise errors.GuestFailed(
                "a guest can't be moved: the Python module qemu.qmp is not installed here",
                do="python3 -m pip install --target /usr/lib/lio-handover qemu.qmp (in a venv "
                   "without --target)") from None
        log = logging.getLogger("qemu.qmp")  # what it would print, the errors below say
        log.addHandler(logging.NullHandler())
        log.propagate = False

        async def connect() -> None:
            client, events = QMPClient(self.name), EventListener()
            client.register_listener(events)
            await client.connect(self.address)
            self._client, self._events = client, events

        where = self.address
        if not isinstance(where, str):
            where.setblocking(False)  # as asyncio needs it
            where = "the socket that was handed in"
        try:
            self._run(connect(), GREETS)
        except (QMPError, OSError, EOFError, asyncio.TimeoutError):
            self.close()
            raise errors.GuestFailed(
                f"{self.name}: nobody greets at its monitor, {errors.shown(where)}",
                do="start QEMU with -qmp unix:PATH,server=on,wait=off, and see that nobody else "
                   "is at that socket") from None

    def _run(self, work: Awaitable[T], seconds: float) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, seconds))

    def execute(self, command: str, arguments: Mapping[str, Any] = {},  # noqa: B006 - not written
                seconds: float = PATIENCE) -> Any:
        """The answer of a command.  Raises GuestFailed with QEMU's words, or `gone`."""
        from qemu.qmp import ExecuteError, QMPError
        if self._client is None:
            raise self._gone(command)
        try:
            try:
                return self._run(self._client.execute(command, dict(arguments)), seconds)
            finally:
                self._hear()
        except ExecuteError as error:
            raise errors.GuestFailed(f"{self.name} refuses {command}: "
                                     f"{errors.shown(str(error))}") from None
        except asyncio.TimeoutError:
            raise errors.GuestFailed(f"{self.name} does not answer {command} in {seconds:g} s"
                                     ) from None
        except (QMPError, OSError, EOFError):
            self.close()
            raise self._gone(command) from None

    def _gone(self, command: str) -> errors.GuestFailed:
        error = errors.GuestFailed(f"{self.name} hung up, at {command}",
                                   do=f"see whether {self.name} still runs")
        error.gone = True
        return error

    def _hear(self) -> bool:
        """Note the events that have come; whether there were any."""
        came = self._events.clear()
        self.heard.update((str(event["event"]), time.monotonic()) for event in came)
        return bool(came)

    def wait_for_event(self, seconds: float) -> None:
        """Return once an event comes, at the latest after so many seconds."""
        if self._client is None or self._hear():
            return
        try:
            event = self._run(self._events.get(), seconds)
            self.heard[str(event["event"])] = time.monotonic()
        except asyncio.TimeoutError:
            pass

    def close(self) -> None:
        """Hang up; may be called again."""
        client, self._client = self._client, None
        if client is not None:
            try:
                self._run(client.disconnect(), GREETS)
            except Exception:  # noqa: B902 - the library raises here what ended the connection
                pass
        self._loop.close()

"""Sockets in the lab's network: a QMP client, and a cable between two QEMUs that can be cut."""
from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.lab.bed import GATEWAY, Lab

_CLONE_NEWNET = 0x40000000
Json = dict[str, Any]


class Sockets:
    """Makes sockets in the lab's network namespace, which only the lab's own thread is in."""

    def __init__(self, bed: Lab) -> None:
        self._inhabitant = bed.namespace.popen(["sleep", "infinity"], stdin=subprocess.DEVNULL)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        self._closed = threading.Event()

    def _enter(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        handle = os.open(f"/proc/{self._inhabitant.pid}/ns/net", os.O_RDONLY)
        try:
            if library.setns(handle, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(handle)

    def connect(self, address: str, port: int, timeout: float = 10) -> socket.socket:
        """A connection from the machine to a host."""
        return self._thread.submit(socket.create_connection, (address, port), timeout).result()

    def listen(self) -> socket.socket:
        """A listening socket where the hosts reach it."""
        return self._thread.submit(socket.create_server, (GATEWAY, 0)).result()

    def nudge(self, addresses: list[str]) -> None:
        """From now on send each of these hosts an empty datagram now and then.

        Emulated, a host whose guest is busy sometimes misses its timer's interrupt and then sleeps
        until another comes.
        """
        line = self._thread.submit(socket.socket, socket.AF_INET, socket.SOCK_DGRAM).result()

        def send() -> None:
            with line:
                while not self._closed.wait(0.25):
                    for address in addresses:
                        try:
                            line.sendto(b"", (address, 9))
                        except OSError:
                            pass    # it says that nobody listens

        threading.Thread(target=send, daemon=True).start()

    def close(self) -> None:
        """End the threads and what holds the namespace open."""
        self._closed.set()
        self._thread.shutdown()
        self._inhabitant.kill()
        self._inhabitant.wait()


class QmpError(Exception):
    """QEMU refused a command, or is gone."""


class Qmp:
    """A QEMU's monitor; events are passed on as they come."""

    def __init__(self, line: socket.socket, heard: Callable[[str, Json], None]) -> None:
        line.settimeout(None)
        self._line, self._heard = line, heard
        self._answers: list[Json] = []
        self._changed = threading.Condition()
        self._number = 0
        self.gone = False
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        self("qmp_capabilities")

    def __call__(self, command: str, timeout: float = 60, **arguments: Any) -> Any:
        """Execute a command.

        :raises QmpError: its words, or that QEMU is gone.
        """
        with self._changed:
            self._number += 1
            number = self._number
        request = {"execute": command, "arguments": arguments, "id": number}
        try:
            self._line.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"{command}: {error.strerror}") from None
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for answer in self._answers:
                    if answer["id"] == number:
                        self._answers.remove(answer)
                        if "error" in answer:
                            raise QmpError(answer["error"]["desc"])
                        return answer["return"]
                left = deadline - time.monotonic()
                if self.gone or left < 0:
                    raise QmpError(f"{command}: " + ("QEMU is gone" if self.gone else "no answer"))
                self._changed.wait(left)

    def close(self) -> None:
        """Hang up."""
        try:
            self._line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._reader.join(5)
        self._line.close()

    def _listen(self) -> None:
        try:
            with self._line.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "event" in message:
                        self._heard(message["event"], message.get("data", {}))
                    elif "id" in message:
                        with self._changed:
                            self._answers.append(message)
                            self._changed.notify_all()
        except (OSError, ValueError):
            pass
        finally:
            with self._changed:
                self.gone = True
                self._changed.notify_all()


class Cable:
    """What the migration runs through: a port of ours that leads to a port of the destination.

    `hold` keeps back what goes in one direction, "forth" or "back" (which is the return path);
    `cut` resets both ends, as a host's firewall or a router that comes back would.
    """

    def __init__(self, sockets: Sockets, address: str, port: int = 0) -> None:
        """``port``: the destination's; 0: that of ours."""
        self._server = sockets.listen()
        self.port = self._server.getsockname()[1]
        self._sockets, self._to = sockets, (address, port or self.port)
        self._held: set[str] = set()
        self._ends: list[socket.socket] = []
        self.kept = 0       # bytes that wait on the return path
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def hold(self, *directions: str) -> None:
        """From now on nothing gets through in these directions."""
        self._held.update(directions)

    def cut(self) -> None:
        """Reset the connection."""
        self._closed.set()
        self._thread.join(10)

    def _carry(self) -> None:
        self._server.settimeout(0.1)
        while not self._closed.is_set():
            try:
                near = self._server.accept()[0]
                break
            except TimeoutError:
                continue
        else:
            self._server.close()
            return
        self._server.close()
        try:
            far = self._sockets.connect(*self._to)
        except OSError:
            near.close()
            return
        self._ends = [near, far]
        try:
            while not self._closed.is_set():
                watched = [one for one, way in ((near, "forth"), (far, "back"))
                           if way not in self._held]
                if not watched:
                    self._closed.wait(0.02)
                    continue
                for one in select.select(watched, [], [], 0.02)[0]:
                    data = one.recv(1 << 20)
                    if not data:
                        return
                    (far if one is near else near).sendall(data)
        except OSError:
            pass
        finally:
            for one in (near, far):
                if self._closed.is_set():
                    # Linger of 0 s: a reset, not an orderly end.
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.close()

"""One host: a kernel of its own as a process, and the line to the agent inside it."""
from __future__ import annotations

import itertools
import os
import pickle
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import inside, wire
from .errors import HostDied, HostTimeout, LabError, NotClean
from .kernels import Kernel

if TYPE_CHECKING:
    from .bed import Lab

T = TypeVar("T")
_PATIENCE = 30      # seconds it may leave a message unread, as it does while it imports
_GRACE = 5      # seconds a host has to report the end of what it was told to kill


class Host:
    """A host of the bed.  Made by `Lab.host`; boots again after `kill` with `boot`."""

    boot_seconds = 60
    memory = "512M"     # of the next boot

    def __init__(self, bed: Lab, name: str, kernel: Kernel, address: str, tap: str) -> None:
        self.bed = bed
        self.name = name
        self.role = kernel.role
        self.kernel = kernel
        self.release = kernel.release
        self.address = address
        self.tap = tap
        self.boot_id = ""
        self.console = bed.consoles / f"{name}.console"
        self._home = bed.folder / "hosts" / name
        self._machine_id = uuid.uuid4().hex
        self._process: subprocess.Popen[Any] | None = None
        self._line: _Line | None = None

    def __repr__(self) -> str:
        return f"<host {self.name}: {self.role} kernel {self.release}, {self.address}>"

    # ── power ────────────────────────────────────────────────────────────────────────────────

    def boot(self) -> Host:
        """Switch the host on and wait until its agent answers."""
        if self.alive:
            raise LabError(f"{self.name} is on already")
        self._write_home()
        ours, its = socket.socketpair()
        with its, self.console.open("ab") as console:
            self._process = self.bed.namespace.popen(
                self._command(its.fileno()), sealed=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=console, cwd="/",
                pass_fds=[its.fileno()], env={**os.environ, "HOME": str(self._home),
                                              "TMPDIR": self.bed.memory_folder})
        self._line = _Line(self, ours)
        try:
            kind, *rest = self._line.open(0).get(timeout=self.boot_seconds)
        except queue.Empty:
            self.kill()
            raise HostTimeout(self.told(
                f"{self.name} did not boot in {self.boot_seconds} s")) from None
        if kind != "hello":
            raise HostDied(self.told(f"{self.name} died while booting"))
        self.release, self.boot_id = rest[0]["release"], rest[0]["boot"]
        return self

    def kill(self) -> None:
        """A power cut: nothing is written any more, everything in memory is gone."""
        process, self._process = self._process, None
        if process:
            try:
                process.wait(0.2 if self._line and self._line.closed else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._line:
            self._line.close()

    @property
    def alive(self) -> bool:
        """Whether the host's kernel runs (not whether it answers)."""
        return self._process is not None and self._process.poll() is None

    def _write_home(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        values = {
            "LAB_NAME": self.name, "LAB_ADDRESS": f"{self.address}/15",
            "LAB_MACHINE_ID": self._machine_id, "LAB_KERNEL": str(self.kernel.root),
            "LAB_SHARED": str(self.bed.shared), "LAB_OWN": " ".join(inside.OWN),
            "LAB_CHECKOUT": str(CHECKOUT), "LAB_PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "HOME": "/root",
            "LANG": "C.UTF-8", "TERM": "dumb",
            # Where this Python keeps its compiled modules, or each boot would compile them.
            "PYTHONPYCACHEPREFIX": sys.pycache_prefix or "",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        text = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in values.items())
        (self._home / "env").write_text(text)
        (self._home / "init").write_bytes(Path(__file__).with_name("init.sh").read_bytes())
        (self._home / "init").chmod(0o755)

    def _command(self, line: int) -> list[str]:
        command = [
            str(self.kernel.linux), f"mem={self.memory}", f"umid={self.name}",
            f"uml_dir={self._home}/", "rootfstype=hostfs", "rootflags=/", "ro",
            f"init={self._home}/init", f"LAB_HOME={self._home}",
            "con=null", "con0=null,fd:2", f"ssl0=fd:{line}",
            f"vec0:transport=tap,ifname={self.tap},depth=64,gro=1",
            "panic=-1", "quiet", "random.trust_cpu=on"]
        if _release(self.kernel.release) >= (6, 16):
            # A host's processes then work together with its kernel instead of being traced by it
            # (arch/um/os-Linux/start_up.c), which takes half as long; where this machine refuses
            # that, they are traced.
            command.append("seccomp=auto")
        if self.bed.disk:
            command.append(f"ubd0c={self.bed.disk}")
        return command

    # ── running things ───────────────────────────────────────────────────────────────────────

    def call(self, function: Callable[..., T], *args: Any, timeout: float = 60,
             **keywords: Any) -> T:
        """Run an importable function in a fork of the host's agent; return what it returns.

        What it raises is raised here, with the traceback of over there as a note.
        """
        if function.__module__ == "__main__":
            raise LabError(f"{function!r} is in no module that a host could import")
        line = self._connected()
        body = pickle.dumps((function, args, keywords), pickle.HIGHEST_PROTOCOL)
        ident, events = line.start("call", function.__module__, body)
        what = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        try:
            event = self._next(events, time.monotonic() + timeout)
            if event is None:
                sentence = f"{what} did not end on {self.name} in {timeout} s"
                if not self._stop(ident, events):
                    sentence += f" and cannot be killed:\n{self._blocked()}\n"
                raise HostTimeout(self.told(sentence))
        finally:
            line.forget(ident)
        _, code, result = event
        if not result:
            raise LabError(self.told(
                f"{what} ended on {self.name} without a result (exit {code})"))
        ok, value, trace = pickle.loads(result)
        if ok:
            if trace:
                raise LabError(f"{what} on {self.name}: {trace}")
            return value    # type: ignore[no-any-return]
        if value is None:
            raise LabError(f"{what} failed on {self.name}:\n{trace}")
        value.add_note(f"on {self.name} ({self.release}):\n{trace}")
        raise value

    def run(self, argv: Sequence[str | Path], input: bytes = b"",    # noqa: A002 - subprocess's
            timeout: float = 30, check: bool = True, env: Mapping[str, str] | None = None,
            cwd: str | Path | None = None, text: bool = True
            ) -> subprocess.CompletedProcess[Any]:
        """Run a program in the host, as subprocess.run does; `text` decodes what it wrote."""
        program = self.popen(argv, input, env=env, cwd=cwd)
        try:
            code = program.wait(timeout)
        except HostTimeout:
            program.kill()
            raise
        out, err = program.stdout_so_far(), program.stderr_so_far()
        done = subprocess.CompletedProcess(
            program.argv, code, *((out.decode(errors="replace"), err.decode(errors="replace"))
                                  if text else (out, err)))
        if check and code:
            error = subprocess.CalledProcessError(code, program.argv, done.stdout, done.stderr)
            error.add_note(f"on {self.name} ({self.release}):\n"
                           + (err or out).decode(errors="replace"))
            raise error
        return done

    def popen(self, argv: Sequence[str | Path], input: bytes = b"",  # noqa: A002 - subprocess's
              env: Mapping[str, str] | None = None, cwd: str | Path | None = None) -> Program:
        """Start a program in the host and leave it running."""
        words = [str(word) for word in argv]
        line = self._connected()
        ident, events = line.start("spawn", words, input, dict(env or {}),
                                   str(cwd) if cwd else str(CHECKOUT))
        return Program(self, line, ident, events, words)

    def wipe(self) -> None:
        """Take away all that a test left, and prove that nothing is left."""
        leftovers = self.call(inside.wipe, timeout=45)
        if leftovers:
            raise NotClean(f"{self.name} ({self.release}) still has after a wipe:\n  "
                           + "\n  ".join(leftovers))

    def _connected(self) -> _Line:
        if not self.alive or self._line is None:
            raise HostDied(self.told(f"{self.name} is off"))
        return self._line

    def _next(self, events: queue.Queue[Any], deadline: float) -> Any:
        """The next word about a job, or None when the time is over."""
        try:
            event = events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if event[0] == "gone":
            self.kill()     # what is left of it is a program that writes its last words
            raise HostDied(self.told(f"{self.name} died"))
        return event

    def _stop(self, ident: int, events: queue.Queue[Any]) -> bool:
        """Kill a job that took too long; False where it is stuck in the kernel."""
        if self._line:
            self._line.send("signal", ident, signal.SIGKILL)
        return self._next(events, time.monotonic() + _GRACE) is not None

    def _blocked(self) -> str:
        """Where in the kernel this host's processes are stuck."""
        try:
            said = str(self.run(["sh", "-c", "echo w >/proc/sysrq-trigger; dmesg"],
                                timeout=_GRACE, check=False).stdout)
            return "".join(said.rpartition("sysrq: Show Blocked State")[1:])
        except LabError:
            return "(and it does not answer)"

    def told(self, sentence: str) -> str:
        """A sentence about this host, with what its console says."""
        return f"{sentence}; its console ({self.console}) ends:\n{self.console_tail()}"

    def console_tail(self, lines: int = 60) -> str:
        """The last lines of the console."""
        if not self.console.exists():
            return "(empty)"
        text = self.console.read_bytes()[-16384:].decode(errors="replace")
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])


class Program:
    """A program running in a host."""

    def __init__(self, host: Host, line: _Line, ident: int, events: queue.Queue[Any],
                 argv: list[str]) -> None:
        self.host = host
        self.argv = argv
        self.returncode: int | None = None
        self._line = line
        self._ident = ident
        self._events = events
        self._output = {1: bytearray(), 2: bytearray()}

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        while self.returncode is None:
            event = self.host._next(self._events, 0)
            if event is None:
                break
            self._take(event)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end; it is not killed when that takes too long."""
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            event = self.host._next(self._events, deadline)
            if event is None:
                raise HostTimeout(self.host.told(
                    f"{shlex.join(self.argv)} did not end on {self.host.name} in {timeout} s; "
                    f"it said: {bytes(self._output[1] + self._output[2])[-1000:]!r}"))
            self._take(event)
        return self.returncode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to what it started."""
        self._line.send("signal", self._ident, int(number))

    def stdout_so_far(self) -> bytes:
        """What it has written by now."""
        self.poll()
        return bytes(self._output[1])

    def stderr_so_far(self) -> bytes:
        """What it has complained about by now."""
        self.poll()
        return bytes(self._output[2])

    def _take(self, event: tuple[Any, ...]) -> None:
        if event[0] == "output":
            self._output[event[1]] += event[2]
        else:
            self.returncode = event[1]
            self._line.forget(self._ident)


class _Line:
    """The lab's end of the serial line: one thread sorts what arrives to who waits for it."""

    def __init__(self, host: Host, line: socket.socket) -> None:
        self._host = host
        self._socket = line
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.Queue[Any]] = {}
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._window = wire.WINDOW
        self._sending = threading.Lock()
        self.closed = False
        threading.Thread(target=self._listen, name=f"lab-{host.name}", daemon=True).start()

    def open(self, ident: int) -> queue.Queue[Any]:
        """A queue of all that is said about one job."""
        with self._lock:
            events: queue.Queue[Any] = self._waiting.setdefault(ident, queue.Queue())
            if self.closed:
                events.put(("gone",))
            return events

    def forget(self, ident: int) -> None:
        """Nobody waits for this job any more."""
        with self._lock:
            self._waiting.pop(ident, None)

    def start(self, kind: str, *rest: Any) -> tuple[int, queue.Queue[Any]]:
        """Ask for a job; return its number and where its events will be."""
        ident = next(self._numbers)
        events = self.open(ident)
        self.send(kind, ident, *rest)
        return ident, events

    def send(self, *message: Any) -> None:
        """Say something to the agent, no faster than it takes it."""
        data = memoryview(wire.encode(message))
        deadline = time.monotonic() + _PATIENCE
        with self._sending:
            while data:
                with self._lock:
                    if not self._taken.wait_for(lambda: self.closed or self._window > 0,
                                                max(0.0, deadline - time.monotonic())):
                        raise HostTimeout(self._host.told(f"{self._host.name} takes no messages"))
                    if self.closed:
                        raise HostDied(self._host.told(f"{self._host.name} died"))
                    chunk, data = data[:self._window], data[self._window:]
                    self._window -= len(chunk)
                try:
                    self._socket.sendall(chunk)
                except OSError:
                    raise HostDied(self._host.told(f"{self._host.name} died")) from None

    def close(self) -> None:
        """Hang up; who still waits is told."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _listen(self) -> None:
        decoder = wire.Decoder()
        try:
            while data := self._socket.recv(1 << 16):
                for kind, ident, *rest in decoder.feed(data):
                    with self._lock:
                        if kind == "took":
                            self._window += rest[0]
                            self._taken.notify()
                            continue
                        events = self._waiting.get(ident)
                    if events:
                        events.put((kind, *rest))
        except (OSError, ValueError) as error:
            print(f"lab: the line to {self._host.name}: {error}", file=sys.stderr)
        finally:
            with self._lock:
                self.closed = True
                self._taken.notify_all()
                for events in self._waiting.values():
                    events.put(("gone",))
            self._socket.close()


def _release(name: str) -> tuple[int, ...]:
    """(7, 2) for "7.2.7"."""
    return tuple(map(int, re.findall(r"\d+", name)[:2]))


CHECKOUT = Path(__file__).resolve().parents[2]

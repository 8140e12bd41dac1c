"""What tests of sessions run in a lab host."""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

from lio_handover.handover.engine import Reply
from lio_handover.host.memory import Memory
from lio_handover.kernel.configfs import Configfs
from lio_handover.protocol.messages import Message
from tests.support import inbus, inhandover, inmove, inwindow

SOCKET = "/run/test-session"
BUS = "/run/dbus/system_bus_socket"

stop_service = inmove.stop_service


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_until_gone(pid: int, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until, f"process {pid} does not end"
        time.sleep(0.02)


def configure(more: str) -> None:
    Path(f"{inbus.CONFIG}.d", "session.conf").write_text(more)


# ── a session without the service ────────────────────────────────────────────────────────────

def start() -> int:
    """A process that stays between two verbs, with what it remembers, as the service has one."""
    Path(SOCKET).unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        until = time.monotonic() + 20
        while not os.path.exists(SOCKET):
            assert time.monotonic() < until
            time.sleep(0.01)
        return pid
    try:
        os.setsid()
        counting, memory = inwindow.Counting(), Memory()
        with Listener(SOCKET, "AF_UNIX") as listener:
            while True:
                with listener.accept() as line:
                    asked = line.recv()
                    if asked is None:
                        line.send(os.getpid())
                        return 0
                    verb, role, id, messages, more, point, records = asked  # noqa: A001
                    points = inhandover.Points(point, records, kinds=True)
                    if point:
                        points.install()
                    line.send(_answer(counting, memory, verb, role, id, messages, more))
                    points.point = 0
    finally:
        os._exit(0)


def _answer(counting: inwindow.Counting, memory: Memory, verb: str, role: str,
            id: str, messages: Sequence[Message], more: dict[str, Any]  # noqa: A002
            ) -> inwindow.Counted | Exception:
    engine = inhandover.handovers()
    engine.core.fs, engine.core.memory = memory.fs, memory
    memory.begin(verb)
    counting.clear()
    try:
        answer = engine.do(verb, role, id, messages=messages, **more)
        return counting.of(answer)
    except Exception as error:  # noqa: B902 - it is the caller's
        return error


def do(verb: str, role: str, id: str = "", messages: Sequence[Message] = (),  # noqa: A002
       **more: Any) -> inwindow.Counted:
    """A verb, run by the session."""
    with Client(SOCKET, "AF_UNIX") as line:
        line.send((verb, role, id, messages, more, 0, False))
        answer = line.recv()
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, inwindow.Counted)
    return answer


def crash(point: int, verb: str, role: str, id: str,  # noqa: A002
          messages: Sequence[Message] = (), records: bool = False, **more: Any
          ) -> tuple[bool, Reply | None]:
    """(whether the session was killed at that point of a verb, its answer if it ended before);
    another session then follows, which remembers nothing."""
    try:
        with Client(SOCKET, "AF_UNIX") as line:
            line.send((verb, role, id, messages, more, point, records))
            answer = line.recv()
    except (EOFError, ConnectionResetError):
        start()
        return True, None
    if isinstance(answer, Exception):
        raise answer
    return False, answer.answer


def start_again() -> None:
    """Another session, which remembers nothing; none need be there."""
    end_any()
    start()


def end_any() -> None:
    """The session ends, where there is one."""
    try:
        end()
    except OSError:
        pass


def end() -> None:
    """The session ends."""
    with Client(SOCKET, "AF_UNIX") as line:
        line.send(None)
        pid = line.recv()
    wait_until_gone(pid)


# ── what is seen, and what others do ─────────────────────────────────────────────────────────

def records(id: str) -> list[dict[str, Any]]:  # noqa: A002
    """A journal's records, without times and the kernel's own numbers."""
    path = Path(inhandover.FOLDER, "handovers", id, "journal")
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: value for name, value in record.items() if name not in ("at", "inodes")}
            for record in found]


def echo(path: str, text: str) -> None:
    """What a shell does."""
    subprocess.run(["sh", "-ec", f"echo {text} >{Configfs().path(path)}"], check=True)


def make(path: str) -> None:
    subprocess.run(["mkdir", Configfs().path(path)], check=True)


def relink(folder: str, store: str) -> None:
    """A LUN's link, removed where there is one, and made by another name."""
    path = Path(Configfs().path(folder))
    for link in [entry for entry in path.iterdir() if entry.is_symlink()]:
        subprocess.run(["rm", str(link)], check=True)
    subprocess.run(["ln", "-s", Configfs().path(store), str(path / "other")], check=True)


def by_rtslib(initiator: str) -> None:
    """What a script does that uses rtslib: an attribute of an ACL."""
    subprocess.run(["python3", "-c", f"""
from rtslib_fb import RTSRoot
acl, = [acl for acl in RTSRoot().node_acls if acl.node_wwn == {initiator!r}]
acl.set_attribute("nopin_timeout", "33")
"""], check=True)


def by_targetcli(iqn: str) -> None:
    """What an administrator does: another ACL.  targetcli looks for tcmu's programs on the bus."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(BUS)
    except OSError:  # there is none, or a wipe has ended it
        inbus.start_bus()
    done = subprocess.run(["targetcli"], capture_output=True, text=True, input=(
        f"/iscsi/{iqn}/tpg1/acls create iqn.2026-11.org.example:another\nexit\n"))
    if "Created Node ACL" not in done.stdout:
        raise subprocess.CalledProcessError(done.returncode, "targetcli", done.stdout, done.stderr)


def limit_watches(most: int) -> int:
    """This host's limit of inotify's watches from now on; what it was."""
    path = Path("/proc/sys/fs/inotify/max_user_watches")
    before = int(path.read_text())
    path.write_text(f"{most}\n")
    return before

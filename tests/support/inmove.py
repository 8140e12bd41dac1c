"""What tests of a move run inside lab hosts: sshd with the test's own keys, lines that break."""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from lio_handover import dbus_names, errors
from lio_handover.client import ssh
from lio_handover.drivers import move
from lio_handover.drivers.move import STEPS, Move
from tests.support import inbus

PROGRAM = ["/usr/bin/lio-handover"]
#: The service of one version later; what it does is the same.
LATER = """
import sys
sys.path.insert(0, "/usr/lib/lio-handover")
from lio_handover import dbus_names as names
from lio_handover.document import document
names.API_VERSION += 1
document.VERSION += 1
from lio_handover.service.main import main
sys.exit(main())
"""


def make_keys(folder: Path) -> None:
    """A host key and a user's key, for this test alone."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                       check=True, stdin=subprocess.DEVNULL)


def serve_ssh(folder: str) -> None:
    """sshd that lets the user's key in as root, and nothing else."""
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    os.makedirs("/run/keys", mode=0o700, exist_ok=True)
    for name in ("host", "user.pub"):
        Path("/run/keys", name).write_bytes(Path(folder, name).read_bytes())
        os.chmod(f"/run/keys/{name}", 0o600)
    Path("/run/keys/sshd.conf").write_text(
        "HostKey /run/keys/host\nAuthorizedKeysFile /run/keys/user.pub\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPidFile none\nUseDNS no\n")
    subprocess.run(["/usr/sbin/sshd", "-f", "/run/keys/sshd.conf"], check=True)


def reach(folder: str, hosts: dict[str, str]) -> None:
    """What an administrator would have set up: names, keys, and whom to trust."""
    home = Path("/root/.ssh")
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "lab").write_bytes(Path(folder, "user").read_bytes())
    (home / "lab").chmod(0o600)
    key = Path(folder, "host.pub").read_text()
    (home / "known_hosts").write_text("".join(
        f"{name},{address} {key}" for name, address in hosts.items()))
    (home / "config").write_text("".join(
        f"Host {name}\n HostName {address}\n User root\n IdentityFile /root/.ssh/lab\n"
        f" IdentitiesOnly yes\n StrictHostKeyChecking yes\n" for name, address in hosts.items()))


def versions() -> tuple[int, int]:
    """Of the API and of documents, as this host's service says."""
    about = ssh.RemoteService().about()
    return about.api, about.document


def lines(name: str = "ssh") -> list[int]:
    """The ssh processes that this one has begun."""
    own = Path(f"/proc/{os.getpid()}/task").iterdir()
    children = [pid for task in own for pid in (task / "children").read_text().split()]
    return [int(pid) for pid in children
            if Path(f"/proc/{pid}/comm").read_text().strip() == name
            and Path(f"/proc/{pid}/cmdline").read_bytes()]  # else it is dead, and not yet buried


class Breaking(ssh.RemoteService):
    """A line that breaks at one step, before or after the verb is done there, and stays broken."""

    def __init__(self, where: str, point: int, after: bool) -> None:
        super().__init__(where)
        self.point, self.after = point, after
        self.count, self.broken = 0, False

    def _connect(self) -> Any:
        if self.broken:
            raise errors.PeerUnreachable("the line is cut")
        return super()._connect()

    def verb(self, verb: str, *args: Any, **more: Any) -> Any:
        self.count += verb != "status" and not self.broken
        if self.count == self.point and not self.broken:
            if self.after:
                super().verb(verb, *args, **more)
            self.broken = True
            found = lines()
            assert found
            for pid in found:
                os.kill(pid, signal.SIGKILL)
        return super().verb(verb, *args, **more)


def cut(target: str, to: str, here: str, name: str, after: bool) -> str:
    """A move whose line breaks at a step of the destination; what it says."""
    move.RETRY_SECONDS = 0.2
    theirs = [one.name for one in STEPS if one.role == "destination"]
    made = Move(ssh.RemoteService(), Breaking(to, theirs.index(name) + 1, after))
    try:
        made.run([target], here=here)
    except errors.HandoverError as error:
        return str(error)
    return ""


def halfway(target: str, to: str, here: str, count: int) -> str:
    """A move whose driver is gone after so many steps; the handover's id."""
    made = Move(ssh.RemoteService(), ssh.RemoteService(to))
    options: dict[str, dict[str, Any]] = {
        "prepare": {"targets": [target], "mode": "iscsi", "peer": to}, "stage": {"peer": here}}
    for number, step in enumerate(STEPS[:count]):
        answer = made._do(number, step, options.get(step.name, {}))
        assert answer
        made._answers[step.name] = answer
    return made.id


def service_pid() -> int:
    return int(inbus.connect().call_blocking(
        "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
        "GetConnectionUnixProcessID", "s", (dbus_names.BUS_NAME,)))


def stop_service() -> None:
    """The service of this host ends, as its unit ends it."""
    bus = inbus.connect()
    os.kill(service_pid(), signal.SIGTERM)
    until = time.monotonic() + 20
    while bus.name_has_owner(dbus_names.BUS_NAME):
        assert time.monotonic() < until
        time.sleep(0.05)


def begin_move(target: str, given: dict[str, Any]) -> str:
    """The job of Manager.Move, of one target or (where a move goes on) of none."""
    import dbus
    targets = dbus.Array([target] if target else [], signature="s")
    return str(inbus.Client().manager("Move", "asa{sv}", targets, inbus.options(given)))


def refusal(target: str, given: dict[str, Any]) -> str:
    """The name of the error that a call of Manager.Move ends with."""
    return inbus.Client().error(dbus_names.ROOT, dbus_names.MANAGER, "Move", "asa{sv}", [target],
                                inbus.options(given))


def move_by_service(target: str, given: dict[str, Any], cancel_at: str = "") -> dict[str, Any]:
    """A job of Manager.Move, cancelled in that phase: its properties at the end, and ``heard``:
    (step, details) of each signal about its progress."""
    import dbus.bus
    from dbus.mainloop.glib import DBusGMainLoop
    from gi.repository import GLib
    heard: list[tuple[Any, Any]] = []
    job = begin_move(target, given)
    client = inbus.Client()

    def changed(_interface: Any, _values: Any, invalid: Any) -> None:
        if "Step" in invalid:  # the signal says no more than that
            now = inbus.plain(client.get(job, dbus_names.JOB))
            heard.append((now["Step"], now["Details"]))

    listener = dbus.bus.BusConnection(inbus.SYSTEM, mainloop=DBusGMainLoop())
    listener.add_signal_receiver(changed, "PropertiesChanged", dbus_names.PROPERTIES,
                                 dbus_names.BUS_NAME, arg0=dbus_names.JOB, path=job)
    cancelled = not cancel_at
    while True:
        while GLib.MainContext.default().iteration(False):
            pass
        now = inbus.plain(client.get(job, dbus_names.JOB))
        if not cancelled and now["Details"].get("phase") == cancel_at:
            cancelled = True
            cancel(job)
        if now["State"] not in ("running", "cancelling"):
            break
        time.sleep(0.02)
    listener.close()
    return {**client.job(job), "heard": heard}


def move_with_monitors(target: str, given: dict[str, Any], here: str, there: str,
                       cancel_at: str = "") -> dict[str, Any]:
    """As `move_by_service`; connections to these two sockets are handed in."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.connect(here)
        other.connect(there)
        return move_by_service(target, {
            **given, "guest-fds": inbus.descriptors(one.fileno()),
            "guest-there-fds": inbus.descriptors(other.fileno())}, cancel_at)


def lend(*paths: str) -> None:
    """Let everybody connect to these sockets, once they are there."""
    until = time.monotonic() + 60
    for path in paths:
        while not os.path.exists(path):
            assert time.monotonic() < until, path
            time.sleep(0.1)
        os.chmod(path, 0o666)


def wait_for_phase(job: str, phase: str, seconds: float = 20) -> None:
    client, until = inbus.Client(), time.monotonic() + seconds
    while inbus.plain(client.get(job, dbus_names.JOB))["Details"].get("phase") != phase:
        assert time.monotonic() < until
        time.sleep(0.1)


def cancel(job: str) -> str:
    """The state of a job that is told to end, right after that."""
    inbus.Client().call(job, dbus_names.JOB, "Cancel", "a{sv}", inbus.options({}))
    return str(inbus.get(job, dbus_names.JOB)["State"])


def hold_workers(go_on: bool = False) -> None:
    """The workers of this host's service make no step any more, or go on."""
    pid, until = service_pid(), time.monotonic() + 20
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        workers = [int(child) for child in children if Path(
            f"/proc/{child}/cmdline").read_bytes().endswith(b".service.worker\0")]
        if workers:
            break
        assert time.monotonic() < until
        time.sleep(0.02)
    for worker in workers:
        os.kill(worker, signal.SIGCONT if go_on else signal.SIGSTOP)


def recover_by_daemon(id: str) -> dict[str, Any]:  # noqa: A002
    """What the service makes of it, as ``recover --json`` has it."""
    client = inbus.Client()
    job = client.job(inbus.object_verb(client, id, "Recover"))
    assert job["State"] == "done", job
    result: dict[str, Any] = job["Result"]
    return result


def commands(line: str) -> list[tuple[str, list[str]]]:
    """(host or "", words) of each command that a line tells to run, in order; the last resort is
    not among them."""
    said = line.partition("; next: ")[2].partition("; if ")[0]
    return [(host, words.split()) for host, words in re.findall(
        r"(?:on (\w+): )?lio-handover ((?:recover|move --resume) [0-9a-f-]{36}(?: --to \w+)?)",
        said)]

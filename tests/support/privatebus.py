"""The service on a private bus of this machine, which has no target."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support import inbus
from tests.support.inbus import CHECKOUT, Client

BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{policy}</include>
  {more}
</busconfig>
"""
POLICY = CHECKOUT / "etc" / "dbus-1" / "io.github.lio_handover1.conf"
#: For a bus on which polkit may be.
POLKIT = """<policy user="root"><allow own="org.freedesktop.PolicyKit1"/></policy>
<policy context="default"><allow send_destination="org.freedesktop.PolicyKit1"/></policy>"""
#: A daemon whose workers are tests/support/instandin_worker.py.
STANDIN = """
import functools
from lio_handover.client.worker_process import WorkerPool
from lio_handover.service import workers
workers.WorkerPool = functools.partial(WorkerPool, module="tests.support.instandin_worker")
"""


def with_ssh(program: str) -> list[str]:
    """Before a command: it finds this program in ssh's place, by mounts of its own."""
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-ec",
            'mount --bind "$0" /usr/bin/ssh; exec "$@"', program]


class Bus:
    """A private bus with the shipped policy, and the daemon on it; its host knows of a handover.

    ``patch``: Python that the daemon runs before it begins; ``ssh``: a program that it finds in
    ssh's place.
    """

    def __init__(self, folder: Path, more: str = "", settings: str = "", patch: str = "",
                 ssh: str = "") -> None:
        folder.chmod(0o755)
        self.within = with_ssh(ssh) if ssh else []
        self.folder, self.address, self.patch = folder, f"unix:path={folder}/bus", patch
        (folder / "bus.conf").write_text(BUS.format(folder=folder, policy=POLICY, more=more))
        self.config = folder / "lio-handover.conf"
        self.config.write_text(f"[host]\nstate_directory = {folder}/state\nkey = {folder}/key\n"
                               f"[limits]\ndocument = 1M\n{settings}")
        self.bus_state = f"{folder}/state"
        self.handover = inbus.handover_here(self.bus_state)
        self._programs = [subprocess.Popen(
            ["dbus-daemon", "--nofork", f"--config-file={folder}/bus.conf"])]
        wait_until(self._listens)
        (folder / "bus").chmod(0o777)
        self.daemon = self.start()
        inbus.wait_for_name(self.address)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line:
            return line.connect_ex(f"{self.folder}/bus") == 0

    def start(self) -> subprocess.Popen[Any]:
        program = [str(CHECKOUT / "scripts" / "lio-handoverd")]
        if self.patch:
            program = ["-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{self.patch}\n"
                       "from lio_handover.service.main import main; sys.exit(main())"]
        with (self.folder / "log").open("ab") as log:
            self._programs.append(subprocess.Popen(
                [*self.within, sys.executable, *program, "--bus", self.address,
                 "--config", str(self.config)], stderr=log))
        return self._programs[-1]

    def workers(self) -> list[int]:
        """Processes of the daemon that carry out verbs, or wait to."""
        pid = self.daemon.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(one) for one in children
                if Path(f"/proc/{one}/cmdline").read_bytes().endswith(b".service.worker\0")]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Whatever is begun meanwhile makes no step."""
        wait_until(lambda: bool(self.workers()))
        stopped = self.workers()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def client(self) -> Client:
        return Client(self.address)

    def stop(self) -> None:
        for one in reversed(self._programs):
            one.terminate()
            one.wait(20)


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)

"""lio-handover-vmstate on two hosts with the service that reach each other, as its units start
it."""
from __future__ import annotations

import time

from lio_handover.host.guests import BUS
from lio_handover.records.journal import Handover
from tests.lab.host import Host, Program
from tests.support import inhandover, inmove, invmstate

#: The object by which QEMU asks it.
OBJECT = ("-object", f"dbus-vmstate,id=lio,addr={BUS.format(name=invmstate.GUEST)},"
          f"id-list={invmstate.ID}")
#: An emulated host takes its time.
MORE = "deadline = 20\npatience = 300\n"


class Helpers:
    """Hosts a and b, to each other, and the helper of a guest on each, once it is started."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts
        self.programs: dict[str, Program] = {}

    def helpers(self, target: str) -> None:
        """Start the guest's bus and helper on both hosts."""
        for host in self.hosts:
            host.call(invmstate.configure, [target], MORE)
            host.call(invmstate.start_bus)
            self.help(host)
        for host in self.hosts:
            host.call(invmstate.wait_for_helper, 150, timeout=180)

    def help(self, host: Host) -> None:
        """Start the helper."""
        self.programs[host.name] = host.popen(host.call(invmstate.sandboxed))

    def rest(self) -> None:
        """Wait until the helpers' next processes have loaded all that they want."""
        for host in self.hosts:
            host.call(invmstate.rests, timeout=120)

    def told(self, host: Host) -> str:
        """What the helper has said."""
        if host.name not in self.programs:
            return ""
        said: bytes = self.programs[host.name].stderr_so_far()
        return said.decode()

    def stage(self, target: str) -> str:
        """Make b ready by the command, as people type it; what the command says."""
        done = self.hosts[0].run(
            [*inmove.PROGRAM, "move", target, "--to", "b", "--here", "a", "--mode", "vhost-inband",
             "--allow", "all-tg-pt"], timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    def states(self) -> list[str]:
        """Where the last handover stands on both hosts."""
        found: list[list[Handover]] = [
            [answer.handover for answer in host.call(inhandover.status, timeout=120)]
            for host in self.hosts]
        return [handovers[-1].state if handovers else "" for handovers in found]

    def until(self, *states: str, seconds: float = 240) -> None:
        """Wait for these states of both."""
        deadline = time.monotonic() + seconds
        while self.states() != [*states]:
            assert time.monotonic() < deadline, (
                self.states(), [self.told(host) for host in self.hosts])
            time.sleep(1)

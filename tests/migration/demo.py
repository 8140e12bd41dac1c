"""What scripts/demo --guest shows: a guest moves live, with its disk and its reservation."""
from __future__ import annotations

import json
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

from lio_handover.model.objects import PrType
from lio_handover.scsi import cdb
from tests import lab
from tests.demo import Page
from tests.lab import scenario
from tests.lab.initiators import OpenIscsi
from tests.migration import guest, inproduct
from tests.migration.bench import ROLE, Bench, Vm, Wrong
from tests.migration.net import Json
from tests.migration.product import MOVE_SECONDS, Downtime, Pair
from tests.support import inbus, inhost as pipeline

WIDTH = 78
#: Lines of the guest's log on each side of the move, and a side's width.
LINES, HALF = 7, 36
#: Phase of the move → its steps, see lio_handover/drivers/live.py.
PHASES = {
    "look at both sides, build the target on b": ("look", "prepare", "stage", "listen"),
    "copy the guest's memory while it runs": ("migrate", "copy"),
    "the guest stands still": ("freeze", "export", "arm", "continue", "sent", "came", "release",
                               "open", "cont"),
    "read back on b, take the target down on a": ("verify", "retire", "confirm"),
}
#: An emulated target answers late.
PATIENT = {"node.conn[0].timeo.login_timeout": "30", "node.conn[0].timeo.noop_out_interval": "10",
           "node.conn[0].timeo.noop_out_timeout": "30"}
#: What QEMU says → in words.
EVENTS = {"STOP": "stops the guest", "pre-switchover": "waits: the target moves first",
          "device": "sends the guest's devices", "completed": "completed",
          "RESUME": "runs the guest"}


def show(page: Page) -> None:
    """The whole story."""
    with lab.Lab() as bed, ThreadPoolExecutor(2) as pool:
        page.heading("Hosts")
        began = time.monotonic()
        packages = pool.submit(inbus.stage, bed)
        a, b, client = bed.hosts(ROLE, ROLE, "stable")
        packages.result()
        story = Story(page, bed, [a, b], client)
        page.line(f"a, b    Linux {a.release}, emulated PCs with one disk in common; a has the")
        page.line(f"        guest, which is to move to b; {story.version}")
        page.line(f"client  Linux {client.release}, open-iscsi, as the initiator bob",
                  time.monotonic() - began)
        try:
            story.serve()
            story.move()
            story.compare()
        finally:
            story.bench.close()


class Story:
    """What is shown, in this order: serve, move, compare."""

    def __init__(self, page: Page, bed: lab.Lab, hosts: list[lab.Host],
                 client: lab.Host) -> None:
        self.page, self.bed = page, bed
        self.bench = Bench(bed, hosts, lambda line: None)
        self.version = "QEMU " + self.bench.version.split()[3].partition("(")[0]
        self.bench.asked = "aptpl pace=0.1"
        self.bench.heard = self._heard
        self.a, self.b = hosts
        self.pair = Pair(self.bench)
        self.pair.targets.append(f"iscsi/{inproduct.SHARED}")
        self.initiator = OpenIscsi(client, inproduct.BOB)
        self.began = 0.0        # of the move

    def serve(self) -> None:
        """The guest runs on a, and bob may not write."""
        page, began = self.page, time.monotonic()
        page.heading("On a: a disk that a guest and an iSCSI initiator, bob, have")
        self.a.call(pipeline.build, inproduct.shared_state(), timeout=120)
        self.bed.move_address(inproduct.ADDRESS, None, self.a)
        self.source = self.pair.running(build=False)
        self.destination = self.pair.waiting(self.b)
        held = self.source.said().partition("reserved ")[2].split()[:2]
        page.line("guest   has it by vhost-scsi, has registered and reserved it:")
        page.line(f"        key 0x{held[0]}, type {held[1]}, {PrType(int(held[1])).text}")
        page.line("        and writes numbered records", time.monotonic() - began)
        self.session = self.initiator.login(inproduct.SHARED, inproduct.ADDRESS, settings=PATIENT)
        self.node = self.session.generic()[0]
        self._bob(self.a)
        self.registrations = self.a.call(inproduct.registrations)

    def _bob(self, host: lab.Host) -> None:
        """What becomes of a write of bob's."""
        answer = self.initiator.host.call(scenario.ask, self.node, cdb.write_10(
            inproduct.LAST_BLOCK, bytes(guest.SIZE)))
        self.page.check(answer == scenario.CONFLICT, f"bob, by iSCSI, writes to {host.name}: "
                                                     f"{answer}")

    def move(self) -> None:
        """The command, and what is seen of it."""
        page = self.page
        page.heading("On a, a human types")
        words = self.pair.words(self.b)
        for number, text in enumerate(textwrap.wrap(" ".join(words), WIDTH - 8,
                                                    break_on_hyphens=False)):
            page.line(f"{'$ ' if not number else '      '}{text}")
        page.line("(and --deadline, as emulated hosts are slow: 600 s for each step)")
        page.line()
        with Downtime(self.source, self.destination) as downtime:
            self.began = time.monotonic()
            program = self.pair.move(self.b, "--json")
            code = program.wait(MOVE_SECONDS)
            took = time.monotonic() - self.began
            if code:
                raise Wrong(program.stderr_so_far().decode())
            self.downtime = downtime.seconds()
        done = json.loads(program.stdout_so_far())
        page.line()
        for phase, names in PHASES.items():
            page.line(phase, sum(done["seconds"].get(name, 0.0) for name in names))
        self.bed.move_address(inproduct.ADDRESS, self.a, self.b)
        page.line(f"moved {done['contents']}", took)
        for note in done["notes"]:
            for text in textwrap.wrap(note, WIDTH - 10):
                page.line(f"   | {text}")

    def _heard(self, vm: Vm, name: str, data: Json) -> None:
        """What QEMU says, as it comes."""
        word = str(data.get("status", "")) if name == "MIGRATION" else name
        if self.began and word in EVENTS:
            self.page.line(f"{time.monotonic() - self.began:6.1f} s  QEMU on {vm.host.name} "
                           f"{EVENTS[word]}")

    def compare(self) -> None:
        """The guest's log, and what others see."""
        page = self.page
        self.bench.writes(self.destination)
        page.heading("The guest's log, on each side of the move")
        page.line(f"{'on a, its last lines':<{HALF}}  on b, its first lines")
        before = log(self.source.said())[-LINES:]
        for left, right in zip(before, log(self.destination.said())):
            page.line(f"{left:<{HALF}}  {right}")
        page.line()
        page.line("from STOP to the guest's first record on b", self.downtime)
        page.line("(emulated, hosts start a Python for each verb in some seconds, not in 0.1 s)")
        page.heading("And now")
        records = self.bench.judge()
        page.check(records.good, f"{records.last + 1} records: none lost, none written twice, each "
                                 "with the reservation")
        now = self.b.call(inproduct.registrations)
        page.check(now == self.registrations, "b's kernel shows the registrations as a's did, byte "
                                              "for byte")
        self.session.wait_for("LOGGED_IN", 60)
        self._bob(self.b)
        remains = self.a.call(scenario.remains)
        page.check(not remains, "nothing of the target is left on a")


def log(said: str) -> list[str]:
    """What the guest said, in words."""
    lines = []
    for line in said.splitlines():
        words = line.split()
        if words[:1] == ["a"]:
            lines.append(f"record {words[1]} is on the disk")
        elif words[:1] == ["r"]:
            lines.append(f"reservation: key 0x{words[1]}, type {words[2]}")
        elif words[:1] in (["!"], ["u"]):
            lines.append(line)
    return lines


def main() -> int:
    """0 where the guest goes on as if nothing had been."""
    page = Page(WIDTH)
    try:
        show(page)
    except (lab.LabError, Wrong) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return page.verdict("The guest moved, and its cluster kept its reservation.")


if __name__ == "__main__":
    sys.exit(main())

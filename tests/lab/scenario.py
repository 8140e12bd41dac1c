"""One handover, told once: the demo prints it, the tests assert it, the bench times it.

    story = Scenario(bed, a, b, client)
    story.build()           # A serves a target with three LUNs; two initiators log in and register
    story.look("A")
    story.start_writing()
    story.freeze(); story.export(); story.import_(); story.take_over(); story.come_back()
    story.stop_writing()
    story.look("B"); story.remove()

Nothing here prints or asserts.  The target on A is made with bare mkdir, write and symlink, and
the lio-handover that moves it is the command, as an administrator would run it.
"""
from __future__ import annotations

import mmap
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lio_handover.scsi import RESERVATION_CONFLICT, cdb, replies, sg
from lio_handover.scsi.cdb import Command
from lio_handover.scsi.fingerprint import fingerprint

from . import inside
from .bed import Lab, MiB
from .differences import Difference
from .host import Host
from .initiators import Chap, Libiscsi, OpenIscsi, Session

TARGET = "iqn.2026-11.org.example:array"
NAME = f"iscsi/{TARGET}"
ADDRESS = "198.18.0.100"
ALICE = "iqn.2026-11.org.example:alice"
BOB = "iqn.2026-11.org.example:bob"
MALLORY = "iqn.2026-11.org.example:mallory"
SECRET = Chap("alice", "correct horse", "array", "battery staple")
WRONG = Chap("alice", "incorrect horse")

PLAIN, IDENTITY, DISK = 0, 1, 2
LUNS = (PLAIN, IDENTITY, DISK)
SIZE = 32 * MiB
DEVICE = "/dev/ubda"
PROGRAM = Path(__file__).with_name("lio-handover")

RECORD = 4096
FIRST_RECORD = MiB              # what is below is for the probes
PACE = 0.004                    # seconds between two records of one writer: the disk must not fill
BLOCK_SIZE = {PLAIN: 512, IDENTITY: 4096, DISK: 512}
PROBE_BLOCK = 8                 # the block that probes read and write

HOLDS, FENCED = "alice writes LUN 0 (type 5, hers)", "bob writes LUN 0"
CONFLICT = "RESERVATION CONFLICT"
#: Probe → what must become of it, on A as on B.
RIGHT = {
    HOLDS: "done",
    "bob reads LUN 0": "done",
    FENCED: CONFLICT,
    "bob writes LUN 1 (nobody's)": "done",
    "alice writes LUN 2 (type 8, hers)": "done",
    "bob reads LUN 2": CONFLICT,
    "bob writes LUN 2": CONFLICT,
    "bob preempts alice on LUN 2": CONFLICT,
    "alice logs in with a wrong password": "refused: Authentication",
    "mallory, who has no ACL, logs in": "refused: Authorization",
}


class Registration(NamedTuple):
    """What an initiator does with one LUN, in order: the keys it registers one after the other
    (each taking the place of the one before), and the type of its reservation, 0 for none."""

    initiator: str
    lun: int
    keys: tuple[int, ...]
    kind: int = 0
    aptpl: bool = False


REGISTRATIONS = (
    Registration(ALICE, PLAIN, (0xA11CE001, 0xA11CE002), 5, aptpl=True),
    Registration(BOB, IDENTITY, (0xB0B001, 0xB0B002)),
    Registration(ALICE, IDENTITY, (0xA11CE101,)),
    Registration(ALICE, DISK, (0xA11CE201, 0xA11CE202, 0xA11CE203), 8),
)


# ── what runs inside the hosts ───────────────────────────────────────────────────────────────

def configure(roots: str, devices: str = "/dev/ubd*") -> None:
    """Let lio-handover serve what the bed shares, and nothing else."""
    Path("/etc/lio-handover/lio-handover.conf").write_text(
        f"[storage]\nroots =\n    {roots}\ndevices =\n    {devices}\n")


def serve(folder: str, opcodes: bool = True) -> None:
    """The target: two files in ``folder`` and a disk, two ACLs.

    Without ``opcodes`` it does not list the commands it knows, as a 6.1 kernel can't.
    """
    plain = _backstore("fileio_0/plain", f"fd_dev_name={folder}/plain.img,fd_dev_size={SIZE}",
                       {"wwn/vpd_unit_serial": "71a1e5f0-0000-4000-8000-000000000001"})
    identity = _backstore(
        "fileio_1/identity",
        f"fd_dev_name={folder}/identity.img,fd_dev_size={SIZE},fd_buffered_io=1",
        # The alias writes the product, so it goes first.
        {"attrib/emulate_model_alias": "1", "attrib/block_size": "4096", "attrib/emulate_tas": "0",
         "attrib/queue_depth": "64", "attrib/optimal_sectors": "1024", "attrib/is_nonrot": "1",
         "attrib/max_write_same_len": "512", "attrib/emulate_3pc": "0",
         "wwn/vendor_id": "ACME", "wwn/product_id": "Flux Array 9000", "wwn/revision": "7.01",
         "wwn/company_id": "0x00a098", "wwn/vpd_unit_serial": "ACME-9000-0042",
         "alua/near/tg_pt_gp_id": "7", "alua/near/alua_access_type": "1",
         "alua/near/preferred": "1", "alua/near/nonop_delay_msecs": "20"})
    disk = _backstore("iblock_0/disk", f"udev_path={DEVICE}",
                      {"wwn/vpd_unit_serial": "d15c0000-0000-4000-8000-000000000003"})
    for store in (plain, identity, disk):
        if not opcodes:
            _put(store, {"attrib/emulate_rsoc": "0"})
    tpg = inside.TARGET / "iscsi" / TARGET / "tpgt_1"
    tpg.mkdir(parents=True)
    _put(tpg, {"attrib/authentication": "1", "attrib/generate_node_acls": "0",
               "param/TargetAlias": "The array of the demo", "param/MaxBurstLength": "524288"})
    (tpg / "np" / f"{ADDRESS}:3260").mkdir()
    for number, store in zip(LUNS, (plain, identity, disk)):
        lun = tpg / "lun" / f"lun_{number}"
        lun.mkdir()
        (lun / "link").symlink_to(store)
    _put(tpg, {f"lun/lun_{IDENTITY}/alua_tg_pt_gp": "near"})
    _acl(tpg, ALICE, {"auth/userid": SECRET.user, "auth/password": SECRET.password,
                      "auth/userid_mutual": SECRET.mutual_user,
                      "auth/password_mutual": SECRET.mutual_password})
    _acl(tpg, BOB, {"attrib/authentication": "0", "attrib/nopin_timeout": "20"})
    (tpg / "enable").write_text("1")


def _backstore(place: str, control: str, values: dict[str, str]) -> Path:
    store = inside.TARGET / "core" / place
    store.mkdir(parents=True)
    (store / "control").write_text(control)
    (store / "enable").write_text("1")
    _put(store, values)
    return store


def _acl(tpg: Path, name: str, values: dict[str, str]) -> None:
    acl = tpg / "acls" / name
    acl.mkdir()
    _put(acl, values)
    for number in LUNS:
        (acl / f"lun_{number}").mkdir()
        (acl / f"lun_{number}" / "link").symlink_to(tpg / "lun" / f"lun_{number}")


def _put(folder: Path, values: dict[str, str]) -> None:
    for name, value in values.items():
        path = folder / name
        if not path.parent.exists():        # an ALUA group
            path.parent.mkdir()
        path.write_text(value)


def remains() -> list[str]:
    """Every target and backstore of this host, and every APTPL file."""
    tree = inside.TARGET
    found = [path for path in (*tree.glob("iscsi/iqn.*"), *tree.glob("core/*_[0-9]*"),
                               *(inside.DBROOT / "pr").iterdir())]
    return sorted(map(str, found))


def fingerprints(nodes: dict[int, str]) -> dict[int, dict[str, bytes]]:
    """All that an initiator can ask each of its LUNs."""
    found = {}
    for lun, node in nodes.items():
        with sg.Device(node) as device:
            found[lun] = fingerprint(device.execute)
    return found


def ask(node: str, command: Command) -> str:
    """What one command is answered, in a word or two."""
    with sg.Device(node) as device:
        result = device.execute(*command)
        sense = replies.sense_of(result)
        if sense and sense.unit_attention:      # it tells of something else, and only once
            result = device.execute(*command)
            sense = replies.sense_of(result)
    if result.status == RESERVATION_CONFLICT:
        return CONFLICT
    if result.good:
        return "done"
    return str(sense) if sense else f"status {result.status:#x}"


def record(lun: int, number: int) -> bytes:
    """The bytes of one record: no two are the same, and none is like zeroes."""
    return (b"LUN %d record %d" % (lun, number)).ljust(64, b".") * (RECORD // 64)


def write_records(node: str, lun: int, log: str, stop: str) -> int:
    """Write one record after the other until the file ``stop`` is there; how many.

    Each is on the device, past all caches, before its number and time go into ``log``.
    """
    number = 0
    with mmap.mmap(-1, RECORD) as buffer, open(log, "ab", buffering=0) as acknowledged:
        disk = os.open(node, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        try:
            while not os.path.exists(stop) and FIRST_RECORD + (number + 1) * RECORD <= SIZE:
                buffer[:] = record(lun, number)
                done = os.pwritev(disk, [buffer], FIRST_RECORD + number * RECORD)
                if done != RECORD:
                    raise OSError(f"wrote {done} of {RECORD} bytes of record {number}")
                acknowledged.write(b"%d %.6f\n" % (number, time.monotonic()))
                number += 1
                time.sleep(PACE)
        finally:
            os.close(disk)
    return number


def wrong_records(node: str, lun: int, count: int) -> list[int]:
    """The numbers below ``count`` whose records are not on the device as they were written."""
    found = []
    chunk = MiB
    with mmap.mmap(-1, chunk) as buffer:
        disk = os.open(node, os.O_RDONLY | os.O_DIRECT)
        try:
            for first in range(0, count, chunk // RECORD):
                os.preadv(disk, [buffer], FIRST_RECORD + first * RECORD)
                found += [number for number in range(first, min(count, first + chunk // RECORD))
                          if buffer[(number - first) * RECORD:][:RECORD] != record(lun, number)]
        finally:
            os.close(disk)
    return found


# ── the story ────────────────────────────────────────────────────────────────────────────────

class Done(NamedTuple):
    """A command that ran: what it was, what it said, how long it took."""

    words: tuple[str, ...]
    stdout: str
    stderr: str
    code: int
    seconds: float


class CommandFailed(Exception):
    """A command of the story that should have succeeded."""


@dataclass
class Sight:
    """What the initiators saw of one host: (who, LUN) → question → answer; probe → outcome."""

    answers: dict[tuple[str, int], dict[str, bytes]] = field(default_factory=dict)
    probes: dict[str, str] = field(default_factory=dict)


def differences(a: Sight, b: Sight) -> list[Difference]:
    """Every question whose answer is not byte for byte the same."""
    found = []
    for (who, lun), answers in a.answers.items():
        others = b.answers[who, lun]
        for question in [*answers, *(name for name in others if name not in answers)]:
            was, now = answers.get(question, b"not asked"), others.get(question, b"not asked")
            if was != now:
                found.append(Difference(who, lun, question, was, now, (who, lun) == (BOB, DISK)))
    return found


class Ack(NamedTuple):
    """A write that the initiator was told is done, and when (its own clock)."""

    number: int
    at: float


class Scenario:
    """The story's hosts, what was seen of them, and what took how long."""

    def __init__(self, bed: Lab, source: Host, destination: Host, client: Host) -> None:
        self.bed, self.source, self.destination = bed, source, destination
        self.initiator = OpenIscsi(client, ALICE)
        #: lio-handover would refuse to lose them
        self.opcodes = destination.role != "oldest" or source.role == "oldest"
        self.folder = str(bed.shared)       # the shared folder, as the hosts call it
        self.sessions: dict[str, Session] = {}
        self.sights: dict[str, Sight] = {}
        self.times: dict[str, float] = {}
        self.ran: list[Done] = []
        self.document = b""
        self.frozen_counts: dict[int, int] = {}
        self.late_counts: dict[int, int] = {}
        self.lost: dict[int, list[int]] = {}
        self._writers: list[threading.Thread] = []
        self._counts: dict[int, int] = {}
        self._failed: list[BaseException] = []
        self._stop = f"/run/stop-{os.urandom(4).hex()}"
        self._log = bed.shared / "acknowledged"

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.times[what] = time.monotonic() - began

    def lio_handover(self, host: Host, *words: str, stdin: bytes = b"", check: bool = True) -> Done:
        """Run lio-handover on a host."""
        began = time.monotonic()
        done = host.run([PROGRAM, *words], input=stdin, check=False, timeout=60)
        result = Done(("lio-handover", *words), done.stdout, done.stderr, done.returncode,
                      time.monotonic() - began)
        self.ran.append(result)
        self.times[words[0]] = result.seconds
        if check and result.code:
            raise CommandFailed(f"{' '.join(result.words)} on {host.name}: exit {result.code}: "
                                f"{result.stderr.strip()}")
        return result

    # ---- A serves ---
    def build(self) -> None:
        """A serves; alice and bob log in, register, reserve."""
        self.serve()
        self.log_in()
        self.register()

    def serve(self) -> None:
        self._log.mkdir()
        for name in ("plain", "identity"):
            with (self.bed.shared / f"{name}.img").open("wb") as file:
                file.truncate(SIZE)
        for host in (self.source, self.destination):
            host.call(configure, self.folder)
        self.source.call(serve, self.folder, self.opcodes)
        self.bed.move_address(ADDRESS, None, self.source)

    def log_in(self) -> None:
        self.sessions[ALICE] = self.initiator.login(TARGET, ADDRESS, ALICE, SECRET)
        self.sessions[BOB] = self.initiator.login(TARGET, ADDRESS, BOB)
        self.generic = {who: one.generic() for who, one in self.sessions.items()}
        self.disks = {who: one.disks() for who, one in self.sessions.items()}

    def register(self) -> None:
        for one in REGISTRATIONS:
            disk = self.disks[one.initiator][one.lun]
            for old, key in zip((0, *one.keys), one.keys):
                disk.register(key, old, one.aptpl)
            if one.kind:
                disk.reserve(one.keys[-1], one.kind)

    # ---- what they see ---
    def look(self, where: str) -> Sight:
        """Ask everything as alice and as bob, then try what bob and strangers must not do."""
        sight = self.sights[where] = Sight()
        client = self.initiator.host
        for who in (BOB, ALICE):        # bob first: nothing of his has eaten a unit attention
            for lun, found in client.call(fingerprints, self.generic[who]).items():
                sight.answers[who, lun] = found
        sight.probes = self.probe()
        return sight

    def probe(self, only: Sequence[str] = ()) -> dict[str, str]:
        """What alice, bob and strangers try, and what becomes of it."""
        return {what: trial() for what, trial in self._trials().items()
                if not only or what in only}

    def _trials(self) -> dict[str, Callable[[], str]]:
        def read(who: str, lun: int) -> Callable[[], str]:
            return lambda: self._ask(who, lun, cdb.read_10(
                PROBE_BLOCK, block_size=BLOCK_SIZE[lun]))

        def write(who: str, lun: int) -> Callable[[], str]:
            return lambda: self._ask(who, lun, cdb.write_10(
                PROBE_BLOCK, bytes(BLOCK_SIZE[lun]), BLOCK_SIZE[lun]))

        return {
            HOLDS: write(ALICE, PLAIN),
            "bob reads LUN 0": read(BOB, PLAIN),
            FENCED: write(BOB, PLAIN),
            "bob writes LUN 1 (nobody's)": write(BOB, IDENTITY),
            "alice writes LUN 2 (type 8, hers)": write(ALICE, DISK),
            "bob reads LUN 2": read(BOB, DISK),
            "bob writes LUN 2": write(BOB, DISK),
            "bob preempts alice on LUN 2": lambda: self._ask(
                BOB, DISK, cdb.preempt(0, REGISTRATIONS[-1].keys[-1], 8)),
            "alice logs in with a wrong password": lambda: self.try_login(ALICE, WRONG),
            "mallory, who has no ACL, logs in": lambda: self.try_login(MALLORY),
        }

    def _ask(self, who: str, lun: int, command: Command) -> str:
        return self.initiator.host.call(ask, self.generic[who][lun], command)

    def try_login(self, name: str, chap: Chap | None = None) -> str:
        """One more login under this name, from elsewhere: what becomes of it."""
        stranger = Libiscsi(self.bed, name, chap)
        done = self.bed.run_in_network(
            ["iscsi-inq", "-i", name, stranger.url(ADDRESS, TARGET)], check=False)
        if not done.returncode:
            return "let in"
        reason = re.search(r"Status: (.*?)(?: failure)?(\(\d+\))?\s*$", done.stderr + done.stdout)
        return f"refused: {reason[1]}" if reason else "refused"

    # ---- writing ---
    def start_writing(self) -> None:
        """Alice writes numbered records on every LUN, until `stop_writing`."""
        for lun in LUNS:
            thread = threading.Thread(target=self._write, args=(lun,), daemon=True)
            thread.start()
            self._writers.append(thread)

    def _write(self, lun: int) -> None:
        try:
            self._counts[lun] = self.initiator.host.call(
                write_records, self.disks[ALICE][lun].node, lun, str(self._log / str(lun)),
                self._stop, timeout=180)
        except BaseException as error:      # noqa: B902 - it is raised where it is waited for
            self._failed.append(error)

    def stop_writing(self) -> None:
        """Raises what a writer met: a write that failed is seen here."""
        self.initiator.host.call(Path.touch, Path(self._stop))
        for thread in self._writers:
            thread.join(90)
        self._writers = []
        if self._failed:
            raise self._failed[0]

    def acknowledged(self) -> dict[int, list[Ack]]:
        """LUN → the writes that alice was told are done, as of now."""
        found: dict[int, list[Ack]] = {}
        for lun in LUNS:
            path = self._log / str(lun)
            # The last line may be half written.
            lines = path.read_text().split("\n")[:-1] if path.exists() else []
            found[lun] = [Ack(int(line.split()[0]), float(line.split()[1])) for line in lines]
        return found

    def wait_for_writes(self, more: int, timeout: float = 60) -> None:
        """Until each LUN has so many more acknowledged writes than now."""
        want = {lun: len(acks) + more for lun, acks in self.acknowledged().items()}
        deadline = time.monotonic() + timeout
        while any(len(acks) < want[lun] for lun, acks in self.acknowledged().items()):
            if self._failed:
                raise self._failed[0]
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {more} writes on each LUN in {timeout} s: {self.counts()}")
            time.sleep(0.05)

    def counts(self) -> dict[int, int]:
        return {lun: len(acks) for lun, acks in self.acknowledged().items()}

    def missing_on_storage(self) -> dict[int, list[int]]:
        """LUN → the acknowledged records that are not on the shared storage right now."""
        assert self.bed.disk is not None
        paths = {PLAIN: self.bed.shared / "plain.img", IDENTITY: self.bed.shared / "identity.img",
                 DISK: self.bed.disk}
        found = {}
        for lun, path in paths.items():
            with path.open("rb") as file:
                missing = []
                for ack in self.acknowledged()[lun]:
                    file.seek(FIRST_RECORD + ack.number * RECORD)
                    if file.read(RECORD) != record(lun, ack.number):
                        missing.append(ack.number)
            found[lun] = missing
        return found

    def wrong_through_target(self) -> dict[int, list[int]]:
        """LUN → the acknowledged records that alice does not read back as she wrote them."""
        return {lun: self.initiator.host.call(wrong_records, self.disks[ALICE][lun].node, lun,
                                              len(acks))
                for lun, acks in self.acknowledged().items()}

    def pause(self) -> dict[int, float]:
        """LUN → the longest time between two acknowledged writes."""
        return {lun: max((later.at - earlier.at for earlier, later in zip(acks, acks[1:])),
                         default=0.0)
                for lun, acks in self.acknowledged().items()}

    # ---- the handover ---
    def hand_over(self) -> None:
        """All of it, in one go, up to the initiators' return."""
        self.freeze()
        self.at_freeze()
        self.export()
        self.before_import()
        self.import_()
        self.take_over()
        self.come_back()

    def turn_round(self) -> None:
        """From now on the other way: who has the target is the source."""
        self.source, self.destination = self.destination, self.source

    def thaw(self) -> Done:
        return self.lio_handover(self.source, "thaw", "--allow", "exported", NAME)

    def prepare(self) -> Done:
        return self.lio_handover(self.source, "prepare", "--allow", "all-tg-pt", NAME)

    def freeze(self) -> Done:
        return self.lio_handover(self.source, "freeze", NAME)

    def at_freeze(self) -> None:
        """Note which writes A acknowledged, and which of them the storage does not have."""
        self.frozen_counts = self.counts()
        self.lost = self.missing_on_storage()

    def export(self) -> Done:
        done = self.lio_handover(self.source, "export", "--probe", NAME)
        self.document = done.stdout.encode()
        return done

    def before_import(self) -> None:
        """Note which writes were acknowledged since: nobody serves now."""
        self.late_counts = self.counts()

    def import_(self) -> Done:
        return self.lio_handover(self.destination, "import", "-", stdin=self.document)

    def take_over(self) -> None:
        """The target's address moves."""
        with self.timed("address"):
            self.bed.move_address(ADDRESS, self.source, self.destination)

    def come_back(self) -> None:
        """Wait until both initiators are logged in again."""
        with self.timed("log in again"):
            for session in self.sessions.values():
                session.wait_for("LOGGED_IN", 60)

    def remove(self) -> Done:
        return self.lio_handover(self.source, "remove", NAME, "--allow", "reserved")

    def verify(self) -> Done:
        return self.lio_handover(self.destination, "verify", "-", stdin=self.document)

    def left_on_source(self) -> list[str]:
        """What A still has of the target: objects of its tree, and APTPL files."""
        return self.source.call(remains)

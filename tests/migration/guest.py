"""The only program in the guest, and the records it leaves on its disk.

Runs on a Python without a library, from nothing but built-in modules.  It reserves its disk, then
writes one record after the other, each only when the one before was acknowledged, and says so on
the debug console.  A byte read from that console's port names the QEMU that executes the guest:
it is a property of the QEMU, not of the guest, and does not migrate.

Words of the kernel's command line: run=N; pace=SECONDS, between two records; aptpl, the reservation
is to outlive a power loss; again, the disk has our registration; beat, nothing but records, as
fast as they come, of which each 32nd is said, and the first that another QEMU executes; watch,
records go by SG_IO, and each sense that comes is said.
"""
import array
import fcntl
import posix
import struct
import time
import zlib

PORT = 0xe9                 # isa-debugcon: `readback` is what a read of it gives
KEY, TYPE = 0xabcdef, 5     # write exclusive, registrants only
SIZE = 512
AREAS = 8                   # one for each QEMU, so that nobody overwrites what another wrote
AREA = 8 << 20
PAGE = 4096
REMEMBERED = 32             # records kept in memory as the disk gave them: what DMA has written

#: magic, run, QEMU, number, monotonic ns, key and type of the reservation, PRgeneration, crc of
#: the record before
_RECORD = struct.Struct("<8sIIQQQIII")
_MAGIC = b"LIOMOVED"


def pack(run: int, qemu: int, number: int, clock: int, key: int, kind: int, generation: int,
         before: int) -> bytes:
    """A record of 512 bytes; the last four are the CRC of the others."""
    head = _RECORD.pack(_MAGIC, run, qemu, number, clock, key, kind, generation, before)
    body = head + struct.pack("<Q", number) * ((SIZE - 4 - len(head)) // 8)
    body += bytes(SIZE - 4 - len(body))
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes) -> "tuple[int, ...] | None":
    """(run, qemu, number, clock, key, type, generation, crc before, crc), or None for no record."""
    crc = struct.unpack("<I", data[-4:])[0]
    if data[:8] != _MAGIC or zlib.crc32(data[:-4]) != crc:
        return None
    return (*_RECORD.unpack_from(data)[1:], crc)


def place(qemu: int, number: int) -> int:
    """Where on the disk a record is."""
    return (qemu - 1) % AREAS * AREA + number % (AREA // SIZE) * SIZE


class _Guest:
    def __init__(self, words: "dict[str, str]") -> None:
        self.run = int(words["run"])
        self.pace = float(words.get("pace", "0.02" if "beat" not in words else "0"))
        self.again, self.aptpl, self.beats, self.watches = (
            word in words for word in ("again", "aptpl", "beat", "watch"))
        self.port = posix.open("/dev/port", posix.O_RDWR)
        # Page-aligned: newer kernels refuse I/O from less.
        self.memory = array.array("B", bytes((REMEMBERED + 3) * PAGE))
        self.address = self.memory.buffer_info()[0]
        self.skip = -self.address % PAGE
        self.view = memoryview(self.memory)
        self.disk = -1
        self.crcs = [0] * REMEMBERED

    def qemu(self) -> int:
        return posix.pread(self.port, 1, PORT)[0]

    def say(self, text: str) -> None:
        for byte in (text + "\n").encode():
            posix.pwrite(self.port, bytes((byte,)), PORT)

    def page(self, number: int) -> memoryview:
        at = self.skip + number * PAGE
        return self.view[at:at + SIZE]

    def scsi(self, cdb: bytes, out: bytes = b"") -> tuple[int, bytes, bytes]:
        """(status, sense, data)."""
        at = self.skip + (REMEMBERED + 1) * PAGE
        sense_at = self.skip + REMEMBERED * PAGE + 2048
        self.view[sense_at:sense_at + 32] = bytes(32)
        self.view[at:at + SIZE] = bytes(SIZE)
        self.view[at:at + len(out)] = out
        cdb_at = self.skip + REMEMBERED * PAGE + 1024
        self.view[cdb_at:cdb_at + len(cdb)] = cdb
        # struct sg_io_hdr, include/scsi/sg.h
        header = bytearray(struct.pack(
            "<iiBBHIQQQIIi4xQBBBBHHiII4x", ord("S"), -2 if out else -3, len(cdb), 32, 0,
            len(out) or SIZE, self.address + at, self.address + cdb_at, self.address + sense_at,
            60000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        fcntl.ioctl(self.disk, 0x2285, header)
        return (header[64], bytes(self.view[sense_at:sense_at + 32]),
                bytes(self.view[at:at + SIZE]))

    def pr_out(self, action: int, key: int, new: int, kind: int = 0) -> None:
        for _ in range(5):
            status, sense, _ = self.scsi(struct.pack(">BBB4xHB", 0x5f, action, kind, 24, 0),
                                         struct.pack(">QQ4xB3x", key, new, self.aptpl))
            if status == 0:
                return
            self.say(f"! PR OUT {action}: status {status} sense {sense[2] & 15:x}/"
                     f"{sense[12]:02x}/{sense[13]:02x}")
        raise SystemExit("PR OUT")

    def reservation(self) -> tuple[int, int, int]:
        """(key, type, PRgeneration) of who holds the disk; complains unless we are registered."""
        status, sense, keys = self.scsi(struct.pack(">BB5xHB", 0x5e, 0, SIZE, 0))
        if status:
            self.say(f"! READ KEYS: status {status} sense {sense[2] & 15:x}/"
                     f"{sense[12]:02x}/{sense[13]:02x}")
            return 0, 0, 0
        count = struct.unpack(">I", keys[4:8])[0] // 8
        if struct.unpack(f">{count}Q", keys[8:8 + 8 * count]) != (KEY,):
            self.say(f"! registered: {keys[8:8 + 8 * count].hex()}")
        _, _, held = self.scsi(struct.pack(">BB5xHB", 0x5e, 1, SIZE, 0))
        generation, length = struct.unpack(">II", held[:8])
        if not length:
            return 0, 0, generation
        return struct.unpack(">Q", held[8:16])[0], held[21] & 15, generation

    def wait_for_disk(self) -> None:
        for _ in range(600):
            try:
                self.disk = posix.open("/dev/sda", posix.O_RDWR | posix.O_DIRECT | posix.O_SYNC)
                return
            except OSError:
                time.sleep(0.1)
        self.say("! no disk")
        raise SystemExit("no disk")

    def work(self) -> None:
        self.say("up")
        self.wait_for_disk()
        self.pr_out(6 if self.again else 0, 0, KEY)
        self.pr_out(1, KEY, 0, TYPE)
        number, before, last = 0, 0, 0
        held = self.reservation()
        self.say(f"reserved {held[0]:x} {held[1]} {held[2]}")
        while True:
            if number % (128 if self.beats else 8) == 0:
                held = self.reservation()
                self.say(f"r {held[0]:x} {held[1]} {held[2]}")
            qemu = self.qemu()
            record = pack(self.run, qemu, number, time.monotonic_ns(), *held, before)
            before = struct.unpack("<I", record[-4:])[0]
            at = place(qemu, number)
            while not self.write(number, record, at):
                time.sleep(0.5)
            if not self.beats or number % 32 == 0 or qemu != last:
                self.say(f"a {number} {qemu}")
                last = qemu
            if not self.beats:
                self.remember(number, at, before)
            if self.pace:
                time.sleep(self.pace)
            number += 1

    def write(self, number: int, record: bytes, at: int) -> bool:
        """Whether the disk has acknowledged the record; says what it answers else."""
        if self.watches:
            status, sense, _ = self.scsi(struct.pack(">BBIBHB", 0x2a, 0, at // SIZE, 0, 1, 0),
                                         record)
            if status:
                self.say(f"u {number} status {status} sense {sense[2] & 15:x}/{sense[12]:02x}/"
                         f"{sense[13]:02x}")
            return status == 0
        buffer = self.page(REMEMBERED + 2)
        buffer[:] = record
        try:
            done = posix.pwritev(self.disk, [buffer], at)
        except OSError as error:
            self.say(f"! write {number}: errno {error.errno}")
            return False
        if done != SIZE:
            self.say(f"! short write {number}")
        return done == SIZE

    def remember(self, number: int, at: int, crc: int) -> None:
        """Have the disk write into our memory, and look at what it wrote there earlier."""
        page = number % REMEMBERED
        try:
            posix.preadv(self.disk, [self.page(page)], at)
        except OSError as error:
            self.say(f"! read {number}: errno {error.errno}")
            return
        self.crcs[page] = crc
        for one in range(min(number + 1, REMEMBERED)):
            seen = unpack(bytes(self.page(one)))
            if seen is None or seen[-1] != self.crcs[one]:
                self.say(f"! memory: page {one} at record {number}")


def main() -> None:
    line = posix.pread(posix.open("/proc/cmdline", posix.O_RDONLY), 4096, 0).decode()
    guest = _Guest({name: value for name, _, value in (
        word.partition("=") for word in line.split())})
    try:
        guest.work()
    except BaseException as error:      # noqa: B902 - the last words of this machine
        guest.say(f"! {type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()

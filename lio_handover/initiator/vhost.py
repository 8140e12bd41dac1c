"""An initiator for vhost-scsi targets: /dev/vhost-scsi driven from user space, without a guest.

To the kernel this is the virtual machine (drivers/vhost/scsi.c, include/uapi/linux/vhost.h): its
commands go through the target's real nexus, and while it is attached no virtual machine can be.
It sends nothing by itself, so it takes no unit attention away unless it is told to.

An ``Endpoint`` belongs to one thread. The kernel lets go of it when the process ends, however it
ends; a process that forks without exec shares it with the child.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
import threading
import time
import weakref
from collections.abc import Iterable
from types import TracebackType

from lio_handover.initiator import CommandTimeout, Result, TransportError, cdb, replies
from lio_handover.initiator.fingerprint import drain as drain_unit

DEVICE = "/dev/vhost-scsi"
_ABI = 1  # VHOST_SCSI_ABI_VERSION, include/uapi/linux/vhost_types.h


def _ioc(direction: int, number: int, size: int) -> int:
    """include/uapi/asm-generic/ioctl.h, type 0xAF (VHOST_VIRTIO)."""
    return direction << 30 | size << 16 | 0xAF << 8 | number


_SET_FEATURES = _ioc(1, 0x00, 8)
_GET_FEATURES = _ioc(2, 0x00, 8)
_SET_OWNER = _ioc(0, 0x01, 0)
_SET_MEM_TABLE = _ioc(1, 0x03, 8)
_SET_LOG_BASE = _ioc(1, 0x04, 8)
_SET_VRING_NUM = _ioc(1, 0x10, 8)
_SET_VRING_ADDR = _ioc(1, 0x11, 40)
_SET_VRING_BASE = _ioc(1, 0x12, 8)
_SET_VRING_KICK = _ioc(1, 0x20, 8)
_SET_VRING_CALL = _ioc(1, 0x21, 8)
_SET_VRING_ERR = _ioc(1, 0x22, 8)
_SET_ENDPOINT = _ioc(1, 0x40, 232)
_CLEAR_ENDPOINT = _ioc(1, 0x41, 232)
_GET_ABI_VERSION = _ioc(1, 0x42, 4)

_F_LOG_ALL = 1 << 26
_F_VERSION_1 = 1 << 32
_VRING_F_LOG = 1
_DESC_NEXT, _DESC_WRITE = 1, 2

_CONTROL, _EVENT, _REQUEST = 0, 1, 2
_PAGE = 0x1000  # VHOST_PAGE_SIZE, the unit of the dirty log
_RING_SPAN = 4 * _PAGE  # descriptors, available ring and used ring, a page each
_SLOTS_AT = 3 * _RING_SPAN
_ANSWER_AT = 0x100  # within a slot's first page; its data begin at the second

# include/uapi/linux/virtio_scsi.h
_LOGICAL_UNIT_RESET = 5
_S_OK, _S_SUCCEEDED, _S_REJECTED = 0, 10, 11
_RESPONSES = {
    1: (errno.EOVERFLOW, "more data than asked for"),
    2: (errno.ECANCELED, "command aborted"),
    3: (errno.ENXIO, "no such target"),
    4: (errno.ECONNRESET, "reset while waiting"),
    5: (errno.EBUSY, "target busy"),
    6: (errno.EIO, "transport failure"),
    7: (errno.EIO, "target failure"),
    8: (errno.EIO, "nexus failure"),
    9: (errno.EIO, "failure"),
    12: (errno.ENXIO, "no such LUN"),
}
_COMMAND_SIZE, _ANSWER_SIZE, _SENSE_SIZE = 51, 108, 96
_TMF_SIZE = 24

_libc = ctypes.CDLL(None, use_errno=True)


def _eventfd() -> int:
    """Non-blocking and not inherited (os.eventfd needs Python 3.10)."""
    fd: int = _libc.eventfd(0, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


class _Memory:
    """Zeroed memory shared with the kernel, as the guest's memory would be; starts at address 0."""

    def __init__(self, size: int) -> None:
        self.map = mmap.mmap(-1, size)
        self.size = size
        # Shared, not private: pages the kernel has pinned stay ours through a fork.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))


class _Ring:
    """One virtqueue, split layout (virtio 1.1, 2.6), with the kernel as the device."""

    def __init__(self, memory: _Memory, index: int, size: int) -> None:
        self.map = memory.map
        self.index, self.size = index, size
        self.descriptors = index * _RING_SPAN
        self.available = self.descriptors + _PAGE
        self.used = self.descriptors + 2 * _PAGE
        self._given = self._taken = 0
        self.kick, self.call, self.error = _eventfd(), _eventfd(), _eventfd()

    def address(self, base: int, log: bool) -> bytes:
        """struct vhost_vring_addr."""
        return struct.pack("IIQQQQ", self.index, _VRING_F_LOG if log else 0,
                           base + self.descriptors, base + self.used, base + self.available,
                           self.used)

    def give(self, head: int, chain: list[tuple[int, int, int]]) -> None:
        """Hand a chain of (address, length, flags) over, in descriptors from ``head`` on."""
        for number, (at, length, flags) in enumerate(chain, head):
            more = number < head + len(chain) - 1
            struct.pack_into("<QIHH", self.map, self.descriptors + 16 * number, at, length,
                             flags | (_DESC_NEXT if more else 0), number + 1 if more else 0)
        struct.pack_into("<H", self.map, self.available + 4 + 2 * (self._given % self.size), head)
        self._given = (self._given + 1) & 0xffff
        struct.pack_into("<H", self.map, self.available + 2, self._given)
        os.write(self.kick, struct.pack("Q", 1))

    def take(self) -> list[int]:
        """The heads of the chains that came back since the last time."""
        heads = []
        end = struct.unpack_from("<H", self.map, self.used + 2)[0]
        while self._taken != end:
            at = self.used + 4 + 8 * (self._taken % self.size)
            heads.append(struct.unpack_from("<I", self.map, at)[0])
            self._taken = (self._taken + 1) & 0xffff
        return heads

    def close(self) -> None:
        for fd in (self.kick, self.call, self.error):
            os.close(fd)


class Pending:
    """A command or a reset on its way. Not waiting for it is allowed."""

    def __init__(self, unit: Unit, ring: _Ring, at: int, name: str, data_in: int = 0) -> None:
        self.unit, self.ring, self.at, self.name, self.data_in = unit, ring, at, name, data_in
        self.reset = False
        self.answer: bytes | None = None
        self.data = b""

    @property
    def done(self) -> bool:
        """Whether an answer is there, without waiting.

        :raises TransportError: the kernel gave the ring up.
        """
        self.unit.endpoint._reap()
        return self.answer is not None

    def wait(self, timeout: float = 10.0) -> Result:
        """The answer to a command. It may be waited for again after a timeout.

        :raises CommandTimeout: nothing came in ``timeout`` seconds; the command goes on.
        :raises TransportError: the target answered, but not with a SCSI status; ECANCELED where a
            reset overtook the command, which may have been carried out or not.
        """
        where = self.unit.endpoint.wwpn
        answer = self.unit.endpoint._wait(self, timeout)
        length, residual, _, status, response = struct.unpack_from("<IIHBB", answer)
        if self.reset:
            raise TransportError(errno.ECANCELED, f"{self.name}: ended by a reset", where)
        if response != _S_OK:
            code, reason = _RESPONSES.get(response, (errno.EIO, "unknown failure"))
            raise TransportError(code, f"{self.name}: {reason}, response {response}", where)
        arrived = max(0, self.data_in - residual)
        return Result(status, answer[12:12 + min(length, _SENSE_SIZE)], self.data[:arrived])


class Unit:
    """One logical unit behind an endpoint."""

    def __init__(self, endpoint: Endpoint, tpgt: int, lun: int) -> None:
        if not 0 <= tpgt <= 0xff:
            raise ValueError(f"a guest sees target portal groups 0 to 255, not {tpgt}")
        if not 0 <= lun < 1 << 14:
            raise ValueError(f"a guest sees LUNs 0 to 16383, not {lun}")
        self.endpoint, self.tpgt, self.lun = endpoint, tpgt, lun

    @property
    def address(self) -> bytes:
        """struct virtio_scsi_cmd_req, lun."""
        return struct.pack(">BBH4x", 1, self.tpgt, 0x4000 | self.lun)

    def submit(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0) -> Pending:
        """Send a command without waiting; see ``execute``.

        :raises TransportError: EBUSY, as many commands as the endpoint is deep have no answer yet.
        """
        return self.endpoint._submit(self, cdb, data_out, data_in)

    def execute(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0,
                timeout: float = 10.0) -> Result:
        """See ``initiator.Execute``.

        :raises ValueError: both directions at once, more data than the endpoint has room for, or a
            CDB that is not 6 to 32 bytes.
        :raises TransportError: ENXIO where the portal group has no nexus or does not exist.
        """
        return self.submit(cdb, data_out, data_in).wait(timeout)

    def reset(self, timeout: float = 30.0) -> None:
        """LOGICAL UNIT RESET, the one task management function there is (vhost_scsi_handle_tmf).

        The kernel then answers every command that was on its way to the unit, with GOOD whatever
        became of it: ``Pending.wait`` raises for them. Only for a portal group of one LUN.

        :raises CommandTimeout: the backstore still holds a command.
        :raises TransportError: EOPNOTSUPP, the kernel or the target rejected it.
        """
        self.endpoint._reset(self, timeout)


class Endpoint:
    """One open /dev/vhost-scsi, attached to a WWPN between ``attach`` and ``detach``.

    As a context manager it is attached from the start. ``depth`` commands can be on their way at
    once (a power of two, at most 64), each with ``room`` bytes of data.

    :raises FileNotFoundError: no device node; the module vhost_scsi is not loaded.
    :raises TransportError: the kernel does not speak our version, or refuses.
    """

    def __init__(self, wwpn: str, depth: int = 16, room: int = 1 << 20,
                 timeout: float = 10.0, device: str = DEVICE) -> None:
        # The kernel's own name of a port has no "fc." (vhost_scsi_make_tport).
        name = wwpn.removeprefix("fc.").encode()
        if len(name) > 223 or b"\0" in name or not name:
            raise ValueError(f"no WWPN: {wwpn!r}")
        if not 1 <= depth <= 64 or depth & (depth - 1):
            raise ValueError(f"depth is a power of two up to 64, not {depth}")
        self.wwpn, self.timeout, self.attached = wwpn, timeout, False
        self._stuck = False
        self._target = struct.pack("i224sHH", _ABI, name, 0, 0)
        self._room = room
        self._slot_size = _PAGE + (room + _PAGE - 1) // _PAGE * _PAGE
        self._free = list(range(depth))
        self._pending: dict[tuple[int, int], Pending] = {}
        self._rings: list[_Ring] = []
        self._log: _Memory | None = None
        self._features = 0
        self._memory = _Memory(_SLOTS_AT + (depth + 1) * self._slot_size)
        self._fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        # The kernel must have let go of the memory before that goes, also where nobody closes.
        self._forgotten = weakref.finalize(self, _let_go, self._fd, self._rings, self._memory)
        try:
            self._set_up(4 * depth)
        except BaseException:
            self.close()
            raise

    def _set_up(self, size: int) -> None:
        abi = self._ask(_GET_ABI_VERSION, "i")
        if abi > _ABI:
            raise TransportError(errno.EPROTONOSUPPORT, f"vhost-scsi ABI {abi}", self.wwpn)
        self._tell("SET_OWNER", _SET_OWNER)
        self._features = self._ask(_GET_FEATURES, "Q")
        if not self._features & _F_VERSION_1:
            raise TransportError(errno.EPROTONOSUPPORT, "no VIRTIO_F_VERSION_1", self.wwpn)
        self._tell("SET_FEATURES", _SET_FEATURES, struct.pack("Q", _F_VERSION_1))
        self._tell("SET_MEM_TABLE", _SET_MEM_TABLE, struct.pack(
            "II4Q", 1, 0, 0, self._memory.size, self._memory.address, 0))
        for index, length in ((_CONTROL, 2), (_EVENT, 2), (_REQUEST, size)):
            ring = _Ring(self._memory, index, length)
            self._rings.append(ring)
            self._tell("SET_VRING_NUM", _SET_VRING_NUM, struct.pack("II", index, length))
            self._tell("SET_VRING_BASE", _SET_VRING_BASE, struct.pack("II", index, 0))
            self._tell("SET_VRING_ADDR", _SET_VRING_ADDR,
                       ring.address(self._memory.address, False))
            for name, request, fd in (("KICK", _SET_VRING_KICK, ring.kick),
                                      ("CALL", _SET_VRING_CALL, ring.call),
                                      ("ERR", _SET_VRING_ERR, ring.error)):
                self._tell("SET_VRING_" + name, request, struct.pack("Ii", index, fd))

    def _tell(self, name: str, request: int, argument: bytes | int = 0) -> None:
        try:
            fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            raise TransportError(error.errno or errno.EIO, f"{name} refused",
                                 self.wwpn) from error

    def _ask(self, request: int, form: str) -> int:
        answer = fcntl.ioctl(self._fd, request, bytes(struct.calcsize(form)))
        value: int = struct.unpack(form, answer)[0]
        return value

    # -- the endpoint -----------------------------------------------------------------------------

    def attach(self) -> None:
        """Take the endpoint: every TPG of the WWPN that has a nexus and is not attached.

        :raises TransportError: ENODEV where there is none: no such WWPN, no nexus, or attached by
            another (drivers/vhost/scsi.c:vhost_scsi_set_endpoint). Kernels up to 5.10 say EEXIST.
        :raises CommandTimeout: the kernel did not return.
        """
        self._bounded("SET_ENDPOINT", _SET_ENDPOINT)
        self.attached = True

    def detach(self) -> None:
        """Give the endpoint back; the kernel answers every command first.

        :raises CommandTimeout: it did not within ``timeout``; it goes on trying.
        """
        if self.attached and not self._stuck:
            self._bounded("CLEAR_ENDPOINT", _CLEAR_ENDPOINT)
            self.attached = False

    def _bounded(self, name: str, request: int) -> None:
        """An ioctl that may wait for the backstore or for another's endpoint, and not for ever."""
        failed: list[OSError] = []

        def call(fd: int, target: bytes, *_kept: object) -> None:
            try:
                fcntl.ioctl(fd, request, target)
            except OSError as error:
                failed.append(error)

        # Until it returns the kernel may write into our memory: the thread keeps that.
        thread = threading.Thread(target=call, name=name, daemon=True,
                                  args=(self._fd, self._target, self._memory, self._log))
        thread.start()
        thread.join(self.timeout)
        if thread.is_alive():
            self._stuck = True
            raise CommandTimeout(f"{name} did not return within {self.timeout:g} s", self.wwpn)
        if failed:
            raise TransportError(failed[0].errno or errno.EIO, f"{name} refused", self.wwpn)

    def close(self) -> None:
        """Detach and close; again is harmless.

        :raises CommandTimeout: as ``detach``. Everything is closed all the same, and the kernel
            lets go when the commands end.
        """
        if self._fd < 0:
            return
        try:
            self.detach()
        finally:
            # Where an ioctl has not returned it has the file open still; this only lets go of it.
            self._fd, self.attached = -1, False
            self._forgotten()

    def __enter__(self) -> Endpoint:
        try:
            self.attach()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    # -- commands ---------------------------------------------------------------------------------

    def unit(self, lun: int = 0, tpgt: int = 1) -> Unit:
        """A logical unit; whether it is there shows when it is asked."""
        return Unit(self, tpgt, lun)

    def luns(self, tpgt: int = 1) -> list[int]:
        """What REPORT LUNS says; no unit attention goes with it (core_scsi3_ua_check).

        :raises TransportError: no such portal group.
        """
        return replies.decode_luns(self.unit(0, tpgt).execute(*cdb.report_luns()).data)

    def _submit(self, unit: Unit, cdb: bytes, data_out: bytes, data_in: int) -> Pending:
        if not 6 <= len(cdb) <= 32:
            raise ValueError(f"a CDB has 6 to 32 bytes, not {len(cdb)}")
        if data_out and data_in:
            raise ValueError("vhost-scsi moves data in one direction only")
        if max(len(data_out), data_in) > self._room:
            raise ValueError(f"this endpoint has room for {self._room} bytes")
        self._need_attached()
        if not self._free:
            raise TransportError(errno.EBUSY, "too many commands without an answer", self.wwpn)
        slot = self._free.pop()
        at = self._slot(slot)
        data = at + _PAGE
        self._memory.map[at:at + _COMMAND_SIZE] = (
            unit.address + struct.pack("<QBBB", slot, 0, 0, 0) + cdb.ljust(32, b"\0"))
        self._memory.map[at + _ANSWER_AT:at + _ANSWER_AT + _ANSWER_SIZE] = bytes(_ANSWER_SIZE)
        chain = [(at, _COMMAND_SIZE, 0)]
        if data_out:
            self._memory.map[data:data + len(data_out)] = data_out
            chain.append((data, len(data_out), 0))
        chain.append((at + _ANSWER_AT, _ANSWER_SIZE, _DESC_WRITE))
        if data_in:
            self._memory.map[data:data + data_in] = bytes(data_in)
            chain.append((data, data_in, _DESC_WRITE))
        name = f"command 0x{cdb[0]:02x} to LUN {unit.lun} of TPG {unit.tpgt}"
        return self._send(_REQUEST, 4 * slot, chain, Pending(
            unit, self._rings[_REQUEST], at, name, data_in))

    def _reset(self, unit: Unit, timeout: float) -> None:
        self._need_attached()
        if (_CONTROL, 0) in self._pending:
            raise TransportError(errno.EBUSY, "a reset has no answer yet", self.wwpn)
        at = self._slot(-1)
        request = struct.pack("<II", 0, _LOGICAL_UNIT_RESET) + unit.address + bytes(8)
        self._memory.map[at:at + _TMF_SIZE] = request
        self._memory.map[at + _ANSWER_AT:at + _ANSWER_AT + 1] = b"\xff"
        for overtaken in self._pending.values():
            if overtaken.unit.address == unit.address:
                overtaken.reset = True
        chain = [(at, _TMF_SIZE, 0), (at + _ANSWER_AT, 1, _DESC_WRITE)]
        pending = self._send(_CONTROL, 0, chain, Pending(
            unit, self._rings[_CONTROL], at, f"reset of LUN {unit.lun} of TPG {unit.tpgt}"))
        response = self._wait(pending, timeout)[0]
        if response not in (_S_OK, _S_SUCCEEDED):
            code, reason = _RESPONSES.get(response, (errno.EIO, "unknown failure"))
            if response == _S_REJECTED:
                code, reason = errno.EOPNOTSUPP, "rejected"
            raise TransportError(code, f"{pending.name}: {reason}, response {response}", self.wwpn)

    def _need_attached(self) -> None:
        if not self.attached:
            raise TransportError(errno.ENOTCONN, "not attached", self.wwpn)
        self._reap()

    def _slot(self, number: int) -> int:
        """Slots of commands are counted from 0; -1 is the one of resets, in front of them."""
        return _SLOTS_AT + (number + 1) * self._slot_size

    def _send(self, queue: int, head: int, chain: list[tuple[int, int, int]],
              pending: Pending) -> Pending:
        self._pending[queue, head] = pending
        pending.ring.give(head, chain)
        return pending

    def _reap(self) -> None:
        """Hand out what has come back, and free its slots."""
        if self._fd < 0:
            raise TransportError(errno.ENOTCONN, "not open", self.wwpn)
        for ring in (self._rings[_CONTROL], self._rings[_REQUEST]):
            for head in ring.take():
                pending = self._pending.pop((ring.index, head), None)
                if pending is None:
                    raise TransportError(errno.EPROTO, f"the kernel returned descriptor {head} of "
                                         f"queue {ring.index}, which it does not have", self.wwpn)
                at = pending.at + _ANSWER_AT
                data = pending.at + _PAGE
                pending.data = self._memory.map[data:data + pending.data_in]
                pending.answer = self._memory.map[at:at + _ANSWER_SIZE]
                if ring.index == _REQUEST:
                    self._free.append(head // 4)
            if _rang(ring.error):
                raise TransportError(errno.EPROTO, f"the kernel found queue {ring.index} broken",
                                     self.wwpn)

    def _wait(self, pending: Pending, timeout: float) -> bytes:
        answer = pending.answer
        if answer is not None:
            return answer
        deadline = time.monotonic() + timeout
        poll = select.poll()
        for ring in self._rings:
            poll.register(ring.call, select.POLLIN)
            poll.register(ring.error, select.POLLIN)
        while True:
            for ring in self._rings:
                _rang(ring.call)
            self._reap()
            answer = pending.answer
            if answer is not None:
                return answer
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandTimeout(f"{pending.name} has no answer after {timeout:g} s",
                                     self.wwpn)
            poll.poll(left * 1000)

    # -- the dirty log ----------------------------------------------------------------------------

    def start_log(self) -> None:
        """Let the kernel write down which pages of our memory it writes, as in a live migration.

        :raises TransportError: it cannot at all (no VHOST_F_LOG_ALL), or refuses.
        """
        if not self._features & _F_LOG_ALL:
            raise TransportError(errno.EOPNOTSUPP, "no VHOST_F_LOG_ALL", self.wwpn)
        log = _Memory((self._memory.size // _PAGE + 7) // 8 // _PAGE * _PAGE + _PAGE)
        self._log = log
        self._tell("SET_LOG_BASE", _SET_LOG_BASE, struct.pack("Q", log.address))
        for ring in self._rings:
            self._tell("SET_VRING_ADDR", _SET_VRING_ADDR, ring.address(self._memory.address, True))
        self._tell("SET_FEATURES", _SET_FEATURES, struct.pack("Q", _F_VERSION_1 | _F_LOG_ALL))

    def stop_log(self) -> set[int]:
        """End it. Returns the dirty pages as numbers, counted from the start of our memory."""
        if self._log is None:
            return set()
        self._tell("SET_FEATURES", _SET_FEATURES, struct.pack("Q", _F_VERSION_1))
        bits = int.from_bytes(self._log.map[:], "little")
        return {page for page in range(self._memory.size // _PAGE) if bits >> page & 1}

    def pages(self, pending: Pending) -> tuple[set[int], set[int]]:
        """The pages the kernel must write for an answer: those of the used ring, and the rest."""
        first = pending.at // _PAGE
        data = -(-pending.data_in // _PAGE)
        return {pending.ring.used // _PAGE}, set(range(first, first + 1 + data))


def _let_go(fd: int, rings: list[_Ring], _memory: _Memory) -> None:
    os.close(fd)
    for ring in rings:
        ring.close()


def _rang(fd: int) -> bool:
    """Whether an eventfd was signalled, and silence it."""
    try:
        os.read(fd, 8)
    except BlockingIOError:
        return False
    return True


def occupy(wwpn: str, timeout: float = 10.0) -> Endpoint:
    """Hold an endpoint, sending nothing, so that no virtual machine can start on it.

    Ends with ``close()``, or with the process. Raises as ``Endpoint`` and ``Endpoint.attach``.
    """
    return Endpoint(wwpn, depth=1, room=_PAGE, timeout=timeout).__enter__()


def drain(wwpn: str, tpgts: Iterable[int] = (1,),
          timeout: float = 10.0) -> dict[tuple[int, int], list[replies.Sense]]:
    """Take the pending unit attentions of every LUN away, as a guest's driver would.

    Returns what was taken, in order, by (tpgt, lun), with an empty list where there was nothing.
    Raises as ``Endpoint``, ``Endpoint.attach`` and ``Unit.execute``.
    """
    with Endpoint(wwpn, depth=1, room=1 << 16, timeout=timeout) as endpoint:
        return {(tpgt, lun): drain_unit(endpoint.unit(lun, tpgt).execute)
                for tpgt in tpgts for lun in endpoint.luns(tpgt)}


def probe_dirty_logging(wwpn: str, tpgt: int = 1, lun: int = 0, timeout: float = 10.0) -> bool:
    """Whether this kernel notes in the dirty log what vhost-scsi writes into a guest's memory.

    Kernels before 6.16 accept VHOST_F_LOG_ALL and note the used ring only: a live migration then
    loses what the guest read. The answer is found by reading from ``lun``, so the WWPN must be a
    scratch target of the caller's, with a nexus and at least 8 KiB of blocks; it is only read.

    :raises TransportError: not even the used ring was noted, or the reads failed: no answer.
    """
    with Endpoint(wwpn, depth=4, room=1 << 16, timeout=timeout) as endpoint:
        unit = endpoint.unit(lun, tpgt)
        drain_unit(unit.execute)
        capacity = unit.execute(*cdb.read_capacity_10(), timeout=timeout)
        if not capacity.good:
            raise TransportError(errno.EIO, f"READ CAPACITY: status {capacity.status:#x}", wwpn)
        size = replies.decode_capacity_10(capacity.data).block_size
        endpoint.start_log()
        noted: set[int] = set()
        rings: set[int] = set()
        answers: set[int] = set()
        try:
            for question in (cdb.inquiry(), cdb.read_10(0, 8192 // size, size)):
                pending = unit.submit(*question)
                result = pending.wait(timeout)
                if not result.good:
                    raise TransportError(errno.EIO, f"{pending.name}: status {result.status:#x}",
                                         wwpn)
                ring, answer = endpoint.pages(pending)
                rings |= ring
                answers |= answer
        finally:
            noted = endpoint.stop_log()
        if not rings <= noted:
            raise TransportError(errno.EIO, "the dirty log does not even show the used ring", wwpn)
        return answers <= noted

"""An initiator for vhost-scsi targets: /dev/vhost-scsi driven from user space, without a guest.

To the kernel this is the virtual machine (drivers/vhost/scsi.c, include/uapi/linux/vhost.h): its
commands go through the target's real nexus, and while it is attached no virtual machine can be.
It sends nothing by itself, so it takes no unit attention away unless it is told to.

An ``Endpoint`` belongs to one thread. The kernel lets go of it when the process ends, however it
ends; a process that forks without exec shares it with the child.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import threading
import time
import weakref
from collections.abc import Iterable
from types import TracebackType

from . import CommandTimeout, Result, TransportError, cdb, replies, virtio_scsi
from .fingerprint import drain as drain_unit
from .vhost_ioctl import ABI, CLEAR_ENDPOINT, DEVICE, SET_ENDPOINT, Device
from .virtio_scsi import ANSWER_SIZE, SENSE_SIZE
from .virtqueue import PAGE, RING_SPAN, WRITE, Memory, Ring, rang

_CONTROL, _EVENT, _REQUEST = 0, 1, 2
_SLOTS_AT = 3 * RING_SPAN
_ANSWER_AT = 0x100  # within a slot's first page; its data begin at the second


class Pending:
    """A command or a reset on its way. Not waiting for it is allowed."""

    def __init__(self, unit: Unit, ring: Ring, at: int, name: str, data_in: int = 0) -> None:
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
        if response != virtio_scsi.OK:
            code, reason = virtio_scsi.failure(response)
            raise TransportError(code, f"{self.name}: {reason}, response {response}", where)
        arrived = max(0, self.data_in - residual)
        return Result(status, answer[12:12 + min(length, SENSE_SIZE)], self.data[:arrived])


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
        """As it stands in a request."""
        return virtio_scsi.address(self.tpgt, self.lun)

    def submit(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0) -> Pending:
        """Send a command without waiting; see ``execute``.

        :raises TransportError: EBUSY, as many commands as the endpoint is deep have no answer yet.
        """
        return self.endpoint._submit(self, cdb, data_out, data_in)

    def execute(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0,
                timeout: float = 10.0) -> Result:
        """See ``scsi.Execute``.

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
        self._target = struct.pack("i224sHH", ABI, name, 0, 0)
        self._room = room
        self._slot_size = PAGE + (room + PAGE - 1) // PAGE * PAGE
        self._free = list(range(depth))
        self._pending: dict[tuple[int, int], Pending] = {}
        self._rings: list[Ring] = []
        self._log: Memory | None = None
        self._memory = Memory(_SLOTS_AT + (depth + 1) * self._slot_size)
        self._device = Device(device, wwpn)
        # The kernel must have let go of the memory before that goes, also where nobody closes.
        self._forgotten = weakref.finalize(self, _let_go, self._device.fd, self._rings,
                                           self._memory)
        try:
            self._set_up(4 * depth)
        except BaseException:
            self.close()
            raise

    def _set_up(self, size: int) -> None:
        self._device.set_up(self._memory)
        for index, length in ((_CONTROL, 2), (_EVENT, 2), (_REQUEST, size)):
            ring = Ring(self._memory, index, length)
            self._rings.append(ring)
            self._device.add(ring, self._memory)

    # -- the endpoint -----------------------------------------------------------------------------

    def attach(self) -> None:
        """Take the endpoint: every TPG of the WWPN that has a nexus and is not attached.

        :raises TransportError: ENODEV where there is none: no such WWPN, no nexus, or attached by
            another (drivers/vhost/scsi.c:vhost_scsi_set_endpoint). Kernels up to 5.10 say EEXIST.
        :raises CommandTimeout: the kernel did not return.
        """
        self._bounded("SET_ENDPOINT", SET_ENDPOINT)
        self.attached = True

    def detach(self) -> None:
        """Give the endpoint back; the kernel answers every command first.

        :raises CommandTimeout: it did not within ``timeout``; it goes on trying.
        """
        if self.attached and not self._stuck:
            self._bounded("CLEAR_ENDPOINT", CLEAR_ENDPOINT)
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
                                  args=(self._device.fd, self._target, self._memory, self._log))
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
        if self._device.fd < 0:
            return
        try:
            self.detach()
        finally:
            # Where an ioctl has not returned it has the file open still; this only lets go of it.
            self._device.fd, self.attached = -1, False
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
        """The LUNs of REPORT LUNS; it reports no unit attention (core_scsi3_ua_check).

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
        data = at + PAGE
        request = virtio_scsi.command(unit.address, slot, cdb)
        self._memory.map[at:at + len(request)] = request
        self._memory.map[at + _ANSWER_AT:at + _ANSWER_AT + ANSWER_SIZE] = bytes(ANSWER_SIZE)
        chain = [(at, len(request), 0)]
        if data_out:
            self._memory.map[data:data + len(data_out)] = data_out
            chain.append((data, len(data_out), 0))
        chain.append((at + _ANSWER_AT, ANSWER_SIZE, WRITE))
        if data_in:
            self._memory.map[data:data + data_in] = bytes(data_in)
            chain.append((data, data_in, WRITE))
        name = f"command 0x{cdb[0]:02x} to LUN {unit.lun} of TPG {unit.tpgt}"
        return self._send(_REQUEST, 4 * slot, chain, Pending(
            unit, self._rings[_REQUEST], at, name, data_in))

    def _reset(self, unit: Unit, timeout: float) -> None:
        self._need_attached()
        if (_CONTROL, 0) in self._pending:
            raise TransportError(errno.EBUSY, "a reset has no answer yet", self.wwpn)
        at = self._slot(-1)
        request = virtio_scsi.reset(unit.address)
        self._memory.map[at:at + len(request)] = request
        self._memory.map[at + _ANSWER_AT:at + _ANSWER_AT + 1] = b"\xff"
        for overtaken in self._pending.values():
            if overtaken.unit.address == unit.address:
                overtaken.reset = True
        chain = [(at, len(request), 0), (at + _ANSWER_AT, 1, WRITE)]
        pending = self._send(_CONTROL, 0, chain, Pending(
            unit, self._rings[_CONTROL], at, f"reset of LUN {unit.lun} of TPG {unit.tpgt}"))
        response = self._wait(pending, timeout)[0]
        if response not in (virtio_scsi.OK, virtio_scsi.SUCCEEDED):
            code, reason = virtio_scsi.failure(response)
            if response == virtio_scsi.REJECTED:
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
        if self._device.fd < 0:
            raise TransportError(errno.ENOTCONN, "not open", self.wwpn)
        for ring in (self._rings[_CONTROL], self._rings[_REQUEST]):
            for head in ring.take():
                pending = self._pending.pop((ring.index, head), None)
                if pending is None:
                    raise TransportError(errno.EPROTO, f"the kernel returned descriptor {head} of "
                                         f"queue {ring.index}, which it does not have", self.wwpn)
                at = pending.at + _ANSWER_AT
                data = pending.at + PAGE
                pending.data = self._memory.map[data:data + pending.data_in]
                pending.answer = self._memory.map[at:at + ANSWER_SIZE]
                if ring.index == _REQUEST:
                    self._free.append(head // 4)
            if rang(ring.error):
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
                rang(ring.call)
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
        if not self._device.can_log:
            raise TransportError(errno.EOPNOTSUPP, "no VHOST_F_LOG_ALL", self.wwpn)
        log = Memory((self._memory.size // PAGE + 7) // 8 // PAGE * PAGE + PAGE)
        self._log = log
        self._device.start_log(log, self._memory, self._rings)

    def stop_log(self) -> set[int]:
        """End it. Returns the dirty pages as numbers, counted from the start of our memory."""
        if self._log is None:
            return set()
        self._device.stop_log()
        bits = int.from_bytes(self._log.map[:], "little")
        return {page for page in range(self._memory.size // PAGE) if bits >> page & 1}

    def pages(self, pending: Pending) -> tuple[set[int], set[int]]:
        """The pages the kernel must write for an answer: those of the used ring, and the rest."""
        first = pending.at // PAGE
        data = -(-pending.data_in // PAGE)
        return {pending.ring.used // PAGE}, set(range(first, first + 1 + data))


def _let_go(fd: int, rings: list[Ring], _memory: Memory) -> None:
    os.close(fd)
    for ring in rings:
        ring.close()


def occupy(wwpn: str, timeout: float = 10.0) -> Endpoint:
    """Hold an endpoint, sending nothing, so that no virtual machine can start on it.

    Ends with ``close()``, or with the process. Raises as ``Endpoint`` and ``Endpoint.attach``.
    """
    return holder(wwpn, timeout).__enter__()


def holder(wwpn: str, timeout: float = 10.0) -> Endpoint:
    """An endpoint that is not attached yet, and will be held and drained: one command at a time,
    with room for REPORT LUNS.  Raises as ``Endpoint``."""
    return Endpoint(wwpn, depth=1, room=1 << 16, timeout=timeout)


def drain(wwpn: str, tpgts: Iterable[int] = (1,),
          timeout: float = 10.0) -> dict[tuple[int, int], list[replies.Sense]]:
    """Take the pending unit attentions of every LUN away, as a guest's driver would.

    Returns what was taken, in order, by (tpgt, lun), with an empty list where there was nothing.
    Raises as ``Endpoint``, ``Endpoint.attach`` and ``Unit.execute``.
    """
    with holder(wwpn, timeout) as endpoint:
        return {(tpgt, lun): taken for tpgt in tpgts
                for lun, taken in drain_tpg(endpoint, tpgt).items()}


def drain_tpg(endpoint: Endpoint, tpgt: int) -> dict[int, list[replies.Sense]]:
    """The same for one TPG of an endpoint that is attached, by LUN."""
    return {lun: drain_unit(endpoint.unit(lun, tpgt).execute) for lun in endpoint.luns(tpgt)}


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

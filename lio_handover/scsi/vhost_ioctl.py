"""The ioctls of /dev/vhost-scsi (drivers/vhost/scsi.c, include/uapi/linux/vhost.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable

from . import TransportError
from .virtqueue import Memory, Ring

DEVICE = "/dev/vhost-scsi"
ABI = 1  # VHOST_SCSI_ABI_VERSION, include/uapi/linux/vhost_types.h


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
SET_ENDPOINT = _ioc(1, 0x40, 232)
CLEAR_ENDPOINT = _ioc(1, 0x41, 232)
_GET_ABI_VERSION = _ioc(1, 0x42, 4)

_F_LOG_ALL = 1 << 26
_F_VERSION_1 = 1 << 32


class Device:
    """An open /dev/vhost-scsi; ``wwpn``, the target it is opened for, is named in errors.

    The owner of the object closes ``fd``.

    :raises FileNotFoundError: no device node; the module vhost_scsi is not loaded.
    """

    def __init__(self, path: str, wwpn: str) -> None:
        self.wwpn = wwpn
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._features = 0

    def set_up(self, memory: Memory) -> None:
        """Agree on the version, and name the memory that commands and replies lie in.

        :raises TransportError: the kernel does not speak our version, or refuses.
        """
        abi = self._ask(_GET_ABI_VERSION, "i")
        if abi > ABI:
            raise TransportError(errno.EPROTONOSUPPORT, f"vhost-scsi ABI {abi}", self.wwpn)
        self._tell("SET_OWNER", _SET_OWNER)
        self._features = self._ask(_GET_FEATURES, "Q")
        if not self._features & _F_VERSION_1:
            raise TransportError(errno.EPROTONOSUPPORT, "no VIRTIO_F_VERSION_1", self.wwpn)
        self._tell("SET_FEATURES", _SET_FEATURES, struct.pack("Q", _F_VERSION_1))
        self._tell("SET_MEM_TABLE", _SET_MEM_TABLE, struct.pack(
            "II4Q", 1, 0, 0, memory.size, memory.address, 0))

    def add(self, ring: Ring, memory: Memory) -> None:
        """Tell the kernel of a virtqueue in ``memory``. :raises TransportError: it refuses."""
        index = ring.index
        self._tell("SET_VRING_NUM", _SET_VRING_NUM, struct.pack("II", index, ring.size))
        self._tell("SET_VRING_BASE", _SET_VRING_BASE, struct.pack("II", index, 0))
        self._tell("SET_VRING_ADDR", _SET_VRING_ADDR, ring.address(memory.address, False))
        for name, request, fd in (("KICK", _SET_VRING_KICK, ring.kick),
                                  ("CALL", _SET_VRING_CALL, ring.call),
                                  ("ERR", _SET_VRING_ERR, ring.error)):
            self._tell("SET_VRING_" + name, request, struct.pack("Ii", index, fd))

    @property
    def can_log(self) -> bool:
        """Whether it has a dirty log at all (VHOST_F_LOG_ALL)."""
        return bool(self._features & _F_LOG_ALL)

    def start_log(self, log: Memory, memory: Memory, rings: Iterable[Ring]) -> None:
        """From here on the kernel marks in ``log`` each page of ``memory`` that it writes.

        ``log`` has one bit a page, and stays where it is. :raises TransportError: it refuses.
        """
        self._tell("SET_LOG_BASE", _SET_LOG_BASE, struct.pack("Q", log.address))
        for ring in rings:
            self._tell("SET_VRING_ADDR", _SET_VRING_ADDR, ring.address(memory.address, True))
        self._tell("SET_FEATURES", _SET_FEATURES, struct.pack("Q", _F_VERSION_1 | _F_LOG_ALL))

    def stop_log(self) -> None:
        """:raises TransportError: the kernel refuses."""
        self._tell("SET_FEATURES", _SET_FEATURES, struct.pack("Q", _F_VERSION_1))

    def _tell(self, name: str, request: int, argument: bytes | int = 0) -> None:
        try:
            fcntl.ioctl(self.fd, request, argument)
        except OSError as error:
            raise TransportError(error.errno or errno.EIO, f"{name} refused",
                                 self.wwpn) from error

    def _ask(self, request: int, form: str) -> int:
        answer = fcntl.ioctl(self.fd, request, bytes(struct.calcsize(form)))
        value: int = struct.unpack(form, answer)[0]
        return value

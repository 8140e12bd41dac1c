"""The words between a host's agent and the lab, over a serial line.

A serial line and not the network: a host whose cable is pulled must still answer.  Every message
is one pickled tuple behind its length and checksum.
"""
from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Iterator
from typing import Any

_HEADER = struct.Struct("!II")
LIMIT = 256 * 1024 * 1024
# How much the lab may have under way to an agent that has not said it took it.  A User Mode Linux
# terminal holds 4096 bytes, and once it had to tell the sender to wait it never hears it again.
WINDOW = 3500


def encode(message: tuple[Any, ...]) -> bytes:
    """One message as bytes for the line."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


class Decoder:
    """Collects what the line delivers and hands out whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        """Take more bytes; yield every message that is now complete."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            length, checksum = _HEADER.unpack_from(self._buffer)
            if length > LIMIT:
                raise ValueError(f"the serial line lost its place (a message of {length} bytes)")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size:end])
            del self._buffer[:end]
            if zlib.crc32(body) != checksum:
                raise ValueError("the serial line changed a message")
            yield pickle.loads(body)

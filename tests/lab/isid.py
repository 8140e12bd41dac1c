"""An iSCSI initiator that chooses its ISID, as neither open-iscsi nor libiscsi lets one do.

    with isid.Session("198.18.0.11", 3260, "iqn.…:t", "iqn.…:me", "00023d000001") as session:
        session.unit(3).execute(*cdb.read_keys())

No authentication, no digests, one command at a time; every write waits for R2T (RFC 7143).
"""
from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import NamedTuple

from lio_handover.scsi import CHECK_CONDITION, Result
from lio_handover.scsi.cdb import encode_lun

_HEADER = 48
_LOGIN, _COMMAND, _DATA_OUT, _LOGOUT, _NOP_OUT = 0x03, 0x01, 0x05, 0x06, 0x00
_NOP_IN, _RESPONSE, _LOGGED_IN, _DATA_IN, _R2T = 0x20, 0x21, 0x23, 0x25, 0x31
_NOBODY = 0xffffffff


class LoginRefused(Exception):
    """The target let this initiator not in: (status class, status detail) of RFC 7143 11.13.5."""


class Unit(NamedTuple):
    """One logical unit, with the ``execute`` of lio_handover.scsi."""

    session: Session
    lun: int

    def execute(self, cdb: bytes, data_out: bytes = b"", data_in: int = 0,
                timeout: float = 10.0) -> Result:
        self.session.line.settimeout(timeout)
        return self.session.command(self.lun, cdb, data_out, data_in)


class Session:
    """One session of one connection.  ``isid`` is 12 hex digits; ``patience``: seconds that an
    answer to a login may take."""

    def __init__(self, address: str, port: int, target: str, initiator: str, isid: str,
                 patience: float = 10) -> None:
        self.line = socket.create_connection((address, port), patience)
        self._number = 0        # CmdSN and initiator task tag alike
        self._seen = 0          # ExpStatSN
        try:
            self._log_in(target, initiator, bytes.fromhex(isid))
        except BaseException:
            self.line.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._send(struct.pack(">BB14xIHxxII16x", 0x40 | _LOGOUT, 0x80, self._number, 0,
                                       self._number, self._seen))
                self._receive()
        finally:
            self.line.close()

    def unit(self, lun: int = 0) -> Unit:
        return Unit(self, lun)

    # ── PDUs ─────────────────────────────────────────────────────────────────────────────────

    def _send(self, header: bytes, data: bytes = b"") -> None:
        length = struct.pack(">I", len(data))[1:]
        self.line.sendall(header[:5] + length + header[8:] + data + bytes(-len(data) % 4))

    def _receive(self) -> tuple[bytes, bytes]:
        """(header, data) of the next PDU that is not a ping."""
        while True:
            header = self._take(_HEADER)
            length = int.from_bytes(header[5:8], "big")
            data = self._take(header[4] * 4 + length + -length % 4)[header[4] * 4:][:length]
            if header[0] & 0x3f != _NOP_IN:
                return header, data
            if header[20:24] != b"\xff\xff\xff\xff":    # it wants an answer
                self._send(struct.pack(">BB6x8sI4sII16x", 0x40 | _NOP_OUT, 0x80, header[8:16],
                                       _NOBODY, header[20:24], self._number, self._seen))

    def _take(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self.line.recv(count - len(found))
            if not more:
                raise ConnectionError("the target closed the connection")
            found += more
        return found

    def _log_in(self, target: str, initiator: str, isid: bytes) -> None:
        words = (f"InitiatorName={initiator}", f"TargetName={target}", "SessionType=Normal",
                 "HeaderDigest=None", "DataDigest=None", "InitialR2T=Yes", "ImmediateData=No",
                 "MaxRecvDataSegmentLength=262144", "MaxBurstLength=262144",
                 "FirstBurstLength=65536", "DefaultTime2Wait=0", "DefaultTime2Retain=0",
                 "MaxOutstandingR2T=1", "MaxConnections=1", "DataPDUInOrder=Yes",
                 "DataSequenceInOrder=Yes", "ErrorRecoveryLevel=0")
        data = b"".join(word.encode() + b"\0" for word in words)
        while True:
            # Straight to the operational stage (1), on to full feature phase (3).
            self._send(struct.pack(">BBBB4x6sHIHxxII16x", 0x40 | _LOGIN, 0x87, 0, 0, isid, 0, 0, 0,
                                   self._number, self._seen), data)
            header, _data = self._receive()
            if header[0] & 0x3f != _LOGGED_IN or header[36]:
                raise LoginRefused(header[36], header[37])
            self._seen = struct.unpack_from(">I", header, 24)[0] + 1
            if header[1] & 0x83 == 0x83:
                return
            data = b""

    def command(self, lun: int, cdb: bytes, data_out: bytes, data_in: int) -> Result:
        tag = self._number
        flags = 0x81 | (0x20 if data_out else 0) | (0x40 if data_in else 0)
        self._send(struct.pack(">BB6x8sIIII16s", _COMMAND, flags, encode_lun(lun), tag,
                               len(data_out) or data_in, self._number, self._seen,
                               cdb.ljust(16, b"\0")))
        self._number += 1
        found = bytearray()
        while True:
            header, data = self._receive()
            kind = header[0] & 0x3f
            if kind == _R2T:
                offset, length = struct.unpack_from(">II", header, 40)
                self._send(struct.pack(">BB6x8sI4s4xI4xII4x", _DATA_OUT, 0x80, header[8:16], tag,
                                       header[20:24], self._seen, 0, offset),
                           data_out[offset:offset + length])
                continue
            if kind == _DATA_IN:
                at = struct.unpack_from(">I", header, 40)[0]
                found[at:at + len(data)] = data
                if not header[1] & 0x01:
                    continue
            elif kind != _RESPONSE or header[2]:
                raise ConnectionError(f"PDU {kind:#x} with response {header[2]:#x}")
            self._seen = struct.unpack_from(">I", header, 24)[0] + 1
            status = header[3]
            sense = data[2:2 + int.from_bytes(data[:2], "big")] if (
                kind == _RESPONSE and status == CHECK_CONDITION) else b""
            return Result(status, sense, bytes(found[:data_in]))

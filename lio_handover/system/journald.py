"""Messages with fields for systemd's journal; without a journal the service writes to standard
error, and the command line to syslog.

The journal's socket takes datagrams of lines ``FIELD=value`` (systemd, "Native Journal Protocol"),
so ``journalctl LIO_HANDOVER_ID=…`` finds all messages of a handover.
"""
from __future__ import annotations

import os
import socket
import sys
from typing import Callable, Collection, Optional

SOCKET = "/run/systemd/journal/socket"
ERR, WARNING, NOTICE, INFO = 3, 4, 5, 6  # syslog(3)
_LONGEST = 8192


class Log:
    """A log; the fields are handover (its id), target (``FABRIC/WWN``), step and job."""

    def __init__(self, path: str = "", program: str = "lio-handoverd",
                 otherwise: Optional[Callable[[int, str], None]] = None) -> None:
        self._socket: Optional[socket.socket] = None
        self._program, self._otherwise = program, otherwise or _to_standard_error
        if not path and otherwise is None and not _standard_error_is_the_journal():
            return
        try:
            journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            journal.setblocking(False)  # a journal that hangs does not make us wait
            journal.connect(path or SOCKET)
            self._socket = journal
        except OSError:
            journal.close()

    def say(self, text: str, priority: int = INFO, **fields: str) -> None:
        text = " ".join(text.split())[:_LONGEST]
        if self._socket is None or not self._send(text, priority, fields):
            words = [f"{name}={value}" for name, value in fields.items() if value]
            self._otherwise(priority, text + (f" ({', '.join(words)})" if words else ""))

    def warn(self, text: str, **fields: str) -> None:
        self.say(text, WARNING, **fields)

    def given(self, assertions: Collection[str], asserted_by: str, handover: str,
              target: str) -> None:
        """Log who asserts what no program can know, and about which handover."""
        if assertions:
            self.warn(f"{asserted_by} says {', '.join(sorted(assertions))} of "
                      + (f"handover {handover}" if handover else "every handover"),
                      handover=handover, target=target)

    def _send(self, text: str, priority: int, fields: dict[str, str]) -> bool:
        lines = {"MESSAGE": text, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": self._program}
        for name, field in (("handover", "LIO_HANDOVER_ID"), ("target", "LIO_TARGET"),
                            ("step", "LIO_STEP"), ("job", "LIO_JOB")):
            if fields.get(name):
                lines[field] = " ".join(fields[name].split())[:_LONGEST]
        data = "".join(f"{name}={value}\n" for name, value in lines.items())
        assert self._socket is not None
        try:
            self._socket.send(data.encode("utf-8", "backslashreplace"))
        except OSError:
            return False
        return True


def _standard_error_is_the_journal() -> bool:
    """Whether systemd has connected standard error to the journal (systemd.exec(5),
    $JOURNAL_STREAM)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _to_standard_error(priority: int, text: str) -> None:
    try:
        print(f"<{priority}>{text}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens

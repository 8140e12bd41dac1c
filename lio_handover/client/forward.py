"""A UNIX socket of the other host, as a socket of this one: ssh forwards it (StreamLocal).

No port is opened on either host.  The socket here is in a folder that only this user can enter.
"""
from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from typing import Optional, Tuple

from .. import dbus_names, errors
from . import ssh

#: Seconds between two looks whether ssh has made the socket, and seconds that ssh has to end.
OFTEN, ENDS = 0.02, 5.0


class Forwarded:
    """``path`` of the host ``where``; ``here`` is where it is reached, from `open` to `close`.

    ``where`` as --to has it; with a bus of this machine the socket is this machine's, too.
    """

    def __init__(self, where: str, path: str) -> None:
        if not os.path.isabs(path) or ":" in path or "\0" in path:
            raise errors.BadCall(f"{errors.quoted(path)} is no socket that ssh can forward",
                                 do="name it by its whole path, without a colon")
        ssh.address(where)  # raises BadCall
        self.where, self.path = where, path
        self.here = path
        self._folder: Optional[tempfile.TemporaryDirectory[str]] = None
        self._program: Optional[subprocess.Popen[bytes]] = None

    def open(self) -> None:
        """Raises PeerUnreachable.  Whether somebody listens over there shows only in use."""
        if not dbus_names.HOST.fullmatch(self.where):
            return
        self._folder = tempfile.TemporaryDirectory(prefix="lio-handover-")
        self.here = os.path.join(self._folder.name, "qmp")
        words = [ssh.PROGRAM, "-axNT", "-o", "ExitOnForwardFailure=yes",
                 "-o", f"ConnectTimeout={ssh.CONNECT_SECONDS}",
                 "-o", f"ServerAliveInterval={ssh.ALIVE_SECONDS}",
                 "-o", f"ServerAliveCountMax={ssh.MISSED}",
                 "-L", f"{self.here}:{self.path}", "--", self.where]
        try:
            # An interrupt at the terminal is for us to act on: ssh hears of none.
            self._program = subprocess.Popen(words, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                             start_new_session=True, env=ssh.environment())
        except OSError as error:
            self.close()
            raise errors.PeerUnreachable(f"ssh can't be run: {error.strerror}") from None
        until = time.monotonic() + ssh.CONNECTED_SECONDS
        while not os.path.exists(self.here):
            if self._program.poll() is not None or time.monotonic() > until:
                raise self._failed()
            time.sleep(OFTEN)

    def _failed(self) -> errors.PeerUnreachable:
        program = self._program
        assert program is not None and program.stderr is not None
        program.kill()
        os.set_blocking(program.stderr.fileno(), False)  # a child of ssh may have it, too
        said = (program.stderr.read(1 << 16) or b"").decode(
            errors="replace").strip().rpartition("\n")[2]
        self.close()
        return errors.PeerUnreachable(
            f"{self.where} does not let ssh forward its socket {errors.shown(self.path)} "
            f"({errors.shown(said) or 'no answer'})",
            do=f"see that `ssh {self.where} true` works, and that its sshd has "
               "AllowStreamLocalForwarding on")

    def close(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(ENDS)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
            if program.stderr is not None:
                program.stderr.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()


def address_of(where: str) -> str:
    """The address or name that ssh connects to for a host: what its own configuration says.

    Raises PeerUnreachable where ssh can't be asked.
    """
    if not dbus_names.HOST.fullmatch(where):
        return "127.0.0.1"
    try:
        done = subprocess.run([ssh.PROGRAM, "-G", "--", where], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=ssh.CONNECT_SECONDS,
                              check=False, env=ssh.environment())
    except (OSError, subprocess.TimeoutExpired):
        done = None
    words: Tuple[str, ...] = ()
    if done is not None:
        words = tuple(line.partition(" ")[2] for line in done.stdout.splitlines()
                      if line.startswith("hostname "))
    if not words:
        raise errors.PeerUnreachable(f"ssh does not say which address {where} has",
                                     do="name it: --guest-uri tcp:ADDRESS:PORT")
    return words[0]

"""A network namespace without a name, and processes that cannot outlive the lab.

One thread enters a network namespace of its own and starts every process of the lab from there.
The namespace has no name, so it is gone with its last process; each child asks the kernel for its
death when that thread dies, which it does with the session, however the session ends.  So nothing
has to be cleaned up by a program that may be dead itself.
"""
from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .errors import LabError

_CLONE_NEWNET = 0x40000000
# The death signal must be on before the program runs, and a program must be able to have it too.
_MORTAL = ("setpriv", "--pdeathsig", "KILL", "--")
# Everything a host's kernel forks, ends with it: a process namespace per host.
_SEALED = ("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--",
           "/bin/sh", "-c", '"$@"; exit $?', "host")


class Namespace:
    """Where the lab's bridge, hosts and initiators live."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lab-namespace",
                                          initializer=_enter)
        try:
            self.run(["ip", "link", "set", "lo", "up"])
        except BaseException:
            self._thread.shutdown()
            raise

    def popen(self, argv: Sequence[str], sealed: bool = False,
              **options: Any) -> subprocess.Popen[Any]:
        """Start a program in the namespace; with `sealed`, in a process namespace of its own.

        It gets a session of its own too: a person's Ctrl-C is for the lab to act on.
        """
        command = [*_MORTAL, *(_SEALED if sealed else ()), *argv]
        return self._thread.submit(
            lambda: subprocess.Popen(command, start_new_session=True, **options)).result()

    def run(self, argv: Sequence[str], input: bytes = b"",  # noqa: A002 - as subprocess has it
            timeout: float | None = 60, check: bool = True,
            text: bool = True) -> subprocess.CompletedProcess[Any]:
        """Run a program of this machine in the namespace and wait for it."""
        with self.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(
            list(argv), process.returncode, *((out.decode(errors="replace"),
                                               err.decode(errors="replace")) if text
                                              else (out, err)))
        if check and done.returncode:
            words = (err or out).decode(errors="replace").strip()
            raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {words}")
        return done

    def close(self) -> None:
        """End the thread; what is still running in the namespace dies with it."""
        self._thread.shutdown()


def _enter() -> None:
    """Move the calling thread, and no other, into a new network namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNET):
        error = os.strerror(ctypes.get_errno())
        raise LabError(f"cannot make a network namespace: {error} (the lab needs root)")

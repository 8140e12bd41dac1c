"""The administrator's programs, from the configuration file: they run as root and without a shell,
and are killed with their children once they take too long."""
from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Sequence, Tuple

from ..errors import one_line

if TYPE_CHECKING:
    import subprocess

#: Seconds for a killed program to be gone.
_GRACE = 5
_SAID = 300  # characters of its last line


class TooLong(Exception):
    """The program took too long; ``how``: "was killed" or "can't be killed"."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


def run(words: Sequence[str], seconds: float) -> Tuple[int, str]:
    """Run a program for at most ``seconds``: (exit code, or minus the signal that ended it; its
    last line of output).

    Raises OSError where the program cannot be run, TooLong where it took longer.
    """
    import subprocess
    import tempfile
    with tempfile.TemporaryFile() as said:  # a child that it leaves behind would keep a pipe open
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/",
            start_new_session=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TooLong("was killed" if _kill(child) else "can't be killed") from None
        except BaseException:
            _kill(child)
            raise
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        return code, one_line(last[:_SAID])


def _kill(child: "subprocess.Popen[bytes]") -> bool:
    """Kill a program's process group; whether the program has ended."""
    import subprocess
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        return False
    return True

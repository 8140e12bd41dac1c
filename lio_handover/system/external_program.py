"""Programs of the administrator's, named in the configuration file: run as root, without a shell,
and ended with all that they started."""
from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Sequence, Tuple

from ..errors import one_line

if TYPE_CHECKING:
    import subprocess

#: Seconds for a killed program to be gone.
_GRACE = 5
_SAID = 300  # characters of what it said


class TooLong(Exception):
    """It took too long; ``how``: what became of it."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


def run(words: Sequence[str], seconds: float) -> Tuple[int, str]:
    """(exit code, or minus the signal that ended it; the last line that it said).

    Raises OSError where it can't be run, TooLong where it took longer and was killed.
    """
    import subprocess
    import tempfile
    with tempfile.TemporaryFile() as said:  # a pipe would be kept open by what it leaves behind
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
    """Whether it is gone."""
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

"""Before an operator's word that the other host is off is believed: the program that makes it so.

``[fence] program`` is run with the other host's name as its last argument (as any fence agent's
wrapper takes it), with nothing on its standard input.  Exit code 0 says: it is off now.
"""
from __future__ import annotations

from . import errors
from .settings import Settings


def confirm(settings: Settings, host: str) -> str:
    """What was done, in one line; "" where no program is configured.  Raises FenceFailed."""
    if not settings.fence_program:
        return ""
    import subprocess
    program = settings.fence_program[0]
    if not host:
        raise errors.FenceFailed(
            f"{program} is to confirm that the other host is off, and its name is not recorded",
            do="name it with --peer HOST")
    try:
        done = subprocess.run([*settings.fence_program, host], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=settings.fence_seconds)
    except subprocess.TimeoutExpired:
        raise errors.FenceFailed(f"{program} {host} did not end in "
                                 f"{settings.fence_seconds} s") from None
    except OSError as error:
        raise errors.FenceFailed(f"{program} can't be run: {error.strerror}",
                                 do="correct [fence] program") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise errors.FenceFailed(f"{program} {host} ended with {done.returncode}"
                                 + (f": {errors.one_line(said[-1])}" if said else ""))
    return f"{program} confirms that {host} is off"

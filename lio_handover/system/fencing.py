"""The fence program: it confirms an operator's assertion that the other host is off.

``[fence] program`` gets the other host's name as its last argument (as a wrapper of any fence
agent takes it), and nothing on standard input.  Exit code 0 says that the other host is off now.
"""
from __future__ import annotations

from .. import dbus_names, errors
from ..settings import Settings
from . import external_program


def confirm(settings: Settings, host: str) -> str:
    """Run the fence program: a line that says so; "" where no program is configured.  ``host`` is
    HOST or USER@HOST; the program gets HOST.  Raises FenceFailed."""
    if not settings.fence_program:
        return ""
    program = settings.fence_program[0]
    if not host:
        raise errors.FenceFailed(
            f"{program} is to confirm that the other host is off, and its name is not recorded",
            do="name it with --peer HOST")
    match = dbus_names.HOST.fullmatch(host)
    if not match:  # an option, say --help, with which the program would end with 0
        raise errors.FenceFailed(
            f"{program} is to confirm that the other host is off, and {errors.quoted(host)} is "
            "no name of a host", do="name it with --peer HOST")
    name = match[1]
    try:
        code, said = external_program.run([*settings.fence_program, name], settings.fence_seconds)
    except external_program.TooLong as error:
        raise errors.FenceFailed(f"{program} {name} did not end within {settings.fence_seconds} s "
                                 f"and {error.how}") from None
    except OSError as error:
        raise errors.FenceFailed(f"{program} can't be run: {error.strerror}",
                                 do="correct [fence] program") from None
    if code:
        confined = external_program.sandbox()
        raise errors.FenceFailed(f"{program} {name} ended with {code}"
                                 + (f": {said}" if said else ""),
                                 do=confined and f"see why it does not say that {name} is off; "
                                 f"till then {name} may serve; {confined}")
    return f"{program} confirms that {name} is off"

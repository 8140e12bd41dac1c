"""Before an operator's word that the other host is off is believed: the program that makes it so.

``[fence] program`` is run with the other host's name as its last argument (as any fence agent's
wrapper takes it), with nothing on its standard input.  Exit code 0 says: it is off now.
"""
from __future__ import annotations

from .. import dbus_names, errors
from ..settings import Settings
from . import external_program


def confirm(settings: Settings, host: str) -> str:
    """What was done, in one line; "" where no program is configured.  ``host``: how the other one
    is reached, whose name alone the program is given.  Raises FenceFailed."""
    if not settings.fence_program:
        return ""
    program = settings.fence_program[0]
    if not host:
        raise errors.FenceFailed(
            f"{program} is to confirm that the other host is off, and its name is not recorded",
            do="name it with --peer HOST")
    found = dbus_names.HOST.fullmatch(host)
    if not found:  # an option, say, that the program would end well with, and do nothing
        raise errors.FenceFailed(
            f"{program} is to confirm that the other host is off, and {errors.one_line(host)!r} is "
            "no name of a host", do="name it with --peer HOST")
    name = found[1]
    try:
        code, said = external_program.run([*settings.fence_program, name], settings.fence_seconds)
    except external_program.TooLong as error:
        raise errors.FenceFailed(f"{program} {name} did not end within {settings.fence_seconds} s "
                                 f"and {error.how}") from None
    except OSError as error:
        raise errors.FenceFailed(f"{program} can't be run: {error.strerror}",
                                 do="correct [fence] program") from None
    if code:
        raise errors.FenceFailed(f"{program} {name} ended with {code}"
                                 + (f": {said}" if said else ""))
    return f"{program} confirms that {name} is off"

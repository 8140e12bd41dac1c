"""systemd's unit of a guest that comes to this host: started, and waited for; stopped.

A hook's process is its caller's: libvirtd waits for it, and it may be confined as libvirtd is.  The
work is therefore the unit's, which a hook that is killed does not end.
"""
from __future__ import annotations

import os
from typing import Sequence, Tuple

from .. import errors
from ..system import external_program, supervisor
from ..system.atomic_file import write_file

UNIT = "lio-handover-incoming@{}.service"
#: Files by guests' names: a line with the source, where whoever began it knows that, and one with
#: the process that waits for the unit, as long as it does.
FOLDER = "/run/lio-handover-incoming"
#: Seconds beside the hook's own for a unit to stop what it did before, and to end.
MORE = 30
#: Seconds for systemctl to answer, where it waits for no unit.
ANSWER = 30


def source_of(guest: str) -> str:
    """The source that whoever began it has named, or ""."""
    return _lines(guest)[0]


def who_waits(guest: str) -> int:
    """The process that had the unit started, and waits for that; 0 where none does any more."""
    number = _lines(guest)[1]
    return int(number) if number.isdecimal() else 0


def _lines(guest: str) -> Sequence[str]:
    try:
        with open(os.path.join(FOLDER, guest), encoding="ascii", errors="replace") as file:
            return [*file.read(1024).split("\n"), "", ""]
    except OSError:
        return "", ""


def start(guest: str, source: str, seconds: int) -> None:
    """Have systemd run a guest's unit anew, and wait until its targets are staged.

    Raises Refusal or HandoverError with the unit's own words where it failed, StillRunning where
    it takes longer than ``seconds`` and is told to stop, NoService without systemd.
    """
    if not supervisor.running():
        raise errors.NoService("systemd does not run here, and nothing else would take back what a "
                               "migration leaves", do="lio-handover move --mode vhost-inband")
    _write(guest, source, os.getpid())
    unit = UNIT.format(guest)
    try:
        code, said = _run(["restart", "--", unit], seconds + MORE)
    except external_program.TooLong:
        stop(guest)
        raise errors.StillRunning(f"{unit} is not started after {seconds + MORE} s; it is told to "
                                  "stop", do=f"journalctl -u {unit}, and migrate again") from None
    finally:
        _write(guest, source, 0)  # whoever is killed does not come here
    if code:
        raise _failure(unit, said)


def stop(guest: str, seconds: int = 0) -> None:
    """Have systemd stop a guest's unit; with ``seconds``, wait for it so long.  Raises NoService,
    StillRunning."""
    unit = UNIT.format(guest)
    words = ["stop", "--", unit] if seconds else ["--no-block", "stop", "--", unit]
    try:
        code, said = _run(words, seconds or ANSWER)
    except external_program.TooLong:
        raise errors.StillRunning(f"{unit} does not stop", do=f"journalctl -u {unit}") from None
    if code:
        raise errors.NoService(f"systemctl: {said}", do=f"systemctl status {unit}")


def _write(guest: str, source: str, waits: int) -> None:
    path = os.path.join(FOLDER, guest)
    try:
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
        write_file(path, f"{source}\n{waits or ''}\n".encode())
    except OSError as error:
        raise errors.BadFile(f"{path}: {error.strerror}", do=f"look at {FOLDER}") from None


def _failure(unit: str, said: str) -> errors.HandoverError:
    """The error for a unit that was not started: what it has said itself, where it has."""
    fields = dict(line.partition("=")[::2] for line in _show(unit, "StatusText", "ExecMainStatus"))
    what = fields.get("StatusText", "")
    if not what:
        return errors.HandoverError(f"{unit} was not started: {said}",
                                    "whether anything was changed is not known",
                                    f"journalctl -u {unit}")
    what, _, do = what.partition("; next: ")
    what, _, changed = what.rpartition("; ")
    kind = errors.Refusal if fields.get("ExecMainStatus") == "2" else errors.HandoverError
    return kind(what, changed, do)


def _show(unit: str, *properties: str) -> Sequence[str]:
    import subprocess
    try:
        done = subprocess.run(
            ["systemctl", "show", f"--property={','.join(properties)}", "--", unit],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER, check=False,
            env=external_program.ENVIRONMENT)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return done.stdout.decode(errors="replace").splitlines()


def _run(words: Sequence[str], seconds: float) -> Tuple[int, str]:
    try:
        return external_program.run(["systemctl", "--no-ask-password", *words], seconds)
    except OSError as error:
        raise errors.NoService(f"systemctl can't be run: {error.strerror}",
                               do="lio-handover move --mode vhost-inband") from None

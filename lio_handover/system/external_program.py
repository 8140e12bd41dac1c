"""The administrator's programs, from the configuration file: they run as root and without a shell,
and are killed with all their descendants once they take too long.

A session of its own is no way out: the kernel gives orphans to a process that supervises the
program (PR_SET_CHILD_SUBREAPER, kernel/exit.c:find_new_reaper), so whatever the program starts
stays below the supervisor while the program runs.  A process that outlives a program which has
ended in time goes on, as rbd-nbd does, which serves the device that it has mapped.
"""
from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Dict, List, NoReturn, Sequence, Tuple

from ..errors import one_line

if TYPE_CHECKING:
    import ctypes

#: All that a program of the administrator's sees of the environment.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
#: Seconds for a killed program to be gone.
_GRACE = 5
_SAID = 300  # characters of its last line
_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_ENDED, _NOT_RUN = b"ended", b"not-run"


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
    import select
    import tempfile
    with tempfile.TemporaryFile() as said:  # a child that it leaves behind would keep a pipe open
        supervisor, answer = _supervised(words, said.fileno())
        try:
            poll = select.poll()
            poll.register(answer, select.POLLIN)
            told = os.read(answer, 64).split() if poll.poll(seconds * 1000) else None
        except BaseException:
            _kill(supervisor)
            raise
        finally:
            os.close(answer)
        if told is None:
            raise TooLong("was killed" if _kill(supervisor) else "can't be killed")
        os.waitpid(supervisor, 0)
        if not told:  # somebody else has killed the supervisor
            return -signal.SIGKILL, ""
        code = int(told[1])
        if told[0] == _NOT_RUN:
            raise OSError(code, os.strerror(code), words[0])
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        return code, one_line(last[:_SAID])


def sandbox() -> str:
    """The sandbox that programs inherit from this process, for the error of one that fails: what a
    system call filter (proc(5), status: Seccomp) refuses looks like a fault of the program's.  ""
    where there is none."""
    try:
        with open("/proc/self/status") as file:
            filtered = "\nSeccomp:\t2\n" in file.read()
        with open("/proc/self/cgroup") as file:
            groups = file.read().split()
    except OSError:
        return ""
    unit = next((group.rpartition("/")[2] for group in groups if group.endswith(".service")),
                "this process")
    return (f"it runs in the sandbox of {unit}; if it works in a shell alone, allow what it needs "
            "by SystemCallFilter= or CapabilityBoundingSet= of a drop-in (systemctl edit)"
            ) if filtered else ""


# --- the supervisor ------------------------------------------------------------------------------
def _supervised(words: Sequence[str], said: int) -> Tuple[int, int]:
    """Start a program below a supervisor: (the supervisor's process id, a descriptor on which it
    tells how the program ended)."""
    import ctypes
    import subprocess  # noqa: F401 - the supervisor imports nothing
    libc = ctypes.CDLL(None)
    answer, told = os.pipe()
    try:
        supervisor = os.fork()
        if not supervisor:
            _supervise(words, said, told, libc)
    finally:
        os.close(told)
    return supervisor, answer


def _supervise(words: Sequence[str], said: int, told: int, libc: "ctypes.CDLL") -> NoReturn:
    """Supervise: a fork of this process does it, and holds none of its files and locks."""
    import subprocess
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # the program inherits that
                signal.signal(number, lambda *_: None)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, stream in ((null, 0), (said, 1), (said, 2)):
            os.dup2(fd, stream)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != told:
                _close(int(name))
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            program = subprocess.Popen(words, cwd="/", start_new_session=True, env=ENVIRONMENT)
        except OSError as error:
            os.write(told, b"%s %d" % (_NOT_RUN, error.errno or 0))
            os._exit(0)
        ended, status = os.wait()
        while ended != program.pid:
            ended, status = os.wait()
        os.write(told, b"%s %d" % (_ENDED, os.waitstatus_to_exitcode(status)))
    finally:
        os._exit(0)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # the descriptor of the list itself


def _kill(supervisor: int) -> bool:
    """Kill a supervisor and all that is below it; whether all of it has ended."""
    import time
    until = time.monotonic() + _GRACE
    os.kill(supervisor, signal.SIGSTOP)  # where the supervisor ended, orphans would go elsewhere
    while True:
        below = _below(supervisor)
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if not below or time.monotonic() > until:
            break
        time.sleep(0.01)
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    return not below


def _below(pid: int) -> List[int]:
    """The descendants of a process that live (proc(5), stat: state and ppid)."""
    children: Dict[int, List[int]] = {}
    dead = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it is gone meanwhile
        children.setdefault(int(parent), []).append(int(name))
        if state in "ZX":
            dead.add(int(name))
    below, rest = [], [pid]
    while rest:
        more = children.get(rest.pop(), [])
        below += more
        rest += more
    return [number for number in below if number not in dead]


def where(pid: int) -> str:
    """A process's state, and the kernel function that it waits in, in words."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            letter = file.read().rpartition(")")[2].split()[0]
        with open(f"/proc/{pid}/wchan") as file:
            place = file.read().strip()
    except OSError:
        return "is gone"
    return f"is in state {letter}" + (f", in {place}" if place not in ("", "0") else "")

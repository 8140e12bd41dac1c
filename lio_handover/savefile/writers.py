"""Other writers of targetcli's save file: targetcli's lock, and how a writer is noticed that takes
none.

targetcli holds a lock as long as it runs, an interactive one as long as it is open
(targetcli:try_op_lock); targetctl and other programs take none, and may write a text that they read
before lio-handover changed the file.
"""
from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional, Tuple

from .. import errors

LOCK = "/var/run/targetcli.lock"
#: Seconds to wait for targetcli.
PATIENCE = 3.0
#: Whoever wrote in the last so many seconds may be about to write again.
RECENT = 1.0
#: The identities of the save files after lio-handover's own writes.
_WRITTEN = "savefile-written.json"

#: The identity of a file: inode, size, times of its content and of itself; None: not there.
Identity = Optional[Tuple[int, int, int, int]]


def identity(path: str) -> Identity:
    """None where it is not there.  Raises OSError."""
    try:
        return of_stat(os.stat(path))
    except FileNotFoundError:
        return None


def of_stat(file_stat: os.stat_result) -> Identity:
    return file_stat.st_ino, file_stat.st_size, file_stat.st_mtime_ns, file_stat.st_ctime_ns


def others_write(path: str, directory: str) -> bool:
    """Whether somebody else has written the file just now.  Raises OSError."""
    seen = identity(path)
    return seen is not None and abs(time.time() - seen[3] / 1e9) < RECENT \
        and _written(directory).get(path) != list(seen)


def we_wrote(path: str, directory: str) -> None:
    """Remember that this is ours; not durable, as it is of the next second alone."""
    import json
    identities = {**_written(directory), path: list(identity(path) or ())}
    try:
        with open(os.path.join(directory, _WRITTEN), "w") as file:
            json.dump(identities, file)
    except OSError:
        pass  # then it is looked at a little longer


def _written(directory: str) -> Dict[str, List[int]]:
    import json
    try:
        with open(os.path.join(directory, _WRITTEN)) as file:
            identities = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return identities if isinstance(identities, dict) else {}


@contextmanager
def alone() -> Iterator[None]:
    """While targetcli does not run.  Raises SavefileBroken where it does not end in time."""
    import fcntl
    try:
        fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:  # it could not open it either
        yield
        return
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    who = _locking(os.fstat(fd))
                    raise errors.SavefileBroken(
                        f"targetcli runs{who and f' ({who})'} and holds {LOCK}: it saves what it "
                        "has seen", do="leave targetcli, and run it again") from error
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _locking(file: os.stat_result) -> str:
    """The process that holds the lock (proc(5), /proc/locks), "" for none."""
    try:
        with open("/proc/locks") as locks:
            for line in locks:
                words = line.split()
                if words[1:2] == ["FLOCK"] and words[5].endswith(f":{file.st_ino}"):
                    return _process(words[4])
    except (OSError, IndexError):
        pass
    return ""


def holding(path: str) -> str:
    """A process that has the file, or another in its folder, open just now; "" for none."""
    folder = os.path.dirname(os.path.realpath(path))
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.path.dirname(os.readlink(f"/proc/{pid}/fd/{fd}")) == folder:
                    return _process(pid)
        except OSError:
            continue  # it has ended, or has closed it
    return ""


def _process(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return f"PID {pid}, {errors.shown(file.read().strip())}"
    except OSError:
        return f"PID {pid}"

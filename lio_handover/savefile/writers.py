"""Who else writes targetcli's save file: its lock, and how others are noticed who take none.

targetcli holds a lock as long as it runs, an interactive one as long as it is open
(targetcli:try_op_lock); targetctl and other programs take none, and may write what they read
before we changed it.
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
#: Of this program's writes: what the files were after them.
_WRITTEN = "savefile-written.json"

#: What tells whether it is still the same file: inode, size, times of its content and of itself.
Identity = Optional[Tuple[int, int, int, int]]


def identity(path: str) -> Identity:
    """None where it is not there.  Raises OSError."""
    try:
        return of_stat(os.stat(path))
    except FileNotFoundError:
        return None


def of_stat(found: os.stat_result) -> Identity:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def others_write(path: str, directory: str) -> bool:
    """Whether somebody else has written the file just now.  Raises OSError."""
    seen = identity(path)
    return seen is not None and abs(time.time() - seen[3] / 1e9) < RECENT \
        and _written(directory).get(path) != list(seen)


def we_wrote(path: str, directory: str) -> None:
    """Remember that this is ours; not durable, as it is of the next second alone."""
    import json
    found = {**_written(directory), path: list(identity(path) or ())}
    try:
        with open(os.path.join(directory, _WRITTEN), "w") as file:
            json.dump(found, file)
    except OSError:
        pass  # then it is looked at a little longer


def _written(directory: str) -> Dict[str, List[int]]:
    import json
    try:
        with open(os.path.join(directory, _WRITTEN)) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
    """Who has the lock (proc(5), /proc/locks)."""
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
            return f"PID {pid}, {errors.one_line(file.read().strip())}"
    except OSError:
        return f"PID {pid}"

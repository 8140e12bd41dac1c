"""The holder of an endpoint: its file, and what it does for who starts it.

In place of an endpoint, which this machine has none of: a file that is there while it has a nexus
and nobody has taken it.
"""
from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lio_handover import errors
from lio_handover.scsi import endpoint_holder
from lio_handover.scsi.endpoint_holder import Holder, Holders

WWPN = "naa.5001405abcdef0a1"
#: Stands in for a holder: takes the lock at once, and says a moment later who it is.
HOLDER = """
import fcntl, os, sys, time
from lio_handover.scsi.holder_process import _tell
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
os.ftruncate(fd, 0)
print(flush=True)
time.sleep(0.2)
_tell(fd, int(sys.argv[2]) * os.getpid())
time.sleep(100)
"""
#: A holder, but for the endpoint: a WWPN's TPG 1.
NO_KERNEL = f"""
import errno, os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from lio_handover.scsi import holder_process, vhost

class Endpoint:
    def attach(self):
        try:
            os.unlink(sys.argv[2] + ".free")
        except FileNotFoundError:
            raise OSError(errno.ENODEV, "SET_ENDPOINT refused") from None

    def luns(self, tpgt):
        if tpgt != 1:
            raise OSError(errno.ENXIO, "no such TPG")
        return []

    def close(self):
        pass

vhost.holder = lambda *_: Endpoint()
holder_process.main()
"""
#: Starts a holder, says so, and is killed when it has made a nexus, or before.
KILLED = """
import os, pathlib, signal, sys
from lio_handover.scsi import endpoint_holder
holder, folder, wwpn, point = sys.argv[1:]
endpoint_holder.command = lambda _module, *words: [sys.executable, "-c", holder, *words]
holders = endpoint_holder.Holders(folder)
if point == "ready":
    holders.keep_ready([wwpn])
else:
    started = holders.start(wwpn)
if point in ("expects", "made"):
    started.expect()
if point == "made":
    pathlib.Path(folder, "holders", wwpn + ".free").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("occupies", [True, False], ids=["occupies", "waits"])
def test_a_holder_that_has_just_started_is_ended_and_nobody_else(
        tmp_path: Path, occupies: bool) -> None:
    holders, bystander = Holders(str(tmp_path)), subprocess.Popen(["/bin/sleep", "100"])
    file = tmp_path / "holders" / WWPN
    file.parent.mkdir()
    file.write_text(f"{bystander.pid}\n")   # of an earlier holder
    assert holders.pid_of(WWPN) is None
    sign = "1" if occupies else "-1"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(file), sign],
                          stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        assert holders.pid_of(WWPN) == (holder.pid if occupies else None)
        holders.release(WWPN)
        assert holder.wait(10) == -15
    assert holders.pid_of(WWPN) is None and bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_the_number_of_an_earlier_holder_is_gone_before_another_has_the_lock(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be anybody's process by now."""
    early = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})" \
        + HOLDER.replace("os.ftruncate(fd, 0)\nprint(flush=True)",
                         "print(flush=True)\ntime.sleep(0.3)\nos.ftruncate(fd, 0)")
    monkeypatch.setattr(endpoint_holder, "command", lambda _module, _wwpn, path: [
        sys.executable, "-c", early, path, "-1"])
    holders, bystander = Holders(str(tmp_path)), subprocess.Popen(["/bin/sleep", "100"])
    file = tmp_path / "holders" / WWPN
    file.parent.mkdir()
    file.write_text(f"{bystander.pid:012d}")
    with holders.start(WWPN) as holder:
        assert holder._process.stdout and holder._process.stdout.readline()
        assert holders.pid_of(WWPN) is None
        holders.release(WWPN)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


class Standing(Holders):
    """Holders without a kernel."""

    def make_nexus_folder(self) -> None:
        Path(self.folder).mkdir()

    def make_nexus(self) -> None:
        Path(self.folder, f"{WWPN}.free").touch()

    @property
    def free(self) -> bool:
        return Path(self.folder, f"{WWPN}.free").exists()

    def until(self, there: bool) -> None:
        """Wait until there is a holder, or none, in whatever state."""
        ends = time.monotonic() + 10
        while bool(self._holder(WWPN)) != there:
            assert time.monotonic() < ends
            time.sleep(0.005)


@pytest.fixture
def holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    monkeypatch.setattr(endpoint_holder, "command", lambda _module, *words: [
        sys.executable, "-c", NO_KERNEL, *words])
    standing = Standing(str(tmp_path))
    yield standing
    standing.release(WWPN)


def test_an_endpoint_is_taken_as_soon_as_it_has_a_nexus(holders: Standing) -> None:
    with holders.start(WWPN) as holder:
        holder.expect()
        assert holders.pid_of(WWPN) is None
        holders.make_nexus()
        holder.hold(1)
        pid = holders.pid_of(WWPN)
        assert pid and not holders.free
        with pytest.raises(errors.InUse, match="SET_ENDPOINT refused"):
            holder.hold(2)          # somebody else has this TPG
    assert holders.pid_of(WWPN) == pid
    holders.release(WWPN)
    assert holders.pid_of(WWPN) is None


def test_an_endpoint_without_a_nexus_is_refused(holders: Standing) -> None:
    with pytest.raises(errors.InUse, match="SET_ENDPOINT refused"):
        holders.occupy(WWPN)
    holders.until(False)
    holders.make_nexus()
    holders.occupy(WWPN)
    pid = holders.pid_of(WWPN)
    holders.occupy(WWPN)
    assert pid and holders.pid_of(WWPN) == pid


def test_a_holder_that_nobody_asked_for_anything_ends(holders: Standing) -> None:
    holders.start(WWPN).close()
    holders.until(False)


def test_who_looks_for_a_holder_does_not_end_one_that_starts(holders: Standing) -> None:
    """A look takes the lock for a moment."""
    file = Path(holders.folder, WWPN)
    holders.make_nexus_folder()
    holders.make_nexus()
    with file.open("w") as look:
        fcntl.flock(look, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as pool:
            holder = Holder(WWPN, str(file))
            answer = pool.submit(holder.hold, 1)
            time.sleep(0.3)
            fcntl.flock(look, fcntl.LOCK_UN)
            answer.result(20)
        holder.close()
    assert holders.pid_of(WWPN)


def test_a_holder_that_is_ready_is_the_one_that_is_asked(holders: Standing) -> None:
    holders.keep_ready([WWPN])
    holders.until(True)
    assert holders.pid_of(WWPN) is None         # it has not the endpoint
    waiting = abs(holders._holder(WWPN))
    holders.keep_ready([WWPN])
    holders.make_nexus()
    time.sleep(0.05)
    assert holders.free                         # nor tries to get it before it is asked
    holders.occupy(WWPN)
    assert holders.pid_of(WWPN) == waiting and not holders.ready
    holders.keep_ready([WWPN])                  # it is occupied, so nothing is to be ready
    assert not holders.ready


@pytest.mark.parametrize("ends", ["before", "unseen", "by another"])
def test_without_the_one_that_was_ready_another_is_started(
        holders: Standing, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """It is a cache."""
    holders.keep_ready([WWPN])
    holders.until(True)
    waiting = abs(holders._holder(WWPN))
    if ends == "by another":
        Standing(str(Path(holders.folder).parent)).release(WWPN)
    else:
        os.kill(waiting, signal.SIGKILL)
        holders.until(False)
    if ends == "unseen":        # it ends when it was found to run
        monkeypatch.setattr(endpoint_holder.Holder, "runs", True)
    holders.make_nexus()
    holders.occupy(WWPN)
    assert holders.pid_of(WWPN) not in (None, waiting) and not holders.free


def test_an_endpoint_that_a_guest_has_is_refused_by_one_that_is_ready(holders: Standing) -> None:
    holders.keep_ready([WWPN])
    with pytest.raises(errors.InUse, match="SET_ENDPOINT refused"):
        holders.occupy(WWPN)
    holders.until(False)


@pytest.mark.parametrize("point, holds", [("started", False), ("ready", False),
                                          ("expects", False), ("made", True)])
def test_a_starter_is_killed(holders: Standing, point: str, holds: bool) -> None:
    """Where it had made a nexus the endpoint is taken; where it had not the holder ends."""
    done = subprocess.run([sys.executable, "-c", KILLED, NO_KERNEL,
                           str(Path(holders.folder).parent),
                           WWPN, point], stdin=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    if holds:
        holders.until(True)
        ends = time.monotonic() + 10
        while holders.free:
            assert time.monotonic() < ends
            time.sleep(0.005)
        assert holders.pid_of(WWPN)
    else:
        holders.until(False)
        holders.make_nexus()        # of somebody else, later
        time.sleep(0.1)
        assert holders.free

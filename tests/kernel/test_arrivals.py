"""When storage that is missing may have come."""
from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lio_handover.system import arrivals as arrivals_module
from lio_handover.system.arrivals import Arrivals
from lio_handover.system.inotify import Event, Inotify
from tests import lab
from tests.service.test_systemd import Systemd, systemd  # noqa: F401 - the fixture
from tests.support import inarrivals, inbus, insystemd
from tests.support.inarrivals import quiet

Deeds = Callable[[Path], list[Callable[[], object]]]


def swap(link: Path, target: str) -> Callable[[], None]:
    """A symbolic link replaced by another, at once."""
    def replace() -> None:
        other = link.with_name("swap")
        other.symlink_to(target)
        os.replace(other, link)

    return replace


def rmtree(path: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(path)


def folder_instead(path: Path) -> Callable[[], None]:
    def replace() -> None:
        path.unlink()
        path.mkdir()

    return replace


#: (what there is at first, what is done then): each deed brings "a/b/disk" nearer, or there.
DEEDS: dict[str, tuple[Deeds, Deeds]] = {
    "a file": (lambda at: [(at / "a/b").mkdir], lambda at: [(at / "a/b/disk").touch]),
    "folders, one by one": (
        lambda at: [(at / "a").rmdir],
        lambda at: [(at / "a").mkdir, (at / "a/b").mkdir, (at / "a/b/disk").touch]),
    "folders at once": (
        lambda at: [(at / "a").rmdir],
        lambda at: [lambda: (at / "a/b").mkdir(parents=True), (at / "a/b/disk").touch]),
    "a file renamed": (
        lambda at: [(at / "a/b").mkdir, (at / "tmp").touch],
        lambda at: [lambda: (at / "tmp").rename(at / "a/b/disk")]),
    "a folder renamed": (
        lambda at: [(at / "tmp").mkdir, (at / "tmp/disk").touch],
        lambda at: [lambda: (at / "tmp").rename(at / "a/b")]),
    "a folder renamed away, another one made": (
        lambda at: [(at / "a/b").mkdir],
        lambda at: [lambda: (at / "a").rename(at / "away"), (at / "a").mkdir, (at / "a/b").mkdir,
                    (at / "a/b/disk").touch]),
    "a folder removed and made again": (
        lambda at: [(at / "a/b").mkdir],
        lambda at: [rmtree(at / "a"), (at / "a").mkdir, (at / "a/b").mkdir,
                    (at / "a/b/disk").touch]),
    "the target of a link": (
        lambda at: [(at / "a/b").mkdir, (at / "x").mkdir,
                    lambda: (at / "a/b/disk").symlink_to("../../x/y")],
        lambda at: [(at / "x/y").touch]),
    "the folder of a link's target": (
        lambda at: [lambda: (at / "a/b").symlink_to(at / "x" / "y")],
        lambda at: [lambda: (at / "x/y").mkdir(parents=True), (at / "x/y/disk").touch]),
    "a link in a link": (
        lambda at: [lambda: (at / "one").symlink_to("two"), lambda: (at / "two").symlink_to("x"),
                    lambda: (at / "a/b").symlink_to("../one")],
        lambda at: [(at / "x").mkdir, (at / "x/disk").touch]),
    "a link led elsewhere": (
        lambda at: [lambda: (at / "x").mkdir(), (at / "x/disk").touch,
                    lambda: (at / "a/b").symlink_to("nowhere")],
        lambda at: [swap(at / "a/b", "../x")]),
    "a link to itself led elsewhere": (
        lambda at: [(at / "a/b").mkdir, lambda: (at / "a/b/disk").symlink_to("disk"),
                    (at / "x").touch],
        lambda at: [swap(at / "a/b/disk", "../../x")]),
    "a file where a folder has to be": (
        lambda at: [(at / "a/b").touch],
        lambda at: [folder_instead(at / "a/b"), (at / "a/b/disk").touch]),
    "who may use it": (
        lambda at: [(at / "a/b").mkdir, (at / "a/b/disk").touch],
        lambda at: [lambda: (at / "a/b/disk").chmod(0o600), lambda: (at / "a/b").chmod(0o700)]),
    "another file in its place": (
        lambda at: [(at / "a/b").mkdir, (at / "a/b/disk").touch, (at / "x").touch],
        lambda at: [lambda: (at / "x").rename(at / "a/b/disk")]),
}


@pytest.mark.parametrize("spelling", ["{}/a/b/disk", "{}//a/../a/./b/disk/"])
@pytest.mark.parametrize("what", DEEDS)
def test_what_brings_it_nearer_is_told(what: str, spelling: str, tmp_path: Path) -> None:
    before, then = DEEDS[what]
    (tmp_path / "a").mkdir()
    for deed in before(tmp_path):
        deed()
    path = spelling.format(tmp_path)
    with Arrivals(["/nowhere/at/all", path]) as arrivals:
        for deed in then(tmp_path):
            quiet(arrivals)
            deed()
            assert arrivals.wait(5)
    assert os.path.exists(path.rstrip("/"))


@pytest.mark.parametrize("early", [True, False])
def test_what_comes_while_it_looks_is_told(early: bool, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Just before, or just after it was seen that nothing is there."""
    look = arrivals_module._Walk._look

    def made(walk: arrivals_module._Walk, path: str) -> tuple[int, str]:
        found = None if early else look(walk, path)
        if path == f"{tmp_path}/a":
            (tmp_path / "a/b").mkdir(parents=True, exist_ok=True)
        return found or look(walk, path)

    monkeypatch.setattr(arrivals_module._Walk, "_look", made)
    with Arrivals([f"{tmp_path}/a/b/disk"]) as arrivals:
        monkeypatch.undo()
        (tmp_path / "a/b/disk").touch()
        assert arrivals.wait(0)


def test_what_comes_before_it_waits_is_told(tmp_path: Path) -> None:
    with Arrivals([f"{tmp_path}/a/b/disk"]) as arrivals:
        quiet(arrivals)
        (tmp_path / "a/b").mkdir(parents=True)
        (tmp_path / "a/b/disk").touch()
        assert arrivals.wait(0)


def test_it_sleeps_until_it_comes(tmp_path: Path) -> None:
    """And one who waits for it finds it, however it is made."""
    path = tmp_path / "a/b/disk"

    def make() -> None:
        for _ in range(20):
            time.sleep(0.005)
            path.parent.mkdir(parents=True)
            time.sleep(0.001)
            shutil.rmtree(tmp_path / "a")
        path.parent.mkdir(parents=True)
        path.touch()

    with Arrivals([str(path)]) as arrivals:
        thread = threading.Thread(target=make)
        thread.start()
        while not path.exists():
            assert arrivals.wait(10)
        thread.join()


def test_neighbours_do_not_wake_it(tmp_path: Path) -> None:
    """Others on this machine may: once in twenty times it is quiet."""
    with Arrivals([f"{tmp_path}/disk"]) as arrivals:
        quiet(arrivals)
        assert not all([(tmp_path / f"{number}").write_text("") or arrivals.wait(0.02)
                        for number in range(20)])


def watches() -> int:
    """How many this process has in the kernel."""
    return sum(Path("/proc/self/fdinfo", name).read_text().count("inotify wd:")
               for name in os.listdir("/proc/self/fd") if Path("/proc/self/fdinfo", name).exists())


def test_paths_share_the_watches_of_their_folders(tmp_path: Path) -> None:
    deep = len(tmp_path.parts)
    (tmp_path / "a").mkdir()
    with Arrivals(f"{tmp_path}/a/{number}" for number in range(2000)) as arrivals:
        assert watches() == deep + 1
        for _ in range(5):
            shutil.rmtree(tmp_path / "a")
            quiet(arrivals)
            assert watches() == deep
            (tmp_path / "a").mkdir()
            quiet(arrivals)
            assert watches() == deep + 1
        (tmp_path / "a").rename(tmp_path / "b")
        quiet(arrivals)
        assert watches() == deep


def test_it_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Arrivals([str(tmp_path / "a")]):
            assert len(os.listdir("/proc/self/fd")) == before + 5
        assert len(os.listdir("/proc/self/fd")) == before


# --- ended from outside --------------------------------------------------------------------------
class Stopped(Exception):
    pass


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Signals that a handler, which raises nothing, has seen."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGUSR1, before)


def later(deed: Callable[[], object]) -> None:
    threading.Timer(0.1, deed).start()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_what_a_handler_raises_ends_it(handled: list[int]) -> None:
    def stop(_number: int, _frame: object) -> None:
        raise Stopped

    signal.signal(signal.SIGUSR1, stop)
    with Arrivals(["/nowhere/at/all"]) as arrivals:
        quiet(arrivals)
        later(kill)
        with pytest.raises(Stopped):
            arrivals.wait(20)
    assert signal.set_wakeup_fd(-1) == -1


def test_what_was_told_to_a_wait_that_raised_is_told_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(inotify: Inotify) -> Iterator[Event]:
        assert list(events(inotify))
        raise Stopped

    events = Inotify.events
    with Arrivals([f"{tmp_path}/a/disk"]) as arrivals:
        quiet(arrivals)
        (tmp_path / "a").mkdir()
        monkeypatch.setattr(Inotify, "events", raising)
        with pytest.raises(Stopped):
            arrivals.wait(5)
        monkeypatch.undo()
        assert arrivals.wait(0)
        (tmp_path / "a/disk").touch()
        assert arrivals.wait(5)


def test_a_signal_that_came_as_it_began_or_ended_leaves_nothing_behind() -> None:
    """And who else is told of signals goes on to be."""
    with Arrivals([]) as arrivals:
        signal.set_wakeup_fd(arrivals._waker.fileno(), warn_on_full_buffer=False)
    assert signal.set_wakeup_fd(-1) == -1
    ours, other = os.pipe2(os.O_NONBLOCK)
    try:
        with Arrivals([]) as arrivals:
            signal.set_wakeup_fd(other)
            quiet(arrivals)
        assert signal.set_wakeup_fd(-1) == other
    finally:
        os.close(ours)
        os.close(other)


def test_a_handler_that_raises_nothing_can_be_looked_after(handled: list[int]) -> None:
    with Arrivals(["/nowhere/at/all"]) as arrivals:
        quiet(arrivals)
        later(kill)
        while not handled:
            assert arrivals.wait(20)
        quiet(arrivals)
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_wakes_it() -> None:
    with Arrivals([]) as arrivals:
        quiet(arrivals)
        for _ in range(100000):     # more than fit
            arrivals.wake()
        assert arrivals.wait(0)
        quiet(arrivals)
        later(arrivals.wake)
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(arrivals.wait(20)))
        thread.start()
        thread.join(10)
        assert found == [True]


# --- real kernels --------------------------------------------------------------------------------
def test_it_sleeps_while_nothing_happens(stable: lab.Host) -> None:
    woke, cpu = stable.call(inarrivals.idle, 1.0)
    assert not woke and cpu <= 0.02


def _mounts(host: lab.Host) -> None:
    found = host.call(inarrivals.mounts)
    assert not found.pop("a neighbour") and all(found.values()), found


def _devices(host: lab.Host) -> None:
    """A few looks for each device, however many messages are told."""
    looks = host.call(inarrivals.devices)
    assert set(looks) == {"loop", "scsi_debug", "module"} and max(looks.values()) < 60, looks


def _uevents(host: lab.Host) -> None:
    found = host.call(inarrivals.uevents)
    assert [name for name, woke in found.items() if not woke] == [
        "of no interest", "none after them"]


def _overflow(host: lab.Host) -> None:
    assert host.call(inarrivals.overflow) == {
        "20 neighbours": False, "200 neighbours": True, "the file, later": True}


def _limits(host: lab.Host) -> None:
    assert host.call(inarrivals.limits) == [
        f"this host's limit of fs.inotify.max_user_{one} is reached"
        for one in ("watches", "instances")]


KERNEL = {"mounts": _mounts, "devices": _devices, "uevents": _uevents, "overflow": _overflow,
          "limits": _limits}


@pytest.mark.parametrize("what", KERNEL)
def test_what_the_kernel_tells(what: str, stable: lab.Host) -> None:
    KERNEL[what](stable)


@pytest.mark.full
@pytest.mark.parametrize("what", KERNEL)
def test_what_each_kernel_tells(what: str, each_host: lab.Host) -> None:
    KERNEL[what](each_host)


BY_ID = "/dev/disk/by-id/wwn-0x33333330000007d0"


def by_udev() -> tuple[int, str]:
    """How often one looked who waits for a link of udev's, and where it leads."""
    looks = inarrivals.comes(BY_ID, ["modprobe", "scsi_debug", "dev_size_mb=8"])
    return looks, os.path.realpath(BY_ID)


@pytest.mark.full
def test_what_a_real_udev_names_late(systemd: Systemd) -> None:     # noqa: F811
    assert systemd.host.call(insystemd.start, "", udev=True, timeout=100,
                             staged=inbus.stage(systemd.host.bed)) == "running"
    looks, real = systemd.call(by_udev)
    assert real == "/dev/sda" and looks < 60
    systemd.host.wipe()
    assert not systemd.host.call(os.path.lexists, BY_ID)

"""The helper on a guest's bus, on a machine without a target: what QEMU is answered, and when."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dbus")

from lio_handover import dbus_names  # noqa: E402
from lio_handover.vmstate import answers  # noqa: E402
from lio_handover.vmstate.main import BUS_NAME, PATH  # noqa: E402
from tests.support import inbus, invmstate  # noqa: E402
from tests.support.access import HELPER  # noqa: E402
from tests.support.inbus import CHECKOUT  # noqa: E402
from tests.support.privatebus import wait_until  # noqa: E402

TARGET = "vhost/naa.5001405000000001"
ERROR = dbus_names.ERROR


class Bench:
    """A guest's bus with the policy that is installed, and helpers on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"unix:path={folder}/bus"
        self.config = folder / "lio-handover.conf"
        self.config.write_text(f"[host]\nstate_directory = {folder}/state\n")
        self._programs: list[subprocess.Popen[bytes]] = []
        self.bus = self.start_bus()

    def start_bus(self) -> subprocess.Popen[bytes]:
        (self.folder / "bus").unlink(missing_ok=True)
        bus = self._run("dbus-daemon", "--nofork", "--nopidfile", f"--address={self.address}",
                        f"--config-file={CHECKOUT / 'etc' / 'dbus-1' / 'guest-bus.conf'}")
        wait_until((self.folder / "bus").exists)
        return bus

    def helper(self, name: str = "vm1", more: str = "") -> subprocess.Popen[bytes]:
        (self.folder / f"{name}.conf").write_text(f"[guest]\ntargets = {TARGET}\n{more}")
        program = self._run(
            sys.executable, str(CHECKOUT / "scripts" / "lio-handover-vmstate"), name,
            "--bus", self.address, "--guests", str(self.folder), "--config", str(self.config))
        wait_until(lambda: f"lio-handover/{name}" in self.ids())
        return program

    def ids(self) -> list[str]:
        import dbus
        try:
            return invmstate.known_as(self.address)
        except dbus.DBusException:
            return []

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            self._programs.append(subprocess.Popen(words, stderr=log, stdin=subprocess.DEVNULL))
        return self._programs[-1]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def call(self, member: str, signature: str = "", *args: Any, interface: str = BUS_NAME
             ) -> tuple[str, str]:
        """(the error's name, its sentence); ("", "") where there is none."""
        import dbus
        try:
            inbus.connect(self.address).call_blocking(BUS_NAME, PATH, interface, member, signature,
                                                      args, timeout=25)
        except dbus.DBusException as error:
            return str(error.get_dbus_name()), str(error.get_dbus_message())
        return "", ""

    def close(self) -> None:
        for program in reversed(self._programs):
            program.kill()
            program.wait(20)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        made = Bench(Path(folder))
        yield made
        made.close()


def test_qemu_finds_each_helper_by_its_id(bench: Bench) -> None:
    first = bench.helper("vm1")
    bench.helper("vm2")
    assert bench.ids() == ["lio-handover/vm1", "lio-handover/vm2"]
    first.terminate()
    assert first.wait(20) == 0
    assert bench.ids() == ["lio-handover/vm2"]


def test_what_cannot_be_saved_or_loaded_is_an_error_of_one_line(bench: Bench) -> None:
    bench.helper()
    name, line = bench.call("Save")
    assert name == ERROR + "NoTargetModules" and "next: modprobe" in line and "\n" not in line
    for data in (b"", b"{}", b"\xff", b"x" * 2000):
        name, line = bench.call("Load", "ay", data)
        assert name in (ERROR + "NotJson", ERROR + "BadStructure")
        assert "nothing was changed" in line
    elsewhere = answers.pack(answers.Answer("nothing", "a", "00" * 32, {TARGET: 1}, {}))
    name, line = bench.call("Load", "ay", elsewhere)
    assert name == ERROR + "WrongState" and "lio-handover move --mode vhost-inband" in line
    assert "comes from a without a handover" in bench.log


@pytest.mark.parametrize("member, signature, args, interface, error", [
    ("Save", "s", ("x",), BUS_NAME, "InvalidArgs"), ("Load", "s", ("x",), BUS_NAME, "InvalidArgs"),
    ("Other", "", (), BUS_NAME, "UnknownMethod"), ("Save", "", (), "org.other", "UnknownMethod"),
    ("Get", "ss", (BUS_NAME, "Other"), dbus_names.PROPERTIES, "UnknownProperty")])
def test_other_calls_are_refused(bench: Bench, member: str, signature: str, args: Any,
                                 interface: str, error: str) -> None:
    bench.helper()
    assert bench.call(member, signature, *args, interface=interface)[0].endswith(f".{error}")


def test_qemu_is_answered_in_time_though_the_work_hangs(bench: Bench) -> None:
    """The guest's file cannot be read: nobody writes into the pipe."""
    bench.helper(more="deadline = 1")
    file = bench.folder / "vm1.conf"
    text = file.read_text()
    file.unlink()
    os.mkfifo(file)
    began = time.monotonic()
    name, line = bench.call("Save")
    assert name == ERROR + "NotEnded" and "longer than 1 s; it is taken back" in line
    assert line.endswith(f"`deadline = 20` in {file}; else lio-handover status")
    assert time.monotonic() - began < 20
    assert bench.call("Save")[0] == ERROR + "StillRunning"
    with file.open("w") as pipe:
        pipe.write(text)
    file.unlink()
    file.write_text(text)

    for seconds in (0, 1, 2, 4, 8, 16):
        time.sleep(seconds)     # the process for this call has loaded what it wants
        if bench.call("Save")[0] == ERROR + "NoTargetModules":
            return
    raise AssertionError(bench.log)


def test_no_other_process_starts_while_qemu_waits(bench: Bench) -> None:
    """The next one loads all that it wants when the guest does not stand still for it."""
    program = bench.helper(more="deadline = 20")
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 1)  # it looked for what is unfinished
    spare = children.read_text()
    text = (bench.folder / "vm1.conf").read_text()
    (bench.folder / "vm1.conf").unlink()
    os.mkfifo(bench.folder / "vm1.conf")
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(bench.call, "Save")
        with (bench.folder / "vm1.conf").open("w") as pipe:     # once its process reads the file
            assert children.read_text() == spare
            pipe.write(text)
        assert called.result()[0] == ERROR + "NoTargetModules"
    wait_until(lambda: len(children.read_text().split()) == 1 and children.read_text() != spare)


def test_a_bus_that_comes_back_has_the_helper_again(bench: Bench) -> None:
    bench.helper()
    bench.bus.kill()
    bench.bus.wait()
    wait_until(lambda: "the bus is gone" in bench.log)
    bench.start_bus()
    wait_until(lambda: bench.ids() == ["lio-handover/vm1"])
    assert "the bus is there again" in bench.log


def test_only_root_answers_qemu(bench: Bench) -> None:
    """Who may ask need not be who answers: the folder of the socket says who may ask."""
    import dbus

    def owns(address: str) -> str:
        try:
            inbus.connect(address).request_name(BUS_NAME)
        except dbus.DBusException as error:
            return str(error.get_dbus_name())
        return ""

    bench.folder.chmod(0o755)
    assert inbus.as_user(inbus.NOBODY, owns, bench.address).endswith("AccessDenied")
    bench.helper()
    assert inbus.as_user(inbus.NOBODY, invmstate.known_as, bench.address) == ["lio-handover/vm1"]


@pytest.mark.parametrize("more", list(HELPER))
def test_save_and_load_are_for_the_users_of_the_guests_file(bench: Bench, more: str) -> None:
    """Who can't reach a guest's own bus need not be named; everybody reaches the system's: there
    it is root alone, unless the file names others."""
    bench.folder.chmod(0o755)
    bench.helper(more=more)
    for member, signature, *args in (("Save", ""), ("Load", "ay", b"x" * 10)):
        def call(member: str = member, signature: str = signature, args: Any = args) -> str:
            return bench.call(member, signature, *args)[0]
        allowed = ERROR + ("NotJson" if member == "Load" else "NoTargetModules")
        assert inbus.as_user(inbus.NOBODY, call) == (
            allowed if HELPER[more] else ERROR + "NotAuthorized"), member
        assert call() == allowed, member
    assert inbus.as_user(inbus.NOBODY, invmstate.known_as, bench.address) == ["lio-handover/vm1"]


def test_what_is_larger_than_qemu_takes_comes_to_no_process(bench: Bench) -> None:
    """Neither through the helper, nor (much larger) through the bus."""
    program = bench.helper()
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 1)  # it looked for what is unfinished
    before = children.read_text()
    name, line = bench.call("Load", "ay", b"x" * (answers.LIMIT + 1))
    assert name == ERROR + "TooLarge" and "nothing was changed" in line
    assert children.read_text() == before
    assert bench.call("Load", "ay", b"x" * (8 << 20))[0].startswith("org.freedesktop.DBus.Error.")
    assert bench.call("Save")[0] == ERROR + "NoTargetModules"


def test_a_killed_process_is_an_error(bench: Bench) -> None:
    """QEMU gets an answer, and the next call finds another process."""
    program = bench.helper(more="deadline = 20")
    (bench.folder / "vm1.conf").unlink()
    os.mkfifo(bench.folder / "vm1.conf")
    waiting: list[tuple[str, str]] = []
    import threading
    thread = threading.Thread(target=lambda: waiting.append(bench.call("Save")))
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    spare = children.read_text().split()
    thread.start()
    time.sleep(0.5)
    for pid in spare:
        os.kill(int(pid), signal.SIGKILL)
    thread.join(20)
    assert [name for name, _ in waiting] == [ERROR + "WorkerDied"]


@pytest.mark.parametrize("words, line", [
    (["../x"], "no name of a guest"), (["vm9"], "there is no"),
    (["vm1", "--bus", "unix:path=/nowhere"], "can't be used")])
def test_what_it_cannot_start_with_is_told(tmp_path: Path, words: list[str], line: str) -> None:
    (tmp_path / "vm1.conf").write_text(f"[guest]\ntargets = {TARGET}\n")
    done = subprocess.run([sys.executable, str(CHECKOUT / "scripts" / "lio-handover-vmstate"),
                           *words, "--guests", str(tmp_path)], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode and line in done.stderr and len(done.stderr.splitlines()) == 1

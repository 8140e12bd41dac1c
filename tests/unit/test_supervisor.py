"""What systemd is told and asked."""
from __future__ import annotations

import os
import socket
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lio_handover.system import supervisor
from tests import lab
from tests.service.test_systemd import Systemd, systemd  # noqa: F401 - the fixture
from tests.support import inbus

TEMPLATE = "lio-handover-target@.service"
TARGETS = (
    "iscsi/iqn.2026-11.org.example:db", "iscsi/eui.02004567A425678D", "vhost/naa.5001405bd4cd2ec8",
    "loopback/naa.600140512345abcd", "iscsi/iqn.2026-11.org.example:d_b.0", ".leading", "..", ".",
    "iscsi/.hidden", "-", "--help", "_", "A-Z_a.z:0", "a//b", "/", "/abs/", "a\\b", r"a\x2db",
    "a b\tc", "a@b", "a%b", "a*b?[c]", "täst", "日本", "a\nb", string.punctuation)


# --- names ---------------------------------------------------------------------------------------
def escape(*argv: str) -> list[str]:
    """What systemd's own program makes of each."""
    return subprocess.run(["systemd-escape", *argv], stdout=subprocess.PIPE, check=True, text=True,
                          env={**os.environ, "LC_ALL": "C.UTF-8"}).stdout[:-1].split(" ")


def test_instances_are_named_as_systemd_names_them() -> None:
    every = [f"{one}{chr(code)}{other}" for code in range(1, 256) for one, other in (("", "x"),
                                                                                     ("x", ""))]
    names = [*TARGETS, *every]
    assert [supervisor.escaped(one) for one in names] == escape("--", *names)
    assert [supervisor.unescaped(supervisor.escaped(one)) for one in names] == names


def test_bytes_that_are_no_text_are_kept() -> None:
    name = os.fsdecode(b"a\xff\xc3")
    assert supervisor.escaped(name) == r"a\xff\xc3"
    assert supervisor.unescaped(r"a\xff\xC3") == name


@pytest.mark.parametrize("instance", ["\\", r"a\b", r"\x2", r"\xzz", "x\\x", r"a\x00", "a\0"])
def test_what_is_no_instance_is_refused(instance: str) -> None:
    with pytest.raises(ValueError, match="no name of an instance") as told:
        supervisor.unescaped(instance)
    assert "\0" not in str(told.value)


def test_a_unit_is_named_as_systemd_names_it() -> None:
    for target in TARGETS[:5]:
        made = supervisor.unit(TEMPLATE, target)
        assert [made] == escape(f"--template={TEMPLATE}", "--", target)


def test_a_name_too_long_for_a_unit_is_refused() -> None:
    room = 255 - len("lio-handover-target@.service")
    assert len(supervisor.unit(TEMPLATE, "i" * room)) == 255
    with pytest.raises(ValueError, match="a name of 258 bytes; systemd takes 255"):
        supervisor.unit(TEMPLATE, "i" * (room - 1) + "-")
    assert escape(f"--template={TEMPLATE}", "i" * room)
    with pytest.raises(subprocess.CalledProcessError):
        escape(f"--template={TEMPLATE}", "i" * (room - 1) + "-")


# --- telling -------------------------------------------------------------------------------------
@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
          ) -> Iterator[socket.socket]:
    """The end of who started us."""
    name = str(tmp_path / "notify")
    if request.param == "abstract":
        name = f"@lio-handover-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(name.replace("@", "\0", 1) if name[0] == "@" else name)
        line.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield line


def test_it_is_told(heard: socket.socket) -> None:
    supervisor.notify(READY=1, STATUS="waiting for /dev/sdb")
    assert heard.recv(4096) == b"READY=1\nSTATUS=waiting for /dev/sdb\n"
    supervisor.notify(STOPPING=1)
    assert heard.recv(4096) == b"STOPPING=1\n"


def test_a_status_is_one_line(heard: socket.socket) -> None:
    supervisor.notify(STATUS="waiting for a\nMAINPID=1\x1b[2J and \udcff, ä")
    assert heard.recv(4096) == (r"STATUS=waiting for a\\nMAINPID=1\\x1b[2J and \\udcff, ä" + "\n"
                                ).encode()


@pytest.mark.parametrize("letter", "aä日")
def test_a_long_status_is_cut_and_the_rest_is_told(heard: socket.socket, letter: str) -> None:
    supervisor.notify(STATUS=letter * 5000, READY=1)
    status, ready = heard.recv(8192).decode().splitlines()
    assert ready == "READY=1" and len(status.encode()) < 2100
    assert status.startswith("STATUS=" + letter) and status.endswith(letter + "...")


@pytest.mark.parametrize("place", [None, "", "/", "@", "vsock:2:1", "relative", "/nowhere/notify",
                                   "@lio-handover-nobody", "/" + "x" * 300])
def test_where_nobody_hears_nothing_is_raised(place: str | None,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if place is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
    supervisor.notify(READY=1)


def test_a_supervisor_that_went_is_no_error(heard: socket.socket) -> None:
    heard.close()
    supervisor.notify(READY=1)


# --- asking --------------------------------------------------------------------------------------
def test_without_units_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lio_handover.system.external_program.run", None)
    assert supervisor.start([]) == supervisor.stop([]) == ""


def test_what_systemctl_says_is_one_line() -> None:
    """Of a systemd that has no such unit, or of a host without one."""
    said = supervisor.start(["lio-handover-no-such-unit.service"])
    assert said.startswith("systemctl start: ") and said.isprintable()


@pytest.mark.parametrize("how, said", [
    (FileNotFoundError(2, "No such file or directory"), "can't be run: No such file or directory"),
    ((1, ""), "ended with 1"), ((-9, ""), "was ended by signal 9"), ((0, "Warning: x"), "")])
def test_a_failure_is_told_and_not_raised(how: OSError | tuple[int, str], said: str,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], _seconds: float) -> tuple[int, str]:
        assert words == ["systemctl", "--no-ask-password", "--no-block", "stop", "--", "a", "-b"]
        if isinstance(how, OSError):
            raise how
        return how

    monkeypatch.setattr("lio_handover.system.external_program.run", run)
    answer = supervisor.stop(["a", "-b"])
    assert answer == (f"systemctl stop: {said}" if said else "")


# --- a real one ----------------------------------------------------------------------------------
UNIT = r"""[Service]
Type=notify
RemainAfterExit=yes
Environment=PYTHONPATH={checkout} PYTHONDONTWRITEBYTECODE=1
ExecStart={python} -m tests.unit.test_supervisor %I
"""


def tell(target: str) -> None:
    """What the unit runs."""
    assert supervisor.running()
    supervisor.notify(STATUS=f"waiting for\n{target}\\", READY=1)


def install() -> None:
    Path("/etc/systemd/system/lio-told@.service").write_text(UNIT.format(
        checkout=inbus.CHECKOUT, python=sys.executable))


@pytest.mark.full
def test_a_real_systemd_hears_and_obeys(systemd: Systemd, stable: lab.Host  # noqa: F811
                                        ) -> None:
    systemd.start()
    systemd.call(install)
    systemd.run("systemctl", "daemon-reload")
    for target in TARGETS[0], TARGETS[4]:
        unit = supervisor.unit("lio-told@.service", target)
        assert systemd.call(supervisor.start, [unit]) == ""
        systemd.until(lambda: systemd.show(unit, "StatusText")[0] != "")
        assert systemd.show(unit, "StatusText", "ActiveState") == [
            f"waiting for\\n{target}\\", "active"]
        assert systemd.call(supervisor.stop, [unit]) == ""
        systemd.until(lambda: systemd.show(unit, "ActiveState") == ["inactive"])
    assert systemd.call(supervisor.start, ["lio-handover-none@x.service"]) == (
        "systemctl start: Failed to start lio-handover-none@x.service: Unit "
        "lio-handover-none@x.service not found.")
    assert stable.call(supervisor.running) is False


if __name__ == "__main__":
    tell(sys.argv[1])

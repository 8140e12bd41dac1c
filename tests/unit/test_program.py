"""The program itself, as it is started: from anywhere, fast, and with little imported."""
from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lio_handover import __version__, errors
from lio_handover.configuration import PATH, STATE_DIRECTORY
from lio_handover.started import COMMANDS, ENDPOINT_HOLDER, VMSTATE_WORKER, WORKER, command
from tests.support.commandline import CHECKOUT, LAUNCHER, shape


def launch(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(LAUNCHER), *words], capture_output=True, text=True,
                          timeout=60, **more)


def test_the_launcher_works_from_any_directory(tmp_path: Path) -> None:
    done = launch("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"lio-handover {__version__}\n")
    link = tmp_path / "lio"
    link.symlink_to(LAUNCHER)
    assert os.access(LAUNCHER, os.X_OK)
    done = subprocess.run([sys.executable, str(link), "errors"], capture_output=True, cwd="/",
                          text=True, check=True)
    assert "NotRoot" in done.stdout


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody else's modules, which is the working directory and in the environment;
    a module that is imported from there writes its name into the file ``ran``."""
    for name in ("json", "stat", "argparse", "lio_handover", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["lio-handover", "lio-handoverd", "lio-handover-vmstate",
                                  "lio-handover-hook"])
def test_a_program_imports_nothing_that_others_put_in_its_way(foreign: Path, name: str) -> None:
    pytest.importorskip("dbus")
    said = subprocess.run([str(CHECKOUT / "scripts" / name), "--version"], capture_output=True,
                          text=True, timeout=60)
    assert said.stdout == f"{name} {__version__}\n" and not (foreign / "ran").exists(), said
    # From where the package is nothing else goes first, either.
    (foreign / "scripts").mkdir()
    shutil.copy(CHECKOUT / "scripts" / name, foreign / "scripts" / name)
    (foreign / "lio_handover.py").unlink()
    (foreign / "lio_handover").symlink_to(CHECKOUT / "lio_handover")
    said = subprocess.run([str(foreign / "scripts" / name), "--version"], capture_output=True,
                          text=True, timeout=60)
    assert said.stdout == f"{name} {__version__}\n" and not (foreign / "ran").exists(), said


@pytest.mark.parametrize("module, words, code", [
    (WORKER, (), 0), (VMSTATE_WORKER, ("--config", "/dev/null", "guest"), 0),
    (ENDPOINT_HOLDER, ("naa.5001405000000001", "lock"), 0)])
def test_nor_does_a_process_that_it_starts(foreign: Path, module: str, words: Sequence[str],
                                           code: int) -> None:
    pytest.importorskip("dbus")
    ours, its = socket.socketpair()
    ours.close()  # nothing is wanted
    with its:
        done = subprocess.run(command(module, *words), stdin=its.fileno(), capture_output=True,
                              timeout=60)
    assert (done.returncode, done.stderr) == (code, b"") and not (foreign / "ran").exists()


def test_a_reader_that_goes_away_is_no_error() -> None:
    for words in (["errors"], ["errors", "--json"], ["--help"]):
        program = subprocess.Popen([sys.executable, str(LAUNCHER), *words], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert program.stdout and program.stderr
        program.stdout.close()
        assert program.stderr.read() == ""
        assert program.wait(30) in (128 + signal.SIGPIPE, 0)
        program.stderr.close()


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, str(LAUNCHER), "errors"], stdout=full, text=True,
                              stderr=subprocess.PIPE)
    assert done.returncode == errors.BadFile.code and "No space left" in done.stderr
    assert len(shape(done.stderr)) == 3
    closed = subprocess.run(["sh", "-c", '"$0" "$1" errors >&- 2>&-', sys.executable,
                             str(LAUNCHER)])
    assert closed.returncode == 0


def imported(code: str) -> set[str]:
    text = f"import sys; before = set(sys.modules); {code}; " \
           "print(*(set(sys.modules) - before), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", text], cwd=CHECKOUT, text=True, check=True,
                          capture_output=True)
    return set(done.stderr.split())


def test_little_is_imported_to_begin_with() -> None:
    assert imported("import lio_handover") == {"lio_handover"}
    start = imported("import lio_handover.cli.main as c; c.main(['--version']); "
                     "c.main(['errors']); c.main(['--help']); c.main(['import', '--help'])")
    assert not {"dataclasses", "typing", "json", "shutil", "subprocess", "logging",
                "signal", "dbus", "lio_handover.host.verbs", "lio_handover.cli.session"} & start
    verb = imported(f"import {', '.join(sorted(set(COMMANDS.values())))}")
    assert not {one for one in verb if one.split(".")[0] in ("dbus", "gi", "rtslib_fb",
                                                             "configshell_fb", "asyncio")}


#: What each boot waits for, of root on a host that has no handovers.
BOOT = ["recover", "--boot"] if os.geteuid() == 0 and not os.path.exists(PATH) \
    and not os.path.exists(STATE_DIRECTORY) else ["--version"]


@pytest.mark.parametrize("words", [["--version"], ["errors"], ["--help"], BOOT])
def test_it_starts_fast(words: list[str], tmp_path: Path) -> None:
    """Within three times what Python itself takes; the best of several, on a busy machine."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def best(argv: Sequence[str], before: float) -> float:
        started = time.perf_counter()
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, env=environment)
        return min(before, time.perf_counter() - started)

    least, ours = 9.0, 9.0
    for attempt in range(60):
        least = best([sys.executable, "-c", "pass"], least)
        ours = best([sys.executable, str(LAUNCHER), *words], ours)
        if attempt > 5 and ours < 3 * least:
            break
    assert ours < 3 * least

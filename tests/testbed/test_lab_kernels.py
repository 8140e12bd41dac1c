"""Where the bed's kernels come from: the machine's own apt sources, a cache that is never half."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import lab
from tests.lab import floating, kernels

CODENAME = kernels._own_names()[0]
DEB822 = f"""\
Types: deb deb-src
# a comment stays out
URIs: http://mirror.example/debian
Suites: {CODENAME} {CODENAME}-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: {CODENAME}-security
Components: main
"""


def source(apt: Path, name: str, text: str) -> tuple[str, str]:
    (apt / "sources.list.d").mkdir(exist_ok=True)
    (apt / name).write_text(text)
    return kernels._source_for("sid", apt)


def test_only_the_suite_of_the_machines_source_is_changed(tmp_path: Path) -> None:
    name, text = source(tmp_path, "sources.list.d/debian.sources", DEB822)
    assert name == "lab.sources"
    assert text.splitlines() == [
        "Types: deb", "URIs: http://mirror.example/debian", "Suites: sid", "Components: main",
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"]


def test_a_line_of_the_old_form_keeps_its_options(tmp_path: Path) -> None:
    lines = (f"deb http://mirror.example/debian-security {CODENAME}-security main\n"
             f"# deb http://no.example/debian {CODENAME} main\n"
             f"deb [signed-by=/key.gpg arch=amd64] http://mirror.example/debian {CODENAME} main\n")
    assert source(tmp_path, "sources.list", lines) == (
        "lab.list", "deb [signed-by=/key.gpg arch=amd64] http://mirror.example/debian sid main\n")


def test_other_peoples_sources_are_not_taken_for_debian(tmp_path: Path) -> None:
    source(tmp_path, "sources.list.d/aaa.sources", DEB822.replace("/debian", "/tool"))
    source(tmp_path, "sources.list.d/browser.list", "deb http://browser.example/deb stable main\n")
    _, text = source(tmp_path, "sources.list", f"deb http://mirror.example/debian {CODENAME} main")
    assert text == "deb http://mirror.example/debian sid main\n"


@pytest.mark.parametrize("text", [
    "", DEB822.replace("Types: deb", "Enabled: no\nTypes: deb"),
    DEB822.replace(f"{CODENAME} {CODENAME}-updates", "focal"),
    DEB822.replace("main contrib", "contrib")])
def test_a_machine_without_such_a_source_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(lab.LabError, match="no apt source"):
        source(tmp_path, "sources.list.d/other.sources", text)


def test_an_unknown_role_is_told() -> None:
    with pytest.raises(lab.LabError, match="oldest, stable, newest"):
        lab.kernel("ancient")


def test_the_twin_for_large_registers_differs_in_one_number() -> None:
    """What the twin is for can be tested on a machine with AMX only, where it is booted."""
    for role in ("oldest", "stable"):
        program = lab.kernel(role).root.joinpath("linux").read_bytes()
        twin = floating.twin_of(program)
        assert twin is not None
        assert len(twin) == len(program)
        assert sum(1 for old, new in zip(program, twin) if old != new) == 3
    assert floating.twin_of(lab.kernel("newest").root.joinpath("linux").read_bytes()) is None


def test_an_interrupted_fetch_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """The kernel's folder gets its name when all is in it; what was begun is taken away."""
    def stop(suite: str, work: Path, folder: Path) -> str:
        (work / "tree").mkdir()
        raise KeyboardInterrupt

    def finish(suite: str, work: Path, folder: Path) -> str:
        (work / "tree").mkdir()
        (work / "linux").write_text(suite)
        return "1.2.3"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIO_HANDOVER_CACHE", str(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            kernels.cached("role", "suite", "1", stop)
        assert not (tmp_path / "kernels" / "role-suite-1").exists()
        found = kernels.cached("role", "suite", "1", finish)
        assert (found.release, found.linux.read_text()) == ("1.2.3", "suite")
        assert kernels.cached("role", "suite", "1", stop) == found
        assert sorted(path.name for path in (tmp_path / "kernels").iterdir()) == [
            "role-suite-1", "role.lock"]


_FETCH = "from tests import lab; print(lab.kernel('oldest').release, flush=True)"


@pytest.mark.full
def test_two_fetch_at_once_and_one_is_killed(tmp_path: Path) -> None:
    def fetch() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", _FETCH], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True,
                                cwd=Path(__file__).resolve().parents[2],
                                env={**os.environ, "LIO_HANDOVER_CACHE": str(tmp_path)})

    first = fetch()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("kernels/*.partial-*/apt/packages/*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    others = [fetch(), fetch()]
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    said = [other.communicate(timeout=120) for other in others]
    assert [other.returncode for other in others] == [0, 0]
    assert said[0][0] == said[1][0] != ""
    assert sum("fetching" in words for _, words in said) == 1
    assert not list(tmp_path.glob("kernels/*.partial-*"))

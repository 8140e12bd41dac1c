"""The examples of hooks, run as their callers run them; in place of lio-handover-hook is a program
that tells how it was called.  With the program itself: tests/drivers/test_hooks_lab.py."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.commandline import CHECKOUT

EXAMPLES = CHECKOUT / "docs" / "examples"
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >>{folder}/told
cat {folder}/code 2>/dev/null >&2
exit "$(cat {folder}/code 2>/dev/null || echo 0)"
"""


class Caller:
    """A manager; what it has called stands in ``told``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program("lio-handover-hook", PROGRAM.format(folder=folder))
        (folder / "guests").mkdir()
        (folder / "guests" / "101.conf").touch()

    def program(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def install(self, example: str, *names: str) -> None:
        text = (EXAMPLES / example).read_text()
        for old, new in (("/usr/sbin/", f"{self.folder}/"), ("/etc/lio-handover", self.folder)):
            text = text.replace(old, str(new))
        for name in names:
            self.program(name, text)

    def fails_with(self, code: int) -> None:
        (self.folder / "code").write_text(str(code))

    def run(self, name: str, *words: str, more: Mapping[str, str] = {}) -> int:  # noqa: B006
        """The exit code; nothing comes on standard output."""
        done = subprocess.run(
            [str(self.folder / name), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            check=False, env={"PATH": f"{self.folder}:{os.environ['PATH']}", **more})
        assert done.stdout == b""
        return done.returncode

    @property
    def told(self) -> list[str]:
        """The calls since the last question."""
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def test_proxmox_calls_on_the_node_that_a_guest_comes_to(caller: Caller) -> None:
    """PVE/QemuServer.pm:vm_start_nolock and vm_stop; PVE/GuestHelpers.pm:exec_hookscript."""
    caller.install("11_proxmox_hookscript.sh", "snippet")
    coming = {"PVE_MIGRATED_FROM": "a"}
    assert [caller.run("snippet", "101", phase, more=coming)
            for phase in ("pre-start", "post-start")] == [0, 0]
    assert caller.told == ["lio-handover-hook pre-migrate 101 --from a"]
    # The same guest is started and stopped where it is, and another one comes.
    assert [caller.run("snippet", "101", phase) for phase in (
        "pre-start", "post-start", "pre-stop", "post-stop", "", "post-clone")] == [0] * 6
    assert caller.run("snippet", "102", "pre-start", more=coming) == 0
    assert caller.told == []
    caller.fails_with(2)
    assert caller.run("snippet", "101", "pre-start", more=coming) == 2  # which ends the migration


def vdsm(caller: Caller, point: str, more: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The scripts of a hook point, as vdsm runs them (vdsm/common/hooks.py:_runHooksDir): in the
    order of their names; 1 is an error that the others are run after, 2 one that ends it.  Whether
    an error is raised, and the scripts that were run."""
    ran, failed = [], False
    for path in sorted((caller.folder / point).iterdir()):
        ran.append(path.name)
        code = caller.run(f"{point}/{path.name}", more={
            "_hook_domxml": f"{caller.folder}/tmp.xml", "_hook_json": "/x", "vmId": "6a3f0c77"})
        if code:
            failed = True
        if code == 2:
            break
        assert code in (0, 1), "vdsm knows no other"
    return "raised" if failed else "", ran


def test_vdsm_calls_on_both_hosts_with_the_guests_xml(caller: Caller) -> None:
    points = ("before_vm_migrate_destination", "after_vm_migrate_source")
    caller.install("12_vdsm_hook.sh", *(f"{point}/50_lio_handover" for point in (
        *points, "before_vm_start")))
    for point in points:
        caller.program(f"{point}/60_other", "#!/bin/sh\nexit 0\n")
    xml = f"--xml {caller.folder}/tmp.xml"
    for point, call in zip(points, ("pre-migrate", "post-migrate")):
        assert vdsm(caller, point) == ("", ["50_lio_handover", "60_other"])
        assert caller.told == [f"lio-handover-hook {call} {xml}"]
    assert vdsm(caller, "before_vm_start") == ("", ["50_lio_handover"]) and caller.told == []
    caller.fails_with(1)
    assert vdsm(caller, points[0]) == ("raised", ["50_lio_handover", "60_other"])
    caller.fails_with(2)
    assert vdsm(caller, points[0]) == ("raised", ["50_lio_handover"])


def test_a_script_calls_before_a_migration_and_after_it(caller: Caller) -> None:
    caller.install("13_migrate.sh", "migrate")
    caller.program("ssh", f'#!/bin/sh\necho "ssh $1" >>{caller.folder}/told\nshift\nexec "$@"\n')
    caller.program("qm", f'#!/bin/sh\necho "qm $*" >>{caller.folder}/told\n[ "$1" != fails ]\n')
    before = ["ssh b", f"lio-handover-hook pre-migrate vm1 --from {os.uname().nodename}"]
    assert caller.run("migrate", "vm1", "b", "qm", "migrate", "a b") == 0
    assert caller.told == [*before, "qm migrate a b", "lio-handover-hook post-migrate vm1"]
    assert caller.run("migrate", "vm1", "b", "qm", "fails") == 1
    assert caller.told == [*before, "qm fails", "ssh b", "lio-handover-hook failed vm1"]
    caller.fails_with(2)
    assert caller.run("migrate", "vm1", "b", "qm", "migrate") == 2
    assert caller.told == before  # nothing is migrated


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("1[1-3]_*.sh")),
                         ids=lambda path: path.name)
def test_an_example_says_how_it_is_installed_or_called(example: Path) -> None:
    assert subprocess.run(["sh", "-n", str(example)], check=False).returncode == 0
    assert f"{example.name}" in example.read_text()

"""The shipped units, and the unit that an endpoint's holder gets: their sandboxes, as systemd
scores them (tests/service/test_systemd.py has it of units that run)."""
from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from lio_handover.scsi.endpoint_holder import SANDBOX
from tests.support.commandline import CHECKOUT

UNITS = {path.name: path.read_text() for path in sorted((CHECKOUT / "etc/systemd").iterdir())}
DAEMON, HOLDER = "lio-handoverd.service", "run-holder.service"
UNITS[HOLDER] = "\n".join(["[Service]", "ExecStart=/usr/bin/python3", *SANDBOX])
#: What systemd thinks of a unit at worst (systemd-analyze security: 0 is best, 10 is worst).
WORST = {name: 5.9 if name == DAEMON else 6.8 for name in UNITS}
#: Those of our own processes; and those of them that load modules and run [late] programs.
OURS = [name for name in UNITS if "-bus@" not in name and name != HOLDER]
CHANGING = [name for name in OURS if "-incoming@" not in name]


def values(name: str, key: str) -> list[str]:
    return re.findall(f"(?m)^{key}=(.*)$", UNITS[name])


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_a_unit_confined(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(UNITS[name])
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                           str(tmp_path / name)], capture_output=True, text=True,
                          env={**os.environ, "LC_ALL": "C.UTF-8"})
    said = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert said, done.stdout + done.stderr
    print(f"{name}: {said[1]} (at most {WORST[name]})")
    assert float(said[1]) <= WORST[name]


@pytest.mark.parametrize("name", UNITS)
def test_nothing_of_a_unit_is_left_for_others(name: str) -> None:
    assert (values(name, "LimitCORE"), values(name, "UMask")) == (["0"], ["0077"])
    assert values(name, "NoNewPrivileges") == ["yes"] and values(name, "CapabilityBoundingSet")
    assert values(name, "SystemCallFilter") and values(name, "SystemCallErrorNumber") == ["EPERM"]


@pytest.mark.parametrize("name", OURS)
def test_a_worker_without_memory_ends_nobody_else(name: str) -> None:
    assert values(name, "OOMPolicy") == ["continue"]


@pytest.mark.parametrize("name", CHANGING)
def test_modules_can_be_loaded_and_programs_run(name: str) -> None:
    """Nothing is among what is refused that [late], [fence] or modprobe want."""
    filters = " ".join(values(name, "SystemCallFilter"))
    assert filters[0] == "~" and not set(filters.split()) & {"@module", "@mount", "@privileged"}
    assert "CAP_SYS_MODULE" in " ".join(values(name, "CapabilityBoundingSet"))

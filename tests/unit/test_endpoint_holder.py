"""The file of an endpoint's holder: who ends a holder ends that process and no other."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lio_handover.scsi.endpoint_holder import Holders

WWPN = "naa.5001405abcdef0a1"
#: Stands in for a holder: takes the lock at once, and says a moment later who it is.
HOLDER = """
import fcntl, os, sys, time
from lio_handover.scsi.endpoint_holder import _tell
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
os.ftruncate(fd, 0)
print(flush=True)
time.sleep(0.2)
_tell(fd, int(sys.argv[2]) * os.getpid())
time.sleep(100)
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

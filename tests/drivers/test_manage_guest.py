"""A vhost target that is made by `create`, with a guest on it.

    scripts/test --full tests/drivers/test_manage_guest.py
"""
from __future__ import annotations

import os

import pytest

from lio_handover import errors
from lio_handover.kernel.configfs import ROOT
from tests import lab
from tests.conftest import HostsOf
from tests.lab.qemu import DISK
from tests.migration import inhost
from tests.migration.bench import ROLE, Bench
from tests.support import inmanage


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_guest_has_the_disk_of_a_target_that_was_made(bed: lab.Lab, hosts: HostsOf) -> None:
    """Takes a minute and a half, on an emulated host.  As long as the guest is there nothing is
    taken from it."""
    here, = hosts(ROLE)
    bench = Bench(bed, [here], lambda line: print(line, flush=True))
    try:
        here.call(inmanage.makes_vhost, inhost.WWPN, inhost.NEXUS, DISK, timeout=120)
        guest = bench.fresh(build=False, host=here)  # it registers, and writes
        said = here.call(inmanage.takes_from_guest, inhost.WWPN, timeout=120)
        assert all("guest is attached" in line for line in said), said
        guest.kill()
        for path, name in ((f"/vhost/{inhost.WWPN}/tpg1/luns", "0"), ("/vhost", inhost.WWPN)):
            with pytest.raises(errors.InUse, match="registered.*lio-handover remove"):
                here.call(inmanage.does, "delete", path, name, timeout=120)
        code, out, err = here.call(inmanage.command, "remove", f"vhost/{inhost.WWPN}", "--allow",
                                   "reserved", timeout=120)
        assert code == 0, out + err
        assert not here.call(os.path.exists, f"{ROOT}/vhost/{inhost.WWPN}")
    finally:
        bench.close()
